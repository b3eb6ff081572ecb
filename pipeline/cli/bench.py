"""`vramline bench`: what limits a pipeline, and how close it comes to what its parts can do alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import signals
from pipeline.cli.configs import ConfigArgument, SetOption, load
from pipeline.cli.console import print_note, print_out
from pipeline.cli.run import Device
from pipeline.errors import VramlineError

if TYPE_CHECKING:
    from pipeline.bench.meter import Measurement


class _OutputError(VramlineError):
    """The report cannot be written."""


def bench(
    config: ConfigArgument,
    *,
    settings: SetOption = None,
    device: Annotated[
        Device | None, typer.Option(help="Where to run; auto: cuda where it can be used, else cpu.")
    ] = None,
    sources: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            metavar="N",
            help="Decode N videos at a time, those of the file being repeated. Default: those of the file, as many as a run opens.",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=3600, metavar="S", help="How long each part is measured.")
    ] = 5.0,
    warmup: Annotated[
        float, typer.Option(min=0, max=3600, metavar="S", help="How long each part runs before it is measured.")
    ] = 2.0,
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON to a file; - prints it.")
    ] = None,
) -> None:
    """Measure a pipeline and its parts, and say what limits it.

    Decoding, preprocessing, the model and postprocessing run alone, then the
    whole pipeline, on files that are played in a loop. Outputs go to a
    temporary folder; nothing of yours is written.
    """
    loaded = load(config, settings, device=device.value if device else None)
    to_file = Path(json) if json not in (None, "-") else None
    if to_file is not None:
        _check_that_it_can_be_written(to_file)

    import orjson

    from pipeline.bench import bench as measure
    from pipeline.bench.meter import Timing
    from pipeline.observe import logs
    from pipeline.observe.text import rate

    logs.set_up("debug" if loaded.observe.log_level == "debug" else "warning")
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signals.interrupt)
    fetched: set[str] = set()

    def on_part(part: str, measured: Measurement | None) -> None:
        if measured is None:
            print_note("loading the model ..." if part == "prepare" else f"measuring {part} ...")
        else:
            print_note(f"{part}: {rate(measured.frames_per_s)}")

    def progress(what: str, done: int, total: int | None) -> None:
        if what not in fetched:
            fetched.add(what)
            print_note(f"{what} ...")

    with signals.interruptible():
        report = measure(
            loaded,
            name=config,
            timing=Timing(warmup, seconds),
            sources=sources,
            on_part=on_part,
            progress=progress,
        )
    data = orjson.dumps(report.as_dict(), option=orjson.OPT_INDENT_2)
    if json == "-":
        print_out(data.decode())
        return
    print_out(report.render())
    if to_file is not None:
        _write(to_file, data + b"\n")


def _check_that_it_can_be_written(path: Path) -> None:
    if path.is_dir():
        raise _OutputError(f"--json: {path} is a folder, not a file")
    if not os.access(path.parent, os.W_OK):
        raise _OutputError(f"--json: cannot write to the folder {path.parent}", remedy="choose another path")


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise _OutputError(f"--json: cannot write {path}: {e.strerror or e}") from e
