"""All plug-ins of a run: loads them, and closes what is no sink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.config.plugins import PluginSection
from pipeline.observe.status import PluginStatus, RunStatus
from pipeline.plugins.guard import Guard, StopSwitch
from pipeline.plugins.interface import Closes
from pipeline.plugins.loading import load_plugin


@dataclass(frozen=True, slots=True)
class Loaded:
    """A plug-in of the kind that its section says, and who calls it.

    Attributes:
        plugin: The user's object; `pipeline.plugins.interface` says what it has.
        guard: Every call of it goes through this.
        status: What the guard counts in.
        field: Where it stands in the configuration.
    """

    plugin: Any
    guard: Guard
    status: PluginStatus
    field: str


class PluginHost:
    """Loads plug-ins and remembers them.

    Args:
        status: The run's: counts go into its `plugins`, what stops it into its `errors`.

    Attributes:
        stop: Ends the run; does nothing until the run has set it.
    """

    def __init__(self, status: RunStatus | None = None) -> None:
        self._status = status or RunStatus()
        self.stop = StopSwitch()
        self._to_close: list[Loaded] = []

    def load(self, config: PluginSection, field: str, *, closes_itself: bool = False) -> Loaded:
        """Imports a plug-in and makes one.

        Args:
            config: Its section.
            field: Where that stands, such as `sinks[0]`.
            closes_itself: Whether somebody else calls its `close`.

        Raises:
            ConfigError: it cannot be used, in words.
        """
        plugin = load_plugin(config, field)
        status = self._status.plugins[field] = PluginStatus(config.use)
        guard = Guard(field, status, self._status.errors, on_error=config.on_error, stop=self.stop)
        loaded = Loaded(plugin, guard, status, field)
        if not closes_itself:
            self._to_close.append(loaded)
        return loaded

    def close(self) -> None:
        """Lets all that were given a batch complete what they have; raises nothing."""
        while self._to_close:
            loaded = self._to_close.pop()
            # One that has seen nothing has nothing to complete: a dry run should leave no file.
            if loaded.status.calls and isinstance(loaded.plugin, Closes):
                loaded.guard.close(loaded.plugin.close)
