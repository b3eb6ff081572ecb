from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.config.stages import Preprocess
from pipeline.errors import ModelError
from pipeline.inference import TensorFlowModel
from pipeline.stages import empty_tensor

Load = Callable[..., TensorFlowModel]
Save = Callable[..., Path]


def images(rows: int, shape: tuple[int, ...] = (8, 6, 3), dtype: str = "float32") -> np.ndarray:
    tensor = empty_tensor((rows, *shape), dtype)
    tensor[:] = np.random.default_rng(rows).integers(0, 255, tensor.shape)
    return tensor


def test_computes_what_the_weights_say(load: Load, weighted: SimpleNamespace) -> None:
    model = load(weighted.path)
    assert model.batch_size == 8
    assert [(o.name, o.dtype, o.shape) for o in model.outputs] == [
        ("features", "float32", (None, 6, 4, 5)),
        ("mean", "float32", (None, 5)),
    ]
    for rows in (1, 4, 8):
        batch = images(rows)
        found = model(batch)
        for name, expected in weighted.expected(batch).items():
            np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("batch_size", "counts"),
    [(1, {1: 1}), (2, {1: 1, 2: 2}), (6, {1: 1, 2: 2, 3: 4, 4: 4, 5: 6, 6: 6}), (8, {1: 1, 3: 4, 5: 8, 8: 8})],
)
def test_rows_are_powers_of_two_up_to_the_batch(
    load: Load, weighted: SimpleNamespace, batch_size: int, counts: dict[int, int]
) -> None:
    model = load(weighted.path, batch_size)
    assert {n: model.rows(n) for n in counts} == counts
    for wrong in (0, batch_size + 1):
        with pytest.raises(ValueError, match="do not fit"):
            model.rows(wrong)


def test_nothing_is_traced_after_loading(
    load: Load, weighted: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tf: Any
) -> None:
    model = load(weighted.path, 7)
    traced: list[Any] = []
    graph = tf.Graph.__init__

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        traced.append(self)
        graph(self, *args, **kwargs)

    monkeypatch.setattr(tf.Graph, "__init__", counted)
    for frames in [*range(1, 8), *range(7, 0, -1)]:
        model(images(model.rows(frames)))
    assert not traced
    tf.function(lambda x: x + 1)(tf.constant(1))
    assert traced  # The counter does count.


def test_every_row_count_is_warmed_up(load: Load, save: Save, tf: Any) -> None:
    seen: list[int] = []

    class Spy(TensorFlowModel):
        def _run(self, tensor: Any) -> Any:
            seen.append(len(tensor))
            return super()._run(tensor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.inference.tensorflow.TensorFlowModel", Spy)
        load(save(lambda image: {"y": image}, [None, 2, 2, 3]), 6)
    assert seen == [1, 2, 4, 6]


def test_a_fixed_batch_is_the_batch_size(load: Load, save: Save) -> None:
    path = save(lambda image: {"y": image * 2}, [4, 2, 2, 3])
    for wanted in (None, 4):
        model = load(path, wanted)
        assert (model.batch_size, [model.rows(n) for n in (1, 3, 4)]) == (4, [4, 4, 4])
    with pytest.raises(
        ModelError, match=r"exactly 4 images at a time, but runtime.batch_size says 8 \(leave batch_size"
    ):
        load(path, 8)
    with pytest.raises(ModelError, match="exactly 1 image at a time"):
        load(save(lambda image: {"y": image}, [1, 2, 2, 3]), 2)


def test_a_batch_that_is_fixed_inside_falls_back_to_one(
    load: Load, save: Save, tf: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fails = save(lambda image: {"y": tf.reshape(image, [1, 12])}, [None, 2, 2, 3])
    merges = save(lambda image: {"y": tf.reshape(image, [1, -1])}, [None, 2, 2, 3])
    for path in (fails, merges):
        caplog.clear()
        model = load(path, 8)
        assert (model.batch_size, model.rows(1)) == (1, 1)
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert "batch size is 1 from here on" in record.message
        batch = images(1, (2, 2, 3))
        np.testing.assert_array_equal(model(batch)["y"], batch.reshape(1, 12))


def test_outputs_without_a_batch_get_one(load: Load, save: Save, tf: Any) -> None:
    def serve(image: Any) -> dict[str, Any]:
        return {"boxes": image[0, 0], "count": tf.reduce_sum(image), "plain": image}

    model = load(save(serve, [1, 5, 4, 3]))
    batch = images(1, (5, 4, 3))
    found = model(batch)
    np.testing.assert_array_equal(found["boxes"], batch[:, 0])
    assert found["count"].shape == (1,)
    assert found["plain"].shape == (1, 5, 4, 3)


def test_a_constant_output_is_an_error_for_a_fixed_batch_and_may_be_left_out(load: Load, save: Save, tf: Any) -> None:
    path = save(lambda image: {"anchors": tf.ones([7, 4]), "y": image}, [2, 2, 2, 3])
    with pytest.raises(ModelError, match=r"output 'anchors' is \[7, 4\] for 2 images.*leave it out"):
        load(path)
    assert list(load(path, outputs=["y"])(images(2, (2, 2, 3)))) == ["y"]


@pytest.mark.parametrize("table", [False, True])
def test_outputs_that_are_not_asked_for_are_not_computed(load: Load, save: Save, tf: Any, table: bool) -> None:
    """Also in a graph that cannot be frozen because it looks something up in a table."""
    keys = tf.lookup.KeyValueTensorInitializer(tf.constant([0, 1], tf.int64), tf.constant([2.0, 3.0]))
    owned = {"table": tf.lookup.StaticHashTable(keys, -1.0)} if table else {}

    def serve(image: Any) -> dict[str, Any]:
        factor = owned["table"].lookup(tf.zeros([], tf.int64)) if table else 2.0
        return {"fine": image * factor, "fails": 1 // tf.cast(image * 0, tf.int32)}

    path = save(serve, [None, 2, 2, 3], **owned)
    with pytest.raises(ModelError, match=r"does not run on .*division by zero"):
        load(path)
    batch = images(2, (2, 2, 3))
    np.testing.assert_array_equal(load(path, outputs=["fine"])(batch)["fine"], batch * 2)


def test_outputs_come_in_the_order_asked_for(load: Load, weighted: SimpleNamespace) -> None:
    model = load(weighted.path, outputs=["mean", "features"])
    assert list(model(images(1))) == [o.name for o in model.outputs] == ["mean", "features"]
    with pytest.raises(ModelError, match=r"has no output 'meen'.*did you mean 'mean'"):
        load(weighted.path, outputs=["meen"])


@pytest.mark.parametrize(("dtype", "fed"), [("uint8", "uint8"), ("int32", "uint8"), ("float16", "float16")])
def test_takes_what_preprocessing_makes(load: Load, save: Save, tf: Any, dtype: str, fed: str) -> None:
    model = load(save(lambda image: {"y": tf.cast(image, tf.float32) / 2}, [None, 2, 2, 3], dtype))
    batch = images(2, (2, 2, 3), fed)
    assert model.input.dtype == dtype
    np.testing.assert_array_equal(model(batch)["y"], batch.astype(np.float32) / 2)


def test_hands_out_float32_and_whole_numbers(load: Load, save: Save, tf: Any) -> None:
    def serve(image: Any) -> dict[str, Any]:
        kinds = [tf.bfloat16, tf.float16, tf.float64, tf.int32, tf.int64, tf.bool]
        return {kind.name: tf.cast(image, kind) for kind in kinds} | {"text": tf.as_string(image[:, 0, 0, 0])}

    path = save(serve, [None, 2, 2, 3])
    model = load(path)
    batch = images(2, (2, 2, 3))
    found = {name: array.dtype.name for name, array in model(batch).items()}
    assert found == {
        "bfloat16": "float32",
        "bool": "bool",
        "float16": "float32",
        "float64": "float32",
        "int32": "int32",
        "int64": "int64",
    }
    assert {o.name: o.dtype for o in model.outputs} == found
    with pytest.raises(ModelError, match="output 'text' is string, not numbers"):
        load(path, outputs=["text"])


def test_numbers_in_the_names_of_outputs_count_up(load: Load, save: Save, tf: Any) -> None:
    model = load(save(lambda image: {f"Identity_{i}": image for i in (10, 9, 2)} | {"Identity": image}, [1, 2, 2, 3]))
    assert [o.name for o in model.outputs] == ["Identity", "Identity_2", "Identity_9", "Identity_10"]


def test_a_call_does_little_in_python(load: Load, weighted: SimpleNamespace) -> None:
    """TensorFlow has slow ways to call a function: one prints its argument, 15,000 calls in Python."""
    model, batch, calls = load(weighted.path), images(8), 0
    model(batch)

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        model(batch)
    finally:
        sys.setprofile(None)
    assert 0 < calls < 300


def test_takes_and_hands_out_memory_without_copies(load: Load, save: Save, tf: Any) -> None:
    model = load(save(lambda image: {"same": image, "double": image * 2}, [None, 2, 2, 3]))
    batch = images(2, (2, 2, 3))
    found = model(batch)
    assert np.shares_memory(found["same"], batch)
    assert not any(a.flags.owndata for a in found.values())
    del batch  # What shares memory keeps it alive.
    np.testing.assert_array_equal(found["double"], found["same"] * 2)


@pytest.mark.parametrize("kind", ["unaligned", "reversed", "read-only"])
def test_takes_any_array(load: Load, weighted: SimpleNamespace, kind: str) -> None:
    batch = images(2)
    if kind == "unaligned":
        shifted = np.zeros(batch.nbytes + 65, np.uint8)
        start = -shifted.ctypes.data % 64 + 4
        other = shifted[start : start + batch.nbytes].view(np.float32).reshape(batch.shape)
        other[:] = batch
    elif kind == "reversed":
        other = batch[::-1].copy()[::-1]
    else:
        other = batch.copy()
        other.flags.writeable = False
    model = load(weighted.path)
    np.testing.assert_array_equal(model(other)["mean"], model(batch)["mean"])


def test_an_open_size_is_fixed_by_the_configuration(load: Load, save: Save, tf: Any) -> None:
    path = save(lambda image: {"y": tf.reduce_mean(image, [1, 2])}, [None, None, None, 3])
    model = load(path, preprocess=Preprocess(size=(6, 4)))
    assert model.input.shape == (None, 4, 6, 3)
    with pytest.raises(ModelError, match="leaves its size open"):
        load(path, preprocess=Preprocess())
    late = load(path, 2)
    batch = images(2, (5, 7, 3))
    np.testing.assert_allclose(late(batch)["y"], batch.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(late(images(2, (9, 2, 3)))["y"], images(2, (9, 2, 3)).mean((1, 2)), rtol=1e-5)


def test_the_configuration_is_checked_before_the_weights_are_loaded(
    load: Load, weighted: SimpleNamespace, tf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tf.saved_model, "load", lambda *a, **k: pytest.fail("loaded"))
    with pytest.raises(ModelError, match="6x8"):
        load(weighted.path, preprocess=Preprocess(size=(640, 640)))


def test_a_tensor_that_does_not_fit_is_told(load: Load, weighted: SimpleNamespace) -> None:
    model = load(weighted.path)
    for wrong in (images(2, (8, 6, 4)), images(2, dtype="uint8"), images(2, (6, 8, 3)), images(2, (8, 6))):
        with pytest.raises(ModelError, match=r"takes \[N, 8, 6, 3\] float32, not \[2, "):
            model(wrong)


def test_errors_while_running_are_one_sentence(load: Load, save: Save, tf: Any) -> None:
    model = load(save(lambda image: {"y": image[:, 0], "z": 1 // (1 - tf.cast(image, tf.int32))}, [None, 2, 2, 3]))
    with pytest.raises(ModelError) as caught:
        model(np.ones((2, 2, 2, 3), np.float32))
    assert str(caught.value) == f"model {model.name}: does not run on [2, 2, 2, 3] float32: Integer division by zero"


def test_too_little_memory_is_told_with_a_remedy(
    load: Load, weighted: SimpleNamespace, tf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow tries for ten seconds before it gives up, so its error is made here."""
    model = load(weighted.path)

    def exhausted(tensor: Any) -> Any:
        raise tf.errors.ResourceExhaustedError(
            None, None, "Graph execution error:\n\nOOM when allocating tensor\nHint: x"
        )

    monkeypatch.setattr(model, "_function", exhausted)
    for run in (lambda: model(images(1)), lambda: model.warm_up((8, 6, 3))):
        with pytest.raises(ModelError, match=r"OOM when allocating tensor \(choose a smaller runtime.batch_size\)"):
            run()


def test_a_closed_model_says_so(load: Load, weighted: SimpleNamespace) -> None:
    model = load(weighted.path)
    model.close()
    model.close()
    with pytest.raises(ModelError, match="closed"):
        model(images(1))


def test_the_name_holds_the_hash_of_the_content(load: Load, weighted: SimpleNamespace) -> None:
    name, _, digest = load(weighted.path).name.partition("@")
    assert name == "tiny"
    assert len(digest) == 12
    int(digest, 16)
