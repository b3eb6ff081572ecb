"""Detectors of common sizes, for speed only: their weights are random.

    python benchmarks/networks.py FOLDER [--size small]     # writes one as a SavedModel; needs no GPU

The layers are those of a nano-sized YOLO of the eighth generation at 640x640: a backbone of strided convolutions and
cross-stage blocks, a neck that goes up and down again, and heads for 80 classes on three scales; 3 million parameters. The
larger ones have more channels and deeper blocks: three, eight and seventeen times the arithmetic. On a motorway with its
traffic some twenty boxes are left, as many as a trained one would find cars.
"""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 640
CLASSES = 80
# Channels at strides 2, 4, 8, 16 and 32; pairs of convolutions in the shallowest blocks; what is added where the classes are
# scored: random weights alone say 0.5 everywhere.
SHAPES = {
    "nano": ((16, 32, 64, 128, 256), 1, -6.1),
    "small": ((32, 64, 128, 256, 512), 1, -5.1),
    "medium": ((48, 96, 192, 384, 576), 2, -16.9),
    "large": ((64, 128, 256, 512, 512), 3, -1.06),
}
_BOX_WIDTH = 64
_STRIDES = (8, 16, 32)
_CLASS_GAIN = 40.0


class Network(ABC):
    """The layers and their weights, whatever does the arithmetic; the axis of the channels is the framework's own.

    A call turns pictures of 640x640 in 0..1 into (N, 8400, 84): centre, size and class scores.

    Attributes:
        weights: Of each convolution in its order: kernel and offset, as `_weights` made them.
        grids: (cells, 2) by stride: the middle of each cell, in cells.
    """

    def __init__(self, seed: int = 0, size: str = "nano") -> None:
        self._seed, self._next = seed, 0
        self._widths, self._depth, self._class_bias = SHAPES[size]
        self.weights: list[tuple[Any, Any]] = []
        self.grids: dict[int, Any] = {}

    def detect(self, pixels: Any) -> Any:
        """All of it; the first call makes the weights."""
        w, deep = self._widths, self._depth
        self._next = 0
        x = self._block(self._conv(self._conv(pixels, w[0], 3, 2), w[1], 3, 2), w[1], deep)
        third = self._block(self._conv(x, w[2], 3, 2), w[2], 2 * deep)
        fourth = self._block(self._conv(third, w[3], 3, 2), w[3], 2 * deep)
        fifth = self._pyramid(self._block(self._conv(fourth, w[4], 3, 2), w[4], deep))
        up4 = self._block(self._concat([self._double(fifth), fourth]), w[3], deep, residual=False)
        out3 = self._block(self._concat([self._double(up4), third]), w[2], deep, residual=False)
        out4 = self._block(self._concat([self._conv(out3, w[2], 3, 2), up4]), w[3], deep, residual=False)
        out5 = self._block(self._concat([self._conv(out4, w[3], 3, 2), fifth]), w[4], deep, residual=False)
        return self._rows([self._head(x, s) for x, s in zip((out3, out4, out5), _STRIDES, strict=True)])

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
        if self._next == len(self.weights):
            shape = (size, size, self._width(x), width)
            rng = np.random.default_rng([self._seed, self._next])
            kernel = rng.normal(0, gain * (2 / (size * size * shape[2])) ** 0.5, shape).astype(np.float32)
            self.weights.append(self._weights(kernel, np.full(width, bias, np.float32)))
        kernel, offset = self.weights[self._next]
        self._next += 1
        return self._convolve(x, kernel, offset, stride, activate=activate)

    def _block(self, x: Any, width: int, depth: int, *, residual: bool = True) -> Any:
        """Part of the channels goes through `depth` pairs of convolutions, all that comes up is put together."""
        parts = self._halves(self._conv(x, width))
        for _ in range(depth):
            inner = self._conv(self._conv(parts[-1], width // 2, 3), width // 2, 3)
            parts.append(parts[-1] + inner if residual else inner)
        return self._conv(self._concat(parts), width)

    def _pyramid(self, x: Any) -> Any:
        width = self._width(x)
        pooled = [self._conv(x, width // 2)]
        for _ in range(3):
            pooled.append(self._most_of_5x5(pooled[-1]))
        return self._conv(self._concat(pooled), width)

    def _head(self, x: Any, stride: int) -> Any:
        box = self._conv(self._conv(self._conv(x, _BOX_WIDTH, 3), _BOX_WIDTH, 3), 4, activate=False)
        inner = self._conv(self._conv(x, CLASSES, 3), CLASSES, 3)
        classes = self._conv(inner, CLASSES, activate=False, gain=_CLASS_GAIN, bias=self._class_bias)
        if stride not in self.grids:
            cells = np.arange(SIZE // stride)
            self.grids[stride] = np.stack(np.meshgrid(cells, cells), -1).reshape(-1, 2).astype(np.float32) + 0.5
        return self._boxes(self._concat([box, classes]), self.grids[stride], stride)

    @abstractmethod
    def _weights(self, kernel: Any, offset: Any) -> tuple[Any, Any]:
        """A kernel (rows, columns, in, out) and an offset as the framework has them."""

    @abstractmethod
    def _convolve(self, x: Any, kernel: Any, offset: Any, stride: int, *, activate: bool) -> Any:
        """Padded as TensorFlow's SAME; `activate` multiplies each value by its sigmoid."""

    @abstractmethod
    def _width(self, x: Any) -> int:
        """Channels."""

    @abstractmethod
    def _concat(self, parts: list[Any]) -> Any:
        """Along the channels."""

    @abstractmethod
    def _halves(self, x: Any) -> list[Any]:
        """Of the channels."""

    @abstractmethod
    def _double(self, x: Any) -> Any:
        """Each pixel four times."""

    @abstractmethod
    def _most_of_5x5(self, x: Any) -> Any:
        """The largest value around each pixel."""

    @abstractmethod
    def _boxes(self, x: Any, grid: Any, stride: int) -> Any:
        """(N, cells, 84) of one scale: centre and size in pixels, class scores."""

    @abstractmethod
    def _rows(self, parts: list[Any]) -> Any:
        """All scales together."""


class Detector(Network):
    """In TensorFlow, of (N, 640, 640, 3).

    Attributes:
        multiply_adds: Per picture; counted while it is called.
    """

    def __init__(self, tf: Any, seed: int = 0, size: str = "nano") -> None:
        super().__init__(seed, size)
        self._tf = tf
        self.multiply_adds = 0

    def __call__(self, pixels: Any) -> Any:
        self.multiply_adds = 0
        return self.detect(pixels)

    def _weights(self, kernel: Any, offset: Any) -> tuple[Any, Any]:
        return self._tf.Variable(kernel), self._tf.Variable(offset)

    def _convolve(self, x: Any, kernel: Any, offset: Any, stride: int, *, activate: bool) -> Any:
        tf = self._tf
        x = tf.nn.bias_add(tf.nn.conv2d(x, kernel, stride, "SAME"), offset)
        self.multiply_adds += int(np.prod(kernel.shape)) * x.shape[1] * x.shape[2]
        return x * tf.sigmoid(x) if activate else x

    def _width(self, x: Any) -> int:
        return int(x.shape[3])

    def _concat(self, parts: list[Any]) -> Any:
        return self._tf.concat(parts, 3)

    def _halves(self, x: Any) -> list[Any]:
        return list(self._tf.split(x, 2, 3))

    def _double(self, x: Any) -> Any:
        return self._tf.image.resize(x, (2 * x.shape[1], 2 * x.shape[2]), "nearest")

    def _most_of_5x5(self, x: Any) -> Any:
        return self._tf.nn.max_pool2d(x, 5, 1, "SAME")

    def _boxes(self, x: Any, grid: Any, stride: int) -> Any:
        tf = self._tf
        flat = tf.reshape(x, [-1, len(grid), 4 + CLASSES])
        centre = (tf.sigmoid(flat[..., :2]) * 2 - 1 + grid) * stride
        size = tf.exp(tf.clip_by_value(flat[..., 2:4], -4.0, 4.0)) * stride
        return tf.concat([centre, size, tf.sigmoid(flat[..., 4:])], 2)

    def _rows(self, parts: list[Any]) -> Any:
        return self._tf.concat(parts, 1)


def save_detector(tf: Any, folder: Path, size: str = "nano") -> float:
    """Saves the network as a SavedModel; returns its billions of floating point operations per picture."""
    module = tf.Module()
    detector = Detector(tf, size=size)
    detector(tf.zeros([1, SIZE, SIZE, 3]))
    module.weights = detector.weights

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
    parser.add_argument("--size", default="nano", choices=list(SHAPES), help="(%(default)s)")
    args = parser.parse_args()
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    gflop = save_detector(tf, args.folder, args.size)
    print(f"{args.folder}: {gflop:.1f} GFLOP a picture")


if __name__ == "__main__":
    main()
