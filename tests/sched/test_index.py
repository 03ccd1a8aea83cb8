"""The forest agrees with a naive model of it, whatever happens in whatever order."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from preble.daemon.ids import BlockKey, GpuId
from preble.daemon.sched.index import PrefixIndex, cached_of

GPUS = [GpuId("a"), GpuId("b")]
A, B = GPUS


def keys(text: str) -> list[BlockKey]:
    """Chain keys of one-letter blocks: a prefix's hash stands for the chain."""
    return [BlockKey(hash(text[: i + 1])) for i in range(len(text))]


def cached(index: PrefixIndex, text: str, gpu: GpuId) -> int:
    return index.cached_blocks(index.match(keys(text)), gpu)


def test_a_report_makes_exactly_its_blocks_cached():
    index = PrefixIndex()
    index.store(A, None, keys("abcd"))
    assert cached(index, "abcdef", A) == 4
    assert cached(index, "abx", A) == 2
    assert cached(index, "abcd", B) == 0


def test_prompts_that_diverge_share_one_node_above():
    index = PrefixIndex()
    for text in ("abcd", "abxy", "ab"):
        index.intend(index.insert(keys(text)), A)
    assert [(stretch.node.keys, stretch.n_blocks) for stretch in index.match(keys("abcd"))] == [
        (keys("ab"), 2),
        (keys("abcd")[2:], 2),
    ]


def test_lru_evicts_the_oldest_first_and_children_before_parents():
    index = PrefixIndex()
    for text in ("abcd", "abxy", "mn"):
        leaf = index.insert(keys(text))
        index.use(leaf, A)
        index.acquire(leaf, A)
        index.set_chain_resident(leaf, A)
        index.release(leaf, A)
    order = [victim.node.keys for victim in index.victims(A, 100)]
    assert order == [keys("abcd")[2:], keys("abxy")[2:], keys("ab"), keys("mn")]


def test_a_hit_refreshes_the_whole_path():
    index = PrefixIndex()
    for text in ("ab", "mn", "ab"):
        leaf = index.insert(keys(text))
        index.acquire(leaf, A)
        index.set_chain_resident(leaf, A)
        index.release(leaf, A)
    assert [victim.node.keys for victim in index.victims(A, 100)] == [keys("mn"), keys("ab")]


def test_what_runs_is_no_victim_and_only_as_much_is_taken_as_needed():
    index = PrefixIndex()
    running, idle = index.insert(keys("abc")), index.insert(keys("xyz"))
    for leaf in (running, idle):
        index.acquire(leaf, A)
        index.set_chain_resident(leaf, A)
    index.release(idle, A)
    assert [(victim.node, victim.n_blocks) for victim in index.victims(A, 2)] == [(idle, 2)]


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

    @rule(target=on_the_way, text=texts, gpu=gpus)
    def place(self, text, gpu):
        leaf = self.index.insert(keys(text))
        self.index.use(leaf, gpu)
        self.index.intend(leaf, gpu)
        self.intended.append((text, gpu))
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

    @rule(request=consumes(running), computed=st.booleans())
    def finish(self, request, computed):
        text, gpu, leaf = request
        if computed:
            self.index.set_chain_resident(leaf, gpu)
            self.resident[gpu] |= {text[: i + 1] for i in range(len(text))}
        self.index.fulfil(leaf, gpu)
        self.index.release(leaf, gpu)
        self.index.disuse(leaf, gpu)
        self.intended.remove((text, gpu))
        self.active.remove((text, gpu))

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
    def counts_add_up(self):
        for gpu in GPUS:
            assert self.index.resident_blocks(gpu) == len(self.resident[gpu])
            held = {t for text, g in self.active if g == gpu for t in _prefixes(text)}
            assert self.index.active_blocks(gpu) == len(held)
            evictable = sum(victim.n_blocks for victim in self.index.victims(gpu, 10**6))
            assert evictable == len(self.resident[gpu] - held)

    @invariant()
    def nothing_is_kept_for_nobody(self):
        wanted = {t for gpu in GPUS for t in self.resident[gpu]}
        wanted |= {t for text, _ in self.intended for t in _prefixes(text)}
        assert len(self.index) == len(wanted)


def _prefixes(text):
    return [text[: i + 1] for i in range(len(text))]


TestForest = Forest.TestCase
TestForest.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_the_biggest_cached_part_is_counted_as_far_as_some_gpu_has_it():
    index = PrefixIndex()
    index.store(A, None, keys("abcdef"))
    index.store(B, None, keys("ab"))
    stretches = index.match(keys("abcdef"))
    biggest = index.biggest_cached(stretches, GPUS)
    assert biggest is not None
    assert (biggest.n_blocks, cached_of(biggest, A), cached_of(biggest, B)) == (6, 6, 2)
    assert index.biggest_cached(stretches, []) is None
