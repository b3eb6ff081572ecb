"""A loaded model on the GPU: CuPy arrays in, CuPy arrays out, all on TensorFlow's own stream."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

from pipeline.config.stages import Preprocess
from pipeline.device_errors import LOST, explained, fault_of
from pipeline.errors import ModelError
from pipeline.frames import Array
from pipeline.inference._tensorflow import first_line
from pipeline.inference.batch_norm import fold_batch_norms
from pipeline.inference.frozen import FrozenGraph, frozen_graph
from pipeline.inference.half_choice import half_graph
from pipeline.inference.host_waits import show_ops, waiting_ops
from pipeline.inference.model import TensorFlowModel
from pipeline.inference.shared_stream import PreparedCall, SharedStream
from pipeline.inference.xla import xla_graph
from pipeline.stages import TensorInfo

log = logging.getLogger(__name__)

# Preprocessing fills a few input buffers in turn, each with a few row counts.
_KEPT_INPUTS = 32

# Fewer convolutions are compiled in a few seconds.
_MANY_CONVOLUTIONS = 16

Precision = Literal["auto", "fp32", "fp16"]
Xla = bool | Literal["auto"]


class CudaModel(TensorFlowModel):
    """A loaded model; implements `pipeline.stages.Model` on CuPy arrays. Calls come from one thread.

    A call enqueues the work and returns: nothing waits for the device, except inside models with operations for which
    TensorFlow itself waits; those are named in a warning. The tensor may be written again as soon as the call returns, by
    work on the same stream. XLA compiles the model for a full batch, where it can; fewer frames are padded to one.

    Attributes:
        name: `name@hash`.
        input: The image input; float16 where the model takes it so (see `pipeline.inference.precision`).
        outputs: By name, in the model's order, with the types that they have on the CPU.
        batch_size: How many rows a call takes at most.
        precision: `fp32` or `fp16`: what the convolutions run in.
        xla: Whether XLA compiles it.
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
        xla: Xla = "auto",
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
        xla: Whether XLA may be used; `auto`: unless compiling would take too long.
        preprocess: What the values of pixels follow from; default: 0 to 1.
            owner: Of the function's variables; kept.
        """
        self._stream, self._owner = stream, owner
        frozen = frozen_graph(function)
        graph = None if frozen is None else fold_batch_norms(frozen)
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
        self._waiting = waiting_ops(_all_nodes(graph, function))
        self._xla_wanted: Xla = xla
        self.xla = bool(xla)
        if self.xla and self._waiting:
            self._go_without_xla(f"since it holds {show_ops(self._waiting)}")
        self._has_free_batch = image.shape is None or image.shape[0] is None
        if self._has_free_batch:
            self._row_counts = _row_counts(batch_size, xla=self.xla)
        self._calls: dict[tuple[int, ...], PreparedCall] = {}
        self._inputs: OrderedDict[tuple[int, tuple[int, ...]], Any] = OrderedDict()

    def warm_up(self, shape: tuple[int, ...]) -> None:
        """Compiles and runs every row count once; see `TensorFlowModel.warm_up`. The host waits for the device here."""
        compiles = self.xla
        super().warm_up(shape)
        if compiles and not self.xla and self._has_free_batch and self.batch_size > 1:
            self._row_counts = _row_counts(self.batch_size, xla=False)
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
        call = None
        # Another number of rows, of the last frames of a run, is not worth the seconds that XLA takes.
        if self.xla and len(tensor) == self.batch_size:
            call = self._compiled(tensor)
        return call or self._trace(self._graph, tensor, xla=False)

    def _compiled(self, tensor: Array) -> PreparedCall | None:
        """The model compiled by XLA; None, with the reason in the log, if it is to run without."""
        try:
            graph = self._graph_for_xla(tensor)
            return None if graph is None else self._trace(graph, tensor, xla=True)
        except (self._tf.errors.OpError, ValueError, TypeError) as e:
            if fault_of(e) in LOST:
                raise
            # For want of memory too: trying algorithms takes more of it than running the model.
            self._go_without_xla(f"which cannot compile it: {first_line(e)}")
            return None

    def _graph_for_xla(self, tensor: Array) -> Callable[[Any], Any] | None:
        if not isinstance(self._graph, FrozenGraph):
            if self._xla_wanted == "auto":
                self._go_without_xla("since its graph cannot be frozen")
                return None
            return self._graph
        found = xla_graph(self._graph, tensor.shape, self._dtype.name)
        if found.grouped and self._xla_wanted == "auto":
            what = "a grouped convolution" if found.grouped == 1 else f"{found.grouped} grouped convolutions"
            self._go_without_xla(
                f"which may take minutes for {what}; pipeline.model.xla: true compiles it all the same"
            )
            return None
        if found.convolutions >= _MANY_CONVOLUTIONS:
            log.info(
                "model %s: compiling it with XLA, which may take a minute (%d convolutions; pipeline.model.xla: false "
                "starts at once)",
                self.name,
                found.convolutions,
            )
        return found.graph

    def _go_without_xla(self, reason: str) -> None:
        self.xla = False
        log.info("model %s: runs without XLA, %s", self.name, reason)

    def _trace(self, graph: Callable[[Any], Any], tensor: Array, *, xla: bool) -> PreparedCall:
        start = time.perf_counter()
        call = PreparedCall(self._stream, graph, tensor.shape, self._dtype.name, xla=xla)
        call(self._imported(tensor))
        # TensorFlow chooses algorithms at the first call; a second one shows that what was chosen works.
        call(self._imported(tensor))
        self._stream.cupy.synchronize()
        took_s = time.perf_counter() - start
        log.log(
            logging.INFO if xla else logging.DEBUG,
            "model %s: %s %s in %.1f s",
            self.name,
            list(tensor.shape),
            "compiled with XLA" if xla else "prepared",
            took_s,
        )
        self._calls[tensor.shape] = call
        return call

    def _host_ms(self, tensor: Array) -> float:
        start = time.perf_counter()
        self._run(tensor)
        return (time.perf_counter() - start) * 1e3


def _row_counts(batch_size: int, *, xla: bool) -> list[int]:
    """1 and all, and a quarter where none is compiled: compiled, a full batch takes no longer than the quarter would."""
    return sorted({1, batch_size} if xla else {1, -(-batch_size // 4), batch_size})


def _all_nodes(graph: FrozenGraph | None, function: Any) -> Any:
    if graph is not None:
        return graph.all_nodes()
    graph_def = function.graph.as_graph_def()
    return FrozenGraph(graph_def, "", ()).all_nodes()
