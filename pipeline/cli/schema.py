"""`vramline schema`: the JSON Schema of the configuration, for editors."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.console import print_out
from pipeline.errors import ConfigError, ConfigIssue

SCHEMA_FILE = "schema.json"


def schema(
    check: Annotated[
        bool, typer.Option("--check", help=f"Only check that configs/{SCHEMA_FILE} is up to date; else end with 2.")
    ] = False,
) -> None:
    """Print the configuration's JSON Schema.

    Editors complete and check YAML files with it.
    """
    from pipeline.config.schema import dumps

    if not check:
        print_out(dumps().rstrip("\n"))
        return

    from pipeline.config.cards import data_dir

    path = data_dir("configs") / SCHEMA_FILE
    written = path.read_text(encoding="utf-8") if path.is_file() else None
    if written != dumps():
        message = "is not here" if written is None else "is not what the models of pipeline.config say"
        raise ConfigError([ConfigIssue(message, file=str(path), hint="python -m pipeline.config.schema --write")])
    print_out(f"OK  {path}")
