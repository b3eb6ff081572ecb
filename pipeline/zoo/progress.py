"""How far a slow step is, told to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, "int | None"], None]
"""Called with what is being done, how much of it is done, and the total; None where nobody knows the total."""


def silent(what: str, done: int, total: int | None) -> None:
    """Tells nobody."""
