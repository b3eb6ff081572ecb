"""Where XLA keeps what it has tried: flags that it knows, nothing that the user has set is changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.cache import CACHE_VARIABLE
from pipeline.inference.xla_cache import keep_autotuning

FUSION, AUTOTUNER = "xla_gpu_per_fusion_autotune_cache_dir", "xla_gpu_experimental_autotuner_cache_dir"


@pytest.fixture
def tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A TensorFlow that knows one of the flags, and has a longer one."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "the cache"))
    monkeypatch.setenv("XLA_FLAGS", "")
    folder = tmp_path / "tensorflow"
    folder.mkdir()
    (folder / "libtensorflow_cc.so.2").write_bytes(b"nothing here")
    (folder / "libtensorflow_framework.so.2").write_bytes(f"a\0{FUSION}\0{AUTOTUNER}_2\0".encode())
    return SimpleNamespace(__file__=str(folder / "__init__.py"), __version__="9.8.7")


def test_only_flags_that_are_known(tensorflow: Any, tmp_path: Path) -> None:
    keep_autotuning(tensorflow)
    folder = tmp_path / "the cache" / "xla" / "tensorflow-9.8.7" / FUSION
    assert os.environ["XLA_FLAGS"] == f"--{FUSION}='{folder}'"
    assert folder.is_dir()
    keep_autotuning(tensorflow)
    assert os.environ["XLA_FLAGS"] == f"--{FUSION}='{folder}'"


def test_flags_of_the_user_come_first(tensorflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", " --xla_dump_to=/tmp/x ")
    keep_autotuning(tensorflow)
    assert os.environ["XLA_FLAGS"].startswith(f"--xla_dump_to=/tmp/x --{FUSION}='")


@pytest.mark.parametrize("given", [f"--{FUSION}=/mine", f"--{FUSION}=", "/etc/xla_flags"])
def test_what_the_user_says_stays(tensorflow: Any, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("XLA_FLAGS", given)
    keep_autotuning(tensorflow)
    assert os.environ["XLA_FLAGS"] == given


@pytest.mark.parametrize("cache", ["a file", "it's"])
def test_goes_without_a_cache_where_there_can_be_none(
    tensorflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / cache))
    keep_autotuning(tensorflow)
    assert os.environ["XLA_FLAGS"] == ""


@pytest.mark.parametrize("given", ["", "--xla_cpu_enable_fast_math=false"])
def test_xla_takes_the_flags(tmp_path: Path, given: str) -> None:
    """In a process of its own, which XLA ends at a flag that it does not know."""
    code = """
import os
from pipeline.inference._tensorflow import import_tensorflow
from pipeline.inference.xla_cache import keep_autotuning
tf = import_tensorflow()
keep_autotuning(tf)
print(float(tf.function(lambda x: x * 3, jit_compile=True)(tf.constant(2.0))), os.environ["XLA_FLAGS"].count("cache_dir='"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "XLA_FLAGS": given, CACHE_VARIABLE: str(tmp_path / "with spaces")},
    )
    assert done.stdout.split() == ["6.0", "2"]
