"""What a configuration may say of analytics, and whether it fits the picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from analytics_world import settings
from pydantic import ValidationError

from pipeline.analytics.addition import check_addition
from pipeline.analytics.layout import check_layout, layout_of
from pipeline.config._rules import _ALARMS_OF_TRACKS
from pipeline.config.analytics import Zone
from pipeline.config.load import parse_config
from pipeline.config.sources import Source
from pipeline.errors import ConfigError, SourceError, StreamStateError

SQUARE = [[100, 100], [300, 100], [300, 300], [100, 300]]
STAGES = "pipeline: {model: m/x, postprocess: {family: ssd, labels: [car, bus]}}"
TRACKED = STAGES.replace("pipeline: {", "pipeline: {tracker: iou, ")
LINE = "{name: a, points: [[0, 5], [9, 5]]}"


def issues(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, file="a.yaml")
    return [str(issue) for issue in caught.value.issues]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"lines": [{"name": "a", "points": [[1, 1], [1, 1]]}]}, "the two points of a line differ"),
        ({"lines": [{"name": "a", "points": [[1, 1], [2, 1]], "directions": ["x", "x"]}]}, "different names"),
        ({"zones": [{"name": "a"}]}, "give exactly one of polygon, circle; found none"),
        ({"zones": [{"name": "a", "polygon": [[0, 0], [9, 9], [9, 0], [0, 7]]}]}, "do not cross or touch"),
        ({"zones": [{"name": "a", "polygon": [[0, 0], [9, 0], [9, 9], [4, 0], [0, 9]]}]}, "do not cross or touch"),
        ({"zones": [{"name": "a", "polygon": [[0, 0], [9, 0], [4, 0], [5, 5]]}]}, "turns back on itself"),
        ({"zones": [{"name": "a", "polygon": [[0, 0], [9, 0], [9, 0], [5, 5]]}]}, "it closes by itself"),
        ({"zones": [{"name": "a", "polygon": [[0, 0], [5, 5], [9, 9]]}]}, "has no area"),
        ({"zones": [{"name": "a", "polygon": SQUARE, "direction": [[1, 1], [1, 1]]}]}, "points of direction differ"),
        ({"zones": [{"name": "a", "polygon": SQUARE, "limit_kmh": 50}]}, "limit_kmh needs ground"),
        (
            {"lines": [{"name": "a", "points": [[0, 0], [9, 0]]}], "zones": [{"name": "a", "polygon": SQUARE}]},
            "found 'a' twice",
        ),
        ({"lines": [{"name": "a", "points": [[-1, 0], [9, 0]]}]}, r"lines\[0\]: coordinates are not negative"),
        ({"unit": "fraction", "zones": [{"name": "a", "polygon": SQUARE}]}, r"zones\[0\]: fractions lie in 0..1"),
        (
            {"unit": "fraction", "zones": [{"name": "a", "circle": {"center": [0.5, 0.5], "radius": 20}}]},
            r"zones\[0\]: fractions lie in 0..1",
        ),
        (
            {"ground": {"image": [[0, 0], [1, 1], [2, 2], [5, 0]], "metres": [[0, 0], [1, 0], [1, 1], [0, 1]]}},
            "no three of the points of image lie in a line",
        ),
        (
            {"ground": {"image": [[0, 0], [9, 0], [9, 9], [0, 9]], "metres": [[0, 0], [1, 0], [1, 0], [0, 1]]}},
            "no three of the points of metres lie in a line",
        ),
        ({"heatmap": {"path": "heat.npz"}}, "ends in .png"),
    ],
)
def test_what_cannot_be_meant_is_refused(keys, message) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**keys)


def test_a_polygon_may_go_either_way_round_and_be_concave() -> None:
    for corners in (SQUARE, SQUARE[::-1], [[0, 0], [9, 0], [9, 9], [5, 2]]):
        settings(zones=[{"name": "a", "polygon": corners}])


def test_what_needs_identity_needs_a_tracker() -> None:
    zones = "[{name: z, circle: {center: [5, 5], radius: 3}, loiter_s: 2, stopped_s: 3, direction: [[1, 1], [2, 2]]}]"
    text = f"sources:\n- path: a\n  analytics:\n    lines: [{LINE}]\n    zones: {zones}\n{STAGES}"
    why = "needs to know which object is which, but there is no pipeline.tracker (add tracker: bytetrack to pipeline)"
    assert issues(text) == [
        f"a.yaml:4:5: sources[0].analytics.lines: {why}",
        f"a.yaml:5:60: sources[0].analytics.zones[0].loiter_s: {why}",
        f"a.yaml:5:73: sources[0].analytics.zones[0].stopped_s: {why}",
        f"a.yaml:5:87: sources[0].analytics.zones[0].direction: {why}",
    ]
    assert issues(text.replace(STAGES, STAGES.replace("pipeline: {", "pipeline: {tracker: null, ")))[0].endswith(why)
    parse_config(text.replace(STAGES, TRACKED))


def test_occupancy_intervals_and_heat_maps_need_no_tracker() -> None:
    zones = "[{name: z, circle: {center: [5, 5], radius: 3}, max_occupancy: 2}]"
    parse_config(
        "sources: [{path: a, analytics: {interval_s: 60, heatmap: {path: h.png}, lines: [], "
        f"ground: null, zones: {zones}}}}}]\n{STAGES}"
    )


def test_the_alarms_that_need_a_tracker_are_the_same_everywhere() -> None:
    everything = dict(zip(_ALARMS_OF_TRACKS, (1, 1, [[0, 0], [1, 1]], 50), strict=True))
    zone = Zone.model_validate({"name": "z", "polygon": SQUARE, **everything})
    assert zone.alarms_of_tracks == list(_ALARMS_OF_TRACKS)


def test_analytics_needs_detections() -> None:
    text = f"sources: [{{path: a, analytics: {{lines: [{LINE}]}}}}]\n{STAGES.replace('ssd', 'classify')}"
    assert issues(text) == [
        "a.yaml:1:21: sources[0].analytics: postprocess family 'classify' gives no detections that could be counted"
        " (leave analytics out)"
    ]


def test_classes_are_checked_against_the_labels() -> None:
    lines = "[{name: a, points: [[0, 5], [9, 5]], classes: [car, bsu]}]"
    text = f"sources: [{{path: a, analytics: {{classes: [bus, lorry], lines: {lines}}}}}]\n{TRACKED}"
    assert [issue.partition(": ")[2] for issue in issues(text)] == [
        "sources[0].analytics.classes[1]: found 'lorry', which is not among the 2 labels",
        "sources[0].analytics.lines[0].classes[1]: found 'bsu', which is not among the 2 labels (did you mean 'bus'?)",
    ]


def test_two_heat_maps_have_two_files() -> None:
    text = f"sources: [{{path: a, analytics: {{heatmap: {{path: h.png}}}}}}, {{path: b, analytics: {{heatmap: {{path: ./h.png}}}}}}]\n{STAGES}"
    assert "every output needs its own file" in issues(text)[0]


def test_the_example_of_the_documentation_is_right() -> None:
    text = (Path(__file__).parents[2] / "docs" / "analytics.md").read_text()
    example = text.partition("```yaml\n")[2].partition("```")[0]
    (source,) = parse_config(example).sources
    assert check_layout(source.analytics, (1920, 1080), "motorway") == []


# ---------------------------------------------------------------------------------------------- does it fit the picture


@pytest.mark.parametrize(
    "shape",
    [
        {"lines": [{"name": "a", "points": [[100, 600], [500, 700]]}]},
        {"lines": [{"name": "a", "points": [[500, 600], [900, 400]]}]},  # around the corner
        {"zones": [{"name": "a", "polygon": [[700, 0], [900, 0], [900, 100]]}]},
        {"zones": [{"name": "a", "circle": {"center": [660, 500], "radius": 25}}]},
    ],
)
def test_what_lies_outside_is_the_sources_error(shape) -> None:
    (kind,) = shape
    key = {"lines": "points", "zones": "polygon" if "polygon" in shape[kind][0] else "circle"}[kind]
    with pytest.raises(SourceError) as caught:
        check_layout(settings(**shape), (640, 480), "cam")
    assert str(caught.value).startswith(
        f"cam: analytics.{kind}[0].{key} ('a') lies outside the picture, which is 640x480"
    )
    assert caught.value.source_id == "cam"


@pytest.mark.parametrize(
    "shape",
    [
        {"lines": [{"name": "a", "points": [[500, 600], [700, 300]]}]},  # neither end is in it
        {"zones": [{"name": "a", "polygon": [[600, 0], [900, 0], [900, 100]]}]},
        {"zones": [{"name": "a", "polygon": [[0, 0], [9000, 0], [0, 9000]]}]},  # all of the picture is in it
        {"zones": [{"name": "a", "circle": {"center": [650, 400], "radius": 25}}]},
    ],
)
def test_what_lies_partly_outside_is_worth_a_warning(shape) -> None:
    (warning,) = check_layout(settings(**shape), (640, 480), "cam")
    assert "a part of analytics." in warning


def test_what_ends_at_the_edge_is_inside() -> None:
    shapes = settings(
        lines=[{"name": "a", "points": [[0, 480], [640, 0]]}],
        zones=[
            {"name": "b", "polygon": [[0, 0], [640, 0], [640, 480], [0, 480]]},
            {"name": "c", "circle": {"center": [320, 240], "radius": 240}},
        ],
    )
    assert check_layout(shapes, (640, 480), "cam") == []
    assert check_layout(None, (640, 480), "cam") == []


def test_lengths_are_fractions_of_the_smaller_side() -> None:
    zone = {"name": "c", "circle": {"center": [0.5, 0.5], "radius": 0.25}, "hysteresis": 0.1}
    (shape,) = layout_of(settings(unit="fraction", zones=[zone]), (640, 480)).zones
    assert shape.circle == (320, 240, 120)
    assert shape.hysteresis == 48


# ------------------------------------------------------------------------------------------------- sources added later


def test_a_source_that_is_added_needs_what_the_run_has() -> None:
    plain, tracked = (parse_config(f"sources: [a]\n{stages}") for stages in (STAGES, TRACKED))
    lines = Source.model_validate({"path": "b", "analytics": {"lines": [{"name": "a", "points": [[0, 5], [9, 5]]}]}})
    heat = Source.model_validate({"path": "b", "analytics": {"heatmap": {"path": "h.png"}}})
    check_addition(Source(path="b"), plain)
    check_addition(lines, tracked)
    with pytest.raises(StreamStateError, match=r"analytics\.lines needs to know"):
        check_addition(lines, plain)
    with pytest.raises(StreamStateError, match="began with one"):
        check_addition(heat, tracked)
    check_addition(heat, tracked.model_copy(update={"sources": [heat]}))
