"""Frees the batch dimension of a graph that was exported with batch 1: its constants carry the 1 in shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import AssetError
from pipeline.zoo.graph import constant, node_name

if TYPE_CHECKING:
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef

_UNKNOWN_SIZE = 64
_TOLERANCE = 1e-3


def free_batch(graph: GraphDef, inputs: Iterable[str]) -> None:
    """Changes the graph in place: inputs take any number of rows, and constant shapes follow them.

    Args:
        graph: Its inputs are placeholders with batch 1.
        inputs: Their names.
    """
    import tensorflow as tf

    names = set(inputs)
    imported = tf.Graph()
    with imported.as_default():
        tf.graph_util.import_graph_def(graph, name="")
    varying = _varying(graph, names)
    added: list[NodeDef] = []
    for node in graph.node:
        if node.name not in varying:
            continue
        if node.op == "Reshape" and node_name(node.input[1]) not in varying:
            before, after = (_shape(imported, tensor) for tensor in (node.input[0], node.name))
            if before and after and before[0] == after[0] == 1 and len(after) > 1:
                added.append(constant(f"{node.name}/_free_shape", np.array([-1, *after[1:]], np.int32)))
                node.attr["Tshape"].type = added[-1].attr["dtype"].type
                node.input[1] = added[-1].name
        elif node.op == "Conv2DBackpropInput" and node_name(node.input[0]) not in varying:
            sizes = _shape(imported, node.name)
            if sizes and sizes[0] == 1:
                added += _rows_and(node, node.input[2], sizes[1:])
                node.input[0] = added[-1].name
    graph.node.extend(added)
    for node in graph.node:
        if node.name in names and node.attr["shape"].shape.dim:
            node.attr["shape"].shape.dim[0].size = -1


def check_batch(call: Callable[..., dict[str, Any]], specs: Iterable[Any]) -> None:
    """Runs the model on two random rows, together and one by one.

    Args:
        call: The model; takes tensors in the order of `specs`.
        specs: `tf.TensorSpec` of each input.

    Raises:
        AssetError: it does not run with two rows, or gives other results than row by row.
    """
    import tensorflow as tf

    random = np.random.default_rng(0)
    rows = [_random(random, spec) for spec in specs]
    try:
        together = call(*(tf.constant(row) for row in rows))
        single = [call(*(tf.constant(row[i : i + 1]) for row in rows)) for i in range(2)]
    except tf.errors.OpError as e:
        reason = str(e.message).splitlines()[0]
        raise AssetError(f"the batch of this graph cannot be freed: it fails with two rows: {reason}") from e
    for name, value in together.items():
        found = value.numpy()
        parts = [part[name].numpy() for part in single]
        if any(part.shape[:1] != (1,) for part in parts) or found.shape[:1] != (2,):
            raise AssetError(f"the batch of this graph cannot be freed: {name!r} does not have a row for each picture")
        expected = np.concatenate(parts)
        scale = max(1.0, float(np.abs(expected).max(initial=0)))
        if found.shape != expected.shape or np.abs(found - expected).max(initial=0) > _TOLERANCE * scale:
            raise AssetError(f"the batch of this graph cannot be freed: {name!r} mixes the rows of a batch")


def _varying(graph: GraphDef, inputs: set[str]) -> set[str]:
    """The nodes whose value depends on an input."""
    users: dict[str, list[str]] = {}
    for node in graph.node:
        for tensor in node.input:
            users.setdefault(node_name(tensor), []).append(node.name)
    found = set(inputs)
    waiting = list(inputs)
    while waiting:
        fresh = [user for user in users.get(waiting.pop(), ()) if user not in found]
        found.update(fresh)
        waiting += fresh
    return found


def _shape(imported: Any, tensor: str) -> list[int] | None:
    """The static shape of a tensor if TensorFlow could derive all of it."""
    shape = imported.get_tensor_by_name(tensor if ":" in tensor else f"{tensor}:0").shape
    return list(shape.as_list()) if shape.is_fully_defined() else None


def _rows_and(node: NodeDef, like: str, sizes: list[int]) -> list[NodeDef]:
    """Nodes that compute [rows of the tensor `like`, *sizes]."""
    from tensorflow.core.framework import node_def_pb2, types_pb2

    prefix = f"{node.name}/_free"
    first, second, rest = (
        constant(f"{prefix}_{name}", np.array(value, np.int32))
        for name, value in (("begin", [0]), ("end", [1]), ("rest", sizes))
    )
    axis = constant(f"{prefix}_axis", np.array(0, np.int32))
    shape = node_def_pb2.NodeDef(op="Shape", name=f"{prefix}_of", input=[like])
    shape.attr["T"].type = node.attr["T"].type
    shape.attr["out_type"].type = types_pb2.DT_INT32
    rows = node_def_pb2.NodeDef(op="Slice", name=f"{prefix}_rows", input=[shape.name, first.name, second.name])
    rows.attr["T"].type = rows.attr["Index"].type = types_pb2.DT_INT32
    whole = node_def_pb2.NodeDef(op="ConcatV2", name=f"{prefix}_shape", input=[rows.name, rest.name, axis.name])
    whole.attr["N"].i = 2
    whole.attr["T"].type = whole.attr["Tidx"].type = types_pb2.DT_INT32
    return [first, second, rest, axis, shape, rows, whole]


def _random(random: np.random.Generator, spec: Any) -> Any:
    sizes = [2, *(_UNKNOWN_SIZE if size is None else size for size in spec.shape.as_list()[1:])]
    dtype = spec.dtype.as_numpy_dtype
    if np.issubdtype(dtype, np.floating):
        return random.random(sizes).astype(dtype)
    return random.integers(0, 256, sizes).astype(dtype)
