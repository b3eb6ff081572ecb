"""The annotated video: boxes, labels, source and time, drawn on the source's own samples."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from pipeline.config.sinks import VideoSink
from pipeline.crops import Crops
from pipeline.errors import SinkError
from pipeline.frames import Detections, Result
from pipeline.sinks._base import FileSink
from pipeline.sinks._canvas import Canvas
from pipeline.sinks._colour import class_rgb
from pipeline.sinks._encoder import Encoder
from pipeline.sinks._files import Output
from pipeline.sinks._names import PLACEHOLDER
from pipeline.sinks._overlay import draw_classes, draw_legend, draw_skeletons
from pipeline.sinks._scene import draw_scene
from pipeline.sinks._timestamps import TICKS_PER_S, Timestamps, clock
from pipeline.sinks._upright import Placement, Upright
from pipeline.stages import SinkSource

_log = logging.getLogger(__name__)
_CAPTION_RGB = (0.1, 0.1, 0.1)
_SUFFIXES = (".mp4", ".m4v")


def video_sink(config: VideoSink, *, several_sources: bool) -> FileSink[Result]:
    """The sink that a `video` section describes.

    Raises:
        SinkError: several sources would go into one video, or the file is not to be an MP4.
    """
    if several_sources and PLACEHOLDER not in str(config.path):
        raise SinkError(
            f"{config.path}: several sources cannot share one annotated video",
            remedy=f"put {PLACEHOLDER} into the path, such as {config.path.with_stem('{source}')}",
        )
    if config.path.suffix.lower() not in _SUFFIXES:
        raise SinkError(f"{config.path}: the annotated video is an MP4 file", remedy="let the path end in .mp4")
    threads = encoder_threads(several_sources=several_sources)
    return FileSink(config.path, lambda path: VideoWriter(path, config, threads), list, needs_pixels=True)


def encoder_threads(*, several_sources: bool) -> int:
    """Threads of each encoder: half the cores, but few, as other videos and the model want some as well."""
    cores = len(os.sched_getaffinity(0))
    return max(1, min(2 if several_sources else 4, cores // 2))


class VideoWriter:
    """Writes one annotated video."""

    def __init__(self, path: Path, config: VideoSink, threads: int) -> None:
        self._output = Output(path, overwrite=config.overwrite)
        self._config = config
        self._threads = threads
        self._source_id: str | None = None
        self._timestamps = Timestamps(None)
        self._upright: Upright | None = None
        self._encoder: Encoder | None = None

    def start(self, source: SinkSource) -> None:
        """Takes the frame rate, for frames without a time."""
        if self._source_id is not None:
            raise SinkError(
                f"{self._output.path}: {source.source_id!r} would go into the video of {self._source_id!r}",
                remedy=f"put {PLACEHOLDER} into the path",
            )
        self._source_id = source.source_id
        self._timestamps = Timestamps(source.info.frame_rate)

    def write(self, items: Sequence[Result]) -> None:
        """Draws and encodes the frames."""
        for result in items:
            picture = result.frame.picture
            if self._upright is None or self._encoder is None:
                self._upright = Upright(picture, self._config.max_width)
                self._encoder = Encoder(
                    self._output,
                    self._upright.size,
                    self._upright.colour,
                    Fraction(TICKS_PER_S, self._timestamps.step),
                    crf=self._config.crf,
                    preset=self._config.preset,
                    threads=self._threads,
                )
            frame, canvas, placement = self._upright(picture)
            annotate(
                canvas,
                placement,
                result,
                labels=self._config.labels,
                caption=self._config.caption,
                mask_opacity=self._config.mask_opacity,
            )
            self._encoder.encode(frame, self._timestamps.ticks(result.frame.pts_s))

    def finish(self) -> Path | None:
        """Completes the video; a source without frames gets none."""
        if self._encoder is None:
            self._output.discard()
            return None
        path = self._encoder.finish()
        if self._timestamps.repaired:
            _log.info("%s: %d frames had no usable time; repaired", path, self._timestamps.repaired)
        return path

    def abort(self) -> list[Path]:
        """Keeps a playable file with the frames so far."""
        return self._output.keep() if self._encoder is None else self._encoder.abort()


def annotate(
    canvas: Canvas,
    placement: Placement,
    result: Result,
    *,
    labels: bool = True,
    caption: bool = True,
    mask_opacity: float = 0.45,
) -> None:
    """Draws what is known of a frame.

    Args:
        canvas: Where.
        placement: Where display coordinates lie on it.
        result: What.
        labels: Whether boxes, persons and classes have a text.
        caption: Whether source and time are written into the corner.
        mask_opacity: Of the colour over pixels that have a class.
    """
    of_frame = [result.segmentation, *(side.segmentation for side in result.models.values())]
    maps = [segmentation for segmentation in of_frame if segmentation is not None]
    for segmentation in maps:
        draw_classes(canvas, placement, segmentation, mask_opacity)
    if result.scene is not None:
        draw_scene(canvas, placement, result.scene)
    for detections, attributes in _detections(result):
        _draw_boxes(canvas, placement, detections, attributes, labels=labels)
    found_in_crops = [crops.predictions.poses for crops in result.crops.values()]
    for poses in (result.poses, *(side.poses for side in result.models.values()), *found_in_crops):
        if poses is not None:
            draw_skeletons(canvas, placement, poses, labels=labels)
    lines = [_caption(result)] if caption else []
    lines += [f"{label} {score:.2f}" for label, _, score in result.classes or []]
    for name, side in result.models.items():
        lines += [f"{name}: {label} {score:.2f}" for label, _, score in side.classes or []]
    y = 0
    for line in lines:
        y += canvas.text(line, 0, y, _CAPTION_RGB)
    if labels:
        for segmentation in maps:
            y = draw_legend(canvas, segmentation, y)


def _detections(result: Result) -> Iterator[tuple[Detections, dict[int, str]]]:
    """All detections of a frame, those of models on crops last, and by row the best class that crops of them have."""
    of: list[tuple[str | None, Detections | None]] = [(None, result.detections)]
    of += [(name, side.detections) for name, side in result.models.items()]
    of += [(name, crops.predictions.detections) for name, crops in result.crops.items()]
    for name, detections in of:
        if detections is not None:
            yield detections, _attributes([crops for crops in result.crops.values() if crops.of == name])


def _attributes(crops: Iterable[Crops]) -> dict[int, str]:
    texts: dict[int, str] = {}
    for own in crops:
        if own.predictions.classes is None:
            continue
        for i, row in enumerate(own.parents.tolist()):
            best = own.predictions.classes.frame(i)[:1]
            texts[row] = texts.get(row, "") + "".join(f" | {label} {score:.2f}" for label, _, score in best)
    return texts


def _draw_boxes(
    canvas: Canvas, placement: Placement, detections: Detections, attributes: Mapping[int, str], *, labels: bool
) -> None:
    boxes = [placement.box(*box) for box in detections.boxes.tolist()]
    ids = detections.class_ids.tolist()
    for box, class_id in reversed(list(zip(boxes, ids, strict=True))):  # the best, which come first, lie on top
        canvas.outline(box, class_rgb(class_id))
    if not labels:
        return
    tracks = [None] * len(ids) if detections.track_ids is None else detections.track_ids.tolist()
    columns = list(zip(range(len(ids)), boxes, ids, detections.scores.tolist(), tracks, strict=True))
    for row, (x1, y1, _, _), class_id, score, track in reversed(columns):
        number = "" if track is None or track < 0 else f" #{track}"
        text = f"{detections.label(class_id)}{number} {score:.2f}{attributes.get(row, '')}"
        canvas.text(text, x1, y1, class_rgb(class_id), above=True)


def _caption(result: Result) -> str:
    frame = result.frame
    return f"{frame.source_id}  {f'frame {frame.index}' if frame.pts_s is None else clock(frame.pts_s)}"
