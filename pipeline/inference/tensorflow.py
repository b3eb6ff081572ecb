"""The engine that runs models, TensorFlow: opening a file of any format, checking it, loading it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.config.stages import ModelSource, Preprocess
from pipeline.errors import ModelError
from pipeline.inference._tensorflow import configure, first_line, import_tensorflow
from pipeline.inference.files import content_hash, find_format
from pipeline.inference.graphdef import GraphDefFile
from pipeline.inference.graphs import freeze
from pipeline.inference.keras_file import KerasFile
from pipeline.inference.model import TensorFlowModel
from pipeline.inference.saved_model import SavedModelFile
from pipeline.inference.signature import ModelDescription, Shape, pick_name, pixel_type, resolve_input, show_shape
from pipeline.stages import TensorInfo

if TYPE_CHECKING:
    from pipeline.inference.shared_stream import SharedStream

log = logging.getLogger(__name__)

_DEFAULT_BATCH_SIZE = 8
# Smaller ones leave a GPU idle between their kernels.
DEFAULT_BATCH_SIZE_ON_GPU = 64
_TO_FLOAT32 = ("float16", "bfloat16", "float64")
_NO_ARRAYS = ("string", "variant", "resource", "composite")


class ModelFile(Protocol):
    """An opened model of any format."""

    description: ModelDescription

    def load(self, image: TensorInfo, outputs: Sequence[TensorInfo]) -> Callable[[Any], Mapping[str, Any]]:
        """What maps the image tensor to output name -> tensor, and can be traced."""


def describe_model(path: Path, settings: ModelSource | None = None) -> ModelDescription:
    """What the model at `path` says of its inputs and outputs. A SavedModel's weights are not loaded.

    Args:
        path: Of any format that `load_model` takes.
        settings: Whose signature is described, and which outputs of a GraphDef.

    Raises:
        ModelError: it is no model, or cannot be read.
    """
    settings = settings or ModelSource(path=str(path))
    return _open(import_tensorflow(), path, settings, model=settings.name or path.name).description


def load_model(
    path: Path,
    settings: ModelSource,
    *,
    name: str,
    batch_size: int | None,
    preprocess: Preprocess | None = None,
    threads: int = 0,
    device: str = "cpu",
    stream: SharedStream | None = None,
    usual_batch_size: int | None = None,
) -> TensorFlowModel:
    """Loads, checks and warms up a model.

    Args:
        path: A SavedModel folder, a Keras file or a frozen GraphDef.
        settings: Which signature, input and outputs, and whether code in the file may run.
        name: What results are stamped with, together with the content's hash.
        batch_size: Frames per call; None: the model's own if that is fixed, else 8, on a
            GPU 64.
        preprocess: What the configuration says of the input; checked before the weights are loaded. A model that leaves
            the size of its input open is fixed to this size, which makes it faster, and without it is warmed up only by
            its first call.
        threads: TensorFlow's threads for one operation; 0: TensorFlow decides. The first model of a process decides.
        device: The engine; `cpu` hides GPUs from TensorFlow.
        stream: Of the GPU, for the `cuda` engine; the model is a `CudaModel` then.
        usual_batch_size: In place of the 8, or on a GPU 32.

    Raises:
        ModelError: it cannot be loaded, does not fit, or does not run; one sentence.
    """
    tf = import_tensorflow()
    if stream is None:
        configure(tf, threads=threads, device=device)
    file = _open(tf, path, settings, model=name)
    image = file.description.image(settings.input, model=name)
    if preprocess is not None:
        image = _with_size(image, resolve_input(image, preprocess, model=name))
    usual = usual_batch_size or (_DEFAULT_BATCH_SIZE if stream is None else DEFAULT_BATCH_SIZE_ON_GPU)
    rows = _batch_size(image, batch_size, usual, model=name)
    wanted = _wanted(file.description.outputs, settings.outputs, model=name)
    fed = pixel_type(image, model=name)
    call = file.load(image, wanted)
    traced, outputs = _trace(tf, call, image, wanted, fed=fed, model=name)
    stamp = f"{name}@{content_hash(path)}"
    loaded: TensorFlowModel
    if stream is not None:
        from pipeline.inference.cuda_model import CudaModel

        loaded = CudaModel(
            stream,
            traced,
            name=stamp,
            image=image,
            dtype=fed,
            outputs=outputs,
            batch_size=rows,
            precision=settings.precision,
            xla=settings.xla,
            preprocess=preprocess,
            owner=call,
        )
    else:
        function = freeze(tf, traced)
        loaded = TensorFlowModel(
            tf, function, name=stamp, image=image, dtype=fed, outputs=outputs, batch_size=rows, device=device
        )
    size = (image.shape or (None,))[1:]
    if size and None not in size:
        loaded.warm_up(tuple(d for d in size if d is not None))
    return loaded


def _open(tf: Any, path: Path, settings: ModelSource, *, model: str) -> ModelFile:
    format = find_format(path)
    if format == "saved_model":
        return SavedModelFile(tf, path, settings, model=model)
    if format == "graphdef":
        return GraphDefFile(tf, path, settings, model=model)
    return KerasFile(format, path, settings, model=model)


def _with_size(image: TensorInfo, preprocess: Preprocess) -> TensorInfo:
    """The input with everything but its batch fixed."""
    assert preprocess.size is not None
    (width, height), channels = preprocess.size, 1 if preprocess.channels == "gray" else 3
    pixels = (channels, height, width) if preprocess.layout == "nchw" else (height, width, channels)
    return TensorInfo(image.name, image.dtype, (image.shape[0] if image.shape else None, *pixels))


def _batch_size(image: TensorInfo, wanted: int | None, usual: int, *, model: str) -> int:
    fixed = image.shape[0] if image.shape else None
    if fixed is None:
        return wanted or usual
    if wanted not in (None, fixed):
        raise ModelError(
            f"model {model}: input {image.name!r} is {show_shape(image.shape)}: it takes exactly {fixed} "
            f"image{'s' if fixed > 1 else ''} at a time, but runtime.batch_size says {wanted}",
            remedy="leave batch_size out, or export the model with a free batch dimension",
        )
    return fixed


def _wanted(outputs: tuple[TensorInfo, ...], names: list[str] | None, *, model: str) -> tuple[TensorInfo, ...]:
    """The outputs to fetch: those named; by default all that are arrays of numbers."""
    if names is None:
        for skipped in (o for o in outputs if o.dtype in _NO_ARRAYS):
            log.info(
                "model %s: output %r (%s) is no array of numbers and is left out", model, skipped.name, skipped.dtype
            )
        found = tuple(o for o in outputs if o.dtype not in _NO_ARRAYS)
        if not found:
            raise ModelError(f"model {model}: has no output that is an array of numbers")
        return found
    every = {o.name: o for o in outputs}
    picked = tuple(every[pick_name(name, list(every), what="output", model=model)] for name in names)
    for o in picked:
        if o.dtype in _NO_ARRAYS:
            raise ModelError(f"model {model}: output {o.name!r} is {o.dtype}, not numbers", remedy="leave it out")
    return picked


def _trace(
    tf: Any,
    call: Callable[[Any], Mapping[str, Any]],
    image: TensorInfo,
    wanted: tuple[TensorInfo, ...],
    *,
    fed: str,
    model: str,
) -> tuple[Any, tuple[TensorInfo, ...]]:
    """The model as one concrete function from the image tensor to a flat list, and what is known of its outputs."""

    def run(pixels: Any) -> tuple[Any, ...]:
        found = call(pixels if fed == image.dtype else tf.cast(pixels, image.dtype))
        tensors = (found[o.name] for o in wanted)
        return tuple(tf.cast(t, tf.float32) if t.dtype.name in _TO_FLOAT32 else t for t in tensors)

    spec = tf.TensorSpec(image.shape, fed, name="pixels")
    try:
        traced = tf.function(run, input_signature=[spec], autograph=False).get_concrete_function()
    except Exception as e:
        raise ModelError(f"model {model}: does not fit its own signature: {first_line(e)}") from e
    outputs = tuple(
        TensorInfo(o.name, t.dtype.name, _merged(o.shape, None if t.shape.rank is None else tuple(t.shape.as_list())))
        for o, t in zip(wanted, traced.outputs, strict=True)
    )
    return traced, outputs


def _merged(declared: Shape | None, inferred: Shape | None) -> Shape | None:
    """The better known of two shapes of the same tensor."""
    if declared is None or inferred is None or len(declared) != len(inferred):
        return inferred or declared
    return tuple(d if i is None else i for d, i in zip(declared, inferred, strict=True))
