"""Where results go: `build_sink` turns a `sinks` entry of the configuration into a `pipeline.stages.Sink`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.config import sinks as section
from pipeline.config.plugins import PluginSink
from pipeline.stages import Sink

if TYPE_CHECKING:
    from pipeline.plugins.host import PluginHost

__all__ = ["build_sink"]


def build_sink(
    config: section.Sink, *, several_sources: bool, field: str = "sinks[]", plugins: PluginHost | None = None
) -> Sink:
    """The sink that a section describes; nothing is touched before its `open`.

    Args:
        config: An entry of `sinks`.
        several_sources: Whether the run has more than one source.
        field: Where the entry stands, such as `sinks[0]`.
        plugins: Who loads plug-ins; by default nobody hears how they do.

    Raises:
        SinkError: the section does not fit the number of sources.
        ConfigError: a plug-in cannot be loaded.
    """
    # Imported here: the command line's --help needs neither orjson nor FFmpeg nor Pillow.
    if isinstance(config, section.JsonlSink):
        from pipeline.sinks.jsonl import jsonl_sink

        return jsonl_sink(config)
    if isinstance(config, section.CsvSink):
        from pipeline.sinks.csv import csv_sink

        return csv_sink(config)
    if isinstance(config, section.VideoSink):
        from pipeline.sinks.video import video_sink

        return video_sink(config, several_sources=several_sources)
    if isinstance(config, PluginSink):
        from pipeline.plugins.host import PluginHost
        from pipeline.plugins.sink import GuardedSink

        return GuardedSink((plugins or PluginHost()).load(config, field, closes_itself=True))
    from pipeline.sinks.tensors import tensors_sink

    return tensors_sink(config)
