"""The writer of text outputs: whole records only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.sinks._files import Output
from pipeline.stages import SinkSource


class LinesWriter:
    """Appends encoded records, one system call a batch; a record is on the disk whole or not at all."""

    def __init__(self, path: Path, *, overwrite: bool, header: bytes = b"") -> None:
        self._output = Output(path, overwrite=overwrite)
        self._header = header

    def start(self, source: SinkSource) -> None:
        """Nothing depends on the source."""

    def write(self, items: Sequence[bytes]) -> None:
        """Appends the records."""
        data = self._header + b"".join(items)
        if data:
            self._output.write(data)
            self._header = b""

    def finish(self) -> Path:
        """Completes the file; one without records has its header at least."""
        self.write(())
        return self._output.complete()

    def abort(self) -> list[Path]:
        """Keeps the records."""
        return self._output.keep()
