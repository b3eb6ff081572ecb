"""`vramline models`: the models that cards describe, and a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import print_out

app = typer.Typer(
    help="List, fetch, inspect and convert models.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)


@app.command("list")
def list_models() -> None:
    """List the models that a configuration can name."""
    from pipeline.config.cards import card_names, load_model_card
    from pipeline.zoo import is_cached

    cards = [load_model_card(name) for name in card_names("model")]
    rows = [("NAME", "TASK", "LICENCE", "HERE", "TITLE")]
    rows += [(c.name, c.task, c.licence, "yes" if is_cached(c.name) else "no", c.title) for c in cards]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print_out("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command("get")
def get(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Names that `vramline models list` shows.")],
) -> None:
    """Fetch and convert models now, so that the first run need not."""
    from pipeline.config.cards import load_model_card
    from pipeline.config.models import Observe
    from pipeline.observe import logs
    from pipeline.observe.progress import display
    from pipeline.zoo import obtain_model

    for name in names:
        load_model_card(name)  # a wrong name is told before the first download
    logs.set_up("info")
    for name in names:
        with display(Observe()) as progress:
            path = obtain_model(name, progress.fetching)
        print_out(f"{name}  {path}")


@app.command("inspect")
def inspect(
    model: Annotated[str, typer.Argument(metavar="PATH_OR_CARD", help="A model, or the name of a card.")],
) -> None:
    """Show a model's inputs, outputs and a fitting YAML."""
    from pipeline.config.cards import card_names
    from pipeline.inference import describe_model, suggest_yaml
    from pipeline.zoo import obtain_model

    path = obtain_model(model) if not Path(model).exists() and model in card_names("model") else Path(model)
    print_out(describe_model(path))
    print_out(suggest_yaml(path))


@app.command("convert")
def convert(
    model_json: Annotated[Path, typer.Argument(metavar="MODEL.json", help="A TensorFlow.js graph model.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the SavedModel; must be new or empty.")],
    free_batch: Annotated[
        bool, typer.Option("--free-batch", help="Let a model that was exported for one image take any number.")
    ] = False,
) -> None:
    """Convert a TensorFlow.js graph model to a SavedModel."""
    from pipeline.config.cards import Convert
    from pipeline.zoo.tfjs import convert_tfjs

    convert_tfjs(model_json, out, Convert(format="tfjs", free_batch=free_batch))
    print_out(str(out))
