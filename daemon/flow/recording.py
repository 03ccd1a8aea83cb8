"""What the machine was told and what it wanted done, as lines of JSON: the daemon writes them, `preble replay` reads.

The first line says what the machine was made with, every other one is a step: when it was, what happened, what was to
be done. Prompts are there as the keys of their blocks, and tenants by name; texts, tokens and keys are not.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

import msgspec

from preble.daemon.config import SchedulerConfig
from preble.daemon.errors import ConfigError
from preble.daemon.flow.effects import Effect
from preble.daemon.flow.events import Event, KvChange, KvReported
from preble.daemon.ids import GpuId

Record = Callable[[float, Event, Sequence[Effect]], None]
"""Takes a step: the machine's clock, what happened and what was to be done."""

FORMAT = 2
"""A new number whenever older recordings can no longer be read."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line."""

    format: int
    version: str
    """Of the Preble that recorded."""
    scheduler: SchedulerConfig


class Step(NamedTuple):
    """One step as it was recorded."""

    at_s: float
    """The machine's clock."""
    event: Event
    effects: bytes
    """As `encode_effects` has them."""


class _Named(msgspec.Struct, frozen=True, array_like=True):
    """A value of a union, behind its class's name."""

    kind: str
    value: msgspec.Raw


class _KvReported(msgspec.Struct, frozen=True):
    """`KvReported`, whose changes are of several classes."""

    gpu: GpuId
    epoch: int
    changes: list[_Named]


class _Line(msgspec.Struct, frozen=True):
    at_s: float
    event: _Named
    effects: msgspec.Raw


_KINDS: dict[str, Any] = {kind.__name__: kind for union in (Event, KvChange) for kind in get_args(union)}
_encode = msgspec.json.Encoder().encode
_line = msgspec.json.Decoder(_Line)
_header = msgspec.json.Decoder(Header)


def no_record(at_s: float, event: Event, effects: Sequence[Effect]) -> None:
    """The `Record` of who does not record."""


def encode_header(version: str, scheduler: SchedulerConfig) -> bytes:
    """The first line."""
    return _encode(Header(format=FORMAT, version=version, scheduler=scheduler)) + b"\n"


def encode_step(at_s: float, event: Event, effects: Sequence[Effect]) -> bytes:
    """The line of one step."""
    line = {"at_s": at_s, "event": _named(event), "effects": msgspec.Raw(encode_effects(effects))}
    return _encode(line) + b"\n"


def encode_effects(effects: Sequence[Effect]) -> bytes:
    """Effects such that equal ones, and no others, are the same bytes."""
    return _encode([(type(effect).__name__, effect) for effect in effects])


def _named(event: Event | KvChange) -> Any:
    value: Any = event
    if isinstance(event, KvReported):
        value = {"gpu": event.gpu, "epoch": event.epoch, "changes": [_named(change) for change in event.changes]}
    return type(event).__name__, value


def decode_header(line: bytes) -> Header:
    """Raises `ConfigError` if it is none that this version reads."""
    try:
        header = _header.decode(line)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"not a recording that this Preble can read: {error}") from error
    if header.format != FORMAT:
        raise ConfigError(f"a recording of format {header.format}, by Preble {header.version}; this one reads {FORMAT}")
    return header


def decode_step(line: bytes) -> Step:
    """Raises `ConfigError` if the line is no step."""
    try:
        found = _line.decode(line)
        return Step(found.at_s, _value(found.event), bytes(found.effects))
    except (msgspec.MsgspecError, KeyError) as error:
        raise ConfigError(f"not a step of a recording: {error}") from error


def _value(named: _Named) -> Any:
    kind = _KINDS[named.kind]
    if kind is KvReported:
        report = msgspec.json.decode(named.value, type=_KvReported)
        return KvReported(gpu=report.gpu, epoch=report.epoch, changes=tuple(map(_value, report.changes)))
    return msgspec.json.decode(named.value, type=kind)
