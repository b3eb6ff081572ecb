"""Converts in a process of its own.

TensorFlow takes its threads and the GPU's memory for good when it is first used, and the pipeline that waits for the
model has yet to say how many of them. A fresh process also gives the same file everywhere: the names of functions in a
SavedModel count up within a process, and results are stamped with the model's hash.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pipeline
from pipeline.config.cards import Convert
from pipeline.errors import AssetError
from pipeline.zoo.processes import run_child

TIMEOUT_S = 600.0


def convert_apart(
    model_json: Path,
    out: Path,
    convert: Convert,
    folder: Path,
    on_tick: Callable[[], None],
    *,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """`pipeline.zoo.tfjs.convert_tfjs` in a child process that uses no GPU.

    Args:
        model_json: See `convert_tfjs`.
        out: See `convert_tfjs`.
        convert: See `convert_tfjs`.
        folder: For the child's own files.
        on_tick: Called several times a second.
        timeout_s: How long it may take.

    Raises:
        AssetError: what `convert_tfjs` raises, or the process failed otherwise.
    """
    error = folder / "error.json"
    paths = [str(path.absolute()) for path in (model_json, out)]
    command = [sys.executable, "-m", "pipeline.zoo", *paths, convert.model_dump_json(), str(error.absolute())]
    root = str(Path(pipeline.__file__).parent.parent)
    search = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    try:
        run_child(command, folder, on_tick, timeout_s, {"PYTHONPATH": search, "CUDA_VISIBLE_DEVICES": "-1"})
    except subprocess.TimeoutExpired:
        raise AssetError(f"{model_json.name}: the conversion was not done after {timeout_s:g} s") from None
    except subprocess.CalledProcessError as e:
        if error.exists():
            raise AssetError(**json.loads(error.read_text(encoding="utf-8"))) from None
        last = e.output.strip().rpartition("\n")[2] or f"exit code {e.returncode}"
        raise AssetError(f"{model_json.name}: the conversion failed: {last}") from None
