"""Model and media cards: YAML files in `models/` that say where a model or clip comes from and how it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from pipeline.config._issues import did_you_mean
from pipeline.config._nodes import Node, plain_data
from pipeline.config._translate import translate
from pipeline.config._yaml import decode, parse
from pipeline.config.base import Section
from pipeline.errors import ConfigError, ConfigIssue, VramlineError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# A name begins with no "-", so that no client takes it for an option; a path stays inside its package.
PackageName = Annotated[str, Field(pattern=r"^(@[a-z0-9][a-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=214)]
PackageVersion = Annotated[str, Field(pattern=r"^[0-9][A-Za-z0-9.+!-]*$", max_length=100)]
_PATH_PATTERN = r"^[^/\\\x00-\x1f]+(/[^/\\\x00-\x1f]+)*$"
PathInPackage = Annotated[str, Field(pattern=_PATH_PATTERN, max_length=500)]
TensorName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]


class PackageFile(Section):
    """A file inside a published package."""

    registry: Literal["npm", "pypi"] = Field(..., title="Registry", description="Where the package is published.")
    package: PackageName = Field(..., title="Package", description="Its name.")
    version: PackageVersion = Field(..., title="Version", description="Its exact version.")
    file: PathInPackage = Field(..., title="File", description="Path of the file inside the package.")
    sha256: dict[PathInPackage, Sha256] = Field(
        ..., title="SHA-256", description="Path inside the package -> sha256, of every file that is used.", min_length=1
    )

    @model_validator(mode="after")
    def _check(self) -> PackageFile:
        if self.file not in self.sha256:
            raise ValueError(f"sha256 lacks the file itself: {self.file}")
        climbing = [path for path in self.sha256 if {".", ".."} & set(path.split("/"))]
        if climbing:
            raise ValueError(f"paths lie inside the package, without . and ..; found {climbing[0]}")
        return self


class Convert(Section):
    """How the file becomes a SavedModel."""

    format: Literal["tfjs"] = Field(
        ..., title="Format", description="tfjs: a TensorFlow.js graph model (model.json and weight shards)."
    )
    inputs: dict[TensorName, str] | None = Field(
        None, title="Inputs", description="New input name -> tensor in the graph. Default: the graph's placeholders."
    )
    outputs: dict[TensorName, str] | None = Field(
        None, title="Outputs", description="New output name -> tensor in the graph. Default: the graph's own outputs."
    )
    free_batch: bool = Field(
        False, title="Free batch", description="Free the batch dimension of a graph that was exported with batch 1."
    )
    input_shape: list[int | None] | None = Field(
        None, title="Input shape", description="Of the only input, null for free dimensions. Default: the graph's."
    )
    input_dtype: Literal["uint8", "float32"] | None = Field(
        None,
        title="Input data type",
        description="Of the only input; it is cast to the graph's own. Default: the graph's.",
    )


class ModelCard(Section):
    """A model that `vramline` can obtain by itself."""

    card: Literal[1] = Field(..., title="Version", description="Of the card format.")
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] = Field(
        ..., title="Name", description="What a configuration calls it."
    )
    title: str = Field(..., title="Title", description="One line for people.")
    task: Literal["detection", "classification", "pose", "segmentation"] = Field(
        ..., title="Task", description="What it does."
    )
    licence: str = Field(..., title="Licence", description="SPDX identifier.")
    homepage: str | None = Field(None, title="Home page", description="Where to read about it.")
    source: PackageFile = Field(..., title="Source", description="Where it comes from.")
    convert: Convert = Field(..., title="Conversion", description="How it becomes a SavedModel.")
    preprocess: dict[str, Any] = Field(..., title="Preprocess", description="Defaults for `pipeline.preprocess`.")
    postprocess: dict[str, Any] = Field(..., title="Postprocess", description="Defaults for `pipeline.postprocess`.")


class MediaCard(Section):
    """A clip that `vramline` can obtain by itself."""

    card: Literal[1] = Field(..., title="Version", description="Of the card format.")
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] = Field(
        ..., title="Name", description="What a configuration calls it."
    )
    title: str = Field(..., title="Title", description="One line for people.")
    licence: str = Field(..., title="Licence", description="SPDX identifier.")
    source: PackageFile = Field(..., title="Source", description="Where it comes from.")


class CardError(VramlineError):
    """A card that does not exist or cannot be read."""


def data_dir(name: Literal["models", "configs"]) -> Path:
    """The folder of cards or ready configurations: in a checkout the top-level one, else the one in the wheel."""
    package = Path(__file__).resolve().parent.parent
    packed = package / "_data" / name
    return packed if packed.is_dir() else package.parent / name


def card_names(kind: Literal["model", "media"] = "model") -> list[str]:
    """The names of all cards of a kind, sorted."""
    return sorted(path.stem for path in _card_dir(kind).glob("*.yaml"))


def load_model_card(name: str) -> ModelCard:
    """The model card of this name.

    Raises:
        CardError: there is none, or it is not valid; the message names the nearest one.
    """
    return _load("model", name, ModelCard)


def load_media_card(name: str) -> MediaCard:
    """The media card of this name; raises `CardError` as `load_model_card` does."""
    return _load("media", name, MediaCard)


def read_model_card(name: str) -> Node:
    """The model card of this name as a tree that knows its lines; raises `CardError` as `load_model_card` does."""
    return _read("model", name, ModelCard)[1]


CardT = TypeVar("CardT", ModelCard, MediaCard)


def _card_dir(kind: Literal["model", "media"]) -> Path:
    return data_dir("models") if kind == "model" else data_dir("models") / "media"


def _load(kind: Literal["model", "media"], name: str, model: type[CardT]) -> CardT:
    return _read(kind, name, model)[0]


def _read(kind: Literal["model", "media"], name: str, model: type[CardT]) -> tuple[CardT, Node]:
    path = _card_dir(kind) / f"{name}.yaml"
    if name not in card_names(kind):
        near = did_you_mean(name, card_names(kind))
        raise CardError(
            f"no {kind} card is named {name!r}", remedy=near or f"there are: {', '.join(card_names(kind)) or 'none'}"
        )
    issues: list[ConfigIssue] = []
    try:
        root = parse(decode(path.read_bytes(), str(path)), str(path), issues)
        card = model.model_validate(plain_data(root))
    except ValidationError as e:
        issues += translate(e.errors(include_url=False, include_input=False), root, model.model_json_schema())
    except ConfigError as e:
        issues += e.issues
    if issues:
        raise CardError(f"not a valid {kind} card: {'; '.join(map(str, issues))}")
    if card.name != name:
        raise CardError(f"{path}: the card's name is {card.name!r}; a card is named as its file")
    return card, root
