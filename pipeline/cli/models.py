"""`vramline models`: the models that cards describe, and a user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.console import print_out

if TYPE_CHECKING:
    from pipeline.inference import ModelDescription
    from pipeline.inference.signature import Format
    from pipeline.stages import TensorInfo

app = typer.Typer(
    help="List, fetch, inspect and convert models.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)


_FORMATS: dict[Format, str] = {
    "saved_model": "SavedModel",
    "keras": "Keras file",
    "keras_h5": "Keras file (HDF5)",
    "graphdef": "frozen GraphDef",
}


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
    from pipeline.observe import logs

    logs.set_up("info")
    for name in names:
        load_model_card(name)  # a wrong name is told before the first download
    for name in names:
        print_out(f"{name}  {_obtain(name)}")


@app.command("inspect")
def inspect(
    model: Annotated[str, typer.Argument(metavar="PATH_OR_CARD", help="A model, or the name of a card.")],
) -> None:
    """Show a model's inputs, outputs and a fitting YAML."""
    from pipeline.config.cards import card_names
    from pipeline.inference import describe_model, suggest_yaml
    from pipeline.observe import logs

    logs.set_up("info")
    a_card = not Path(model).exists() and model in card_names("model")
    description = describe_model(_obtain(model) if a_card else Path(model))
    print_out(_describe(description))
    if a_card:
        print_out(f"The card brings preprocess and postprocess along: in a configuration, `model: {model}` is enough.")
    else:
        print_out(f"A configuration to start from:\n\n{suggest_yaml(description).rstrip()}")


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
    from pipeline.observe import logs
    from pipeline.zoo.tfjs import convert_tfjs

    logs.set_up("info")
    convert_tfjs(model_json, out, Convert(format="tfjs", free_batch=free_batch))
    print_out(str(out))


def _obtain(name: str) -> Path:
    from pipeline.config.models import Observe
    from pipeline.observe.progress import display
    from pipeline.zoo import obtain_model

    with display(Observe()) as progress:
        return obtain_model(name, progress.fetching)


def _describe(description: ModelDescription) -> str:
    from pipeline.inference.signature import show_shape

    def rows(tensors: Sequence[TensorInfo]) -> list[str]:
        width = max((len(tensor.name) for tensor in tensors), default=0)
        return [f"  {tensor.name:<{width}}  {tensor.dtype} {show_shape(tensor.shape)}" for tensor in tensors]

    signature = f", signature {description.signature}" if description.signature else ""
    others = [name for name in description.signatures if name != description.signature]
    return "\n".join(
        [
            f"{description.path}: {_FORMATS[description.format]}{signature}",
            *([f"other signatures: {', '.join(others)}"] if others else []),
            "",
            "inputs",
            *rows(description.inputs),
            "",
            "outputs",
            *rows(description.outputs),
            "",
        ]
    )
