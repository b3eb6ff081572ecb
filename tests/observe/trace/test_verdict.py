"""What an account means, and how it is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from trace_recording import recorded

from pipeline.observe.trace.account import Account, StageAccount, account
from pipeline.observe.trace.report import as_dict, render
from pipeline.observe.trace.verdict import Limits, Setting, Verdict, verdicts

HD = 1920 * 1080
NV12 = HD * 3 // 2
FRAMES, BATCHES = 80, 10


def stage(name: str, **counts: Any) -> StageAccount:
    return StageAccount(name, ranges=BATCHES, frames=FRAMES, batches=BATCHES, **counts)


def judged(*stages: StageAccount, limits: Limits | None = None, **setting: Any) -> dict[str, Verdict]:
    found = Account({s.stage: s for s in stages}, BATCHES, FRAMES / BATCHES, 1.0, 1)
    chosen = Setting(**{"picture_bytes": HD, "uncounted": ("open",), **setting})
    return {v.check: v for v in verdicts(found, limits or Limits(), chosen)}


def down(name: str, per_frame: int, largest: int | None = None) -> StageAccount:
    return stage(name, down_bytes=FRAMES * per_frame, largest_down_bytes=largest or per_frame)


def test_a_recorded_run_keeps_its_frames_on_the_gpu() -> None:
    order = ("decode", "preprocess", "infer", "postprocess", "results", "sinks")
    found = account(*recorded(), order, frame_stages=("decode",), batch_stage="sinks", model="infer")
    for verdict in verdicts(found, Limits(), Setting(HD)):
        assert verdict.passed, verdict.message
    values = {v.check: v.value for v in verdicts(found, Limits(), Setting(HD))}
    assert values == {"raw_frames": 19_328, "down_bytes_per_frame": 2416, "waits_per_batch": 1.0}


def test_limits_that_are_just_kept_and_just_not() -> None:
    results = stage("results", waits=BATCHES, waited_for={"cudaEventSynchronize": BATCHES})
    post = down("postprocess", 1000)
    for limit, passes in ((1000, True), (999, False)):
        verdict = judged(post, results, limits=Limits(down_bytes_per_frame=limit))["down_bytes_per_frame"]
        assert verdict.passed is passes
        assert ("postprocess 1,000 B" in verdict.message) is not passes
    for most, passes in ((1.0, True), (0.99, False)):
        verdict = judged(post, results, limits=Limits(waits_per_batch=most))["waits_per_batch"]
        assert verdict.passed is passes
        assert ("results 1.00 in cudaEventSynchronize" in verdict.message) is not passes


def test_limits_are_for_all_stages_together() -> None:
    found = judged(
        down("infer", 2500),
        down("postprocess", 2500),
        stage("infer2", waits=6, waited_for={"cudaMemcpy": 6}),
        stage("results", waits=BATCHES, waited_for={"cudaEventSynchronize": BATCHES}),
    )
    assert found["raw_frames"].passed
    assert (found["down_bytes_per_frame"].passed, found["down_bytes_per_frame"].value) == (False, 5000)
    assert (found["waits_per_batch"].passed, found["waits_per_batch"].value) == (False, pytest.approx(1.6))


def test_a_sink_that_draws_is_named_as_the_reason() -> None:
    found = judged(down("download", NV12), drawing=("sinks[1] (video)",))
    assert not found["raw_frames"].passed
    assert "download copies as much as pictures take down to the host (3.1 MB a frame" in found["raw_frames"].message
    assert "because sinks[1] (video) draws on them" in found["raw_frames"].message
    assert not found["down_bytes_per_frame"].passed
    several = judged(down("download", NV12), drawing=("sinks[0] (video)", "sinks[2] (plugin)"))["raw_frames"].message
    assert several.endswith("because sinks[0] (video) and sinks[2] (plugin) draw on them")


def test_drawing_can_be_allowed_and_nothing_else_with_it() -> None:
    assert all(v.passed for v in judged(down("download", NV12), allow_drawing=True).values())
    found = judged(down("download", NV12), down("postprocess", NV12), allow_drawing=True)
    assert "postprocess copies" in found["raw_frames"].message
    assert "download" not in found["raw_frames"].message


def test_uploads_of_a_video_that_the_gpu_cannot_decode() -> None:
    up = stage("decode", up_bytes=FRAMES * NV12, largest_up_bytes=NV12)
    message = judged(up, uploaded=("a", "b", "c", "d"))["raw_frames"].message
    assert message.endswith("because the GPU cannot decode a, b, c and 1 more")
    assert judged(up)["down_bytes_per_frame"].passed


def test_packets_going_up_are_no_pictures() -> None:
    packets = stage("decode", up_bytes=FRAMES * 30_000, largest_up_bytes=400_000)
    assert judged(packets)["raw_frames"].passed


def test_one_picture_in_many_frames_is_found() -> None:
    once = stage("infer", down_bytes=HD, largest_down_bytes=HD)
    assert not judged(once, limits=Limits(down_bytes_per_frame=10_000_000 // FRAMES))["raw_frames"].passed


def test_a_picture_in_slices_is_found() -> None:
    assert not judged(down("infer", HD, largest=1000))["raw_frames"].passed


def test_results_of_a_batch_of_tiny_pictures_are_no_pictures() -> None:
    """A copy holds the results of a whole batch, which may be more than a picture of 64 x 48."""
    assert judged(down("postprocess", 3500, largest=8 * 3500), picture_bytes=64 * 48)["raw_frames"].passed
    assert not judged(down("postprocess", 3500, largest=8 * 4097), picture_bytes=64 * 48)["raw_frames"].passed


def test_the_decoders_own_wait_is_told_but_does_not_count() -> None:
    decode = stage("decode", waits=FRAMES, waited_for={"cuEventSynchronize": FRAMES})
    found = judged(decode)["waits_per_batch"]
    assert found.passed and found.value == 0
    assert "not counting the decoder's own" in found.message


@pytest.mark.parametrize("call", ["cuStreamSynchronize", "cuEventSynchronize"])
def test_other_waits_while_decoding_count(call: str) -> None:
    """Another call, or more than one a frame."""
    calls = {"cuEventSynchronize": FRAMES}
    calls[call] = calls.get(call, 0) + 2 * BATCHES
    found = judged(stage("decode", waits=FRAMES + 2 * BATCHES, waited_for=calls))["waits_per_batch"]
    assert not found.passed and found.value == pytest.approx(2)


def test_what_is_done_once_does_not_count() -> None:
    opened = stage("open", down_bytes=10**9, largest_down_bytes=10**9, waits=99, waited_for={"cuCtxSynchronize": 99})
    assert all(v.passed for v in judged(opened).values())


def test_the_table_and_its_sum() -> None:
    decode = stage("decode", device_bytes=FRAMES * NV12, launches=FRAMES, packet_bytes=FRAMES * 6700)
    post = stage("postprocess", down_bytes=FRAMES * 2416, largest_down_bytes=19_328, launches=2 * BATCHES)
    opened = stage("open", up_bytes=10**9)
    found = Account({s.stage: s for s in (opened, decode, post)}, BATCHES, 8.0, 0.25, 1)
    judged_ = verdicts(found, Limits(down_bytes_per_frame=2000), Setting(HD, uncounted=("open",)))
    text = render(found, judged_, uncounted=["open"], bad=lambda text: f"<{text}>")
    lines = [line.split() for line in text.splitlines()]
    assert text.startswith("10 batches of 8 frames in 0.25 s\n")
    assert ["decode", "6,700", "B", "0", "3.1", "MB", "0", "8.00"] in lines
    assert ["postprocess", "0", "2,416", "B", "0", "0", "2.00"] in lines
    assert ["all", "6,700", "B", "2,416", "B", "3.1", "MB", "0", "10.0"] in lines
    assert not any(line[:1] == ["open"] for line in lines)
    assert "decode: 6,700 B a frame of what goes up are compressed packets" in text
    assert [line.split()[0] for line in text.splitlines()[-3:]] == ["pass", "<FAIL>", "pass"]


def test_the_same_as_json() -> None:
    post = stage("postprocess", down_bytes=FRAMES * 5000, largest_down_bytes=40_000)
    found = Account({"open": stage("open"), "postprocess": post}, BATCHES, 8.0, 0.25, 1)
    judged_ = verdicts(found, Limits(), Setting(HD, uncounted=("open",)))
    content = json.loads(json.dumps(as_dict(found, judged_, Limits(), uncounted=["open"])))
    assert content["passed"] is False
    assert content["limits"] == {"down_bytes_per_frame": 4096, "waits_per_batch": 1.0}
    assert content["stages"]["open"]["counted"] is False
    assert content["stages"]["postprocess"]["down_bytes_per_frame"] == 5000
    assert [v["check"] for v in content["verdicts"] if not v["passed"]] == ["down_bytes_per_frame"]
