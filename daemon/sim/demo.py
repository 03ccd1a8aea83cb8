"""Traffic without end that shows what a console can show: tenants of all kinds, surges, an engine that fails."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import merge
from itertools import islice

from preble.daemon.ids import GpuId, RequestId, TenantName
from preble.daemon.sim.demand import Demand
from preble.daemon.sim.types import Piece, SimRequest
from preble.daemon.sim.workloads import WORKLOADS
from preble.daemon.wire.live import TemplateKey

GPUS = 4
_ENDLESS = 2**40
_CONTENTS = 59
"""Each part of the traffic has contents of its own: numbers that differ from this bit on."""
_PERIOD_S, _CALM_S, _SURGE = 120.0, 90.0, 2.5
_LOOKED_AT, _MOST_TEMPLATES = 40, 3
FAILURE_EVERY_S, FAILURE_S = 150.0, 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One kind of clients."""

    workload: str
    rate: float
    """Requests per second."""
    tenants: tuple[str, ...]
    """Of these in turn, by request or by session; none: those of the workload."""
    surges: bool = False


PARTS = (
    Part(workload="agent", rate=8.0, tenants=("acme", "acme", "zoo")),
    Part(workload="tool", rate=7.0, tenants=("planner",), surges=True),
    Part(workload="noisy_neighbour", rate=4.0, tenants=("shop", "press")),
    Part(workload="longdoc", rate=0.25, tenants=("archive",)),
)
BATCH = (TenantName("archive"),)
WEIGHTS: Mapping[TenantName, float] = {TenantName("acme"): 2.0, TenantName("archive"): 0.5}


def traffic(seed: int) -> Iterator[SimRequest]:
    """Requests in the order of their arrival, for ever."""
    return merge(*(_part(number, part, seed) for number, part in enumerate(PARTS)), key=lambda request: request.at_s)


def failures() -> Iterator[tuple[GpuId, float]]:
    """Which engine dies, and when; for a day, one after the other. It is back `FAILURE_S` later."""
    for number in range(1, int(86_400 / FAILURE_EVERY_S)):
        yield GpuId(f"gpu{number % GPUS}"), number * FAILURE_EVERY_S


def _part(number: int, part: Part, seed: int) -> Iterator[SimRequest]:
    demand = Demand(requests=_ENDLESS, rate=part.rate, seed=seed + number, n_gpus=GPUS)
    for count, request in enumerate(WORKLOADS[part.workload].generate(demand)):
        at_s = _surging_s(request.at_s) if part.surges else request.at_s
        yield _renamed(replace(request, at_s=at_s), number, part.tenants[count % len(part.tenants)])


def _renamed(request: SimRequest, number: int, tenant: str) -> SimRequest:
    """The same of another tenant, with contents and a name that no other part of the traffic has."""
    session = request.session
    return replace(
        request,
        request_id=RequestId(f"req-{number}{request.request_id.removeprefix('r')}"),
        tenant=TenantName(tenant),
        prompt=tuple(Piece(_content(piece.content, number), piece.n_tokens) for piece in request.prompt),
        output_content=_content(request.output_content, number),
        session=None if session is None else (_renamed(each, number, tenant) for each in session),
    )


def _content(content: int, number: int) -> int:
    return content | number << _CONTENTS


def _surging_s(at_s: float) -> float:
    """Evenly spaced times, moved so that there are more of them at the end of each period."""
    surge_s = _PERIOD_S - _CALM_S
    even_s = (_CALM_S + _SURGE * surge_s) / _PERIOD_S  # what comes in a second of the time that is given
    periods, rest = divmod(at_s, _PERIOD_S)
    come = rest * even_s
    return periods * _PERIOD_S + (come if come <= _CALM_S else _CALM_S + (come - _CALM_S) / _SURGE)


def registered(seed: int) -> dict[TemplateKey, tuple[Piece, ...]]:
    """Prefixes that could be templates: agents' system prompts, what tools begin with, what shops do.

    Those that several tenants use are the operator's.
    """
    found: dict[TemplateKey, tuple[Piece, ...]] = {}
    for name, number, n_pieces in (("agent", 0, 1), ("tool", 1, 2), ("shop", 2, 1)):
        requests = list(islice(_part(number, PARTS[number], seed), _LOOKED_AT))
        users: dict[tuple[Piece, ...], set[TenantName]] = {}
        for request in requests:
            if len(request.prompt) > n_pieces:
                users.setdefault(request.prompt[:n_pieces], set()).add(request.tenant)
        longest = sorted(users, key=lambda prompt: -sum(piece.n_tokens for piece in prompt))[:_MOST_TEMPLATES]
        versions: Counter[TenantName | None] = Counter()
        for prompt in longest:
            owner = None if len(users[prompt]) > 1 else min(users[prompt])
            versions[owner] += 1
            found[TemplateKey(owner=owner, name=name, version=versions[owner])] = prompt
    return found
