"""The sinks as one: every batch goes to all of them, and one that breaks does not take the others with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pipeline.errors import SinkError
from pipeline.frames import ResultBatch
from pipeline.observe.status import RunStatus
from pipeline.stages import Sink, SinkSource

log = logging.getLogger(__name__)


class Outputs:
    """All sinks of a run. Errors end up in `status.errors`, paths in `status.outputs` and `status.partial_outputs`.

    Args:
        sinks: In the order of the configuration.
        status: Of the run.
        close_others: Called behind the sinks, for those who work for the outputs but are none; raises nothing.

    Attributes:
        had_sinks: Whether there were any.
        others_need_pixels: Whether somebody beside the sinks gets the frames with their pixels; set before the run.
    """

    def __init__(
        self, sinks: Sequence[Sink], status: RunStatus, *, close_others: Callable[[], None] = lambda: None
    ) -> None:
        self._close_others = close_others
        self._sinks = list(sinks)
        self._status = status
        self.had_sinks = bool(sinks)
        self.others_need_pixels = False

    def add(self, sink: Sink) -> None:
        """Another one, open already, behind all others."""
        self._sinks.append(sink)

    @property
    def needs_pixels(self) -> bool:
        """Whether any sink draws on the frames, or somebody else who has said so."""
        return self.others_need_pixels or any(sink.needs_pixels for sink in self._sinks)

    @property
    def all_failed(self) -> bool:
        """Whether there were sinks and none is left."""
        return self.had_sinks and not self._sinks

    def open(self) -> None:
        """Opens all sinks; if one cannot be opened, those already open are undone and its error is raised."""
        opened: list[Sink] = []
        try:
            for sink in self._sinks:
                sink.open()
                opened.append(sink)
        except SinkError:
            for sink in opened:
                sink.abort()
            raise

    def source_started(self, source: SinkSource) -> None:
        """Tells all sinks."""
        self._each(lambda sink: sink.source_started(source))

    def write(self, batch: ResultBatch) -> None:
        """Hands a batch to all sinks."""
        self._each(lambda sink: sink.write(batch))

    def source_finished(self, source_id: str) -> None:
        """Tells all sinks."""
        self._each(lambda sink: sink.source_finished(source_id))

    def close(self) -> None:
        """Completes all outputs."""

        def complete(sink: Sink) -> None:
            self._status.outputs += sink.close()

        self._each(complete)
        self._sinks.clear()
        self._close_others()

    def abort(self) -> None:
        """Keeps all outputs as far as they got."""
        for sink in self._sinks:
            self._abort(sink)
        self._sinks.clear()
        self._close_others()

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except SinkError as e:
                log.error("%s", e)
                self._status.errors.append(str(e))
                self._sinks.remove(sink)
                self._abort(sink)

    def _abort(self, sink: Sink) -> None:
        self._status.partial_outputs += sink.abort()
        self._status.outputs += sink.completed
