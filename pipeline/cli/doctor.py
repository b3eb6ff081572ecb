"""`vramline doctor`: what this machine can do, and how to get what is missing."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import __version__
from pipeline.cli.console import print_note, print_out, styler
from pipeline.errors import ExitCode

if TYPE_CHECKING:
    from pipeline.observe.checks import Check

_COLOURS = {"ok": "green", "missing": "yellow", "problem": "red"}
_LEVEL_WIDTH, _NAME_WIDTH = 9, 16
_WIDEST = 100


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Say what this machine can do, and how to get what is missing.

    Ends with 0 if pipelines can run here, on whatever device, else with 3.
    """
    from pipeline.observe import checks, machine
    from pipeline.observe.facts import gather
    from pipeline.zoo import cache_dir

    if sys.stderr.isatty():
        print_note("Looking at this machine; importing TensorFlow takes some seconds ...")
    facts = gather(cache_dir())
    found = checks.checks(facts)
    works = checks.cpu_engine_works(found)
    engine, reason = machine.choose_device("auto", lambda: facts.gpu_setup)
    if as_json:
        lines = [dataclasses.asdict(check) for check in found]
        auto = {"engine": engine if works else None, "reason": reason}
        print_out(json.dumps({"version": __version__, "checks": lines, "auto": auto}, indent=2))
    else:
        print_out(_report(found))
        print_out(_verdict(works, engine, reason))
    if not works:
        raise typer.Exit(int(ExitCode.NOTHING_COULD_RUN))


def _verdict(works: bool, engine: str, reason: str) -> str:
    bold = styler(sys.stdout, bold=True)
    if not works:
        return bold("Nothing can run here yet:") + " the cpu engine lacks what is marked above."
    return f"{bold(f'device: auto takes {engine}')} ({reason})."


def _report(found: list[Check]) -> str:
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    bold = styler(sys.stdout, bold=True)
    blocks = []
    for group in dict.fromkeys(check.group for check in found):
        lines = [line for check in found if check.group == group for line in _lines(check, width)]
        blocks.append("\n".join([bold(group), *lines]))
    return "\n\n".join([f"vramline {__version__}", *blocks]) + "\n"


def _lines(check: Check, width: int) -> list[str]:
    level = styler(sys.stdout, fg=_COLOURS[check.level.value])(f"{check.level.value:<{_LEVEL_WIDTH}}")
    indent = " " * (2 + _LEVEL_WIDTH + _NAME_WIDTH)
    wrapped = textwrap.wrap(
        check.detail, max(width - len(indent), 20), break_long_words=False, break_on_hyphens=False
    ) or [""]
    lines = [f"  {level}{check.name:<{_NAME_WIDTH}}{wrapped[0]}", *(indent + line for line in wrapped[1:])]
    # A command stays in one piece: it is there to be copied.
    return [*lines, f"{' ' * (2 + _LEVEL_WIDTH)}-> {check.remedy}"] if check.remedy else lines
