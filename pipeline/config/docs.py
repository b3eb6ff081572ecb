"""`docs/configuration.md` from the models: `python -m pipeline.config.docs --write`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import analytics, models, plugins, postprocess, sinks, sources, stages
from pipeline.config._generated import generate
from pipeline.config._words import Schema, describe, resolve_reference
from pipeline.config.base import Section
from pipeline.config.tracking import TRACKERS, TrackerSection

_FILE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"

_INTRODUCTION = """\
<!-- Written by python -m pipeline.config.docs --write from the models in pipeline/config; change it there. -->

# Configuration

One YAML file says what is processed, how, and where the results go. `vramline validate FILE` checks it without running
it and tells everything that is wrong at once, each with line, field and what is allowed. With this first line an editor
completes and checks the keys as you type:

```yaml
# yaml-language-server: $schema=schema.json
version: 1
sources: [clips/a.mp4]
pipeline: {model: coco-ssd}
sinks: [{type: jsonl, path: out.jsonl}]
```

- **Values.** YAML as version 1.2 reads it: `yes`, `on` and `12:30` are text, only `true` and `false` are truth values.
  Numbers are not quoted; text that looks like a number is. `&anchor`, `*alias` and `<<` work; tags (`!!...`) do not.
- **Environment.** `${NAME}` and `${NAME:-default}` (also used if NAME is empty) work in every value. One that is the
  whole value, unquoted, may be a number: `batch_size: ${BATCH:-8}`. `$${` stands for `${`. Inside `[ ]` and `{ }` YAML
  wants quotes around them, which make text. Messages show the name, never the value.
- **Command line.** `--set KEY=VALUE` replaces one value: `--set pipeline.preprocess.fit=stretch`,
  `--set sinks[0].path=out.jsonl`, `--set sources=[a.mp4,b.mp4]`. The index behind the last adds an item.
- **Cards.** If a `model` (the pipeline's, or one of `models` and `cascade`) names a model card, the `preprocess` and `postprocess`
  beside it start from the card's; your keys win. If you name another `family` than the card, its `postprocess` is left aside.
- **Sources and models** may be plain text: see there.
"""

_SECTIONS: list[tuple[str, type[Section]]] = [
    ("The file", models.Config),
    ("`sources[]`", sources.Source),
    ("`sources[].roi`", sources.Roi),
    ("`sources[].colour`", sources.ColourOverride),
    ("`sources[].analytics`", analytics.SourceAnalytics),
    ("`sources[].analytics.lines[]`", analytics.Line),
    ("`sources[].analytics.zones[]`", analytics.Zone),
    ("`sources[].analytics.zones[].circle`", analytics.Circle),
    ("`sources[].analytics.ground`", analytics.Ground),
    ("`sources[].analytics.heatmap`", analytics.Heatmap),
    ("`pipeline`", stages.Stages),
    ("`pipeline.decode`", stages.Decode),
    ("`pipeline.preprocess`", stages.Preprocess),
    ("`pipeline.model`", stages.ModelSource),
    ("`pipeline.models[]`", stages.SideModel),
    ("`pipeline.cascade[]`", stages.CascadeModel),
    ("`pipeline.plugins[]`", plugins.StagePlugin),
]


def dumps() -> str:
    """The text of `docs/configuration.md`."""
    return "\n".join(_lines())


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints, writes (`--write`) or checks (`--check`) `docs/configuration.md`; returns the exit code."""
    return generate("pipeline.config.docs", _FILE, dumps(), arguments)


def _lines() -> Iterator[str]:
    yield _INTRODUCTION
    for heading, section in _SECTIONS:
        yield from _section(heading, section)
    yield from _kinds("`pipeline.postprocess`", "family", postprocess.FAMILIES, postprocess.DetectionPost)
    yield from _kinds("`pipeline.tracker`", "type", TRACKERS, TrackerSection)
    yield from _kinds("`sinks[]`", "type", sinks.SINKS, sinks.FileSink)
    yield from _section("`runtime`", models.Runtime)
    yield from _section("`observe`", models.Observe)


def _section(heading: str, section: type[Section], level: int = 2) -> Iterator[str]:
    yield f"{'#' * level} {heading}\n\n{section.__doc__}\n"
    yield from _table(section.model_json_schema())


def _kinds(heading: str, tag: str, kinds: dict[str, type[Section]], shared: type[Section]) -> Iterator[str]:
    """One table of what several kinds share, then one of each kind's own keys."""
    sharing = [f"`{name}`" for name, kind in kinds.items() if issubclass(kind, shared)]
    yield f"## {heading}\n\n`{tag}` says which kind: {', '.join(f'`{name}`' for name in kinds)}.\n"
    yield f"### Shared by {', '.join(sharing)}\n"
    common = shared.model_json_schema()
    yield from _table(common)
    for name, kind in kinds.items():
        schema = kind.model_json_schema()
        inherited = common["properties"] if issubclass(kind, shared) else {}
        own = {k: v for k, v in schema["properties"].items() if k != tag and inherited.get(k) != v}
        yield f"### `{tag}: {name}`\n\n{kind.__doc__}\n"
        if own:
            yield from _table({**schema, "properties": own})


def _table(schema: Schema) -> Iterator[str]:
    yield "| key | takes | default | meaning |\n| --- | --- | --- | --- |"
    required = schema.get("required", ())
    for key, value in schema["properties"].items():
        default = "**required**" if key in required else _default(value)
        if key == "postprocess":
            default += " without a card"
        meaning = value.get("description") or resolve_reference(value, schema)["description"]
        yield f"| `{key}` | {_cell(_takes(value, schema))} | {default} | {_cell(meaning)} |"
    yield ""


def _takes(value: Schema, root: Schema) -> str:
    """What a key takes; sections have a table of their own and are only named."""
    if "oneOf" in value or "oneOf" in value.get("items", {}):
        return "mappings, see below" if "items" in value else "a mapping, see below"
    if value.get("type") == "array" and "anyOf" in value.get("items", {}):
        return f"a list, each {_takes(value['items'], root)}"
    options: list[Any] = [option for option in value.get("anyOf", [value]) if option.get("type") != "null"]
    return ", or ".join("a mapping, see below" if "$ref" in option else describe(option, root) for option in options)


def _default(value: Schema) -> str:
    default = value.get("default")
    return "" if default is None or default in ({}, []) else f"`{json.dumps(default)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
