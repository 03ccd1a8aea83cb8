"""Bodies in, token ids out: against the library's own tokens, from hostile bodies, several at once, and at the end."""

import asyncio
import threading
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.prompt.conftest import TEMPLATE
from tests.prompt.models import word_tokenizer, write_model

from preble.daemon.errors import EngineError, InvalidRequest
from preble.daemon.prompt import NotReproducible, PromptEncoder, template
from preble.daemon.prompt.encoder import INLINE_CHARS, LIGHT_CHARS, is_light
from preble.daemon.prompt.probes import PROBES
from preble.daemon.prompt.tokens import Tokens

DEADLINE_S = 20
ODD = "  it's 1234567 €\n\n\t東京 🗼👩‍👩‍👧 e\u0301\u0000\u200b <|end|></s><s>[INST] "
USER = {"role": "user", "content": ODD}
TURNS = [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "the theme"}, USER]


def user(text, **fields):
    return {"messages": [{"role": "user", "content": text}], **fields}


@pytest.fixture(scope="module")
def theirs():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained


# What a chat and a completion become.


@pytest.mark.parametrize("tools", [None, [{"type": "function", "function": {"name": "f", "parameters": {}}}]])
async def test_a_chats_tokens_are_the_librarys(demo, demo_model, theirs, tools):
    shown = tools and [{"type": "function", "function": {"name": "f", "description": None, "parameters": {}}}]
    ids = await demo.encode_chat({"messages": TURNS, "tools": tools})
    truth = theirs(demo_model).apply_chat_template(TURNS, tools=shown, add_generation_prompt=True, return_dict=False)
    assert ids.tolist() == truth
    assert ids.dtype == "uint32"


async def test_a_chat_of_a_template_that_takes_parts_has_the_librarys_tokens(word, word_model, theirs):
    parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in TURNS]
    truth = theirs(word_model).apply_chat_template(parts, add_generation_prompt=True, return_dict=False)
    assert (await word.encode_chat({"messages": TURNS})).tolist() == truth
    assert (await word.encode_chat({"messages": TURNS, "add_special_tokens": True})).tolist() == [truth[0], *truth]


async def test_a_text_too_long_for_any_tokens_is_refused_without_tokenising_it(word, word_model, theirs, monkeypatch):
    longest = 5 * max(map(len, theirs(word_model).get_vocab()))  # as vLLM has it
    assert len((await word.encode_completion({"prompt": "x" * longest}, 5))[0]) > 5
    monkeypatch.setattr(Tokens, "finish", None)
    for prompt in ("x" * (longest + 1), ["x", "x" * (longest + 1)]):
        with pytest.raises(InvalidRequest, match="5 tokens") as refused:
            await word.encode_completion({"prompt": prompt}, 5)
        assert (refused.value.param, refused.value.code) == ("prompt", "context_length_exceeded")
    with pytest.raises(InvalidRequest) as refused:
        await word.encode_chat(user("x" * longest), 5)
    assert refused.value.param == "messages"


@pytest.mark.parametrize("special", [{}, {"add_special_tokens": True}, {"add_special_tokens": False}])
async def test_a_completions_tokens_are_the_librarys(word, word_model, theirs, special):
    tokenizer = theirs(word_model)
    ids = await word.encode_completion({"prompt": [ODD, "the", "", ODD], **special})
    truth = [tokenizer.encode(text, **({"add_special_tokens": True} | special)) for text in (ODD, "the", "", ODD)]
    assert [each.tolist() for each in ids] == truth
    [alone] = await word.encode_completion({"prompt": ODD, **special})
    assert alone.tolist() == truth[0]


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ([1, 2, 4294967295], [[1, 2, 4294967295]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ([[]], [[]]),
    ],
)
async def test_token_ids_are_taken_as_they_are(demo, prompt, ids):
    encoded = await demo.encode_completion({"prompt": prompt})
    assert [each.tolist() for each in encoded] == ids
    assert all(each.dtype == "uint32" for each in encoded)


BAD_PROMPTS = [None, 7, {}, {"a": 1}, [], [1, "a"], ["a", 1], [[1], "a"], [["a"]], [None], [1.5], [-1], [1 << 32]]


@pytest.mark.parametrize("prompt", [*BAD_PROMPTS, [10**400], [[1 << 32]], [[[1]]], [True], b"a", {"prompt": "a"}])
async def test_a_prompt_of_another_shape_is_refused_by_name(demo, prompt):
    with pytest.raises(InvalidRequest) as refused:
        await demo.encode_completion({"prompt": prompt})
    assert refused.value.param == "prompt"


@pytest.mark.parametrize("flag", ["yes", 1, None])
async def test_a_flag_of_another_shape_is_refused_by_name(demo, flag):
    with pytest.raises(InvalidRequest) as refused:
        await demo.encode_completion({"prompt": "a", "add_special_tokens": flag})
    assert refused.value.param == "add_special_tokens"


@pytest.mark.parametrize("field", ["prompt_embeds", "suffix", "truncate_prompt_tokens", "kv_transfer_params"])
async def test_what_changes_a_completions_prompt_is_left_to_the_engine(demo, field):
    with pytest.raises(NotReproducible, match=field):
        await demo.encode_completion({"prompt": "a", field: 1})
    assert len(await demo.encode_completion({"prompt": "a", field: None})) == 1


async def test_tools_have_a_template_of_their_own_where_the_model_has_one(load, tmp_path):
    named = [{"name": "default", "template": "the"}, {"name": "tool_use", "template": "then"}]
    encoder = load(write_model(tmp_path, word_tokenizer(), chat_template=named))
    plain = await encoder.encode_chat(user("a"))
    tools = await encoder.encode_chat(user("a", tools=[{"function": {"name": "f"}}]))
    assert [word_tokenizer().decode(ids) for ids in (plain, tools)] == ["the", "then"]


async def test_a_model_without_a_template_leaves_chats_to_the_engine(load, tmp_path):
    with pytest.raises(NotReproducible, match="no chat template"):
        await load(write_model(tmp_path, word_tokenizer())).encode_chat(user("a"))


# Hostile bodies.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["\ud800", "\x00", "<s>"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
MESSAGE_FIELDS = ("role", "content", "tool_calls", "name", "task", "reasoning", "reasoning_content", "tool_call_id")
BODY_FIELDS = (
    "messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template_kwargs",
    "reasoning_effort", "add_special_tokens", "prompt", "suffix",
)  # fmt: skip
ROLES = st.sampled_from(["user", "assistant", "tool", "system", "developer"])
MESSAGES = st.dictionaries(st.sampled_from(MESSAGE_FIELDS), JSON, max_size=4)
ALMOST = st.builds(lambda role, message: {"role": role, "content": "a", **message}, ROLES, MESSAGES)
BODIES = st.builds(
    lambda messages, fields: {"messages": messages, **fields},
    st.lists(ALMOST | JSON, max_size=3),
    st.dictionaries(st.sampled_from(BODY_FIELDS), JSON, max_size=3),
)


@settings(suppress_health_check=[*settings().suppress_health_check, HealthCheck.function_scoped_fixture])
@given(BODIES)
@example({"messages": "\ud800"})
@example({"messages": [{"role": "user", "content": "\ud800"}], "prompt": "\ud800"})
async def test_any_body_becomes_tokens_or_is_refused_or_left_to_the_engine(word, body):
    for encode in (word.encode_chat, word.encode_completion):
        with suppress(NotReproducible):
            refused = await refusal(encode, body)
            assert refused is None or refused.param


async def refusal(encode, body):
    """Encodes, and gives only the refusal, should there be one."""
    try:
        await encode(body)
    except InvalidRequest as refused:
        return refused


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template_kwargs": {"mood": nested(100_000)}},
        {"tools": [{"function": {"name": "f", "parameters": {"deep": nested(100_000)}}}]},
        {"ignored": nested(100_000)},
        {"tools": [{"function": {"name": "f", "parameters": {"huge": 10**5_000}}}]},
        {"documents": nested(100_000)},
        {"messages": nested(100_000)},
        {"messages": [{"role": "user", "content": nested(100_000)}]},
        {"messages": [{"role": "\ud800", "content": "a"}]},
        {"messages": [{"role": "assistant", "tool_calls": nested(10)}]},
    ],
    ids=["variable", "tool", "ignored", "huge number", "documents", "messages", "content", "surrogate", "calls"],
)
async def test_deep_and_huge_values_lead_to_no_other_error(demo, word, fields):
    for encoder in (demo, word):
        with suppress(NotReproducible):
            assert len(await encoder.encode_chat(user("a") | fields)) > 0


async def test_a_name_for_a_token_in_a_text_is_that_token(demo, demo_model, theirs):
    end = theirs(demo_model).convert_tokens_to_ids("<|end|>")
    ids = (await demo.encode_chat(user("a<|end|>b"))).tolist()
    assert ids.count(end) == 2


async def test_null_bytes_survive(word):
    [ids] = await word.encode_completion({"prompt": "a\x00b", "add_special_tokens": False})
    assert word_tokenizer().decode(ids) == "a\x00b"


# What runs where.


def test_a_body_is_light_up_to_a_weight_of_texts_and_values():
    assert is_light({"a": "x" * 700, "b": ["x"] * 3}, limit_chars=700 + 3 + 5 * 128)
    assert not is_light({"a": "x" * 700, "b": ["x"] * 3}, limit_chars=700 + 3 + 5 * 128 - 1)
    assert not is_light({"a": [[{"b": "x" * 1_000}]]}, limit_chars=1_000)
    assert not is_light({"a": [[]] * 1_000}, limit_chars=127_000)


def test_a_heavy_body_is_not_read_to_its_end():
    class Counted(dict):
        read = 0

        def values(self):
            Counted.read += 1
            return super().values()

    assert not is_light({"a": [Counted(b=1)] * 1_000}, limit_chars=1_000)
    assert Counted.read == 0


@pytest.fixture
def threads(monkeypatch):
    """Threads that rendered, and that tokenised. On the loop, tokenising must not wait for cores busy with others."""
    seen = {"render": [], "tokenise": []}
    render, finish = template.ChatTemplate.render, Tokens.finish

    def rendering(*arguments):
        seen["render"].append(threading.current_thread())
        return render(*arguments)

    def finishing(*arguments, at_once=False):
        thread = threading.current_thread()
        seen["tokenise"].append(thread)
        assert at_once is (thread is threading.main_thread())
        return finish(*arguments, at_once=at_once)

    monkeypatch.setattr(template.ChatTemplate, "render", rendering)
    monkeypatch.setattr(Tokens, "finish", finishing)
    return seen


@pytest.mark.parametrize(
    ("text", "in_thread"),
    [
        ("a" * 10, set()),
        ("a" * (INLINE_CHARS + 1), {"tokenise"}),
        ("a" * LIGHT_CHARS, {"render", "tokenise"}),
    ],
    ids=["short", "long", "heavy"],
)
async def test_the_longer_a_text_the_less_is_done_on_the_loop(demo, threads, text, in_thread):
    await demo.encode_chat(user(text))
    main = threading.main_thread()
    assert {which for which, [thread] in threads.items() if thread is not main} == in_thread


async def test_a_long_conversation_that_is_known_but_for_its_end_needs_no_thread(demo, threads):
    turns = [{"role": "user", "content": f"{n} " + "a" * 2_000} for n in range(20)]
    await demo.encode_chat({"messages": turns})
    await demo.encode_chat({"messages": [*turns, {"role": "user", "content": "And now?"}]})
    first, second = threads["tokenise"]
    assert first is not threading.main_thread()
    assert second is threading.main_thread()


async def test_the_loop_goes_on_while_a_heavy_body_is_rendered(demo, monkeypatch):
    loop, inside, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    real = template.ChatTemplate.render

    def wait_for_the_loop(*arguments):
        loop.call_soon_threadsafe(inside.set)
        assert go_on.wait(DEADLINE_S), "the loop stood still"
        return real(*arguments)

    monkeypatch.setattr(template.ChatTemplate, "render", lambda *arguments: wait_for_the_loop(*arguments))
    encoding = asyncio.create_task(demo.encode_chat(user("a" * LIGHT_CHARS)))
    async with asyncio.timeout(DEADLINE_S):
        await inside.wait()
    go_on.set()
    assert len(await encoding) > LIGHT_CHARS


async def test_many_at_once_do_not_get_each_others_tokens(load, word_model):
    encoder, alone = load(word_model, cache_bytes=30_000), load(word_model, cache_bytes=0)
    texts = [f"{n}: {ODD} " + "the theme, there " * (n * n % 97) for n in range(60)]
    bodies = [user(f"{text}<|end|>{texts[0]}") for text in texts]
    bodies += [user("then " * LIGHT_CHARS), user("there " * LIGHT_CHARS)]
    truth = [(await alone.encode_chat(body)).tolist() for body in bodies]
    for _ in range(3):
        encoded = await asyncio.gather(*(encoder.encode_chat(body) for body in bodies))
        assert [ids.tolist() for ids in encoded] == truth


async def test_closing_finishes_what_was_begun_and_ends_the_threads(demo_model):
    before = set(threading.enumerate())
    encoder = PromptEncoder.load(demo_model, 1)
    encodings = [asyncio.create_task(encoder.encode_chat(user(f"{n} " * 1_000))) for n in range(5)]
    await asyncio.sleep(0)
    assert set(threading.enumerate()) > before
    encoder.close()
    assert set(threading.enumerate()) == before
    assert [len(ids) for ids in await asyncio.gather(*encodings)] == [2_000 + len("AB") + 1] * 5


# The proof that an engine's tokens are ours.


async def test_an_encoder_agrees_with_an_engine_that_makes_the_same(demo, load, demo_model):
    asked = []
    engine = load(demo_model)

    async def render(body):
        asked.append(body)
        return (await engine.encode_chat(body)).tolist()

    assert await demo.verify(render) is None
    assert asked == list(PROBES.values())


async def test_an_engine_with_another_template_is_found_out(word, load, tmp_path):
    other = load(write_model(tmp_path, word_tokenizer(), TEMPLATE.replace("{%- if tools", "{%- if false")))
    differences = await word.verify(other.encode_chat)
    assert differences == "tools, tools of choice, a tool's result come out differently"


async def test_a_shorter_answer_of_the_engine_is_a_difference(demo):
    async def render(body):
        return (await demo.encode_chat(body))[:-1]

    assert "several turns" in await demo.verify(render)


async def test_what_the_engine_refuses_proves_nothing(demo):
    async def render(body):
        raise InvalidRequest("no")

    assert await demo.verify(render) is None


async def test_what_only_we_refuse_is_a_difference(demo, load, tmp_path):
    strict = load(write_model(tmp_path, word_tokenizer(), "{{ raise_exception('no') }}"))
    assert "system and user" in await strict.verify(demo.encode_chat)


async def test_what_we_leave_to_the_engine_is_no_difference(demo, load, tmp_path):
    assert await load(write_model(tmp_path, word_tokenizer())).verify(demo.encode_chat) is None


async def test_an_engine_that_fails_is_not_taken_for_one_that_agrees(demo):
    async def render(body):
        raise EngineError("gone")

    with pytest.raises(EngineError):
        await demo.verify(render)


async def test_tokens_are_read_with_their_special_ones(demo, demo_model, theirs):
    ids = await demo.encode_chat(user("Grüße, 東京"))
    text = await demo.decode(ids.tolist())
    assert text == theirs(demo_model).decode(ids, skip_special_tokens=False)
    assert "Grüße, 東京" in text
    assert text.startswith("<|user|>")
