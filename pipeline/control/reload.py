"""A changed configuration for a run that goes on: sources come and go, everything else waits for the next start."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Protocol

from pipeline.config.models import Config
from pipeline.config.sources import Source
from pipeline.control.streams import StreamControl
from pipeline.errors import UnknownStreamError, VramlineError

log = logging.getLogger(__name__)

# A source that is removed is gone once its last frames have come out of the model.
_GONE_WITHIN_S = 30.0
_LOOK_S = 0.02


class ReloadTarget(StreamControl, Protocol):
    """A run whose sources can be told apart by the entries of the configuration that they come from."""

    def ids_of(self, source: Source) -> list[str]:
        """The ids of what this entry named, whatever its priority is by now."""


def apply_sources(run: ReloadTarget, old: Config, new: Config) -> list[Source]:
    """Makes the run's sources those of `new`.

    A source of which only the priority differs is not disconnected. A source that cannot be added is logged as an error and
    the others are added.

    Returns:
        The sources that the run has now, as far as the configuration goes: what could not be added is not among them, so
        that the next time is another attempt.
    """
    for section in ("version", "device", "pipeline", "sinks", "runtime", "observe"):
        if getattr(old, section) != getattr(new, section):
            log.warning("reload: %s has changed, which takes effect at the next start", section)
    removed = [source for source in old.sources if source not in new.sources]
    added = [source for source in new.sources if source not in old.sources]
    for source in list(added):
        before = next((s for s in removed if but_for_priority(s) == but_for_priority(source)), None)
        if before is not None:
            _set_priority(run, before, source)
            removed.remove(before)
            added.remove(source)
    gone = [source_id for source in removed for source_id in run.ids_of(source)]
    for source_id in gone:
        with contextlib.suppress(UnknownStreamError):  # somebody else has just removed it
            run.remove_source(source_id)
    _wait_until_gone(run, gone)
    ids: list[str] = []
    missing: list[Source] = []
    for source in added:
        found = _add(run, source)
        ids += found
        if not found:
            missing.append(source)
    log.info("reload: %d removed, %d added", len(gone), len(ids))
    return [source for source in new.sources if source not in missing]


def but_for_priority(source: Source) -> Source:
    """The source with the default priority: to tell sources apart that differ in more."""
    return source.model_copy(update={"priority": 1})


def _set_priority(run: ReloadTarget, before: Source, after: Source) -> None:
    for source_id in run.ids_of(before):
        run.set_priority(source_id, after.priority)


def _wait_until_gone(run: ReloadTarget, source_ids: list[str]) -> None:
    """A source may be added again under the same id, so the old one has to be out of the way."""
    end_s = time.monotonic() + _GONE_WITHIN_S
    while any(source_id in run.status.sources for source_id in source_ids) and time.monotonic() < end_s:
        time.sleep(_LOOK_S)


def _add(run: ReloadTarget, source: Source) -> list[str]:
    try:
        return run.add_source(source)
    except VramlineError as e:
        log.error("reload: %s", e)
        return []
