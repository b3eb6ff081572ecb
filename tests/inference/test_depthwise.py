"""Depthwise convolutions spelled out: the same numbers as TensorFlow's own and as plain loops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.inference.depthwise import spell_out_depthwise
from pipeline.inference.frozen import FrozenGraph
from pipeline.inference.xla import xla_graph

Padding = str | list[list[int]]
Freeze = Callable[..., FrozenGraph]


def ops(graph: FrozenGraph) -> Counter[str]:
    return Counter(node.op for node in graph.all_nodes())


def run(tf: Any, graph: FrozenGraph, x: np.ndarray, *, xla: bool = False) -> list[np.ndarray]:
    """On TensorFlow's CPU."""
    return [t.numpy() for t in tf.function(graph, autograph=False, jit_compile=xla)(tf.constant(x))]


def by_hand(
    x: np.ndarray, weights: np.ndarray, strides: tuple[int, int], dilations: tuple[int, int], padding: Padding
) -> np.ndarray:
    """In float64, one output pixel after another."""
    taps = weights.shape[:2]
    spans = [(t - 1) * d + 1 for t, d in zip(taps, dilations, strict=True)]
    if padding == "VALID":
        pads = [(0, 0), (0, 0)]
    elif padding == "SAME":
        pads = []
        for length, span, stride in zip(x.shape[1:3], spans, strides, strict=True):
            missing = length % stride or stride
            total = max(span - missing, 0)
            pads.append((total // 2, (total + 1) // 2))
    else:
        pads = [(a, b) for a, b in padding[1:3]]
    padded = np.pad(x.astype(np.float64), [(0, 0), *pads, (0, 0)])
    rows = range(0, padded.shape[1] - spans[0] + 1, strides[0])
    columns = range(0, padded.shape[2] - spans[1] + 1, strides[1])
    out = np.zeros((len(x), len(rows), len(columns), weights.shape[2] * weights.shape[3]))
    for h, top in enumerate(rows):
        for w, left in enumerate(columns):
            window = padded[:, top : top + spans[0] : dilations[0], left : left + spans[1] : dilations[1]]
            out[:, h, w] = np.einsum("nijc,ijcm->ncm", window, weights.astype(np.float64)).reshape(len(x), -1)
    return out


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, Any]:
    taps = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilations = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    least = [(t - 1) * d + 1 for t, d in zip(taps, dilations, strict=True)]
    return {
        "size": (draw(st.integers(least[0], 14)), draw(st.integers(least[1], 14))),
        "taps": taps,
        "dilations": dilations,
        "strides": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "channels": draw(st.integers(1, 4)),
        "multiplier": draw(st.integers(1, 3)),
        "padding": draw(
            st.sampled_from(["SAME", "VALID"])
            | st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)).map(list), min_size=2, max_size=2)
        ),
        "batch": draw(st.sampled_from([None, 1, 3])),
        "dtype": draw(st.sampled_from(["float32", "float64", "float16"])),
        "conv2d": draw(st.booleans()),
    }


@settings(deadline=None, max_examples=60)
@given(case=convolutions(), seed=st.integers(0, 2**16))
def test_is_what_loops_give(tf: Any, freeze: Freeze, case: dict[str, Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(*case["taps"], case["channels"], case["multiplier"])).astype(case["dtype"])
    as_conv2d = case["conv2d"] and case["channels"] > 1
    padding: Padding = case["padding"]
    if not isinstance(padding, str):
        padding = [[0, 0], *padding, [0, 0]]
    settings_: dict[str, Any] = {
        "strides": [1, *case["strides"], 1],
        "dilations": [1, *case["dilations"], 1],
        "padding": padding if isinstance(padding, str) else "EXPLICIT",
        "explicit_paddings": [] if isinstance(padding, str) else [n for pair in padding for n in pair],
    }

    def body(x: Any) -> Any:
        if as_conv2d:
            return tf.raw_ops.Conv2D(input=x, filter=weights.reshape(*case["taps"], 1, -1), **settings_)
        return tf.raw_ops.DepthwiseConv2dNative(input=x, filter=weights, **settings_)

    shape = (*case["size"], case["channels"])
    graph = freeze(body, (case["batch"], *shape), case["dtype"])
    x = rng.normal(size=(case["batch"] or 2, *shape)).astype(case["dtype"])
    found = xla_graph(graph, (case["batch"], *shape), case["dtype"])
    assert (found.convolutions, found.grouped) == (0, 0)
    assert ops(found.graph)["DepthwiseConv2dNative"] + ops(found.graph)["Conv2D"] == 0
    [array] = run(tf, found.graph, x)
    expected = by_hand(x, weights, case["strides"], case["dilations"], padding)
    assert array.dtype == x.dtype
    assert array.shape == expected.shape
    # Half precision is added up in float32: only the result is rounded.
    rtol, atol = {"float64": (1e-12, 1e-12), "float32": (1e-5, 1e-5), "float16": (2**-11, 1e-5)}[case["dtype"]]
    np.testing.assert_allclose(array, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_is_what_tensorflow_gives(
    tf: Any, freeze: Freeze, multiplier: int, stride: int, padding: str, xla: bool
) -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 3, 8, multiplier)).astype(np.float32)
    strides = [1, stride, stride, 1]
    graph = freeze(lambda x: tf.nn.relu(tf.nn.depthwise_conv2d(x, weights, strides, padding)), (None, 15, 12, 8))
    x = rng.normal(size=(4, 15, 12, 8)).astype(np.float32)
    found = spell_out_depthwise(graph, graph.traced(x.shape, "float32"))
    for one, other in zip(run(tf, found, x, xla=xla), run(tf, graph, x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_order_names_and_control_stay(tf: Any, freeze: Freeze) -> None:
    """One that is an output, one that reads an output with a number, one that waits for something else; none is lost."""
    weights = np.random.default_rng(1).normal(size=(3, 3, 4, 1)).astype(np.float32)

    def body(x: Any) -> Any:
        _, second = tf.split(x, 2, axis=3)
        first = tf.nn.depthwise_conv2d(second, weights, [1, 1, 1, 1], "SAME")
        with tf.control_dependencies([first]):
            return first, tf.nn.depthwise_conv2d(first, weights, [1, 1, 1, 1], "SAME") + 1

    graph = freeze(body, (None, 6, 6, 8))
    before = graph.graph_def.SerializeToString(deterministic=True)
    x = np.random.default_rng(2).normal(size=(2, 6, 6, 8)).astype(np.float32)
    found = spell_out_depthwise(graph, graph.traced((2, 6, 6, 8), "float32"))
    assert graph.graph_def.SerializeToString(deterministic=True) == before
    assert ops(found)["DepthwiseConv2dNative"] == 0
    for one, other in zip(run(tf, found, x), run(tf, graph, x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "taps", "grouped"),
    [((None, 6), 3, 1), ((12, 12), 9, 1), ((12, 12), 3, 0)],
    ids=["open size", "a large kernel", "as ever"],
)
def test_what_stays_counts_as_grouped(
    tf: Any, freeze: Freeze, size: tuple[int | None, int], taps: int, grouped: int
) -> None:
    weights = np.ones((taps, taps, 4, 1), np.float32)
    ordinary = np.ones((1, 1, 4, 4), np.float32)

    def body(x: Any) -> Any:
        return tf.nn.conv2d(tf.nn.depthwise_conv2d(x, weights, [1, 1, 1, 1], "SAME"), ordinary, 1, "SAME")

    found = xla_graph(freeze(body, (None, *size, 4)), (1, *size, 4), "float32")
    assert (found.convolutions, found.grouped) == (1 + grouped, grouped)
    assert ops(found.graph)["DepthwiseConv2dNative"] == grouped


def test_groups_of_several_channels_stay(tf: Any, freeze: Freeze) -> None:
    weights = np.ones((3, 3, 2, 8), np.float32)
    found = xla_graph(freeze(lambda x: tf.nn.conv2d(x, weights, 1, "SAME"), (None, 6, 6, 4)), (1, 6, 6, 4), "float32")
    assert (ops(found.graph)["Conv2D"], found.convolutions, found.grouped) == (1, 1, 1)


# Name -> shape of an image, type, the range of its pixels, depthwise convolutions.
MODELS = {
    "coco_ssd_core": ((300, 300, 3), "float32", (-1, 1), 33),
    "movenet-lightning": ((192, 192, 3), "int32", (0, 255), 24),
    "nanodet": ((3, 416, 416), "float32", (-2, 2), 0),
}


@pytest.mark.assets
@pytest.mark.parametrize("name", MODELS)
def test_real_models_give_the_same(tf: Any, freeze: Freeze, assets: Path, name: str) -> None:
    image, dtype, (low, high), depthwise = MODELS[name]
    serve = tf.saved_model.load(str(assets / "models" / name)).signatures["serving_default"]
    [key] = serve.structured_input_signature[1]
    shape = (1, *image)
    graph = freeze(lambda x: serve(**{key: x}), shape, dtype)
    found = xla_graph(graph, shape, dtype)
    assert ops(graph)["DepthwiseConv2dNative"] == depthwise
    assert ops(found.graph)["DepthwiseConv2dNative"] == 0
    assert found.grouped == 0
    x = np.random.default_rng(3).uniform(low, high, shape).astype(dtype)
    for one, other in zip(run(tf, found.graph, x, xla=True), run(tf, graph, x), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(other).max())))
