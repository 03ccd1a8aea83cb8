"""structlog, for people on a terminal and as JSON lines elsewhere. Everything goes to stderr; keys never do."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

_SECRET_NAMES = frozenset({"authorization", "key", "api_key", "secret", "password"})
_KEY = re.compile(r"preble_(live|op)_([0-9A-Za-z]{12})_[\w-]+")


def configure(level: str, format_: Literal["auto", "console", "json"]) -> None:
    """Set up structlog, and have the standard library's loggers speak through it."""
    console = format_ == "console" or (format_ == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        hide_secrets,
    ]
    renderer: list[Any] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[_strip, *renderer]))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def hide_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep keys out of the log: by the field's name, and by their look wherever they stand."""
    for name, value in event.items():
        if name.lower() in _SECRET_NAMES:
            event[name] = "[hidden]"
        elif isinstance(value, str):
            event[name] = _KEY.sub(r"preble_\1_\2_[hidden]", value)
    return event


def _strip(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return structlog.stdlib.ProcessorFormatter.remove_processors_meta(logger, name, event)
