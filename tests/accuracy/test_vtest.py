"""The whole pipeline on a real clip, against boxes that people drew: what users get is as good as the models are."""

from __future__ import annotations

import pytest
from accuracy import measure

from pipeline.config.load import config_from_mapping

COCO_SSD = {
    "model": {"path": "coco_ssd_core"},
    "preprocess": {"fit": "stretch", "interpolation": "area", "scale": 2 / 255, "mean": 1.0},
    "postprocess": {"family": "ssd", "class_offset": 1, "labels": "coco90"},
}
NANODET = {
    "model": {"path": "nanodet"},
    "preprocess": {
        "fit": "stretch",
        "channels": "bgr",
        "mean": [103.53, 116.28, 123.675],
        "std": [57.375, 57.12, 58.395],
    },
    "postprocess": {"family": "gfl", "reg_max": 10, "labels": "coco80"},
}


@pytest.mark.assets
@pytest.mark.parametrize(("stages", "least"), [(COCO_SSD, 0.67), (NANODET, 0.89)], ids=["coco-ssd", "nanodet"])
def test_average_precision_of_people(assets, stages, least):
    stages = {
        **stages,
        "model": {"path": str(assets / "models" / stages["model"]["path"])},
        "postprocess": {**stages["postprocess"], "score_threshold": 0.01, "classes": ["person"]},
    }
    video = assets / "media" / "vtest_h264.mp4"
    config = config_from_mapping({"version": 1, "device": "cpu", "sources": [{"path": str(video)}], "pipeline": stages})
    found = measure(config, assets / "ground_truth" / "PETS09-S2L1" / "gt.txt")
    assert found.frames == 795
    assert found.true_boxes == 4650
    assert found.average_precision >= least
