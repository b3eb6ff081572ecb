"""`vramline verify`: runs some batches under a tracer and says what crossed between host and device."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import signals
from pipeline.cli.configs import ConfigArgument, SetOption, load
from pipeline.cli.console import print_note, print_out, styler
from pipeline.cli.run import Device
from pipeline.errors import ExitCode, SinkError

if TYPE_CHECKING:
    from pipeline.runtime.verify import Verification


def verify(  # noqa: PLR0917
    config: ConfigArgument,
    settings: SetOption = None,
    device: Annotated[Device | None, typer.Option(help="Where to run; there must be a GPU.")] = None,
    batches: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Measure N batches.")] = 50,
    warm_up: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Leave out the first N batches.")] = 10,
    max_down_bytes_per_frame: Annotated[
        int, typer.Option(min=0, metavar="BYTES", help="Most bytes a frame from the device to the host.")
    ] = 4096,
    max_waits_per_batch: Annotated[
        float, typer.Option(min=0, metavar="N", help="How often the host may wait for the device in a batch.")
    ] = 1.0,
    allow_drawing: Annotated[
        bool, typer.Option("--allow-drawing", help="Let pixels come to the host for sinks that draw, such as video.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the account as JSON; - is stdout.")
    ] = None,
) -> None:
    """Check that frames stay on the GPU.

    Runs the pipeline on trial, with its outputs in a temporary folder, and counts by stage what is copied between host and
    device, how often the host waits for it and how many kernels run. Ends with 4 if a raw frame crossed or a limit is
    exceeded.
    """
    loaded = load(config, settings, device=device.value if device else None)

    from pipeline.observe import logs, progress
    from pipeline.observe.trace.cupti import open_tracer
    from pipeline.observe.trace.verdict import Limits
    from pipeline.runtime.verify import Plan, Verifier

    logs.set_up(loaded.observe.log_level)
    limits = Limits(max_down_bytes_per_frame, max_waits_per_batch)
    display = progress.display(loaded.observe)
    plan = Plan(batches, warm_up, limits, allow_drawing)
    verifier = Verifier(loaded, plan, open_tracer, progress=display.fetching)
    with display, signals.on_interrupt(verifier.interrupt), signals.interruptible():
        found = verifier()
    if found is None:
        print_note("Interrupted: nothing was verified.")
        raise typer.Exit(int(ExitCode.INTERRUPTED))
    _show(found, config, json_file)
    raise typer.Exit(int(_exit_code(found)))


def _show(found: Verification, config: str, json_file: Path | None) -> None:
    from pipeline.observe.machine import driver
    from pipeline.observe.trace.report import as_dict, render
    from pipeline.runtime.ranges import OPEN

    gpu = next((gpu.name for gpu in driver().gpus), "GPU")
    account, verdicts = found.account, found.verdicts
    if json_file is not None:
        import orjson

        content = {"config": config, "gpu": gpu, **as_dict(account, verdicts, found.plan.limits, uncounted=[OPEN])}
        _write(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE), json_file)
        if str(json_file) == "-":
            return
    out = sys.stdout
    table = render(
        account,
        verdicts,
        uncounted=[OPEN],
        good=styler(out, fg="green"),
        bad=styler(out, fg="red", bold=True),
        heading=styler(out, bold=True),
    )
    print_out(f"{config} on {gpu}: {table}".rstrip("\n"))
    if account.batches < found.plan.batches:
        print_note(f"The sources gave {account.batches} batches, not {found.plan.batches}.")
    for source in found.status.sources.values():
        if source.error:
            print_note(f"Failed: {source.source_id}: {source.error}")


def _write(content: bytes, path: Path) -> None:
    if str(path) == "-":
        print_out(content.decode().rstrip("\n"))
        return
    try:
        path.write_bytes(content)
    except OSError as e:
        raise SinkError(f"--json: cannot write {path}: {e.strerror or e}", remedy="choose another path") from e


def _exit_code(found: Verification) -> ExitCode:
    if not found.passed:
        return ExitCode.NOT_VERIFIED
    failed = any(source.error for source in found.status.sources.values()) or found.status.errors
    return ExitCode.SOME_SOURCES_FAILED if failed else ExitCode.DONE
