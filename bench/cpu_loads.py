"""Loads that two CPU engines of the demo model can bear, with caches too small for everything, and tables of them."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median

import msgspec

from preble.daemon.ids import RequestId
from preble.daemon.sim.demand import DEFAULT_TENANT, Demand
from preble.daemon.sim.draws import ANSWER, ITEM, QUESTION, RESULT, Lengths, content, spread
from preble.daemon.sim.fits import Fit, load_fit
from preble.daemon.sim.oneshot import tool
from preble.daemon.sim.report import Run, Setting, summarise
from preble.daemon.sim.types import Outcome, Piece, SimRequest

DOCUMENT = Path(__file__).resolve().parent.parent / "docs/real-engines.md"
KV_BLOCKS = 1600
"""Of each engine: 51,200 tokens."""
TOOLS = 60
ASSISTANTS = 8
TURNS = 5
_INSTRUCTIONS = Lengths(1200, 400, least=300, most=2500)
_QUESTION = Lengths(250, 120, least=20, most=1000)
_ANSWER = Lengths(30, 15, least=4, most=100)
_RESULT = Lengths(200, 100, least=20, most=800)
_PAUSE_S, _PAUSE_STD_S = 0.8, 0.6


def tools(demand: Demand) -> Iterator[SimRequest]:
    """The workload `tool`, with so many tools that both caches together hold their instructions and one does not."""
    return tool(replace(demand, items=TOOLS))


def agents(demand: Demand) -> Iterator[SimRequest]:
    """Sessions of five turns with tool calls in between, each with one of a few assistants' instructions."""
    shape = demand.shape_rng()
    instructions = [Piece(content(ITEM, number), _INSTRUCTIONS.draw(shape)) for number in range(ASSISTANTS)]
    n_sessions = demand.requests // TURNS
    for number, at_s in enumerate(islice(demand.times_s(per_arrival=TURNS), n_sessions)):
        turns = _talk(demand, number, instructions[int(shape.integers(ASSISTANTS))])
        yield replace(next(turns), at_s=at_s, session=turns)


def _talk(demand: Demand, session: int, instructions: Piece) -> Iterator[SimRequest]:
    rng = demand.session_rng(session)
    prompt = (instructions, Piece(content(QUESTION, session), _QUESTION.draw(rng)))
    for turn in range(TURNS):
        answer = Piece(content(ANSWER, session, turn), _ANSWER.draw(rng))
        yield SimRequest(
            request_id=RequestId(f"r{session}.{turn}"),
            tenant=DEFAULT_TENANT,
            at_s=spread(rng, _PAUSE_S, _PAUSE_STD_S),
            prompt=prompt,
            output_tokens=answer.n_tokens,
            output_content=answer.content,
            max_output_tokens=answer.n_tokens,
        )
        prompt = (*prompt, answer, Piece(content(RESULT, session, turn), _RESULT.draw(rng)))


LOADS: dict[str, Callable[[Demand], Iterator[SimRequest]]] = {"tools": tools, "agents": agents}


def requests(load: str, rate: float, seconds: float, seed: int) -> list[SimRequest]:
    """So many as come in that time. Clients tell how long each answer may be, which is how long it is."""
    demand = Demand(requests=round(rate * seconds), rate=rate, seed=seed)
    return [replace(request, max_output_tokens=request.output_tokens) for request in LOADS[load](demand)]


def small_fit(fit: str) -> Fit:
    """A calibration with these loads' cache."""
    found = load_fit(fit)
    return msgspec.structs.replace(found, engine=msgspec.structs.replace(found.engine, kv_blocks=KV_BLOCKS))


def numbers(outcomes: list[Outcome], load: str, rate: float, policy: str, seed: int, fit: Fit) -> Run:
    """A run's, real or simulated, in the simulator's terms."""
    setting = Setting(
        workload=load,
        policy=policy,
        fairness="d2lpm",
        gpus=2,
        rate=rate,
        seed=seed,
        fit="cpu-demo",
        arrivals="poisson",
    )
    return summarise(setting, outcomes, fit.time_model(), 0.0)


# --- the document ---


def of_seeds(values: list[float], form: str) -> str:
    """The median, and between what the seeds are."""
    middle = f"{median(values):{form}}"
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}}-{max(values):{form}})"


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    rule = ["---" if at == 0 else "--:" for at in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def fill(parts: dict[str, str], document: Path = DOCUMENT) -> None:
    """Put parts of a document between their markers."""
    text = document.read_text()
    for name, lines in parts.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda found, lines=lines: f"{found[1]}{lines}\n{found[2]}", text)
    document.write_text(text)
