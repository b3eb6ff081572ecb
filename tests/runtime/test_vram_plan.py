"""The memory plan: its arithmetic against numbers worked out by hand, and advice that is true when it is followed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_maker import make_clip

from pipeline.config.load import config_from_mapping
from pipeline.config.sources import Source
from pipeline.errors import ConfigError, ExitCode
from pipeline.runtime import vram
from pipeline.runtime.planning import Planner, needs_of
from pipeline.runtime.vram import ModelNeeds, Needs, VideoNeeds, budget_bytes, check, make_plan, video_needs
from pipeline.sources import VideoSpec
from pipeline.vram import MIB, MemoryPlan

HD = VideoNeeds()
UHD = VideoNeeds(width=3840, height=2160)
MODEL = ModelNeeds("m", size=(640, 640), batch_size=32, weights_bytes=20 * MIB, postprocess_bytes=1000)


def needs(**changes: Any) -> Needs:
    base = Needs(videos=(HD,) * 40, live=0, open_videos=28, ring_sources=28, queue_batches=2, model=MODEL)
    return replace(base, **changes)


def sizes(plan: MemoryPlan) -> dict[str, int]:
    return {part.name: part.size_bytes for part in plan.parts}


def test_the_parts_are_those_worked_out_by_hand() -> None:
    plan = make_plan(needs(), None)
    found = sizes(plan)
    # 20 and a 28th of nine batches of 32: 30 pictures of 3,110,400 bytes for each of the 28 that are open.
    assert found["decoded frames"] == 28 * 30 * 1920 * 1080 * 3 // 2
    # Three inputs of 32 x 640 x 640 x 3 floats, and 8 MB for plans.
    assert found["preprocessing"] == 3 * 32 * 640 * 640 * 3 * 4 + 8 * MIB
    assert found["postprocessing"] == 32 * 1000
    assert found["TensorFlow"] == 256 * MIB + 4 * 20 * MIB + 8 * 32 * 640 * 640 * 3 * 4
    # More than a picture for each reference that H.264 allows; less than a gigabyte for one video.
    assert 28 * 16 * 3_110_400 < found["decoders"] < 28 * 1000 * MIB
    assert plan.total_bytes == sum(found.values())
    assert plan.fits
    assert plan.shares is None


def test_few_videos_are_decoded_ahead_where_there_is_memory_for_it() -> None:
    many, few = needs(open_videos=9), needs(open_videos=5, live=3)
    assert (make_plan(many, None).decodes_ahead, make_plan(few, None).decodes_ahead) == (False, True)
    plan = make_plan(few, 10**12)
    less = make_plan(few, plan.total_bytes - 1)
    assert (plan.decodes_ahead, less.decodes_ahead, less.fits) == (True, False, True)
    # Sixteen more pictures for each of the eight, which NVDEC pads to whole blocks.
    assert 8 * 16 * HD.surface_bytes <= plan.total_bytes - less.total_bytes <= 8 * 16 * 1920 * 1088 * 2
    assert make_plan(few, less.total_bytes).fits
    assert not make_plan(few, less.total_bytes - 1).fits


def test_the_largest_sources_count() -> None:
    mixed = needs(videos=(HD, UHD, HD, UHD), open_videos=2)
    assert sizes(make_plan(mixed, None)) == sizes(make_plan(needs(videos=(UHD, UHD), open_videos=2), None))
    live = needs(videos=(HD,) * 6, live=4, open_videos=1)
    assert len(live.open_sources) == 5


def test_half_of_what_is_left_is_tensorflows_and_half_the_decoders() -> None:
    least = make_plan(needs(), None)
    plan = make_plan(needs(), least.total_bytes + 1000 * MIB)
    assert plan.shares is not None
    assert plan.shares.tensorflow_bytes == sizes(least)["TensorFlow"] + 500 * MIB
    assert plan.shares.decoders_bytes == sizes(least)["decoders"] + sizes(least)["decoded frames"] + 500 * MIB


def test_a_share_that_is_fixed_already_stays() -> None:
    plan = make_plan(needs(tensorflow_bytes=3000 * MIB), 20_000 * MIB)
    assert plan.shares is not None
    assert plan.shares.tensorflow_bytes == 3000 * MIB
    rest = sizes(plan)["preprocessing"] + sizes(plan)["postprocessing"]
    assert plan.shares.decoders_bytes == 17_000 * MIB - rest
    # TensorFlow may take it, whatever this run needs of it.
    small = make_plan(needs(tensorflow_bytes=3000 * MIB), 4000 * MIB)
    assert not small.fits
    assert sizes(small)["TensorFlow"] == 3000 * MIB
    assert "set when it was started" in small.parts[-1].detail


@settings(deadline=None)
@given(
    budget=st.integers(1, 60_000),
    videos=st.lists(st.sampled_from([HD, UHD, VideoNeeds("hevc", 640, 480)]), min_size=1, max_size=40),
    live=st.integers(0, 5),
    open_videos=st.integers(1, 28),
    batch_size=st.integers(1, 256),
    queue_batches=st.integers(1, 4),
    is_fixed=st.booleans(),
    share=st.one_of(st.none(), st.integers(1, 20_000)),
)
def test_shares_stay_within_the_budget_and_advice_that_is_followed_fits(
    budget: int,
    videos: list[VideoNeeds],
    live: int,
    open_videos: int,
    batch_size: int,
    queue_batches: int,
    is_fixed: bool,
    share: int | None,
) -> None:
    live = min(live, len(videos))
    asked = needs(
        videos=tuple(videos),
        live=live,
        open_videos=min(open_videos, len(videos) - live),
        ring_sources=min(open_videos, len(videos)),
        queue_batches=queue_batches,
        model=replace(MODEL, batch_size=batch_size, is_fixed=is_fixed),
        tensorflow_bytes=None if share is None else share * MIB,
    )
    plan = make_plan(asked, budget * MIB)
    if plan.fits:
        check(plan, asked, budget)
        shares, parts = plan.shares, sizes(plan)
        assert shares is not None
        assert shares.tensorflow_bytes + shares.cupy_bytes == plan.budget_bytes
        rest = parts["preprocessing"] + parts["postprocessing"]
        assert shares.tensorflow_bytes + shares.decoders_bytes + rest == plan.budget_bytes
        if share is None:
            assert shares.tensorflow_bytes >= parts["TensorFlow"]
        else:
            assert shares.tensorflow_bytes == share * MIB
        assert shares.decoders_bytes >= parts["decoders"] + parts["decoded frames"]
        for video in asked.open_sources:  # each gets the ring that was planned for it
            assert (
                shares.source_bytes
                >= video.decoder_bytes(is_ahead=plan.decodes_ahead) + asked.ring * video.surface_bytes
            )
        return
    with pytest.raises(ConfigError) as caught:
        check(plan, asked, budget)
    [issue] = caught.value.issues
    assert issue.field == "runtime.vram_budget_mb"
    hint = str(issue.hint)
    raised = re.search(r"raise it to ([\d,]+)", hint)
    assert raised
    assert make_plan(asked, int(raised[1].replace(",", "")) * MIB).fits
    for option in hint.split(", or "):
        changed = asked
        for field, value in re.findall(r"runtime\.(\w+) to (\d+)", option):
            if field == "open_sources":
                assert int(value) < asked.open_videos
                changed = changed.with_open_videos(int(value))
            elif field == "batch_size":
                assert int(value) < batch_size
                assert not is_fixed
                changed = changed.with_batch_size(int(value))
            else:
                changed = replace(changed, queue_batches=int(value))
        if changed is not asked:
            assert make_plan(changed, budget * MIB).fits, option


def test_the_error_lists_the_parts_with_their_numbers() -> None:
    plan = make_plan(needs(), 500 * MIB)
    with pytest.raises(ConfigError) as caught:
        check(plan, needs(), 500)
    text = str(caught.value)
    total = -(-plan.total_bytes // MIB)
    assert text.startswith(
        f"runtime.vram_budget_mb: the run needs at least {total:,} MB of GPU memory, but the budget is 500 MB:"
    )
    for part in plan.parts:
        assert f"{part.name} {-(-part.size_bytes // MIB):,} MB" in text
    assert caught.value.exit_code is ExitCode.BAD_CONFIG


def test_where_no_budget_is_set_the_gpu_is_too_small() -> None:
    plan = make_plan(needs(), budget_bytes(None, 2000 * MIB), 2000 * MIB)
    with pytest.raises(ConfigError) as caught:
        check(plan, needs(), None)
    text = str(caught.value)
    assert "1,360 MB can be had (2,000 MB are free, less a reserve)" in text
    assert "raise" not in text
    assert "nvidia-smi" in text


@pytest.mark.parametrize(
    ("configured", "free", "own", "budget"),
    [
        (None, None, 0, None),
        (2000, None, 0, 2000),
        (2000, 100_000, 0, 2000),
        (None, 100_000, 0, 95_000),
        (None, 4000, 0, 4000 - 640),
        (200_000, 100_000, 0, 95_000),  # no more than there is
        (None, 60_000, 40_000, 95_000),  # what an earlier run has left is used again
        (None, 100, 0, 0),
    ],
)
def test_the_budget(configured: int | None, free: int | None, own: int, budget: int | None) -> None:
    found = budget_bytes(configured, None if free is None else free * MIB, own * MIB)
    assert found == (None if budget is None else budget * MIB)


def test_what_is_not_known_counts_as_the_largest_that_is() -> None:
    videos, notes = video_needs([HD, None, UHD, None])
    assert videos == (HD, UHD, UHD, UHD)
    assert notes == ("2 of 4 sources count as h264 3840x2160, as their size is not known yet",)
    assert video_needs([HD]) == ((HD,), ())
    assert video_needs([None])[0] == (VideoNeeds("h264", 1920, 1080),)


def test_sizes_come_from_headers_and_the_model_from_its_files(tmp_path: Path) -> None:
    make_clip(tmp_path / "a.mp4", width=320, height=240)
    make_clip(tmp_path / "b.mkv", codec="libx265", pix_fmt="yuv420p10le", width=640, height=480)
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    places = [
        str(tmp_path / "a.mp4"),
        str(tmp_path / "b.mkv"),
        str(tmp_path / "broken.mp4"),
        "rtsp://ann:hunter2@cam/1",
    ]
    specs = [
        VideoSpec(f"s{i}", place, "shown", "://" in place, Source(**{"url" if "://" in place else "path": place}))
        for i, place in enumerate(places)
    ]
    (tmp_path / "model.pb").write_bytes(b"x" * 5000)
    config = config_from_mapping(
        {
            "sources": ["x"],
            "pipeline": {
                "model": {"path": str(tmp_path / "model.pb")},
                "preprocess": {"size": [320, 200], "dtype": "uint8", "engine": "cvcuda"},
                "postprocess": {"family": "boxes", "boxes": "b", "scores": "s"},
            },
            "runtime": {"batch_size": 16, "queue_batches": 3, "vram_budget_mb": 100},
        }
    )
    found = needs_of(config, specs, 2, tmp_path / "model.pb")
    assert found.videos[:2] == (
        VideoNeeds("h264", 320, 240, "yuv420p"),
        VideoNeeds("hevc", 640, 480, "yuv420p10le"),
    )
    assert found.videos[2:] == (found.videos[1],) * 2
    assert (found.live, found.open_videos, found.queue_batches) == (1, 2, 3)
    model = found.model
    assert (model.size, model.item_bytes, model.batch_size, model.weights_bytes) == ((320, 200), 1, 16, 5000)
    assert model.is_cvcuda
    assert model.postprocess_bytes > 16384 * 8  # at least the keys of all candidates
    assert "hunter2" not in repr(found)
    planner = Planner(found, config.runtime.vram_budget_mb)
    with pytest.raises(ConfigError, match="the budget is 100 MB"):
        planner.checked()
    loaded = planner.with_model(size=(32, 20), channels="gray", dtype="float16", batch_size=4, share=50 * MIB)
    assert sizes(loaded.plan())["preprocessing"] == 3 * 4 * 32 * 20 * 2 + 8 * MIB + vram._CVCUDA_BYTES
    roomy = replace(loaded, configured_mb=10_000).plan()
    assert roomy.shares is not None
    assert roomy.shares.tensorflow_bytes == 50 * MIB
