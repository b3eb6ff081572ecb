"""The `pipeline` of the YAML: what is done with every frame, but for postprocessing (`pipeline.config.postprocess`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.base import Bool, Byte, Int, Number, PositiveInt, Section, Triple, one_of
from pipeline.config.cascade import CropRules, NamedModel
from pipeline.config.plugins import StagePlugin
from pipeline.config.postprocess import Postprocess
from pipeline.config.tracking import Tracker, expand_tracker


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
