import json
import os
import signal
import subprocess
import sys
import time

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from preble.daemon.engine.demo_model import ensure_demo_model
from preble.daemon.errors import EngineError

DEADLINE_S = 100
WHOLE = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The model, and what was said while it was made."""
    said = []
    return ensure_demo_model(tmp_path_factory.mktemp("data"), said.append), said


@pytest.fixture(scope="module")
def tokenizer(made):
    return Tokenizer.from_file(str(made[0] / "tokenizer.json"))


@pytest.fixture(scope="module")
def template(made):
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.Undefined)
    return environment.from_string((made[0] / "chat_template.jinja").read_text())


def names(folder):
    return {path.name for path in folder.iterdir()}


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_the_model_is_a_small_llama_with_a_long_context(made):
    folder, said = made
    config = json.loads((folder / "config.json").read_text())
    assert names(folder) >= WHOLE
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["num_hidden_layers"], config["hidden_size"]) == (4, 256)
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert (config["dtype"], config["max_position_embeddings"]) == ("bfloat16", 16384)
    assert said == [f"making the demo model in {folder}"]


def test_a_second_call_makes_nothing(made):
    folder, _ = made
    before, said = stamps(folder), []
    assert ensure_demo_model(folder.parents[1], said.append) == folder
    assert stamps(folder) == before
    assert said == []


@given(st.text())
def test_text_survives_the_tokens_and_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@given(st.text().filter(lambda text: "<" not in text))
def test_a_byte_is_a_token_outside_the_marks(tokenizer, text):
    assert len(tokenizer.encode(text).ids) == len(text.encode())


def test_each_role_and_end_mark_is_one_token(tokenizer):
    marks = [f"<|{name}|>" for name in ("system", "user", "assistant", "tool", "end")]
    assert [tokenizer.token_to_id(mark) for mark in marks] == tokenizer.encode("".join(marks)).ids


def test_messages_become_turns(template):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = template.render(messages=messages, add_generation_prompt=True)
    assert text == "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>"
    assert text == template.render(messages=messages) + "<|assistant|>"


def test_tools_and_calls_are_part_of_the_prompt(template):
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Bonn"}}}
    messages = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "no"},
    ]
    text = template.render(messages=messages, tools=[tool])
    system, user, assistant, result, rest = text.split("<|end|>")
    assert json.loads(system.removeprefix("<|system|>Tools:")) == tool
    assert (user, result, rest) == ("<|user|>Rain?", "<|tool|>no", "")
    assert assistant == '<|assistant|> weather {"city": "Bonn"}'
    without = template.render(messages=messages)
    assert text.removeprefix(system + "<|end|>") == without


def test_a_turn_can_be_continued(template):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    text = template.render(messages=messages, continue_final_message=True)
    assert text == "<|user|>Hi<|end|><|assistant|>Hello"


def test_a_kill_half_way_leaves_nothing_that_counts_as_done(tmp_path):
    code = f"from preble.daemon.engine.demo_model import *; ensure_demo_model(Path({str(tmp_path)!r}), print)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not any(tmp_path.rglob("tokenizer.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    folder = tmp_path / "models/demo-v1"
    assert not folder.exists()
    assert ensure_demo_model(tmp_path, print) == folder
    assert names(folder) >= WHOLE
    assert names(folder.parent) == {"demo-v1"}


def test_a_failure_says_why_and_leaves_nothing_that_counts_as_done(tmp_path, monkeypatch):
    broken = tmp_path / "python"
    broken.write_text('#!/bin/sh\ntouch "$3/config.json"\necho "No module named torch" >&2\nexit 1\n')
    broken.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(broken))
        with pytest.raises(EngineError, match="No module named torch"):
            ensure_demo_model(tmp_path, print)
    assert not (tmp_path / "models/demo-v1").exists()
