"""What every section of the configuration is made of."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Strict

# Strict, so that the loader and the JSON Schema agree: '8' is text, true is no number and 1 is no truth value.
Int = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Bool = Annotated[bool, Strict()]
Byte = Annotated[Int, Field(ge=0, le=255)]
Fraction01 = Annotated[Number, Field(ge=0, le=1)]
PositiveInt = Annotated[Int, Field(ge=1)]
Triple = tuple[Number, Number, Number]
Labels = str | list[str] | dict[int, str]
Url = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://", examples=["https://example.org/clip.mp4"])]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False, defer_build=True
    )


def one_of(section: BaseModel, *names: str) -> None:
    """Raises `ValueError` unless exactly one of these fields is set; for a validator."""
    given = [name for name in names if getattr(section, name) is not None]
    if len(given) != 1:
        found = f"found {' and '.join(given)}" if given else "found none"
        raise ValueError(f"give exactly one of {', '.join(names)}; {found}")


def tag(key: str) -> Discriminator:
    """Tells the members of a union apart by the value of this key."""
    return Discriminator(lambda value: value.get(key) if isinstance(value, dict) else getattr(value, key, None))


def members(union: Any) -> dict[str, type[Section]]:
    """Those of a union of sections that are told apart by tags: tag -> section, in the union's order."""
    choices, _ = get_args(union)
    return {choice.tag: section for section, choice in map(get_args, get_args(choices))}
