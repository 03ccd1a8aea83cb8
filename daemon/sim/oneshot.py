"""Workloads of requests that do not know of each other: tools, programming, videos, documents, a noisy neighbour.

Four are those of Table 1 of the Preble paper, whose statistics tell their shape. "Shared" is what an infinite cache
would hit, request after request: the share of requests that are the first of their item explains the spread of it
(video: 1/8.6 of the requests hit nothing, so the mean is 88 % and the deviation 32 %).

How many items are asked about at a time decides what a cache of a given size can do. They are as many per GPU as the
paper's experiments had, whose runs were short: few requests came for each item, so that little could be hit.
"""

from collections.abc import Iterator
from itertools import count, islice

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
_TOOL = Lengths(1470, 800, least=60, most=3800)
_TOOL_QUESTION = Lengths(220, 100, least=8)
_TOOL_OUTPUT = Lengths(43, 16, most=256)

SAMPLES = Lengths(10, 0)
"""Answers asked for to each programming problem. Table 1's 126 requests per key portion are the few thousand that share
the demonstration, averaged with the ten of each problem that is longer than the demonstration."""
_DEMONSTRATION_TOKENS = 2780
_PROBLEM = Lengths(1085, 1720, least=40, most=16_000)
_SAMPLE = Lengths(12, 2, least=8)  # the reference ends each prompt with a number of its own
_PROGRAM = Lengths(194, 400, most=4096)

VIDEOS_PER_GPU = 50
VIDEO_QUESTIONS = Lengths(8.6, 2)
_VIDEO = Lengths(9890, 6400, least=500, most=32_000)
_VIDEO_QUESTION = Lengths(62, 15, least=20)
_VIDEO_OUTPUT = Lengths(4, 1.5, most=16)

DOCUMENTS_PER_GPU = 13
DOCUMENT_QUESTIONS = Lengths(18, 8.6)
_DOCUMENT_SYSTEM_TOKENS = 13
_DOCUMENT = Lengths(23_800, 7000, least=2000)
_DOCUMENT_QUESTION = Lengths(26, 8, least=6)
_DOCUMENT_OUTPUT = Lengths(16, 10.8, most=48)
DOCUMENT_PROMPT_TOKENS = 32_768 - _DOCUMENT_OUTPUT.most
"""What the context leaves beside the longest answer. Beyond it a document's middle is cut out, and where the cut ends
depends on the question."""

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
    per_gpu = ZIPF_TOOLS_PER_GPU if demand.popularity == "zipf" else TOOLS_PER_GPU
    n_tools = demand.items or per_gpu * demand.n_gpus
    items = Items(n_tools, demand.popularity, 64 / 39, shape)
    lengths = [_TOOL.draw(shape) for _ in range(n_tools)]
    system = Piece(SYSTEM, _TOOL_SYSTEM_TOKENS)
    for number, at_s in _numbered(demand, demand.times_s(AZURE_CODE)):
        item = items.draw(rng)
        shared = (system, Piece(content(ITEM, item), lengths[item]))
        yield _request(number, at_s, shared, _TOOL_QUESTION.draw(rng), _TOOL_OUTPUT, rng)


def programming(demand: Demand) -> Iterator[SimRequest]:
    """Programs (APPS): a long common demonstration, then a problem, then several samples of it one after the other."""
    rng = demand.draw_rng()
    demonstration = Piece(SYSTEM, _DEMONSTRATION_TOKENS)
    problems = _in_turn(demand.items or 1, SAMPLES, _PROBLEM, demand.shape_rng())
    for number, at_s in _numbered(demand, demand.times_s(AZURE_CODE)):
        yield _request(number, at_s, (demonstration, next(problems)), _SAMPLE.draw(rng), _PROGRAM, rng)


def video(demand: Demand) -> Iterator[SimRequest]:
    """Questions on videos (NExT-QA): the video, then a question. Questions on many videos come mixed."""
    rng = demand.draw_rng()
    n_videos = demand.items or VIDEOS_PER_GPU * demand.n_gpus
    videos = _in_turn(n_videos, VIDEO_QUESTIONS, _VIDEO, demand.shape_rng())
    for number, at_s in _numbered(demand, demand.times_s()):
        yield _request(number, at_s, (next(videos),), _VIDEO_QUESTION.draw(rng), _VIDEO_OUTPUT, rng)


def longdoc(demand: Demand) -> Iterator[SimRequest]:
    """Questions on documents (LooGLE): a short system prompt, a document, a question; many documents mixed.

    A document that is too long loses its middle, as in the paper's benchmark, so only its first half is shared.
    """
    rng = demand.draw_rng()
    n_documents = demand.items or DOCUMENTS_PER_GPU * demand.n_gpus
    documents = _in_turn(n_documents, DOCUMENT_QUESTIONS, _DOCUMENT, demand.shape_rng())
    system = Piece(SYSTEM, _DOCUMENT_SYSTEM_TOKENS)
    room = DOCUMENT_PROMPT_TOKENS - _DOCUMENT_SYSTEM_TOKENS
    for number, at_s in _numbered(demand, demand.times_s()):
        document, own_tokens = next(documents), _DOCUMENT_QUESTION.draw(rng)
        if document.n_tokens + own_tokens > room:
            document = Piece(document.content, DOCUMENT_PROMPT_TOKENS // 2)
            own_tokens = room - document.n_tokens
        yield _request(number, at_s, (system, document), own_tokens, _DOCUMENT_OUTPUT, rng)


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


def _in_turn(n_at_a_time: int, asked: Lengths, length: Lengths, rng: np.random.Generator) -> Iterator[Piece]:
    """Each request's item, one of some that are asked about as often as drawn, then make room for others."""

    def new() -> tuple[Piece, int]:
        return Piece(content(ITEM, next(numbers)), length.draw(rng)), asked.draw(rng)

    numbers = count()
    current = [new() for _ in range(n_at_a_time)]
    while True:
        at = int(rng.integers(n_at_a_time))
        item, left = current[at]
        yield item
        current[at] = (item, left - 1) if left > 1 else new()


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
