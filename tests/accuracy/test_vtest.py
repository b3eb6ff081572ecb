"""The whole pipeline on a real clip, against boxes that people drew: what users of a model card get is as good as
the model is."""

from __future__ import annotations

import pytest
from accuracy import measure

from pipeline.config.cards import load_model_card
from pipeline.config.load import config_from_mapping


@pytest.mark.assets
@pytest.mark.parametrize(
    ("card", "model", "least"), [("coco-ssd", "coco_ssd_core", 0.67), ("nanodet", "nanodet", 0.89)]
)
def test_average_precision_of_people(assets, card, model, least):
    known = load_model_card(card)
    stages = {
        "model": {"path": str(assets / "models" / model)},
        "preprocess": known.preprocess,
        "postprocess": {**known.postprocess, "score_threshold": 0.01, "classes": ["person"]},
    }
    video = assets / "media" / "vtest_h264.mp4"
    config = config_from_mapping({"version": 1, "device": "cpu", "sources": [{"path": str(video)}], "pipeline": stages})
    found = measure(config, assets / "ground_truth" / "PETS09-S2L1" / "gt.txt")
    assert found.frames == 795
    assert found.true_boxes == 4650
    print(f"{card}: AP50 {found.average_precision:.4f}")
    assert found.average_precision >= least
