"""Writes the fused operations of TensorFlow.js graphs as the plain TensorFlow operations that they stand for.

TensorFlow has kernels for some of them, but not everywhere and not with every activation; TensorFlow fuses by itself
where it pays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import AssetError

if TYPE_CHECKING:
    from tensorflow.core.framework.node_def_pb2 import NodeDef

_BASES = {
    "_FusedConv2D": "Conv2D",
    "FusedConv2D": "Conv2D",
    "FusedDepthwiseConv2dNative": "DepthwiseConv2dNative",
    "_FusedDepthwiseConv2dNative": "DepthwiseConv2dNative",
    "_FusedMatMul": "MatMul",
}
_BASE_ATTRIBUTES = {
    "Conv2D": ("T", "strides", "padding", "data_format", "dilations", "explicit_paddings"),
    "DepthwiseConv2dNative": ("T", "strides", "padding", "data_format", "dilations", "explicit_paddings"),
    "MatMul": ("T", "transpose_a", "transpose_b"),
}
_ACTIVATIONS = ("Relu", "Relu6", "Elu", "Selu", "LeakyRelu", "Sigmoid", "Tanh", "Softplus")
_DATA_INPUTS = 2
_DEFAULT_EPSILON = 1e-4


def expand(node: NodeDef) -> list[NodeDef]:
    """The plain nodes that a node stands for, the last of which has its name; the node itself if it is plain.

    Raises:
        AssetError: something is fused that is not known, or arguments are missing; the message names node and operation.
    """
    if node.op == "Prelu":
        return _Chain(node).prelu(node.input[0], node.input[1]).finished()
    if node.op not in _BASES:
        return [node]
    chain = _Chain(node)
    arguments = list(node.input[_DATA_INPUTS:])
    x = chain.base(_BASES[node.op])
    try:
        for raw in node.attr["fused_ops"].list.s:
            x = _apply(chain, raw.decode(), x, arguments)
    except IndexError:
        raise AssetError(f"node {node.name!r} ({node.op}) has fewer inputs than its fused operations need") from None
    return chain.finished()


def _apply(chain: _Chain, fused: str, x: str, arguments: list[str]) -> str:
    node = chain.node
    if fused == "BiasAdd":
        return chain.add("BiasAdd", x, arguments.pop(0), data_format=node.attr["data_format"])
    if fused == "FusedBatchNorm":
        scale_offset_mean_variance = [arguments.pop(0) for _ in range(4)]
        return chain.batch_norm(x, *scale_offset_mean_variance)
    if fused == "Prelu":
        chain.prelu(x, arguments.pop(0))
        return chain.last
    if fused in _ACTIVATIONS:
        name = chain.add(fused, x)
        if fused == "LeakyRelu" and "leakyrelu_alpha" in node.attr:
            chain.nodes[-1].attr["alpha"].CopyFrom(node.attr["leakyrelu_alpha"])
        return name
    raise AssetError(f"node {node.name!r} ({node.op}) fuses {fused!r}, which is not known")


class _Chain:
    """Nodes in the order of their computation, named after the node that they replace."""

    def __init__(self, node: NodeDef) -> None:
        self.node = node
        self.nodes: list[NodeDef] = []
        self.last = ""

    def base(self, op: str) -> str:
        """The operation in front of what is fused to it."""
        attributes = {key: self.node.attr[key] for key in _BASE_ATTRIBUTES[op] if key in self.node.attr}
        return self.add(op, *self.node.input[:_DATA_INPUTS], **attributes)

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Appends a node of the type of the replaced one; returns its name."""
        from tensorflow.core.framework import node_def_pb2, types_pb2

        self.last = f"{self.node.name}/_{len(self.nodes)}_{op}"
        added = node_def_pb2.NodeDef(op=op, name=self.last, input=inputs)
        added.attr["T"].type = self.node.attr["T"].type or types_pb2.DT_FLOAT
        for key, value in attributes.items():
            if value.WhichOneof("value"):
                added.attr[key].CopyFrom(value)
        self.nodes.append(added)
        return self.last

    def prelu(self, x: str, alpha: str) -> _Chain:
        """max(x, 0) - alpha * max(-x, 0)."""
        positive = self.add("Relu", x)
        negative = self.add("Relu", self.add("Neg", x))
        self.add("Sub", positive, self.add("Mul", alpha, negative))
        return self

    def batch_norm(self, x: str, scale: str, offset: str, mean: str, variance: str) -> str:
        """Normalisation with the statistics of the training."""
        from tensorflow.core.framework import types_pb2

        name = self.add("FusedBatchNormV3", x, scale, offset, mean, variance, data_format=self.node.attr["data_format"])
        added = self.nodes[-1]
        added.attr["U"].type = types_pb2.DT_FLOAT
        added.attr["is_training"].b = False
        added.attr["epsilon"].f = self.node.attr["epsilon"].f or _DEFAULT_EPSILON
        return name

    def finished(self) -> list[NodeDef]:
        """The nodes; the last one takes over the replaced node's name, by which others know it."""
        self.nodes[-1].name = self.node.name
        return self.nodes
