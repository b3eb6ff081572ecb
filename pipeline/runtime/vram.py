"""The memory plan of the `cuda` engine: what a run takes of the GPU's memory, and how its budget is divided.

Pure arithmetic. What only the driver and TensorFlow know is estimated; the plan says which parts those are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.decode._session import PACKETS_AT_ONCE
from pipeline.decode.capabilities import LEAST_FREE_BYTES
from pipeline.decode.memory import decoder_size, picture_size
from pipeline.errors import ConfigError, ConfigIssue
from pipeline.stages import DEVICE_INPUTS
from pipeline.vram import MIB, MemoryPlan, Part, Shares

# Frames of a video that may be out of its decoder's hands: at least what comes out at a time, and some on their way. With
# fewer than its place in front of the model holds, batches would wait for frames that cannot come.
_LEAST_SURFACES = PACKETS_AT_ONCE + 4
_PLANS_BYTES = 8 * MIB
_CVCUDA_BYTES = 512 * MIB
# TensorFlow at least: its kernels' workspace, the weights as variables and as constants of each compiled shape, and some
# times the input for what the layers hand on. An estimate: how much a model really takes shows when it is loaded.
_TENSORFLOW_BYTES = 256 * MIB
_WEIGHT_COPIES = 4
_INPUT_COPIES = 8
# What stays free by default, for CUDA's libraries, which allocate beside us, and for the neighbours; at least what it takes to
# ask what the GPU decodes, which is done when a codec comes up.
_LEAST_RESERVE_BYTES = LEAST_FREE_BYTES
_RESERVE = 0.05
# With more videos than GPUs have decoders (up to 7) each decoder has something to do while threads hand out pictures.
_VIDEOS_DECODED_AHEAD = 8
DECODERS, FRAMES, TENSORFLOW = "decoders", "decoded frames", "TensorFlow"


@dataclass(frozen=True, slots=True)
class VideoNeeds:
    """One video or live stream: FFmpeg's name of the codec, and what a decoded picture is like."""

    codec: str = "h264"
    width: int = 1920
    height: int = 1080
    pix_fmt: str | None = "yuv420p"

    @property
    def surface_bytes(self) -> int:
        """Of a decoded picture."""
        return picture_size(self.width, self.height, self.pix_fmt)

    def decoder_bytes(self, *, is_ahead: bool = False) -> int:
        """What NVDEC takes for itself; `is_ahead` as in `decoder_size`."""
        return decoder_size(self.codec, self.width, self.height, self.pix_fmt, is_ahead=is_ahead)


@dataclass(frozen=True, slots=True)
class ModelNeeds:
    """A model and the stages around it.

    Attributes:
        name: For people.
        size: (width, height) of its input.
        channels: Of its input.
        item_bytes: Of a number of its input.
        batch_size: Frames a call.
        weights_bytes: Of its files.
        postprocess_bytes: What postprocessing keeps for each frame of a batch.
        is_cvcuda: Whether CV-CUDA preprocesses.
        is_fixed: Whether the model itself fixes the batch size.
    """

    name: str
    size: tuple[int, int] = (640, 640)
    channels: int = 3
    item_bytes: int = 4
    batch_size: int = 64
    weights_bytes: int = 0
    postprocess_bytes: int = 0
    is_cvcuda: bool = False
    is_fixed: bool = False

    @property
    def input_bytes(self) -> int:
        """Of one input tensor."""
        return self.batch_size * self.size[0] * self.size[1] * self.channels * self.item_bytes


@dataclass(frozen=True, slots=True)
class Needs:
    """What a plan follows from.

    Attributes:
        videos: All sources.
        live: How many of them are live streams, which are open all the time.
        open_videos: How many of the others are open at the same time.
        ring_sources: Among how many sources the frames that wait for the model are divided.
        queue_batches: Batches that may wait.
        model: What they wait for.
        has_cascade: Whether frames are held until crops have been cut of them.
        tensorflow_bytes: TensorFlow's share where it is fixed already, as TensorFlow has been started.
        notes: What was assumed.
        may_decode_ahead: Whether decoders may be called once ahead of who hands the pictures out, if the videos are few.
    """

    videos: tuple[VideoNeeds, ...]
    live: int
    open_videos: int
    ring_sources: int
    queue_batches: int
    model: ModelNeeds
    has_cascade: bool = False
    tensorflow_bytes: int | None = None
    notes: tuple[str, ...] = ()
    may_decode_ahead: bool = True

    @property
    def ring(self) -> int:
        """Frames of each source that may be out of its decoder's hands: together they fill what waits for the lane, and all behind it.

        That is the batch that it collects, the one that waits for the model, those that wait for their results, the one whose
        results are waited for, and those that wait for a place in either queue; with a cascade as many again, which wait for
        their crops' results.
        """
        batches = self.queue_batches + 3 + (self.queue_batches + 2) * (2 if self.has_cascade else 1)
        return _LEAST_SURFACES + batches * self.model.batch_size // self.ring_sources

    @property
    def decodes_ahead(self) -> bool:
        """Whether they are; see `pipeline.decode.nvdec`."""
        return self.may_decode_ahead and self.live + self.open_videos <= _VIDEOS_DECODED_AHEAD

    @property
    def open_sources(self) -> tuple[VideoNeeds, ...]:
        """The largest of those that can be open at the same time."""
        by_size = sorted(self.videos, key=lambda v: v.decoder_bytes() + v.surface_bytes, reverse=True)
        return tuple(by_size[: self.live + self.open_videos])

    def with_open_videos(self, number: int) -> Needs:
        """With fewer videos at the same time."""
        return replace(self, open_videos=number, ring_sources=min(self.ring_sources, max(1, number + self.live)))

    def with_batch_size(self, number: int) -> Needs:
        """With smaller batches."""
        return replace(self, model=replace(self.model, batch_size=number))


def budget_bytes(configured_mb: int | None, free_bytes: int | None, own_bytes: int = 0) -> int | None:
    """What a run may take.

    Args:
        configured_mb: `runtime.vram_budget_mb`.
        free_bytes: Of the device; None: unknown.
        own_bytes: What earlier runs of this process have left with TensorFlow and CuPy, who use it again.

    Returns:
        None if nothing is known.
    """
    configured = None if configured_mb is None else configured_mb * MIB
    if free_bytes is None:
        return configured
    there = free_bytes + own_bytes
    usable = max(0, there - max(_LEAST_RESERVE_BYTES, int(_RESERVE * there)))
    return usable if configured is None else min(configured, usable)


def make_plan(needs: Needs, budget: int | None, free_bytes: int | None = None) -> MemoryPlan:
    """The parts, and how the budget is divided: what is left over goes half to TensorFlow, half to decoders.

    Args:
        needs: What it follows from. Decoders are not called ahead if only that makes it fit.
        budget: From `budget_bytes`.
        free_bytes: Of the device, for people.
    """
    plan = _plan(needs, budget, free_bytes)
    if needs.decodes_ahead and not plan.fits:
        return _plan(replace(needs, may_decode_ahead=False), budget, free_bytes)
    return plan


def _plan(needs: Needs, budget: int | None, free_bytes: int | None) -> MemoryPlan:
    videos, fixed = needs.open_sources, needs.tensorflow_bytes
    parts = _parts(needs)
    others = sum(part.size_bytes for part in parts)
    tensorflow = _tensorflow(needs.model)
    if fixed is not None and (fixed < tensorflow.size_bytes or (budget is not None and others + fixed > budget)):
        tensorflow = Part(TENSORFLOW, fixed, "its share, set when it was started in this process")
    plan = MemoryPlan((*parts, tensorflow), budget, free_bytes, None, needs.notes, needs.decodes_ahead)
    if budget is None or not plan.fits:
        return plan
    share = fixed or tensorflow.size_bytes + (budget - plan.total_bytes) // 2
    planned = sum(part.size_bytes for part in parts if part.name in (DECODERS, FRAMES))
    for_decoders = budget - share - (others - planned)
    most = max(
        (v.decoder_bytes(is_ahead=needs.decodes_ahead) + needs.ring * v.surface_bytes for v in videos), default=0
    )
    shares = Shares(
        tensorflow_bytes=share,
        decoders_bytes=for_decoders,
        source_bytes=max(most, for_decoders // max(len(videos), 1)),
        cupy_bytes=budget - share,
    )
    return replace(plan, shares=shares)


def _parts(needs: Needs) -> tuple[Part, ...]:
    """All but TensorFlow's."""
    videos, model = needs.open_sources, needs.model
    at_a_time = f"{len(videos)} at a time" if len(needs.videos) > len(videos) else f"{len(videos)}"
    largest = f", at most {videos[0].width}x{videos[0].height}" if videos else ""
    width, height = model.size
    return (
        Part(
            DECODERS,
            sum(v.decoder_bytes(is_ahead=needs.decodes_ahead) for v in videos),
            f"NVDEC's own, estimated: {at_a_time}{largest}",
        ),
        Part(
            FRAMES,
            sum(needs.ring * v.surface_bytes for v in videos),
            f"{needs.ring} for each, for batches of {model.batch_size}",
        ),
        Part(
            "preprocessing",
            DEVICE_INPUTS * model.input_bytes + _PLANS_BYTES + (_CVCUDA_BYTES if model.is_cvcuda else 0),
            f"{DEVICE_INPUTS} inputs of {model.batch_size}x{width}x{height}",
        ),
        Part("postprocessing", model.batch_size * model.postprocess_bytes, f"batches of {model.batch_size}"),
    )


def _tensorflow(model: ModelNeeds) -> Part:
    as_float = model.input_bytes // model.item_bytes * 4
    least = _TENSORFLOW_BYTES + _WEIGHT_COPIES * model.weights_bytes + _INPUT_COPIES * as_float
    return Part(TENSORFLOW, least, f"{model.name}: at least, estimated")


def check(plan: MemoryPlan, needs: Needs, configured_mb: int | None) -> None:
    """Sees to it that a plan fits.

    Raises:
        ConfigError: it does not: what it is made of, and values that would fit.
    """
    if plan.fits or plan.budget_bytes is None:
        return
    total, budget = _mb(plan.total_bytes), plan.budget_bytes // MIB
    is_bound = configured_mb is not None and configured_mb <= budget
    limit = f"the budget is {budget:,} MB" if is_bound else f"{budget:,} MB can be had"
    if not is_bound and plan.free_bytes is not None:
        limit += f" ({plan.free_bytes // MIB:,} MB are free, less a reserve)"
    parts = ", ".join(f"{p.name} {_mb(p.size_bytes):,} MB ({p.detail})" for p in plan.parts if p.size_bytes)
    raising = f"raise it to {total:,}" if is_bound else "end what else uses the GPU (nvidia-smi shows it)"
    advice = [*_advice(needs, plan.budget_bytes), raising]
    message = f"the run needs at least {total:,} MB of GPU memory, but {limit}: {parts}"
    raise ConfigError([ConfigIssue(message, "runtime.vram_budget_mb", hint=", or ".join(advice))])


def _advice(needs: Needs, budget: int) -> list[str]:
    """Changes of one field that make it fit; of two if none does."""

    def fits(changed: Needs) -> bool:
        return make_plan(changed, budget).fits

    single = []
    fewer = next((n for n in _fewer(needs.open_videos) if fits(needs.with_open_videos(n))), None)
    if fewer is not None:
        single.append(f"lower runtime.open_sources to {fewer}")
    smaller = next((n for n in _smaller(needs.model) if fits(needs.with_batch_size(n))), None)
    if smaller is not None:
        single.append(f"lower runtime.batch_size to {smaller}")
    if needs.queue_batches > 1 and fits(replace(needs, queue_batches=1)):
        single.append("lower runtime.queue_batches to 1")
    if single or needs.open_videos <= 1:
        return single
    for batch in _smaller(needs.model):
        for videos in _fewer(needs.open_videos):
            if fits(needs.with_batch_size(batch).with_open_videos(videos)):
                return [f"lower runtime.batch_size to {batch} and runtime.open_sources to {videos}"]
    return []


def _fewer(videos: int) -> Iterator[int]:
    while videos > 1:
        videos -= max(1, videos // 32)  # of a thousand not every number is tried
        yield videos


def _smaller(model: ModelNeeds) -> Iterator[int]:
    size = 1 if model.is_fixed else model.batch_size
    while size > 1:
        size //= 2
        yield size


def _mb(size_bytes: int) -> int:
    return -(-size_bytes // MIB)


def video_needs(formats: Sequence[VideoNeeds | None]) -> tuple[tuple[VideoNeeds, ...], tuple[str, ...]]:
    """What is known of videos, with what is not assumed to be the largest that is known; and what was assumed, in words."""
    known = [f for f in formats if f is not None]
    usual = max(known, key=lambda v: v.decoder_bytes() + v.surface_bytes, default=VideoNeeds())
    unknown = len(formats) - len(known)
    note = (
        f"{unknown} of {len(formats)} sources count as {usual.codec} {usual.width}x{usual.height}, as their size is not "
        "known yet"
    )
    return tuple(f or usual for f in formats), (note,) if unknown else ()
