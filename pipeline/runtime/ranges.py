"""Ranges around the work of the stages: what a tracer needs to tell which stage did what.

A stage with a range is a stage around a stage, put there only where somebody asked for it: without, a run pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

from pipeline.frames import Frame, Predictions
from pipeline.runtime.steps import Stages

OpenRange = Callable[[str, Sized], AbstractContextManager[object]]
"""Stage, the frames (empty: not known here) -> what is entered before the work and left behind it.

Those count that are there when it is left: a decoder's come to be within."""

OPEN = "open"  # opening a video, up to its first frame, and closing it: what is done once
DECODE = "decode"  # a frame
PREPROCESS = "preprocess"  # from here on a batch
DOWNLOAD = "download"  # pixels to the host, for those who draw
INFER = "infer"
POSTPROCESS = "postprocess"
RESULTS = "results"  # waiting for the device
TRACK = "track"
ANALYTICS = "analytics"
PLUGINS = "plugins"
SINKS = "sinks"

RANGES = (OPEN, DECODE, PREPROCESS, DOWNLOAD, INFER, POSTPROCESS, RESULTS, TRACK, ANALYTICS, PLUGINS, SINKS)


def with_ranges(stages: Stages, open_range: OpenRange) -> Stages:
    """The same stages, with a range open in the working thread while one of them works.

    Ranges of one thread do not overlap. A decoder's range holds its wait for packets, and for a surface to be free.
    """

    def around(stage: Any, name: str) -> Any:
        return None if stage is None else _Ranged(stage, name, open_range)

    def open_decoder(spec: Any, stats: Any) -> Any:
        with open_range(OPEN, ()):
            decoder = stages.open_decoder(spec, stats)
        return _RangedDecoder(decoder, open_range)

    ranged_outputs: Any = _RangedOutputs(stages.outputs, open_range)

    def postprocess(outputs: Any, batch: Any) -> Any:
        with open_range(POSTPROCESS, batch.frames):
            found = stages.postprocess(outputs, batch)
        return found if isinstance(found, Predictions) else _RangedPending(found, batch.frames, open_range)

    return replace(
        stages,
        open_decoder=open_decoder,
        preprocess=around(stages.preprocess, PREPROCESS),
        download=around(stages.download, DOWNLOAD),
        model=around(stages.model, INFER),
        postprocess=postprocess,
        tracker=around(stages.tracker, TRACK),
        analytics=around(stages.analytics, ANALYTICS),
        plugins=around(stages.plugins, PLUGINS),
        outputs=ranged_outputs,
    )


class _Around:
    """Stands for an object: what is not said otherwise is the object's own."""

    def __init__(self, inner: Any, open_range: OpenRange) -> None:
        self._inner = inner
        self._open_range = open_range

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Ranged(_Around):
    """A stage that is called with a batch, its frames, or a tensor."""

    def __init__(self, inner: Any, name: str, open_range: OpenRange) -> None:
        super().__init__(inner, open_range)
        self._name = name

    def __call__(self, batch: Any, *more: Any) -> Any:
        # A model's tensor has rows behind the frames.
        with self._open_range(self._name, () if self._name == INFER else batch):
            return self._inner(batch, *more)


class _RangedDecoder(_Around):
    def __init__(self, inner: Any, open_range: OpenRange) -> None:
        super().__init__(inner, open_range)
        inner.open_aside = partial(open_range, DECODE, ())

    def __iter__(self) -> Iterator[Frame]:
        for group in self.groups():
            yield from group

    def groups(self) -> Iterator[Sequence[Frame]]:
        groups, name = iter(self._inner.groups()), OPEN
        while True:
            group: list[Frame] = []
            with self._open_range(name, group):
                group += next(groups, ())
            if not group:
                return
            name = DECODE
            yield group

    def close(self) -> None:
        with self._open_range(OPEN, ()):
            self._inner.close()


class _RangedPending(_Around):
    def __init__(self, inner: Any, frames: Sized, open_range: OpenRange) -> None:
        super().__init__(inner, open_range)
        self._frames = frames

    def result(self) -> Predictions:
        with self._open_range(RESULTS, self._frames):
            found: Predictions = self._inner.result()
        return found


class _RangedOutputs(_Around):
    def write(self, batch: Any) -> None:
        with self._open_range(SINKS, batch):
            self._inner.write(batch)
