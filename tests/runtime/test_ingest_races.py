"""Runs whose cameras, users and stages do random things at random moments: each must end, and every frame be accounted for."""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.models import Config, Observe
from pipeline.config.sources import Source
from pipeline.errors import SourceError, SourceErrorCode, StreamStateError, UnknownStreamError, VramlineError
from pipeline.frames import Frame, InputBatch, Surface, SurfaceLayout
from pipeline.observe.status import ENDED, SourceState, SourceStatus, StageTimes
from pipeline.runtime import build, ingest
from pipeline.runtime import pipeline as runtime
from pipeline.runtime.ingest import Limits
from pipeline.runtime.outputs import Outputs
from pipeline.runtime.steps import STAGES, Stages
from pipeline.sources.resolve import VideoSpec
from pipeline.stages import DecodeStats, DropCause

sys.path.insert(0, str(Path(__file__).parent))
import fakes
from test_ingest import Camera, CameraDecoder, Wall, wait_until

ENDS_WITHIN_S = 20.0
LAYOUT = SurfaceLayout(4, 2, 4, 0, 0, 0, 0, 1)
TRANSIENT = [code for code in SourceErrorCode if not code.is_permanent]
RUNS = 30
pytestmark = pytest.mark.timeout(120)


class Loans:
    """Which surfaces were made, and how often each was given back."""

    def __init__(self) -> None:
        self.released: list[int] = []
        self.alive = 0
        self.lock = threading.Lock()

    def surface(self) -> Surface:
        with self.lock:
            number = len(self.released)
            self.released.append(0)

        def release() -> None:
            with self.lock:
                self.released[number] += 1

        return Surface(number + 1, LAYOUT, release)


class World:
    """Cameras and videos that behave at random, and all that is to be checked in the end."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.loans = Loans()
        self.is_over = threading.Event()
        self.opened: list[ChaosDecoder] = []
        self.statuses: list[SourceStatus] = []
        self.lock = threading.Lock()
        self.preprocess_failures = self.random.choice([0.0, 0.0, 0.02])
        self.hangs = self.random.choice([0.0, 0.0, 0.1])
        self.may_stop = True

    def chance(self, probability: float) -> bool:
        with self.lock:
            return self.random.random() < probability

    def choice(self, *of: Any) -> Any:
        with self.lock:
            return self.random.choice(of)

    def hang(self) -> None:
        """As a driver or a name server does; nothing wakes it."""
        with self.lock:
            for_s = self.random.choice([0.05, 0.1, 0.2, 60])
        self.is_over.wait(for_s)

    def open(self, spec: VideoSpec, stats: DecodeStats) -> ChaosDecoder:
        if self.chance(self.hangs):
            self.hang()
        if self.chance(0.2):
            time.sleep(self.choice(0.001, 0.01))
        if self.chance(0.2):
            stats.packets += self.choice(0, 3)
            code = self.choice(*TRANSIENT) if self.chance(0.9) else SourceErrorCode.NOT_FOUND
            raise SourceError("scripted", source_id=spec.source_id, code=code)
        decoder = ChaosDecoder(self, spec, stats)
        with self.lock:
            self.opened.append(decoder)
        return decoder


class ChaosDecoder:
    """Closes, locks and counts as `VideoDecoder` does."""

    def __init__(self, world: World, spec: VideoSpec, stats: DecodeStats) -> None:
        self.world, self.spec, self.stats, self.info = world, spec, stats, fakes.INFO
        self.lock = threading.Lock()
        self.closing = self.is_released = False
        self.frames = self._frames()
        self.first = next(self.frames, None)

    def groups(self) -> Iterator[Sequence[Frame]]:
        return ((frame,) for frame in self)

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        frame = None
        try:
            with self.lock:
                if not self.closing:
                    frame, self.first = self.first, None
                    frame = frame or next(self.frames, None)
        except BaseException:
            self.close()
            raise
        if self.closing or frame is None:
            if frame is not None:
                frame.picture.surface.release()  # type: ignore[union-attr]  # as its loan does when it is forgotten
            self.close()
            return None
        self.stats.frames += 1
        return frame

    def close(self) -> None:
        self.closing = True
        if self.lock.acquire(blocking=False):
            try:
                if self.first is not None:
                    self.first.picture.surface.release()  # type: ignore[union-attr]
                    self.first = None
                self.frames.close()
                self.is_released = True
            finally:
                self.lock.release()

    def _frames(self) -> Iterator[Frame]:
        world, stats = self.world, self.stats
        pace_s = world.choice(0, 0, 0.0005, 0.003)
        for index in range(world.choice(0, 1, 3, 10, 40, 400)):
            if pace_s:
                time.sleep(pace_s)
            if world.chance(world.hangs / 20):
                world.hang()
            if self.closing:
                return
            stats.packets += 1
            stats.last_packet_s = time.monotonic()
            if world.chance(0.05):
                stats.drops.add(world.choice(DropCause.NON_KEY, DropCause.BEHIND, DropCause.RATE))
                continue
            if world.chance(0.05):
                continue  # no picture comes out
            stats.decoded += 1
            if world.chance(0.05):
                stats.corrupt += 1
                stats.dropped += 1
                stats.drops.add(DropCause.CORRUPT)
                continue
            frame = fakes.frame(self.spec.source_id, index)
            picture = replace(frame.picture, surface=world.loans.surface())
            now_s = time.monotonic()
            yield replace(frame, picture=picture, received_s=now_s, decoded_s=now_s)
        if self.spec.settings.is_live or world.chance(0.2):
            raise SourceError("scripted", source_id=self.spec.source_id, code=world.choice(*TRANSIENT))


class ChaosPreprocessor(fakes.FakePreprocessor):
    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(self, frames: Sequence[Frame], rows: int) -> InputBatch:
        for frame in frames:
            assert frame.picture.surface is not None
            assert self.world.loans.released[frame.picture.surface.pointer - 1] == 0, "preprocessed after its release"
            if self.world.chance(self.world.preprocess_failures):
                raise SourceError("size", source_id=frame.source_id, code=SourceErrorCode.UNSUPPORTED)
        return super().__call__(frames, rows)


class ChaosModel(fakes.FakeModel):
    def __init__(self, world: World, fails_at: int | None = None) -> None:
        super().__init__(world.choice(1, 2, 4), fails_at)
        self.pace_s = world.choice(0, 0, 0.001, 0.01)

    def __call__(self, tensor: Any) -> Any:
        time.sleep(self.pace_s)
        return super().__call__(tensor)


@pytest.fixture
def world_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """world_of(seed) -> world, pipeline, sink: made at random, not started."""
    monkeypatch.setattr(ingest, "_TICK_S", 0.005)
    monkeypatch.setattr(ingest, "_GRACE_S", 0.02)
    monkeypatch.setattr(ingest, "_LEAVE_S", 0.05)
    monkeypatch.setattr(runtime, "_LOOK_S", 0.005)
    (tmp_path / "video").touch()
    kept_status = build.new_status

    def make(seed: int, *, model_fails_at: int | None = None, may_stop: bool = True, **options: Any) -> Any:
        world = World(seed)
        world.may_stop = may_stop
        sink = fakes.FakeSink(needs_pixels=world.chance(0.3))

        def new_status(spec: VideoSpec) -> SourceStatus:
            world.statuses.append(kept_status(spec))
            return world.statuses[-1]

        def stages(config: Config, specs: Any, status: Any, progress: Any) -> Stages:
            outputs = Outputs([sink], status)
            outputs.open()
            status.stages = {stage: StageTimes() for stage in STAGES}
            return Stages(
                open_decoder=world.open,
                preprocess=ChaosPreprocessor(world),
                model=ChaosModel(world, model_fails_at),
                postprocess=fakes.fake_postprocess,
                outputs=outputs,
                download=lambda frames: [
                    replace(frame, picture=replace(frame.picture, surface=None)) for frame in frames
                ],
                on_device=world.chance(0.5),
            )

        monkeypatch.setattr(build, "new_status", new_status)
        monkeypatch.setattr(runtime, "new_status", new_status)
        monkeypatch.setattr(runtime, "build_stages", stages)
        config = Config.model_validate(
            {
                "sources": [source(world, str(i), tmp_path) for i in range(world.choice(1, 2, 5))],
                "pipeline": {"model": "fake", "postprocess": {"family": "raw"}},
                "runtime": {"max_connects": 2, "stay_alive": True, "queue_batches": 1, **options},
            }
        )
        return world, runtime.Pipeline(config), sink

    yield make


def source(world: World, name: str, folder: Path) -> Source:
    if world.chance(0.2):
        return Source(path=str(folder / "video"), id=name, max_frames=world.choice(None, 5))
    policy = world.choice("latest", "latest", "fifo", "keyframes")
    return Source(
        url=f"rtsp://camera/{name}",
        id=name,
        policy=policy,
        every=world.choice(1, 1, 3),
        max_frames=world.choice(None, None, 20),
        max_staleness_ms=world.choice(None, 1.0),
        timeout_s=0.05,
        stall_s=0.02,
        reconnect={"initial_s": 0.05, "max_s": 0.05, "stable_s": 0.02, "attempts": world.choice(None, 2)},
        on_error=world.choice("skip", "skip", "skip", "skip", "stop") if world.may_stop else "skip",
    )


def meddle(world: World, pipeline: runtime.Pipeline, folder: Path, count: int) -> None:
    """What users do."""
    for _ in range(count):
        if pipeline.status.ended_s is not None:
            return
        time.sleep(world.choice(0, 0, 0.001, 0.005, 0.02))
        name = str(world.choice(*range(6)))
        try:
            match world.choice("add", "remove", "pause", "resume", "restart", "priority", "pause and resume"):
                case "add":
                    if name not in pipeline.status.sources:
                        pipeline.add_source(source(world, name, folder))
                case "remove":
                    pipeline.remove_source(name)
                case "pause":
                    pipeline.pause_source(name)
                case "resume":
                    pipeline.resume_source(name)
                case "restart":
                    pipeline.restart_source(name)
                case "priority":
                    pipeline.set_priority(name, world.choice(1, 2, 50))
                case _:
                    pipeline.pause_source(name)
                    pipeline.resume_source(name)
        except (UnknownStreamError, StreamStateError):
            pass


class Runner:
    def __init__(self, world: World, pipeline: runtime.Pipeline) -> None:
        self.world, self.pipeline = world, pipeline
        self.error: BaseException | None = None
        self.style = world.choice("run", "run", "iterate", "leave")
        self.pace_s = world.choice(0, 0, 0.002)
        self.thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        try:
            if self.style == "run":
                self.pipeline.run()
            else:
                for number, _ in enumerate(self.pipeline):
                    time.sleep(self.pace_s)
                    if self.style == "leave" and number == 200:
                        break
        except BaseException as e:
            self.error = e

    def __enter__(self) -> Runner:
        self.thread.start()
        return self

    def end(self) -> None:
        how = self.world.choice("stop", "stop", "close", "remove all")
        if how == "remove all":
            for name in list(self.pipeline.status.sources):
                with contextlib.suppress(VramlineError):
                    self.pipeline.remove_source(name)
            time.sleep(0.02)
            how = "stop"
        self.pipeline.close() if how == "close" else self.pipeline.stop()

    def __exit__(self, *_: object) -> None:
        self.thread.join(ENDS_WITHIN_S)
        hung = self.thread.is_alive()
        if hung:
            faulthandler.dump_traceback()
        self.world.is_over.set()
        assert not hung, "the run does not end"


def check(
    world: World,
    pipeline: runtime.Pipeline,
    sink: fakes.FakeSink,
    before: set[threading.Thread],
    *,
    has_failed: bool = False,
) -> None:
    end_s = time.monotonic() + ENDS_WITHIN_S
    while left := [t for t in set(threading.enumerate()) - before if t.is_alive()]:
        assert time.monotonic() < end_s, f"threads are left: {left}"
        time.sleep(0.002)
    for status in world.statuses:
        accounted = status.results + sum(status.dropped.values())
        assert status.totals.packets == accounted, (status.source_id, status.state, status.totals, status.dropped)
        if pipeline.status.sources.get(status.source_id) is status:
            assert status.state in ENDED, (status.source_id, status.state)
    names = {name for _, name in sink.events} if not has_failed else set()
    for name in names:
        events = "".join(kind[0:2] for kind, of in sink.events if of == name)
        while events:  # a name may come again after it was removed
            assert events.startswith("st"), events
            events = events[2:]
            while events.startswith("fr"):
                events = events[2:]
            assert events.startswith("fi"), (name, events[:9])
            events = events[2:]
    assert sum(status.results for status in world.statuses) == len(sink.frames) == pipeline.status.results
    assert all(decoder.is_released for decoder in world.opened), "a decoder is open"
    assert set(world.loans.released) <= {1}, "a surface was given back more than once, or never"


def one_run(make: Callable[..., Any], folder: Path, seed: int) -> None:
    before = set(threading.enumerate())
    world, pipeline, sink = make(seed, stay_alive=seed % 4 != 0)
    with Runner(world, pipeline) as runner:
        users = [
            threading.Thread(target=meddle, args=(world, pipeline, folder, world.choice(3, 20, 60))) for _ in range(2)
        ]
        for user in users:
            user.start()
        for user in users:
            user.join(ENDS_WITHIN_S)
        time.sleep(world.choice(0, 0.01, 0.05))
        runner.end()
    if runner.error is not None:
        raise runner.error
    check(world, pipeline, sink, before)


@pytest.mark.parametrize("seed", range(RUNS))
def test_whatever_happens_a_run_ends_and_accounts_for_every_frame(
    world_of: Callable[..., Any], tmp_path: Path, seed: int
) -> None:
    one_run(world_of, tmp_path, seed)


@pytest.mark.parametrize("what", ["model", "preprocess", "postprocess", "sink"])
@pytest.mark.parametrize("seed", range(5))
def test_a_stage_that_breaks_ends_the_run_and_every_frame_is_accounted_for(
    world_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, what: str
) -> None:
    before = set(threading.enumerate())
    world, pipeline, sink = world_of(100 + seed, model_fails_at=3 if what == "model" else None, may_stop=False)
    world.hangs = world.preprocess_failures = 0.0
    calls = itertools.count()

    def breaks(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if next(calls) == 3:
                raise RuntimeError(f"the {what} broke")
            return original(*arguments)

        return call

    if what == "preprocess":
        monkeypatch.setattr(ChaosPreprocessor, "__call__", breaks(ChaosPreprocessor.__call__))
    elif what == "postprocess":
        monkeypatch.setattr(fakes, "fake_postprocess", breaks(fakes.fake_postprocess))
    elif what == "sink":
        monkeypatch.setattr(sink, "write", breaks(sink.write))
    with Runner(world, pipeline) as runner:
        meddle(world, pipeline, tmp_path, 200)
    assert isinstance(runner.error, RuntimeError)
    assert f"the {what} broke" in str(runner.error)
    check(world, pipeline, sink, before, has_failed=True)


# ------------------------------------------------------------------------------------------- one thing after the other


def test_a_source_that_is_done_can_be_removed_and_comes_again() -> None:
    with Wall({"a": Camera("runs"), "b": Camera(5)}, policy="fifo") as wall:
        for _ in range(3):
            spec = wall.spec("c", max_frames=3)
            wall.cameras["c"] = Camera(5)
            wall.status.sources["c"] = build.new_status(spec)
            wall.ingest.add(spec)
            wall.wait_for("c", SourceState.DONE)
            wait_until(lambda: wall.told[-1] == ("ends", "c"), "its end is told")
            wall.ingest.remove("c")
            wait_until(lambda: "c" not in wall.status.sources, "it is forgotten")
        wall.wait_for("a", SourceState.RUNNING)
    assert wall.status.removed == 3


def test_a_stream_that_is_paused_with_its_last_frame_is_over() -> None:
    class PausedAtTheEnd(Camera):
        def connect(self, spec: VideoSpec, stats: DecodeStats) -> CameraDecoder:
            decoder = super().connect(spec, stats)
            close = decoder.close

            def pause_and_close() -> None:
                wall.ingest._inbox.put(lambda: wall.ingest._pause("a"))
                close()

            decoder.close = pause_and_close  # type: ignore[method-assign]
            return decoder

    wall = Wall({"a": PausedAtTheEnd(2)}, max_frames=2, policy="fifo")
    with wall:
        wall.wait_for("a", SourceState.DONE)
        for ask in (wall.ingest.resume, wall.ingest.restart):
            with pytest.raises(StreamStateError):
                ask("a")
        wall.ingest._inbox.put(lambda: wall.ingest._resume("a"))  # as if it had been asked for before
        time.sleep(0.1)
        assert wall.state("a") is SourceState.DONE


def test_a_stream_that_is_over_is_not_begun_again_when_its_last_frame_fails() -> None:
    camera = Camera(5)
    with Wall({"a": camera}, max_frames=3, policy="fifo") as wall:
        wall.wait_for("a", SourceState.DONE)
        wall.status.sources["a"].fail(SourceError("size", source_id="a", code=SourceErrorCode.UNSUPPORTED))
        wall.ingest.restart("a")
        time.sleep(0.1)
        assert camera.connections == 1
        assert wall.told == [("begins", "a"), ("ends", "a")]


def test_cameras_that_are_down_do_not_keep_the_others_from_connecting() -> None:
    class Down(Camera):
        def connect(self, spec: VideoSpec, stats: DecodeStats) -> CameraDecoder:
            self.connections += 1
            time.sleep(0.1)
            raise SourceError("scripted", source_id=spec.source_id, code=SourceErrorCode.TIMEOUT)

    cameras = {f"down{i}": Down() for i in range(12)} | {"good": Camera("runs")}
    with Wall(cameras, Limits(max_connects=2), timeout_s=30, stall_s=30) as wall:
        wall.wait_for("good", SourceState.RUNNING)
        wait_until(lambda: all(camera.connections >= 3 for camera in cameras.values() if isinstance(camera, Down)))
        connections = [camera.connections for camera in cameras.values() if isinstance(camera, Down)]
        assert max(connections) - min(connections) <= 2


@pytest.mark.parametrize("on_error", ["skip", "stop"])
def test_frames_that_fail_behind_their_connection_fail_the_stream(on_error: str) -> None:
    with Wall({"a": Camera(3)}, reconnect={"initial_s": 1, "max_s": 1}, on_error=on_error) as wall:
        wall.wait_for("a", SourceState.BACKING_OFF)
        status = wall.status.sources["a"]
        status.fail(SourceError("size", source_id="a", code=SourceErrorCode.UNSUPPORTED))
        if on_error == "stop":
            assert wall.ingest.join(5)
            return
        ticks = itertools.count()
        tick = wall.ingest._tick
        wall.ingest._tick = lambda: (next(ticks), tick())  # type: ignore[method-assign, assignment, func-returns-value]
        time.sleep(1.5)
        assert next(ticks) < 30, "the supervisor spins"
        wall.ingest.restart("a")
        wait_until(lambda: status.connects == 2)


def test_a_stream_that_failed_behind_the_decoder_is_restarted_while_it_still_runs() -> None:
    with Wall({"a": Camera("runs")}, timeout_s=30) as wall:
        wall.wait_for("a", SourceState.RUNNING)
        wall.cameras["a"].silent.set()  # so that it does not notice
        wall.status.sources["a"].fail(SourceError("size", source_id="a", code=SourceErrorCode.UNSUPPORTED))
        wall.ingest.restart("a")
        wall.cameras["a"].silent.clear()
        wait_until(lambda: wall.status.sources["a"].connects == 2)
        wall.wait_for("a", SourceState.RUNNING)


@pytest.mark.parametrize("when", ["backing off", "stopped"])
def test_what_a_thread_that_was_left_behind_still_reads_is_not_counted(when: str) -> None:
    camera = Camera("read hangs")
    with Wall({"a": camera}, reconnect={"initial_s": 60, "max_s": 60}) as wall:
        wall.wait_for("a", SourceState.BACKING_OFF)
        if when == "backing off":
            camera.released.set()
            wait_until(lambda: camera.open == 0)
    status = wall.status.sources["a"]
    assert status.totals.packets == status.results + sum(status.dropped.values())


def test_a_camera_that_brings_out_a_mistake_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(Camera):
        def connect(self, spec: VideoSpec, stats: DecodeStats) -> CameraDecoder:
            if self.connections == 0:
                self.connections += 1
                raise IndexError("a mistake at rtsp://admin:hunter2@camera/odd")
            return super().connect(spec, stats)

    with Wall({"odd": Odd("runs"), "good": Camera("runs")}) as wall:
        wall.wait_for("good", SourceState.RUNNING)
        wall.wait_for("odd", SourceState.RUNNING)
        assert wall.status.sources["odd"].last_error_code is SourceErrorCode.DAMAGED
    assert "a mistake" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_camera_that_is_down_for_long_is_not_in_the_log_all_the_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    camera = Camera(*[SourceErrorCode.NETWORK] * 40, "runs")
    with Wall({"a": camera}, reconnect={"initial_s": 0.01, "max_s": 0.01, "stable_s": 0.1}) as wall:
        wall.wait_for("a", SourceState.RUNNING)
        assert wall.status.sources["a"].failed_attempts == 40
        wait_until(lambda: wall.status.sources["a"].failed_attempts == 0, "it is stable")
    lines = [record.message for record in caplog.records if record.levelname == "INFO"]
    assert len(lines) < 20, lines
    assert any("32 attempts" in line for line in lines)
    assert any("running" in line for line in lines)


def test_a_source_of_which_nothing_was_found_can_be_removed() -> None:
    with Wall({"a": Camera("runs")}) as wall:
        wall.status.sources["nothing"] = SourceStatus("nothing", "")
        wall.status.sources["nothing"].fail(
            SourceError("no such file", source_id="nothing", code=SourceErrorCode.NOT_FOUND)
        )
        wall.ingest.remove("nothing")
        wait_until(lambda: "nothing" not in wall.status.sources)


def test_nothing_is_added_to_what_has_ended() -> None:
    with Wall({"a": Camera("runs")}) as wall:
        wall.ingest.stop()
        assert wall.ingest.join(5)
        spec = wall.spec("b")
        wall.status.sources["b"] = build.new_status(spec)
        with pytest.raises(StreamStateError):
            wall.ingest.add(spec)
        del wall.status.sources["b"]


def test_a_run_whose_port_is_taken_says_so(world_of: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        _, pipeline, sink = world_of(1)
        http = {"port": taken.getsockname()[1], "token": "x" * 16}
        pipeline.config = pipeline.config.model_copy(update={"observe": Observe(http=http)})  # type: ignore[arg-type]
        with pytest.raises(VramlineError, match="the port is taken"):
            pipeline.run()
    assert sink.end == "aborted"
