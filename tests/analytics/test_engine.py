"""All sources together: nothing depends on how frames are batched, memory is bounded, records fit their schema."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import jsonschema
import pytest
from analytics_world import batch_of, frame, kinds, run, settings, told, way
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from pipeline.analytics.engine import Analytics
from pipeline.analytics.events import EventKind
from pipeline.config.sinks import JsonlSink
from pipeline.frames import Predictions, ResultBatch
from pipeline.sinks import build_sink
from pipeline.sinks._events import encoded
from pipeline.stages import SinkSource, StreamInfo

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "event.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
GROUND = {"image": [[0, 0], [640, 0], [640, 480], [0, 480]], "metres": [[0, 0], [64, 0], [64, 48], [0, 48]]}
EVERYTHING = {
    "lines": [
        {"name": "gate", "points": [[0, 200], [640, 240]], "hysteresis": 3, "directions": ["in", "out"]},
        {"name": "cars", "points": [[320, 0], [320, 480]], "hysteresis": 3, "classes": ["car"]},
    ],
    "zones": [
        {
            "name": "hall",
            "polygon": [[100, 100], [500, 120], [400, 400], [80, 380]],
            "hysteresis": 4,
            "max_occupancy": 1,
            "loiter_s": 1,
            "stopped_s": 0.5,
            "direction": [[100, 200], [400, 200]],
            "wrong_way": 20,
            "limit_kmh": 30,
        },
        {"name": "well", "circle": {"center": [300, 240], "radius": 90}, "classes": ["bus", "person"]},
    ],
    "ground": GROUND,
    "interval_s": 0.7,
    "forget_s": 0.5,
    "still_radius": 8,
}


@st.composite
def worlds(draw):
    """(source, time, places) of frames in the order in which they come, of up to three sources."""
    sources = draw(st.integers(1, 3))
    frames = []
    for source in range(sources):
        now = 0.0
        tracks: dict[int, tuple[float, float]] = {}
        for _ in range(draw(st.integers(1, 25))):
            now += draw(st.sampled_from([0.0625, 0.0625, 0.125, 0.25, 0.75]))
            for track in list(tracks):
                step = st.integers(-60, 60)
                x, y = tracks[track]
                tracks[track] = (min(max(x + draw(step), 0), 640.0), min(max(y + draw(step), 0), 480.0))
            if draw(st.integers(0, 3)) == 0:
                tracks[draw(st.integers(0, 4))] = (draw(st.integers(0, 640)), draw(st.integers(0, 480)))
            hidden = draw(st.sets(st.sampled_from(sorted(tracks)), max_size=2)) if tracks else set()
            frames.append((f"s{source}", now, {k: v for k, v in tracks.items() if k not in hidden}))
    order = draw(st.randoms(use_true_random=False))
    queues = {s: [f for f in frames if f[0] == s] for s in {f[0] for f in frames}}
    mixed = []
    while queues:
        source = order.choice(sorted(queues))
        mixed.append(queues[source].pop(0))
        if not queues[source]:
            del queues[source]
    return mixed


def follow(config, world, sizes):
    """Events by source, and scenes by frame, with batches of these sizes over and over."""
    analytics = Analytics({f"s{i}": config for i in range(3)})
    numbers = dict.fromkeys(("s0", "s1", "s2"), 0)
    frames = []
    for source, now, _ in world:
        frames.append(frame(source, numbers[source], now))
        numbers[source] += 1
    events, scenes, start, turn = [], [], 0, 0
    while start < len(world):
        end = start + sizes[turn % len(sizes)]
        turn += 1
        done = analytics(
            batch_of(frames[start:end], [places for *_, places in world[start:end]], classes={0: 0, 1: 1, 2: 2})
        )
        events += [(dataclasses.replace(e, position=None), done.frames[e.position].index) for e in done.events]
        scenes += [(s.crossed, s.occupancy, s.crowded) for s in done.scenes]
        start = end
    for source in sorted({s for s, *_ in world}):
        events += [(event, None) for event in analytics.finish(source)]
    assert len(analytics._follow) == 0
    by_source = {s: [e for e in events if e[0].source_id == s] for s in numbers}
    return by_source, scenes


@given(worlds(), st.lists(st.integers(1, 12), min_size=1, max_size=4))
@effort(max_examples=150, deadline=None)
def test_which_frames_share_a_batch_does_not_matter(world, sizes) -> None:
    config = settings(**EVERYTHING)
    assert follow(config, world, [1]) == follow(config, world, sizes)


@given(worlds())
@effort(max_examples=60, deadline=None)
def test_sources_do_not_see_each_other(world) -> None:
    config = settings(**EVERYTHING)
    together, _ = follow(config, world, [5])
    for source in together:
        alone, _ = follow(config, [f for f in world if f[0] == source], [5])
        assert together[source] == alone[source]


@given(worlds())
@effort(max_examples=40, deadline=None)
def test_every_event_fits_its_schema(world) -> None:
    events, _ = follow(settings(**EVERYTHING), world, [4])
    for own in events.values():
        for event, _ in own:
            VALIDATOR.validate(json.loads(encoded(event)))


def test_every_kind_of_event_fits_its_schema_and_is_reached() -> None:
    # To the right, back, a rest, and back again at full speed; a second one for the crowd.
    xs = (
        [110 + 10 * i for i in range(20)]
        + [300 - 10 * i for i in range(10)]
        + [200] * 12
        + [200 - 40 * i for i in range(4)]
    )
    seen = [
        (i / 10, {7: (x, 180 + 4 * min(i, 20)), **({8: (250, 200)} if 5 < i < 15 else {})}) for i, x in enumerate(xs)
    ]
    events = run(settings(**EVERYTHING), seen)
    for event in events:
        VALIDATOR.validate(json.loads(encoded(event)))
    assert {event.kind for event in events} == set(EventKind)
    assert [kind.value for kind in EventKind] == SCHEMA["properties"]["event"]["enum"]


def test_the_schema_refuses_what_does_not_belong() -> None:
    (event,) = run(
        settings(zones=[{"name": "a", "circle": {"center": [9, 9], "radius": 5}}]), way([(9, 9)]), finish=False
    )
    record = json.loads(encoded(event))
    VALIDATOR.validate(record)
    for change in (
        {"direction": "x"},
        {"values": {"dwell_s": 1}},
        {"event": "zone_left"},
        {"track_id": -1},
        {"more": 1},
    ):
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate(record | change)


# ------------------------------------------------------------------------------------------------------------ life


def test_sources_without_analytics_and_results_without_detections_pass_by() -> None:
    config = settings(zones=[{"name": "a", "circle": {"center": [9, 9], "radius": 5}}])
    batch = batch_of([frame("other", 0, 0.0)], [{1: (9, 9)}])
    assert Analytics({})(batch) is batch
    assert Analytics({"cam": config})(batch) is batch
    mixed = batch_of([frame("other", 0, 0.0), frame("cam", 0, 0.0)], [{1: (9, 9)}, {1: (9, 9)}])
    done = Analytics({"cam": config})(mixed)
    assert [(e.source_id, e.position) for e in done.events] == [("cam", 1)]
    assert done.scenes[0] is None
    first, second = done
    assert (first.events, first.scene) == ((), None)
    assert second.events == done.events
    assert second.scene.occupancy == (1,)
    nothing = ResultBatch([frame("cam", 0, 0.0)], Predictions(), "m@0")
    assert Analytics({"cam": config})(nothing) is nothing
    assert Analytics({"cam": config}).finish("cam") == ()


def test_memory_is_bounded_by_what_is_seen_within_forget_s() -> None:
    analytics = Analytics({"cam": settings(**EVERYTHING)})
    for i in range(400):
        places = {10 * i + k: (60.0 * k, 200.0) for k in range(10)}
        analytics(batch_of([frame("cam", i, i / 10)], [places]))
        assert len(analytics._follow) <= 60  # 10 new ones a frame, seen within the last 0.5 s
    assert analytics._follow._tracks.seen.rows <= 256
    assert len(analytics._follow._tracks._stamps) == len(analytics._follow)


def test_memory_is_bounded_where_the_clock_stands_still() -> None:
    config = settings(zones=[{"name": "all", "polygon": [[0, 0], [640, 0], [640, 480], [0, 480]]}], max_tracks=20)
    analytics = Analytics({"cam": config})
    left = []
    for i in range(100):
        left += kinds(
            analytics(batch_of([frame("cam", i, 1.0)], [{3 * i + k: (9.0, 9.0) for k in range(3)}])).events, "zone_left"
        )
        assert len(analytics._follow) <= 20
    assert [e.track_id for e in left] == list(range(280))
    assert {e.values["reason"] for e in left} == {"track_ended"}


def test_a_source_that_comes_again_starts_anew() -> None:
    config = settings(lines=[{"name": "gate", "points": [[0, 200], [640, 200]]}])
    analytics = Analytics({"cam": config, "b": config})
    for start in (0.0, 50.0):
        events = []
        for i, y in enumerate((150, 250)):
            events += analytics(
                batch_of([frame("cam", i, start + i), frame("b", i, i)], [{1: (9, y)}, {1: (9, y)}])
            ).events
        assert [e.values["count"] for e in kinds(events, "line_crossed") if e.source_id == "cam"] == [1]
        assert analytics.finish("cam") == ()
    assert set(analytics._sources) == {"b"}


def test_pixels_of_another_size_move_fractions_and_leave_pixels(caplog) -> None:
    line = {"name": "gate", "points": [[0, 0.5], [1, 0.5]]}
    config = {
        "a": settings(unit="fraction", lines=[line]),
        "b": settings(lines=[{"name": "gate", "points": [[0, 240], [640, 240]]}]),
    }
    analytics = Analytics(config)
    events = []
    for i, (size, y) in enumerate([((640, 480), 200), ((640, 480), 210), ((320, 200), 180)]):
        frames = [frame("a", i, i / 10, size), frame("b", i, i / 10, size)]
        events += analytics(batch_of(frames, [{1: (100, y)}, {1: (100, y)}])).events
    assert [(e.source_id, e.frame, e.direction) for e in events] == [("a", 2, "forward")]
    assert "b: analytics.lines[0].points ('gate') lies outside the picture, which is 320x200" in caplog.text


def test_tracks_of_several_sources_may_have_the_same_number() -> None:
    config = settings(zones=[{"name": "a", "circle": {"center": [100, 100], "radius": 50}}])
    analytics = Analytics({"a": config, "b": config})
    events = analytics(
        batch_of(
            [frame("a", 0, 0.0), frame("b", 0, 9.0), frame("a", 1, 0.5)],
            [{1: (100, 100)}, {1: (100, 100)}, {1: (300, 9)}],
        )
    ).events
    assert [(e.source_id, e.kind.value, e.position) for e in events] == [
        ("a", "zone_entered", 0),
        ("b", "zone_entered", 1),
        ("a", "zone_left", 2),
    ]


# --------------------------------------------------------------------------------------------------------- records


def test_events_stand_behind_their_frame_in_the_jsonl_file_of_their_source(tmp_path) -> None:
    config = settings(zones=[{"name": "a", "circle": {"center": [100, 100], "radius": 50}}])
    analytics = Analytics({"a": config, "b": config})
    sinks = [
        build_sink(JsonlSink(path=tmp_path / "all.jsonl"), several_sources=True),
        build_sink(JsonlSink(path=tmp_path / "{source}.jsonl", empty_frames=False), several_sources=True),
    ]
    batch = analytics(batch_of([frame("a", 0, 0.0), frame("b", 0, 0.0)], [{}, {1: (100, 100)}]))
    late = ResultBatch((), Predictions(), "m@0", analytics.finish("b"))
    for sink in sinks:
        sink.open()
        for source in ("a", "b"):
            sink.source_started(SinkSource(source, StreamInfo("h264", 640, 480, None, None, None)))
        sink.write(batch)
        sink.write(late)
        sink.source_finished("b")
        sink.close()
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [(r["schema"], r["source"], r.get("event")) for r in lines] == [
        ("vramline.frame/1", "a", None),
        ("vramline.frame/1", "b", None),
        ("vramline.event/1", "b", "zone_entered"),
        ("vramline.event/1", "b", "zone_left"),
    ]
    assert lines[2] == {
        "schema": "vramline.event/1",
        "type": "event",
        "source": "b",
        "frame": 0,
        "pts_s": 0.0,
        "time": "2023-11-14T22:13:20.000000Z",
        "event": "zone_entered",
        "name": "a",
        "label": "car",
        "class_id": 1,
        "track_id": 1,
        "values": {},
    }
    assert (tmp_path / "a.jsonl").read_text() == ""
    assert (tmp_path / "b.jsonl").read_text() == "\n".join(
        json.dumps(r, separators=(",", ":")) for r in lines[1:]
    ) + "\n"


# ------------------------------------------------------------------------------------------------------- intervals


def test_counts_by_interval() -> None:
    config = settings(
        lines=[{"name": "gate", "points": [[0, 200], [640, 200]], "directions": ["in", "out"]}],
        zones=[{"name": "hall", "polygon": [[0, 200], [640, 200], [640, 480], [0, 480]], "hysteresis": 0}],
        interval_s=1,
    )
    below = [0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0]  # every 0.25 s
    seen = [(5 + i / 4, {7: (300, 300 if inside else 100)}) for i, inside in enumerate(below)]
    events = run(config, seen)
    counts = [(e.frame, e.name, dict(e.values)) for e in kinds(events, "counts")]
    span = {"duration_s": 1.0}
    assert counts == [
        (4, "gate", {"start_s": 5.0, **span, "counts": {"in": {"car": 1}, "out": {}}}),
        (4, "hall", {"start_s": 5.0, **span, "occupancy_max": 1, "occupancy_mean": 0.5, "entered": 1, "left": 0}),
        (8, "gate", {"start_s": 6.0, **span, "counts": {"in": {}, "out": {"car": 1}}}),
        (8, "hall", {"start_s": 6.0, **span, "occupancy_max": 1, "occupancy_mean": 0.0, "entered": 0, "left": 1}),
        (12, "gate", {"start_s": 7.0, **span, "counts": {"in": {"car": 1}, "out": {}}}),
        (12, "hall", {"start_s": 7.0, **span, "occupancy_max": 1, "occupancy_mean": 1.0, "entered": 1, "left": 0}),
        (12, "gate", {"start_s": 8.0, "duration_s": 0.0, "counts": {"in": {}, "out": {"car": 1}}}),
        (
            12,
            "hall",
            {"start_s": 8.0, "duration_s": 0.0, "occupancy_max": 1, "occupancy_mean": 0.0, "entered": 0, "left": 1},
        ),
    ]
    total = {"in": 0, "out": 0}
    for _, name, values in counts:
        if name == "gate":
            for direction, by_label in values["counts"].items():
                total[direction] += sum(by_label.values())
    assert total == {"in": 2, "out": 2}


def test_intervals_in_which_nothing_was_seen_are_left_out() -> None:
    config = settings(zones=[{"name": "all", "circle": {"center": [300, 300], "radius": 100}}], interval_s=1)
    seen = [(t, {1: (300, 300)}) for t in (0.0, 0.5, 7.25, 7.5)]
    events = kinds(run(config, seen, tracked=False), "counts")
    assert [(e.values["start_s"], e.values["duration_s"]) for e in events] == [(0.0, 1.0), (7.0, 0.5)]
    assert "entered" not in events[0].values


# ----------------------------------------------------------------------------------------------------------- speed


def camera(metres):
    """Where a camera 6 m above a level road, tilted down by 20 degrees, shows a point of it."""
    x, y = metres
    tilt, focal = math.radians(20), 500
    depth = y * math.cos(tilt) + 6 * math.sin(tilt)
    down = 6 * math.cos(tilt) - y * math.sin(tilt)
    return 320 + focal * x / depth, 240 + focal * down / depth


CORNERS = [(-4, 10), (4, 10), (4, 60), (-4, 60)]
ROAD = {"image": [camera(p) for p in CORNERS], "metres": CORNERS}


@pytest.mark.parametrize("kmh", [7.2, 50, 129.6])
@pytest.mark.parametrize("keep", [1, 3])
def test_speed_is_exact_for_exact_projections(kmh, keep) -> None:
    line = {"name": "gate", "points": [[0, camera((0, 25))[1]], [640, camera((0, 25))[1]]], "hysteresis": 1}
    config = settings(lines=[line], ground=ROAD)
    duration = 50 / (kmh / 3.6)
    fps = 300 / duration
    seen = [(i / fps, {7: camera((1.5, 60 - i / fps * kmh / 3.6))}) for i in range(0, 300, keep)]
    (event,) = run(config, seen)
    # Boxes are float32: 1/16384 pixels, of about 10 m over a second; the record has two decimals.
    assert event.values["speed_kmh"] == pytest.approx(kmh, rel=2e-3, abs=0.011)
    assert event.direction == "forward"


def test_no_speed_is_told_before_it_is_known() -> None:
    config = settings(lines=[{"name": "gate", "points": [[0, 200], [640, 200]]}], ground=GROUND)
    assert run(config, way([(300, 100), (300, 300)]))[0].values == {"count": 1}


def test_speeding_is_told_once_a_visit_with_the_limit() -> None:
    zone = {"name": "road", "polygon": [[0, 0], [640, 0], [640, 480], [0, 480]], "limit_kmh": 50}
    config = settings(zones=[zone], ground=GROUND)  # 10 px are a metre
    slow = [(10 + 13 * i, 200) for i in range(20)]  # 46.8 km/h
    assert kinds(run(config, way(slow)), "speeding") == []
    fast = [(10 + 15 * i, 200) for i in range(20)]  # 54 km/h
    (event,) = kinds(run(config, way(fast)), "speeding")
    assert (event.frame, event.values) == (5, {"speed_kmh": 54.0, "limit_kmh": 50})


def test_points_above_the_horizon_have_no_speed() -> None:
    config = settings(lines=[{"name": "gate", "points": [[320, 0], [320, 480]]}], ground=ROAD)
    events = run(config, way([(100 + 30 * i, 10) for i in range(15)]))
    assert [e.values for e in events] == [{"count": 1}]


def test_events_are_values() -> None:
    config = settings(zones=[{"name": "a", "circle": {"center": [9, 9], "radius": 5}}])
    assert told(run(config, way([(9, 9)]))) == told(run(config, way([(9, 9)])))
