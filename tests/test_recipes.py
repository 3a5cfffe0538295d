"""The recipes of docs/fleet.md and docs/serve.md, as printed: with the real tools where they are installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCS = Path(__file__).parents[1] / "docs"
STORE = "s3://energy/fleet"
posix = pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def block(page: str, kind: str, part: str) -> str:
    """The only block of that kind with that part."""
    (found,) = (text for text in blocks(page, kind) if part in text)
    return found


def program(folder: Path, name: str, text: str) -> None:
    """A program of that name for the path, as a stand-in for one of a cluster."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def run(text: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **environment}
    return subprocess.run(["bash", "-c", text], cwd=folder, env=variables, capture_output=True, text=True, timeout=300)


# -- Kubernetes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "part"), [("fleet.md", "kind: DaemonSet"), ("serve.md", "kind: Job")], ids=["DaemonSet", "Job"]
)
def test_manifests_follow_the_schema_of_kubernetes(page: str, part: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    validate.validate(yaml.safe_load(block(page, "yaml", part)), validate.latest_version(), strict=True)


@posix
@pytest.mark.parametrize(
    ("exceeded", "status", "starts"), [(False, 0, True), (True, 0, False), (False, 22, False)], ids=str
)
def test_the_init_container_lets_a_job_within_its_budget_start(
    tmp_path: Path, exceeded: bool, status: int, starts: bool
) -> None:
    job = yaml.safe_load(block("serve.md", "yaml", "kind: Job"))
    (container,) = job["spec"]["template"]["spec"]["initContainers"]
    assert container["command"] == ["sh", "-c"]
    answer = json.dumps({"budget": [{"text": "20 kWh", "exceeded": exceeded}]})
    program(tmp_path, "curl", f"[ {status} = 0 ] && echo '{answer}' > {tmp_path}/answer; exit {status}")
    text = container["args"][0].replace("/tmp/answer", f"{tmp_path}/answer")
    assert (run(text, tmp_path).returncode == 0) == starts


# -- SLURM -------------------------------------------------------------------------------------------


@posix
def test_one_job_is_submitted_for_each_idle_node(tmp_path: Path) -> None:
    program(tmp_path, "sinfo", "printf 'node2\\nnode1\\nnode2\\n'")  # a node of two partitions
    program(tmp_path, "sbatch", f"echo \"$1|$5\" >> '{tmp_path}/submitted'")
    done = run(block("fleet.md", "sh", "sbatch"), tmp_path)
    assert done.returncode == 0, done.stderr
    command = f"measure --quick --quiet --store {STORE}"
    expected = [f"--nodelist=node1|{command}", f"--nodelist=node2|{command}"]
    assert (tmp_path / "submitted").read_text().splitlines() == expected


def test_the_submit_script_refuses_a_job_over_its_budget_and_no_other() -> None:
    lupa = pytest.importorskip("lupa")
    lua = lupa.LuaRuntime()
    lua.execute(
        """
        told, answer, command = nil, nil, nil
        slurm = {SUCCESS = 0, ERROR = -1, log_user = function(text) told = text end}
        io = {popen = function(text)
          command = text
          return {read = function() return answer end, close = function() end}
        end}
        """
    )
    lua.execute(block("serve.md", "lua", "slurm_job_submit"))
    names: Any = lua.globals()

    def submit(folder: str, answer: str | None) -> int:
        names.answer = answer
        return int(names.slurm_job_submit(lua.table(work_dir=folder), None, 1000))

    assert submit("/home/me/run", None) == 0  # within its budget, no request, or no service
    assert "--data-binary @/home/me/run/joulecast.json" in names.command
    assert submit("/home/me/run", "20 kWh") == -1
    assert names.told == "joulecast: the predicted run exceeds its budget of 20 kWh"
    names.command = None
    assert submit("/home/me/$(reboot)", "20 kWh") == 0
    assert names.command is None
    assert names.slurm_job_modify(None, None, None, 1000) == 0


# -- Ansible -----------------------------------------------------------------------------------------


@posix
def test_the_playbook_measures_fits_and_hands_out_the_profiles(tmp_path: Path) -> None:
    """On this machine as the only one; `measure` is a stand-in that keeps the records of a simulated machine."""
    ansible = shutil.which("ansible-playbook")
    if ansible is None:
        pytest.skip("ansible-playbook is not installed")
    store, home = tmp_path / "store", tmp_path / "home"
    home.mkdir()
    text = block("fleet.md", "yaml", "ansible.builtin").replace(STORE, store.as_uri())
    (tmp_path / "play.yml").write_text(text.replace("~/", f"{home}/"))
    here = f"ansible_connection=local ansible_python_interpreter={sys.executable}"
    (tmp_path / "hosts").write_text(f"[training]\nthis {here}\n")
    program(tmp_path, "measure", f'exec "{sys.executable}" {tmp_path}/simulated.py "$4"')
    program(tmp_path, "joulecast", f'exec "{Path(sys.executable).parent}/joulecast" "$@"')
    (tmp_path / "simulated.py").write_text(
        f"import sys\nsys.path.insert(0, {str(DOCS.parent)!r})\n"
        "from joulecast.measure.records.shared import open_store\n"
        "from tests.measure.suite.test_fleet import records\n"
        "store = open_store(sys.argv[1])\n"
        "for record in records('this'):\n    store.write(record)\n"
    )
    settings = {"ANSIBLE_LOCALHOST_WARNING": "False", "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(home)}
    done = run(f"{ansible} -i hosts play.yml", tmp_path, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    profile = home / ".local/share/joulecast/profiles/test-cpu-2-threads.json"
    assert json.loads(profile.read_text())["name"] == "test-cpu-2-threads"


# -- the service -------------------------------------------------------------------------------------


def test_the_request_of_the_page_is_answered() -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("transformers")
    from fastapi.testclient import TestClient

    from joulecast.service.app import make_app

    (body,) = re.findall(r"-d '(\{.*?\})'", block("serve.md", "console", "curl"), re.DOTALL)
    answer = TestClient(make_app()).post("/estimate", json=json.loads(body))
    assert answer.status_code == 200, answer.text
    assert answer.json()["energy_kwh"]["value"] > 0
    assert answer.json()["budget"][0]["text"] == "20 kWh"


def test_a_workload_document_is_written_as_the_page_says(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from joulecast.service.app import make_app

    net = "from torch import nn\n\nclass Net(nn.Sequential):\n    def __init__(self):\n        super().__init__("
    (tmp_path / "net.py").write_text(f"{net}nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n")
    script = re.sub(r"^  ", "", block("serve.md", "python", "workload.json"), flags=re.MULTILINE)
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=200)
    document = json.loads((tmp_path / "workload.json").read_text())
    asked = {"workload": document, "hardware": "t4", "steps": 100}
    assert TestClient(make_app()).post("/estimate", json=asked).status_code == 200
