"""Whether a model runs in half precision: it must be one that can be rewritten, and stay within float16's range."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config.stages import Preprocess
from pipeline.inference._tensorflow import first_line
from pipeline.inference.frozen import FrozenGraph
from pipeline.inference.precision import HalfGraph, to_half
from pipeline.stages import TensorInfo

log = logging.getLogger(__name__)

_OPEN_SIZE = 256  # Pixels a side where the model leaves it open.


def half_graph(
    tf: Any,
    graph: FrozenGraph | None,
    image: TensorInfo,
    dtype: str,
    preprocess: Preprocess | None,
    *,
    wanted: bool,
    model: str,
) -> HalfGraph | None:
    """The model in half precision; None, with the reason in the log, if it is to stay as it is.

    Args:
        tf: TensorFlow's module.
        graph: The model; None if it cannot be frozen.
        image: Its image input.
        dtype: Of the pixels.
        preprocess: From which the range of the values of pixels follows (default: 0 to 1, or 0 to 255 for integers), and
            whether their type may change.
        wanted: Whether half precision was asked for, so that the reason is a warning.
        model: Its name, for messages.
    """
    found = _try(tf, graph, image, dtype, preprocess)
    if isinstance(found, HalfGraph):
        total = found.converted + found.kept
        log.info("model %s: %d of %d convolutions and matrix products run in float16", model, found.converted, total)
        return found
    log.log(logging.WARNING if wanted else logging.INFO, "model %s: runs in float32, not float16: %s", model, found)
    return None


def _try(
    tf: Any, graph: FrozenGraph | None, image: TensorInfo, dtype: str, preprocess: Preprocess | None
) -> HalfGraph | str:
    """The rewritten graph, or why there is none."""
    if graph is None:
        return "its graph cannot be frozen"
    try:
        half = to_half(graph, dtype, half_input=preprocess is None or preprocess.dtype in (None, "float16"))
        if not half.converted:
            return "it has no convolution or matrix product that could"
        if not _is_finite(tf, half, _pictures(image, preprocess, half.input_dtype)):
            return "its values leave the range of float16"
    except (tf.errors.OpError, ValueError, TypeError, KeyError) as e:
        return f"it cannot be converted: {first_line(e)}"
    return half


def _is_finite(tf: Any, half: HalfGraph, pictures: list[npt.NDArray[np.float64]]) -> bool:
    """Runs it once on each picture and looks for infinities and NaN."""
    spec = tf.TensorSpec(pictures[0].shape, half.input_dtype)
    run = tf.function(half.graph, input_signature=[spec], autograph=False)
    for pixels in pictures:
        outputs = run(tf.constant(pixels.astype(spec.dtype.as_numpy_dtype)))
        if not all(np.isfinite(o.numpy()).all() for o in outputs if o.dtype.is_floating):
            return False
    return True


def _pictures(image: TensorInfo, preprocess: Preprocess | None, dtype: str) -> list[npt.NDArray[np.float64]]:
    """A blank, a bright and a noisy one."""
    shape = image.shape or (None, None, None, 3)
    size = (shape[0] or 1, *(length or _OPEN_SIZE for length in shape[1:]))
    low, high = (0.0, 255.0) if dtype.startswith(("int", "uint")) else _range(preprocess)
    rng = np.random.default_rng(0)
    return [np.full(size, low), np.full(size, high), rng.uniform(low, high, size)]


def _range(preprocess: Preprocess | None) -> tuple[float, float]:
    if preprocess is None:
        return 0.0, 1.0
    ends = [
        (pixel * np.asarray(preprocess.scale) - preprocess.mean) / np.asarray(preprocess.std) for pixel in (0.0, 255.0)
    ]
    return float(np.min(ends)), float(np.max(ends))
