"""The YAML as pydantic models, each key of the top level in a module of its own: every field's type, bounds, default and meaning.

Here are the whole, `runtime` and `observe`. `pipeline.config.load` turns a file into a `Config`; `pipeline.config.schema` turns
these models into the JSON Schema that editors complete from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr

from pipeline.config.base import Bool, Int, Number, Section
from pipeline.config.sinks import Sink
from pipeline.config.sources import Source, expand_source
from pipeline.config.stages import Stages


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
    cpus: Annotated[Int, Field(ge=1, le=4096)] | None = Field(
        None,
        title="CPUs",
        description="How many of the machine's CPUs the process keeps to while it runs; all of them where there are no "
        "more. Threads that share Python's lock wake up sooner on a few. Default: 8 where a GPU works on files and nothing "
        "but text is written, without plug-ins; else all.",
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
