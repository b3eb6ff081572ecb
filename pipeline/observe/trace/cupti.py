"""The tracer: CUPTI, the library that NVIDIA's own profilers use, through its C interface.

TensorFlow's `and-cuda` wheels bring it along. It records every call into CUDA of this process, whoever makes it (TensorFlow,
CuPy, CV-CUDA, NVDEC's library), and what the device does for it. TensorFlow's own profiler uses it too, but does not ask it
for what the host waits for.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import DeviceError
from pipeline.observe.trace.layout import DRIVER, FRONT_BYTES, KINDS, Reader
from pipeline.observe.trace.records import Trace

LoadLibrary = Callable[[str], Any]

_WHEEL = "nvidia.cuda_cupti"
_NAMES = ("libcupti.so.12", "libcupti.so", "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so")
_FORCED = 1  # CUPTI_ACTIVITY_FLAG_FLUSH_FORCED: also what is not full yet
_SYSTEM_THREADS = 1  # CUPTI_ACTIVITY_THREAD_ID_TYPE_SYSTEM: as `threading.get_native_id`
_DRIVER_API, _RUNTIME_API = 1, 2  # CUpti_CallbackDomain

_VERSION = re.compile(r"_v\d+$")  # cudaMemcpyAsync_v3020

_OTHER_PROFILER = (
    "another profiler is attached to this process, and CUPTI serves one at a time",
    "run it without nsys, ncu, compute-sanitizer or TensorFlow's profiler",
)
_NOT_PERMITTED = (
    "the NVIDIA driver does not permit profiling to this user",
    "run as root, give the container --cap-add SYS_ADMIN, or load the driver with NVreg_RestrictProfilingToAdminUsers=0",
)
_VIRTUAL = ("the GPU is a virtual one that does not permit profiling", "ask for a vGPU profile with profiling enabled")
_OLD_DRIVER = ("CUPTI does not work with this driver", "update the driver, see vramline doctor")
# CUptiResult -> what it means to a user, and what to do.
_REASONS = {
    14: _OLD_DRIVER,
    15: _OLD_DRIVER,
    33: _VIRTUAL,
    35: _NOT_PERMITTED,
    36: _OTHER_PROFILER,
    39: _OTHER_PROFILER,
    40: _VIRTUAL,
    41: ("the GPU runs in confidential-computing mode, in which nothing can be traced", "use another GPU"),
}


class CuptiTracer:
    """Records what this process does with CUDA from `start` to `stop`; `begin` and `end` mark the measurement in between.

    Args:
        cupti: The library.
        load_buffers: Loads the functions of `activity_buffers.cc`; called at the start, when TensorFlow has been set up.
    """

    def __init__(self, cupti: Any, load_buffers: Callable[[], Any]) -> None:
        self._cupti, self._load_buffers = cupti, load_buffers
        self._buffers: Any = None
        self._trace = Trace()
        self._enabled: list[int] = []
        self._names: dict[tuple[int, int], str] = {}

    def now_ns(self) -> int:
        """CUPTI's clock."""
        now = ctypes.c_uint64()
        self._cupti.cuptiGetTimestamp(ctypes.byref(now))
        return now.value

    def start(self) -> None:
        """Begins to record.

        Raises:
            DeviceError: it cannot, in words.
        """
        self._buffers = self._load_buffers()
        self._check(self._cupti.cuptiSetThreadIdType(_SYSTEM_THREADS))
        callbacks = (self._buffers.vramline_activity_request, self._buffers.vramline_activity_complete)
        self._check(
            self._cupti.cuptiActivityRegisterCallbacks(*(ctypes.cast(call, ctypes.c_void_p) for call in callbacks))
        )
        for kind in KINDS:
            self._check(self._cupti.cuptiActivityEnable(kind))
            self._enabled.append(kind)

    def begin(self) -> None:
        """The measurement begins."""
        self._trace.start_ns = self.now_ns()

    def end(self) -> None:
        """The measurement ends."""
        self._trace.end_ns = self.now_ns()

    def stop(self) -> Trace:
        """Ends the recording and returns it; call it when the device has nothing left to do.

        Raises:
            DeviceError: the records cannot be had.
        """
        self._check(self._cupti.cuptiActivityFlushAll(_FORCED))
        while self._enabled:
            self._check(self._cupti.cuptiActivityDisable(self._enabled.pop()))
        self._check(self._cupti.cuptiActivityFlushAll(_FORCED))
        dropped = ctypes.c_size_t()
        self._check(self._cupti.cuptiActivityGetNumDroppedRecords(None, 0, ctypes.byref(dropped)))
        self._trace.dropped += dropped.value
        reader = Reader(self._trace, self._call_name)
        for address in self._records():
            reader.add(ctypes.string_at(address, FRONT_BYTES))
        return self._trace

    def _records(self) -> Iterator[int]:
        """The address of each record, in memory that is freed behind the last one of a buffer."""
        data, valid_bytes = ctypes.POINTER(ctypes.c_uint8)(), ctypes.c_size_t()
        while self._buffers.vramline_activity_take(ctypes.byref(data), ctypes.byref(valid_bytes)):
            record = ctypes.c_void_p()
            while not self._cupti.cuptiActivityGetNextRecord(data, valid_bytes, ctypes.byref(record)):
                assert record.value is not None
                yield record.value
            self._buffers.vramline_activity_free(data)

    def _call_name(self, kind: int, number: int) -> str:
        domain = _DRIVER_API if kind == DRIVER else _RUNTIME_API
        name = self._names.get((domain, number))
        if name is None:
            text = ctypes.c_char_p()
            self._cupti.cuptiGetCallbackName(domain, number, ctypes.byref(text))
            known = text.value.decode() if text.value else f"call {number}"
            name = self._names[domain, number] = _VERSION.sub("", known)
        return name

    def _check(self, result: int) -> None:
        if not result:
            return
        reason, remedy = _REASONS.get(result, (None, None))
        if reason is None:
            text = ctypes.c_char_p()
            self._cupti.cuptiGetResultString(result, ctypes.byref(text))
            reason = text.value.decode() if text.value else f"CUPTI error {result}"
        raise DeviceError(f"what the GPU does cannot be traced: {reason}", remedy=remedy)


def load_cupti(load: LoadLibrary = ctypes.CDLL, folders: Callable[[], list[Path]] | None = None) -> Any:
    """CUPTI's library: that of the wheels, else the system's.

    Raises:
        DeviceError: there is none.
    """
    wheel = [str(path) for folder in (folders or _wheel_folders)() for path in sorted(folder.glob("libcupti.so.*"))]
    for name in (*wheel, *_NAMES):
        try:
            return load(name)
        except OSError:
            continue
    raise DeviceError(
        "CUPTI, which traces what the GPU does, is not there",
        remedy="pip install 'vramline[cuda12]' brings it: the package nvidia-cuda-cupti-cu12",
    )


def _wheel_folders() -> list[Path]:
    try:
        spec = importlib.util.find_spec(_WHEEL)
    except ImportError:
        return []
    return [Path(folder, "lib") for folder in (spec.submodule_search_locations or ())] if spec else []


def open_tracer() -> CuptiTracer:
    """The tracer of this process.

    Raises:
        DeviceError: there is no CUPTI, with the remedy.
    """
    return CuptiTracer(load_cupti(), _load_buffers)


def _load_buffers() -> Any:
    from pipeline.inference._tensorflow import import_tensorflow
    from pipeline.inference.shared_stream.library import activity_buffers

    return activity_buffers(import_tensorflow())
