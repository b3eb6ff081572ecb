"""Calling a traced function with as little of Python in between as TensorFlow allows: 30 to 75 us instead of 180 to 210."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.inference.shared_stream.stream import SharedStream, pairs

# A function returns int32 in host memory, for which the host waits. As float32 the same bits stay on the device.
_AS_FLOAT = "int32"


class PreparedCall:
    """A function of one array on the device, traced for one shape; returns CuPy arrays, and waits for nothing itself."""

    def __init__(
        self,
        stream: SharedStream,
        function: Callable[[Any], Sequence[Any]],
        shape: tuple[int, ...],
        dtype: str,
        *,
        xla: bool,
    ) -> None:
        """Args:
        stream: Where everything is put.
        function: Tensor -> tensors; is traced.
        shape: Of the argument.
        dtype: Of the argument.
        xla: Whether XLA compiles it, at the first call.
        """
        from tensorflow.python import pywrap_tfe
        from tensorflow.python.eager import context

        tf = stream.tf
        dtypes: list[np.dtype[Any]] = []

        def bits(pixels: Any) -> list[Any]:
            tensors = list(function(pixels))
            dtypes[:] = [np.dtype(t.dtype.as_numpy_dtype) for t in tensors]
            return [tf.bitcast(t, tf.float32) if t.dtype.name == _AS_FLOAT else t for t in tensors]

        spec = tf.TensorSpec(shape, dtype, name="pixels")
        # XLA knows nothing of our op, which therefore stands outside of what it compiles.
        inner = tf.function(bits, input_signature=[spec], autograph=False, jit_compile=True) if xla else bits

        def exported(pixels: Any) -> list[Any]:
            found = stream.ops.vramline_export(inputs=inner(pixels))
            return [*found.outputs, found.addresses]

        # Kept: the runtime forgets a function once nothing in Python refers to it.
        self._traced = tf.function(exported, input_signature=[spec], autograph=False).get_concrete_function()
        self._dtypes = tuple(dtypes)
        inference = getattr(self._traced, "_inference_function", None) or self._traced
        current = context.context()
        attributes = current.function_call_options.as_attrs()
        self._execute = pywrap_tfe.TFE_Py_Execute
        self._context = current._handle
        self._name = inference.name
        self._captures = list(self._traced.captured_inputs)
        self._attributes = tuple(part for item in attributes.items() for part in item)
        self._count = len(inference.function_type.flat_outputs)
        self._stream = stream

    def __call__(self, tensor: Any) -> list[Any]:
        """Enqueues a call.

        Args:
            tensor: Eager, from `SharedStream.to_tensorflow`; its memory may be written again as soon as this returns, by
                work on the same stream.

        Returns:
            CuPy arrays on TensorFlow's memory.

        Raises:
            tensorflow.errors.OpError: TensorFlow could not run it.
        """
        from tensorflow.python.eager import core

        try:
            *tensors, addresses = self._execute(
                self._context, "", self._name, [tensor, *self._captures], self._attributes, self._count
            )
        except core._NotOkStatusException as e:
            raise core._status_to_exception(e) from None
        wrap = self._stream.to_cupy
        return [wrap(t, a, d) for t, a, d in zip(tensors, pairs(addresses), self._dtypes, strict=True)]
