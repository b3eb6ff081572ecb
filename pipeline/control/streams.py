"""What can be done to the sources of a run while it runs."""

from __future__ import annotations

from typing import Protocol

from pipeline.config.sources import Source
from pipeline.observe.status import RunStatus


class StreamControl(Protocol):
    """The sources of a run; every method may be called from any thread and returns before what it asks for is done.

    Those that name a source raise `UnknownStreamError` where there is none of that id, and `StreamStateError` where what
    is asked does not fit it.

    Attributes:
        status: The run with all its sources, those that were removed left out.
    """

    status: RunStatus

    def add_source(self, source: Source) -> list[str]:
        """Adds what a source names (a directory names many); returns the ids.

        Raises:
            SourceError: there is nothing to add, in words.
        """

    def remove_source(self, source_id: str) -> None:
        """Ends a source and forgets it; its results so far stay."""

    def pause_source(self, source_id: str) -> None:
        """Disconnects a live stream until it is resumed; nothing if it is paused."""

    def resume_source(self, source_id: str) -> None:
        """Connects a paused live stream again; nothing if it is not paused."""

    def restart_source(self, source_id: str) -> None:
        """Connects a live stream anew at once, also one that failed or is backing off."""

    def set_priority(self, source_id: str, priority: int) -> None:
        """A source's share of the model where that cannot keep up: 1 to 100."""

    def stop(self) -> None:
        """Ends the run cleanly."""
