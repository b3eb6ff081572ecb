"""A rate, from the middle of something that runs: a counter is watched while another thread advances it.

Where frames are counted by batches, a window of fixed length would cut batches in two. So it begins and ends where the
counter moves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.bench.cpu import machine_busy_s, usable_cores
from pipeline.bench.gpu import GpuSampler, GpuUse
from pipeline.errors import VramlineError

T = TypeVar("T")

_LOOK_S = 0.01
# The driver itself looks a few times a second only.
_SAMPLE_S = 0.25
# The first frames wait for decoders to be made and kernels to be compiled.
_MOST_START_S = 180.0
_MOST_SILENCE_S = 60.0


class BenchError(VramlineError):
    """Something cannot be measured."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long is measured.

    Attributes:
        warm_s: Seconds that are left out, from when everything gives frames.
        measure_s: Seconds that count, at least.
    """

    warm_s: float = 2.0
    measure_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Moment(Generic[T]):
    """How things stood when the counter had just moved.

    Attributes:
        time_s: `time.monotonic()`.
        frames: The counter.
        cpu_s: CPU seconds of the process, of all threads but the one that watches: asking the driver takes it some.
        machine_s: Those of all processes, on the cores that this one may use; None if unknown.
        note: What else was asked for.
    """

    time_s: float
    frames: int
    cpu_s: float
    machine_s: float | None
    note: T


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was done between two moments.

    Attributes:
        frames_per_s: The rate.
        frames: How many.
        seconds: In how long.
        cpu_ms_per_frame: CPU time of the whole process, all threads together but the one that watches.
        cores_busy: The same as a number of cores.
        machine_cores_busy: The same with all other processes; None if unknown.
        gpu: How busy the GPU was; None if there is none, or it cannot be watched.
    """

    frames_per_s: float
    frames: int
    seconds: float
    cpu_ms_per_frame: float
    cores_busy: float
    machine_cores_busy: float | None = None
    gpu: GpuUse | None = None

    @classmethod
    def between(cls, start: Moment[T], end: Moment[T], gpu: GpuUse | None = None) -> Measurement:
        """Of two moments, the second being later."""
        frames, seconds, cpu_s = end.frames - start.frames, end.time_s - start.time_s, end.cpu_s - start.cpu_s
        machine = None
        if start.machine_s is not None and end.machine_s is not None:
            machine = (end.machine_s - start.machine_s) / seconds
        return cls(frames / seconds, frames, seconds, 1e3 * cpu_s / frames, cpu_s / seconds, machine, gpu)


class Meter:
    """Takes measurements.

    Args:
        timing: How long.
        sampler: Of the GPU, if there is one to be watched.
    """

    def __init__(self, timing: Timing, sampler: GpuSampler | None = None) -> None:
        self.timing = timing
        self._sampler = sampler

    def watch(
        self,
        what: str,
        count: Callable[[], int],
        *,
        note: Callable[[], T],
        is_ready: Callable[[], bool],
        check: Callable[[], None],
    ) -> tuple[Measurement, Moment[T], Moment[T]]:
        """Watches something that runs already; returns what was measured, and the two moments that it lies between.

        Args:
            what: For errors.
            count: Frames done so far.
            note: Looked at in both moments.
            is_ready: Whether all that is to take part does.
            check: Called all the time; raises if what runs has broken or ended.

        Raises:
            BenchError: nothing happens for a long time.
        """

        def wait(until: Callable[[], bool], most_s: float) -> None:
            end_s = time.monotonic() + most_s
            while not until():
                check()
                if time.monotonic() > end_s:
                    raise BenchError(f"{what}: nothing happens for {most_s:.0f} s")
                time.sleep(_LOOK_S)

        def now() -> Moment[T]:  # reads a file that is long on a large machine, with the interpreter to itself
            cpu_s = time.process_time() - time.thread_time()
            return Moment(time.monotonic(), count(), cpu_s, machine_busy_s(cores), note())

        cores = usable_cores()

        wait(is_ready, _MOST_START_S)
        warm_until_s = time.monotonic() + self.timing.warm_s
        wait(lambda: time.monotonic() >= warm_until_s, self.timing.warm_s + _MOST_SILENCE_S)
        before = count()
        wait(lambda: count() != before, _MOST_SILENCE_S)
        start = now()
        sampler, sampled_s = self._sampler, start.time_s
        if sampler is not None:
            sampler.start()
        seen, moved_s = start.frames, start.time_s
        while moved_s - start.time_s < self.timing.measure_s:
            check()
            time.sleep(_LOOK_S)
            now_s = time.monotonic()
            if sampler is not None and now_s - sampled_s >= _SAMPLE_S:
                sampled_s = now_s
                sampler.sample()
            if (frames := count()) != seen:
                seen, moved_s = frames, now_s
            elif now_s - moved_s > _MOST_SILENCE_S:
                raise BenchError(f"{what}: nothing happens for {_MOST_SILENCE_S:.0f} s")
        end = now()
        return Measurement.between(start, end, sampler.use() if sampler is not None else None), start, end
