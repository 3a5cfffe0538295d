"""`joulecast serve`: estimates over HTTP."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import sys

import click

from .help import HELP

_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h
# Longer than clients keep a connection: one that the server closes first fails the request that is just being sent.
_KEEP_ALIVE_S = 75


@click.command(context_settings=HELP)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address to listen on; 0.0.0.0 for a network.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8750, show_default=True, metavar="N", help="0: any free port."
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True, max=3600),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Time for reading one config.",
)
@click.option(
    "--readers", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N", help="Configs read at once."
)
def serve(host: str, port: int, time_limit: float, readers: int) -> None:
    """Answer estimates over HTTP: POST /estimate takes a config or a workload and answers as estimate --json.

    No code of a client runs. GET /health, /metrics (Prometheus) and /openapi.json describe the service.
    """
    from ..estimator.base.errors import JoulecastError

    try:
        import uvicorn

        from ..service.answers import Answers
        from ..service.app import make_app
    except ImportError as error:
        raise JoulecastError(
            f"`serve` needs {error.name}, which is not installed: pip install 'joulecast[serve]'"
        ) from None
    share_one_heap()
    config = uvicorn.Config(
        make_app(Answers(time_limit_s=time_limit, readers=readers)),
        timeout_keep_alive=_KEEP_ALIVE_S,
        log_level="warning",
        access_log=False,
        server_header=False,
    )
    listener = listen(host, port)
    address = f"[{host}]" if ":" in host else host
    click.echo(f"listening on http://{address}:{listener.getsockname()[1]}; Ctrl-C stops the service", err=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket on that address. Raises JoulecastError where it cannot be used."""
    from ..estimator.base.errors import JoulecastError

    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        raise JoulecastError(
            f"`host` {host} and `port` {port} cannot be used ({reason}): give others, or `port` 0 for any free one"
        ) from error


def share_one_heap() -> None:
    """One heap for all threads. glibc makes one for each, and the memory of a server then grows for many minutes."""
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if set_option is not None:
            set_option(_ARENA_MAX, 1)
