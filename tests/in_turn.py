"""The lane on batches that are the same in every run, whatever the threads do: the sources give their frames in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.frames import Frame, ResultBatch
from pipeline.observe.status import RunStatus, SourceStatus, StageTimes
from pipeline.queues import BoundedQueue, Closed
from pipeline.runtime.batching import FixedPatience
from pipeline.runtime.lane import Lane
from pipeline.runtime.session import let_go
from pipeline.runtime.steps import STAGES, Stages
from pipeline.sources.resolve import VideoSpec
from pipeline.stages import DecodeStats, DropCause


def run_in_turn(
    stages: Stages, specs: Sequence[VideoSpec], frames: int, *, deliver: Callable[[ResultBatch], None] | None = None
) -> None:
    """Runs the lane on batches that are the same in every run: the sources give their frames in turn, over and over.

    With `deliver` results keep their pixels.
    """
    status = RunStatus(sources={s.source_id: SourceStatus(s.source_id, s.shown) for s in specs})
    status.stages = {name: StageTimes() for name in STAGES}
    turns, ended, failures = _Turns(stages, specs, frames), threading.Event(), []

    def fail(error: BaseException) -> None:
        failures.append(error)
        turns.close()
        ended.set()

    lane = Lane(
        stages,
        intake=turns,  # type: ignore[arg-type]
        status=status,
        patience=FixedPatience(None),
        queue_batches=2,
        keep_pixels=deliver is not None,
        deliver=deliver or (lambda batch: None),
        on_end=ended.set,
        on_failure=fail,
    )
    turns.start()
    lane.start()
    try:
        assert ended.wait(200), "the run does not end"
    finally:
        turns.close()
        lane.give_up()
        turns.join()
        assert lane.join(20), "the lane does not end"
    for error in (*failures, *turns.failures):
        raise error
    assert status.results == frames


class _Turns:
    """Stands in for the intake."""

    def __init__(self, stages: Stages, specs: Sequence[VideoSpec], frames: int) -> None:
        self.failures: list[BaseException] = []
        self._open, self._left, self._next = stages.open_decoder, frames, 0
        self._queues: list[BoundedQueue[Frame]] = [BoundedQueue(2) for _ in specs]
        self._threads = [
            threading.Thread(target=self._decode, args=pair, daemon=True)
            for pair in zip(specs, self._queues, strict=True)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def take(
        self, most: int, timeout_s: float | None = None, *, least: int = 1, is_renewed: bool = True
    ) -> list[Frame]:
        if not self._left:
            raise Closed
        count = min(most, self._left)
        self._left -= count
        numbers = [(self._next + i) % len(self._queues) for i in range(count)]
        self._next += count
        return [self._queues[number].get() for number in numbers]

    def on_drop(self, frame: Frame, cause: DropCause) -> None:
        let_go((frame,))

    def close(self, *, discard: bool = False) -> None:
        for queue in self._queues:
            let_go(queue.close(discard=True))

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive(), "a source does not end"

    def _decode(self, spec: VideoSpec, queue: BoundedQueue[Frame]) -> None:
        count = 0
        try:
            while True:
                first, decoder = count, self._open(spec, DecodeStats())
                try:
                    for frame in decoder:
                        try:
                            queue.put(replace(frame, index=count))
                        except Closed:
                            let_go((frame,))
                            return
                        count += 1
                finally:
                    decoder.close()
                assert count > first, f"{spec.shown} has no frames"
        except BaseException as e:
            self.failures.append(e)
            self.close()
