"""Odd and damaged files of all kinds: frames as ffprobe counts them, or one clear error; no hang, no crash."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from media_maker import ffprobe_pts

from pipeline.errors import SourceError, SourceErrorCode

pytestmark = [pytest.mark.assets, pytest.mark.timeout(60)]
Code = SourceErrorCode

# What ends in an error: (code, frames before it).
ERRORS: dict[str, tuple[SourceErrorCode, int]] = {
    "audio_only.mp4": (Code.NO_VIDEO_STREAM, 0),
    "empty.mp4": (Code.NOT_A_VIDEO, 0),
    "random.mp4": (Code.NOT_A_VIDEO, 0),
    "text.mp4": (Code.NOT_A_VIDEO, 0),
    "trunc_no_moov.mp4": (Code.DAMAGED, 0),
    "no_keyframes.mp4": (Code.NO_FRAMES, 0),
    "trunc_faststart.mp4": (Code.DAMAGED, 51),
    "trunc_fragmented.mp4": (Code.DAMAGED, 51),
    "codec_change.ts": (Code.DAMAGED, 89),
}
# Where FFmpeg's releases differ, or ffprobe is asked for another stream; the reason why the counts may differ.
NOT_AS_FFPROBE = {
    "codec_change.ts": "ffprobe 5 shows a first frame of the second codec",
    "bitflips_hevc.ts": "FFmpeg 8 discards HEVC frames whose references are lost, FFmpeg 5 shows them",
    "nasa_13013.mp4": "has two video streams: the better one is taken, and it is not the first",
}
# Packets that cannot be decoded while others can.
PACKET_ERRORS = {"bitflips.mp4": 1, "bitflips.ts": 2, "zeros.mp4": 17, "test_bad_task_info_pynv.mkv": 1}
ROTATED = {
    "rot90.mp4": 270,
    "rot180.mp4": 180,
    "rot270.mp4": 90,
    "nasa_13013_rotated.mp4": 270,
    "test_rot_90_deg.mp4": 270,
}
DISPLAY = {
    "sar_4_3.mp4": (853, 360),
    "cropped_636x358.mp4": (636, 358),
    "rot90.mp4": (360, 640),
    "tiny_32x32.mp4": (57, 32),
}
RAW = (".264", ".h264")


@pytest.fixture(scope="module")
def files(assets: Path) -> dict[str, Path]:
    return {path.name: path for part in ("made", "others") for path in sorted((assets / "odd_media" / part).iterdir())}


@pytest.fixture(scope="module")
def stated(files: dict[str, Path]) -> Any:
    """File name -> the times that ffprobe states, found in the background."""
    if not shutil.which("ffprobe"):
        pytest.skip("ffprobe is not installed")
    with ThreadPoolExecutor(2) as pool:
        futures: dict[str, Future[Any]] = {
            name: pool.submit(lambda path: list(ffprobe_pts(path)), path) for name, path in files.items()
        }
        yield lambda name: futures[name].result(timeout=60)


def _decode(open_video: Any, path: Path, threads: int) -> tuple[list[Any], Any, SourceError | None]:
    frames: list[Any] = []
    decoder = None
    try:
        decoder = open_video(path, threads=threads)
        for frame in decoder:
            picture = frame.picture
            assert picture.width > 0 and picture.height > 0 and len(picture.planes) in (1, 3)
            frames.append((frame.index, frame.pts_s, (picture.width, picture.height), picture.rotation))
    except SourceError as e:
        return frames, decoder, e
    return frames, decoder, None


@pytest.mark.parametrize("threads", [2, 16])
def test_every_file_ends_in_frames_or_one_clear_error(files: Any, stated: Any, open_video: Any, threads: int) -> None:
    assert len(files) >= 100
    wrong: list[str] = []
    for name, path in files.items():
        frames, decoder, error = _decode(open_video, path, threads)
        complaints = _complaints(name, path, frames, decoder, error, stated(name))
        wrong += [f"{name}: {complaint}" for complaint in complaints]
    assert not wrong, "\n".join(wrong)


def _complaints(name: str, path: Path, frames: Any, decoder: Any, error: Any, times: Any) -> list[str]:
    found = []
    code, count = ERRORS.get(name, (None, None))
    if (error and error.code) != code or (count is not None and len(frames) != count):
        found.append(f"ends with {error!r} after {len(frames)} frames")
    if error is not None:
        words = str(error).replace(str(path), "")
        if re.search(r"Errno|\d{6,}|\n", words) or str(path) not in error.message:
            found.append(f"unclear: {error}")
    if [f[0] for f in frames] != list(range(len(frames))):
        found.append("the frames are not numbered in order")
    if name not in NOT_AS_FFPROBE:
        if len(frames) != len(times):
            found.append(f"{len(frames)} frames, ffprobe has {len(times)}")
        elif path.suffix not in RAW:
            off = [
                i for i, (f, t) in enumerate(zip(frames, times, strict=True)) if t is not None and abs(f[1] - t) > 2e-6
            ]
            if off:
                found.append(f"the times of frames {off[:5]} are not ffprobe's")
    if decoder is not None and name not in ERRORS and decoder.stats.errors != PACKET_ERRORS.get(name, 0):
        found.append(f"{decoder.stats.errors} errors")
    if frames and frames[0][3] != ROTATED.get(name, 0):
        found.append(f"turned by {frames[0][3]}")
    if frames and frames[0][2] != DISPLAY.get(name, frames[0][2]):
        found.append(f"shown as {frames[0][2]}")
    return found


def test_the_real_clips(assets: Path, open_video: Any) -> None:
    for name, count in {"TUD-Campus.mp4": 71, "TUD-Stadtmitte.mp4": 179, "bikes.mp4": 250}.items():
        frames, decoder, error = _decode(open_video, assets / "media" / name, 2)
        assert (len(frames), error, decoder.stats.errors, decoder.info.frame_count) == (count, None, 0, count)
