"""Whole runs on the `cpu` engine: real clips, real models, and references that do it one crop at a time."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import av
import jsonschema
import numpy as np
import pytest
from bright_detector import save_bright_detector
from media_maker import box_of, make_clip

from pipeline import Pipeline
from pipeline.config.cards import load_model_card
from pipeline.config.sources import Roi
from pipeline.config.stages import ModelSource, Preprocess
from pipeline.errors import ExitCode, ModelError

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "record.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
SAVED = {"nanodet": "nanodet", "coco-ssd": "coco_ssd_core", "emotion": "emotion", "movenet": "movenet-lightning"}


def of_card(assets: Path, card: str, **post: Any) -> dict[str, Any]:
    """What the card would bring, with the model from the assets: nothing is fetched."""
    known = load_model_card(card)
    return {
        "model": {"path": str(assets / "models" / SAVED[card]), "name": card},
        "preprocess": known.preprocess,
        "postprocess": {**known.postprocess, **post},
    }


def records(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for record in found:
        VALIDATOR.validate(record)
    return found


def emotion_model(assets: Path) -> Any:
    """(H, W) grey crops in 0..255 -> class scores, straight from TensorFlow."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(assets / "models" / "emotion"))
    call = loaded.signatures["serving_default"]
    (name,) = call.structured_input_signature[1]

    def scores(crops: np.ndarray) -> np.ndarray:
        found = call(**{name: tf.constant((crops * 2 / 255 - 1).astype(np.float32)[..., None])})
        return next(iter(found.values())).numpy()

    return scores


RULES = {"classes": ["person"], "min_size_px": 20, "margin": 0.1}


def region_of(box: np.ndarray, size: tuple[int, int]) -> tuple[float, ...]:
    """The definition of `margin`, once more."""
    x1, y1, x2, y2 = box.astype(np.float64).tolist()
    dx, dy = 0.1 * (x2 - x1), 0.1 * (y2 - y1)
    return max(x1 - dx, 0.0), max(y1 - dy, 0.0), min(x2 + dx, size[0]), min(y2 + dy, size[1])


@pytest.mark.assets
def test_persons_get_the_attributes_that_a_loop_over_single_crops_gives_them(assets: Path, tmp_path: Path) -> None:
    """The second model, one crop at a time, on the crops that a region of interest of the frame gives."""
    from pipeline.inference.tensorflow import load_model
    from pipeline.preprocess.reference import ReferencePreprocessor

    card = load_model_card("emotion")
    config = {
        "device": "cpu",
        "sources": [
            {"path": str(assets / "media" / "vtest_h264.mp4"), "max_frames": 12, "id": "a"},
            {"path": str(assets / "media" / "TUD-Stadtmitte.mp4"), "max_frames": 9, "id": "b"},
        ],
        "pipeline": {
            **of_card(assets, "nanodet"),
            "cascade": [{"name": "emotion", **of_card(assets, "emotion", top_k=7), **RULES, "batch_size": 5}],
        },
        "sinks": [{"type": "jsonl", "path": str(tmp_path / "out.jsonl")}],
        "runtime": {"batch_size": 6},
    }
    path = assets / "models" / "emotion"
    preprocess = Preprocess(**{**card.preprocess, "size": (64, 64), "layout": "nhwc"})
    model = load_model(path, ModelSource(path=str(path)), name="e", batch_size=1, preprocess=preprocess)
    looked_at = 0
    for result in Pipeline.from_dict(config):
        picture, found = result.frame.picture, result.crops["emotion"]
        for row, (box, class_id) in enumerate(zip(result.detections.boxes, result.detections.class_ids, strict=True)):
            is_wanted = result.detections.label(int(class_id)) == "person" and min(box[2:] - box[:2]) >= 20
            got = found.at(row)
            assert (got is not None) == is_wanted
            if not is_wanted:
                continue
            corners = region_of(box, (picture.width, picture.height))
            np.testing.assert_allclose(found.regions[list(found.parents).index(row)], corners, rtol=1e-5, atol=1e-3)
            alone = ReferencePreprocessor(preprocess, {result.frame.source_id: Roi(rect=corners)})([result.frame], 1)
            (scores,) = model(alone.tensor).values()
            expected = np.sort(scores[0])[::-1]
            np.testing.assert_allclose([score for _, _, score in got.classes], expected, atol=1e-4)
            assert got.classes[0][1] == int(np.argmax(scores[0]))
            looked_at += 1
    assert looked_at > 60
    written = records(tmp_path / "out.jsonl")
    attributes = [d["attributes"]["emotion"] for r in written for d in r["detections"] if "attributes" in d]
    assert len(attributes) == looked_at
    assert all(len(own["classes"]) == 7 and "frame" not in own for own in attributes)
    assert {r["cascade"]["emotion"]["model"].split("@")[0] for r in written} == {"emotion"}


@pytest.mark.assets
def test_crops_against_another_decoder_and_another_resampling(assets: Path) -> None:
    """FFmpeg through PyAV -> libswscale's RGB -> bilinear samples of the box, in NumPy -> TensorFlow."""
    video = assets / "media" / "vtest_h264.mp4"
    config = {
        "device": "cpu",
        "sources": [{"path": str(video), "max_frames": 14}],
        "pipeline": {
            **of_card(assets, "nanodet"),
            "cascade": [{"name": "emotion", **of_card(assets, "emotion", top_k=7), **RULES}],
        },
    }
    with av.open(str(video)) as container:
        pictures = [f.to_ndarray(format="rgb24") for _, f in zip(range(14), container.decode(video=0), strict=False)]
    scores_of = emotion_model(assets)
    differences, agree, count = [], 0, 0
    for result in Pipeline.from_dict(config):
        grey = pictures[result.frame.index].astype(np.float64) @ [0.299, 0.587, 0.114]
        crops = result.crops["emotion"]
        for row in crops.parents.tolist():
            corners = region_of(result.detections.boxes[row], (grey.shape[1], grey.shape[0]))
            expected = scores_of(bilinear(grey, corners, 64)[None])[0]
            got = np.zeros(7)
            for _, class_id, score in crops.at(row).classes:
                got[class_id] = score
            differences.append(np.abs(got - expected).max())
            agree += int(got.argmax() == expected.argmax())
            count += 1
    print(f"{count} crops: scores differ by {np.mean(differences):.4f} on average, {np.max(differences):.4f} at most")
    assert count > 30
    assert agree >= 0.95 * count
    assert np.mean(differences) < 0.02
    assert np.max(differences) < 0.15


def bilinear(plane: np.ndarray, corners: tuple[float, ...], side: int) -> np.ndarray:
    x1, y1, x2, y2 = corners
    x = np.clip(x1 + (np.arange(side) + 0.5) * (x2 - x1) / side - 0.5, 0, plane.shape[1] - 1)
    y = np.clip(y1 + (np.arange(side) + 0.5) * (y2 - y1) / side - 0.5, 0, plane.shape[0] - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, plane.shape[1] - 1), np.minimum(top + 1, plane.shape[0] - 1)
    a, b = x - left, (y - top)[:, None]
    upper = plane[top][:, left] * (1 - a) + plane[top][:, right] * a
    lower = plane[bottom][:, left] * (1 - a) + plane[bottom][:, right] * a
    return upper * (1 - b) + lower * b


@pytest.mark.assets
def test_every_fifth_frame_of_a_track_and_kept_between(assets: Path, tmp_path: Path) -> None:
    config = {
        "device": "cpu",
        "sources": [{"path": str(assets / "media" / "vtest_h264.mp4"), "max_frames": 30}],
        "pipeline": {
            **of_card(assets, "nanodet"),
            "tracker": "bytetrack",
            "cascade": [{"name": "emotion", **of_card(assets, "emotion"), "classes": ["person"], "every": 5}],
        },
        "sinks": [
            {"type": "jsonl", "path": str(tmp_path / "out.jsonl")},
            {"type": "csv", "path": str(tmp_path / "out.csv")},
            {"type": "video", "path": str(tmp_path / "out.mp4")},
        ],
    }
    status = Pipeline.from_dict(config).run()
    assert status.exit_code is ExitCode.DONE
    seen: dict[int, list[tuple[int, Any]]] = {}
    for record in records(tmp_path / "out.jsonl"):
        for found in record["detections"]:
            if found["label"] == "person" and "track_id" in found:
                attribute = found["attributes"]["emotion"]
                seen.setdefault(found["track_id"], []).append(
                    (attribute.get("frame", record["frame"]), attribute["classes"])
                )
    assert sum(map(len, seen.values())) > 80
    for own in seen.values():
        for i, (number, classes) in enumerate(own):
            first, classes_then = own[i - i % 5]
            assert (number, classes) == (first, classes_then), "of each five frames the first one's result"
            assert i % 5 or i == 0 or number != own[i - 1][0]
    counts = status.models["emotion"].crops
    assert counts.kept > 2 * counts.crops
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    moods = [row for row in rows if row["name"] == "emotion"]
    boxes = {
        (row["frame"], row["track_id"]): [row[c] for c in ("x1", "y1", "x2", "y2")] for row in rows if not row["name"]
    }
    assert {row["kind"] for row in moods} == {"class"}
    assert all(row["model"].startswith("emotion@") for row in moods)
    tracked = [row for row in moods if row["track_id"]]
    assert len(tracked) == 3 * sum(map(len, seen.values()))  # three classes each
    assert all(boxes[row["frame"], row["track_id"]] == [row[c] for c in ("x1", "y1", "x2", "y2")] for row in tracked)


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with detectors of the bright box: `coarse` on 32x24, `fine` on 64x64."""
    folder = tmp_path_factory.mktemp("models")
    save_bright_detector(folder / "coarse", 32, 24)
    save_bright_detector(folder / "fine", 64, 64)
    return folder


def bright(folder: Path, name: str, **preprocess: Any) -> dict[str, Any]:
    return {
        "model": {"path": str(folder / name)},
        "preprocess": {"scale": 1 / 255, "pad": 0, **preprocess},
        "postprocess": {"family": "boxes", "boxes": "boxes", "scores": "scores", "labels": ["box"]},
    }


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_boxes_in_crops_are_in_the_pixels_of_the_picture(
    tmp_path: Path, detectors: Path, rotation: int, fit: str
) -> None:
    """A coarse detector finds the box to some pixels, one on its crop to one, another on the crop of that as well."""
    width, height = 512, 384
    clip = make_clip(
        tmp_path / "c.mp4",
        width=width,
        height=height,
        frames=6,
        content="moving box",
        rotation=rotation,
        numbered=False,
    )
    out = tmp_path / "out.jsonl"
    config = {
        "device": "cpu",
        "sources": [{"path": str(clip), "id": "clip"}],
        "pipeline": {
            **bright(detectors, "coarse", interpolation="area"),
            "cascade": [
                {"name": "finest", **bright(detectors, "fine", fit=fit), "of": "finer", "margin": 0.2, "aspect": 1.0},
                {"name": "finer", **bright(detectors, "fine", fit=fit), "margin": 0.4, "classes": ["box"]},
            ],
        },
        "sinks": [{"type": "jsonl", "path": str(out)}, {"type": "video", "path": str(tmp_path / "out.mp4")}],
        "runtime": {"batch_size": 4},
    }
    assert Pipeline.from_dict(config).run().exit_code is ExitCode.DONE
    for record in records(out):
        x1, y1, x2, y2 = box_of(record["frame"], width, height)
        seen = {
            0: (x1, y1, x2, y2),
            90: (y1, width - x2, y2, width - x1),
            180: (width - x2, height - y2, width - x1, height - y1),
            270: (height - y2, x1, height - y1, x2),
        }[rotation]
        finer, finest = record["cascade"]["finer"]["detections"], record["cascade"]["finest"]["detections"]
        assert [found["parent"] for found in finer + finest] == [0, 0]
        errors = [np.abs(np.array(d[0]["box"]) - seen).max() for d in (record["detections"], finer, finest)]
        assert errors[0] <= 18
        assert errors[1] <= 4, "a pixel of its input is some 3 of the picture"
        assert errors[2] <= 3.5


@pytest.mark.assets
def test_models_side_by_side(assets: Path, tmp_path: Path) -> None:
    """Each finds what it finds alone, and frames are decoded once."""
    video = str(assets / "media" / "vtest_h264.mp4")
    cards = {"pose": "movenet", "other": "coco-ssd", "same": "nanodet"}
    out = tmp_path / "out.jsonl"
    shared = {"device": "cpu", "sources": [{"path": video, "max_frames": 10}], "runtime": {"batch_size": 4}}
    sinks = [{"type": "jsonl", "path": str(out)}, {"type": "csv", "path": str(tmp_path / "out.csv")}]
    models = [{"name": name, **of_card(assets, card)} for name, card in cards.items()]
    models[1]["batch_size"] = 3
    main = {**of_card(assets, "nanodet"), "models": models}
    status = Pipeline.from_dict({**shared, "pipeline": main, "sinks": sinks}).run()
    assert status.stages["decode"].frames == 10
    together = records(out)
    for name, card in cards.items():
        alone = tmp_path / f"{name}.jsonl"
        config = {**shared, "pipeline": of_card(assets, card), "sinks": [{"type": "jsonl", "path": str(alone)}]}
        if name == "pose":
            config["runtime"] = {}  # it takes one picture at a time
        Pipeline.from_dict(config).run()
        for record, own in zip(together, records(alone), strict=True):
            found = record["models"][name]
            assert found["model"] == own["model"]
            (field,) = {"detections", "poses"} & found.keys()
            assert len(found[field]) == len(own[field])
            for a, b in zip(found[field], own[field], strict=True):
                np.testing.assert_allclose(a["box"], b["box"], atol=0.5)
                assert abs(a["score"] - b["score"]) < 1e-3
    assert [r["models"]["same"]["detections"] for r in together] == [r["detections"] for r in together]
    with (tmp_path / "out.csv").open(newline="") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    assert set(names) == {"", *cards}


def test_an_error_names_the_section_of_its_model(tmp_path: Path, detectors: Path) -> None:
    clip = make_clip(tmp_path / "c.mp4", frames=2)
    section = bright(detectors, "fine")
    section["postprocess"] = {**section["postprocess"], "scores": "scroes"}
    config = {
        "device": "cpu",
        "sources": [str(clip)],
        "pipeline": {**bright(detectors, "coarse"), "cascade": [{"name": "fine", **section}]},
    }
    with pytest.raises(
        ModelError, match=r"pipeline\.cascade\[0\]\.postprocess\.scores: the model has no output 'scroes'"
    ):
        Pipeline.from_dict(config).run()
    section = bright(detectors, "fine", layout="nchw")
    config["pipeline"] = {**bright(detectors, "coarse"), "models": [{"name": "fine", **section}]}
    with pytest.raises(ModelError, match=r"pipeline\.models\[0\]\.preprocess\.layout says nchw"):
        Pipeline.from_dict(config).run()
