"""Several models side by side: on the same frames, which are decoded once and, where the inputs are alike, converted once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.cascade.second import Part, SecondModel
from pipeline.crops import joined
from pipeline.frames import Frame, InputBatch, SideResults
from pipeline.observe.status import RunStatus, SecondStatus
from pipeline.stages import Preprocessor

FIRST = ""
"""Stands for the pipeline's own model where others are called by their names."""


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One of `pipeline.models`.

    Attributes:
        second: The model.
        preprocess: Makes its input; None: it takes that of another one.
        input_of: Whose: the name of an earlier one, or `FIRST`.
    """

    second: SecondModel
    preprocess: Preprocessor | None
    input_of: str = FIRST


class SideModels:
    """Runs them. `__call__` and `finish` may be called from different threads, each from one.

    Args:
        sides: In their order.
        status: Times are counted in its `stages`, which have an entry for each.
    """

    def __init__(self, sides: Sequence[Side], status: RunStatus) -> None:
        self.sides = list(sides)
        self._status = status
        for side in sides:
            status.models[side.second.name] = SecondStatus(side.second.model.name)

    def __call__(self, frames: Sequence[Frame], first: InputBatch) -> dict[str, list[Part]]:
        """Runs all models on the frames, which have their pixels; on a device this only enqueues.

        Args:
            frames: At least one.
            first: The input of the pipeline's own model.

        Returns:
            By name, what the calls gave.

        Raises:
            SourceError: a source's region of interest holds no pixel of its picture.
            ModelError: a model does not run.
        """
        bare = tuple(frame.without_pixels() for frame in frames)
        inputs = {FIRST: first.with_frames(bare)}
        found: dict[str, list[Part]] = {}
        for side in self.sides:
            start_s, name, model = time.perf_counter(), side.second.name, side.second.model
            parts = found[name] = []
            if side.preprocess is None:
                inputs[name] = inputs[side.input_of]
                parts.append(side.second(inputs[name]))
            else:
                for begin in range(0, len(frames), model.batch_size):
                    some = slice(begin, begin + model.batch_size)
                    made = side.preprocess(frames[some], model.rows(len(bare[some])))
                    inputs[name] = made.with_frames(bare[some])  # another one takes it only if it holds all frames
                    parts.append(side.second(inputs[name]))
            self._status.stages[side_stage(name)].add(time.perf_counter() - start_s, len(frames))
        return found

    def finish(self, found: Mapping[str, list[Part]]) -> dict[str, SideResults]:
        """The results by name, waited for if need be; without those of models whose own postprocessor failed.

        Raises:
            ModelError: a model's numbers are not what its family needs.
        """
        results: dict[str, SideResults] = {}
        for side in self.sides:
            parts = [side.second.wait(part) for part in found[side.second.name]]
            sound = [part for part in parts if part is not None]
            if len(sound) == len(parts):
                results[side.second.name] = SideResults(side.second.model.name, joined(sound))
        return results

    def close(self) -> None:
        """Releases the models."""
        for side in self.sides:
            side.second.model.close()


def side_stage(name: str) -> str:
    """What the times of one of `pipeline.models` are called."""
    return f"models.{name}"
