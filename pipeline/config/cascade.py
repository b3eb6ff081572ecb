"""What `pipeline.models[]` and `pipeline.cascade[]` have besides a model: a name, and which crops are cut."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.config.base import Int, Number, PositiveInt, Section

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=64, examples=["emotion"])]


class NamedModel(Section):
    """What tells further models apart."""

    name: ModelName = Field(
        ...,
        title="Name",
        description="What its results are called in records and in Python: letters, digits, - and _. Each name is used once.",
    )
    batch_size: Annotated[Int, Field(ge=1, le=1024)] | None = Field(
        None,
        title="Batch size",
        description="Most pictures per call of this model; of more there are several calls. Default: the model's own if it is fixed, else that of `models` is runtime.batch_size and that of `cascade` 8 on the CPU and 32 on a GPU.",
    )


class CropRules(Section):
    """Which detections are looked at, how much around them, and how often."""

    of: ModelName | None = Field(
        None,
        title="Of",
        description="Whose detections are looked at: the name of an entry of models or cascade. Default: those of the pipeline's own model.",
    )
    classes: Annotated[list[str | Int], Field(min_length=1)] | None = Field(
        None, title="Classes", description="Labels or ids of the detections that are looked at. Default: all."
    )
    min_size_px: PositiveInt = Field(
        16,
        title="Least size",
        description="Detections whose box has a shorter side than this, in display pixels, are left out.",
    )
    margin: Annotated[Number, Field(ge=0, le=10)] = Field(
        0.0,
        title="Margin",
        description="What is added to the box on each side, as a part of its width and height. Nothing beyond the picture is seen.",
    )
    aspect: Annotated[Number, Field(gt=0, le=100)] | None = Field(
        None,
        title="Aspect ratio",
        description="Width : height that the crop is widened to; it moves inwards at the border of the picture. Default: the box's own.",
        examples=[1.0],
    )
    every: PositiveInt = Field(
        1,
        title="Every n-th",
        description="Of the frames that a track is found in, one in this many is looked at; until the next one classes and embeddings are kept (boxes, keypoints and masks are not: positions are not made up). Above 1 it needs pipeline.tracker, and detections of the pipeline's own model.",
    )
    max_per_frame: PositiveInt | None = Field(
        None,
        title="Most per frame",
        description="At most this many crops are looked at in a frame: those first that have waited longest for their turn, then those with the best scores. Default: no limit.",
    )
