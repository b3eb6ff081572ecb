"""`pipeline.tracker` in a file, and what it does to the postprocessor."""

from __future__ import annotations

import pytest

from pipeline.config.load import parse_config
from pipeline.config.postprocess import ClassifyPost, SsdPost
from pipeline.config.tracking import ByteTrackTracker, IouTracker
from pipeline.errors import ConfigError
from pipeline.tracking import build_tracker, for_tracking

TEXT = "sources: [a.mp4]\npipeline:\n  model: m/x\n  postprocess: {{family: {}}}\n  tracker: {}\n"


def told(family: str, tracker: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(TEXT.format(family, tracker), file="a.yaml")
    return str(caught.value)


def read(tracker: str, *overrides: str) -> ByteTrackTracker | IouTracker | None:
    return parse_config(TEXT.format("ssd", tracker), overrides=overrides).pipeline.tracker


def test_a_plain_string_is_short_for_its_type():
    assert read("bytetrack") == read("{type: bytetrack}") == ByteTrackTracker(type="bytetrack")
    assert read("iou") == read("null", "pipeline.tracker=iou") == IouTracker(type="iou")
    assert read("bytetrack", "pipeline.tracker.max_age_s=7") == ByteTrackTracker(type="bytetrack", max_age_s=7)
    assert read("null") is None


@pytest.mark.parametrize(
    ("family", "tracker", "expected"),
    [
        (
            "ssd",
            "bytetrak",
            "a.yaml:5:12: pipeline.tracker.type: found 'bytetrak', allowed is one of 'bytetrack', 'iou'",
        ),
        ("ssd", "{typ: iou}", "a.yaml:5:3: pipeline.tracker.type: missing; needed is one of 'bytetrack', 'iou'"),
        ("ssd", "{type: iou, low_score: 0.1}", "a.yaml:5:24: pipeline.tracker.low_score: unknown key"),
        ("ssd", "{type: bytetrack, min_hits: 0}", "a.yaml:5:40: pipeline.tracker.min_hits: found 0"),
        ("ssd", "3", "a.yaml:5:12: pipeline.tracker: found 3, allowed is one of 'bytetrack', 'iou', or a mapping"),
        ("classify", "iou", "a.yaml:5:12: pipeline.tracker: postprocess family 'classify' gives no detections"),
        ("raw", "{type: iou}", "a.yaml:5:12: pipeline.tracker: postprocess family 'raw' gives no detections"),
    ],
)
def test_mistakes_are_told_with_line_and_field(family, tracker, expected):
    assert expected in told(family, tracker)


def test_no_tracker_is_none():
    assert build_tracker(None, ClassifyPost(family="classify")) is None
    with pytest.raises(ConfigError, match="no detections that could be tracked"):
        build_tracker(IouTracker(type="iou"), ClassifyPost(family="classify"))


def test_an_unknown_class_is_told():
    with pytest.raises(ConfigError, match="persn"):
        build_tracker(
            ByteTrackTracker(type="bytetrack"), SsdPost(family="ssd", labels=["person"], thresholds={"persn": 0.4})
        )


def test_the_postprocessor_lets_low_scores_through_for_bytetrack_alone():
    own = SsdPost(family="ssd", score_threshold=0.5, thresholds={"a": 0.4, "b": 0.1}, labels=["a", "b"], nms_iou=0.6)
    bytetrack = ByteTrackTracker(type="bytetrack", low_score=0.25)
    lowered = for_tracking(own, bytetrack)
    assert isinstance(lowered, SsdPost)
    assert lowered.score_threshold == 0.25
    assert lowered.thresholds == {"a": 0.25, "b": 0.1}
    assert lowered.model_copy(update={"score_threshold": 0.5, "thresholds": own.thresholds}) == own
    assert for_tracking(own, IouTracker(type="iou")) is own
    assert for_tracking(own, None) is own
    classes = ClassifyPost(family="classify")
    assert for_tracking(classes, bytetrack) is classes
