"""NVDEC against FFmpeg: every clip that is here, frame by frame, and what stays behind after many decoders."""

from __future__ import annotations

import gc
import hashlib
import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fake_nvcodec import planes_at
from media_maker import make_clip

from pipeline.config.sources import Source
from pipeline.config.stages import Decode
from pipeline.decode.capabilities import CODECS, gpu_capabilities
from pipeline.decode.ffmpeg import FfmpegDecoder
from pipeline.decode.nvdec import NvdecDecoder, open_nvdec
from pipeline.errors import SourceError
from pipeline.frames import Frame
from pipeline.sources import VideoSpec

# What damage looks like is each decoder's own affair; sizes, an error's words and the process's health are not.
DAMAGED = ("bitflips", "zeros", "lost_packets", "trunc", "codec_change", "starts_mid_gop", "no_keyframes", "bad_task")
EXACT = (
    "h264",
    "hevc",
    "vp9",
    "vp8",
    "av1",
)  # their standards leave no room; MPEG-1, -2 and -4 and JPEG leave a rounding
MOST_FRAMES = 60
SECONDS_IN_ALL = 110


class Stream:
    """A stream of our own, as `DeviceStream`; TensorFlow is not needed here."""

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy.cuda.Stream(non_blocking=True)
        self.handle, self.ordinal = self.cupy.ptr, 0


@pytest.fixture(scope="module")
def stream() -> Stream:
    return Stream()


def spec_of(path: Path, **settings: Any) -> VideoSpec:
    return VideoSpec("cam", str(path), str(path), False, Source(path=str(path), **settings))


def download(frame: Frame, stream: Stream) -> list[Any]:
    import cupy

    def read(pointer: int, size: int) -> bytes:
        host = np.empty(size, np.uint8)
        cupy.cuda.runtime.memcpyAsync(host.ctypes.data, pointer, size, 2, stream.handle)
        stream.cupy.synchronize()
        return host.tobytes()

    surface = frame.picture.surface
    assert surface is not None
    return planes_at(surface.pointer, surface.layout, frame.picture.chroma_shift, read)


def about(frame: Frame) -> tuple[Any, ...]:
    p = frame.picture
    return p.coded_size, p.chroma_shift, p.colour, p.rotation, p.mirror, p.sar, p.width, p.height


@dataclass
class Seen:
    """What a decoder made of a clip."""

    about: list[Any] = field(default_factory=list)
    pts: list[float | None] = field(default_factory=list)
    luma: list[str] = field(default_factory=list)
    planes: list[list[Any]] = field(default_factory=list)
    error: str = ""
    decoder: Any = None

    def add(self, frame: Frame, planes: list[Any]) -> None:
        self.about.append(about(frame))
        self.pts.append(frame.pts_s)
        self.luma.append(hashlib.md5(planes[0].tobytes(), usedforsecurity=False).hexdigest())
        if len(self.planes) < 24:
            self.planes.append([np.array(plane) for plane in planes])


IS_AHEAD = [False]


@pytest.fixture(autouse=True, params=[False, True], ids=["", "ahead"])
def is_ahead(request: Any) -> bool:
    """Whether the decoder is called by a thread of its own, one call ahead of who hands the frames out."""
    IS_AHEAD[0] = request.param
    return IS_AHEAD[0]


def on_cpu(path: Path, **settings: Any) -> Seen:
    seen = Seen()
    try:
        seen.decoder = FfmpegDecoder(spec_of(path, **settings), Decode(threads=8))
        for frame in seen.decoder:
            seen.add(frame, list(frame.picture.planes))
    except SourceError as e:
        seen.error = e.message
    return seen


def on_gpu(path: Path, stream: Stream, ring: int = 8, **settings: Any) -> Seen:
    seen = Seen()
    held: list[Frame] = []

    def release() -> None:
        frame = held.pop(0)
        seen.add(frame, download(frame, stream))
        frame.picture.surface.release()  # type: ignore[union-attr]

    try:
        seen.decoder = open_nvdec(spec_of(path, **settings), Decode(), stream=stream, ring=ring, is_ahead=IS_AHEAD[0])
        for frame in seen.decoder:
            held.append(frame)
            if len(held) > ring - 2:  # others are in use while it decodes on
                release()
    except SourceError as e:
        seen.error = e.message
    while held:
        release()
    return seen


def worst(got: list[list[Any]], want: list[list[Any]]) -> list[int]:
    """The largest difference of each plane over the frames that were kept."""
    most = [0, 0, 0]
    for a, b in zip(got, want, strict=False):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            difference = int(np.abs(x.astype(int) - y).max()) if x.shape == y.shape else 1 << 16
            most[i] = max(most[i], difference)
    return most


def differences(path: Path, got: Seen, want: Seen) -> list[str]:
    found = []
    if got.error != want.error:
        found.append(f"error {got.error!r}, on the CPU {want.error!r}")
    if len(got.pts) != len(want.pts):
        found.append(f"{len(got.pts)} frames, on the CPU {len(want.pts)}")
    wrong = [i for i, (a, b) in enumerate(zip(got.pts, want.pts, strict=False)) if a != b]
    if wrong:
        i = wrong[0]
        found.append(f"{len(wrong)} times, first of frame {i}: {got.pts[i]} s, on the CPU {want.pts[i]} s")
    wrong = [i for i, (a, b) in enumerate(zip(got.about, want.about, strict=False)) if a != b]
    if wrong:
        i = wrong[0]
        found.append(f"{len(wrong)} geometries, first of frame {i}: {got.about[i]}, on the CPU {want.about[i]}")
    wrong = [i for i, (a, b) in enumerate(zip(got.luma, want.luma, strict=False)) if a != b]
    off = worst(got.planes, want.planes)
    codec = want.decoder.info.codec if want.decoder else ""
    is_exact = codec in EXACT or (got.decoder is not None and got.decoder.stats.uploaded)
    if is_exact and (wrong or any(off)):
        found.append(f"{len(wrong)} frames of other luma, first {wrong[:3]}; largest difference by plane {off}")
    # Their standards leave the inverse transform's rounding open, and it adds up from key frame to key frame.
    if not is_exact and max(off) > 6:
        found.append(f"largest difference by plane {off}")
    return found


@pytest.mark.assets
def test_every_clip(assets: Path, stream: Stream, caplog: Any) -> None:
    """One table of all clips; then everything that differs, at once."""
    caplog.set_level(logging.WARNING)
    clips = [p for d in ("media", "odd_media/made", "odd_media/others") for p in sorted((assets / d).glob("*"))]
    assert clips, f"no clips in {assets}"
    all_found, damaged_found, start, left = [], [], time.monotonic(), 0
    for path in clips:
        if time.monotonic() - start > SECONDS_IN_ALL:
            left += 1
            continue
        limit = {"max_frames": MOST_FRAMES} if path.parent.name == "media" else {}
        limit = {"max_frames": 2} if path.name.startswith("big_") else limit
        caplog.clear()
        want, got = on_cpu(path, **limit), on_gpu(path, stream, **limit)
        found = differences(path, got, want)
        stats = got.decoder.stats if got.decoder else None
        where = "-" if stats is None else "upload" if stats.uploaded else "nvdec"
        why = "; ".join(
            r.getMessage().split("uploaded: ")[-1] for r in caplog.records if "uploaded: " in r.getMessage()
        )
        codec = want.decoder.info.codec if want.decoder else "-"
        off = worst(got.planes, want.planes)
        line = f"{path.name:46} {codec:11} {where:6} {len(got.pts):4} {len(want.pts):4} {off} {why}"
        print(line, *(f"\n    DIFFERS: {text}" for text in found), flush=True)
        (damaged_found if any(word in path.name for word in DAMAGED) else all_found).extend(
            f"{path.name}: {text}" for text in found
        )
    print(f"{len(clips) - left} of {len(clips)} clips in {time.monotonic() - start:.0f} s")
    print("damaged clips differ, as they may:", *damaged_found, sep="\n  ")
    assert not all_found, "\n" + "\n".join(all_found)
    assert not left, f"{left} clips were not reached in {SECONDS_IN_ALL} s"


MADE: dict[str, dict[str, Any]] = {
    "vp9_odd.webm": {"codec": "libvpx-vp9", "width": 321, "height": 241, "frames": 20},
    "hevc_444_odd.mkv": {"codec": "libx265", "pix_fmt": "yuv444p", "width": 321, "height": 241, "frames": 20},
    "hevc_444_10.mkv": {"codec": "libx265", "pix_fmt": "yuv444p10le", "width": 322, "height": 242, "frames": 20},
    "hevc_10.mkv": {"codec": "libx265", "pix_fmt": "yuv420p10le", "width": 322, "height": 242, "frames": 20},
    "hevc_12.mkv": {"codec": "libx265", "pix_fmt": "yuv420p12le", "width": 322, "height": 242, "frames": 20},
    "h264_cropped.mp4": {"width": 322, "height": 242, "frames": 20},
    "h264_cropped_left_top.mp4": {"width": 320, "height": 240, "frames": 20, "options": {"x264-params": "crop-rect=16,8,4,2"}},
    "h264_bframes_open.mp4": {"width": 320, "height": 240, "frames": 90, "gop": 30, "options": {"bf": "5", "x264-params": "open-gop=1:b-pyramid=2"}},
    "hevc_open_gop.mp4": {"codec": "libx265", "width": 320, "height": 240, "frames": 90, "gop": 30, "options": {"x265-params": "open-gop=1:bframes=4:log-level=none"}},
    "h264_intra.ts": {"width": 320, "height": 240, "frames": 30, "gop": 1},
    "vp8_altref.webm": {"codec": "libvpx", "width": 320, "height": 240, "frames": 80, "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "vp8_odd.webm": {"codec": "libvpx", "width": 321, "height": 241, "frames": 20},
    "mpeg1_odd.mpg": {"codec": "mpeg1video", "width": 321, "height": 241, "frames": 20},
    "mpeg2_odd_height.mpg": {"codec": "mpeg2video", "width": 320, "height": 241, "frames": 20},
    "mpeg4_odd.avi": {"codec": "mpeg4", "width": 321, "height": 241, "frames": 20},
    "mjpeg_odd.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "width": 321, "height": 241, "frames": 20},
    "mpeg1.mpg": {"codec": "mpeg1video", "width": 320, "height": 240, "frames": 20},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "width": 320, "height": 240, "frames": 20},
}  # fmt: skip


NOT_YET = {"h264_cropped_left_top.mp4": "NVDEC's library crops at the right and bottom only"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.xfail(reason=NOT_YET[n], strict=True)) if n in NOT_YET else n for n in MADE],
)
def test_made_clips(tmp_path: Path, stream: Stream, name: str) -> None:
    try:
        path = make_clip(tmp_path / name, **MADE[name])
    except (av.error.FFmpegError, ValueError) as e:
        pytest.skip(f"FFmpeg cannot encode it here: {e}")
    want, got = on_cpu(path), on_gpu(path, stream)
    print(f"{name}: {got.decoder.stats}, largest difference {worst(got.planes, want.planes)}")
    assert differences(path, got, want) == []


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
def test_a_change_of_size_stretches_nothing(tmp_path: Path, stream: Stream, codec: str) -> None:
    sizes = [(640, 368), (320, 192), (640, 368), (800, 608)]
    parts = [
        make_clip(tmp_path / f"{i}.ts", codec=codec, width=w, height=h, frames=20, options={"bf": "2"}).read_bytes()
        for i, (w, h) in enumerate(sizes)
    ]
    path = tmp_path / "all.ts"
    path.write_bytes(b"".join(parts))
    got = on_gpu(path, stream)
    assert got.error == ""
    assert [a[0] for a in got.about] == [size for size in sizes for _ in range(20)]
    assert got.decoder.stats.uploaded == 0
    if codec != "mpeg2video":  # FFmpeg keeps the last frame before a change to itself
        assert differences(path, got, on_cpu(path)) == []


@pytest.mark.parametrize("name", ["delimited.ts", "plain.mp4"])
@pytest.mark.parametrize("reordered", [False, True])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_live_frames_come_out_as_soon_as_their_order_allows(
    tmp_path: Path, stream: Stream, codec: str, reordered: bool, name: str
) -> None:
    bframes = 2 if reordered else 0
    options = {"bf": str(bframes)} if codec == "libx264" else {"x265-params": f"log-level=none:bframes={bframes}"}
    path = make_clip(tmp_path / name, width=640, height=360, frames=60, gop=15, codec=codec, options=options)
    spec = VideoSpec("cam", str(path), str(path), False, Source(url="rtsp://camera/x", policy="fifo"))
    with pytest.raises(SourceError, match="ended the stream"):
        wanted = []
        for frame in FfmpegDecoder(spec, Decode()):
            wanted.append((frame.index, frame.pts_s, [plane.tobytes() for plane in frame.picture.planes]))
    found, behind = [], []
    decoder = open_nvdec(spec, Decode(fallback="error"), stream=stream, ring=4)
    with pytest.raises(SourceError, match="ended the stream"):
        for number, frame in enumerate(decoder):
            behind.append(decoder.stats.packets - 1 - number)
            found.append((frame.index, frame.pts_s, [plane.tobytes() for plane in download(frame, stream)]))
            assert frame.picture.surface is not None
            frame.picture.surface.release()
    print(f"{codec}, {name}, reordered: {reordered}: {behind}")
    assert found == wanted
    # The first one waits while the stream is opened; at the end all come out.
    assert (max(behind[1:45]) == 0) is not reordered


def test_open_and_close_leave_no_memory_behind(tmp_path: Path, stream: Stream) -> None:
    import cupy

    path = make_clip(tmp_path / "a.mp4", width=640, height=368, frames=30)
    uploaded = make_clip(tmp_path / "b.mp4", width=640, height=368, frames=30, pix_fmt="yuv422p")
    free = []
    for i in range(200):
        decoder = open_nvdec(
            spec_of(uploaded if i % 10 == 9 else path), Decode(), stream=stream, ring=4, is_ahead=IS_AHEAD[0]
        )
        frames = [frame for _, frame in zip(range(i % 4), decoder, strict=False)]
        for frame in frames[: i % 3]:
            frame.picture.surface.release()
        decoder.close()
        del decoder, frames
        if i % 20 == 19:
            gc.collect()
            stream.cupy.synchronize()
            cupy.get_default_memory_pool().free_all_blocks()
            free.append(cupy.cuda.Device().mem_info[0] >> 20)
    print("free MiB after each 20:", free)
    assert free[1] - free[-1] <= 8


def test_the_ring_holds_and_close_wakes(tmp_path: Path, stream: Stream) -> None:
    path = make_clip(tmp_path / "a.mp4", width=320, height=240, frames=60)
    decoder = open_nvdec(spec_of(path), Decode(), stream=stream, ring=4, is_ahead=IS_AHEAD[0])
    out: list[Frame] = []
    thread = threading.Thread(target=lambda: out.extend(decoder), daemon=True)
    thread.start()
    time.sleep(1)
    assert thread.is_alive()
    assert decoder.stats.frames <= 4
    start = time.monotonic()
    decoder.close()
    thread.join(10)
    assert not thread.is_alive(), f"still waiting after {time.monotonic() - start:.1f} s"
    for frame in out:
        assert download(frame, stream)[0].shape == (240, 320), "what is on loan stays"


def test_what_this_gpu_decodes() -> None:
    capabilities = gpu_capabilities(0)
    for codec in CODECS:
        print(codec, capabilities.limits(codec, "420", 8))
    assert capabilities.limits("h264", "420", 8) is not None
    assert capabilities.limits("hevc", "420", 10) is not None


@pytest.mark.assets
def test_what_a_frame_costs_in_python(assets: Path, stream: Stream) -> None:
    """CPU time of the decoding thread, beside the wait for NVDEC."""
    path = assets / "media" / "motorway_1080p60_h264.mp4"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    decoder: NvdecDecoder = open_nvdec(spec_of(path), Decode(), stream=stream, ring=8)
    frames = iter(decoder)
    for _ in range(50):
        next(frames).picture.surface.release()  # type: ignore[union-attr]
    start, cpu, count = time.perf_counter(), time.thread_time(), 0
    for frame in frames:
        frame.picture.surface.release()  # type: ignore[union-attr]
        count += 1
        if count == 400:
            break
    wall, busy = time.perf_counter() - start, time.thread_time() - cpu
    decoder.close()
    print(f"{count} frames: {1e6 * busy / count:.1f} us of this thread each, {count / wall:.0f} frames/s")
    assert busy / count < 400e-6, "driver calls included"
