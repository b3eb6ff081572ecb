"""Reads the weights of a TensorFlow.js model: a manifest in model.json, and the shards beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import AssetError

Weight = npt.NDArray[Any]

_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint16": np.dtype("<u2"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
    "complex64": np.dtype("<c8"),
}
_QUANTIZED = ("uint8", "uint16", "float16")
_LENGTH = np.dtype("<u4")


def load_weights(folder: Path, manifest: Any) -> dict[str, Weight]:
    """Name -> array of every weight of a model.

    Quantised weights are restored as TensorFlow.js restores them: `q * scale + min`, rounded for integers. Arrays of
    strings have dtype object and hold bytes.

    Args:
        folder: Where model.json lies; the shards' paths are relative to it.
        manifest: The `weightsManifest` of model.json.

    Raises:
        AssetError: a shard is missing or too short, or the manifest cannot be understood.
    """
    weights: dict[str, Weight] = {}
    try:
        for group in manifest:
            paths = [_shard(folder, path) for path in group["paths"]]
            reader = _Reader(b"".join(path.read_bytes() for path in paths), ", ".join(path.name for path in paths))
            for entry in group["weights"]:
                weights[entry["name"]] = _read(reader, entry)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise AssetError(f"{folder}: the model's weightsManifest cannot be understood: {e!r}") from e
    except OSError as e:
        raise AssetError(
            f"{e.filename}: the model's weights cannot be read: {e.strerror}",
            remedy="the weight files lie beside model.json, under the names that it gives them",
        ) from e
    return weights


class _Reader:
    """Takes arrays off the front of a group's bytes."""

    def __init__(self, data: bytes, files: str) -> None:
        self._data = data
        self._files = files
        self._position = 0

    def take(self, dtype: np.dtype[Any], count: int, name: str) -> Weight:
        """The next `count` numbers."""
        size = count * dtype.itemsize
        left = len(self._data) - self._position
        if size > left:
            raise AssetError(
                f"{self._files}: the weights end in the middle of {name!r}: it needs {size} bytes, {left} are left",
                remedy="the file is cut off or belongs to another model; get it again",
            )
        array = np.frombuffer(self._data, dtype, count, self._position)
        self._position += size
        return array


def _shard(folder: Path, path: str) -> Path:
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise AssetError(f"{folder}: a weight file lies beside model.json, but {path!r} leads elsewhere")
    return folder / path


def _read(reader: _Reader, entry: Mapping[str, Any]) -> Weight:
    name, dtype = entry["name"], entry["dtype"]
    shape = tuple(int(size) for size in entry["shape"])
    if min(shape, default=0) < 0:
        raise AssetError(f"weight {name!r} has the impossible shape {list(shape)}")
    count = math.prod(shape)
    if dtype == "string":
        strings = list(_strings(reader, count, name))
        return np.array(strings, object).reshape(shape)
    if dtype not in _DTYPES:
        raise AssetError(f"weight {name!r} has dtype {dtype!r}; known are {', '.join(_DTYPES)} and string")
    quantization = entry.get("quantization")
    if quantization is None:
        return reader.take(_DTYPES[dtype], count, name).reshape(shape)
    return _dequantized(reader, name, dtype, count, quantization).reshape(shape)


def _strings(reader: _Reader, count: int, name: str) -> Iterator[bytes]:
    for _ in range(count):
        length = int(reader.take(_LENGTH, 1, name)[0])
        yield reader.take(np.dtype("u1"), length, name).tobytes()


def _dequantized(reader: _Reader, name: str, dtype: str, count: int, quantization: Mapping[str, Any]) -> Weight:
    stored = quantization["dtype"]
    if stored not in _QUANTIZED or dtype not in ("float32", "int32"):
        raise AssetError(f"weight {name!r}: {dtype} quantised to {stored} is not known")
    values = reader.take(_DTYPES[stored], count, name)
    if stored == "float16":
        return values.astype(_DTYPES[dtype])
    # In double precision, as JavaScript computes.
    restored: Weight = values * float(quantization["scale"]) + float(quantization["min"])
    return (np.round(restored) if dtype == "int32" else restored).astype(_DTYPES[dtype])
