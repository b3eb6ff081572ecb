"""`observe.report`: the closing summary as a JSON file."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import SinkError
from pipeline.observe.status import RunStatus
from pipeline.observe.summary import as_dict


def check_report(path: Path) -> None:
    """Makes sure before a run that its report can be written.

    Raises:
        SinkError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise _not_writable(path, e) from e
    if path.is_dir():
        raise SinkError(f"observe.report: {path} is a folder, not a file")
    if not os.access(path.parent, os.W_OK):
        raise SinkError(f"observe.report: cannot write to the folder {path.parent}", remedy="choose another path")


def write_report(status: RunStatus, path: Path) -> None:
    """Writes the report; a reader sees the whole of it or, as before, the old one.

    Raises:
        SinkError: it cannot be written.
    """
    import orjson

    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    try:
        temporary.write_bytes(orjson.dumps(as_dict(status), option=options))
        temporary.replace(path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise _not_writable(path, e) from e


def _not_writable(path: Path, error: OSError) -> SinkError:
    return SinkError(f"observe.report: cannot write {path}: {error.strerror or error}", remedy="choose another path")
