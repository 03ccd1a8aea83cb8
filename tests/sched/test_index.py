"""The forest agrees with a naive model of it, whatever happens in whatever order."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from preble.daemon.ids import BlockKey, GpuId
from preble.daemon.sched.index import PrefixIndex, cached_of
from preble.daemon.sched.loss import Loss

GPUS = [GpuId("a"), GpuId("b")]
A, B = GPUS


def keys(text: str) -> list[BlockKey]:
    """Chain keys of one-letter blocks: a prefix's hash stands for the chain."""
    return [BlockKey(hash(text[: i + 1])) for i in range(len(text))]


def cached(index: PrefixIndex, text: str, gpu: GpuId) -> int:
    return index.cached_blocks(index.match(keys(text))).get(gpu, 0)


def test_a_report_makes_exactly_its_blocks_cached():
    index = PrefixIndex()
    index.store(A, None, keys("abcd"))
    assert cached(index, "abcdef", A) == 4
    assert cached(index, "abx", A) == 2
    assert cached(index, "abcd", B) == 0


def test_prompts_that_diverge_share_one_node_above():
    index = PrefixIndex()
    for text in ("abcd", "abxy", "ab"):
        index.send(index.insert(keys(text)), A)
    assert [(node.keys, n_blocks) for node, n_blocks in index.match(keys("abcd"))] == [
        (keys("ab"), 2),
        (keys("abcd")[2:], 2),
    ]


def compute_in_turn(index, *texts):
    """Of prompts that ran one after the other, the end of the last."""
    for text in texts:
        leaf = index.insert(keys(text))
        index.send(leaf, A)
        index.acquire(leaf, A)
        index.set_chain_resident(leaf, A)
        index.release(leaf, A)
    return leaf


def test_lru_evicts_the_oldest_first_and_children_before_parents():
    index = PrefixIndex()
    compute_in_turn(index, "abcd", "abxy", "mn")
    order = [victim.node.keys for victim in index.evictable(A).victims(100)]
    assert order == [keys("abcd")[2:], keys("abxy")[2:], keys("ab"), keys("mn")]


def test_a_hit_refreshes_the_whole_path():
    index = PrefixIndex()
    for text in ("ab", "mn", "ab"):
        leaf = index.insert(keys(text))
        index.send(leaf, A)
        index.acquire(leaf, A)
        index.set_chain_resident(leaf, A)
        index.release(leaf, A)
    assert [victim.node.keys for victim in index.evictable(A).victims(100)] == [keys("mn"), keys("ab")]


def test_what_runs_is_no_victim_and_only_as_much_is_taken_as_needed():
    index = PrefixIndex()
    running, idle = index.insert(keys("abc")), index.insert(keys("xyz"))
    for leaf in (running, idle):
        index.send(leaf, A)
        index.acquire(leaf, A)
        index.set_chain_resident(leaf, A)
    index.release(idle, A)
    assert [(victim.node, victim.n_blocks) for victim in index.evictable(A).victims(2)] == [(idle, 2)]


def test_eviction_from_the_end_leaves_a_cached_prefix():
    index = PrefixIndex()
    index.store(A, None, keys("abcd"))
    index.remove(A, keys("abcd")[3])
    index.remove(A, keys("abcd")[2])
    assert cached(index, "abcd", A) == 2
    assert len(index) == 2, "what nobody caches or uses is forgotten"


class Forest(RuleBasedStateMachine):
    """Every request is a (text, gpu) that intends, acquires and lets go; reports come and go beside them."""

    on_the_way = Bundle("on_the_way")
    running = Bundle("running")
    texts = st.text("ab", min_size=1, max_size=6)
    gpus = st.sampled_from(GPUS)

    def __init__(self):
        super().__init__()
        self.index = PrefixIndex()
        self.resident = {gpu: set() for gpu in GPUS}
        self.intended = []
        self.active = []
        self.leaves = []

    @rule(target=on_the_way, text=texts, gpu=gpus)
    def place(self, text, gpu):
        leaf = self.index.insert(keys(text))
        self.index.send(leaf, gpu)
        self.intended.append((text, gpu))
        self.leaves.append((text, leaf))
        return text, gpu, leaf

    @rule(target=running, request=consumes(on_the_way))
    def launch(self, request):
        text, gpu, leaf = request
        self.index.acquire(leaf, gpu)
        self.active.append((text, gpu))
        return request

    @rule(request=consumes(on_the_way))
    def withdraw(self, request):
        text, gpu, leaf = request
        self.index.fulfil(leaf, gpu)
        self.index.disuse(leaf, gpu)
        self.intended.remove((text, gpu))
        self.leaves.remove((text, leaf))

    @rule(request=consumes(running), computed=st.booleans())
    def finish(self, request, computed):
        text, gpu, leaf = request
        if computed:
            self.index.set_chain_resident(leaf, gpu)
            self.resident[gpu] |= {text[: i + 1] for i in range(len(text))}
        self.index.release(leaf, gpu)
        self.index.disuse(leaf, gpu)
        self.intended.remove((text, gpu))
        self.active.remove((text, gpu))
        self.leaves.remove((text, leaf))

    @rule(text=texts, gpu=gpus, start=st.integers(0, 5))
    def report_stored(self, text, gpu, start):
        start = min(start, len(text) - 1)
        if start and text[:start] not in self.resident[gpu]:
            return  # engines store a block only behind its parent
        chain = keys(text)
        self.index.store(gpu, chain[start - 1] if start else None, chain[start:])
        self.resident[gpu] |= {text[: i + 1] for i in range(start, len(text))}

    @rule(gpu=gpus, data=st.data())
    def report_removed(self, gpu, data):
        leaves = [
            t for t in sorted(self.resident[gpu]) if not any(o != t and o.startswith(t) for o in self.resident[gpu])
        ]
        if leaves:
            text = data.draw(st.sampled_from(leaves))
            self.index.remove(gpu, keys(text)[-1])
            self.resident[gpu].remove(text)

    @rule(gpu=gpus)
    def report_cleared(self, gpu):
        self.index.clear(gpu)
        self.resident[gpu].clear()

    @invariant()
    def cached_as_in_the_model(self):
        for gpu in GPUS:
            promised = {t for text, g in self.intended if g == gpu for t in _prefixes(text)}
            have = self.resident[gpu] | promised
            for text in ("aaaaaa", "ababab", "abbaab", "bbbbbb", "baabba"):
                expected = 0
                while expected < len(text) and text[: expected + 1] in have:
                    expected += 1
                assert cached(self.index, text, gpu) == expected

    @invariant()
    def computed_and_held_as_in_the_model(self):
        for gpu in GPUS:
            held = {t for text, g in self.active if g == gpu for t in _prefixes(text)}
            have = self.resident[gpu] | held
            for text, leaf in self.leaves:
                computed = next((n for n, t in enumerate(_prefixes(text)) if t not in have), len(text))
                assert self.index.computed_and_held(leaf, gpu) == (computed, len(held & {*_prefixes(text)}))

    @invariant()
    def counts_add_up(self):
        for gpu in GPUS:
            assert self.index.resident_blocks(gpu) == len(self.resident[gpu])
            held = {t for text, g in self.active if g == gpu for t in _prefixes(text)}
            assert self.index.active_blocks(gpu) == len(held)
            evictable = sum(victim.n_blocks for victim in self.index.evictable(gpu).victims(10**6))
            assert evictable == len(self.resident[gpu] - held)

    @invariant()
    def what_eviction_loses_is_that_of_each_victim(self):
        kept = [node for node, _ in self.index.match(keys("ab"))]
        for gpu in GPUS:
            for n_blocks, keep in ((1, ()), (4, ()), (4, kept), (100, ())):
                victims = self.index.evictable(gpu).victims(n_blocks, keep)
                lost = sum(
                    LOSS.chance(victim.node.counted_on(gpu).uses, 0.0) * LOSS.again_ms(victim.n_blocks)
                    for victim in victims
                )
                assert self.index.evictable(gpu).loss(n_blocks, keep, LOSS) == lost

    @invariant()
    def nothing_is_kept_for_nobody(self):
        wanted = {t for gpu in GPUS for t in self.resident[gpu]}
        wanted |= {t for text, _ in self.intended for t in _prefixes(text)}
        assert len(self.index) == len(wanted)


def _prefixes(text):
    return [text[: i + 1] for i in range(len(text))]


LOSS = Loss(lambda uses, idle_share: 1 + uses, lambda n_blocks: n_blocks**0.5, lambda requests: 1.0)


TestForest = Forest.TestCase
TestForest.settings = settings(max_examples=150, stateful_step_count=30)


def test_the_biggest_cached_part_is_counted_as_far_as_some_gpu_has_it():
    index = PrefixIndex()
    index.store(A, None, keys("abcdef"))
    index.store(B, None, keys("ab"))
    stretches = index.match(keys("abcdef"))
    biggest = index.biggest_cached(stretches, GPUS)
    assert biggest is not None
    assert (biggest[1], cached_of(biggest, A), cached_of(biggest, B)) == (6, 6, 2)
    assert index.biggest_cached(stretches, []) is None


def test_an_answer_that_is_reported_block_by_block_is_one_node():
    index = PrefixIndex()
    leaf = index.insert(keys("abc"))
    index.use(leaf, A)
    index.store(A, None, keys("abc"))
    for end in range(4, 7):
        index.store(A, keys("abcdef")[end - 2], keys("abcdef")[end - 1 : end])
    assert [n_blocks for _, n_blocks in index.match(keys("abcdefg"))] == [3, 3]
    assert cached(index, "abcdefg", A) == 6
    index.remove(A, *reversed(keys("abcdef")[2:]))
    assert cached(index, "abcdefg", A) == 2


def test_what_another_gpu_lacks_of_an_answer_is_not_taken_for_cached():
    index = PrefixIndex()
    for gpu in GPUS:
        index.store(gpu, None, keys("ab"))
    index.store(A, keys("ab")[-1], keys("abcd")[2:])
    assert (cached(index, "abcd", A), cached(index, "abcd", B)) == (4, 2)


def test_a_gpu_that_dies_takes_what_it_alone_had_and_its_blocks_can_come_again():
    index = PrefixIndex()
    for text in ("abcdef", "abxy", "mnop"):
        index.store(A, None, keys(text))
    index.store(B, None, keys("abc"))
    index.clear(A)
    assert (len(index), index.resident_blocks(A), index.resident_blocks(B)) == (3, 0, 3)
    assert (cached(index, "abcdef", A), cached(index, "abcdef", B)) == (0, 3)
    for text in ("mnopq", "abx"):
        index.store(A, None, keys(text))
    index.remove(A, keys("mnopq")[-1])
    assert (cached(index, "mnopq", A), cached(index, "abxy", A), len(index)) == (4, 3, 8)


def filled(max_blocks: int) -> PrefixIndex:
    """Ten prompts of ten blocks that were used, the even ones of which are still cached."""
    index = PrefixIndex(max_blocks)
    for number in range(10):
        chain = keys(f"{number}abcdefghi")
        leaf = index.insert(chain)
        index.send(leaf, A)
        index.acquire(leaf, A)
        index.set_chain_resident(leaf, A)
        index.release(leaf, A)
        if number % 2:
            index.remove(A, *reversed(chain))
    return index


def test_an_index_that_is_full_forgets_what_nobody_caches_first_and_then_what_was_let_go_longest_ago():
    def known(index):
        return [number for number in range(10) if index.match(keys(f"{number}abcdefghi"))]

    assert len(filled(100)) == 100
    assert known(filled(80)) == [0, 2, 4, 5, 6, 7, 8, 9]
    assert known(filled(50)) == [2, 4, 6, 8, 9]
    assert known(filled(30)) == [6, 8, 9]
    assert filled(30).resident_blocks(A) == 20


def test_a_full_index_keeps_what_waits_and_runs():
    index = PrefixIndex(10)
    for number in range(3):
        index.send(index.insert(keys(f"{number}abcdefghi")), A)
    assert len(index) == 30
    index.store(B, None, keys("xyz"))
    assert len(index) == 30


def test_what_was_forgotten_to_make_room_can_still_be_taken_back():
    index = PrefixIndex(10)
    old = index.insert(keys("abcdefghij"))
    index.send(old, A)
    index.fulfil(old, A)
    new = index.insert(keys("abcdexyz"))
    index.use(new, A)
    assert len(index) == 8
    index.disuse(old, A)
    index.disuse(new, A)
    assert len(index) == 0


class Bounded(RuleBasedStateMachine):
    """However little an index may hold, it stays whole and never says that something is cached which is not."""

    requests = Bundle("requests")

    def __init__(self):
        super().__init__()
        self.index = PrefixIndex(6)
        self.cached = {gpu: set() for gpu in GPUS}
        self.wanted = []

    @rule(target=requests, text=Forest.texts, gpu=Forest.gpus)
    def place(self, text, gpu):
        before = len(self.index)
        leaf = self.index.insert(keys(text))
        self.index.send(leaf, gpu)
        self.index.acquire(leaf, gpu)
        self.wanted.append(text)
        if len(self.index) > before:
            self._has_room()
        return text, gpu, leaf

    @rule(request=consumes(requests), used_longer=st.booleans())
    def end(self, request, used_longer):
        text, gpu, leaf = request
        self.index.set_chain_resident(leaf, gpu)
        self.cached[gpu] |= set(_prefixes(text))
        self.index.release(leaf, gpu)
        if not used_longer:
            self.index.disuse(leaf, gpu)
        self.wanted.remove(text)

    @rule(text=Forest.texts, gpu=Forest.gpus)
    def report(self, text, gpu):
        self.index.store(gpu, None, keys(text))
        self.cached[gpu] |= set(_prefixes(text))
        self._has_room()

    @rule(gpu=Forest.gpus, data=st.data())
    def evict(self, gpu, data):
        if self.cached[gpu]:
            text = data.draw(st.sampled_from(sorted(self.cached[gpu], key=lambda text: (len(text), text))))
            gone = [each for each in self.cached[gpu] if each.startswith(text)]
            self.index.remove(gpu, *(keys(each)[-1] for each in sorted(gone, key=len, reverse=True)))
            self.cached[gpu] -= set(gone)

    @invariant()
    def nothing_is_made_up(self):
        for gpu in GPUS:
            for text in ("aaaaaa", "ababab", "abbaab", "bbbbbb", "baabba"):
                stretches = self.index.match(keys(text))
                resident = 0
                for node, n_blocks in stretches:
                    here = min(node.resident_on(gpu), n_blocks)
                    resident += here
                    if here < n_blocks:
                        break
                assert {text[: i + 1] for i in range(resident)} <= self.cached[gpu]
            assert self.index.resident_blocks(gpu) <= len(self.cached[gpu])

    def _has_room(self):
        """It makes room as it grows."""
        needed = {prefix for text in self.wanted for prefix in _prefixes(text)}
        assert len(self.index) <= len(needed) + 6


TestBounded = Bounded.TestCase
TestBounded.settings = settings(max_examples=150, stateful_step_count=30)


def test_a_loss_greater_than_all_there_is_to_evict_is_that_of_all():
    index = PrefixIndex()
    assert index.evictable(A).loss(5, [], LOSS) == 0


def test_a_loss_passes_over_what_is_kept_to_what_goes_next():
    index = PrefixIndex()
    order = index.evictable(A)
    compute_in_turn(index, "ab", "cd", "ef")
    first = [node for node, _ in index.match(keys("ab"))]
    assert order.loss(2, first, LOSS) == 2 * LOSS.again_ms(2)
    assert order.loss(3, first, LOSS) == 2 * LOSS.again_ms(2) + 2 * LOSS.again_ms(1)


def test_a_loss_follows_what_is_evicted_in_whole_or_in_part_and_what_is_used():
    index = PrefixIndex()
    order = index.evictable(A)
    leaf = compute_in_turn(index, "ab", "cd", "ef", "gh")
    whole = 2 * LOSS.again_ms(2)
    assert order.loss(4, [], LOSS) == 2 * whole
    index.remove(A, *reversed(keys("ab")))
    assert order.loss(4, [], LOSS) == 2 * whole
    index.remove(A, keys("cd")[-1])
    assert order.loss(4, [], LOSS) == 2 + whole + 2
    index.use(leaf, A)
    assert order.loss(4, [], LOSS) == 2 + whole + 3
