"""When a live stream is connected again: exponential backoff with full jitter.

After "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): every wait is uniform between nothing and a ceiling
that doubles, so that a thousand cameras behind a switch that restarts do not come back in step.
"""

from __future__ import annotations

import random

from pipeline.config.sources import Reconnect
from pipeline.errors import SourceErrorCode

# 2**63 seconds are longer than any cap; more would not fit a float.
_MOST_DOUBLINGS = 63
# What full jitter may draw for the first wait would be a busy loop against a server that refuses at once.
_LEAST_DELAY_S = 0.05


class Backoff:
    """The waits of one stream.

    Attributes:
        failures: Connections in a row that failed, or broke before they were stable.
    """

    def __init__(self, settings: Reconnect, rng: random.Random | None = None) -> None:
        self.failures = 0
        self._settings = settings
        self._random = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._has_run = False

    def reset(self) -> None:
        """The next failure counts as the first."""
        self.failures = 0

    def delay_s(self, code: SourceErrorCode, ran_s: float | None) -> float | None:
        """How long to wait after a connection ended.

        A permanent error ends a stream that never ran. One that did run has been right once: it may be the server that is
        not back yet as a whole, so it is tried again, at the pace of permanent errors.

        Args:
            code: Why it ended.
            ran_s: For how long it had given frames; None if it gave none.

        Returns:
            Seconds; None if it is not to be tried again.
        """
        settings = self._settings
        if ran_s is not None:
            self._has_run = True
            if ran_s >= settings.stable_s:
                self.failures = 0
        self.failures += 1
        if settings.attempts is not None and self.failures > settings.attempts:
            return None
        if code.is_permanent:
            if settings.on_permanent == "fail" and not self._has_run:
                return None
            ceiling_s = settings.permanent_s
        else:
            ceiling_s = min(settings.max_s, settings.initial_s * 2.0 ** min(self.failures - 1, _MOST_DOUBLINGS))
        return max(_LEAST_DELAY_S, self._random.uniform(0.0, ceiling_s))
