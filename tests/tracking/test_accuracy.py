"""Real sequences with the detections of two real detectors: as good as it was measured, with a little room."""

from __future__ import annotations

import pytest
from tracking import mean, measure

from pipeline.config.tracking import ByteTrackTracker, IouTracker

# Measured, in the order of the benchmark: (MOTA, IDF1).
KNOWN = [(0.54, 0.40), (0.82, 0.77), (0.61, 0.74), (0.36, 0.57), (0.69, 0.79), (0.57, 0.62)]


@pytest.mark.assets
def test_bytetrack(assets):
    results = measure(ByteTrackTracker(type="bytetrack"), assets / "ground_truth")
    assert [r.true_boxes for r in results] == [4650, 4650, 359, 359, 1156, 1156]
    for result, (mota, idf1) in zip(results, KNOWN, strict=True):
        assert result.mota >= mota - 0.03, result
        assert result.idf1 >= idf1 - 0.08, result
    average = mean(results)
    assert average["mota"] >= 0.585
    assert average["idf1"] >= 0.62


@pytest.mark.assets
def test_bytetrack_with_two_of_three_frames_dropped(assets):
    average = mean(measure(ByteTrackTracker(type="bytetrack"), assets / "ground_truth", every=3))
    assert average["mota"] >= 0.53
    assert average["idf1"] >= 0.61


@pytest.mark.assets
def test_bytetrack_is_better_than_iou(assets):
    simple = mean(measure(IouTracker(type="iou"), assets / "ground_truth"))
    better = mean(measure(ByteTrackTracker(type="bytetrack"), assets / "ground_truth"))
    assert simple["mota"] >= 0.55
    assert better["mota"] >= simple["mota"] + 0.02
    assert better["idf1"] >= simple["idf1"] + 0.1
    assert better["switches"] <= 0.6 * simple["switches"]
