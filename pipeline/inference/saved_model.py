"""SavedModel folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.stages import ModelSource
from pipeline.errors import ModelError
from pipeline.inference._tensorflow import first_line
from pipeline.inference.graphs import check_ops
from pipeline.inference.signature import ModelDescription, pick_name
from pipeline.stages import TensorInfo


class SavedModelFile:
    """A SavedModel; opening it reads the graph and its signatures, not the weights.

    Attributes:
        description: Of the signature that the configuration names.
    """

    def __init__(self, tf: Any, path: Path, settings: ModelSource, *, model: str) -> None:
        self._tf, self._path, self._model = tf, path, model
        graph = _read(path)
        signatures = {k: v for k, v in graph.signature_def.items() if not k.startswith("__saved_model")}
        if not signatures:
            raise ModelError(
                f"model {model}: the SavedModel has no signatures",
                remedy="save it with one: tf.saved_model.save(module, folder, signatures=function), or Keras' model.export(folder)",
            )
        name = pick_name(settings.signature, sorted(signatures), what="signature", model=model)
        check_ops(graph.graph_def, model=model)
        self._tags = list(graph.meta_info_def.tags)
        self.description = ModelDescription(
            "saved_model",
            path,
            _tensors(tf, signatures[name].inputs),
            _tensors(tf, signatures[name].outputs),
            name,
            tuple(sorted(signatures)),
        )

    def load(self, image: TensorInfo, outputs: Sequence[TensorInfo]) -> Callable[[Any], Mapping[str, Any]]:
        """Loads the weights; the result maps the image tensor to output name -> tensor, and can be traced."""
        try:
            loaded = self._tf.saved_model.load(str(self._path), tags=self._tags)
            function = loaded.signatures[self.description.signature]
        except Exception as e:
            raise ModelError(
                f"model {self._model}: {self._path} cannot be loaded: {first_line(e)}",
                remedy="the folder must be complete: saved_model.pb and variables/; copy or export it again",
            ) from e

        def call(pixels: Any) -> Mapping[str, Any]:
            assert loaded is not None  # Kept alive with the function: it owns the variables and tables.
            result: Mapping[str, Any] = function(**{image.name: pixels})
            return result

        return call


def _read(path: Path) -> Any:
    """The meta graph for serving."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    parsed = saved_model_pb2.SavedModel()
    try:
        parsed.ParseFromString(file.read_bytes())
    except DecodeError as e:
        raise ModelError(f"{file}: damaged or incomplete", remedy="copy or export the model again") from e
    graphs = [g for g in parsed.meta_graphs if "serve" in g.meta_info_def.tags] or list(parsed.meta_graphs)
    if not graphs:
        raise ModelError(f"{file}: damaged or incomplete: it holds no graph", remedy="copy or export the model again")
    return graphs[0]


def _tensors(tf: Any, infos: Mapping[str, Any]) -> tuple[TensorInfo, ...]:
    """A signature's map has no order; names count up, so a natural sort gives the order they were made in."""

    def tensor(name: str, info: Any) -> TensorInfo:
        if info.WhichOneof("encoding") != "name":
            return TensorInfo(name, "composite", None)
        dims = None if info.tensor_shape.unknown_rank else info.tensor_shape.dim
        shape = None if dims is None else tuple(None if d.size < 0 else int(d.size) for d in dims)
        return TensorInfo(name, tf.dtypes.as_dtype(info.dtype).name, shape)

    return tuple(tensor(name, infos[name]) for name in sorted(infos, key=_natural))


def _natural(name: str) -> list[tuple[str, int]]:
    return [(text, int(number or -1)) for text, number in re.findall(r"(\D*)(\d*)", name)]
