"""A detector whose answer is known: it finds the box of the bright pixels, as `moving box` clips of `media_maker` have one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def save_bright_detector(path: Path, width: int, height: int, *, score_of: Callable[[Any], Any] | None = None) -> Path:
    """Writes a SavedModel: image float32 [N, height, width, 3] in 0..1 -> boxes [N, 1, 4], scores [N, 1, 1].

    Args:
        path: Where to.
        width: Of its input in pixels.
        height: Of its input in pixels.
        score_of: x1 [N] float32, in pixels -> scores [N] float32. Default: 1 where anything is bright, else 0.

    Returns:
        The path. Boxes are x1, y1, x2, y2 in pixels of the input.
    """
    import tensorflow as tf

    class Bright(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, height, width, 3), tf.float32, name="image")])
        def find(self, image):
            bright = tf.reduce_min(image, -1) > 0.8

            def ends(line):
                length = tf.shape(line)[1]
                index = tf.range(length)
                first = tf.reduce_min(tf.where(line, index, length), 1)
                last = tf.reduce_max(tf.where(line, index + 1, 0), 1)
                return tf.cast(first, tf.float32), tf.cast(last, tf.float32)

            (x1, x2), (y1, y2) = ends(tf.reduce_any(bright, 1)), ends(tf.reduce_any(bright, 2))
            scores = tf.cast(tf.reduce_any(bright, (1, 2)), tf.float32) if score_of is None else score_of(x1)
            return {"boxes": tf.stack([x1, y1, x2, y2], -1)[:, None], "scores": scores[:, None, None]}

    module = Bright()
    tf.saved_model.save(module, str(path), signatures=module.find)
    return path
