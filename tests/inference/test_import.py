"""Each of these needs a process of its own: TensorFlow is imported and set up once."""

from __future__ import annotations

import builtins
import logging
import os
import subprocess
import sys
from typing import Any

import pytest

from pipeline.errors import ModelError
from pipeline.inference._tensorflow import configure, first_line, import_tensorflow


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TF_", "KERAS_"))}
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120, env=kept | environment
    )


def test_starts_silently_and_with_the_threads_asked_for() -> None:
    code = """
import os, sys
from pipeline.inference._tensorflow import configure, import_tensorflow
os.environ["KERAS_BACKEND"] = "torch"
tf = import_tensorflow()
configure(tf, threads=3, device="cpu")
import keras
tf.constant(1) + 1
print(tf.config.threading.get_intra_op_parallelism_threads(), tf.config.get_visible_devices("GPU"), keras.backend.backend())
os.write(2, b"still here\\n")
"""
    done = run(code)
    assert done.stdout.split() == ["3", "[]", "tensorflow"]
    assert done.stderr == "still here\n"


def test_keeps_what_is_no_noise_and_works_without_standard_error() -> None:
    code = """
import os, sys
from pipeline.inference._tensorflow import _start_up_noise_dropped
with _start_up_noise_dropped():
    os.write(2, b"I0000 00:00:1 port.cc:1] chatter\\nE0000 00:00:1 x.cc:1] trouble\\nWARNING: All log messages before absl::\\n")
os.close(2)
with _start_up_noise_dropped():
    print("fine")
"""
    done = run(code)
    assert (done.stderr, done.stdout) == ("E0000 00:00:1 x.cc:1] trouble\n", "fine\n")


def test_logs_where_tensorflow_runs_already(tf: Any, caplog: pytest.LogCaptureFixture) -> None:
    tf.constant(1) + 1
    before = tf.config.threading.get_intra_op_parallelism_threads()
    configure(tf, threads=before + 1, device="cpu")
    assert tf.config.threading.get_intra_op_parallelism_threads() == before
    assert "inference_threads" in caplog.text

    class Busy:
        class config:
            @staticmethod
            def set_visible_devices(*_: Any) -> None:
                raise RuntimeError("Visible devices cannot be modified after being initialized")

    with caplog.at_level(logging.INFO):
        configure(Busy, threads=0, device="cpu")
    assert "already uses this process's GPU" in caplog.text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow"),
            "not installed.*pip install tensorflow",
        ),
        (ImportError("libx.so: cannot open shared object file\nmore"), "cannot be imported: libx.so: cannot open.*pip"),
    ],
)
def test_says_how_to_install(error: ImportError, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def fail(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "tensorflow":
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(ModelError, match=words):
        import_tensorflow()


def test_a_missing_dependency_of_tensorflow_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, *args: Any, **kwargs: Any) -> Any:
        raise ModuleNotFoundError("No module named 'wrapt'", name="wrapt")

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(ModuleNotFoundError):
        import_tensorflow()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Graph execution error:\n\nDetected at node Reshape defined at (most recent call last):\n  File x, line 1\n\n"
            "Input to reshape has 12 values\n\t [[{{node Reshape}}]] [Op:__inference_1]",
            "Input to reshape has 12 values",
        ),
        ("{{function_node __inference_f_1}} Sizes differ [Op:MatMul]", "Sizes differ"),
        ('"Quoted."', "Quoted."),
        ("x" * 400, "x" * 300 + "..."),
        ("", "ValueError"),
    ],
)
def test_the_first_line_that_tells_something(text: str, expected: str) -> None:
    assert first_line(ValueError(text)) == expected
