"""The server's life: its thread, its port, and what it leaves alone."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from control_fakes import LIMIT_S, TOKEN, FakeControl, ask, fill_run, threads_since
from pydantic import SecretStr

from pipeline.config.models import Http
from pipeline.control.http import HttpServer, build_app
from pipeline.errors import VramlineError

ROOT = Path(__file__).parents[2]


def settings(port: int = 0, host: str = "127.0.0.1") -> Http:
    return Http(host=host, port=port, token=SecretStr(TOKEN))


def test_close_leaves_no_thread_and_frees_the_port(control: FakeControl) -> None:
    before = set(threading.enumerate())
    server = HttpServer(control, settings())
    assert server.port == 0
    server.start()
    port = server.port
    assert port > 0
    assert ask(port, "GET", "/streams").status == 200
    idle = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
    half = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
    half.sendall(b"GET /run HT")
    unsent = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
    unsent.sendall(
        f"POST /streams HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 9\r\n\r\n".encode()
    )
    with idle, half, unsent:
        began_s = time.monotonic()
        server.close()
        assert time.monotonic() - began_s < 5
        assert threads_since(before) == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
    server.close()
    with HttpServer(control, settings(port)) as again:
        assert again.port == port
        assert ask(port, "GET", "/run").status == 200


def test_close_is_bounded_where_the_run_does_not_answer(
    control: FakeControl, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = set(threading.enumerate())
    entered, released = threading.Event(), threading.Event()

    def stop() -> None:
        entered.set()
        released.wait(LIMIT_S)

    monkeypatch.setattr(control, "stop", stop)
    server = HttpServer(control, settings())
    server.start()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S)
    try:
        connection.sendall(
            f"POST /run/stop HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        assert entered.wait(LIMIT_S)
        assert ask(server.port, "GET", "/healthz").status == 200  # the others go on
        began_s = time.monotonic()
        server.close()
        assert time.monotonic() - began_s < 5
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
            "the HTTP interface gave up POST /run/stop"
        ]
        assert connection.recv(1000).startswith(b"HTTP/1.1 503")
        # What is left behind does not keep the process from ending.
        assert all(thread.daemon for thread in threading.enumerate() if thread not in before)
    finally:
        released.set()
        connection.close()
    assert threads_since(before) == []


def test_close_before_start_is_nothing(control: FakeControl) -> None:
    HttpServer(control, settings()).close()


def test_it_starts_once(control: FakeControl) -> None:
    with HttpServer(control, settings()) as server, pytest.raises(RuntimeError, match="once"):
        server.start()


def test_a_taken_port_is_told_before_anything_starts(control: FakeControl) -> None:
    with HttpServer(control, settings()) as first:
        before = set(threading.enumerate())
        with pytest.raises(VramlineError, match=rf"127\.0\.0\.1:{first.port}: the port is taken") as told:
            HttpServer(control, settings(first.port)).start()
        assert told.value.remedy
        assert threads_since(before) == []
        assert ask(first.port, "GET", "/run").status == 200


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7", "a" * 70 + ".example", "..", "\x00"])
def test_an_address_that_is_not_ours_is_told(host: str, control: FakeControl) -> None:
    with pytest.raises(VramlineError, match=r"observe\.http: cannot listen on .*: \S"):
        HttpServer(control, settings(host=host)).start()


def test_ipv6_and_names(control: FakeControl) -> None:
    with HttpServer(control, settings(host="localhost")) as server:
        assert server.port > 0
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with HttpServer(control, settings(host="::1")) as server:
        connection = socket.create_connection(("::1", server.port), timeout=LIMIT_S)
        with connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_a_server_for_others_answers_to_any_name(control: FakeControl) -> None:
    with HttpServer(control, settings(host="0.0.0.0")) as server:
        assert ask(server.port, "GET", "/run", headers={"Host": "gpu-7.example:8800"}).status == 200
        assert ask(server.port, "GET", "/run", headers={"Host": "gpu-7.example"}, token=None).status == 401


def test_signals_and_logging_are_left_alone(control: FakeControl, caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    actions = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    caplog.set_level(logging.INFO, logger="pipeline")
    with HttpServer(control, settings()) as server:
        assert ask(server.port, "GET", "/run").status == 200
        assert {number: signal.getsignal(number) for number in actions} == actions
        assert (root.handlers, root.level) == (handlers, level)
        assert not any(logging.getLogger(name).handlers for name in ("uvicorn", "uvicorn.error", "uvicorn.access"))
        assert f"http://127.0.0.1:{server.port}" in caplog.text
    assert {number: signal.getsignal(number) for number in actions} == actions
    # No line for each request: neither ours nor uvicorn's.
    assert [record.name for record in caplog.records] == ["pipeline.control.http"]


def test_missing_packages_are_one_message(control: FakeControl, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            for start in (HttpServer(control, settings()).start, lambda: build_app(control, TOKEN)):
                with pytest.raises(VramlineError, match=package) as told:
                    start()
                assert told.value.remedy == "pip install 'vramline[http]'"


def test_nothing_of_it_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, pipeline, pipeline.cli.main, pipeline.control.http, pipeline.control.client\n"
        "heavy = {'fastapi', 'starlette', 'uvicorn', 'prometheus_client', 'anyio'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=ROOT)


def test_the_app_can_be_served_by_another() -> None:
    control = FakeControl()
    fill_run(control.status)
    assert build_app(control, TOKEN).title == "vramline"
