"""Batch normalisation of a trained model is a scale and a shift per channel: folds both into the convolution before it.

Exporters write it in many ways: as an operation of its own, as a product and a sum with constants, or as a bias alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.inference.frozen import FrozenGraph, constant_node, constant_value, data_format, producer, set_constant
from pipeline.inference.half_rules import is_type, set_type

_CONVOLUTIONS = frozenset({"Conv2D", "DepthwiseConv2dNative"})
_NORMS = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})
_SUMS = frozenset({"Add", "AddV2", "BiasAdd"})
_FLOAT = 1  # DT_FLOAT

_Vector: TypeAlias = npt.NDArray[np.float64]


def fold_batch_norms(graph: FrozenGraph) -> FrozenGraph:
    """The graph with what scales and shifts the channels of a convolution's result folded into its weights and one bias.

    In float32, so that nothing is lost where the convolution then goes on in half precision. What is not the only reader of
    the convolution, or is no constant, stays. The original is not changed.
    """
    found = graph.copied()
    nodes = found.graph_def.node
    known = _Known(found)
    gone = set[str]()
    for conv in [node for node in nodes if node.op in _CONVOLUTIONS]:
        gone.update(_fold(known, conv))
    left = [node for node in nodes if node.name not in gone]
    read = {producer(name) for node in left for name in node.input} | set(map(producer, graph.outputs))
    kept = [node for node in left if node.op != "Const" or node.name in read]
    del nodes[:]
    nodes.extend(kept)
    return found


@dataclass(frozen=True, slots=True)
class _Affine:
    """A node that computes `x * scale + shift` of its input, each a number per channel."""

    node: Any
    scale: _Vector
    shift: _Vector


class _Known:
    """The nodes of a graph, and who reads them."""

    def __init__(self, graph: FrozenGraph) -> None:
        self._graph_def = graph.graph_def
        self._nodes = {node.name: node for node in graph.graph_def.node}
        self._readers = graph.readers()
        for name in graph.outputs:
            self._readers[producer(name)].append(None)

    def only_reader(self, node: Any) -> Any:
        """The node that alone reads a node's first output and nothing else of it; None: there are others, or none."""
        readers = self._readers[node.name]
        if len(readers) != 1 or readers[0] is None:
            return None
        return readers[0] if any(name in (node.name, f"{node.name}:0") for name in readers[0].input) else None

    def constant(self, tensor: str) -> Any:
        """Its value; None if it is no constant."""
        node = constant_node(self._nodes, tensor)
        return None if node is None else constant_value(node)

    def add_constant(self, name: str, value: _Vector) -> str:
        """Returns its name."""
        node = self._nodes[name] = self._graph_def.node.add(op="Const", name=name)
        set_constant(node, value.astype(np.float32))
        return name


def _fold(known: _Known, conv: Any) -> list[str]:
    """Folds what follows a convolution; the names of the nodes that are not needed any more."""
    weights = known.constant(conv.input[1]) if is_type(conv, _FLOAT) else None
    if weights is None:
        return []
    is_depthwise = conv.op == "DepthwiseConv2dNative"
    # Depthwise: height, width, channels, multiplier; output channels are the last two.
    channels = weights.shape[2] * weights.shape[3] if is_depthwise else weights.shape[3]
    found = list(_following(known, conv, channels))
    while found and found[-1].node.op == "Identity":
        found.pop()
    if [affine.node.op for affine in found] in ([], ["BiasAdd"]):
        return []
    scale, shift = np.ones(channels), np.zeros(channels)
    for affine in found:
        scale, shift = scale * affine.scale, shift * affine.scale + affine.shift
    last = found[-1].node
    factor = scale.reshape(weights.shape[2:]) if is_depthwise else scale
    conv.input[1] = known.add_constant(f"{last.name}/weights", weights.astype(np.float64) * factor)
    bias = known.add_constant(f"{last.name}/bias", shift)
    last.op = "BiasAdd"
    last.input[:] = [conv.name, bias]
    last.attr.clear()
    set_type(last, _FLOAT)
    last.attr["data_format"].s = data_format(conv)
    return [affine.node.name for affine in found[:-1]]


def _following(known: _Known, conv: Any, channels: int) -> Iterator[_Affine]:
    """The nodes behind a convolution, each the only reader of the one before, that scale and shift its channels."""
    before = conv
    while (node := known.only_reader(before)) is not None:
        affine = _affine(known, node, before.name, channels, data_format(conv))
        if affine is None:
            return
        yield affine
        before = node


def _affine(known: _Known, node: Any, before: str, channels: int, layout: bytes) -> _Affine | None:
    """What a node does with the result of the node `before`; None if it is something else."""
    if not is_type(node, _FLOAT) or any(name.startswith("^") for name in node.input):
        return None
    if node.op in _NORMS:
        return _norm(known, node, before, layout)
    ones, zeros = np.ones(channels), np.zeros(channels)
    if node.op == "Identity":
        return _Affine(node, ones, zeros)
    value = _operand(known, node, before, channels, layout) if node.op in _SUMS | {"Mul"} else None
    if value is None:
        return None
    return _Affine(node, value, zeros) if node.op == "Mul" else _Affine(node, ones, value)


def _operand(known: _Known, node: Any, before: str, channels: int, layout: bytes) -> _Vector | None:
    """The number per channel that a product or sum has beside the result of `before`; None if it has something else."""
    others = [name for name in node.input if producer(name) != before]
    constant = known.constant(others[0]) if len(others) == 1 else None
    if constant is None:
        return None
    if node.op == "BiasAdd":  # a vector, wherever the channels are
        return np.asarray(constant, np.float64) if data_format(node) == layout else None
    return _per_channel(constant, channels, layout)


def _norm(known: _Known, node: Any, before: str, layout: bytes) -> _Affine | None:
    if producer(node.input[0]) != before or data_format(node) != layout:
        return None
    if not {"is_training", "epsilon"} <= set(node.attr) or node.attr["is_training"].b:
        return None
    constants = [known.constant(name) for name in node.input[1:5]]
    if any(c is None for c in constants):
        return None
    scale, offset, mean, variance = (np.asarray(c, np.float64) for c in constants)
    factor = scale / np.sqrt(variance + node.attr["epsilon"].f)
    return _Affine(node, factor, offset - mean * factor)


def _per_channel(constant: Any, channels: int, layout: bytes) -> _Vector | None:
    """A constant that is broadcast to (N, H, W, C), or (N, C, H, W), as a number per channel; None if it is more than that."""
    shape = (1, channels, 1, 1) if layout == b"NCHW" else (1, 1, 1, channels)
    try:
        return np.broadcast_to(np.asarray(constant, np.float64), shape).reshape(channels)
    except ValueError:
        return None
