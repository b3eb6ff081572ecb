"""What analytics costs a frame: 64 streams with 20 tracked objects each, and one stream alone.

    python benchmarks/analytics.py [--json FILE]

Each stream has two lines; with "everything" two zones with all alarms, a ground plane and interval counts as well. Objects wander
about, so that lines are crossed and zones entered all the time. The time of a batch is its thread's, the median over many, and
holds making the events and scenes.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.analytics.engine import Analytics
from pipeline.config.analytics import SourceAnalytics
from pipeline.frames import Colour, Detections, Frame, Picture, Predictions, ResultBatch

WIDTH, HEIGHT = 1920, 1080
PICTURE = Picture((), (1, 1), Colour(), WIDTH, HEIGHT)
NAMES = {0: "person", 1: "car", 2: "bus"}
LINES = [
    {"name": "a", "points": [[0, 540], [1920, 540]]},
    {"name": "b", "points": [[960, 0], [960, 1080]]},
]
ZONE = {"loiter_s": 5, "stopped_s": 3, "direction": [[0, 500], [500, 500]], "max_occupancy": 5, "limit_kmh": 90}
ALL = {
    "lines": LINES,
    "zones": [
        {"name": "c", "polygon": [[200, 200], [900, 150], [1000, 600], [500, 900], [150, 700]], **ZONE},
        {"name": "d", "circle": {"center": [1400, 500], "radius": 300}, **ZONE},
    ],
    "ground": {"image": [[0, 0], [1920, 0], [1920, 1080], [0, 1080]], "metres": [[0, 0], [96, 0], [96, 54], [0, 54]]},
    "interval_s": 60,
}
SETTINGS = {"lines alone": {"lines": LINES}, "everything": ALL}


def batches(streams: int, objects: int, frames_per_batch: int, count: int) -> list[ResultBatch]:
    rng = np.random.default_rng(1)
    place = rng.uniform((0, 0), (WIDTH, HEIGHT), (streams, objects, 2))
    speed = rng.normal(0, 4, (streams, objects, 2))
    index = [0] * streams
    turn, result = 0, []
    for _ in range(count):
        frames, boxes = [], []
        for _ in range(frames_per_batch):
            stream = turn % streams
            turn += 1
            speed[stream] += rng.normal(0, 0.5, (objects, 2))
            place[stream] = np.clip(place[stream] + speed[stream], 0, (WIDTH, HEIGHT))
            speed[stream] *= np.where((place[stream] <= 0) | (place[stream] >= (WIDTH, HEIGHT)), -1, 1)
            frames.append(Frame(f"s{stream}", index[stream], index[stream] / 30, 0.0, PICTURE))
            index[stream] += 1
            x, y = place[stream].T
            boxes.append(np.stack([x - 20, y - 60, x + 20, y], 1).astype(np.float32))
        rows = frames_per_batch * objects
        detections = Detections(
            np.concatenate(boxes),
            np.full(rows, 0.9, np.float32),
            (np.arange(rows) % 3).astype(np.int32),
            np.arange(frames_per_batch + 1, dtype=np.int64) * objects,
            NAMES,
            np.tile(np.arange(objects, dtype=np.int64), frames_per_batch),
        )
        result.append(ResultBatch(frames, Predictions(detections), "m@0"))
    return result


def microseconds_a_frame(settings: dict, streams: int, frames_per_batch: int) -> tuple[float, float]:
    """(microseconds, events) a frame."""
    config = SourceAnalytics.model_validate(settings)
    analytics = Analytics({f"s{i}": config for i in range(streams)})
    made = batches(streams, 20, frames_per_batch, 20 + 6400 // frames_per_batch)
    times, events = [], 0
    for number, batch in enumerate(made):
        start = time.thread_time()
        done = analytics(batch)
        if number >= 20:
            times.append(time.thread_time() - start)
            events += len(done.events)
    return 1e6 * statistics.median(times) / frames_per_batch, events / len(times) / frames_per_batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    file = parser.parse_args().json
    rows = []
    for name, settings in SETTINGS.items():
        for streams, size in ((64, 32), (64, 64), (64, 8), (1, 8), (1, 32), (1, 1)):
            cost, events = microseconds_a_frame(settings, streams, size)
            rows.append({"settings": name, "streams": streams, "batch": size, "us_per_frame": round(cost, 1)})
            print(f"{name:12} {streams:3} streams, batches of {size:2}: {cost:6.1f} us a frame, {events:.2f} events")
    if file:
        about = {"numpy": np.__version__, "python": platform.python_version(), "machine": platform.machine()}
        file.write_text(json.dumps({**about, "objects_per_frame": 20, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
