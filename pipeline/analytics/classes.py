"""Which classes are looked at: the configuration's labels and ids as tables by class id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.analytics.arrays import Indices
from pipeline.analytics.sequences import Mask
from pipeline.config.analytics import SourceAnalytics

Filter = Sequence[str | int] | None


class ClassFilters:
    """Filters of all sources: on objects as a whole, and one for each line and zone."""

    def __init__(self) -> None:
        self._settings: dict[int, SourceAnalytics] = {}
        self._names: Mapping[int, str] = {}
        self._width = 0
        # (sources, K, classes), K = 1 for objects as a whole.
        self._tables: dict[str, Mask] = {}
        self._filters: set[str] = set()

    def set_source(self, source: int, settings: SourceAnalytics | None) -> None:
        """The filters of a source; None: it has ended."""
        self._settings.pop(source, None)
        if settings is not None:
            self._settings[source] = settings
        self._width = 0  # made anew when they are needed

    def allowed(
        self, what: str, sources: Indices, class_ids: Indices, names: Mapping[int, str], columns: int = 1
    ) -> Mask | None:
        """Which objects count.

        Args:
            what: `objects`, `lines` or `zones`.
            sources: (R,) rows of their sources.
            class_ids: (R,) their classes.
            names: Class id -> label.
            columns: K: how many lines or zones there are; 1 for `objects`.

        Returns:
            (R, K); None: all.
        """
        most = int(class_ids.max(initial=0)) + 1
        if most > self._width or names is not self._names:
            self._build(most, names)
        if what not in self._filters:
            return None
        table = self._tables[what]
        result = np.ones((len(sources), columns), np.bool_)  # of sources that have ended there may be wider tables
        result[:, : table.shape[1]] = table[sources, :, np.maximum(class_ids, 0)]
        return result

    def _build(self, width: int, names: Mapping[int, str]) -> None:
        self._width, self._names = width, names
        self._filters.clear()
        for what in ("objects", "lines", "zones"):
            filters = {source: _filters(what, settings) for source, settings in self._settings.items()}
            if not any(kept is not None for own in filters.values() for kept in own):
                continue
            self._filters.add(what)
            columns = max(map(len, filters.values()))
            table = np.ones((max(filters) + 1, columns, width), np.bool_)
            for source, own in filters.items():
                for column, kept in enumerate(own):
                    if kept is not None:
                        table[source, column] = [
                            class_id in kept or names.get(class_id, str(class_id)) in kept for class_id in range(width)
                        ]
            self._tables[what] = table


def _filters(what: str, settings: SourceAnalytics) -> list[Filter]:
    if what == "objects":
        return [settings.classes]
    return [shape.classes for shape in (settings.lines if what == "lines" else settings.zones)]
