"""What a source may take of the device, and whose fault an error is: the source's alone, or the device's and so the run's."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.decode._open import failure
from pipeline.decode._reasons import Reason
from pipeline.decode._surface_ring import SurfaceRing
from pipeline.decode.capabilities import Capabilities, VideoFormat
from pipeline.decode.memory import SurfaceMemory
from pipeline.device_errors import explained, words
from pipeline.errors import DeviceMemoryError, SourceError, SourceErrorCode
from pipeline.sources.resolve import VideoSpec
from pipeline.vram import Reservation

_REMEDY = "raise runtime.vram_budget_mb, or lower runtime.open_sources or runtime.queue_batches"


@dataclass(frozen=True, slots=True)
class DeviceGuard:
    """Stands between one source's decoders and the device.

    Attributes:
        spec: The source.
        memory: What all decoders may take.
        ring: The source's surfaces.
        capabilities: What the GPU decodes.
    """

    spec: VideoSpec
    memory: SurfaceMemory
    ring: SurfaceRing
    capabilities: Capabilities

    def reserve(self, surface: int, own: int = 0) -> Reservation:
        """Memory for as many surfaces of so many bytes as fit, up to the ring's size, and for the decoder itself.

        Raises:
            SourceError: there is too little.
        """
        found = self.memory.reserve(self.ring, surface, own)
        if found is None:
            raise self._out_of_memory(self.memory.lacks(surface, own))
        return found

    def why_not(self, video: VideoFormat) -> str | None:
        """Why the GPU does not decode it; see `Capabilities.why_not`.

        Raises:
            SourceError: there is too little memory to ask.
        """
        try:
            return self.capabilities.why_not(video)
        except DeviceMemoryError as e:
            raise self._out_of_memory(e.message) from e

    def check(self, error: Exception) -> None:
        """Raises what is the device's fault and not the video's.

        Raises:
            SourceError: too little memory, which concerns this source alone.
            DeviceLostError: the device has failed.
        """
        fault = explained(error, "decoding")
        if isinstance(fault, DeviceMemoryError):
            raise self._out_of_memory(f"the GPU is out of memory: {words(error)}") from error
        if fault is not None:
            raise fault from error

    def _out_of_memory(self, text: str) -> SourceError:
        return failure(self.spec, Reason(SourceErrorCode.OUT_OF_MEMORY, text, _REMEDY))
