"""What every request passes first: is the host meant, is the token right; and what no error gets past: a clean answer."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from collections.abc import Collection

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.observe.logs import redacted_traceback
from pipeline.observe.text import shown

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz"})

_HOST = re.compile(rb"(?P<name>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::[0-9]{0,5})?")


class Guard:
    """ASGI middleware: refuses foreign hosts and wrong tokens, and turns an unexpected error into a plain 500.

    Args:
        app: What is guarded.
        token: The bearer token.
        hosts: Names that the `Host` header may hold; None: any. Without this check a web page could make the browser
            that shows it talk to a server on the browser's own machine, under the page's name (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, *, token: str, hosts: Collection[str] | None) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = None if hosts is None else frozenset(host.lower().encode() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers itself, or lets the request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not self._is_host_meant(_header(scope, b"host")):
            await JSONResponse({"error": "this server does not go by the name in the Host header"}, 421)(
                scope, receive, send
            )
        elif scope["path"] not in OPEN_PATHS and not self._is_token_right(_header(scope, b"authorization")):
            await JSONResponse(
                {"error": "the bearer token is missing or wrong"}, 401, headers={"WWW-Authenticate": "Bearer"}
            )(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    def _is_host_meant(self, value: bytes) -> bool:
        if self._hosts is None:
            return True
        host = _HOST.fullmatch(value)
        return host is not None and host["name"].lower() in self._hosts

    def _is_token_right(self, value: bytes) -> bool:
        scheme, _, token = value.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = False

        async def watched_send(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
            return
        except asyncio.CancelledError:  # the server is being closed and waits no longer
            log.warning("the HTTP interface gave up %s: it was closed before that was done", _request(scope))
            answer = JSONResponse({"error": "the run ended before this was done"}, 503)
        except Exception as error:
            # Left to the server it would be logged as it is, with what its text may hold.
            log.error("the HTTP interface could not answer %s:\n%s", _request(scope), redacted_traceback(error))
            answer = JSONResponse({"error": "internal error; the log has more"}, 500)
        if not began:
            await answer(scope, receive, send)


def _request(scope: Scope) -> str:
    return f"{scope['method']} {shown(scope['path'])}"


def _header(scope: Scope, name: bytes) -> bytes:
    """The header's value; empty if it is missing or stands there twice."""
    values = [value for key, value in scope["headers"] if key == name]
    return values[0] if len(values) == 1 else b""
