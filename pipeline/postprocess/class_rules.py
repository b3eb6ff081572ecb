"""Which classes are wanted, and from which score on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pipeline.config.postprocess import DetectionPost
from pipeline.errors import ConfigError, ConfigIssue
from pipeline.frames import FloatArray


class ClassRules:
    """The thresholds and the class filter of a configuration.

    Raises:
        ConfigError: a label in `classes` or `thresholds` is none of the model's.
    """

    def __init__(self, config: DetectionPost, names: Mapping[int, str]) -> None:
        self._default = config.score_threshold
        self._thresholds: dict[int, float] = {}
        issues: list[ConfigIssue] = []
        for label, threshold in config.thresholds.items():
            ids = class_ids_of(label, names, f"pipeline.postprocess.thresholds.{label}", issues)
            self._thresholds.update(dict.fromkeys(ids, threshold))
        self._wanted: list[int] | None = None
        if config.classes is not None:
            fields = ((f"pipeline.postprocess.classes[{i}]", value) for i, value in enumerate(config.classes))
            self._wanted = [id_ for field, value in fields for id_ in class_ids_of(value, names, field, issues)]
        if issues:
            raise ConfigError(issues)

    @property
    def largest_id(self) -> int:
        """The largest class id that has a rule of its own; -1 if none has. Those above it are all treated alike."""
        return max([*self._thresholds, *(self._wanted or [])], default=-1)

    def thresholds(self, class_ids: npt.NDArray[np.int64]) -> FloatArray:
        """The least score of each class id, same shape; infinity for classes that are not wanted."""
        limits = np.full(class_ids.shape, self._default, np.float32)
        for class_id, threshold in self._thresholds.items():
            limits[class_ids == class_id] = threshold
        if self._wanted is not None:
            limits[~np.isin(class_ids, self._wanted)] = np.inf
        return limits


def class_ids_of(value: str | int, names: Mapping[int, str], field: str, issues: list[ConfigIssue]) -> list[int]:
    """The ids that a label or id stands for; a problem is added to `issues`."""
    if isinstance(value, int):
        return [value]
    ids = [class_id for class_id, name in names.items() if name == value]
    if ids or value.isdecimal():
        return ids or [int(value)]
    if not names:
        issues.append(
            ConfigIssue(
                f"no class is called {value!r}, as there are no labels", field, hint="give labels, or class ids"
            )
        )
        return []
    near = difflib.get_close_matches(value, names.values(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"labels are: {_listed(names)}"
    issues.append(ConfigIssue(f"no class is called {value!r}", field, hint=hint))
    return []


def _listed(names: Mapping[int, str], most: int = 20) -> str:
    labels = list(names.values())
    rest = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(labels[:most]) + rest
