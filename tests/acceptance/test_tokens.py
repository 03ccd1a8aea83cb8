"""The tokens by which requests are routed are the engine's own."""

import asyncio
from contextlib import contextmanager

import httpx
import pytest
from tests.acceptance.conftest import MODEL

from preble.daemon.prompt import PromptEncoder
from preble.daemon.prompt.probes import PROBES

pytestmark = pytest.mark.engines

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
CHATS = {
    "plain": {"messages": [{"role": "user", "content": "Plain."}]},
    "other scripts": {
        "messages": [{"role": "system", "content": "Ünïcode ☃ 漢字."}, {"role": "user", "content": "🙂 " * 50}]
    },
    "parts": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "One. "}, {"type": "text", "text": "Two."}]}]
    },
    "a special token in the text": {
        "messages": [{"role": "system", "content": "s" * 2000}, {"role": "user", "content": "<|user|> is a token"}]
    },
    "a tool was called": {
        "messages": [
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "no"},
        ],
        "tools": [WEATHER],
    },
    "an open end": {
        "messages": [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "I think"}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    },
    **{f"probe: {name}": dict(body) for name, body in PROBES.items()},
}
PROMPTS = ["Once upon a time", "<|user|>x", [5, 6, 7, 8], ["one", "two and three"], [[9, 8], [7]], "漢字 🙂" * 100]


@contextmanager
def encoder(daemon):
    made = PromptEncoder.load(daemon.folder / "data" / "models" / "demo-v1")
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("name", CHATS)
def test_a_chats_tokens_are_the_engines(daemon, name):
    body = {"model": MODEL, **CHATS[name]}
    with encoder(daemon) as ours:
        tokens = asyncio.run(ours.encode_chat(body)).tolist()
    transport = httpx.HTTPTransport(uds=str(daemon.engine_socket("cpu0")))
    with httpx.Client(transport=transport, timeout=30) as engine:
        rendered = engine.post("http://engine/v1/chat/completions/render", json=body)
    assert tokens == rendered.json()["token_ids"]
    answer = daemon.sdk().chat.completions.create(
        model=MODEL, messages=body["messages"], max_tokens=1, extra_body={**CHATS[name], "max_tokens": 1}
    )
    assert answer.usage.prompt_tokens == len(tokens)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_completions_tokens_are_the_engines(daemon, prompt):
    with encoder(daemon) as ours:
        tokens = asyncio.run(ours.encode_completion({"model": MODEL, "prompt": prompt}))
    told = {"return_token_ids": True}
    answer = daemon.sdk().completions.create(model=MODEL, prompt=prompt, max_tokens=1, extra_body=told)
    assert [choice.prompt_token_ids for choice in answer.choices] == [ids.tolist() for ids in tokens]


def test_the_daemon_found_no_difference_when_its_engines_came_up(daemon):
    assert "chats_rendered_by_engine" not in (daemon.folder / "daemon.log").read_text()
