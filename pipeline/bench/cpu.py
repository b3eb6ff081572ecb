"""How busy the cores of this machine are, with this process and with others."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

_STAT = Path("/proc/stat")


def usable_cores() -> Collection[int]:
    """Numbers of the cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def machine_busy_s(cores: Collection[int], stat: Path = _STAT) -> float | None:
    """Seconds for which these cores have worked since the machine was started; None where the system does not say.

    Args:
        cores: Their numbers.
        stat: Linux' counters.
    """
    try:
        lines = [line.split() for line in stat.read_text().splitlines() if line.startswith("cpu")]
    except OSError:
        return None
    wanted = {f"cpu{number}" for number in cores}
    # user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in user already
    ticks = [[int(value) for value in words[1:9]] for words in lines if words[0] in wanted]
    if not ticks:
        return None
    return sum(sum(values) - sum(values[3:5]) for values in ticks) / os.sysconf("SC_CLK_TCK")
