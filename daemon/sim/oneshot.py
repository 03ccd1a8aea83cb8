"""Workloads of requests that do not know of each other: tools, programming, videos, documents, a noisy neighbour.

Four are those of Table 1 of the Preble paper, whose statistics tell their shape. "Shared" is what an infinite cache
would hit, request after request: the share of requests that are the first of their item explains the spread of it
(video: 1/8.6 of the requests hit nothing, so the mean is 88 % and the deviation 32 %). Items per run follow section 5.2
of our notes: as many tools per GPU as the paper had; videos, documents and problems as the number of requests asks for.
"""

from collections.abc import Iterator
from itertools import count, islice, repeat

import numpy as np

from preble.daemon.ids import RequestId, TenantName
from preble.daemon.sim.arrivals import AZURE_CODE
from preble.daemon.sim.demand import DEFAULT_TENANT, Demand
from preble.daemon.sim.draws import ANSWER, ITEM, QUESTION, SHARED, Items, Lengths, content
from preble.daemon.sim.types import Piece, SimRequest

SYSTEM = content(SHARED, 0)

TOOLS_PER_GPU = 100
ZIPF_TOOLS_PER_GPU = 160
TOOL_REQUESTS = 39
"""Requests per tool, in the mean; with 64 as the deviation."""
_TOOL_SYSTEM_TOKENS = 185
_TOOL = Lengths(1440, 715, least=60, most=3600)
_TOOL_QUESTION = Lengths(220, 100, least=8)
_TOOL_OUTPUT = Lengths(43, 16, most=256)

SAMPLES = 10
"""Answers asked for to each programming problem. Table 1's 126 requests per key portion are the few thousand that share
the demonstration, averaged with the ten of each problem that is longer than the demonstration."""
_DEMONSTRATION_TOKENS = 2780
_PROBLEM = Lengths(1085, 1720, least=40, most=16_000)
_SAMPLE = Lengths(12, 2, least=8)  # the reference ends each prompt with a number of its own
_PROGRAM = Lengths(194, 400, most=4096)

VIDEO_QUESTIONS = Lengths(8.6, 2)
_VIDEO = Lengths(9890, 6400, least=500, most=32_000)
_VIDEO_QUESTION = Lengths(62, 15, least=20)
_VIDEO_OUTPUT = Lengths(4, 1.5, most=16)

DOCUMENT_QUESTIONS = Lengths(18, 8.6)
_DOCUMENT_SYSTEM_TOKENS = 13
_DOCUMENT = Lengths(23_800, 7000, least=2000)
_CONTEXT_TOKENS = 32_768  # beyond it a document's middle is cut out, and where the cut ends depends on the question
_DOCUMENT_QUESTION = Lengths(26, 8, least=6)
_DOCUMENT_OUTPUT = Lengths(16, 10.8, most=48)

NEIGHBOURS = 7
TEMPLATES = 2
FLOODER = TenantName("flooder")
_TEMPLATE = Lengths(1500, 300, least=500)
_NEIGHBOUR_QUESTION = Lengths(150, 75, least=10)
_FLOOD_PROMPT = Lengths(1650, 500, least=100)
_CHAT_OUTPUT = Lengths(100, 60, most=512)


def tool(demand: Demand) -> Iterator[SimRequest]:
    """Tool use (ToolBench): a common system prompt, then the instructions of one of many tools, then a question."""
    shape, rng = demand.shape_rng(), demand.draw_rng()
    n_tools = demand.n_gpus * (ZIPF_TOOLS_PER_GPU if demand.popularity == "zipf" else TOOLS_PER_GPU)
    items = Items(n_tools, demand.popularity, 64 / 39, shape)
    lengths = [_TOOL.draw(shape) for _ in range(n_tools)]
    system = Piece(SYSTEM, _TOOL_SYSTEM_TOKENS)
    for number, at_s in _numbered(demand, demand.times_s(AZURE_CODE)):
        item = items.draw(rng)
        shared = (system, Piece(content(ITEM, item), lengths[item]))
        yield _request(number, at_s, shared, _TOOL_QUESTION.draw(rng), _TOOL_OUTPUT, rng)


def programming(demand: Demand) -> Iterator[SimRequest]:
    """Programs (APPS): a long common demonstration, then a problem, then several samples of it side by side."""
    rng = demand.draw_rng()
    demonstration = Piece(SYSTEM, _DEMONSTRATION_TOKENS)
    problem = Piece(0, 0)
    for number, at_s in _numbered(demand, demand.times_s(AZURE_CODE)):
        if number % SAMPLES == 0:
            problem = Piece(content(ITEM, number // SAMPLES), _PROBLEM.draw(rng))
        yield _request(number, at_s, (demonstration, problem), _SAMPLE.draw(rng), _PROGRAM, rng)


def video(demand: Demand) -> Iterator[SimRequest]:
    """Questions on videos (NExT-QA): the video, then a question. A video's questions come scattered over the run."""
    shape, rng = demand.shape_rng(), demand.draw_rng()
    asked = _shuffled(demand.requests, VIDEO_QUESTIONS, shape)
    lengths = [_VIDEO.draw(shape) for _ in range(int(asked.max(initial=0)) + 1)]
    for number, at_s in _numbered(demand, demand.times_s()):
        item = int(asked[number])
        shared = (Piece(content(ITEM, item), lengths[item]),)
        yield _request(number, at_s, shared, _VIDEO_QUESTION.draw(rng), _VIDEO_OUTPUT, rng)


def longdoc(demand: Demand) -> Iterator[SimRequest]:
    """Questions on documents (LooGLE): a short system prompt, a document, a question.

    A document that is too long loses its middle, as in the paper's benchmark, so only its first half is shared.
    """
    shape, rng = demand.shape_rng(), demand.draw_rng()
    asked = _shuffled(demand.requests, DOCUMENT_QUESTIONS, shape)
    lengths = [_DOCUMENT.draw(shape) for _ in range(int(asked.max(initial=0)) + 1)]
    system = Piece(SYSTEM, _DOCUMENT_SYSTEM_TOKENS)
    for number, at_s in _numbered(demand, demand.times_s()):
        item = int(asked[number])
        shared_tokens, own_tokens = lengths[item], _DOCUMENT_QUESTION.draw(rng)
        room = _CONTEXT_TOKENS - _DOCUMENT_SYSTEM_TOKENS
        if shared_tokens + own_tokens > room:
            shared_tokens, own_tokens = _CONTEXT_TOKENS // 2, room - _CONTEXT_TOKENS // 2
        shared = (system, Piece(content(ITEM, item), shared_tokens))
        yield _request(number, at_s, shared, own_tokens, _DOCUMENT_OUTPUT, rng)


def noisy_neighbour(demand: Demand) -> Iterator[SimRequest]:
    """Seven tenants, each with two templates of its own, beside one that floods with prompts that share nothing."""
    shape, rng = demand.shape_rng(), demand.draw_rng()
    lengths = [_TEMPLATE.draw(shape) for _ in range(NEIGHBOURS * TEMPLATES)]
    for number, at_s in _numbered(demand, demand.times_s()):
        shared: tuple[Piece, ...]
        if rng.random() < demand.flood_share:
            tenant, shared, own_tokens = FLOODER, (), _FLOOD_PROMPT.draw(rng)
        else:
            item = int(rng.integers(len(lengths)))
            tenant = TenantName(f"tenant{item // TEMPLATES + 1}")
            shared = (Piece(content(ITEM, item), lengths[item]),)
            own_tokens = _NEIGHBOUR_QUESTION.draw(rng)
        yield _request(number, at_s, shared, own_tokens, _CHAT_OUTPUT, rng, tenant)


def _numbered(demand: Demand, times_s: Iterator[float]) -> Iterator[tuple[int, float]]:
    return islice(zip(count(), times_s, strict=False), demand.requests)


def _shuffled(requests: int, per_item: Lengths, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Which item each request asks for."""
    asked: list[int] = []
    for item in count():
        if len(asked) >= requests:
            break
        asked.extend(repeat(item, per_item.draw(rng)))
    return rng.permutation(np.array(asked[:requests], dtype=np.int64))


def _request(
    number: int,
    at_s: float,
    shared: tuple[Piece, ...],
    own_tokens: int,
    output: Lengths,
    rng: np.random.Generator,
    tenant: TenantName = DEFAULT_TENANT,
) -> SimRequest:
    """A request whose prompt ends in something of its own."""
    return SimRequest(
        request_id=RequestId(f"r{number}"),
        tenant=tenant,
        at_s=at_s,
        prompt=(*shared, Piece(content(QUESTION, number), own_tokens)),
        output_tokens=output.draw(rng),
        output_content=content(ANSWER, number),
        max_output_tokens=output.most,
    )
