"""`vramline validate`: checks configurations without running them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pipeline.cli.configs import SetOption, load
from pipeline.cli.console import print_error, print_out, styler
from pipeline.errors import ExitCode, VramlineError


def validate(
    configs: Annotated[list[str], typer.Argument(metavar="CONFIG", help="YAML files, or names of ready ones.")],
    settings: SetOption = None,
) -> None:
    """Check configurations without running them.

    Shows everything that is wrong in them, with file, line and field.

    Ends with 0 if all can be used, else with 2.
    """
    green = styler(sys.stdout, fg="green")
    failed = False
    for name in configs:
        try:
            load(name, settings)
        except VramlineError as error:
            print_error(error)
            failed = True
        else:
            print_out(f"{green('OK')}  {name}")
    if failed:
        raise typer.Exit(int(ExitCode.BAD_CONFIG))
