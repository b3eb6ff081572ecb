"""A configuration as it is run on trial: nothing of the user's is written, and its files last for as long as they must."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from pipeline.config.models import Config
from pipeline.config.sinks import FileSink, Sink, VideoSink
from pipeline.config.sources import Source
from pipeline.errors import SourceError
from pipeline.runtime.build import Progress, find_videos
from pipeline.runtime.engines import open_sources
from pipeline.sources.resolve import VideoSpec

_SOURCE = "{source}"
_MOST_COPIES = 100


def rehearsal(config: Config, folder: Path, frames: int, progress: Progress | None = None) -> Config:
    """The configuration with its outputs in a folder, no report, no HTTP interface, and files repeated to give enough frames.

    Plug-ins run as they are: what they write or send is their own affair.

    Args:
        config: What is to be tried.
        folder: An empty one.
        frames: How many frames its files together should give.
        progress: Told of clips that are fetched.
    """
    sinks = [_elsewhere(sink, folder / f"sink{i}") for i, sink in enumerate(config.sinks)]
    sources = [_without_heatmap_of_the_user(source, folder) for source in config.sources]
    runtime, observe = config.runtime, config.observe
    if config.may_grow:  # it batches as a live run does, and should go on doing so without the interface
        runtime = runtime.model_copy(update={"stay_alive": True})
    observe = observe.model_copy(update={"http": None, "report": None, "summary": False, "progress": "never"})
    specs = [spec for spec in find_videos(config.sources, progress) if not isinstance(spec, SourceError)]
    copies = _copies(specs, frames)
    if copies > 1:
        at_a_time = open_sources(config, "cuda", len(specs))
        sources = sources * copies  # each gets an id of its own
        runtime = runtime.model_copy(update={"open_sources": at_a_time})
    return config.model_copy(update={"sinks": sinks, "sources": sources, "runtime": runtime, "observe": observe})


def _elsewhere(sink: Sink, folder: Path) -> Sink:
    if not isinstance(sink, FileSink):
        return sink
    name = sink.path.name
    # A repeated source is another source, which cannot share an annotated video.
    if _SOURCE in str(sink.path.parent) or (isinstance(sink, VideoSink) and _SOURCE not in name):
        folder = folder / _SOURCE
    return sink.model_copy(update={"path": folder / name, "overwrite": True})


def _without_heatmap_of_the_user(source: Source, folder: Path) -> Source:
    analytics = source.analytics
    if analytics is None or analytics.heatmap is None:
        return source
    heatmap = analytics.heatmap.model_copy(update={"path": folder / "heatmaps" / f"{_SOURCE}.png", "overwrite": True})
    return source.model_copy(update={"analytics": analytics.model_copy(update={"heatmap": heatmap})})


def _copies(specs: Sequence[VideoSpec], frames: int) -> int:
    """How often the files must be gone through to give so many frames."""
    if not specs or any(spec.is_url for spec in specs):
        return 1
    known = 0
    for spec in specs:
        known += _declared_frames(spec)
        if known >= frames:
            return 1
    return min(_MOST_COPIES, math.ceil(frames / max(known, 1)))


def _declared_frames(spec: VideoSpec) -> int:
    """What the file says that it holds, or what is wanted of it if that is less; 0 where it says nothing."""
    import av

    try:
        with av.open(spec.location) as container:
            stream = container.streams.video[0]
            declared = stream.frames
            if not declared and container.duration and stream.average_rate:
                declared = int(container.duration / 1e6 * stream.average_rate)
    except (av.error.FFmpegError, OSError, IndexError):
        return 0  # the run says what is wrong with it
    limit = spec.settings.max_frames
    return declared if limit is None else min(declared or limit, limit)
