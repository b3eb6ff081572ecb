"""What the HTTP interface takes and answers, as pydantic models; its OpenAPI description comes from here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel

from pipeline.config.base import Int
from pipeline.config.sources import Source, expand_source
from pipeline.errors import SourceErrorCode
from pipeline.observe.status import SourceState
from pipeline.stages import DropCause


class NewSource(RootModel[Annotated[Source, BeforeValidator(expand_source, json_schema_input_type=str | Source)]]):
    """A source as the configuration has it: a mapping with its keys, or a text such as `rtsp://...`."""


class Change(BaseModel):
    """What can be changed of a stream."""

    model_config = ConfigDict(extra="forbid")

    priority: Annotated[Int, Field(ge=1, le=100)] = Field(
        ..., description="Share of the model where it cannot keep up."
    )


class StreamFormat(BaseModel):
    """What the video is like."""

    codec: str = Field(description="FFmpeg's name of the codec.")
    width: int = Field(description="Display width in pixels.")
    height: int = Field(description="Display height in pixels.")
    frame_rate: float | None = Field(description="Average rate in frames/s; null if unknown.")


class Counters(BaseModel):
    """How many of each since the stream was added, over all its connections."""

    packets: int = Field(description="Packets read: for most codecs one is a frame.")
    decoded: int = Field(description="Frames that the codec gave.")
    results: int = Field(description="Frames whose results have been handed to the sinks.")
    corrupt: int = Field(description="Frames that the codec flagged as damaged.")
    decode_errors: int = Field(description="Packets that could not be read or decoded.")
    dropped: int = Field(description="Frames without a result, of all causes.")
    dropped_by_cause: dict[DropCause, int] = Field(description="The causes that there were.")
    in_flight: int = Field(description="Frames that have neither a result nor been dropped yet.")


class Latency(BaseModel):
    """A distribution in milliseconds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class Stream(BaseModel):
    """A video or live stream of the run."""

    id: str
    location: str = Field(description="Path or URL without credentials.")
    state: SourceState
    state_s: float = Field(description="Seconds in this state.")
    live: bool = Field(description="Whether it is a live stream, which is reconnected.")
    priority: int
    error: str | None = Field(description="Why it failed; null if it did not.")
    error_code: SourceErrorCode | None
    last_error: str | None = Field(description="Why its last connection ended or failed, of a stream that goes on.")
    last_error_code: SourceErrorCode | None
    connects: int = Field(description="How often it has been connected.")
    reconnects: int
    failed_attempts: int = Field(description="How often in a row it could not be connected, or broke soon.")
    retry_in_s: float | None = Field(description="Seconds to the next attempt; null unless it is backing off.")
    stream: StreamFormat | None = Field(description="Null until it was open for the first time.")
    counters: Counters
    results_per_s: float = Field(description="Of the last seconds; 0 for videos, which have no pace of their own.")
    last_pts_s: float | None = Field(description="Presentation time of the last frame with results.")
    latency: dict[str, Latency] = Field(description="By stage; those that have been measured.")


class Streams(BaseModel):
    """All of them, in the order in which they were added."""

    streams: list[Stream]


class StageTotals(BaseModel):
    """What a stage has cost."""

    busy_s: float = Field(description="Seconds that its thread was busy.")
    batches: int
    frames: int
    ms_per_frame: float = Field(description="Busy milliseconds a frame.")


class Run(BaseModel):
    """The run as a whole."""

    state: Literal["starting", "running", "ended"]
    device: str = Field(description="cpu or cuda.")
    device_reason: str
    model: str = Field(description="name@hash")
    models: dict[str, str] = Field(description="The further models by name, of models and cascade, as name@hash.")
    batch_size: int
    elapsed_s: float = Field(description="Seconds since the first decoded frame.")
    results: int = Field(description="Frames with results; those of streams that were removed count too.")
    frames_per_s: float = Field(description="Results a second, since the first decoded frame.")
    streams: dict[SourceState, int] = Field(description="How many streams are in each state.")
    stages: dict[str, StageTotals]
    errors: list[str] = Field(description="What went wrong apart from the streams.")


class Added(BaseModel):
    """What a source became."""

    ids: list[str] = Field(description="Of the streams that were added: a directory names many.")


class Accepted(BaseModel):
    """What was asked for is under way; it may not be done yet."""

    accepted: Literal["remove", "pause", "resume", "restart", "priority", "stop"]
    id: str | None = Field(None, description="Of the stream; null for the run.")


class Health(BaseModel):
    """All is well."""

    status: Literal["ok", "ready"]


class FieldIssue(BaseModel):
    """One thing that is wrong with a field of the request."""

    field: str = Field(description="Such as `roi.rect`; empty for the body as a whole.")
    message: str


class Error(BaseModel):
    """Why it could not be done. What the request held is not repeated."""

    error: str
    remedy: str | None = Field(None, description="What to do, where that is known.")
    code: SourceErrorCode | None = Field(None, description="Of a source that could not be added.")
    fields: list[FieldIssue] | None = Field(None, description="What is wrong with a request's fields.")
