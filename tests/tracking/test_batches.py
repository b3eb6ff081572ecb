"""All streams at once are the same as each alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracking_scenes import batch, found, frame, tracker

STREAMS, FRAMES = 7, 30


def scene(seed: int) -> dict[str, list]:
    """Source -> (frame, detections), frame by frame: crowds that make assignment hard, on a coarse grid that makes ties."""
    random = np.random.default_rng(seed)
    streams = {}
    for s in range(STREAMS):
        count = int(random.integers(0, 12))
        centres, speeds = random.integers(0, 40, (count, 2)) * 5.0, random.integers(-2, 3, (count, 2)) * 2.5
        rows, time_s = [], 0.0
        for index in range(FRAMES):
            time_s += float(random.choice([0.04, 0.04, 0.1, 0.3]))
            centres = centres + speeds
            seen = [
                (
                    x - 20,
                    y - 50,
                    x + 20,
                    y + 50,
                    float(random.choice([0.3, 0.55, 0.7, 0.9])),
                    int(random.integers(0, 2)),
                )
                for x, y in centres
                if random.random() < 0.9
            ]
            rows.append((frame(index, None if s == 0 else time_s, f"cam{s}"), seen))
        streams[f"cam{s}"] = rows
    return streams


def tracked(made, batches) -> dict[str, list]:
    """Source -> what came out for each of its frames."""
    result: dict[str, list] = {}
    for rows in batches:
        one = made(batch([f for f, _ in rows], [seen for _, seen in rows]))
        for i, own in enumerate(one.frames):
            d = found(one).frame(i)
            result.setdefault(own.source_id, []).append((d.boxes.tobytes(), d.track_ids.tolist(), d.class_ids.tolist()))
    return result


def alone(streams, kind, **settings):
    return {
        source: tracked(tracker(kind, **settings), [[row] for row in rows])[source] for source, rows in streams.items()
    }


@pytest.mark.parametrize("kind", ["bytetrack", "iou"])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), class_agnostic=st.booleans())
def test_a_frame_of_each(kind, seed, class_agnostic):
    streams = scene(seed)
    expected = alone(streams, kind, class_agnostic=class_agnostic)
    turns = [[rows[i] for rows in streams.values()] for i in range(FRAMES)]
    assert tracked(tracker(kind, class_agnostic=class_agnostic), turns) == expected
    backwards = [turn[::-1] for turn in turns]
    assert tracked(tracker(kind, class_agnostic=class_agnostic), backwards) == expected


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_any_mixture(seed, data):
    """Batches of any size with any number of frames of any streams, each in its order."""
    streams = scene(seed)
    order = [source for source in streams for _ in range(FRAMES)]
    np.random.default_rng(seed).shuffle(order)
    left = {source: iter(rows) for source, rows in streams.items()}
    mixed, batches = [next(left[source]) for source in order], []
    while mixed:
        size = data.draw(st.integers(1, 20))
        batches.append(mixed[:size])
        mixed = mixed[size:]
    assert tracked(tracker(), batches) == alone(streams, "bytetrack")


def test_ids_are_unique_in_each_frame():
    for own in tracked(tracker(), [[row] for row in scene(5)["cam3"]]).values():
        for _, ids, _ in own:
            known = [i for i in ids if i >= 0]
            assert len(known) == len(set(known))
