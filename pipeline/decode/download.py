"""Device surfaces back to the host, for what draws on pictures: the annotated video, and a user's own loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.frames import Frame, Picture, SurfaceLayout
from pipeline.stages import DeviceStream


class Download:
    """Enqueues copies of surfaces into pinned memory.

    The pictures that it returns have planes like FFmpeg's, on memory of their own, which hold the samples once the work
    that was on the stream then has been done: whoever waits for a later event has waited for them.
    """

    def __init__(self, stream: DeviceStream) -> None:
        self._stream = stream

    def __call__(self, frames: Sequence[Frame]) -> list[Frame]:
        """The same frames; pictures in device memory are replaced by ones on the host."""
        with self._stream.cupy:
            return [replace(frame, picture=self._fetched(frame.picture)) for frame in frames]

    def _fetched(self, picture: Picture) -> Picture:
        import cupy

        surface = picture.surface
        if surface is None:
            return picture
        layout = surface.layout
        size = surface_bytes(layout, picture.chroma_shift)
        memory = cupy.cuda.UnownedMemory(surface.pointer, size, surface, self._stream.ordinal)
        samples: Any = cupy.ndarray(
            size // layout.sample_bytes, f"u{layout.sample_bytes}", cupy.cuda.MemoryPointer(memory, 0)
        )
        if layout.shift:
            samples = samples >> layout.shift
        pinned = cupy.cuda.alloc_pinned_memory(size)
        samples.data.copy_to_host_async(pinned.ptr, size, self._stream.cupy)
        host = np.frombuffer(pinned, np.uint8, size)
        planes = plane_views(host, layout, picture.chroma_shift)
        return replace(picture, planes=planes, owner=pinned, surface=None)


def surface_bytes(layout: SurfaceLayout, chroma_shift: tuple[int, int]) -> int:
    """How many bytes a surface takes, from its first luma sample to its last chroma sample."""
    luma = layout.height * layout.pitch_bytes
    if not layout.chroma_step_bytes:
        return luma
    rows = -(-layout.height // 2 ** chroma_shift[1])
    planar = layout.cr_offset_bytes >= layout.chroma_pitch_bytes * rows
    last_plane = layout.chroma_offset_bytes + (layout.cr_offset_bytes if planar else 0)
    end: int = max(luma, last_plane + layout.chroma_pitch_bytes * rows)
    return end


def plane_views(
    memory: npt.NDArray[np.uint8], layout: SurfaceLayout, chroma_shift: tuple[int, int]
) -> tuple[npt.NDArray[np.generic], ...]:
    """A surface's planes as 2-D views of the memory that holds it."""
    kind = np.dtype(f"u{layout.sample_bytes}")

    def view(offset: int, width: int, height: int, pitch: int, step: int) -> npt.NDArray[np.generic]:
        return np.ndarray((height, width), kind, memory, offset, (pitch, step))

    luma = view(0, layout.width, layout.height, layout.pitch_bytes, layout.sample_bytes)
    if not layout.chroma_step_bytes:
        return (luma,)
    width, height = -(-layout.width // 2 ** chroma_shift[0]), -(-layout.height // 2 ** chroma_shift[1])
    pitch, step = layout.chroma_pitch_bytes, layout.chroma_step_bytes
    first = layout.chroma_offset_bytes
    return (
        luma,
        view(first, width, height, pitch, step),
        view(first + layout.cr_offset_bytes, width, height, pitch, step),
    )
