"""Depthwise convolutions spelled out as sums of shifted slices times weights, for the graph that XLA compiles.

XLA makes one loop kernel of each. Otherwise it asks cuDNN and tries all of its engines for every one, which in half precision
takes many minutes for a MobileNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.inference.frozen import FrozenGraph, data_format

# Of a kernel; with more, the code of the sum grows beyond what a loop gains.
_MOST_TAPS = 64
_HALVES = ("float16", "bfloat16")

Pair = tuple[int, int]


def spell_out_depthwise(graph: FrozenGraph, traced: Any) -> FrozenGraph:
    """The graph with every depthwise convolution spelled out, in NHWC and of a static size; others stay as they are.

    A Conv2D whose filter has one input channel, with more of them in its input, is a depthwise convolution too. Bodies of
    conditions and loops stay as they are.

    Args:
        graph: From `frozen_graph`; it is not changed.
        traced: From `graph.traced`, for the shape that is compiled.
    """
    graph_def = type(graph.graph_def)(versions=graph.graph_def.versions, library=graph.graph_def.library)
    for node in graph.graph_def.node:
        graph_def.node.extend(_spelled_out(node, traced) or [node])
    return FrozenGraph(graph_def, graph.input, graph.outputs)


def depthwise_sum(x: Any, weights: Any, *, strides: Pair, dilations: Pair, padding: tuple[Pair, Pair]) -> Any:
    """A depthwise convolution: out[n, h, w, c * m + q] = sum over i, j of x[n, h * s + i * d, w * s + j * d, c] * k[i, j, c, q].

    Products of half precision are added up in float32, row by row, and rounded once, as cuDNN does.

    Args:
        x: [N, H, W, C]; H, W and C static.
        weights: [I, J, C, M], static.
        strides: Vertical and horizontal.
        dilations: Vertical and horizontal.
        padding: Rows of zeros above and below, columns left and right.

    Returns:
        [N, H', W', C * M], of the type of `x`.
    """
    import tensorflow as tf  # type: ignore[import-untyped, unused-ignore]

    rows, columns, channels, multiplier = weights.shape.as_list()
    lengths = _lengths(x.shape.as_list()[1:3], (rows, columns), strides, dilations, padding)
    if any(map(any, padding)):
        x = tf.pad(x, [(0, 0), *padding, (0, 0)])

    def part(index: int, axis: int) -> slice:
        first = index * dilations[axis]
        return slice(first, first + (lengths[axis] - 1) * strides[axis] + 1, strides[axis])

    # Cast behind the slices: what XLA may have to keep in memory, the padded input, stays small.
    dtype = tf.float32 if x.dtype.name in _HALVES else x.dtype
    total = None
    for i in range(rows):
        for j in range(columns):
            pixels, factors = tf.cast(x[:, part(i, 0), part(j, 1)], dtype), tf.cast(weights[i, j], dtype)
            product = pixels * factors[:, 0] if multiplier == 1 else pixels[..., tf.newaxis] * factors
            total = product if total is None else total + product
    if multiplier > 1:
        total = tf.reshape(total, [-1, *lengths, channels * multiplier])
    return tf.cast(total, x.dtype)


def _spelled_out(node: Any, traced: Any) -> list[Any] | None:
    """The nodes that take the place of a depthwise convolution; the last has its name. None of any other node."""
    if node.op not in ("DepthwiseConv2dNative", "Conv2D") or data_format(node) != b"NHWC":
        return None
    shape, kernel = (t.shape for t in traced.get_operation_by_name(node.name).inputs)
    if shape.rank != 4 or not shape[1:].is_fully_defined() or not kernel.is_fully_defined():
        return None
    (rows, columns, depth, multiplier), channels = kernel.as_list(), shape[3]
    if node.op == "Conv2D":
        if depth != 1 or channels == 1:
            return None
        multiplier //= channels
    strides, dilations = _pair(node.attr["strides"].list.i), _pair(node.attr["dilations"].list.i)
    padding = _padding(node, shape.as_list()[1:3], (rows, columns), strides, dilations)
    lengths = _lengths(shape.as_list()[1:3], (rows, columns), strides, dilations, padding)
    if not 0 < rows * columns <= _MOST_TAPS or min(lengths) < 1 or not channels * multiplier:
        return None

    import tensorflow as tf

    drawn = tf.Graph()
    with drawn.as_default():
        dtype = tf.dtypes.as_dtype(node.attr["T"].type)
        x = tf.compat.v1.placeholder(dtype, shape, name="x")
        given = tf.compat.v1.placeholder(dtype, kernel, name="weights")
        weights = tf.reshape(given, [rows, columns, channels, multiplier])
        found = depthwise_sum(x, weights, strides=strides, dilations=dilations, padding=padding)
        tf.identity(found, name="found")
    names = {"x": node.input[0], "weights": node.input[1], "found": node.name}
    return _renamed(drawn.as_graph_def().node, names, prefix=f"{node.name}/sum", control=node.input[2:])


def _renamed(nodes: Sequence[Any], names: dict[str, str], *, prefix: str, control: Sequence[str]) -> list[Any]:
    """Nodes as part of another graph: those with a name of their own in `names`, all others below `prefix`."""

    def renamed(tensor: str) -> str:
        name, _, index = tensor.partition(":")
        return names.get(name) or f"{prefix}/{name}" + (f":{index}" if index else "")

    kept = [node for node in nodes if node.op != "Placeholder"]
    for node in kept:
        node.input[:] = [*map(renamed, node.input), *(control if node.name == "found" else ())]
        node.name = renamed(node.name)
    return kept


def _padding(node: Any, size: Sequence[int], kernel: Pair, strides: Pair, dilations: Pair) -> tuple[Pair, Pair]:
    match node.attr["padding"].s:
        case b"SAME":
            found = []
            for length, taps, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
                total = max((-(-length // stride) - 1) * stride + (taps - 1) * dilation + 1 - length, 0)
                found.append((total // 2, total - total // 2))
            return found[0], found[1]
        case b"EXPLICIT":
            explicit = node.attr["explicit_paddings"].list.i
            return (explicit[2], explicit[3]), (explicit[4], explicit[5])
        case _:
            return (0, 0), (0, 0)


def _lengths(
    size: Sequence[int], kernel: Pair, strides: Pair, dilations: Pair, padding: tuple[Pair, Pair]
) -> list[int]:
    """Height and width of what a convolution returns; below 1 if the kernel does not fit."""
    return [
        (length + sum(pad) - (taps - 1) * dilation - 1) // stride + 1
        for length, taps, stride, dilation, pad in zip(size, kernel, strides, dilations, padding, strict=True)
    ]


def _pair(values: Sequence[int]) -> Pair:
    """Of the four numbers, one for each dimension, those for height and width; 1 where there are none."""
    return (values[1], values[2]) if values else (1, 1)
