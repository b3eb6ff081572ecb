"""Where what was fetched, converted or built once is kept."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "VRAMLINE_CACHE"


def cache_dir() -> Path:
    """`$VRAMLINE_CACHE`, else `vramline` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`). It need not exist."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is invalid and ignored.
    return (Path(shared) if Path(shared).is_absolute() else Path.home() / ".cache") / "vramline"
