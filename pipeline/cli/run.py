"""`vramline run`: the pipeline, with a display, a summary and an exit code."""

from __future__ import annotations

import enum
import logging
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import signals
from pipeline.cli.configs import ConfigArgument, SetOption, load
from pipeline.cli.console import print_out, styler
from pipeline.errors import VramlineError

if TYPE_CHECKING:
    from pipeline.config.models import Config
    from pipeline.observe.progress import Display
    from pipeline.observe.status import RunStatus
    from pipeline.runtime.pipeline import Pipeline

log = logging.getLogger(__name__)


class Device(str, enum.Enum):
    """What `--device` takes."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def run(
    config: ConfigArgument,
    settings: SetOption = None,
    device: Annotated[
        Device | None, typer.Option(help="Where to run; auto: cuda where it can be used, else cpu.")
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after N frames of each video.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Find the sources, load the model, check the outputs; process nothing.")
    ] = False,
) -> None:
    """Run a pipeline.

    The summary goes to stdout, progress and log to stderr. SIGHUP reads the configuration again and adds and removes
    sources accordingly.
    """

    def read() -> Config:
        return load(config, settings, device=device.value if device else None, max_frames=max_frames)

    loaded = read()

    from pipeline.observe import logs, progress, report, summary
    from pipeline.runtime.pipeline import Pipeline

    observe = loaded.observe
    logs.set_up(observe.log_level)
    if observe.report is not None:
        report.check_report(observe.report)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signals.interrupt)

    display = progress.display(observe)
    pipeline = Pipeline(loaded, progress=display.fetching)
    status = pipeline.status
    display.watch(status)
    try:
        with display, pipeline:
            with signals.interruptible():
                pipeline.prepare()
            if not dry_run:
                with (
                    signals.on_reload(lambda: _reload(pipeline, read)),
                    signals.on_interrupt(lambda: _stop(pipeline, display)),
                ):
                    pipeline.run()
    except KeyboardInterrupt:
        status.interrupted = True
        raise
    finally:
        if status.started_s is not None:
            if observe.summary:
                print_out(summary.render(status, heading=styler(sys.stdout, bold=True)).rstrip("\n"))
            if observe.report is not None:
                report.write_report(status, observe.report)
    if dry_run:
        print_out(_plan(loaded, status))
        return
    raise typer.Exit(int(status.exit_code))


def _stop(pipeline: Pipeline, display: Display) -> None:
    pipeline.status.interrupted = True
    display.stopping()
    pipeline.stop()


def _reload(pipeline: Pipeline, read: Callable[[], Config]) -> None:
    """A configuration that cannot be used changes nothing."""
    try:
        pipeline.reload(read())
    except VramlineError as error:
        log.error("the configuration was not reloaded, the run goes on as it was: %s", error)
    except Exception as error:  # a bug: it must not be the last reload
        from pipeline.observe.logs import redacted_traceback

        log.error("the reload broke off:\n%s", redacted_traceback(error))


def _plan(config: Config, status: RunStatus) -> str:
    """What a run would do, for `--dry-run`."""
    from pipeline.config.plugins import PluginSink
    from pipeline.observe import summary

    places = [sink.use if isinstance(sink, PluginSink) else sink.path for sink in config.sinks]
    sinks = [f"{sink.type}: {place}" for sink, place in zip(config.sinks, places, strict=True)] or ["only the summary"]
    return summary.render_plan(status, sinks, heading=styler(sys.stdout, bold=True)).rstrip("\n")
