"""What is found to be the same in every rendering, with a tokenizer that merges; and what is said of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.prompt.models import word_tokenizer

from preble.daemon.templates.body import checked, filled
from preble.daemon.templates.comparison import Other, advised, partings
from preble.daemon.templates.prefix import bare, common_tokens, request_body, shared_tokens, variants
from preble.daemon.wire.templates import TemplateBody, TemplateMessage

BLOCK = 4
TOKENIZER = word_tokenizer()
WORDS = "it's more of the same: the theme, there, then more words of the same. "


def tokens(text):
    return np.array(TOKENIZER.encode(text, add_special_tokens=False).ids, dtype=np.uint32)


def prefix_of(body):
    return common_tokens([tokens(request["prompt"]) for request in variants(body, merges=True)])


def test_a_token_that_reaches_into_a_value_is_not_part_of_the_prefix():
    whole, cut = "it's more of the the", "it's more of the th"
    body = checked(TemplateBody(text=f"{cut}{{{{x}}}} again"))
    prefix = prefix_of(body).tolist()
    assert prefix == tokens("it's more of the").tolist()
    assert tokens(whole).tolist()[: len(prefix)] == prefix


@given(st.text(alphabet="itshemor \n.,0", max_size=12), st.integers(1, len(WORDS)))
def test_whatever_the_value_is_the_prefix_is_the_same(value, length):
    body = checked(TemplateBody(text=f"{WORDS}{WORDS[:length]}{{{{x}}}} and more"))
    prefix = prefix_of(body)
    rendered = tokens(filled(body, {"x": value}).text)
    assert shared_tokens(prefix, rendered) == len(prefix)


def test_what_is_appended_to_a_text_is_no_part_of_it():
    assert len(prefix_of(checked(TemplateBody(text=f"{WORDS}the")))) < len(tokens(f"{WORDS}the"))


def test_requests_for_a_chat_differ_in_what_follows():
    body = checked(TemplateBody(messages=[TemplateMessage(role="system", content="{{a}}")], tools=[{"b": 1}]))
    made = list(variants(body, merges=False))
    assert {len(request["messages"]) for request in made} == {1, 2, 3}
    assert all(request["tools"] == [{"b": 1}] for request in made)
    assert any(request.get("add_generation_prompt") is False for request in made)
    assert bare(body)["messages"] == [{"role": "system", "content": ""}]
    assert len({request["messages"][0]["content"] for request in made}) > 10
    assert {request["messages"][0]["content"] for request in variants(body, ["a"], merges=True)} == {""}
    assert request_body(checked(TemplateBody(text="x"))) == {"prompt": "x"}


@pytest.mark.parametrize(
    ("prefix", "without", "moved", "more"),
    [
        (10, [11, 12], None, 0),
        (10, [10, 110], ["a", "b"], 100),
        (10, [109, 110], ["a"], 100),
        (10, [50, 110], ["a", "b"], 100),
        (10, [], None, 0),
    ],
)
def test_advice_is_to_move_as_few_as_bring_most(prefix, without, moved, more):
    found = advised(["a", "b"], prefix, without, BLOCK)
    if moved is None:
        assert found == []
    else:
        [advice] = found
        assert (advice.variables, advice.more_tokens) == (moved, more)


def test_partings_are_told_from_a_block_on_those_that_share_most_first():
    def array(*ids):
        return np.array(ids, dtype=np.uint32)

    def other(name, *ids):
        return Other(name=name, owner=None, version=2, prefix=array(*ids))

    ours = array(1, 2, 3, 4, 5, 6)
    others = [other("short", 1, 2, 3, 9), other("block", 1, 2, 3, 4, 9), other("all", 1, 2, 3, 4, 5, 6, 7)]
    told = [(one.name, one.shared_tokens, one.ours, one.theirs) for one in partings(ours, others, BLOCK, str)]
    assert told == [("all", 6, None, "7"), ("block", 4, "5", "9")]
