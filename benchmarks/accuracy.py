"""How well a pipeline finds things in a video of which it is known where they are.

    python benchmarks/accuracy.py coco-ssd --video vtest.mp4 --truth gt.txt
    python benchmarks/accuracy.py configs/people.yaml --video vtest.mp4 --truth gt.txt --set pipeline.preprocess.fit=letterbox

takes a model card or a configuration, runs it over the video through the same API that anyone uses, and prints the
average precision of one class (see average_precision.py for the protocol). The score threshold is lowered to 0.01, as
average precision weighs precision against recall at every threshold; sources and sinks of a configuration are replaced.
Without --video and --truth: vtest and PETS09-S2L1, from the folder that VRAMLINE_TEST_ASSETS names.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from average_precision import average_precision, load_mot_boxes

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline import Pipeline, VramlineError
from pipeline.config.load import config_from_mapping, load_config
from pipeline.config.models import Config


@dataclass(frozen=True)
class Accuracy:
    """Of one run.

    Attributes:
        average_precision: In 0..1.
        frames: Frames that were compared.
        boxes: Detections of the class in them.
        true_boxes: Boxes that were there to be found.
    """

    average_precision: float
    frames: int
    boxes: int
    true_boxes: int


def measure(config: Config, truth_file: Path, *, label: str = "person", min_iou: float = 0.5) -> Accuracy:
    """Runs a configuration with one source and compares its detections of a class with the truth.

    Raises:
        VramlineError: the pipeline could not run, or its source failed.
    """
    frames, boxes, scores = [], [], []
    with Pipeline(config) as pipeline:
        for result in pipeline:
            found = result.detections
            if found is None:
                raise VramlineError(f"{result.model} is no detector")
            wanted = np.array([found.label(int(c)) == label for c in found.class_ids], bool)
            frames.append(np.full(int(wanted.sum()), result.frame.index))
            boxes.append(found.boxes[wanted].astype(np.float64))
            scores.append(found.scores[wanted].astype(np.float64))
    for source in pipeline.status.sources.values():
        if source.error is not None:
            raise VramlineError(f"source {source.source_id}: {source.error}")
    truth = {frame: b for frame, b in load_mot_boxes(truth_file).items() if frame < len(frames)}
    precision = average_precision(truth, np.concatenate(frames), np.concatenate(boxes), np.concatenate(scores), min_iou)
    return Accuracy(precision, len(frames), sum(map(len, boxes)), sum(map(len, truth.values())))


def configure(model: str, video: Path, *, label: str, overrides: Sequence[str] = ()) -> Config:
    """A card's or a configuration file's pipeline on this video, reporting all of a class that it has a score for."""
    fixed = [
        "pipeline.postprocess.score_threshold=0.01",
        f"pipeline.postprocess.classes={json.dumps([label])}",
        "pipeline.postprocess.thresholds={}",
    ]
    sources = [{"path": str(video)}]
    if model.endswith((".yaml", ".yml")):
        return load_config(model, [f"sources={json.dumps(sources)}", "sinks=[]", *fixed, *overrides])
    return config_from_mapping({"sources": sources, "pipeline": {"model": model}}, overrides=[*fixed, *overrides])


def main() -> int:
    """The command."""
    assets = Path(os.environ.get("VRAMLINE_TEST_ASSETS", ""))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of a model card, or a configuration file")
    parser.add_argument("--video", type=Path, default=assets / "media" / "vtest_h264.mp4")
    parser.add_argument("--truth", type=Path, default=assets / "ground_truth" / "PETS09-S2L1" / "gt.txt")
    parser.add_argument("--label", default="person", help="the class (default: %(default)s)")
    parser.add_argument("--min-iou", type=float, default=0.5, help="overlap of a right box (default: %(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a value; may be repeated"
    )
    options = parser.parse_args()
    if not options.truth.is_file():
        parser.error(f"{options.truth}: there is no such file; give --truth")
    try:
        config = configure(options.model, options.video, label=options.label, overrides=options.set)
        result = measure(config, options.truth, label=options.label, min_iou=options.min_iou)
    except VramlineError as e:
        print(e, file=sys.stderr)
        return int(e.exit_code)
    print(f"{options.model}: AP of {options.label!r} at IoU {options.min_iou:g}: {result.average_precision:.4f}")
    print(f"{result.frames} frames, {result.boxes} detections, {result.true_boxes} true boxes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
