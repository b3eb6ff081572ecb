"""The lane with a cascade and models side by side, of fakes: when surfaces are let go of, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import FakeDecoder, FakeModel, FakePreprocessor, FakeSink, Loans, SurfaceDecoder, fake_postprocess, frame

from pipeline.cascade.second import SecondModel
from pipeline.cascade.side import Side, SideModels
from pipeline.cascade.stage import Cascade, Entry
from pipeline.config.cascade import CropRules
from pipeline.errors import ModelError
from pipeline.frames import Classifications, Frame, InputBatch, Predictions
from pipeline.observe.status import StageTimes
from pipeline.plugins.guard import PluginError

MakePipeline = Callable[..., Any]


class Pending:
    def __init__(self, made: Any, on_wait: Callable[[], None] = lambda: None) -> None:
        self.made, self.on_wait = made, on_wait

    def result(self) -> Predictions:
        self.on_wait()
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


class FakeCropper:
    """Crops hold the number of the frame that they are cut from. All frames must still be on loan."""

    model_size = (4, 2)

    def __init__(self, loans: Loans | None = None) -> None:
        self.loans = loans
        self.calls: list[int] = []

    def __call__(self, frames: list[Frame], regions: np.ndarray, rows: int) -> InputBatch:
        for one in frames:
            if self.loans is not None:
                assert (one.source_id, one.index) in self.loans.out, "the surface was let go of before its crop was cut"
            assert one.picture.planes
        self.calls.append(len(frames))
        tensor = np.zeros((rows, 1), np.float32)
        tensor[: len(frames), 0] = [one.picture.planes[0][0, 0] for one in frames]
        return InputBatch(tuple(frames), tensor, np.tile([1.0, 1.0, 0.0, 0.0], (len(frames), 1)), (4, 2))


def classify(outputs: Any, batch: InputBatch) -> Predictions:
    """The class is the number that the crop holds."""
    ids = outputs["y"][: len(batch.frames)].astype(np.int32)
    assert all(not one.picture.planes and one.picture.surface is None for one in batch.frames), (
        "pixels are held for nothing"
    )
    return Predictions(classes=Classifications(ids, np.ones_like(ids, np.float32), np.ones(len(ids), np.int64)))


def entry(
    name: str = "mood",
    *,
    loans: Loans | None = None,
    model: FakeModel | None = None,
    postprocess: Any = classify,
    **rules: Any,
) -> Entry:
    second = SecondModel(name, f"pipeline.cascade[{name}]", model or FakeModel(3), postprocess)
    return Entry(second, FakeCropper(loans), CropRules(**{"min_size_px": 1, **rules}))


def with_cascade(*entries: Entry, **more: Any) -> Callable[[Any], dict[str, Any]]:
    def second(status: Any) -> dict[str, Any]:
        for one in entries:
            status.stages[f"cascade.{one.second.name}"] = StageTimes()
        return {"cascade": Cascade(entries, status), **more}

    return second


class Seen(FakeSink):
    """What every frame's crops say."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.moods: dict[tuple[str, int], Any] = {}

    def write(self, batch: Any) -> None:
        for result in batch:
            found = result.crops["mood"].at(0)
            self.moods[result.frame.source_id, result.frame.index] = None if found is None else found.classes[0][1]
        super().write(batch)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("needs_pixels", [False, True])
def test_crops_are_cut_of_their_own_frames_which_then_go(
    make: MakePipeline, on_device: bool, deferred: bool, needs_pixels: bool
) -> None:
    loans, sink = Loans(), Seen(needs_pixels=needs_pixels)

    def postprocess(outputs: Any, batch: InputBatch) -> Any:
        found = classify(outputs, batch)
        return Pending(found) if deferred else found

    mood = entry(loans=loans, postprocess=postprocess)
    decoders = {name: SurfaceDecoder(name, 21, loans) for name in "ab"}
    pipeline = make(decoders, sinks=[sink], on_device=on_device, second=with_cascade(mood))
    status = pipeline.run()
    assert sink.moods == {(name, i): i for name in "ab" for i in range(21)}
    assert loans.given == 42
    assert not loans.out
    assert max(mood.crop.calls) <= 3 < 4  # batches of four frames, of three crops
    counts = status.models["mood"].crops
    assert (counts.crops, counts.kept, counts.failed) == (42, 0, 0)
    assert status.stages["cascade.mood"].frames == 42
    assert status.models["mood"].labels["7"] == 2


def test_a_ring_that_just_holds_what_is_under_way_is_enough(make: MakePipeline) -> None:
    """With one surface a source nothing waits for anything that cannot come."""
    loans = Loans(ring=1)
    sink = Seen()
    pipeline = make(
        {"a": SurfaceDecoder("a", 9, loans)},
        sinks=[sink],
        on_device=True,
        second=with_cascade(entry(loans=loans)),
        batch_timeout_ms=5,
    )
    pipeline.run()
    assert sink.moods == {("a", i): i for i in range(9)}


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("where", ["model", "result"])
def test_a_model_that_breaks_ends_the_run_and_everything_is_let_go_of(
    make: MakePipeline, on_device: bool, where: str
) -> None:
    loans = Loans()
    problem = ModelError(
        "its outputs are no numbers", remedy="set pipeline.postprocess.activation or runtime.batch_size"
    )

    def postprocess(outputs: Any, batch: InputBatch) -> Any:
        return Pending(problem) if where == "result" and len(mood.crop.calls) > 2 else classify(outputs, batch)

    broken = FakeModel(3, fails_at=4, error=lambda _: problem) if where == "model" else FakeModel(3)
    mood = entry(loans=loans, model=broken, postprocess=postprocess)
    decoders = {name: SurfaceDecoder(name, 500, loans) for name in "ab"}
    pipeline = make(decoders, sinks=[FakeSink()], on_device=on_device, second=with_cascade(mood))
    with pytest.raises(ModelError, match="no numbers") as caught:
        pipeline.run()
    assert (
        caught.value.remedy == "set pipeline.cascade[mood].postprocess.activation or pipeline.cascade[mood].batch_size"
    )
    assert not loans.out
    assert mood.second.model.closed


@pytest.mark.parametrize("on_device", [False, True])
def test_stopping_lets_go_of_everything(make: MakePipeline, on_device: bool) -> None:
    loans, sink = Loans(), Seen()
    mood = entry(loans=loans)
    decoders = {name: SurfaceDecoder(name, 10_000, loans) for name in "ab"}
    pipeline = make(decoders, sinks=[sink], on_device=on_device, second=with_cascade(mood))
    sink.on_write = lambda: pipeline.stop() if sink.writes == 5 else None
    status = pipeline.run()
    assert 0 < status.results < 20_000
    assert not loans.out
    assert sink.end == "closed"
    assert all(mood_ == index for (_, index), mood_ in sink.moods.items())


@pytest.mark.parametrize("on_device", [False, True])
def test_a_user_who_leaves_the_loop_early(make: MakePipeline, on_device: bool) -> None:
    loans = Loans()
    decoders = {name: SurfaceDecoder(name, 10_000, loans) for name in "ab"}
    pipeline = make(decoders, on_device=on_device, second=with_cascade(entry(loans=loans)))
    for number, result in enumerate(pipeline):
        assert result.crops["mood"].at(0).classes[0][1] == result.frame.index % 256
        if number == 30:
            break
    pipeline.close()
    assert not loans.out


def test_own_postprocessing_that_fails_leaves_its_crops_without_results(make: MakePipeline) -> None:
    calls = []

    def postprocess(outputs: Any, batch: InputBatch) -> Any:
        calls.append(len(batch.frames))
        if len(calls) == 2:
            raise PluginError("mine")
        return Pending(PluginError("mine")) if len(calls) == 3 else classify(outputs, batch)

    sink = Seen()
    pipeline = make({"a": FakeDecoder("a", 12)}, sinks=[sink], second=with_cascade(entry(postprocess=postprocess)))
    status = pipeline.run()
    assert status.results == 12
    failed = calls[1] + calls[2]
    assert status.models["mood"].crops.failed == failed
    assert sum(mood is None for mood in sink.moods.values()) == failed
    assert all(mood in (None, index) for (_, index), mood in sink.moods.items())


def test_any_depth(make: MakePipeline) -> None:
    """Entries that look at the detections of entries; the deepest sees what its frame holds."""
    loans, waits = Loans(), []

    def detect(outputs: Any, batch: InputBatch) -> Any:
        return Pending(fake_postprocess(outputs, batch), lambda: waits.append(threading.current_thread().name))

    chain = [
        entry("face", loans=loans, postprocess=detect),
        entry("eye", loans=loans, postprocess=detect, of="face"),
        entry("mood", loans=loans, of="eye"),
    ]
    pipeline = make(
        {"a": SurfaceDecoder("a", 10, loans)}, on_device=True, second=with_cascade(*chain), batch_timeout_ms=1000
    )
    for result in pipeline:
        crops = result.crops
        assert [len(crops[name]) for name in ("face", "eye", "mood")] == [1, 1, 1]
        assert crops["eye"].predictions.detections.class_ids.tolist() == [result.frame.index]
        assert crops["mood"].at(0).classes[0][1] == result.frame.index
    assert not loans.out
    assert set(waits) == {"lane-results"}, "the results thread waits for nothing of these"


def test_classes_sizes_and_boxes_that_are_none(make: MakePipeline) -> None:
    def postprocess(outputs: Any, batch: InputBatch) -> Predictions:
        found = fake_postprocess(outputs, batch).detections
        boxes = found.boxes.copy()
        boxes[1::4] = [np.nan, 0, 1, 1]
        boxes[2::4] = [0, 0, 0.4, 1]
        return Predictions(replace(found, boxes=boxes, names={i: "odd" if i % 2 else "even" for i in range(100)}))

    mood = entry(classes=["even"])
    pipeline = make(
        {"a": FakeDecoder("a", 16)},
        second=with_cascade(mood, postprocess=postprocess),
        batch_timeout_ms=2000,
    )
    seen = {r.frame.index for r in pipeline if len(r.crops["mood"])}
    # Of each four: 0 is looked at, 1 and 3 are odd, 2 is too narrow.
    assert seen == {0, 4, 8, 12}
    counts = pipeline.status.models["mood"].crops
    assert (counts.crops, counts.too_small, counts.unusable) == (4, 4, 0)
    ids = entry(classes=[1])
    pipeline = make(
        {"a": FakeDecoder("a", 8)}, second=with_cascade(ids, postprocess=postprocess), batch_timeout_ms=2000
    )
    assert sum(len(r.crops["mood"]) for r in pipeline) == 0
    assert pipeline.status.models["mood"].crops.unusable == 1


# ---------------------------------------------------------------------------------------------------- side by side


def side(name: str, model: FakeModel, preprocess: Any = None, input_of: str = "", postprocess: Any = classify) -> Side:
    return Side(SecondModel(name, f"pipeline.models[{name}]", model, postprocess), preprocess, input_of)


def with_sides(*sides: Side, cascade: tuple[Entry, ...] = ()) -> Callable[[Any], dict[str, Any]]:
    def second(status: Any) -> dict[str, Any]:
        for one in sides:
            status.stages[f"models.{one.second.name}"] = StageTimes()
        fields = {"sides": SideModels(sides, status)}
        return {**fields, **with_cascade(*cascade)(status)} if cascade else fields

    return second


class CountedPreprocessor(FakePreprocessor):
    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, frames: Any, rows: int) -> InputBatch:
        self.calls.append(len(frames))
        return super().__call__(frames, rows)


@pytest.mark.parametrize("on_device", [False, True])
def test_models_side_by_side_see_the_same_frames(make: MakePipeline, on_device: bool) -> None:
    loans, own, first = Loans(), CountedPreprocessor(), CountedPreprocessor()
    sides = (side("same", FakeModel()), side("small", FakeModel(3), own), side("again", FakeModel(), None, "same"))

    def second(status: Any) -> dict[str, Any]:
        return {**with_sides(*sides)(status), "preprocess": first}

    pipeline = make(
        {name: SurfaceDecoder(name, 10, loans) for name in "ab"},
        on_device=on_device,
        second=second,
        batch_timeout_ms=2000,
    )
    for result in pipeline:
        for name in ("same", "small", "again"):
            assert result.models[name].classes[0][1] == result.frame.index
        assert int(result.detections.class_ids[0]) == result.frame.index
    assert not loans.out
    assert sum(first.calls) == 20, "frames are converted once for all that take the same input"
    assert own.calls == [n for count in first.calls for n in ([3, count - 3] if count > 3 else [count])]
    status = pipeline.status
    assert {name: second.model for name, second in status.models.items()} == dict.fromkeys(
        ("same", "small", "again"), "fake@0"
    )
    assert all(status.stages[f"models.{name}"].frames == 20 for name in ("same", "small", "again"))
    assert all(one.second.model.closed for one in sides)


def test_a_model_beside_whose_postprocessing_fails_is_left_out_of_that_batch(make: MakePipeline) -> None:
    calls = []

    def postprocess(outputs: Any, batch: InputBatch) -> Predictions:
        calls.append(1)
        if len(calls) == 2:
            raise PluginError("mine")
        return classify(outputs, batch)

    mine = side("mine", FakeModel(), postprocess=postprocess)
    # Its detections are looked at too, where there are any.
    pipeline = make(
        {"a": FakeDecoder("a", 12)},
        second=with_sides(mine, cascade=(entry(of="mine"),)),
        batch_timeout_ms=2000,
    )
    results = list(pipeline)
    assert len(results) == 12
    assert [bool(r.models) for r in results] == [True] * 4 + [False] * 4 + [True] * 4


def test_detections_of_a_model_beside_are_looked_at(make: MakePipeline) -> None:
    finder = side("finder", FakeModel(), postprocess=lambda outputs, batch: Pending(fake_postprocess(outputs, batch)))
    loans = Loans()
    pipeline = make(
        {"a": SurfaceDecoder("a", 9, loans)},
        on_device=True,
        second=with_sides(finder, cascade=(entry(of="finder", loans=loans),)),
    )
    for result in pipeline:
        assert result.crops["mood"].of == "finder"
        assert result.crops["mood"].at(0).classes[0][1] == result.frame.index
    assert not loans.out


def test_frame_of_the_fakes_is_what_the_tests_think() -> None:
    assert frame("a", 7).picture.planes[0][0, 0] == 7


class FakeTracker:
    """One track a source; leaves out every frame's detections whose number is odd."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []
        self.looks: list[Any] = []

    def __call__(self, batch: Any, looks: Any = None) -> Any:
        self.looks.append(looks)
        found = batch.predictions.detections
        keep = found.class_ids % 2 == 0
        tracked = replace(
            found,
            boxes=found.boxes[keep],
            scores=found.scores[keep],
            class_ids=found.class_ids[keep],
            offsets=np.concatenate([[0], np.cumsum(keep)])[found.offsets],
            track_ids=np.ones(int(keep.sum()), np.int64),
        )
        return replace(batch, predictions=replace(batch.predictions, detections=tracked))

    def forget(self, source_id: str) -> None:
        self.forgotten.append(source_id)


def test_what_is_looked_at_is_what_the_tracker_leaves(make: MakePipeline) -> None:
    """Every third time of a track, kept in between; nothing is remembered of sources that have ended."""
    tracker, made = FakeTracker(), []
    mood = replace(entry(every=3), keeps=True)

    def second(status: Any) -> dict[str, Any]:
        status.stages["track"] = StageTimes()
        fields = with_cascade(mood, tracker=tracker)(status)
        made.append(fields["cascade"])
        return fields

    pipeline = make({name: FakeDecoder(name, 20) for name in "ab"}, second=second)
    for result in pipeline:
        index, crops = result.frame.index, result.crops["mood"]
        assert len(crops) == len(result.detections) == (index + 1) % 2
        if len(crops):
            assert crops.at(0).classes[0][1] == crops.frame_numbers[0] == index - index % 6
    assert sorted(tracker.forgotten) == ["a", "b"]
    assert not made[0]._turns["mood"]._tracks
    counts = pipeline.status.models["mood"].crops
    assert (counts.crops, counts.kept) == (2 * 4, 2 * 6)


def test_the_tracker_is_told_what_detections_look_like(make: MakePipeline) -> None:
    """The vectors are of all detections, those that the tracker then leaves out too; the results go with those that stay."""
    loans, tracker = Loans(), FakeTracker()

    def embed(outputs: Any, batch: InputBatch) -> Any:
        rows = outputs["y"][: len(batch.frames)]
        return Pending(Predictions(embeddings=np.concatenate([rows, rows + 0.5], 1).astype(np.float32)))

    reid, mood = entry("reid", loans=loans, postprocess=embed), entry(loans=loans)

    def second(status: Any) -> dict[str, Any]:
        status.stages["track"] = StageTimes()
        fields = with_cascade(reid, mood, tracker=tracker)(status)
        return {**fields, "cascade": Cascade((reid, mood), status, appearance="reid")}

    pipeline = make({"a": SurfaceDecoder("a", 12, loans)}, on_device=True, second=second)
    for result in pipeline:
        index, crops = result.frame.index, result.crops
        assert len(crops["reid"]) == len(crops["mood"]) == (index + 1) % 2
        if not index % 2:
            assert crops["reid"].at(0).embedding.tolist() == [index, index + 0.5]
            assert crops["mood"].at(0).classes[0][1] == index
    assert np.concatenate(tracker.looks)[:, 0].tolist() == list(range(12))
    assert not loans.out
    assert sum(reid.crop.calls) == 12, "its crops are cut once"
    assert sum(mood.crop.calls) == 6
