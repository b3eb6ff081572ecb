"""A second model of a run: calling it, and errors that name its own section of the configuration."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.errors import ConfigError, ModelError
from pipeline.frames import InputBatch, Predictions
from pipeline.plugins.guard import PluginError
from pipeline.stages import Model, PendingPredictions, Postprocessor

# What the model of a run is called in messages, which are the same for all models.
_FIRST = re.compile(r"\bpipeline\.(model|preprocess|postprocess)\b|\bruntime\.batch_size\b")

Part = Predictions | PendingPredictions | None
"""What one call gave: the results, a promise of them, or nothing, as the user's own postprocessor failed."""


@dataclass(frozen=True, slots=True, eq=False)
class SecondModel:
    """A model and its postprocessing.

    Attributes:
        name: What its results are called.
        section: Where it stands, such as `pipeline.cascade[0]`.
        model: Loaded and warmed up.
        postprocess: Its outputs -> predictions, or a promise of them.
    """

    name: str
    section: str
    model: Model
    postprocess: Postprocessor

    def __call__(self, batch: InputBatch) -> Part:
        """Runs it on a batch; on a device this only enqueues.

        Raises:
            ModelError: it does not run, or does not give what its family needs.
        """
        with errors_of(self.section):
            try:
                return self.postprocess(self.model(batch.tensor), batch)
            except PluginError:
                return None

    def wait(self, part: Part) -> Predictions | None:
        """The results of a call, waited for if need be; None if it has none.

        Raises:
            ModelError: its numbers are not what its family needs.
        """
        if part is None or isinstance(part, Predictions):
            return part
        with errors_of(self.section):
            try:
                return part.result()
            except PluginError:
                return None


@contextlib.contextmanager
def errors_of(section: str) -> Iterator[None]:
    """Errors of configurations and models name the fields of this section in place of the first model's."""

    def here(text: str) -> str:
        return _FIRST.sub(lambda match: f"{section}.{match[1] or 'batch_size'}", text)

    try:
        yield
    except ConfigError as e:
        issues = [
            replace(i, field=here(i.field), message=here(i.message), hint=None if i.hint is None else here(i.hint))
            for i in e.issues
        ]
        raise ConfigError(issues) from e
    except ModelError as e:
        raise ModelError(here(e.message), remedy=None if e.remedy is None else here(e.remedy)) from e
