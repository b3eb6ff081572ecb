"""Pipelines made of fakes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.models import Config
from pipeline.errors import SourceError, SourceErrorCode
from pipeline.observe.status import SourceStatus, StageTimes
from pipeline.runtime import pipeline as runtime
from pipeline.runtime.outputs import Outputs
from pipeline.runtime.steps import STAGES, Stages

sys.path.insert(0, str(Path(__file__).parent))
import fakes

MakePipeline = Callable[..., runtime.Pipeline]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePipeline]:
    """make(decoders, sinks=..., model=..., settings=..., on_device=..., second=..., **runtime): a pipeline; checks that it leaves no thread.

    `second` gets the run's status and gives more fields of its `Stages`.
    """

    def build(
        decoders: Mapping[str, fakes.FakeDecoder | str],
        *,
        sinks: Sequence[fakes.FakeSink] = (),
        model: fakes.FakeModel | None = None,
        settings: Mapping[str, Any] | None = None,
        on_device: bool = False,
        second: Callable[[Any], dict[str, Any]] = lambda status: {},
        **options: Any,
    ) -> runtime.Pipeline:
        def resolve(config: Config, status: Any, progress: Any) -> list[Any]:
            for name in decoders:
                status.sources[name] = SourceStatus(name, name)
            return [fakes.spec(name, **(settings or {})) for name in decoders]

        def open_decoder(spec: Any, stats: Any) -> fakes.FakeDecoder:
            decoder = decoders[spec.source_id]
            if isinstance(decoder, str):
                raise SourceError(decoder, source_id=spec.source_id, code=SourceErrorCode.NOT_FOUND)
            return decoder

        def stages(config: Config, specs: Any, status: Any, progress: Any) -> Stages:
            outputs = Outputs(sinks, status)
            outputs.open()
            status.stages = {stage: StageTimes() for stage in STAGES}
            fields = {
                "open_decoder": open_decoder,
                "preprocess": fakes.FakePreprocessor(),
                "model": model or fakes.FakeModel(),
                "postprocess": fakes.fake_postprocess,
                "outputs": outputs,
                "on_device": on_device,
            }
            return Stages(**{**fields, **second(status)})

        monkeypatch.setattr(runtime, "resolve_sources", resolve)
        monkeypatch.setattr(runtime, "build_stages", stages)
        config = Config.model_validate(
            {"sources": ["x"], "pipeline": {"model": "fake", "postprocess": {"family": "raw"}}, "runtime": options}
        )
        return runtime.Pipeline(config)

    yield build
