"""The graph that XLA compiles, and what compiling it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.inference.conv_bias import keep_biases_apart
from pipeline.inference.depthwise import spell_out_depthwise
from pipeline.inference.frozen import FrozenGraph, data_format

_CONVOLUTIONS = frozenset({"Conv2D", "Conv2DBackpropInput", "Conv3D", "DepthwiseConv2dNative"})


@dataclass(frozen=True, slots=True, eq=False)
class XlaGraph:
    """A graph as XLA is to compile it.

    Attributes:
        graph: Computes the same; only XLA can run it.
        convolutions: For how many XLA tries cuDNN's algorithms: about a quarter of a second each on an H200's host.
        grouped: How many of them are convolutions of groups of channels, for each of which that may take minutes.
    """

    graph: FrozenGraph
    convolutions: int
    grouped: int


def xla_graph(graph: FrozenGraph, shape: tuple[int, ...], dtype: str) -> XlaGraph:
    """Rewrites a graph for XLA; the original is not changed.

    Args:
        graph: From `frozen_graph`.
        shape: Of the input that it is compiled for.
        dtype: Of the input.
    """
    traced = graph.traced(shape, dtype)
    found = keep_biases_apart(spell_out_depthwise(graph, traced))
    left = [node for node in found.all_nodes() if node.op in _CONVOLUTIONS]
    grouped = sum(_is_grouped(node, traced) for node in left)
    return XlaGraph(found, len(left), grouped)


def _is_grouped(node: Any, traced: Any) -> bool:
    if node.op == "DepthwiseConv2dNative":
        return True
    if node.op != "Conv2D":
        return False
    x, kernel = (t.shape for t in traced.get_operation_by_name(node.name).inputs)
    if x.rank is None or kernel.rank is None:
        return False
    channels, depth = x[1 if data_format(node) == b"NCHW" else -1], kernel[-2]
    return channels is not None and depth is not None and bool(channels != depth)
