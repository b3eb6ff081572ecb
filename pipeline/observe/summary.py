"""The closing summary: for people as text, for programs as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.errors import ExitCode
from pipeline.observe.status import RunStatus, SourceState, SourceStatus
from pipeline.observe.text import count, duration, rate, shown
from pipeline.redact import redact

REPORT_VERSION = 1
BEST_LABELS = 10
SOURCES_LISTED = 10
_KEY_WIDTH = 12

Style = Callable[[str], str]


def render(status: RunStatus, heading: Style = str) -> str:
    """The summary as text, readable at 80 columns; long paths are not broken.

    Args:
        status: Of a run that has ended.
        heading: Styles the headings, for a terminal.
    """
    blocks = [
        [f"{heading(_verdict(status))}{_totals(status)}"],
        _facts(status),
        _section("found", _found(status), heading),
        _section("time spent", _stages(status), heading),
        _section("failed", _failed(status), heading),
        _section("errors", [shown(error) for error in status.errors], heading),
        _section("written", [shown(str(path)) for path in status.outputs], heading),
        _section("kept incomplete", [shown(str(path)) for path in status.partial_outputs], heading),
    ]
    return _joined(blocks)


def render_plan(status: RunStatus, sinks: Sequence[str], heading: Style = str) -> str:
    """What a prepared run would do, for a dry run.

    Args:
        status: Of a pipeline that is prepared.
        sinks: Where the results would go, a line each.
        heading: Styles the headings, for a terminal.
    """
    waiting = [shown(s.source_id) for s in status.sources.values() if s.state is SourceState.WAITING]
    if len(waiting) > SOURCES_LISTED:
        waiting[SOURCES_LISTED:] = [f"and {len(waiting) - SOURCES_LISTED:,} more"]
    verdict = "Ready to run" if waiting else "Nothing to run"
    return _joined(
        [
            [f"{heading(verdict)}; nothing was processed"],
            _table({"device": _device(status), "model": _model(status)}),
            _section("sources", waiting, heading),
            _section("failed", _failed(status), heading),
            _section("results go to", [shown(sink) for sink in sinks], heading),
        ]
    )


def as_dict(status: RunStatus) -> dict[str, Any]:
    """The summary as JSON's types, for `observe.report`; `report` is the version of this format."""
    return {
        "report": REPORT_VERSION,
        "exit_code": int(status.exit_code),
        "interrupted": status.interrupted,
        "device": status.device,
        "device_reason": status.device_reason,
        "model": _safe(status.model),
        "batch_size": status.batch_size,
        "frames": _decoded(status),
        "results": status.results,
        "elapsed_s": status.elapsed_s,
        "frames_per_s": status.frames_per_s,
        "stages": {
            name: {**dataclasses.asdict(times), "ms_per_frame": times.ms_per_frame}
            for name, times in status.stages.items()
        },
        "labels": {_safe(label): n for label, n in status.labels.most_common()},
        "sources": [_source_as_dict(source) for source in status.sources.values()],
        "outputs": [_safe(str(path)) for path in status.outputs],
        "partial_outputs": [_safe(str(path)) for path in status.partial_outputs],
        "errors": [_safe(error) for error in status.errors],
    }


def _source_as_dict(source: SourceStatus) -> dict[str, Any]:
    info, decode = source.info, source.decode
    return {
        "source": _safe(source.source_id),
        "location": _safe(source.location),
        "state": source.state.value,
        "frames": decode.frames,
        "results": source.results,
        "corrupt": decode.corrupt,
        "dropped": decode.dropped,
        "decode_errors": decode.errors,
        "last_decode_error": None if decode.last_error is None else _safe(decode.last_error),
        "last_pts_s": source.last_pts_s,
        "error": None if source.error is None else _safe(source.error),
        "error_code": None if source.error_code is None else source.error_code.value,
        "stream": None
        if info is None
        else {
            "codec": info.codec,
            "width": info.width,
            "height": info.height,
            "frame_rate": None if info.frame_rate is None else float(info.frame_rate),
            "frame_count": info.frame_count,
            "duration_s": info.duration_s,
        },
    }


def _safe(text: str) -> str:
    """Without credentials, and encodable: a file's name need not be valid UTF-8."""
    return redact(text).encode("utf-8", "backslashreplace").decode("utf-8")


def _verdict(status: RunStatus) -> str:
    return {
        ExitCode.DONE: "Done",
        ExitCode.SOME_SOURCES_FAILED: "Done, with errors",
        ExitCode.INTERRUPTED: "Interrupted",
    }.get(status.exit_code, "Nothing could run")


def _totals(status: RunStatus) -> str:
    if not status.results:
        return ": no results"
    return f": {count(status.results, 'frame')} in {duration(status.elapsed_s)}, {rate(status.frames_per_s)}"


def _joined(blocks: Iterable[list[str]]) -> str:
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _table(values: Mapping[str, str]) -> list[str]:
    return [f"  {key:<{_KEY_WIDTH}}{value}" for key, value in values.items() if value]


def _facts(status: RunStatus) -> list[str]:
    return _table(
        {
            "device": _device(status),
            "model": _model(status),
            "sources": _sources(status),
            "results": _results(status),
            "dropped": _per_source(status, lambda s: s.decode.dropped, "corrupt frame"),
            "corrupt": _per_source(status, lambda s: s.decode.corrupt - s.decode.dropped, "frame", suffix="kept"),
            "damaged": _per_source(status, lambda s: s.decode.errors, "packet", suffix="skipped"),
        }
    )


def _device(status: RunStatus) -> str:
    return f"{status.device} ({shown(status.device_reason)})" if status.device_reason else status.device


def _model(status: RunStatus) -> str:
    return f"{shown(status.model)}, batches of {status.batch_size}" if status.model else ""


def _sources(status: RunStatus) -> str:
    states = [source.state for source in status.sources.values()]
    counted = [f"{states.count(state):,} {state.value}" for state in SourceState if state in states]
    if len(counted) == 1 and len(states) > 0:
        return counted[0]
    return f"{len(states):,}: {', '.join(counted)}" if states else "none"


def _decoded(status: RunStatus) -> int:
    return sum(source.decode.frames for source in status.sources.values())


def _results(status: RunStatus) -> str:
    decoded, results = _decoded(status), status.results
    if decoded <= results:
        return f"{results:,} of {count(results, 'decoded frame')}"
    return f"{results:,} of {count(decoded, 'decoded frame')}; {decoded - results:,} not processed"


def _per_source(status: RunStatus, number: Callable[[SourceStatus], int], noun: str, suffix: str = "") -> str:
    """`5 packets skipped (4 in a.mp4, 1 in b.mp4)`; empty if there were none."""
    found = sorted(((number(s), s.source_id) for s in status.sources.values() if number(s) > 0), reverse=True)
    if not found:
        return ""
    where = [f"{n:,} in {shown(name)}" for n, name in found[:3]]
    if len(found) > len(where):
        where.append(f"{len(found) - len(where):,} more sources")
    total = count(sum(n for n, _ in found), noun)
    return f"{total}{' ' + suffix if suffix else ''} ({', '.join(where)})"


def _section(title: str, lines: Sequence[str], heading: Style) -> list[str]:
    return [f"  {heading(title)}", *(f"    {line}" for line in lines)] if lines else []


def _found(status: RunStatus) -> list[str]:
    best = status.labels.most_common(BEST_LABELS)
    lines = _columns([(shown(label), f"{n:,}") for label, n in best])
    if len(status.labels) > len(best):
        others = sum(status.labels.values()) - sum(n for _, n in best)
        lines.append(f"and {others:,} of {count(len(status.labels) - len(best), 'other label')}")
    return lines


def _stages(status: RunStatus) -> list[str]:
    rows = [
        (name, f"{times.ms_per_frame:.2f} ms/frame", f"{times.busy_s:.1f} s busy")
        for name, times in status.stages.items()
        if times.frames
    ]
    return _columns(rows)


def _failed(status: RunStatus) -> list[str]:
    failed = [source for source in status.sources.values() if source.state is SourceState.FAILED]
    lines = [line for source in failed[:SOURCES_LISTED] for line in _failure(source)]
    if len(failed) > SOURCES_LISTED:
        lines.append(f"and {count(len(failed) - SOURCES_LISTED, 'more source')}; observe.report lists them all")
    return lines


def _failure(source: SourceStatus) -> Iterable[str]:
    code = f" [{source.error_code.value}]" if source.error_code else ""
    yield f"{shown(source.source_id)}: {shown(source.error or 'no reason given')}{code}"
    if source.results:
        yield f"  after {count(source.results, 'frame')}, which are in the results"


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Aligned columns: the first to the left, the others to the right."""
    if not rows:
        return []
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    widths[0] = max(widths[0], _KEY_WIDTH)
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
