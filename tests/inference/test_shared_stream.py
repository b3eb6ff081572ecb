"""The op library, from building it to exchanging arrays; TensorFlow runs on the CPU."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_cupy
import numpy as np
import pytest

from pipeline.errors import DeviceError
from pipeline.inference.shared_stream import PreparedCall, SharedStream, build, library, open_shared_stream
from pipeline.inference.shared_stream.stream import pairs

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VRAMLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(build.LIBRARY_VARIABLE, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def loaded(tf: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were loaded; not really, since a process takes an op only once."""
    paths: list[str] = []
    monkeypatch.setattr(tf, "load_op_library", paths.append)
    return paths


def fresh(tf: Any) -> Any:
    """What a new process would load."""
    return library.stream_ops.__wrapped__(tf)


def compiler(folder: Path, script: str) -> str:
    """A compiler that does what the script says."""
    path = folder / "cxx"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


# ------------------------------------------------------------------------------------------------------------ the build


def test_the_library_is_built_once_and_taken_from_the_cache(
    tf: Any,
    stream_library: Path,
    cache: Path,
    loaded: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = tmp_path / "log"
    # Finds the file after -o, and puts there what the real compiler has made.
    script = f'echo run >> {log}\nwhile [ "$1" != -o ]; do shift; done\ncp {stream_library} "$2"'
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    for _ in range(2):
        fresh(tf)
    assert log.read_text().split() == ["run"]
    [found] = (cache / "stream_op").iterdir()
    assert loaded == [str(found)] * 2
    assert found.read_bytes() == stream_library.read_bytes()
    assert tf.__version__ in found.name


def test_a_damaged_library_in_the_cache_is_built_again(
    tf: Any,
    stream_library: Path,
    cache: Path,
    loaded: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = f'while [ "$1" != -o ]; do shift; done\ncp {stream_library} "$2"'
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    path = build.cached_library(tf)
    path.write_bytes(path.read_bytes()[:1000])
    fresh(tf)
    assert loaded == [str(path)]
    assert path.read_bytes() == stream_library.read_bytes()


def test_two_processes_build_at_the_same_time(stream_library: Path, tmp_path: Path) -> None:
    """Whoever looks sees no file or a whole one."""
    script = f'while [ "$1" != -o ]; do shift; done\nhead -c 100 {stream_library} > "$2"\nsleep 0.2\ncp {stream_library} "$2"'
    code = f"""
import types
from pathlib import Path
from pipeline.inference.shared_stream.build import build
flags = types.SimpleNamespace(get_compile_flags=list, get_link_flags=list)
for _ in range(3):
    build(types.SimpleNamespace(__version__="1", sysconfig=flags), Path({str(tmp_path / "op.so")!r}))
"""
    env = {**os.environ, "CXX": compiler(tmp_path, script)}
    running = [subprocess.Popen([sys.executable, "-c", code], env=env) for _ in range(2)]
    sizes = set()
    while any(process.poll() is None for process in running):
        if (tmp_path / "op.so").exists():
            sizes.add((tmp_path / "op.so").stat().st_size)
    assert [process.returncode for process in running] == [0, 0]
    assert sizes <= {stream_library.stat().st_size}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cxx", "op.so"]


def test_without_a_compiler(tf: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DeviceError) as caught:
        fresh(tf)
    assert "there is no C++ compiler" in caught.value.message
    for part in (
        "apt-get install g++",
        "VRAMLINE_STREAM_OP",
        "python -m pipeline.inference.shared_stream.build OUT.so",
    ):
        assert part in (caught.value.remedy or "")


def test_a_compiler_that_fails_is_quoted_shortly(
    tf: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = 'for i in $(seq 1000); do echo "x.h:$i: note" >&2; echo "x.h:$i: error: no such thing" >&2; done; exit 3'
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    with pytest.raises(DeviceError, match=r"says: x\.h:1: error: no such thing; x\.h:2") as caught:
        fresh(tf)
    assert len(caught.value.message) < 400
    assert "note" not in caught.value.message
    assert not list((cache / "stream_op").iterdir())


def test_a_cache_that_cannot_be_written(tf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VRAMLINE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DeviceError, match="cannot be written") as caught:
        fresh(tf)
    assert "VRAMLINE_CACHE" in str(caught.value)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, 'while [ "$1" != -o ]; do shift; done\necho made > "$2"'))
    assert build.main([str(tmp_path / "OUT.so")]) == 0
    assert (tmp_path / "OUT.so").read_text() == "made\n"
    assert "built for TensorFlow" in capsys.readouterr().out
    assert build.main([str(tmp_path / "missing" / "OUT.so")]) == 3
    assert "missing" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- a file that is named


def test_a_named_library(
    tf: Any, stream_library: Path, cache: Path, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(build.LIBRARY_VARIABLE, str(stream_library))
    fresh(tf)
    assert loaded == [str(stream_library)]
    assert not cache.exists()


def test_the_library_has_the_tracers_buffers(
    tf: Any, stream: SharedStream, stream_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(build.LIBRARY_VARIABLE, str(stream_library))
    buffers = library.activity_buffers(tf)
    data, size = ctypes.POINTER(ctypes.c_uint8)(), ctypes.c_size_t()
    assert buffers.vramline_activity_take(ctypes.byref(data), ctypes.byref(size)) == 0


def test_a_library_from_before_there_was_a_tracer(
    tf: Any, stream: SharedStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.cc").write_text('extern "C" int something() { return 1; }\n')
    command = ["g++", "-shared", "-fPIC", str(tmp_path / "old.cc"), "-o", str(tmp_path / "old.so")]
    subprocess.run(command, check=True, timeout=60)
    monkeypatch.setenv(build.LIBRARY_VARIABLE, str(tmp_path / "old.so"))
    with pytest.raises(DeviceError, match=r"old\.so: built by an older vramline") as caught:
        library.activity_buffers(tf)
    assert "build it again" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.replace(b"tensorflow=2.", b"tensorflow=1."), r"built for TensorFlow 1\.\d+\.\d+, but this is 2"),
        (lambda b: b"MZ" * 100, "not the library that shares"),
        (lambda b: b"\x7fFLE" + b[4:], "cannot load it: .*invalid ELF header"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_named_library_that_does_not_fit(
    tf: Any, stream_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, message: str
) -> None:
    path = tmp_path / "other.so"
    if change is not None:
        path.write_bytes(change(stream_library.read_bytes()))
    monkeypatch.setenv(build.LIBRARY_VARIABLE, str(path))
    with pytest.raises(DeviceError, match=message) as caught:
        fresh(tf)
    assert caught.value.message.startswith(f"VRAMLINE_STREAM_OP: {path}: ")
    assert "build it again" in (caught.value.remedy or "")


# --------------------------------------------------------------------------------------------------------------- the op


def test_addresses_are_those_that_went_in(stream: SharedStream, tf: Any) -> None:
    arrays = [stream.zeros(shape, dtype) for shape, dtype in [((3, 5), "float32"), ((64,), "uint8"), ((2, 2), "int64")]]
    exported = stream.ops.vramline_export(inputs=[stream.to_tensorflow(a) for a in arrays])
    assert pairs(exported.addresses) == [a.data.ptr for a in arrays]
    for array, tensor in zip(arrays, exported.outputs, strict=True):
        array[:] = 7
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_shapes_and_types_pass_through_while_tracing(stream: SharedStream, tf: Any) -> None:
    spec = [tf.TensorSpec([None, 4]), tf.TensorSpec(None, tf.uint8)]
    traced = tf.function(
        lambda a, b: stream.ops.vramline_export(inputs=[a, b]), input_signature=spec
    ).get_concrete_function()
    first, second, addresses = tf.nest.flatten(traced.structured_outputs)
    assert (first.shape.as_list(), first.dtype) == ([None, 4], tf.float32)
    assert (second.shape.rank, second.dtype) == (None, tf.uint8)
    assert (addresses.shape.as_list(), addresses.dtype) == ([2, 2], tf.int32)


def test_the_optimiser_neither_merges_nor_removes_it(stream: SharedStream, tf: Any) -> None:
    @tf.function
    def twice(x: Any) -> Any:
        y = x + 1.0
        one, two = stream.ops.vramline_export(inputs=[y]), stream.ops.vramline_export(inputs=[y])
        constant = stream.ops.vramline_export(inputs=[tf.constant([1.0])])
        return one.addresses, two.addresses, constant.addresses, y

    one, two, constant, y = twice(tf.ones([100]))
    [address] = pairs(stream.ops.vramline_export(inputs=[y]).addresses)
    assert pairs(one) == pairs(two) == [address]
    assert pairs(constant)[0] not in (0, address)
    from tensorflow.python.framework import op_def_registry

    assert op_def_registry.get("VramlineExport").is_stateful
    assert op_def_registry.get("VramlineStreamInfo").is_stateful


@pytest.mark.parametrize("xla", [False, True])
def test_a_prepared_call_returns_the_memory_of_its_outputs(stream: SharedStream, tf: Any, xla: bool) -> None:
    weights = tf.Variable(np.arange(12, dtype=np.float32).reshape(3, 4))
    call = PreparedCall(
        stream,
        lambda x: [tf.matmul(x, weights), tf.argmax(x, 1, output_type=tf.int32), x > 1, x],
        (2, 3),
        "float32",
        xla=xla,
    )
    array = stream.zeros((2, 3), np.float32)
    array[:] = [[1, 2, 3], [6, 5, 4]]
    product, best, larger, same = call(stream.to_tensorflow(array))
    np.testing.assert_array_equal(product, array @ weights.numpy())
    assert best.dtype == np.int32
    np.testing.assert_array_equal(best, [2, 0])
    assert larger.dtype == np.bool_
    np.testing.assert_array_equal(larger, array > 1)
    np.testing.assert_array_equal(same, array)


def test_errors_of_a_prepared_call_are_tensorflows(stream: SharedStream, tf: Any) -> None:
    call = PreparedCall(stream, lambda x: [1 // tf.cast(x, tf.int32)], (2,), "float32", xla=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="ivision by zero"):
        call(stream.to_tensorflow(stream.zeros((2,), np.float32)))


# ----------------------------------------------------------------------------------------------------------- the stream


def test_what_cannot_be_shared_is_refused(stream: SharedStream, tf: Any) -> None:
    base = stream.zeros((100,), np.float32)
    with pytest.raises(ValueError, match="multiple of 64"):
        stream.to_tensorflow(base[1:])
    with pytest.raises(ValueError, match="C order"):
        stream.to_tensorflow(base[::2])
    with pytest.raises(ValueError, match="int32"):
        stream.to_tensorflow(stream.zeros((4,), np.int32))


def test_a_device_without_a_stream_is_no_gpu(tf: Any, stream: SharedStream) -> None:
    with pytest.raises(DeviceError, match="GPU"):
        SharedStream(tf, stream.ops, fake_cupy)


def test_asynchronous_execution_is_refused(tf: Any, stream: SharedStream) -> None:
    tf.config.experimental.set_synchronous_execution(False)
    try:
        with pytest.raises(DeviceError, match="asynchronously"):
            SharedStream(tf, stream.ops, fake_cupy, "/device:CPU:0")
    finally:
        tf.config.experimental.set_synchronous_execution(True)


def test_a_copy_is_noticed(tf: Any, stream: SharedStream, monkeypatch: pytest.MonkeyPatch) -> None:
    copying = lambda self, array: tf.constant(np.array(array))  # noqa: E731
    monkeypatch.setattr(SharedStream, "to_tensorflow", copying)
    with pytest.raises(DeviceError, match="copies"):
        SharedStream(tf, stream.ops, fake_cupy, "/device:CPU:0")


def test_a_machine_without_a_gpu(tf: Any) -> None:
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceError, match=r"TensorFlow") as caught:
        open_shared_stream()
    assert "vramline[cuda12]" in str(caught.value)
