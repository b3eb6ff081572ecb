"""The GPU's model with TensorFlow on the CPU and NumPy in CuPy's place: all of it but the device."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.config.stages import ModelSource, Preprocess
from pipeline.errors import DeviceLostError, ModelError
from pipeline.inference import TensorFlowModel, load_model, resolve_input
from pipeline.inference.cuda_model import CudaModel
from pipeline.inference.shared_stream import PreparedCall, SharedStream

Save = Callable[..., Path]


@pytest.fixture
def load_on(stream: SharedStream) -> Callable[..., CudaModel]:
    def load(
        path: Path, batch_size: int | None = None, preprocess: Preprocess | None = None, **settings: Any
    ) -> CudaModel:
        source = ModelSource(path=str(path), **settings)
        model = load_model(path, source, name="tiny", batch_size=batch_size, preprocess=preprocess, stream=stream)
        assert isinstance(model, CudaModel)
        return model

    return load


def filled(stream: SharedStream, rows: int, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    array = stream.zeros((rows, *shape), dtype)
    array[:] = np.random.default_rng(rows).integers(0, 255, array.shape)
    return array


def test_computes_what_the_weights_say(stream: SharedStream, load_on: Any, weighted: SimpleNamespace) -> None:
    model = load_on(weighted.path, 8, precision="fp32")
    assert model.xla
    assert (model.precision, model.input.dtype) == ("fp32", "float32")
    assert [model.rows(n) for n in range(1, 9)] == [1, 8, 8, 8, 8, 8, 8, 8]
    for frames in (1, 2, 5):
        batch = filled(stream, model.rows(frames), (8, 6, 3))
        found = model(batch)
        for name, expected in weighted.expected(batch).items():
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-2)


def test_gives_what_the_cpu_engine_gives(stream: SharedStream, load_on: Any, load: Any, save: Save, tf: Any) -> None:
    """Outputs of every type, int32 among them, which TensorFlow would return in host memory."""

    def serve(image: Any) -> dict[str, Any]:
        flat = tf.reshape(image, [-1, 12])
        best = tf.math.top_k(flat, 3)
        return {
            "best": best.values,
            "indices": best.indices,
            "first": tf.argmax(flat, 1),
            "mask": flat > 100,
            "bytes": tf.cast(flat, tf.uint8),
            "halves": tf.cast(flat, tf.float16),
            "none": tf.zeros([tf.shape(image)[0], 0]),
        }

    path = save(serve, [None, 2, 2, 3])
    expected_model, model = load(path, 4), load_on(path, 4, precision="fp32")
    assert model.outputs == expected_model.outputs
    batch = filled(stream, 4, (2, 2, 3))
    found, expected = model(batch), expected_model(np.asarray(batch))
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_input_memory_is_used_as_it_is_and_outputs_keep_theirs(stream: SharedStream, load_on: Any, save: Save) -> None:
    model = load_on(save(lambda image: {"y": image * 2}, [None, 2, 2, 3]), 2)
    batch = filled(stream, 2, (2, 2, 3))
    first = model(batch)["y"]
    before = np.array(first)
    batch += 1  # Seen without importing the array again.
    np.testing.assert_array_equal(model(batch)["y"], before + 2)
    tensor = first.owner
    alive = weakref.ref(tensor)
    del tensor
    gc.collect()
    assert alive() is not None
    np.testing.assert_array_equal(first, before)
    del first
    gc.collect()
    assert alive() is None


def test_nothing_is_traced_after_loading_and_few_inputs_are_kept(
    stream: SharedStream, load_on: Any, weighted: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tf: Any
) -> None:
    model = load_on(weighted.path, 4)
    waits = stream.cupy.waits

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a graph is made")

    monkeypatch.setattr(tf.Graph, "__init__", forbidden)
    arrays = [weakref.ref(filled(stream, model.rows(1 + i % 4), (8, 6, 3), model.input.dtype)) for i in range(3)]
    for i in range(100):
        batch = filled(stream, model.rows(1 + i % 4), (8, 6, 3), model.input.dtype)
        arrays.append(weakref.ref(batch))
        model(batch)
    del batch
    gc.collect()
    assert sum(a() is not None for a in arrays) <= 32
    assert stream.cupy.waits == waits
    model.close()
    model.close()
    gc.collect()
    assert not any(a() is not None for a in arrays)
    with pytest.raises(ModelError, match="has been closed"):
        model(filled(stream, 4, (8, 6, 3), model.input.dtype))


def test_without_xla_where_it_cannot_compile(
    stream: SharedStream, load_on: Any, save: Save, tf: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = save(lambda image: {"y": tf.strings.to_number(tf.strings.as_string(image))}, [None, 2, 2, 3])
    model = load_on(path, 2)
    assert not model.xla
    assert "runs without XLA, which cannot compile it" in caplog.text
    batch = filled(stream, 2, (2, 2, 3))
    np.testing.assert_allclose(model(batch)["y"], batch, rtol=1e-5)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], bool]]:
    """(shape, whether XLA compiles it) of every call that is prepared."""
    made = []

    def prepared(stream: Any, graph: Any, shape: Any, dtype: str, *, xla: bool) -> PreparedCall:
        made.append((shape, xla))
        return PreparedCall(stream, graph, shape, dtype, xla=xla)

    monkeypatch.setattr("pipeline.inference.cuda_model.PreparedCall", prepared)
    return made


@pytest.mark.parametrize(
    ("xla", "rows", "calls"),
    [
        ("auto", [1, 8, 8, 8, 8, 8, 8, 8], [(1, False), (8, True)]),
        (True, [1, 8, 8, 8, 8, 8, 8, 8], [(1, False), (8, True)]),
        (False, [1, 2, 8, 8, 8, 8, 8, 8], [(1, False), (2, False), (8, False)]),
    ],
)
def test_one_shape_is_compiled(
    load_on: Any, weighted: SimpleNamespace, compiled: Any, xla: Any, rows: list[int], calls: list[Any]
) -> None:
    model = load_on(weighted.path, 8, xla=xla)
    assert [model.rows(n) for n in range(1, 9)] == rows
    assert [(shape[0], with_xla) for shape, with_xla in compiled] == calls
    assert model.xla == bool(xla)


def test_a_model_for_one_image_is_compiled(load_on: Any, weighted: SimpleNamespace, compiled: Any) -> None:
    assert load_on(weighted.path, 1).xla
    assert compiled == [((1, 8, 6, 3), True)]


def test_depthwise_convolutions_are_compiled(
    stream: SharedStream, load_on: Any, load: Any, save: Save, tf: Any
) -> None:
    weights = np.random.default_rng(0).normal(0, 0.1, (3, 3, 3, 2)).astype(np.float32)
    path = save(lambda image: {"y": tf.nn.depthwise_conv2d(image, weights, [1, 2, 2, 1], "SAME")}, [None, 9, 8, 3])
    model = load_on(path, 4, precision="fp32")
    assert model.xla
    for frames in (1, 3):
        batch = filled(stream, model.rows(frames), (9, 8, 3))
        np.testing.assert_allclose(model(batch)["y"], load(path, 4)(np.asarray(batch))["y"], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("xla", ["auto", True])
def test_grouped_convolutions_are_compiled_where_asked_for(
    stream: SharedStream,
    load_on: Any,
    save: Save,
    tf: Any,
    caplog: pytest.LogCaptureFixture,
    compiled: Any,
    xla: Any,
) -> None:
    caplog.set_level(logging.INFO)
    weights = np.ones((3, 3, 2, 4), np.float32)
    path = save(lambda image: {"y": tf.nn.conv2d(image, weights, 1, "SAME")}, [None, 6, 6, 4])
    model = load_on(path, 8, xla=xla, precision="fp32")
    assert model.xla is (xla is True)
    reason = "runs without XLA, which may take minutes for a grouped convolution; pipeline.model.xla: true"
    assert (reason in caplog.text) is (xla == "auto")
    # Not compiled, a quarter is worth its while.
    assert model.rows(2) == (2 if xla == "auto" else 8)
    prepared = len(compiled)
    batch = filled(stream, model.rows(2), (6, 6, 4))
    batch[:] = 1
    assert model(batch)["y"][0, 2, 2].tolist() == [18] * 4
    assert len(compiled) == prepared


def test_a_long_compilation_is_announced(
    load_on: Any, save: Save, tf: Any, caplog: pytest.LogCaptureFixture, weighted: SimpleNamespace
) -> None:
    caplog.set_level(logging.INFO)
    load_on(weighted.path, 2)
    assert "may take a minute" not in caplog.text
    assert "compiled with XLA in" in caplog.text

    def serve(image: Any) -> dict[str, Any]:
        for _ in range(20):
            image = tf.nn.conv2d(image, tf.ones([1, 1, 3, 3]) / 3, 1, "SAME")
        return {"y": image}

    load_on(save(serve, [None, 4, 4, 3]), 2)
    [line] = [r.message for r in caplog.records if "may take a minute" in r.message]
    assert "tiny" in line
    assert "20 convolutions; pipeline.model.xla: false starts at once" in line


@pytest.mark.parametrize(("text", "goes_on"), [("OOM when allocating", True), ("CUDA_ERROR_ILLEGAL_ADDRESS", False)])
def test_a_device_that_fails_while_xla_compiles(
    load_on: Any,
    weighted: SimpleNamespace,
    tf: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    goes_on: bool,
) -> None:
    """Without XLA there may be memory enough; a GPU that is lost stays lost."""
    caplog.set_level(logging.INFO)
    kind = tf.errors.ResourceExhaustedError if goes_on else tf.errors.InternalError

    def prepared(*given: Any, xla: bool) -> PreparedCall:
        if xla:
            raise kind(None, None, text)
        return PreparedCall(*given, xla=xla)

    monkeypatch.setattr("pipeline.inference.cuda_model.PreparedCall", prepared)
    if goes_on:
        assert not load_on(weighted.path, 8).xla
        assert f"runs without XLA, which cannot compile it: {text}" in caplog.text
    else:
        with pytest.raises(DeviceLostError, match="cannot be used any more"):
            load_on(weighted.path, 8)


def test_operations_that_wait_are_named(
    stream: SharedStream, load_on: Any, save: Save, tf: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def serve(image: Any) -> dict[str, Any]:
        best = tf.reduce_max(image, [1, 2, 3])
        order = tf.map_fn(lambda x: tf.cast(tf.size(tf.where(x > 100)), tf.float32), image)
        return {"best": best, "order": order}

    model = load_on(save(serve, [None, 2, 2, 3]), 2)
    [record] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "tiny" in record.message
    assert "Where" in record.message
    assert "While" in record.message
    assert not model.xla
    batch = filled(stream, 2, (2, 2, 3))
    np.testing.assert_array_equal(model(batch)["order"], [(x > 100).sum() * x.ndim for x in np.asarray(batch)])


@pytest.mark.parametrize("xla", ["auto", True])
def test_a_graph_that_cannot_be_frozen_runs_as_it_is(
    stream: SharedStream, load_on: Any, save: Save, tf: Any, xla: Any
) -> None:
    keys = tf.lookup.KeyValueTensorInitializer(tf.constant([0, 1], tf.int64), tf.constant([2.0, 3.0]))
    table = tf.lookup.StaticHashTable(keys, -1.0)
    path = save(lambda image: {"y": image * table.lookup(tf.zeros([], tf.int64))}, [None, 2, 2, 3], table=table)
    model = load_on(path, 2, xla=xla)
    batch = filled(stream, 2, (2, 2, 3))
    assert (model.precision, model.xla) == ("fp32", False)
    np.testing.assert_array_equal(model(batch)["y"], batch * 2)


def test_a_batch_that_is_fixed_inside_falls_back_to_one(
    stream: SharedStream, load_on: Any, save: Save, tf: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_on(save(lambda image: {"y": tf.reshape(image, [1, 12])}, [None, 2, 2, 3]), 8)
    assert (model.batch_size, model.rows(1)) == (1, 1)
    assert "batch size is 1 from here on" in caplog.text
    batch = filled(stream, 1, (2, 2, 3))
    np.testing.assert_array_equal(model(batch)["y"], np.asarray(batch).reshape(1, 12))


def test_wrong_tensors_are_errors(stream: SharedStream, load_on: Any, weighted: SimpleNamespace) -> None:
    model = load_on(weighted.path, 2, precision="fp32")
    with pytest.raises(ModelError, match=r"takes \[N, 8, 6, 3\] float32, not \[2, 8, 6, 3\] uint8"):
        model(filled(stream, 2, (8, 6, 3), "uint8"))
    wide = filled(stream, 2, (9, 6, 3))
    with pytest.raises(ModelError, match="takes"):
        model(wide)
    with pytest.raises(ModelError, match="multiple of 64"):
        model(filled(stream, 1, (289,)).reshape(-1)[1:].reshape(2, 8, 6, 3))
    with pytest.raises(ModelError, match="C order"):
        model(filled(stream, 4, (8, 6, 3))[::2])


def test_half_precision_takes_half_precision_pixels(
    stream: SharedStream, load_on: Any, weighted: SimpleNamespace
) -> None:
    model = load_on(weighted.path, 2, Preprocess(scale=1 / 255))
    assert (model.precision, model.input.dtype) == ("fp16", "float16")
    found = resolve_input(model.input, Preprocess(), model="m")
    assert found.dtype == "float16"
    batch = filled(stream, 2, (8, 6, 3), "float16") / np.float16(255)
    aligned = stream.zeros(batch.shape, "float16")
    aligned[:] = batch
    for name, array in model(aligned).items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, weighted.expected(aligned)[name], rtol=3e-3, atol=1e-2)

    asked = load_on(weighted.path, 2, Preprocess(scale=1 / 255, dtype="float32"))
    assert (asked.precision, asked.input.dtype) == ("fp16", "float32")


@pytest.mark.parametrize(("precision", "level"), [("auto", logging.INFO), ("fp16", logging.WARNING)])
def test_values_beyond_half_precision_keep_float32(
    stream: SharedStream,
    load_on: Any,
    save: Save,
    tf: Any,
    caplog: pytest.LogCaptureFixture,
    precision: str,
    level: int,
) -> None:
    caplog.set_level(logging.INFO)
    path = save(lambda image: {"y": tf.nn.conv2d(image, tf.fill([3, 3, 3, 4], 30.0), 1, "VALID")}, [None, 4, 4, 3])
    preprocess = Preprocess()  # Pixels are 0 to 255.
    model = load_on(path, 2, preprocess, precision=precision)
    assert (model.precision, model.input.dtype) == ("fp32", "float32")
    [record] = [r for r in caplog.records if "float32, not float16" in r.message]
    assert "its values leave the range" in record.message
    assert record.levelno == level
    batch = stream.zeros((2, 4, 4, 3), np.float32)
    batch[:] = 255
    np.testing.assert_allclose(model(batch)["y"], np.full((2, 2, 2, 4), 255 * 30 * 27), rtol=1e-6)


def test_the_cpu_engine_ignores_the_precision(load: Any, weighted: SimpleNamespace) -> None:
    model = load(weighted.path, 2, precision="fp16")
    assert type(model) is TensorFlowModel
    assert model.input.dtype == "float32"
