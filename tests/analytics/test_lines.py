"""Line crossings, against exact arithmetic and by what they promise."""

from __future__ import annotations

from fractions import Fraction

import pytest
from analytics_world import batch_of, cross, crossings, frame, kinds, run, settings, told, way
from hypothesis import assume, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from pipeline.analytics.engine import Analytics

LINE = {"name": "gate", "points": [[100, 200], [500, 200]], "hysteresis": 5}
COORDINATE = st.integers(0, 8 * 400).map(lambda eighth: eighth / 8)
PLACES = st.tuples(COORDINATE, COORDINATE)


def counted(points, line=LINE, **how):
    events = kinds(run(settings(lines=[line]), way(points), **how), "line_crossed")
    return [(event.frame, event.direction) for event in events]


def test_a_crossing_is_told_in_the_frame_that_is_beyond_the_hysteresis() -> None:
    points = [(300, y) for y in (190, 194, 198, 202, 205, 205.125, 230)]
    (event,) = run(settings(lines=[LINE]), way(points))
    assert (event.source_id, event.frame, event.pts_s, event.position) == ("cam", 5, 0.5, 1)
    assert (event.kind.value, event.name, event.direction) == ("line_crossed", "gate", "forward")
    assert (event.track_id, event.class_id, event.label, event.values) == (7, 1, "car", {"count": 1})


@pytest.mark.parametrize(
    ("points", "direction"),
    [
        ([[100, 200], [500, 200]], "down"),  # eastward: the right-hand side is below
        ([[500, 200], [100, 200]], "up"),
    ],
)
def test_the_first_direction_is_to_the_right_of_who_looks_along_the_line(points, direction) -> None:
    line = {**LINE, "points": points, "directions": ["down", "up"]}
    assert counted([(300, 150), (300, 250)], line) == [(1, direction)]


def test_the_way_around_an_end_does_not_count_and_changes_the_side() -> None:
    around = [(300, 150), (550, 150), (550, 250), (300, 250)]
    assert counted(around) == []
    assert counted([*around, (300, 150)]) == [(4, "backward")]


def test_where_the_line_was_last_passed_decides() -> None:
    # Inside the hysteresis past the end and back again, then through between the ends.
    assert counted([(600, 150), (600, 203), (450, 197), (450, 203), (450, 250)]) == [(4, "forward")]
    assert counted([(450, 150), (450, 203), (450, 197), (600, 197), (600, 203), (600, 250)]) == []


def test_an_object_that_appears_within_the_hysteresis_has_no_side_yet() -> None:
    assert counted([(300, 197), (300, 220)]) == []
    assert counted([(300, 203), (300, 220), (300, 180)]) == [(2, "backward")]


def test_objects_without_a_track_do_not_count() -> None:
    points = [(300, 150), (300, 250)]
    assert run(settings(lines=[LINE]), way(points, track=-1)) == []
    assert run(settings(lines=[LINE]), way(points), tracked=False) == []


def test_counts_by_direction_run_on_over_tracks_and_classes() -> None:
    seen = [
        (0.0, {1: (200, 150), 2: (300, 150), 3: (400, 250)}),
        (0.1, {1: (200, 250), 2: (300, 250), 3: (400, 150)}),
    ]
    events = run(settings(lines=[LINE]), seen, classes={1: 1, 2: 2, 3: 1})
    assert [(e.direction, e.label, e.values["count"]) for e in events] == [
        ("forward", "car", 1),
        ("forward", "bus", 2),
        ("backward", "car", 1),
    ]


def test_classes_are_filtered_for_all_and_for_a_line() -> None:
    seen = [(0.0, {1: (200, 150), 2: (300, 150), 3: (400, 150)}), (0.1, {1: (200, 250), 2: (300, 250), 3: (400, 250)})]
    lines = [LINE, {**LINE, "name": "buses", "classes": ["bus"]}, {**LINE, "name": "second", "classes": [0, 1]}]
    events = run(settings(lines=lines, classes=["car", 2]), seen, classes={1: 1, 2: 2, 3: 0})
    assert [(e.name, e.label) for e in events] == [
        ("gate", "car"),
        ("gate", "bus"),
        ("buses", "bus"),
        ("second", "car"),
    ]


def test_an_object_whose_class_wavers_crosses_all_the_same() -> None:
    analytics = Analytics({"cam": settings(lines=[{**LINE, "classes": ["car"]}])})
    events = []
    for i, (y, class_id) in enumerate([(150, 1), (190, 0), (210, 0), (250, 1)]):
        batch = batch_of([frame("cam", i, i / 10)], [{7: (300, y)}], classes={7: class_id})
        events += analytics(batch).events
    assert [(e.frame, e.direction) for e in events] == [(3, "forward")]


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(-40, 40)), min_size=1, max_size=30))
def test_jitter_within_the_hysteresis_never_counts(steps) -> None:
    # Up to and at 5 px: an object has to be further away.
    assert counted([(300, 150), *((x, 200 + eighth / 8) for x, eighth in steps), (300, 150)]) == []


@given(st.integers(0, 12), st.integers(1, 5), st.integers(1, 9))
def test_a_way_that_crosses_n_times_counts_n(times, frames_a_side, batch) -> None:
    ys = [y for turn in range(times + 1) for y in [150 if turn % 2 == 0 else 250] * frames_a_side]
    found = counted([(300, y) for y in ys], batch=batch)
    assert found == [(n * frames_a_side, "forward" if n % 2 else "backward") for n in range(1, times + 1)]


@given(st.lists(PLACES, min_size=1, max_size=25), PLACES, PLACES, st.integers(0, 80), st.integers(1, 9))
@effort(max_examples=300)
def test_any_way_counts_as_exact_arithmetic_does(points, a, b, hysteresis, batch) -> None:
    assume(a != b)
    # Right at the hysteresis of a slanting line the last bit decides: rounding is all that may differ there.
    (ax, ay), (bx, by) = a, b
    square = Fraction(bx - ax) ** 2 + Fraction(by - ay) ** 2
    for point in points:
        c = cross(a, b, point)
        assume(hysteresis == 0 or abs(c * c - hysteresis**2 * square) > Fraction(1, 10**6))
    line = {"name": "gate", "points": [a, b], "hysteresis": hysteresis}
    assert counted(points, line, batch=batch) == crossings(a, b, hysteresis, points)


@given(st.lists(st.sampled_from(["above", "below"]), min_size=2, max_size=10), st.data())
def test_dropped_frames_change_nothing_as_long_as_both_sides_are_seen(sides, data) -> None:
    seen = [(i / 10, {7: (300.0, 150.0 if side == "above" else 250.0)}) for i, side in enumerate(sides) for _ in "abc"]
    seen = [(i / 30, places) for i, (_, places) in enumerate(seen)]
    kept = [
        data.draw(st.sets(st.sampled_from(range(3 * i, 3 * i + 3)), min_size=1), label=f"side {i}")
        for i in range(len(sides))
    ]
    config = settings(lines=[LINE])
    thinned = [seen[i] for i in sorted(set().union(*kept))]
    assert [e.direction for e in run(config, seen)] == [e.direction for e in run(config, thinned)]


@given(st.lists(PLACES, min_size=1, max_size=20), PLACES, PLACES)
def test_fractions_are_pixels_by_another_name(points, a, b) -> None:
    assume(a != b)
    size = (512, 512)  # so that the fractions are exact
    pixels = settings(lines=[{"name": "gate", "points": [a, b], "hysteresis": 8}])
    fractions = settings(
        unit="fraction",
        lines=[{"name": "gate", "points": [[v / 512 for v in p] for p in (a, b)], "hysteresis": 8 / 512}],
    )
    assert told(run(pixels, way(points), size=size)) == told(run(fractions, way(points), size=size))


def test_the_anchor_may_be_the_centre() -> None:
    # Boxes are 20 px high: their centres are 10 px above the lower edge.
    points = [(300, 204), (300, 214), (300, 216)]
    assert counted(points) == []
    config = settings(lines=[LINE], anchor="center")
    assert [e.frame for e in run(config, way(points))] == [2]


def test_lines_without_hysteresis_are_crossed_by_a_touch_of_the_other_side_only() -> None:
    line = {**LINE, "hysteresis": 0}
    assert counted([(300, 190), (300, 200), (300, 190)], line) == []
    assert counted([(300, 190), (300, 200), (300, 200.125)], line) == [(2, "forward")]


def test_the_default_hysteresis_is_a_hundredth_of_the_smaller_side() -> None:
    line = {"name": "gate", "points": [[100, 200], [500, 200]]}
    assert counted([(300, 150), (300, 204.75)], line) == []
    assert counted([(300, 150), (300, 204.875)], line) == [(1, "forward")]
