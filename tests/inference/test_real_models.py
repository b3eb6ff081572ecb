from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.config.models import Config
from pipeline.config.stages import ModelSource, Preprocess
from pipeline.inference import TensorFlowModel, describe_model, load_model, resolve_input, suggest_yaml
from pipeline.stages import empty_tensor

pytestmark = pytest.mark.assets

# Name -> size asked for, size, layout, type of the pixels, channels, batch size, family that is suggested.
MODELS = {
    "coco_ssd_core": (None, (300, 300), "nhwc", "float32", "rgb", 3, "ssd"),
    "coco_ssd_od": ((320, 240), (320, 240), "nhwc", "uint8", "rgb", 3, "od_api"),
    "nanodet": (None, (416, 416), "nchw", "float32", "rgb", 3, "gfl"),
    "emotion": (None, (64, 64), "nhwc", "float32", "gray", 3, "classify"),
    "movenet-lightning": (None, (192, 192), "nhwc", "uint8", "rgb", 1, "pose"),
    "selfie": (None, (256, 256), "nhwc", "float32", "rgb", 1, "segment"),
}


def load(path: Path, preprocess: Preprocess, batch_size: int | None) -> TensorFlowModel:
    settings = ModelSource(path=str(path))
    return load_model(path, settings, name="m", batch_size=batch_size, preprocess=preprocess)


@pytest.mark.parametrize("name", MODELS)
def test_runs_the_same_alone_and_in_a_batch(assets: Path, name: str) -> None:
    asked, size, layout, dtype, channels, batch_size, family = MODELS[name]
    path = assets / "models" / name
    config = Config.model_validate(yaml.safe_load(suggest_yaml(describe_model(path))))
    assert config.pipeline.postprocess.family == family

    given = Preprocess(size=asked)
    model = load(path, given, None if batch_size == 1 else batch_size)
    found = resolve_input(model.input, given, model=name)
    assert (found.size, found.layout, found.dtype, found.channels) == (size, layout, dtype, channels)
    assert model.batch_size == batch_size

    depth = 1 if channels == "gray" else 3
    shape = (size[1], size[0], depth) if layout == "nhwc" else (depth, size[1], size[0])
    images = empty_tensor((batch_size, *shape), dtype)
    values = np.random.default_rng(0).integers(0, 256, images.shape)
    images[:] = values if dtype == "uint8" else values / 127.5 - 1

    alone = [model(images[i : i + 1]) for i in range(batch_size)]
    for frames in range(1, batch_size + 1):
        rows = model.rows(frames)
        together = model(images[:rows])
        assert list(together) == [o.name for o in model.outputs]
        for output, array in together.items():
            assert array.shape[0] == rows
            for i in range(rows):
                np.testing.assert_allclose(array[i : i + 1], alone[i][output], rtol=2e-3, atol=2e-4)


def test_constants_give_the_same_as_the_model_itself(assets: Path) -> None:
    import tensorflow as tf

    path = assets / "models" / "nanodet"
    model = load(path, Preprocess(), 2)
    images = empty_tensor((2, 3, 416, 416), "float32")
    images[:] = np.random.default_rng(1).normal(size=images.shape)
    expected = tf.saved_model.load(str(path)).signatures["serving_default"](input_1=tf.constant(images))
    for output, array in model(images).items():
        np.testing.assert_allclose(array, expected[output], rtol=1e-3, atol=1e-4)
