"""Half precision: what is converted, what is not, and that results stay what they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.inference.batch_norm import fold_batch_norms
from pipeline.inference.frozen import FrozenGraph
from pipeline.inference.precision import HalfGraph, to_half

Body = Callable[[Any], Any]
HALF, FLOAT = 19, 1


def run(tf: Any, graph: FrozenGraph, pixels: np.ndarray, dtype: str = "float32") -> list[np.ndarray]:
    return [t.numpy() for t in tf.function(graph, autograph=False)(tf.constant(pixels, dtype))]


def types(half: HalfGraph, attribute: str = "T") -> dict[str, set[int]]:
    """Operation -> the types that it computes in."""
    found: dict[str, set[int]] = {}
    for node in half.graph.graph_def.node:
        if attribute in node.attr:
            found.setdefault(node.op, set()).add(node.attr[attribute].type)
    return found


def casts(half: HalfGraph) -> int:
    return Counter(node.op for node in half.graph.graph_def.node)["Cast"]


def pixels(rows: int = 2, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(rows).random((rows, 8, 8, channels)).astype(np.float32)


def kernel(tf: Any, size: int = 3, inputs: int = 3, outputs: int = 4, seed: int = 0) -> Any:
    scale = (size * size * inputs) ** -0.5
    return tf.Variable(np.random.default_rng(seed).normal(0, scale, (size, size, inputs, outputs)).astype(np.float32))


def check(tf: Any, graph: FrozenGraph, half: HalfGraph, given: np.ndarray, tolerance: float = 4e-3) -> None:
    for expected, found in zip(run(tf, graph, given), run(tf, half.graph, given, half.input_dtype), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_between_convolutions_is_half_behind_the_last_is_not(tf: Any, freeze: Any) -> None:
    first, second, third = kernel(tf), kernel(tf, 1, 4, 4, 1), kernel(tf, 3, 4, 6, 2)

    def body(x: Any) -> Any:
        x = tf.nn.relu6(tf.nn.bias_add(tf.nn.conv2d(x, first, 1, "SAME"), tf.constant([0.1, 0.2, 0.3, 0.4])))
        x = tf.nn.max_pool2d(tf.nn.leaky_relu(x + tf.nn.conv2d(x, second, 1, "SAME")), 2, 2, "SAME")
        heads = tf.nn.conv2d(tf.concat([x, tf.transpose(x, [0, 2, 1, 3])], 2), third, 1, "SAME")
        boxes, scores = tf.split(tf.reshape(heads, [-1, 32, 6]), [4, 2], 2)
        return tf.exp(boxes), tf.nn.softmax(scores)

    graph = freeze(body)
    half = to_half(graph, "float32")
    assert (half.input_dtype, half.converted, half.kept) == ("float16", 3, 0)
    found = types(half)
    for op in ("Conv2D", "BiasAdd", "Relu6", "LeakyRelu", "MaxPool", "ConcatV2", "Transpose", "AddV2"):
        assert found[op] == {HALF}, op
    for op in ("Reshape", "SplitV", "Exp", "Softmax"):
        assert found[op] == {FLOAT}, op
    assert casts(half) == 1  # Behind the last convolution.
    check(tf, graph, half, pixels())


def test_what_does_not_suit_half_precision_stays_wherever_it_is(tf: Any, freeze: Any) -> None:
    first, second = kernel(tf), kernel(tf, 3, 4, 4, 1)

    def body(x: Any) -> Any:
        x = tf.nn.conv2d(x, first, 1, "SAME")
        x = x / (1.0 + tf.reduce_sum(tf.exp(x), [1, 2], keepdims=True))
        return tf.nn.conv2d(tf.nn.softmax(x), second, 1, "SAME")

    graph = freeze(body)
    half = to_half(graph, "float32")
    found = types(half)
    assert found["Conv2D"] == {HALF}
    for op in ("Exp", "Sum", "RealDiv", "Softmax"):
        assert found[op] == {FLOAT}, op
    assert casts(half) == 3  # Behind the first, before and behind the second.
    check(tf, graph, half, pixels())


def test_a_border_is_cast_once_however_many_cross_it(tf: Any, freeze: Any) -> None:
    kernels = [kernel(tf, 3, 3, 4, i) for i in range(3)]

    def body(x: Any) -> Any:
        x = tf.exp(x)
        return tf.add_n([tf.math.log1p(tf.abs(tf.nn.conv2d(x, k, 1, "SAME"))) for k in kernels]), tf.reduce_sum(x)

    graph = freeze(body)
    half = to_half(graph, "float32")
    assert half.input_dtype == "float32"
    assert casts(half) == 1 + len(kernels)
    check(tf, graph, half, pixels())


def test_weights_are_converted_once_and_not_at_run_time(tf: Any, freeze: Any) -> None:
    shared = kernel(tf, 3, 3, 3)

    def body(x: Any) -> Any:
        return tf.nn.conv2d(tf.nn.relu(tf.nn.conv2d(x, shared, 1, "SAME")), shared, 1, "SAME")

    half = to_half(freeze(body), "float32")
    constants = [n for n in half.graph.graph_def.node if n.op == "Const" and n.attr["dtype"].type == HALF]
    assert len(constants) == 1
    np.testing.assert_array_equal(tf.make_ndarray(constants[0].attr["value"].tensor), shared.numpy().astype(np.float16))
    assert casts(half) == 1


def test_weights_beyond_the_range_keep_their_operation_in_float32(tf: Any, freeze: Any) -> None:
    large, small = tf.Variable(kernel(tf).numpy() * 1e6), kernel(tf, 1, 4, 4)

    def body(x: Any) -> Any:
        return tf.nn.conv2d(tf.nn.relu(tf.nn.conv2d(x, large, 1, "SAME")) * 1e-6, small, 1, "SAME")

    graph = freeze(body)
    half = to_half(graph, "float32")
    assert (half.input_dtype, half.converted, half.kept) == ("float32", 1, 1)
    check(tf, graph, half, pixels())


def test_padding_of_a_maximum_with_the_lowest_number(tf: Any, freeze: Any) -> None:
    first, second = kernel(tf), kernel(tf, 1, 4, 4)
    lowest = tf.constant(tf.float32.min)

    def body(x: Any) -> Any:
        x = tf.pad(tf.nn.conv2d(x, first, 1, "SAME"), [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=lowest)
        return tf.nn.conv2d(tf.nn.max_pool2d(x, 3, 2, "VALID"), second, 1, "SAME")

    graph = freeze(body)
    half = to_half(graph, "float32")
    assert types(half)["PadV2"] == {HALF}
    check(tf, graph, half, pixels())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda tf, x, k: tf.nn.conv2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), k, 1, "VALID"), "float16"),
        (lambda tf, x, k: tf.nn.conv2d(tf.transpose(x, [0, 2, 1, 3]), k, 1, "VALID"), "float16"),
        (lambda tf, x, k: tf.nn.conv2d(x * 255.0 - 128.0, k, 1, "VALID"), "float32"),
        (lambda tf, x, k: (tf.nn.conv2d(x, k, 1, "VALID"), tf.reduce_mean(x)), "float32"),
        (lambda tf, x, k: (tf.nn.conv2d(x, k, 1, "VALID"), tf.identity(x)), "float32"),
    ],
)
def test_the_input_becomes_half_only_where_nothing_needs_it_whole(
    tf: Any, freeze: Any, body: Any, expected: str
) -> None:
    weights = kernel(tf)
    graph = freeze(lambda x: body(tf, x, weights))
    half = to_half(graph, "float32")
    assert (half.input_dtype, half.converted) == (expected, 1)
    # Pixels less 128 are up to 128 in size, and their sums of 27 products are rounded accordingly.
    check(tf, graph, half, pixels(), 4e-3 if expected == "float16" else 0.3)
    assert to_half(graph, "float32", half_input=False).input_dtype == "float32"
    check(tf, graph, to_half(graph, "float32", half_input=False), pixels(), 4e-3 if expected == "float16" else 0.3)


def test_whole_numbers_as_input_and_free_sizes(tf: Any, freeze: Any) -> None:
    weights = kernel(tf)

    def body(x: Any) -> Any:
        return tf.nn.conv2d(tf.image.resize(tf.cast(x, tf.float32) / 255.0, [8, 8]), weights, 1, "SAME")

    graph = freeze(body, (None, None, None, 3), "uint8")
    half = to_half(graph, "uint8")
    assert (half.input_dtype, half.converted) == ("uint8", 1)
    given = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3)).astype(np.uint8)
    [expected], [found] = run(tf, graph, given, "uint8"), run(tf, half.graph, given, "uint8")
    np.testing.assert_allclose(found, expected, rtol=4e-3, atol=4e-3)


def test_conditions_and_loops_stay_as_they_are(tf: Any, freeze: Any) -> None:
    weights = kernel(tf, 3, 3, 3)

    def body(x: Any) -> Any:
        x = tf.nn.conv2d(x, weights, 1, "SAME")
        for_each = tf.map_fn(lambda row: tf.nn.conv2d(row[None], weights, 1, "SAME")[0], x)
        return tf.cond(tf.reduce_sum(x) > 0, lambda: for_each, lambda: -for_each)

    graph = freeze(body)
    half = to_half(graph, "float32")
    assert half.converted == 1
    check(tf, graph, half, pixels())


def test_nothing_to_convert(tf: Any, freeze: Any) -> None:
    graph = freeze(lambda x: (x * 2.0, x))
    half = to_half(graph, "float32")
    assert (half.input_dtype, half.converted, casts(half)) == ("float32", 0, 0)
    check(tf, graph, half, pixels(), 0)


def test_the_graph_that_is_given_is_not_changed(tf: Any, freeze: Any) -> None:
    weights = kernel(tf)
    graph = freeze(lambda x: tf.nn.conv2d(x, weights, 1, "SAME"))
    before = graph.graph_def.SerializeToString(deterministic=True)
    to_half(graph, "float32")
    assert graph.graph_def.SerializeToString(deterministic=True) == before


# -------------------------------------------------------------------------------------------------- batch normalisation


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_batch_normalisation_folds_into_the_convolution(tf: Any, freeze: Any, depthwise: bool, multiplier: int) -> None:
    weights = kernel(tf, 3, 3, multiplier if depthwise else 4)
    channels = 3 * multiplier if depthwise else 4
    rng = np.random.default_rng(5)
    scale, offset, mean = (tf.Variable(rng.normal(size=channels).astype(np.float32)) for _ in range(3))
    variance = tf.Variable(rng.uniform(0.01, 2, channels).astype(np.float32))

    def body(x: Any) -> Any:
        if depthwise:
            x = tf.nn.depthwise_conv2d(x, weights, [1, 1, 1, 1], "SAME")
        else:
            x = tf.nn.conv2d(x, weights, 1, "SAME")
        x, _, _ = tf.compat.v1.nn.fused_batch_norm(x, scale, offset, mean, variance, 0.01, is_training=False)
        return tf.nn.relu(x)

    graph = freeze(body)
    folded = fold_batch_norms(graph)
    assert "FusedBatchNormV3" in {n.op for n in graph.graph_def.node}
    assert "FusedBatchNormV3" not in {n.op for n in folded.graph_def.node}
    [expected], [found] = run(tf, graph, pixels()), run(tf, folded, pixels())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    half = to_half(folded, "float32")
    assert half.converted == 1
    check(tf, graph, half, pixels(), 1e-2)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(["norm", "times", "plus", "bias", "same"]), max_size=5),
    st.booleans(),
    st.sampled_from([(4,), (1, 1, 1, 4), ()]),
    st.integers(0, 99),
)
def test_whatever_scales_and_shifts_the_channels_folds(
    tf: Any, freeze: Any, steps: list[str], is_depthwise: bool, shape: tuple[int, ...], seed: int
) -> None:
    """Batch normalisation as exporters spell it out: one convolution and one bias are left, with the same results."""
    rng = np.random.default_rng(seed)
    weights = kernel(tf, 3, *((3, 4) if not is_depthwise else (4, 1)))
    mixed = kernel(tf, 1, 3, 4)

    def numbers(size: tuple[int, ...] = shape) -> Any:
        return tf.constant(rng.normal(1, 0.5, size).astype(np.float32))

    def body(x: Any) -> Any:
        if is_depthwise:
            x = tf.nn.depthwise_conv2d(tf.nn.relu(tf.nn.conv2d(x, mixed, 1, "SAME")), weights, [1, 1, 1, 1], "SAME")
        else:
            x = tf.nn.conv2d(x, weights, 1, "SAME")
        for step in steps:
            if step == "norm":
                variance = tf.constant(rng.uniform(0.1, 2, 4).astype(np.float32))
                three = [numbers((4,)) for _ in range(3)]
                x, _, _ = tf.compat.v1.nn.fused_batch_norm(x, *three, variance, 0.01, is_training=False)
            elif step == "times":
                x = numbers() * x
            elif step == "plus":
                x = x + numbers()
            elif step == "bias":
                x = tf.nn.bias_add(x, numbers((4,)))
            else:
                x = tf.identity(x)
        return tf.nn.relu(x)

    graph = freeze(body)
    folded = fold_batch_norms(graph)
    behind = [n.op for n in folded.graph_def.node if n.op not in ("Const", "Placeholder", "Identity", "NoOp")]
    convolutions = ["Conv2D", "Relu", "DepthwiseConv2dNative"] if is_depthwise else ["Conv2D"]
    assert behind == [*convolutions, *(["BiasAdd"] if set(steps) - {"same"} else []), "Relu"]
    [expected], [found] = run(tf, graph, pixels()), run(tf, folded, pixels())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max(initial=1))


def test_what_is_more_than_a_number_per_channel_stays(tf: Any, freeze: Any) -> None:
    """A constant picture, a factor from the input, a second reader, another part of the graph, a result that is an output."""
    weights, picture = kernel(tf), tf.constant(np.random.default_rng(1).normal(size=(1, 8, 8, 4)).astype(np.float32))
    four = tf.constant([1.0, 2.0, 3.0, 4.0])

    def body(x: Any) -> Any:
        def conv() -> Any:
            return tf.nn.conv2d(x, weights, 1, "SAME")

        scaled, read, shown = conv(), conv(), conv()
        picked = tf.gather_nd(conv() * four, [[0]])  # has no attribute T
        return (
            tf.nn.relu(conv() + picture),
            tf.nn.relu(scaled * tf.reduce_mean(x)),
            tf.nn.relu(read * four) + read,
            shown,
            tf.nn.relu(shown * four),
            picked,
        )

    graph = freeze(body)
    folded = fold_batch_norms(graph)
    for expected, found in zip(run(tf, graph, pixels()), run(tf, folded, pixels()), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert sum(n.op == "BiasAdd" for n in folded.graph_def.node) == 1
    assert not any(value.WhichOneof("value") is None for n in folded.graph_def.node for value in n.attr.values())


def test_batch_normalisation_elsewhere_stays(tf: Any, freeze: Any) -> None:
    """Where the convolution has another reader, or there is none; its statistics stay in float32."""
    first, second = kernel(tf), kernel(tf, 1, 4, 4)
    ones, zeros = tf.ones([4]), tf.zeros([4])

    def body(x: Any) -> Any:
        x = tf.nn.conv2d(x, first, 1, "SAME")
        y, _, _ = tf.compat.v1.nn.fused_batch_norm(x, ones * 3, zeros, zeros, ones, is_training=False)
        z, _, _ = tf.compat.v1.nn.fused_batch_norm(tf.nn.relu(y), ones, zeros, zeros, ones, is_training=False)
        return tf.nn.conv2d(x + z, second, 1, "SAME")

    graph = freeze(body)
    half = to_half(graph, "float32")
    assert types(half)["FusedBatchNormV3"] == {HALF}
    assert types(half, "U")["FusedBatchNormV3"] == {FLOAT}
    check(tf, graph, half, pixels(), 1e-2)
