"""From the configuration to what its memory plan follows from: sizes from the videos' headers, the model from its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.models import Config
from pipeline.config.postprocess import BoxesPost, GflPost, OdApiPost, SsdPost, YoloPost
from pipeline.config.tasks import SegmentPost
from pipeline.decode.probe import formats_of
from pipeline.errors import VramlineError
from pipeline.runtime.vram import ModelNeeds, Needs, VideoNeeds, budget_bytes, check, make_plan, video_needs
from pipeline.sources.resolve import VideoSpec
from pipeline.vram import MemoryPlan


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans for one run, before its model is loaded and after.

    Attributes:
        needs: As far as they are known.
        configured_mb: `runtime.vram_budget_mb`.
        free_bytes: Of the device; None: unknown.
        own_bytes: What earlier runs of this process have left with TensorFlow and CuPy.
    """

    needs: Needs
    configured_mb: int | None
    free_bytes: int | None = None
    own_bytes: int = 0

    def plan(self) -> MemoryPlan:
        """The plan, whether it fits or not."""
        budget = budget_bytes(self.configured_mb, self.free_bytes, self.own_bytes)
        return make_plan(self.needs, budget, self.free_bytes)

    def checked(self) -> MemoryPlan:
        """The plan.

        Raises:
            ConfigError: it does not fit; says what to lower.
        """
        plan = self.plan()
        check(plan, self.needs, self.configured_mb)
        return plan

    def with_model(self, *, size: tuple[int, int], channels: str, dtype: str, batch_size: int, share: int) -> Planner:
        """With what is known once the model is loaded; `share` is TensorFlow's."""
        model = replace(
            self.needs.model,
            size=size,
            channels=1 if channels == "gray" else 3,
            item_bytes=np.dtype(dtype).itemsize,
            batch_size=batch_size,
        )
        return replace(self, needs=replace(self.needs, model=model, tensorflow_bytes=share))


def planner_without_gpu(config: Config, specs: Sequence[VideoSpec]) -> Planner:
    """For the first GPU that the driver shows, if any, which is left alone.

    Raises:
        VramlineError: there is no such model.
    """
    from pipeline.inference._tensorflow import configure, import_tensorflow
    from pipeline.inference.files import find_format
    from pipeline.observe.gpu_memory import device_memory
    from pipeline.runtime.build import locate_model
    from pipeline.runtime.engines import open_sources

    configure(import_tensorflow(), threads=0, device="cpu")
    path, _ = locate_model(config.pipeline.model, None)
    find_format(path)
    videos = open_sources(config, "cuda", len(specs))
    needs = needs_of(config, specs, videos, path, may_open_model=True)
    memory = device_memory()
    return Planner(needs, config.runtime.vram_budget_mb, memory[0].free_bytes if memory else None)


def needs_of(
    config: Config, specs: Sequence[VideoSpec], open_sources: int, model_path: Path, *, may_open_model: bool = False
) -> Needs:
    """What a run takes memory for.

    Args:
        config: All of it.
        specs: The sources.
        open_sources: How many videos are decoded at the same time.
        model_path: Where the model lies.
        may_open_model: Whether TensorFlow may open any model; else only those for which it does not start the GPU.
    """
    formats = [None if f is None else VideoNeeds(f.codec, f.width, f.height, f.pix_fmt) for f in formats_of(specs)]
    videos, notes = video_needs(formats)
    live = sum(spec.settings.is_live for spec in specs)
    open_videos = min(open_sources, len(specs) - live)
    model, more = _model_needs(config, model_path, may_open_model)
    if further := len(config.pipeline.models) + len(config.pipeline.cascade):
        more += (f"{further} further model{'' if further == 1 else 's'}: their weights and inputs are not counted",)
    return Needs(
        videos=videos,
        live=live,
        open_videos=open_videos,
        ring_sources=live + open_videos if specs else open_sources,
        queue_batches=config.queue_batches,
        model=model,
        has_cascade=bool(config.pipeline.cascade),
        notes=notes + more,
    )


def _model_needs(config: Config, path: Path, may_open: bool) -> tuple[ModelNeeds, tuple[str, ...]]:
    from pipeline.inference.tensorflow import DEFAULT_BATCH_SIZE_ON_GPU

    stages = config.pipeline
    notes: tuple[str, ...] = ()
    preprocess, fixed = stages.preprocess, None
    image = _image(config, path) if may_open or path.is_dir() else None
    if image is not None:
        fixed = image.shape[0] if image.shape else None
        try:
            from pipeline.inference.signature import resolve_input

            preprocess = resolve_input(image, preprocess, model=path.name)
        except VramlineError:  # loading it says so
            pass
    size = preprocess.size
    if size is None:
        size = ModelNeeds("").size
        notes = (f"the model's input counts as {size[0]}x{size[1]}, as its size is not known yet",)
    return ModelNeeds(
        stages.model.name or stages.model.card or path.stem,
        size=size,
        channels=1 if preprocess.channels == "gray" else 3,
        item_bytes=1 if preprocess.dtype == "uint8" else 4,
        batch_size=fixed or config.runtime.batch_size or DEFAULT_BATCH_SIZE_ON_GPU,
        weights_bytes=_file_bytes(path),
        postprocess_bytes=_postprocess_bytes(stages.postprocess, size),
        is_cvcuda=preprocess.engine == "cvcuda",
        is_fixed=fixed is not None,
    ), notes


def _image(config: Config, path: Path) -> Any:
    from pipeline.inference.tensorflow import describe_model

    settings = config.pipeline.model
    try:
        return describe_model(path, settings).image(settings.input, model=path.name)
    except VramlineError:  # loading it says so
        return None


def _postprocess_bytes(post: object, model_size: tuple[int, int]) -> int:
    """Of a frame; the other families keep next to nothing on the device."""
    from pipeline.postprocess.cuda.detection import frame_bytes

    match post:
        case OdApiPost() | SsdPost() | YoloPost() | GflPost() | BoxesPost():
            return sum(frame_bytes(post).values())
        case SegmentPost():
            return model_size[0] * model_size[1]
        case _:
            return 0


def _file_bytes(path: Path) -> int:
    try:
        files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
        return sum(p.stat().st_size for p in files)
    except OSError:
        return 0
