"""From the configuration and a source's pictures to plans: what all engines of preprocessing share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.config.sources import Roi
from pipeline.config.stages import Preprocess
from pipeline.errors import ConfigError, ConfigIssue
from pipeline.frames import Picture, Window
from pipeline.preprocess.geometry import Placement, place
from pipeline.preprocess.render import Kind, Plan, Values, plan
from pipeline.preprocess.roi import Region, empty_region, region_of


class Planner:
    """Plans for the pictures of one run.

    Attributes:
        preprocess: The configuration, with `size`, `layout` and `dtype` set.
        model_size: (width, height) of the model's input.
        dtype: NumPy's name of the model's input type.
        channels: 3, or 1 for grey.
        channels_last: Whether the layout is nhwc.
        values: What the model's numbers are.
    """

    def __init__(self, preprocess: Preprocess, rois: Mapping[str, Roi] | None = None) -> None:
        """Args:
            preprocess: With `size`, `layout` and `dtype` set.
            rois: Region of interest by source id, for the sources that have one; may change while sources come and go.

        Raises:
            ConfigError: uint8 input, for which pixels stay as they are, with a scale, mean or std.
        """
        if preprocess.size is None or preprocess.layout is None or preprocess.dtype is None:
            raise ValueError(f"size, layout and dtype are not all known: {preprocess!r}")
        unchanged = [
            np.all(np.equal(v, w)) for v, w in ((preprocess.scale, 1), (preprocess.mean, 0), (preprocess.std, 1))
        ]
        if preprocess.dtype == "uint8" and not all(unchanged):
            message = "the model takes uint8, pixels as they are: leave out scale, mean and std"
            raise ConfigError([ConfigIssue(message, field="pipeline.preprocess")])
        self.preprocess = preprocess
        self.model_size: tuple[int, int] = preprocess.size
        self.dtype: str = preprocess.dtype
        self.channels = 1 if preprocess.channels == "gray" else 3
        self.channels_last = preprocess.layout == "nhwc"
        self.values = Values.of(preprocess)
        self._rois = rois if rois is not None else {}

    def shape(self, rows: int) -> tuple[int, int, int, int]:
        """Of the model's input with this many rows."""
        width, height = self.model_size
        return (rows, height, width, self.channels) if self.channels_last else (rows, self.channels, height, width)

    def region(self, picture: Picture, source_id: str) -> Region:
        """What of a source's picture reaches the model.

        Raises:
            SourceError: nothing: the source's region of interest lies outside.
        """
        return region_of(self._rois.get(source_id), (picture.width, picture.height), source_id)

    def plan(self, picture: Picture, source_id: str) -> Plan:
        """The plan for a source's picture.

        Raises:
            SourceError: the source's region of interest holds no pixel of it.
        """
        region = self.region(picture, source_id)
        placement = place(region, self.model_size, self.preprocess.fit)
        found = plan(Kind.of(picture), placement, self.preprocess.interpolation, self.values, region.polygon)
        if found.hidden is not None and found.hidden.all():
            raise empty_region((picture.width, picture.height), source_id)
        return found


def window_of(placement: Placement, hidden: npt.NDArray[np.bool_] | None = None) -> Window:
    """What of the model's input is no padding, for a picture that is placed like this."""
    return Window(placement.left, placement.top, placement.width, placement.height, hidden)


def transforms_of(placements: Sequence[Placement]) -> npt.NDArray[np.float64]:
    """`InputBatch.transforms` for frames placed like this."""
    return np.array([p.transform for p in placements], np.float64).reshape(-1, 4)
