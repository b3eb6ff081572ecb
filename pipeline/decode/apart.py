"""The decoders' own stream beside the one that all other stages share, and the order between the two.

Before PyNvVideoCodec gives out a picture it waits, in the decoding thread, for its previous one to be copied out of the
decoder. On the shared stream that copy lies behind whole batches of a model's work, so that a decoder would give one
picture in that time; on a stream on which nothing but such copies is done it is there at once.
"""

from __future__ import annotations

from typing import Any

from pipeline.stages import DeviceStream

_URGENT = -1  # before the default's 0


class DecodeStream:
    """A `pipeline.stages.DeviceStream` for all decoders of a run.

    What reads pictures is enqueued on the shared stream between `before_reading` and `after_reading`. The first makes the
    device wait, never the host; and pictures are given back only when what reads them is known to be done, so that nothing
    that decoders enqueue ever has to wait for the shared stream.
    What is on this stream goes before a model's kernels, which a thread would wait for otherwise.
    """

    def __init__(self, shared: DeviceStream) -> None:
        import cupy

        self._cupy, self._shared = cupy, shared
        self.ordinal = shared.ordinal
        with cupy.cuda.Device(shared.ordinal):
            self.cupy: Any = cupy.cuda.Stream(non_blocking=True, priority=_URGENT)
        self.handle: int = self.cupy.ptr

    def before_reading(self) -> None:
        """What is enqueued on the shared stream from here on comes behind all pictures that have been handed out."""
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record(self.cupy)
        self._shared.cupy.wait_event(event)

    def after_reading(self) -> Reading:
        """Tells when what has been enqueued on the shared stream so far is done."""
        event = self._cupy.cuda.Event(block=True, disable_timing=True)  # who waits sleeps
        event.record(self._shared.cupy)
        return Reading(event)


class Reading:
    """What reads the pictures of a batch."""

    def __init__(self, event: Any) -> None:
        self._event = event

    def wait(self) -> None:
        """Waits for it; as a rule it is done, as the batch's results have been waited for."""
        if not self._event.done:
            self._event.synchronize()
