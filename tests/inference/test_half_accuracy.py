"""Half precision on real models and real frames: people are found as well as before."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.cards import load_model_card
from pipeline.config.load import config_from_mapping
from pipeline.config.sources import Source
from pipeline.config.stages import Decode
from pipeline.decode.ffmpeg import FfmpegDecoder
from pipeline.frames import Detections
from pipeline.inference import load_model, resolve_input
from pipeline.inference.shared_stream import SharedStream
from pipeline.postprocess import build_postprocessor
from pipeline.preprocess.reference import ReferencePreprocessor
from pipeline.sources.resolve import resolve

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from average_precision import average_precision, load_mot_boxes

pytestmark = pytest.mark.assets
EVERY, BATCH = 10, 8


def frames_of(video: Path) -> list[Any]:
    [spec] = resolve([Source(path=str(video))], Path)
    decoder = FfmpegDecoder(spec, Decode())
    try:
        return [frame for frame in decoder if frame.index % EVERY == 0]
    finally:
        decoder.close()


def detect(config: Any, frames: list[Any], stream: SharedStream, precision: str) -> list[Detections]:
    stages = config.pipeline
    # Without XLA, which on a CPU computes in float32 in places.
    source = stages.model.model_copy(update={"precision": precision, "xla": False})
    path = Path(source.path)
    model: Any = load_model(path, source, name="m", batch_size=BATCH, preprocess=stages.preprocess, stream=stream)
    assert model.precision == precision
    settings = resolve_input(model.input, stages.preprocess, model="m")
    preprocess = ReferencePreprocessor(settings, {})
    postprocess = build_postprocessor(stages.postprocess, model.outputs, model_size=preprocess.model_size)
    found = []
    for first in range(0, len(frames), BATCH):
        batch = preprocess(frames[first : first + BATCH], model.rows(len(frames[first : first + BATCH])))
        tensor = stream.empty(batch.tensor.shape, batch.tensor.dtype)
        tensor[:] = batch.tensor
        outputs = {name: np.asarray(array) for name, array in model(tensor).items()}
        detections = postprocess(outputs, batch).detections
        found += [detections.frame(i) for i in range(len(batch.frames))]
    return found


@pytest.mark.parametrize(("card", "name"), [("coco-ssd", "coco_ssd_core"), ("nanodet", "nanodet")])
def test_people_are_found_as_well(assets: Path, stream: SharedStream, card: str, name: str) -> None:
    known = load_model_card(card)
    video = assets / "media" / "vtest_h264.mp4"
    post = {**known.postprocess, "score_threshold": 0.01, "classes": ["person"]}
    model = {"path": str(assets / "models" / name)}
    stages = {"model": model, "preprocess": known.preprocess, "postprocess": post}
    config = config_from_mapping({"sources": [{"path": str(video)}], "pipeline": stages})
    frames = frames_of(video)
    whole, half = (detect(config, frames, stream, precision) for precision in ("fp32", "fp16"))

    for one, other in zip(whole, half, strict=True):
        sure = one.scores > 0.5
        for box, score in zip(one.boxes[sure], one.scores[sure], strict=True):
            off = np.abs(other.boxes - box).max(axis=1)
            nearest = int(off.argmin())
            assert off[nearest] < 3, f"no box within 3 pixels of {box}: {off[nearest]:.1f}"
            assert abs(other.scores[nearest] - score) < 0.03

    every = load_mot_boxes(assets / "ground_truth" / "PETS09-S2L1" / "gt.txt")
    truth = {i: every[frame.index] for i, frame in enumerate(frames) if frame.index in every}

    def precision_of(found: list[Detections]) -> float:
        numbers = np.repeat(np.arange(len(found)), [len(f) for f in found])
        boxes = np.concatenate([f.boxes for f in found]).astype(np.float64)
        return average_precision(truth, numbers, boxes, np.concatenate([f.scores for f in found]).astype(np.float64))

    whole_ap, half_ap = precision_of(whole), precision_of(half)
    print(f"{card}: AP50 {whole_ap:.4f} in float32, {half_ap:.4f} in float16, {len(frames)} frames")
    assert whole_ap > 0.6
    assert abs(whole_ap - half_ap) < 0.005
