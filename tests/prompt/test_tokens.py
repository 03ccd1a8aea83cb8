"""What is remembered of texts, and how much of it."""

from sys import getsizeof
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.prompt.models import word_tokenizer

from preble.daemon.prompt import NotReproducible
from preble.daemon.prompt.tokens import SegmentCache, Tokens, token_ids

IDS = token_ids([1, 2, 3])
SCOPE = "s"


def size_bytes(text, ids):
    return sum(map(getsizeof, ((SCOPE, text), SCOPE, text, ids)))


ENTRY_BYTES = size_bytes("a", IDS)


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 40)), max_size=60), st.integers(0, 1_000))
def test_the_cache_stays_below_its_limit_and_knows_its_size(puts, limit_bytes):
    cache = SegmentCache(limit_bytes)
    kept = {}
    for text, n_tokens in puts:
        ids = kept.setdefault(text, token_ids(range(n_tokens)))
        cache.put((SCOPE, text), ids)
        assert cache.size_bytes <= limit_bytes
        if size_bytes(text, ids) <= limit_bytes:
            assert cache.get((SCOPE, text)) == ids
    sizes = [size_bytes(text, ids) for text, ids in kept.items() if cache.get((SCOPE, text)) is not None]
    assert cache.size_bytes == sum(sizes)


def test_the_least_recently_used_is_forgotten_first():
    cache = SegmentCache(3 * ENTRY_BYTES)
    for text in "abc":
        cache.put((SCOPE, text), IDS)
    assert cache.get((SCOPE, "a")) is IDS
    cache.put((SCOPE, "d"), IDS)
    assert [text for text in "abcd" if cache.get((SCOPE, text))] == ["a", "c", "d"]


def test_what_is_larger_than_the_cache_pushes_nothing_out():
    cache = SegmentCache(ENTRY_BYTES)
    cache.put((SCOPE, "a"), IDS)
    cache.put((SCOPE, "b"), token_ids(range(1_000)))
    assert cache.get((SCOPE, "a")) is IDS
    assert cache.get((SCOPE, "b")) is None


def test_no_other_thread_pushes_out_what_is_being_looked_up():
    cache = SegmentCache(ENTRY_BYTES)
    cache.put((SCOPE, "a"), IDS)
    other = Thread(target=cache.put, args=((SCOPE, "b"), IDS))

    class Interrupted(str):
        hashed = 0

        def __hash__(self):
            Interrupted.hashed += 1
            if Interrupted.hashed == 2:
                other.start()
                other.join(timeout=0.05)
            return super().__hash__()

    assert cache.get((SCOPE, Interrupted("a"))) is IDS
    other.join()
    assert [cache.get((SCOPE, text)) for text in "ab"] == [None, IDS]


@pytest.fixture
def tokens():
    return Tokens(word_tokenizer(), cache_bytes=10_000)


def begun(tokens, text, scope="", **options):
    return tokens.begin([text], scope, **({"add_special_tokens": False} | options))


def test_only_what_is_new_is_tokenised(tokens):
    tokens.finish(begun(tokens, "the theme<|end|>there"))
    draft = begun(tokens, "there<|end|>the theme<|user|>then<|end|>then")
    assert draft.missing == ["then"]
    assert draft.missing_chars == 4


def test_what_one_scope_has_had_tokenised_another_has_to_wait_for_itself(tokens):
    for scope in "ab":
        draft = begun(tokens, "the theme", scope)
        assert draft.missing == ["the theme"]
        tokens.finish(draft)
        assert not begun(tokens, "the theme", scope).missing


def test_an_added_token_in_the_text_is_that_token(tokens):
    assert not begun(tokens, "<|end|><think>").missing


def test_a_prompt_with_special_tokens_around_it_is_not_confused_with_one_without(tokens):
    [whole] = tokens.finish(begun(tokens, "the", add_special_tokens=True))
    [bare] = tokens.finish(begun(tokens, "the"))
    assert whole.tolist() == [word_tokenizer().token_to_id("<s>"), *bare.tolist()]
    assert tokens.finish(begun(tokens, "the", add_special_tokens=True))[0].tolist() == whole.tolist()


def test_what_is_returned_is_the_callers_to_change(tokens):
    [first] = tokens.finish(begun(tokens, "the"))
    before = first.tolist()
    first[:] = 0
    [second] = tokens.finish(begun(tokens, "the"))
    assert second.tolist() == before


def test_a_tokenizer_that_splits_special_tokens_is_given_prompts_whole():
    tokenizer = word_tokenizer()
    tokenizer.encode_special_tokens = True
    tokens = Tokens(tokenizer, cache_bytes=10_000)
    [ids] = tokens.finish(begun(tokens, "the<s>then"))
    assert ids.tolist() == tokenizer.encode("the<s>then", add_special_tokens=False).ids
    assert tokenizer.token_to_id("<s>") not in ids


class Watched:
    """A tokenizer that tells which of its methods were called."""

    def __init__(self):
        self.real, self.called = word_tokenizer(), set()

    def __getattr__(self, name):
        self.called.add(name)
        return getattr(self.real, name)


@pytest.mark.parametrize("at_once", [True, False])
def test_only_what_may_wait_is_given_to_all_cores(at_once):
    tokenizer = Watched()
    tokens = Tokens(tokenizer, cache_bytes=10_000)
    draft = begun(tokens, "the<s>then")
    tokenizer.called.clear()
    [ids] = tokens.finish(draft, at_once=at_once)
    assert tokenizer.called == ({"encode"} if at_once else {"encode_batch_fast"})
    assert ids.tolist() == tokenizer.real.encode("the<s>then", add_special_tokens=False).ids


def test_half_a_surrogate_pair_is_left_to_the_engine(tokens):
    with pytest.raises(NotReproducible, match="surrogate"):
        begun(tokens, "the \ud800")
