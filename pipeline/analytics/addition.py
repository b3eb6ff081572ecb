"""What a source that is added to a run needs of the run: the rules of `pipeline.config` see only the file it began with."""

from __future__ import annotations

from pipeline.config.models import Config
from pipeline.config.sources import Source
from pipeline.errors import StreamStateError


def check_addition(source: Source, config: Config) -> None:
    """Whether a run with this configuration can do the analytics of another source.

    Raises:
        StreamStateError: it cannot.
    """
    analytics = source.analytics
    if analytics is None:
        return
    needs = next(iter(analytics.needs_tracks), None)
    if needs is not None and config.pipeline.tracker is None:
        field = ".".join(map(str, needs))
        raise StreamStateError(f"analytics.{field} needs to know which object is which, but the run has no tracker")
    if analytics.heatmap is not None and not any(
        s.analytics is not None and s.analytics.heatmap is not None for s in config.sources
    ):
        raise StreamStateError("a heat map can only be added to a run that began with one")
