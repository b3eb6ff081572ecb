"""A postprocess plug-in as a `pipeline.stages.Postprocessor`, for both engines and both kinds of arrays.

All raise `PluginError` where the plug-in does, in the call or in `result()` of what it gives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from pipeline.config.postprocess import RawPost
from pipeline.frames import Array, InputBatch, Predictions
from pipeline.plugins.checks import check_predictions
from pipeline.plugins.host import Loaded
from pipeline.plugins.interface import UsesStream
from pipeline.postprocess.named_outputs import frame_rows
from pipeline.stages import DeviceStream, PendingPredictions, Postprocessor, TensorInfo

log = logging.getLogger(__name__)


def host_postprocessor(loaded: Loaded) -> Postprocessor:
    """For the `cpu` engine."""
    return _OnHost(loaded)


def device_postprocessor(loaded: Loaded, outputs: Sequence[TensorInfo], *, stream: DeviceStream) -> Postprocessor:
    """For the `cuda` engine: what the plug-in declares decides whether the outputs are copied to the host."""
    if getattr(loaded.plugin, "arrays", "numpy") == "device":
        return _OnDevice(loaded, stream)
    return _Copied(loaded, outputs, stream)


class _OnHost:
    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> Predictions:
        """See `pipeline.stages.Postprocessor`."""
        frames = len(batch.frames)
        rows = {name: frame_rows(name, np.asarray(array), frames) for name, array in outputs.items()}

        def work() -> Predictions:
            found = self._loaded.plugin(rows, batch)
            return check_predictions(found.result() if _is_pending(found) else found, frames)

        return self._loaded.guard.call(work)


class _OnDevice:
    """Calls the plug-in while its batch's work is being enqueued, with CuPy's current stream set."""

    def __init__(self, loaded: Loaded, stream: DeviceStream) -> None:
        self._loaded = loaded
        self._stream = stream
        self._is_new = True

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> Predictions | PendingPredictions:
        """See `pipeline.stages.Postprocessor`."""
        frames = len(batch.frames)
        rows = {name: frame_rows(name, array, frames) for name, array in outputs.items()}

        def work() -> Predictions | PendingPredictions:
            plugin = self._loaded.plugin
            if self._is_new and isinstance(plugin, UsesStream):
                plugin.use_stream(self._stream)
            self._is_new = False
            with self._stream.cupy:
                found = plugin(rows, batch)
            if not _is_pending(found):
                return check_predictions(found, frames)
            # The second half of a batch that is counted already.
            return _Later(
                lambda: self._loaded.guard.call(lambda: check_predictions(found.result(), frames), counts=False)
            )

        return self._loaded.guard.call(work)


class _Copied:
    """Copies all outputs to the host, and calls the plug-in when they have arrived."""

    def __init__(self, loaded: Loaded, outputs: Sequence[TensorInfo], stream: DeviceStream) -> None:
        from pipeline.postprocess.cuda.raw import CudaRawPostprocessor

        self._loaded = loaded
        self._copy = CudaRawPostprocessor(RawPost(), outputs, stream=stream)

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> PendingPredictions:
        """See `pipeline.stages.Postprocessor`."""
        pending = self._copy(outputs, batch)
        # By the time that the plug-in is called the next batch may be in the input's memory.
        seen, frames = replace(batch, tensor=None), len(batch.frames)

        def result() -> Predictions:
            rows = pending.result().tensors or {}
            self._count(sum(array.nbytes for array in rows.values()), frames)
            return self._loaded.guard.call(lambda: check_predictions(self._loaded.plugin(rows, seen), frames))

        return _Later(result)

    def _count(self, copied_bytes: int, frames: int) -> None:
        status = self._loaded.status
        if not status.copied_bytes:
            log.info(
                "%s: %s takes NumPy arrays, so %.1f KiB a frame are copied from the device",
                self._loaded.field,
                status.use,
                copied_bytes / frames / 1024,
            )
        status.copied_bytes += copied_bytes


class _Later:
    """A `pipeline.stages.PendingPredictions`."""

    def __init__(self, result: Callable[[], Predictions]) -> None:
        self._result = result

    def result(self) -> Predictions:
        """Waits for the device."""
        return self._result()


def _is_pending(found: object) -> bool:
    return not isinstance(found, Predictions) and callable(getattr(found, "result", None))
