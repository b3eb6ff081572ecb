"""What the cards promise: a SavedModel or a clip, from the cache or, the first time, from its package."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from pydantic import BaseModel

from pipeline.cache import cache_dir
from pipeline.config.cards import ModelCard, load_media_card, load_model_card
from pipeline.zoo.apart import convert_apart
from pipeline.zoo.cache import cached
from pipeline.zoo.fetch import fetch
from pipeline.zoo.progress import Progress, silent

# Part of every model's key: raise it when the converter makes something else of the same files.
_CONVERTER = "1"


def obtain_model(name: str, progress: Progress | None = None) -> Path:
    """The SavedModel folder of a model card; fetched and converted if it is not in the cache.

    With the model in the cache nothing is started and no network is needed.

    Raises:
        CardError: there is no such card.
        AssetError: the package could not be fetched or verified, or its file not converted, or the cache not written.
    """
    card = load_model_card(name)
    tell = progress or silent

    def build(out: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".source.", dir=out.parent) as work:
            files = Path(work) / "files"
            files.mkdir()
            model_json = fetch(card.source, files, tell)
            convert_apart(model_json, out, card.convert, Path(work), lambda: tell(f"converting {name}", 0, None))

    return cached(_model_key(card), build, tell)


def obtain_media(name: str, progress: Progress | None = None) -> Path:
    """The file of a media card; fetched if it is not in the cache. Raises what `obtain_model` does."""
    card = load_media_card(name)
    tell = progress or silent

    def build(out: Path) -> None:
        fetch(card.source, out, tell)

    return cached(f"media/{name}-{_digest(card.source)}", build, tell) / card.source.file


def is_cached(name: str) -> bool:
    """Whether the model of this card is in the cache, so that `obtain_model` needs no network."""
    return (cache_dir() / _model_key(load_model_card(name))).is_dir()


def _model_key(card: ModelCard) -> str:
    return f"models/{card.name}-{_digest(card.source, card.convert, _CONVERTER)}"


def _digest(*parts: BaseModel | str) -> str:
    """12 hex digits that change whenever a part does."""
    texts = [part if isinstance(part, str) else part.model_dump_json() for part in parts]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
