"""The memory plan and the queues, as people and programs see them."""

from __future__ import annotations

import dataclasses
from typing import Any

from pipeline.observe.text import shown
from pipeline.queues import QueueStats
from pipeline.vram import MIB, Allowance, MemoryPlan


def summary_line(plan: MemoryPlan) -> str:
    """The plan in one line, for the log."""
    shares = plan.shares
    budget = "an unknown amount" if plan.budget_bytes is None else f"{plan.budget_bytes // MIB:,} MB"
    text = f"{megabytes(plan.total_bytes)} of {budget} are planned"
    if shares is None:
        return text
    return f"{text}; TensorFlow may take {shares.tensorflow_bytes // MIB:,} MB, decoders {shares.decoders_bytes // MIB:,} MB"


def plan_lines(plan: MemoryPlan) -> list[str]:
    """The plan as a table."""
    rows = [(part.name, megabytes(part.size_bytes), shown(part.detail)) for part in plan.parts]
    rows.append(("together", megabytes(plan.total_bytes), ""))
    if plan.free_bytes is None:
        rows.append(("free", "unknown", "there is no GPU to ask"))
    else:
        rows.append(("free", f"{plan.free_bytes // MIB:,} MB", "when the plan was made"))
    if plan.budget_bytes is not None:
        rows.append(("budget", f"{plan.budget_bytes // MIB:,} MB", "fits" if plan.fits else "does NOT fit"))
    if plan.shares is not None:
        text = f"TensorFlow at most {plan.shares.tensorflow_bytes // MIB:,} MB, decoders {plan.shares.decoders_bytes // MIB:,} MB"
        rows.append(("divided", "", text))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f"{name:<{widths[0]}}  {size:>{widths[1]}}  {detail}".rstrip() for name, size, detail in rows]
    return [*lines, *(f"note: {shown(note)}" for note in plan.notes)]


def plan_as_dict(plan: MemoryPlan) -> dict[str, Any]:
    """The plan as JSON's types, in bytes."""
    return {
        "parts": [dataclasses.asdict(part) for part in plan.parts],
        "total_bytes": plan.total_bytes,
        "free_bytes": plan.free_bytes,
        "budget_bytes": plan.budget_bytes,
        "fits": plan.fits if plan.budget_bytes is not None else None,
        "shares": None if plan.shares is None else dataclasses.asdict(plan.shares),
        "notes": list(plan.notes),
    }


def allowance_as_dict(allowance: Allowance) -> dict[str, Any]:
    """What was taken of an amount, as JSON's types."""
    return {
        "limit_bytes": allowance.limit_bytes,
        "taken_bytes": allowance.taken_bytes,
        "high_water_bytes": allowance.high_water_bytes,
    }


def queue_as_dict(stats: QueueStats) -> dict[str, Any]:
    """A queue's or ring's numbers as JSON's types."""
    return {**dataclasses.asdict(stats), "high_water_bytes": stats.high_water_bytes}


def megabytes(size_bytes: int) -> str:
    """`1,234 MB`, of 1,048,576 bytes as nvidia-smi counts them, rounded up."""
    return f"{-(-size_bytes // MIB):,} MB"
