"""Which points lie in which zones: polygons and circles of many sources at once.

Inside a polygon is what the even-odd rule says (M. Shimrat, "Algorithm 112", CACM 1962); the configuration takes simple polygons
only, so that no other rule says anything else. Every edge is taken from its upper end to its lower one: so neither the way
round nor the first corner changes anything, not even in the last bit. A point on an upper or left edge is inside, one on a
lower or right edge is not, so that zones that share an edge share no object.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.analytics.arrays import Array, Block, Indices, spread, where
from pipeline.analytics.events import ZoneShape
from pipeline.analytics.sequences import Mask

_NAN = np.float64(np.nan)


class Areas:
    """The zones of all sources, as areas."""

    def __init__(self) -> None:
        # Squares of radii, without and with the hysteresis, and the box of a polygon with the hysteresis around it.
        self._circles = Block(has_columns=True, x=_NAN, y=_NAN, inner=_NAN, outer=_NAN)
        self._boxes = Block(has_columns=True, left=_NAN, top=_NAN, right=_NAN, bottom=_NAN, near=_NAN)
        self._edges_of: dict[int, list[list[tuple[float, float, float, float]]]] = {}
        self._is_stale = False
        # Edges of all sources one after another: (M, 4) x1, y1, x2, y2 with y1 <= y2, and the zone of each.
        self._edges = np.zeros((0, 4))
        self._slopes = self._tops = self._bottoms = np.zeros(0)
        self._zones = np.zeros(0, np.int64)
        self._first: Indices = np.zeros(0, np.int64)  # by source
        self._count: Indices = np.zeros(0, np.int64)
        self._zone_first: Indices = np.zeros((0, 0), np.int64)  # by source and zone
        self._zone_count: Indices = np.zeros((0, 0), np.int64)

    @property
    def count(self) -> int:
        """The most zones that a source has."""
        return self._circles.columns

    def set_source(self, source: int, zones: Sequence[ZoneShape]) -> None:
        """The zones of a source, in pixels."""
        edges: list[list[tuple[float, float, float, float]]] = []
        for block in (self._circles, self._boxes):
            block.grow(source + 1, len(zones))
            block.clear(source)
        for column, zone in enumerate(zones):
            corners, margin = zone.polygon, zone.hysteresis
            edges.append([_downwards(*a, *b) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)])
            if zone.circle is not None:
                x, y, radius = zone.circle
                _fill(self._circles, source, column, x=x, y=y, inner=radius**2, outer=(radius + margin) ** 2)
            else:
                xs, ys = [x for x, _ in corners], [y for _, y in corners]
                box = {"left": min(xs), "top": min(ys), "right": max(xs), "bottom": max(ys)}
                box = {key: value + (margin if key in ("right", "bottom") else -margin) for key, value in box.items()}
                _fill(self._boxes, source, column, **box, near=margin**2)
        self._edges_of[source] = edges
        self._is_stale = True

    def locate(self, sources: Indices, x: Array, y: Array) -> tuple[Mask, Mask]:
        """Where points are.

        Args:
            sources: (R,) rows of their sources.
            x: (R,) in display pixels.
            y: (R,) the same.

        Returns:
            (R, K) inside the zone, and (R, K) outside but no further than the hysteresis.
        """
        if self._is_stale:
            self._rebuild()
        circles = self._circles
        square = (x[:, None] - circles.of("x", sources)) ** 2 + (y[:, None] - circles.of("y", sources)) ** 2
        inside = square <= circles.of("inner", sources)
        near = ~inside & (square <= circles.of("outer", sources))

        owners, number = spread(self._count.take(sources))
        edges = self._first.take(sources).take(owners) + number
        # Most edges lie above or below a point as a whole.
        heights = y.take(owners)
        spans = np.flatnonzero((self._tops.take(edges) <= heights) & (heights < self._bottoms.take(edges)))
        owners, edges = owners[spans], edges[spans]
        x1, y1 = self._edges.take(edges, axis=0)[:, :2].T
        hits = x.take(owners) < x1 + (heights[spans] - y1) * self._slopes.take(edges)
        cells = owners[hits] * self.count + self._zones[edges[hits]]
        odd = np.bincount(cells, minlength=inside.size)[: inside.size] & 1
        inside |= odd.reshape(inside.shape).astype(np.bool_)
        self._mark_near(sources, x, y, inside, near)
        return inside, near

    def _mark_near(self, sources: Indices, x: Array, y: Array, inside: Mask, near: Mask) -> None:
        """Marks points whose distance from a polygon that they are outside of is within the hysteresis."""
        box = self._boxes
        across, down = x[:, None], y[:, None]
        candidates = ~inside & (across >= box.of("left", sources)) & (across <= box.of("right", sources))
        candidates &= (down >= box.of("top", sources)) & (down <= box.of("bottom", sources))
        rows, columns = where(candidates)
        if not len(rows):
            return
        owners, number = spread(self._zone_count[sources[rows], columns])
        edges = self._edges.take(self._zone_first[sources[rows], columns].take(owners) + number, axis=0)
        x1, y1 = edges[:, 0], edges[:, 1]
        step_x, step_y = edges[:, 2] - x1, edges[:, 3] - y1
        from_x, from_y = x[rows].take(owners) - x1, y[rows].take(owners) - y1
        part = np.clip((from_x * step_x + from_y * step_y) / (step_x**2 + step_y**2), 0, 1)
        square = (from_x - part * step_x) ** 2 + (from_y - part * step_y) ** 2
        starts = np.flatnonzero(number == 0)
        near[rows, columns] = np.minimum.reduceat(square, starts) <= box["near"][sources[rows], columns]

    def _rebuild(self) -> None:
        self._is_stale = False
        shape = (self._circles.rows, self.count)
        self._zone_first, self._zone_count = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._first, self._count = np.zeros(shape[0], np.int64), np.zeros(shape[0], np.int64)
        edges: list[tuple[float, float, float, float]] = []
        zones: list[int] = []
        for source, own in self._edges_of.items():
            self._first[source] = len(edges)
            for column, some in enumerate(own):
                self._zone_first[source, column], self._zone_count[source, column] = len(edges), len(some)
                edges += some
                zones += [column] * len(some)
            self._count[source] = len(edges) - self._first[source]
        self._edges = np.array(edges, np.float64).reshape(-1, 4)
        self._tops, self._bottoms = self._edges[:, 1].copy(), self._edges[:, 3].copy()
        self._zones = np.array(zones, np.int64)
        steps = self._edges[:, 2:] - self._edges[:, :2]
        level = steps[:, 1] == 0  # spans no point's height
        self._slopes = np.divide(steps[:, 0], steps[:, 1], out=np.zeros(len(steps)), where=~level)


def _downwards(x1: float, y1: float, x2: float, y2: float) -> tuple[float, float, float, float]:
    return (x1, y1, x2, y2) if (y1, x1) <= (y2, x2) else (x2, y2, x1, y1)


def _fill(block: Block, row: int, column: int, **values: float) -> None:
    for name, value in values.items():
        block[name][row, column] = value
