"""Every weight format of TensorFlow.js, against bytes that NumPy and struct wrote."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import AssetError
from pipeline.zoo.weights import load_weights


def manifest(folder: Path, data: bytes, *entries: dict[str, Any], shards: int = 1) -> list[dict[str, Any]]:
    cuts = [len(data) * i // shards for i in range(shards + 1)]
    paths = [f"shard{i}.bin" for i in range(shards)]
    for path, start, end in zip(paths, cuts[:-1], cuts[1:], strict=True):
        (folder / path).write_bytes(data[start:end])
    return [{"paths": paths, "weights": list(entries)}]


@pytest.mark.parametrize(
    ("dtype", "array"),
    [
        ("float32", np.array([[1.5, -2.25], [3e-38, 3e38]], "<f4")),
        ("int32", np.array([[[-(2**31)], [2**31 - 1]]], "<i4")),
        ("bool", np.array([True, False, True])),
        ("uint8", np.array([0, 255], "u1")),
        ("complex64", np.array([1 + 2j, -3.5j], "<c8")),
        ("float32", np.array(7.0, "<f4")),
        ("float32", np.zeros((0, 3), "<f4")),
    ],
)
def test_plain_weights(tmp_path: Path, dtype: str, array: np.ndarray) -> None:
    entry = {"name": "a/b", "shape": list(array.shape), "dtype": dtype}

    found = load_weights(tmp_path, manifest(tmp_path, array.tobytes(), entry))["a/b"]

    assert found.shape == array.shape
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("stored", ["uint8", "uint16"])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_quantised_weights(tmp_path: Path, stored: str, dtype: str) -> None:
    q = np.array([[0, 1, 2], [100, 254, 255]], stored)
    quantization = {"dtype": stored, "scale": 0.37, "min": -12.1}
    entry = {"name": "w", "shape": [2, 3], "dtype": dtype, "quantization": quantization}

    found = load_weights(tmp_path, manifest(tmp_path, q.tobytes(), entry))["w"]

    expected = [[float(v) * 0.37 - 12.1 for v in row] for row in q.tolist()]
    assert found.dtype == np.dtype(dtype)
    if dtype == "int32":
        assert found.tolist() == [[round(v) for v in row] for row in expected]
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_half_precision_weights(tmp_path: Path) -> None:
    halves = [0.1, -65504.0, 6e-8]
    entry = {"name": "w", "shape": [3], "dtype": "float32", "quantization": {"dtype": "float16"}}

    found = load_weights(tmp_path, manifest(tmp_path, struct.pack("<3e", *halves), entry))["w"]

    assert found.dtype == np.float32
    assert found.tolist() == list(struct.unpack("<3e", struct.pack("<3e", *halves)))


def test_strings(tmp_path: Path) -> None:
    words = ["cat", "", "grün"]
    data = b"".join(struct.pack("<I", len(w.encode())) + w.encode() for w in words)

    found = load_weights(tmp_path, manifest(tmp_path, data, {"name": "s", "shape": [3, 1], "dtype": "string"}))["s"]

    assert found.shape == (3, 1)
    assert [bytes(w).decode() for w in found.ravel()] == words


def test_weights_follow_one_another_across_shards_and_groups(tmp_path: Path) -> None:
    a, b = np.arange(7, dtype="<f4"), np.arange(5, dtype="<i4")
    entries = [{"name": "a", "shape": [7], "dtype": "float32"}, {"name": "b", "shape": [5], "dtype": "int32"}]
    groups = manifest(tmp_path, a.tobytes() + b.tobytes(), *entries, shards=3)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "c.bin").write_bytes(b"\x01")
    groups.append({"paths": ["more/c.bin"], "weights": [{"name": "c", "shape": [], "dtype": "bool"}]})

    found = load_weights(tmp_path, groups)

    np.testing.assert_array_equal(found["a"], a)
    np.testing.assert_array_equal(found["b"], b)
    assert found["c"].tolist() is True


W = {"name": "w", "shape": [4], "dtype": "float32"}


@pytest.mark.parametrize(
    ("data", "entry", "words"),
    [
        (bytes(15), W, "shard0.bin: the weights end in the middle of 'w': it needs 16 bytes, 15 are left"),
        (struct.pack("<I", 9) + b"abc", {**W, "shape": [1], "dtype": "string"}, "needs 9 bytes, 3 are left"),
        (bytes(16), {**W, "dtype": "float8"}, "dtype 'float8'"),
        (bytes(16), {**W, "shape": [-1, 4]}, "impossible shape [-1, 4]"),
        (bytes(16), {**W, "shape": [2**40, 2**40]}, "in the middle of 'w'"),
        (bytes(16), {**W, "shape": [2**40], "dtype": "string"}, "in the middle of 'w'"),
        (bytes(16), {**W, "shape": ["many"]}, "cannot be understood"),
        (bytes(16), {**W, "quantization": {"dtype": "int4"}}, "quantised to int4"),
        (bytes(16), {**W, "quantization": {"dtype": "uint8"}}, "cannot be understood: KeyError('scale')"),
        (bytes(16), {"name": "w"}, "cannot be understood"),
        (bytes(16), 3, "cannot be understood"),
    ],
)
def test_bad_weights_are_one_clear_error(tmp_path: Path, data: bytes, entry: Any, words: str) -> None:
    with pytest.raises(AssetError) as error:
        load_weights(tmp_path, manifest(tmp_path, data, entry))

    assert words in str(error.value)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"gone\.bin: the model's weights cannot be read.*beside model\.json"):
        load_weights(tmp_path, [{"paths": ["gone.bin"], "weights": [W]}])


@pytest.mark.parametrize("path", ["../outside.bin", "/etc/hostname"])
def test_shards_elsewhere_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(AssetError, match="leads elsewhere"):
        load_weights(tmp_path, [{"paths": [path], "weights": [W]}])
