"""The one place where TensorFlow is imported and set up."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from pipeline.errors import ModelError

log = logging.getLogger(__name__)

# TensorFlow prints these while it is imported, before its own log level counts.
_NOISE = re.compile(rb"WARNING: All log messages before absl|[IW]\d{4} |To enable the following instructions")
_PLACE = re.compile(r"\{\{(?:function_)?node [^}]*\}\} ?|\[Op:[^\]]*\]")
_MOST_CHARACTERS = 300


def import_tensorflow() -> Any:
    """TensorFlow's module, imported without its start-up chatter unless TF_CPP_MIN_LOG_LEVEL is set to ask for it.

    Raises:
        ModelError: it is not installed, or cannot be imported.
    """
    quiet = "TF_CPP_MIN_LOG_LEVEL" not in os.environ or os.environ["TF_CPP_MIN_LOG_LEVEL"] in ("2", "3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Keras picks its backend when it is imported; any other than TensorFlow could not run these models.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    try:
        with _start_up_noise_dropped() if quiet and "tensorflow" not in sys.modules else contextlib.nullcontext():
            import tensorflow
    except ModuleNotFoundError as e:
        if e.name != "tensorflow":
            raise
        raise ModelError("TensorFlow is not installed", remedy="pip install tensorflow") from e
    except ImportError as e:
        raise ModelError(
            f"TensorFlow cannot be imported: {first_line(e)}", remedy="pip install --force-reinstall tensorflow"
        ) from e
    if quiet:
        for name in ("tensorflow", "absl"):
            logging.getLogger(name).setLevel(logging.ERROR)
    return tensorflow


def sees_gpu() -> bool:
    """Whether TensorFlow finds a GPU that it can use; does not start it.

    Raises:
        ModelError: as `import_tensorflow`.
    """
    return bool(import_tensorflow().config.list_physical_devices("GPU"))


def configure(tf: Any, *, threads: int, device: str) -> None:
    """Sets the number of threads, and hides GPUs from the `cpu` engine so that no CUDA context is made.

    TensorFlow takes these only before its first operation; later it is a line in the log.

    Args:
        tf: TensorFlow's module.
        threads: Of an operation; 0 leaves it to TensorFlow.
        device: The engine.
    """
    try:
        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError:
        log.warning(
            "runtime.inference_threads: TensorFlow already runs in this process with %d threads; it keeps them",
            tf.config.threading.get_intra_op_parallelism_threads(),
        )
    try:
        if device == "cpu":
            tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        log.info("TensorFlow already uses this process's GPU; the model is run on the CPU beside it")


def first_line(error: BaseException) -> str:
    """The first line of an exception that tells something, without TensorFlow's places, traces and hints."""
    for line in str(error).splitlines():
        if line[:1].isspace() or line.startswith(("Graph execution error", "Detected at node", "<stack traces")):
            continue
        text = _PLACE.sub("", line).strip().strip("\"'").strip()
        if text:
            return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "..."
    return type(error).__name__


@contextlib.contextmanager
def _start_up_noise_dropped() -> Iterator[None]:
    """Holds standard error back meanwhile; afterwards everything but the noise is written."""
    try:
        real = os.dup(2)
    except OSError:  # Closed, as in some services: nothing to hold back.
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(real, 2)
            os.close(real)
            held.seek(0)
            if kept := b"".join(line for line in held if not _NOISE.match(line)):
                os.write(2, kept)
