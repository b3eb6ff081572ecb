"""The configuration that is measured in a user's stead: files in a loop, outputs where they harm nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.bench.meter import BenchError
from pipeline.config.models import Config
from pipeline.config.plugins import PluginSink
from pipeline.config.sinks import FileSink, Sink, VideoSink
from pipeline.config.sources import Source
from pipeline.errors import SourceError
from pipeline.sources.resolve import VideoSpec


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        config: The configuration that runs.
        left_out: What of the user's configuration does not take part, in words.
    """

    config: Config
    left_out: tuple[str, ...]


def make_plan(config: Config, videos: Sequence[VideoSpec | SourceError], open_videos: int, folder: Path) -> Plan:
    """The plan for a configuration.

    Args:
        config: The user's.
        videos: What its sources name; each is a file.
        open_videos: How many are decoded at a time; videos are repeated if there are fewer.
        folder: Where outputs go, in place of where the user wants them.

    Raises:
        SourceError: a source names nothing.
        BenchError: a source is no file.
    """
    for video in videos:
        if isinstance(video, SourceError):
            raise video
    specs = [video for video in videos if isinstance(video, VideoSpec)]
    for spec in specs:
        _check_that_it_is_a_file(spec)
    if not specs:
        raise BenchError("there is no video to measure with")
    left_out = []
    if len(specs) > open_videos:
        left_out.append(f"{len(specs) - open_videos} of the {len(specs)} videos: {open_videos} are open at a time")
    if any(spec.settings.max_frames is not None for spec in specs):
        left_out.append("max_frames: videos are played in a loop")
    sinks = []
    for i, sink in enumerate(config.sinks):
        if isinstance(sink, PluginSink):
            left_out.append(f"sinks[{i}]: a plug-in's output cannot be put elsewhere")
        else:
            sinks.append(_moved(sink, folder / f"sink{i}", several=open_videos > 1))
    sources = [_looped(specs[n % len(specs)], n // len(specs), n, folder) for n in range(open_videos)]
    runtime = config.runtime.model_copy(update={"open_sources": open_videos, "stay_alive": False})
    observe = config.observe.model_copy(update={"http": None, "report": None})
    changes = {"sources": sources, "sinks": sinks, "runtime": runtime, "observe": observe}
    return Plan(config.model_copy(update=changes), tuple(left_out))


def _check_that_it_is_a_file(spec: VideoSpec) -> None:
    if not spec.is_url:
        return
    kind = "a live stream" if spec.settings.is_live else "a URL"
    raise BenchError(
        f"{spec.source_id}: is {kind}, which cannot be read as fast as this machine can work",
        remedy="record a minute of it (ffmpeg -i URL -t 60 -c copy clip.mp4) and give --set sources=[clip.mp4]",
    )


def _looped(spec: VideoSpec, repetition: int, number: int, folder: Path) -> Source:
    name = spec.source_id if repetition == 0 else f"{spec.source_id}~{repetition + 1}"
    analytics = spec.settings.analytics
    if analytics is not None and analytics.heatmap is not None:
        heatmap = analytics.heatmap.model_copy(update={"path": folder / f"heatmap{number}.png", "overwrite": True})
        analytics = analytics.model_copy(update={"heatmap": heatmap})
    changes = {
        "path": spec.location,
        "media": None,
        "id": name,
        "loop": True,
        "max_frames": None,
        "on_error": "skip",
        "analytics": analytics,
    }
    return spec.settings.model_copy(update=changes)


def _moved(sink: FileSink, folder: Path, *, several: bool) -> Sink:
    """The same output in another folder; one for each source where there is one, or where several cannot share it."""
    name = sink.path.name
    is_split = "{source}" in str(sink.path) or (isinstance(sink, VideoSink) and several)
    if is_split and "{source}" not in name:
        name = "{source}-" + name
    moved: Sink = sink.model_copy(update={"path": folder / name, "overwrite": True})  # type: ignore[assignment]
    return moved
