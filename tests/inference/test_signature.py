from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.stages import Preprocess
from pipeline.errors import ModelError
from pipeline.inference.signature import ModelDescription, resolve_input
from pipeline.stages import TensorInfo


def image(*shape: int | None, dtype: str = "float32") -> TensorInfo:
    return TensorInfo("image", dtype, shape)


def resolve(info: TensorInfo, **fields: Any) -> Preprocess:
    return resolve_input(info, Preprocess(**fields), model="m")


def test_importing_the_package_does_not_import_tensorflow() -> None:
    code = "import sys, pipeline.inference; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("shape", "size", "layout"),
    [
        ((None, 300, 400, 3), (400, 300), "nhwc"),
        ((1, 3, 416, 320), (320, 416), "nchw"),
        ((None, 3, 416, None), (320, 416), "nchw"),
    ],
)
def test_takes_size_and_layout_from_the_model(shape: Any, size: Any, layout: str) -> None:
    found = resolve(image(*shape), size=size if None in shape[1:] else None)
    assert (found.size, found.layout, found.dtype, found.channels) == (size, layout, "float32", "rgb")


@given(st.sampled_from(["nhwc", "nchw"]), st.integers(4, 5000), st.integers(4, 5000), st.sampled_from([1, 3]))
def test_finds_any_size_in_any_layout(layout: str, width: int, height: int, channels: int) -> None:
    shape = (None, channels, height, width) if layout == "nchw" else (None, height, width, channels)
    found = resolve(image(*shape))
    assert (found.size, found.layout) == ((width, height), layout)
    assert found.channels == ("gray" if channels == 1 else "rgb")


@pytest.mark.parametrize(
    ("dtype", "fed"),
    [("uint8", "uint8"), ("int32", "uint8"), ("float16", "float16"), ("bfloat16", "float32"), ("float64", "float32")],
)
def test_feeds_what_the_model_takes(dtype: str, fed: str) -> None:
    assert resolve(image(None, 8, 8, 3, dtype=dtype)).dtype == fed


def test_keeps_what_fits_and_everything_else() -> None:
    given = {"size": (300, 200), "layout": "nhwc", "dtype": "float32", "channels": "bgr", "mean": (1.0, 2.0, 3.0)}
    found = resolve(image(None, 200, 300, 3), fit="crop", **given)
    assert found.model_dump() == Preprocess(fit="crop", **given).model_dump()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("info", "fields", "words"),
    [
        (
            image(None, 300, 300, 3),
            {"size": (640, 480)},
            ["model m", "'image' is 300x300 (width x height)", "size says 640x480", "leave size out"],
        ),
        (image(None, 300, None, 3), {"size": (640, 480)}, ["anyx300", "640x480"]),
        (image(None, None, None, 3), {}, ["leaves its size open", "set pipeline.preprocess.size"]),
        (image(None, None, 200, 3), {}, ["200xany"]),
        (image(None, 3, 300, 3), {}, ["[N, 3, 300, 3]", "first or last", "pipeline.preprocess.layout"]),
        (image(None, None, None, None), {"size": (8, 8)}, ["[N, ?, ?, ?]", "layout"]),
        (image(None, 3, 300, 300), {"layout": "nhwc"}, ["that is nchw", "layout says nhwc"]),
        (image(None, 300, 300, 4), {"layout": "nhwc"}, ["takes 4 channels"]),
        (image(None, 64, 64, 1), {"channels": "bgr"}, ["1 channel", "says bgr", "set channels to gray"]),
        (image(None, 64, 64, 1), {"mean": (1.0, 2.0, 3.0)}, ["1 channel", "one number each"]),
        (image(None, 64, 64, 3), {"channels": "gray"}, ["3 channels", "says gray"]),
        (image(None, 64, 64, 3, dtype="uint8"), {"dtype": "float32"}, ["takes uint8", "dtype says float32"]),
        (image(None, 64, 64, 3, dtype="int32"), {"dtype": "float32"}, ["takes int32 and is given uint8"]),
        (
            image(None, 64, 64, 3, dtype="uint8"),
            {"scale": 0.5, "mean": 3.0},
            ["pixels as they are", "pipeline.preprocess.scale and pipeline.preprocess.mean", "leave out scale, mean"],
        ),
        (image(None, 1000), {}, ["2 dimensions [N, 1000]", "a batch of images has 4"]),
        (image(None, 64, 64, 3, dtype="string"), {}, ["takes string, not pixels"]),
    ],
)
def test_says_what_does_not_fit(info: TensorInfo, fields: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        resolve(info, **fields)
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_shape_takes_what_the_configuration_says() -> None:
    found = resolve(TensorInfo("x", "uint8", None), size=(32, 16), layout="nchw", channels="gray")
    assert (found.size, found.layout, found.dtype, found.channels) == ((32, 16), "nchw", "uint8", "gray")


def describe(*inputs: TensorInfo) -> ModelDescription:
    return ModelDescription("saved_model", Path("m"), inputs, (), "serving_default", ("serving_default",))


def test_the_only_input_is_the_image() -> None:
    assert describe(image(None, 8, 8, 3)).image(None, model="m").name == "image"
    assert describe(TensorInfo("x:0", "float32", None)).image("x", model="m").name == "x:0"


@pytest.mark.parametrize(
    ("inputs", "wanted", "words"),
    [
        ((image(None, 8, 8, 3),), "imgae", ["no input 'imgae'", "did you mean 'image'?"]),
        ((image(None, 8, 8, 3), TensorInfo("rate", "float32", ())), None, ["further inputs", "rate float32 []"]),
        ((image(None, 8, 8, 3), TensorInfo("b", "float32", (None, 4, 4, 3))), None, ["cannot tell which", "b float32"]),
        ((), None, ["cannot tell which", "none"]),
    ],
)
def test_says_why_no_input_can_be_chosen(inputs: Any, wanted: str | None, words: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        describe(*inputs).image(wanted, model="m")
    for word in words:
        assert word in str(caught.value)


def test_a_description_reads_well() -> None:
    text = str(describe(image(None, 8, None, 3), TensorInfo("y", "int64", None)))
    assert text.splitlines()[1:] == ["inputs:", "  image float32 [N, 8, ?, 3]", "  y int64 of any shape", "outputs:"]
    assert "SavedModel, signature serving_default" in text
