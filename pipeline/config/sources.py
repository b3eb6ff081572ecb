"""The `sources` of the YAML: what is read, and which part of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator

from pipeline.config.analytics import SourceAnalytics
from pipeline.config.base import Bool, Int, Number, PositiveInt, Section, Url, one_of


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
