"""Plug-ins that do what they are told, most of it wrong."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np

from pipeline.frames import Detections, Predictions, ResultBatch

calls: list[str] = []
gate = threading.Event()
not_callable = 7


class Sink:
    def __init__(self, fails_on=(), fails_in=(), needs_pixels=False):
        self.needs_pixels = needs_pixels
        self._fails_on, self._fails_in = fails_on, fails_in
        self._writes = 0
        self.frames: list[int] = []
        self.had_pixels: list[bool] = []
        made.append(self)

    def _note(self, name):
        calls.append(name)
        if name in self._fails_in:
            raise RuntimeError(f"{name} broke at rtsp://user:secret@camera/1")

    def open(self):
        self._note("open")

    def source_started(self, source):
        self._note("source_started")

    def write(self, batch):
        self._writes += 1
        if self._writes - 1 in self._fails_on:
            raise ValueError("write broke at rtsp://user:secret@camera/1")
        self.frames += [frame.index for frame in batch.frames]
        self.had_pixels += [bool(frame.picture.planes) for frame in batch.frames]
        self._note("write")

    def source_finished(self, source_id):
        self._note("source_finished")

    def close(self):
        self._note("close")


made: list[Sink] = []


class Stage:
    """Does with each batch what `does` says, with the second one only if `once`."""

    def __init__(self, does, once=False):
        self._does, self._once, self._calls = does, once, 0

    def __call__(self, batch: ResultBatch):
        self._calls += 1
        if self._once and self._calls != 2:
            return None
        match self._does:
            case "raise":
                raise KeyError("x")
            case "exit":
                raise SystemExit(3)
            case "fewer frames":
                return dataclasses.replace(batch, frames=batch.frames[:-1])
            case "text":
                return "results"
            case "other detections":
                return dataclasses.replace(batch, predictions=Predictions(Detections.empty(99)))
            case "nothing found":
                return dataclasses.replace(batch, predictions=Predictions(Detections.empty(len(batch))))
        return None


class Post:
    def __init__(self, fails_on=(), gives="detections"):
        self._fails_on, self._gives, self._calls = fails_on, gives, 0

    def __call__(self, outputs, batch):
        self._calls += 1
        if self._calls - 1 in self._fails_on:
            raise ZeroDivisionError
        n = len(batch.frames)
        assert {name: len(array) for name, array in outputs.items()} == {"boxes": n, "scores": n}
        assert all(isinstance(array, np.ndarray) for array in outputs.values())
        found = Predictions(tensors={"n": np.full((n, 1), n)})
        return {"detections": found, "later": Later(found), "text": "x"}[self._gives]


class Later:
    def __init__(self, found):
        self._found = found

    def result(self):
        return self._found


class DevicePost(Post):
    arrays = "device"


class Strict:
    def __init__(self, least):
        if least < 0:
            raise ValueError("least is not negative")

    def write(self, batch): ...


class NoWrite:
    pass


class OddArrays(Sink):
    arrays = "cupy"


class DeviceSink(Sink):
    arrays = "device"


class Stuck:
    def write(self, batch):
        calls.append("stuck")
        gate.wait(30)


class SlowToClose(Sink):
    def close(self):
        gate.wait(30)


class Sums:
    """The sum of each frame's `a`; tells where it was asked from."""

    def __init__(self, fails=False):
        self._fails = fails
        self.seen = []

    def __call__(self, outputs, batch):
        if self._fails:
            raise ValueError("no sums")
        self.seen.append((type(outputs["a"]).__name__, outputs["a"].shape, batch.tensor is None))
        return Predictions(embeddings=np.asarray(outputs["a"], np.float32).sum(axis=(1, 2))[:, None])


class DeviceSums(Sums):
    """Puts its work on the stream, and waits for nothing."""

    arrays = "device"

    def use_stream(self, stream):
        self.stream = stream

    def __call__(self, outputs, batch):
        assert self.stream.depth, "the stream is not CuPy's current one"
        array = outputs["a"]
        self.seen.append((type(array).__name__, array.shape, batch.tensor is None))
        slot = []
        self.stream.put(lambda: slot.append(np.array(array, np.float32).sum(axis=(1, 2))[:, None]))
        if self._fails:
            return Later(Predictions(embeddings=np.zeros((5, 1), np.float32)))
        return Waits(self.stream, slot)


class Waits:
    def __init__(self, stream, slot):
        self._stream, self._slot = stream, slot

    def result(self):
        while self._stream.queue:
            self._stream.queue.popleft()()
        return Predictions(embeddings=self._slot[0])
