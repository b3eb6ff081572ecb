"""Batch normalisation of a trained model is a scale and a shift per channel: folds both into the convolution before it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.inference.frozen import FrozenGraph

_NORMS = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})
_FLOAT = 1  # DT_FLOAT


def fold_batch_norms(graph: FrozenGraph) -> FrozenGraph:
    """The graph with every batch normalisation that directly follows a convolution folded into weights and a bias.

    In float32, so that nothing is lost where the convolution then goes on in half precision. Normalisations elsewhere stay.
    """
    graph_def = type(graph.graph_def)()
    graph_def.CopyFrom(graph.graph_def)
    nodes = {node.name: node for node in graph_def.node}
    uses = Counter(name.lstrip("^") for node in graph_def.node for name in node.input)
    uses.update(graph.outputs)
    for norm in list(graph_def.node):
        if norm.op in _NORMS and not norm.attr["is_training"].b and not _other_outputs_used(norm, uses):
            _fold(graph_def, nodes, uses, norm)
    return FrozenGraph(graph_def, graph.input, graph.outputs)


def _fold(graph_def: Any, nodes: dict[str, Any], uses: Counter[str], norm: Any) -> None:
    conv = nodes.get(norm.input[0])
    if conv is None or conv.op not in ("Conv2D", "DepthwiseConv2dNative") or conv.attr["T"].type != _FLOAT:
        return
    if uses[conv.name] + uses[f"{conv.name}:0"] != 1 or conv.attr["data_format"].s != norm.attr["data_format"].s:
        return
    constants = [_constant(nodes, name) for name in (conv.input[1], *norm.input[1:5])]
    if any(c is None for c in constants):
        return
    weights, scale, offset, mean, variance = (np.asarray(c, np.float64) for c in constants)
    factor = scale / np.sqrt(variance + norm.attr["epsilon"].f)
    if conv.op == "DepthwiseConv2dNative":  # Height, width, channels, multiplier: output channels are the last two.
        scaled = weights * factor.reshape(weights.shape[2:])
    else:
        scaled = weights * factor
    conv.input[1] = _add_constant(graph_def, f"{norm.name}/weights", scaled)
    bias = _add_constant(graph_def, f"{norm.name}/bias", offset - mean * factor)
    del norm.input[1:]
    norm.input.append(bias)
    data_format = norm.attr["data_format"].s
    norm.op = "BiasAdd"
    norm.attr.clear()
    norm.attr["T"].type = _FLOAT
    norm.attr["data_format"].s = data_format or b"NHWC"


def _constant(nodes: dict[str, Any], tensor: str) -> Any:
    from tensorflow import make_ndarray  # type: ignore[import-untyped, unused-ignore]

    node = nodes.get(tensor.removesuffix(":0"))
    while node is not None and node.op == "Identity":
        node = nodes.get(node.input[0].removesuffix(":0"))
    return make_ndarray(node.attr["value"].tensor) if node is not None and node.op == "Const" else None


def _add_constant(graph_def: Any, name: str, value: npt.NDArray[np.float64]) -> str:
    from tensorflow import make_tensor_proto

    node = graph_def.node.add(op="Const", name=name)
    node.attr["dtype"].type = _FLOAT
    node.attr["value"].tensor.CopyFrom(make_tensor_proto(value.astype(np.float32)))
    return str(node.name)


def _other_outputs_used(norm: Any, uses: Counter[str]) -> bool:
    """Whether anything reads the statistics that the normalisation returns besides its result, or only waits for it."""
    return any(uses[f"{norm.name}:{i}"] for i in range(1, 6))
