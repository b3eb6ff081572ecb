"""How much device memory the decoders of a run take, on a fake PyNvVideoCodec."""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path
from typing import Any

import fake_cupy
import pytest
from fake_nvcodec import FakeNvCodec, FakeStream, PyNvVCException, failure_text
from hypothesis import given
from hypothesis import strategies as st
from media_maker import make_clip

from pipeline.config.sources import Source
from pipeline.config.stages import Decode
from pipeline.decode import capabilities
from pipeline.decode._surface_ring import Loan, SurfaceRing
from pipeline.decode.memory import LEAST_SURFACES, SurfaceMemory, decoder_size, picture_size
from pipeline.decode.nvdec import NvdecDecoder, open_nvdec
from pipeline.errors import DeviceLostError, SourceError, SourceErrorCode
from pipeline.sources import VideoSpec
from pipeline.stages import DecodeStats
from pipeline.vram import MIB, Allowance

WIDTH, HEIGHT = 320, 240
SURFACE = WIDTH * HEIGHT * 3 // 2
OWN = decoder_size("h264", WIDTH, HEIGHT, "yuv420p")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "a.mp4", width=WIDTH, height=HEIGHT, frames=40)


def opened(path: Path, memory: SurfaceMemory | None = None, ring: int = 16, stats: Any = None) -> NvdecDecoder:
    spec = VideoSpec("cam", str(path), path.name, False, Source(path=str(path)))
    return open_nvdec(spec, Decode(threads=1), stats or DecodeStats(), stream=FakeStream(), ring=ring, memory=memory)


@pytest.mark.parametrize(
    ("width", "height", "pix_fmt", "size"),
    [
        (1920, 1080, "yuv420p", 1920 * 1080 * 3 // 2),  # NV12
        (1920, 1080, "yuv420p10le", 1920 * 1080 * 3),  # P016
        (67, 51, "yuv420p", 68 * 51 + 68 * 26),  # pairs of Cb and Cr
        (64, 48, "yuv444p", 64 * 48 * 3),
        (64, 48, "yuv422p", 64 * 48 * 2),  # uploaded by the CPU
        (64, 48, None, 64 * 48 * 3 // 2),
        (64, 48, "bayer_rggb8", 64 * 48 * 3 // 2),
    ],
)
def test_the_size_of_a_picture(width: int, height: int, pix_fmt: str | None, size: int) -> None:
    assert picture_size(width, height, pix_fmt) == size


def test_a_decoder_takes_more_for_larger_pictures_and_for_codecs_that_refer_to_many() -> None:
    assert decoder_size("h264", 3840, 2160, "yuv420p") > 3 * decoder_size("h264", 1920, 1080, "yuv420p")
    assert decoder_size("h264", 1920, 1080, "yuv420p") > decoder_size("mpeg2video", 1920, 1080, "yuv420p")


@given(st.integers(1, 9), st.lists(st.sampled_from(["take", "give", "bound"]), max_size=60), st.data())
def test_a_ring_never_lends_more_than_its_bound(size: int, steps: list[str], data: st.DataObject) -> None:
    ring, capacity, lent, high = SurfaceRing(size), size, 0, 0
    for step in steps:
        if step == "bound":
            capacity = data.draw(st.integers(1, 12))
            ring.bound(capacity, 10)
            capacity = min(capacity, size)
        elif step == "give" and lent:
            ring.give_back()
            lent -= 1
        elif step == "take" and lent < capacity:
            assert ring.take()
            lent += 1
        high = max(high, lent)
        assert (ring.stats.items, ring.stats.capacity, ring.stats.high_water) == (lent, capacity, high)
    assert ring.stats.put_waits == 0


def test_a_ring_that_is_full_is_waited_for_and_the_wait_counts() -> None:
    ring, returned, taken = SurfaceRing(1), [], []
    assert ring.take()
    loan = Loan(returned.append, 7, ring)
    thread = threading.Thread(target=lambda: taken.append(ring.take()), daemon=True)
    thread.start()
    while thread.is_alive() and not ring._is_awaited:
        thread.join(0.01)
    loan()
    loan()
    thread.join(20)
    assert taken == [True]
    assert returned == [7]
    assert (ring.stats.items, ring.stats.put_waits) == (1, 1)
    assert ring.stats.put_wait_s > 0


def test_closing_a_ring_wakes_who_waits() -> None:
    ring, taken = SurfaceRing(1), []
    assert ring.take()
    thread = threading.Thread(target=lambda: taken.append(ring.take()), daemon=True)
    thread.start()
    ring.close()
    thread.join(20)
    assert taken == [False]


def test_a_loan_that_is_forgotten_wakes_who_waits() -> None:
    ring, taken = SurfaceRing(1), []
    assert ring.take()
    loans = [Loan(lambda memory: None, 1, ring)]
    thread = threading.Thread(target=lambda: taken.append(ring.take()), daemon=True)
    thread.start()
    while thread.is_alive() and not ring._is_awaited:
        thread.join(0.01)
    loans.clear()
    thread.join(20)
    assert taken == [True]
    assert ring.stats.items == 1


def test_what_a_decoder_took_comes_back_with_its_last_frame(nvc: FakeNvCodec, clip: Path) -> None:
    allowance, stats = Allowance(10 * MIB + OWN), DecodeStats()
    decoder = opened(clip, SurfaceMemory(allowance), stats=stats)
    frames = iter(decoder)
    first = next(frames)
    assert allowance.taken_bytes == OWN + 16 * SURFACE
    assert stats.surfaces is not None
    assert (stats.surfaces.capacity, stats.surfaces.item_bytes) == (16, SURFACE)
    assert (stats.surfaces.items, stats.surfaces.high_water_bytes) == (1, SURFACE)
    decoder.close()
    del decoder, frames
    gc.collect()
    assert allowance.taken_bytes == OWN + 16 * SURFACE  # a frame is still out, and its decoder with it
    surface = first.picture.surface
    assert surface is not None
    surface.release()
    del first, surface
    gc.collect()
    assert allowance.taken_bytes == 0
    assert stats.surfaces.items == 0


def test_a_source_with_large_pictures_gets_fewer_of_them(nvc: FakeNvCodec, clip: Path) -> None:
    """Bounded by bytes: no more is on loan than its share has room for."""
    allowance, stats = Allowance(1 << 40), DecodeStats()
    held: list[Any] = []
    for frame in opened(clip, SurfaceMemory(allowance, OWN + 6 * SURFACE), stats=stats):
        held.append(frame)
        if len(held) == 6:
            held.pop(0).picture.surface.release()
    assert stats.frames == 40
    assert stats.surfaces is not None
    assert (stats.surfaces.capacity, stats.surfaces.high_water) == (6, 6)
    assert allowance.high_water_bytes == OWN + 6 * SURFACE
    held.clear()


def test_where_little_is_left_it_does_with_few_surfaces(nvc: FakeNvCodec, clip: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("pipeline.decode.memory._REPLACED_S", 0.01)
    allowance, stats = Allowance(OWN + (LEAST_SURFACES + 1) * SURFACE), DecodeStats()
    assert sum(1 for _ in opened(clip, SurfaceMemory(allowance), stats=stats)) == 40
    assert stats.surfaces is not None
    assert stats.surfaces.capacity == LEAST_SURFACES


def test_a_source_that_does_not_fit_fails_alone_and_says_why(nvc: FakeNvCodec, clip: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("pipeline.decode.memory._REPLACED_S", 0.01)
    memory = SurfaceMemory(Allowance(OWN + 18 * SURFACE))
    first = opened(clip, memory)
    with pytest.raises(SourceError) as caught:
        opened(clip, memory)
    error = caught.value
    assert error.code is SourceErrorCode.OUT_OF_MEMORY
    least = -(-(OWN + LEAST_SURFACES * SURFACE) // MIB)
    assert error.message.startswith(f"a.mp4: decoding it takes at least {least} MB of GPU memory, but ")
    assert "runtime.vram_budget_mb" in str(error.remedy)
    assert sum(1 for _ in first) == 40  # the first one goes on
    del first
    gc.collect()
    assert sum(1 for _ in opened(clip, memory)) == 40  # and then there is room


@pytest.mark.parametrize("packet", [1, 10])
def test_a_driver_that_is_out_of_memory_ends_the_source_and_not_the_run(
    nvc: FakeNvCodec, clip: Path, packet: int
) -> None:
    nvc.fail_at, nvc.failure = {packet}, failure_text(2)
    allowance = Allowance()
    with pytest.raises(SourceError, match=r"a\.mp4: the GPU is out of memory: HandleVideoSequence") as caught:
        list(opened(clip, SurfaceMemory(allowance)))
    assert caught.value.code is SourceErrorCode.OUT_OF_MEMORY
    assert "runtime.open_sources" in str(caught.value.remedy)
    del caught
    gc.collect()
    assert allowance.taken_bytes == 0


@pytest.mark.parametrize("packet", [1, 10])
def test_a_gpu_that_is_lost_is_the_runs_error(nvc: FakeNvCodec, clip: Path, packet: int) -> None:
    nvc.fail_at, nvc.failure = {packet}, failure_text(719)
    with pytest.raises(DeviceLostError, match="decoding: the GPU cannot be used any more"):
        list(opened(clip))


def test_another_failure_is_decoded_on_the_cpu_as_before(nvc: FakeNvCodec, clip: Path) -> None:
    nvc.fail_at = {1}
    stats = DecodeStats()
    assert sum(1 for _ in opened(clip, stats=stats)) == 40
    assert stats.uploaded == 40


def test_what_the_cpu_decodes_is_bounded_too(nvc: FakeNvCodec, clip: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("pipeline.decode.memory._REPLACED_S", 0.01)
    nvc.unsupported = {("H264", "420", 8)}
    allowance = Allowance(5 * SURFACE)
    assert sum(1 for _ in opened(clip, SurfaceMemory(allowance))) == 40
    gc.collect()
    assert allowance.taken_bytes == 0
    assert allowance.high_water_bytes == LEAST_SURFACES * SURFACE
    with pytest.raises(SourceError, match="decoding it takes at least"):
        opened(clip, SurfaceMemory(Allowance(SURFACE)))


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (fake_cupy.OutOfMemoryError("Out of memory allocating 115,200 bytes"), SourceError),
        (fake_cupy.CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access"), DeviceLostError),
        (fake_cupy.CUDARuntimeError("cudaErrorInvalidValue: invalid argument"), fake_cupy.CUDARuntimeError),
    ],
)
def test_faults_while_uploading(nvc: FakeNvCodec, clip: Path, failure: Exception, raised: type[Exception]) -> None:
    nvc.unsupported = {("H264", "420", 8)}
    sys.modules["cupy"].failure = failure  # type: ignore[attr-defined]
    with pytest.raises(raised):
        opened(clip)


def test_a_card_that_is_too_full_to_be_asked_is_not_asked(nvc: FakeNvCodec, clip: Path, monkeypatch: Any) -> None:
    """PyNvVideoCodec would go on without the context that it did not get, and the process would not."""

    def asked(self: FakeNvCodec, **_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(FakeNvCodec, "GetDecoderCaps", asked)
    monkeypatch.setattr(capabilities, "_free_bytes", lambda ordinal: 3 << 20)
    with pytest.raises(SourceError, match=r"the GPU is out of memory: .*3 MB are left") as caught:
        opened(clip)
    assert caught.value.code is SourceErrorCode.OUT_OF_MEMORY
    assert "runtime.open_sources" in str(caught.value.remedy)


def test_a_full_card_is_no_answer_to_what_it_decodes(nvc: FakeNvCodec, clip: Path, monkeypatch: Any) -> None:
    """Otherwise the process would decode on the CPU for ever after."""
    answer = FakeNvCodec.GetDecoderCaps

    def full(self: FakeNvCodec, **_: Any) -> Any:
        raise PyNvVCException("cuCtxCreate failed\nError code : 2\n at NvDecoder.cpp:1")

    monkeypatch.setattr(FakeNvCodec, "GetDecoderCaps", full)
    with pytest.raises(SourceError, match="asking what the GPU decodes: the GPU is out of memory") as caught:
        opened(clip)
    assert caught.value.code is SourceErrorCode.OUT_OF_MEMORY
    monkeypatch.setattr(FakeNvCodec, "GetDecoderCaps", answer)
    stats = DecodeStats()
    assert sum(1 for _ in opened(clip, stats=stats)) == 40
    assert stats.uploaded == 0
