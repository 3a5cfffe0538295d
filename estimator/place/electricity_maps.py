"""This hour's carbon intensity, from the API of Electricity Maps (v3) with the user's token.

The figure is the flow-traced average of a zone's consumption, in g CO2e per kWh, on a life cycle basis like the
countries of the yearly table. If it is not available, the yearly figure is used and a note says why. The token is
sent only to the API; it is never stored or printed.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode, urlsplit

from ..base.errors import JoulecastError
from ..base.files import write_json
from ..base.folders import cache_folder
from .site import Region, find_region

TOKEN_VARIABLE = "ELECTRICITYMAPS_API_TOKEN"
URL_VARIABLE = "ELECTRICITYMAPS_API_URL"
DEFAULT_URL = "https://api.electricitymaps.com/v3"
ZONE_PREFIX = "em:"
SCHEMA = "joulecast.electricity-maps/1"

_TIMEOUT_S = 5.0  # in total: all zones, name resolution and the retry
_CACHED_FOR = timedelta(minutes=15)
_OLDEST = timedelta(days=1)  # zones publish some hours late; older data is not live
_CLOCKS_DIFFER = timedelta(hours=1)
_LARGEST_BODY = 65_536
_LARGEST_G_PER_KWH = 2_000.0  # above any power station
_BASES = {"lifecycle": "life cycle", "direct": "direct"}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ZONE = re.compile(r"[A-Z]{2}(-[A-Z0-9]+)*")
# States whose grid is almost one zone: NYISO serves New York, CAISO four fifths of California's load, ERCOT nine
# tenths of Texas's.
_ZONES = {"US-CA": "US-CAL-CISO", "US-NY": "US-NY-NYIS", "US-TX": "US-TEX-ERCO"}


class LiveError(JoulecastError):
    """No live figure; the message says why, without the token."""


@dataclass(frozen=True, slots=True)
class LiveIntensity:
    """The API's figure for a zone."""

    zone: str
    carbon_g_per_kwh: float
    at: datetime  # UTC; the hour of the figure
    basis: str  # "life cycle" or "direct"
    estimated: bool

    @property
    def source(self) -> str:
        estimated = ", estimated" if self.estimated else ""
        return f"live, Electricity Maps, zone {self.zone}, {self.at:%Y-%m-%dT%H:%MZ}{estimated}"

    def to_json(self) -> dict[str, Any]:
        """In the API's own format, so that `parse_reading` reads the cache too."""
        return {
            "zone": self.zone,
            "carbonIntensity": self.carbon_g_per_kwh,
            "datetime": self.at.isoformat(),
            "emissionFactorType": next(word for word, basis in _BASES.items() if basis == self.basis),
            "isEstimated": self.estimated,
        }


@dataclass(frozen=True, slots=True)
class Service:
    """The API's address, the token and the time limit."""

    url: str
    token: str = field(repr=False)
    cache: Path | None = None
    timeout_s: float = _TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Location:
    """A region of the yearly table and its zone; None if no zone matches it unambiguously."""

    region: Region
    zone: str | None


# -- zones ---------------------------------------------------------------------------------------


def locate(code_or_name: str) -> Location:
    """The location of a region, or of a zone such as "em:SE-SE3", whose yearly figure is its country's.

    Raises JoulecastError for unknown regions and for zones of countries that are not in the table.
    """
    text = code_or_name.strip()
    if not is_zone(text):
        region = find_region(text)
        own = region.code if region.kind == "country" and len(region.code) == 2 else None
        return Location(region, _ZONES.get(region.code, own))
    zone = text[len(ZONE_PREFIX) :].strip().upper()
    if not _ZONE.fullmatch(zone):
        raise JoulecastError(f"zone {text!r} is not valid: give one such as em:FR or em:US-CAL-CISO")
    states = [state for state, known in _ZONES.items() if known == zone]
    return Location(find_region(states[0] if states else zone.partition("-")[0]), zone)


def is_zone(code_or_name: str) -> bool:
    return code_or_name.strip().casefold().startswith(ZONE_PREFIX)


# -- the live figures ----------------------------------------------------------------------------


_NO_ZONE = LiveError(f"no zone matches it unambiguously; give one, such as {ZONE_PREFIX}US-CAL-CISO")


def live_regions(
    locations: Sequence[Location], environment: Mapping[str, str] | None = None
) -> tuple[tuple[Region, ...], tuple[str, ...]]:
    """The locations' regions with this hour's figures, and a note for each that keeps its yearly figure."""
    zones = tuple(dict.fromkeys(location.zone for location in locations if location.zone))
    answers: dict[str, LiveIntensity | LiveError]
    try:
        answers = latest(zones, service_of(os.environ if environment is None else environment)) if zones else {}
    except LiveError as error:
        answers = dict.fromkeys(zones, error)
    regions, notes = [], []
    for location in locations:
        answer = answers[location.zone] if location.zone else _NO_ZONE
        if isinstance(answer, LiveIntensity):
            regions.append(_with_reading(location.region, answer))
        else:
            regions.append(location.region)
            notes.append(_fall_back(location, answer))
    return tuple(regions), tuple(dict.fromkeys(notes))


def _with_reading(region: Region, reading: LiveIntensity) -> Region:
    own = reading.zone in (region.code, _ZONES.get(region.code))
    return replace(
        region,
        code=region.code if own else ZONE_PREFIX + reading.zone,
        name=region.name if own else f"{region.name}, zone {reading.zone}",
        carbon_g_per_kwh=reading.carbon_g_per_kwh,
        basis=reading.basis,
        year=reading.at.year,
        source=reading.source,
        live=True,
    )


def _fall_back(location: Location, error: LiveError) -> str:
    region = location.region
    return (
        f"no live carbon intensity for {location.zone or region.code}: {error}; the figure is the yearly one of "
        f"{region.code} ({region.name}), {region.year}"
    )


def service_of(environment: Mapping[str, str]) -> Service:
    """The API as the environment configures it. Raises LiveError without a usable token or address."""
    token = environment.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise LiveError(f"{TOKEN_VARIABLE} is not set")
    if not (token.isascii() and token.isprintable()):
        raise LiveError(f"{TOKEN_VARIABLE} has characters that are not allowed in an HTTP header")
    url = environment.get(URL_VARIABLE, "").strip().rstrip("/") or DEFAULT_URL
    _check_url(url)
    return Service(url, token, cache_folder() / "electricity-maps")


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or parts.username or parts.query or parts.fragment:
        raise LiveError(f"{URL_VARIABLE} is not an address such as {DEFAULT_URL}")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise LiveError(f"{URL_VARIABLE} would send the token unencrypted: give an https address")


def latest(zones: Sequence[str], service: Service, now: datetime | None = None) -> dict[str, LiveIntensity | LiveError]:
    """The newest reading of each zone, or why there is none. Readings are cached for 15 minutes.

    All zones are requested in parallel and share `service.timeout_s`.
    """
    now = datetime.now(UTC) if now is None else now
    answers: dict[str, LiveIntensity | LiveError] = {}
    for zone in zones:
        if (kept := _cached(zone, service, now)) is not None:
            answers[zone] = kept
    asked = _ask_all([zone for zone in zones if zone not in answers], service, now)
    for answer in asked.values():
        if isinstance(answer, LiveIntensity):
            _keep(answer, service, now)
    return {zone: (answers | asked)[zone] for zone in zones}


# -- the network ---------------------------------------------------------------------------------


def _ask_all(zones: Sequence[str], service: Service, now: datetime) -> dict[str, LiveIntensity | LiveError]:
    """Uses threads: a socket's timeout limits neither name resolution nor a body that arrives slowly."""
    deadline = time.monotonic() + service.timeout_s
    answers: dict[str, LiveIntensity | LiveError] = {}

    def ask(zone: str) -> None:
        try:
            answers[zone] = parse_reading(_get_twice(zone, service, deadline), zone, now)
        except LiveError as error:
            answers[zone] = error

    threads = [threading.Thread(target=ask, args=(zone,), daemon=True) for zone in zones]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = LiveError(f"no answer within {service.timeout_s:g} s")
    return {zone: answers.get(zone, late) for zone in zones}


class _PassingError(LiveError):
    """A temporary failure: a second request may succeed."""


def _get_twice(zone: str, service: Service, deadline: float) -> bytes:
    try:
        return _get(zone, service, deadline)
    except _PassingError:
        return _get(zone, service, deadline)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: they would send the token to another host."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def _get(zone: str, service: Service, deadline: float) -> bytes:
    query = urlencode({"zone": zone, "emissionFactorType": "lifecycle"})
    request = urllib.request.Request(
        f"{service.url}/carbon-intensity/latest?{query}",
        headers={"auth-token": service.token, "Accept": "application/json", "User-Agent": "joulecast"},
    )
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=max(0.01, deadline - time.monotonic())) as response:
            body: bytes = response.read(_LARGEST_BODY + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(error.code, zone) from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise LiveError(f"no answer within {service.timeout_s:g} s") from None
        # Only the system's error text or the class name: some messages quote the request with its token.
        named = getattr(reason, "strerror", None) or type(reason).__name__
        raise _PassingError(f"the connection failed ({named})") from None
    if len(body) > _LARGEST_BODY:
        raise LiveError(f"the answer has more than {_LARGEST_BODY:,} bytes")
    return body


def _refused(status: int, zone: str) -> LiveError:
    if 300 <= status < 400:
        return LiveError(f"HTTP {status}: redirects are not followed, to protect the token")
    if status >= 500:
        return _PassingError(f"HTTP {status}")
    meanings = {
        401: "the token is not accepted",
        403: f"the token has no access to zone {zone}",
        404: f"zone {zone} is unknown",
        429: "too many requests",
    }
    return LiveError(f"HTTP {status}: {meanings[status]}" if status in meanings else f"HTTP {status}")


def parse_reading(body: bytes | str, zone: str, now: datetime) -> LiveIntensity:
    """The reading of `zone` in a response's body. Raises LiveError for anything else."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise LiveError("the answer is not JSON") from None
    if not isinstance(document, dict):
        raise LiveError("the answer is not a JSON object")
    if document.get("zone") != zone:
        raise LiveError(f"the answer is for another zone than {zone}")
    intensity, basis = document.get("carbonIntensity"), document.get("emissionFactorType")
    if isinstance(intensity, bool) or not isinstance(intensity, int | float):
        raise LiveError("the answer's carbonIntensity is not a number")
    # `not` also catches NaN. Zero is a gap in the data: no electricity has zero life cycle emissions.
    if not 0 < intensity <= _LARGEST_G_PER_KWH:
        raise LiveError(f"the answer's carbonIntensity is not within 0 to {_LARGEST_G_PER_KWH:,.0f} g/kWh")
    if not isinstance(basis, str) or basis not in _BASES:
        raise LiveError("the answer has no known emissionFactorType")
    return LiveIntensity(
        zone, float(intensity), _hour(document.get("datetime"), now), _BASES[basis], bool(document.get("isEstimated"))
    )


def _hour(text: object, now: datetime) -> datetime:
    try:
        moment = datetime.fromisoformat(text if isinstance(text, str) else "")
        age = now - moment
        moment = moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        raise LiveError("the answer's datetime is not valid or has no time zone") from None
    if not -_CLOCKS_DIFFER <= age <= _OLDEST:
        raise LiveError(f"the answer is from {moment:%Y-%m-%dT%H:%MZ}, not from this hour")
    return moment


# -- the cache -----------------------------------------------------------------------------------


def _cached(zone: str, service: Service, now: datetime) -> LiveIntensity | None:
    """The reading of the last 15 minutes; None if there is none or its file cannot be used."""
    if service.cache is None:
        return None
    try:
        document = json.loads(_cache_file(zone, service.cache).read_text(encoding="utf-8"))
        if (document["schema"], document["url"]) != (SCHEMA, service.url):
            return None
        age = now - datetime.fromisoformat(document["asked_at"])
        answer = json.dumps(document["answer"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    if not timedelta(0) <= age < _CACHED_FOR:
        return None
    try:
        return parse_reading(answer, zone, now)
    except LiveError:
        return None


def _keep(reading: LiveIntensity, service: Service, now: datetime) -> None:
    if service.cache is None:
        return
    document = {"schema": SCHEMA, "url": service.url, "asked_at": now.isoformat(), "answer": reading.to_json()}
    try:
        write_json(_cache_file(reading.zone, service.cache), document)
    except OSError:
        return  # the next run requests it again


def _cache_file(zone: str, folder: Path) -> Path:
    return folder / f"{zone}.json"
