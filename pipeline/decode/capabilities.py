"""PyNvVideoCodec: loaded on demand, with errors in words, and what the GPU's decoders can do."""

from __future__ import annotations

import functools
import importlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.decode._picture import layout_of
from pipeline.device_errors import explained
from pipeline.errors import DeviceError, DeviceMemoryError
from pipeline.observe.machine import driver, has_library

if TYPE_CHECKING:
    import av

log = logging.getLogger(__name__)

NvCodec = Any  # the module; it has no types

# FFmpeg's canonical name -> (PyNvVideoCodec's name, the name that people know)
CODECS = {
    "h264": ("H264", "H.264"),
    "hevc": ("HEVC", "HEVC"),
    "av1": ("AV1", "AV1"),
    "vp9": ("VP9", "VP9"),
    "vp8": ("VP8", "VP8"),
    "mpeg1video": ("MPEG1", "MPEG-1"),
    "mpeg2video": ("MPEG2", "MPEG-2"),
    "mpeg4": ("MPEG4", "MPEG-4 part 2"),
    "mjpeg": ("JPEG", "JPEG"),
}
# Into other samplings PyNvVideoCodec puts the picture in a form that loses some of it.
_CHROMA = {(1, 1): "420", (0, 0): "444"}
_CHROMA_NAMES = {(1, 1): "4:2:0", (1, 0): "4:2:2", (0, 0): "4:4:4", (0, 1): "4:4:0", (2, 0): "4:1:1", (2, 2): "4:1:0"}
_PROGRESSIVE = (0, 1)  # AVFieldOrder: unknown, progressive

# A CUDA context for the question, with room to spare.
LEAST_FREE_BYTES = 640 << 20

# Probing and creating decoders at the same time from several threads is left to nobody's luck.
creation_lock = threading.Lock()
# Pictures of an odd width come out wrong, by hundreds of 255.
_EVEN_WIDTH_ONLY = ("mpeg1video", "mpeg2video")


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """What decides whether, and by which decoder, a video is decoded.

    Attributes:
        codec: FFmpeg's canonical name.
        width: In samples, after cropping.
        height: In samples, after cropping.
        pix_fmt: FFmpeg's name.
        is_interlaced: Whether its frames are of two fields.
    """

    codec: str
    width: int
    height: int
    pix_fmt: str | None
    is_interlaced: bool = False

    @classmethod
    def of_context(cls, context: av.VideoCodecContext) -> VideoFormat:
        """What the container and the first packets say."""
        # Before PyAV 18 only a decoded frame says whether it is interlaced.
        interlaced = int(getattr(context, "field_order", 0)) not in _PROGRESSIVE
        return cls(context.codec.canonical_name, context.width, context.height, context.pix_fmt, interlaced)

    @classmethod
    def of_frame(cls, codec: str, frame: av.VideoFrame) -> VideoFormat:
        """What a decoded frame says."""
        return cls(codec, frame.width, frame.height, frame.format.name, frame.interlaced_frame)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a GPU decodes of one codec, sampling and bit depth; sizes in samples, 0 where the driver states none."""

    min_width: int
    min_height: int
    max_width: int
    max_height: int
    max_macroblocks: int

    def why_not(self, width: int, height: int) -> str | None:
        """Why a picture of this size is not decoded."""
        if width < self.min_width or height < self.min_height:
            return f"{width}x{height} is below the least that this GPU decodes, {self.min_width}x{self.min_height}"
        macroblocks = -(-width // 16) * -(-height // 16)
        if width > self.max_width or height > self.max_height or 0 < self.max_macroblocks < macroblocks:
            return f"{width}x{height} is beyond the most that this GPU decodes, {self.max_width}x{self.max_height}"
        return None


class Capabilities:
    """What one GPU decodes. Every question is asked once, when it comes up: it creates and destroys a CUDA context."""

    def __init__(self, ask: Callable[[str, str, int], Limits | None]) -> None:
        """`ask`: FFmpeg's codec name, "420" or "444", bit depth -> limits; None if that is not supported."""
        self._ask = ask
        self._known: dict[tuple[str, str, int], Limits | None] = {}
        self._lock = threading.Lock()

    def limits(self, codec: str, chroma: str, depth: int) -> Limits | None:
        """Of one codec, sampling and bit depth; None where the GPU does not decode it."""
        key = codec, chroma, depth
        with self._lock:
            if key not in self._known:
                self._known[key] = self._ask(*key) if codec in CODECS else None
            return self._known[key]

    def why_not(self, video: VideoFormat) -> str | None:
        """Why the GPU does not decode it, to stand behind a colon; None if it does."""
        name = CODECS.get(video.codec, ("", video.codec))[1]
        if self.limits(video.codec, "420", 8) is None:
            return f"this GPU does not decode {name}"
        layout = layout_of(video.pix_fmt) if video.pix_fmt else None
        if layout is None or len(layout.components) != 3 or video.pix_fmt == "gbrp":
            return f"NVDEC does not decode {name} as {video.pix_fmt}"
        sampling = _CHROMA_NAMES.get(layout.chroma_shift, "such")
        if layout.chroma_shift not in _CHROMA:
            return f"NVDEC does not give out {sampling} chroma"
        limits = self.limits(video.codec, _CHROMA[layout.chroma_shift], layout.bit_depth)
        if limits is None:
            return f"this GPU does not decode {name} with {sampling} chroma and {layout.bit_depth} bits"
        return _what_would_change(video, name) or limits.why_not(video.width, video.height)


def _what_would_change(video: VideoFormat, name: str) -> str | None:
    """What NVDEC would make of the video that it is not."""
    if video.is_interlaced:
        return "it is interlaced, which NVDEC would deinterlace"
    if video.codec in _EVEN_WIDTH_ONLY and video.width % 2:
        return f"its width of {video.width} is odd, with which NVDEC gives wrong pictures for {name}"
    return None


def load_nvcodec() -> NvCodec:
    """The module.

    Raises:
        DeviceError: it is not installed, or there is no driver or no decoder library under it.
    """
    found = driver()
    if found.problem:
        remedy = "use device: cpu; `vramline doctor` says what this machine can do"
        raise DeviceError(f"videos cannot be decoded on the GPU: {found.problem}", remedy=remedy)
    if not has_library("libnvcuvid.so.1"):
        remedy = "in a container, add `video` to NVIDIA_DRIVER_CAPABILITIES (compute,utility,video)"
        raise DeviceError("videos cannot be decoded on the GPU: libnvcuvid.so.1 is not there", remedy=remedy)
    try:
        return importlib.import_module("PyNvVideoCodec")
    except ModuleNotFoundError:
        raise DeviceError(
            "videos cannot be decoded on the GPU: PyNvVideoCodec is not installed",
            remedy="pip install 'vramline[cuda12]'",
        ) from None
    except (ImportError, RuntimeError, OSError) as e:
        # It looks for the encoder library too, which comes with the same driver capability.
        words = next(iter(str(e).strip().splitlines()), type(e).__name__)
        remedy = "update the NVIDIA driver; in a container, add `video` to NVIDIA_DRIVER_CAPABILITIES"
        raise DeviceError(f"PyNvVideoCodec cannot be loaded: {words}", remedy=remedy) from e


@functools.cache
def gpu_capabilities(ordinal: int) -> Capabilities:
    """Of a GPU, shared by all decoders of the process.

    Raises:
        DeviceError: as `load_nvcodec`.
    """
    nvc = load_nvcodec()
    return Capabilities(lambda codec, chroma, depth: _ask(nvc, ordinal, CODECS[codec][0], chroma, depth))


def _ask(nvc: NvCodec, ordinal: int, codec: str, chroma: str, depth: int) -> Limits | None:
    free_bytes = _free_bytes(ordinal)
    if free_bytes is not None and free_bytes < LEAST_FREE_BYTES:
        # PyNvVideoCodec does not look at whether it got its context, and goes on in memory that is not its own.
        raise DeviceMemoryError(
            f"the GPU is out of memory: to ask what it decodes takes some hundred MB, and {free_bytes >> 20} MB are left"
        )
    try:
        caps = nvc.GetDecoderCaps(
            gpuid=ordinal,
            codec=getattr(nvc.cudaVideoCodec, codec),
            chromaformat=getattr(nvc.cudaVideoChromaFormat, chroma),
            bitdepth=depth,
        )
    except Exception as e:
        # A full card is no answer, and what is answered once is believed for ever.
        if (fault := explained(e, "asking what the GPU decodes")) is not None:
            raise fault from e
        log.debug("GPU %d: asked for %s %s %d-bit: %s", ordinal, codec, chroma, depth, e)
        return None
    if not caps.get("supported"):
        return None
    fields = ("width_min", "height_min", "width_max", "height_max", "mb_num_max")
    return Limits(*(int(caps.get(field, 0)) for field in fields))


def _free_bytes(ordinal: int) -> int | None:
    """Of the GPU's memory; None where nobody can tell."""
    try:
        import cupy

        free: int = cupy.cuda.Device(ordinal).mem_info[0]
    except Exception:  # asking the decoder will say what is wrong
        return None
    return free


def decode_errors(nvc: NvCodec) -> tuple[type[Exception], ...]:
    """What its calls raise where the video or the GPU is at fault."""
    return (nvc.PyNvVCException, nvc.PyNvVCExceptionUnsupported, RuntimeError)
