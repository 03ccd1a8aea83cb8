"""structlog, for people on a terminal and as JSON lines elsewhere. Everything goes to stderr; keys never do."""

import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Literal

import structlog

from preble.daemon.obs.live.tail import LogTail

_SECRET_NAMES = frozenset({"authorization", "key", "api_key", "secret", "password"})
_HIDDEN = "[hidden]"
_KEY = re.compile(r"preble_(live|op)_([0-9A-Za-z]{12})_[\w-]+")


def configure(level: str, format_: Literal["auto", "console", "json"], tail: LogTail | None = None) -> bool:
    """Set up structlog, and have the standard library's loggers speak through it; say whether lines are for people.

    `tail` gets every line too.
    """
    is_terminal = sys.stderr.isatty()
    console = format_ == "console" or (format_ == "auto" and is_terminal)
    colours = is_terminal and not os.environ.get("NO_COLOR")
    before: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,  # the console's own way prints local variables: prompts, and keys
        hide_named_secrets,
        *([_without_control_characters] if console else []),  # JSON escapes them
    ]
    printer = structlog.dev.ConsoleRenderer(colors=colours) if console else structlog.processors.JSONRenderer()
    after: list[Any] = [*([_passed_on(tail)] if tail is not None else []), printer, hide_keys]
    structlog.configure(
        processors=[*before, *after],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=[_from_record, *before, *after]))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    return console


def hide_named_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep out what the name of a field, or of a header in one, calls secret."""
    return {name: _hidden(name, value) for name, value in event.items()}


def hide_keys(_: Any, __: str, line: str) -> str:
    """Keep keys out by their look, wherever in the finished line they stand. Their id stays, to find them by."""
    return _KEY.sub(rf"preble_\1_\2_{_HIDDEN}", line)


def _passed_on(tail: LogTail) -> Callable[[Any, str, MutableMapping[str, Any]], MutableMapping[str, Any]]:
    def pass_on(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        tail.take(event, lambda text: hide_keys(None, "", text))
        return event

    return pass_on


def _hidden(name: str, value: Any) -> Any:
    if name.lower() in _SECRET_NAMES:
        return _HIDDEN
    if isinstance(value, Mapping):
        return {inner: _hidden(str(inner), each) for inner, each in value.items()}
    return value


def _without_control_characters(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What came from a client must not move the operator's cursor."""
    return {name: _printable(value) if isinstance(value, str) else value for name, value in event.items()}


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)


def _from_record(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Of what the standard library knows of a line keep what structlog would, and the logger's name."""
    kept = {name: value for name, value in event.items() if not name.startswith("_")}
    return {**kept, "logger": event["_record"].name}
