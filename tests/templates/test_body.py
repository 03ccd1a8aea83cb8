"""Bodies, variables and their values, without a model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.daemon.errors import InvalidRequest
from preble.daemon.templates.body import checked, decoded, digest_of, encoded, filled, names_of, variables_of
from preble.daemon.templates.values import marked, texts_for
from preble.daemon.wire.templates import MAX_BODY_CHARS, TemplateBody, TemplateMessage, TextPart, Variable

TYPED = {
    "s": Variable(max_length=3),
    "i": Variable(type="integer"),
    "n": Variable(type="number", default=1.5),
    "b": Variable(type="boolean", required=False),
}


def text(text, **variables):
    return checked(TemplateBody(text=text, variables=variables))


def refusal(of, *arguments):
    with pytest.raises(InvalidRequest) as refused:
        of(*arguments)
    return refused.value


def test_variables_are_what_stands_in_two_braces_unless_a_backslash_is_before_it():
    body = text(r"{{ a }} {{b_2}} \{{c}} {{1}} {d} {{a}} {{ }} {{é}} {% x %}")
    assert names_of(body) == ["a", "b_2"]
    assert filled(body, {"a": "A", "b_2": r"\1{{a}}"}).text == r"A \1{{a}} {{c}} {{1}} {d} A {{ }} {{é}} {% x %}"


def test_variables_stand_in_every_text_of_a_chat_and_nowhere_else():
    messages = [
        TemplateMessage(role="system", content="{{a}}", name="{{x}}"),
        TemplateMessage(role="user", content=[TextPart(text="{{b}}"), TextPart(text="-")]),
        TemplateMessage(role="assistant", tool_calls=[{"id": "{{y}}"}]),
    ]
    body = checked(TemplateBody(messages=messages, tools=[{"z": "{{z}}"}]))
    assert names_of(body) == ["a", "b"]
    done = filled(body, {"a": "1", "b": "2"})
    assert (done.messages[0].content, done.messages[0].name, done.messages[1].content[0].text) == ("1", "{{x}}", "2")
    assert (done.messages[2], done.tools) == (messages[2], body.tools)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (TemplateBody(), "text"),
        (TemplateBody(text="a", messages=[TemplateMessage(role="user", content="a")]), "text"),
        (TemplateBody(text="a", tools=[{}]), "tools"),
        (TemplateBody(messages=[TemplateMessage(role="assistant")]), "messages[0].content"),
        (TemplateBody(messages=[TemplateMessage(role="user", tool_calls=[{}])]), "messages[0].content"),
        (TemplateBody(text="a", variables={"b": Variable()}), "variables.b"),
        (TemplateBody(text="{{b}}", variables={"b": Variable(default="x", required=True)}), "variables.b"),
        (TemplateBody(text="{{b}}", variables={"b": Variable(default="xx", max_length=1)}), "variables.b.default"),
        (TemplateBody(text="{{b}}", variables={"b": Variable(default=1)}), "variables.b.default"),
        (TemplateBody(text="a" * MAX_BODY_CHARS), "text"),
    ],
)
def test_what_is_no_template_is_refused_by_the_field(body, param):
    assert refusal(checked, body).param == param


def test_a_body_is_its_json():
    body = text("{{b}} {{a}}", b=Variable(default="x"), a=Variable(type="integer", required=False))
    assert list(body.variables) == ["a", "b"]
    assert decoded(encoded(body)) == body
    assert digest_of(body) == digest_of(decoded(encoded(body)))
    assert digest_of(body) != digest_of(text("{{b}} {{a}}"))


def test_every_value_that_is_wrong_missing_or_unknown_is_named_at_once():
    refused = refusal(texts_for, TYPED, {"s": "abcd", "n": "x", "what": 1})
    assert refused.param == "template.variables"
    for each in ("`what` is no variable", "`s` has 4 characters, and may have 3", "`i` is missing", "`n` must be"):
        assert each in refused.message
    assert refusal(texts_for, TYPED, {"s": "a"}).param == "template.variables.i"
    assert len(refusal(texts_for, {}, {f"{n}" * 1000: 1 for n in range(100)}).message) < 5000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("s", 1),
        ("s", []),
        ("i", True),
        ("i", 1.0),
        ("i", "1"),
        ("i", 1 << 64),
        ("n", float("inf")),
        ("n", float("nan")),
        ("b", "true"),
        ("b", 1),
    ],
)
def test_a_value_is_of_its_type(name, value):
    assert f"`{name}` must be of the type" in refusal(texts_for, TYPED, {"s": "", "i": 1, name: value}).message


def test_values_become_text_as_one_would_write_them():
    assert texts_for(TYPED, {"s": "a", "i": -2}) == {"s": "a", "i": "-2", "n": "1.5", "b": ""}
    given = {"s": "", "i": 0, "n": 3, "b": False}
    assert texts_for(TYPED, given) == {"s": "", "i": "0", "n": "3", "b": "false"}
    assert texts_for(TYPED, {**given, "n": None})["n"] == "1.5"


def test_markers_are_found_in_values():
    told = marked({"a": "x<|end|>", "b": "[INST] y", "c": "fine"}, ("<|end|>", "[INST]"))
    assert told.keys() == {"a", "b"}
    assert "'<|end|>'" in told["a"]


@given(st.text(), st.dictionaries(st.text(), st.none() | st.booleans() | st.floats() | st.text() | st.integers()))
def test_no_text_and_no_values_make_it_fail(written, values):
    try:
        body = text(written + "{{a}}")
        filled(body, texts_for(variables_of(body), values))
    except InvalidRequest:
        pass
