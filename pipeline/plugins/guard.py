"""Between the run and somebody else's code: every call is counted, and an exception in it stays there."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal, TypeVar

from pipeline.errors import VramlineError
from pipeline.observe.status import PluginStatus
from pipeline.plugins.loading import words

log = logging.getLogger(__name__)

T = TypeVar("T")

_WITH_TRACEBACK = 3
# What a plug-in gets to complete what it has; after that the run ends without it.
CLOSE_TIMEOUT_S = 10.0


class PluginError(VramlineError):
    """A call of a plug-in raised; it has been counted and logged, and who called goes on without it."""


class StopSwitch:
    """How a plug-in that fails with `on_error: stop` ends the run.

    Attributes:
        on_stop: Ends the run soon and cleanly; the run sets it when it starts.
    """

    def __init__(self) -> None:
        self.on_stop: Callable[[], None] | None = None

    def __call__(self) -> None:
        """Ends the run, if it has begun."""
        if self.on_stop is not None:
            self.on_stop()


class Guard:
    """Calls one plug-in.

    Args:
        field: Where it stands in the configuration.
        status: Is counted in.
        errors: `RunStatus.errors`: why the run was stopped goes here.
        on_error: What is done about an exception.
        stop: Ends the run.

    Attributes:
        is_busy: Whether a call is under way.
    """

    def __init__(
        self,
        field: str,
        status: PluginStatus,
        errors: list[str],
        *,
        on_error: Literal["skip", "stop"] = "skip",
        stop: StopSwitch | None = None,
    ) -> None:
        self._field = field
        self._status = status
        self._errors = errors
        self._stops = on_error == "stop"
        self._stop = stop or StopSwitch()
        self._has_stopped = False
        self._lock = threading.Lock()  # a device's calls and their results are in two threads
        self.is_busy = False

    def call(self, work: Callable[[], T], *, counts: bool = True) -> T:
        """What `work` returns.

        Args:
            work: Calls the plug-in, and checks what it gives.
            counts: Whether this is a batch, and not one of the calls around them.

        Raises:
            PluginError: it raised.
        """
        start_s = time.perf_counter()
        self.is_busy = True
        try:
            return work()
        except (Exception, SystemExit) as e:
            self._note(e)
            raise PluginError(f"{self._field}: {words(e)}") from e
        finally:
            self.is_busy = False
            with self._lock:
                self._status.calls += counts
                self._status.busy_s += time.perf_counter() - start_s

    def close(self, close: Callable[[], None]) -> None:
        """Lets it complete what it has, within `CLOSE_TIMEOUT_S`; an error is noted, nothing is raised."""
        if self.is_busy:
            self._note(TimeoutError("a call did not return; it is left without being closed"))
            return

        def work() -> None:
            try:
                close()
            except (Exception, SystemExit) as e:
                self._note(e)

        # A thread of its own, because there is no other way to give up on a call.
        thread = threading.Thread(target=work, name=f"close-{self._field}", daemon=True)
        thread.start()
        thread.join(CLOSE_TIMEOUT_S)
        if thread.is_alive():
            self._note(TimeoutError(f"close() did not return within {CLOSE_TIMEOUT_S:g} s"))

    def _note(self, error: BaseException) -> None:
        with self._lock:
            self._status.errors += 1
            count = self._status.errors
            self._status.last_error = text = words(error)
            stops, self._has_stopped = self._stops and not self._has_stopped, self._has_stopped or self._stops
        if count <= _WITH_TRACEBACK:
            log.error("%s (%s) failed: %s", self._field, self._status.use, text, exc_info=error)
        elif str(count).rstrip("0") == "1":  # 10, 100, 1000...
            log.error("%s (%s) has failed %d times, now: %s", self._field, self._status.use, count, text)
        if stops:
            self._errors.append(f"{self._field}: {self._status.use} failed, which stops the run: {text}")
            self._stop()
