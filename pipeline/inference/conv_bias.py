"""Keeps XLA from merging a convolution and the bias behind it where no Relu follows.

XLA makes one call of cuDNN's of the two, and tries all that cuDNN has for it. With a Relu that is an operation of cuDNN's own.
Without one the search takes seconds for each convolution instead of a quarter of one, for little: bias and activation are one
kernel of XLA's in any case. COCO-SSD, with 43 such, was not compiled within two minutes on an H200's host, and is in 15
seconds with the two apart.
"""

from __future__ import annotations

from typing import Any

from pipeline.inference.frozen import FrozenGraph

_SUMS = frozenset({"Add", "AddN", "AddV2", "BiasAdd"})
_BARRIER = "XlaOptimizationBarrier"


def keep_biases_apart(graph: FrozenGraph) -> FrozenGraph:
    """The graph with a barrier for XLA between each such convolution and what is added to it. Only XLA knows the operation.

    Also where it is no bias but another branch that is added. Bodies of conditions and loops stay as they are; the original
    is not changed.
    """
    found = graph.copied()
    readers = found.readers()
    for conv in [node for node in found.graph_def.node if node.op == "Conv2D"]:
        if any(node.op in _SUMS for node in readers[conv.name]) and not _ends_in_relu(readers, conv):
            _put_barrier(found.graph_def, conv, readers[conv.name])
    return found


def _ends_in_relu(readers: dict[str, list[Any]], conv: Any) -> bool:
    """Whether nothing but sums is between the convolution and a Relu."""
    node = conv
    while len(readers[node.name]) == 1:
        node = readers[node.name][0]
        if node.op not in _SUMS:
            return bool(node.op == "Relu")
    return False


def _put_barrier(graph_def: Any, conv: Any, readers: list[Any]) -> None:
    barrier = graph_def.node.add(op=_BARRIER, name=f"{conv.name}/apart")
    barrier.input.append(conv.name)
    barrier.attr["T"].list.type.append(conv.attr["T"].type)
    for reader in readers:
        if reader.op in _SUMS:
            reader.input[:] = [barrier.name if name in (conv.name, f"{conv.name}:0") else name for name in reader.input]
