"""vramline: video analytics that never leaves the GPU. Importing it starts no CUDA, no TensorFlow and no thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pipeline.config.models import Config
    from pipeline.errors import VramlineError
    from pipeline.frames import Detections, Frame, Picture, Result
    from pipeline.preprocess.reference import to_rgb
    from pipeline.runtime.pipeline import Pipeline

__all__ = ["Config", "Detections", "Frame", "Picture", "Pipeline", "Result", "VramlineError", "__version__", "to_rgb"]

_HOME = {
    "Config": "pipeline.config.models",
    "Detections": "pipeline.frames",
    "Frame": "pipeline.frames",
    "Picture": "pipeline.frames",
    "Pipeline": "pipeline.runtime.pipeline",
    "Result": "pipeline.frames",
    "VramlineError": "pipeline.errors",
    "to_rgb": "pipeline.preprocess.reference",
}


def __getattr__(name: str) -> Any:
    """Loads the public names on first use, so that `import pipeline` stays quick."""
    if name not in _HOME:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
