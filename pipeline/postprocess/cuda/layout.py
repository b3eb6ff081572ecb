"""The parameters and results of the kernels, as NumPy sees them: the structs of `kernels.cu`, field by field."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

SOURCE = Path(__file__).parent / "kernels.cu"

MAX_FRAMES = 64
MAX_LEVELS = 8
COLLECT_THREADS = 256
FINISH_THREADS = 512

WALKS = ("each_column", "softmax_columns", "best_column", "given_class")
ACTIVATIONS = ("none", "sigmoid", "softmax")
BOX_FORMATS = ("xyxy", "yxyx", "xywh", "cxcywh", "distribution")
TYPES = (
    *("float32", "float16", "float64", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
)

KEY = np.dtype("u8")
TENSOR = np.dtype(
    [("data", "u8"), ("frame_stride", "i8"), ("row_stride", "i4"), ("column_stride", "i4"), ("type", "i4"), ("_", "i4")]
)
LEVEL = np.dtype(
    [("scores", TENSOR), ("boxes", TENSOR), ("first", "i4"), ("rows", "i4"), ("grid_columns", "i4"), ("stride", "f4")]
)
VIEW = np.dtype([("transform", "f8", 4), ("size", "f4", 2)])
TALLY = np.dtype([("count", "u4"), ("largest", "u4")])
KEPT = np.dtype([("box", "f4", 4), ("class_id", "i4")])
HEADER = np.dtype([("count", "i4"), ("crowded", "i4"), ("cut", "i4"), ("largest", "f4")])
ROW = np.dtype([("box", "f4", 4), ("score", "f4"), ("class_id", "i4")])
CLASS_ROW = np.dtype([("score", "f4"), ("class_id", "i4")])
MAPS = np.dtype(
    [
        ("scores", TENSOR),
        ("results", "u8"),
        *((name, "i4") for name in ("pixels", "channels", "activation", "whole", "result_bytes")),
        ("least", "f4"),
        ("numbers", "u1", 256),
    ]
)
BATCH = np.dtype(
    [
        ("levels", LEVEL, MAX_LEVELS),
        *((name, TENSOR) for name in ("class_ids", "counts")),
        *((name, "u8") for name in ("limits", "keys", "tallies", "kept", "results")),
        ("iou_threshold", "f8"),
        *((name, "i4") for name in ("level_count", "columns", "hidden_columns", "walk", "activation", "objectness")),
        *((name, "i4") for name in ("box_format", "bins", "limit_count", "class_offset", "class_agnostic")),
        *((name, "i4") for name in ("capacity", "kept_capacity", "most", "result_bytes")),
        *((name, "f4") for name in ("cell_shift", "box_scale_x", "box_scale_y", "least", "other_limit", "other_least")),
        ("__", "i4"),
        ("views", VIEW, MAX_FRAMES),
    ]
)


def offset_of(struct: np.dtype[Any], name: str) -> int:
    """Bytes from a struct's start to one of its fields."""
    assert struct.fields is not None
    return struct.fields[name][1]


def result_dtype(row: np.dtype[Any], rows: int) -> np.dtype[Any]:
    """What a kernel leaves for one frame: a header and this many rows."""
    return np.dtype([("header", HEADER), ("rows", row, (rows,))])


@lru_cache(maxsize=16)
def kernel(ordinal: int, name: str) -> Any:
    """A compiled kernel of `kernels.cu`; the device of this number must be the current one."""
    return _module(ordinal).get_function(name)


@lru_cache(maxsize=8)
def _module(ordinal: int) -> Any:
    import cupy

    # Boxes and overlaps are to be rounded as in the reference: no fused multiply-add. The compiler takes generic lambdas
    # for functions of the host unless told otherwise.
    options = ("-std=c++17", "-fmad=false", "-default-device")
    return cupy.RawModule(code=SOURCE.read_text(encoding="utf-8"), options=options)
