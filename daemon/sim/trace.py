"""Traces in the form that Mooncake publishes (JSON Lines): read as requests, and written from a workload.

A line has `timestamp` (ms from the start), `input_length`, `output_length` (tokens) and `hash_ids`, one for each 512
tokens of the prompt; equal ids are equal blocks, with equal blocks before them. A `tenant`, which Mooncake's lines do
not have, is ours.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Annotated

import msgspec

from preble.daemon.errors import ConfigError
from preble.daemon.ids import RequestId, TenantName
from preble.daemon.sim.demand import DEFAULT_TENANT
from preble.daemon.sim.draws import ANSWER, ITEM, content
from preble.daemon.sim.sessions import unrolled
from preble.daemon.sim.types import Piece, SimRequest

BLOCK_TOKENS = 512

_Tokens = Annotated[int, msgspec.Meta(ge=1, le=2**31)]


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    timestamp: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    input_length: _Tokens
    output_length: _Tokens
    hash_ids: tuple[int, ...]
    tenant: Annotated[str, msgspec.Meta(min_length=1)] = DEFAULT_TENANT


def read(path: Path, limit: int | None = None, rate: float | None = None) -> list[SimRequest]:
    """The first `limit` requests, sped up or slowed down to `rate` requests per second if one is given.

    Raises `ConfigError`, which names the line.
    """
    try:
        with path.open("rb") as file:
            lines = list(_checked(path, file, limit))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if not lines:
        raise ConfigError(f"{path}: there is no request in it")
    stretch = 1.0
    if rate is not None:
        own_rate = mean_rate([line.timestamp / 1000 for line in lines])
        if own_rate is None:
            raise ConfigError(f"{path}: all {len(lines)} requests come at once, so that no rate can be made of it")
        stretch = own_rate / rate
    numbers: dict[int, int] = {}
    start_ms = lines[0].timestamp
    return [
        SimRequest(
            request_id=RequestId(f"r{number}"),
            tenant=TenantName(line.tenant),
            at_s=(line.timestamp - start_ms) / 1000 * stretch,
            prompt=tuple(_pieces(line, numbers)),
            output_tokens=line.output_length,
            output_content=content(ANSWER, number),
            max_output_tokens=line.output_length,
        )
        for number, line in enumerate(lines)
    ]


def mean_rate(times_s: list[float]) -> float | None:
    """Requests per second of arrivals at these times; None if they are at one time."""
    span_s = times_s[-1] - times_s[0]
    return (len(times_s) - 1) / span_s if span_s > 0 else None


def write(requests: Iterator[SimRequest]) -> Iterator[bytes]:
    """The lines of a trace of these requests; sessions come as if answers took no time, for a trace knows no answers.

    What two prompts share beyond their last full block in common is not shared in the trace.
    """
    ids: dict[tuple[int, tuple[tuple[int, int, int], ...]], int] = {}
    for request in unrolled(requests):
        hash_ids: list[int] = []
        for block in _blocks(request.prompt):
            before = hash_ids[-1] if hash_ids else -1
            hash_ids.append(ids.setdefault((before, block), len(ids)))
        line = _Line(
            timestamp=round(request.at_s * 1000),
            input_length=request.prompt_tokens,
            output_length=request.output_tokens,
            hash_ids=tuple(hash_ids),
            tenant=request.tenant,
        )
        yield msgspec.json.encode(line) + b"\n"


def _checked(path: Path, raw_lines: Iterable[bytes], limit: int | None) -> Iterator[_Line]:
    decoder = msgspec.json.Decoder(_Line)
    last_ms = 0.0
    for number, raw in enumerate(islice(raw_lines, limit), 1):
        try:
            line = decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}:{number}: {error}") from None
        n_blocks = ceil(line.input_length / BLOCK_TOKENS)
        if len(line.hash_ids) != n_blocks:
            what = f"{len(line.hash_ids)} hash_ids for {line.input_length} tokens, which are {n_blocks} blocks of 512"
            raise ConfigError(f"{path}:{number}: {what}")
        if line.timestamp < last_ms:
            raise ConfigError(f"{path}:{number}: timestamp {line.timestamp:g} is before the last one, {last_ms:g}")
        last_ms = line.timestamp
        yield line


def _pieces(line: _Line, numbers: dict[int, int]) -> Iterator[Piece]:
    left = line.input_length
    for hash_id in line.hash_ids:
        number = numbers.setdefault(hash_id, len(numbers))
        yield Piece(content(ITEM, number), min(left, BLOCK_TOKENS))
        left -= BLOCK_TOKENS


def _blocks(prompt: tuple[Piece, ...]) -> Iterator[tuple[tuple[int, int, int], ...]]:
    """Runs of 512 tokens: of each piece in it the content, where in it the run begins, and how many tokens."""
    block: list[tuple[int, int, int]] = []
    room = BLOCK_TOKENS
    for piece in prompt:
        start = 0
        while start < piece.n_tokens:
            taken = min(room, piece.n_tokens - start)
            block.append((piece.content, start, taken))
            start += taken
            room -= taken
            if room == 0:
                yield tuple(block)
                block, room = [], BLOCK_TOKENS
    if block:
        yield tuple(block)
