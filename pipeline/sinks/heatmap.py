"""Heat maps: where the objects of a source have been for how long, written when it has ended.

An object counts for the time since its source's frame before, at its anchor point: so that neither dropped frames nor a
variable frame rate change the sum. A pause of more than `forget_s` counts as that long.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.analytics.clock import SourceClock
from pipeline.config.analytics import Heatmap, SourceAnalytics
from pipeline.errors import SinkError
from pipeline.frames import Detections, ResultBatch
from pipeline.sinks._files import Output
from pipeline.sinks._names import path_for
from pipeline.stages import SinkSource

# Cold to hot, and how opaque: the colours at equal distances, with straight lines between.
_COLOURS = np.array(
    [[40, 0, 120, 0], [90, 20, 160, 150], [200, 40, 90, 190], [250, 140, 20, 220], [255, 250, 160, 240]], np.float64
)


@dataclass(slots=True, eq=False)
class _Map:
    """What is known of one source's heat map so far."""

    settings: SourceAnalytics
    heatmap: Heatmap
    picture: Output
    numbers: Output
    clock: SourceClock = field(default_factory=SourceClock)
    last_s: float | None = None
    size: tuple[int, int] = (0, 0)
    seconds: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))


class HeatmapSink:
    """A `pipeline.stages.Sink` that writes the heat maps of all sources that have one.

    Attributes:
        needs_pixels: Never.
        completed: The outputs that lie complete under their names, so far.
    """

    needs_pixels = False

    def __init__(self, settings: Mapping[str, SourceAnalytics]) -> None:
        """`settings` is by source id, and may change as sources come and go."""
        self.completed: list[Path] = []
        self._settings = settings
        self._maps: dict[str, _Map] = {}

    def open(self) -> None:
        """Nothing is known of the sources yet."""

    def source_started(self, source: SinkSource) -> None:
        """Claims the outputs of a source.

        Raises:
            SinkError: they exist, or cannot be written.
        """
        settings = self._settings.get(source.source_id)
        if settings is None or settings.heatmap is None:
            return
        heatmap = settings.heatmap
        path = path_for(heatmap.path, source.source_id)
        picture = Output(path, overwrite=heatmap.overwrite)
        try:
            numbers = Output(numbers_path(path), overwrite=heatmap.overwrite)
        except SinkError:
            picture.discard()
            raise
        self._maps[source.source_id] = _Map(settings, heatmap, picture, numbers)

    def write(self, batch: ResultBatch) -> None:
        """Adds the objects of a batch."""
        detections = batch.predictions.detections
        if detections is None:
            return
        for position, frame in enumerate(batch.frames):
            own = self._maps.get(frame.source_id)
            if own is None:
                continue
            size = frame.picture.width, frame.picture.height
            if not own.size[0]:
                own.size = size
                own.seconds = np.zeros((-(-size[1] // own.heatmap.cell), -(-size[0] // own.heatmap.cell)))
            now_s = own.clock(frame)
            passed_s = 0.0 if own.last_s is None else min(now_s - own.last_s, own.settings.forget_s)
            own.last_s = now_s
            _add(own, detections.frame(position), size, passed_s)

    def source_finished(self, source_id: str) -> None:
        """Writes the heat map of a source."""
        if source_id in self._maps:
            self._complete(source_id)

    def close(self) -> list[Path]:
        """Writes what is left."""
        for source_id in list(self._maps):
            self._complete(source_id)
        return list(self.completed)

    def abort(self) -> list[Path]:
        """Keeps the numbers so far under their temporary names; a picture is made of complete ones only."""
        kept: list[Path] = []
        while self._maps:
            own = self._maps.popitem()[1]
            own.picture.discard()
            if own.size[0] and not own.numbers.size_bytes:
                with contextlib.suppress(SinkError):  # the disk is full: there is nothing to keep
                    own.numbers.write(_numbers(own))
            kept += own.numbers.keep()
        return sorted(kept)

    def _complete(self, source_id: str) -> None:
        own = self._maps[source_id]
        if not own.size[0]:  # not one frame
            own.picture.discard()
            own.numbers.discard()
        else:
            own.numbers.write(_numbers(own))
            own.picture.write(_png(own))
            self.completed += [own.picture.complete(), own.numbers.complete()]
        del self._maps[source_id]  # not before: after an error `abort` keeps what there is


def numbers_path(path: Path) -> Path:
    """Where the array lies whose picture lies at `path`."""
    return path.with_suffix(".npz")


def _add(own: _Map, detections: Detections, size: tuple[int, int], passed_s: float) -> None:
    if not passed_s or not len(detections):
        return
    boxes = np.asarray(detections.boxes, np.float64)
    wanted = own.settings.classes
    if wanted is not None:
        ids = detections.class_ids.tolist()
        boxes = boxes[[class_id in wanted or detections.label(class_id) in wanted for class_id in ids]]
    share = 1.0 if own.settings.anchor == "bottom" else 0.5
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 1] + (boxes[:, 3] - boxes[:, 1]) * share
    # Pictures of another size than the first one's (a live stream may change it) are laid over it as a whole.
    x, y = x * (own.size[0] / size[0]), y * (own.size[1] / size[1])
    rows, columns = own.seconds.shape
    # An anchor on the lower edge of the picture is in the last row.
    row = np.clip(y // own.heatmap.cell, 0, rows - 1).astype(np.int64)
    column = np.clip(x // own.heatmap.cell, 0, columns - 1).astype(np.int64)
    np.add.at(own.seconds, (row, column), passed_s)


def _numbers(own: _Map) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, seconds=own.seconds, cell=np.int64(own.heatmap.cell), size=np.array(own.size, np.int64))
    return buffer.getvalue()


def _png(own: _Map) -> bytes:
    """The map in the picture's size, transparent where nobody was: to be laid over a still of the video.

    Colours follow the square root of the time, as a few places hold most of it.
    """
    most = own.seconds.max(initial=0.0)
    level = np.sqrt(own.seconds / most) if most > 0 else own.seconds
    place = level * (len(_COLOURS) - 1)
    lower = np.minimum(place.astype(np.int64), len(_COLOURS) - 2)
    part = (place - lower)[..., None]
    rgba = np.rint(_COLOURS[lower] * (1 - part) + _COLOURS[lower + 1] * part).astype(np.uint8)
    image = Image.fromarray(rgba)
    cell = own.heatmap.cell
    image = image.resize((image.width * cell, image.height * cell), Image.Resampling.BILINEAR).crop((0, 0, *own.size))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
