"""The service: answers, one-line errors, limits and metrics."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

import torch
from fastapi.testclient import TestClient

import joulecast as jc
from joulecast.cli.serve import listen
from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.base.recent import Recent
from joulecast.service.answers import Answers, UnknownWorkload
from joulecast.service.app import make_app
from joulecast.service.requests import EstimateRequest

RUN = {"hardware": "rtx-4090", "epochs": 10, "samples": 1000, "region": "FR", "budget": ["1 J"]}
GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 32, "n_layer": 1, "n_head": 2}
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture(scope="module")
def work() -> dict[str, Any]:
    return jc.trace(torch.nn.Linear(16, 4), torch.zeros(8, 16)).to_json()


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(make_app(max_body_bytes=200_000), raise_server_exceptions=False)


@dataclass(frozen=True, slots=True)
class Served:
    """The command in a process of its own, with a connection that was used at `asked_s` on the monotonic clock."""

    process: subprocess.Popen[bytes]
    connection: http.client.HTTPConnection
    asked_s: float

    def status(self) -> str:
        self.connection.request("GET", "/health")
        return str(json.load(self.connection.getresponse())["status"])

    def own_address(self) -> Any:
        """Another one belongs to another connection."""
        return self.connection.sock.getsockname()


@pytest.fixture(scope="module", autouse=True)
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "joulecast"), "serve", "--port", "0"],
        stderr=subprocess.PIPE,
        env={**os.environ, "JOULECAST_STORE": str(tmp_path_factory.mktemp("store"))},
    )
    assert process.stderr is not None
    (port,) = re.findall(rb"listening on http://127\.0\.0\.1:(\d+); ", process.stderr.readline())
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
    served = Served(process, connection, 0.0)
    try:
        assert served.status() == "ok"
        yield replace(served, asked_s=time.monotonic())
    finally:
        connection.close()
        process.kill()
        process.communicate()


def post(client: TestClient, **asked: Any) -> tuple[int, dict[str, Any]]:
    response = client.post("/estimate", json=asked)
    return response.status_code, response.json()


def test_an_address_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        expected = rf"`host` 127.0.0.1 and `port` {port} cannot be used \(Address already in use\): give others"
        with pytest.raises(JoulecastError, match=expected):
            listen("127.0.0.1", port)


def test_the_answer_is_that_of_estimate(client: TestClient, work: dict[str, Any]) -> None:
    status, found = post(client, workload=work, **RUN)
    expected = jc.estimate(jc.Workload.from_json(work), **RUN, layers=False).to_json()
    assert status == 200
    assert found.pop("workload_id")
    assert found == json.loads(json.dumps(expected))
    assert found["budget"][0]["exceeded"]


# The model and how it is built, files, and what the server decides: its time limit, live intensities, the layout.
NOT_OF_A_CLIENT = {"model", "model_args", "loss", "lora", "freeze", "parallel_config"}
NOT_OF_A_CLIENT |= {"time_limit_s", "live", "regions", "layers"}


def test_the_fields_are_those_of_a_request_that_need_no_code_and_no_file() -> None:
    missing = {field.name for field in fields(jc.Request)} - set(EstimateRequest.model_fields)
    assert missing == NOT_OF_A_CLIENT


def test_the_options_of_a_cluster_reach_the_answer(client: TestClient) -> None:
    config = {"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 64, "vocab_size": 100}
    asked = {"config": config, "hardware": "h100-sxm", "cluster": "2x8xh100-sxm:400gb-ib", "tokens": 1e9}
    extra = {"idle_hosts": 1, "storage_w": 500, "restart_hours": 1, "overhead": 0.5, "device_hour": 2, "embodied": True}
    plain, full = (client.post("/estimate", json={**asked, **more}).json() for more in ({}, extra))
    assert (plain["split"]["idle_hosts"], full["split"]["idle_hosts"], full["split"]["storage_w"]) == (0, 1, 500)
    assert full["split"]["interruptions"]["hours_each"] == 1
    assert full["seconds"]["value"] > plain["seconds"]["value"]
    assert "shared_energy_kwh" in full
    assert "shared_energy_kwh" not in plain


def test_a_workload_is_known_by_its_id(client: TestClient, work: dict[str, Any]) -> None:
    name = post(client, workload=work, **RUN)[1]["workload_id"]
    status, found = post(client, workload_id=name, hardware="t4", steps=5)
    assert (status, found["steps"], found["workload_id"]) == (200, 5, name)
    status, found = post(client, workload_id="0" * 64, hardware="t4", steps=5)
    assert status == 404
    assert "send the workload again" in found["error"]


def test_a_config_is_read_without_code_of_its_own(client: TestClient, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    how = {"hardware": "rtx-4090", "tokens": 1e6, "sequence_length": 32, "batch_size": 2, "precision": "bf16"}
    status, found = post(client, config={**GPT2, "auto_map": {"AutoModel": "evil--code.Net"}}, **how)
    assert status == 200, found
    # Embeddings of 50257 + 1024 rows, one block (attention 4 x 32^2, MLP 8 x 32^2, biases, norms), the last norm.
    block = 4 * 32 * 32 + 4 * 32 + 8 * 32 * 32 + 5 * 32 + 4 * 32
    assert found["workload"]["parameters"] == (50257 + 1024) * 32 + block + 2 * 32
    assert (found["workload"]["batch_size"], found["workload"]["precision"]) == (2, "bfloat16")
    assert found["steps"] == -(-1_000_000 // (2 * 32))
    status, _ = post(client, workload_id=found["workload_id"], hardware="t4", steps=5)
    assert status == 200


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({}, "give one of `workload`, `workload_id` and `config`; this request has none"),
        ({"config": {}, "workload_id": "0" * 64}, "this request has workload_id and config"),
        ({"config": {"model_type": "nothing"}}, "`config`: model_type 'nothing' is not in transformers"),
        ({"workload": {}}, "workload has schema None"),
        ({"workload_id": "../etc"}, "workload_id: String should match pattern"),
        ({"hardware": "/etc/passwd"}, "hardware: String should match pattern"),
        ({"hardware": "../profile.json"}, "hardware: String should match pattern"),
        ({"hardware": "rtx-40900"}, "rtx-40900"),
        ({"hardware": None}, "`hardware` missing: give a name of `joulecast profiles`, or a `cluster`"),
        ({"hardware": 5}, "hardware: Input should be a valid string (5)"),
        ({"live": True}, "live: unknown field (True)"),
        ({"model": "net.py"}, "model: unknown field ('net.py')"),
        ({"epochs": -1}, "epochs: Input should be greater than 0 (-1)"),
        ({"epochs": 1e300}, "epochs: Input should be less than"),
        ({"batch_size": 4}, "`batch_size` 4 and the workload's 8 contradict"),
        ({"epochs": None, "samples": None}, "`steps`"),
        ({"budget": ["1 joule per day"]}, "budget"),
        ({"region": "Atlantis"}, "Atlantis"),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    client: TestClient, work: dict[str, Any], asked: dict[str, Any], error: str
) -> None:
    whole = {**RUN, **({} if {"config", "workload", "workload_id"} & set(asked) or not asked else {"workload": work})}
    status, found = post(client, **{**whole, **asked})
    assert status == 422
    assert error in found["error"]
    assert "\n" not in found["error"]


def test_a_text_counts_as_a_list_of_one(client: TestClient, work: dict[str, Any]) -> None:
    texts, lists = ({"budget": "1 J"}, {"budget": ["1 J"]})
    found, expected = (post(client, workload=work, **{**RUN, **limit})[1] for limit in (texts, lists))
    assert found == expected
    assert found["budget"][0]["text"] == "1 J"


def test_a_body_that_is_not_json_has_its_place(client: TestClient) -> None:
    response = client.post("/estimate", content=b'{"epochs": }', headers={"content-type": "application/json"})
    expected = "the body is not valid JSON at character 11 (Expecting value): fix the syntax error"
    assert (response.status_code, response.json()["error"]) == (422, expected)


def test_a_cluster_gives_the_hardware(client: TestClient, work: dict[str, Any]) -> None:
    run = {"workload": work, "cluster": "8xa100-sxm4-80gb", "epochs": 1, "samples": 640}
    status, found = post(client, **run)
    assert (status, found["hardware"]) == (200, "A100 SXM4 80GB")
    assert post(client, **run, hardware="a100-sxm4-80gb")[1]["seconds"] == found["seconds"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"[1]", 422),
        (b"\xff\xfe", 422),
        (b'{"hardware": NaN}', 422),
        (b'{"epochs": ' + b"9" * 5000 + b"}", 400),
        (b"[" * 100_000, 400),
        (b" " * 200_001, 413),
    ],
)
def test_bodies_that_are_no_requests(client: TestClient, body: bytes, status: int) -> None:
    response = client.post("/estimate", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status
    assert "\n" not in response.json()["error"]


def test_a_body_without_a_length_is_limited_too(client: TestClient) -> None:
    response = client.post("/estimate", content=(b" " * 1000 for _ in range(300)))
    assert response.status_code == 413


def mutated(document: Any, random_: random.Random) -> Any:
    """`document` with one value changed, somewhere."""
    odd = [None, -1, 0, 1e308, 10**30, "x", "\ud800", [], {}, [[]], True, "9" * 300]
    if isinstance(document, dict) and document and random_.random() < 0.9:
        key = random_.choice(list(document))
        return {**document, key: mutated(document[key], random_)}
    if isinstance(document, list) and document and random_.random() < 0.9:
        place = random_.randrange(len(document))
        return [*document[:place], mutated(document[place], random_), *document[place + 1 :]]
    return random_.choice(odd)


def test_a_thousand_malformed_requests_are_refused_in_one_line(client: TestClient, work: dict[str, Any]) -> None:
    chance = random.Random(7)
    statuses = set()
    for _ in range(1000):
        asked = mutated({"workload": work, **RUN, "pue": 1.2, "carbon_intensity": 100.0, "region": "FR"}, chance)
        body = json.dumps(asked).encode()
        response = client.post("/estimate", content=body, headers={"content-type": "application/json"})
        statuses.add(response.status_code)
        assert response.status_code in (200, 400, 404, 413, 422), (body, response.text)
        if response.status_code != 200:
            assert list(response.json()) == ["error"]
            assert "\n" not in response.json()["error"]
            assert "Traceback" not in response.text
    assert 422 in statuses


def test_other_paths_and_methods(client: TestClient) -> None:
    assert client.get("/nothing").json() == {"error": "Not Found"}
    assert client.get("/estimate").status_code == 405
    assert client.get("/health").json() == {"status": "ok", "version": jc.__version__}
    schema = client.get("/openapi.json").json()
    assert "/estimate" in schema["paths"]
    assert "hardware" in schema["components"]["schemas"]["EstimateRequest"]["properties"]


def test_metrics_count_requests_by_path_and_status(work: dict[str, Any]) -> None:
    client = TestClient(make_app())
    post(client, workload=work, **RUN)
    post(client, workload=work)
    client.get("/some/other/path")
    text = client.get("/metrics").text
    assert 'joulecast_requests_total{path="/estimate",status="200"} 1.0' in text
    assert 'joulecast_requests_total{path="/estimate",status="422"} 1.0' in text
    assert 'joulecast_requests_total{path="other",status="404"} 1.0' in text
    assert "joulecast_workloads 1.0" in text


def test_a_second_equal_request_prices_nothing(work: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    client = TestClient(make_app())
    first = post(client, workload=work, **RUN)
    monkeypatch.setattr("joulecast.service.answers.priced", lambda *_, **__: pytest.fail("priced again"))
    assert post(client, workload=work, **RUN) == first


def test_busy_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joulecast.service.answers._BUSY_S", 0.01)
    answers = Answers(readers=1)
    answers._readers.acquire()
    response = TestClient(make_app(answers)).post("/estimate", json={"config": GPT2, **RUN})
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


def test_the_least_recently_used_is_dropped() -> None:
    kept: Recent[int] = Recent(2)
    kept.put("a", 1)
    kept.put("b", 2)
    assert kept.get("a") == 1
    kept.put("c", 3)
    assert (kept.get("a"), kept.get("b"), kept.get("c"), len(kept)) == (1, None, 3, 2)


def test_large_values_leave_room_for_fewer() -> None:
    kept: Recent[int] = Recent(9, most_size=10)
    for key, size in (("a", 4), ("b", 5), ("a", 5)):
        kept.put(key, 0, size)
    assert len(kept) == 2  # 5 + 5: the second size of a replaces the first
    kept.put("c", 0, 1)
    assert (kept.get("b"), kept.get("a"), kept.get("c")) == (None, 0, 0)
    kept.put("huge", 0, 99)  # alone, but kept
    assert (kept.get("a"), kept.get("huge"), len(kept)) == (None, 0, 1)
    kept.put("d", 0, 10)
    assert (kept.get("huge"), kept.get("d")) == (None, 0)


def test_the_memory_of_a_service_is_bounded(work: dict[str, Any]) -> None:
    """Workloads by the number of their ops and layers, answers and profiles by their number."""
    answers = Answers()
    ask = {"hardware": "t4", "steps": 1}
    first = json.loads(answers.answer(EstimateRequest(workload=work, **ask)))["workload_id"]
    rows = len(work["ops"]) + len(work["layers"])
    assert answers.workloads._size == rows
    answers.workloads._most_size = 3 * rows
    for index in range(5):
        answers.answer(EstimateRequest(workload={**work, "name": f"net{index}"}, **ask))
    assert len(answers.workloads) == 3
    with pytest.raises(UnknownWorkload):
        answers.answer(EstimateRequest(workload_id=first, **{**ask, "steps": 2}))
    assert (answers._answers._most, answers._profiles._most) == (4096, 64)


def test_the_size_of_a_configs_dataset_is_that_of_its_epochs(client: TestClient) -> None:
    pytest.importorskip("transformers")
    vit = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
    status, found = post(
        client, config=vit, dataset="imagenet-1k", inputs=["3,32,32"], batch_size=64, epochs=1, hardware="t4"
    )
    assert status == 200, found
    assert found["steps"] == -(-1_281_167 // 64)


HEAPS = """
import ctypes, sys, threading
from joulecast.cli.serve import share_one_heap
if sys.argv[1] == "shared":
    share_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
barrier = threading.Barrier(8)
def work():
    barrier.wait()
    libc.malloc(1000)
    barrier.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fclose(ctypes.c_void_p(file))
"""


@pytest.mark.skipif(
    not hasattr(os, "confstr") or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""), reason="glibc"
)
@pytest.mark.parametrize(("heaps", "one"), [("shared", True), ("own", False)])
def test_the_threads_of_a_server_share_one_heap(tmp_path: Path, heaps: str, one: bool) -> None:
    report = tmp_path / "heaps.xml"
    subprocess.run([sys.executable, "-c", HEAPS, heaps, str(report)], check=True)
    assert (report.read_text().count("<heap nr=") == 1) is one


@POSIX
def test_the_command_keeps_a_connection_and_stops(served: Served) -> None:
    """Clients keep a connection for some seconds, and the server must not close it first. The other tests ran since."""
    if time.monotonic() - served.asked_s > 60:  # on a busy machine; the server closes it after 75 s
        served.connection.close()
        assert served.status() == "ok"
        served = replace(served, asked_s=time.monotonic())
    first = served.own_address()
    time.sleep(max(0.0, served.asked_s + 6 - time.monotonic()))
    assert served.status() == "ok"
    assert served.own_address() == first
    served.process.send_signal(signal.SIGINT)
    _, said = served.process.communicate(timeout=30)
    assert b"Traceback" not in said
