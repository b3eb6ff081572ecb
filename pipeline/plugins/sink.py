"""A sink plug-in as a `pipeline.stages.Sink`."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pipeline.errors import SinkError
from pipeline.frames import ResultBatch
from pipeline.plugins.guard import PluginError
from pipeline.plugins.host import Loaded
from pipeline.plugins.interface import Closes, HearsEnds, HearsStarts, Opens
from pipeline.stages import SinkSource


class GuardedSink:
    """Hands everything on. What fails later than `open` is that batch's loss: the sink gets the next one all the same.

    Attributes:
        needs_pixels: As the plug-in declares.
        completed: None: what a plug-in writes is its own affair.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._plugin, self._guard, self._field = loaded.plugin, loaded.guard, loaded.field
        self.needs_pixels = bool(getattr(loaded.plugin, "needs_pixels", False))
        self.completed: list[Path] = []
        self._is_in_use = False  # a plug-in that was neither opened nor told anything has nothing to close

    def open(self) -> None:
        """Raises `SinkError` if the plug-in cannot be opened."""
        if isinstance(self._plugin, Opens):
            try:
                self._guard.call(self._plugin.open, counts=False)
            except PluginError as e:
                raise SinkError(f"cannot be opened: {e}") from e
            self._is_in_use = True

    def source_started(self, source: SinkSource) -> None:
        """Tells the plug-in, if it wants to know."""
        self._is_in_use = True
        if isinstance(self._plugin, HearsStarts):
            with contextlib.suppress(PluginError):
                self._guard.call(lambda: self._plugin.source_started(source), counts=False)

    def write(self, batch: ResultBatch) -> None:
        """Hands the batch to the plug-in."""
        self._is_in_use = True
        with contextlib.suppress(PluginError):
            self._guard.call(lambda: self._plugin.write(batch))

    def source_finished(self, source_id: str) -> None:
        """Tells the plug-in, if it wants to know."""
        if isinstance(self._plugin, HearsEnds):
            with contextlib.suppress(PluginError):
                self._guard.call(lambda: self._plugin.source_finished(source_id), counts=False)

    def close(self) -> list[Path]:
        """Closes the plug-in, once."""
        if self._is_in_use and isinstance(self._plugin, Closes):
            self._guard.close(self._plugin.close)
        self._is_in_use = False
        return []

    def abort(self) -> list[Path]:
        """The same: a plug-in keeps what it has."""
        return self.close()
