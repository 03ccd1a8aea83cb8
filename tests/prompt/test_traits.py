"""What a model's files say of what is more than text."""

import pytest
from tests.prompt.models import word_tokenizer, write_model

from preble.daemon.prompt.files import read_model
from preble.daemon.prompt.traits import read_traits

BRACKETS = """\
{%- for message in messages %}
{%- if message.role == 'user' %}[INST] {{ message.content }} [/INST]
{%- elif message.role == 'assistant' %} {{ message.content }} </s>
{%- elif message.role == 'system' %}<<SYS>>
{{ message.content }}
<</SYS>>{{ '\\n' }}
{%- endif %}
{%- endfor %}
"""
HEADINGS = "{% for message in messages %}### {{ message.role | title }}:\n{{ message.content }}\n{% endfor %}"
TURNS = """\
{%- for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('turns alternate') }}{% endif %}<|user|>{{ message.role }}
{{ message.content }}<|end|>{% endfor %}
"""


@pytest.fixture
def traits(tmp_path):
    def make(template, **config):
        return read_traits(read_model(write_model(tmp_path, word_tokenizer(), template, **config)))

    return make


def test_added_tokens_and_what_a_template_writes_between_messages_are_markers(traits):
    assert {"<|user|>", "</s>", "<think>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"} <= set(traits(BRACKETS).markers)
    assert {"### User:", "### Assistant:", "### System:", "### Tool:"} <= set(traits(HEADINGS).markers)


def test_words_of_roles_are_none_nor_is_what_was_said(traits):
    found = traits(TURNS).markers
    assert not {"user", "assistant", ""} & set(found)
    assert not [marker for marker in found if "nobody" in marker]


def test_a_model_without_a_chat_template_has_its_added_tokens(traits):
    found = traits(None)
    assert "<|end|>" in found.markers
    assert found.text_of(min(found.added_ids)) in found.markers


def test_a_fingerprint_is_of_tokenizer_and_template(traits):
    one, same, other = traits(BRACKETS), traits(BRACKETS), traits(HEADINGS)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert traits(BRACKETS, eos_token="<|end|>").fingerprint != one.fingerprint
