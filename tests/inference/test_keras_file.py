from __future__ import annotations

import json
import zipfile
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
def keras(tf: Any) -> Any:
    import keras

    return keras


@pytest.fixture(scope="module")
def network(keras: Any) -> Any:
    """Two outputs, with batch normalisation that has seen something."""
    keras.utils.set_random_seed(3)
    image = keras.Input((6, 6, 3), name="picture")
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    norm = keras.layers.BatchNormalization(name="norm")
    x = norm(x)
    norm.set_weights([np.linspace(0.5, 2, 4) + i for i in range(4)])
    return keras.Model(image, [keras.layers.Dense(2, name="head")(x), keras.layers.Flatten(name="flat")(x)])


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_runs_what_keras_saved(load: Load, network: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"network{suffix}"
    network.save(path)
    model = load(path, 4)
    assert model.input == TensorInfo("picture", "float32", (None, 6, 6, 3))
    assert [o.name for o in model.outputs] == ["head", "flat"]
    batch = empty_tensor((4, 6, 6, 3), "float32")
    batch[:] = np.random.default_rng(1).normal(size=batch.shape)
    expected = network(batch, training=False)
    for array, tensor in zip(model(batch).values(), expected, strict=True):
        np.testing.assert_allclose(array, tensor, rtol=1e-4, atol=1e-4)
    assert list(load(path, outputs=["flat"])(batch[:1])) == ["flat"]


def test_outputs_are_called_as_keras_calls_them(keras: Any, tmp_path: Path) -> None:
    image = keras.Input((4, 4, 1), name="x")
    flat = keras.layers.Flatten(name="f")(image)
    models = {
        "dictionary": (keras.Model(image, {"b": flat, "a": flat}), ["a", "b"]),
        "single": (keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(name="last")]), ["last"]),
        "twice": (keras.Model(image, [flat, flat]), ["output_0", "output_1"]),
    }
    for name, (model, expected) in models.items():
        path = tmp_path / f"{name}.keras"
        model.save(path)
        found = describe_model(path)
        assert sorted(o.name for o in found.outputs) == expected
        assert found.outputs[0].shape == (None, 16)


def test_two_inputs_are_described_but_not_run(keras: Any, load: Load, tmp_path: Path) -> None:
    a, b = keras.Input((4, 4, 3), name="a"), keras.Input((2,), name="b")
    keras.Model([a, b], [keras.layers.Flatten(name="f")(a), keras.layers.Dense(2, name="d")(b)]).save(
        tmp_path / "m.keras"
    )
    assert [i.name for i in describe_model(tmp_path / "m.keras").inputs] == ["a", "b"]
    with pytest.raises(ModelError, match=r"further inputs besides the image 'a'.*b float32"):
        load(tmp_path / "m.keras")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_lambda_runs_only_if_trusted(keras: Any, load: Load, tmp_path: Path, suffix: str) -> None:
    image = keras.Input((4, 4, 3))
    path = tmp_path / f"code{suffix}"
    keras.Model(image, keras.layers.Lambda(lambda x: x * 2, output_shape=(4, 4, 3), name="double")(image)).save(path)
    for use in (load, describe_model):
        with pytest.raises(ModelError, match=r"Lambda layer, which runs Python code.*set pipeline.model.trust to true"):
            use(path)
    batch = empty_tensor((1, 4, 4, 3), "float32")
    batch[:] = 3
    np.testing.assert_array_equal(load(path, trust=True)(batch)["double"], batch * 2)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"class_name": "Mine", "module": "os.path", "config": {}}, "the Python class os.path.Mine"),
        ({"class_name": "Mine", "module": None, "registered_name": "Custom>Mine"}, "the Python class Custom>Mine"),
        ({"class_name": "function", "module": "builtins", "config": "exec"}, "the Python function exec"),
        ({"class_name": "__lambda__", "config": {}}, "lambda function"),
        ({"class_name": "TorchModuleWrapper", "config": {}}, "TorchModuleWrapper layer"),
    ],
)
def test_code_deep_inside_is_refused_before_keras_sees_it(
    keras: Any, load: Load, tmp_path: Path, part: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.models, "load_model", lambda *a, **k: pytest.fail("Keras has seen it"))
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Functional", "config": {"layers": [[{"x": part}]]}}))
    with pytest.raises(ModelError, match=words):
        load(path)


def test_damaged_and_partial_files(keras: Any, network: Any, load: Load, tmp_path: Path) -> None:
    network.save(tmp_path / "m.keras")
    network.save(tmp_path / "m.h5")
    network.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ModelError, match="holds weights without the model"):
        load(tmp_path / "m.weights.h5")
    h5 = (tmp_path / "m.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(h5[: len(h5) // 2])
    with pytest.raises(ModelError, match="damaged or incomplete") as caught:
        load(tmp_path / "cut.h5")
    assert "\n" not in str(caught.value)
    with zipfile.ZipFile(tmp_path / "m.keras") as whole, zipfile.ZipFile(tmp_path / "cut.keras", "w") as cut:
        cut.writestr("config.json", whole.read("config.json"))
        cut.writestr("metadata.json", whole.read("metadata.json"))
    with pytest.raises(ModelError, match=r"cannot be loaded: .*model\.export"):
        load(tmp_path / "cut.keras")
    with zipfile.ZipFile(tmp_path / "noise.keras", "w") as noise:
        noise.writestr("config.json", "{")
    with pytest.raises(ModelError, match="damaged or incomplete"):
        load(tmp_path / "noise.keras")


def test_a_model_without_an_input_shape(keras: Any, load: Load, tmp_path: Path) -> None:
    keras.Sequential([keras.layers.Flatten()]).save(tmp_path / "m.keras")
    with pytest.raises(ModelError, match="does not state its input shape"):
        load(tmp_path / "m.keras")


def test_another_backend_is_told(
    keras: Any, network: Any, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network.save(tmp_path / "m.keras")
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ModelError, match="already runs on torch"):
        load(tmp_path / "m.keras")
