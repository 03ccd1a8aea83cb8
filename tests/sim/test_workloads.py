"""Workloads: the numbers of the paper's Table 1, the shapes that make them, and that chance is only the seed's."""

from collections import Counter, defaultdict
from itertools import islice, pairwise

import numpy as np
import pytest
from tests.sim.statistics import measure

from preble.daemon.config import SchedulerConfig
from preble.daemon.sim.demand import Demand
from preble.daemon.sim.draws import content
from preble.daemon.sim.fits import load_fit
from preble.daemon.sim.oneshot import (
    DOCUMENT_PROMPT_TOKENS,
    DOCUMENTS_PER_GPU,
    FLOODER,
    NEIGHBOURS,
    TOOLS_PER_GPU,
    VIDEOS_PER_GPU,
    ZIPF_TOOLS_PER_GPU,
)
from preble.daemon.sim.sessions import EMBODIED_PER_GPU, KINDS, unrolled
from preble.daemon.sim.types import Piece
from preble.daemon.sim.workloads import WORKLOADS
from preble.daemon.sim.world import World

TABLE_1 = {  # prompt and output tokens; shared prefix and key portion as shares of the prompt; requests per key portion
    "tool": ((1835, 742), (43, 16), (0.85, 0.13), (0.76, 0.16), (39, 64)),
    "embodied": ((2285, 471), (16, 13), (0.97, 0.14), (0.76, 0.12), (48, 8)),
    "programming": ((3871, 1656), (190, 343), (0.97, 0.074), (0.78, 0.13), (126, None)),  # the 2157 grow with the run
    "video": ((9865, 5976), (4, 1.5), (0.88, 0.32), (0.99, 0.002), (8.6, 2)),
    "longdoc": ((23474, 6105), (16, 9.9), (0.91, 0.24), (0.94, 0.15), (18, 8.6)),
}
INFERCEPT_CONTEXT = {
    "calculator": (3.75, 1422),
    "wikipedia": (2.52, 1846),
    "alfworld": (28.18, 2185),
    "chat": (4.45, 753),
    "image": (6.91, 1247),
    "speech": (6.91, 1251),
}


def requests_of(name, **kwargs):
    return WORKLOADS[name].generate(Demand(**{"requests": 500, "rate": 5.0, "seed": 1, **kwargs}))


def all_of(name, **kwargs):
    return list(unrolled(requests_of(name, **kwargs)))


@pytest.mark.parametrize("name", TABLE_1)
def test_statistics_are_those_of_table_1(name):
    """Lengths within 6 % (their spread: 12 %), shares within 4 points (6), requests per key portion within 20 %."""
    n_gpus = {"tool": 8, "embodied": 2}.get(name, 1)
    n_requests = {"video": 10_000, "longdoc": 8000, "programming": 40_000}.get(name)
    n_requests = n_requests or WORKLOADS[name].requests_per_gpu * n_gpus
    measured = measure(requests_of(name, requests=n_requests, n_gpus=n_gpus))
    prompt, output, shared, key, sharing = TABLE_1[name]
    for got, (mean, std) in ((measured.prompt, prompt), (measured.output, output)):
        assert got == (pytest.approx(mean, rel=0.06), pytest.approx(std, rel=0.12))
    for got, (mean, std) in ((measured.shared, shared), (measured.key, key)):
        assert got == (pytest.approx(mean, abs=0.04), pytest.approx(std, abs=0.06))
    assert measured.sharing[0] == pytest.approx(sharing[0], rel=0.2)
    if sharing[1] is not None:
        assert measured.sharing[1] == pytest.approx(sharing[1], rel=0.2)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_seed_gives_the_same_requests_again_and_another_gives_others(name):
    assert all_of(name) == all_of(name)
    assert [request.prompt for request in all_of(name)] != [request.prompt for request in all_of(name, seed=2)]


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_rate_changes_when_requests_come_and_not_what_they_are(name):
    slow, fast = ({request.request_id: request.prompt for request in all_of(name, rate=rate)} for rate in (2.0, 20.0))
    assert slow == fast


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("requests", [1, 7, 500])
def test_there_are_as_many_requests_as_asked_for_each_with_an_end_of_its_own(name, requests):
    made = all_of(name, requests=requests)
    assert len(made) == requests
    assert len({request.request_id for request in made}) == requests
    assert len({request.prompt for request in made}) == requests
    assert len({request.output_content for request in made}) == requests
    assert all(piece.n_tokens > 0 for request in made for piece in request.prompt)
    assert all(1 <= request.output_tokens <= request.max_output_tokens for request in made)


@pytest.mark.parametrize("name", WORKLOADS)
def test_first_requests_are_in_the_order_of_arrival(name):
    times = [request.at_s for request in requests_of(name)]
    assert times == sorted(times)


@pytest.mark.parametrize("name", ["tool", "programming", "video", "longdoc", "noisy_neighbour", "agent"])
def test_requests_come_at_the_rate(name):
    made = all_of(name, requests=6000, rate=5.0)
    middle = [request.at_s for request in made][600:-600]  # sessions begin and run out at the ends
    assert (len(middle) - 1) / (middle[-1] - middle[0]) == pytest.approx(5.0, rel=0.1)


def test_generators_are_lazy():
    assert len(list(islice(requests_of("tool", requests=10**12), 3))) == 3
    assert len(list(islice(requests_of("noisy_neighbour", requests=10**12), 3))) == 3


def test_tool_prompts_are_a_common_system_prompt_then_instructions_then_a_question():
    made = all_of("tool", requests=4000)
    assert {len(request.prompt) for request in made} == {3}
    system, instructions, questions = ({request.prompt[at] for request in made} for at in range(3))
    assert (len(system), len(questions)) == (1, 4000)
    assert 0.8 * 2 * TOOLS_PER_GPU < len(instructions) <= 2 * TOOLS_PER_GPU


def test_tools_are_asked_for_alike_or_by_zipfs_law():
    counts = {
        popularity: Counter(request.prompt[1] for request in all_of("tool", requests=20_000, popularity=popularity))
        for popularity in ("uniform", "zipf")
    }
    uniform = np.array(list(counts["uniform"].values()))
    assert len(uniform) == 2 * TOOLS_PER_GPU
    assert uniform.std() / uniform.mean() < 0.15
    zipf = [count for _, count in counts["zipf"].most_common()]
    assert len(zipf) <= 2 * ZIPF_TOOLS_PER_GPU
    assert zipf[0] / zipf[9] == pytest.approx(10**1.1, rel=0.2)


def test_more_gpus_have_more_tools_and_agents():
    tools = {request.prompt[1] for request in all_of("tool", requests=8000, n_gpus=4, popularity="uniform")}
    assert len(tools) == 4 * TOOLS_PER_GPU
    assert len(list(requests_of("embodied", requests=30_000, n_gpus=4))) == 4 * EMBODIED_PER_GPU


def test_programming_asks_for_ten_samples_of_each_problem_side_by_side():
    made = all_of("programming", requests=95)
    assert len({request.prompt[0] for request in made}) == 1
    problems = [request.prompt[1] for request in made]
    assert Counter(problems).most_common()[-1][1] == 5
    assert [problems[n] for n in range(0, 95, 10)] == list(dict.fromkeys(problems))


@pytest.mark.parametrize(("name", "at", "per_gpu"), [("video", 0, VIDEOS_PER_GPU), ("longdoc", 1, DOCUMENTS_PER_GPU)])
def test_so_many_videos_or_documents_are_asked_about_at_a_time(name, at, per_gpu):
    asked = [request.prompt[at].content for request in all_of(name, requests=4000)]
    first, last = {}, {}
    for number, item in enumerate(asked):
        first.setdefault(item, number)
        last[item] = number
    under_way = sum(first[item] <= 2000 <= last[item] for item in first)
    assert 0.8 * 2 * per_gpu < under_way <= 2 * per_gpu
    assert sum(one == other for one, other in pairwise(asked)) / len(asked) < 2 / per_gpu


def test_the_number_of_items_can_be_named():
    def n_items(name, at, n_requests):
        return len({request.prompt[at] for request in all_of(name, requests=n_requests, items=7)})

    assert n_items("tool", 1, 1000) == 7
    assert n_items("video", 0, 25) <= 7 + 25 // 4
    assert n_items("programming", 1, 30) == 7
    assert len(list(requests_of("embodied", requests=2000, items=7))) == 7


def test_a_document_too_long_for_the_context_shares_its_first_half_only():
    made = all_of("longdoc", requests=2000)
    assert max(request.prompt_tokens for request in made) == DOCUMENT_PROMPT_TOKENS
    cut = [request for request in made if request.prompt_tokens == DOCUMENT_PROMPT_TOKENS]
    assert 0.03 < len(cut) / len(made) < 0.2
    assert {request.prompt[1].n_tokens for request in cut} == {DOCUMENT_PROMPT_TOKENS // 2}


@pytest.mark.parametrize("name", WORKLOADS)
def test_prompts_and_answers_fit_the_context_of_the_evaluation(name):
    longest = load_fit("a6000-mistral-7b").engine.max_model_len
    assert max(request.prompt_tokens + request.output_tokens for request in all_of(name, requests=4000)) <= longest


def test_no_question_on_a_document_is_refused_or_cut_short():
    world = World(fit=load_fit("a6000-mistral-7b"), gpus=2, config=SchedulerConfig())
    made = all_of("longdoc", requests=400)
    answers = {outcome.request_id: outcome.output_tokens for outcome in world.run(iter(made)) if outcome.complete}
    assert answers == {request.request_id: request.output_tokens for request in made}


@pytest.mark.parametrize("name", ["embodied", "agent"])
def test_a_sessions_prompt_is_the_one_before_with_its_answer_and_what_was_said_to_it(name):
    grown = 0
    for first in requests_of(name, requests=300):
        before = first
        for request in first.session:
            answer = Piece(before.output_content, before.output_tokens)
            if len(request.prompt) > 1:  # else another game begins
                assert request.prompt[:-1] == (*before.prompt, answer)
                grown += 1
            assert request.session is None
            before = request
    assert grown > 200


def test_embodied_agents_wait_so_that_together_they_would_send_at_the_rate():
    waits = defaultdict(list)
    for first in requests_of("embodied", requests=9600, rate=10.0):
        for request in first.session:
            waits["all"].append(request.at_s)
    n_agents = len(list(requests_of("embodied", requests=9600)))
    assert n_agents == pytest.approx(200, abs=5)
    assert np.mean(waits["all"]) == pytest.approx(n_agents / 10.0, rel=0.05)


def test_agents_pause_call_and_remember_as_infercept_measured():
    sessions, contexts, pauses = Counter(), defaultdict(list), defaultdict(list)
    for first in requests_of("agent", requests=30_000):
        sessions[first.tenant] += 1
        contexts[first.tenant].append(first.prompt_tokens)
        for request in first.session:
            contexts[first.tenant].append(request.prompt_tokens)
            pauses[first.tenant].append(request.at_s)
    assert set(sessions) == set(INFERCEPT_CONTEXT)
    for kind in KINDS:
        calls, context = INFERCEPT_CONTEXT[kind.name]
        assert len(pauses[kind.name]) / sessions[kind.name] == pytest.approx(calls, rel=0.06)
        assert np.mean(contexts[kind.name]) == pytest.approx(context, rel=0.05)
        assert np.mean(pauses[kind.name]) == pytest.approx(kind.pause_s, rel=0.06)


def test_an_agent_says_that_it_comes_back_except_at_its_end_and_people_never_do():
    for first in requests_of("agent", requests=2000):
        *earlier, last = [first, *first.session]
        assert not last.calls_tools
        assert {request.calls_tools for request in earlier} <= {first.tenant != "chat"}


def test_a_session_does_not_depend_on_when_it_is_pulled():
    at_once = {first.request_id: list(first.session) for first in requests_of("agent")}
    late = list(requests_of("agent"))
    assert {first.request_id: list(first.session) for first in reversed(late)} == at_once


def test_a_flooder_shares_nothing_and_the_neighbours_have_two_templates_each():
    made = all_of("noisy_neighbour", requests=4000)
    flood = [request for request in made if request.tenant == FLOODER]
    assert len(flood) / len(made) == pytest.approx(0.75, abs=0.03)
    assert {len(request.prompt) for request in flood} == {1}
    templates = defaultdict(set)
    for request in made:
        if request.tenant != FLOODER:
            templates[request.tenant].add(request.prompt[0])
    assert len(templates) == NEIGHBOURS
    assert {len(of_one) for of_one in templates.values()} == {2}
    assert len(set.union(*templates.values())) == 2 * NEIGHBOURS


def test_without_the_flood_there_is_no_flooder():
    assert FLOODER not in {request.tenant for request in all_of("noisy_neighbour", flood_share=0.0)}


def test_contents_of_different_things_have_different_numbers():
    arguments = [
        (kind, number, part) for kind in range(5) for number in (0, 1, 2**36 - 1) for part in (0, 1, 2**20 - 1)
    ]
    numbers = {content(*one) for one in arguments}
    assert len(numbers) == len(arguments)
    assert max(numbers) < 2**63
