"""Operations that make the host wait for the GPU in the middle of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

# The size of what they return, or which branch is taken, depends on values on the device, or they run on the CPU only.
# Each was measured, behind a busy stream, with TensorFlow 2.21.
_WAITING = frozenset(
    {
        "CombinedNonMaxSuppression",
        "CropAndResize",
        "DynamicPartition",
        "If",
        "LoopCond",
        "NonMaxSuppression",
        "NonMaxSuppressionV2",
        "NonMaxSuppressionV3",
        "NonMaxSuppressionV4",
        "NonMaxSuppressionV5",
        "NonMaxSuppressionWithOverlaps",
        "StatelessIf",
        "StatelessWhile",
        "Switch",
        "Unique",
        "UniqueV2",
        "Where",
        "While",
    }
)


def waiting_ops(nodes: Iterable[Any]) -> dict[str, int]:
    """How often each kind of operation occurs for which the host waits, or, of conditions and loops, may wait.

    Args:
        nodes: NodeDefs.
    """
    found = Counter(node.op for node in nodes if node.op in _WAITING)
    return dict(sorted(found.items()))


def show_ops(ops: dict[str, int]) -> str:
    """For people: `NonMaxSuppressionV5, Where (3 times)`."""
    return ", ".join(op if count == 1 else f"{op} ({count} times)" for op, count in ops.items())
