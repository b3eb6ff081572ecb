from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.sources import Source
from pipeline.config.stages import Decode
from pipeline.decode.ffmpeg import FfmpegDecoder
from pipeline.redact import redact
from pipeline.sources import VideoSpec

OpenVideo = Callable[..., FfmpegDecoder]


@pytest.fixture
def open_video() -> OpenVideo:
    """Opens a path or URL: `open_video(where, threads=, corrupt_frames=, **fields of Source)`."""

    def open_(where: Path | str, *, threads: int = 4, corrupt_frames: str = "keep", **settings: Any) -> FfmpegDecoder:
        is_url = isinstance(where, str) and "://" in where
        source = Source(**{"url" if is_url else "path": str(where)}, **settings)
        spec = VideoSpec("cam", str(where), redact(str(where)), is_url, source)
        return FfmpegDecoder(spec, Decode(threads=threads, corrupt_frames=corrupt_frames))

    return open_
