"""Gives a fresh machine the events that a daemon recorded, at their times, and compares what it decides.

The machine is pure, so on the same code nothing differs, to the last digit; a replay under other code shows what a
change does to decisions, as far as the events would still have been the same.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

import msgspec

from preble.daemon.errors import ConfigError
from preble.daemon.flow.effects import Effect, Placed
from preble.daemon.flow.machine import Machine
from preble.daemon.flow.recording import Step, decode_header, decode_step, encode_effects
from preble.daemon.ids import GpuId, RequestId
from preble.daemon.sched.types import Mode


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A step in which the machine wanted something else."""

    line: int
    """Of the recording, from 1."""
    at_s: float
    event: str
    recorded: str
    replayed: str


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """How a replay went."""

    version: str
    """Of the Preble that recorded."""
    policy: str
    steps: int
    equal_steps: int
    """Whose effects are the same in all they say."""
    decisions: int
    equal_decisions: int
    """Which sent the same request to the same GPU by the same rule."""
    cut_off: bool
    """The last line is not whole, as when the daemon was killed; it is left out."""
    first_difference: Difference | None


class _Placement(msgspec.Struct, frozen=True):
    """What of a decision makes a difference to the request."""

    request_id: RequestId
    gpu: GpuId
    mode: Mode


class _Placed(msgspec.Struct, frozen=True):
    decision: _Placement


class _Effect(NamedTuple):
    kind: str
    value: msgspec.Raw


_effects = msgspec.json.Decoder(list[_Effect])


def replay(lines: Iterable[bytes]) -> Replayed:
    """Replay the lines of a recording. Raises `ConfigError`, which names the line, if they are none."""
    numbered = enumerate(lines, 1)
    try:
        header = decode_header(next(numbered, (1, b""))[1])
    except ConfigError as error:
        raise ConfigError(f"line 1: {error}") from error
    machine = Machine(header.scheduler)
    steps = equal_steps = decisions = equal_decisions = 0
    cut_off, first = False, None
    for number, line in numbered:
        if not line.endswith(b"\n"):
            cut_off = True
            break
        step = _decode(number, line)
        done = machine.step(step.event, step.at_s)
        steps += 1
        same = [before == now for before, now in zip_longest(_recorded(number, step), _placements(done))]
        decisions += len(same)
        equal_decisions += sum(same)
        effects = encode_effects(done)
        if effects == step.effects:
            equal_steps += 1
        elif first is None:
            first = Difference(
                line=number,
                at_s=step.at_s,
                event=type(step.event).__name__,
                recorded=step.effects.decode(),
                replayed=effects.decode(),
            )
    return Replayed(
        version=header.version,
        policy=header.scheduler.policy,
        steps=steps,
        equal_steps=equal_steps,
        decisions=decisions,
        equal_decisions=equal_decisions,
        cut_off=cut_off,
        first_difference=first,
    )


def _decode(number: int, line: bytes) -> Step:
    try:
        return decode_step(line)
    except ConfigError as error:
        raise ConfigError(f"line {number}: {error}") from error


def _recorded(number: int, step: Step) -> Iterator[_Placement]:
    try:
        for effect in _effects.decode(step.effects):
            if effect.kind == Placed.__name__:
                yield msgspec.json.decode(effect.value, type=_Placed).decision
    except msgspec.MsgspecError as error:
        raise ConfigError(f"line {number}: not the effects of a step: {error}") from error


def _placements(effects: Sequence[Effect]) -> Iterator[_Placement]:
    for effect in effects:
        if isinstance(effect, Placed):
            decision = effect.decision
            yield _Placement(decision.request_id, decision.gpu, decision.mode)
