"""What the GPU benchmarks' JSON files have in common: where and with what it was measured."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.bench import facts
from pipeline.bench.gpu import watch_gpu


def write(path: Path | None, benchmark: str, **found: Any) -> None:
    """Writes what has been found so far, unless `path` is None; called after every case, so that none is lost."""
    if path is None:
        return
    import cupy

    machine = asdict(facts.machine(watch_gpu("cuda").facts))
    machine["gpu"] = machine["gpu"] or {"name": cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()}
    report = {"benchmark": benchmark, "machine": machine, "versions": facts.versions(), **found}
    path.write_text(json.dumps(report, indent=2) + "\n")
