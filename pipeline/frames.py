"""The data that flows between the stages: small dataclasses around arrays.

Nobody changes them, but for the pixels that a picture lets go of. Those of which there is one a frame are not frozen all the
same: to make one would take the interpreter five times as long.

Coordinates. A person sees a picture upright and with square pixels: `Picture.width` x `Picture.height`, after the
container's rotation and sample aspect ratio are applied. Boxes, points, masks and regions of interest are in these
display pixels, origin at the top left corner of the top left pixel, x to the right, y down.

Arrays are NumPy's on the `cpu` engine and CuPy's on the `cuda` engine; `Array` stands for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.masks import Segmentation, Segmentations
from pipeline.poses import Poses

if TYPE_CHECKING:
    import supervision

    from pipeline.analytics.events import Event, Scene
    from pipeline.crops import Crops

Array = Any
FloatArray = npt.NDArray[np.float32]
Matrix = Literal["bt601", "bt709", "bt2020", "smpte240m", "rgb"]
Siting = Literal["left", "center", "topleft", "top", "bottomleft", "bottom"]


@dataclass(frozen=True, slots=True)
class Colour:
    """How a picture's samples become R'G'B'.

    Attributes:
        matrix: The Y'CbCr matrix; `rgb` when the planes are R, G and B themselves.
        full_range: True for 0..2^n-1 ("pc", "jpeg"), False for 16..235 scaled by bit depth ("tv", "mpeg").
        bit_depth: Bits of each sample, 8 to 16; samples are right-aligned in their integers.
        siting: Where chroma samples lie relative to luma; only matters where chroma is subsampled.
    """

    matrix: Matrix = "bt709"
    full_range: bool = False
    bit_depth: int = 8
    siting: Siting = "left"


@dataclass(frozen=True, slots=True)
class SurfaceLayout:
    """Where the samples of a decoded surface lie; the same for all frames of a stream until its size or format changes.

    Attributes:
        width: Coded width in samples.
        height: Coded height in samples.
        pitch_bytes: From one luma row to the next.
        chroma_offset_bytes: From the surface's start to the first Cb sample.
        cr_offset_bytes: From a Cb sample to its Cr sample (NV12: 1, P016: 2, planar: a plane's size).
        chroma_pitch_bytes: From one chroma row to the next.
        chroma_step_bytes: From one Cb sample to the next (NV12: 2, P016: 4, planar 8 bit: 1); 0 for grey, which
            has no chroma.
        sample_bytes: 1 or 2.
        shift: Bits that samples are shifted up by in their integers (P016 holds 10 bits shifted up by 6).
    """

    width: int
    height: int
    pitch_bytes: int
    chroma_offset_bytes: int
    cr_offset_bytes: int
    chroma_pitch_bytes: int
    chroma_step_bytes: int
    sample_bytes: int
    shift: int = 0


@dataclass(slots=True, eq=False)
class Surface:
    """A decoded picture in device memory, on loan from its decoder.

    Attributes:
        pointer: Device address of the first luma sample.
        layout: Where the samples lie.
        release: Gives the memory back; from any thread, once. Where decoders work on the stream of all others, as soon as the
            last kernel that reads it has been enqueued; else when that is done.
        uploaded: True if the CPU decoded it and it was copied up.
    """

    pointer: int
    layout: SurfaceLayout
    release: Callable[[], None]
    uploaded: bool = False


@dataclass(slots=True, eq=False)
class Picture:
    """A decoded picture as the decoder left it: planes, and what is needed to show them.

    Attributes:
        planes: (Y, Cb, Cr), (Y,) for grey, or (R, G, B) with `colour.matrix == "rgb"`. 2-D arrays of uint8 or uint16,
            any strides (NV12's chroma is two strided views). Chroma planes may be smaller by `chroma_shift`.
        chroma_shift: log2 of the horizontal and vertical subsampling: (1, 1) for 4:2:0, (1, 0) for 4:2:2, (0, 0) for
            4:4:4. A chroma plane is ceil(w / 2^sx) x ceil(h / 2^sy).
        colour: How samples become RGB.
        rotation: Degrees clockwise to turn the planes by for display: 0, 90, 180 or 270.
        mirror: True to flip the planes left-right before they are turned.
        sar: Sample aspect ratio, width of a sample : its height, before the rotation.
        width: Display width in pixels: after sample aspect ratio and rotation.
        height: Display height in pixels.
        owner: Keeps the decoder's memory alive as long as the planes are used.
        surface: On the `cuda` engine the samples in device memory; `planes` is empty then.
    """

    planes: tuple[Array, ...]
    chroma_shift: tuple[int, int]
    colour: Colour
    width: int
    height: int
    rotation: int = 0
    mirror: bool = False
    sar: Fraction = Fraction(1)
    owner: object = None
    surface: Surface | None = None

    @property
    def coded_size(self) -> tuple[int, int]:
        """(width, height) of the first plane: what was decoded, before display."""
        if self.surface is not None:
            return self.surface.layout.width, self.surface.layout.height
        height, width = self.planes[0].shape
        return width, height

    def let_go(self) -> None:
        """Gives the pixels back, once nobody reads them any more; what is left is the geometry. Again, it does nothing."""
        self.planes, self.owner = (), None
        self.let_go_of_surface()

    def let_go_of_surface(self) -> None:
        """Gives back what it has of a decoder's device memory; planes stay."""
        surface, self.surface = self.surface, None
        if surface is not None:
            surface.release()

    def without_pixels(self) -> Picture:
        """The geometry alone, in a picture of its own."""
        return Picture(
            (), self.chroma_shift, self.colour, self.width, self.height, self.rotation, self.mirror, self.sar
        )


@dataclass(slots=True, eq=False)
class Frame:
    """One frame of one source.

    Attributes:
        source_id: The source's id, unique in a run.
        index: 0-based number of the frame in display order among the decoded frames of its source.
        pts_s: Presentation time in seconds as the container states it (not shifted to start at 0); None if it states none.
        time_s: When the frame was decoded: seconds since 1970-01-01 UTC.
        picture: The pixels and their geometry; its planes are empty once nobody needs them.
        received_s: `time.monotonic()` when the packet that it was decoded from came; None where the decoder does not know.
        decoded_s: The same for when it came out of the decoder.
        captured_s: When the camera took it, by its own clock: seconds since 1970-01-01 UTC; None where the camera does not
            say (RTCP sender reports do).
    """

    source_id: str
    index: int
    pts_s: float | None
    time_s: float
    picture: Picture
    received_s: float | None = None
    decoded_s: float | None = None
    captured_s: float | None = None

    def placed(self, index: int, pts_s: float) -> Frame:
        """The same frame with another number and time."""
        return Frame(
            self.source_id,
            index,
            pts_s,
            self.time_s,
            self.picture,
            self.received_s,
            self.decoded_s,
            self.captured_s,
        )

    def without_pixels(self) -> Frame:
        """The same frame, in one of its own that has no pixels."""
        return Frame(
            self.source_id,
            self.index,
            self.pts_s,
            self.time_s,
            self.picture.without_pixels(),
            self.received_s,
            self.decoded_s,
            self.captured_s,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """The part of the model's input that shows something of the picture, in the input's whole pixels.

    Attributes:
        left: First column.
        top: First row.
        width: How many columns; the others are padding.
        height: How many rows.
        hidden: (height, width) bool: pixels of the window that are padding too, outside a polygon; None if there are none.
    """

    left: int
    top: int
    width: int
    height: int
    hidden: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class InputBatch:
    """What preprocessing hands to the model.

    Attributes:
        frames: The N frames, in the order of the rows of `tensor`.
        tensor: (rows, H, W, C) or (rows, C, H, W), C = 3, or 1 for grey; rows >= N, the rows behind N are padding.
        transforms: (N, 4) float64: scale_x, scale_y, offset_x, offset_y with model = display * scale + offset, in pixels.
        model_size: (width, height) of the model's input in pixels.
        windows: For each frame what of the model's input is no padding; None: all of it.
    """

    frames: tuple[Frame, ...]
    tensor: Array
    transforms: npt.NDArray[np.float64]
    model_size: tuple[int, int]
    windows: tuple[Window, ...] | None = None

    def with_frames(self, frames: tuple[Frame, ...]) -> InputBatch:
        """The same batch with other frame objects, one for each of its own."""
        return replace(self, frames=frames)

    @property
    def display_sizes(self) -> npt.NDArray[np.float64]:
        """(N, 2) float64: display width and height of every frame."""
        return np.array([(f.picture.width, f.picture.height) for f in self.frames], np.float64).reshape(-1, 2)


def _empty_offsets() -> npt.NDArray[np.int64]:
    return np.zeros(1, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Boxes of N frames, one after another: the one currency behind postprocessing.

    Attributes:
        boxes: (D, 4) float32: x1, y1, x2, y2 in display pixels, clipped to the picture.
        scores: (D,) float32 in 0..1, descending within a frame.
        class_ids: (D,) int32.
        offsets: (N + 1,) int64; frame i owns rows offsets[i]:offsets[i + 1].
        names: class id -> label.
        track_ids: (D,) int64, -1 for those without a track; None where nothing tracks.
    """

    boxes: FloatArray
    scores: FloatArray
    class_ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    names: Mapping[int, str] = field(default_factory=dict)
    track_ids: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        rows = len(self.boxes)
        if self.boxes.shape != (rows, 4) or len(self.scores) != rows or len(self.class_ids) != rows:
            raise ValueError(
                f"boxes {self.boxes.shape}, scores {self.scores.shape} and class_ids {self.class_ids.shape} do not fit"
            )
        if self.offsets[0] != 0 or self.offsets[-1] != rows:
            raise ValueError(f"offsets run from {self.offsets[0]} to {self.offsets[-1]}, not from 0 to {rows}")

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        return f"Detections({len(self)} boxes in {len(self.offsets) - 1} frames)"

    def frame(self, index: int) -> Detections:
        """The detections of one frame of the batch, as views."""
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        count = rows.stop - rows.start
        return Detections(
            self.boxes[rows],
            self.scores[rows],
            self.class_ids[rows],
            np.array([0, count], np.int64),
            self.names,
            None if self.track_ids is None else self.track_ids[rows],
        )

    def label(self, class_id: int) -> str:
        """The class's name; its number where it has none."""
        return self.names.get(class_id, str(class_id))

    def to_supervision(self) -> supervision.Detections:
        """As the `supervision` library's Detections (optional dependency: `pip install 'vramline[supervision]'`)."""
        import supervision

        return supervision.Detections(
            xyxy=np.asarray(self.boxes, np.float32).reshape(-1, 4),
            confidence=np.asarray(self.scores, np.float32),
            class_id=np.asarray(self.class_ids).astype(int),
            tracker_id=None if self.track_ids is None else np.asarray(self.track_ids).astype(int),
            data={"class_name": np.array([self.label(int(c)) for c in self.class_ids], dtype=str)},
        )

    @classmethod
    def empty(cls, frames: int = 1, names: Mapping[int, str] | None = None) -> Detections:
        """No boxes in any of `frames` frames."""
        return cls(
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.float32),
            np.zeros(0, np.int32),
            np.zeros(frames + 1, np.int64),
            names or {},
        )


@dataclass(frozen=True, slots=True, eq=False)
class Classifications:
    """The best K classes of N frames.

    Attributes:
        class_ids: (N, K) int32, best first.
        scores: (N, K) float32, descending.
        names: class id -> label.
        counts: (N,) int64: how many of the K are valid (others fell below the threshold).
    """

    class_ids: npt.NDArray[np.int32]
    scores: FloatArray
    counts: npt.NDArray[np.int64]
    names: Mapping[int, str] = field(default_factory=dict)

    def frame(self, index: int) -> list[tuple[str, int, float]]:
        """(label, class id, score) of one frame, best first."""
        count = int(self.counts[index])
        return [
            (self.names.get(int(c), str(int(c))), int(c), float(s))
            for c, s in zip(self.class_ids[index, :count], self.scores[index, :count], strict=True)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a model found in one picture; the fields that its task fills are set.

    Attributes:
        detections: None where the model is no detector.
        classes: (label, class id, score), best first; None where the model is no classifier.
        tensors: Output name -> array without a batch dimension; None unless the family is `raw`.
        poses: None unless the model finds keypoints.
        segmentation: The class map; None unless the model gives one.
        embedding: (D,) float32; None unless the model gives vectors.
    """

    detections: Detections | None = None
    classes: list[tuple[str, int, float]] | None = None
    tensors: Mapping[str, Array] | None = None
    poses: Poses | None = None
    segmentation: Segmentation | None = None
    embedding: FloatArray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What postprocessing made of a batch of N frames; the fields that the model's task fills are set.

    Attributes:
        detections: Boxes, of detectors.
        classes: The best classes, of classifiers.
        tensors: Output name -> (N, ...) array, of `raw`.
        poses: Persons with keypoints, of `pose`.
        segmentations: Class maps, of `segment`.
        embeddings: (N, D) float32, of `embedding`; a vector that is not finite is all NaN.
    """

    detections: Detections | None = None
    classes: Classifications | None = None
    tensors: Mapping[str, Array] | None = None
    poses: Poses | None = None
    segmentations: Segmentations | None = None
    embeddings: FloatArray | None = None

    def frame(self, index: int) -> Found:
        """What was found in one frame of the batch, as views."""
        return Found(
            None if self.detections is None else self.detections.frame(index),
            None if self.classes is None else self.classes.frame(index),
            None if self.tensors is None else {name: values[index] for name, values in self.tensors.items()},
            None if self.poses is None else self.poses.frame(index),
            None if self.segmentations is None else self.segmentations.frame(index),
            None if self.embeddings is None else self.embeddings[index],
        )


@dataclass(frozen=True, slots=True, eq=False)
class SideResults:
    """What one of `pipeline.models` found in N frames.

    Attributes:
        model: Its name, as in `Result`.
        predictions: Of all frames.
    """

    model: str
    predictions: Predictions


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What is known of one frame at the end of the pipeline.

    Attributes:
        frame: Which frame; `frame.picture` holds its pixels.
        model: Name of the model and the first 12 hex digits of its content's sha256, as `name@hash`.
        detections: Of this frame alone; None where the model is no detector.
        classes: (label, class id, score), best first; None where the model is no classifier.
        tensors: Output name -> array without a batch dimension; None unless the pipeline is `raw`.
        poses: Of this frame alone; None unless the model finds keypoints.
        segmentation: The class map; None unless the model gives one.
        embedding: (D,) float32; None unless the model gives vectors.
        events: What the source's analytics found in this frame.
        scene: What its lines and zones have counted so far; None without analytics.
        models: By name, what each of `pipeline.models` found in this frame.
        crops: By name, what each of `pipeline.cascade` found in the crops of this frame's detections.
    """

    frame: Frame
    model: str
    detections: Detections | None = None
    classes: list[tuple[str, int, float]] | None = None
    tensors: Mapping[str, Array] | None = None
    poses: Poses | None = None
    segmentation: Segmentation | None = None
    embedding: FloatArray | None = None
    events: tuple[Event, ...] = ()
    scene: Scene | None = None
    models: Mapping[str, Found] = field(default_factory=dict)
    crops: Mapping[str, Crops] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ResultBatch:
    """The results of N frames, as sinks get them: per batch, so that cost per frame stays small.

    Attributes:
        frames: The frames; none in a batch that only brings the events of sources that have ended.
        predictions: Of all frames.
        model: As in `Result`.
        events: What analytics found, in the order of the frames that they belong to.
        scenes: One for each frame, None for those of sources without analytics; empty if no frame has one.
        models: By name, what each of `pipeline.models` found in the frames.
        crops: By name, what each of `pipeline.cascade` found in crops, an entry behind the one whose detections it looks at.
    """

    frames: Sequence[Frame]
    predictions: Predictions
    model: str
    events: tuple[Event, ...] = ()
    scenes: Sequence[Scene | None] = ()
    models: Mapping[str, SideResults] = field(default_factory=dict)
    crops: Mapping[str, Crops] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Result]:
        events: dict[int | None, list[Event]] = {}
        for event in self.events:
            events.setdefault(event.position, []).append(event)
        for i, frame in enumerate(self.frames):
            found = self.predictions.frame(i)
            yield Result(
                frame,
                self.model,
                found.detections,
                found.classes,
                found.tensors,
                poses=found.poses,
                segmentation=found.segmentation,
                embedding=found.embedding,
                events=tuple(events.get(i, ())),
                scene=self.scenes[i] if self.scenes else None,
                models={name: side.predictions.frame(i) for name, side in self.models.items()},
                crops={name: crops.frame(i) for name, crops in self.crops.items()},
            )
