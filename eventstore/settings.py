"""Settings: the few names that Runfold itself reads in a run's `config`, what shape each has, and how changes merge.

A run's config is any JSON of its owner's own. Where it is an object, these names in it mean something here:

| name | shape | what it does |
|---|---|---|
| `step_limit` | a whole number from 1 | how many steps the run's job, or the run, may make |
| `auto_accept` | true, a list of tool names, or an object | which questions need no person, and until when |
| `working_folder` | a text | where the agent works; for lists of what was used lately |
| `mcp_servers` | an object of objects, by name | how the agent's tools are started; kept, never interpreted |

They are looked at when they come in by `submit` and `configure`. Who goes round these two can still write anything: so
every reader goes through `known`, which passes over what has another shape. Pure; where settings are kept is the run's.

The object of `auto_accept` is `{"tools": "*" or a list of names, "until": an ISO time or null, "by": who granted it}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from attrs import field, frozen

from eventstore.errors import InvalidArgument
from eventstore.limits import MAX_INTEGER
from eventstore.payloads import Json, from_iso


@frozen
class AutoAccept:
    """A standing permission: questions about these tools need no person."""

    tools: frozenset[str] | None = None
    """None: every tool."""
    until: datetime | None = None
    """It does not count from then on; whoever goes by it compares, with a clock of its own."""
    by: str | None = None
    """Who granted it."""

    def covers(self, tool: str) -> bool:
        """Whether a call of this tool needs no person, while it stands."""
        return self.tools is None or tool in self.tools

    def stands(self, now: datetime) -> bool:
        """Whether its time has not passed."""
        return self.until is None or now < self.until


def auto_accept(config: Json) -> AutoAccept | None:
    """The standing permission that a config holds; None if there is none, or what stands there has another shape."""
    value = config.get("auto_accept") if isinstance(config, dict) else None
    if value is True:
        return AutoAccept()
    if not value or not _is_accepting(value):
        return None
    if isinstance(value, list | tuple):
        return AutoAccept(frozenset(value))
    tools, until = value["tools"], value.get("until")
    return AutoAccept(
        None if tools == "*" else frozenset(tools), None if until is None else from_iso(until), value.get("by")
    )


@frozen
class Known:
    """The settings that Runfold reads, as they stand; what is absent or of another shape is at its default."""

    step_limit: int | None = None
    auto_accept: AutoAccept | None = None
    working_folder: str | None = None
    mcp_servers: dict[str, Json] = field(factory=dict)

    def accepts(self, tool: str) -> bool:
        """Whether a call of this tool needs no person, while the permission stands."""
        return self.auto_accept is not None and self.auto_accept.covers(tool)


def _is_limit(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_INTEGER


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_accepting(value: Any) -> bool:
    if isinstance(value, dict):
        tools, until, by = value.get("tools"), value.get("until"), value.get("by")
        known_names = value.keys() <= {"tools", "until", "by"}
        named = tools == "*" or (isinstance(tools, list | tuple) and _is_accepting(tools))
        return known_names and named and (until is None or _is_time(until)) and (by is None or _is_text(by))
    return isinstance(value, bool) or (isinstance(value, list | tuple) and all(map(_is_text, value)))


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(from_iso(value))
    except ValueError:
        return False


def _is_servers(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(server, dict) for server in value.values())


_SHAPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "step_limit": (_is_limit, "must be a whole number from 1"),
    "auto_accept": (_is_accepting, "must be true, false, a list of tool names, or {tools, until, by}"),
    "working_folder": (_is_text, "must be a text of at least one character"),
    "mcp_servers": (_is_servers, "must be an object that holds an object for each server"),
}


def known(config: Json) -> Known:
    """What of a run's config Runfold reads; a wrong shape, or a config that is no object, is passed over."""
    if not isinstance(config, dict):
        return Known()
    found = {name: config[name] for name, (fits, _) in _SHAPES.items() if name in config and fits(config[name])}
    return Known(**{**found, "auto_accept": auto_accept(config)})


def check_settings(config: Json) -> None:
    """Look at a config on its way in: names that Runfold reads have their shape, or are null; all else is the owner's.

    Raises:
        InvalidArgument: a known name with another shape.
    """
    for name in _SHAPES.keys() & config.keys() if isinstance(config, dict) else ():
        fits, reason = _SHAPES[name]
        if config[name] is not None and not fits(config[name]):
            raise InvalidArgument(name, config[name], reason)


def merged(config: Json, changes: Mapping[str, Json]) -> Json:
    """A config with some of its names changed, as a new value; None takes a name away.

    Raises:
        InvalidArgument: no change is named, or the config is JSON without names.
    """
    if not changes:
        raise InvalidArgument("changes", {}, "name no setting; say which is to be what, such as step_limit=20")
    if config is not None and not isinstance(config, dict):
        raise InvalidArgument(
            "config", config, "is no object and has no names to change; append a RunConfigured with a whole new one"
        )
    after = {**(config or {}), **changes}
    return {name: value for name, value in after.items() if name not in changes or value is not None}
