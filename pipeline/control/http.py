"""The HTTP interface: starts and ends the server. The packages it needs are imported when it starts, not before."""

from __future__ import annotations

import errno
import importlib
import ipaddress
import logging
import socket
import threading
from collections.abc import Collection
from types import TracebackType
from typing import TYPE_CHECKING

from pipeline.config.models import Http
from pipeline.control.streams import StreamControl
from pipeline.errors import VramlineError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

log = logging.getLogger(__name__)

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})

_REQUEST_END_S = 1  # how long requests under way may take once the server is being closed
_CLOSE_S = 5.0


def build_app(control: StreamControl, token: str, *, hosts: Collection[str] | None = None) -> FastAPI:
    """The interface as an ASGI application, for a server of one's own.

    Args:
        control: What it shows and steers.
        token: The bearer token that clients must send.
        hosts: Names that a request's `Host` header may hold, without port; None: any.

    Raises:
        VramlineError: the packages of the extra `http` are not installed.
    """
    _check_packages()
    from pipeline.control._app import make_app

    return make_app(control, token, hosts)


class HttpServer:
    """Serves the HTTP interface from a thread of its own, until it is closed.

    Signals, the root logger and the caller's event loop are left alone.

    Args:
        control: What it shows and steers.
        settings: Where to listen, and the token.

    Attributes:
        port: The port that it listens on; before `start` the one that was asked for.
    """

    def __init__(self, control: StreamControl, settings: Http) -> None:
        self.port = settings.port
        self._control = control
        self._settings = settings
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listens from here on; the first request may follow at once.

        Raises:
            VramlineError: the packages are not installed, or the address cannot be had, in words.
        """
        _check_packages()
        import uvicorn

        if self._thread is not None:
            raise RuntimeError("an HttpServer starts once: make a new one")
        listener = _listen(self._settings.host, self._settings.port)
        address, self.port = listener.getsockname()[:2]
        try:
            hosts = LOCAL_HOSTS | {_bracketed(self._settings.host)} if _is_loopback(address) else None
            app = build_app(self._control, self._settings.token.get_secret_value(), hosts=hosts)
            config = uvicorn.Config(
                app,
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",  # the guard logs what goes wrong; the rest is what port scanners send
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_REQUEST_END_S,
            )
            self._server = uvicorn.Server(config)
            # uvicorn takes signals in the main thread only. Threads that requests run in are daemons as this one is.
            self._thread = threading.Thread(
                target=_serve, args=(self._server, listener), name="vramline-http", daemon=True
            )
            self._thread.start()
        except BaseException:
            listener.close()
            raise
        log.info("the HTTP interface listens on http://%s:%d", _bracketed(address), self.port)

    def close(self) -> None:
        """Stops listening, ends the connections and the thread; takes 5 s at most. May be called again."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            log.warning("the HTTP interface is still busy with a request; it is left behind")

    def __enter__(self) -> HttpServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_packages() -> None:
    try:
        for package in ("fastapi", "uvicorn", "prometheus_client"):
            importlib.import_module(package)
    except ImportError as e:
        raise VramlineError(
            f"the HTTP interface needs the package {e.name}, which is not installed",
            remedy="pip install 'vramline[http]'",
        ) from e


def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    try:
        server.run(sockets=[listener])
    except BaseException as error:  # its thread's end is the only one who could tell
        from pipeline.observe.logs import redacted_traceback

        log.error("the HTTP interface broke:\n%s", redacted_traceback(error))
    finally:
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens already: a port that is taken shows here, not in the thread."""
    where = f"observe.http: cannot listen on {_bracketed(host)}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as e:
        reason = getattr(e, "strerror", None) or "not an address"
        raise VramlineError(f"{where}: {reason}", remedy="check the host") from e
    try:
        # Without it the port of a server that just ended could not be had for a minute.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as e:
        listener.close()
        if e.errno == errno.EADDRINUSE:
            remedy = "end the program that has it, or choose another port; 0 takes a free one"
            raise VramlineError(f"{where}: the port is taken", remedy=remedy) from e
        raise VramlineError(f"{where}: {(e.strerror or str(e)).lower()}", remedy="choose another host or port") from e
    return listener


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _bracketed(host: str) -> str:
    """As it stands in a URL and in a `Host` header."""
    return f"[{host}]" if ":" in host else host.lower()
