"""Loads the op library: the one that the user names, else the cache's."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.errors import DeviceError
from pipeline.inference._tensorflow import first_line
from pipeline.inference.shared_stream.build import LIBRARY_VARIABLE, cached_library

log = logging.getLogger(__name__)

_BUILT_FOR = re.compile(rb"vramline-stream-op/tensorflow=([^;\0]{1,60});")
_BUILD_AGAIN = "build it again with this TensorFlow: python -m pipeline.inference.shared_stream.build OUT.so"


@lru_cache(maxsize=1)
def stream_ops(tf: Any) -> Any:
    """The module with `vramline_stream_info` and `vramline_export`; loaded once.

    Raises:
        DeviceError: the library cannot be built, or is for another TensorFlow.
    """
    if own := os.environ.get(LIBRARY_VARIABLE):
        path = Path(own)
        try:
            return _load(tf, path)
        except DeviceError as e:
            raise DeviceError(f"{LIBRARY_VARIABLE}: {e.message}", remedy=_BUILD_AGAIN) from e
    path = cached_library(tf)
    try:
        return _load(tf, path)
    except DeviceError as e:
        log.warning("%s; it is built again", e.message)
        with contextlib.suppress(OSError):
            path.unlink()
        return _load(tf, cached_library(tf))


def library_path(tf: Any) -> Path:
    """Where the library lies, once it has been loaded; raises what `stream_ops` does."""
    stream_ops(tf)
    own = os.environ.get(LIBRARY_VARIABLE)
    return Path(own).absolute() if own else cached_library(tf)


def activity_buffers(tf: Any) -> ctypes.CDLL:
    """The same library's functions of `activity_buffers.cc`.

    Raises:
        DeviceError: as `stream_ops`; or the user's own library is an older one, without them.
    """
    path = library_path(tf)
    library = ctypes.CDLL(str(path))
    if not hasattr(library, "vramline_activity_take"):
        raise DeviceError(f"{path}: built by an older vramline, without what tracing needs", remedy=_BUILD_AGAIN)
    return library


def _load(tf: Any, path: Path) -> Any:
    try:
        found = _BUILT_FOR.search(path.read_bytes())
    except OSError as e:
        raise DeviceError(f"{path}: cannot be read: {e.strerror or e}") from e
    if found is None:
        raise DeviceError(f"{path}: not the library that shares TensorFlow's stream, or damaged")
    if (version := found[1].decode(errors="replace")) != tf.__version__:
        raise DeviceError(f"{path}: built for TensorFlow {version}, but this is {tf.__version__}")
    try:
        return tf.load_op_library(str(path.absolute()))
    except (tf.errors.OpError, OSError) as e:
        raise DeviceError(f"{path}: TensorFlow {tf.__version__} cannot load it: {first_line(e)}") from e
