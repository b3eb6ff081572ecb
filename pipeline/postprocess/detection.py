"""What all detection families share: threshold, non-maximum suppression, limit, and the way back to display pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from pipeline.config.labels import load_labels
from pipeline.config.postprocess import DetectionPost
from pipeline.frames import Array, Detections, FloatArray, InputBatch, Predictions
from pipeline.postprocess.candidates import Anchors, Candidates, select
from pipeline.postprocess.class_rules import ClassRules
from pipeline.postprocess.geometry import has_area, to_display
from pipeline.postprocess.nms import nms

Decode = Callable[[Mapping[str, Array], int], Anchors]

_FIRST_LOOK = 1000


class DetectionPostprocessor:
    """Boxes of a batch, in display pixels.

    A candidate is an anchor with a class whose score reaches the class's threshold. Candidates whose box is not finite
    or has no area are left out, then the weaker ones of overlapping pairs, then those without area inside the picture;
    of what remains `max_detections` are kept per frame. Non-maximum suppression sees boxes before they are clipped.

    Args:
        config: The family's section.
        decode: (outputs, N) -> what the family makes of the first N rows of the model's outputs.

    Raises:
        ConfigError: labels cannot be read, or a class that is named does not exist.
    """

    def __init__(self, config: DetectionPost, decode: Decode) -> None:
        self._config = config
        self._decode = decode
        self._names = load_labels(config.labels)
        self._rules = ClassRules(config, self._names)

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> Predictions:
        """See `pipeline.stages.Postprocessor`; raises `ModelError` if shapes or scores are not what the family needs."""
        with np.errstate(all="ignore"):  # Models give infinities and NaN; they are left out below.
            anchors = self._decode(outputs, len(batch.frames))
            found = select(anchors, self._rules, self._config.class_offset)
            found, boxes = self._best(found, anchors, batch)
        counts = np.bincount(found.frames, minlength=len(batch.frames))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        class_ids = found.class_ids.astype(np.int32)
        return Predictions(detections=Detections(boxes, found.scores, class_ids, offsets, self._names))

    def _best(self, found: Candidates, anchors: Anchors, batch: InputBatch) -> tuple[Candidates, FloatArray]:
        """The `max_detections` best survivors of each frame.

        What survives among a frame's best candidates does not depend on weaker ones. So a first look at a few of them
        gives the exact result for every frame where enough survive, and only if some frame lacks any, more are taken.
        """
        most = self._config.max_detections
        ranks = found.ranks()
        look = max(_FIRST_LOOK, 4 * most)
        while True:
            looked_at = found[ranks < look]
            kept, boxes = self._survivors(looked_at, anchors, batch)
            cut = np.unique(found.frames[ranks >= look])
            if (np.bincount(kept.frames, minlength=len(batch.frames))[cut] >= most).all():
                within = kept.ranks() < most
                return kept[within], boxes[within]
            look *= 4

    def _survivors(self, found: Candidates, anchors: Anchors, batch: InputBatch) -> tuple[Candidates, FloatArray]:
        boxes = anchors.boxes(found.frames, found.anchors)
        sound = has_area(boxes)
        found, boxes = found[sound], boxes[sound]
        if self._config.nms_iou is not None:
            keep = nms(boxes, self._groups(found), self._config.nms_iou)
            found, boxes = found[keep], boxes[keep]
        boxes = to_display(boxes, batch.transforms[found.frames], batch.display_sizes[found.frames])
        visible = has_area(boxes)
        return found[visible], boxes[visible]

    def _groups(self, found: Candidates) -> npt.NDArray[np.int64]:
        """What may suppress each other: boxes of one frame, or of one frame and class."""
        if self._config.class_agnostic or not len(found):
            return found.frames
        return found.frames * (int(found.class_ids.max()) + 1) + found.class_ids
