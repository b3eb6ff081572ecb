"""What most plug-ins would have to write themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.frames import Detections, InputBatch


def detections_of(
    batch: InputBatch,
    found: Sequence[tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]],
    names: Mapping[int, str] | None = None,
) -> Detections:
    """Boxes in pixels of the model's input -> detections in display pixels, the best first.

    Boxes are clipped to the picture; those that have no area in it, or are not finite, are left out.

    Args:
        batch: What the model was given.
        found: For each of the N frames: boxes (D, 4) x1, y1, x2, y2; scores (D,) in 0..1; class ids (D,).
        names: class id -> label.

    Raises:
        ValueError: there is not one entry for each frame, or its arrays do not fit together.
    """
    from pipeline.postprocess.geometry import has_area, to_display

    if len(found) != len(batch.frames):
        raise ValueError(f"there are {len(batch.frames)} frames, but what was found is of {len(found)}")
    boxes, scores, ids, counts = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)], [np.zeros(0, np.int32)], [0]
    for row, (own_boxes, own_scores, own_ids) in enumerate(found):
        corners = np.asarray(own_boxes, np.float32).reshape(-1, 4)
        score, class_id = np.asarray(own_scores, np.float32).reshape(-1), np.asarray(own_ids, np.int32).reshape(-1)
        if not len(corners) == len(score) == len(class_id):
            raise ValueError(
                f"frame {row}: {len(corners)} boxes, {len(score)} scores and {len(class_id)} class ids do not fit"
            )
        repeat = np.full(len(corners), row)
        with np.errstate(all="ignore"):  # models give infinities and NaN
            shown = to_display(corners, batch.transforms[repeat], batch.display_sizes[repeat])
        order = np.argsort(-score, kind="stable")
        order = order[(has_area(shown) & np.isfinite(score))[order]]
        boxes.append(shown[order])
        scores.append(score[order])
        ids.append(class_id[order])
        counts.append(len(order))
    return Detections(
        np.concatenate(boxes),
        np.concatenate(scores),
        np.concatenate(ids),
        np.cumsum(counts, dtype=np.int64),
        names or {},
    )
