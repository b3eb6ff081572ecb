"""`vramline streams`: the streams of a run that has the HTTP interface switched on, while it runs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.console import print_out
from pipeline.control.client import DEFAULT_URL, Client, stream_path
from pipeline.errors import ConfigError, ConfigIssue
from pipeline.observe.text import duration, shown

TOKEN_VARIABLE = "VRAMLINE_TOKEN"  # noqa: S105 - the variable's name

app = typer.Typer(
    help="Show and steer the streams of a running pipeline.",
    epilog=f"The token comes from the environment variable {TOKEN_VARIABLE} or from --token-file.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

_Url = Annotated[
    str, typer.Option("--url", envvar="VRAMLINE_URL", metavar="URL", help="Where the run's HTTP interface listens.")
]
_TokenFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help=f"Holds the token; default: {TOKEN_VARIABLE} of the environment.")
]
_Id = Annotated[str, typer.Argument(metavar="ID", help="As `vramline streams list` shows it.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command("list")
def list_streams(url: _Url = DEFAULT_URL, token_file: _TokenFile = None, as_json: _Json = False) -> None:
    """List the streams of the run."""
    answer = _client(url, token_file).get("/streams")
    if as_json:
        print_out(json.dumps(answer["streams"], indent=2))
        return
    rows = [("ID", "STATE", "FPS", "RESULTS", "DROPPED", "P95", "LAST ERROR"), *map(_row, answer["streams"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if 2 <= column <= 4 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print_out("  ".join(cells).rstrip())


@app.command("show")
def show(stream_id: _Id, url: _Url = DEFAULT_URL, token_file: _TokenFile = None, as_json: _Json = False) -> None:
    """Show all that is known of a stream."""
    stream = _client(url, token_file).get(stream_path(stream_id))
    print_out(json.dumps(stream, indent=2) if as_json else "\n".join(_description(stream)))


@app.command("add")
def add(
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="A URL or path, or media:NAME.", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A field of the source, such as id=door or roi.rect=[0,0,640,360]."
        ),
    ] = None,
    url: _Url = DEFAULT_URL,
    token_file: _TokenFile = None,
) -> None:
    """Add a source to the run; prints the ids of its streams.

    ${NAME} stands for a variable of this environment: write passwords so, in
    single quotes, and no other user of the machine sees them.
    """
    body = _source(source, settings or ())
    for stream_id in _client(url, token_file).send("POST", "/streams", body)["ids"]:
        print_out(shown(stream_id))


@app.command("remove")
def remove(stream_id: _Id, url: _Url = DEFAULT_URL, token_file: _TokenFile = None) -> None:
    """End a stream and forget it; its results stay."""
    _client(url, token_file).send("DELETE", stream_path(stream_id))
    _tell(stream_id, "is being removed")


@app.command("pause")
def pause(stream_id: _Id, url: _Url = DEFAULT_URL, token_file: _TokenFile = None) -> None:
    """Disconnect a live stream until it is resumed."""
    _client(url, token_file).send("POST", stream_path(stream_id, "pause"))
    _tell(stream_id, "is being paused")


@app.command("resume")
def resume(stream_id: _Id, url: _Url = DEFAULT_URL, token_file: _TokenFile = None) -> None:
    """Connect a paused live stream again."""
    _client(url, token_file).send("POST", stream_path(stream_id, "resume"))
    _tell(stream_id, "is being resumed")


@app.command("restart")
def restart(stream_id: _Id, url: _Url = DEFAULT_URL, token_file: _TokenFile = None) -> None:
    """Connect a live stream anew, also one that failed."""
    _client(url, token_file).send("POST", stream_path(stream_id, "restart"))
    _tell(stream_id, "is being restarted")


@app.command("priority")
def priority(
    stream_id: _Id,
    number: Annotated[int, typer.Argument(metavar="N", min=1, max=100, help="1 to 100.")],
    url: _Url = DEFAULT_URL,
    token_file: _TokenFile = None,
) -> None:
    """Set a stream's share of the model."""
    _client(url, token_file).send("PATCH", stream_path(stream_id), {"priority": number})
    _tell(stream_id, f"has priority {number}")


@app.command("stop")
def stop(url: _Url = DEFAULT_URL, token_file: _TokenFile = None) -> None:
    """End the run cleanly."""
    _client(url, token_file).send("POST", "/run/stop")
    print_out("the run is being stopped")


def _client(url: str, token_file: Path | None) -> Client:
    return Client(url, _token(token_file))


def _token(file: Path | None) -> str:
    if file is None:
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if not token:
            hint = "it holds observe.http.token of the run's configuration; or use --token-file"
            raise ConfigError([ConfigIssue(f"the environment variable {TOKEN_VARIABLE} is not set", hint=hint)])
        return token
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or "it is not text"
        raise ConfigError([ConfigIssue(f"cannot be read: {reason}", "--token-file", str(file))]) from None
    if not token:
        raise ConfigError([ConfigIssue("is empty", "--token-file", str(file))])
    return token


def _source(source: str | None, settings: Sequence[str]) -> Any:
    """The mapping to send: the source written out, the settings put over it, `${NAME}` replaced."""
    # pydantic's models take a moment to import; `list` does not need them.
    from pipeline.config._environment import substitute
    from pipeline.config._issues import issue_at
    from pipeline.config._nodes import MapNode, Place, from_data, plain_data, scalars
    from pipeline.config._overrides import apply_override, parse_override
    from pipeline.config.sources import expand_source

    if source is None and not settings:
        raise ConfigError([ConfigIssue("nothing to add", hint="give a source, such as rtsp://HOST/PATH, or --set")])
    issues: list[ConfigIssue] = []
    place = Place("SOURCE")
    root = MapNode(place) if source is None else from_data(expand_source(source), place)
    for text in settings:
        if (override := parse_override(text, issues)) is not None:
            root = apply_override(root, override.path, override.node, lambda node, _: node, issues)
    root = substitute(root, os.environ)
    issues += [issue_at(node.place, path, node.problem) for path, node in scalars(root) if node.problem]
    if issues:
        raise ConfigError(issues)
    return plain_data(root)


def _tell(stream_id: str, what: str) -> None:
    print_out(f"{shown(stream_id)} {what}")


def _row(stream: dict[str, Any]) -> tuple[str, ...]:
    counters, total = stream["counters"], stream["latency"].get("total")
    return (
        shown(stream["id"]),
        shown(stream["state"]),
        f"{stream['results_per_s']:.1f}" if stream["live"] else "-",
        f"{counters['results']:,}",
        f"{counters['dropped']:,}",
        f"{total['p95_ms']:,.0f} ms" if total else "-",
        shown(stream["error"] or stream["last_error"] or ""),
    )


def _description(stream: dict[str, Any]) -> list[str]:
    counters, video, retry_in_s = stream["counters"], stream["stream"], stream["retry_in_s"]
    causes = ", ".join(f"{number:,} {cause}" for cause, number in counters["dropped_by_cause"].items())
    rate = f", {video['frame_rate']:.4g} frames/s" if video and video["frame_rate"] else ""
    facts = {
        "location": stream["location"],
        "state": f"{stream['state']} for {duration(stream['state_s'])}"
        + (f", next attempt in {duration(retry_in_s)}" if retry_in_s is not None else ""),
        "error": stream["error"],
        "last error": stream["last_error"],
        "priority": f"{stream['priority']}",
        "connects": f"{stream['connects']:,}" if stream["live"] else "",
        "video": f"{video['codec']}, {video['width']} x {video['height']}{rate}" if video else "",
        "packets": f"{counters['packets']:,}",
        "decoded": f"{counters['decoded']:,} ({counters['corrupt']:,} corrupt, {counters['decode_errors']:,} errors)",
        "results": f"{counters['results']:,}" + (f", {stream['results_per_s']:.1f} a second" if stream["live"] else ""),
        "dropped": f"{counters['dropped']:,}" + (f" ({causes})" if causes else ""),
        "in flight": f"{counters['in_flight']:,}",
    }
    lines = [shown(stream["id"]), *(f"  {key:<12}{shown(value)}" for key, value in facts.items() if value)]
    for stage, found in stream["latency"].items():
        values = ", ".join(f"{name.removesuffix('_ms')} {ms:,.1f} ms" for name, ms in found.items())
        lines.append(f"  {shown(stage):<16}{values}")
    return lines
