"""From the topology of a TensorFlow.js graph model to a TensorFlow GraphDef that holds what its outputs need."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import AssetError
from pipeline.zoo.fused import expand
from pipeline.zoo.weights import Weight

if TYPE_CHECKING:
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef

_BYTES_FIELDS = {"s", "tensorContent"}
# Without state by their own account, but they read files or call Python.
_REACHES_OUTSIDE = ("ReadFile", "MatchingFiles", "PyFuncStateless", "PrintV2", "Print")
_CONTROL_FLOW = (
    *("Enter", "Exit", "Merge", "Switch", "NextIteration", "LoopCond"),
    *("While", "StatelessWhile", "For", "If", "StatelessIf", "Case", "StatelessCase"),
    *("PartitionedCall", "StatefulPartitionedCall", "RemoteCall", "SymbolicGradient"),
)


def node_name(tensor: str) -> str:
    """The node of a tensor: `a/b` of `a/b`, `a/b:1` and `^a/b`."""
    return tensor.removeprefix("^").partition(":")[0]


def parse_nodes(topology: Any, weights: Mapping[str, Weight]) -> dict[str, NodeDef]:
    """All nodes by name: fused ones expanded, constants filled in, control dependencies and devices left out.

    A graph without state computes the same without control dependencies.

    Raises:
        AssetError: a node cannot be understood, or a constant's weights are missing; the message names it.
    """
    nodes: dict[str, NodeDef] = {}
    for raw in topology["node"]:
        node = _parse_node(raw)
        if node.op == "Const":
            _fill(node, weights)
        for plain in expand(node):
            nodes[plain.name] = plain
    return nodes


def subgraph(nodes: Mapping[str, NodeDef], inputs: Mapping[str, NodeDef], outputs: Iterable[str]) -> GraphDef:
    """What the outputs need, computed from the inputs on.

    Args:
        nodes: All nodes by name.
        inputs: Node name -> the placeholder that takes its place.
        outputs: Tensors.

    Raises:
        AssetError: a tensor does not exist, the outputs need another input, or an operation cannot be converted.
    """
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef()
    graph.versions.producer = tf.version.GRAPH_DEF_VERSION
    needed: dict[str, None] = {}
    waiting = [node_name(tensor) for tensor in outputs]
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        if name not in nodes:
            raise AssetError(f"the graph has no node {name!r}", remedy="tensors are named as in model.json")
        needed[name] = None
        if name in inputs:
            graph.node.append(inputs[name])
            continue
        _check(nodes[name], inputs)
        graph.node.append(nodes[name])
        waiting += [node_name(tensor) for tensor in nodes[name].input]
    return graph


def placeholder(name: str, dtype: int, shape: Sequence[int | None] | None) -> NodeDef:
    """An input node; None stands for a free dimension, or for an unknown number of them."""
    from tensorflow.core.framework import node_def_pb2

    node = node_def_pb2.NodeDef(op="Placeholder", name=name)
    node.attr["dtype"].type = dtype
    node.attr["shape"].shape.unknown_rank = shape is None
    for size in shape or ():
        node.attr["shape"].shape.dim.add(size=-1 if size is None else size)
    return node


def constant(name: str, value: Any) -> NodeDef:
    """A constant of an array or nested list."""
    import tensorflow as tf
    from tensorflow.core.framework import node_def_pb2

    node = node_def_pb2.NodeDef(op="Const", name=name)
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    node.attr["dtype"].type = node.attr["value"].tensor.dtype
    return node


def _parse_node(raw: Any) -> NodeDef:
    from google.protobuf import json_format  # type: ignore[import-untyped]
    from tensorflow.core.framework import node_def_pb2

    try:
        node = json_format.ParseDict(_with_base64(raw), node_def_pb2.NodeDef(), ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, TypeError) as e:
        name = raw.get("name") if isinstance(raw, dict) else raw
        raise AssetError(f"node {name!r} of the graph cannot be understood: {e}") from e
    data = [tensor for tensor in node.input if not tensor.startswith("^")]
    del node.input[:]
    node.input.extend(data)
    node.device = ""
    node.attr.pop("_output_shapes", None)
    return node


def _with_base64(value: Any, *, in_list: bool = False) -> Any:
    """Old converters wrote bytes as lists of numbers; protobuf's JSON wants base64."""
    if isinstance(value, list):
        return [_with_base64(item) for item in value]
    if not isinstance(value, dict):
        return value
    fixed = {key: _with_base64(item, in_list=key == "list") for key, item in value.items()}
    for key in _BYTES_FIELDS & value.keys():
        fixed[key] = [_base64(item) for item in value[key]] if in_list else _base64(value[key])
    return fixed


def _base64(value: Any) -> Any:
    return base64.b64encode(bytes(value)).decode() if isinstance(value, list) else value


def _fill(node: NodeDef, weights: Mapping[str, Weight]) -> None:
    """Puts the weights into a constant, in the type that the graph declares (TensorFlow.js has fewer types)."""
    import tensorflow as tf

    if node.name not in weights:
        raise AssetError(f"the constant {node.name!r} of the graph has no weights in weightsManifest")
    value = weights[node.name]
    declared = node.attr["dtype"].type
    if declared and value.dtype != object:
        value = value.astype(tf.as_dtype(declared).as_numpy_dtype)
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    node.attr["dtype"].type = node.attr["value"].tensor.dtype


def _check(node: NodeDef, inputs: Mapping[str, NodeDef]) -> None:
    from tensorflow.python.framework import op_def_registry

    what = f"node {node.name!r} ({node.op})"
    if node.op in ("Placeholder", "PlaceholderWithDefault"):
        given = ", ".join(repr(name) for name in inputs) or "none"
        raise AssetError(f"the outputs need the input {node.name!r} too; given are {given}")
    if node.op in _CONTROL_FLOW or node.op.startswith(("TensorArray", "TensorList")):
        raise AssetError(
            f"{what} is control flow, which is not converted", remedy="choose inputs behind it and outputs before it"
        )
    definition = op_def_registry.get(node.op)
    if definition is None:
        raise AssetError(f"{what}: TensorFlow has no such operation")
    if definition.is_stateful or node.op in _REACHES_OUTSIDE:
        raise AssetError(f"{what} keeps state or reaches outside of the graph, which is not converted")


def placeholders(nodes: Mapping[str, NodeDef]) -> list[str]:
    """The names of the graph's inputs."""
    return [node.name for node in nodes.values() if node.op == "Placeholder"]


def ends(nodes: Mapping[str, NodeDef]) -> list[str]:
    """The names of the nodes that compute something that no other node uses."""
    used = {node_name(tensor) for node in nodes.values() for tensor in node.input}
    passive = ("Const", "Placeholder", "NoOp")
    return [node.name for node in nodes.values() if node.op not in passive and node.name not in used]


def output_type(node: NodeDef) -> int:
    """The data type of a node's first output, as TensorFlow's enumeration has it."""
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(node.op)
    if definition is None or not definition.output_arg:
        raise AssetError(f"node {node.name!r} ({node.op}) has no output that could be replaced by an input")
    first = definition.output_arg[0]
    return int(first.type or node.attr[first.type_attr].type)
