"""Cameras that break on command, for `chaos_rtsp.py`: each a server of its own, with what may happen to it.

They live in a process of their own (`host`), so that their pipes, sockets and threads are none of the process that is
measured, and so that they take the processor from it and not its interpreter. `time.monotonic` is the same in both.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1] / "tests"
if str(TESTS) not in sys.path:
    sys.path.append(str(TESTS))

import bad_servers  # noqa: E402
from rtsp import RtspServer  # noqa: E402

MOUNT = "cam"
LOST_SHARE = 0.05  # of the NAL units, with packet loss
_FIRST_PORT = 20_000
_RANGE_OF_CLIENTS = Path("/proc/sys/net/ipv4/ip_local_port_range")

STAND_INS: dict[str, Callable[[int], contextlib.AbstractContextManager[int]]] = {
    "401": lambda port: bad_servers.status(401, port),
    "404": lambda port: bad_servers.status(404, port),
    "garbage": bad_servers.garbage,
    "silent": bad_servers.silent,
    "slow loris": bad_servers.slow_loris,
}


@dataclass(frozen=True, slots=True)
class Clip:
    """What a camera shows; `codec` is FFmpeg's name."""

    path: str
    codec: str
    width: int
    height: int


class Camera:
    """One server process, or what stands in its place on the same port. All times are `time.monotonic()`."""

    def __init__(self, path: str, port: int) -> None:
        self._path = path
        self._server = RtspServer({MOUNT: path}, port=port, loop=True)
        self._stand_in = contextlib.ExitStack()

    def start(self, path: str | None = None, drop: float = 0.0) -> float:
        """Serves its own clip or another one, whatever was on the port before; returns when it has begun to accept."""
        self._stand_in.close()
        self._server.restart(mounts={MOUNT: path or self._path}, drop=drop)
        return time.monotonic()

    def url(self) -> str:
        """Where it is, always."""
        return self._server.url(MOUNT)

    def kill(self) -> None:
        """Kills whatever serves."""
        self._stand_in.close()
        self._server.kill()

    def stop(self) -> None:
        """Lets the server end by itself."""
        process = self._server.process
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.wait(10)
        self._server.kill()

    def freeze(self) -> None:
        """It keeps its connections, and does nothing."""
        self._server.freeze()

    def thaw(self) -> float:
        """It goes on; returns when."""
        self._server.thaw()
        return time.monotonic()

    def replace(self, name: str) -> None:
        """Puts one of `STAND_INS` in the server's place."""
        self.kill()
        self._stand_in.enter_context(STAND_INS[name](self._server.port))


class Host(BaseManager):
    """The cameras' process. `host.camera(path, port)` makes one and returns a proxy, to be used by any thread."""

    camera: Callable[[str, int], Any]


Host.register("camera", Camera)


def _end_with_parent() -> None:
    """So that a benchmark that is killed leaves no server behind: they end when their standard input does."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def host() -> Iterator[Host]:
    """The process, with all its cameras gone at the end."""
    manager = Host(ctx=multiprocessing.get_context("spawn"))
    manager.start(_end_with_parent)
    try:
        yield manager
    finally:
        manager.shutdown()


def free_ports(count: int) -> list[int]:
    """Ports that nobody has, outside the range from which the system gives clients theirs.

    Else a client could get a port while its server is down: the server could not come back, or a stream would even be
    connected to itself.
    """
    try:
        end = int(_RANGE_OF_CLIENTS.read_text().split()[0])
    except (OSError, ValueError):
        end = 32_768
    candidates = list(range(_FIRST_PORT, end))
    random.SystemRandom().shuffle(candidates)  # two runs at the same time do not want the same
    found: list[int] = []
    for port in candidates:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"there are no {count} free ports from {_FIRST_PORT} to {end - 1}")


# ------------------------------------------------------------------------------------------------------------- faults


@dataclass(frozen=True, slots=True)
class Back:
    """A server that works again: since when, and what its stream then shows."""

    at_s: float
    clip: Clip


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault is given.

    Attributes:
        camera: A `Camera`, or its proxy.
        clip: What it shows.
        larger: The same with another size.
        recoded: The same with another codec.
        rng: Decides how long it takes.
        wait: Waits so many seconds, less if the run is ending.
        timeout_s: After which the client gives up.
    """

    camera: Any
    clip: Clip
    larger: Clip
    recoded: Clip
    rng: random.Random
    wait: Callable[[float], object]
    timeout_s: float


# Breaks the camera and yields each time that it works again, for the stream to be watched; ends as it began.
Fault = Callable[[Scene], Iterator[Back]]


def _killed(scene: Scene) -> Iterator[Back]:
    scene.camera.kill()
    scene.wait(scene.rng.uniform(0.5, 4.0))
    yield Back(scene.camera.start(), scene.clip)


def _stopped(scene: Scene) -> Iterator[Back]:
    scene.camera.stop()
    scene.wait(scene.rng.uniform(0.5, 4.0))
    yield Back(scene.camera.start(), scene.clip)


def _frozen_for(timeouts: float) -> Fault:
    def fault(scene: Scene) -> Iterator[Back]:
        scene.camera.freeze()
        time.sleep(timeouts * scene.timeout_s)
        yield Back(scene.camera.thaw(), scene.clip)

    return fault


def _lossy(scene: Scene) -> Iterator[Back]:
    scene.camera.start(None, LOST_SHARE)
    scene.wait(scene.rng.uniform(3.0, 6.0))
    yield Back(scene.camera.start(), scene.clip)


def _resized(scene: Scene) -> Iterator[Back]:
    yield Back(scene.camera.start(scene.larger.path), scene.larger)
    scene.wait(scene.rng.uniform(1.0, 3.0))
    yield Back(scene.camera.start(), scene.clip)


def _recoded(scene: Scene) -> Iterator[Back]:
    yield Back(scene.camera.start(scene.recoded.path), scene.recoded)
    scene.wait(scene.rng.uniform(1.0, 3.0))
    yield Back(scene.camera.start(), scene.clip)


def _replaced_by(name: str) -> Fault:
    def fault(scene: Scene) -> Iterator[Back]:
        scene.camera.replace(name)
        scene.wait(scene.rng.uniform(1.5, 5.0))
        yield Back(scene.camera.start(), scene.clip)

    return fault


FAULTS: dict[str, Fault] = {
    "kill": _killed,
    "stop": _stopped,
    "short freeze": _frozen_for(0.6),  # the connection lives through it
    "long freeze": _frozen_for(2.5),
    "packet loss": _lossy,
    "other size": _resized,
    "other codec": _recoded,
    **{name: _replaced_by(name) for name in STAND_INS},
}


def script(seed: int, worker: int, workers: int, rounds: int | None) -> Iterator[tuple[str, random.Random]]:
    """What one of several workers does: in each round every fault has its turn once, in another order.

    Yields the fault's name and what decides its details. Endless unless `rounds` says how many.
    """
    rng = random.Random(seed)
    done = 0
    while rounds is None or done < rounds:
        names = list(FAULTS)
        rng.shuffle(names)
        # From the same numbers in all workers, so that they share out one round.
        seeds = [rng.getrandbits(64) for _ in names]
        for name, details in list(zip(names, seeds, strict=True))[worker::workers]:
            yield name, random.Random(details)
        done += 1
