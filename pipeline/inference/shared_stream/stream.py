"""The stream itself: taking it from TensorFlow, and arrays into and out of TensorFlow without a copy or a wait."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.device_errors import explained, in_words
from pipeline.errors import DeviceError
from pipeline.inference._tensorflow import first_line, import_tensorflow
from pipeline.inference.shared_stream import share
from pipeline.inference.xla_cache import keep_autotuning

ALIGNMENT_BYTES = 64  # Of any address that TensorFlow takes over; with less it ends the process.
_FULL_NAME = "/job:localhost/replica:0/task:0"


class SharedStream:
    """TensorFlow's compute stream of its first GPU; implements `pipeline.stages.DeviceStream`.

    Made by `open_shared_stream`. All arrays that pass in or out are worked on in the order of this stream only.

    Attributes:
        handle: The CUstream.
        ordinal: The CUDA device's number.
        cupy: CuPy's stream object around it; used as a context it makes the stream CuPy's current one.
        ops: The module with the op library's operations.
    """

    def __init__(self, tf: Any, ops: Any, cupy: Any, device: str = "/device:GPU:0") -> None:
        """Args:
            tf: TensorFlow's module.
            ops: From `stream_ops`.
            cupy: CuPy's module.
            device: TensorFlow's name of the device; another than a GPU only to test everything but the device.

        Raises:
            DeviceError: the device cannot be shared.
        """
        from tensorflow.python.eager import context

        self.tf, self.ops, self._cupy = tf, ops, cupy
        self._device = _FULL_NAME + device
        if context.context().is_async():
            # Operations that are enqueued after the call has returned would come too late in the order of the stream.
            raise DeviceError(
                "TensorFlow executes operations asynchronously in this process, so its stream cannot be shared",
                remedy="leave tf.config.experimental.set_synchronous_execution at its default",
            )
        try:
            with tf.device(device):
                handle, ordinal, is_gpu = pairs(ops.vramline_stream_info())
        except (tf.errors.OpError, RuntimeError) as e:
            raise explained(e, "TensorFlow") or DeviceError(f"TensorFlow cannot use the GPU: {first_line(e)}") from e
        if device.startswith("/device:GPU") and not (is_gpu and handle):
            raise DeviceError(
                f"TensorFlow's device {device} has no CUDA stream",
                remedy="if a pipeline with device: cpu has run in this process, run this one in another",
            )
        self.handle, self.ordinal = handle, ordinal
        self.cupy = _cupy_stream(cupy, handle, ordinal)
        self._check_no_copy()

    def to_tensorflow(self, array: Any) -> Any:
        """An eager tensor on the memory of a CuPy array, which it keeps alive; 2 us.

        Args:
            array: In C order, at a multiple of 64 bytes, not int32: TensorFlow expects the int32 arguments of functions in
                host memory. Written and read on this stream only.
        """
        if array.data.ptr % ALIGNMENT_BYTES:
            raise ValueError(f"the array's address {array.data.ptr:#x} is not a multiple of {ALIGNMENT_BYTES}")
        if not array.flags.c_contiguous:
            raise ValueError("the array is not in C order")
        if array.dtype == np.int32:
            raise ValueError("the array is int32, which TensorFlow expects in host memory")
        # -1: the consumer need not wait for anything; all work is on one stream.
        return self.tf.experimental.dlpack.from_dlpack(array.__dlpack__(stream=-1))

    def to_cupy(self, tensor: Any, address: int, dtype: np.dtype[Any]) -> Any:
        """A CuPy array on the memory of an eager tensor, which it keeps alive; 4 us.

        When the array is gone TensorFlow uses the memory again, in the order of the stream: consumers that have been
        enqueued by then are safe.

        Args:
            tensor: On this device.
            address: Of its first element, from `VramlineExport`.
            dtype: How the elements are read; of the same size as the tensor's.
        """
        if tensor.backing_device != self._device:
            raise ValueError(f"the tensor is in {tensor.backing_device}, not in {self._device}")
        shape = tensor._shape_tuple()
        size = dtype.itemsize
        for length in shape:
            size *= length
        cuda = self._cupy.cuda
        memory = cuda.UnownedMemory(address, size, tensor, self.ordinal)
        return self._cupy.ndarray(shape, dtype, cuda.MemoryPointer(memory, 0))

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A CuPy array on this stream, aligned for TensorFlow."""
        with self.cupy:
            return self._cupy.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A CuPy array of zeros on this stream, aligned for TensorFlow."""
        with self.cupy:
            return self._cupy.zeros(shape, dtype)

    def _check_no_copy(self) -> None:
        array = self.empty((64,), np.float32)
        exported = self.ops.vramline_export(inputs=[self.to_tensorflow(array)])
        if pairs(exported.addresses) != [array.data.ptr]:
            raise DeviceError("TensorFlow copies arrays instead of sharing their memory: this version cannot be used")


def open_shared_stream(memory_limit_bytes: int | None = None) -> SharedStream:
    """Starts TensorFlow on its first GPU and takes its stream; once per process, before TensorFlow runs anything.

    Args:
        memory_limit_bytes: What TensorFlow may take of the device's memory; it takes it as it needs it. By default 60 % of
            what is free, since decoders and our own buffers need some too.

    Raises:
        DeviceError: there is no GPU that TensorFlow and CuPy can use, or its stream cannot be shared.
    """
    from pipeline.inference.shared_stream.library import stream_ops  # Not above: building is a command of its own.

    tf = import_tensorflow()
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        cuda = tf.test.is_built_with_cuda()
        raise DeviceError(
            "TensorFlow finds no GPU" if cuda else "this TensorFlow is built without CUDA",
            remedy="pip install 'vramline[cuda12]', and see vramline doctor",
        )
    limit = memory_limit_bytes or int(0.6 * free_memory()[0])
    share.request(tf, gpus, limit)
    keep_autotuning(tf)
    with in_words("TensorFlow"):
        return SharedStream(tf, stream_ops(tf), _import_cupy())


def free_memory() -> tuple[int, int]:
    """Bytes of the first GPU's memory that are free, and what earlier runs of this process have left with TensorFlow and CuPy.

    Makes the CUDA context, which is no longer free then.

    Raises:
        DeviceError: CuPy cannot use the GPU.
    """
    cupy = _import_cupy()
    try:
        with cupy.cuda.Device(0):
            free: int = cupy.cuda.Device(0).mem_info[0]
            pooled: int = cupy.get_default_memory_pool().total_bytes()
    except Exception as e:  # Whatever CuPy raises, such as its own CUDARuntimeError.
        raise explained(e, "CuPy") or _cupy_error(e) from e
    return free, pooled + share.used_bytes()


def limit_cupy(limit_bytes: int) -> None:
    """Bounds CuPy's memory pool of the first GPU; what it holds already stays."""
    cupy = _import_cupy()
    with cupy.cuda.Device(0):
        cupy.get_default_memory_pool().set_limit(size=limit_bytes)


def _import_cupy() -> Any:
    try:
        import cupy
    except Exception as e:  # From ImportError to what a wrong driver makes it raise.
        raise _cupy_error(e) from e
    return cupy


def _cupy_error(error: Exception) -> DeviceError:
    return DeviceError(f"CuPy cannot use the GPU: {first_line(error)}", remedy="see vramline doctor")


def pairs(tensor: Any) -> list[int]:
    """The 64-bit numbers in an int32 [n, 2] tensor in host memory."""
    found: list[int] = tensor.numpy().view(np.int64)[:, 0].tolist()
    return found


class _Handle:
    """A CUDA stream by its number, as CuPy from 14 on takes it."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._handle


def _cupy_stream(cupy: Any, handle: int, ordinal: int) -> Any:
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_Handle(handle))
    return cupy.cuda.ExternalStream(handle, ordinal)
