"""Every sink on a disk that fills up: one clear error, and what was written can be read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

PROGRAM = """
import json, resource, sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from pipeline.config.sinks import SINKS
from pipeline.errors import SinkError
from pipeline.frames import Colour, Detections, Frame, Picture, Predictions, ResultBatch
from pipeline.sinks import build_sink
from pipeline.stages import SinkSource, StreamInfo

kind, path, limit_bytes, batches = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
if limit_bytes:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
sink = build_sink(SINKS[kind](path=path), several_sources=False)
sink.open()
sink.source_started(SinkSource("cam", StreamInfo("h264", 320, 240, Fraction(25), None, None)))
rng = np.random.default_rng(0)
written = 0
try:
    for b in range(batches):
        frames = []
        for i in range(8):
            planes = tuple(rng.integers(0, 256, s, np.uint8) for s in ((48, 64), (24, 32), (24, 32)))
            picture = Picture(planes, (1, 1), Colour("bt601"), 64, 48)
            frames.append(Frame("cam", 8 * b + i, (8 * b + i) / 25, 0.0, picture))
        boxes = Detections(np.full((80, 4), 7, np.float32), np.full(80, 0.5, np.float32), np.zeros(80, np.int32),
                           np.arange(9) * 10, {0: "person"})
        sink.write(ResultBatch(frames, Predictions(boxes, None, {"x": rng.normal(size=(8, 100))}), "m@0"))
        written += 8
    sink.close()
    error = None
except SinkError as e:
    error = str(e)
print(json.dumps({"error": error, "written": written, "kept": [str(p) for p in sink.abort()]}))
"""
SUFFIX = {"jsonl": ".jsonl", "csv": ".csv", "video": ".mp4", "tensors": ".npz"}
KINDS = sorted(SUFFIX)


def run(command: list[str]) -> dict[str, object]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    result: dict[str, object] = json.loads(done.stdout)
    return result


def check(kind: str, folder: Path, written: int, *, all_of_it: bool = False) -> None:
    """What was kept holds the frames that were taken, or for a video most of them."""
    if kind == "jsonl":
        text = (folder / "out.jsonl.partial").read_bytes()
        assert text.endswith(b"}\n")
        assert [json.loads(line)["frame"] for line in text.splitlines()] == list(range(written))
    elif kind == "csv":
        text = (folder / "out.csv.partial").read_bytes()
        assert text.endswith(b"\r\n")
        assert len(text.split(b"\r\n")) == 1 + 10 * written + 1
    elif kind == "tensors":
        for name in ("x", "source", "frame", "pts_s"):
            assert len(np.load(folder / f"out.npz.partial.{name}.npy", allow_pickle=False)) == written
    else:
        with av.open(str(folder / "out.mp4.partial"), format="mp4") as container:
            frames = sum(1 for _ in container.decode(video=0))
        assert frames == written if all_of_it else frames >= min(50, written // 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_may_not_grow(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"out{SUFFIX[kind]}"
    limit = 400_000 if kind == "video" else 100_000
    result = run([sys.executable, "-c", PROGRAM, kind, str(path), str(limit), "60"])
    assert str(result["error"]).startswith(
        f"{path}: the file would be larger than is allowed (what was written is kept as"
    )
    assert result["kept"]
    assert not path.exists()
    assert isinstance(result["written"], int)
    assert result["written"] > 0
    assert sorted(map(str, tmp_path.iterdir())) == result["kept"]
    check(kind, tmp_path, result["written"])


def small_disk(folder: Path, size: str, command: list[str], keep: Path) -> list[str]:
    """A command that sees `folder` as a disk of this size; what it leaves there is copied to `keep`."""
    script = 'mount -t tmpfs -o "size=$1" none "$2" || exit 77; to=$3; from=$2; shift 3; "$@"; cp -r "$from/." "$to"'
    return ["unshare", "-rm", "sh", "-c", script, "sh", size, str(folder), str(keep), *command]


@pytest.fixture(scope="module")
def small_disks(tmp_path_factory: pytest.TempPathFactory) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("a small disk needs the command unshare")
    folders = [tmp_path_factory.mktemp(name) for name in ("disk", "keep")]
    done = subprocess.run(
        small_disk(folders[0], "64k", ["true"], folders[1]), capture_output=True, timeout=30, check=False
    )
    if done.returncode:
        pytest.skip(f"this system does not let a test mount a small disk: {done.stderr.decode().strip()}")


# At the end videos and tensors need as much room again: enough for the frames is too little for that.
WHILE_WRITING = [("jsonl", "100k", 60), ("csv", "100k", 60), ("tensors", "100k", 60), ("video", "400k", 60)]
WHILE_COMPLETING = [("tensors", "340k", 30), ("video", "340k", 15)]


@pytest.mark.usefixtures("small_disks")
@pytest.mark.parametrize(("kind", "size", "batches"), WHILE_WRITING + WHILE_COMPLETING)
def test_a_disk_that_is_full(tmp_path: Path, kind: str, size: str, batches: int) -> None:
    closing = (kind, size, batches) in WHILE_COMPLETING
    disk, keep = tmp_path / "disk", tmp_path / "keep"
    disk.mkdir()
    keep.mkdir()
    path = disk / f"out{SUFFIX[kind]}"
    command = [sys.executable, "-c", PROGRAM, kind, str(path), "0", str(batches)]
    result = run(small_disk(disk, size, command, keep))
    assert str(result["error"]).startswith(
        f"{path}: the disk is full (what was written is kept as out{SUFFIX[kind]}.partial"
    )
    assert isinstance(result["written"], int)
    assert (result["written"] == 8 * batches) == closing
    assert sorted(f"{disk}/{p.name}" for p in keep.iterdir()) == result["kept"]
    check(kind, keep, result["written"], all_of_it=closing)
