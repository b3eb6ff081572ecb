"""The families of `pipeline.postprocess` that give detections, classes or tensors; the others are in `pipeline.config.tasks`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag

from pipeline.config.base import Bool, Fraction01, Int, Labels, PositiveInt, Section, members, tag
from pipeline.config.plugins import PluginPost
from pipeline.config.tasks import EmbeddingPost, PosePost, SegmentPost

BoxFormat = Literal["xyxy", "yxyx", "xywh", "cxcywh"]


class DetectionPost(Section):
    """What all detection families share."""

    score_threshold: Fraction01 = Field(
        0.5, title="Score threshold", description="Boxes with a lower score are dropped."
    )
    thresholds: dict[str, Fraction01] = Field(
        default_factory=dict,
        title="Thresholds per class",
        description="By label; others keep score_threshold.",
        examples=[{"person": 0.4}],
    )
    classes: list[str | Int] | None = Field(
        None, title="Class filter", description="Labels or ids to keep. Default: all."
    )
    nms_iou: Fraction01 | None = Field(
        0.5,
        title="NMS IoU",
        description="Of two boxes that overlap more than this the weaker goes; null: no non-maximum suppression.",
    )
    class_agnostic: Bool = Field(
        False, title="Class-agnostic NMS", description="Whether boxes of different classes suppress each other."
    )
    max_detections: Annotated[Int, Field(ge=1, le=10_000)] = Field(
        100, title="Most detections", description="The best this many per frame are kept."
    )
    labels: Labels | None = Field(
        None,
        title="Labels",
        description="A list, a mapping from id to label, a text file with one label a line, or a built-in set: coco80, coco90.",
    )
    class_offset: Annotated[Int, Field(ge=0, le=1000)] = Field(
        0,
        title="Class offset",
        description="Added to the index of a score column, or to the class number that the model gives, to give the class id.",
    )


class OdApiPost(DetectionPost):
    """The TensorFlow Object Detection API's outputs: NMS done inside the model, normalised y1, x1, y2, x2."""

    family: Literal["od_api"] = Field("od_api", title="Family", description="TensorFlow Object Detection API.")
    nms_iou: Fraction01 | None = Field(None, title="NMS IoU", description="null: the model has done it.")
    boxes: str = Field("detection_boxes", title="Boxes output", description="[N, K, 4].")
    scores: str = Field("detection_scores", title="Scores output", description="[N, K].")
    class_ids: str = Field("detection_classes", title="Classes output", description="[N, K].")
    count: str | None = Field("num_detections", title="Count output", description="[N]; null: there is none.")


class SsdPost(DetectionPost):
    """SSD with decoded boxes [N, A, 4] and a score column per class [N, A, C]."""

    family: Literal["ssd"] = Field("ssd", title="Family", description="SSD boxes and scores.")
    boxes: str = Field("boxes", title="Boxes output", description="[N, A, 4] or [N, A, 1, 4].")
    scores: str = Field("scores", title="Scores output", description="[N, A, C].")
    box_format: BoxFormat = Field("yxyx", title="Box format", description="Order of the four numbers.")
    normalized: Bool = Field(
        True, title="Normalised", description="Boxes in 0..1 of the model's input, else in its pixels."
    )
    activation: Literal["none", "sigmoid", "softmax"] = Field(
        "none", title="Activation", description="What turns the scores into probabilities."
    )
    background: Bool = Field(
        False,
        title="Background column",
        description="Whether score column 0 is the background class; it is left out, and column 1 becomes class id class_offset.",
    )


class YoloPost(DetectionPost):
    """YOLO v5, v8, v11: [N, 4+C, A] or [N, A, 5+C], boxes as centre and size."""

    family: Literal["yolo"] = Field("yolo", title="Family", description="YOLO heads.")
    output: str | None = Field(None, title="Output", description="Default: the only one.")
    objectness: Bool | None = Field(
        None,
        title="Objectness column",
        description="Whether column 4 is an objectness score (v5: yes, v8 and v11: no). Default: what fits the number of labels; without labels [N, A, 5+C] has one, [N, 4+C, A] has none.",
    )
    anchor_axis: Literal[1, 2] | None = Field(
        None,
        title="Anchor axis",
        description="Which axis of the output counts anchors: 1 for [N, A, 5+C], 2 for [N, 4+C, A]. Default: the longer one.",
    )
    normalized: Bool = Field(
        False, title="Normalised", description="Boxes in 0..1 of the model's input, else in its pixels."
    )


class GflPost(DetectionPost):
    """NanoDet and other generalized-focal-loss heads: per-class scores and a distribution for each side of the box."""

    family: Literal["gfl"] = Field("gfl", title="Family", description="NanoDet / generalized focal loss heads.")
    outputs: list[str] | None = Field(
        None,
        title="Outputs",
        description="One tensor [N, A, C + 4 * (reg_max + 1)], or score and distribution tensors per stride in stride order. Default: found by their shapes.",
    )
    strides: list[PositiveInt] = Field(
        [8, 16, 32], title="Strides", description="Of the feature maps, in the order of the anchors."
    )
    reg_max: PositiveInt = Field(
        7, title="Distribution bins", description="Largest distance in strides; there are reg_max + 1 bins."
    )
    activation: Literal["none", "sigmoid"] = Field(
        "none", title="Activation", description="What turns the scores into probabilities."
    )
    cell_centre: Literal["corner", "centre"] = Field(
        "centre", title="Cell centre", description="Whether anchor points are (x + 0.5) * stride or x * stride."
    )


class BoxesPost(DetectionPost):
    """Any model with boxes and scores, and class ids or a score column per class."""

    family: Literal["boxes"] = Field("boxes", title="Family", description="Generic boxes by output name.")
    boxes: str = Field(..., title="Boxes output", description="[N, K, 4].")
    scores: str = Field(..., title="Scores output", description="[N, K] with class_ids, or [N, K, C].")
    class_ids: str | None = Field(
        None, title="Classes output", description="[N, K]; null: scores has a column per class."
    )
    box_format: BoxFormat = Field("xyxy", title="Box format", description="Order of the four numbers.")
    normalized: Bool = Field(
        False, title="Normalised", description="Boxes in 0..1 of the model's input, else in its pixels."
    )
    activation: Literal["none", "sigmoid", "softmax"] = Field(
        "none", title="Activation", description="What turns the scores into probabilities."
    )


class ClassifyPost(Section):
    """Classification: the best classes of the whole picture."""

    family: Literal["classify"] = Field("classify", title="Family", description="Classification.")
    output: str | None = Field(None, title="Output", description="[N, C]. Default: the only one.")
    activation: Literal["none", "sigmoid", "softmax"] = Field(
        "softmax", title="Activation", description="What turns the outputs into probabilities."
    )
    top_k: Annotated[Int, Field(ge=1, le=1000)] = Field(
        5, title="Top k", description="How many classes a record holds at most."
    )
    score_threshold: Fraction01 = Field(
        0.0, title="Score threshold", description="Classes with a lower score are dropped."
    )
    labels: Labels | None = Field(
        None, title="Labels", description="A list, a mapping from id to label, or a text file with one label a line."
    )
    class_offset: Annotated[Int, Field(ge=0, le=1000)] = Field(
        0, title="Class offset", description="Added to the column's index to give the class id."
    )


class RawPost(Section):
    """The model's outputs as they are (see the `tensors` sink)."""

    family: Literal["raw"] = Field("raw", title="Family", description="No postprocessing.")
    outputs: list[str] | None = Field(None, title="Outputs", description="Default: all.")


Postprocess = Annotated[
    Annotated[OdApiPost, Tag("od_api")]
    | Annotated[SsdPost, Tag("ssd")]
    | Annotated[YoloPost, Tag("yolo")]
    | Annotated[GflPost, Tag("gfl")]
    | Annotated[BoxesPost, Tag("boxes")]
    | Annotated[ClassifyPost, Tag("classify")]
    | Annotated[PosePost, Tag("pose")]
    | Annotated[SegmentPost, Tag("segment")]
    | Annotated[EmbeddingPost, Tag("embedding")]
    | Annotated[RawPost, Tag("raw")]
    | Annotated[PluginPost, Tag("plugin")],
    tag("family"),
]

FAMILIES = members(Postprocess)
