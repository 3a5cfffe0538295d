"""Live carbon intensity from a local HTTP server that answers correctly, slowly, wrongly or never."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.place import electricity_maps
from joulecast.estimator.place.electricity_maps import (
    LiveError,
    LiveIntensity,
    Service,
    latest,
    live_regions,
    locate,
    parse_reading,
    service_of,
)
from joulecast.estimator.place.site import find_region, load_regions, make_site

TOKEN = "s3cret-t0ken"
NOW = datetime(2026, 11, 23, 14, 20, tzinfo=UTC)


def document(zone: str = "FR", **changes: Any) -> dict[str, Any]:
    """An answer of the API (the example of its reference, at another hour); None removes a key."""
    whole = {
        "zone": zone,
        "carbonIntensity": 53,
        "datetime": "2026-11-23T14:00:00.000Z",
        "updatedAt": "2026-11-23T14:10:02.001Z",
        "createdAt": "2026-11-20T14:05:31.772Z",
        "emissionFactorType": "lifecycle",
        "isEstimated": False,
        "estimationMethod": None,
        "temporalGranularity": "hourly",
        **changes,
    }
    return {key: value for key, value in whole.items() if value is not None or key == "estimationMethod"}


class Api:
    """A local server; `reply` decides how it answers, `requests` records what it was sent."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.reply: Callable[[BaseHTTPRequestHandler, str], None] = well
        self.released = threading.Event()  # ends what the server keeps waiting
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                with suppress(OSError):  # the client may have left
                    outer.reply(self, parse_qs(urlsplit(self.path).query)["zone"][0])

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v3"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def well(handler: BaseHTTPRequestHandler, zone: str) -> None:
    send(handler, json.dumps(document(zone)).encode())


def status(code: int) -> Callable[[BaseHTTPRequestHandler, str], None]:
    return lambda handler, zone: send(handler, f"you sent {handler.headers['auth-token']}".encode(), code)


def held(api: Api) -> Callable[[BaseHTTPRequestHandler, str], None]:
    """Waits until the test is over."""

    def reply(handler: BaseHTTPRequestHandler, zone: str) -> None:
        api.released.wait(60)
        well(handler, zone)

    return reply


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setenv("no_proxy", "*")
    server = Api()
    yield server
    server.close()


def one(
    api: Api, *, cache: Path | None = None, timeout_s: float = 30.0, now: datetime = NOW
) -> LiveIntensity | LiveError:
    return latest(["FR"], Service(api.url, TOKEN, cache, timeout_s), now)["FR"]


def failure(api: Api, **options: Any) -> str:
    answer = one(api, **options)
    assert isinstance(answer, LiveError), answer
    assert TOKEN not in str(answer)
    assert "\n" not in str(answer)
    return str(answer)


# -- well ----------------------------------------------------------------------------------------


def test_a_good_answer(api: Api) -> None:
    reading = one(api)
    assert reading == LiveIntensity("FR", 53.0, datetime(2026, 11, 23, 14, tzinfo=UTC), "life cycle", False)
    assert reading.source == "live, Electricity Maps, zone FR, 2026-11-23T14:00Z"
    [(path, headers)] = api.requests
    assert urlsplit(path).path == "/v3/carbon-intensity/latest"
    assert parse_qs(urlsplit(path).query) == {"zone": ["FR"], "emissionFactorType": ["lifecycle"]}
    assert headers["auth-token"] == TOKEN


def test_direct_and_estimated_figures_say_so() -> None:
    body = json.dumps(document(emissionFactorType="direct", isEstimated=True, datetime="2026-11-23T15:00:00+01:00"))
    reading = parse_reading(body, "FR", NOW)
    assert reading.basis == "direct"
    assert reading.source == "live, Electricity Maps, zone FR, 2026-11-23T14:00Z, estimated"


def test_zones_are_asked_side_by_side(api: Api) -> None:
    """The first request is answered after the last one arrives: sequential requests would never end."""

    def in_turn(handler: BaseHTTPRequestHandler, zone: str) -> None:
        if zone == "FR":
            api.released.wait(30)
        else:
            api.released.set()
        well(handler, zone)

    api.reply = in_turn
    answers = latest(["FR", "SE", "NO"], Service(api.url, TOKEN, timeout_s=60.0), NOW)
    assert list(answers) == ["FR", "SE", "NO"]
    assert all(isinstance(answer, LiveIntensity) and answer.zone == zone for zone, answer in answers.items())


# -- the cache -----------------------------------------------------------------------------------


def test_answers_are_kept_for_a_quarter_of_an_hour(api: Api, tmp_path: Path) -> None:
    first = one(api, cache=tmp_path)
    assert one(api, cache=tmp_path, now=NOW + timedelta(minutes=14, seconds=59)) == first
    assert len(api.requests) == 1
    assert one(api, cache=tmp_path, now=NOW + timedelta(minutes=15)) == first
    assert len(api.requests) == 2
    assert one(api, cache=tmp_path, now=NOW - timedelta(minutes=1)) == first  # asked in what is now the future
    assert len(api.requests) == 3


def test_the_cache_is_whole_and_holds_no_token(api: Api, tmp_path: Path) -> None:
    one(api, cache=tmp_path / "new" / "folder")
    [path] = list((tmp_path / "new" / "folder").iterdir())
    kept = json.loads(path.read_text())
    assert kept["schema"] == electricity_maps.SCHEMA
    assert kept["url"] == api.url
    assert TOKEN not in path.read_text()


def test_another_service_answers_for_itself(api: Api, tmp_path: Path) -> None:
    one(api, cache=tmp_path)
    latest(["FR"], Service(api.url + "/", TOKEN, tmp_path, 30.0), NOW)
    assert len(api.requests) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: text.replace("-maps/1", "-maps/2"),
        lambda text: text.replace("53", "-53"),
        lambda text: text.replace("asked_at", "when"),
        lambda text: text.replace(NOW.isoformat(), "2026-11-23T14:20:00"),
        lambda text: text.replace('"FR"', '"SE"'),
    ],
)
def test_a_spoilt_cache_is_asked_again_and_replaced(api: Api, tmp_path: Path, spoil: Callable[[str], str]) -> None:
    first = one(api, cache=tmp_path)
    path = tmp_path / "FR.json"
    whole = path.read_text()
    assert spoil(whole) != whole
    path.write_text(spoil(whole))
    assert one(api, cache=tmp_path) == first
    assert len(api.requests) == 2
    assert path.read_text() == whole


def test_failures_are_not_kept(api: Api, tmp_path: Path) -> None:
    api.reply = status(404)
    failure(api, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_place_for_a_cache_costs_nothing_but_it(api: Api, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert isinstance(one(api, cache=tmp_path / "file"), LiveIntensity)


# -- slowly and not at all -----------------------------------------------------------------------


def test_a_slow_answer_is_not_waited_for(api: Api) -> None:
    """The server answers only when the test is over: the call must return before."""
    api.reply = held(api)
    assert failure(api, timeout_s=0.3) == "no answer within 0.3 s"
    assert not api.released.is_set()


def test_a_dripping_answer_is_not_waited_for(api: Api) -> None:
    """Each byte comes within a socket's time-out, so a socket's time-out alone would never end the call."""

    def drip(handler: BaseHTTPRequestHandler, zone: str) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not api.released.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    api.reply = drip
    assert failure(api, timeout_s=0.4) == "no answer within 0.4 s"
    assert not api.released.is_set()


def test_a_slow_zone_does_not_hold_up_the_others(api: Api) -> None:
    api.reply = lambda handler, zone: (held(api) if zone == "SE" else well)(handler, zone)
    for timeout_s in (1.0, 10.0, 40.0):  # a busy machine may need more than one second for FR
        answers = latest(["SE", "FR"], Service(api.url, TOKEN, timeout_s=timeout_s), NOW)
        assert str(answers["SE"]) == f"no answer within {timeout_s:g} s"
        if isinstance(answers["FR"], LiveIntensity):
            return
    pytest.fail(f"FR: {answers['FR']}")


def test_a_closed_port(api: Api) -> None:
    api.close()
    assert failure(api) == "the connection failed (Connection refused)"


def test_a_connection_that_is_dropped_is_tried_twice(api: Api) -> None:
    api.reply = lambda handler, zone: handler.connection.close()
    assert failure(api).startswith("the connection failed (")
    assert len(api.requests) == 2


# -- wrongly -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "meaning"), [(401, "token"), (403, "zone FR"), (404, "zone FR"), (429, "too many")])
def test_a_refusal_is_final(api: Api, code: int, meaning: str) -> None:
    api.reply = status(code)
    message = failure(api)
    assert message.startswith(f"HTTP {code}: ")
    assert meaning in message
    assert len(api.requests) == 1


def test_a_fault_of_the_server_is_tried_twice(api: Api) -> None:
    api.reply = status(503)
    assert failure(api) == "HTTP 503"
    assert len(api.requests) == 2


def test_the_second_try_counts(api: Api) -> None:
    api.reply = lambda handler, zone: (well if len(api.requests) == 2 else status(500))(handler, zone)
    assert isinstance(one(api), LiveIntensity)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(api: Api, code: int) -> None:
    """The token is sent only to the API, whatever an answer says."""
    other = Api()
    try:
        target = f"{other.url}/carbon-intensity/latest?zone=FR"
        api.reply = lambda handler, zone: send(handler, b"", code, Location=target)
        assert failure(api).startswith(f"HTTP {code}: redirects are not followed")
        assert other.requests == []
    finally:
        other.close()


def test_a_huge_answer(api: Api) -> None:
    api.reply = lambda handler, zone: send(handler, json.dumps(document(zone, filling="x" * 70_000)).encode())
    assert failure(api) == "the answer has more than 65,536 bytes"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"carbonIntensity": -1}, "not within"),
        ({"carbonIntensity": 0}, "not within"),
        ({"carbonIntensity": 2_000.5}, "not within"),
        ({"carbonIntensity": 10**400}, "not within"),
        ({"carbonIntensity": float("nan")}, "not within"),
        ({"carbonIntensity": float("inf")}, "not within"),
        ({"carbonIntensity": "53"}, "not a number"),
        ({"carbonIntensity": True}, "not a number"),
        ({"carbonIntensity": [53]}, "not a number"),
        ({"carbonIntensity": None}, "not a number"),
        ({"zone": "SE"}, "another zone than FR"),
        ({"zone": None}, "another zone than FR"),
        ({"emissionFactorType": None}, "emissionFactorType"),
        ({"emissionFactorType": "marginal"}, "emissionFactorType"),
        ({"emissionFactorType": ["lifecycle"]}, "emissionFactorType"),
        ({"datetime": None}, "time zone"),
        ({"datetime": "2026-11-23T14:00:00"}, "time zone"),
        ({"datetime": "yesterday"}, "time zone"),
        ({"datetime": 1_795_442_400}, "time zone"),
        ({"datetime": "0001-01-01T00:00:00+23:00"}, "time zone"),
        ({"datetime": "2026-11-22T14:00:00Z"}, "not from this hour"),
        ({"datetime": "2026-11-23T16:00:00Z"}, "not from this hour"),
    ],
)
def test_nonsense_is_not_a_figure(api: Api, changes: dict[str, Any], reason: str) -> None:
    api.reply = lambda handler, zone: send(handler, json.dumps(document(**{"zone": zone, **changes})).encode())
    assert reason in failure(api)
    assert len(api.requests) == 1


BODIES = [b"", b"<html>", b"\xff\xfe\x00", b"null", b"[1]", b'"FR"', b"[" * 60_000, b'{"zone":']


@pytest.mark.parametrize("body", BODIES)
def test_bodies_that_are_no_answer(api: Api, body: bytes) -> None:
    api.reply = lambda handler, zone: send(handler, body)
    assert failure(api).startswith("the answer is not ")


@given(body=st.binary(max_size=200))
def test_any_bytes_are_a_reading_or_an_error(body: bytes) -> None:
    with pytest.raises(LiveError):
        parse_reading(body, "FR", NOW)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(changes=st.dictionaries(st.sampled_from(sorted(document())), JSON))
def test_any_document_is_a_sound_reading_or_an_error(changes: dict[str, Any]) -> None:
    try:
        reading = parse_reading(json.dumps(document() | changes), "FR", NOW)
    except LiveError:
        return
    assert 0 < reading.carbon_g_per_kwh <= 2000
    assert reading.zone == "FR"
    assert abs(NOW - reading.at) <= timedelta(days=1)


# -- zones ---------------------------------------------------------------------------------------


def test_regions_and_the_zones_that_stand_for_them() -> None:
    assert (locate("fr").region.code, locate("fr").zone) == ("FR", "FR")
    assert locate("California").zone == "US-CAL-CISO"
    assert locate("US-NY").zone == "US-NY-NYIS"
    for code in ("US-OH", "gcp:europe-west9", "WORLD", "US-EPA-2018", "US-EGRID-2016"):
        assert locate(code).zone is None
    sweden = locate(" EM:se-se3 ")
    assert (sweden.region.code, sweden.zone) == ("SE", "SE-SE3")
    assert locate("em:US-CAL-CISO") == locate("US-CA")
    assert locate("em:US-MIDA-PJM").region.code == "US"
    for text in ("em:", "em:../etc", "em:FR/..", "em:fr se"):
        with pytest.raises(JoulecastError, match="is not valid"):
            locate(text)
    with pytest.raises(JoulecastError, match="unknown region 'XQ'"):
        locate("em:XQ-1")


def test_every_region_has_its_country_and_basis() -> None:
    for region in load_regions():
        assert region.basis in ("life cycle", "direct"), region
        assert (len(region.iso3) == 3 and region.iso3.isupper()) or region.code in ("WORLD", "EU", "EUROPE")
        if region.kind == "state":
            assert region.iso3 == "USA"
    countries = [row for row in load_regions() if row.kind == "country" and len(row.code) == 2]
    assert len({row.iso3 for row in countries}) == len(countries)
    # Hydropower's life cycle is far above 2 g/kWh: Quebec's figure counts the power stations alone.
    assert find_region("gcp:northamerica-northeast1").basis == "direct"
    assert find_region("FR").basis == "life cycle"


# -- the service ---------------------------------------------------------------------------------


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    service = service_of({"ELECTRICITYMAPS_API_TOKEN": f" {TOKEN}\n"})
    assert (service.url, service.token) == ("https://api.electricitymaps.com/v3", TOKEN)
    assert TOKEN not in repr(service)
    other = {"ELECTRICITYMAPS_API_TOKEN": TOKEN, "ELECTRICITYMAPS_API_URL": "https://proxy.example/em/"}
    assert service_of(other).url == "https://proxy.example/em"


@pytest.mark.parametrize(
    ("token", "url", "reason"),
    [
        ("", "", "ELECTRICITYMAPS_API_TOKEN is not set"),
        ("  ", "", "ELECTRICITYMAPS_API_TOKEN is not set"),
        ("one\r\nX-Two: 2", "", "not allowed in an HTTP header"),
        ("tökën", "", "not allowed in an HTTP header"),
        (TOKEN, "http://api.electricitymaps.com/v3", "unencrypted"),
        (TOKEN, "http://127.0.0.1.example.com/v3", "unencrypted"),
        (TOKEN, "ftp://127.0.0.1/v3", "unencrypted"),
        (TOKEN, "file:///etc/passwd", "not an address"),
        (TOKEN, "https://user:word@api.electricitymaps.com", "not an address"),
        (TOKEN, "https://host:port/", "not an address"),
        (TOKEN, "https://[::1", "not an address"),
        (TOKEN, "localhost:8000", "not an address"),
    ],
)
def test_services_that_cannot_be_used(token: str, url: str, reason: str) -> None:
    with pytest.raises(LiveError, match=reason) as caught:
        service_of({"ELECTRICITYMAPS_API_TOKEN": token, "ELECTRICITYMAPS_API_URL": url})
    assert not token.strip() or token.strip() not in str(caught.value)
    assert "word" not in str(caught.value)


# -- regions -------------------------------------------------------------------------------------


def of_this_hour(handler: BaseHTTPRequestHandler, zone: str) -> None:
    send(handler, json.dumps(document(zone, datetime=datetime.now(UTC).isoformat())).encode())


def environment(api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    monkeypatch.setenv("JOULECAST_CACHE", str(tmp_path))
    return {"ELECTRICITYMAPS_API_TOKEN": TOKEN, "ELECTRICITYMAPS_API_URL": api.url}


def test_live_regions_carry_their_label(api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    api.reply = of_this_hour
    places = [locate(code) for code in ("FR", "em:SE-SE3", "US-CA")]
    (france, sweden, california), notes = live_regions(places, environment(api, monkeypatch, tmp_path))
    assert notes == ()
    assert [region.carbon_g_per_kwh for region in (france, sweden, california)] == [53.0] * 3
    assert [region.code for region in (france, sweden, california)] == ["FR", "em:SE-SE3", "US-CA"]
    assert all(region.live and region.basis == "life cycle" for region in (france, sweden, california))
    site = make_site(region=france)
    assert site.region == france
    assert site.carbon_g_per_kwh == 53.0
    assert site.carbon_source.startswith("FR (France), live, Electricity Maps, zone FR, ")
    assert site.carbon_source.endswith("Z, life cycle")
    assert sweden.label.startswith("em:SE-SE3 (Sweden, zone SE-SE3), live")
    assert "zone US-CAL-CISO" in california.label


def test_what_cannot_be_had_is_the_yearly_figure_and_is_said(
    api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    api.reply = lambda handler, zone: (of_this_hour if zone == "FR" else status(404))(handler, zone)
    places = [locate(code) for code in ("FR", "em:SE-SE3", "US-OH")]
    (france, sweden, ohio), notes = live_regions(places, environment(api, monkeypatch, tmp_path))
    assert france.live
    assert (sweden, ohio) == (find_region("SE"), find_region("US-OH"))
    assert notes == (
        "no live carbon intensity for SE-SE3: HTTP 404: zone SE-SE3 is unknown; "
        f"the figure is the yearly one of SE (Sweden), {sweden.year}",
        "no live carbon intensity for US-OH: no zone matches it unambiguously; give one, such as "
        "em:US-CAL-CISO; the figure is the yearly one of US-OH (Ohio), 2023",
    )


def test_without_a_token_nothing_is_asked(api: Api) -> None:
    (region,), (note,) = live_regions([locate("FR")], {"ELECTRICITYMAPS_API_URL": api.url})
    assert region == find_region("FR")
    assert "ELECTRICITYMAPS_API_TOKEN is not set" in note
    assert api.requests == []
