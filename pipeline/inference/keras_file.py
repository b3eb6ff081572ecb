"""Keras files, `.keras` and `.h5`."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.stages import ModelSource
from pipeline.errors import ModelError
from pipeline.inference._tensorflow import first_line
from pipeline.inference.signature import Format, ModelDescription
from pipeline.stages import TensorInfo

# Layers that carry code or call it by name, and the mark of a serialised lambda.
_CODE_CLASSES = frozenset({"Lambda", "__lambda__", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer"})
_EXPORT = "export it as a SavedModel: model.export(folder)"


class KerasFile:
    """A Keras model. Its configuration is searched for code before Keras itself sees the file.

    Attributes:
        description: Its inputs and outputs; outputs are called as the keys of a dictionary, else as their layers.
    """

    def __init__(self, format: Format, path: Path, settings: ModelSource, *, model: str) -> None:
        if not settings.trust:
            _refuse_code(_read_config(format, path, model), model)
        import keras

        if keras.backend.backend() != "tensorflow":
            raise ModelError(
                f"model {model}: Keras already runs on {keras.backend.backend()} in this process, not on TensorFlow",
                remedy="start without importing keras before, or set KERAS_BACKEND=tensorflow",
            )
        try:
            self._keras = keras.models.load_model(path, compile=False, safe_mode=not settings.trust)
        except Exception as e:
            raise ModelError(f"model {model}: {path} cannot be loaded: {first_line(e)}", remedy=_EXPORT) from e
        if not getattr(self._keras, "inputs", None):
            raise ModelError(f"model {model}: the Keras model does not state its input shape", remedy=_EXPORT)
        outputs = _named_outputs(self._keras, self._keras.outputs)
        if len(self._keras.inputs) == 1:
            outputs = _named_outputs(self._keras, self._keras.compute_output_spec(self._keras.inputs[0]))
        self.description = ModelDescription(
            format,
            path,
            tuple(_info(t.name, t) for t in self._keras.inputs),
            tuple(_info(name, t) for name, t in outputs.items()),
        )

    def load(self, image: TensorInfo, outputs: Sequence[TensorInfo]) -> Callable[[Any], Mapping[str, Any]]:
        """What maps the image tensor to output name -> tensor, and can be traced."""
        return lambda pixels: _named_outputs(self._keras, self._keras(pixels, training=False))


def _read_config(format: Format, path: Path, model: str) -> Any:
    """The model's configuration, as JSON values."""
    try:
        if format == "keras":
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("config.json"))
        import h5py  # type: ignore[import-untyped]

        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise ModelError(
            f"model {model}: {path} is damaged or incomplete: {first_line(e)}", remedy="copy or export it again"
        ) from e
    if config is None:
        raise ModelError(
            f"model {model}: {path} holds weights without the model", remedy="save the whole model: model.save(file)"
        )
    return json.loads(config)


def _refuse_code(config: Any, model: str) -> None:
    for name, is_code in _foreign(config):
        if is_code:
            raise ModelError(
                f"model {model}: has a {name}, which runs Python code that comes with the file",
                remedy="set pipeline.model.trust to true if you made the file yourself, or export it as a SavedModel",
            )
        raise ModelError(f"model {model}: needs {name}, which is not part of Keras", remedy=_EXPORT)


def _foreign(node: Any) -> Iterator[tuple[str, bool]]:
    """What in the configuration is not Keras' own: in words, and whether it is code inside the file."""
    if isinstance(node, dict):
        kind, module = node.get("class_name"), node.get("module")
        if kind in _CODE_CLASSES:
            yield ("lambda function" if kind == "__lambda__" else f"{kind} layer"), True
        elif kind == "function":
            yield f"the Python function {node.get('config')}", False
        elif isinstance(module, str) and module.split(".")[0] not in ("keras", "builtins"):
            yield f"the Python class {module}.{kind}", False
        elif isinstance(node.get("registered_name"), str) and ">" in node["registered_name"]:
            yield f"the Python class {node['registered_name']}", False
        for value in node.values():
            yield from _foreign(value)
    elif isinstance(node, list):
        for value in node:
            yield from _foreign(value)


def _named_outputs(keras_model: Any, outputs: Any) -> dict[str, Any]:
    """Keras' output structure -> name -> tensor: a dictionary's own keys, else the names of the output layers."""
    if isinstance(outputs, Mapping):
        return dict(outputs)
    tensors = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    names = list(getattr(keras_model, "output_names", None) or [])
    if not names and len(tensors) == 1 and getattr(keras_model, "layers", None):
        names = [keras_model.layers[-1].name]
    if len(set(names)) != len(tensors):
        names = [f"output_{i}" for i in range(len(tensors))]
    return dict(zip(names, tensors, strict=True))


def _info(name: str, tensor: Any) -> TensorInfo:
    return TensorInfo(name, str(tensor.dtype), None if tensor.shape is None else tuple(tensor.shape))
