"""The network of networks.py in PyTorch, with the same random weights: for programs that vramline is measured against.

python benchmarks/torch_network.py SAVED_MODEL      # compares the two; needs torch and tensorflow
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as f

sys.path.insert(0, str(Path(__file__).resolve().parent))

from networks import _BOX_WIDTH, _CLASS_BIAS, _CLASS_GAIN, _STRIDES, _WIDTHS, CLASSES, SIZE


class Detector(torch.nn.Module):
    """(N, 3, 640, 640) in 0..1 -> (N, 8400, 84): centre, size and class scores."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._seed, self._next, self._is_built = seed, 0, False
        self.kernels, self.offsets = torch.nn.ParameterList(), torch.nn.ParameterList()
        with torch.no_grad():
            self(torch.zeros(1, 3, SIZE, SIZE))
        self._is_built = True

    def forward(self, pixels: Any) -> Any:
        """As `networks.Detector`, layer by layer."""
        w = _WIDTHS
        self._next = 0
        x = self._block(self._conv(self._conv(pixels, w[0], 3, 2), w[1], 3, 2), w[1], 1)
        third = self._block(self._conv(x, w[2], 3, 2), w[2], 2)
        fourth = self._block(self._conv(third, w[3], 3, 2), w[3], 2)
        fifth = self._pyramid(self._block(self._conv(fourth, w[4], 3, 2), w[4], 1))
        up4 = self._block(torch.cat([self._double(fifth), fourth], 1), w[3], 1, residual=False)
        out3 = self._block(torch.cat([self._double(up4), third], 1), w[2], 1, residual=False)
        out4 = self._block(torch.cat([self._conv(out3, w[2], 3, 2), up4], 1), w[3], 1, residual=False)
        out5 = self._block(torch.cat([self._conv(out4, w[3], 3, 2), fifth], 1), w[4], 1, residual=False)
        return torch.cat([self._head(x, s) for x, s in zip((out3, out4, out5), _STRIDES, strict=True)], 1)

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
        if not self._is_built:
            rng = np.random.default_rng([self._seed, self._next])
            shape = (size, size, x.shape[1], width)
            kernel = rng.normal(0, gain * (2 / (size * size * shape[2])) ** 0.5, shape).astype(np.float32)
            self.kernels.append(torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))))
            self.offsets.append(torch.full((width,), bias))
        kernel, offset = self.kernels[self._next], self.offsets[self._next]
        self._next += 1
        if stride == 2:  # TensorFlow's SAME: all of it behind
            x = f.conv2d(f.pad(x, (0, 1, 0, 1)), kernel, offset, stride)
        else:
            x = f.conv2d(x, kernel, offset, padding=size // 2)
        return f.silu(x) if activate else x

    def _block(self, x: Any, width: int, depth: int, *, residual: bool = True) -> Any:
        parts = list(self._conv(x, width).chunk(2, 1))
        for _ in range(depth):
            inner = self._conv(self._conv(parts[-1], width // 2, 3), width // 2, 3)
            parts.append(parts[-1] + inner if residual else inner)
        return self._conv(torch.cat(parts, 1), width)

    def _pyramid(self, x: Any) -> Any:
        width = x.shape[1]
        pooled = [self._conv(x, width // 2)]
        for _ in range(3):
            pooled.append(f.max_pool2d(pooled[-1], 5, 1, 2))
        return self._conv(torch.cat(pooled, 1), width)

    def _double(self, x: Any) -> Any:
        return f.interpolate(x, scale_factor=2, mode="nearest")

    def _head(self, x: Any, stride: int) -> Any:
        box = self._conv(self._conv(self._conv(x, _BOX_WIDTH, 3), _BOX_WIDTH, 3), 4, activate=False)
        inner = self._conv(self._conv(x, CLASSES, 3), CLASSES, 3)
        classes = self._conv(inner, CLASSES, activate=False, gain=_CLASS_GAIN, bias=_CLASS_BIAS)
        rows, columns = x.shape[2], x.shape[3]
        flat = torch.cat([box, classes], 1).flatten(2).transpose(1, 2)
        ys, xs = torch.meshgrid(
            torch.arange(rows, device=x.device), torch.arange(columns, device=x.device), indexing="ij"
        )
        grid = torch.stack([xs, ys], -1).reshape(-1, 2).to(x.dtype) + 0.5
        centre = (flat[..., :2].sigmoid() * 2 - 1 + grid) * stride
        size = flat[..., 2:4].clamp(-4.0, 4.0).exp() * stride
        return torch.cat([centre, size, flat[..., 4:].sigmoid()], 2)


def main() -> int:
    """Compares it with the SavedModel on a picture of noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saved_model", type=Path)
    folder = parser.parse_args().saved_model
    import tensorflow as tf

    pixels = np.random.default_rng(1).random((1, SIZE, SIZE, 3), np.float32)
    want = tf.saved_model.load(str(folder)).signatures["serving_default"](tf.constant(pixels))["detections"].numpy()
    with torch.no_grad():
        got = Detector()(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()
    difference = float(np.abs(got - want).max())
    print(f"{got.shape}: differs by at most {difference:.2g}")
    return int(difference > 1e-2)


if __name__ == "__main__":
    sys.exit(main())
