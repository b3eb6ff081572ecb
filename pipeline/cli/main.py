"""The program: `vramline COMMAND`. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from pipeline import __version__
from pipeline.cli import bench, doctor, models, plan, run, schema, streams, validate, verify, zones
from pipeline.cli.console import print_error
from pipeline.errors import DeviceLostError, VramlineError

# What BSD's sysexits.h calls EX_SOFTWARE: apart from the codes that say how a run went.
BUG_EXIT_CODE = 70

EXIT_CODES = """\b
Exit codes:
  0    done
  1    done, but some sources or outputs failed
  2    the configuration or the command line is wrong
  3    nothing could run
  4    verify: a raw frame crossed, or a limit was exceeded
  130  interrupted (Ctrl-C, SIGTERM); outputs hold what was done until then
"""

app = typer.Typer(
    help="Video analytics for TensorFlow users: a YAML file turns video into results.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", epilog=EXIT_CODES)(run.run)
app.command("validate")(validate.validate)
app.command("plan")(plan.plan)
app.command("bench", epilog=EXIT_CODES)(bench.bench)
app.command("verify", epilog=EXIT_CODES)(verify.verify)
app.command("schema")(schema.schema)
app.command("zones")(zones.zones)
app.add_typer(models.app, name="models")
app.add_typer(streams.app, name="streams")
app.command("doctor")(doctor.doctor)

COMMANDS = ("run", "validate", "plan", "bench", "verify", "schema", "zones", "models", "streams", "doctor")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vramline {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None, *, default_command: str | None = None) -> None:
    """Runs the program and exits with its code.

    Args:
        arguments: What follows the program's name; `sys.argv`'s by default.
        default_command: What runs when the first argument is neither a command nor a question about the program.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if default_command and words and words[0] not in (*COMMANDS, "-h", "--help", "--version"):
        words.insert(0, default_command)
    if hasattr(sys.stdout, "reconfigure"):
        # A file's name need not be valid text; it should not end the program where it is printed.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(words, prog_name="vramline")
    except VramlineError as error:
        print_error(error)
        if isinstance(error, DeviceLostError):
            # What TensorFlow and CUDA do at a process's end may wait for the device for ever.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(error.exit_code))
        sys.exit(int(error.exit_code))
    except Exception as error:
        from pipeline.observe.logs import redacted_traceback

        sys.stderr.write(redacted_traceback(error))
        sys.exit(BUG_EXIT_CODE)
