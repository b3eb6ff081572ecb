"""A loaded model: NumPy arrays in, NumPy arrays out, without a copy on either side where TensorFlow allows it."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.frames import Array
from pipeline.inference._tensorflow import first_line
from pipeline.inference.signature import Shape, show_shape
from pipeline.stages import TensorInfo, empty_tensor

log = logging.getLogger(__name__)

_ALIGNMENT_BYTES = 64  # What TensorFlow demands of memory that it takes over without copying.


class TensorFlowModel:
    """A loaded model; implements `pipeline.stages.Model` on NumPy arrays. Calls come from one thread.

    Attributes:
        name: `name@hash`.
        input: The image input, with the model's own dtype; tensors have the type that `resolve_input` says.
        outputs: By name, in the model's order. Floating point is float32, whatever the model computes in.
        batch_size: How many rows a call takes at most.
    """

    def __init__(
        self,
        tf: Any,
        function: Any,
        *,
        name: str,
        image: TensorInfo,
        dtype: str,
        outputs: tuple[TensorInfo, ...],
        batch_size: int,
        device: str,
    ) -> None:
        self.name, self.input, self.outputs, self.batch_size = name, image, outputs, batch_size
        self._tf, self._function, self._device = tf, function, "/CPU:0" if device == "cpu" else None
        self._dtype = np.dtype(dtype)
        self._shape = image.shape
        self._output_names = [o.name for o in outputs]
        fixed = image.shape is not None and image.shape[0] is not None
        self._row_counts = [batch_size] if fixed else _row_counts(batch_size)
        # Which outputs have no batch dimension of their own and get one; known after the warm-up.
        self._unbatched: frozenset[str] | None = None

    def rows(self, frames: int) -> int:
        """The model's batch if that is fixed, else the next power of two, at most `batch_size`."""
        if not 1 <= frames <= self.batch_size:
            raise ValueError(f"{frames} frames do not fit a batch of {self.batch_size}")
        return self._row_counts[bisect_left(self._row_counts, frames)]

    def __call__(self, tensor: Array) -> Mapping[str, Array]:
        """Runs the model.

        Args:
            tensor: `rows(n)` images. Taken without a copy if it is C-contiguous, writable and 64-byte aligned (see
                `pipeline.stages.empty_tensor`).

        Returns:
            Output name -> array with as many rows, read-only, without a copy.

        Raises:
            ModelError: the tensor does not fit, or TensorFlow could not run the model on it.
        """
        if self._dtype != tensor.dtype or not _fits(tensor.shape, self._shape):
            raise ModelError(
                f"model {self.name}: takes {show_shape(self._shape)} {self._dtype}, "
                f"not {show_shape(tensor.shape)} {tensor.dtype}"
            )
        if self._unbatched is None:
            self.warm_up(tensor.shape[1:])
        arrays = self._run(tensor)
        for name, array in arrays.items():
            if name in (self._unbatched or ()):
                arrays[name] = array[np.newaxis]
            elif array.shape[:1] != tensor.shape[:1]:
                raise _wrong_rows(self.name, name, array, len(tensor))
        return arrays

    def warm_up(self, shape: tuple[int, ...]) -> None:
        """Runs every row count once, so that no frame waits for TensorFlow's optimiser, and to find out what works.

        A model that declares a free batch but was exported with a fixed one inside goes on with `batch_size` 1.

        Args:
            shape: Of one image, in the model's layout.

        Raises:
            ModelError: the model does not run.
        """
        unbatched: frozenset[str] = frozenset()
        for rows in self._row_counts:
            try:
                arrays = self._run(self._blank((rows, *shape)))
                wrong = {n: a for n, a in arrays.items() if a.shape[:1] != (rows,)}
                if rows > 1 and wrong:
                    raise _wrong_rows(self.name, *next(iter(wrong.items())), rows)
            except ModelError as e:
                out_of_memory = isinstance(e.__cause__, self._tf.errors.ResourceExhaustedError)
                if rows == self._row_counts[0] or out_of_memory:
                    raise
                log.warning("%s; the batch size is 1 from here on, which costs speed", e.message)
                self.batch_size, self._row_counts = 1, [1]
                break
            if rows == 1:
                unbatched = frozenset(wrong)
        self._unbatched = unbatched if self.batch_size == 1 else frozenset()

    def close(self) -> None:
        """Releases the model; may be called twice."""
        self._function = None

    def _blank(self, shape: tuple[int, ...]) -> Array:
        return empty_tensor(shape, self._dtype.name)

    def _run(self, tensor: Array) -> dict[str, Array]:
        if self._function is None:
            raise ModelError(f"model {self.name}: has been closed")
        tf = self._tf
        try:
            with tf.device(self._device):
                outputs = self._function(_import(tf, tensor))
        except (tf.errors.OpError, ValueError, TypeError) as e:
            remedy = "choose a smaller runtime.batch_size" if isinstance(e, tf.errors.ResourceExhaustedError) else None
            raise ModelError(
                f"model {self.name}: does not run on {list(tensor.shape)} {tensor.dtype}: {first_line(e)}",
                remedy=remedy,
            ) from e
        return dict(zip(self._output_names, map(np.asarray, outputs), strict=True))


def _row_counts(batch_size: int) -> list[int]:
    """1, 2, 4 ... and `batch_size` itself: a partial batch wastes less than half of its rows."""
    return [*(1 << i for i in range((batch_size - 1).bit_length())), batch_size]


def _fits(shape: tuple[int, ...], declared: Shape | None) -> bool:
    if declared is None:
        return True
    return len(shape) == len(declared) and all(
        d in (None, size) for size, d in zip(shape[1:], declared[1:], strict=True)
    )


def _wrong_rows(model: str, output: str, array: Array, rows: int) -> ModelError:
    return ModelError(
        f"model {model}: output {output!r} is {list(array.shape)} for {rows} images: it has no row for each",
        remedy="leave it out in pipeline.model.outputs, or set runtime.batch_size to 1",
    )


def _import(tf: Any, tensor: npt.NDArray[Any]) -> Any:
    """A tensor over the array's memory where TensorFlow allows it: 1 us instead of a copy, 0.3 ms for 8x300x300x3 float32."""
    flags = tensor.flags
    if flags.c_contiguous and flags.writeable and tensor.ctypes.data % _ALIGNMENT_BYTES == 0:
        return tf.experimental.dlpack.from_dlpack(tensor.__dlpack__())
    return tf.constant(tensor)
