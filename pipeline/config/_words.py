"""A JSON Schema in plain words: "a whole number from 1 to 64", "one of 'skip', 'stop'"."""

from __future__ import annotations

from typing import Any

from pipeline.config._issues import one_of

Schema = dict[str, Any]

_NOUNS = {
    "integer": ("a whole number", "whole numbers"),
    "number": ("a number", "numbers"),
    "string": ("text", "texts"),
    "boolean": ("true or false", "true or false"),
    "null": ("null", "nulls"),
}


def resolve_reference(schema: Schema, root: Schema) -> Schema:
    """The schema that a `$ref` stands for; others as they are."""
    reference = schema.get("$ref")
    return root["$defs"][reference.rpartition("/")[2]] if reference else schema


def alternatives(schema: Schema, root: Schema) -> list[Schema]:
    """What a schema allows, one by one, without null."""
    schema = resolve_reference(schema, root)
    options = schema.get("anyOf") or schema.get("oneOf")
    if options is None:
        return [schema]
    return [inner for option in options for inner in alternatives(option, root) if inner.get("type") != "null"]


def tag_of(schema: Schema) -> tuple[str, str] | None:
    """(key, value) that picks this section out of several, such as ("type", "jsonl"); None if nothing does."""
    for key in ("type", "family"):
        value = schema.get("properties", {}).get(key, {}).get("const")
        if isinstance(value, str):
            return key, value
    return None


def describe(schema: Schema, root: Schema, *, many: bool = False) -> str:
    """What a value may be.

    Args:
        schema: Of the value.
        root: Of the whole, with `$defs`.
        many: Whether the words are for the items of a list or mapping.
    """
    schema = resolve_reference(schema, root)
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        tags = [tag for option in options if (tag := tag_of(resolve_reference(option, root)))]
        if tags:
            return f"a mapping with the key {tags[0][0]}: {one_of([value for _, value in tags])}"
        return ", or ".join(describe(option, root, many=many) for option in options)
    if "const" in schema or "enum" in schema:
        return one_of(schema.get("enum", [schema.get("const")]))
    if schema["type"] in ("array", "object"):
        return (_list if schema["type"] == "array" else _mapping)(schema, root, many)
    noun = "a path" if schema.get("format") == "path" else _NOUNS[schema["type"]][many]
    return noun + _length(schema, "Length", "character") + _bounds(schema) + _example(schema)


def _list(schema: Schema, root: Schema, many: bool) -> str:
    noun = "lists" if many else "a list"
    fixed = schema.get("prefixItems")
    if fixed:
        return f"{noun} of {len(fixed)} {describe(fixed[0], root, many=True)}"
    return f"{noun} of {describe(schema['items'], root, many=True)}{_length(schema, 'Items', 'item')}"


def _mapping(schema: Schema, root: Schema, many: bool) -> str:
    noun = "mappings" if many else "a mapping"
    if "properties" in schema:
        return f"{noun} with keys of {', '.join(schema['properties'])}"
    if "additionalProperties" not in schema:
        return noun
    return f"{noun} from names to {describe(schema['additionalProperties'], root, many=True)}"


def _length(schema: Schema, what: str, noun: str) -> str:
    least, most = schema.get(f"min{what}"), schema.get(f"max{what}")
    if least is not None and most is not None:
        return f" ({least} to {most} {noun}s)"
    if least is not None:
        return f" (at least {least} {noun}{'s' if least != 1 else ''})"
    return "" if most is None else f" (at most {most} {noun}s)"


def _bounds(schema: Schema) -> str:
    least, above, most = (schema.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if least is not None:
        return f" from {_number(least)} to {_number(most)}" if most is not None else f" from {_number(least)} on"
    if above is not None:
        return f" above {_number(above)}" + (f", at most {_number(most)}" if most is not None else "")
    return "" if most is None else f" of at most {_number(most)}"


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e6 else str(value)


def _example(schema: Schema) -> str:
    return f" that starts like {schema['examples'][0]!r}" if "pattern" in schema and "examples" in schema else ""
