"""The `sinks` of the YAML: where results go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, Tag

from pipeline.config.base import Bool, Fraction01, Int, Section, members, tag
from pipeline.config.plugins import PluginSink


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


Sink = Annotated[
    Annotated[JsonlSink, Tag("jsonl")]
    | Annotated[CsvSink, Tag("csv")]
    | Annotated[VideoSink, Tag("video")]
    | Annotated[TensorsSink, Tag("tensors")]
    | Annotated[PluginSink, Tag("plugin")],
    tag("type"),
]

SINKS = members(Sink)
