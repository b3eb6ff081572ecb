"""Frozen GraphDefs: one .pb file with a graph whose weights are constants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.stages import ModelSource
from pipeline.errors import ModelError
from pipeline.inference._tensorflow import first_line
from pipeline.inference.graphs import check_ops
from pipeline.inference.signature import ModelDescription, show_tensor
from pipeline.stages import TensorInfo

_VARIABLES = frozenset({"Variable", "VariableV2", "VarHandleOp"})
_NO_OUTPUTS = frozenset({"Const", "NoOp", "Assert", "Placeholder", "PlaceholderWithDefault", "Print", "PrintV2"})
_MOST_LISTED = 20


class GraphDefFile:
    """A frozen GraphDef.

    Attributes:
        description: Its placeholders, and the outputs that the configuration names, else those that nothing consumes.
    """

    def __init__(self, tf: Any, path: Path, settings: ModelSource, *, model: str) -> None:
        self._model, self._named = model, settings.outputs is not None
        graph_def = _read(tf, path)
        check_ops(graph_def, model=model)
        try:
            self._function = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def, name=""), [])
        except Exception as e:
            raise ModelError(f"model {model}: {path} is damaged or incomplete: {first_line(e)}") from e
        self._graph = self._function.graph
        candidates = list(_unconsumed(self._graph))
        tensors = self._find(settings.outputs, candidates) if settings.outputs is not None else candidates
        needed = tf.compat.v1.graph_util.extract_sub_graph(graph_def, sorted({t.op.name for t in tensors})).node
        if any(node.op in _VARIABLES for node in needed):
            raise ModelError(
                f"model {model}: {path} is not frozen: its weights are variables that the file does not hold",
                remedy="freeze it, or export a SavedModel",
            )
        placeholders = [self._graph.get_tensor_by_name(f"{n.name}:0") for n in needed if n.op == "Placeholder"]
        names = settings.outputs or [_short(t.name) for t in tensors]
        self._outputs = dict(zip(names, tensors, strict=True))
        self.description = ModelDescription(
            "graphdef",
            path,
            tuple(_info(_short(t.name), t) for t in placeholders),
            tuple(_info(name, t) for name, t in self._outputs.items()),
        )

    def load(self, image: TensorInfo, outputs: Sequence[TensorInfo]) -> Callable[[Any], Mapping[str, Any]]:
        """What maps the image tensor to output name -> tensor, and can be traced."""
        if not self._named:
            raise ModelError(
                f"model {self._model}: a GraphDef does not say which tensors are its outputs; "
                f"placeholders: {_listed(self.description.inputs)}; nothing consumes: {_listed(self.description.outputs)}",
                remedy="name them in pipeline.model.outputs",
            )
        feed = self._graph.get_tensor_by_name(f"{image.name}:0")
        names = [o.name for o in outputs]
        pruned = self._function.prune(feed, [self._outputs[name] for name in names])
        return lambda pixels: dict(zip(names, pruned(pixels), strict=True))

    def _find(self, names: Sequence[str], candidates: Sequence[Any]) -> list[Any]:
        tensors = []
        for name in names:
            try:
                tensors.append(self._graph.get_tensor_by_name(name if ":" in name else f"{name}:0"))
            except (KeyError, ValueError) as e:
                found = _listed([_info(_short(t.name), t) for t in candidates])
                raise ModelError(
                    f"model {self._model}: has no tensor {name!r}", remedy=f"outputs may be: {found}"
                ) from e
        return tensors


def _read(tf: Any, path: Path) -> Any:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(path.read_bytes())
    except DecodeError as e:
        raise ModelError(
            f"{path}: neither a GraphDef nor another model, or damaged", remedy="copy or export it again"
        ) from e
    if not graph_def.node:
        raise ModelError(f"{path}: not a model: a GraphDef without nodes")
    return graph_def


def _unconsumed(graph: Any) -> Iterable[Any]:
    for op in graph.get_operations():
        if op.type not in _NO_OUTPUTS and op.outputs and not any(t.consumers() for t in op.outputs):
            yield from op.outputs


def _short(name: str) -> str:
    return name.removesuffix(":0")


def _info(name: str, tensor: Any) -> TensorInfo:
    shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
    return TensorInfo(name, tensor.dtype.name, shape)


def _listed(tensors: Sequence[TensorInfo]) -> str:
    more = f" and {len(tensors) - _MOST_LISTED} more" if len(tensors) > _MOST_LISTED else ""
    return (", ".join(map(show_tensor, tensors[:_MOST_LISTED])) or "none") + more
