"""Cutting at added tokens: where it is allowed, and that the pieces' tokens are the whole's."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.prompt.models import ADDED, SPECIAL, word_tokenizer
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from preble.daemon.prompt.splitting import added_token_pattern
from preble.daemon.prompt.tokens import Tokens

WORD = word_tokenizer()
FRAGMENTS = [*SPECIAL, *ADDED, "<", "<|", "|>", "<think", "er", " ", "\n", "  \n", "the", "there", "12345", "é", "e"]
TEXTS = st.lists(st.sampled_from([*FRAGMENTS, "\u0301", "東京", "🗼", "\x00", "'s"]) | st.text(max_size=3)).map("".join)


def bytewise(model=None, **flags):
    """A tokenizer of bytes with one added token, "<x>"."""
    names = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(model or models.BPE(vocab={name: n for n, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_tokens([AddedToken("<x>", **({"normalized": False} | flags))])
    return tokenizer


def pattern(tokenizer):
    return added_token_pattern(json.loads(tokenizer.to_str()))


def changed(attribute, value, **flags):
    tokenizer = bytewise(**flags)
    setattr(tokenizer, attribute, value)
    return tokenizer


@pytest.fixture(scope="module")
def tokens():
    assert pattern(WORD) is not None
    return Tokens(word_tokenizer(), cache_bytes=20_000)


@given(TEXTS)
@example("<think>er<think>er")
@example("e<s>\u0301")
@example(" <s> ")
def test_the_tokens_of_the_pieces_are_the_tokens_of_the_whole(tokens, text):
    for add_special_tokens in (False, True):
        [ids] = tokens.finish(tokens.begin([text], add_special_tokens=add_special_tokens))
        assert ids.tolist() == WORD.encode(text, add_special_tokens=add_special_tokens).ids
        assert ids.dtype == "uint32"


@given(st.lists(TEXTS, max_size=4))
def test_several_prompts_at_once_are_each_as_if_alone(tokens, texts):
    ids = tokens.finish(tokens.begin(texts, add_special_tokens=False))
    assert [each.tolist() for each in ids] == [WORD.encode(text, add_special_tokens=False).ids for text in texts]


@given(st.sets(st.text(alphabet="<ab|.*", min_size=1, max_size=5), min_size=1), st.text(alphabet="<ab|.*"))
def test_the_pattern_finds_what_the_library_finds(names, text):
    tokenizer = bytewise()
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in sorted(names)])
    encoding, added = tokenizer.encode(text), tokenizer.get_added_tokens_decoder()
    theirs = [token for token, n in zip(encoding.tokens, encoding.ids, strict=True) if n in added]
    assert [match.group() for match in pattern(tokenizer).finditer(text)] == theirs


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word", "normalized"])
def test_a_token_that_minds_its_surroundings_forbids_cutting(flag):
    assert pattern(bytewise()) is not None
    assert pattern(bytewise(**{flag: True})) is None


@pytest.mark.parametrize(
    "tokenizer",
    [
        bytewise(models.WordLevel({"a": 0}, unk_token="a")),
        bytewise(models.BPE(dropout=0.1)),
        changed("normalizer", normalizers.Prepend("_")),
        changed("normalizer", normalizers.Sequence([normalizers.NFC(), normalizers.Strip()])),
        changed("pre_tokenizer", pre_tokenizers.Metaspace()),
        changed("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        changed("pre_tokenizer", pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.Metaspace()])),
    ],
    ids=["words", "dropout", "prefix", "strip", "metaspace", "prefix space", "sequence"],
)
def test_a_step_that_may_mind_the_place_forbids_cutting(tokenizer):
    assert pattern(tokenizer) is None


def test_what_is_not_cut_is_tokenised_whole():
    tokenizer = changed("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True))
    tokens = Tokens(tokenizer, cache_bytes=1_000)
    for _ in range(2):
        [ids] = tokens.finish(tokens.begin(["a<x>b<x>"], add_special_tokens=False))
        assert ids.tolist() == tokenizer.encode("a<x>b<x>").ids


def test_a_tokenizer_without_added_tokens_is_not_cut():
    tokenizer = bytewise()
    plain = Tokenizer(tokenizer.model)
    plain.pre_tokenizer = tokenizer.pre_tokenizer
    assert pattern(plain) is None
