"""Rendering, against the library whose dialect the templates are written in."""

import pytest

from preble.daemon.errors import InvalidRequest
from preble.daemon.prompt import NotReproducible
from preble.daemon.prompt.chat import read_body
from preble.daemon.prompt.template import ChatTemplate

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TOOL = {"type": "function", "function": {"name": "f", "description": "<b> & 'é'", "parameters": {"b": 1, "a": 2.0}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"b": "<é>", "a": [1.0, 1e5, null]}'}}
TURNS = [
    {"role": "system", "content": "  Be <b>brief</b>.\n"},
    {"role": "user", "content": "Ünïcödé\t東京 "},
    {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": "Why?"},
    {"role": "tool", "tool_call_id": "1", "content": "{}"},
    {"role": "assistant", "content": " The answer is \n"},
]
EACH = "{% for message in messages %}BODY{% endfor %}"
TEMPLATES = {
    "everything": "{{ messages | tojson }}{{ tools | tojson(indent=2) }}{{ documents | tojson }}{{ bos_token }}",
    "blocks are trimmed": " {% for m in messages %}\n  {% if true %}\n {{ m.content }}\n{% endif %}\n{% endfor %}",
    "loop controls": EACH.replace("BODY", "{% if loop.index > 4 %}{% break %}{% endif %}{{ message.role }},"),
    "generation": EACH.replace(
        "BODY", "{% generation %}{% set x = 1 %}{{ message.content }}{% endgeneration %}{{ x }}"
    ),
    "sorted JSON": "{{ tools | tojson(sort_keys=true, separators=(',', ':'), ensure_ascii=true) }}",
    "variables": "{{ eos_token }}{{ mood }}{{ enable_thinking }}{{ missing }}{{ add_generation_prompt }}",
    "strip": EACH.replace("BODY", "{{ message.content | trim }}|{{ message.content.strip('\\n ') }}{{ eos_token }}"),
    "namespace": "{% set ns = namespace(n=0) %}" + EACH.replace("BODY", "{% set ns.n = ns.n + 1 %}") + "{{ ns.n }}",
    "time": "{{ strftime_now('%Y-%m') }}",
}
BODIES = {
    "turns": {"messages": TURNS},
    "tools": {"messages": TURNS, "tools": [TOOL]},
    "documents": {"messages": TURNS[:2], "documents": [{"title": "t", "text": "x"}]},
    "variables": {"messages": TURNS[:2], "chat_template_kwargs": {"mood": {"a": [1]}, "bos_token": "<other>"}},
    "no generation prompt": {"messages": TURNS[:2], "add_generation_prompt": False},
}


def theirs(source, chat):
    from transformers.utils.chat_template_utils import render_jinja_template

    [text], _ = render_jinja_template(
        conversations=[chat.messages],
        tools=chat.tools,
        documents=chat.documents,
        chat_template=source,
        add_generation_prompt=chat.add_generation_prompt,
        continue_final_message=chat.continue_final_message,
        **(SPECIAL | chat.variables),
    )
    return text


def read(body):
    return read_body(body).chat(content_as_parts=False)


def ours(source, chat):
    return ChatTemplate(source, SPECIAL).render(chat)


@pytest.mark.parametrize("body", BODIES.values(), ids=list(BODIES))
@pytest.mark.parametrize("source", TEMPLATES.values(), ids=list(TEMPLATES))
def test_a_template_shows_what_the_library_makes_it_show(source, body):
    chat = read(body)
    assert ours(source, chat) == theirs(source, chat) != ""


OPEN = {
    "kept spaces": EACH.replace("BODY", "<{{ message.content }}>"),
    "stripped spaces": EACH.replace("BODY", "<{{ message.content | trim }}>"),
    "shown twice": EACH.replace("BODY", "<{{ message.content }}|{{ message.content }}>"),
}


@pytest.mark.parametrize("ending", ["The answer is", " The answer is \n", "", "x CONTINUE_FINAL_MESSAGE_TAG y "])
@pytest.mark.parametrize("source", OPEN.values(), ids=list(OPEN))
def test_a_message_stays_open_where_the_library_leaves_it_open(source, ending):
    messages = [TURNS[1], {"role": "assistant", "content": ending}]
    chat = read({"messages": messages, "continue_final_message": True, "add_generation_prompt": False})
    text = ours(source, chat)
    assert text == theirs(source, chat)
    assert text.rstrip().endswith(ending.strip())


def test_the_last_part_of_an_open_message_stays_open():
    source = EACH.replace("BODY", "{% for part in message.content %}[{{ part.text }}]{% endfor %}")
    texts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    chat = read_body({"messages": [{"role": "user", "content": texts}], **fields}).chat(content_as_parts=True)
    assert ours(source, chat) == theirs(source, chat) == "[a][b"
    assert texts[1]["text"] == "b"


@pytest.mark.parametrize(("source", "content"), [("{{ messages[0].role }}", "Hi"), ("{{ messages[0].content }}", [])])
def test_an_open_message_that_cannot_be_left_open_is_left_to_the_engine(source, content):
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    body = {"messages": [{"role": "user", "content": content}], **fields}
    with pytest.raises(NotReproducible, match="continued"):
        ours(source, read_body(body).chat(content_as_parts=content == []))


def test_a_template_refuses_in_its_own_words():
    with pytest.raises(InvalidRequest, match="roles must alternate") as refused:
        ours("{{ raise_exception('roles must alternate') }}", read({"messages": TURNS}))
    assert refused.value.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content.x.y }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_that_fails_leaves_the_chat_to_the_engine(source):
    with pytest.raises(NotReproducible, match="template failed"):
        ours(source, read({"messages": TURNS}))


def test_tools_that_are_nested_too_deeply_to_be_shown_are_left_to_the_engine():
    nested = {}
    for _ in range(100_000):
        nested = {"deeper": nested}
    chat = read({"messages": TURNS[:1], "chat_template_kwargs": {"mood": nested}})
    with pytest.raises(NotReproducible, match="template failed"):
        ours("{{ mood | tojson }}", chat)


def test_a_variable_takes_no_function_of_the_templates_away():
    chat = read({"messages": TURNS[:1], "chat_template_kwargs": {"range": 1, "mood": "x"}})
    assert ours("{% for n in range(2) %}{{ n }}{{ mood }}{% endfor %}", chat) == "0x1x"


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_developer_stays_one_only_where_the_template_knows_that_role(quote):
    show = EACH.replace("BODY", "{{ message.role }}:{{ message.content }};")
    knowing = "{% if messages[0].role == QdeveloperQ %}!{% endif %}".replace("Q", quote) + show
    chat = read({"messages": [{"role": "developer", "content": "D"}, {"role": "user", "content": "U"}]})
    assert ours(show, chat) == "system:D;user:U;"
    assert ours(knowing, chat) == "!developer:D;user:U;"
