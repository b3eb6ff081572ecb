"""What the headers of videos say, before anything is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.decode._open import choose_stream, open_container
from pipeline.decode.capabilities import VideoFormat
from pipeline.errors import SourceError
from pipeline.sources.resolve import VideoSpec

# Opening a file takes milliseconds; of a folder of thousands some tell enough.
MOST_PROBED = 64
_THREADS = 4


def formats_of(specs: Sequence[VideoSpec]) -> list[VideoFormat | None]:
    """One for each; None for what cannot be opened, what is no file, and those behind the first `MOST_PROBED` files."""
    files = [i for i, spec in enumerate(specs) if not spec.is_url][:MOST_PROBED]
    found: list[VideoFormat | None] = [None] * len(specs)
    with ThreadPoolExecutor(_THREADS) as pool:
        for i, format in zip(files, pool.map(lambda i: _format_of(specs[i]), files), strict=True):
            found[i] = format
    return found


def _format_of(spec: VideoSpec) -> VideoFormat | None:
    try:
        with open_container(spec) as container:
            return VideoFormat.of_context(choose_stream(spec, container).codec_context)
    except SourceError:  # it says so when its turn comes
        return None
