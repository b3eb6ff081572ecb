"""Boxes of a batch, in display pixels, found on the device."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from pipeline.config.labels import load_labels
from pipeline.errors import ConfigError, ConfigIssue
from pipeline.frames import Array, Detections, InputBatch, Predictions
from pipeline.postprocess.activations import check_largest
from pipeline.postprocess.candidates import raw_limits
from pipeline.postprocess.class_rules import ClassRules
from pipeline.postprocess.cuda.downloads import Bytes, Downloads, Pending
from pipeline.postprocess.cuda.heads import DetectionConfig, describe_head
from pipeline.postprocess.cuda.launches import Launch, Parameters, prepare
from pipeline.postprocess.cuda.layout import (
    BATCH,
    COLLECT_THREADS,
    FINISH_THREADS,
    KEPT,
    KEY,
    MAX_FRAMES,
    ROW,
    TALLY,
    kernel,
    offset_of,
    result_dtype,
)
from pipeline.postprocess.cuda.tensors import Signature, contiguous, shapes_of, signature_of
from pipeline.stages import DeviceStream, TensorInfo

log = logging.getLogger(__name__)

# How many candidates of a frame are kept between the kernels. Of more none is lost, but the scores are read again.
CAPACITY = 16384
# How many boxes outside the picture a frame may have among those that survive suppression, before it is cut short.
_OUTSIDE = 4096
_LARGEST_CLASS_ID = (1 << 20) - 1
# Rows of at most four numbers that are copied in one step.
_AT_ONCE = 125


def frame_bytes(config: DetectionConfig) -> dict[str, int]:
    """Device memory for one frame of a batch, by the name of the buffer."""
    return {
        "keys": CAPACITY * KEY.itemsize,
        "tallies": TALLY.itemsize,
        "kept": (config.max_detections + _OUTSIDE) * KEPT.itemsize,
        "results": result_dtype(ROW, config.max_detections).itemsize,
    }


class CudaDetectionPostprocessor:
    """The `cuda` twin of `pipeline.postprocess.detection.DetectionPostprocessor`: the same results, in the same order.

    Every box of a frame that counts crosses to the host (`max_detections` rows of 24 bytes and a header a frame).
    Buffers are the postprocessor's own and used by one batch after another; on the one stream that is safe.

    Attributes:
        downloads: Counts the bytes that cross.
        crowded_frames: How many frames had more than `CAPACITY` candidates; their results are right, but took longer.
        cut_frames: How many frames may lack boxes, as thousands lay outside the picture.

    Raises:
        ModelError: the model's outputs do not fit.
        ConfigError: labels cannot be read, or a class that is named does not exist or has too high a number.
    """

    def __init__(
        self,
        config: DetectionConfig,
        outputs: Sequence[TensorInfo],
        *,
        model_size: tuple[int, int],
        stream: DeviceStream,
        max_frames: int,
    ) -> None:
        import cupy

        self._config = config
        self._describe = describe_head(config, outputs, model_size)
        self._names = load_labels(config.labels)
        self._model_size = model_size
        self._cupy, self._stream, self._max_frames = cupy, stream, max_frames
        self._results = result_dtype(ROW, config.max_detections)
        self._kept_capacity = config.max_detections + _OUTSIDE
        rules = _checked_rules(config, self._names)
        with stream.cupy:
            self._kernels = [kernel(stream.ordinal, name) for name in ("collect", "finish")]
            self._buffers = {
                name: (cupy.zeros if name == "tallies" else cupy.empty)(max_frames * size, "uint8")
                for name, size in frame_bytes(config).items()
            }
            self._template = self._parameters(rules)
        self.downloads = Downloads(stream, max_frames * self._results.itemsize)
        self.crowded_frames = self.cut_frames = 0
        # Batches differ in their number of frames, and a model may have a few shapes.
        self._launch = lru_cache(maxsize=256)(self._prepare)

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> Pending:
        """Enqueues the batch; see `pipeline.stages.Postprocessor`.

        Raises:
            ModelError: shapes or types are not what the family needs. Scores that are no probabilities show later, in
                `result()`.
        """
        frames = len(batch.frames)
        if frames > self._max_frames:
            raise ValueError(f"{frames} frames; there is room for {self._max_frames}")
        launch = self._launch(signature_of(outputs), frames)
        with self._stream.cupy:
            arrays = contiguous(self._cupy, outputs, launch.names)
            addresses = [arrays[name].data.ptr for name in launch.names]
            collect, finish = self._kernels
            for first in range(0, frames, MAX_FRAMES):
                some = slice(first, min(first + MAX_FRAMES, frames))
                parameters = launch.fill(addresses, batch, some)
                self._move_buffers(parameters, first)
                collect((launch.blocks, some.stop - first), (COLLECT_THREADS,), (parameters,))
                finish((some.stop - first,), (FINISH_THREADS,), (parameters,))
            part = (self._buffers["results"].data.ptr, frames * self._results.itemsize)
            return self.downloads.start([part], partial(self._unpack, frames))

    def _move_buffers(self, parameters: Parameters, first: int) -> None:
        """Lets the buffers begin at this frame."""
        if first:
            for name, buffer in self._buffers.items():
                parameters[name] += np.uint64(first * (buffer.nbytes // self._max_frames))

    def _unpack(self, frames: int, data: Bytes) -> Predictions:
        header = data[: frames * self._results.itemsize].view(self._results)["header"]
        check_largest(float(header["largest"].max(initial=0)))
        self._warn(int(header["crowded"].sum()), int(header["cut"].sum()))
        counts = header["count"]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        found = _first_rows(data, self._results, counts.tolist())
        boxes, scores, class_ids = (_copied(found[name]) for name in ("box", "score", "class_id"))
        return Predictions(detections=Detections(boxes, scores, class_ids, offsets, self._names))

    def _warn(self, crowded: int, cut: int) -> None:
        threshold = self._config.score_threshold
        if crowded and not self.crowded_frames:
            log.warning(
                "a frame has more than %d boxes that reach their score threshold: results are right, but slow; raise "
                "pipeline.postprocess.score_threshold (%g)",
                CAPACITY,
                threshold,
            )
        if cut and not self.cut_frames:
            log.warning(
                "a frame has more than %d boxes that survive suppression, most of them outside the picture: weaker ones "
                "are left out; raise pipeline.postprocess.score_threshold (%g)",
                self._kept_capacity,
                threshold,
            )
        self.crowded_frames += crowded
        self.cut_frames += cut

    def _prepare(self, signature: Signature, frames: int) -> Launch:
        head = self._describe(shapes_of(signature), frames)
        return prepare(self._template, head, self._model_size, signature)

    def _parameters(self, rules: ClassRules) -> Parameters:
        """What no batch changes: the buffers and the rules."""
        config = self._config
        parameters = np.zeros(1, BATCH)
        record = parameters[0]
        for name, buffer in self._buffers.items():
            record[name] = buffer.data.ptr
        # Of each class id that may have a rule of its own, and, last, of all others.
        limits = rules.thresholds(np.arange(rules.largest_id + 2))
        least = raw_limits(limits, getattr(config, "activation", "none") == "sigmoid")
        self._limits = self._cupy.asarray(np.stack([limits[:-1], least[:-1]]))
        record["limits"], record["limit_count"] = self._limits.data.ptr, len(limits) - 1
        record["other_limit"], record["other_least"], record["least"] = limits[-1], least[-1], least.min()
        record["class_offset"] = config.class_offset
        record["class_agnostic"] = config.class_agnostic
        record["iou_threshold"] = -1 if config.nms_iou is None else config.nms_iou
        record["capacity"], record["kept_capacity"] = CAPACITY, self._kept_capacity
        record["most"], record["result_bytes"] = config.max_detections, self._results.itemsize
        return parameters


def _first_rows(data: Bytes, result: np.dtype[Any], counts: Sequence[int]) -> Array:
    """So many of each frame's rows, one behind another. By their bytes: NumPy takes ten times as long to put them together."""
    first, step = offset_of(result, "rows"), result.itemsize
    everything = data.data
    starts = range(first, first + len(counts) * step, step)
    parts = [everything[at : at + count * ROW.itemsize] for at, count in zip(starts, counts, strict=True)]
    return np.frombuffer(b"".join(parts), ROW)


def _copied(values: Array) -> Array:
    """In an array of their own, some at a time.

    NumPy gives up the interpreter's lock for more than 500 numbers, and on a machine whose other threads wait for it, getting
    it back takes longer than all this.
    """
    result = np.empty(values.shape, values.dtype)
    for first in range(0, len(values), _AT_ONCE):
        result[first : first + _AT_ONCE] = values[first : first + _AT_ONCE]
    return result


def _checked_rules(config: DetectionConfig, names: Mapping[int, str]) -> ClassRules:
    rules = ClassRules(config, names)
    if rules.largest_id > _LARGEST_CLASS_ID:
        message = f"class {rules.largest_id} is named, but the cuda engine knows classes up to {_LARGEST_CLASS_ID}"
        raise ConfigError([ConfigIssue(message, "pipeline.postprocess", hint="use the cpu engine")])
    return rules
