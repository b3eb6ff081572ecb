"""Talks to the HTTP interface of a run, with the standard library alone."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

from pipeline.errors import ConfigError, ConfigIssue, VramlineError
from pipeline.redact import redact

DEFAULT_URL = "http://127.0.0.1:8800"

_TIMEOUT_S = 30.0
_MOST_BYTES = 64 * 1024 * 1024


class Client:
    """The HTTP interface of one run.

    Args:
        url: Where it listens, such as `http://127.0.0.1:8800`.
        token: Its bearer token.

    Raises:
        ConfigError: the URL or the token cannot be used.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = _checked_url(url)
        if not token.isascii() or not token.isprintable():
            raise ConfigError([ConfigIssue("the token must be printable ASCII text on one line")])
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        # No proxy from the environment and no redirect: the token goes to this server only.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())

    def get(self, path: str) -> Any:
        """What the interface shows at a path, as JSON's types.

        Raises:
            VramlineError: it cannot be had, in words.
        """
        return self.send("GET", path)

    def send(self, method: str, path: str, body: Any = None) -> Any:
        """The answer to a request, as JSON's types.

        Raises:
            ConfigError: the interface finds fault with fields of the body.
            VramlineError: it was not reached, or refused, in words.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers if data is None else {**self._headers, "Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, data, headers, method=method)  # noqa: S310 - http(s) only
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as response:
                answer = response.read(_MOST_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                self._refuse(error.code, _read(error))
        except (OSError, http.client.HTTPException) as e:
            raise self._not_reached(e) from e
        return self._parsed(answer)

    def _parsed(self, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except ValueError:
            raise self._not_ours() from None

    def _refuse(self, status: int, answer: bytes) -> NoReturn:
        if status == 401:
            raise VramlineError(
                f"{self._url}: the token was refused",
                remedy="it has to be observe.http.token of the run's configuration",
            )
        try:
            told = json.loads(answer)
            message, fields = str(told["error"]), told.get("fields")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._not_ours() from None
        if isinstance(fields, list):
            raise ConfigError([ConfigIssue(str(each["message"]), str(each["field"])) for each in fields])
        raise VramlineError(redact(message), remedy=told.get("remedy"))

    def _not_ours(self) -> VramlineError:
        return VramlineError(f"{self._url}: what answers there is not the HTTP interface of vramline")

    def _not_reached(self, error: Exception) -> VramlineError:
        cause = getattr(error, "reason", error)
        if isinstance(cause, TimeoutError):
            reason = f"no answer within {_TIMEOUT_S:.0f} s"
        else:
            reason = (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).lower()
        remedy = "is the run there, with observe.http in its configuration?"
        return VramlineError(f"{self._url} cannot be reached: {redact(reason)}", remedy=remedy)


def stream_path(stream_id: str, action: str | None = None) -> str:
    """Where the interface has a stream, or an action on it."""
    # What is no valid UTF-8 is written as the interface shows it.
    path = f"/streams/{quote(stream_id, safe='', errors='backslashreplace')}"
    return path if action is None else f"{path}/{action}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follows none: the redirect itself becomes the answer."""


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(
            [ConfigIssue(f"found {redact(url)!r}, allowed is http://HOST:PORT or https://HOST:PORT", "--url")]
        )
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError([ConfigIssue("holds more than host, port and path; the token has its own place", "--url")])
    return url.rstrip("/")


def _read(error: urllib.error.HTTPError) -> bytes:
    try:
        return error.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException):
        return b""
