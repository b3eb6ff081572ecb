"""The families of `pipeline.postprocess` that find neither boxes nor classes: pose, segmentation, embeddings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Bool, Fraction01, Int, Labels, Section


class PosePost(Section):
    """Keypoints of persons: MoveNet and models with the same outputs, for one person or for several."""

    family: Literal["pose"] = Field("pose", title="Family", description="Keypoints of persons.")
    output: str | None = Field(
        None,
        title="Output",
        description="[N, P, K, 3]: P persons with K keypoints y, x, score; or [N, P, 3 * K + 5]: the same in one row, then the box y1, x1, y2, x2 and the person's score. Default: the only one.",
    )
    order: Literal["yx", "xy"] = Field(
        "yx", title="Order", description="Of the two coordinates of keypoints and of box corners."
    )
    normalized: Bool = Field(
        True, title="Normalised", description="Coordinates in 0..1 of the model's input, else in its pixels."
    )
    score_threshold: Fraction01 = Field(
        0.25,
        title="Score threshold",
        description="Persons with a lower score are dropped. Where the model gives none, it is the mean of the keypoints' scores.",
    )
    keypoint_threshold: Fraction01 = Field(
        0.3, title="Keypoint threshold", description="Keypoints with a lower score are neither written nor drawn."
    )
    max_persons: Annotated[Int, Field(ge=1, le=1000)] = Field(
        20, title="Most persons", description="The best this many per frame are kept."
    )
    keypoints: Annotated[list[str], Field(min_length=1, max_length=1000)] | None = Field(
        None,
        title="Keypoints",
        description="Their names, in the model's order. Default: the 17 of COCO, from nose to right_ankle.",
    )
    edges: list[tuple[Int, Int]] | None = Field(
        None,
        title="Edges",
        description="Which keypoints the annotated video joins, as pairs of numbers from 0. Default: COCO's skeleton; with keypoints of your own: none.",
        examples=[[[0, 1], [1, 2]]],
    )

    @model_validator(mode="after")
    def _check(self) -> PosePost:
        names = self.keypoints
        if names is not None and len(set(names)) < len(names):
            raise ValueError("keypoints differ in their names")
        count = 17 if names is None else len(names)
        if any(not 0 <= point < count for edge in self.edges or [] for point in edge):
            raise ValueError(f"edges join keypoints 0 to {count - 1}")
        return self


class SegmentPost(Section):
    """Semantic segmentation: a class for every pixel."""

    family: Literal["segment"] = Field("segment", title="Family", description="A class for every pixel.")
    output: str | None = Field(
        None,
        title="Output",
        description="[N, H, W, C]: a channel per class; [N, H, W, 1] or [N, H, W]: one class or none; whole numbers [N, H, W]: the class itself. At most 255 classes. Default: the only one.",
    )
    layout: Literal["nhwc", "nchw"] = Field(
        "nhwc", title="Layout", description="Whether the channels come last or first."
    )
    activation: Literal["none", "sigmoid", "softmax"] = Field(
        "none",
        title="Activation",
        description="What turns the outputs into probabilities; only matters where there is a threshold.",
    )
    score_threshold: Fraction01 | None = Field(
        None,
        title="Score threshold",
        description="Pixels whose best class has a lower probability have none. Default: 0.5 for one channel; for several no threshold.",
    )
    background: Bool = Field(
        False,
        title="Background channel",
        description="Whether channel (or class number) 0 is the background; it is no class, and 1 becomes class id class_offset.",
    )
    classes: list[str | Int] | None = Field(
        None,
        title="Class filter",
        description="Labels or ids to keep; pixels of others have no class. Default: all.",
    )
    labels: Labels | None = Field(
        None, title="Labels", description="A list, a mapping from id to label, or a text file with one label a line."
    )
    class_offset: Annotated[Int, Field(ge=0, le=1000)] = Field(
        0, title="Class offset", description="Added to the channel's index to give the class id."
    )


class EmbeddingPost(Section):
    """A vector for every picture, such as the features of a classifier without its last layer."""

    family: Literal["embedding"] = Field("embedding", title="Family", description="A vector for every picture.")
    output: str | None = Field(None, title="Output", description="[N, D]. Default: the only one.")
    normalize: Bool = Field(
        True,
        title="Normalise",
        description="Whether each vector is divided by its length (L2), so that dot products are cosines.",
    )
