import pytest
from tests.prompt.models import word_tokenizer, write_model

from preble.daemon.prompt import PromptEncoder

TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
<|user|>{{ message.role }}
{%- for part in message.content %}[{{ part.text | trim }}]{% endfor -%}
<|end|>
{%- endfor %}
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}
"""


@pytest.fixture(scope="session")
def word_model(tmp_path_factory):
    """A model with merges, whose template takes parts."""
    return write_model(tmp_path_factory.mktemp("word"), word_tokenizer(), TEMPLATE)


@pytest.fixture
def load(request):
    """Loads encoders, and closes them at the end."""

    def load(model, **options):
        encoder = PromptEncoder.load(model, **options)
        request.addfinalizer(encoder.close)
        return encoder

    return load


@pytest.fixture
def demo(load, demo_model):
    return load(demo_model)


@pytest.fixture
def word(load, word_model):
    return load(word_model)
