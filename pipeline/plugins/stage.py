"""`pipeline.plugins`: the stages behind tracking and analytics, one after another."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from pipeline.frames import ResultBatch
from pipeline.plugins.checks import check_results
from pipeline.plugins.guard import PluginError
from pipeline.plugins.host import Loaded
from pipeline.plugins.interface import HearsEnds


class StageChain:
    """Each stage gets what the one before made of the batch; one that fails is left out of that batch."""

    def __init__(self, stages: Sequence[Loaded]) -> None:
        self._stages = list(stages)

    def __call__(self, batch: ResultBatch) -> ResultBatch:
        """The batch as the last stage leaves it; of the same frames."""
        for stage in self._stages:
            with contextlib.suppress(PluginError):
                batch = _call(stage, batch)
        return batch

    def finish(self, source_id: str) -> None:
        """Tells those that want to know that a source has ended."""
        for stage in self._stages:
            if isinstance(stage.plugin, HearsEnds):
                with contextlib.suppress(PluginError):
                    _tell_end(stage, stage.plugin, source_id)


def _call(stage: Loaded, batch: ResultBatch) -> ResultBatch:
    return stage.guard.call(lambda: check_results(stage.plugin(batch), batch))


def _tell_end(stage: Loaded, plugin: HearsEnds, source_id: str) -> None:
    stage.guard.call(lambda: plugin.source_finished(source_id), counts=False)
