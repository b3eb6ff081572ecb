"""Every matching is a best one: compared with SciPy's, over all kinds of graphs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from pipeline.tracking.assignment import augment, best_matching


def matched(weights: np.ndarray) -> np.ndarray:
    """(K, 2) rows and columns of the best matching of a matrix whose zeros are no edges."""
    rows, columns = np.nonzero(weights)
    edges = best_matching(rows, columns, weights[rows, columns], *weights.shape)
    return np.column_stack([rows[edges], columns[edges]])


def check(weights: np.ndarray) -> None:
    chosen = matched(weights)
    assert len(set(chosen[:, 0])) == len(set(chosen[:, 1])) == len(chosen)
    best = weights[linear_sum_assignment(weights, maximize=True)].sum()
    assert weights[chosen[:, 0], chosen[:, 1]].sum() == pytest.approx(best, abs=1e-9)


@st.composite
def matrices(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    # Few different weights make ties, which are where rules of thumb fail.
    values = draw(st.sampled_from([[0, 1], [0, 1, 2], [0, 0, 0, 0.3, 0.6, 0.9], [0.1, 0.2, 0.3, 0.4]]))
    cells = draw(st.lists(st.sampled_from(values), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return np.array(cells, np.float64).reshape(shape)


@settings(max_examples=300, deadline=None)
@given(matrices())
def test_is_best_where_weights_are_equal(weights):
    check(weights)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 1))
def test_is_best_where_weights_differ(seed, rows, columns, density):
    random = np.random.default_rng(seed)
    check(np.where(random.random((rows, columns)) < density, random.random((rows, columns)), 0.0))


@settings(max_examples=100, deadline=None)
@given(matrices())
def test_augmenting_paths_alone_are_best_too(weights):
    rows, columns = np.nonzero(weights)
    values = weights[rows, columns]
    edges = augment(rows.tolist(), columns.tolist(), values.tolist())
    assert len(set(rows[edges])) == len(set(columns[edges])) == len(edges)
    best = weights[linear_sum_assignment(weights, maximize=True)].sum()
    assert values[edges].sum() == pytest.approx(best, abs=1e-9)


def test_the_greatest_weight_is_not_taken_where_two_others_are_worth_more():
    assert matched(np.array([[0.9, 0.8], [0.8, 0.0]])).tolist() == [[0, 1], [1, 0]]


def test_two_are_not_matched_where_one_is_worth_more():
    assert matched(np.array([[0.9, 0.3], [0.3, 0.0]])).tolist() == [[0, 0]]


def test_nothing():
    none = np.zeros(0, np.int64)
    assert len(best_matching(none, none, np.zeros(0), 0, 0)) == 0
    assert len(best_matching(none, none, np.zeros(0), 3, 2)) == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(matrices(), min_size=2, max_size=5))
def test_parts_do_not_influence_each_other(parts):
    """Also not which of several best matchings is chosen."""
    together = np.zeros(np.sum([part.shape for part in parts], axis=0))
    expected, corner = [], np.zeros(2, int)
    for part in parts:
        together[corner[0] : corner[0] + part.shape[0], corner[1] : corner[1] + part.shape[1]] = part
        expected += (matched(part) + corner).tolist()
        corner += part.shape
    assert sorted(matched(together).tolist()) == sorted(expected)
