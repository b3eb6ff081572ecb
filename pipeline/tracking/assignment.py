"""The best assignment of tracks to detections: the matching of the greatest total weight.

Pairs that may be matched are the edges of a bipartite graph; each has a weight above 0, and nothing has to be matched. This is
what ByteTrack asks of the Jonker-Volgenant algorithm with a cost limit: weight = limit - cost.

Nearly all of it is decided by one rule that works on whole arrays: an edge that weighs more than the best other edge of its row
and the best other edge of its column together is in every best matching (one without it has at most these two in its place,
and could be bettered). What such edges leave behind is decided by the same rule again, and the small rest by shortest
augmenting paths (Jonker and Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment
problems", Computing 38, 1987), so the result is always a best matching.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# More do not pay: what is left then are knots.
_PASSES = 3


def best_matching(rows: Indices, columns: Indices, weights: Floats, row_count: int, column_count: int) -> Indices:
    """The edges of a matching whose total weight is the greatest there is.

    Args:
        rows: (E,) int64, below `row_count`.
        columns: (E,) int64, below `column_count`. No pair of row and column comes twice.
        weights: (E,) above 0.
        row_count: How many rows there are.
        column_count: How many columns there are.

    Returns:
        Indices of the edges. Where several matchings are best, the choice depends on the order of the edges of the same
        connected part of the graph, and on nothing else.
    """
    chosen: list[Indices] = []
    edges = np.arange(len(rows))
    for _ in range(_PASSES):
        if not len(edges):
            break
        r, c, w = rows[edges], columns[edges], weights[edges]
        row_best, row_other = _best_and_other(r, w, row_count)
        column_best, column_other = _best_and_other(c, w, column_count)
        sure = np.flatnonzero(row_best & column_best & (w > row_other + column_other))
        if not len(sure):
            break
        chosen.append(edges[sure])
        row_is_free, column_is_free = np.ones(row_count, bool), np.ones(column_count, bool)
        row_is_free[r[sure]] = column_is_free[c[sure]] = False
        edges = edges[row_is_free[r] & column_is_free[c]]
    if len(edges):
        rest = augment(rows[edges].tolist(), columns[edges].tolist(), weights[edges].tolist())
        chosen.append(edges[np.array(rest, np.int64)])
    return np.concatenate(chosen) if chosen else edges


def _best_and_other(nodes: Indices, weights: Floats, count: int) -> tuple[npt.NDArray[np.bool_], Floats]:
    """For each edge whether it is the best of its node (one is), and the weight of the node's second best, 0 if none."""
    best = np.zeros(count)
    np.maximum.at(best, nodes, weights)
    is_best = np.flatnonzero(weights == best[nodes])
    # Of equal ones the last remains; the others then count as second best.
    best_edge = np.empty(count, np.int64)
    best_edge[nodes[is_best]] = is_best
    only_best = best_edge[nodes] == np.arange(len(nodes))
    other = np.zeros(count)
    np.maximum.at(other, nodes, np.where(only_best, 0.0, weights))
    return only_best, other[nodes]


def augment(rows: list[int], columns: list[int], weights: list[float]) -> list[int]:
    """As `best_matching`, row by row along shortest augmenting paths; for few edges.

    Every row also has a column of its own of weight 0, so that it may stay alone.
    """
    edges_of: dict[int, list[tuple[int, float, int]]] = {}
    for edge, (row, column, weight) in enumerate(zip(rows, columns, weights, strict=True)):
        edges_of.setdefault(row, [(-1 - row, 0.0, -1)]).append((column, weight, edge))
    profit = {row: max(weight for _, weight, _ in own) for row, own in edges_of.items()}  # the dual of rows
    price: dict[int, float] = {}  # the dual of columns, 0 where it is not in here
    owner: dict[int, tuple[int, int]] = {}  # column -> (row, edge)
    holds: dict[int, int] = {}  # row -> column
    for first in edges_of:
        distance: dict[int, float] = {}
        reached_by: dict[int, tuple[int, int]] = {}
        done: dict[int, float] = {}
        row, length = first, 0.0
        while True:
            for column, weight, edge in edges_of[row]:
                if column not in done:
                    through = length + max(profit[row] + price.get(column, 0.0) - weight, 0.0)
                    if through < distance.get(column, np.inf):
                        distance[column], reached_by[column] = through, (row, edge)
            column = min(distance, key=distance.__getitem__)
            length = distance.pop(column)
            if column not in owner:
                break
            done[column] = length
            row = owner[column][0]
        profit[first] -= length
        for passed, when in done.items():
            price[passed] = price.get(passed, 0.0) + length - when
            profit[owner[passed][0]] -= length - when
        while True:
            row, edge = reached_by[column]
            before = holds.get(row)
            owner[column], holds[row] = (row, edge), column
            if before is None:
                break
            column = before
    return sorted(edge for _, edge in owner.values() if edge >= 0)
