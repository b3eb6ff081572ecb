"""Faults of the device, as the libraries really raise them, against what a user is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fake_cupy import CUDARuntimeError, OutOfMemoryError
from fake_nvcodec import PyNvVCException, failure_text

from pipeline.device_errors import Fault, explained, fault_of, in_words
from pipeline.errors import DeviceLostError, DeviceMemoryError, ExitCode, ModelError, SourceError, SourceErrorCode


@pytest.fixture(scope="module")
def errors() -> Any:
    from pipeline.inference._tensorflow import import_tensorflow

    return import_tensorflow().errors


TENSORFLOW: list[tuple[str, str, Fault | None]] = [
    (
        "ResourceExhaustedError",
        "{{function_node __wrapped__AddV2}} OOM when allocating tensor with shape[32,640,640,3] and type float on "
        "/job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc [Op:AddV2]",
        Fault.MEMORY,
    ),
    ("ResourceExhaustedError", "OOM when allocating tensor with shape[9] and type float by allocator cpu", None),
    ("InternalError", "Failed to allocate scratch: CUDA_ERROR_OUT_OF_MEMORY: out of memory", Fault.MEMORY),
    ("InternalError", "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered", Fault.PROGRAM),
    ("InternalError", "Failed to launch: CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure", Fault.PROGRAM),
    ("InternalError", "CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error encountered", Fault.HARDWARE),
    (
        "InternalError",
        "cudaSetDevice() on GPU:0 failed. Status: all CUDA-capable devices are busy or unavailable",
        Fault.BUSY,
    ),
    ("InvalidArgumentError", "Incompatible shapes: [2] vs. [3]", None),
    ("InternalError", "Blas GEMM launch failed : a.shape=(1,2)", None),
]


@pytest.mark.parametrize(("kind", "text", "fault"), TENSORFLOW)
def test_tensorflows_errors(errors: Any, kind: str, text: str, fault: Fault | None) -> None:
    assert fault_of(getattr(errors, kind)(None, None, text)) is fault


OTHERS: list[tuple[Callable[[], Exception], Fault | None]] = [
    (lambda: OutOfMemoryError("Out of memory allocating 1,024 bytes (allocated so far: 512 bytes)."), Fault.MEMORY),
    (lambda: CUDARuntimeError("cudaErrorMemoryAllocation: out of memory"), Fault.MEMORY),
    (lambda: CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered"), Fault.PROGRAM),
    (lambda: CUDARuntimeError("cudaErrorLaunchFailure: unspecified launch failure"), Fault.PROGRAM),
    (lambda: CUDARuntimeError("cudaErrorECCUncorrectable: uncorrectable ECC error encountered"), Fault.HARDWARE),
    (lambda: CUDARuntimeError("cudaErrorDeviceUninitialized: invalid device context"), Fault.HARDWARE),
    (lambda: CUDARuntimeError("cudaErrorUnknown: unknown error"), Fault.HARDWARE),
    (
        lambda: CUDARuntimeError("cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy or unavailable"),
        Fault.BUSY,
    ),
    (lambda: CUDARuntimeError("cudaErrorInvalidValue: invalid argument"), None),
    (lambda: PyNvVCException(failure_text(2)), Fault.MEMORY),
    (lambda: type("PyNvVCGenericError", (Exception,), {})(failure_text(2)), Fault.MEMORY),
    (lambda: RuntimeError("NVCV_ERROR_OUT_OF_MEMORY: cannot allocate"), Fault.MEMORY),
    (lambda: PyNvVCException(failure_text(700)), Fault.PROGRAM),
    (lambda: PyNvVCException(failure_text(214)), Fault.HARDWARE),
    (lambda: PyNvVCException(failure_text(46)), Fault.BUSY),
    (lambda: PyNvVCException(failure_text(801)), None),
    (lambda: RuntimeError("cuvidCreateDecoder(&decoder, &info) returned error 2 at NvDecoder.cpp:1"), Fault.MEMORY),
    (lambda: RuntimeError("cuMemAlloc returned error 719"), Fault.PROGRAM),
    (lambda: RuntimeError("the tool returned error 2"), None),
    (lambda: RuntimeError("the queue is out of memory"), None),  # of the host, for all that is known
    (lambda: MemoryError("Unable to allocate 9. GiB"), None),
    (lambda: OSError(12, "Cannot allocate memory"), None),
    (lambda: ValueError("cudaErrorIllegalAddress"), None),
]


@pytest.mark.parametrize(("make", "fault"), OTHERS)
def test_errors_of_cupy_and_the_decoder(make: Callable[[], Exception], fault: Fault | None) -> None:
    assert fault_of(make()) is fault


def test_out_of_memory_says_what_to_lower(errors: Any) -> None:
    found = explained(
        errors.ResourceExhaustedError(None, None, TENSORFLOW[0][1] + "\n\t[[{{node x}}]]\nHint: long"), "model m"
    )
    assert isinstance(found, DeviceMemoryError)
    assert found.message.startswith(
        "model m: the GPU is out of memory: OOM when allocating tensor with shape[32,640,640,3]"
    )
    assert "function_node" not in str(found)
    assert "\n" not in str(found)
    for part in ("runtime.batch_size", "runtime.open_sources", "runtime.queue_batches", "nvidia-smi"):
        assert part in str(found.remedy)
    assert found.exit_code is ExitCode.NOTHING_COULD_RUN


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("cudaErrorECCUncorrectable: uncorrectable ECC error encountered", "--gpu-reset"),
        ("cudaErrorIllegalAddress: an illegal memory access was encountered", "Xid"),
        ("cudaErrorDevicesUnavailable: busy or unavailable", "nvidia-smi"),
    ],
)
def test_a_lost_gpu_says_where_to_look(text: str, remedy: str) -> None:
    original = CUDARuntimeError(text)
    found = explained(original)
    assert isinstance(found, DeviceLostError)
    assert found.message == f"the GPU cannot be used any more: {text}"
    assert remedy in str(found.remedy)
    assert found.__cause__ is original


def test_a_model_that_could_not_be_loaded_for_want_of_memory_is_no_damaged_file() -> None:
    error = ModelError("model mine: /models/mine cannot be loaded: OOM", remedy="copy it again")
    error.__cause__ = OutOfMemoryError("Out of memory allocating 1 bytes")
    found = explained(error)
    assert isinstance(found, DeviceMemoryError)
    assert found.message.startswith("model mine: the GPU is out of memory")
    assert explained(ModelError("model mine: has no output")) is None


def test_errors_of_our_own_stay_what_they_are() -> None:
    own = SourceError("cam: the GPU is out of memory", source_id="cam", code=SourceErrorCode.OUT_OF_MEMORY)
    own.__cause__ = OutOfMemoryError("Out of memory")
    assert explained(own) is None
    assert not SourceErrorCode.OUT_OF_MEMORY.is_permanent  # a live stream tries again


def test_no_password_gets_into_a_message() -> None:
    found = explained(PyNvVCException("rtsp://ann:hunter2@cam/1 failed: Error code : 2"))
    assert "hunter2" not in str(found)


def test_in_words_lets_other_errors_pass() -> None:
    with pytest.raises(KeyError), in_words("x"):
        raise KeyError("a")
    with pytest.raises(DeviceMemoryError, match="x: the GPU is out of memory"), in_words("x"):
        raise OutOfMemoryError("Out of memory allocating 1 bytes")
