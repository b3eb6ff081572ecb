"""`vramline bench` on the GPU: every part is measured, and the driver tells how busy it was."""

from __future__ import annotations

import pytest

from pipeline.bench import bench
from pipeline.bench.meter import Timing
from pipeline.bench.run import KeptModel
from pipeline.config.cards import load_model_card
from pipeline.config.load import config_from_mapping


@pytest.mark.assets
def test_a_pipeline_is_measured_twice_with_one_model(assets):
    card = load_model_card("coco-ssd")
    config = config_from_mapping(
        {
            "device": "cuda",
            "sources": [str(assets / "media" / f"motorway_1080p60_{codec}.mp4") for codec in ("h264", "hevc")],
            "pipeline": {
                "model": {"path": str(assets / "models" / "coco_ssd_core"), "precision": "fp16"},
                "preprocess": card.preprocess,
                "postprocess": card.postprocess,
            },
            "sinks": [{"type": "jsonl", "path": "records.jsonl"}],
        }
    )
    kept = KeptModel()
    timing = Timing(warm_s=0.5, measure_s=1.0)
    first = bench(config, timing=timing, sources=14, build=kept.build)
    print(first.render())
    assert first.device == "cuda"
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")  # measured above all the same
    assert first.gpu_reason is None, first.gpu_reason
    assert first.machine.gpu is not None
    assert set(first.parts) == {"decode", "preprocess", "decode_and_preprocess", "model", "postprocess"}
    assert [clip.used for clip in first.clips] == [7, 7]
    for part in (*first.parts.values(), first.whole.measured):
        assert part.gpu is not None
        assert part.gpu.memory_bytes > 0
    decode, model, whole = first.parts["decode"], first.parts["model"], first.whole.measured
    assert decode.gpu is not None and decode.gpu.nvdec_percent is not None
    assert decode.gpu.nvdec_percent > 20
    assert model.gpu is not None
    assert model.gpu.gpu_percent > 20
    # No pipeline is quicker than its parts, but for the accuracy of short measurements.
    assert 0.3 < whole.frames_per_s / first.ceiling_per_s < 1.1
    latency = first.whole.latency
    assert latency is not None
    assert 0 < latency.p50_ms <= latency.p99_ms < 5000

    second = bench(config, timing=timing, sources=1, build=kept.build, known={"model": model})
    print(second.render())
    assert second.parts["model"] == model
    assert second.whole.measured.frames_per_s < whole.frames_per_s
    kept.close()


@pytest.mark.assets
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_a_looped_clip_gives_the_frames_of_the_clip_again(assets, codec):
    """The decoder goes on from round to round; what it gives is what it gave in the first."""
    import numpy as np

    from pipeline.config.sources import Source
    from pipeline.config.stages import Decode
    from pipeline.decode.download import Download
    from pipeline.decode.nvdec import open_nvdec
    from pipeline.inference.shared_stream import open_shared_stream
    from pipeline.sources import VideoSpec

    path = str(assets / "media" / f"vtest_{codec}.mp4")
    stream = open_shared_stream()
    download = Download(stream)

    def frames(loop):
        spec = VideoSpec("v", path, path, False, Source(path=path, loop=loop))
        for frame in open_nvdec(spec, Decode(fallback="error"), stream=stream, ring=4):
            (host,) = download([frame])
            stream.cupy.synchronize()
            yield frame.index, frame.pts_s, hash(np.ascontiguousarray(host.picture.planes[0]).tobytes())
            frame.picture.surface.release()

    once, twice = list(frames(1)), list(frames(2))
    count = len(once)
    assert count == 795
    assert [f[0] for f in twice] == list(range(2 * count))
    assert [f[2] for f in twice] == 2 * [f[2] for f in once]
    assert [f[1] for f in twice[:count]] == [f[1] for f in once]
    assert [f[1] for f in twice[count:]] == pytest.approx([f[1] + count / 10 for f in once], abs=1e-4)
