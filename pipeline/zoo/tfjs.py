"""Converts TensorFlow.js graph models (model.json and weight shards) to SavedModels, with TensorFlow and NumPy alone."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.cards import Convert
from pipeline.errors import AssetError
from pipeline.zoo.batch import check_batch, free_batch
from pipeline.zoo.graph import ends, node_name, output_type, parse_nodes, placeholder, placeholders, subgraph
from pipeline.zoo.weights import load_weights

if TYPE_CHECKING:
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef

MAX_JSON_BYTES = 500_000_000


def convert_tfjs(model_json: Path, out: Path, convert: Convert) -> None:
    """Writes a TensorFlow.js graph model as a SavedModel with the signature `serving_default`.

    Args:
        model_json: The model's JSON file; its weight shards lie beside it.
        out: The SavedModel's folder; must not exist, or be empty. It appears complete or not at all.
        convert: Names of inputs and outputs, input shape and type, and whether the batch is freed.

    Raises:
        AssetError: the file is no graph model, is damaged, or holds what cannot be converted.
    """
    if out.is_dir() and any(out.iterdir()):
        raise AssetError(f"{out} exists and is not empty", remedy="name a new folder")
    document = _read(model_json)
    try:
        nodes = parse_nodes(document["modelTopology"], load_weights(model_json.parent, document["weightsManifest"]))
        graph, interface = _prepare(document, nodes, convert)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".convert.", dir=out.parent) as work:
            made = Path(work) / "model"
            _save(graph, interface, made, convert)
            made.rename(out)
    except AssetError as e:
        raise AssetError(f"{model_json.name}: {e.message}", remedy=e.remedy) from e
    except OSError as e:
        raise AssetError(f"{out}: the model cannot be written: {e.strerror or e}") from e


@dataclass(frozen=True)
class _Interface:
    """Public name -> placeholder, and public name -> tensor."""

    inputs: dict[str, NodeDef]
    outputs: dict[str, str]


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise AssetError(f"{path} is larger than {MAX_JSON_BYTES // 10**6} MB, which no model.json is")
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise AssetError(f"{path}: the model cannot be read: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise AssetError(f"{path}: not a TensorFlow.js model (it is not valid JSON: {e})") from e
    if not isinstance(document, dict) or not isinstance(document.get("modelTopology"), dict):
        raise AssetError(f"{path}: not a TensorFlow.js model (it has no modelTopology)")
    topology = document["modelTopology"]
    if document.get("format") == "layers-model" or "model_config" in topology or "class_name" in topology:
        raise AssetError(
            f"{path} is a TensorFlow.js layers model; only graph models can be converted",
            remedy="save it with Keras as .keras or as a SavedModel, and use that",
        )
    if not isinstance(topology.get("node"), list):
        raise AssetError(f"{path}: not a TensorFlow.js graph model (its modelTopology has no nodes)")
    if "weightsManifest" not in document:
        raise AssetError(f"{path}: not a TensorFlow.js graph model (it has no weightsManifest)")
    return document


def _prepare(
    document: Mapping[str, Any], nodes: Mapping[str, NodeDef], convert: Convert
) -> tuple[GraphDef, _Interface]:
    signature = document.get("signature") or (document.get("userDefinedMetadata") or {}).get("signature") or {}
    outputs = convert.outputs or _named(signature.get("outputs"), ends(nodes))
    if not outputs:
        raise AssetError("the graph has no outputs")
    chosen = convert.inputs or _named(signature.get("inputs"), placeholders(nodes))
    unknown = [tensor for tensor in chosen.values() if node_name(tensor) not in nodes]
    if unknown:
        raise AssetError(f"the graph has no node {unknown[0]!r} to be an input")
    inputs = {name: _input(nodes[node_name(tensor)], convert.input_shape) for name, tensor in chosen.items()}
    graph = subgraph(nodes, {node.name: node for node in inputs.values()}, outputs.values())
    needed = {node.name for node in graph.node}
    unused = [name for name, node in inputs.items() if node.name not in needed]
    if unused and (convert.inputs or len(unused) == len(inputs)):
        raise AssetError(f"the outputs do not depend on the input {unused[0]!r}")
    inputs = {name: node for name, node in inputs.items() if name not in unused}
    if len(inputs) != 1 and (convert.input_shape or convert.input_dtype):
        raise AssetError(f"input_shape and input_dtype are for models with one input; this has {', '.join(inputs)}")
    return graph, _Interface(inputs, outputs)


def _named(signature: Mapping[str, Any] | None, tensors: list[str]) -> dict[str, str]:
    """Public name -> tensor, from the signature if there is one; names are short where that is unambiguous."""
    pairs = [(key, entry.get("name") or key) for key, entry in (signature or {}).items()]
    pairs = pairs or [(tensor, tensor) for tensor in tensors]
    short = [_identifier(node_name(key).rpartition("/")[2]) for key, _ in pairs]
    long = [_identifier(key) for key, _ in pairs]
    names = short if len(set(short)) == len(short) else long
    return {name: tensor for name, (_, tensor) in zip(names, pairs, strict=True)}


def _identifier(text: str) -> str:
    return re.sub(r"^(?=\d)|\W", "_", text, flags=re.ASCII)


def _input(node: NodeDef, shape: list[int | None] | None) -> NodeDef:
    """A placeholder in a node's place."""
    stated = node.attr["shape"].shape if node.op == "Placeholder" and "shape" in node.attr else None
    if shape is None and stated is not None and not stated.unknown_rank:
        shape = [None if dim.size < 0 else int(dim.size) for dim in stated.dim]
    return placeholder(node.name, output_type(node), shape)


def _save(graph: GraphDef, interface: _Interface, out: Path, convert: Convert) -> None:
    import tensorflow as tf

    try:
        if convert.free_batch:
            free_batch(graph, [node.name for node in interface.inputs.values()])
        wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
    except (ValueError, tf.errors.OpError) as e:
        raise AssetError(f"TensorFlow does not take the graph: {str(e).splitlines()[0]}") from e
    tensors = {name: wrapped.graph.get_tensor_by_name(f"{node.name}:0") for name, node in interface.inputs.items()}
    try:
        fetched = {name: wrapped.graph.as_graph_element(_first(tensor)) for name, tensor in interface.outputs.items()}
    except (ValueError, KeyError) as e:
        raise AssetError(f"an output does not exist: {e}") from e
    pruned = wrapped.prune(list(tensors.values()), fetched)
    specs = [
        tf.TensorSpec(tensor.shape, convert.input_dtype or tensor.dtype, name=name) for name, tensor in tensors.items()
    ]

    def call(*values: Any) -> Any:
        return pruned(*(tf.cast(value, tensor.dtype) for value, tensor in zip(values, tensors.values(), strict=True)))

    serve = tf.function(call, input_signature=specs)
    module = tf.Module()
    module.pruned = pruned
    module.serve = serve
    if convert.free_batch:
        check_batch(serve, specs)
    tf.saved_model.save(module, str(out), signatures={"serving_default": serve.get_concrete_function()})
    # It holds a random number, and loading needs it not: without it the same model has the same hash everywhere.
    (out / "fingerprint.pb").unlink(missing_ok=True)


def _first(tensor: str) -> str:
    return tensor if ":" in tensor else f"{tensor}:0"
