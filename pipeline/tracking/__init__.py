"""Tracking: which detections of successive frames are the same object. `docs/tracking.md` says how it behaves."""

from __future__ import annotations

from typing import overload

from pipeline.config.plugins import PluginPost
from pipeline.config.postprocess import DetectionPost, Postprocess
from pipeline.config.tracking import ByteTrackTracker, IouTracker
from pipeline.errors import ConfigError, ConfigIssue
from pipeline.tracking.interface import Tracker
from pipeline.tracking.limits import ScoreLimits
from pipeline.tracking.tracker import BatchTracker, Rules

__all__ = ["Tracker", "build_tracker", "for_tracking"]


@overload
def build_tracker(config: ByteTrackTracker | IouTracker, postprocess: Postprocess) -> BatchTracker: ...
@overload
def build_tracker(config: ByteTrackTracker | IouTracker | None, postprocess: Postprocess) -> BatchTracker | None: ...
def build_tracker(config: ByteTrackTracker | IouTracker | None, postprocess: Postprocess) -> BatchTracker | None:
    """The tracker that a configuration's `pipeline.tracker` asks for; None for None.

    Args:
        config: The section of one kind.
        postprocess: The user's own section: its thresholds divide high scores from low ones.

    Raises:
        ConfigError: there are no detections to track, labels cannot be read, or a class that is named does not exist.
    """
    if config is None:
        return None
    thresholds = _thresholds(postprocess)
    if isinstance(config, IouTracker):
        limits = ScoreLimits(thresholds, new_track_score=0.0)
        min_iou_low, min_iou_tentative = None, config.min_iou
    else:
        limits = ScoreLimits(thresholds, new_track_score=config.new_track_score)
        min_iou_low, min_iou_tentative = config.min_iou_low, config.min_iou_tentative
    rules = Rules(
        predicts_motion=isinstance(config, ByteTrackTracker),
        min_iou=config.min_iou,
        min_iou_low=min_iou_low,
        min_iou_tentative=min_iou_tentative,
        class_agnostic=config.class_agnostic,
        min_hits=config.min_hits,
        max_age_s=config.max_age_s,
        only_tracked=config.output == "tracked",
        min_similarity=None if config.appearance is None else config.min_similarity,
    )
    return BatchTracker(rules, limits)


def _thresholds(postprocess: Postprocess) -> DetectionPost:
    if isinstance(postprocess, PluginPost):
        return DetectionPost(score_threshold=postprocess.score_threshold)
    if isinstance(postprocess, DetectionPost):
        return postprocess
    issue = f"postprocess family {postprocess.family!r} gives no detections that could be tracked"
    raise ConfigError([ConfigIssue(issue, "pipeline.tracker")])


def for_tracking(postprocess: Postprocess, tracker: ByteTrackTracker | IouTracker | None) -> Postprocess:
    """The postprocessing section with its thresholds lowered to what the tracker wants to see.

    What is above the user's thresholds comes out as without a tracker: in non-maximum suppression no weaker box removes a
    stronger one, and of too many detections the strongest are kept. (Where thresholds of classes differ, a box above a low one may
    give way to a better box below a high one: in class-agnostic suppression, or as one too many.)
    """
    if not isinstance(tracker, ByteTrackTracker) or not isinstance(postprocess, DetectionPost):
        return postprocess
    low = tracker.low_score
    lowered = {
        "score_threshold": min(postprocess.score_threshold, low),
        "thresholds": {label: min(threshold, low) for label, threshold in postprocess.thresholds.items()},
    }
    return postprocess.model_copy(update=lowered)
