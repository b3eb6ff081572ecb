"""Many live streams whose servers break in every way that servers break, all the time: does the run stay as it was?

    python benchmarks/chaos_rtsp.py [--streams 16] [--minutes 10] [--seed 1] [--json FILE]

Starts an RTSP server for each stream on 127.0.0.1 (see `chaos_cameras.py`) and one pipeline on the CPU engine for all.
After a calm phase, which everything is compared with, servers are killed, stopped, frozen, made to lose packets, replaced
by ones with another picture size or codec and by ones that refuse, babble or say nothing, following a script that the seed
decides; other streams are told to connect anew all the while. A quarter of the streams is never touched. In the end all
is mended. Printed: whether every stream came back in time after its server did, whether threads, file descriptors and
memory grew, whether the streams that were left alone noticed, and whether every frame is accounted for. Exit status 1 if
one of these failed.

It needs what `.ci/run` installs for the RTSP tests. The model is the card `emotion`, or where it cannot be fetched a small
one that is made here. Servers, decoders and model share the machine: the figures mean something while it is idle enough
(its load is printed), and so with nothing else running.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import platform
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chaos_cameras import FAULTS, LOST_SHARE, Back, Camera, Clip, Scene, free_ports, host, script

from pipeline.observe.latency import LatencyHistogram

if TYPE_CHECKING:
    from pipeline import Pipeline
    from pipeline.frames import Frame
    from pipeline.observe.status import SourceStatus

FORCED = "forced"  # the name of what is no fault: the stream is told to connect anew
START_LIMIT_S = 60.0
RECOVERY_LIMIT_S = 30.0  # a stream that is not back by then counts as lost
SETTLE_S = 1.0  # a stream that is back sends in bursts at first: it counts as left alone after so long
LEVEL_LIMIT_S = 10.0
WINDOW_S = 10.0
LEAST_MEASURED_S = 10.0  # for a rate
LEAST_FOR_SLOPES_S = 240.0  # shorter, the ups and downs of the connections outweigh any trend
# What is demanded.
MOST_AFTER_BACKOFF_S = 2.0
LEAST_RECONNECTS_PER_MINUTE = 50.0
LEAST_RATE = 0.97
# Of a stream, to the p99 of all in the calm phase: a stream's own says how its frames happen to lie between those of the
# others, which share its batches. That stays as it is while nothing breaks, and no longer.
MOST_P99_RATIO, MOST_P99_MORE_S = 1.5, 0.05
MOST_MORE = 1  # threads or file descriptors at the end
MOST_SLOPE = 0.5  # threads or file descriptors per 100 reconnects: less than one of 200 reconnects leaves one behind
# What ended connections have freed goes back to the system every 30 s, and what a process holds goes up and down with it; so
# the least of each minute counts. At first it rises, until each of glibc's arenas (8 per core) has seen the largest decoder;
# the second half of the samples has to be flat. A leak would show there: 50 kB a reconnect, or one decoder (its pictures
# alone are some MB) in 100, are more.
FLOOR_S, SHORT_FLOOR_S = 60, 10
MOST_GROWTH_BYTES = 16 << 20


@dataclass(frozen=True)
class Options:
    """What is run.

    Attributes:
        streams: How many.
        seconds: How long in all, without loading and the mending at the end.
        calm_s: How much of it nothing is broken, at the start.
        seed: Decides the script.
        rounds: The broken part ends when every fault had so many turns; None: when the time is over.
        workers: Streams that are broken at the same time, besides those that are told to connect anew.
        forced_every_s: How often one of them is.
        fps: Frames/s of a stream.
        model: `emotion`, or `built-in`.
        cap_s: The longest wait between two attempts to connect.
        timeout_s: After which a silent server is given up.
        stall_s: After which it counts as stalled.
        pace: Factor to the time for which the servers stay broken.
    """

    streams: int = 16
    seconds: float = 600.0
    calm_s: float = 60.0
    seed: int = 1
    rounds: int | None = None
    workers: int = 2
    forced_every_s: float = 0.9
    fps: int = 10
    model: str = "emotion"
    cap_s: float = 2.0
    timeout_s: float = 1.5
    stall_s: float = 0.75
    pace: float = 1.0


# ---------------------------------------------------------------------------------------------------------- measuring


class Meter:
    """Results of a stream while it is left alone: how many a second, how late. In constant memory."""

    def __init__(self, pooled: LatencyHistogram | None = None) -> None:
        """`pooled`: of all streams, which counts the same."""
        self.results = 0
        self.measured_s = 0.0
        self.latency = LatencyHistogram()
        self._pooled = pooled
        self.window_rates: list[float] = []
        self._from_s: float | None = None
        self._window: tuple[float, int] = (0.0, 0)  # since when, and how many there had been
        self._lock = threading.Lock()

    def open(self, from_s: float) -> None:
        """Counts from then on."""
        with self._lock:
            self._from_s = from_s
            self._window = (from_s, self.results)

    def close(self) -> None:
        """Counts no more."""
        with self._lock:
            if self._from_s is not None:
                self.measured_s += max(0.0, time.monotonic() - self._from_s)
            self._from_s = None

    def add(self, now_s: float, latency_s: float) -> None:
        """A result came."""
        with self._lock:
            if self._from_s is None or now_s < self._from_s:
                return
            since_s, before = self._window
            if now_s - since_s >= WINDOW_S:
                self.window_rates.append((self.results - before) / (now_s - since_s))
                self._window = (now_s, self.results)
            self.results += 1
        self.latency.add(latency_s)
        if self._pooled is not None:
            self._pooled.add(latency_s)

    @property
    def rate(self) -> float | None:
        """Results a second; None if that was too short."""
        return self.results / self.measured_s if self.measured_s >= LEAST_MEASURED_S else None


class Watch:
    """Waits for a stream that is to be running again."""

    def __init__(self, back: Back, connects: int) -> None:
        self.took_s: float | None = None
        self.done = threading.Event()
        self._back = back
        self._connects = connects

    def see(self, frame: Frame, status: SourceStatus, now_s: float) -> None:
        """A result of it came: is it one of the server that is back?"""
        from pipeline.observe.status import SourceState

        clip, picture = self._back.clip, frame.picture
        if (
            frame.received_s is not None
            and frame.received_s >= self._back.at_s
            and status.state is SourceState.RUNNING
            and status.connects >= self._connects
            and (picture.width, picture.height) == (clip.width, clip.height)
            and status.info is not None
            and status.info.codec == clip.codec
        ):
            self.took_s = now_s - self._back.at_s
            self.done.set()


class Stream:
    """One of the pipeline's streams, and its camera."""

    def __init__(
        self, name: str, camera: Any, clips: tuple[Clip, Clip, Clip], calm_latency: LatencyHistogram | None = None
    ) -> None:
        """`clips`: what it shows, the same with another size, the same with another codec."""
        self.name = name
        self.camera = camera
        self.url: str = camera.url()
        self.clip, self.larger, self.recoded = clips
        self.status: SourceStatus | None = None
        self.calm = Meter(calm_latency)
        self.left_alone = Meter()
        self.unasked_reconnects = 0
        self.is_touched = threading.Lock()
        self._watch: Watch | None = None
        self._connects = 1

    def saw(self, frame: Frame, now_s: float) -> None:
        """A result of it came out."""
        watch, status = self._watch, self.status
        if watch is not None and status is not None and not watch.done.is_set():
            watch.see(frame, status, now_s)
        if frame.received_s is not None:
            self.calm.add(now_s, now_s - frame.received_s)
            self.left_alone.add(now_s, now_s - frame.received_s)

    @contextlib.contextmanager
    def touch(self) -> Iterator[None]:
        """While something is done to it, it is not left alone. The caller holds `is_touched`."""
        assert self.status is not None
        self.left_alone.close()
        self.note_unasked()
        try:
            yield
        finally:
            self._connects = self.status.connects
            self.left_alone.open(time.monotonic() + SETTLE_S)

    def note_unasked(self) -> None:
        """Counts reconnects while it was left alone."""
        assert self.status is not None
        self.unasked_reconnects += self.status.connects - self._connects
        self._connects = self.status.connects

    def recovery(self, back: Back, connects: int = 0) -> float | None:
        """Waits until it runs again and gives a result; seconds from then on, None if it does not come."""
        watch = self._watch = Watch(back, connects)
        watch.done.wait(RECOVERY_LIMIT_S)
        self._watch = None
        return watch.took_s


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long a stream took after its server was back; None: it did not come."""

    fault: str
    stream: str
    took_s: float | None


@dataclass(frozen=True, slots=True)
class Level:
    """What the process holds at a moment."""

    at_s: float
    rss_bytes: int
    threads: int
    files: int
    reconnects: int = 0


def level(reconnects: int = 0) -> Level:
    """Now: of the system's threads, so with those of TensorFlow and FFmpeg."""
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    threads, files = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("task", "fd"))  # noqa: PTH208
    return Level(time.monotonic(), rss, threads, files, reconnects)


class Load:
    """How busy the machine and this process are from `__init__` to `end`, as shares of all cores."""

    def __init__(self) -> None:
        self._start = self._now()
        self.machine = self.process = 0.0

    def end(self) -> None:
        """Sets `machine` and `process`."""
        wall_s, all_, idle, own_s = (b - a for a, b in zip(self._start, self._now(), strict=True))
        self.machine = 1 - idle / all_ if all_ else 0.0
        self.process = own_s / (wall_s * (os.cpu_count() or 1))

    @staticmethod
    def _now() -> tuple[float, float, float, float]:
        with Path("/proc/stat").open() as file:
            ticks = [int(n) for n in file.readline().split()[1:9]]
        return time.monotonic(), sum(ticks), ticks[3] + ticks[4], time.process_time()


class Listener(logging.Handler):
    """Counts what the pipeline logs as errors, and the sessions that it leaves behind; and threads that die of exceptions."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.errors: list[str] = []
        self.left_behind = 0
        self._loggers = {"pipeline": logging.WARNING, "pipeline.runtime.ingest": logging.DEBUG}
        self._before: list[tuple[logging.Logger, int]] = []
        self._hook = threading.excepthook

    def emit(self, record: logging.LogRecord) -> None:
        if "left behind" in record.getMessage():
            self.left_behind += 1
        if record.levelno >= logging.ERROR or record.exc_info:
            self.errors.append(record.getMessage())

    def __enter__(self) -> Listener:
        for name, least in self._loggers.items():
            logger = logging.getLogger(name)
            self._before.append((logger, logger.level))
            logger.setLevel(least)
        logging.getLogger("pipeline").addHandler(self)
        threading.excepthook = self._died
        return self

    def __exit__(self, *_: object) -> None:
        threading.excepthook = self._hook
        logging.getLogger("pipeline").removeHandler(self)
        for logger, least in self._before:
            logger.setLevel(least)

    def _died(self, args: threading.ExceptHookArgs) -> None:
        self.errors.append(f"thread {args.thread.name if args.thread else '?'}: {args.exc_value!r}")
        self._hook(args)


@dataclass
class Findings:
    """Everything that was seen."""

    model: str = ""
    recoveries: list[Recovery] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    samples: list[Level] = field(default_factory=list)  # of the broken part, after its beginning
    calm_latency: LatencyHistogram = field(default_factory=LatencyHistogram)  # of all streams
    calm: Level | None = None
    final: Level | None = None
    calm_load: Load | None = None
    chaos_load: Load | None = None
    chaos_s: float = 0.0
    broken_s: float = 0.0  # in which at least one stream was being broken
    errors: list[str] = field(default_factory=list)
    left_behind: int = 0
    delivered: Counter[str] = field(default_factory=Counter)
    streams: list[Stream] = field(default_factory=list)
    bystanders: list[str] = field(default_factory=list)
    exit_code: int | None = None

    @property
    def reconnects(self) -> int:
        """Of all streams."""
        return sum(s.status.reconnects for s in self.streams if s.status is not None)


# ----------------------------------------------------------------------------------------------------------- the run


def make_clips(folder: Path, fps: int) -> dict[tuple[str, int], Clip]:
    """Ten seconds each, by codec and size, with a key frame every second."""
    from media_maker import make_clip

    # As cameras do: without B-frames, which cost latency and come in bursts.
    encoders = {
        "h264": ("libx264", "mp4", {"crf": "26", "bf": "0"}),
        "hevc": ("libx265", "mkv", {"crf": "26", "x265-params": "bframes=0:log-level=none:pools=1"}),
    }
    clips = {}
    for codec, (encoder, suffix, options) in encoders.items():
        for number, (width, height) in enumerate(((320, 240), (416, 312))):
            path = folder / f"{codec}-{width}x{height}.{suffix}"
            size = {"width": width, "height": height}
            make_clip(path, **size, frames=10 * fps, rate=fps, codec=encoder, gop=fps, options=options)
            clips[codec, number] = Clip(str(path), codec, width, height)
    return clips


def make_model(folder: Path) -> Path:
    """A SavedModel: image float32 [N, 64, 64, 3] -> scores [N, 4], of three small convolutions."""
    import tensorflow as tf

    class Small(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = tf.random.Generator.from_seed(1)
            shapes = [(3, 3, 3, 8), (3, 3, 8, 16), (3, 3, 16, 4)]
            self.kernels = [tf.Variable(generator.normal(shape, stddev=0.1)) for shape in shapes]

        @tf.function(input_signature=[tf.TensorSpec((None, 64, 64, 3), tf.float32, name="image")])
        def scores(self, image):  # type: ignore[no-untyped-def]
            x = image / 255
            for kernel in self.kernels:
                x = tf.nn.relu(tf.nn.conv2d(x, kernel, 2, "SAME"))
            return {"scores": tf.nn.softmax(tf.reduce_mean(x, (1, 2)))}

    module = Small()
    tf.saved_model.save(module, str(folder), signatures=module.scores)
    return folder


def stages(options: Options, folder: Path) -> tuple[str, dict[str, Any]]:
    """What ran, in words, and the configuration of model and postprocessing."""
    if options.model == "emotion":
        from pipeline.errors import VramlineError
        from pipeline.zoo import obtain_model

        try:
            obtain_model("emotion")
            return "card emotion (mini-Xception, 64x64 grey)", {"model": "emotion"}
        except (VramlineError, OSError) as e:
            print(f"the card emotion cannot be had ({e}): takes the built-in model", file=sys.stderr)
    model = make_model(folder / "model")
    return "built-in (three convolutions, 64x64)", {"model": {"path": str(model)}, "postprocess": {"family": "raw"}}


def configuration(options: Options, stages_: dict[str, Any], streams: Sequence[Stream]) -> dict[str, Any]:
    cap_s = options.cap_s
    reconnect = {"initial_s": cap_s / 4, "max_s": cap_s, "on_permanent": "retry", "permanent_s": cap_s}
    common = {"timeout_s": options.timeout_s, "stall_s": options.stall_s, "reconnect": reconnect}
    return {
        "device": "cpu",
        "sources": [{"id": s.name, "url": s.url, **common} for s in streams],
        "pipeline": stages_,
        "runtime": {"batch_size": 8},
    }


class Director:
    """Lets the phases of the run follow each other, in a thread of its own; ends the run."""

    def __init__(self, options: Options, pipeline: Pipeline, streams: Sequence[Stream], findings: Findings) -> None:
        self.error: BaseException | None = None
        self._options = options
        self._pipeline = pipeline
        self._streams = streams
        self._findings = findings
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._broken = 0
        self._broken_since_s = 0.0
        kept = max(1, len(streams) // 4)
        self._victims = list(streams[kept:])
        findings.bystanders = [s.name for s in streams[:kept]]
        self._thread = threading.Thread(target=self._run, name="director")

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Waits for its end, which comes soon after that of the run."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._direct()
        except BaseException as e:
            self.error = e
        finally:
            self._pipeline.stop()

    def _direct(self) -> None:
        options, found = self._options, self._findings
        self._wait_until_all_run(START_LIMIT_S)
        self._ending.wait(2 * SETTLE_S)
        with self._measured("calm") as found.calm_load:
            self._ending.wait(options.calm_s)
        found.calm = level()
        start_s = time.monotonic()
        with self._measured("left_alone") as found.chaos_load:
            self._chaos(start_s)
        found.chaos_s = time.monotonic() - start_s
        for stream in self._streams:
            stream.note_unasked()
        self._wait_until_all_run(RECOVERY_LIMIT_S)
        found.final = self._level_when_settled(found.calm)

    @contextlib.contextmanager
    def _measured(self, name: str) -> Iterator[Load]:
        load = Load()
        for stream in self._streams:
            getattr(stream, name).open(time.monotonic())
        try:
            yield load
        finally:
            for stream in self._streams:
                getattr(stream, name).close()
            load.end()

    def _chaos(self, start_s: float) -> None:
        options, found = self._options, self._findings
        jobs: list[Callable[[], None]] = [lambda n=n: self._break(n) for n in range(options.workers)]  # type: ignore[misc]
        workers = [self._worker(job) for job in jobs]
        forcing_ended = threading.Event()
        forcing = self._worker(lambda: self._force(forcing_ended))
        chaos_s = options.seconds - options.calm_s
        while any(w.is_alive() for w in workers):
            if options.rounds is None and time.monotonic() - start_s >= chaos_s:
                self._ending.set()
            if self._ending.wait(1.0):
                break
            if time.monotonic() - start_s >= 0.1 * chaos_s:
                found.samples.append(level(found.reconnects))
        for worker in workers:
            worker.join()
        forcing_ended.set()
        forcing.join()

    def _worker(self, job: Callable[[], None]) -> threading.Thread:
        def work() -> None:
            try:
                job()
            except BaseException as e:
                self.error = self.error or e
                self._ending.set()

        thread = threading.Thread(target=work, name="chaos")
        thread.start()
        return thread

    def _break(self, worker: int) -> None:
        """Breaks one stream after the other: each worker those that are its own, so that the seed decides which."""
        options, found = self._options, self._findings
        own = self._victims[worker :: options.workers]
        for name, rng in script(options.seed, worker, options.workers, options.rounds):
            if self._ending.is_set():
                return
            stream = rng.choice(own)
            scene = Scene(
                stream.camera,
                stream.clip,
                stream.larger,
                stream.recoded,
                rng,
                lambda seconds: self._ending.wait(seconds * options.pace),
                options.timeout_s,
            )
            with stream.is_touched, stream.touch(), self._breaking():
                for back in FAULTS[name](scene):
                    found.recoveries.append(Recovery(name, stream.name, stream.recovery(back)))
            found.faults[name] += 1
            self._ending.wait(SETTLE_S * options.pace)

    def _force(self, ended: threading.Event) -> None:
        """Tells streams to connect anew that nothing else is being done to."""
        options, found = self._options, self._findings
        rng = random.Random(f"{options.seed} {FORCED}")
        next_s = time.monotonic()
        while not ended.wait(max(0.0, next_s - time.monotonic())) and not self._ending.is_set():
            next_s += options.forced_every_s
            free = [s for s in self._victims if not s.is_touched.locked()]
            stream = rng.choice(free or self._victims)
            with stream.is_touched, stream.touch(), self._breaking():
                assert stream.status is not None
                back, connects = Back(time.monotonic(), stream.clip), stream.status.connects
                self._pipeline.restart_source(stream.name)
                found.recoveries.append(Recovery(FORCED, stream.name, stream.recovery(back, connects + 1)))
            found.faults[FORCED] += 1

    @contextlib.contextmanager
    def _breaking(self) -> Iterator[None]:
        with self._lock:
            self._broken += 1
            if self._broken == 1:
                self._broken_since_s = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._broken -= 1
                if self._broken == 0:
                    self._findings.broken_s += time.monotonic() - self._broken_since_s

    def _wait_until_all_run(self, limit_s: float) -> None:
        now_s = time.monotonic()
        for stream in self._streams:
            if stream.recovery(Back(now_s, stream.clip)) is None or time.monotonic() > now_s + limit_s:
                state = stream.status.state.value if stream.status else "unknown"
                raise RuntimeError(f"stream {stream.name} does not run: {state}")

    def _level_when_settled(self, before: Level) -> Level:
        """Sessions that were left behind end by themselves a little later: waits for that."""
        end_s = time.monotonic() + LEVEL_LIMIT_S
        now = level(self._findings.reconnects)
        while (now.threads > before.threads or now.files > before.files) and time.monotonic() < end_s:
            time.sleep(0.1)
            now = level(self._findings.reconnects)
        return now


def run(options: Options, folder: Path) -> Findings:
    """The whole of it; `folder` takes the clips.

    Raises:
        Exception: the run ended with one, or the streams did not start.
    """
    from pipeline import Pipeline

    findings = Findings()
    clips = make_clips(folder, options.fps)
    with host() as cameras, Listener() as listener:
        streams = findings.streams
        for i, port in enumerate(free_ports(options.streams)):
            codec, size = ("h264", "hevc")[i % 2], i // 2 % 2
            shown = clips[codec, size], clips[codec, 1 - size], clips["hevc" if codec == "h264" else "h264", size]
            camera: Camera = cameras.camera(shown[0].path, port)
            camera.start()
            streams.append(Stream(f"cam{i:02}", camera, shown, findings.calm_latency))
        findings.model, stages_ = stages(options, folder)
        with Pipeline.from_dict(configuration(options, stages_, streams)) as pipeline:
            pipeline.prepare()
            by_name = {s.name: s for s in streams}
            for stream in streams:
                stream.status = pipeline.status.sources[stream.name]
            director = Director(options, pipeline, streams, findings)
            director.start()
            try:
                for result in pipeline:
                    frame = result.frame
                    findings.delivered[frame.source_id] += 1
                    by_name[frame.source_id].saw(frame, time.monotonic())
            finally:
                director.join()
        if director.error is not None:
            raise director.error
        findings.exit_code = int(pipeline.status.exit_code)
        findings.errors = [*listener.errors, *pipeline.status.errors]
        findings.left_behind = listener.left_behind
    return findings


# -------------------------------------------------------------------------------------------------------- the report


@dataclass(frozen=True, slots=True)
class Verdict:
    """One criterion; `ok` None: the run was too short to tell."""

    name: str
    ok: bool | None
    text: str


def slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Of the least-squares line; None where there is none."""
    if len(x) < 2 or max(x) == min(x):
        return None
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def trend(samples: Sequence[Level], name: str) -> dict[str, float | None]:
    """How `name` changed over the samples: by time, by reconnects, and its median of the first and the last 10 s."""
    values = [float(getattr(s, name)) for s in samples]
    per_s = slope([s.at_s for s in samples], values)
    per_reconnect = slope([float(s.reconnects) for s in samples], values)
    return {
        "per_hour": None if per_s is None else per_s * 3600,
        "per_100_reconnects": None if per_reconnect is None else per_reconnect * 100,
        "first": statistics.median(values[:10]) if values else None,
        "last": statistics.median(values[-10:]) if values else None,
    }


def recovery_times(findings: Findings) -> dict[str, dict[str, Any]]:
    """By fault, and of `all`: how many, how many never came, median and maximum in seconds."""
    out = {}
    for name in (*FAULTS, FORCED, "all"):
        took = [r.took_s for r in findings.recoveries if name in (r.fault, "all")]
        times = [t for t in took if t is not None]
        out[name] = {
            "count": len(took),
            "lost": len(took) - len(times),
            "p50_s": statistics.median(times) if times else None,
            "max_s": max(times, default=None),
        }
    return out


def drops(findings: Findings) -> dict[str, int]:
    """Of all streams, by cause; with what was received and what has a result."""
    totals: Counter[str] = Counter()
    for stream in findings.streams:
        assert stream.status is not None
        totals["packets"] += stream.status.totals.packets
        totals["results"] += stream.status.results
        totals.update({cause.value: n for cause, n in stream.status.dropped.items()})
    return dict(totals)


def unaccounted(findings: Findings) -> list[str]:
    """Streams whose numbers do not add up, with the numbers."""
    wrong = []
    for stream in findings.streams:
        status = stream.status
        assert status is not None
        delivered = findings.delivered[stream.name]
        if status.in_flight or delivered != status.results:
            text = f"{status.totals.packets} packets, {status.results} results ({delivered} delivered)"
            wrong.append(f"{stream.name}: {text}, dropped { ({c.value: n for c, n in status.dropped.items()}) }")
    return wrong


def compared(findings: Findings) -> list[dict[str, Any]]:
    """Each stream, left alone against calm."""
    rows = []
    for stream in findings.streams:
        calm, alone = stream.calm, stream.left_alone
        p99 = calm.latency.quantile(0.99), alone.latency.quantile(0.99)
        rates = calm.rate, alone.rate
        rows.append(
            {
                "stream": stream.name,
                "codec": stream.clip.codec,
                "size": [stream.clip.width, stream.clip.height],
                "never_touched": stream.name in findings.bystanders,
                "left_alone_s": alone.measured_s,
                "calm_rate": rates[0],
                "rate": rates[1],
                "rate_ratio": rates[1] / rates[0] if rates[0] and rates[1] is not None else None,
                "lowest_window_rate": min(alone.window_rates, default=None),
                "calm_p99_s": p99[0],
                "p99_s": p99[1],
                "p99_ratio": p99[1] / p99[0] if p99[0] and p99[1] is not None and rates[1] is not None else None,
                "unasked_reconnects": stream.unasked_reconnects,
            }
        )
    return rows


def judge(options: Options, findings: Findings) -> list[Verdict]:
    """Every criterion."""
    times, limit_s = recovery_times(findings)["all"], options.cap_s + MOST_AFTER_BACKOFF_S
    slow = [r for r in findings.recoveries if r.took_s is None or r.took_s > limit_s]
    verdicts = [
        Verdict(
            "recovery",
            bool(findings.recoveries) and not slow,
            f"{times['count']} times, {times['lost']} lost, p50 {_number(times['p50_s'], '.2f')} s, "
            f"max {_number(times['max_s'], '.2f')} s; at most {limit_s:g} s"
            + (f"; too slow: {slow[:5]}" if slow else ""),
        ),
        _clean_end(findings),
        _accounting(findings),
        _reconnects(findings),
        _not_disturbed(findings),
    ]
    is_long = _sampled_s(findings) >= LEAST_FOR_SLOPES_S
    assert findings.calm is not None and findings.final is not None
    for name, shown in (("threads", "threads"), ("files", "file descriptors")):
        found = trend(findings.samples, name)
        before, after = getattr(findings.calm, name), getattr(findings.final, name)
        text = (
            f"{before} before, {after} after; {_number(found['per_hour'], '+.1f')} an hour, "
            f"{_number(found['per_100_reconnects'], '+.2f')} per 100 reconnects"
        )
        rise = found["per_100_reconnects"]
        is_flat = rise is not None and rise < MOST_SLOPE if is_long else True
        verdicts.append(Verdict(shown, after <= before + MOST_MORE and is_flat, text + ("" if is_long else _SHORT)))
    return [*verdicts, _memory(findings, is_long), *_unnoticed(findings)]


_SHORT = " (slopes are not judged: too short)"


def _clean_end(findings: Findings) -> Verdict:
    from pipeline.observe.status import SourceState

    states = Counter(s.status.state.value for s in findings.streams if s.status is not None)
    is_clean = not findings.errors and findings.exit_code == 0 and set(states) == {SourceState.STOPPED.value}
    text = f"exit code {findings.exit_code}, {len(findings.errors)} errors {findings.errors[:3]}, states {dict(states)}"
    return Verdict("clean end", is_clean, text)


def _accounting(findings: Findings) -> Verdict:
    wrong = unaccounted(findings)
    totals = ", ".join(f"{name} {n}" for name, n in drops(findings).items())
    return Verdict("accounting", not wrong, totals + (f"; wrong: {wrong}" if wrong else ""))


def _reconnects(findings: Findings) -> Verdict:
    per_minute = findings.reconnects / findings.chaos_s * 60
    total = sum(findings.faults.values()) - findings.faults[FORCED]
    text = (
        f"{findings.reconnects} ({per_minute:.0f} a minute; {total} faults, {findings.faults[FORCED]} forced); "
        f"a stream was being broken for {100 * findings.broken_s / findings.chaos_s:.0f} % of the time"
    )
    return Verdict("reconnects", per_minute >= LEAST_RECONNECTS_PER_MINUTE, text)


def _not_disturbed(findings: Findings) -> Verdict:
    unasked = {s.name: s.unasked_reconnects for s in findings.streams if s.unasked_reconnects}
    text = (
        f"{len(findings.bystanders)} streams never touched; reconnects of streams that were left alone: {unasked or 0}"
    )
    return Verdict("left alone, stays connected", not unasked, text)


def floors(samples: Sequence[Level], seconds: int) -> list[Level]:
    """Of each so many seconds up to the end, the moment at which the process held least."""
    starts = range(len(samples) % seconds, len(samples), seconds)
    return [min(samples[i : i + seconds], key=lambda s: s.rss_bytes) for i in starts]


def _memory(findings: Findings, is_long: bool) -> Verdict:
    seconds = FLOOR_S if is_long else SHORT_FLOOR_S
    least = floors(findings.samples, seconds)
    if not least:
        return Verdict("memory", None, "no samples")
    mib, later = 1 << 20, least[len(least) // 2 :]
    first, half, last = (s.rss_bytes / mib for s in (least[0], later[0], least[-1]))
    rise = slope([float(s.reconnects) for s in later], [s.rss_bytes / mib for s in later])
    text = (
        f"{first:.1f} -> {half:.1f} -> {last:.1f} MiB, least of each {seconds} s; second half "
        f"{last - half:+.1f} MiB in {later[-1].at_s - later[0].at_s:.0f} s (at most {MOST_GROWTH_BYTES / mib:.0f}), "
        f"{_number(None if rise is None else 100 * rise, '+.2f')} per 100 reconnects"
    )
    return Verdict("memory", last - half <= MOST_GROWTH_BYTES / mib, text + ("" if is_long else _SHORT))


def _unnoticed(findings: Findings) -> Iterator[Verdict]:
    rows = compared(findings)
    rated = [r for r in rows if r["rate_ratio"] is not None]
    if not rated:
        yield Verdict("rate of streams left alone", None, "too short")
        return
    worst = min(rated, key=lambda r: r["rate_ratio"])
    mean = statistics.fmean(r["rate_ratio"] for r in rated)
    window = min((r["lowest_window_rate"] for r in rated if r["lowest_window_rate"] is not None), default=None)
    yield Verdict(
        "rate of streams left alone",
        worst["rate_ratio"] >= LEAST_RATE,
        f"{mean:.4f} x calm; lowest {worst['rate_ratio']:.4f} ({worst['stream']}), at least {LEAST_RATE}; "
        f"lowest in {WINDOW_S:g} s {_number(window, '.2f')} results/s",
    )
    late = [r for r in rated if r["p99_s"] is not None]
    calm_s = findings.calm_latency.quantile(0.99)
    if not late or calm_s is None:
        yield Verdict("latency of streams left alone", None, "no results")
        return
    worst = max(late, key=lambda r: r["p99_s"])
    own = max((r["p99_ratio"] for r in late if r["p99_ratio"] is not None), default=None)
    median_s, limit_s = statistics.median(r["p99_s"] for r in late), MOST_P99_RATIO * calm_s + MOST_P99_MORE_S
    yield Verdict(
        "latency of streams left alone",
        worst["p99_s"] <= limit_s,
        f"p99 {median_s * 1e3:.0f} ms (median stream), calm {calm_s * 1e3:.0f} ms, ratio {median_s / calm_s:.2f}; worst "
        f"{worst['p99_s'] * 1e3:.0f} ms ({worst['stream']}), at most {limit_s * 1e3:.0f}; largest ratio to a stream's own "
        f"{_number(own, '.2f')}",
    )


def _sampled_s(findings: Findings) -> float:
    return findings.samples[-1].at_s - findings.samples[0].at_s if findings.samples else 0.0


def _number(value: float | None, form: str) -> str:
    return "?" if value is None else format(value, form)


def show(findings: Findings, verdicts: Sequence[Verdict]) -> None:
    """Prints it."""
    print(f"model: {findings.model}")
    for name, load in (("calm", findings.calm_load), ("broken", findings.chaos_load)):
        assert load is not None
        print(f"load, {name}: machine {100 * load.machine:.0f} % of all cores, this process {100 * load.process:.0f} %")
    print(f"{'fault':14}{'watched':>8}{'lost':>6}{'p50 s':>8}{'max s':>8}")
    for name, row in recovery_times(findings).items():
        print(
            f"{name:14}{row['count']:8}{row['lost']:6}{_number(row['p50_s'], '.2f'):>8}{_number(row['max_s'], '.2f'):>8}"
        )
    print(f"sessions whose thread hung and was left behind for a while: {findings.left_behind}")
    for verdict in verdicts:
        mark = {True: "PASS", False: "FAIL", None: "----"}[verdict.ok]
        print(f"{mark}  {verdict.name}: {verdict.text}")


def as_dict(options: Options, findings: Findings, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """For the JSON file."""

    def of(load: Load | None) -> dict[str, float] | None:
        return None if load is None else {"machine": round(load.machine, 3), "process": round(load.process, 3)}

    found = {
        "benchmark": "chaos_rtsp",
        "parameters": {
            **asdict(options),
            "lost_share": LOST_SHARE,
            "malloc_arena_max": os.environ.get("MALLOC_ARENA_MAX"),
        },
        "machine": {"cores": os.cpu_count(), "processor": _processor(), "system": platform.system()},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("av", "tensorflow", "vramline")},
        },
        "model": findings.model,
        "load": {"calm": of(findings.calm_load), "broken": of(findings.chaos_load)},
        "chaos_s": findings.chaos_s,
        "broken_s": findings.broken_s,
        "faults": dict(findings.faults),
        "reconnects": findings.reconnects,
        "left_behind": findings.left_behind,
        "recovery": recovery_times(findings),
        "recovery_limit_s": options.cap_s + MOST_AFTER_BACKOFF_S,
        "frames": drops(findings),
        "sampled_s": _sampled_s(findings),
        "threads": trend(findings.samples, "threads"),
        "files": trend(findings.samples, "files"),
        "rss_bytes": trend(findings.samples, "rss_bytes"),
        "least_rss_bytes_of_each_minute": [s.rss_bytes for s in floors(findings.samples, FLOOR_S)],
        "before": asdict(findings.calm) if findings.calm else None,
        "after": asdict(findings.final) if findings.final else None,
        "calm_latency_ms": findings.calm_latency.quantiles_ms(),
        "streams": compared(findings),
        "verdicts": [asdict(v) for v in verdicts],
    }
    rounded: dict[str, Any] = _rounded(found)
    return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) and math.isfinite(value) else value


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> int:
    """Runs, prints, and writes JSON if asked; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=10.0, help="of which a tenth, at least 15 s, is calm")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fps", type=int, default=Options.fps, help="frames/s of each stream")
    parser.add_argument("--workers", type=int, default=Options.workers, help="streams that are broken at a time")
    parser.add_argument("--model", choices=("emotion", "built-in"), default=Options.model)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if not 1 <= args.workers < args.streams - args.streams // 4:
        parser.error("more streams are needed, or fewer workers: some streams are never touched")

    seconds = args.minutes * 60
    options = Options(
        streams=args.streams,
        seconds=seconds,
        calm_s=max(15.0, 0.1 * seconds),
        seed=args.seed,
        workers=args.workers,
        fps=args.fps,
        model=args.model,
    )
    with tempfile.TemporaryDirectory() as folder:
        findings = run(options, Path(folder))
    verdicts = judge(options, findings)
    show(findings, verdicts)
    if args.json:
        args.json.write_text(json.dumps(as_dict(options, findings, verdicts), indent=2) + "\n")
    return 1 if any(v.ok is False for v in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
