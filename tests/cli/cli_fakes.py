"""A pipeline that needs no video, no model and no thread, and processes that run the command line around it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import TracebackType

from pipeline.config.models import Config
from pipeline.observe.status import RunStatus, SourceState, SourceStatus, StageTimes
from pipeline.stages import DecodeStats, StreamInfo

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

INFO = StreamInfo("h264", 640, 360, Fraction(30), 100, 100 / 30)


class FakePipeline:
    """Behaves as `pipeline.runtime.pipeline.Pipeline` does towards the command line."""

    frames = 100
    frame_s = 0.0

    def __init__(self, config: Config, *, progress: Callable[[str, int, int | None], None] | None = None) -> None:
        self.config = config
        self.status = RunStatus()
        self.progress = progress
        self.stopped = threading.Event()

    def prepare(self) -> None:
        if self.progress:
            self.progress("fetching mine", 25_000_000, 25_000_000)
        self.status.device, self.status.device_reason = "cpu", "no NVIDIA driver"
        self.status.model, self.status.batch_size = "mine@0123456789ab", 8
        self.status.sources["a"] = SourceStatus("a", "a.mp4")
        self.status.stages["infer"] = StageTimes()

    def run(self) -> RunStatus:
        status, source = self.status, self.status.sources["a"]
        status.started_s = status.first_frame_s = time.monotonic()
        source.state, source.info, source.decode = SourceState.RUNNING, INFO, DecodeStats()
        for _ in range(min(self.frames, self.config.sources[0].max_frames or self.frames)):
            if self.stopped.wait(self.frame_s):
                break
            source.decode.frames += 1
            source.results += 1
            status.labels["person"] += 2
            status.stages["infer"].add(0.01, 1)
        source.state = SourceState.STOPPED if self.stopped.is_set() else SourceState.DONE
        status.outputs.append(Path("out.jsonl"))
        return status

    def stop(self) -> None:
        self.stopped.set()

    def __enter__(self) -> FakePipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.status.ended_s = time.monotonic()


def program(*arguments: str | Path) -> list[str]:
    """The command line of `cli_fake_program.py`, whose pipeline is fake and whose everything else is real."""
    return [sys.executable, str(HERE / "cli_fake_program.py"), *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    """This process's, so that a child finds the package and nothing changes what it shows."""
    kept = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE")}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


def run_python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A Python process, its output as text."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(**variables),
        check=False,
    )
