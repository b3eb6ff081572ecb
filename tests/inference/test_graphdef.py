from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ModelError
from pipeline.inference import TensorFlowModel, describe_model
from pipeline.stages import TensorInfo, empty_tensor

Load = Callable[..., TensorFlowModel]


@pytest.fixture(scope="module")
def write(tf: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def write(build: Callable[[Any], None]) -> Path:
        graph = tf.Graph()
        with graph.as_default():
            build(tf.compat.v1)
        path = tmp_path_factory.mktemp("graph") / "frozen.pb"
        path.write_bytes(graph.as_graph_def().SerializeToString())
        return path

    return write


@pytest.fixture(scope="module")
def frozen(tf: Any, write: Callable[..., Path]) -> Path:
    """sum = 2 * image over all but the batch; parts = the image in two; `rate` feeds only `scaled`."""

    def build(v1: Any) -> None:
        image = v1.placeholder(tf.float32, [None, 4, 2, 3], name="image")
        rate = v1.placeholder(tf.float32, [], name="rate")
        learning = v1.placeholder_with_default(False, [], name="learning")
        tf.reduce_sum(image * 2, [1, 2, 3], name="sum")
        tf.split(image, 2, axis=1, name="parts")
        tf.cond(learning, lambda: image * rate, lambda: image * rate, name="scaled")

    return write(build)


def test_runs_the_outputs_that_are_named(load: Load, frozen: Path) -> None:
    model = load(frozen, outputs=["parts:1", "sum"])
    assert model.input == TensorInfo("image", "float32", (None, 4, 2, 3))
    assert model.outputs[0] == TensorInfo("parts:1", "float32", (None, 2, 2, 3))
    batch = empty_tensor((2, 4, 2, 3), "float32")
    batch[:] = np.arange(48).reshape(batch.shape)
    found = model(batch)
    np.testing.assert_array_equal(found["sum"], batch.sum((1, 2, 3)) * 2)
    np.testing.assert_array_equal(found["parts:1"], batch[:, 2:])
    assert load(frozen, input="image:0", outputs=["sum:0"]).outputs[0].name == "sum:0"


def test_asks_for_outputs_and_lists_them(load: Load, frozen: Path) -> None:
    found = describe_model(frozen)
    assert [i.name for i in found.inputs] == ["image", "rate"]
    assert [o.name for o in found.outputs][:3] == ["sum", "parts", "parts:1"]
    with pytest.raises(ModelError) as caught:
        load(frozen, input="image", outputs=None)
    assert "further inputs" in str(caught.value)


def test_lists_candidates_where_outputs_are_missing(load: Load, write: Callable[..., Path], tf: Any) -> None:
    def build(v1: Any) -> None:
        image = v1.placeholder(tf.uint8, None, name="image")
        for i in range(25):
            tf.identity(image, name=f"out{i}")

    path = write(build)
    with pytest.raises(ModelError) as caught:
        load(path)
    text = str(caught.value)
    assert "placeholders: image uint8 of any shape; nothing consumes: out0 uint8 of any shape, out1" in text
    assert "and 5 more" in text
    assert "name them in pipeline.model.outputs" in text


def test_wrong_names(load: Load, frozen: Path) -> None:
    for name in ("summ", "sum:1", "sum:x"):
        with pytest.raises(ModelError, match=rf"has no tensor '{name}' \(outputs may be: sum float32 \[N\], parts"):
            load(frozen, outputs=[name])
    with pytest.raises(ModelError, match="has no input 'rate', only 'image'"):
        load(frozen, input="rate", outputs=["sum"])


def test_runs_the_loops_of_older_graphs(load: Load, write: Callable[..., Path], tf: Any) -> None:
    def build(v1: Any) -> None:
        v1.disable_control_flow_v2()
        try:
            image = v1.placeholder(tf.float32, [None, 2, 2, 3], name="image")
            step = lambda i, x: (i + 1, x * 2)  # noqa: E731
            _, out = v1.while_loop(lambda i, x: i < 5, step, [tf.constant(0), image])
            tf.identity(out, name="out")
            assert any(op.type == "Enter" for op in v1.get_default_graph().get_operations())
        finally:
            v1.enable_control_flow_v2()

    model = load(write(build), outputs=["out"])
    batch = empty_tensor((3, 2, 2, 3), "float32")
    batch[:] = 1.5
    for rows in (1, 3):
        np.testing.assert_array_equal(model(batch[:rows])["out"], batch[:rows] * 32)


def test_a_graph_with_variables_is_not_frozen(load: Load, write: Callable[..., Path], tf: Any) -> None:
    def build(v1: Any) -> None:
        image = v1.placeholder(tf.float32, [None, 2, 2, 3], name="image")
        tf.multiply(image, v1.get_variable("w", [3], use_resource=False), name="out")

    with pytest.raises(ModelError, match="is not frozen"):
        load(write(build), outputs=["out"])


def test_python_code_is_refused(load: Load, write: Callable[..., Path], tf: Any) -> None:
    def build(v1: Any) -> None:
        image = v1.placeholder(tf.float32, [None, 2, 2, 3], name="image")
        v1.py_func(lambda x: x, [image], tf.float32, name="out")

    with pytest.raises(ModelError, match="calls Python code"):
        load(write(build), outputs=["out"])


def test_damaged_files(load: Load, frozen: Path, tmp_path: Path, tf: Any) -> None:
    content = frozen.read_bytes()
    path = tmp_path / "cut.pb"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="neither a GraphDef nor another model, or damaged"):
        load(path, outputs=["sum"])
    graph = tf.compat.v1.GraphDef()
    graph.versions.producer = 1
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match="without nodes"):
        load(path, outputs=["sum"])
    graph.ParseFromString(content)
    del graph.node[0]
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match="damaged or incomplete") as caught:
        load(path, outputs=["sum"])
    assert "\n" not in str(caught.value)
