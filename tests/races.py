"""What shows that one stream is order enough: memory that takes turns is overwritten in between, and every bit is recorded.

A `Watch` stands around the stages of a pipeline. As soon as the last reader of some memory has been enqueued, it enqueues
that the memory be overwritten, with poison: surfaces before they go back to their decoder, the model's input and outputs,
the buffers of postprocessing. Host memory (kernel parameters, pinned results) is overwritten as soon as its call returns or its
results have been taken. So whatever reads too late, or is not in the stream's order, reads poison. On the way fingerprints of
all surfaces, inputs and outputs are taken, in the stream's order too, and the results' bytes are kept; they are compared with
those of a run that waits for the device after every call, in which nothing can overtake anything.

Two things are left as they are. `tallies` of the detection postprocessor are zero between batches, which its kernels rely on.
TensorFlow's memory inside a model is its own affair: it is given out in the order of the same stream.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from pipeline.decode import nvdec
from pipeline.decode.download import surface_bytes
from pipeline.frames import Frame, InputBatch, Predictions
from pipeline.runtime.steps import Stages
from pipeline.stages import Decoder

# As a float16 or float32 not a number; as a sample nearly white.
POISON = 0xFF
# A frame of a source -> what is known of it, by name.
Record = dict[tuple[str, int], dict[str, object]]

# What a run may do wrong on purpose, each of which has to show.
MISTAKES = {
    "surface": "surfaces are given back before they are preprocessed",
    "input": "the model's input is used again before the model runs",
    "outputs": "the model's outputs are used again before they are postprocessed",
    "results": "results are taken when their memory has been used again",
    "stream": "surfaces are written to on another stream than the one on which they are read",
}


class Device(Protocol):
    """What a watch needs of a device."""

    def fill(self, address: int, size: int, *, in_order: bool = True, stream: int | None = None) -> None:
        """Enqueues that memory is overwritten with poison, on a stream of its own if one is given; or does it at once, past
        everything that is enqueued.
        """

    def fingerprint(self, address: int, size: int) -> int:
        """Enqueues that a hash of memory is taken; its number."""

    def fingerprints(self) -> Sequence[int]:
        """All of them, once they have been taken."""

    def synchronize(self) -> None:
        """Waits for everything that is enqueued."""


@dataclass
class Watch:
    """One run.

    Attributes:
        device: Where it runs.
        waits: Whether the host waits for the device after every call.
        mistake: One of `MISTAKES`; none by default.
        lag: Called before each batch; keeps the device busy, so that the host runs ahead of it.
        calls: How often each stage was called.
    """

    device: Device
    waits: bool = False
    mistake: str = ""
    lag: Callable[[], None] = lambda: None
    calls: Counter[str] = field(default_factory=Counter)
    decode_stream: int | None = None  # the decoders', if it is not the one of all others
    _seen: Record = field(default_factory=dict)

    def stages(self, stages: Stages) -> Stages:
        """The stages, watched."""
        download = stages.download
        if stages.decode_stream is not None:
            self.decode_stream = stages.decode_stream.handle
        return replace(
            stages,
            open_decoder=lambda spec, stats: _Decoder(self, stages.open_decoder(spec, stats)),
            preprocess=_Preprocess(self, stages.preprocess),
            model=_Model(self, stages.model),
            postprocess=_Postprocess(self, stages.postprocess),
            download=None if download is None else lambda frames: self.done("download", download(frames)),
        )

    def codec(self, patch: Any) -> None:
        """Lets also the calls into the decoders' library be waited for; `patch` is pytest's."""
        load = nvdec.load_nvcodec
        patch.setattr(nvdec, "load_nvcodec", lambda: _Codec(self, load()))

    def done(self, call: str, value: Any = None) -> Any:
        """Passes on what a call gave."""
        self.calls[call] += 1
        if self.waits:
            self.device.synchronize()
        return value

    def note(self, frame: Frame, what: str, value: object) -> None:
        """A fact about a frame; a fingerprint is noted by its number, as an int."""
        self._seen.setdefault((frame.source_id, frame.index), {"pts_s": frame.pts_s})[what] = value

    def record(self) -> Record:
        """All that was seen; waits for the device."""
        prints = self.device.fingerprints()
        return {
            key: {what: int(prints[v]) if isinstance(v, int) else v for what, v in facts.items()}
            for key, facts in self._seen.items()
        }


def spoil(stages: Stages) -> Stages:
    """Overwrites host memory once it has been used: kernel parameters behind their last launch, pinned results once taken."""
    spoil_preprocess(stages.preprocess)
    # `finish` is launched last with the parameters that `collect` had.
    _swap(stages.postprocess, "_kernels", lambda kernels: [kernels[0], _SpoiltParameters(kernels[1])])
    _swap(stages.postprocess.downloads, "_free", _SpoiltSlots)  # type: ignore[attr-defined]
    return stages


def spoil_preprocess(preprocess: Any) -> Any:
    """As `spoil`, for a preprocessor alone."""
    _swap(preprocess, "_kernel", _SpoiltParameters)
    return preprocess


def _swap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    setattr(owner, name, make(getattr(owner, name)))


def differences(got: Record, want: Record) -> list[str]:
    """In words; none if all bits are the same."""
    found = [f"{source} frame {i}: in one run only" for source, i in sorted(got.keys() ^ want.keys())]
    for (source, i), facts in want.items():
        if (source, i) in got:
            other = got[source, i]
            wrong = [what for what in sorted({*facts, *other}) if facts.get(what) != other.get(what)]
            found += [f"{source} frame {i}: {what}" for what in wrong]
    return found


# ----------------------------------------------------------------------------------------------- the stages, watched


class _Decoder:
    def __init__(self, watch: Watch, inner: Decoder) -> None:
        self._watch, self._inner = watch, inner
        self.info, self.stats, self.close = inner.info, inner.stats, inner.close

    def __iter__(self) -> Iterator[Frame]:
        for group in self.groups():
            yield from group

    def groups(self) -> Iterator[Sequence[Frame]]:
        for group in self._inner.groups():
            yield self._watch.done("decode", [self._watched(frame) for frame in group])

    def _watched(self, frame: Frame) -> Frame:
        surface = frame.picture.surface
        assert surface is not None
        size = surface_bytes(surface.layout, frame.picture.chroma_shift)
        release = _Poisoning(self._watch, surface.pointer, size, surface.release)
        return replace(frame, picture=replace(frame.picture, surface=replace(surface, release=release)))


class _Poisoning:
    """Gives a surface back, full of poison; once."""

    def __init__(self, watch: Watch, pointer: int, size: int, release: Callable[[], None]) -> None:
        self.watch, self.pointer, self.size = watch, pointer, size
        self._left = [release]

    def __call__(self) -> None:
        try:
            release = self._left.pop()
        except IndexError:
            return
        in_order, stream = self.watch.mistake != "stream", self.watch.decode_stream
        self.watch.device.fill(self.pointer, self.size, in_order=in_order, stream=stream)
        release()


class _Preprocess:
    def __init__(self, watch: Watch, inner: Any) -> None:
        self._watch, self._inner, self.model_size = watch, inner, inner.model_size

    def __call__(self, frames: Sequence[Frame], rows: int) -> InputBatch:
        watch, device = self._watch, self._watch.device
        watch.lag()
        if watch.mistake == "surface":
            for frame in frames:
                assert frame.picture.surface is not None
                frame.picture.surface.release()
        for frame in frames:
            surface = frame.picture.surface
            assert surface is not None
            size = surface_bytes(surface.layout, frame.picture.chroma_shift)
            watch.note(frame, "surface", device.fingerprint(surface.pointer, size))
        batch: InputBatch = self._inner(frames, rows)
        _note_rows(watch, batch.frames, "input", batch.tensor)
        return watch.done("preprocess", batch)


class _Model:
    def __init__(self, watch: Watch, inner: Any) -> None:
        self._watch, self._inner = watch, inner
        self.name, self.input, self.outputs = inner.name, inner.input, inner.outputs
        self.batch_size, self.rows = inner.batch_size, inner.rows

    def __call__(self, tensor: Any) -> Mapping[str, Any]:
        if self._watch.mistake == "input":
            self._watch.device.fill(tensor.data.ptr, tensor.nbytes)
        outputs = self._inner(tensor)
        self._watch.device.fill(tensor.data.ptr, tensor.nbytes)
        return self._watch.done("model", outputs)

    def close(self) -> None:
        """The next run may have it."""


class _Postprocess:
    def __init__(self, watch: Watch, inner: Any) -> None:
        self._watch, self._inner = watch, inner

    def __call__(self, outputs: Mapping[str, Any], batch: InputBatch) -> Any:
        watch = self._watch
        for name, array in outputs.items():
            assert array.flags.c_contiguous
            _note_rows(watch, batch.frames, f"output {name}", array)
        if watch.mistake == "outputs":
            self._poison(outputs.values())
        pending = self._inner(outputs, batch)
        self._poison(outputs.values())
        self._poison(self._inner._buffers[name] for name in ("keys", "kept", "results"))
        return watch.done("postprocess", _Pending(watch, pending, batch.frames))

    def _poison(self, arrays: Any) -> None:
        for array in arrays:
            self._watch.device.fill(array.data.ptr, array.nbytes)


class _Pending:
    def __init__(self, watch: Watch, inner: Any, frames: Sequence[Frame]) -> None:
        self._watch, self._inner, self._frames = watch, inner, frames

    def result(self) -> Predictions:
        if self._watch.mistake == "results":
            slot = self._inner._slot
            slot.event.synchronize()
            slot.bytes[...] = 0  # poison is no number of boxes
        predictions: Predictions = self._inner.result()
        found = predictions.detections
        assert found is not None
        for i, frame in enumerate(self._frames):
            one = found.frame(i)
            self._watch.note(frame, "result", b"".join(a.tobytes() for a in (one.boxes, one.scores, one.class_ids)))
        return predictions


def _note_rows(watch: Watch, frames: Sequence[Frame], what: str, array: Any) -> None:
    size = array.nbytes // len(array)
    for i, frame in enumerate(frames):
        watch.note(frame, what, watch.device.fingerprint(array.data.ptr + i * size, size))


class _SpoiltParameters:
    """A kernel."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __call__(self, grid: Any, block: Any, parameters: tuple[np.ndarray[Any, Any]]) -> None:
        self._kernel(grid, block, parameters)
        parameters[0].view(np.uint8)[...] = POISON


class _SpoiltSlots(deque[Any]):
    """The pinned memory for results that is free."""

    def append(self, slot: Any) -> None:
        slot.bytes[...] = POISON
        super().append(slot)


class _Codec:
    """PyNvVideoCodec, waiting for the device after every packet."""

    def __init__(self, watch: Watch, inner: Any) -> None:
        self._watch, self._inner = watch, inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def CreateDecoder(self, **settings: Any) -> Any:
        return _CodecDecoder(self._watch, self._inner.CreateDecoder(**settings))


class _CodecDecoder:
    def __init__(self, watch: Watch, inner: Any) -> None:
        self._watch, self._inner = watch, inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def GetNumDecodedFrame(self, packet: Any) -> int:
        return int(self._watch.done("packet", self._inner.GetNumDecodedFrame(packet)))
