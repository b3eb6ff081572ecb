"""Half precision: rewrites a frozen float32 graph so that its convolutions and what lies between them run in float16.

What is before the first and behind the last convolution (or matrix product) stays in float32: normalisation, softmax,
decoding of boxes, sums. So do operations that float16 does not suit at all, wherever they are, and those whose weights do
not fit its range. Casts stand only where the two meet. The idea, allow-listed operations and what may follow them, is that of
mixed precision training (Micikevicius et al., 2018); done once, ahead of time, it costs nothing when the graph runs.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.inference.frozen import FrozenGraph, constant_node, constant_value, producer, set_constant
from pipeline.inference.half_rules import (
    COMPUTE,
    ELEMENTWISE,
    HALF_CAPABLE,
    MOVING,
    half_inputs,
    half_outputs,
    is_type,
    set_type,
)

_LARGEST = float(np.finfo(np.float16).max)
_FLOAT, _HALF = 1, 19  # DT_FLOAT and DT_HALF


@dataclass(frozen=True, slots=True, eq=False)
class HalfGraph:
    """A graph of which parts run in half precision.

    Attributes:
        graph: Outputs have the types that they had.
        input_dtype: `float16` where the graph's input goes straight into its half part, else what it was.
        converted: How many convolutions and matrix products run in half precision.
        kept: How many do not, since their weights do not fit.
    """

    graph: FrozenGraph
    input_dtype: str
    converted: int
    kept: int


def to_half(graph: FrozenGraph, input_dtype: str, *, half_input: bool = True) -> HalfGraph:
    """Rewrites a graph; the original is not changed. Bodies of conditions and loops stay as they are.

    Args:
        graph: From `frozen_graph`; what `fold_batch_norms` leaves of it loses less.
        input_dtype: Of its input.
        half_input: Whether the input may become float16.
    """
    return _Rewrite(graph, input_dtype, half_input).result()


class _Rewrite:
    def __init__(self, graph: FrozenGraph, input_dtype: str, half_input: bool) -> None:
        self._input, self._outputs = graph.input, graph.outputs
        self._input_dtype, self._half_input = input_dtype, half_input
        self._graph_def = graph.copied().graph_def
        self._nodes = {node.name: node for node in self._graph_def.node}
        self._users: dict[str, list[str]] = defaultdict(list)
        for node in self._graph_def.node:
            for name in map(producer, _data_inputs(node)):
                self._users[name].append(node.name)
        self._half = self._choose()
        self._made: dict[str, str] = {}

    def result(self) -> HalfGraph:
        compute = [n for n in self._nodes.values() if n.op in COMPUTE and is_type(n, _FLOAT)]
        input_dtype = self._convert_input()
        for name, node in list(self._nodes.items()):
            self._convert(node) if name in self._half else self._restore(node)
        outputs = tuple(self._as_float(name) if self._is_half(name) else name for name in self._outputs)
        converted = sum(n.name in self._half for n in compute)
        from tensorflow.compat.v1.graph_util import extract_sub_graph  # type: ignore[import-untyped, unused-ignore]

        # Without the constants that nothing reads any more.
        needed = extract_sub_graph(self._graph_def, sorted({producer(name) for name in outputs}))
        graph = FrozenGraph(needed, self._input, outputs)
        return HalfGraph(graph, input_dtype, converted, len(compute) - converted)

    # ------------------------------------------------------------------------------------------------ what is converted

    def _choose(self) -> set[str]:
        """Convolutions, and what lies on a way of capable operations from one (or the input) to another."""
        able = {n.name for n in self._nodes.values() if n.op in HALF_CAPABLE and is_type(n, _FLOAT) and self._fits(n)}
        compute = {name for name in able if self._nodes[name].op in COMPUTE}
        moving = {name for name in able if self._nodes[name].op in MOVING}
        between = {name for name in able if self._nodes[name].op in MOVING | ELEMENTWISE}
        before = self._reach(compute, between, self._before)
        behind = self._reach(compute, between, self._users.__getitem__)
        # The input is pixels, scaled: moved about in half precision before the first convolution it loses nothing more.
        entry = self._reach({self._input}, moving, self._users.__getitem__)
        return compute | (before & (behind | entry))

    @staticmethod
    def _reach(starts: set[str], through: set[str], neighbours: Any) -> set[str]:
        """What can be reached from `starts` by way of `through`, without the starts."""
        found: set[str] = set()
        waiting = list(starts)
        while waiting:
            for name in neighbours(waiting.pop()):
                if name in through and name not in found:
                    found.add(name)
                    waiting.append(name)
        return found

    def _before(self, name: str) -> list[str]:
        node = self._nodes[name]
        inputs = _data_inputs(node)
        return [producer(inputs[i]) for i in half_inputs(node)]

    def _fits(self, node: Any) -> bool:
        """Whether the constants that it computes with are in the range of float16."""
        inputs = _data_inputs(node)
        constants = (self._constant(inputs[i]) for i in half_inputs(node))
        return all(c is None or _in_range(constant_value(c), padding=node.op == "PadV2") for c in constants)

    def _constant(self, tensor: str) -> Any:
        """The node of a constant, None of anything else."""
        node = constant_node(self._nodes, tensor)
        return node if node is not None and node.attr["dtype"].type == _FLOAT else None

    # ------------------------------------------------------------------------------------------------------- rewriting

    def _convert(self, node: Any) -> None:
        for i in half_inputs(node):
            node.input[i] = self._as_half(node.input[i])
        set_type(node, _HALF)

    def _restore(self, node: Any) -> None:
        """Gives an operation that stays in float32 its inputs in float32."""
        for i, name in enumerate(_data_inputs(node)):
            if self._is_half(name):
                node.input[i] = self._as_float(name)

    def _convert_input(self) -> str:
        """Makes the input float16 if nothing needs it in float32."""
        users = [self._nodes[name] for name in self._users[self._input]]
        if (
            self._input_dtype != "float32"
            or not self._half_input
            or not users
            or any(u.name not in self._half for u in users)
            or any(producer(name) == self._input for name in self._outputs)
        ):
            return self._input_dtype
        self._nodes[self._input].attr["dtype"].type = _HALF
        return "float16"

    def _is_half(self, tensor: str) -> bool:
        name, _, index = tensor.partition(":")
        return name in self._half and int(index or 0) in half_outputs(self._nodes[name])

    def _as_half(self, tensor: str) -> str:
        node = self._nodes[producer(tensor)]
        if self._is_half(tensor) or (node.name == self._input and node.attr["dtype"].type == _HALF):
            return tensor
        constant = self._constant(tensor)
        return self._cast(tensor, _FLOAT, _HALF, "to_half") if constant is None else self._half_constant(constant)

    def _as_float(self, tensor: str) -> str:
        return self._cast(tensor, _HALF, _FLOAT, "to_float")

    def _half_constant(self, constant: Any) -> str:
        key = f"{constant.name}/as_half"
        if key not in self._made:
            node = self._add("Const", key)
            set_constant(node, np.clip(constant_value(constant), -_LARGEST, _LARGEST).astype(np.float16))
            self._made[key] = node.name
        return self._made[key]

    def _cast(self, tensor: str, source: int, target: int, suffix: str) -> str:
        key = f"{tensor}/{suffix}"
        if key not in self._made:
            node = self._add("Cast", f"{tensor.replace(':', '_')}/{suffix}")
            node.input.append(tensor)
            node.attr["SrcT"].type, node.attr["DstT"].type = source, target
            self._made[key] = f"{node.name}:0"
        return self._made[key]

    def _add(self, op: str, name: str) -> Any:
        while name in self._nodes:
            name += "_"
        node = self._graph_def.node.add(op=op, name=name)
        self._nodes[name] = node
        return node


def _in_range(value: Any, *, padding: bool) -> bool:
    largest = np.abs(value).max(initial=0)
    # The padding of a maximum: lower than anything, which float16's lowest is as well.
    return bool(largest <= _LARGEST) or (padding and bool(np.all(value <= np.finfo(np.float32).min)))


def _data_inputs(node: Any) -> list[str]:
    """A node's inputs without its control inputs, which come last."""
    return [name for name in node.input if not name.startswith("^")]
