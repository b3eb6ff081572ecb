"""A loaded model on the GPU: CuPy arrays in, CuPy arrays out, all on TensorFlow's own stream."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

from pipeline.config.models import Preprocess
from pipeline.device_errors import explained, fault_of
from pipeline.errors import ModelError
from pipeline.frames import Array
from pipeline.inference._tensorflow import first_line
from pipeline.inference.frozen import FrozenGraph, frozen_graph
from pipeline.inference.half_choice import half_graph
from pipeline.inference.host_waits import show_ops, waiting_ops
from pipeline.inference.model import TensorFlowModel
from pipeline.inference.shared_stream import PreparedCall, SharedStream
from pipeline.stages import TensorInfo

log = logging.getLogger(__name__)

# Preprocessing fills a few input buffers in turn, each with a few row counts.
_KEPT_INPUTS = 32

Precision = Literal["auto", "fp32", "fp16"]


class CudaModel(TensorFlowModel):
    """A loaded model; implements `pipeline.stages.Model` on CuPy arrays. Calls come from one thread.

    A call enqueues the work and returns: nothing waits for the device, except inside models with operations for which
    TensorFlow itself waits; those are named in a warning. The tensor may be written again as soon as the call returns, by
    work on the same stream. XLA compiles the model where it can.

    Attributes:
        name: `name@hash`.
        input: The image input; float16 where the model takes it so (see `pipeline.inference.precision`).
        outputs: By name, in the model's order, with the types that they have on the CPU.
        batch_size: How many rows a call takes at most.
        precision: `fp32` or `fp16`: what the convolutions run in.
        xla: Whether XLA has compiled it.
    """

    def __init__(
        self,
        stream: SharedStream,
        function: Any,
        *,
        name: str,
        image: TensorInfo,
        dtype: str,
        outputs: tuple[TensorInfo, ...],
        batch_size: int,
        precision: Precision = "auto",
        xla: bool = True,
        preprocess: Preprocess | None = None,
        owner: object = None,
    ) -> None:
        """Args:
        stream: Where everything is put.
        function: A concrete function of one tensor of pixels that returns a flat tuple, one tensor per output.
        name: `name@hash`.
        image: The image input.
        dtype: Of the pixels.
        outputs: What the function returns.
        batch_size: How many rows a call takes at most.
        precision: What is wanted; `auto` is fp16 where the model stays within its range.
        xla: Whether XLA may be used.
        preprocess: What the values of pixels follow from; default: 0 to 1.
            owner: Of the function's variables; kept.
        """
        self._stream, self._owner = stream, owner
        graph = frozen_graph(function)
        self._graph: Callable[[Any], Any] = graph or function
        self.precision: Literal["fp32", "fp16"] = "fp32"
        if precision != "fp32":
            half = half_graph(stream.tf, graph, image, dtype, preprocess, wanted=precision == "fp16", model=name)
            if half is not None:
                self._graph, dtype, self.precision = half.graph, half.input_dtype, "fp16"
                image = TensorInfo(image.name, dtype if dtype == "float16" else image.dtype, image.shape)
        super().__init__(
            stream.tf,
            function,
            name=name,
            image=image,
            dtype=dtype,
            outputs=outputs,
            batch_size=batch_size,
            device="cuda",
        )
        if image.shape is None or image.shape[0] is None:
            self._row_counts = _row_counts(batch_size)
        self._waiting = waiting_ops(_all_nodes(graph, function))
        self.xla = xla and not self._waiting
        if xla and self._waiting:
            log.info("model %s: runs without XLA, since it holds %s", name, show_ops(self._waiting))
        self._calls: dict[tuple[int, ...], PreparedCall] = {}
        self._inputs: OrderedDict[tuple[int, tuple[int, ...]], Any] = OrderedDict()

    def warm_up(self, shape: tuple[int, ...]) -> None:
        """Compiles and runs every row count once; see `TensorFlowModel.warm_up`. The host waits for the device here."""
        super().warm_up(shape)
        if self._waiting:
            log.warning(
                "model %s: holds operations for which TensorFlow waits for the GPU at each batch: %s; a batch of %d "
                "keeps the host for %.1f ms (export the model without them: pipeline.postprocess does non-maximum "
                "suppression on the GPU)",
                self.name,
                show_ops(self._waiting),
                self.batch_size,
                self._host_ms(self._blank((self.batch_size, *shape))),
            )

    def close(self) -> None:
        """Releases the model; may be called twice."""
        super().close()
        self._owner = None
        self._calls.clear()
        self._inputs.clear()

    def _blank(self, shape: tuple[int, ...]) -> Array:
        return self._stream.zeros(shape, self._dtype)

    def _run(self, tensor: Array) -> dict[str, Array]:
        if self._function is None:
            raise ModelError(f"model {self.name}: has been closed")
        shape = tensor.shape
        try:
            call = self._calls.get(shape) or self._prepare(tensor)
            arrays = call(self._imported(tensor))
        except (self._tf.errors.OpError, ValueError, TypeError) as e:
            what = f"model {self.name}: does not run on {list(shape)} {tensor.dtype}"
            raise explained(e, what) or ModelError(f"{what}: {first_line(e)}") from e
        return dict(zip(self._output_names, arrays, strict=True))

    def _imported(self, tensor: Array) -> Any:
        """The eager tensor on the array's memory, which stays the same while the entry keeps it alive."""
        key = (tensor.data.ptr, tensor.shape)
        found = self._inputs.get(key)
        if found is None:
            found = self._inputs[key] = self._stream.to_tensorflow(tensor)
            if len(self._inputs) > _KEPT_INPUTS:
                self._inputs.popitem(last=False)
        return found

    def _prepare(self, tensor: Array) -> PreparedCall:
        """Traces, and compiles, the model for a shape. The host waits for the device."""
        shape = tensor.shape
        # A single row, of the last frames of a run, is not worth the seconds that XLA takes.
        if self.xla and (shape[0] > 1 or self.batch_size == 1):
            try:
                return self._trace(tensor, xla=True)
            except (self._tf.errors.OpError, ValueError, TypeError) as e:
                if fault_of(e) is not None:
                    raise
                self.xla = False
                log.info("model %s: runs without XLA, which cannot compile it: %s", self.name, first_line(e))
        return self._trace(tensor, xla=False)

    def _trace(self, tensor: Array, *, xla: bool) -> PreparedCall:
        start = time.perf_counter()
        call = PreparedCall(self._stream, self._graph, tensor.shape, self._dtype.name, xla=xla)
        call(self._imported(tensor))
        # TensorFlow chooses algorithms at the first call; a second one shows that what was chosen works.
        call(self._imported(tensor))
        self._stream.cupy.synchronize()
        took_s = time.perf_counter() - start
        log.debug("model %s: %s prepared in %.1f s", self.name, list(tensor.shape), took_s)
        self._calls[tensor.shape] = call
        return call

    def _host_ms(self, tensor: Array) -> float:
        start = time.perf_counter()
        self._run(tensor)
        return (time.perf_counter() - start) * 1e3


def _row_counts(batch_size: int) -> list[int]:
    """1, a quarter, all: every one is compiled, which takes XLA seconds, and a GPU is as quick with a few rows too many."""
    return sorted({1, -(-batch_size // 4), batch_size})


def _all_nodes(graph: FrozenGraph | None, function: Any) -> Any:
    if graph is not None:
        return graph.all_nodes()
    graph_def = function.graph.as_graph_def()
    return FrozenGraph(graph_def, "", ()).all_nodes()
