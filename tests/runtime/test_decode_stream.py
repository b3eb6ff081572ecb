"""Decoders on a stream of their own: a picture is given back only when what reads it is known to be done."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeModel, FakePreprocessor, Loans, SurfaceDecoder, fake_postprocess
from test_second_models import Pending, entry, with_cascade

from pipeline.errors import ModelError
from pipeline.frames import InputBatch
from pipeline.preprocess.fused import FusedPreprocessor
from pipeline.runtime.lane import BATCHES_BEFORE_MODEL_ON_GPU, BATCHES_ON_GPU

MakePipeline = Callable[..., Any]


class TwoStreams:
    """Notes what a `DecodeStream` is asked for, and in which thread the device was last told to wait."""

    def __init__(self, loans: Loans) -> None:
        self.loans = loans
        self.calls: list[str] = []
        self.last = threading.local()

    def before_reading(self) -> None:
        self._note("before")

    def after_reading(self) -> Any:
        self._note("after")
        return SimpleNamespace(wait=lambda: self._note("wait"))

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.last.call = call


class Preprocessor(FakePreprocessor):
    def __init__(self, streams: TwoStreams) -> None:
        self.streams = streams

    def __call__(self, frames: Any, rows: int) -> InputBatch:
        assert self.streams.last.call == "before", "frames are read before they are there"
        for one in frames:
            assert (one.source_id, one.index) in self.streams.loans.out
        return super().__call__(frames, rows)


@pytest.mark.parametrize("cascade", [False, True])
def test_pictures_go_when_they_have_been_read(make: MakePipeline, cascade: bool) -> None:
    loans = Loans()
    streams = TwoStreams(loans)

    def postprocess(outputs: Any, batch: InputBatch) -> Any:
        held = {(one.source_id, one.index) for one in batch.frames}

        def on_wait() -> None:
            assert held <= loans.out, "given back before the results are there"

        return Pending(fake_postprocess(outputs, batch), on_wait)

    more = {"decode_stream": streams, "preprocess": Preprocessor(streams), "postprocess": postprocess}
    second = with_cascade(entry(loans=loans), **more) if cascade else lambda status: more
    decoders = {name: SurfaceDecoder(name, 21, loans) for name in "ab"}
    status = make(decoders, on_device=True, second=second).run()
    assert status.results == 42
    assert loans.given == 42
    assert not loans.out
    batches = streams.calls.count("before")
    assert streams.calls.count("after") == streams.calls.count("wait") == batches


@pytest.mark.parametrize("cascade", [False, True])
def test_what_a_run_that_breaks_was_reading_is_waited_for(make: MakePipeline, cascade: bool) -> None:
    loans = Loans()
    streams = TwoStreams(loans)
    broken = FakeModel(4, fails_at=3, error=lambda _: ModelError("broken"))
    more = {"decode_stream": streams}
    second = with_cascade(entry(loans=loans), **more) if cascade else lambda status: more
    pipeline = make({"a": SurfaceDecoder("a", 500, loans)}, model=broken, on_device=True, second=second)
    with pytest.raises(ModelError, match="broken"):
        pipeline.run()
    assert not loans.out
    assert streams.calls.count("wait") == streams.calls.count("after")


@pytest.mark.parametrize("queue_batches", [1, 4])
def test_preprocessing_goes_ahead_of_the_model_by_no_more_than_its_inputs(
    make: MakePipeline, queue_batches: int
) -> None:
    """The model works on one, one waits for it, one is being filled: an input is written again when its model is enqueued."""
    inputs = inspect.signature(FusedPreprocessor.__init__).parameters["kept"].default
    ahead, most, reached, lock = [0], [0], threading.Event(), threading.Lock()
    loans = Loans()

    class Counting(FakePreprocessor):
        def __call__(self, frames: Any, rows: int) -> InputBatch:
            with lock:
                ahead[0] += 1
                most[0] = max(most[0], ahead[0])
                if ahead[0] == inputs:
                    reached.set()
            return super().__call__(frames, rows)

    class Slow(FakeModel):
        def __call__(self, tensor: Any) -> Any:
            if len(self.calls) == 2:
                assert reached.wait(20), "nothing is preprocessed while the model is being enqueued"
            found = super().__call__(tensor)
            with lock:
                ahead[0] -= 1
            return found

    decoders = {name: SurfaceDecoder(name, 40, loans) for name in "ab"}
    more = {"preprocess": Counting()}
    status = make(decoders, on_device=True, model=Slow(4), second=lambda _: more, queue_batches=queue_batches).run()
    assert status.results == 80
    assert most[0] == inputs == BATCHES_BEFORE_MODEL_ON_GPU + 2
    assert status.queues["model"].capacity == BATCHES_BEFORE_MODEL_ON_GPU


@pytest.mark.parametrize("cascade", [False, True])
def test_the_device_is_given_few_batches_ahead(make: MakePipeline, cascade: bool) -> None:
    """CUDA has a thread that enqueues more than a thousand launches spin; and what is enqueued early is old when it is done."""
    loans, enqueued, done, most, reached = Loans(), [0], [0], [0], threading.Event()

    class Counting(FakeModel):
        def __call__(self, tensor: Any) -> Any:
            enqueued[0] += 1
            most[0] = max(most[0], enqueued[0] - done[0])
            if enqueued[0] - done[0] == BATCHES_ON_GPU:
                reached.set()
            return super().__call__(tensor)

    def postprocess(outputs: Any, batch: InputBatch) -> Any:
        def on_wait() -> None:
            assert reached.wait(20), "the device waits for work"
            done[0] += 1

        return Pending(fake_postprocess(outputs, batch), on_wait)

    more = {"decode_stream": TwoStreams(loans), "postprocess": postprocess}
    second = with_cascade(entry(loans=loans), **more) if cascade else lambda status: more
    decoders = {name: SurfaceDecoder(name, 40, loans) for name in "ab"}
    status = make(decoders, on_device=True, model=Counting(4), second=second, queue_batches=8).run()
    assert status.results == 80
    assert most[0] == BATCHES_ON_GPU == status.queues["device"].high_water


def test_a_run_that_breaks_while_the_device_has_all_it_takes_ends(make: MakePipeline) -> None:
    """The model's thread waits for results that will not come."""
    loans, enqueued, full = Loans(), [0], threading.Event()

    class Counting(FakeModel):
        def __call__(self, tensor: Any) -> Any:
            enqueued[0] += 1
            if enqueued[0] == BATCHES_ON_GPU:
                full.set()
            return super().__call__(tensor)

    def postprocess(outputs: Any, batch: InputBatch) -> Any:
        def on_wait() -> None:
            assert full.wait(20)
            raise ModelError("broken")

        return Pending(fake_postprocess(outputs, batch), on_wait)

    more = {"decode_stream": TwoStreams(loans), "postprocess": postprocess}
    pipeline = make(
        {"a": SurfaceDecoder("a", 500, loans)},
        model=Counting(4),
        on_device=True,
        second=lambda _: more,
        queue_batches=8,
    )
    with pytest.raises(ModelError, match="broken"):
        pipeline.run()
    assert not loans.out
    assert enqueued[0] == BATCHES_ON_GPU
