"""The models as a JSON Schema (draft 2020-12), for editors and validators: `python -m pipeline.config.schema --write`.

It accepts whatever the loader accepts: shorthands, `${NAME}` in place of numbers, truth values and words, and a
`postprocess` without `family` next to a model card. Two things it cannot say: what a variable holds, and the rules
between distant fields (such as two sinks with one path). A variable as `family` or as a sink's `type` is the one
thing that the loader takes and the schema does not: editors could not tell the kinds apart.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from typing import Any

from pipeline.config._generated import generate
from pipeline.config._words import Schema
from pipeline.config.cards import data_dir
from pipeline.config.models import Config
from pipeline.config.postprocess import FAMILIES
from pipeline.config.sinks import SINKS
from pipeline.config.stages import MODEL_SUFFIXES

_NOTES = ("title", "description", "default", "examples")
_REFERENCE = r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"
_VARIABLES: dict[str, Schema] = {
    "Variable": {"type": "string", "pattern": f"^{_REFERENCE}$", "description": "${NAME} or ${NAME:-default}."},
    "TextWithVariable": {"type": "string", "pattern": _REFERENCE, "description": "Text with ${NAME} in it."},
}
_EXACTLY_ONE = {
    "Source": ("path", "url", "media"),
    "ModelSource": ("card", "path"),
    "Roi": ("rect", "polygon"),
    "Zone": ("polygon", "circle"),
}


def json_schema() -> dict[str, Any]:
    """The schema of a configuration file; a new copy at each call."""
    schema = copy.deepcopy(Config.model_json_schema())
    definitions: dict[str, Schema] = schema["$defs"]
    for section in (schema, *definitions.values()):
        section["properties"] = {key: _accept_variables(value) for key, value in section["properties"].items()}
    for name, keys in _EXACTLY_ONE.items():
        definitions[name]["oneOf"] = [
            {"required": [key], "properties": {key: {"not": {"type": "null"}}}} for key in keys
        ]
    for sink in SINKS.values():
        _mark_tag(definitions[sink.__name__], "type")
        definitions[sink.__name__]["required"].append("type")
    _let_cards_complete(definitions)
    schema["$defs"] = dict(sorted((definitions | _VARIABLES).items()))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "vramline pipeline"}


def dumps() -> str:
    """The schema as the text of `configs/schema.json`."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints, writes (`--write`) or checks (`--check`) `configs/schema.json`; returns the exit code."""
    return generate("pipeline.config.schema", data_dir("configs") / "schema.json", dumps(), arguments)


def _accept_variables(schema: Schema) -> Schema:
    """The schema, with `${NAME}` where it does not allow any text already."""
    if "$ref" in schema or "oneOf" in schema:
        return schema
    notes = {key: schema[key] for key in _NOTES if key in schema}
    options = schema.get("anyOf") or [{key: value for key, value in schema.items() if key not in notes}]
    options = [_accept_inside(option) for option in options]
    kinds = {_variable(option) for option in options}
    if "any text" not in kinds:
        options += [{"$ref": f"#/$defs/{kind}"} for kind in sorted(kinds - {""}, reverse=True)]
    return {**(options[0] if len(options) == 1 else {"anyOf": options}), **notes}


def _accept_inside(schema: Schema) -> Schema:
    inner: Schema = {
        key: _accept_variables(schema[key]) for key in ("items", "additionalProperties") if schema.get(key)
    }
    if "prefixItems" in schema:
        inner["prefixItems"] = [_accept_variables(item) for item in schema["prefixItems"]]
    return {**schema, **inner}


def _variable(schema: Schema) -> str:
    """Which definition stands for a variable in place of this value; empty if none can, "any text" if none is needed."""
    kind = schema.get("type")
    if kind in ("integer", "number", "boolean") or (kind is None and "enum" in schema):  # words, true and false
        return "Variable"
    if kind != "string" or isinstance(schema.get("const"), str):
        return ""
    return "TextWithVariable" if schema.keys() & {"enum", "pattern", "minLength"} else "any text"


def _mark_tag(section: Schema, key: str) -> None:
    """The key that tells the sections apart has no default: it is given, or comes from a card."""
    section["properties"][key].pop("default", None)


def _let_cards_complete(definitions: dict[str, Schema]) -> None:
    """With a card `postprocess`, its `family` and its required keys may be left out; without one they may not."""
    needed: list[Schema] = []
    for family, model in FAMILIES.items():
        section = definitions[model.__name__]
        _mark_tag(section, "family")
        keys = section.pop("required", None)
        if keys:
            needed.append({"if": {"properties": {"family": {"const": family}}}, "then": {"required": keys}})
    endings = "|".join(suffix.replace(".", r"\.") for suffix in MODEL_SUFFIXES)
    card: list[Schema] = [
        {"type": "string", "not": {"pattern": f"/|({endings})$"}},
        {"type": "object", "required": ["card"], "properties": {"card": {"type": "string"}}},
    ]
    for name in ("Stages", "SideModel", "CascadeModel"):
        stages = definitions[name]
        stages["required"].remove("postprocess")
        postprocess = stages["properties"]["postprocess"]
        postprocess["anyOf"] = postprocess.pop("oneOf")
        stages["if"] = {"properties": {"model": {"anyOf": card}}}
        stages["else"] = {
            "required": ["postprocess"],
            "properties": {"postprocess": {"required": ["family"], "allOf": needed}},
        }


if __name__ == "__main__":
    sys.exit(main())
