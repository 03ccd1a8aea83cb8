"""Workloads of clients that wait for an answer before they send more, so that a prompt grows from the one before.

Each session draws from a generator of its own: what it sends does not depend on when the simulation gets to it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count, islice

from preble.daemon.ids import RequestId, TenantName
from preble.daemon.sim.arrivals import gaps_s
from preble.daemon.sim.demand import DEFAULT_TENANT, Demand
from preble.daemon.sim.draws import ANSWER, ITEM, QUESTION, RESULT, SHARED, Lengths, content, spread
from preble.daemon.sim.types import Piece, SimRequest

EMBODIED_PER_GPU = 100
"""Embodied agents that run at once (section 5.2 of our notes: 200 sessions on two GPUs)."""
EPISODE_STEPS = Lengths(48, 8, least=2)
_GAME = Lengths(1675, 280, least=300)
_OBSERVATION = Lengths(9, 5)
_ACTION = Lengths(16, 13, most=128)

_MAX_AGENT_OUTPUT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of agent, in the mean of InferCept's workloads. The parts of its prompt add up to their mean context."""

    name: str
    pause_s: float
    pause_std_s: float
    """Of the tool, or of the person."""
    calls: float
    """How often it pauses."""
    system_tokens: int
    """Instructions and tools' definitions, the same for all sessions of the kind."""
    question: Lengths
    answer: Lengths
    result: Lengths
    """What the tool or the person says."""
    calls_tools: bool = True

    @property
    def mean_requests(self) -> float:
        """Requests of a session."""
        return self.calls + 1


KINDS = (
    Kind(
        name="calculator", pause_s=9e-5, pause_std_s=2e-5, calls=3.75, system_tokens=1200,
        question=Lengths(100, 50), answer=Lengths(55, 25), result=Lengths(10, 4),
    ),
    Kind(
        name="wikipedia", pause_s=0.69, pause_std_s=0.17, calls=2.52, system_tokens=1365,
        question=Lengths(40, 20), answer=Lengths(55, 25), result=Lengths(220, 110),
    ),
    Kind(
        name="alfworld", pause_s=0.09, pause_std_s=0.014, calls=28.18, system_tokens=1400,
        question=Lengths(150, 40), answer=Lengths(24, 12), result=Lengths(21, 12),
    ),
    Kind(
        name="chat", pause_s=28.6, pause_std_s=15.6, calls=4.45, system_tokens=60,
        question=Lengths(60, 40), answer=Lengths(190, 130), result=Lengths(50, 35), calls_tools=False,
    ),
    Kind(
        name="image", pause_s=20.03, pause_std_s=7.8, calls=6.91, system_tokens=760,
        question=Lengths(60, 30), answer=Lengths(75, 35), result=Lengths(35, 15),
    ),
    Kind(
        name="speech", pause_s=17.24, pause_std_s=7.6, calls=6.91, system_tokens=755,
        question=Lengths(65, 30), answer=Lengths(75, 35), result=Lengths(35, 15),
    ),
)  # fmt: skip


def embodied(demand: Demand) -> Iterator[SimRequest]:
    """Embodied agents (ALFWorld): each plays one game after the other, a request per step, the history growing.

    A fixed number of agents plays. Between steps each waits so long that all of them together would send at the rate
    if answers took no time; as they take some, what is sent falls behind the rate, as in any closed loop.
    """
    rng = demand.shape_rng()
    games = list(_shares(demand.requests, lambda: EPISODE_STEPS.draw(rng)))
    n_agents = min(demand.items or EMBODIED_PER_GPU * demand.n_gpus, len(games))
    for agent, at_s in enumerate(islice(demand.times_s(), n_agents)):
        yield _started(_plays(demand, agent, games[agent::n_agents], n_agents), at_s)


def _plays(demand: Demand, agent: int, games: list[int], n_agents: int) -> Iterator[SimRequest]:
    rng = demand.session_rng(agent)
    waits_s = gaps_s(demand.arrivals, demand.rate / n_agents, rng)
    number = count()
    for steps in games:
        first = next(number)
        prompt: tuple[Piece, ...] = (Piece(content(ITEM, agent, first), _GAME.draw(rng)),)
        for step in range(steps):
            part = first if step == 0 else next(number)
            if step:
                prompt = (*prompt, Piece(content(RESULT, agent, part), _OBSERVATION.draw(rng)))
            action = Piece(content(ANSWER, agent, part), _ACTION.draw(rng))
            yield SimRequest(
                request_id=RequestId(f"r{agent}.{part}"),
                tenant=DEFAULT_TENANT,
                at_s=next(waits_s),
                prompt=prompt,
                output_tokens=action.n_tokens,
                output_content=action.content,
                max_output_tokens=_ACTION.most,
            )
            prompt = (*prompt, action)


def agent(demand: Demand) -> Iterator[SimRequest]:
    """Agents that call tools, and people who chat: InferCept's six workloads in equal parts, each a tenant.

    Sessions begin as they come; within one, the next request follows the answer after the tool's or person's pause.
    """
    rng = demand.shape_rng()
    per_session = sum(kind.mean_requests for kind in KINDS) / len(KINDS)
    kinds: list[Kind] = []

    def session() -> int:
        kinds.append(KINDS[int(rng.integers(len(KINDS)))])
        return 1 + int(rng.poisson(kinds[-1].calls))

    times_s = demand.times_s(per_arrival=per_session)
    for number, n_requests in enumerate(_shares(demand.requests, session)):
        yield _started(_talks(demand, number, kinds[number], n_requests), next(times_s))


def _talks(demand: Demand, session: int, kind: Kind, n_requests: int) -> Iterator[SimRequest]:
    rng = demand.session_rng(session)
    question = Piece(content(QUESTION, session), kind.question.draw(rng))
    prompt: tuple[Piece, ...] = (Piece(content(SHARED, 1 + KINDS.index(kind)), kind.system_tokens), question)
    for turn in range(n_requests):
        answer = Piece(content(ANSWER, session, turn), kind.answer.draw(rng))
        yield SimRequest(
            request_id=RequestId(f"r{session}.{turn}"),
            tenant=TenantName(kind.name),
            at_s=spread(rng, kind.pause_s, kind.pause_std_s),
            prompt=prompt,
            output_tokens=answer.n_tokens,
            output_content=answer.content,
            max_output_tokens=_MAX_AGENT_OUTPUT,
            calls_tools=kind.calls_tools and turn + 1 < n_requests,
        )
        prompt = (*prompt, answer, Piece(content(RESULT, session, turn), kind.result.draw(rng)))


def unrolled(requests: Iterator[SimRequest]) -> Iterator[SimRequest]:
    """All requests, sessions' later ones too, in the order in which they would come if answers took no time."""
    ahead: list[tuple[float, int, SimRequest, Iterator[SimRequest]]] = []
    order = count()  # of those at the same time, the one that was known first

    def then(request: SimRequest, at_s: float, session: Iterator[SimRequest]) -> SimRequest:
        following = next(session, None)
        if following is not None:
            heappush(ahead, (at_s + following.at_s, next(order), following, session))
        return replace(request, at_s=at_s, session=None)

    for request in requests:
        while ahead and ahead[0][0] <= request.at_s:
            at_s, _, later, session = heappop(ahead)
            yield then(later, at_s, session)
        yield then(request, request.at_s, request.session or iter(()))
    while ahead:
        at_s, _, later, session = heappop(ahead)
        yield then(later, at_s, session)


def _started(requests: Iterator[SimRequest], at_s: float) -> SimRequest:
    """A session's first request, which carries the others."""
    return replace(next(requests), at_s=at_s, session=requests)


def _shares(requests: int, draw: Callable[[], int]) -> Iterator[int]:
    """Cut so many requests into parts of drawn sizes; the last gets what is left."""
    while requests > 0:
        size = min(draw(), requests)
        requests -= size
        yield size
