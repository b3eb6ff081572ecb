"""The supervisor: what it does with live streams that break, hang, come and go. Decoders are scripted."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.sources import Source
from pipeline.errors import SourceError, SourceErrorCode, StreamStateError, UnknownStreamError
from pipeline.frames import Frame
from pipeline.observe.status import RunStatus, SourceState, StageTimes
from pipeline.queues import Closed
from pipeline.runtime.build import new_status
from pipeline.runtime.flow import SourceEnd
from pipeline.runtime.ingest import Ingest, Limits
from pipeline.runtime.intake import Intake
from pipeline.sources.resolve import VideoSpec
from pipeline.stages import DecodeStats, DropCause, SinkSource

sys.path.insert(0, str(Path(__file__).parent))
import fakes

WAIT_S = 20.0
QUICK = {"initial_s": 0.05, "max_s": 0.05, "permanent_s": 0.05}
pytestmark = pytest.mark.timeout(90)


def wait_until(condition: Callable[[], Any], what: str = "") -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s, f"not within {WAIT_S} s: {what}"
        time.sleep(0.002)


class Camera:
    """What a stream's connections do, one after the other; the last one's behaviour is repeated.

    Each is a number of frames, after which the connection ends; or an error code, with which it fails at once; or "open hangs"
    or "read hangs", in which nothing wakes it up before `released` is set; or "runs", which gives frames until it is closed;
    or "breaks", which fails after a frame.
    """

    def __init__(self, *behaviours: int | str | SourceErrorCode) -> None:
        self.behaviours = behaviours
        self.connections = 0
        self.open = 0
        self.most_opening = 0
        self.opening = 0
        self.decoders: list[weakref.ref[CameraDecoder]] = []
        self.released = threading.Event()
        self.silent = threading.Event()
        self.lock = threading.Lock()

    def connect(self, spec: VideoSpec, stats: DecodeStats) -> CameraDecoder:
        with self.lock:
            behaviour = self.behaviours[min(self.connections, len(self.behaviours) - 1)]
            self.connections += 1
        if isinstance(behaviour, SourceErrorCode):
            raise SourceError("scripted", source_id=spec.source_id, code=behaviour)
        if behaviour == "open hangs":
            self.released.wait(60)
        decoder = CameraDecoder(self, spec.source_id, behaviour, stats)
        self.decoders.append(weakref.ref(decoder))
        return decoder


class CameraDecoder:
    def __init__(self, camera: Camera, source_id: str, behaviour: int | str, stats: DecodeStats) -> None:
        self.camera, self.source_id, self.behaviour, self.stats = camera, source_id, behaviour, stats
        self.info = fakes.INFO
        self.closed = threading.Event()
        camera.open += 1

    def groups(self) -> Iterator[Sequence[Frame]]:
        return ((frame,) for frame in self)

    def __iter__(self) -> Iterator[Frame]:
        endless = self.behaviour in ("runs", "open hangs")
        for index in itertools.count() if endless else range(self.behaviour if isinstance(self.behaviour, int) else 1):
            if endless:
                while self.camera.silent.is_set() and not self.closed.is_set():
                    self.closed.wait(0.002)
                if self.closed.wait(0.002):
                    return
            self.stats.packets += 1
            self.stats.last_packet_s = time.monotonic()
            self.stats.decoded += 1
            self.stats.frames += 1
            yield fakes.frame(self.source_id, index)
        if self.behaviour == "read hangs":
            self.camera.released.wait(60)
            self.stats.packets += 1
            self.stats.decoded += 1
            yield fakes.frame(self.source_id, 99)
        if self.behaviour == "breaks":
            raise SourceError("scripted", source_id=self.source_id, code=SourceErrorCode.DAMAGED)

    def close(self) -> None:
        if not self.closed.is_set():
            self.closed.set()
            self.camera.open -= 1


class Wall:
    """An Ingest over cameras, with a model that takes everything at once."""

    def __init__(self, cameras: dict[str, Camera], limits: Limits | None = None, **settings: Any) -> None:
        self.cameras, self.settings = cameras, {"reconnect": QUICK, "timeout_s": 0.5, "stall_s": 0.2, **settings}
        self.status = RunStatus(stages={"decode": StageTimes()})
        self.failures: list[BaseException] = []
        self.frames: dict[str, list[int]] = {name: [] for name in cameras}
        self.times: dict[str, list[float | None]] = {name: [] for name in cameras}
        self.told: list[tuple[str, str]] = []
        self.intake = Intake(self._drop)
        specs = [self.spec(name) for name in cameras]
        for spec in specs:
            self.status.sources[spec.source_id] = new_status(spec)
        self.ingest = Ingest(
            specs,
            open_decoder=lambda spec, stats: self.cameras[spec.source_id].connect(spec, stats),
            limits=limits or Limits(),
            intake=self.intake,
            status=self.status,
            stay_alive=True,
            on_failure=self.failures.append,
        )
        self.taker = threading.Thread(target=self._take, daemon=True)

    def spec(self, name: str, **settings: Any) -> VideoSpec:
        source = Source(url=f"rtsp://camera/{name}", **{**self.settings, **settings})
        return VideoSpec(name, f"rtsp://camera/{name}", f"rtsp://camera/{name}", True, source)

    def _drop(self, frame: Frame, cause: DropCause) -> None:
        self.ingest.drop(frame, cause)

    def _take(self) -> None:
        while True:
            try:
                item = self.intake.get()
            except Closed:
                return
            if isinstance(item, Frame):
                self.frames.setdefault(item.source_id, []).append(item.index)
                self.times.setdefault(item.source_id, []).append(item.pts_s)
                self.status.sources[item.source_id].results += 1
            elif isinstance(item, SinkSource):
                self.told.append(("begins", item.source_id))
            else:
                assert isinstance(item, SourceEnd)
                self.told.append(("ends", item.source_id))
                self.status.out(item.source_id)

    def state(self, name: str) -> SourceState:
        return self.status.sources[name].state

    def wait_for(self, name: str, state: SourceState) -> None:
        wait_until(lambda: self.state(name) is state, f"{name} is {self.state(name).value}, not {state.value}")

    def __enter__(self) -> Wall:
        self.ingest.start()
        self.taker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ingest.stop()
        assert self.ingest.join(WAIT_S)
        self.taker.join(WAIT_S)
        assert not self.taker.is_alive()
        for camera in self.cameras.values():
            camera.released.set()
        wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("source-")], "threads end")
        assert self.failures == []
        assert [camera.open for camera in self.cameras.values()] == [0] * len(self.cameras)


@pytest.mark.parametrize("behaviour", [3, "breaks"])
def test_the_decoders_of_earlier_connections_are_gone(behaviour: int | str) -> None:
    """Without the collector's help, which comes too rarely."""
    camera = Camera(behaviour)
    gc.collect()
    gc.disable()
    try:
        with Wall({"a": camera}) as wall:
            wait_until(lambda: wall.status.sources["a"].connects >= 8)
            assert sum(decoder() is not None for decoder in camera.decoders) <= 2
        assert len(camera.decoders) >= 8
    finally:
        gc.enable()


def test_a_stream_that_ends_is_connected_again_and_again() -> None:
    with Wall({"a": Camera(3)}) as wall:
        wait_until(lambda: wall.status.sources["a"].connects >= 4)
    status = wall.status.sources["a"]
    assert status.reconnects == status.connects - 1
    assert status.last_error_code is SourceErrorCode.ENDED
    # Frames are numbered on, their times go on, the sinks hear of one source. Some were superseded by newer ones.
    assert wall.frames["a"] == sorted(set(wall.frames["a"]))
    assert max(wall.frames["a"]) >= 8
    assert all(b > a for a, b in itertools.pairwise(wall.times["a"]))  # type: ignore[operator]
    assert wall.told == [("begins", "a"), ("ends", "a")]
    assert status.state is SourceState.STOPPED
    assert status.in_flight == 0


@pytest.mark.parametrize("code", [c for c in SourceErrorCode if not c.is_permanent])
def test_transient_errors_are_retried(code: SourceErrorCode) -> None:
    with Wall({"a": Camera(code, code, "runs")}) as wall:
        wall.wait_for("a", SourceState.RUNNING)
        assert wall.cameras["a"].connections == 3
        assert wall.status.sources["a"].last_error_code is code


def test_a_permanent_error_fails_the_stream_and_no_other_and_a_restart_revives_it() -> None:
    cameras = {"bad": Camera(SourceErrorCode.UNAUTHORIZED, "runs"), "good": Camera("runs")}
    with Wall(cameras) as wall:
        wall.wait_for("bad", SourceState.FAILED)
        wall.wait_for("good", SourceState.RUNNING)
        assert wall.status.sources["bad"].error_code is SourceErrorCode.UNAUTHORIZED
        before = len(wall.frames["good"])
        wait_until(lambda: len(wall.frames["good"]) > before + 5)
        assert cameras["bad"].connections == 1
        wall.ingest.restart("bad")
        wall.wait_for("bad", SourceState.RUNNING)
        assert wall.status.sources["bad"].error is None


def test_permanent_errors_are_retried_where_that_is_wanted() -> None:
    with Wall({"a": Camera(SourceErrorCode.NOT_FOUND, "runs")}, reconnect={**QUICK, "on_permanent": "retry"}) as wall:
        wall.wait_for("a", SourceState.RUNNING)


def test_a_stream_whose_attempts_are_used_up_fails() -> None:
    with Wall({"a": Camera(SourceErrorCode.NETWORK)}, reconnect={**QUICK, "attempts": 3}) as wall:
        wall.wait_for("a", SourceState.FAILED)
        assert wall.cameras["a"].connections == 4


@pytest.mark.parametrize("where", ["open hangs", "read hangs"])
def test_a_thread_that_hangs_is_left_behind_and_does_no_harm(where: str) -> None:
    cameras = {"hangs": Camera(where, "runs"), "good": Camera("runs")}
    with Wall(cameras) as wall:
        wait_until(lambda: cameras["hangs"].connections == 2, "another connection")
        wall.wait_for("hangs", SourceState.RUNNING)
        assert wall.status.sources["hangs"].last_error_code is SourceErrorCode.STALLED
        assert len(wall.frames["good"]) > 20
        count = len(wall.frames["hangs"])
        cameras["hangs"].released.set()  # the old thread comes back and finds that nobody listens
        wait_until(lambda: len(wall.frames["hangs"]) > count + 20)
        assert 99 not in wall.frames["hangs"][:count]
    assert [s.in_flight for s in wall.status.sources.values()] == [0, 0]


def test_a_silent_stream_is_stalled_and_runs_again_when_it_goes_on() -> None:
    with Wall({"a": Camera("runs")}, timeout_s=30) as wall:
        wall.wait_for("a", SourceState.RUNNING)
        wall.cameras["a"].silent.set()
        wall.wait_for("a", SourceState.STALLED)
        wall.cameras["a"].silent.clear()
        wall.wait_for("a", SourceState.RUNNING)
        assert wall.cameras["a"].connections == 1


def test_no_more_streams_connect_at_the_same_time_than_may() -> None:
    opening, most, lock = [0], [0], threading.Lock()

    class Slow(Camera):
        def connect(self, spec: VideoSpec, stats: DecodeStats) -> CameraDecoder:
            with lock:
                opening[0] += 1
                most[0] = max(most[0], opening[0])
            time.sleep(0.02)
            with lock:
                opening[0] -= 1
            return super().connect(spec, stats)

    with Wall({str(i): Slow("runs") for i in range(20)}, Limits(max_connects=3)) as wall:
        for name in wall.cameras:
            wall.wait_for(name, SourceState.RUNNING)
    assert most[0] == 3


def test_streams_are_paused_and_resumed() -> None:
    with Wall(
        {"a": Camera("runs"), "b": Camera(SourceErrorCode.NETWORK)}, reconnect={"initial_s": 60, "max_s": 60}
    ) as wall:
        wall.wait_for("a", SourceState.RUNNING)
        wall.ingest.pause("a")
        wall.wait_for("a", SourceState.PAUSED)
        wait_until(lambda: wall.cameras["a"].open == 0)
        wall.wait_for("b", SourceState.BACKING_OFF)
        wall.ingest.pause("b")
        wall.wait_for("b", SourceState.PAUSED)
        assert wall.status.sources["b"].retry_s is None
        wall.ingest.resume("a")
        wall.ingest.resume("a")
        wall.wait_for("a", SourceState.RUNNING)
        assert wall.cameras["a"].connections == 2


def test_a_stream_is_resumed_while_it_is_still_being_paused() -> None:
    with Wall({"a": Camera("runs")}) as wall:
        for _ in range(20):
            wall.wait_for("a", SourceState.RUNNING)
            wall.ingest.pause("a")
            wall.ingest.resume("a")
            wall.ingest.restart("a")
        wall.wait_for("a", SourceState.RUNNING)


def test_sources_come_and_go_while_others_run() -> None:
    cameras = {"stays": Camera("runs"), "goes": Camera("runs")}
    with Wall(cameras) as wall:
        wall.wait_for("goes", SourceState.RUNNING)
        wait_until(lambda: wall.frames["goes"])
        wall.ingest.remove("goes")
        wait_until(lambda: "goes" not in wall.status.sources)
        assert wall.told[-1] == ("ends", "goes")
        assert (wall.status.removed, wall.status.removed_results) == (1, len(wall.frames["goes"]))
        assert wall.status.results >= len(wall.frames["goes"])
        spec = wall.spec("goes")
        wall.status.sources["goes"] = new_status(spec)
        wall.ingest.add(spec)
        wall.wait_for("goes", SourceState.RUNNING)
        assert cameras["stays"].connections == 1


def test_a_stream_that_was_never_reached_can_be_removed() -> None:
    with Wall({"a": Camera(SourceErrorCode.NETWORK)}, reconnect={"initial_s": 60, "max_s": 60}) as wall:
        wall.wait_for("a", SourceState.BACKING_OFF)
        wall.ingest.remove("a")
        wait_until(lambda: "a" not in wall.status.sources)
        assert wall.told == []


def test_what_is_asked_must_fit() -> None:
    with Wall({"a": Camera("runs")}) as wall:
        for call in (wall.ingest.remove, wall.ingest.pause, wall.ingest.resume, wall.ingest.restart):
            with pytest.raises(UnknownStreamError, match="'nobody'"):
                call("nobody")
        with pytest.raises(UnknownStreamError):
            wall.ingest.set_priority("nobody", 3)
        wall.status.sources["a"].is_live = False
        with pytest.raises(StreamStateError, match="not a live stream"):
            wall.ingest.pause("a")
        wall.status.sources["a"].is_live = True


def test_every_frame_is_accounted_for() -> None:
    cameras = {str(i): Camera(7, SourceErrorCode.NETWORK, 50, 3) for i in range(8)}
    with Wall(cameras, every=2) as wall:
        wait_until(lambda: all(s.connects >= 5 for s in wall.status.sources.values()))
    for status in wall.status.sources.values():
        assert status.totals.packets == status.results + sum(status.dropped.values())
        assert status.dropped[DropCause.RATE] > 0
        assert status.in_flight == 0


def test_a_stream_with_a_frame_limit_is_done_when_it_has_given_them() -> None:
    with Wall({"a": Camera(4)}, max_frames=10, policy="fifo") as wall:
        wall.wait_for("a", SourceState.DONE)
    assert wall.frames["a"] == list(range(10))
