"""What XLA has found out about a GPU's algorithms, kept on disk: the next compilation need not try them again."""

from __future__ import annotations

import logging
import mmap
import os
from pathlib import Path
from typing import Any

from pipeline.cache import cache_dir

log = logging.getLogger(__name__)

_VARIABLE = "XLA_FLAGS"
# Each knows a part of what is tried. Both are marked experimental: a version without them ends the process.
_FLAGS = ("xla_gpu_per_fusion_autotune_cache_dir", "xla_gpu_experimental_autotuner_cache_dir")


def keep_autotuning(tf: Any) -> None:
    """Makes XLA keep its results below `cache_dir()`, by TensorFlow's version; before XLA compiles anything.

    Appends to `XLA_FLAGS` what is not set there already, and only flags that this TensorFlow knows. Where nothing can be
    kept XLA works as without.

    Args:
        tf: TensorFlow's module.
    """
    given = os.environ.get(_VARIABLE, "").strip()
    if given and not given.startswith("-"):
        return  # The name of a file with flags.
    flags = [flag for flag in _FLAGS if flag not in given]
    folder = cache_dir() / "xla" / f"tensorflow-{tf.__version__}"
    if "'" in str(folder):  # Cannot be quoted.
        return
    try:
        known = [flag for flag in flags if _is_known(tf, flag)]
        for flag in known:
            (folder / flag).mkdir(parents=True, exist_ok=True)
            if not os.access(folder / flag, os.W_OK):
                raise PermissionError(f"{folder / flag} cannot be written")
    except OSError as e:
        log.debug("what XLA finds out is not kept: %s", e)
        return
    ours = [f"--{flag}='{folder / flag}'" for flag in known]
    if ours:
        os.environ[_VARIABLE] = " ".join([given, *ours] if given else ours)


def _is_known(tf: Any, flag: str) -> bool:
    """Whether the flag's name is a string of TensorFlow's library; XLA ends the process at one that it does not know."""
    for library in Path(tf.__file__).parent.glob("libtensorflow_*.so*"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(f"\0{flag}\0".encode()) >= 0:
                return True
    return False
