"""What CuPy, TensorFlow and PyNvVideoCodec raise when the device is at fault, told apart and put in words with the remedy.

None of them is imported here: their exceptions are known by name, and by the CUDA error that their text holds.
"""

from __future__ import annotations

import contextlib
import enum
import re
from collections.abc import Iterator

from pipeline.errors import DeviceError, DeviceLostError, DeviceMemoryError, ModelError, VramlineError
from pipeline.redact import redact

# Their bases; `RuntimeError` is what PyNvVideoCodec and CV-CUDA raise for want of one of their own.
_KNOWN = frozenset({"OutOfMemoryError", "CUDARuntimeError", "CUDADriverError", "OpError", "XlaRuntimeError"})
_NVCODEC = "PyNvVC"  # how the names of PyNvVideoCodec's begin, which have no base of their own
_ALWAYS_MEMORY = frozenset({"OutOfMemoryError", "ResourceExhaustedError"})

_MEMORY_NAME = re.compile(
    r"CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|(?:CUDNN|CUBLAS)_STATUS_ALLOC_FAILED|NVCV_ERROR_OUT_OF_MEMORY"
)
_MEMORY_WORDS = re.compile(r"out of memory|OOM when allocating|RESOURCE_EXHAUSTED", re.IGNORECASE)
_BUSY = re.compile(r"CUDA_ERROR_DEVICE_UNAVAILABLE|cudaErrorDevicesUnavailable|busy or unavailable", re.IGNORECASE)
_HARDWARE = re.compile(
    r"CUDA_ERROR_(?:ECC_UNCORRECTABLE|NVLINK_UNCORRECTABLE|HARDWARE_STACK_ERROR|CONTAINED|NO_DEVICE|UNKNOWN|DEINITIALIZED)"
    r"|cudaError(?:ECCUncorrectable|NvlinkUncorrectable|HardwareStackError|Contained|NoDevice|Unknown|DeviceUninitialized"
    r"|CudartUnloading)"
    r"|uncorrectable (?:ECC|NVLink) error|fallen off the bus|GPU is lost",
    re.IGNORECASE,
)
_PROGRAM = re.compile(
    r"CUDA_ERROR_(?:ILLEGAL_ADDRESS|LAUNCH_FAILED|LAUNCH_TIMEOUT|ILLEGAL_INSTRUCTION|MISALIGNED_ADDRESS"
    r"|INVALID_ADDRESS_SPACE|INVALID_PC|ASSERT|CONTEXT_IS_DESTROYED)"
    r"|cudaError(?:IllegalAddress|LaunchFailure|LaunchTimeout|IllegalInstruction|MisalignedAddress|InvalidAddressSpace"
    r"|InvalidPc|Assert|ContextIsDestroyed)"
    r"|illegal memory access|unspecified launch failure|launch timed out|illegal instruction was|misaligned address",
    re.IGNORECASE,
)
# PyNvVideoCodec gives the driver's CUresult as a number.
_CALL = re.compile(r"\bcu(?:vid)?[A-Z]\w+|NvDecoder")
_NUMBER = re.compile(r"(?:error code\s*:|returned error)\s*(\d+)", re.IGNORECASE)
_MEMORY_NUMBERS, _BUSY_NUMBERS = frozenset({2}), frozenset({46})
_HARDWARE_NUMBERS = frozenset({4, 100, 214, 220, 226, 714, 999})
_PROGRAM_NUMBERS = frozenset({700, 702, 709, 710, 715, 716, 717, 718, 719})

# TensorFlow's allocators of the host's memory.
_HOST = re.compile(r"by allocator (?:cpu|mklcpu|gpu_host)", re.IGNORECASE)
_PLACE = re.compile(r"\{\{(?:function_)?node [^}]*\}\} ?|\[Op:[^\]]*\]")
_MOST_CHARACTERS = 200


class Fault(enum.Enum):
    """What is wrong with the device."""

    MEMORY = "memory"
    BUSY = "busy"
    HARDWARE = "hardware"
    PROGRAM = "program"


LOST = frozenset({Fault.BUSY, Fault.HARDWARE, Fault.PROGRAM})
"""Faults after which nothing in this process can use the device."""

_REMEDIES = {
    Fault.MEMORY: "lower runtime.batch_size, runtime.open_sources or runtime.queue_batches, or end what else uses the GPU "
    "(nvidia-smi shows it); vramline plan shows what the run needs",
    Fault.BUSY: "another process has it for itself, or it is being reset: see nvidia-smi, then start again",
    Fault.HARDWARE: "look for `NVRM: Xid` in the kernel's log (dmesg); reset the GPU (nvidia-smi --gpu-reset) or restart the "
    "machine, then start again",
    Fault.PROGRAM: "start again; if it comes back, look for `NVRM: Xid` in the kernel's log (dmesg), update the driver, and "
    "try the model with pipeline.model.xla: false",
}


def fault_of(error: BaseException) -> Fault | None:
    """Which fault of the device an exception tells of; None if it is something else."""
    names = {kind.__name__ for kind in type(error).__mro__}
    is_nvcodec = any(name.startswith(_NVCODEC) for name in names)
    is_known = is_nvcodec or bool(names & _KNOWN)
    if isinstance(error, VramlineError) or not (is_known or isinstance(error, RuntimeError)):
        return None
    text = str(error)
    if _HOST.search(text):
        return None
    number = _NUMBER.search(text) if is_nvcodec or _CALL.search(text) else None
    code = int(number[1]) if number else None
    if names & _ALWAYS_MEMORY or _MEMORY_NAME.search(text) or code in _MEMORY_NUMBERS:
        return Fault.MEMORY
    for fault, words, numbers in (
        (Fault.BUSY, _BUSY, _BUSY_NUMBERS),
        (Fault.HARDWARE, _HARDWARE, _HARDWARE_NUMBERS),
        (Fault.PROGRAM, _PROGRAM, _PROGRAM_NUMBERS),
    ):
        if words.search(text) or code in numbers:
            return fault
    # Of a plain RuntimeError such words may mean the host's memory.
    return Fault.MEMORY if is_known and _MEMORY_WORDS.search(text) else None


def explained(error: BaseException, doing: str = "") -> DeviceError | None:
    """The same as one sentence with a remedy, its cause the original.

    Args:
        error: What was raised.
        doing: What was being done, such as `model mine`; stands before the message.

    Returns:
        `DeviceMemoryError` or `DeviceLostError`; None if the device is not at fault.
    """
    if isinstance(error, ModelError) and error.__cause__ is not None:
        # What loads and runs models names the model in front.
        return explained(error.__cause__, doing or error.message.partition(":")[0])
    fault = fault_of(error)
    if fault is None:
        return None
    start = f"{doing}: " if doing else ""
    kind, what = (
        (DeviceMemoryError, "the GPU is out of memory")
        if fault is Fault.MEMORY
        else (DeviceLostError, "the GPU cannot be used any more")
    )
    found: DeviceError = kind(f"{start}{what}: {words(error)}", remedy=_REMEDIES[fault])
    found.__cause__ = error
    return found


@contextlib.contextmanager
def in_words(doing: str = "") -> Iterator[None]:
    """Raises what is the device's fault as `explained`.

    Raises:
        DeviceError: the device is at fault.
    """
    try:
        yield
    except Exception as e:
        found = explained(e, doing)
        if found is None:
            raise
        raise found from e


def words(error: BaseException) -> str:
    """The first line that tells something, shortened."""
    lines = (_PLACE.sub("", line).strip() for line in str(error).splitlines())
    text = redact(next((line for line in lines if line), type(error).__name__))
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "..."
