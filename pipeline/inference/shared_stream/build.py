"""Builds TensorFlow's op library of the `.cc` files here; also a command, for machines without a compiler or headers.

    python -m pipeline.inference.shared_stream.build OUT.so

builds for the TensorFlow that is installed here. Carry the file to a machine with the same version of TensorFlow and
name it in VRAMLINE_STREAM_OP there.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.cache import CACHE_VARIABLE, cache_dir
from pipeline.errors import DeviceError, VramlineError
from pipeline.inference._tensorflow import import_tensorflow

LIBRARY_VARIABLE = "VRAMLINE_STREAM_OP"

_SOURCES = tuple(
    Path(__file__).with_name(name) for name in ("stream_ops.cc", "activity_buffers.cc", "detection_texts.cc")
)
_FLAGS = ("-O1", "-ffp-contract=off", "-DNDEBUG", "-fPIC", "-shared", "-w")
_COMPILERS = ("g++", "c++", "clang++")
_TIMEOUT_S = 600
_MOST_ERROR_LINES = 5
_REMEDY = (
    "install a C++ compiler (apt-get install g++), or build the library on another machine with the same TensorFlow "
    f"(python -m pipeline.inference.shared_stream.build OUT.so) and name it in {LIBRARY_VARIABLE}"
)


def cached_library(tf: Any) -> Path:
    """The library for this TensorFlow, built if it is not in the cache yet.

    Raises:
        DeviceError: there is no compiler, it fails, or the cache cannot be written.
    """
    compiler = _compiler()
    entry = cache_dir() / "stream_op" / f"tf{tf.__version__}-{_key(tf, compiler)}.so"
    if not entry.is_file():
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise DeviceError(
                f"the cache {cache_dir()} cannot be written: {e.strerror or e}",
                remedy=f"set {CACHE_VARIABLE} to a folder that you can write",
            ) from e
        build(tf, entry, compiler)
    return entry


def build(tf: Any, output: Path, compiler: str | None = None) -> None:
    """Compiles the library for this TensorFlow: 5 to 20 s. The file appears complete or not at all.

    Args:
        tf: TensorFlow's module.
        output: Where it is written to; several processes may do it at the same time.
        compiler: Default: `$CXX`, else the first that is there.

    Raises:
        DeviceError: there is no compiler, it fails, or the file cannot be written.
    """
    version = f'-DVRAMLINE_TENSORFLOW_VERSION="{tf.__version__}"'
    sources = map(str, _SOURCES)
    command = [compiler or _compiler(), *_FLAGS, version, *tf.sysconfig.get_compile_flags(), *sources]
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{output.name}.", suffix=".so", dir=output.parent)
        os.close(handle)
        temporary = Path(name)
        _compile([*command, "-o", name, *tf.sysconfig.get_link_flags()])
        temporary.chmod(0o755)
        temporary.replace(output)
    except OSError as e:
        raise DeviceError(f"{output}: cannot be written: {e.strerror or e}") from e
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()


def _compile(command: list[str]) -> None:
    what = "the library that shares TensorFlow's CUDA stream cannot be built"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
    except OSError as e:
        raise DeviceError(f"{what}: {command[0]}: {e.strerror or e}", remedy=_REMEDY) from e
    except subprocess.TimeoutExpired as e:
        raise DeviceError(f"{what}: {command[0]} took longer than {_TIMEOUT_S} s", remedy=_REMEDY) from e
    if done.returncode:
        lines = done.stderr.splitlines()
        errors = [line for line in lines if "error" in line.lower()] or lines
        shown = "; ".join(line.strip() for line in errors[:_MOST_ERROR_LINES]) or f"exit code {done.returncode}"
        raise DeviceError(f"{what}: {command[0]} says: {shown}", remedy=_REMEDY)


def _compiler() -> str:
    for name in (os.environ.get("CXX"), *_COMPILERS):
        if name and (found := shutil.which(name)):
            return found
    raise DeviceError(
        "the cuda engine builds a small library at first use, and there is no C++ compiler", remedy=_REMEDY
    )


def _key(tf: Any, compiler: str) -> str:
    """Of everything that the library's content follows from."""
    flags = [flag for flag in tf.sysconfig.get_compile_flags() if not flag.startswith("-I")]
    parts = (tf.__version__, tf.version.GIT_VERSION, compiler, *_FLAGS, *flags)
    sources = b"\0".join(source.read_bytes() for source in _SOURCES)
    return hashlib.sha256("\0".join(parts).encode() + sources).hexdigest()[:16]


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.inference.shared_stream.build",
        description="Builds the library that shares TensorFlow's CUDA stream.",
    )
    parser.add_argument("output", type=Path, metavar="OUT.so", help="the file to write")
    output: Path = parser.parse_args(arguments).output
    try:
        tf = import_tensorflow()
        build(tf, output.absolute())
    except VramlineError as e:
        print(e, file=sys.stderr)
        return int(e.exit_code)
    print(f"{output}: built for TensorFlow {tf.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
