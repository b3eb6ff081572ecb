"""The converter, on graph models that the tests write, against NumPy and TensorFlow computing the same."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.cards import Convert
from pipeline.errors import AssetError
from pipeline.zoo.tfjs import convert_tfjs

Node = dict[str, Any]
RANDOM = np.random.default_rng(7)


def text(value: str) -> dict[str, str]:
    return {"s": base64.b64encode(value.encode()).decode()}


def texts(*values: str) -> Node:
    return {"list": {"s": [base64.b64encode(value.encode()).decode() for value in values]}}


def node(op: str, name: str, *inputs: str, **attr: Any) -> Node:
    return {"op": op, "name": name, "input": list(inputs), "attr": {"T": {"type": "DT_FLOAT"}, **attr}}


def image(*sizes: int, name: str = "x", dtype: str = "DT_FLOAT") -> Node:
    dims = [{"size": str(size)} for size in sizes]
    return {"op": "Placeholder", "name": name, "attr": {"dtype": {"type": dtype}, "shape": {"shape": {"dim": dims}}}}


def const(name: str, dtype: str = "DT_FLOAT") -> Node:
    return {"op": "Const", "name": name, "attr": {"dtype": {"type": dtype}, "value": {"tensor": {"dtype": dtype}}}}


DTYPES = {"float32": "DT_FLOAT", "int32": "DT_INT32", "bool": "DT_BOOL"}


def write(folder: Path, nodes: list[Node], weights: dict[str, np.ndarray], **document: Any) -> Path:
    """A graph model whose constants are the weights."""
    declared = [const(name, DTYPES[array.dtype.name]) for name, array in weights.items()]
    entries = [{"name": n, "shape": list(a.shape), "dtype": a.dtype.name} for n, a in weights.items()]
    (folder / "w.bin").write_bytes(b"".join(array.tobytes() for array in weights.values()))
    manifest = [{"paths": ["w.bin"], "weights": entries}]
    topology = {"node": [*nodes, *declared], "versions": {}}
    path = folder / "model.json"
    path.write_text(json.dumps({"modelTopology": topology, "weightsManifest": manifest, **document}))
    return path


def convert(path: Path, **options: Any) -> Callable[..., dict[str, np.ndarray]]:
    """The converted model as a function of named arrays."""
    import tensorflow as tf

    out = path.parent / "saved"
    convert_tfjs(path, out, Convert.model_validate({"format": "tfjs", **options}))
    loaded = tf.saved_model.load(str(out))
    call = loaded.signatures["serving_default"]

    def run(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        assert loaded  # The signature does not keep the model alive.
        return {k: v.numpy() for k, v in call(**{k: tf.constant(v) for k, v in inputs.items()}).items()}

    run.signature = call  # type: ignore[attr-defined]
    return run


CONV = {"strides": {"list": {"i": ["1", "2", "2", "1"]}}, "padding": text("SAME"), "data_format": text("NHWC")}
X = RANDOM.normal(size=(2, 5, 6, 3)).astype(np.float32)
KERNEL = RANDOM.normal(size=(3, 3, 3, 4)).astype(np.float32)
DEPTH_KERNEL = RANDOM.normal(size=(3, 3, 3, 2)).astype(np.float32)
BIAS = RANDOM.normal(size=4).astype(np.float32)
ALPHA = RANDOM.uniform(0.1, 0.9, size=(1, 1, 4)).astype(np.float32)


def conv(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A 3x3 convolution with stride 2 and SAME padding in double precision, by its definition."""
    n, h, w, _ = x.shape
    rows, columns = -(-h // 2), -(-w // 2)
    top, left = ((rows - 1) * 2 + 3 - h) // 2, ((columns - 1) * 2 + 3 - w) // 2
    padded = np.zeros((n, rows * 2 + 1, columns * 2 + 1, x.shape[3]))
    padded[:, top : top + h, left : left + w] = x
    out = np.zeros((n, rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            patch = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            out[:, i, j] = np.tensordot(patch, kernel.astype(np.float64), 3)
    return out


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Relu": lambda v: np.maximum(v, 0),
    "Relu6": lambda v: np.clip(v, 0, 6),
    "Elu": lambda v: np.where(v > 0, v, np.expm1(v)),
    "LeakyRelu": lambda v: np.where(v > 0, v, 0.15 * v),
    "Sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    "Tanh": np.tanh,
    "Prelu": lambda v: np.where(v > 0, v, ALPHA.reshape(4) * v),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_convolution(tmp_path: Path, activation: str) -> None:
    inputs = ["x", "k", "b"] + ["a"] * (activation == "Prelu")
    fused = node(
        "_FusedConv2D", "y", *inputs, **CONV, fused_ops=texts("BiasAdd", activation), leakyrelu_alpha={"f": 0.15}
    )
    path = write(tmp_path, [image(-1, 5, 6, 3), fused], {"k": KERNEL, "b": BIAS, "a": ALPHA})

    found = convert(path)(x=X)["y"]

    np.testing.assert_allclose(found, ACTIVATIONS[activation](conv(X, KERNEL) + BIAS), rtol=1e-4, atol=1e-5)


def test_fused_convolution_with_batch_normalisation(tmp_path: Path) -> None:
    scale, offset, mean = (RANDOM.normal(size=4).astype(np.float32) for _ in range(3))
    variance = RANDOM.uniform(0.001, 0.01, size=4).astype(np.float32)
    fused = node(
        *("_FusedConv2D", "y", "x", "k", "scale", "offset", "mean", "variance"),
        **CONV,
        fused_ops=texts("FusedBatchNorm", "Relu"),
        epsilon={"f": 0.01},
    )
    weights = {"k": KERNEL, "scale": scale, "offset": offset, "mean": mean, "variance": variance}

    found = convert(write(tmp_path, [image(-1, 5, 6, 3), fused], weights))(x=X)["y"]

    expected = (conv(X, KERNEL) - mean) / np.sqrt(variance + 0.01) * scale + offset
    np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-3, atol=1e-4)


def test_fused_depthwise_convolution(tmp_path: Path) -> None:
    bias = RANDOM.normal(size=6).astype(np.float32)
    fused = node("FusedDepthwiseConv2dNative", "y", "x", "k", "b", **CONV, fused_ops=texts("BiasAdd", "Relu6"))

    found = convert(write(tmp_path, [image(-1, 5, 6, 3), fused], {"k": DEPTH_KERNEL, "b": bias}))(x=X)["y"]

    per_channel = [conv(X[..., c : c + 1], DEPTH_KERNEL[:, :, c : c + 1]) for c in range(3)]
    expected = np.clip(np.concatenate(per_channel, -1) + bias, 0, 6)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("transpose_b", [False, True])
def test_fused_matrix_product(tmp_path: Path, transpose_b: bool) -> None:
    kernel = RANDOM.normal(size=(3, 4)).astype(np.float32)
    fused = node(
        *("_FusedMatMul", "y", "x", "k", "b"),
        fused_ops=texts("BiasAdd", "Elu"),
        transpose_a={"b": False},
        transpose_b={"b": transpose_b},
    )
    stored = np.ascontiguousarray(kernel.T if transpose_b else kernel)
    x = X.reshape(-1, 3)

    found = convert(write(tmp_path, [image(-1, 3), fused], {"k": stored, "b": BIAS}))(x=x)["y"]

    np.testing.assert_allclose(found, ACTIVATIONS["Elu"](x @ kernel + BIAS), rtol=1e-4, atol=1e-5)


def test_prelu_on_its_own(tmp_path: Path) -> None:
    x = RANDOM.normal(size=(2, 3, 3, 4)).astype(np.float32)

    found = convert(write(tmp_path, [image(-1, 3, 3, 4), node("Prelu", "y", "x", "a")], {"a": ALPHA}))(x=x)["y"]

    np.testing.assert_allclose(found, np.where(x > 0, x, ALPHA * x), rtol=1e-6)


def test_the_byte_encoding_of_old_converters(tmp_path: Path) -> None:
    empty = {"s": [], "i": [], "f": [], "b": [], "type": [], "shape": [], "tensor": [], "func": []}
    old = {
        "strides": {"list": {**empty, "i": ["1", "2", "2", "1"]}},
        "padding": {"s": list(b"SAME")},
        "data_format": {"s": list(b"NHWC")},
        "T": {"type": 1},
        "fused_ops": {"list": {**empty, "s": [list(b"BiasAdd"), list(b"Relu")]}},
    }
    path = write(
        tmp_path, [image(-1, 5, 6, 3), node("_FusedConv2D", "y", "x", "k", "b", **old)], {"k": KERNEL, "b": BIAS}
    )

    np.testing.assert_allclose(convert(path)(x=X)["y"], np.maximum(conv(X, KERNEL) + BIAS, 0), rtol=1e-4, atol=1e-5)


def test_weights_take_the_type_that_the_graph_declares(tmp_path: Path) -> None:
    nodes = [image(-1, 3), {**node("Cast", "y", "n"), "attr": {"SrcT": {"type": "DT_INT64"}, "DstT": {"type": 1}}}]
    path = write(tmp_path, [*nodes, node("AddV2", "z", "x", "y")], {"n": np.array([1, 2, 3], np.int32)})
    document = json.loads(path.read_text())
    document["modelTopology"]["node"][-1]["attr"]["dtype"]["type"] = "DT_INT64"
    path.write_text(json.dumps(document))

    assert convert(path)(x=np.zeros((1, 3), np.float32))["z"].tolist() == [[1, 2, 3]]


def test_strings_and_truth_values(tmp_path: Path) -> None:
    equal = {**node("Equal", "same", "left", "right"), "attr": {"T": {"type": "DT_STRING"}}}
    nodes = [image(3), const("left", "DT_STRING"), const("right", "DT_STRING"), equal]
    nodes += [{**node("LogicalAnd", "both", "same", "mask"), "attr": {}}, node("Select", "y", "both", "x", "zero")]
    path = write(tmp_path, nodes, {"zero": np.zeros(3, np.float32), "mask": np.array([True, True, False])})
    document = json.loads(path.read_text())
    strings = {"left": [b"a", b"b", b"c"], "right": [b"a", b"x", b"c"]}
    data = b"".join(len(s).to_bytes(4, "little") + s for words in strings.values() for s in words)
    (tmp_path / "s.bin").write_bytes(data)
    entries = [{"name": name, "shape": [3], "dtype": "string"} for name in strings]
    document["weightsManifest"].append({"paths": ["s.bin"], "weights": entries})
    path.write_text(json.dumps(document))

    assert convert(path)(x=np.array([1, 2, 3], np.float32))["y"].tolist() == [1, 0, 0]


# ------------------------------------------------------------------------------------------------ inputs and outputs


def two_heads() -> list[Node]:
    split = {**node("Split", "split", "axis", "x"), "attr": {"T": {"type": 1}, "num_split": {"i": "2"}}}
    return [
        image(-1, 4),
        split,
        node("Neg", "head/first", "split"),
        node("Relu", "tail/first", "split:1"),
    ]


AXIS = {"axis": np.array(1, np.int32)}
ROW = np.array([[1, -2, 3, -4]], np.float32)


def test_outputs_are_the_ends_of_the_graph(tmp_path: Path) -> None:
    found = convert(write(tmp_path, two_heads(), AXIS))(x=ROW)

    assert {name: value.tolist() for name, value in found.items()} == {
        "head_first": [[-1, 2]],
        "tail_first": [[3, 0]],
    }


def test_the_signature_names_them(tmp_path: Path) -> None:
    signature = {
        "inputs": {"picture:0": {"name": "x:0"}},
        "outputs": {"boxes": {"name": "head/first:0"}, "raw": {"name": "split:1"}},
    }
    for document in ({"signature": signature}, {"userDefinedMetadata": {"signature": signature}}):
        folder = tmp_path / next(iter(document))
        folder.mkdir()
        found = convert(write(folder, two_heads(), AXIS, **document))(picture=ROW)
        assert {k: v.tolist() for k, v in found.items()} == {"boxes": [[-1, 2]], "raw": [[3, -4]]}


def test_the_card_names_and_cuts_them(tmp_path: Path) -> None:
    loop = [image(-1, 4, name="raw"), node("Enter", "loop", "raw", frame_name=text("f")), node("Exit", "x", "loop")]
    path = write(tmp_path, [*loop, *two_heads()[1:]], AXIS)

    run = convert(
        path, inputs={"image": "x"}, outputs={"first": "head/first", "part": "split:1"}, input_shape=[None, 4]
    )

    assert {k: v.tolist() for k, v in run(image=ROW).items()} == {"first": [[-1, 2]], "part": [[3, -4]]}
    spec = run.signature.structured_input_signature[1]["image"]  # type: ignore[attr-defined]
    assert spec.shape.as_list() == [None, 4]


def test_the_input_can_be_cast(tmp_path: Path) -> None:
    cast = {**node("Cast", "y", "x"), "attr": {"SrcT": {"type": "DT_INT32"}, "DstT": {"type": "DT_FLOAT"}}}

    run = convert(write(tmp_path, [image(1, 2, dtype="DT_INT32"), cast], {}), input_dtype="uint8")

    assert run(x=np.array([[0, 255]], np.uint8))["y"].tolist() == [[0, 255]]


def test_devices_and_control_dependencies_are_left_out(tmp_path: Path) -> None:
    checked = {**node("Relu", "y", "x", "^assert"), "device": "/device:GPU:7"}
    path = write(tmp_path, [image(-1, 2), checked, node("Assert", "assert", "x")], {})

    assert convert(path, outputs={"y": "y"})(x=ROW[:, :2])["y"].tolist() == [[1, 0]]


# ------------------------------------------------------------------------------------------------------- batch


def reshaped(*sizes: int) -> tuple[list[Node], dict[str, np.ndarray]]:
    attr = {"T": {"type": 1}, "Tshape": {"type": 3}}
    return [image(1, 2, 3), {**node("Reshape", "y", "x", "shape"), "attr": attr}], {"shape": np.array(sizes, np.int32)}


def test_the_batch_is_freed(tmp_path: Path) -> None:
    nodes, weights = reshaped(1, 3, 2)
    x = np.arange(24, dtype=np.float32).reshape(4, 2, 3)

    run = convert(write(tmp_path, nodes, weights), free_batch=True)

    np.testing.assert_array_equal(run(x=x)["y"], x.reshape(4, 3, 2))
    assert run.signature.structured_outputs["y"].shape.as_list() == [None, 3, 2]  # type: ignore[attr-defined]


def test_the_batch_of_a_transposed_convolution_is_freed(tmp_path: Path) -> None:
    import tensorflow as tf

    kernel = RANDOM.normal(size=(2, 2, 4, 3)).astype(np.float32)
    up = node("Conv2DBackpropInput", "y", "sizes", "k", "x", **CONV)
    path = write(tmp_path, [image(1, 5, 6, 3), up], {"sizes": np.array([1, 10, 12, 4], np.int32), "k": kernel})

    found = convert(path, free_batch=True)(x=X)["y"]

    np.testing.assert_allclose(found, tf.nn.conv2d_transpose(X, kernel, [2, 10, 12, 4], 2).numpy(), rtol=1e-5)


@pytest.mark.parametrize("sizes", [(6,), (3, 2), (-1,), (2, 3, 1)])
def test_a_batch_that_cannot_be_freed_is_an_error(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    nodes, weights = reshaped(*sizes)

    with pytest.raises(AssetError, match=r"model\.json: the batch of this graph cannot be freed"):
        convert(write(tmp_path, nodes, weights), free_batch=True)
    assert not (tmp_path / "saved").exists()


def test_rows_that_influence_one_another_are_an_error(tmp_path: Path) -> None:
    mean = {**node("Mean", "mean", "x", "axis"), "attr": {"T": {"type": 1}, "keep_dims": {"b": True}}}
    path = write(tmp_path, [image(1, 4), mean, node("Sub", "y", "x", "mean")], {"axis": np.array(0, np.int32)})

    with pytest.raises(AssetError, match="'y' mixes the rows"):
        convert(path, free_batch=True)


# ------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("nodes", "options", "words"),
    [
        ([node("Merge", "m", "x"), node("Relu", "y", "m")], {}, "node 'm' (Merge) is control flow"),
        ([node("StatelessWhile", "y", "x")], {}, "node 'y' (StatelessWhile) is control flow"),
        ([node("TensorArrayV3", "y", "x")], {}, "is control flow"),
        ([node("WriteFile", "y", "x", "x")], {}, "node 'y' (WriteFile) keeps state or reaches outside"),
        ([node("ReadFile", "y", "x")], {}, "reaches outside"),
        ([node("HashTableV2", "h"), node("Relu", "y", "h")], {}, "node 'h' (HashTableV2) keeps state"),
        ([node("MyOwnThing", "y", "x")], {}, "node 'y' (MyOwnThing): TensorFlow has no such operation"),
        ([node("_FusedConv2D", "y", "x", "w", fused_ops=texts("Mish"))], {}, "node 'y' (_FusedConv2D) fuses 'Mish'"),
        ([node("_FusedMatMul", "y", "x", "w", fused_ops=texts("BiasAdd"))], {}, "fewer inputs"),
        ([node("Relu", "y", "gone")], {}, "no node 'gone'"),
        ([const("c"), node("AddV2", "y", "x", "c")], {}, "the constant 'c' of the graph has no weights"),
        ([node("Relu", "y", "x", T={"type": "DT_NONE"})], {}, "TensorFlow does not take the graph"),
        (
            [{"name": "y", "op": "Relu", "attr": {"T": {"s": [1, 999]}}}],
            {},
            "node 'y' of the graph cannot be understood",
        ),
        ([node("MatMul", "y", "x", "w", T={"type": "DT_STRING"})], {}, "TensorFlow does not take the graph"),
        ([node("Relu", "y", "x")], {"outputs": {"z": "z"}}, "no node 'z'"),
        ([node("Relu", "y", "x")], {"outputs": {"z": "y:1"}}, "an output does not exist"),
        ([node("Relu", "y", "x")], {"inputs": {"i": "gone"}}, "no node 'gone' to be an input"),
        (
            [node("Relu", "y", "x"), image(1, name="x2")],
            {"inputs": {"i": "x2"}},
            "need the input 'x' too; given are 'x2'",
        ),
        ([node("Relu", "y", "x")], {"inputs": {"i": "x", "w": "w"}}, "do not depend on the input 'w'"),
        (
            [image(-1, 2, name="x2"), node("AddV2", "y", "x", "x2")],
            {"input_dtype": "uint8"},
            "for models with one input; this has x, x2",
        ),
        ([node("Relu", "y", "w")], {}, "do not depend on the input 'x'"),
        ([node("NoOp", "y")], {}, "no outputs"),
    ],
)
def test_what_cannot_be_converted_is_named(
    tmp_path: Path, nodes: list[Node], options: dict[str, Any], words: str
) -> None:
    path = write(tmp_path, [image(-1, 2), *nodes], {"w": np.zeros((2, 2), np.float32)})

    with pytest.raises(AssetError) as error:
        convert(path, **options)

    assert words in str(error.value)
    assert str(error.value).startswith("model.json: ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "w.bin"]


LAYERS = {"format": "layers-model", "modelTopology": {"class_name": "Sequential"}, "weightsManifest": []}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "no modelTopology"),
        (b"{}", "no modelTopology"),
        (b'{"modelTopology": {}}', "has no nodes"),
        (b'{"modelTopology": {"node": []}}', "no weightsManifest"),
        (json.dumps(LAYERS).encode(), "layers model; only graph models"),
        (b'{"modelTopology": {"model_config": {}}}', "layers model; only graph models"),
        (b'{"modelTopology": {"node": [3]}, "weightsManifest": []}', "node 3 of the graph cannot be understood"),
    ],
)
def test_what_is_no_graph_model_is_one_clear_error(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "model.json").write_bytes(content)

    with pytest.raises(AssetError) as error:
        convert(tmp_path / "model.json")

    assert words in str(error.value)
    assert "model.json" in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"model\.json: the model cannot be read: No such file"):
        convert(tmp_path / "model.json")


def test_a_cut_off_shard(tmp_path: Path) -> None:
    path = write(tmp_path, [image(-1, 2), node("MatMul", "y", "x", "w")], {"w": np.zeros((2, 2), np.float32)})
    (tmp_path / "w.bin").write_bytes(bytes(15))

    with pytest.raises(AssetError, match=r"w\.bin: the weights end in the middle of 'w'"):
        convert(path)


def test_a_folder_with_something_in_it_is_not_touched(tmp_path: Path) -> None:
    path = write(tmp_path, [image(-1, 2), node("Relu", "y", "x")], {})
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "precious").touch()

    with pytest.raises(AssetError, match="not empty"):
        convert(path)
    assert (tmp_path / "saved" / "precious").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    path = write(tmp_path, [image(-1, 2), node("Relu", "y", "x")], {})
    (tmp_path / "file").touch()

    with pytest.raises(AssetError, match="cannot be written"):
        convert_tfjs(path, tmp_path / "file" / "out", Convert(format="tfjs"))
