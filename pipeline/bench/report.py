"""What `vramline bench` found: as JSON for programs, as text for people. docs/bench.md lists the keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.bench.facts import Clip, Machine
from pipeline.bench.limit import Limit
from pipeline.bench.meter import Measurement, Timing
from pipeline.bench.whole import Whole
from pipeline.observe.text import count, safe, shown, size

VERSION = 1
PARTS = ("decode", "preprocess", "decode_and_preprocess", "model", "postprocess")
_TITLES = {name: f"{name} alone" for name in PARTS} | {"decode_and_preprocess": "decode + preprocess"}
_WHOLE = "full pipeline"
_GPU_COLUMNS = ("GPU", "NVDEC", "GPU memory", "SM, NVDEC clock", "power")


@dataclass(frozen=True, slots=True)
class Report:
    """All of it.

    Attributes:
        config: What was measured, as the user named it.
        device: The engine.
        device_reason: Why this one.
        model: `name@hash`.
        batch_size: Frames per model call.
        sources: How many videos are decoded at a time.
        timing: How long was measured.
        clips: The videos.
        sinks: The types of the outputs that were written.
        left_out: What of the configuration did not take part, in words.
        machine: Where.
        gpu_reason: Why nothing is known of a GPU; None if it is.
        versions: By package.
        parts: By name (`PARTS`).
        whole: The full pipeline.
        limit: What limits it.
    """

    config: str
    device: str
    device_reason: str
    model: str
    batch_size: int
    sources: int
    timing: Timing
    clips: Sequence[Clip]
    sinks: Sequence[str]
    left_out: Sequence[str]
    machine: Machine
    gpu_reason: str | None
    versions: Mapping[str, str]
    parts: Mapping[str, Measurement]
    whole: Whole
    limit: Limit

    @property
    def ceiling_per_s(self) -> float:
        """The slower of decoding alone and the model alone: what no pipeline of these parts can do more than."""
        return min(self.parts["decode"].frames_per_s, self.parts["model"].frames_per_s)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; keys are stable within a version of the report."""
        found: dict[str, Any] = {"report": VERSION, **asdict(self)}
        whole = found.pop("whole")
        found["pipeline"] = {**whole.pop("measured"), **whole}
        found["ratio_to_ceiling"] = self.whole.measured.frames_per_s / self.ceiling_per_s
        found["config"] = safe(self.config)
        for clip in found["clips"]:
            clip["name"] = safe(clip["name"])
        found["left_out"] = [safe(text) for text in self.left_out]
        return found

    def render(self) -> str:
        """For a terminal."""
        gpu = self.machine.gpu
        place = f"{gpu.name}, driver {gpu.driver}" if gpu else self.machine.cpu
        lines = [
            f"{shown(self.config)} on {self.device}: {place}, {count(self.machine.cores, 'core')}",
            f"{self.model}, batches of {self.batch_size}, {count(self.sources, 'source')} at a time, outputs: "
            f"{', '.join(self.sinks) or 'none'}",
            *(_clip_line(clip) for clip in self.clips),
            *(f"left out: {shown(text)}" for text in self.left_out),
            "",
            *_table(self),
        ]
        latency = self.whole.latency
        if latency is not None:
            lines.append(
                f"\npacket to record: p50 {latency.p50_ms:.1f} ms, p95 {latency.p95_ms:.1f} ms, p99 {latency.p99_ms:.1f} ms"
                " (frames wait in full queues, since files are read as fast as they can be)"
            )
        if self.gpu_reason is not None and self.device == "cuda":
            lines.append(f"\nnothing is known of the GPU's load: {self.gpu_reason}")
        sentence = self.limit.sentence
        lines.append(f"\n{sentence[0].upper()}{sentence[1:]}.")
        return "\n".join(lines)


def _clip_line(clip: Clip) -> str:
    facts = [f"{clip.codec} {clip.width}x{clip.height}"]
    if clip.frame_rate:
        facts.append(f"{clip.frame_rate:g} fps")
    if clip.bit_rate:
        facts.append(f"{clip.bit_rate / 1e6:.1f} Mbit/s")
    if clip.frames:
        facts.append(count(clip.frames, "frame"))
    return f"{shown(clip.name)}: {', '.join(facts)}, played by {count(clip.used, 'source')}"


def _table(report: Report) -> list[str]:
    has_gpu = report.whole.measured.gpu is not None
    head = ["", "frames/s", "CPU-ms/frame", "cores busy", *(_GPU_COLUMNS if has_gpu else ())]
    measured = {_TITLES[name]: report.parts[name] for name in PARTS if name in report.parts}
    rows = [_row(title, part, has_gpu=has_gpu) for title, part in {**measured, _WHOLE: report.whole.measured}.items()]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]


def _row(title: str, part: Measurement, *, has_gpu: bool) -> list[str]:
    decimals = 1 if part.frames_per_s < 100 else 0
    row = [title, f"{part.frames_per_s:,.{decimals}f}", f"{part.cpu_ms_per_frame:.3f}", f"{part.cores_busy:.2f}"]
    if not has_gpu:
        return row
    gpu = part.gpu
    if gpu is None:
        return [*row, *("-" for _ in _GPU_COLUMNS)]
    nvdec = "-" if gpu.nvdec_percent is None else f"{gpu.nvdec_percent:.0f} %"
    clocks = ", ".join("-" if mhz is None else f"{mhz:,.0f}" for mhz in (gpu.sm_clock_mhz, gpu.video_clock_mhz))
    power = "-" if gpu.power_w is None else f"{gpu.power_w:.0f} W"
    return [*row, f"{gpu.gpu_percent:.0f} %", nvdec, size(gpu.memory_bytes), f"{clocks} MHz", power]
