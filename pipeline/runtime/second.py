"""Building the further models of a run, for either engine: `pipeline.models` and `pipeline.cascade`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cascade.second import SecondModel, errors_of
from pipeline.cascade.side import FIRST, Side, SideModels, side_stage
from pipeline.cascade.stage import Cascade, Entry, crop_stage
from pipeline.config.labels import load_labels
from pipeline.config.plugins import PluginPost
from pipeline.config.postprocess import ClassifyPost, DetectionPost, Postprocess
from pipeline.config.stages import CascadeModel, ModelSource, Preprocess, SideModel, Stages
from pipeline.config.tasks import EmbeddingPost
from pipeline.errors import ConfigError, ConfigIssue
from pipeline.frames import Detections, Predictions
from pipeline.postprocess.class_rules import class_ids_of
from pipeline.stages import Cropper, Model, Postprocessor, Preprocessor

if TYPE_CHECKING:
    from pipeline.inference.shared_stream import SharedStream
    from pipeline.plugins.host import Loaded, PluginHost
    from pipeline.runtime.engines import Job
    from pipeline.runtime.steps import Stages as BuiltStages

# What says nothing of places in the picture stays true when the object has moved on.
_KEPT = (ClassifyPost, EmbeddingPost)


@dataclass(frozen=True, slots=True)
class SecondJob:
    """A further model that is to be built.

    Attributes:
        section: Where it stands, such as `pipeline.cascade[0]`.
        config: Its section.
        path: Where the model lies.
        model_name: What its results are stamped with.
        plugin: The user's own postprocessor; None: a family's.
    """

    section: str
    config: SideModel | CascadeModel
    path: Path
    model_name: str
    plugin: Loaded | None


def find_second(
    stages: Stages, plugins: PluginHost, locate: Callable[[ModelSource], tuple[Path, str]]
) -> tuple[SecondJob, ...]:
    """The further models of a configuration, each of the cascade behind the one whose detections it looks at.

    Args:
        stages: The configuration.
        plugins: Loads the user's own postprocessors.
        locate: Where a model lies and what it is called, obtained first if need be.

    Raises:
        VramlineError: a plug-in or a model cannot be had.
    """
    jobs = []
    for kind, sections in (("models", stages.models), ("cascade", stages.cascade)):
        for i, config in enumerate(sections):
            section, post = f"pipeline.{kind}[{i}]", config.postprocess
            plugin = plugins.load(post, f"{section}.postprocess") if isinstance(post, PluginPost) else None
            jobs.append((section, config, plugin))
    known: set[str | None] = {None}
    ordered = []
    while jobs:
        ready = next((job for job in jobs if getattr(job[1], "of", None) in known), None)
        if ready is None:  # the loader has refused such a file, but a Config can be made without it
            issue = ConfigIssue("looks at the detections of no model that comes before it", f"{jobs[0][0]}.of")
            raise ConfigError([issue])
        jobs.remove(ready)
        known.add(ready[1].name)
        ordered.append(ready)
    return tuple(SecondJob(section, config, *locate(config.model), plugin) for section, config, plugin in ordered)


def second_models(
    job: Job, first: Model, first_input: Preprocess, *, stream: SharedStream | None = None
) -> tuple[SideModels | None, Cascade | None]:
    """Loads the further models and fits their stages around them.

    Args:
        job: What for.
        first: The pipeline's own model.
        first_input: What its input is like.
        stream: On the `cuda` engine.

    Raises:
        VramlineError: something does not fit, in words that name the model's own section.
    """
    sides: list[Side] = []
    entries: list[Entry] = []
    inputs: dict[str, tuple[Preprocess, Model]] = {FIRST: (first_input, first)}
    posts: dict[str | None, Postprocess] = {None: job.config.pipeline.postprocess}
    tracker = job.config.pipeline.tracker
    for second in job.second:
        config = second.config
        is_crop = isinstance(config, CascadeModel)
        with errors_of(second.section):
            model, resolved = _load(second, job, stream, None if is_crop else first.batch_size)
            assert resolved.size is not None
            built = SecondModel(
                config.name, second.section, model, _postprocessor(second, model, resolved.size, stream)
            )
            if isinstance(config, CascadeModel):
                entries.append(_entry(config, second.section, built, _cropper(resolved, model, stream), posts))
            else:
                sides.append(_side(built, resolved, inputs, job, stream))
                inputs[config.name] = resolved, model
        posts[config.name] = config.postprocess
    return (
        SideModels(sides, job.status) if sides else None,
        Cascade(entries, job.status, appearance=None if tracker is None else tracker.appearance) if entries else None,
    )


def stage_names(stages: BuiltStages) -> tuple[list[str], list[str]]:
    """What the times of the models on frames and of those on crops are called."""
    sides = [] if stages.sides is None else [side_stage(side.second.name) for side in stages.sides.sides]
    return sides, [] if stages.cascade is None else [crop_stage(entry.second.name) for entry in stages.cascade.entries]


def _load(
    second: SecondJob, job: Job, stream: SharedStream | None, usual_batch_size: int | None
) -> tuple[Model, Preprocess]:
    from pipeline.inference.signature import resolve_input
    from pipeline.inference.tensorflow import load_model

    config = second.config
    model = load_model(
        second.path,
        config.model,
        name=second.model_name,
        batch_size=config.batch_size,
        preprocess=config.preprocess,
        threads=job.config.runtime.inference_threads,
        stream=stream,
        usual_batch_size=usual_batch_size,
    )
    return model, resolve_input(model.input, config.preprocess, model=second.model_name)


def _postprocessor(
    second: SecondJob, model: Model, model_size: tuple[int, int], stream: SharedStream | None
) -> Postprocessor:
    post = second.config.postprocess
    if stream is None:
        from pipeline.postprocess import build_postprocessor

        return build_postprocessor(post, model.outputs, model_size=model_size, plugin=second.plugin)
    from pipeline.postprocess.cuda import build_cuda_postprocessor

    return build_cuda_postprocessor(
        post, model.outputs, model_size=model_size, stream=stream, max_frames=model.batch_size, plugin=second.plugin
    )


def _cropper(resolved: Preprocess, model: Model, stream: SharedStream | None) -> Cropper:
    if stream is None:
        from pipeline.preprocess.crops import ReferenceCropper

        return ReferenceCropper(resolved)
    from pipeline.preprocess.fused_crops import FusedCropper

    return FusedCropper(resolved, stream=stream, max_rows=model.batch_size)


def _side(
    built: SecondModel,
    resolved: Preprocess,
    inputs: Mapping[str, tuple[Preprocess, Model]],
    job: Job,
    stream: SharedStream | None,
) -> Side:
    model = built.model
    for name, (other_input, other) in inputs.items():
        frames = range(1, inputs[FIRST][1].batch_size + 1)
        takes_all = min(model.batch_size, other.batch_size) >= len(frames)
        if other_input == resolved and takes_all and all(model.rows(n) == other.rows(n) for n in frames):
            return Side(built, None, name)
    preprocess: Preprocessor
    if stream is None:
        from pipeline.preprocess.reference import ReferencePreprocessor

        preprocess = ReferencePreprocessor(resolved, job.rois)
    else:
        from pipeline.preprocess.engines import device_preprocessor

        preprocess = device_preprocessor(resolved, job.rois, stream=stream, max_rows=model.batch_size)
    return Side(built, preprocess)


def _entry(
    config: CascadeModel, section: str, built: SecondModel, crop: Cropper, posts: Mapping[str | None, Postprocess]
) -> Entry:
    post, parent = config.postprocess, posts[config.of]
    if config.classes is not None and isinstance(parent, DetectionPost):
        issues: list[ConfigIssue] = []
        names = load_labels(parent.labels)
        for i, label in enumerate(config.classes):
            class_ids_of(label, names, f"{section}.classes[{i}]", issues)
        if issues:
            raise ConfigError(issues)
    nothing = Predictions()
    if isinstance(post, DetectionPost):
        nothing = Predictions(detections=Detections.empty(0, load_labels(post.labels)))
    return Entry(built, crop, config, nothing, isinstance(post, _KEPT))
