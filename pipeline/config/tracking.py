"""`pipeline.tracker`: which detections of successive frames are the same object."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from pipeline.config.base import Bool, Fraction01, Int, Number, Section, members, tag


class TrackerSection(Section):
    """What all trackers share."""

    class_agnostic: Bool = Field(
        False,
        title="Class-agnostic",
        description="Whether a track may go on with a detection of another class; for models that waver between classes.",
    )
    min_hits: Annotated[Int, Field(ge=1, le=100)] = Field(
        2,
        title="Hits to confirm",
        description="A track gets its id when it has been found in so many frames in a row; until then it is tentative, and given up when it is missed once.",
    )
    max_age_s: Annotated[Number, Field(ge=0, le=3600)] = Field(
        2.0,
        title="Longest gap",
        description="Seconds of the video's time for which a track is kept without a detection, also across a reconnection of its stream; in any case up to the next frame, however slow the stream is. What comes back within them keeps its id.",
    )
    output: Literal["all", "tracked"] = Field(
        "all",
        title="Output",
        description="all: every detection that reaches the score threshold, those without a track with no id, and those of tracks below it; tracked: only detections that belong to a track with an id.",
    )
    appearance: str | None = Field(
        None,
        title="Appearance",
        description="Name of an entry of cascade with family embedding that looks at the detections before they are tracked: tracks that were lost are found again by what they look like, wherever they come back within max_age_s. Default: none.",
    )
    min_similarity: Annotated[Number, Field(gt=-1, lt=1)] = Field(
        0.7,
        title="Least similarity",
        description="Cosine of a lost track's appearance and a detection's that it goes on with; only with appearance.",
    )


class ByteTrackTracker(TrackerSection):
    """ByteTrack: motion is predicted, and detections with low scores keep tracks alive."""

    type: Literal["bytetrack"] = Field("bytetrack", title="Type", description="ByteTrack.")
    low_score: Fraction01 = Field(
        0.2,
        title="Low score",
        description="Detections from this score up to the score threshold of their class only continue tracks. The postprocessor lets them through for it.",
    )
    new_track_score: Fraction01 | None = Field(
        None,
        title="Score of new tracks",
        description="Least score to start a track. Default: 0.1 above the score threshold of the class, but no more than half of the way from there to 1.",
    )
    min_iou: Fraction01 = Field(
        0.1, title="Least IoU", description="Overlap of a track's predicted box with a detection that it goes on with."
    )
    min_iou_low: Fraction01 = Field(
        0.5, title="Least IoU, low scores", description="The same for detections below the score threshold."
    )
    min_iou_tentative: Fraction01 = Field(
        0.3, title="Least IoU, tentative tracks", description="The same for tracks that have no id yet."
    )


class IouTracker(TrackerSection):
    """The simple one: a track goes on with the detection that its last box overlaps most."""

    type: Literal["iou"] = Field("iou", title="Type", description="Overlap of boxes alone.")
    min_iou: Fraction01 = Field(
        0.3, title="Least IoU", description="Overlap of a track's last box with a detection that it goes on with."
    )


Tracker = Annotated[
    Annotated[ByteTrackTracker, Tag("bytetrack")] | Annotated[IouTracker, Tag("iou")],
    tag("type"),
]

TRACKERS = members(Tracker)


def expand_tracker(value: Any) -> Any:
    """A plain string as `tracker` -> the mapping that it is short for."""
    return {"type": value} if isinstance(value, str) else value
