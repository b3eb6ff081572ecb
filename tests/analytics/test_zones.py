"""Zones: who is inside, when they come and go, and the alarms of single objects; against exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from analytics_world import batch_of, exact, frame, kinds, run, settings, square_distance, told, way, winding
from hypothesis import assume, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.analytics.areas import Areas
from pipeline.analytics.engine import Analytics
from pipeline.analytics.events import ZoneShape

SQUARE = [[100, 100], [300, 100], [300, 300], [100, 300]]
ZONE = {"name": "hall", "polygon": SQUARE, "hysteresis": 0}
COORDINATE = st.integers(0, 8 * 60).map(lambda eighth: eighth / 8)
PLACES = st.tuples(COORDINATE, COORDINATE)
CORNERS = st.tuples(st.integers(0, 60), st.integers(0, 60))


@st.composite
def polygons(draw):
    """Simple polygons of all shapes: corners in the order of their direction from a point."""
    corners = draw(st.lists(CORNERS, min_size=3, max_size=12, unique=True))
    x, y = np.mean(corners, axis=0) + 0.1
    corners.sort(key=lambda corner: math.atan2(corner[1] - y, corner[0] - x))
    try:
        settings(zones=[{"name": "z", "polygon": corners}])
    except ValidationError:
        assume(False)
    return corners


def located(corners, points, hysteresis=0.0):
    areas = Areas()
    areas.set_source(0, [ZoneShape("z", tuple(corners), None, hysteresis, None, 0.0)])
    x, y = np.array(points, np.float64).T
    inside, near = areas.locate(np.zeros(len(points), np.int64), x, y)
    return inside[:, 0].tolist(), near[:, 0].tolist()


@given(polygons(), st.lists(PLACES, min_size=1, max_size=20))
@effort(max_examples=300)
def test_inside_is_what_the_winding_number_says(corners, points) -> None:
    inside, _ = located(corners, points)
    for point, is_inside in zip(points, inside, strict=True):
        number = winding(corners, point)
        if number is not None:
            assert is_inside == (number != 0)


@given(polygons(), st.lists(PLACES, min_size=1, max_size=20), st.integers(0, 11), st.booleans())
def test_neither_the_first_corner_nor_the_way_round_matters(corners, points, first, turned) -> None:
    first %= len(corners)
    other = [*corners[first:], *corners[:first]][:: -1 if turned else 1]
    # Also on the edges and at the corners.
    points = points + corners
    assert located(corners, points, 3.0) == located(other, points, 3.0)


@given(polygons(), st.lists(PLACES, min_size=1, max_size=20), st.integers(0, 20))
def test_near_is_outside_within_the_hysteresis(corners, points, hysteresis) -> None:
    inside, near = located(corners, points, hysteresis)
    for point, is_inside, is_near in zip(points, inside, near, strict=True):
        square = square_distance(corners, point)
        if not is_inside and abs(square - hysteresis**2) > Fraction(1, 10**6):
            assert is_near == (square < hysteresis**2)
        assert not (is_inside and is_near)


@given(st.lists(PLACES, min_size=1, max_size=20), CORNERS, st.integers(1, 30), st.integers(0, 9))
def test_circles(points, centre, radius, hysteresis) -> None:
    areas = Areas()
    areas.set_source(0, [ZoneShape("z", (), (*centre, radius), hysteresis, None, 0.0)])
    x, y = np.array(points, np.float64).T
    inside, near = areas.locate(np.zeros(len(points), np.int64), x, y)
    for (px, py), is_inside, is_near in zip(map(exact, points), inside[:, 0], near[:, 0], strict=True):
        square = (px - centre[0]) ** 2 + (py - centre[1]) ** 2
        assert is_inside == (square <= radius**2)
        assert is_near == (radius**2 < square <= (radius + hysteresis) ** 2)


def test_zones_of_several_sources_do_not_mix() -> None:
    areas = Areas()
    shapes = [
        [
            ZoneShape("a", ((0, 0), (10, 0), (10, 10), (0, 10)), None, 0, None, 0),
            ZoneShape("b", (), (50, 50, 9), 0, None, 0),
        ],
        [],
        [ZoneShape("c", ((40, 40), (60, 40), (50, 60)), None, 0, None, 0)],
    ]
    for source, own in enumerate(shapes):
        areas.set_source(source, own)
    x = np.array([5.0, 50, 50, 50])
    inside, _ = areas.locate(np.array([0, 0, 1, 2]), x, x)
    assert inside.tolist() == [[True, False], [False, True], [False, False], [True, False]]
    areas.set_source(0, shapes[2])
    inside, _ = areas.locate(np.array([0, 0, 1, 2]), x, x)
    assert inside.tolist() == [[False, False], [True, False], [False, False], [True, False]]


# ---------------------------------------------------------------------------------------------------------- visits


def test_a_visit_lasts_from_the_first_frame_inside_to_the_first_one_outside() -> None:
    seen = way([(50, 200), (150, 200), (200, 200), (350, 200)], fps=8)
    entered, left = run(settings(zones=[ZONE]), seen)
    assert (entered.kind.value, entered.frame, entered.name, entered.track_id) == ("zone_entered", 1, "hall", 7)
    assert (left.kind.value, left.frame, left.pts_s) == ("zone_left", 3, 0.375)
    assert left.values == {"dwell_s": 0.25, "reason": "left"}


def test_who_is_first_seen_inside_enters() -> None:
    (entered,) = run(settings(zones=[ZONE]), way([(200, 200)]), finish=False)
    assert (entered.kind.value, entered.frame) == ("zone_entered", 0)


def test_a_track_that_ends_leaves_where_it_was_last_seen() -> None:
    seen = [(i / 10, {7: (200, 200)} if i < 5 else {}) for i in range(40)]
    entered, left = run(settings(zones=[ZONE], forget_s=1), seen, finish=False)
    assert (left.frame, left.pts_s) == (4, 0.4)
    assert left.values == {"dwell_s": 0.4, "reason": "track_ended"}
    # It comes to light once the track has not been seen for longer than forget_s: in frame 15, of the batch 12..15.
    assert left.position == 3
    assert entered.position == 0


def test_a_source_that_ends_closes_its_visits() -> None:
    _, left = run(settings(zones=[ZONE]), way([(200, 200)] * 6))
    assert (left.frame, left.position) == (5, None)
    assert left.values == {"dwell_s": 0.5, "reason": "source_ended"}


def test_a_gap_that_is_shorter_than_forget_s_is_part_of_the_visit() -> None:
    seen = [(0.0, {7: (200, 200)}), (2.0, {7: (200, 200)}), (2.5, {7: (350, 200)})]
    assert [e.values.get("dwell_s") for e in run(settings(zones=[ZONE], forget_s=2), seen)] == [None, 2.5]
    events = run(settings(zones=[ZONE], forget_s=1.5), seen)
    assert [(e.kind.value, e.frame, e.values.get("dwell_s")) for e in events] == [
        ("zone_entered", 0, None),
        ("zone_left", 0, 0.0),
        ("zone_entered", 1, None),
        ("zone_left", 2, 0.5),
    ]


def test_jitter_at_the_edge_is_one_visit() -> None:
    zone = {**ZONE, "hysteresis": 5}
    xs = [90, 101, 96, 103, 95, 110, 95, 94.875, 101]
    events = run(settings(zones=[zone]), way([(x, 200) for x in xs]), finish=False)
    assert [(e.kind.value, e.frame) for e in events] == [("zone_entered", 1), ("zone_left", 7), ("zone_entered", 8)]


def test_variable_frame_rates_and_dropped_frames_do_not_change_a_dwell_time() -> None:
    times = [0.0, 0.04, 0.05, 1.3, 1.31, 2.0]
    places = [(50, 200), (150, 200), (150, 200), (200, 200), (210, 200), (350, 200)]
    seen = [(t, {7: p}) for t, p in zip(times, places, strict=True)]
    _, left = run(settings(zones=[ZONE]), seen)
    assert left.values["dwell_s"] == 1.96
    _, left = run(settings(zones=[ZONE]), [seen[i] for i in (0, 1, 4, 5)])
    assert left.values["dwell_s"] == 1.96


def test_without_times_the_wall_clock_counts() -> None:
    # The frames of `run` were decoded 0.1 s apart.
    seen = [(None, places) for _, places in way([(50, 200), *[(200, 200)] * 4, (350, 200)])]
    _, left = run(settings(zones=[ZONE]), seen)
    assert left.pts_s is None
    assert left.values["dwell_s"] == pytest.approx(0.4, abs=1e-5)


def test_a_time_that_jumps_back_goes_on_where_it_was() -> None:
    times = [10.0, 10.5, 11.0, 0.0, 0.5, 1.0]
    seen = [(t, {7: (200, 200) if i < 5 else (350, 200)}) for i, t in enumerate(times)]
    _, left = run(settings(zones=[ZONE]), seen)
    assert left.values["dwell_s"] == 2.0


def visits(corners, hysteresis, points, times):
    """The visits of one object, exactly and one after another."""
    found, since = [], None
    for i, (point, now) in enumerate(zip(points, times, strict=True)):
        number = winding(corners, point)
        is_inside = number != 0
        if since is None and is_inside:
            since = now
            found.append(("zone_entered", i, None))
        elif since is not None and not is_inside and square_distance(corners, point) > Fraction(hysteresis) ** 2:
            found.append(("zone_left", i, float(now - since)))
            since = None
    return found


@given(polygons(), st.lists(PLACES, min_size=1, max_size=25), st.integers(0, 6), st.integers(1, 9), st.data())
@effort(max_examples=200)
def test_any_way_is_visited_as_exact_arithmetic_has_it(corners, points, hysteresis, batch, data) -> None:
    assume(all(winding(corners, point) is not None for point in points))
    assume(all(abs(square_distance(corners, p) - hysteresis**2) > Fraction(1, 10**6) for p in points))
    steps = data.draw(st.lists(st.integers(1, 64), min_size=len(points), max_size=len(points)))
    times = [Fraction(sum(steps[: i + 1]), 64) for i in range(len(steps))]
    config = settings(zones=[{"name": "z", "polygon": corners, "hysteresis": hysteresis}])
    seen = [(float(t), {7: point}) for t, point in zip(times, points, strict=True)]
    events = run(config, seen, batch=batch, finish=False, size=(64, 64))
    assert [(e.kind.value, e.frame, e.values.get("dwell_s")) for e in events] == [
        (kind, i, None if dwell is None else round(dwell, 6))
        for kind, i, dwell in visits(corners, hysteresis, points, times)
    ]


@given(polygons(), st.lists(PLACES, min_size=1, max_size=20))
def test_fractions_are_pixels_by_another_name(corners, points) -> None:
    pixels = [
        {"name": "z", "polygon": corners, "hysteresis": 2},
        {"name": "c", "circle": {"center": [20, 30], "radius": 8}},
    ]
    fractions = [
        {"name": "z", "polygon": [[x / 64, y / 64] for x, y in corners], "hysteresis": 2 / 64},
        {"name": "c", "circle": {"center": [20 / 64, 30 / 64], "radius": 8 / 64}},
    ]
    size = (64, 64)
    assert told(run(settings(zones=pixels), way(points), size=size)) == told(
        run(settings(unit="fraction", zones=fractions), way(points), size=size)
    )


# ---------------------------------------------------------------------------------------------------------- alarms


def test_loitering_is_told_once_a_visit_when_its_time_has_come() -> None:
    config = settings(zones=[{**ZONE, "loiter_s": 1}])
    inside, outside = [(200, 200)] * 15, [(350, 200)] * 3
    events = kinds(run(config, way([*inside, *outside, *inside])), "loitering")
    assert [(e.frame, e.values) for e in events] == [(10, {"dwell_s": 1.0}), (28, {"dwell_s": 1.0})]


def test_an_object_that_stops_and_goes_on() -> None:
    config = settings(zones=[{**ZONE, "stopped_s": 1}], still_radius=4)
    # It moves, trembles within the radius for 1.9 s, moves on, and stops again.
    points = [(110 + 10 * i, 200) for i in range(5)]
    points += [(150 + (i % 3), 200 + (i % 2)) for i in range(20)]
    points += [(170, 200), (190, 200)]
    points += [(190, 200)] * 12
    events = kinds(run(config, way(points)), "stopped", "moved_on")
    assert [(e.kind.value, e.frame, e.values) for e in events] == [
        ("stopped", 14, {"stopped_s": 1.0}),
        ("moved_on", 25, {"stopped_s": 2.1}),
        ("stopped", 36, {"stopped_s": 1.0}),
    ]


def test_an_object_that_stands_outside_has_not_stopped_in_the_zone() -> None:
    config = settings(zones=[{**ZONE, "stopped_s": 1}])
    assert run(config, way([(350, 200)] * 30)) == []


def test_slow_drift_is_no_stop() -> None:
    config = settings(zones=[{**ZONE, "stopped_s": 1}], still_radius=4)
    assert kinds(run(config, way([(110 + 0.5 * i, 200) for i in range(60)])), "stopped") == []
    assert len(kinds(run(config, way([(110 + 0.25 * i, 200) for i in range(60)])), "stopped")) > 0


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_who_goes_back_against_the_arrow_is_told_once_a_visit(batch) -> None:
    zone = {**ZONE, "direction": [[100, 200], [300, 200]], "wrong_way": 30}
    config = settings(zones=[zone, {"name": "other", "polygon": SQUARE}])
    # With the arrow, across it and a little back is allowed; then more than 30 px back from the furthest point.
    xs = [110, 150, 190, 170, 161, 160, 160]
    assert kinds(run(config, way([(x, 120 + 20 * i) for i, x in enumerate(xs)]), batch=batch), "wrong_direction") == []
    events = run(config, way([(x, 200) for x in [*xs, 159.875, 120, 180, 110]]), batch=batch)
    (event,) = kinds(events, "wrong_direction")
    assert (event.frame, event.name, event.values) == (7, "hall", {"back_px": 30.12})


def test_the_way_before_the_zone_does_not_count_against_the_arrow() -> None:
    zone = {**ZONE, "direction": [[100, 200], [300, 200]], "wrong_way": 30}
    xs = [500, 400, 290, 280, 270, 262]
    assert kinds(run(settings(zones=[zone]), way([(x, 200) for x in xs])), "wrong_direction") == []
    (event,) = kinds(run(settings(zones=[zone]), way([(x, 200) for x in [*xs, 259]])), "wrong_direction")
    assert event.frame == 6


def test_a_source_without_arrows_does_not_disturb_one_with_them() -> None:
    zone = {**ZONE, "direction": [[100, 200], [300, 200]], "wrong_way": 30}
    analytics = Analytics({"a": settings(zones=[ZONE]), "b": settings(zones=[zone])})
    found = []
    for i, x in enumerate([250, 200, 190]):
        frames = [frame("a", i, i / 10), frame("b", i, i / 10)]
        found += analytics(batch_of(frames, [{1: (x, 200)}, {1: (x, 200)}])).events
    assert [(e.source_id, e.frame) for e in kinds(found, "wrong_direction")] == [("b", 1)]


# ------------------------------------------------------------------------------------------- occupancy and crowds


def test_occupancy_needs_no_tracker() -> None:
    config = settings(zones=[{**ZONE, "max_occupancy": 1}])
    seen = [(i / 10, {k: (150 + k, 200) for k in range(n)} | {9: (400, 200)}) for i, n in enumerate([0, 1, 2, 3, 1, 2])]
    events = run(config, seen, tracked=False)
    assert [(e.kind.value, e.frame, e.values) for e in events] == [
        ("overcrowded", 2, {"occupancy": 2, "limit": 1}),
        ("overcrowding_ended", 4, {"duration_s": 0.2}),
        ("overcrowded", 5, {"occupancy": 2, "limit": 1}),
        ("overcrowding_ended", 5, {"duration_s": 0.0}),
    ]
    assert events[0].track_id is None


def test_a_crowd_has_to_last_before_it_is_told_and_before_it_is_over() -> None:
    config = settings(zones=[{**ZONE, "max_occupancy": 1, "crowd_s": 0.3}])
    counts = [2, 2, 1, 2, 2, 2, 2, 1, 1, 2, 1, 1, 1, 1]
    seen = [(i / 10, {k: (150 + k, 200) for k in range(n)}) for i, n in enumerate(counts)]
    events = run(config, seen, tracked=False)
    assert [(e.kind.value, e.frame) for e in events] == [("overcrowded", 6), ("overcrowding_ended", 13)]
    assert events[1].values == {"duration_s": 0.7}


def test_occupancy_counts_the_zones_classes() -> None:
    config = settings(zones=[{**ZONE, "max_occupancy": 0, "classes": ["bus"]}])
    seen = [(0.0, {1: (150, 200)}), (0.1, {1: (150, 200), 2: (160, 200)})]
    (event, _) = run(config, seen, classes={1: 1, 2: 2}, tracked=False)
    assert (event.frame, event.values["occupancy"]) == (1, 1)
