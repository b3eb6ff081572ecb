"""Class maps, against a slow rendering of the rules, pixel by pixel."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postprocess_cases import SEGMENT_OPTIONS, SIZE, make_segment_case, segment_options_for

from pipeline.errors import ConfigError, ModelError
from pipeline.frames import Window
from pipeline.masks import NO_CLASS


def segment(tools, values, batch=None, **fields):
    values = np.asarray(values)
    batch = batch or tools.batch(len(values))
    return tools.build({"o": values}, batch.model_size, family="segment", **fields)({"o": values}, batch).segmentations


def test_one_channel_has_a_threshold(tools):
    values = np.array([[[0.2, 0.5], [0.49, 1.0]]], np.float32)[..., None]
    for given_values in (values, values[..., 0], values.astype(np.float64)):
        assert segment(tools, given_values).classes.tolist() == [[[NO_CLASS, 0], [NO_CLASS, 0]]]
    assert segment(tools, values, score_threshold=0.6).classes.tolist() == [[[NO_CLASS, NO_CLASS], [NO_CLASS, 0]]]
    logits = np.log(values / (1 - np.minimum(values, 0.999)))
    assert segment(tools, logits, activation="sigmoid").classes.tolist() == [[[NO_CLASS, 0], [NO_CLASS, 0]]]


def test_several_channels_take_the_largest(tools):
    values = np.array([[[[1, 5, 2], [7, 7, 7]], [[-3, -2, -1], [0, 0, 9]]]], np.float32)
    assert segment(tools, values).classes.tolist() == [[[1, 0], [2, 2]]]
    found = segment(tools, values, background=True, class_offset=1, labels=["-", "cat", "dog"])
    assert found.classes.tolist() == [[[0, NO_CLASS], [1, 1]]]
    assert found.frame(0).found() == [("dog", 2, 0.5), ("cat", 1, 0.25)]
    assert segment(tools, values, classes=["dog"], labels=["a", "b", "dog"]).classes.tolist() == [
        [[NO_CLASS, NO_CLASS], [2, 2]]
    ]
    assert segment(tools, values, activation="softmax", score_threshold=0.9).classes.tolist() == [
        [[1, NO_CLASS], [NO_CLASS, 2]]
    ]
    first = np.moveaxis(values, -1, 1)
    assert segment(tools, first, layout="nchw").classes.tolist() == [[[1, 0], [2, 2]]]


def test_class_numbers_stay_what_they_are(tools):
    values = np.array([[[0, 1, 15], [255, -1, 254]]])
    assert segment(tools, values).classes.tolist() == [[[0, 1, 15], [NO_CLASS, NO_CLASS, 254]]]
    assert segment(tools, values, background=True).classes.tolist() == [[[NO_CLASS, 0, 14], [NO_CLASS, NO_CLASS, 253]]]
    small = values[..., None].astype(np.uint8)
    assert segment(tools, small).classes.tolist() == [[[0, 1, 15], [NO_CLASS, NO_CLASS, 254]]]


def slow(case, frame, row, column):
    """The number in the class map of one cell."""
    config, output = case.config, case.outputs["o"][frame]
    whole = output.dtype.kind in "iu"
    numbers = [int(output[row, column])] if whole else [float(np.float32(v)) for v in np.atleast_1d(
        output[:, row, column] if config.layout == "nchw" else output[row, column]
    )]  # fmt: skip
    rows, columns = output.shape[1:] if config.layout == "nchw" and not whole else output.shape[:2]
    window = case.batch.windows[frame] if case.batch.windows else None
    if window is not None:
        x = math.floor((column + 0.5) * SIZE[0] / columns) - window.left
        y = math.floor((row + 0.5) * SIZE[1] / rows) - window.top
        if not (0 <= x < window.width and 0 <= y < window.height):
            return NO_CLASS
        if window.hidden is not None and window.hidden[y, x]:
            return NO_CLASS
    if whole:
        channel = numbers[0] if 0 <= numbers[0] < 255 else None
    else:
        if any(math.isnan(v) for v in numbers) or not math.isfinite(max(numbers)):
            return NO_CLASS
        channel = numbers.index(max(numbers))
        best = numbers[channel]
        least = config.score_threshold
        if least is None and len(numbers) == 1:
            least = 0.5
        probability = {
            "none": best,
            "sigmoid": 1 / (1 + math.exp(-best)),
            "softmax": 1 / math.fsum(math.exp(v - best) for v in numbers),
        }[config.activation]
        if least is not None:
            assert abs(probability - least) > 1e-6 or probability == least
            if probability < np.float32(least):
                return NO_CLASS
    if channel is None or (config.background and channel == 0):
        return NO_CLASS
    number = channel - config.background
    return number if config.classes is None or number + config.class_offset in config.classes else NO_CLASS


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 3, 21]),
    st.integers(0, 2),
    st.sampled_from(["float32", "float16", "float64", "int64", "uint8"]),
    SEGMENT_OPTIONS,
)
def test_equals_a_slow_rendering(seed, channels, frames, dtype, options):
    options = segment_options_for(options, channels, dtype)
    case = make_segment_case(seed, channels=channels, frames=frames, dtype=dtype, options=options)
    found = case.reference().segmentations
    assert found.classes.shape == (frames, 6, 5)
    assert found.classes.dtype == np.uint8
    for frame in range(frames):
        expected = [[slow(case, frame, row, column) for column in range(5)] for row in range(6)]
        assert found.classes[frame].tolist() == expected
    np.testing.assert_allclose(
        found.transforms, case.batch.transforms * [5 / SIZE[0], 6 / SIZE[1], 5 / SIZE[0], 6 / SIZE[1]]
    )


def test_padding_around_a_region_of_interest_has_no_class(tools):
    """A map as large as the model's input, and a coarser one, whose cells count by their middle."""
    hidden = np.zeros((4, 6), bool)
    hidden[0, 0] = True
    batch = replace(tools.batch(1, (8, 8)), windows=(Window(1, 2, 6, 4, hidden),))
    found = segment(tools, np.ones((1, 8, 8)), batch).classes[0] == 0
    expected = np.zeros((8, 8), bool)
    expected[2:6, 1:7] = True
    expected[2, 1] = False
    np.testing.assert_array_equal(found, expected)
    coarse = segment(tools, np.ones((1, 4, 4)), batch).classes[0] == 0
    np.testing.assert_array_equal(coarse, expected[1::2, 1::2])


@pytest.mark.parametrize(
    ("shape", "fields", "words"),
    [
        ((None, 5), {}, r"\[N, H, W, C\] or \[N, H, W\] is needed"),
        ((None, 5), {"layout": "nchw"}, r"\[N, C, H, W\] or \[N, H, W\] is needed"),
        ((None, 8, 8, 256), {}, "at most 255 classes fit"),
        ((None, 8, 8, 1), {"background": True}, "background needs a channel per class"),
        ((None, 8, 8), {"activation": "softmax"}, "softmax needs a channel per class"),
    ],
)
def test_shapes_that_do_not_fit(tools, shape, fields, words):
    with pytest.raises(ModelError, match=words):
        tools.build({"o": shape}, family="segment", **fields)


def test_other_errors(tools):
    with pytest.raises(ConfigError, match=r"no class is called 'cta'.*did you mean 'cat'"):
        tools.build({"o": (None, 8, 8, 2)}, family="segment", labels=["dog", "cat"], classes=["cta"])
    with pytest.raises(ModelError, match="a score of 3"):
        segment(tools, np.full((1, 2, 2, 1), 3.0))
    with pytest.raises(ModelError, match="has 1 rows for a batch of 2 frames"):
        segment(tools, np.zeros((1, 2, 2, 1)), tools.batch(2))
    assert segment(tools, np.full((1, 2, 2, 2), 3.0)).classes.tolist() == [[[0, 0], [0, 0]]], "logits need no threshold"
