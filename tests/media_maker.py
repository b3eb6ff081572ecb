"""Makes the clips that tests decode: small, deterministic, and with a ground truth that survives the codec.

Every picture carries its frame number as 16 black and white blocks in its top lines, so that a test can prove which frames
came out, in which order and how often: `read_number(luma)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.video.reformatter import ColorRange, Colorspace

Rgb = npt.NDArray[np.uint8]
Content = Literal["testsrc", "gradient", "moving box"]
Colour = tuple[str, str]

NUMBER_BITS = 16
# What swscale converts in parallel slices is not reproducible; before PyAV 17 it has one thread and no such option.
_ONE_THREAD = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
# Colour matrix -> (swscale's number, for which older PyAV has not all names, AVColorSpace, AVColorPrimaries, AVColorTransferCharacteristic)
_MATRICES = {
    "bt601": (Colorspace.ITU601, 6, 6, 6),
    "bt709": (Colorspace.ITU709, 1, 1, 1),
    "bt2020": (9, 9, 9, 14),
    "smpte240m": (Colorspace.SMPTE240M, 7, 7, 7),
}


def make_clip(
    path: Path,
    *,
    width: int = 64,
    height: int = 48,
    frames: int = 10,
    rate: Fraction | int = 30,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    colour: Colour | None = None,
    content: Content = "testsrc",
    numbered: bool = True,
    rotation: int = 0,
    hflip: bool = False,
    vflip: bool = False,
    sar: Fraction | None = None,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    gop: int = 10,
    options: dict[str, str] | None = None,
    format_options: dict[str, str] | None = None,
    format_name: str | None = None,
    audio: bool = False,
) -> Path:
    """Writes a clip and returns its path.

    Args:
        path: Where to; its ending names the container unless `format_name` does.
        width: Coded width in pixels.
        height: Coded height in pixels.
        frames: How many.
        rate: Frames/s.
        codec: FFmpeg encoder.
        pix_fmt: FFmpeg pixel format to encode.
        colour: (matrix, range) such as ("bt709", "limited"): converted so and tagged so. None: BT.601 limited, untagged.
        content: See `picture`.
        numbered: Whether the pictures carry their number.
        rotation: Degrees counter-clockwise in the display matrix, as ffprobe shows it.
        hflip: Mirror left-right in the display matrix.
        vflip: Mirror top-bottom in the display matrix.
        sar: Sample aspect ratio.
        pts: Presentation times in units of `time_base`, for a variable frame rate. Default: 0, 1, 2 ... in 1 / rate.
        time_base: Seconds of a unit of `pts`.
        gop: Frames from one key frame to the next.
        options: For the encoder.
        format_options: For the muxer.
        format_name: The muxer's name.
        audio: Whether a silent audio track is added.
    """
    rate = Fraction(rate)
    time_base = time_base or 1 / rate
    with av.open(str(path), "w", format=format_name, options=format_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=_encoder_options(codec, options))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = time_base
        stream.codec_context.thread_count = 1
        if sar is not None:
            stream.codec_context.sample_aspect_ratio = sar
        if rotation or hflip or vflip:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip(f"PyAV {av.__version__} cannot write a display matrix")
            stream.set_display_rotation(rotation, hflip=hflip, vflip=vflip)
        if colour is not None:
            context = stream.codec_context
            _, context.colorspace, context.color_primaries, context.color_trc = _MATRICES[colour[0]]
            context.color_range = ColorRange.JPEG if colour[1] == "full" else ColorRange.MPEG
        sound = container.add_stream("aac", rate=48000, layout="mono") if audio else None
        for i in range(frames):
            frame = to_frame(picture(content, i, width, height, numbered=numbered), pix_fmt, colour)
            frame.pts = pts[i] if pts is not None else i
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            for i in range(int(48000 * frames / rate) // 1024):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                silence.sample_rate, silence.pts = 48000, 1024 * i
                container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
    return path


def _encoder_options(codec: str, options: dict[str, str] | None) -> dict[str, str]:
    defaults = {
        "libx264": {"preset": "veryfast", "crf": "12"},
        "libx265": {"preset": "ultrafast", "crf": "12", "x265-params": "log-level=none:pools=1"},
        "libsvtav1": {"preset": "10", "crf": "20"},
    }
    return {**defaults.get(codec, {}), **(options or {})}


def picture(content: Content, index: int, width: int, height: int, *, numbered: bool = True) -> Rgb:
    """(height, width, 3) RGB of frame `index`, with its number in the top lines unless `numbered` is False.

    `testsrc`: colour bars over a ramp that moves; `gradient`: smooth in all channels; `moving box`: the white box of
    `box_of` on grey.
    """
    y, x = np.mgrid[0:height, 0:width]
    if content == "testsrc":
        bars = (x * 8 // width)[..., None] >> np.arange(3) & 1
        rgb = np.where((y < height * 2 // 3)[..., None], bars * 200 + 20, ((x * 2 + y + index * 4) % 256)[..., None])
    elif content == "gradient":
        rgb = np.stack(
            [x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x + y + 4 * index) % 512 // 2], -1
        )
    else:
        rgb = np.full((height, width, 3), 90)
        x1, y1, x2, y2 = box_of(index, width, height)
        rgb[y1:y2, x1:x2] = 240
    rgb = rgb.astype(np.uint8)
    if numbered:
        write_number(rgb, index)
    return rgb


def box_of(index: int, width: int, height: int) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of the box of `moving box` in frame `index`."""
    side = max(2, height // 4)
    x1 = (index * 2) % max(1, width - side)
    return x1, height // 2, x1 + side, height // 2 + side


def write_number(rgb: Rgb, number: int) -> None:
    """Writes `number` into the top eighth of the picture (at least 2 lines), in place."""
    height, width = rgb.shape[:2]
    lines = max(2, height // 8)
    edges = np.linspace(0, width, NUMBER_BITS + 1).astype(int)
    for bit in range(NUMBER_BITS):
        rgb[:lines, edges[bit] : edges[bit + 1]] = 235 if number >> bit & 1 else 16


def read_number(luma: npt.NDArray[np.generic], peak: int = 255) -> int:
    """The number that `write_number` wrote, from a luma plane (or any channel) with values up to `peak`."""
    height, width = luma.shape
    lines = max(2, height // 8)
    edges = np.linspace(0, width, NUMBER_BITS + 1).astype(int)
    return sum(
        int(luma[: max(1, lines - 1), edges[bit] : edges[bit + 1]].mean() > peak / 2) << bit
        for bit in range(NUMBER_BITS)
    )


def to_frame(rgb: Rgb, pix_fmt: str, colour: Colour | None = None) -> av.VideoFrame:
    """RGB as a frame of another pixel format, converted with the matrix and range of `colour`."""
    matrix, scale = colour or ("bt601", "limited")
    space, av_space, primaries, transfer = _MATRICES[matrix]
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24")
    converted = frame.reformat(
        format=pix_fmt,
        dst_colorspace=space,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.JPEG if scale == "full" or not pix_fmt.startswith("yuv") else ColorRange.MPEG,
        **_ONE_THREAD,
    )
    converted.colorspace = av_space if colour and pix_fmt.startswith("yuv") else 2
    if colour is None:
        converted.color_range = ColorRange.UNSPECIFIED
    elif hasattr(converted, "color_primaries"):  # older PyAV takes the encoder's
        converted.color_primaries, converted.color_trc = primaries, transfer
    return converted


def ffprobe_pts(path: Path, stream: str = "v:0") -> Iterator[float | None]:
    """Presentation time in seconds of each frame that ffprobe decodes; None where it states none."""
    import json
    import subprocess

    command = ["ffprobe", "-v", "quiet", "-select_streams", stream, "-show_entries", "frame=pts_time", "-of", "json"]
    done = subprocess.run([*command, str(path)], capture_output=True, timeout=120, check=False)
    for frame in json.loads(done.stdout or b"{}").get("frames", []):
        yield float(frame["pts_time"]) if "pts_time" in frame else None
