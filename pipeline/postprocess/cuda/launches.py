"""Kernel parameters for batches of the same shape: worked out once, then only addresses and frames are filled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.frames import InputBatch
from pipeline.postprocess.cuda.heads import Head, Part
from pipeline.postprocess.cuda.layout import ACTIVATIONS, BATCH, BOX_FORMATS, COLLECT_THREADS, LEVEL, WALKS, offset_of
from pipeline.postprocess.cuda.tensors import Signature, fill

_SCORES_PER_THREAD = 8

Parameters = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True, eq=False)
class Launch:
    """What batches of the same shape have in common.

    Attributes:
        parameters: (1,) `layout.BATCH`, complete apart from the frames and the addresses of the model's outputs.
        names: The outputs that the kernels read.
        outputs: For each address its output, as an index into `names`.
        words: For each address the 8-byte word of the parameters that it belongs to.
        offsets: For each address what is added to the output's own, in bytes.
        frame_bytes: For each address the bytes from one frame to the next.
        blocks: Of the kernel `collect`, per frame.
    """

    parameters: Parameters
    names: list[str]
    outputs: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.uint64]
    frame_bytes: npt.NDArray[np.uint64]
    blocks: int

    def fill(self, addresses: Sequence[int], batch: InputBatch, frames: slice) -> Parameters:
        """The parameters for some of a batch's frames.

        Args:
            addresses: Of the outputs in `names`.
            batch: Where the frames' pictures lie.
            frames: Which of its frames.
        """
        parameters = self.parameters.copy()
        count = frames.stop - frames.start
        starts = np.array(addresses, np.uint64)[self.outputs] + self.offsets
        parameters.view(np.uint64)[self.words] = starts + self.frame_bytes * np.uint64(frames.start)
        parameters["views"]["transform"][0, :count] = batch.transforms[frames]
        parameters["views"]["size"][0, :count] = batch.display_sizes[frames]
        return parameters


def prepare(template: Parameters, head: Head, model_size: tuple[int, int], signature: Signature) -> Launch:
    """Completes parameters that hold buffers and rules already.

    Raises:
        ModelError: an output holds numbers that the kernels cannot read.
    """
    parameters = template.copy()
    record = parameters[0]
    _set_head(record, head, model_size)
    places: list[tuple[int, Any, Part]] = []  # Byte of the parameters where it stands, the struct, what it is to hold.
    for i, level in enumerate(head.levels):
        entry, at = record["levels"][i], offset_of(BATCH, "levels") + i * LEVEL.itemsize
        entry["first"] = sum(before.rows for before in head.levels[:i])
        entry["rows"], entry["grid_columns"], entry["stride"] = level.rows, level.grid_columns, level.stride
        places.append((at + offset_of(LEVEL, "scores"), entry["scores"], level.scores))
        places.append((at + offset_of(LEVEL, "boxes"), entry["boxes"], level.boxes))
    for name, part in (("class_ids", head.class_ids), ("counts", head.counts)):
        if part is not None:
            places.append((offset_of(BATCH, name), record[name], part))
    for _, tensor, part in places:
        fill(tensor, part, signature)
    names = sorted({part.name for _, _, part in places})
    item_bytes = {name: np.dtype(code).itemsize for name, _, code in signature}
    return Launch(
        parameters,
        names,
        np.array([names.index(part.name) for _, _, part in places]),
        np.array([at // 8 for at, _, _ in places]),
        np.array([tensor["data"] for _, tensor, _ in places], np.uint64),
        np.array([tensor["frame_stride"] * item_bytes[part.name] for _, tensor, part in places], np.uint64),
        _blocks(head),
    )


def _set_head(record: Any, head: Head, model_size: tuple[int, int]) -> None:
    width, height = model_size if head.normalized else (1, 1)
    record["level_count"] = len(head.levels)
    record["columns"] = head.columns
    record["hidden_columns"] = head.hidden_columns
    record["walk"] = WALKS.index(head.walk)
    record["activation"] = ACTIVATIONS.index("sigmoid" if head.logits else "none")
    record["objectness"] = head.objectness
    record["box_format"] = BOX_FORMATS.index(head.box_format)
    record["bins"] = head.bins
    record["cell_shift"] = head.cell_shift
    record["box_scale_x"], record["box_scale_y"] = width, height


def _blocks(head: Head) -> int:
    rows = max(level.rows for level in head.levels)
    if head.walk == "each_column":
        return max(-(-rows * head.columns // (COLLECT_THREADS * _SCORES_PER_THREAD)), 1)
    return max(-(-rows // COLLECT_THREADS), 1)
