"""The command line of the modules that write a file of the repository: print, `--write` or `--check` it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def generate(module: str, path: Path, text: str, arguments: Sequence[str] | None) -> int:
    """Prints the text, or writes it to the file, or compares it with the file; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=f"What {path.name} is to hold.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--write", action="store_true", help="write the file")
    choice.add_argument("--check", action="store_true", help="fail if the file is not up to date")
    options = parser.parse_args(arguments)
    if options.write:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    elif not options.check:
        sys.stdout.write(text)
    elif not path.is_file() or path.read_text(encoding="utf-8") != text:
        sys.stderr.write(f"{path.name} is not up to date: run python -m {module} --write\n")
        return 1
    return 0
