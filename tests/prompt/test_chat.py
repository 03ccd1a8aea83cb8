"""Reading a chat request's body. What is expected here was seen in vLLM 0.32's own reading of the same bodies."""

import pytest

from preble.daemon.errors import InvalidRequest
from preble.daemon.prompt import NotReproducible
from preble.daemon.prompt.chat import read_body, without_developer

USER = {"role": "user", "content": "Hi"}
FUNCTION = {"name": "f", "arguments": '{"a": 1}'}
CALL = {"id": "c1", "type": "function", "function": FUNCTION}


def chat(*messages, content_as_parts=False, **fields):
    return read_body({"messages": list(messages), **fields}).chat(content_as_parts=content_as_parts)


def read(message, *, content_as_parts=False):
    [shown] = chat(message, content_as_parts=content_as_parts).messages
    return shown


def deep(levels):
    nested = {}
    for _ in range(levels):
        nested = {"deeper": nested}
    return nested


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


def test_parts_become_lines_of_one_text_and_empty_ones_none():
    assert read({"role": "user", "content": parts("a", "", "b")}) == {"role": "user", "content": "a\nb"}


def test_a_text_becomes_one_part_where_parts_are_wanted():
    assert read(USER, content_as_parts=True) == {"role": "user", "content": parts("Hi")}
    empty = {"role": "user", "content": parts("a", "")}
    assert read(empty, content_as_parts=True) == empty


def test_a_part_keeps_its_cache_control():
    part = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    assert read({"role": "user", "content": [part]}, content_as_parts=True)["content"] == [part]


def test_a_tools_result_is_always_one_text():
    message = {"role": "tool", "tool_call_id": "c1", "content": parts("a", "", "b")}
    assert read(message, content_as_parts=True) == {"role": "tool", "content": "a\n\nb", "tool_call_id": "c1"}


def test_only_a_tool_shows_which_call_it_answers():
    assert read(USER | {"tool_call_id": "c1"}) == USER


def test_calls_show_their_arguments_as_an_object():
    shown = read({"role": "assistant", "content": None, "tool_calls": [CALL]})
    assert shown["content"] == ""
    assert shown["tool_calls"] == [CALL | {"function": {"name": "f", "arguments": {"a": 1}}}]


@pytest.mark.parametrize("written", ["", "nonsense", "[1]", "42", "null", '"text"'])
def test_arguments_that_are_no_object_count_as_none_given(written):
    call = {**CALL, "function": {"name": "f", "arguments": written}}
    [shown] = read({"role": "assistant", "tool_calls": [call]})["tool_calls"]
    assert shown["function"]["arguments"] == {}


@pytest.mark.parametrize("written", ["[" * 100_000, "9" * 5_000], ids=["deep", "huge"])
def test_arguments_that_python_cannot_read_are_left_to_the_engine(written):
    call = {**CALL, "function": {"name": "f", "arguments": written}}
    with pytest.raises(NotReproducible, match="arguments"):
        chat({"role": "assistant", "tool_calls": [call]})


def test_an_empty_list_of_calls_is_no_list():
    assert read({"role": "assistant", "content": "a", "tool_calls": []}) == {"role": "assistant", "content": "a"}


def test_reasoning_has_two_names_of_which_the_newer_wins():
    both = {"reasoning": "r", "reasoning_content": "r"}
    assert read({"role": "assistant", "content": "a", "reasoning_content": "r"}).items() >= both.items()
    message = {"role": "assistant", "content": "a", "reasoning": "r", "reasoning_content": "old"}
    assert read(message).items() >= both.items()
    assert "reasoning" not in read({"role": "user", "content": "a", "reasoning": "r"})


def test_what_the_sdk_adds_to_an_answer_is_not_shown():
    answer = {"role": "assistant", "content": "a", "refusal": None, "annotations": [], "audio": None}
    assert read(answer | {"function_call": None}) == {"role": "assistant", "content": "a"}


def test_names_tasks_and_a_developers_lack_of_tools_are_shown():
    message = {"role": "developer", "content": "a", "name": "n", "task": "t"}
    assert read(message) == message | {"tools": None}


def test_a_tool_is_shown_in_a_fixed_order_and_strict_only_if_given():
    tool = {"function": {"parameters": {"type": "object"}, "more": 1, "name": "f"}, "x": 1}
    [shown] = chat(USER, tools=[tool]).tools
    assert list(shown) == ["type", "function"]
    assert list(shown["function"].items()) == [("name", "f"), ("description", None), ("parameters", {"type": "object"})]
    [strict] = chat(USER, tools=[{"function": {"name": "f", "strict": False}}]).tools
    assert list(strict["function"].items())[-1] == ("strict", False)


def test_null_and_auto_count_as_absent_variables():
    assert chat(USER, chat_template_kwargs={"a": None, "b": "auto", "c": 0}).variables == {"c": 0}


@pytest.mark.parametrize(
    ("fields", "variables"),
    [
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low", "enable_thinking": True}),
        ({"reasoning_effort": "none"}, {"reasoning_effort": "none", "enable_thinking": False}),
        (
            {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high", "enable_thinking": False}},
            {"reasoning_effort": "low", "enable_thinking": False},
        ),
        ({"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": None}}, {"reasoning_effort": "low"}),
    ],
)
def test_reasoning_effort_is_a_variable_and_opens_or_closes_thinking(fields, variables):
    assert chat(USER, **fields).variables == variables


@pytest.mark.parametrize("name", ["tools", "chat_template", "continue_final_message", "tokenize"])
def test_variables_that_reach_past_the_template_are_left_to_the_engine(name):
    with pytest.raises(NotReproducible, match=name):
        chat(USER, chat_template_kwargs={name: True})


def test_an_open_message_excludes_a_generation_prompt():
    with pytest.raises(InvalidRequest) as refused:
        chat(USER, continue_final_message=True)
    assert refused.value.param == "continue_final_message"
    assert chat(USER, continue_final_message=True, add_generation_prompt=False).continue_final_message


def test_an_empty_list_of_tools_is_refused():
    with pytest.raises(InvalidRequest) as refused:
        chat(USER, tools=[])
    assert refused.value.param == "tools"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"content": "Hi"}]}, "role"),
        ({"messages": [{"role": "user", "content": None}]}, "content"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": None}]}, "content"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "type"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "uuid": "u"}]}]}, "uuid"),
        ({"messages": [USER | {"name": None}]}, "name"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL | {"extra": 1}]}]}, "tool_calls"),
        ({"messages": [{"role": "system", "content": "x-anthropic-billing-header: 1\nHi"}]}, "billing"),
        ({"messages": [USER | {"role": "developer", "tools": []}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": 1}}]}, "tools"),
        ({"tools": [{"function": {"name": "f"}, "defer_loading": True}]}, "defer_loading"),
        ({"documents": [{"title": 1}]}, "documents"),
        ({"add_generation_prompt": "yes"}, "add_generation_prompt"),
        ({"reasoning_effort": "immense"}, "reasoning_effort"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
        ({"kv_transfer_params": {"prompt_token_ids": [1]}}, "kv_transfer_params"),
    ],
)
def test_what_is_not_understood_completely_is_left_to_the_engine(fields, named):
    with pytest.raises(NotReproducible, match=named):
        read_body({"messages": [USER], **fields}).chat(content_as_parts=False)


def test_depth_is_no_obstacle():
    part = {"type": "text", "text": "a", "cache_control": deep(100_000)}
    assert read({"role": "user", "content": [part]}, content_as_parts=True)["content"][0].keys() == part.keys()


def test_developers_become_systems_and_come_first_as_one():
    system, developer = {"role": "system", "content": "S"}, {"role": "developer", "content": "D", "tools": None}
    assert without_developer([developer, USER]) == [{"role": "system", "content": "D"}, USER]
    assert without_developer([system, USER, developer]) == [{"role": "system", "content": "S\n\nD"}, USER]
    assert without_developer([USER, developer]) == [{"role": "system", "content": "D"}, USER]
    several = {"role": "developer", "content": parts("D", "E"), "tools": None}
    assert without_developer([several, USER]) == [{"role": "system", "content": parts("D", "E")}, USER]
    assert without_developer([{"role": "system", "content": ""}, several, USER]) == [
        {"role": "system", "content": "D\nE"},
        USER,
    ]
