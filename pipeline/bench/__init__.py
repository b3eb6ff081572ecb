"""What limits a pipeline, and how close it comes to what its parts can do alone: measured, not guessed."""

from pipeline.bench.report import Report
from pipeline.bench.run import bench

__all__ = ["Report", "bench"]
