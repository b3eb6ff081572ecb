"""What `vramline verify` shows: a table for people, JSON for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

from pipeline.observe.text import count
from pipeline.observe.trace.account import Account, StageAccount
from pipeline.observe.trace.verdict import Limits, Verdict, exact

VERSION = 1
_COLUMNS = ("up", "down", "on device", "waits", "kernels")
_STAGE_WIDTH, _SIZE_WIDTH, _COUNT_WIDTH = 12, 11, 9
_WIDTHS = (_SIZE_WIDTH,) * 3 + (_COUNT_WIDTH,) * 2
_ALL = "all"


def _plain(text: str) -> str:
    return text


def render(
    account: Account,
    verdicts: Sequence[Verdict],
    *,
    uncounted: Collection[str],
    good: Callable[[str], str] = _plain,
    bad: Callable[[str], str] = _plain,
    heading: Callable[[str], str] = _plain,
) -> str:
    """The table and the verdicts.

    Args:
        account: What each stage had done.
        verdicts: What follows from it.
        uncounted: Stages that are left out.
        good: Styles what passed.
        bad: Styles what did not.
        heading: Styles headings.
    """
    stages = [stage for name, stage in account.stages.items() if name not in uncounted]
    lines = [
        f"{count(account.batches, 'batch', 'batches')} of {account.frames_per_batch:.4g} frames in {account.elapsed_s:.2f} s",
        "",
        heading(f"{'':<{_STAGE_WIDTH}}{'bytes copied a frame':>{3 * _SIZE_WIDTH}}{'a batch':>{2 * _COUNT_WIDTH}}"),
        heading(f"{'stage':<{_STAGE_WIDTH}}" + _row(_COLUMNS)),
    ]
    figures = {stage.stage: _figures(stage) for stage in stages}
    figures[_ALL] = tuple(map(sum, zip(*figures.values(), strict=True)))
    lines += [f"{name:<{_STAGE_WIDTH}}" + _row(_shown(found)) for name, found in figures.items()]
    for stage in stages:
        if stage.packet_bytes:
            share = exact(stage.per_frame(stage.packet_bytes))
            lines += ["", f"{stage.stage}: {share} a frame of what goes up are compressed packets for the decoder"]
    lines += ["", *(f"{good('pass') if v.passed else bad('FAIL')}  {v.message}" for v in verdicts)]
    return "\n".join(lines) + "\n"


def as_dict(
    account: Account, verdicts: Sequence[Verdict], limits: Limits, *, uncounted: Collection[str]
) -> dict[str, Any]:
    """The same for programs."""
    return {
        "verify": VERSION,
        "passed": all(verdict.passed for verdict in verdicts),
        "batches": account.batches,
        "frames_per_batch": account.frames_per_batch,
        "elapsed_s": account.elapsed_s,
        "limits": dataclasses.asdict(limits),
        "verdicts": [dataclasses.asdict(verdict) for verdict in verdicts],
        "stages": {name: _as_dict(stage, name not in uncounted) for name, stage in account.stages.items()},
    }


def _as_dict(stage: StageAccount, is_counted: bool) -> dict[str, Any]:
    up, down, device, waits, launches = _figures(stage)
    return {
        "counted": is_counted,
        "up_bytes_per_frame": up,
        "packet_bytes_per_frame": stage.per_frame(stage.packet_bytes),
        "down_bytes_per_frame": down,
        "device_bytes_per_frame": device,
        "waits_per_batch": waits,
        "launches_per_batch": launches,
        "largest_up_bytes": stage.largest_up_bytes,
        "largest_down_bytes": stage.largest_down_bytes,
        "waited_for": dict(stage.waited_for),
    }


def _figures(stage: StageAccount) -> tuple[float, ...]:
    sizes = [stage.per_frame(n) for n in (stage.up_bytes + stage.packet_bytes, stage.down_bytes, stage.device_bytes)]
    return *sizes, stage.per_batch(stage.waits), stage.per_batch(stage.launches)


def _shown(figures: Sequence[float]) -> list[str]:
    up, down, device, waits, launches = figures
    return [*("0" if not n else exact(n) for n in (up, down, device)), _number(waits), _number(launches)]


def _number(value: float) -> str:
    return "0" if not value else f"{value:.2f}" if value < 10 else f"{value:,.1f}"


def _row(cells: Sequence[str]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
