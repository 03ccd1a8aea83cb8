"""Reading a model's files, against what the library makes of the same files."""

import json

import pytest
from tests.prompt.models import word_tokenizer, write_model

from preble.daemon.errors import ConfigError
from preble.daemon.prompt.chat import read_body
from preble.daemon.prompt.files import read_model

CHAT = read_body({"messages": [{"role": "user", "content": "Hi"}]}).chat(content_as_parts=False)
TOKEN = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}


def rendered(folder):
    return read_model(folder).template.render(CHAT)


@pytest.mark.parametrize(
    "config",
    [
        {"bos_token": "<late>"},
        {"added_tokens_decoder": {"500": {"content": "<later>", **TOKEN}, "60": {"content": "<late>", **TOKEN}}},
        {"eos_token": {"__type": "AddedToken", "content": "<late>", **TOKEN}},
        {"additional_special_tokens": ["<late>", "<later>"]},
        {"extra_special_tokens": ["<late>"]},
        {"extra_special_tokens": {"image_token": "<late>"}},
        {"image_token": "<late>"},
    ],
    ids=lambda config: next(iter(config)),
)
def test_tokens_that_only_the_configuration_names_are_added_as_the_library_adds_them(tmp_path, config):
    from transformers import AutoTokenizer

    folder = write_model(tmp_path, word_tokenizer(), "", **config)
    text = "the<late>then<later>"
    truth = AutoTokenizer.from_pretrained(folder).encode(text, add_special_tokens=False)
    assert read_model(folder).tokenizer.encode(text, add_special_tokens=False).ids == truth


def test_named_tokens_are_visible_in_the_template(tmp_path):
    source = "{{ bos_token }}{{ eos_token }}{{ image_token }}{{ pad_token }}"
    config = {"eos_token": {"content": "<|end|>", **TOKEN}, "image_token": "<image>", "pad_token": None}
    assert rendered(write_model(tmp_path, word_tokenizer(), source, **config)) == "<s><|end|><image>"


def test_a_template_in_a_file_wins_over_the_configuration(tmp_path):
    assert rendered(write_model(tmp_path, word_tokenizer(), chat_template="config")) == "config"
    assert rendered(write_model(tmp_path, word_tokenizer(), "file", chat_template="config")) == "file"


def test_truncation_and_padding_are_the_engines_business(tmp_path):
    tokenizer = word_tokenizer()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=100)
    ids = read_model(write_model(tmp_path, tokenizer)).tokenizer.encode("the theme there").ids
    assert 2 < len(ids) < 100


def test_split_special_tokens_are_split(tmp_path):
    tokenizer = read_model(write_model(tmp_path, word_tokenizer(), split_special_tokens=True)).tokenizer
    assert tokenizer.token_to_id("</s>") not in tokenizer.encode("a</s>").ids


@pytest.mark.parametrize(
    ("file", "written", "named"),
    [
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("tokenizer.json", "{}", "tokenizer.json cannot be read"),
        ("tokenizer_config.json", None, "tokenizer_config.json is missing"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json cannot be read"),
        ("tokenizer_config.json", "{", "tokenizer_config.json cannot be read"),
        ("tokenizer_config.json", json.dumps({"bos_token": 7}), "cannot be understood"),
        ("tokenizer_config.json", json.dumps({"added_tokens_decoder": {"x": {}}}), "cannot be understood"),
        ("tokenizer_config.json", json.dumps({"added_tokens_decoder": [1]}), "cannot be understood"),
        ("tokenizer_config.json", json.dumps({"chat_template": ["x"]}), "cannot be understood"),
        ("tokenizer_config.json", json.dumps({"chat_template": "{% if"}), "chat template"),
        ("chat_template.jinja", "{% for", "chat template"),
    ],
)
def test_a_file_that_is_missing_or_wrong_is_named(tmp_path, file, written, named):
    folder = write_model(tmp_path, word_tokenizer())
    if written is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(written)
    with pytest.raises(ConfigError, match=named) as wrong:
        read_model(folder)
    assert str(folder) in str(wrong.value)
