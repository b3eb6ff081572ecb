"""What all sinks that write files share: one writer for everything, or one a source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from pipeline.errors import SinkError
from pipeline.frames import ResultBatch
from pipeline.sinks._files import check_folder
from pipeline.sinks._names import PLACEHOLDER, fixed_folder, path_for
from pipeline.stages import SinkSource

Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)


class Writer(Protocol[Item_contra]):
    """Writes one output file."""

    def start(self, source: SinkSource) -> None:
        """Before the first frame of a source."""

    def write(self, items: Sequence[Item_contra]) -> None:
        """Takes what was prepared of each frame."""

    def finish(self) -> Path | None:
        """Completes the file; None if there was nothing to write. After an error `abort` may be called."""

    def abort(self) -> list[Path]:
        """Keeps what was written, under temporary names."""


class FileSink(Generic[Item]):
    """A `pipeline.stages.Sink` around writers: with `{source}` in the path there is one writer per source.

    A file per source is completed when its source has finished, so that a long run over many files holds few open.

    Attributes:
        needs_pixels: Whether frames must still have their pixels.
        completed: The outputs that lie complete under their names, so far.
    """

    def __init__(
        self,
        path: Path,
        make_writer: Callable[[Path], Writer[Item]],
        prepare: Callable[[ResultBatch], Sequence[Item]],
        *,
        late: Callable[[ResultBatch], Sequence[tuple[str, Item]]] | None = None,
        needs_pixels: bool = False,
    ) -> None:
        """Nothing is touched before `open`.

        Args:
            path: Of the output; may hold `{source}`.
            make_writer: Claims an output and returns its writer.
            prepare: A batch -> one item a frame; called once a batch, whatever the number of files.
            late: A batch -> (source id, item) of what belongs to a source but to no frame; None: there is no such thing.
            needs_pixels: See the attribute.

        Raises:
            SinkError: the path cannot be one.
        """
        if "\0" in str(path):
            raise SinkError(f"{str(path)!r}: is not a path: it holds a null character")
        self.needs_pixels = needs_pixels
        self.completed: list[Path] = []
        self._path = path
        self._make_writer = make_writer
        self._prepare = prepare
        self._late = late
        self._per_source = PLACEHOLDER in str(path)
        self._writers: dict[str, Writer[Item]] = {}

    def open(self) -> None:
        """Claims the output, or checks the folder of the outputs."""
        if self._per_source:
            check_folder(fixed_folder(self._path))
        else:
            self._writers[""] = self._make_writer(self._path)

    def source_started(self, source: SinkSource) -> None:
        """Claims the source's own output."""
        if self._per_source:
            self._writers[source.source_id] = self._make_writer(path_for(self._path, source.source_id))
        self._writer(source.source_id).start(source)

    def write(self, batch: ResultBatch) -> None:
        """Writes the results of a batch."""
        items = self._prepare(batch)
        late = self._late(batch) if self._late is not None else ()
        if not self._per_source:
            self._writers[""].write([*items, *(item for _, item in late)] if late else items)
            return
        by_source: dict[str, list[Item]] = {}
        for frame, item in zip(batch.frames, items, strict=True):
            by_source.setdefault(frame.source_id, []).append(item)
        for source_id, item in late:
            by_source.setdefault(source_id, []).append(item)
        for source_id, own in by_source.items():
            self._writers[source_id].write(own)

    def source_finished(self, source_id: str) -> None:
        """Completes the source's own output."""
        if self._per_source and source_id in self._writers:
            self._finish(source_id)

    def close(self) -> list[Path]:
        """Completes all outputs. If one cannot be completed the others are; then its error is raised."""
        errors = []
        for key in list(self._writers):
            try:
                self._finish(key)
            except SinkError as e:
                errors.append(e)
        if errors:
            raise errors[0]
        return list(self.completed)

    def abort(self) -> list[Path]:
        """Keeps unfinished outputs under their temporary names; returns these. Complete ones stay as they are."""
        kept: list[Path] = []
        while self._writers:
            _, writer = self._writers.popitem()
            kept += writer.abort()
        return sorted(kept)

    def _writer(self, source_id: str) -> Writer[Item]:
        return self._writers[source_id if self._per_source else ""]

    def _finish(self, key: str) -> None:
        path = self._writers[key].finish()
        del self._writers[key]
        if path is not None:
            self.completed.append(path)
