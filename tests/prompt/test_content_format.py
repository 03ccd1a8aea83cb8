"""Parts or text. Each expectation is what vLLM 0.32 decides for the same template."""

import jinja2
import pytest

from preble.daemon.prompt.content_format import wants_parts

ENVIRONMENT = jinja2.Environment(autoescape=False, extensions=["jinja2.ext.loopcontrols"])
MESSAGES = "{% for m in messages %}BODY{% endfor %}"
ITEMS = "{% for item in SOURCE %}{{ item.text }}{% endfor %}"
MACRO = "{% macro show(c) %}{% for item in c %}{{ item }}{% endfor %}{% endmacro %}"


def items(source, around=MESSAGES):
    return around.replace("BODY", ITEMS.replace("SOURCE", source))


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", False),
        (items("m.content"), True),
        (items("m['content']"), True),
        (items("m.content[1:]"), True),
        (items("m.content | list"), True),
        (items("m.other"), False),
        (items("m.content.parts"), False),
        (items("content"), True),
        (items("other"), False),
        (items("n.content"), False),
        (items("m.content", "{% for m in messages[1:] %}BODY{% endfor %}"), True),
        (items("m.content", "{% set rest = messages[1:] %}{% for m in rest %}BODY{% endfor %}"), True),
        (items("m.content", "{% set a = messages %}{% set b = a %}{% for m in b %}BODY{% endfor %}"), True),
        (items("m.content", "{% set messages = messages[1:] %}{% for m in messages %}BODY{% endfor %}"), True),
        (items("m.content", "{% set rest = others %}{% for m in rest %}BODY{% endfor %}"), False),
        (MACRO + "{% for m in messages %}{{ show(m.content) }}{% endfor %}", True),
        (MACRO + "{% for m in messages %}{{ show(c=m.content) }}{% endfor %}", True),
        (MACRO + "{% for m in messages %}{{ show(m.name) }}{% endfor %}", False),
        (MACRO + "{% for m in messages %}{{ other(m.content) }}{% endfor %}", False),
        (MACRO.replace("c)", "content)").replace("in c ", "in content "), False),
        ("{% for a, b in messages %}{% endfor %}" + items("content"), False),
        (MESSAGES.replace("BODY", "{% for a, b in m.content %}{% endfor %}"), False),
        ("{% set a, b = messages %}" + items("content"), False),
        (items("m.content") + "{% for a, b in content %}{% endfor %}", True),
    ],
)
def test_a_template_that_loops_over_content_wants_parts(source, parts):
    assert wants_parts(ENVIRONMENT.parse(source)) is parts
