"""From `use` and `options` to an object of the user's: every way in which that can go wrong has its own words.

This runs the user's code; it is done when a run is prepared, never by `vramline validate`.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.config.plugins import PluginPost, PluginSection, PluginSink
from pipeline.errors import ConfigError, ConfigIssue
from pipeline.plugins.interface import PostprocessPlugin, SinkPlugin, StagePlugin
from pipeline.redact import redact

log = logging.getLogger(__name__)

GROUP = "vramline.plugins"


def load_plugin(config: PluginSection, field: str) -> SinkPlugin | StagePlugin | PostprocessPlugin:
    """Imports what `config.use` names and makes one with `config.options`.

    Args:
        config: The section.
        field: Where it stands in the configuration, such as `sinks[0]`.

    Raises:
        ConfigError: there is no such thing, it cannot be imported, it refuses its options or is no plug-in of this kind.
    """
    factory = _find(config.use, f"{field}.use")
    options = _options(factory, config.options, f"{field}.options")
    try:
        plugin = factory(**options)
    except (Exception, SystemExit) as e:
        log.debug("%s.options: %s refused them", field, config.use, exc_info=True)
        raise _error(f"{field}.options", f"{config.use} refused its options: {words(e)}") from e
    _check(plugin, config, f"{field}.use")
    return plugin  # type: ignore[no-any-return]  # as checked


def words(error: BaseException) -> str:
    """`ValueError: what it says` on one line, without credentials."""
    # Unlike str() this takes an exception that cannot be put into words.
    return redact(" ".join(traceback.format_exception_only(error)[-1].split()))[:500]


def _error(field: str, message: str, hint: str | None = None) -> ConfigError:
    return ConfigError([ConfigIssue(message, field, hint=hint)])


def _find(use: str, field: str) -> Callable[..., Any]:
    if ":" in use:
        module_name, _, name = use.partition(":")
        found = _attribute(_module(module_name, field), name, field)
    else:
        found = _entry_point(use, field)
    if not callable(found):
        raise _error(field, f"{use} is {type(found).__name__}, not a class or function that makes a plug-in")
    return found


def _entry_point(name: str, field: str) -> object:
    known = entry_points(group=GROUP)
    if name not in known.names:
        installed = ", ".join(sorted(known.names)) or "none"
        raise _error(
            field,
            f"no installed package has a plug-in {name!r} (entry points of the group {GROUP}: {installed})",
            "for a module of your own write module:Class",
        )
    try:
        return known[name].load()
    except (Exception, SystemExit) as e:
        raise _import_error(f"{name} ({known[name].value})", e, field) from e


def _module(name: str, field: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        # One that it imports may be missing too; that is another mistake.
        if e.name is not None and (name == e.name or name.startswith(f"{e.name}.")):
            raise _error(field, f"no module {name!r} in the {_looked_in()}", _where_hint(name)) from None
        raise _import_error(name, e, field) from e
    except (Exception, SystemExit) as e:
        raise _import_error(name, e, field) from e


def _looked_in() -> str:
    import sys

    folders = [str(Path(entry or ".").absolute()) for entry in sys.path]
    return f"{len(folders)} places that Python searches ({', '.join(folders[:3])}, ...)"


def _where_hint(name: str) -> str:
    top = name.partition(".")[0]
    if Path(f"{top}.py").is_file() or Path(top).is_dir():
        return "it is in the working directory, which Python does not search by itself: start with PYTHONPATH=."
    return "name the folder that it is in with PYTHONPATH=FOLDER, or install it as a package"


def _import_error(what: str, error: BaseException, field: str) -> ConfigError:
    log.error("importing %s failed", what, exc_info=error)
    return _error(field, f"importing {what} failed: {words(error)}")


def _attribute(module: object, name: str, field: str) -> object:
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            own = getattr(module, "__name__", "")
            there = [k for k, v in vars(module).items() if inspect.isclass(v) and v.__module__ == own]
            raise _error(
                field,
                f"the module {own} ({getattr(module, '__file__', 'no file')}) has no {name!r}",
                f"its classes are: {', '.join(there) or 'none'}",
            )
        found = getattr(found, part)
    return found


def _options(factory: Callable[..., Any], options: Mapping[str, Any], field: str) -> dict[str, Any]:
    """The keyword arguments, as the class's `Options` makes of them if it has one."""
    model = getattr(factory, "Options", None)
    if inspect.isclass(model) and issubclass(model, BaseModel):
        try:
            checked = model.model_validate(dict(options))
        except ValidationError as e:
            raise ConfigError(
                [
                    ConfigIssue(redact(error["msg"]), ".".join([field, *map(str, error["loc"])]))
                    for error in e.errors(include_url=False, include_input=False)
                ]
            ) from None
        return {name: getattr(checked, name) for name in model.model_fields}
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some classes written in C have none
        return dict(options)
    try:
        signature.bind(**options)
    except TypeError as e:
        named = [n for n, p in signature.parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        raise _error(field, str(e), f"its options are: {', '.join(named) or 'none'}") from None
    return dict(options)


def _check(plugin: object, config: PluginSection, field: str) -> None:
    if isinstance(config, PluginSink):
        fits, needed = isinstance(plugin, SinkPlugin) and callable(plugin.write), "a sink needs a method write(batch)"
    elif isinstance(config, PluginPost):
        fits, needed = callable(plugin), "a postprocessor needs a method __call__(outputs, batch)"
    else:
        fits, needed = callable(plugin), "a stage needs a method __call__(batch)"
    if not fits:
        raise _error(field, f"{config.use} made {type(plugin).__name__}, which is no such plug-in: {needed}")
    arrays = getattr(plugin, "arrays", "numpy")
    if arrays not in ("numpy", "device"):
        raise _error(field, f"{config.use} declares arrays = {arrays!r}, allowed is 'numpy' or 'device'")
    if arrays == "device" and not isinstance(config, PluginPost):
        raise _error(field, f"{config.use} declares arrays = 'device', but results are always NumPy arrays")
