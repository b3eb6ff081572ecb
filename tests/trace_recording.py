"""A real recording: six batches of a run on a GPU, with the windows of its stages."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from pipeline.observe.trace.records import Call, Copy, Direction, Launch, Trace, Wait, Window


def recorded() -> tuple[Trace, list[Window]]:
    """`observe/trace/h200.json.gz`, which says what it was recorded with."""
    path = Path(__file__).parent / "observe" / "trace" / "h200.json.gz"
    found = json.loads(gzip.decompress(path.read_bytes()))
    trace = Trace(
        found["start_ns"],
        found["end_ns"],
        calls=[Call(*call) for call in found["calls"]],
        copies=[Copy(Direction(way), *rest) for way, *rest in found["copies"]],
        waits=[Wait(*wait) for wait in found["waits"]],
        launches=[Launch(*launch) for launch in found["launches"]],
    )
    return trace, [Window(*window) for window in found["windows"]]
