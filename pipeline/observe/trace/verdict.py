"""What an account means: whether pictures crossed between host and device, and whether the limits were kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.observe.text import size
from pipeline.observe.trace.account import Account, StageAccount

# A sum of many divisions.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Limits:
    """What is allowed.

    Attributes:
        down_bytes_per_frame: Bytes from the device to the host.
        waits_per_batch: How often the host may wait for the device.
    """

    down_bytes_per_frame: int = 4096
    waits_per_batch: float = 1.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of the run besides the trace.

    Attributes:
        picture_bytes: What the smallest picture of the run takes at least: one byte for each of its pixels.
        uncounted: Stages that are done once, such as opening a video.
        download: The stage that brings pixels to the host.
        decode: The stage that packets go to the decoder in.
        decoder_wait: The call with which the decoder's own library waits, once a frame.
        drawing: The fields of the sinks that need pixels on the host.
        uploaded: The sources that the CPU decodes.
        allow_drawing: Whether what goes down for these sinks is not held against the run.
    """

    picture_bytes: int
    uncounted: tuple[str, ...] = ()
    download: str = "download"
    decode: str = "decode"
    decoder_wait: str = "cuEventSynchronize"
    drawing: tuple[str, ...] = ()
    uploaded: tuple[str, ...] = ()
    allow_drawing: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that was checked.

    Attributes:
        check: `raw_frames`, `down_bytes_per_frame` or `waits_per_batch`.
        passed: Whether it is as it should be.
        message: What was found, in a sentence.
        value: The figure that was compared.
        limit: What it was compared with.
    """

    check: str
    passed: bool
    message: str
    value: float
    limit: float


def verdicts(account: Account, limits: Limits, setting: Setting) -> list[Verdict]:
    """All that is checked, whether it passed or not."""
    counted = [stage for name, stage in account.stages.items() if name not in setting.uncounted]
    held = [stage for stage in counted if not (setting.allow_drawing and stage.stage == setting.download)]
    return [
        _raw_frames(held, account.frames_per_batch, limits, setting),
        _down(held, limits),
        _waits(counted, limits, setting),
    ]


def _raw_frames(stages: Sequence[StageAccount], frames_per_batch: float, limits: Limits, setting: Setting) -> Verdict:
    """A picture crossed if one copy, or all that a stage copies for a frame, is as large as a picture can be at the least.

    Where pictures are tiny, one copy of a batch's results may be larger than they are: what is allowed is no picture.
    """
    allowed = limits.down_bytes_per_frame
    least, least_copy = max(setting.picture_bytes, allowed), max(setting.picture_bytes, allowed * frames_per_batch)
    found = []
    worst = 0
    for stage in stages:
        for way, total, largest in (
            ("down to the host", stage.down_bytes, stage.largest_down_bytes),
            ("up to the device", stage.up_bytes, stage.largest_up_bytes),
        ):
            per_frame = stage.per_frame(total)
            worst = max(worst, round(per_frame), largest)
            if (per_frame and per_frame >= least) or (largest and largest >= least_copy):
                sizes = f"{exact(per_frame)} a frame, in copies of up to {exact(largest)}"
                found.append(
                    f"{stage.stage} copies as much as pictures take {way} ({sizes}){_why(stage, way, setting)}"
                )
    picture = setting.picture_bytes
    if found:
        return Verdict("raw_frames", False, "raw frames crossed: " + "; ".join(found), worst, picture)
    message = f"no raw frame crossed: the largest copy is {exact(worst)}, the smallest picture {exact(picture)}"
    return Verdict("raw_frames", True, message, worst, picture)


def _why(stage: StageAccount, way: str, setting: Setting) -> str:
    if stage.stage == setting.download:
        who = _list(setting.drawing) or "the program"
        return f", because {who} {'draw' if len(setting.drawing) > 1 else 'draws'} on them"
    if stage.stage == setting.decode and way.startswith("up") and setting.uploaded:
        return f", because the GPU cannot decode {_list(setting.uploaded)}"
    return ""


def _down(stages: Sequence[StageAccount], limits: Limits) -> Verdict:
    parts = {stage.stage: stage.per_frame(stage.down_bytes) for stage in stages if stage.down_bytes}
    total = sum(parts.values())
    message = f"{exact(total)} a frame go down to the host; the limit is {exact(limits.down_bytes_per_frame)}"
    passed = total <= limits.down_bytes_per_frame + _ROUNDING
    if not passed:
        message += f": {_shares({name: exact(part) for name, part in _descending(parts)})}"
    return Verdict("down_bytes_per_frame", passed, message, total, limits.down_bytes_per_frame)


def _waits(stages: Sequence[StageAccount], limits: Limits, setting: Setting) -> Verdict:
    """The decoder's own wait, once a frame, holds up no thread but the video's own: it is told, and does not count."""
    parts, excused = {}, 0
    for stage in stages:
        waits = stage.waits
        if stage.stage == setting.decode:
            excused = min(stage.waited_for.get(setting.decoder_wait, 0), int(stage.frames))
            waits -= excused
        if waits:
            parts[stage.stage] = stage.per_batch(waits)
    total = sum(parts.values())
    message = f"the host waits {total:.2f} times a batch for the device; the limit is {limits.waits_per_batch:g}"
    if excused:
        message += " (not counting the decoder's own, once a frame, in threads of its own)"
    passed = total <= limits.waits_per_batch + _ROUNDING
    if not passed:
        what = {stage.stage: ", ".join(sorted(stage.waited_for)) for stage in stages}
        message += f": {_shares({name: f'{part:.2f} in {what[name]}' for name, part in _descending(parts)})}"
    return Verdict("waits_per_batch", passed, message, total, limits.waits_per_batch)


def exact(size_bytes: float) -> str:
    """To the byte as long as that can be read at a glance."""
    whole = round(size_bytes)
    return f"{whole:,} B" if whole < 100_000 else size(whole)


def _descending(parts: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(parts.items(), key=lambda part: -part[1])


def _shares(parts: dict[str, str]) -> str:
    return ", ".join(f"{name} {part}" for name, part in parts.items())


def _list(names: Sequence[str]) -> str:
    shown = list(names[:3])
    if len(names) > len(shown):
        shown.append(f"{len(names) - len(shown)} more")
    return shown[0] if len(shown) == 1 else " and ".join([", ".join(shown[:-1]), shown[-1]]) if shown else ""
