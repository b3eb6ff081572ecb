"""TCP servers on 127.0.0.1 that misbehave in every way that a camera, or what stands in its place, does.

    with silent() as port:
        open_video(f"rtsp://127.0.0.1:{port}/cam")

Each is a context manager that yields the port (of the system's choice unless one is given); at its end the connections are
closed and the threads are done.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    454: "Session Not Found",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=cam\r\nt=0 0\r\na=control:*\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:trackID=0\r\n"
)
DRIP_INTERVAL_S = 0.5

Client = Callable[[socket.socket, threading.Event], None]


@contextmanager
def serve(client: Client, port: int = 0) -> Iterator[int]:
    """A port on which `client(connection, ended)` answers each connection in a thread of its own; `ended` is set last."""
    ended = threading.Event()
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            client(connection, ended)

    def accept(server: socket.socket) -> None:
        while not ended.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connections.append(connection)
            thread = threading.Thread(target=answer, args=(connection,), daemon=True)
            threads.append(thread)
            thread.start()

    with socket.create_server(("127.0.0.1", port)) as server:
        acceptor = threading.Thread(target=accept, args=(server,), daemon=True)
        acceptor.start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # wakes `accept`
            acceptor.join(5)
            for connection in connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(5)


def requests(connection: socket.socket) -> Iterator[tuple[str, str]]:
    """(method, CSeq) of each RTSP request, until the client goes."""
    pending = b""
    while True:
        while b"\r\n\r\n" not in pending:
            received = connection.recv(4096)
            if not received:
                return
            pending += received
        request, _, pending = pending.partition(b"\r\n\r\n")
        text = request.decode("latin-1")
        number = re.search(r"^CSeq:\s*(\d+)", text, re.IGNORECASE | re.MULTILINE)
        yield text.partition(" ")[0], number[1] if number else "0"


def reply(number: str, code: int = 200, reason: str = "OK", headers: str = "", body: str = "") -> bytes:
    """An RTSP answer; `headers` end with a line break each."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"RTSP/1.0 {code} {reason}\r\nCSeq: {number}\r\n{headers}{length}\r\n{body}".encode()


@contextmanager
def silent(port: int = 0) -> Iterator[int]:
    """Accepts and says nothing."""
    with serve(lambda connection, ended: ended.wait(60) and None, port) as bound:
        yield bound


@contextmanager
def garbage(port: int = 0) -> Iterator[int]:
    """Answers with random bytes, and closes."""

    def client(connection: socket.socket, ended: threading.Event) -> None:
        connection.recv(4096)
        connection.sendall(os.urandom(20_000))

    with serve(client, port) as bound:
        yield bound


@contextmanager
def slow_loris(port: int = 0) -> Iterator[int]:
    """Sends a valid answer, one byte every half second."""

    def client(connection: socket.socket, ended: threading.Event) -> None:
        for _, number in requests(connection):
            for byte in reply(number, headers="Public: OPTIONS, DESCRIBE, SETUP, PLAY\r\n"):
                connection.sendall(bytes([byte]))
                if ended.wait(DRIP_INTERVAL_S):
                    return

    with serve(client, port) as bound:
        yield bound


@contextmanager
def closes(port: int = 0) -> Iterator[int]:
    """Accepts and closes at once."""
    with serve(lambda connection, ended: None, port) as bound:
        yield bound


@contextmanager
def stops_midway(after: str = "DESCRIBE", port: int = 0) -> Iterator[int]:
    """Answers as a camera does up to and with the request `after` (OPTIONS, DESCRIBE, SETUP or PLAY), then nothing."""
    methods = ("OPTIONS", "DESCRIBE", "SETUP", "PLAY")
    answered = methods[: methods.index(after) + 1]
    headers = {
        "OPTIONS": f"Public: {', '.join(methods)}, TEARDOWN\r\n",
        "DESCRIBE": "Content-Type: application/sdp\r\n",
        "SETUP": "Session: 12345678\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n",
        "PLAY": "Session: 12345678\r\n",
    }

    def client(connection: socket.socket, ended: threading.Event) -> None:
        for method, number in requests(connection):
            if method not in answered:
                ended.wait(60)
                return
            body = SDP if method == "DESCRIBE" else ""
            connection.sendall(reply(number, headers=headers[method], body=body))

    with serve(client, port) as bound:
        yield bound


@contextmanager
def status(code: int, port: int = 0) -> Iterator[int]:
    """Answers each request with this status."""
    headers = 'WWW-Authenticate: Basic realm="camera"\r\n' if code == 401 else ""

    def client(connection: socket.socket, ended: threading.Event) -> None:
        for _, number in requests(connection):
            connection.sendall(reply(number, code, REASONS[code], headers))

    with serve(client, port) as bound:
        yield bound


@contextmanager
def refused() -> Iterator[int]:
    """A port on which nobody listens; it stays taken, so that nobody else begins to."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
