"""How much device memory a decoder takes, and the bound on it while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from pipeline.decode._picture import layout_of
from pipeline.decode._session import PACKETS_AT_ONCE, surface_layout
from pipeline.decode._surface_ring import SurfaceRing
from pipeline.decode.download import surface_bytes
from pipeline.vram import MIB, Allowance, Reservation

# Most pictures that a stream of the codec may refer to, and those that the decoder works on meanwhile: what NVIDIA's own
# samples make room for. Most streams need fewer, which the driver knows only once it has seen their headers.
_REFERENCES = {"h264": 20, "hevc": 20, "vp9": 12, "av1": 12}
_USUAL_REFERENCES = 8
# Pictures on their way out: the driver's output surfaces, and what comes out of one call before it is handed out.
_OUTPUTS = 2
_UNLOCKED = PACKETS_AT_ONCE
# Bitstream buffers and the driver's state: an estimate.
_FIXED_BYTES = 16 * MIB
# NVDEC works on whole macroblocks or coding tree units.
_ALIGNMENT = 64
# With fewer surfaces than these on loan, decoding and preprocessing wait for each other at every frame.
LEAST_SURFACES = 4
# A decoder that is replaced by one for another size is gone when its last frames are.
_REPLACED_S = 2.0


@lru_cache(maxsize=1024)
def picture_size(width: int, height: int, pix_fmt: str | None) -> int:
    """Bytes of a decoded picture as it waits for the model.

    Args:
        width: In samples.
        height: In samples.
        pix_fmt: FFmpeg's name; unknown ones count as 4:2:0 with 8 bits.
    """
    layout = layout_of(pix_fmt or "yuv420p")
    if layout is None or len(layout.components) != 3:
        return width * height * 3 // 2
    if layout.chroma_shift not in ((1, 1), (0, 0)):  # decoded by the CPU, uploaded as it is
        sample = 1 if layout.bit_depth == 8 else 2
        columns, rows = -(-width >> layout.chroma_shift[0]), -(-height >> layout.chroma_shift[1])
        return sample * (width * height + 2 * columns * rows)
    found = surface_layout(width, height, pix_fmt or "yuv420p")
    return surface_bytes(found, layout.chroma_shift)


@lru_cache(maxsize=1024)
def decoder_size(codec: str, width: int, height: int, pix_fmt: str | None, *, is_ahead: bool = False) -> int:
    """Bytes that NVDEC takes for itself, beside the pictures that it has handed out: an estimate from above.

    Args:
        codec: FFmpeg's name.
        width: In samples.
        height: In samples.
        pix_fmt: FFmpeg's name.
        is_ahead: Whether it is called once ahead of who hands pictures out: those of two calls may wait for that.
    """
    calls = 2 if is_ahead else 1
    columns, rows = (-(-side // _ALIGNMENT) * _ALIGNMENT for side in (width, height))
    pictures = _REFERENCES.get(codec, _USUAL_REFERENCES) + _OUTPUTS + calls * _UNLOCKED
    return _FIXED_BYTES + pictures * picture_size(columns, rows, pix_fmt)


@dataclass(frozen=True, slots=True)
class SurfaceMemory:
    """What the decoders of a run may take.

    Attributes:
        allowance: All of them together.
        source_bytes: Each of them at most; a source with larger pictures gets fewer surfaces. None: no such bound.
    """

    allowance: Allowance = field(default_factory=Allowance)
    source_bytes: int | None = None

    def reserve(self, ring: SurfaceRing, surface: int, own: int = 0) -> Reservation | None:
        """Takes the memory of a decoder, and bounds its ring accordingly; None if there is too little.

        Args:
            ring: Of the source.
            surface: Bytes of a picture.
            own: Bytes that the decoder takes beside those on loan.
        """
        most = ring.size
        if self.source_bytes is not None:
            most = min(most, max(LEAST_SURFACES, (self.source_bytes - own) // max(surface, 1)))
        for surfaces, timeout_s in ((most, _REPLACED_S), (min(most, LEAST_SURFACES), 0.0)):
            size = own + surfaces * surface
            if self.allowance.take(size, timeout_s, lambda: ring.is_closed):
                ring.bound(surfaces, surface)
                return Reservation(self.allowance, size)
        return None

    def lacks(self, surface: int, own: int = 0) -> str:
        """Why there is too little, in words."""
        least, limit = own + LEAST_SURFACES * surface, self.allowance.limit_bytes or 0
        left = self.allowance.left_bytes or 0
        return (
            f"decoding it takes at least {-(-least // MIB):,} MB of GPU memory, but {left // MIB:,} MB of the "
            f"{limit // MIB:,} MB for decoders are left"
        )
