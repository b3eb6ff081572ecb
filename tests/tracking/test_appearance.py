"""Tracks that are known again by what they look like."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from bright_detector import save_bright_detector
from hypothesis import given, settings
from hypothesis import strategies as st
from media_maker import to_frame
from tracking_scenes import batch, box, found, frame, tracker

from pipeline import Pipeline
from pipeline.config.load import parse_config
from pipeline.errors import ConfigError, ExitCode

RED, BLUE, REDDISH = (1.0, 0.0, 0.0), (0.0, 0.0, 2.0), (5.0, 1.0, 0.5)
UNKNOWN = (np.nan,) * 3


def follow(made, frames, *, step_s=0.1):
    """frames: [(box, look), ...] each; ids by the boxes' centres."""
    told = []
    for i, seen in enumerate(frames):
        seen = sorted(seen, key=lambda one: -one[0][4])  # noqa: PLW2901 - as postprocessing leaves them
        one = batch([frame(i, i * step_s)], [[b for b, _ in seen]])
        looks = np.array([look for _, look in seen], np.float32).reshape(-1, 3)
        detections = found(made(one, looks))
        centres = ((detections.boxes[:, 0] + detections.boxes[:, 2]) / 2).round().astype(int).tolist()
        told.append(dict(zip(centres, detections.track_ids.tolist(), strict=True)))
    return told


def appearance(kind="bytetrack", **more):
    return tracker(kind, appearance="reid", max_age_s=5, **more)


GONE = [[]] * 10
FIRST = [[(box(100), RED)]] * 3


@pytest.mark.parametrize("kind", ["bytetrack", "iou"])
@pytest.mark.parametrize(
    ("look", "expected"),
    [(RED, 1), (REDDISH, 1), (BLUE, -1), (UNKNOWN, -1), ((0.0, 0.0, 0.0), -1), ((np.inf, 0.0, 0.0), -1)],
)
def test_who_comes_back_elsewhere_is_known_by_the_looks(kind, look, expected):
    told = follow(appearance(kind), [*FIRST, *GONE, [(box(900), look)], [(box(900), look)]])
    assert told[-2] == {900: expected}
    assert told[-1] == {900: 1 if expected == 1 else 2}


def test_without_appearance_it_is_somebody_else():
    told = follow(tracker(max_age_s=5), [*FIRST, *GONE, [(box(900), RED)], [(box(900), RED)]])
    assert told[-1] == {900: 2}


def test_after_the_longest_gap_it_is_somebody_else():
    told = follow(appearance(), [*FIRST, *[[]] * 60, [(box(900), RED)], [(box(900), RED)]])
    assert told[-1] == {900: 2}


def test_two_that_come_back_in_each_others_places():
    """Far from where they were lost; each is the one that it looks like."""
    pair = [(box(100), RED), (box(300, score=0.8), BLUE)]
    back = [(box(700, score=0.95), BLUE), (box(1100, score=0.85), REDDISH)]
    told = follow(appearance(), [*[pair] * 3, *GONE, back])
    assert told[-1] == {700: told[2][300], 1100: told[2][100]}


def test_who_was_seen_a_frame_ago_is_not_looked_for_elsewhere():
    """Somebody alike comes in the moment after: nobody jumps across the picture from one frame to the next."""
    told = follow(appearance(), [*FIRST, [(box(900), RED)]])
    assert told[-1] == {900: -1}


def test_overlap_comes_before_looks():
    told = follow(appearance(), [*FIRST, *GONE[:3], [(box(102), BLUE), (box(900, score=0.8), RED)]])
    assert told[-1] == {102: 1, 900: -1}


def test_another_class_is_somebody_else():
    scene = [*FIRST, *GONE, [(box(900, class_id=1), RED)], [(box(900, class_id=1), RED)]]
    assert follow(appearance(), scene)[-1] == {900: 2}
    assert follow(appearance(class_agnostic=True), scene)[-1] == {900: 1}


def test_a_low_score_is_not_looked_at():
    told = follow(appearance(), [*FIRST, *GONE, [(box(900, score=0.3), RED)], [(box(900), RED)]])
    assert told[-2] == {}
    assert told[-1] == {900: 1}


def test_who_was_known_again_goes_on_from_there():
    """As one that begins: the way back is no motion."""
    walk = [[(box(900 + 4 * i), RED)] for i in range(10)]
    told = follow(appearance(), [*FIRST, *GONE, *walk])
    assert [set(own.values()) for own in told[-10:]] == [{1}] * 10


def test_streams_do_not_mix():
    made = appearance()
    looks = np.array([RED], np.float32)
    for i in range(3):
        made(batch([frame(i, i / 10, "a")], [[box(100)]]), looks)
    for i in range(3, 9):
        made(batch([frame(i, i / 10, "a")], [[]]), np.zeros((0, 3), np.float32))
    for i in range(2):
        ids = found(made(batch([frame(i, i / 10, "b")], [[box(100)]]), looks)).track_ids
    assert ids.tolist() == [1]
    assert len(made) == 2
    ids = found(
        made(
            batch([frame(9, 0.9, "a"), frame(2, 0.2, "b")], [[box(800)], [box(100)]]), np.array([RED, RED], np.float32)
        )
    )
    assert ids.track_ids.tolist() == [1, 1]


def test_looks_that_come_late_or_are_missing_in_a_batch():
    made = appearance()
    for i in range(3):
        made(batch([frame(i, i / 10)], [[box(100)]]))  # the model's own postprocessing failed
    for i in range(3, 6):
        made(batch([frame(i, i / 10)], [[box(100)]]), np.array([RED], np.float32))
    made(batch([frame(6, 0.6)], [[]]))
    made(batch([frame(7, 0.7)], [[]]))
    ids = found(made(batch([frame(8, 0.8)], [[box(900)]]), np.array([RED], np.float32))).track_ids
    assert ids.tolist() == [1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from(["bytetrack", "iou"]))
def test_without_known_looks_nothing_changes(seed, kind):
    random = np.random.default_rng(seed)
    plain, made = tracker(kind), tracker(kind, appearance="reid")
    for i in range(25):
        seen = [
            box(
                *random.integers(0, 8, 2) * 60.0,
                score=float(random.choice([0.3, 0.6, 0.9])),
                class_id=int(random.integers(2)),
            )
            for _ in range(random.integers(0, 6))
        ]
        one = batch([frame(i, i / 10)], [seen])
        a, b = found(plain(one)), found(made(one, np.full((len(seen), 4), np.nan, np.float32)))
        assert a.track_ids.tolist() == b.track_ids.tolist()
        np.testing.assert_array_equal(a.boxes, b.boxes)


# ------------------------------------------------------------------------------------------------------- in a run

SIZE = (128, 96)


def clip(path: Path) -> Path:
    """A white box, nothing, a grey box elsewhere, nothing, the white box at a third place."""
    shown = [(10, 240)] * 8 + [None] * 6 + [(50, 212)] * 8 + [None] * 6 + [(95, 240)] * 8
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10), options={"preset": "veryfast", "crf": "4"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for one in shown:
            rgb = np.full((SIZE[1], SIZE[0], 3), 60, np.uint8)
            if one is not None:
                rgb[40:72, one[0] : one[0] + 24] = one[1]
            container.mux(stream.encode(to_frame(rgb, "yuv420p")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`boxes` finds the bright box; `shade` gives a vector of how bright a crop is."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("models")
    save_bright_detector(folder / "boxes", *SIZE)

    class Shade(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32, name="image")])
        def look(self, image):
            level = tf.reduce_mean(image, (1, 2, 3)) * 255 - 226
            return {"vector": tf.stack([level, tf.ones_like(level)], -1)}

    module = Shade()
    tf.saved_model.save(module, str(folder / "shade"), signatures=module.look)
    return folder


def ids_of(models: Path, tmp_path: Path, tracker: Any, with_shade: bool = True) -> list[set[int]]:
    out = tmp_path / f"{json.dumps(tracker).__hash__()}.jsonl"
    shade = {
        "name": "shade",
        "model": {"path": str(models / "shade")},
        "preprocess": {"scale": 1 / 255, "fit": "stretch"},
        "postprocess": {"family": "embedding", "normalize": False},
    }
    config = {
        "device": "cpu",
        "sources": [str(clip(tmp_path / "clip.mp4"))],
        "pipeline": {
            "model": {"path": str(models / "boxes")},
            "preprocess": {"scale": 1 / 255, "pad": 0},
            "postprocess": {"family": "boxes", "boxes": "boxes", "scores": "scores", "labels": ["box"]},
            "tracker": tracker,
            "cascade": [shade] if with_shade else [],
        },
        "sinks": [{"type": "jsonl", "path": str(out)}],
        "runtime": {"batch_size": 5},
    }
    status = Pipeline.from_dict(config).run()
    assert status.exit_code is ExitCode.DONE
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    if with_shade:
        assert all("embedding" in d["attributes"]["shade"] for line in lines for d in line["detections"])
        assert status.models["shade"].crops.crops == 24
    found_ids = [[d.get("track_id") for d in line["detections"]] for line in lines]
    return [
        {i for own in found_ids[start:end] for i in own if i is not None} for start, end in ((0, 8), (14, 22), (28, 36))
    ]


def test_in_a_run(models, tmp_path):
    plain = {"type": "bytetrack", "max_age_s": 5}
    assert ids_of(models, tmp_path, plain, with_shade=False) == [{1}, {2}, {3}]
    assert ids_of(models, tmp_path, {**plain, "appearance": "shade"}) == [{1}, {2}, {1}]


TEXT = """\
sources: [a]
pipeline:
  model: m/x
  postprocess: {{family: ssd}}
  tracker: {{type: bytetrack, appearance: {}}}
  cascade:
  - {{name: reid, model: m/r, postprocess: {{family: {}}}{}}}
  - {{name: face, model: m/f, postprocess: {{family: ssd}}}}
"""


@pytest.mark.parametrize(
    ("name", "family", "more", "expected"),
    [
        ("ried", "embedding", "", "a.yaml:5:42: pipeline.tracker.appearance: found 'ried', which is the name of no entry of pipeline.cascade (did you mean 'reid'?)"),
        ("reid", "classify", "", "a.yaml:5:42: pipeline.tracker.appearance: 'reid' has postprocess family 'classify', but vectors are needed (name an entry with family: embedding)"),
        ("reid", "embedding", ", of: face", "a.yaml:5:42: pipeline.tracker.appearance: 'reid' looks at another model's detections (leave its `of` out)"),
        ("reid", "embedding", ", every: 3", "a.yaml:7:64: pipeline.cascade[0].every: is looked at before detections are tracked, when no track is known yet (leave every out)"),
    ],
)  # fmt: skip
def test_what_cannot_be(name, family, more, expected):
    with pytest.raises(ConfigError) as caught:
        parse_config(TEXT.format(name, family, more), file="a.yaml")
    assert [str(issue) for issue in caught.value.issues] == [expected]


def test_what_can_be():
    settings_ = parse_config(TEXT.format("reid", "embedding", "")).pipeline.tracker
    assert (settings_.appearance, settings_.min_similarity) == ("reid", 0.7)
