"""One PyNvVideoCodec decoder: packets of one size and format in, surfaces on loan out."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any, cast

import numpy as np

from pipeline.decode._packets import Unit
from pipeline.decode._picture import layout_of
from pipeline.decode._surface_ring import Loan, SurfaceRing
from pipeline.decode.capabilities import CODECS, NvCodec, creation_lock
from pipeline.frames import Surface, SurfaceLayout
from pipeline.stages import DeviceStream
from pipeline.vram import Reservation

# So many packets of a video go into the decoder in one call, where its parser finds pictures by their start codes. Every call
# gives up the interpreter's lock, and with other threads waiting for it, getting it back costs more than the call itself.
PACKETS_AT_ONCE = 16
# The largest size that a decoder is told of is at least this, in samples.
_LEAST_MAX = 64


class NvdecSession:
    """Frames come out in display order, without a timestamp; their memory belongs to the decoder.

    A frame's memory is locked until its loan comes back; PyNvVideoCodec allocates more as long as there is none free. It is
    unlocked by the thread that decodes, before the next packet goes in, and freed with the decoder, which every loan keeps.
    One thread may decode while another fetches what came out before.
    """

    def __init__(
        self,
        nvc: NvCodec,
        stream: DeviceStream,
        codec: str,
        layout: SurfaceLayout,
        ring: SurfaceRing,
        *,
        memory: Reservation | None = None,
        scaled_from: tuple[int, int] | None = None,
        is_prompt: bool = False,
    ) -> None:
        """For packets of one size and format; raises what `decode_errors` names.

        Args:
            nvc: PyNvVideoCodec.
            stream: Where it works.
            codec: FFmpeg's name.
            layout: Of the surfaces.
            ring: How many of them may be on loan.
            memory: What was taken for it.
            scaled_from: The video's (width, height) where `layout` is smaller.
            is_prompt: Whether each picture is shown before all that follow: it comes out as soon as its end has gone in.
        """
        more: dict[str, Any] = {}
        if is_prompt:
            more["latency"] = nvc.DisplayDecodeLatencyType.LOW
        if scaled_from is not None:  # PyNvVideoCodec scales only a decoder that was told of the largest size
            more |= {"maxwidth": max(scaled_from[0], _LEAST_MAX), "maxheight": max(scaled_from[1], _LEAST_MAX)}
        with creation_lock:
            self._decoder = nvc.CreateDecoder(
                gpuid=stream.ordinal,
                codec=getattr(nvc.cudaVideoCodec, CODECS[codec][0]),
                cudacontext=0,
                cudastream=stream.handle,
                usedevicememory=True,
                **more,
            )
            if scaled_from is not None:  # in force from the first packet on
                self._decoder.setReconfigParams(layout.width, layout.height)
        self._memory = memory  # given back behind the decoder
        self.layout = layout
        self._ring = ring
        self._packet, self._end = nvc.PacketData(), nvc.PacketData()
        self._decode = self._decoder.GetNumDecodedFrame
        self._lock_frame = self._decoder.GetLockedFrame
        self._unlock = self._decoder.UnlockFrame
        self._out: deque[int] = deque()  # to be fetched
        self._returned: deque[int] = deque()

    def decode(self, unit: Unit | None) -> int:
        """Takes some of the stream, or None for its end; how many frames came out, each to be fetched by `surface`."""
        self.reclaim()
        if unit is None:
            packet, data = self._end, None
            packet.bsl_data = packet.bsl = 0
        else:
            packet, data = self._packet, np.frombuffer(cast(bytes, unit), np.uint8)
            packet.bsl_data, packet.bsl = data.ctypes.data, len(data)
        count: int = self._decode(packet)
        self._out.extend(self._lock_frame() for _ in range(count))  # what is not locked is written again
        return count

    def surface(self) -> Surface:
        """The next of the frames that came out, for which the caller has a slot of the ring."""
        pointer = self._out.popleft()
        return Surface(pointer, self.layout, Loan(self._came_back, pointer, self._ring))

    def skip(self) -> None:
        """Passes over the next of the frames that came out, which has a slot too."""
        self._came_back(self._out.popleft())
        self._ring.give_back()

    def _came_back(self, pointer: int) -> None:
        self._returned.append(pointer)

    def reclaim(self) -> None:
        """Unlocks what came back."""
        returned = self._returned
        while returned:
            self._unlock(returned.popleft())

    def __del__(self) -> None:
        # The decoder frees what is not locked; the last loan may just have come back.
        if hasattr(self, "_returned"):
            self._returned += self._out
            with contextlib.suppress(Exception):  # the device may be gone
                self.reclaim()


def surface_layout(width: int, height: int, pix_fmt: str) -> SurfaceLayout:
    """How PyNvVideoCodec lays out a picture: cropped, rows without gaps; 4:2:0 as NV12 or P016, 4:4:4 as three planes.

    An odd width is rounded up for 4:2:0, where pairs of Cb and Cr make up a row. More than 8 bits sit in the high bits.
    """
    layout = layout_of(pix_fmt)
    assert layout is not None
    sample = 1 if layout.bit_depth == 8 else 2
    shift = 0 if sample == 1 else 16 - layout.bit_depth
    if layout.chroma_shift == (0, 0):
        pitch = width * sample
        return SurfaceLayout(width, height, pitch, pitch * height, pitch * height, pitch, sample, sample, shift)
    pitch = (width + width % 2) * sample
    return SurfaceLayout(width, height, pitch, pitch * height, sample, pitch, 2 * sample, sample, shift)
