"""The pipeline against the shortest hand-written PyAV + TensorFlow loop that does the same work, on the CPU.

    python benchmarks/cpu_overhead.py [VIDEO] [--rounds 5] [--frames 400] [--json FILE]

Both decode the same file with the same number of FFmpeg threads, run the same COCO-SSD SavedModel in batches of the
same size, suppress overlapping boxes and write one JSON record a frame. They take turns in one process (loop,
pipeline, loop, pipeline ...) after a round that does not count; the clock starts at the first packet, so neither pays
for loading its model. Printed: frames/s of every round, the medians, and their ratio. The loop works on one batch after
another; the pipeline overlaps decoding, preprocessing, inference and writing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SIZE = 300
SCORE_THRESHOLD = 0.5
NMS_IOU = 0.5


def load_for_loop(model: Path) -> Any:
    """The SavedModel's signature with non-maximum suppression behind it, as one TensorFlow function."""
    import tensorflow as tf

    signature = tf.saved_model.load(str(model)).signatures["serving_default"]

    @tf.function(input_signature=[tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32)])
    def detect(images: Any) -> Any:
        out = signature(image=images)
        return tf.image.combined_non_max_suppression(
            out["boxes"][:, :, None, :], out["scores"], 100, 100, NMS_IOU, SCORE_THRESHOLD, clip_boxes=True
        )

    return detect


def run_loop(detect: Any, video: Path, out: Path, frames: int, batch: int, threads: int) -> float:
    """The hand-written loop; returns frames/s."""
    import av
    import numpy as np

    def flush(images: list[Any], stamps: list[float], size: tuple[int, int]) -> None:
        count = len(images)
        images += [images[-1]] * (batch - count)
        found = detect(np.stack(images).astype(np.float32) * (2 / 255) - 1)
        boxes, scores, classes, valid = (x.numpy() for x in found)
        scale = np.array([size[1], size[0], size[1], size[0]])
        for i in range(count):
            n = int(valid[i])
            detections = [
                {"class_id": int(c) + 1, "score": round(float(s), 4), "box": [b[1], b[0], b[3], b[2]]}
                for b, s, c in zip((boxes[i, :n] * scale).round(2).tolist(), scores[i, :n], classes[i, :n], strict=True)
            ]
            file.write(json.dumps({"pts_s": stamps[i], "detections": detections}) + "\n")

    done = 0
    start = time.perf_counter()
    with av.open(str(video)) as container, out.open("w") as file:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        images: list[Any] = []
        stamps: list[float] = []
        for frame in container.decode(stream):
            images.append(frame.reformat(SIZE, SIZE, "rgb24", interpolation="BILINEAR").to_ndarray())
            stamps.append(float(frame.pts * frame.time_base))
            done += 1
            if len(images) == batch:
                flush(images, stamps, (frame.height, frame.width))
                images, stamps = [], []
            if done == frames:
                break
        if images:
            flush(images, stamps, (frame.height, frame.width))
    return done / (time.perf_counter() - start)


def run_pipeline(model: Path, video: Path, out: Path, frames: int, batch: int, threads: int) -> dict[str, float]:
    """The same through vramline; returns frames/s and what the stages cost."""
    from pipeline import Pipeline

    pipeline = Pipeline.from_dict(
        {
            "device": "cpu",
            "sources": [{"path": str(video), "max_frames": frames}],
            "pipeline": {
                "decode": {"threads": threads},
                "preprocess": {"fit": "stretch", "scale": 2 / 255, "mean": 1.0},
                "model": {"path": str(model)},
                "postprocess": {
                    "family": "ssd",
                    "score_threshold": SCORE_THRESHOLD,
                    "nms_iou": NMS_IOU,
                    "class_offset": 1,
                },
            },
            "sinks": [{"type": "jsonl", "path": str(out), "overwrite": True}],
            "runtime": {"batch_size": batch},
        }
    )
    status = pipeline.run()
    stages = {f"{name}_ms": round(times.ms_per_frame, 3) for name, times in status.stages.items()}
    return {"frames_per_s": status.frames_per_s, **stages}


def main() -> None:
    """Measures, prints, and writes JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", type=Path, help="default: the clip of the media card bikes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=400, help="per round")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0, help="FFmpeg threads; 0: as many as there are cores")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    from pipeline.zoo import obtain_media, obtain_model

    model = obtain_model("coco-ssd")
    video = args.video or obtain_media("bikes")
    detect = load_for_loop(model)
    loop: list[float] = []
    ours: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for round_number in range(args.rounds + 1):
            hand = run_loop(detect, video, out / "loop.jsonl", args.frames, args.batch, args.threads)
            line = run_pipeline(model, video, out / "line.jsonl", args.frames, args.batch, args.threads)
            note = " (does not count)" if round_number == 0 else ""
            print(f"round {round_number}: loop {hand:.1f} frames/s, pipeline {line['frames_per_s']:.1f} frames/s{note}")
            if round_number:
                loop.append(hand)
                ours.append(line)
    loop_rate = statistics.median(loop)
    our_rate = statistics.median(line["frames_per_s"] for line in ours)
    print(f"median: loop {loop_rate:.1f}, pipeline {our_rate:.1f} frames/s: ratio {our_rate / loop_rate:.3f}")
    if args.json:
        import av
        import tensorflow as tf

        result = {
            "benchmark": "cpu_overhead",
            "video": video.name,
            "frames_per_round": args.frames,
            "batch": args.batch,
            "loop_frames_per_s": loop,
            "pipeline": ours,
            "ratio_of_medians": our_rate / loop_rate,
            "machine": {"cores": os.cpu_count(), "processor": _processor(), "python": platform.python_version()},
            "versions": {"tensorflow": tf.__version__, "av": av.__version__},
        }
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
