"""The HTTP application: POST /estimate, GET /health, /metrics and /openapi.json."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import __version__
from ..estimator.base.errors import JoulecastError
from .answers import Answers, Busy, UnknownWorkload
from .requests import EstimateRequest

MAX_BODY_BYTES = 16 * 2**20
_LONGEST_ERROR = 500
_log = logging.getLogger(__name__)


def make_app(answers: Answers | None = None, *, max_body_bytes: int = MAX_BODY_BYTES) -> FastAPI:
    """The application. Errors are JSON objects with one line, `{"error": ...}`."""
    answers = answers or Answers()
    metrics = _Metrics(answers)
    app = FastAPI(
        title="joulecast",
        version=__version__,
        description="The energy, CO2e, time and cost of a training run, before its first step.",
        docs_url=None,
        redoc_url=None,  # their pages load scripts from elsewhere
    )
    app.add_middleware(_BodyLimit, most=max_body_bytes)

    @app.middleware("http")
    async def observe(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        start = time.perf_counter()
        response = await go_on(request)
        metrics.observe(request, response.status_code, time.perf_counter() - start)
        return response

    _answer_errors(app)

    @app.post(
        "/estimate",
        response_class=Response,
        responses={
            200: {"description": "The document of `estimate --json`, with `workload_id`.", "content": _JSON},
            **{code: {"description": text, "content": _JSON} for code, text in _ERRORS.items()},
        },
    )
    def estimate(asked: EstimateRequest) -> Response:
        """What a training run will cost. An exceeded budget is part of the answer (`budget[].exceeded`)."""
        try:
            return Response(answers.answer(asked), media_type="application/json")
        except UnknownWorkload as error:
            return _error(404, str(error))
        except JoulecastError as error:
            return _error(422, str(error))
        except Busy:
            return _error(503, "all readers of configs are busy: try again", {"Retry-After": "5"})

    @app.get("/health")
    def health() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok", "version": __version__}

    @app.get("/metrics", response_class=Response)
    def scrape() -> Response:
        """Counts and durations, for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _answer_errors(app: FastAPI) -> None:
    """Every error is a JSON object with one line."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _error(422, "; ".join(_line(one) for one in error.errors()[:3]))

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        _log.error("internal error: %s: %s", type(error).__name__, error)
        return _error(500, f"internal error: {type(error).__name__}")


_JSON: dict[str, Any] = {"application/json": {}}
_ERRORS = {
    404: "The `workload_id` is not known.",
    413: "The body is too large.",
    422: "The request cannot be answered; `error` says why in one line.",
    503: "All readers of configs are busy.",
}


def _error(status: int, text: str, headers: Any = None) -> JSONResponse:
    line = " ".join(text.split())
    line = line if len(line) <= _LONGEST_ERROR else f"{line[:_LONGEST_ERROR]}..."
    return JSONResponse({"error": line.encode("utf-8", "replace").decode()}, status_code=status, headers=headers)


def _line(problem: Any) -> str:
    """One finding of pydantic: "batch_size: Input should be greater than or equal to 1 (0)"."""
    if problem["type"] == "json_invalid":
        place, why = problem["loc"][-1], problem.get("ctx", {}).get("error", "syntax error")
        return f"the body is not valid JSON at character {place} ({why}): fix the syntax error"
    place = ".".join(str(part) for part in problem["loc"] if part != "body")
    value = problem.get("input")
    seen = f" ({value!r:.80})" if isinstance(value, str | int | float | bool) else ""
    what = "unknown field" if problem["type"] == "extra_forbidden" else problem["msg"]
    return f"{place or 'body'}: {what}{seen}"


class _Metrics:
    def __init__(self, answers: Answers) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "joulecast_requests", "Requests by path and status.", ["path", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "joulecast_request_seconds", "Duration of requests by path.", ["path"], registry=self.registry
        )
        kept = Gauge("joulecast_workloads", "Workloads that are kept.", registry=self.registry)
        kept.set_function(lambda: len(answers.workloads))

    def observe(self, request: Request, status: int, seconds: float) -> None:
        route = request.scope.get("route")
        path = getattr(route, "path", "other")  # any text may be asked for
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)


class _BodyLimit:
    """Refuses a body of more than `most` bytes before it is read whole."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most:
            await self._refusal(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._most:
                raise HTTPException(413, self._text)
            return message

        await self._app(scope, limited, send)

    @property
    def _text(self) -> str:
        return f"the body has more than {self._most:,} bytes"

    async def _refusal(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _error(413, self._text)(scope, receive, send)
