"""A detector of a common size, for speed only: its weights are random.

    python benchmarks/networks.py FOLDER      # writes it as a SavedModel; needs no GPU

The layers are those of a nano-sized YOLO of the eighth generation at 640x640: a backbone of strided convolutions and
cross-stage blocks, a neck that goes up and down again, and heads for 80 classes on three scales; 3 million parameters. On a
motorway with its traffic some seventeen boxes are left, as many as a trained one would find cars.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 640
CLASSES = 80
_WIDTHS = (16, 32, 64, 128, 256)
_BOX_WIDTH = 64
_STRIDES = (8, 16, 32)
# Of the layer that scores the classes: random weights alone say 0.5 everywhere.
_CLASS_GAIN, _CLASS_BIAS = 40.0, -6.1


class Detector:
    """Builds the network; call it with (N, 640, 640, 3) in 0..1 to get (N, 8400, 84): centre, size and class scores.

    Attributes:
        variables: Its weights and biases.
        multiply_adds: Per picture; counted while it is called.
    """

    def __init__(self, tf: Any, seed: int = 0) -> None:
        self._tf, self._seed = tf, seed
        self.variables: list[Any] = []
        self.multiply_adds = 0

    def __call__(self, pixels: Any) -> Any:
        tf, w = self._tf, _WIDTHS
        self._next, self.multiply_adds = 0, 0
        x = self._block(self._conv(self._conv(pixels, w[0], 3, 2), w[1], 3, 2), w[1], 1)
        third = self._block(self._conv(x, w[2], 3, 2), w[2], 2)
        fourth = self._block(self._conv(third, w[3], 3, 2), w[3], 2)
        fifth = self._pyramid(self._block(self._conv(fourth, w[4], 3, 2), w[4], 1))
        up4 = self._block(tf.concat([self._double(fifth), fourth], 3), w[3], 1, residual=False)
        out3 = self._block(tf.concat([self._double(up4), third], 3), w[2], 1, residual=False)
        out4 = self._block(tf.concat([self._conv(out3, w[2], 3, 2), up4], 3), w[3], 1, residual=False)
        out5 = self._block(tf.concat([self._conv(out4, w[3], 3, 2), fifth], 3), w[4], 1, residual=False)
        return tf.concat([self._head(x, s) for x, s in zip((out3, out4, out5), _STRIDES, strict=True)], 1)

    def _conv(
        self,
        x: Any,
        width: int,
        size: int = 1,
        stride: int = 1,
        *,
        activate: bool = True,
        gain: float = 1.0,
        bias: float = 0.0,
    ) -> Any:
        tf = self._tf
        shape = (size, size, x.shape[3], width)
        if self._next == len(self.variables):
            rng = np.random.default_rng([self._seed, self._next])
            kernel = rng.normal(0, gain * (2 / (size * size * shape[2])) ** 0.5, shape).astype(np.float32)
            self.variables.append((tf.Variable(kernel), tf.Variable(np.full(width, bias, np.float32))))
        kernel, offset = self.variables[self._next]
        self._next += 1
        x = tf.nn.bias_add(tf.nn.conv2d(x, kernel, stride, "SAME"), offset)
        self.multiply_adds += int(np.prod(shape)) * x.shape[1] * x.shape[2]
        return x * tf.sigmoid(x) if activate else x

    def _block(self, x: Any, width: int, depth: int, *, residual: bool = True) -> Any:
        """Part of the channels goes through `depth` pairs of convolutions, all that comes up is put together."""
        tf = self._tf
        parts = tf.split(self._conv(x, width), 2, 3)
        for _ in range(depth):
            inner = self._conv(self._conv(parts[-1], width // 2, 3), width // 2, 3)
            parts.append(parts[-1] + inner if residual else inner)
        return self._conv(tf.concat(parts, 3), width)

    def _pyramid(self, x: Any) -> Any:
        tf = self._tf
        width = x.shape[3]
        pooled = [self._conv(x, width // 2)]
        for _ in range(3):
            pooled.append(tf.nn.max_pool2d(pooled[-1], 5, 1, "SAME"))
        return self._conv(tf.concat(pooled, 3), width)

    def _double(self, x: Any) -> Any:
        return self._tf.image.resize(x, (2 * x.shape[1], 2 * x.shape[2]), "nearest")

    def _head(self, x: Any, stride: int) -> Any:
        tf = self._tf
        box = self._conv(self._conv(self._conv(x, _BOX_WIDTH, 3), _BOX_WIDTH, 3), 4, activate=False)
        inner = self._conv(self._conv(x, CLASSES, 3), CLASSES, 3)
        classes = self._conv(inner, CLASSES, activate=False, gain=_CLASS_GAIN, bias=_CLASS_BIAS)
        rows, columns = x.shape[1], x.shape[2]
        flat = tf.reshape(tf.concat([box, classes], 3), [-1, rows * columns, 4 + CLASSES])
        grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2).astype(np.float32) + 0.5
        centre = (tf.sigmoid(flat[..., :2]) * 2 - 1 + grid) * stride
        size = tf.exp(tf.clip_by_value(flat[..., 2:4], -4.0, 4.0)) * stride
        return tf.concat([centre, size, tf.sigmoid(flat[..., 4:])], 2)


def save_detector(tf: Any, folder: Path) -> float:
    """Saves the network as a SavedModel; returns its billions of floating point operations per picture."""
    module = tf.Module()
    detector = Detector(tf)
    detector(tf.zeros([1, SIZE, SIZE, 3]))
    module.weights = detector.variables

    def serve(image: Any) -> dict[str, Any]:
        return {"detections": detector(image)}

    spec = tf.TensorSpec([None, SIZE, SIZE, 3], name="image")
    traced = tf.function(serve, input_signature=[spec]).get_concrete_function()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": traced})
    return 2e-9 * detector.multiply_adds


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    gflop = save_detector(tf, folder)
    print(f"{folder}: {gflop:.1f} GFLOP a picture")


if __name__ == "__main__":
    main()
