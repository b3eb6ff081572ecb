from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.stages import ModelSource
from pipeline.errors import ModelError
from pipeline.inference import TensorFlowModel, describe_model
from pipeline.stages import TensorInfo

Load = Callable[..., TensorFlowModel]
Save = Callable[..., Path]


@pytest.fixture
def copied(weighted: SimpleNamespace, tmp_path: Path) -> Path:
    """A SavedModel to damage."""
    return Path(shutil.copytree(weighted.path, tmp_path / "copy"))


def test_describes_without_loading_weights(copied: Path) -> None:
    shutil.rmtree(copied / "variables")
    found = describe_model(copied)
    assert (found.format, found.signature, found.signatures) == (
        "saved_model",
        "serving_default",
        ("serving_default",),
    )
    assert found.inputs == (TensorInfo("image", "float32", (None, 8, 6, 3)),)
    assert found.outputs[1] == TensorInfo("mean", "float32", (None, 5))


@pytest.fixture(scope="module")
def two_signatures(tf: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = tf.Module()
    one = tf.function(lambda image: {"sum": tf.reduce_sum(image, [1, 2, 3])})
    two = tf.function(lambda image, rate: {"scaled": image * rate})
    image, rate = tf.TensorSpec([None, 2, 2, 3], name="image"), tf.TensorSpec([], name="rate")
    path = tmp_path_factory.mktemp("two") / "model"
    signatures = {"total": one.get_concrete_function(image), "scaled": two.get_concrete_function(image, rate)}
    tf.saved_model.save(module, str(path), signatures=signatures)
    return path


def test_runs_any_signature(load: Load, two_signatures: Path) -> None:
    assert [o.name for o in load(two_signatures, signature="total").outputs] == ["sum"]
    with pytest.raises(ModelError, match=r"no signature 'totals', only 'scaled', 'total' \(did you mean 'total'\?\)"):
        load(two_signatures, signature="totals")
    with pytest.raises(ModelError, match=r"needs further inputs besides the image 'image'.*rate float32"):
        load(two_signatures, signature="scaled")


def test_a_model_without_signatures(tf: Any, load: Load, tmp_path: Path) -> None:
    tf.saved_model.save(tf.Module(), str(tmp_path / "bare"))
    with pytest.raises(ModelError, match=r"has no signatures.*save it with one"):
        load(tmp_path / "bare")


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_truncated_graph(load: Load, copied: Path, kept: float) -> None:
    file = copied / "saved_model.pb"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ModelError, match="damaged or incomplete") as caught:
        load(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["no folder", "no data", "no index", "empty data", "noise in the index"])
def test_damaged_weights(load: Load, copied: Path, damage: str) -> None:
    data, index = copied / "variables/variables.data-00000-of-00001", copied / "variables/variables.index"
    if damage == "no folder":
        shutil.rmtree(copied / "variables")
    elif damage == "no data":
        data.unlink()
    elif damage == "no index":
        index.unlink()
    elif damage == "empty data":
        data.write_bytes(b"")
    else:
        index.write_bytes(b"\xff" * index.stat().st_size)
    with pytest.raises(ModelError, match=r"cannot be loaded: .*saved_model.pb and variables/; copy") as caught:
        load(copied)
    assert "\n" not in str(caught.value)


def test_python_code_in_the_graph_is_refused(tf: Any, load: Load, save: Save) -> None:
    ran: list[int] = []

    def serve(image: Any) -> dict[str, Any]:
        def python(x: Any) -> Any:
            ran.append(1)
            return x

        return {"y": tf.ensure_shape(tf.py_function(python, [image], tf.float32), [None, 2, 2, 3])}

    path = save(serve, [None, 2, 2, 3])
    ran.clear()
    for use in (load, describe_model):
        with pytest.raises(ModelError, match=r"calls Python code.*EagerPyFunc.*not run"):
            use(path)
    assert not ran


def test_an_unknown_op_is_named(load: Load, copied: Path) -> None:
    file = copied / "saved_model.pb"
    content = file.read_bytes()
    assert b"Conv2D" in content
    file.write_bytes(content.replace(b"Conv2D", b"Konv2X"))
    with pytest.raises(ModelError, match="ops that TensorFlow does not have: Konv2X"):
        load(copied)


def test_the_settings_name_the_model_in_messages(copied: Path) -> None:
    with pytest.raises(ModelError, match="model mine: has no signature 'x'"):
        describe_model(copied, ModelSource(path=str(copied), name="mine", signature="x"))
