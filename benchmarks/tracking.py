"""How well tracks keep to people, and what tracking costs.

    python benchmarks/tracking.py [--json FILE] [--set max_age_s=1 ...]

Accuracy: MOTA, IDF1 and id switches as the package `motmetrics` counts them, a match being an IoU of at least 0.5, over
whole sequences (PETS09-S2L1, TUD-Campus, TUD-Stadtmitte) with the detections of two detectors, in the folder that
VRAMLINE_TEST_ASSETS names. Detections go through the tracker that a configuration builds, with the default score
threshold and the time steps of the clips; only those with a track count. One set of parameters for all of them. `--own` does the
same with what a pipeline of ours finds and tracks in the clips themselves, from the videos to the results, on the CPU.

Cost: the time of one call with a frame of each of 1, 16 and 64 streams, of 20 objects each, divided by the frames.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import motmetrics
import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline import Pipeline
from pipeline.config.cards import load_model_card
from pipeline.config.postprocess import SsdPost
from pipeline.config.tracking import ByteTrackTracker, IouTracker
from pipeline.frames import Colour, Detections, Frame, Picture, Predictions, ResultBatch
from pipeline.tracking import Tracker, build_tracker, for_tracking

Config = ByteTrackTracker | IouTracker
Boxes = npt.NDArray[np.float64]

# Folder of the truth, stem of the detections' files, frames/s of the clip. Frames are numbered from 1.
SEQUENCES = [("PETS09-S2L1", "vtest", 10), ("TUD-Campus", "TUD-Campus", 25), ("TUD-Stadtmitte", "TUD-Stadtmitte", 25)]
CLIPS = {"vtest": "vtest_h264.mp4"}  # where a clip's file is not called after it
DETECTORS = ["coco_ssd", "nanodet"]
OWN_MODELS = {"coco_ssd": ("coco-ssd", "coco_ssd_core"), "nanodet": ("nanodet", "nanodet")}  # card, folder
TRACKERS: dict[str, type[Config]] = {"iou": IouTracker, "bytetrack": ByteTrackTracker}
MIN_IOU = 0.5
STREAMS = (1, 16, 64)
OBJECTS = 20
_PICTURE = Picture((), (1, 1), Colour(), 1920, 1080)


@dataclass(frozen=True)
class Accuracy:
    """Of one sequence with one detector."""

    sequence: str
    detector: str
    tracker: str
    mota: float
    idf1: float
    switches: int
    false_positives: int
    misses: int
    true_boxes: int


def measure(config: Config, folder: Path, *, every: int = 1) -> list[Accuracy]:
    """The accuracy in all sequences.

    Args:
        config: Of the tracker.
        folder: Where `SEQUENCES` and `detections` lie.
        every: Only each n-th frame is looked at, as if the others had been dropped.
    """
    results = []
    for name, stem, rate in SEQUENCES:
        truth = _by_frame(np.loadtxt(folder / name / "gt.txt", delimiter=","))
        length = max(truth) + 1
        for detector in DETECTORS:
            found = _by_frame(np.loadtxt(folder / "detections" / f"{stem}_{detector}.txt"))
            chosen = range(0, length, every)
            results.append(_compare(truth, _track(config, found, chosen, rate), name, detector, config.type))
    return results


def measure_own(config: Config, assets: Path) -> list[Accuracy]:
    """The accuracy of whole pipelines on the same sequences, with the same detectors and the settings of their model cards."""
    results = []
    for name, stem, _ in SEQUENCES:
        truth = _by_frame(np.loadtxt(assets / "ground_truth" / name / "gt.txt", delimiter=","))
        video = assets / "media" / CLIPS.get(stem, f"{stem}.mp4")
        for detector in DETECTORS:
            card_name, folder = OWN_MODELS[detector]
            card = load_model_card(card_name)
            settings = {
                "device": "cpu",
                "sources": [{"path": str(video)}],
                "pipeline": {
                    "model": {"path": str(assets / "models" / folder)},
                    "preprocess": card.preprocess,
                    "postprocess": {**(card.postprocess or {}), "classes": ["person"]},
                    "tracker": config.model_dump(exclude_none=True),
                },
            }
            tracked = {}
            with Pipeline.from_dict(settings) as pipeline:
                for result in pipeline:
                    found = result.detections
                    assert found is not None
                    assert found.track_ids is not None
                    has_id = found.track_ids >= 0
                    tracked[result.frame.index] = (found.track_ids[has_id], found.boxes[has_id].astype(np.float64))
            results.append(_compare(truth, tracked, name, detector, config.type))
    return results


def mean(results: list[Accuracy]) -> dict[str, float]:
    """Each sequence counts the same."""
    return {
        "mota": statistics.fmean(r.mota for r in results),
        "idf1": statistics.fmean(r.idf1 for r in results),
        "switches": sum(r.switches for r in results),
    }


def _by_frame(rows: Boxes) -> dict[int, Boxes]:
    """0-based frame -> its rows without the frame's number."""
    return {int(frame) - 1: rows[rows[:, 0] == frame, 1:] for frame in np.unique(rows[:, 0])}


def _track(config: Config, found: Mapping[int, Boxes], frames: range, rate: int) -> dict[int, tuple[Boxes, Boxes]]:
    """Frame -> (ids, boxes) of what has a track."""
    own = SsdPost(family="ssd", labels=["person"])
    lowered = for_tracking(own, config)
    assert isinstance(lowered, SsdPost)
    tracker = build_tracker(config, own)
    tracked = {}
    for number in frames:
        rows = found.get(number, np.zeros((0, 5)))
        rows = rows[rows[:, 4] >= lowered.score_threshold]
        rows = rows[np.argsort(-rows[:, 4], kind="stable")]
        batch = _batch([Frame("camera", number, number / rate, 0.0, _PICTURE)], [rows])
        detections = tracker(batch).predictions.detections
        assert detections is not None
        assert detections.track_ids is not None
        has_id = detections.track_ids >= 0
        tracked[number] = (detections.track_ids[has_id], detections.boxes[has_id].astype(np.float64))
    return tracked


def _batch(frames: list[Frame], rows: list[Boxes]) -> ResultBatch:
    """Frames with rows x1, y1, x2, y2, score."""
    everything = np.concatenate(rows).astype(np.float32)
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    classes = np.zeros(len(everything), np.int32)
    return ResultBatch(frames, Predictions(Detections(everything[:, :4], everything[:, 4], classes, offsets)), "model")


def _compare(
    truth: Mapping[int, Boxes], tracked: Mapping[int, tuple[Boxes, Boxes]], name: str, detector: str, tracker: str
) -> Accuracy:
    counted = motmetrics.MOTAccumulator(auto_id=True)
    for frame, (ids, boxes) in tracked.items():
        rows = truth.get(frame, np.zeros((0, 5)))
        overlap = _iou(np.column_stack([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5]]), boxes)
        distances = np.where(overlap >= MIN_IOU, 1 - overlap, np.nan)
        counted.update(rows[:, 0].astype(int), ids, distances)
    names = ["mota", "idf1", "num_switches", "num_false_positives", "num_misses", "num_objects"]
    row = motmetrics.metrics.create().compute(counted, metrics=names).iloc[0]
    return Accuracy(name, detector, tracker, float(row["mota"]), float(row["idf1"]), *(int(row[n]) for n in names[2:]))


def _iou(a: Boxes, b: Boxes) -> Boxes:
    """(len(a), len(b)); motmetrics' own needs NumPy 1."""
    shared = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    area = np.clip(shared, 0, None).prod(-1)
    union = np.prod(a[:, None, 2:] - a[:, None, :2], -1) + np.prod(b[:, 2:] - b[:, :2], -1) - area
    iou: Boxes = area / union
    return iou


class Scene:
    """Objects that wander about a picture, seen by a detector that is not sure of all of them."""

    def __init__(self, streams: int, objects: int, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._shape = (streams, objects)
        self._places = self._random.uniform((0, 0), (1920, 1080), (*self._shape, 2))
        self._speeds = self._random.normal(0, 60, (*self._shape, 2))
        height = self._random.uniform(60, 240, self._shape)
        self._sizes = np.stack([0.4 * height, height], -1)
        self._frame = 0

    def frame(self, tracker_needs: float) -> ResultBatch:
        """The next frame of every stream, 25 a second: 4 in 100 objects are not seen, 1 in 10 with a low score."""
        self._places += self._speeds / 25
        inwards = np.sign(np.array([960, 540]) - self._places) * np.abs(self._speeds)
        outside = (self._places < 0) | (self._places > (1920, 1080))
        self._speeds = np.where(outside, inwards, self._speeds)
        noise = self._random.normal(0, 0.02, (*self._shape, 4)) * self._sizes[..., 1:]
        boxes = np.concatenate([self._places - self._sizes / 2, self._places + self._sizes / 2], -1) + noise
        scores = self._random.uniform(0.5, 1.0, self._shape)
        low = self._random.random(self._shape)
        scores[low < 0.1] = self._random.uniform(tracker_needs, 0.5, int((low < 0.1).sum()))
        rows = []
        for own_boxes, own_scores, luck in zip(boxes, scores, self._random.random(self._shape), strict=True):
            own = np.column_stack([own_boxes, own_scores])[luck >= 0.04]
            rows.append(own[np.argsort(-own[:, 4])])
        frames = [Frame(f"camera {s}", self._frame, self._frame / 25, 0.0, _PICTURE) for s in range(self._shape[0])]
        self._frame += 1
        return _batch(frames, rows)


def cost_us(config: Config, streams: int, *, objects: int = OBJECTS, calls: int = 200, repeats: int = 9) -> float:
    """Microseconds a frame: the median over repeats of the median over calls."""
    medians = []
    for repeat in range(repeats):
        tracker: Tracker = build_tracker(config, SsdPost(family="ssd"))
        scene = Scene(streams, objects, seed=repeat)
        batches = [scene.frame(0.2) for _ in range(calls + 20)]
        times = []
        for batch in batches:
            start = time.perf_counter()
            tracker(batch)
            times.append(time.perf_counter() - start)
        medians.append(statistics.median(times[20:]))
    return 1e6 * statistics.median(medians) / streams


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of bytetrack; may be repeated")
    parser.add_argument("--every", type=int, default=1, help="look at each n-th frame only (default: %(default)s)")
    parser.add_argument("--own", action="store_true", help="also with the detections of our own pipeline")
    parser.add_argument("--cost-only", action="store_true", help="leave accuracy out")
    options = parser.parse_args()
    folder = Path(os.environ.get("VRAMLINE_TEST_ASSETS", "")) / "ground_truth"
    if not options.cost_only and not folder.is_dir():
        parser.error("set VRAMLINE_TEST_ASSETS to the folder with ground_truth/, or give --cost-only")
    changed = {key: json.loads(value) for key, _, value in (text.partition("=") for text in options.set)}
    configs = {"iou": IouTracker(type="iou"), "bytetrack": ByteTrackTracker(type="bytetrack", **changed)}
    accuracy: dict[str, list[Accuracy]] = {}
    if not options.cost_only:
        accuracy = {name: measure(config, folder, every=options.every) for name, config in configs.items()}
        if options.own:
            accuracy |= {f"{name}, own": measure_own(config, folder.parent) for name, config in configs.items()}
    for name, results in accuracy.items():
        print(f"\n{name:15} {'sequence':16} {'detector':10} {'MOTA':>6} {'IDF1':>6} {'switches':>9}")
        for r in results:
            print(f"{'':15} {r.sequence:16} {r.detector:10} {r.mota:6.3f} {r.idf1:6.3f} {r.switches:9}")
        average = mean(results)
        print(f"{'':15} {'mean':27} {average['mota']:6.3f} {average['idf1']:6.3f} {average['switches']:9}")
    cost = {name: {str(n): cost_us(config, n) for n in STREAMS} for name, config in configs.items()}
    for name, by_streams in cost.items():
        print(f"\n{name}: " + ", ".join(f"{n} x {OBJECTS}: {us:.1f} us a frame" for n, us in by_streams.items()))
    if options.json:
        report = {
            "benchmark": "tracking",
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "versions": {
                "python": platform.python_version(),
                **{package: version(package) for package in ("numpy", "motmetrics", "pandas")},
            },
            "min_iou": MIN_IOU,
            "every": options.every,
            "parameters": {name: config.model_dump() for name, config in configs.items()},
            "accuracy": {name: [asdict(r) for r in results] for name, results in accuracy.items()},
            "mean": {name: mean(results) for name, results in accuracy.items()},
            "objects": OBJECTS,
            "us_a_frame_by_streams": cost,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
