"""`vramline plan`: what a configuration would take of a GPU's memory, without one."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.configs import ConfigArgument, SetOption, load
from pipeline.cli.console import print_error, print_out, styler
from pipeline.errors import ConfigError, DeviceError, ExitCode

if TYPE_CHECKING:
    from pipeline.runtime.planning import Planner


def plan(
    config: ConfigArgument,
    settings: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show sources, engine and GPU memory of a configuration.

    Works without a GPU too, and starts none. What could not be known before a run is estimated, and marked.

    Ends with 0, or with 2 if the memory does not suffice.
    """
    from pipeline.observe import logs
    from pipeline.observe.status import RunStatus
    from pipeline.runtime.build import choose_engine, resolve_sources

    loaded = load(config, settings)
    logs.set_up("warning")
    status = RunStatus()
    specs = resolve_sources(loaded, status, None)
    try:
        engine: str | None
        engine, reason = choose_engine(loaded)
    except DeviceError as e:
        engine, reason = None, str(e)
    from pipeline.runtime.planning import planner_without_gpu

    planner = planner_without_gpu(loaded, specs)
    try:
        planner.checked()
        problem = None
    except ConfigError as e:
        problem = e
    sources = [{"source": s.source_id, "location": s.location, "error": s.error} for s in status.sources.values()]
    if as_json:
        print_out(json.dumps(_as_dict(sources, engine, reason, planner, problem), indent=2))
    else:
        print_out(_as_text(sources, engine, reason, planner))
    if problem is not None:
        if not as_json:
            print_error(problem)
        raise typer.Exit(int(ExitCode.BAD_CONFIG))


def _as_dict(
    sources: list[dict[str, Any]], engine: str | None, reason: str, planner: Planner, problem: ConfigError | None
) -> dict[str, Any]:
    from pipeline.observe.memory import plan_as_dict
    from pipeline.observe.text import safe

    return {
        "sources": [{k: v and safe(v) for k, v in source.items()} for source in sources],
        "engine": engine,
        "reason": safe(reason),
        "open_sources": planner.needs.live + planner.needs.open_videos,
        "batch_size": planner.needs.model.batch_size,
        "memory": plan_as_dict(planner.plan()),
        "problem": None if problem is None else str(problem),
    }


def _as_text(sources: list[dict[str, Any]], engine: str | None, reason: str, planner: Planner) -> str:
    from pipeline.observe.memory import plan_lines
    from pipeline.observe.summary import SOURCES_LISTED
    from pipeline.observe.text import count, shown

    bold = styler(sys.stdout, bold=True)
    lines = [f"{s['source']}: {s['error']}" if s["error"] else str(s["source"]) for s in sources]
    if len(lines) > SOURCES_LISTED:
        lines[SOURCES_LISTED:] = [f"and {len(lines) - SOURCES_LISTED:,} more"]
    blocks = [
        f"{bold('device')}  {engine or 'none'} ({shown(reason)})",
        "\n".join([f"{bold(count(len(sources), 'source'))}", *(f"  {shown(line)}" for line in lines)]),
        "\n".join([bold("GPU memory of device: cuda"), *(f"  {line}" for line in plan_lines(planner.plan()))]),
    ]
    return "\n\n".join(blocks)
