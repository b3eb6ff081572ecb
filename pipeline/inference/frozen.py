"""A model as one graph of constants, which can be read, rewritten and traced again for any shape."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)


# Without slots: TensorFlow refers to the functions that it traces weakly.
@dataclass(frozen=True, eq=False)
class FrozenGraph:
    """A graph with its variables as constants and its functions inlined, except for the bodies of conditions and loops.

    Attributes:
        graph_def: The GraphDef.
        input: Name of the placeholder.
        outputs: Names of the output tensors, such as `Identity:0`.
    """

    graph_def: Any
    input: str
    outputs: tuple[str, ...]

    def __call__(self, pixels: Any) -> list[Any]:
        """The outputs for a tensor, in the graph that is being traced."""
        from tensorflow.graph_util import import_graph_def  # type: ignore[import-not-found, unused-ignore]

        # XLA would stumble over the placeholder, though nothing uses it.
        body = type(self.graph_def)(versions=self.graph_def.versions, library=self.graph_def.library)
        body.node.extend(node for node in self.graph_def.node if node.name != self.input)
        used = any(producer(name) == self.input for node in body.node for name in node.input)
        inputs = {f"{self.input}:0": pixels} if used else {}
        found: list[Any] = import_graph_def(body, input_map=inputs, return_elements=list(self.outputs), name="")
        return found

    def traced(self, shape: tuple[int | None, ...], dtype: str) -> Any:
        """A tf.Graph in which every tensor has its name, and its shape for an input of this one, as far as it is known."""
        from tensorflow import Graph  # type: ignore[import-untyped, unused-ignore]
        from tensorflow.compat.v1 import placeholder  # type: ignore[import-untyped, unused-ignore]

        graph = Graph()
        with graph.as_default():
            self(placeholder(dtype, shape, name=self.input))
        return graph

    def copied(self) -> FrozenGraph:
        """Whose `graph_def` may be changed."""
        graph_def = type(self.graph_def)()
        graph_def.CopyFrom(self.graph_def)
        return FrozenGraph(graph_def, self.input, self.outputs)

    def readers(self) -> dict[str, list[Any]]:
        """Node -> those that have it among their inputs, once for each; outside the bodies of conditions and loops."""
        found: dict[str, list[Any]] = defaultdict(list)
        for node in self.graph_def.node:
            for name in node.input:
                found[producer(name)].append(node)
        return found

    def all_nodes(self) -> Iterator[Any]:
        """Every NodeDef, also those of the bodies of conditions and loops."""
        yield from self.graph_def.node
        for function in self.graph_def.library.function:
            yield from function.node_def


def producer(tensor: str) -> str:
    """The node that an input of another, also a control input, comes from."""
    return tensor.lstrip("^").partition(":")[0]


def constant_node(nodes: Mapping[str, Any], tensor: str) -> Any:
    """The node whose constant a tensor is, be it by way of identities; None of any other tensor."""
    node = nodes[producer(tensor)]
    while node.op == "Identity":
        node = nodes[producer(node.input[0])]
    return node if node.op == "Const" else None


def constant_value(node: Any) -> Any:
    """The array that a constant's node holds."""
    from tensorflow import make_ndarray  # type: ignore[import-untyped, unused-ignore]

    return make_ndarray(node.attr["value"].tensor)


def set_constant(node: Any, value: Any) -> None:
    """Makes a constant's node hold an array, of the array's type."""
    from tensorflow import make_tensor_proto

    proto = make_tensor_proto(value)
    node.attr["dtype"].type = proto.dtype
    node.attr["value"].tensor.CopyFrom(proto)


def data_format(node: Any) -> bytes:
    """Where the channels of a convolution and its like are: `NHWC`, the default, or `NCHW`."""
    # Asking for an attribute that is not there would make it.
    found: bytes = node.attr["data_format"].s if "data_format" in node.attr else b""
    return found or b"NHWC"


def frozen_graph(function: Any) -> FrozenGraph | None:
    """The graph of a concrete function of one tensor that returns a flat tuple; None where it cannot be frozen.

    Lookup tables and graphs beyond 2 GB cannot.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    try:
        frozen = convert_variables_to_constants_v2(function, lower_control_flow=False, aggressive_inlining=True)
        if len(frozen.inputs) != 1:
            log.debug("the graph captures resources that are no variables")
            return None
        return FrozenGraph(frozen.graph.as_graph_def(), frozen.inputs[0].op.name, tuple(t.name for t in frozen.outputs))
    except Exception as e:
        log.debug("the graph cannot be frozen: %s", e)
        return None
