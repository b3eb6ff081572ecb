"""PyNvVideoCodec and CuPy without a GPU: FFmpeg decodes, NumPy holds the "device" memory, addresses are real.

What matters of the real ones is kept: frames come out late, in display order and without timestamps; memory that is not
locked is written again; locked memory is not, and is freed with its decoder only once it is unlocked; another size is silently
squeezed into the first one's, or raises on every later call if it is larger; scaling needs the largest size from the start.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import types
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import av
import av.error
import numpy as np
import pytest

from pipeline.decode import capabilities
from pipeline.frames import SurfaceLayout
from pipeline.observe.machine import Driver, Gpu

DELAY = 2  # frames that the driver holds back beside those for reordering
# Access unit delimiters, which begin another picture.
DELIMITERS = (b"\0\0\0\1\x09\xf0", b"\0\0\0\1\x46\x01\x50")
_NAMES = {
    "H264": "h264",
    "HEVC": "hevc",
    "VP9": "vp9",
    "VP8": "vp8",
    "MPEG1": "mpeg1video",
    "MPEG2": "mpeg2video",
    "MPEG4": "mpeg4",
    "JPEG": "mjpeg",
    "AV1": "libdav1d",
}


class PyNvVCException(Exception):
    pass


class PyNvVCExceptionUnsupported(PyNvVCException):
    pass


class PacketData:
    def __init__(self) -> None:
        self.bsl_data = self.bsl = self.pts = self.dts = 0


def _packet(data: bytes) -> av.Packet:
    packet = av.Packet(len(data))  # on FFmpeg's own memory: it reads beyond the end
    packet.update(data)
    return packet


class FakeDecoder:
    def __init__(
        self, module: FakeNvCodec, codec: str, most: tuple[int, int] = (0, 0), *, is_prompt: bool = False
    ) -> None:
        self._module, self._most, self._is_prompt = module, most, is_prompt
        self._context = av.CodecContext.create(_NAMES[codec], "r")
        self._context.thread_count = 1
        self._shape: tuple[int, int, str] | None = None
        self._scaled_to: tuple[int, int] | None = None
        self._late: deque[Any] = deque()
        self._free: list[Any] = []
        self._ready: deque[Any] = deque()
        self._locked: dict[int, Any] = {}
        self.is_broken = False
        self.unlocks = 0

    def setReconfigParams(self, width: int, height: int) -> None:
        assert self._shape is None, "too late: the first frames have their size"
        assert width % 2 == height % 2 == 0
        if self._module.scaling == "refused" or width > self._most[0] or height > self._most[1]:
            raise PyNvVCExceptionUnsupported(
                "Resize dimensions must be lower than max width and height, please recreate decoder instance"
            )
        self._scaled_to = width, height

    def GetNumDecodedFrame(self, packet: PacketData) -> int:
        self._free += self._ready  # what was not locked is written again
        self._ready.clear()
        data = ctypes.string_at(packet.bsl_data, packet.bsl) if packet.bsl else None
        is_ended = False
        if data is not None and data.endswith(bytes(256)) and data.rstrip(b"\0").endswith(DELIMITERS):
            data, is_ended = data[: data.rindex(b"\0\0\0\1")], True
        frames: list[Any] = []
        for picture in self._pictures(data) if data else [None]:
            self._module.pictures += 1
            if self._module.pictures in self._module.fail_at:
                self.is_broken = True
            if self._module.scaling == "fails" and self._scaled_to is not None:
                self.is_broken = True
            if self.is_broken:
                raise PyNvVCException(self._module.failure)
            if self._module.pictures in self._module.lose_at:
                continue
            with contextlib.suppress(av.error.FFmpegError):  # the driver conceals damage or leaves the picture out
                frames += self._context.decode(picture)
        if data is None:
            self._context.flush_buffers()
        self._late += frames
        delay = 1 - is_ended if self._is_prompt else DELAY  # the parser waits for the next picture to begin
        while len(self._late) > (0 if data is None else delay):
            self._show(self._late.popleft())
        return len(self._ready)

    def _pictures(self, data: bytes) -> list[Any]:
        """One packet for each picture: the driver finds them by their start codes."""
        if self._context.name not in ("h264", "hevc"):
            return [_packet(data)]
        parser = av.CodecContext.create(self._context.name, "r")
        return [_packet(bytes(p)) for p in (*parser.parse(data), *parser.parse(b"")) if p.size]

    def GetLockedFrame(self) -> int:
        memory = self._ready.popleft()
        pointer = memory.ctypes.data
        self._locked[pointer] = memory
        return pointer

    def UnlockFrame(self, pointer: int) -> None:
        assert pointer in self._locked, "unlocked twice, or never locked"
        self.unlocks += 1
        self._free.append(self._locked.pop(pointer))
        self._write(self._free[-1], 0xAA)  # who reads it still sees it

    @property
    def locked(self) -> int:
        return len(self._locked)

    def _show(self, frame: av.VideoFrame) -> None:
        shape = frame.width, frame.height, frame.format.name
        self._shape = self._shape or shape
        if shape[0] > self._shape[0] or shape[1] > self._shape[1]:
            self.is_broken = True
            raise PyNvVCExceptionUnsupported("Reconfigure Not supported when width/height > maxwidth/maxheight")
        if shape[:2] != self._shape[:2]:
            frame = frame.reformat(*self._shape[:2])
        data = nvdec_bytes(frame, self._scaled_to)
        memory = self._free.pop(0) if self._free else np.zeros(len(data), np.uint8)
        self._write(memory, data)
        self._ready.append(memory)

    def _write(self, memory: Any, data: Any) -> None:
        memory[:] = data


def nvdec_bytes(frame: av.VideoFrame, scaled_to: tuple[int, int] | None = None) -> Any:
    """A frame as NVDEC would write it: NV12 or P016, rows of pairs; 4:4:4 as planes. Planes are scaled each by itself."""
    bits = frame.format.components[0].bits
    kind = np.uint8 if bits == 8 else np.dtype("<u2")
    planes = []
    for plane, is_chroma in zip(frame.planes, (False, True, True), strict=True):
        columns = frame.format.chroma_width(frame.width) if is_chroma else frame.width
        rows = frame.format.chroma_height(frame.height) if is_chroma else frame.height
        samples = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)[:rows, :columns]
        if scaled_to is not None:
            samples = box_filtered(samples, *(side // 2 if is_chroma else side for side in scaled_to))
        planes.append(samples << (16 - bits) if bits > 8 else samples)
    luma, cb, cr = planes
    if cb.shape == luma.shape:
        parts = planes
    else:
        parts = [np.pad(luma, ((0, 0), (0, luma.shape[1] % 2))), np.stack([cb, cr], -1)]
    return np.concatenate([np.frombuffer(part.tobytes(), np.uint8) for part in parts])


def failure_text(code: int) -> str:
    """What PyNvVideoCodec says of a call that the driver answered with this CUresult."""
    return f"HandleVideoSequence : the fake fails\nError code : {code}\n at NvDecoder.cpp:1"


def box_filtered(plane: Any, width: int, height: int) -> Any:
    """A plane made smaller: means over the area of each new sample."""

    def shrink(rows: Any, count: int) -> Any:
        sums = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(rows, 0)])
        edges = np.linspace(0, len(rows), count + 1)
        whole = np.minimum(edges.astype(int), len(rows) - 1)
        at = sums[whole] + (edges - whole)[:, None] * rows[whole]
        return np.diff(at, axis=0) * (count / len(rows))

    return np.rint(shrink(shrink(plane.astype(float), height).T, width).T).astype(plane.dtype)


class FakeNvCodec(types.ModuleType):
    """`sys.modules["PyNvVideoCodec"]`.

    Attributes:
        unsupported: (codec, chroma, depth) that the "GPU" does not decode.
        fail_at: Numbers of the pictures that go in, over all decoders, at which their decoder breaks.
        lose_at: Numbers of those that are passed over, as damaged ones are.
        failure: What it says then.
        scaling: "works", "refused" when it is asked for, or "fails" at the first picture.
        decoders: Those that are alive.
    """

    decoder: type[FakeDecoder] = FakeDecoder

    def __init__(self) -> None:
        super().__init__("PyNvVideoCodec")
        self.unsupported: set[tuple[str, str, int]] = set()
        self.fail_at: set[int] = set()
        self.lose_at: set[int] = set()
        self.pictures = self.created = self.questions = 0
        self.failure = failure_text(801)
        self.scaling = "works"
        self.DisplayDecodeLatencyType = types.SimpleNamespace(NATIVE="NATIVE", LOW="LOW", ZERO="ZERO")
        self.latencies: list[str] = []  # that each decoder was told of
        self.most: list[tuple[int, int]] = []  # the largest size that each decoder was told of
        self.decoders: weakref.WeakSet[FakeDecoder] = weakref.WeakSet()
        self.PacketData = PacketData
        self.PyNvVCException, self.PyNvVCExceptionUnsupported = PyNvVCException, PyNvVCExceptionUnsupported
        self.cudaVideoCodec = types.SimpleNamespace(**{name: name for name in _NAMES})
        self.cudaVideoChromaFormat = types.SimpleNamespace(**{"420": "420", "444": "444"})

    def CreateDecoder(
        self,
        gpuid: int,
        codec: str,
        cudacontext: int,
        cudastream: int,
        usedevicememory: bool,
        maxwidth: int = 0,
        maxheight: int = 0,
        latency: str = "NATIVE",
    ) -> FakeDecoder:
        assert (gpuid, cudacontext, usedevicememory) == (0, 0, True)
        assert cudastream, "the default stream would be waited for at every frame"
        decoder = self.decoder(self, codec, (maxwidth, maxheight), is_prompt=latency == "LOW")
        self.latencies.append(latency)
        self.most.append((maxwidth, maxheight))
        self.decoders.add(decoder)
        self.created += 1
        return decoder

    def GetDecoderCaps(self, gpuid: int, codec: str, chromaformat: str, bitdepth: int) -> dict[str, int]:
        self.questions += 1
        known = (codec, chromaformat, bitdepth) not in self.unsupported
        if (chromaformat == "444" and codec != "HEVC") or (bitdepth > 8 and codec not in ("HEVC", "VP9", "AV1")):
            known = False
        size = {"width_min": 48, "height_min": 16, "width_max": 4096, "height_max": 4096, "mb_num_max": 65536}
        return {"supported": int(known), "num_decoder_engines": 7, **size} if known else {"supported": 0}

    def alive(self) -> int:
        gc.collect()
        return len(self.decoders)


class FakeStream:
    """A `DeviceStream` on which everything is done at once."""

    handle, ordinal = 0x5EA, 0

    @property
    def cupy(self) -> Any:
        return self

    def __enter__(self) -> FakeStream:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class FakeCupy(types.ModuleType):
    """`sys.modules["cupy"]`, as far as uploading goes."""

    def __init__(self) -> None:
        super().__init__("cupy")
        self.allocated = 0
        self.failure: Exception | None = None

        class Memory:
            def __init__(inner, size: int) -> None:
                if self.failure is not None:
                    raise self.failure
                self.allocated += 1
                inner.array = np.zeros(size, np.uint8)
                inner.ptr = inner.array.ctypes.data

        class Event:
            def __init__(inner, disable_timing: bool) -> None:
                assert disable_timing

            def record(inner, stream: Any) -> None:
                assert stream is not None

            def synchronize(inner) -> None:
                pass

        def copy(to: int, source: int, size: int, kind: int, stream: int) -> None:
            assert (kind, stream) == (1, FakeStream.handle)
            ctypes.memmove(to, source, size)

        self.cuda = types.SimpleNamespace(
            alloc=Memory,
            alloc_pinned_memory=bytearray,
            Event=Event,
            Device=lambda ordinal: FakeStream(),
            runtime=types.SimpleNamespace(memcpyAsync=copy, memcpyHostToDevice=1),
        )


def planes_at(pointer: int, layout: SurfaceLayout, chroma_shift: tuple[int, int], read: Any = ctypes.string_at) -> list:
    """The planes of a surface, right-aligned samples; `read(address, bytes)` gets the memory."""
    kind = np.uint8 if layout.sample_bytes == 1 else np.dtype("<u2")

    def plane(start: int, width: int, height: int, pitch: int, step: int) -> Any:
        size = (height - 1) * pitch + (width - 1) * step + layout.sample_bytes
        data = np.frombuffer(read(pointer + start, size), np.uint8)
        strided = np.ndarray((height, width), kind, data, 0, (pitch, step))
        return strided >> layout.shift

    planes = [plane(0, layout.width, layout.height, layout.pitch_bytes, layout.sample_bytes)]
    if layout.chroma_step_bytes:
        width, height = -(-layout.width >> chroma_shift[0]), -(-layout.height >> chroma_shift[1])
        for start in (layout.chroma_offset_bytes, layout.chroma_offset_bytes + layout.cr_offset_bytes):
            planes.append(plane(start, width, height, layout.chroma_pitch_bytes, layout.chroma_step_bytes))
    return planes


@contextlib.contextmanager
def installed() -> Iterator[FakeNvCodec]:
    """In the place of PyNvVideoCodec and CuPy, with a driver and a GPU that both can use."""
    fake = FakeNvCodec()
    capabilities.gpu_capabilities.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "PyNvVideoCodec", fake)
        patch.setitem(sys.modules, "cupy", FakeCupy())
        patch.setattr(capabilities, "driver", lambda: Driver((13, 0), (Gpu("a GPU", 1),)))
        patch.setattr(capabilities, "has_library", lambda name: True)
        yield fake
    capabilities.gpu_capabilities.cache_clear()
