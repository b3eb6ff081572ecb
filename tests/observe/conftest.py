"""A run that has ended, with something in every part of its status."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from pipeline.errors import SourceErrorCode
from pipeline.observe.status import RunStatus, SourceState, SourceStatus, StageTimes
from pipeline.stages import DecodeStats, StreamInfo


@pytest.fixture
def info() -> StreamInfo:
    return StreamInfo("h264", 1920, 1080, Fraction(30), 300, 10.0)


@pytest.fixture
def status(info: StreamInfo) -> RunStatus:
    return RunStatus(
        device="cpu",
        device_reason="no NVIDIA driver",
        model="coco-ssd@0123456789ab",
        batch_size=8,
        sources={
            "yard": SourceStatus("yard", "clips/yard.mp4", SourceState.DONE, info, DecodeStats(300), 300, 9.967),
            "gate": SourceStatus(
                "gate",
                "clips/gate.mp4",
                SourceState.FAILED,
                info,
                DecodeStats(120, corrupt=5, dropped=2, errors=7, last_error="invalid data"),
                120,
                3.967,
                error="the file ends in the middle of a frame",
                error_code=SourceErrorCode.DAMAGED,
            ),
            "ramp": SourceStatus(
                "ramp",
                "rtsp://***@10.0.0.7/live",
                SourceState.FAILED,
                error="connection refused",
                error_code=SourceErrorCode.NETWORK,
            ),
        },
        stages={"decode": StageTimes(0.84, 420, 420), "infer": StageTimes(5.46, 53, 420), "sinks": StageTimes()},
        labels=Counter({"person": 1234, "car": 56}),
        outputs=[Path("runs/a.jsonl")],
        partial_outputs=[Path("runs/a.mp4.part")],
        started_s=99.0,
        first_frame_s=100.0,
        ended_s=106.0,
    )
