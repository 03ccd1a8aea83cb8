"""An index whose sessions' turns become one node tells of every block what one does in which each stays its own."""

import random

import pytest

from preble.daemon.ids import BlockKey, GpuId
from preble.daemon.sched.index import PrefixIndex
from preble.daemon.sched.loss import Loss
from preble.daemon.sched.pinning import Pinnings
from preble.daemon.sched.queueing import Queueing

GPUS = [GpuId("a"), GpuId("b")]
A, B = GPUS
LOSS = Loss(lambda uses, idle_share: 1 + uses, lambda n_blocks: n_blocks**0.5, lambda requests: 1.0)


class Unfolded(PrefixIndex):
    """The same in which every turn stays a node."""

    def _fold(self, lower):
        pass


def keys(text: str) -> list[BlockKey]:
    """Chain keys of one-letter blocks: a prefix's hash stands for the chain."""
    return [BlockKey(hash(text[: i + 1])) for i in range(len(text))]


def answer(index, text, gpu):
    """A request comes, is computed and ends; its leaf, which it goes on being counted on until it leaves the window."""
    leaf = index.insert(keys(text))
    index.send(leaf, gpu)
    index.acquire(leaf, gpu)
    index.set_chain_resident(leaf, gpu)
    index.release(leaf, gpu)
    return leaf


def lengths(index, text):
    return [node.n_blocks for node, _ in index.match(keys(text))]


def test_turns_that_have_left_the_window_are_one_node_and_part_again_where_a_prompt_leaves_the_session():
    index = PrefixIndex()
    text = "abcdefghijkl"
    leaves = [answer(index, text[:end], A) for end in (3, 6, 9, 12)]
    assert lengths(index, text) == [3, 3, 3, 3]
    for leaf in leaves[:3]:
        index.disuse(leaf, A)
    assert lengths(index, text) == [9, 3]
    answer(index, "abcdexyz", A)
    assert lengths(index, text) == [5, 4, 3]
    index.remove(A, *reversed(keys(text)[6:]))
    assert index.cached_blocks(index.match(keys(text))) == {A: 6}


def test_what_a_window_holds_of_a_session_stays_apart():
    index = PrefixIndex()
    answer(index, "abc", A)
    first = answer(index, "abcdef", A)
    answer(index, "abcdefghi", A)
    index.disuse(first, A)
    assert lengths(index, "abcdefghi") == [3, 3, 3], "a request of the window ends with the first"


SESSIONS = ["abcdefghijkl", "abcdxyzuvw", "mnopqrstuvwx"]


def test_what_was_let_go_at_other_times_stays_apart():
    index = PrefixIndex()
    leaves = [answer(index, text, A) for text in ("ab", "abcd", "mn", "ab")]
    for number in (0, 3, 1):
        index.disuse(leaves[number], A)
    assert lengths(index, "abcd") == [2, 2]
    assert evicted_first(index, A) == [*reversed(keys("abcd")[2:]), *reversed(keys("mn")), *reversed(keys("ab"))]


def test_what_has_a_gap_in_a_cache_stays_apart():
    index = PrefixIndex()
    leaves = [answer(index, text, A) for text in ("ab", "abcd")]
    index.remove(A, keys("ab")[-1])
    for leaf in leaves:
        index.disuse(leaf, A)
    assert index.cached_blocks(index.match(keys("abcd"))) == {A: 1}


def test_where_waits_are_watched_nodes_stay_as_they_came():
    index = PrefixIndex()
    leaves = [answer(index, text, A) for text in ("ab", "abcd")]
    for leaf in leaves:
        leaf.queueing = Queueing(60.0, 2.0, 0.0)
    for leaf in leaves:
        index.disuse(leaf, A)
    assert lengths(index, "abcd") == [2, 2]


def test_nothing_is_kept_of_a_folded_session_that_is_gone():
    index = PrefixIndex()
    for leaf in [answer(index, "abcdefghijkl"[:end], A) for end in (4, 8, 12)]:
        index.disuse(leaf, A)
    index.clear(A)
    index.store(B, None, keys("mn"))
    assert set(index._table._node_of) == {*keys("mn")}


class Both:
    """Requests come, run, end and leave the window; engines evict, die, and are told what to keep."""

    def __init__(self):
        self.indexes = PrefixIndex(), Unfolded()
        self.pinnings = [Pinnings(index) for index in self.indexes]
        self.waiting, self.running, self.in_window = [], [], []
        self.turns = dict.fromkeys(SESSIONS, 0)

    def come(self, chance):
        """The next turn of a session, or an earlier one again."""
        session = chance.choice(SESSIONS)
        self.turns[session] = self.turns[session] % len(session) + 1
        text = session[: self.turns[session] if chance.random() < 0.9 else chance.choice([2, 4])]
        gpu = GPUS[session[0] == "m"] if chance.random() < 0.9 else chance.choice(GPUS)
        self.waiting.append((gpu, [index.insert(keys(text)) for index in self.indexes]))
        self._each(self.waiting[-1], "send")

    def start(self, chance):
        self._each(self._move(chance, self.waiting, self.running), "acquire")

    def end(self, chance):
        request = self._move(chance, self.running, self.in_window)
        if chance.random() < 0.9:
            self._each(request, "set_chain_resident")
        self._each(request, "release")

    def leave_window(self, chance):
        self._each(self._move(chance, self.in_window, []), "disuse")

    def pin(self, chance):
        gpu, stays = chance.choice(GPUS), chance.random() < 0.3
        text = chance.choice(SESSIONS)[:4]
        for pinnings in self.pinnings:
            (pinnings.pin if stays else pinnings.unpin)(gpu, keys(text))

    def evict(self, chance):
        gpu = chance.choice(GPUS)
        gone = evicted_first(self.indexes[1], gpu)[: chance.randint(1, 6)]
        for index in self.indexes:
            index.remove(gpu, *gone)

    def die(self, chance):
        gpu = chance.choice(GPUS)
        for index in self.indexes:
            index.clear(gpu)

    def _move(self, chance, source, target):
        request = source.pop(0 if chance.random() < 0.8 else chance.randrange(len(source)))
        target.append(request)
        return request

    def _each(self, request, what):
        gpu, leaves = request
        for index, leaf in zip(self.indexes, leaves, strict=True):
            getattr(index, what)(leaf, gpu)


STEPS = {Both.come: 6, Both.start: 8, Both.end: 8, Both.leave_window: 6, Both.pin: 0.5, Both.evict: 1, Both.die: 0.1}


@pytest.mark.parametrize("seed", range(30))
def test_folding_changes_nothing_that_is_told_of_a_block(seed):
    both, chance = Both(), random.Random(seed)
    folded, unfolded = both.indexes
    most_folded = 0
    for _ in range(400):
        (step,) = chance.choices([*STEPS], [*STEPS.values()])
        ready = {Both.start: both.waiting, Both.end: both.running, Both.leave_window: both.in_window}.get(step, True)
        if not ready:
            continue
        step(both, chance)
        assert told(folded) == told(unfolded)
        for gpu in GPUS:
            assert evicted_first(folded, gpu) == evicted_first(unfolded, gpu)
            assert folded.active_blocks(gpu) == unfolded.active_blocks(gpu)
            assert folded.resident_blocks(gpu) == unfolded.resident_blocks(gpu)
            n_blocks = chance.choice([1, 1, 2, 4, 9])
            assert folded.evictable(gpu).loss(n_blocks, [], LOSS) == pytest.approx(lost(folded, gpu, n_blocks))
        check_whole(folded)
        most_folded = max(most_folded, len(nodes(unfolded)) - len(nodes(folded)))
    assert most_folded > 4, "else it tells nothing"


def nodes(index):
    found = list(index.roots.values())
    for node in found:
        found += node.children
    return found


def check_whole(index):
    """What the parts of an index hold of its nodes is true of them."""
    for node in nodes(index):
        assert all(index._table.find(key) is node for key in node.keys[: node.reported])
    for gpu in GPUS:
        assert {id(here) for here in index._active.nodes(gpu)} == {
            id(here) for node in nodes(index) for here in node.counted if here.gpu == gpu and here.active
        }
    assert all(node.n_blocks for node in index._uncached)


def told(index):
    """Of every block, what is counted on it for each GPU."""
    return {
        (key, here.gpu): (at < here.resident, here.uses, here.intended, here.active, here.pins)
        for node in nodes(index)
        for here in node.counted
        for at, key in enumerate(node.keys)
        if at < here.resident or here.uses or here.intended or here.active or here.pins
    }


def evicted_first(index, gpu):
    """The blocks of a GPU that may be evicted, in that order."""
    victims = index.evictable(gpu).victims(10**6)
    return [key for node, n_blocks in victims for key in reversed(node.keys[:n_blocks])]


def lost(index, gpu, n_blocks):
    """What evicting so many blocks loses, victim by victim."""
    victims = [(node.counted_on(gpu), taken) for node, taken in index.evictable(gpu).victims(n_blocks)]
    chances = [LOSS.sure(1) if here.pins else LOSS.chance(here.uses, 0.0) for here, _ in victims]
    return sum(chance * LOSS.again_ms(taken) for chance, (_, taken) in zip(chances, victims, strict=True))


def test_what_was_told_of_a_node_before_it_took_another_in_is_forgotten():
    index = PrefixIndex()
    index.store(A, None, keys("ab"))
    first, both = index.insert(keys("a")), index.insert(keys("ab"))
    for leaf in (first, both):
        index.send(leaf, A)
    assert index.computed_and_held(first, A) == (1, 0)
    for leaf in (first, both):
        index.fulfil(leaf, A)
        index.disuse(leaf, A)
    assert index.insert(keys("ab")) is first, "it has taken in the other"
    assert index.computed_and_held(first, A) == (2, 0)
