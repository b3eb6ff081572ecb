"""Compiles device code with g++ for the host, where its arithmetic can be tested without a GPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest


def compile_for_host(code: str, folder: Path, optimise: str) -> ctypes.CDLL:
    """The library of C++ `code`, built in `folder` at a level such as `-O1`; skips the test without g++."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not there to compile the kernels for the host")
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text(code)
    warnings = ["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror"]
    command = [compiler, "-std=c++17", optimise, "-ffp-contract=off", *warnings]
    command += ["-shared", "-fPIC", str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))
