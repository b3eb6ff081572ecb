"""Models on the GPU: TensorFlow's stream is shared, nothing is copied, nothing waits, and results are right."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cache import CACHE_VARIABLE
from pipeline.config.stages import ModelSource, Preprocess
from pipeline.inference import load_model
from pipeline.inference.shared_stream import PreparedCall, SharedStream, open_shared_stream

SPIN_MS = 80
AT_MOST_MS = 10

_SPIN = r"""
extern "C" __global__ void spin(long long ns) {
  unsigned long long start, now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
  do { asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)); } while ((long long)(now - start) < ns);
}
"""


@pytest.fixture(scope="module")
def stream() -> SharedStream:
    return open_shared_stream(8 << 30)


@pytest.fixture(scope="module")
def spin(stream: SharedStream) -> Callable[[], None]:
    """Keeps the stream busy for a while; returns at once."""
    import cupy

    kernel = cupy.RawKernel(_SPIN, "spin")

    def spin() -> None:
        with stream.cupy:
            kernel((1,), (1,), (np.int64(SPIN_MS * 1e6),))

    spin()
    stream.cupy.synchronize()
    return spin


@pytest.fixture(scope="module")
def net(stream: SharedStream) -> Callable[[Any], list[Any]]:
    """Some convolutions and outputs of several types."""
    tf = stream.tf
    rng = np.random.default_rng(0)
    with tf.device("/device:GPU:0"):
        first = tf.Variable(rng.normal(0, 0.2, (3, 3, 3, 16)).astype(np.float32))
        second = tf.Variable(rng.normal(0, 0.1, (3, 3, 16, 8)).astype(np.float32))

    def net(x: Any) -> list[Any]:
        x = tf.nn.conv2d(tf.nn.relu(tf.nn.conv2d(x, first, 2, "SAME")), second, 2, "SAME")
        mean = tf.reduce_mean(x, [1, 2])
        return [x, mean, tf.argmax(mean, 1, output_type=tf.int32), tf.argmax(mean, 1), mean > 0]

    return net


def noise(stream: SharedStream, shape: tuple[int, ...], seed: int = 0, dtype: str = "float32") -> Any:
    array = stream.empty(shape, dtype)
    values = np.random.default_rng(seed)
    array.set(
        values.integers(0, 256, shape).astype(dtype) if dtype == "uint8" else values.random(shape).astype(dtype),
        stream=stream.cupy,
    )
    stream.cupy.synchronize()
    return array


def host(stream: SharedStream, array: Any) -> np.ndarray:
    return array.get(stream=stream.cupy)


def test_the_stream_is_a_real_one(stream: SharedStream) -> None:
    import cupy

    assert stream.handle > 2, f"handle {stream.handle:#x}: the default stream or none"
    assert stream.cupy.ptr == stream.handle
    assert stream.ordinal == cupy.cuda.Device().id
    with stream.cupy:
        assert cupy.cuda.get_current_stream().ptr == stream.handle


def test_no_copy_in_either_direction(stream: SharedStream) -> None:
    tf = stream.tf
    x = noise(stream, (4, 8))
    call = PreparedCall(stream, lambda t: [tf.identity(t), t + 1], (4, 8), "float32", xla=False)
    tensor = stream.to_tensorflow(x)
    assert tensor.backing_device.endswith("GPU:0"), tensor.backing_device
    same, _ = call(tensor)
    assert same.data.ptr == x.data.ptr, f"{same.data.ptr:#x} is not {x.data.ptr:#x}"
    with stream.cupy:
        x += 1
    np.testing.assert_array_equal(tensor.numpy(), host(stream, x))


def test_plain_results_are_tensorflows_bit_for_bit(stream: SharedStream, net: Any) -> None:
    tf = stream.tf
    x = noise(stream, (8, 64, 64, 3))
    tensor = stream.to_tensorflow(x)
    spec = [tf.TensorSpec(x.shape, tf.float32)]
    expected = tf.function(net, input_signature=spec)(tensor)
    found = PreparedCall(stream, net, x.shape, "float32", xla=False)(tensor)
    for i, (e, f) in enumerate(zip(expected, found, strict=True)):
        assert f.dtype == e.numpy().dtype, f"output {i}: {f.dtype}, not {e.dtype}"
        np.testing.assert_array_equal(host(stream, f), e.numpy(), err_msg=f"output {i}")


def test_xla_results_are_close(stream: SharedStream, net: Any) -> None:
    x = noise(stream, (8, 64, 64, 3))
    tensor = stream.to_tensorflow(x)
    plain = [host(stream, a) for a in PreparedCall(stream, net, x.shape, "float32", xla=False)(tensor)]
    xla = [host(stream, a) for a in PreparedCall(stream, net, x.shape, "float32", xla=True)(tensor)]
    for p, q in zip(plain[:2], xla[:2], strict=True):
        np.testing.assert_allclose(q, p, rtol=1e-2, atol=1e-2)  # TensorFloat-32 rounds to 10 bits.
    assert (plain[3] == xla[3]).mean() > 0.7, f"best classes: {plain[3]} and {xla[3]}"
    np.testing.assert_array_equal(xla[2], xla[3])


@pytest.mark.parametrize("xla", [False, True])
def test_the_host_does_not_wait(stream: SharedStream, net: Any, spin: Any, xla: bool) -> None:
    call = PreparedCall(stream, net, (8, 64, 64, 3), "float32", xla=xla)
    x = noise(stream, (8, 64, 64, 3))
    for _ in range(3):
        call(stream.to_tensorflow(x))
    stream.cupy.synchronize()
    spin()
    start = time.perf_counter()
    call(stream.to_tensorflow(x))
    took_ms = (time.perf_counter() - start) * 1e3
    stream.cupy.synchronize()
    whole_ms = (time.perf_counter() - start) * 1e3
    assert whole_ms > SPIN_MS / 2, f"the stream was not busy: {whole_ms:.1f} ms"
    assert took_ms < AT_MOST_MS, f"a call behind a kernel of {SPIN_MS} ms took the host {took_ms:.1f} ms"


@pytest.mark.parametrize("xla", [False, True])
def test_the_input_may_be_overwritten_and_the_outputs_dropped_at_once(
    stream: SharedStream, net: Any, spin: Any, xla: bool
) -> None:
    import cupy

    call = PreparedCall(stream, net, (8, 64, 64, 3), "float32", xla=xla)
    x, original = noise(stream, (8, 64, 64, 3)), noise(stream, (8, 64, 64, 3))
    expected = host(stream, call(stream.to_tensorflow(original))[0])
    with stream.cupy:
        kept = cupy.empty(expected.shape, np.float32)
    for _ in range(5):
        with stream.cupy:
            x[...] = original
            spin()
            output = call(stream.to_tensorflow(x))[0]
            x.fill(-1000)
            kept[...] = output
            del output
            for _ in range(3):
                call(stream.to_tensorflow(x))  # Takes the memory that was let go of.
        np.testing.assert_array_equal(host(stream, kept), expected)


def test_memory_stays_flat(stream: SharedStream, net: Any) -> None:
    import cupy

    call = PreparedCall(stream, net, (8, 64, 64, 3), "float32", xla=False)
    x = noise(stream, (8, 64, 64, 3))

    def used() -> tuple[int, int, int]:
        gc.collect()
        stream.cupy.synchronize()
        info = stream.tf.config.experimental.get_memory_info("GPU:0")
        pool = cupy.get_default_memory_pool()
        return info["current"], pool.used_bytes(), int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    for _ in range(200):
        call(stream.to_tensorflow(x))
    before = used()
    for i in range(2000):
        call(stream.to_tensorflow(x))
        if i % 100 == 0:
            stream.cupy.synchronize()
    after = used()
    assert after[:2] == before[:2], f"TensorFlow's and CuPy's bytes: {before[:2]} before, {after[:2]} after 2000 calls"
    assert after[2] - before[2] < 32 << 20, f"the process grew by {(after[2] - before[2]) >> 20} MiB in 2000 calls"


# ---------------------------------------------------------------------------------------------------------- whole models


@pytest.fixture(scope="module")
def whole_numbers(stream: SharedStream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel with int32 outputs."""
    tf = stream.tf
    module = tf.Module()

    def serve(image: Any) -> dict[str, Any]:
        flat = tf.reshape(image, [-1, 12])
        best = tf.math.top_k(flat, 3)
        return {"indices": best.indices, "values": best.values, "sum": tf.reduce_sum(tf.cast(flat, tf.int32), 1)}

    module.serve = tf.function(serve, input_signature=[tf.TensorSpec([None, 2, 2, 3], tf.float32, name="image")])
    path = tmp_path_factory.mktemp("models") / "whole"
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve.get_concrete_function()})
    return path


def test_whole_numbers_stay_on_the_device(stream: SharedStream, whole_numbers: Path, spin: Any) -> None:
    source = ModelSource(path=str(whole_numbers), xla=True)
    model = load_model(whole_numbers, source, name="whole", batch_size=8, device="cuda", stream=stream)
    x = noise(stream, (8, 2, 2, 3))
    with stream.cupy:
        x *= 100
    model(x)
    stream.cupy.synchronize()
    spin()
    start = time.perf_counter()
    found = model(x)
    took_ms = (time.perf_counter() - start) * 1e3
    assert took_ms < AT_MOST_MS, f"a call took the host {took_ms:.1f} ms"
    flat = host(stream, x).reshape(8, 12)
    order = np.argsort(-flat, axis=1, kind="stable")[:, :3]
    assert found["indices"].dtype == np.int32
    np.testing.assert_array_equal(host(stream, found["indices"]), order)
    np.testing.assert_array_equal(host(stream, found["sum"]), flat.astype(np.int32).sum(1))


MODELS = {
    "coco_ssd_core": (Preprocess(scale=2 / 255, mean=1.0), (300, 300, 3)),
    "nanodet": (Preprocess(mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395)), (3, 416, 416)),
    "coco_ssd_od": (Preprocess(size=(320, 240)), (240, 320, 3)),
}


@pytest.mark.assets
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", MODELS)
def test_real_models_agree_with_tensorflow(
    assets: Path, stream: SharedStream, spin: Any, name: str, precision: str
) -> None:
    tf = stream.tf
    preprocess, shape = MODELS[name]
    path = assets / "models" / name
    source = ModelSource(path=str(path), precision=precision, xla=False)
    model: Any = load_model(path, source, name=name, batch_size=4, preprocess=preprocess, device="cuda", stream=stream)
    assert model.precision == precision
    dtype = model.input.dtype
    x = noise(stream, (4, *shape), 1, dtype)
    if dtype != "uint8":
        with stream.cupy:
            x *= 2
            x -= 1
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    given = tf.constant(host(stream, x).astype(np.uint8 if dtype == "uint8" else np.float32))
    expected = {k: v.numpy() for k, v in serve(**{model.input.name: given}).items()}
    found = {k: host(stream, v) for k, v in model(x).items()}
    assert found.keys() == expected.keys()
    for output, array in expected.items():
        assert found[output].shape == array.shape
        off = float(np.abs(found[output] - array).max())
        print(f"{name} {precision} xla={model.xla} {output}: at most {off:.2g} off, range {np.ptp(array):.3g}")
        if name == "coco_ssd_od":  # In noise it finds nothing, and orders that as it likes.
            assert np.isfinite(found[output]).all()
            if output == "detection_scores":
                assert off < 0.02, f"{output}: {off:.3g} off"
        else:
            most = (0.02 if precision == "fp16" else 0.01) * max(1.0, float(np.ptp(array)))
            assert off < most, f"{output}: {off:.3g} off, range {np.ptp(array):.3g}"
    if name != "coco_ssd_od":
        stream.cupy.synchronize()
        spin()
        start = time.perf_counter()
        model(x)
        took_ms = (time.perf_counter() - start) * 1e3
        stream.cupy.synchronize()
        assert took_ms < AT_MOST_MS, f"{name}: a call took the host {took_ms:.1f} ms"


@pytest.mark.assets
def test_xla_compiles_depthwise_convolutions_soon(
    assets: Path, stream: SharedStream, caplog: pytest.LogCaptureFixture
) -> None:
    """33 of COCO-SSD's 88 convolutions are depthwise: tried one by one, as others are, they take many minutes.

    So do those with a bias and no Relu, of which it has 43.
    """
    rows, preprocess = 64, MODELS["coco_ssd_core"][0]
    path = assets / "models" / "coco_ssd_core"
    x = noise(stream, (rows, 300, 300, 3), 1, "float16")
    with stream.cupy:
        x *= 2
        x -= 1
    found: dict[Any, dict[str, np.ndarray]] = {}
    seconds: dict[Any, float] = {}
    rates: dict[Any, float] = {}
    for xla, setting in ((True, "auto"), (False, False)):
        source = ModelSource(path=str(path), precision="fp16", xla=setting)
        start = time.perf_counter()
        with caplog.at_level("INFO"):
            model: Any = load_model(path, source, name="m", batch_size=rows, preprocess=preprocess, stream=stream)
        seconds[xla] = time.perf_counter() - start
        assert model.xla is xla, caplog.text
        assert model.input.dtype == "float16"
        stream.cupy.synchronize()
        found[xla] = {name: host(stream, array) for name, array in model(x).items()}
        start = time.perf_counter()
        for _ in range(20):
            model(x)
        stream.cupy.synchronize()
        rates[xla] = 20 * rows / (time.perf_counter() - start)
        model.close()
    print(f"with XLA: loaded in {seconds[True]:.1f} s, {rates[True]:.0f} frames/s")
    print(f"without: loaded in {seconds[False]:.1f} s, {rates[False]:.0f} frames/s")
    assert seconds[True] < 90
    assert rates[True] > rates[False]
    for name, array in found[False].items():
        off = float(np.abs(found[True][name] - array).max())
        print(f"{name}: at most {off:.2g} off, range {np.ptp(array):.3g}")
        assert off < 0.02 * max(1.0, float(np.ptp(array))), f"{name}: {off:.3g} off, range {np.ptp(array):.3g}"


@pytest.mark.assets
def test_xla_keeps_what_it_has_tried(assets: Path, tmp_path: Path) -> None:
    """The second process tries nothing again: what the first has written it reads, and writes nothing."""
    code = """
import sys, time
from pathlib import Path
from pipeline.config.stages import ModelSource
from pipeline.inference import load_model
from pipeline.inference.shared_stream import open_shared_stream
stream = open_shared_stream(8 << 30)
path = Path(sys.argv[1])
start = time.perf_counter()
model = load_model(path, ModelSource(path=str(path), precision="fp16", xla=True), name="m", batch_size=64, stream=stream)
assert model.xla
print(time.perf_counter() - start)
"""
    kept: list[dict[Path, int]] = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code, str(assets / "models" / "nanodet")],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
            env={**os.environ, CACHE_VARIABLE: str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        files = [path for path in (tmp_path / "xla").rglob("*") if path.is_file()]
        print(
            f"loaded in {float(done.stdout.split()[-1]):.1f} s; {len(files)} files in {sorted({p.parent.name for p in files})}"
        )
        kept.append({path: path.stat().st_mtime_ns for path in files})
    assert kept[0]
    assert kept[1] == kept[0]


def test_a_model_without_a_gpu_stream_still_runs_on_the_cpu(stream: SharedStream, whole_numbers: Path) -> None:
    model = load_model(whole_numbers, ModelSource(path=str(whole_numbers)), name="cpu", batch_size=2)
    images = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3)
    np.testing.assert_array_equal(model(images)["indices"], [[11, 10, 9]] * 2)
