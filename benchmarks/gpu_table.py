"""The results of gpu_pipeline.py as a Markdown table.

python benchmarks/gpu_table.py benchmarks/results/gpu_pipeline_h200.json [MORE.json ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAD = (
    "model", "clip", "sources", "decode alone", "decode + preprocess", "model alone", "full pipeline", "of the slower",
    "CPU-ms a frame", "cores busy", "GPU", "NVDEC", "GPU memory", "p50 / p99",
)  # fmt: skip


def row(cell: dict[str, Any]) -> list[str]:
    """A cell's figures."""
    parts, whole, latency = cell["parts"], cell["pipeline"], cell["pipeline"]["latency"]
    gpu = whole["gpu"] or {}
    clips = ", ".join(f"{clip['codec']} {clip['height']}p" for clip in cell["clips"])
    rates = [parts["decode"], parts["decode_and_preprocess"], parts["model"], whole]
    return [
        cell["network"],
        clips,
        str(cell["sources"]),
        *(f"{rate['frames_per_s']:,.0f}" for rate in rates),
        f"{cell['ratio_to_ceiling']:.3f}",
        f"{whole['cpu_ms_per_frame']:.2f}",
        f"{whole['cores_busy']:.1f}",
        f"{gpu['gpu_percent']:.0f} %" if gpu else "-",
        f"{gpu['nvdec_percent']:.0f} %" if gpu.get("nvdec_percent") is not None else "-",
        f"{gpu['memory_bytes'] / 1e9:.1f} GB" if gpu else "-",
        f"{latency['p50_ms']:.0f} / {latency['p99_ms']:.0f} ms" if latency else "-",
    ]


def main() -> None:
    """Prints it."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        raise SystemExit(__doc__)
    cells = [cell for path in sys.argv[1:] for cell in json.loads(Path(path).read_text())["results"]]
    rows = [list(HEAD), ["---"] * len(HEAD), *(row(cell) for cell in cells if "error" not in cell)]
    print("\n".join(f"| {' | '.join(line)} |" for line in rows))


if __name__ == "__main__":
    main()
