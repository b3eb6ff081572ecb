"""The YAML as pydantic models: every field's type, bounds, default and meaning, in one place.

`pipeline.config.load` turns a file into a `Config`; `pipeline.config.schema` turns these models into the JSON Schema
that editors complete from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, SecretStr, Tag, model_validator

from pipeline.config.analytics import SourceAnalytics
from pipeline.config.base import (
    Bool,
    Byte,
    Fraction01,
    Int,
    Labels,
    Number,
    PositiveInt,
    Section,
    Triple,
    Url,
    one_of,
)
from pipeline.config.cascade import CropRules, NamedModel
from pipeline.config.plugins import PluginPost, PluginSink, StagePlugin
from pipeline.config.tasks import EmbeddingPost, PosePost, SegmentPost
from pipeline.config.tracking import Tracker, expand_tracker

# ---------------------------------------------------------------------------------------------------------- sources


class Roi(Section):
    """Region of interest: only this part of the picture reaches the model."""

    rect: tuple[Number, Number, Number, Number] | None = Field(
        None,
        title="Rectangle",
        description="x1, y1, x2, y2: left, top, right and bottom edge.",
        examples=[[0, 0, 640, 360]],
    )
    polygon: Annotated[list[tuple[Number, Number]], Field(min_length=3, max_length=256)] | None = Field(
        None,
        title="Polygon",
        description="Corner points [x, y]. The model sees the polygon's bounding box; pixels outside the polygon are padding.",
    )
    unit: Literal["pixel", "fraction"] = Field(
        "pixel", title="Unit", description="Display pixels of the source, or fractions of its width and height."
    )

    @model_validator(mode="after")
    def _check(self) -> Roi:
        one_of(self, "rect", "polygon")
        points = list(self.polygon or [])
        if self.rect is not None:
            x1, y1, x2, y2 = self.rect
            if x2 <= x1 or y2 <= y1:
                raise ValueError("rect is x1, y1, x2, y2 with x2 > x1 and y2 > y1")
            points += [(x1, y1), (x2, y2)]
        if min(min(p) for p in points) < 0:
            raise ValueError("coordinates are not negative")
        if self.unit == "fraction" and max(max(p) for p in points) > 1:
            raise ValueError("fractions lie in 0..1")
        return self


class ColourOverride(Section):
    """Overrides what the stream says, or fails to say, of its colours."""

    matrix: Literal["bt601", "bt709", "bt2020", "smpte240m"] | None = Field(
        None,
        title="Matrix",
        description="Y'CbCr matrix. Default: the stream's own; untagged: bt709 from 720 lines or 1280 columns on, else bt601.",
    )
    range: Literal["limited", "full"] | None = Field(
        None,
        title="Range",
        description="Default: the stream's own; untagged: limited, but full for the yuvj formats and MJPEG.",
    )
    siting: Literal["left", "center", "topleft", "top", "bottomleft", "bottom"] | None = Field(
        None,
        title="Chroma siting",
        description="Default: the stream's own; untagged: left, but center for MPEG-1 and JPEG and topleft for bt2020.",
    )


class Reconnect(Section):
    """What is done when a live stream cannot be reached, breaks or falls silent."""

    initial_s: Annotated[Number, Field(gt=0, le=3600)] = Field(
        1.0,
        title="First delay",
        description="Longest wait before the first new attempt. It doubles with every further one; each wait is a random part of it, so that cameras that were lost together do not come back together.",
    )
    max_s: Annotated[Number, Field(gt=0, le=86_400)] = Field(
        30.0, title="Largest delay", description="What the delay does not grow beyond."
    )
    stable_s: Annotated[Number, Field(ge=0, le=86_400)] = Field(
        30.0, title="Stable after", description="A stream that ran for so long starts again with the first delay."
    )
    attempts: PositiveInt | None = Field(
        None, title="Attempts", description="The stream fails after so many attempts in a row. Default: it never does."
    )
    on_permanent: Literal["fail", "retry"] = Field(
        "fail",
        title="On a permanent error",
        description="After an error that no waiting mends (refused password, no such stream, unsupported codec, bad certificate): fail, or retry after permanent_s.",
    )
    permanent_s: Annotated[Number, Field(gt=0, le=86_400)] = Field(
        60.0,
        title="Delay after a permanent error",
        description="Longest wait before the next attempt, with on_permanent: retry.",
    )

    @model_validator(mode="after")
    def _check(self) -> Reconnect:
        if self.max_s < self.initial_s:
            raise ValueError("max_s is not less than initial_s")
        return self


LIVE_SCHEMES = ("rtsp", "rtsps", "udp", "rtp")


class Source(Section):
    """One or more videos. A plain string is short for `path`, `url` or (as `media:NAME`) `media`."""

    path: str | None = Field(
        None,
        title="Path",
        description="A file, a directory (all videos in it) or a glob such as clips/**/*.mp4. Relative to the working directory.",
    )
    url: Url | None = Field(
        None,
        title="URL",
        description="http(s) or HLS; rtsp(s) or udp (MPEG-TS) for live streams. Take passwords from the environment: ${CAMERA_PASSWORD}.",
        repr=False,
    )
    media: str | None = Field(
        None,
        title="Media card",
        description="A clip that a card in models/media describes; it is fetched on first use.",
    )
    id: str | None = Field(
        None,
        title="Id",
        description="Name in records and messages. Default: the file's name. With a directory or glob: a prefix.",
        min_length=1,
        max_length=200,
    )
    recursive: Bool = Field(
        True, title="Recursive", description="Whether a directory's sub-directories are searched too."
    )
    on_error: Literal["skip", "stop"] = Field(
        "skip",
        title="On error",
        description="When this source fails: go on with the others (skip), or end the run (stop).",
    )
    max_frames: PositiveInt | None = Field(
        None, title="Frame limit", description="Stop after this many frames of each video. Default: all."
    )
    loop: Bool | PositiveInt = Field(
        False,
        title="Loop",
        description="How often a file is played, frame numbers and times going on: true: for ever; a number: so many times. Default: once.",
    )
    roi: Roi | None = Field(None, title="Region of interest", description="Default: the whole picture.")
    colour: ColourOverride = Field(
        default_factory=ColourOverride, title="Colour", description="Overrides of the stream's colour metadata."
    )
    options: dict[str, str] = Field(
        default_factory=dict,
        title="FFmpeg options",
        description="Options of FFmpeg's protocol or demuxer, such as {user_agent: vramline}.",
    )
    timeout_s: Annotated[Number, Field(gt=0, le=3600)] = Field(
        10.0, title="Timeout", description="Seconds after which a silent server is an error (URLs only)."
    )
    live: Bool | None = Field(
        None,
        title="Live",
        description="Whether a URL is a live stream: it is kept fresh and reconnected. Default: rtsp, rtsps, udp and rtp are; http and https are not.",
    )
    transport: Literal["tcp", "udp"] = Field("tcp", title="Transport", description="How RTSP brings the video.")
    username: str | None = Field(None, title="User", description="Of the server, if the URL does not name it.")
    password: SecretStr | None = Field(
        None, title="Password", description="Best taken from the environment: ${CAMERA_PASSWORD}."
    )
    stall_s: Annotated[Number, Field(gt=0, le=3600)] = Field(
        3.0,
        title="Stalled after",
        description="Seconds without a packet after which a live stream counts as stalled; after timeout_s it is reconnected.",
    )
    policy: Literal["latest", "fifo", "keyframes"] | None = Field(
        None,
        title="Policy",
        description="latest: only the newest frame waits for the model, older ones are dropped; fifo: every frame is processed, in order, and the server waits; keyframes: only key frames are decoded. Default: latest for live streams, fifo for others.",
    )
    every: PositiveInt = Field(1, title="Every n-th", description="Keep one frame in this many.")
    max_fps: Annotated[Number, Field(gt=0, le=1000)] | None = Field(
        None,
        title="Most frames/s",
        description="Frames of the video beyond this rate are dropped. Default: all are kept.",
    )
    max_staleness_ms: Annotated[Number, Field(gt=0, le=3_600_000)] | None = Field(
        None,
        title="Most staleness",
        description="Frames that are older than this when the model could take them are dropped, and a decoder that lags so far behind skips ahead. Default: 2000 for live streams with policy latest, else no limit.",
    )
    priority: Annotated[Int, Field(ge=1, le=100)] = Field(
        1,
        title="Priority",
        description="Share of the model where it cannot keep up: a source with 4 gets four frames in for each of one with 1.",
    )
    reconnect: Reconnect = Field(
        default_factory=Reconnect, title="Reconnect", description="When and how often a live stream is reconnected."
    )
    analytics: SourceAnalytics | None = Field(
        None,
        title="Analytics",
        description="Lines, zones, speeds, heat map, interval counts (docs/analytics.md). Default: none.",
    )

    @property
    def is_live(self) -> bool:
        """Whether it never ends by itself: it is kept fresh and reconnected."""
        if self.live is not None:
            return self.live
        return self.url is not None and self.url.partition("://")[0].lower() in LIVE_SCHEMES

    @model_validator(mode="after")
    def _check(self) -> Source:
        one_of(self, "path", "url", "media")
        if self.live and self.url is None:
            raise ValueError("live is for URLs")
        if self.loop and self.url is not None:
            raise ValueError("loop is for files: what a URL names is played once")
        if self.policy == "latest" and not self.is_live:
            raise ValueError(
                "policy latest is for live streams: a file would be read as fast as it can be, and most of it dropped"
            )
        if self.password is not None and self.username is None:
            raise ValueError("password needs username")
        return self


def expand_source(value: Any) -> Any:
    """A plain string in `sources` -> the mapping that it is short for."""
    if not isinstance(value, str):
        return value
    if value.startswith("media:"):
        return {"media": value.removeprefix("media:")}
    return {"url" if "://" in value else "path": value}


# --------------------------------------------------------------------------------------------------------- pipeline


class Decode(Section):
    """From packets to pictures."""

    threads: Annotated[Int, Field(ge=0, le=64)] = Field(
        0, title="Threads", description="FFmpeg threads per video on the cpu engine; 0: as many as there are cores."
    )
    corrupt_frames: Literal["auto", "keep", "drop"] = Field(
        "auto",
        title="Corrupt frames",
        description="What is done with frames that the decoder flags as damaged; they are counted either way. auto: keep those of files, drop those of live streams, up to the next key frame.",
    )
    fallback: Literal["cpu", "error"] = Field(
        "cpu",
        title="Fallback",
        description="What the cuda engine does with videos that the GPU cannot decode. cpu: FFmpeg decodes them and every frame is uploaded, which is counted; error: the source fails.",
    )
    scale: Literal["off", "auto"] = Field(
        "off",
        title="Scale",
        description="Whether the GPU's decoder makes pictures smaller before anything else sees them. auto: where the model's input shows at least two samples a pixel in both directions, down to one, unless a sink, a plug-in or your own loop gets the pixels; its filter is not the reference's, so results change a little. Boxes stay in the source's pixels; the cpu engine does not scale.",
    )


class Preprocess(Section):
    """From pictures to the model's input. What is not given comes from the model's card, then from the model itself."""

    size: tuple[PositiveInt, PositiveInt] | None = Field(
        None,
        title="Size",
        description="[width, height] of the model's input in pixels. Default: the model's own.",
        examples=[[640, 640]],
    )
    fit: Literal["letterbox", "stretch", "crop"] = Field(
        "letterbox",
        title="Fit",
        description="letterbox: keep the aspect ratio and pad; stretch: ignore it; crop: keep it and cut off what does not fit.",
    )
    interpolation: Literal["nearest", "bilinear", "area"] = Field(
        "bilinear",
        title="Interpolation",
        description="bilinear: 2x2 samples; area: mean over the covered area when shrinking (no aliasing), bilinear when enlarging.",
    )
    pad: Byte | tuple[Byte, Byte, Byte] = Field(
        114, title="Padding", description="Grey value, or [r, g, b], 0..255, before scale, mean and std."
    )
    channels: Literal["rgb", "bgr", "gray"] = Field(
        "rgb",
        title="Channels",
        description="Order of the colour channels in the model's input; gray: one channel, 0.299 R + 0.587 G + 0.114 B. Default: gray if the model's input has one channel, else rgb.",
    )
    layout: Literal["nhwc", "nchw"] | None = Field(
        None, title="Layout", description="Channels last or first. Default: what the model's input shape says."
    )
    dtype: Literal["uint8", "float16", "float32"] | None = Field(
        None, title="Data type", description="Default: the model's own."
    )
    scale: Number | Triple = Field(
        1.0,
        title="Scale",
        description="value = (pixel * scale - mean) / std; a number, or one per channel in the model's order.",
    )
    mean: Number | Triple = Field(0.0, title="Mean", description="Subtracted after scaling.")
    std: Number | Triple = Field(1.0, title="Standard deviation", description="Divided by last; not 0.")
    engine: Literal["auto", "fused", "cvcuda"] = Field(
        "auto",
        title="Engine",
        description="On a GPU: fused: one kernel does it all; cvcuda: CV-CUDA's operators, for whole pictures without fit crop. auto: fused, by measured speed (benchmarks/gpu_preprocess.py). On the CPU it does not matter.",
    )

    @model_validator(mode="after")
    def _check(self) -> Preprocess:
        values = self.std if isinstance(self.std, tuple) else (self.std,)
        if any(v == 0 for v in values):
            raise ValueError("std must not be 0")
        if self.dtype == "uint8" and (self.scale, self.mean, self.std) != (1.0, 0.0, 1.0):
            raise ValueError("dtype uint8 takes pixels as they are: leave out scale, mean and std")
        if self.channels == "gray" and any(isinstance(v, tuple) for v in (self.scale, self.mean, self.std)):
            raise ValueError("channels gray is one channel: give scale, mean and std as one number each")
        return self


class ModelSource(Section):
    """Which model. A plain string is short for `card`, or for `path` if it has a slash or a model file's ending."""

    card: str | None = Field(
        None,
        title="Card",
        description="Name of a model card (`vramline models list`); obtained and converted on first use.",
    )
    path: str | None = Field(
        None, title="Path", description="A SavedModel folder, a .keras file or a frozen GraphDef (.pb)."
    )
    name: str | None = Field(
        None, title="Name", description="Name in the records. Default: the card's or the file's.", max_length=100
    )
    signature: str = Field("serving_default", title="Signature", description="Of a SavedModel.")
    input: str | None = Field(
        None,
        title="Input",
        description="Name of the image input. Default: the only one. For a GraphDef: a tensor such as image:0.",
    )
    outputs: list[str] | None = Field(
        None, title="Outputs", description="Names of the outputs to fetch. Default: all. Required for a GraphDef."
    )
    precision: Literal["auto", "fp32", "fp16"] = Field(
        "auto",
        title="Precision",
        description="What convolutions and matrix products run in on the cuda engine; auto: fp16, half precision, where the model stays within its range. The cpu engine runs fp32.",
    )
    xla: Literal["auto", True, False] = Field(
        "auto",
        title="XLA",
        description="Whether XLA compiles the model on the cuda engine, where it can: quicker calls, but the start may take a minute; auto: unless that would take many minutes.",
    )
    trust: Bool = Field(
        False,
        title="Trust",
        description="Allow a Keras file to run Python code that it brings (Lambda layers). Only for files that you made.",
    )

    @model_validator(mode="after")
    def _check(self) -> ModelSource:
        one_of(self, "card", "path")
        return self


MODEL_SUFFIXES = (".keras", ".h5", ".pb")


def expand_model(value: Any) -> Any:
    """A plain string as `model` -> the mapping that it is short for."""
    if not isinstance(value, str):
        return value
    return {"path" if "/" in value or value.endswith(MODEL_SUFFIXES) else "card": value}


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


FAMILIES: dict[str, type[Section]] = {
    "od_api": OdApiPost,
    "ssd": SsdPost,
    "yolo": YoloPost,
    "gfl": GflPost,
    "boxes": BoxesPost,
    "classify": ClassifyPost,
    "pose": PosePost,
    "segment": SegmentPost,
    "embedding": EmbeddingPost,
    "raw": RawPost,
    "plugin": PluginPost,
}


def _tag(key: str) -> Discriminator:
    return Discriminator(lambda value: value.get(key) if isinstance(value, dict) else getattr(value, key, None))


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
    _tag("family"),
]


class SideModel(NamedModel):
    """Another model on the same frames, which are decoded once (docs/cascade.md)."""

    model: Annotated[ModelSource, BeforeValidator(expand_model, json_schema_input_type=str | ModelSource)] = Field(
        ..., title="Model", description="As pipeline.model."
    )
    preprocess: Preprocess = Field(
        default_factory=Preprocess, title="Preprocess", description="As pipeline.preprocess. Default: the card's."
    )
    postprocess: Postprocess = Field(
        ...,
        title="Postprocess",
        description="As pipeline.postprocess. Default: the card's; required without a card.",
    )


class CascadeModel(CropRules, SideModel):
    """A model that looks at the crops of detections (docs/cascade.md)."""


class Stages(Section):
    """What is done with every frame, in this order."""

    decode: Decode = Field(default_factory=Decode, title="Decode", description="From packets to pictures.")
    preprocess: Preprocess = Field(
        default_factory=Preprocess,
        title="Preprocess",
        description="From pictures to the model's input. Default: the card's.",
    )
    model: Annotated[ModelSource, BeforeValidator(expand_model, json_schema_input_type=str | ModelSource)] = Field(
        ..., title="Model", description="Which model: a card's name, a path, or a mapping."
    )
    postprocess: Postprocess = Field(
        ...,
        title="Postprocess",
        description="From the model's outputs to results. Default: the card's; required without a card.",
    )
    tracker: (
        Annotated[
            Tracker, BeforeValidator(expand_tracker, json_schema_input_type=Literal["bytetrack", "iou"] | Tracker)
        ]
        | None
    ) = Field(
        None,
        title="Tracker",
        description="Which detections of successive frames are the same object: bytetrack, iou, or a mapping with type. Default: none.",
    )
    models: list[SideModel] = Field(
        default_factory=list,
        title="Further models",
        description="Other models on the same frames; their results stand beside the others in the record (docs/cascade.md).",
    )
    cascade: list[CascadeModel] = Field(
        default_factory=list,
        title="Cascade",
        description="Models on the crops of detections, such as attributes of persons, to any depth (docs/cascade.md).",
    )
    plugins: list[StagePlugin] = Field(
        default_factory=list,
        title="Plug-ins",
        description="Your own stages behind tracking and analytics, in this order (docs/plugins.md).",
    )


# ------------------------------------------------------------------------------------------------------------ sinks


class FileSink(Section):
    """What all sinks that write files share."""

    path: Path = Field(
        ...,
        title="Path",
        description="Relative to the working directory; folders are made. {source} stands for the source's id: one file per source.",
    )
    overwrite: Bool = Field(
        False,
        title="Overwrite",
        description="Whether an existing file is replaced; otherwise it is an error before the first frame.",
    )


class JsonlSink(FileSink):
    """One JSON record a frame, one record a line."""

    type: Literal["jsonl"] = Field("jsonl", title="Type", description="JSON lines.")
    empty_frames: Bool = Field(
        True, title="Empty frames", description="Whether frames without any result get a record too."
    )
    mask_side: Annotated[Int, Field(ge=1, le=16_384)] | None = Field(
        512,
        title="Longer side of masks",
        description="Masks of larger pictures are written scaled down to this many pixels; null: in the picture's own size.",
    )


class CsvSink(FileSink):
    """One row a detection, class, person or mask."""

    type: Literal["csv"] = Field("csv", title="Type", description="Comma-separated values with a header.")


class VideoSink(FileSink):
    """The annotated video: H.264 in MP4, with the source's own timestamps. Needs {source} in `path` if there are several sources."""

    type: Literal["video"] = Field("video", title="Type", description="Annotated video.")
    crf: Annotated[Int, Field(ge=0, le=51)] = Field(
        23, title="CRF", description="x264's constant rate factor: smaller is better and larger."
    )
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = Field(
        "veryfast", title="Preset", description="x264's speed."
    )
    max_width: Annotated[Int, Field(ge=16, le=8192)] | None = Field(
        None, title="Largest width", description="Wider videos are scaled down. Default: the source's own."
    )
    labels: Bool = Field(
        True, title="Labels", description="Draw label and score at each box and person, and the classes of masks."
    )
    caption: Bool = Field(True, title="Caption", description="Draw the source's name and the time in the corner.")
    mask_opacity: Fraction01 = Field(
        0.45,
        title="Opacity of masks",
        description="Of the colour over pixels that have a class: 0 is none, 1 hides them.",
    )


class TensorsSink(FileSink):
    """The model's outputs in one NPZ file, for postprocess family `raw`: arrays [frames, ...], and `source`, `frame`, `pts_s`."""

    type: Literal["tensors"] = Field("tensors", title="Type", description="NPZ.")


SINKS: dict[str, type[Section]] = {
    "jsonl": JsonlSink,
    "csv": CsvSink,
    "video": VideoSink,
    "tensors": TensorsSink,
    "plugin": PluginSink,
}

Sink = Annotated[
    Annotated[JsonlSink, Tag("jsonl")]
    | Annotated[CsvSink, Tag("csv")]
    | Annotated[VideoSink, Tag("video")]
    | Annotated[TensorsSink, Tag("tensors")]
    | Annotated[PluginSink, Tag("plugin")],
    _tag("type"),
]


# ---------------------------------------------------------------------------------------------- runtime and observe


class Runtime(Section):
    """How the work is organised."""

    batch_size: Annotated[Int, Field(ge=1, le=1024)] | None = Field(
        None,
        title="Batch size",
        description="Frames per model call. Default: the model's own if it is fixed, else 8 on the CPU and 64 on a GPU.",
    )
    batch_timeout_ms: Annotated[Number, Field(gt=0, le=60_000)] | None = Field(
        None,
        title="Batch timeout",
        description="How long a batch waits for its next frame before it goes on partly filled. Default: no limit for files on the CPU, 20 ms on a GPU, 100 ms when a source is a URL; with live streams a quarter of the time between two frames of the fastest one.",
    )
    queue_batches: Annotated[Int, Field(ge=1, le=64)] | None = Field(
        None,
        title="Queue length",
        description="Batches that may wait between two stages. Default: 2; with live streams 1, since what waits grows old.",
    )
    open_sources: Annotated[Int, Field(ge=1, le=1024)] | None = Field(
        None,
        title="Open sources",
        description="How many videos are decoded at the same time; the others wait their turn. Default: 4 on the CPU, "
        "16 on a GPU, which keeps its decoders busy.",
    )
    vram_budget_mb: Annotated[Int, Field(ge=1, le=16_777_216)] | None = Field(
        None,
        title="GPU memory budget",
        description="Most memory of the GPU that the run takes, in MB of 1,048,576 bytes; CUDA's context and libraries come "
        "on top. A run that cannot do with it is an error that says what to lower. Default: what is free when the run "
        "starts, less a reserve.",
    )
    inference_threads: Annotated[Int, Field(ge=0, le=256)] = Field(
        0, title="Inference threads", description="TensorFlow's threads on the cpu engine; 0: TensorFlow decides."
    )
    max_connects: Annotated[Int, Field(ge=1, le=1024)] = Field(
        8,
        title="Simultaneous connects",
        description="How many live streams connect at the same time; the others wait their turn.",
    )
    stay_alive: Bool = Field(
        False,
        title="Stay alive",
        description="Whether the run goes on when all sources have ended, for those that are added later.",
    )
    drain_s: Annotated[Number, Field(gt=0, le=3600)] = Field(
        20.0,
        title="Drain time",
        description="How long a run that is being stopped may take to finish the frames that it is working on; after that they are given up and the outputs kept as far as they got.",
    )
    nvtx: Bool = Field(
        False,
        title="NVTX ranges",
        description="Whether the stages of the cuda engine show by name on a profiler's time line (docs/verify.md).",
    )


class Http(Section):
    """The HTTP interface: streams, control and metrics. Needs `pip install 'vramline[http]'`."""

    host: str = Field(
        "127.0.0.1",
        title="Host",
        description="Address to listen on; other machines reach only those other than 127.0.0.1.",
    )
    port: Annotated[Int, Field(ge=0, le=65_535)] = Field(
        8800, title="Port", description="0: the system chooses one, which the log names."
    )
    token: SecretStr = Field(
        ...,
        title="Token",
        description="What clients send as bearer token, at least 16 characters. Take it from the environment: ${VRAMLINE_TOKEN}.",
        min_length=16,
    )


class Observe(Section):
    """What a person and a log see."""

    progress: Literal["auto", "always", "never"] = Field(
        "auto",
        title="Progress",
        description="The live display; auto: only on a terminal, else a line from time to time.",
    )
    progress_interval_s: Annotated[Number, Field(gt=0, le=3600)] = Field(
        10.0, title="Progress interval", description="Seconds between progress lines when not on a terminal."
    )
    summary: Bool = Field(True, title="Summary", description="Whether the closing summary is printed.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", title="Log level", description="Least severity that is logged."
    )
    report: Path | None = Field(None, title="Report", description="Write the closing summary as JSON to this file.")
    http: Http | None = Field(
        None, title="HTTP", description="The HTTP interface: streams, control and metrics. Default: off."
    )


class Config(Section):
    """A whole pipeline: sources, stages, sinks."""

    version: Literal[1] = Field(1, title="Version", description="Of this format.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        title="Device",
        description="auto: cuda where a usable GPU is, else cpu. cuda without a GPU is an error.",
    )
    sources: Annotated[
        list[Annotated[Source, BeforeValidator(expand_source, json_schema_input_type=str | Source)]],
        Field(min_length=1),
    ] = Field(..., title="Sources", description="What is processed.")
    pipeline: Stages = Field(..., title="Pipeline", description="What is done with every frame.")
    sinks: list[Sink] = Field(
        default_factory=list, title="Sinks", description="Where results go. None: only the summary, or the Python API."
    )
    runtime: Runtime = Field(default_factory=Runtime, title="Runtime", description="How the work is organised.")
    observe: Observe = Field(default_factory=Observe, title="Observe", description="Progress, log and summary.")

    @property
    def is_live(self) -> bool:
        """Whether results are wanted soon rather than many: there are live streams, or may be some later."""
        return self.may_grow or any(source.is_live for source in self.sources)

    @property
    def may_grow(self) -> bool:
        """Whether sources may be added while the run goes on, as far as the configuration tells."""
        return self.runtime.stay_alive or self.observe.http is not None

    @property
    def queue_batches(self) -> int:
        """Batches that may wait between two stages."""
        return self.runtime.queue_batches or (1 if self.is_live else 2)
