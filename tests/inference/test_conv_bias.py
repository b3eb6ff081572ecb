"""Biases that XLA is kept from handing to cuDNN with their convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipeline.inference.conv_bias import keep_biases_apart
from pipeline.inference.frozen import FrozenGraph

Body = Callable[[Any, Any], Any]
Freeze = Callable[..., FrozenGraph]
BIAS = np.array([1, -2, 3])
BARRIER = "XlaOptimizationBarrier"

# Name -> what becomes of a convolution (and the picture), and how many barriers that asks for.
CASES: dict[str, tuple[Callable[[Any], Body], int]] = {
    "bias": (lambda tf: lambda conv, x: tf.nn.bias_add(conv, BIAS), 1),
    "bias and Relu6": (lambda tf: lambda conv, x: tf.nn.relu6(conv + BIAS), 1),
    "bias and Relu": (lambda tf: lambda conv, x: tf.nn.relu(tf.nn.bias_add(conv, BIAS)), 0),
    "bias, branch and Relu": (lambda tf: lambda conv, x: tf.nn.relu(x + tf.nn.bias_add(conv, BIAS)), 0),
    "bias and branch": (lambda tf: lambda conv, x: tf.math.add_n([conv, x, tf.zeros_like(x) + BIAS]), 1),
    "Relu": (lambda tf: lambda conv, x: tf.nn.relu(conv), 0),
    "Relu6": (lambda tf: lambda conv, x: tf.nn.relu6(conv), 0),
    "nothing": (lambda tf: lambda conv, x: conv, 0),
    "twice itself": (lambda tf: lambda conv, x: conv + conv, 1),
    "two readers": (lambda tf: lambda conv, x: (tf.nn.relu(conv + BIAS), tf.nn.elu(conv)), 1),
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", CASES)
def test_a_barrier_where_no_relu_follows_and_the_same_numbers(tf: Any, freeze: Freeze, name: str, dtype: str) -> None:
    make, barriers = CASES[name]
    weights = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 3, 3)), dtype)
    body = make(tf)
    graph = freeze(lambda x: body(tf.nn.conv2d(x, weights, 1, "SAME"), x), (2, 6, 6, 3), dtype)
    before = graph.graph_def.SerializeToString(deterministic=True)
    found = keep_biases_apart(graph)
    assert graph.graph_def.SerializeToString(deterministic=True) == before
    assert sum(node.op == BARRIER for node in found.all_nodes()) == barriers
    x = tf.constant(np.random.default_rng(1).normal(size=(2, 6, 6, 3)), dtype)
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    for one, other in zip(compiled(tf, found)(x), tf.function(graph, autograph=False)(x), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def test_nothing_is_added_up_with_the_convolution_before_the_barrier(tf: Any, freeze: Freeze) -> None:
    """As XLA gets it: the sum's operand is the barrier's result."""
    weights = tf.ones((1, 1, 3, 3))
    graph = freeze(
        lambda x: tf.nn.relu6(tf.nn.bias_add(tf.nn.conv2d(x, weights, 1, "SAME"), [1.0, 2.0, 3.0])), (1, 4, 4, 3)
    )
    found = compiled(tf, keep_biases_apart(graph))
    program = found.experimental_get_compiler_ir(tf.zeros((1, 4, 4, 3)))(stage="hlo")
    [convolution] = [line for line in program.splitlines() if " convolution(" in line]
    [barrier] = [line for line in program.splitlines() if " opt-barrier(" in line]
    name = convolution.split("=")[0].strip()
    assert program.count(f"{name})") + program.count(f"{name},") == 1  # read once, on the way to the barrier
    assert barrier


def compiled(tf: Any, graph: FrozenGraph) -> Any:
    return tf.function(graph, autograph=False, jit_compile=True)
