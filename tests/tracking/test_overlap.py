"""Pairs and their IoU against the definition, pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tracking import overlap


def brute_force(tracks, track_frames, detections, offsets):
    pairs = {}
    for t, frame in enumerate(track_frames):
        for d in range(offsets[frame], offsets[frame + 1]):
            a, b = tracks[:, t], detections[:, d]
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            if width > 0 and height > 0:
                both = width * height
                pairs[t, d] = both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
    return pairs


def boxes(random, count):
    corner = random.integers(0, 20, (2, count))
    return np.concatenate([corner, corner + random.integers(1, 12, (2, count))]).astype(float)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 12))
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_equals_the_definition(block, seed, counts, track_count):
    random = np.random.default_rng(seed)
    offsets = np.cumsum([0, *counts])
    tracks, detections = boxes(random, track_count), boxes(random, offsets[-1])
    frames = random.integers(0, len(counts), track_count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "_BLOCK_PAIRS", block)
        found = overlap.overlapping(tracks, frames, detections, offsets)
    measured = dict(zip(zip(found.tracks.tolist(), found.detections.tolist(), strict=True), found.iou, strict=True))
    assert measured == pytest.approx(brute_force(tracks, frames, detections, offsets))
    assert len(measured) == len(found.iou)
