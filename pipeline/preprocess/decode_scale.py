"""How small the decoder may make a picture, so that the model still gets a sample for each of its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from pipeline.config.sources import Roi
from pipeline.config.stages import Preprocess
from pipeline.errors import SourceError
from pipeline.frames import Picture
from pipeline.preprocess.geometry import place
from pipeline.preprocess.roi import region_of

# With less to gain the picture stays as it is: what is sampled twice is blurred twice.
_LEAST_REDUCTION = 2.0
# What decoders scale to is not documented to have a least size; pictures this small gain nothing.
_LEAST_SIDE = 64


class DecodeScale:
    """Decides for each kind of picture.

    Only pictures are made smaller of which the model's input shows at least `least_reduction` samples a pixel in both
    directions, after the region of interest, and only as far as leaves one. Where a pixel is to be its nearest sample
    (`interpolation: nearest`) nothing is.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        rois: Mapping[str, Roi] | None = None,
        *,
        least_reduction: float = _LEAST_REDUCTION,
    ) -> None:
        """Args:
        preprocess: With `size` set.
        rois: Region of interest by source id; may change.
        least_reduction: At least 1.
        """
        if preprocess.size is None:
            raise ValueError(f"the size is not known: {preprocess!r}")
        self._preprocess, self._size = preprocess, preprocess.size
        self._rois = rois if rois is not None else {}
        self._least_reduction = least_reduction

    def __call__(self, picture: Picture, source_id: str) -> tuple[int, int] | None:
        """(width, height) in samples, even, as the decoder has it (before rotation); None: as it is."""
        if self._preprocess.interpolation == "nearest":
            return None
        display = picture.width, picture.height
        try:
            region = region_of(self._rois.get(source_id), display, source_id)
        except SourceError:  # preprocessing says so
            return None
        placement = place(region, self._size, self._preprocess.fit)
        # What the whole picture would measure in the model's pixels.
        shown = picture.width * placement.scale_x, picture.height * placement.scale_y
        if picture.rotation in (90, 270):
            shown = shown[::-1]
        coded = picture.coded_size
        if min(have / need for have, need in zip(coded, shown, strict=True)) < self._least_reduction:
            return None
        width, height = (max(2 * ceil(need / 2 - 1e-6), _LEAST_SIDE) for need in shown)
        return (width, height) if width < coded[0] and height < coded[1] else None
