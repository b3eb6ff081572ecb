"""Which videos the configuration means."""

from pipeline.sources.resolve import VideoSpec, resolve

__all__ = ["VideoSpec", "resolve"]
