"""A detector whose arithmetic is exact: its bits depend neither on the order of additions nor on what else is in the batch.

Which algorithm a convolution is done by depends on the number of rows, and on what TensorFlow finds fastest; in floating point
each has a rounding of its own. Here all numbers are whole, or whole numbers of 1/1024, and small enough for float32 (factors
even for TF32), and strides of 2 leave no room for algorithms that transform. A remainder behind every convolution
makes the result depend on every pixel, as a hash does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

SIZE = 160
_CELLS, _STEP = SIZE // 8, 8


def save_exact_detector(path: Path) -> Path:
    """Writes a SavedModel: image uint8 [N, 160, 160, 3] -> boxes [N, 400, 4] in its pixels, scores [N, 400, 3] from 0 to 1."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    weights = [rng.integers(-1, 2, (3, 3, *ends)).astype(np.float32) for ends in ((3, 16), (16, 16), (16, 7))]
    cells = np.stack(np.meshgrid(np.arange(_CELLS), np.arange(_CELLS)), -1).reshape(1, -1, 2)
    corners = (cells * _STEP).astype(np.float32)

    class Exact(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, SIZE, SIZE, 3), tf.uint8, name="image")])
        def find(self, image):
            x = tf.cast(image, tf.float32)
            for kernel, modulus in zip(weights, (64.0, 64.0, 1024.0), strict=True):
                x = tf.math.floormod(tf.nn.conv2d(x, kernel, 2, "SAME"), modulus)
            x = tf.reshape(x, [-1, _CELLS * _CELLS, 7])
            margins = tf.math.floormod(x[..., 3:], 256.0) / 16.0
            boxes = tf.concat([corners - margins[..., :2], corners + _STEP + margins[..., 2:]], -1)
            return {"boxes": boxes, "scores": x[..., :3] / 1024.0}

    module = Exact()
    tf.saved_model.save(module, str(path), signatures=module.find)
    return path
