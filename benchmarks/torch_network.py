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

from networks import SIZE, Network


class Layers(Network):
    """In PyTorch, of (N, 3, 640, 640)."""

    def _weights(self, kernel: Any, offset: Any) -> tuple[Any, Any]:
        return torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))), torch.from_numpy(offset)

    def _convolve(self, x: Any, kernel: Any, offset: Any, stride: int, *, activate: bool) -> Any:
        if stride == 2:  # SAME has all of the padding behind
            x = f.conv2d(f.pad(x, (0, 1, 0, 1)), kernel, offset, stride)
        else:
            x = f.conv2d(x, kernel, offset, padding=kernel.shape[2] // 2)
        return f.silu(x) if activate else x

    def _width(self, x: Any) -> int:
        return int(x.shape[1])

    def _concat(self, parts: list[Any]) -> Any:
        return torch.cat(parts, 1)

    def _halves(self, x: Any) -> list[Any]:
        return list(x.chunk(2, 1))

    def _double(self, x: Any) -> Any:
        return f.interpolate(x, scale_factor=2, mode="nearest")

    def _most_of_5x5(self, x: Any) -> Any:
        return f.max_pool2d(x, 5, 1, 2)

    def _boxes(self, x: Any, grid: Any, stride: int) -> Any:
        flat = x.flatten(2).transpose(1, 2)
        centre = (flat[..., :2].sigmoid() * 2 - 1 + torch.as_tensor(grid)) * stride
        size = flat[..., 2:4].clamp(-4.0, 4.0).exp() * stride
        return torch.cat([centre, size, flat[..., 4:].sigmoid()], 2)

    def _rows(self, parts: list[Any]) -> Any:
        return torch.cat(parts, 1)


class Detector(torch.nn.Module):
    """The same as a module, which can be moved, halved and compiled."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._layers = Layers(seed)
        with torch.no_grad():
            self._layers.detect(torch.zeros(1, 3, SIZE, SIZE))
        made = self._layers.weights
        self.kernels = torch.nn.ParameterList(kernel for kernel, _ in made)
        self.offsets = torch.nn.ParameterList(offset for _, offset in made)
        for stride, grid in self._layers.grids.items():
            self.register_buffer(f"grid{stride}", torch.from_numpy(grid))

    def forward(self, pixels: Any) -> Any:
        """(N, 8400, 84): centre, size and class scores."""
        self._layers.weights = list(zip(self.kernels, self.offsets, strict=True))
        self._layers.grids = {stride: getattr(self, f"grid{stride}") for stride in self._layers.grids}
        return self._layers.detect(pixels)


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
