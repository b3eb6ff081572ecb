"""The model's outputs in one NPZ file.

A zip file takes one array at a time, frames bring all of them at once: each array grows in a file of its own,
`NAME.partial.ARRAY.npy`, whose header is put right at the end; then they are packed. Memory stays that of a batch.
"""

from __future__ import annotations

import glob
import io
import os
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config.sinks import TensorsSink
from pipeline.errors import SinkError
from pipeline.frames import Frame, ResultBatch
from pipeline.sinks._base import FileSink
from pipeline.sinks._files import Output, write_error
from pipeline.sinks._names import encodable
from pipeline.stages import SinkSource

AnyArray = npt.NDArray[Any]
Item = tuple[Frame, Mapping[str, AnyArray]]
OWN_ARRAYS = ("source", "frame", "pts_s")
_CHUNK_BYTES = 1 << 20
_SOURCE_CHARACTERS = 32


def tensors_sink(config: TensorsSink) -> FileSink[Item]:
    """The sink that a `tensors` section describes."""
    return FileSink(config.path, lambda path: TensorsWriter(path, overwrite=config.overwrite), _frames)


def array_names(outputs: Iterable[str]) -> dict[str, str]:
    """Output name -> array name: characters other than letters, digits, `_`, `.` and `-` become `_`.

    A name that is taken already, also by `source`, `frame` or `pts_s`, gets `_2`, `_3` ... in the order of the outputs.
    """
    names: dict[str, str] = {}
    for output in outputs:
        name = base = re.sub(r"[^A-Za-z0-9_.-]", "_", output)
        count = 1
        while name in OWN_ARRAYS or name in names.values():
            count += 1
            name = f"{base}_{count}"
        names[output] = name
    return names


class TensorsWriter:
    """Writes one NPZ file."""

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self._output = Output(path, overwrite=overwrite)
        self._spools: dict[str, _Spool] = {}
        self._names: dict[str, str] = {}
        self._rows = 0
        folder, name = self._output.partial.parent, self._output.partial.name
        for stale in folder.glob(f"{glob.escape(name)}.*.npy*"):  # we hold the lock: a crashed run left them
            stale.unlink(missing_ok=True)

    def start(self, source: SinkSource) -> None:
        """Nothing depends on the source."""

    def write(self, items: Sequence[Item]) -> None:
        """Appends a row a frame to each array."""
        if not items:
            return
        if not self._names:
            self._names = array_names(items[0][1])
        batch: dict[str, AnyArray] = {
            "source": _source_column([encodable(frame.source_id) for frame, _ in items]),
            "frame": np.array([frame.index for frame, _ in items], np.int64),
            "pts_s": np.array([np.nan if frame.pts_s is None else frame.pts_s for frame, _ in items], np.float64),
        }
        for output, name in self._names.items():
            batch[name] = self._stack(output, [tensors[output] for _, tensors in items])
        for name, values in batch.items():
            if name not in self._spools:
                self._spools[name] = _Spool(self._output, name, values)
            self._spools[name].append(values)
        self._rows += len(items)

    def finish(self) -> Path:
        """Packs the arrays into the NPZ file."""
        for name, values in _empty_columns().items():
            if name not in self._spools:
                self._spools[name] = _Spool(self._output, name, values)
        for spool in self._spools.values():
            spool.seal(self._rows)
        self._pack()
        path = self._output.complete()
        for spool in self._spools.values():
            spool.discard()
        return path

    def abort(self) -> list[Path]:
        """Keeps each array as a readable .npy file, all with the same number of rows."""
        self._output.discard()
        kept = []
        for spool in self._spools.values():
            if self._rows:
                spool.seal(self._rows)
                kept.append(spool.path)
            else:
                spool.discard()
        return kept

    def _stack(self, output: str, rows: list[AnyArray]) -> AnyArray:
        values = np.stack(rows)
        if values.dtype.kind == "V":  # bfloat16 and its kin: NumPy's file format does not know them
            values = values.astype(np.float32)
        if values.dtype.hasobject:
            raise SinkError(
                f"{self._output.path}: the output {output!r} holds objects or texts, which an NPZ file cannot",
                remedy="leave it out of postprocess.outputs",
            )
        spool = self._spools.get(self._names[output])
        if spool is not None and (spool.row_shape, spool.dtype) != (values.shape[1:], values.dtype):
            was, now = f"{spool.row_shape} {spool.dtype}", f"{values.shape[1:]} {values.dtype}"
            raise SinkError(
                f"{self._output.path}: the output {output!r} changes from frame to frame: {was} and then {now}",
                remedy="leave it out of postprocess.outputs, or choose a model with fixed output shapes",
            )
        return values

    def _pack(self) -> None:
        try:
            with self._output.partial.open("wb") as file, zipfile.ZipFile(file, "w", allowZip64=True) as archive:
                for name, spool in self._spools.items():
                    entry = zipfile.ZipInfo(f"{name}.npy")
                    # Tensors hardly shrink, and a stored array can be mapped; ids, repeated row after row, do shrink.
                    entry.compress_type = zipfile.ZIP_DEFLATED if name == "source" else zipfile.ZIP_STORED
                    with spool.path.open("rb") as data, archive.open(entry, "w", force_zip64=True) as target:
                        while chunk := data.read(_CHUNK_BYTES):
                            target.write(chunk)
        except OSError as e:
            raise write_error(self._output.path, e, kept=f"{self._output.partial.name}.*.npy") from e


class _Spool:
    """One array that grows by rows, as a .npy file."""

    def __init__(self, output: Output, name: str, values: AnyArray) -> None:
        self.path = output.partial.with_name(f"{output.partial.name}.{name}.npy")
        self.row_shape, self.dtype = values.shape[1:], values.dtype
        self._error = partial(write_error, output.path, kept=f"{output.partial.name}.*.npy")
        try:
            self.path.write_bytes(self._header(0))
        except OSError as e:
            raise self._error(e) from e

    def append(self, values: AnyArray) -> None:
        """Adds rows at the end, all or none."""
        if values.dtype.kind == "U":
            self._widen(values.dtype)
        data = np.ascontiguousarray(values, self.dtype)
        with self.path.open("r+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            view = memoryview(data.tobytes())
            try:
                while view:
                    view = view[file.write(view) :]
            except OSError as e:
                file.truncate(end)
                raise self._error(e) from e

    def seal(self, rows: int) -> None:
        """Makes the file a valid .npy of this many rows; more rows than that are cut off."""
        header = self._header(rows)
        row_bytes = int(np.prod(self.row_shape)) * self.dtype.itemsize
        try:
            with self.path.open("r+b", buffering=0) as file:
                file.write(header)
                file.truncate(len(header) + rows * row_bytes)
        except OSError as e:
            raise self._error(e) from e

    def discard(self) -> None:
        """Removes the file."""
        self.path.unlink(missing_ok=True)

    def _header(self, rows: int) -> bytes:
        # NumPy pads this header so that it keeps its length while the first dimension grows.
        buffer = io.BytesIO()
        fields = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (rows, *self.row_shape),
        }
        np.lib.format.write_array_header_1_0(buffer, fields)
        return buffer.getvalue()

    def _widen(self, dtype: np.dtype[Any]) -> None:
        """Texts have a fixed width in an array; a longer one has all rows rewritten."""
        if dtype.itemsize <= self.dtype.itemsize:
            return
        offset = len(self._header(0))
        old_dtype, self.dtype = self.dtype, dtype
        wider = self.path.with_name(self.path.name + ".wider")
        try:
            with self.path.open("rb") as source, wider.open("wb") as target:
                source.seek(offset)
                target.write(self._header(0))
                rows = _CHUNK_BYTES // dtype.itemsize
                while chunk := source.read(rows * old_dtype.itemsize):
                    target.write(np.frombuffer(chunk, old_dtype).astype(dtype).tobytes())
            wider.replace(self.path)
        except OSError as e:
            self.dtype = old_dtype
            wider.unlink(missing_ok=True)
            raise self._error(e) from e


def _frames(batch: ResultBatch) -> list[Item]:
    tensors = batch.predictions.tensors
    if tensors is None:
        raise SinkError("the tensors sink has nothing to write", remedy="set pipeline.postprocess.family: raw")
    arrays = {name: np.asarray(values) for name, values in tensors.items()}
    return [(frame, {name: a[i, ...] for name, a in arrays.items()}) for i, frame in enumerate(batch.frames)]


def _source_column(ids: list[str]) -> AnyArray:
    longest = max(len(source_id) for source_id in ids)
    width = -(-max(longest, 1) // _SOURCE_CHARACTERS) * _SOURCE_CHARACTERS  # in steps, so that few ids widen it
    return np.array(ids, f"<U{width}")


def _empty_columns() -> dict[str, AnyArray]:
    return {"source": _source_column([""])[:0], "frame": np.zeros(0, np.int64), "pts_s": np.zeros(0, np.float64)}
