"""Keypoints and masks of real models on a real clip, against the boxes that people drew around the persons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import Pipeline
from pipeline.config.cards import load_model_card

Boxes = dict[int, np.ndarray]


def truth(path: Path) -> Boxes:
    """MOT ground truth: 0-based frame -> (P, 4) x1, y1, x2, y2."""
    rows = np.loadtxt(path, delimiter=",")
    corners = np.column_stack([rows[:, 2:4], rows[:, 2:4] + rows[:, 4:6]])
    return {int(frame) - 1: corners[rows[:, 0] == frame] for frame in np.unique(rows[:, 0])}


def run(assets: Path, card: str, model: str, *, fit: str | None = None, **source: Any) -> Pipeline:
    known = load_model_card(card)
    return Pipeline.from_dict(
        {
            "device": "cpu",
            "sources": [{"path": str(assets / "media" / "TUD-Campus.mp4"), "every": 5, **source}],
            "pipeline": {
                "model": {"path": str(assets / "models" / model)},
                "preprocess": known.preprocess | ({} if fit is None else {"fit": fit}),
                "postprocess": known.postprocess,
            },
        }
    )


@pytest.mark.assets
@pytest.mark.parametrize("roi", [None, {"rect": [0, 100, 320, 440]}])
def test_keypoints_lie_on_people(assets: Path, roi: Any) -> None:
    boxes = truth(assets / "ground_truth" / "TUD-Campus" / "gt.txt")
    persons, shares = 0, []
    for result in run(assets, "movenet", "movenet-lightning", roi=roi):
        assert result.poses is not None
        for i in range(len(result.poses)):
            persons += 1
            points = result.poses.points[i, result.poses.visible[i]]
            near = boxes[result.frame.index] + np.array([-8, -8, 8, 8])
            inside = (points[:, None] >= near[:, :2]) & (points[:, None] <= near[:, 2:])
            shares.append(inside.all(axis=2).mean(axis=0).max())
    print(f"{persons} persons, {np.mean(shares):.3f} of their keypoints lie on somebody")
    assert persons >= 8
    assert np.mean(shares) > 0.85


@pytest.mark.assets
@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
def test_masks_cover_people(assets: Path, fit: str) -> None:
    """The share of labelled pixels inside of the boxes is many times that outside."""
    boxes = truth(assets / "ground_truth" / "TUD-Campus" / "gt.txt")
    inside, outside = [], []
    for result in run(assets, "selfie", "selfie", fit=fit):
        assert result.segmentation is not None
        person = result.segmentation.mask(0)
        height, width = person.shape
        # What `crop` cuts off on both sides is seen by nobody.
        cut = (width - height) // 2 if fit == "crop" else 0
        boxed = np.zeros(person.shape, bool)
        for x1, y1, x2, y2 in np.maximum(boxes[result.frame.index], 0).round().astype(int):
            boxed[y1:y2, x1:x2] = True
        assert not person[:, :cut].any()
        seen = slice(cut, width - cut)
        inside.append(person[:, seen][boxed[:, seen]].mean())
        outside.append(person[:, seen][~boxed[:, seen]].mean())
    print(f"{fit}: {np.mean(inside):.3f} inside, {np.mean(outside):.4f} outside")
    assert np.mean(inside) > 0.4
    assert np.mean(inside) > 12 * np.mean(outside)
