"""Renders a chat template in the Jinja dialect that Hugging Face's models are written for. Knows no tokenizer."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from json import dumps
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from preble.daemon.errors import InvalidRequest
from preble.daemon.prompt.chat import Chat, Message, without_developer
from preble.daemon.prompt.content_format import wants_parts
from preble.daemon.prompt.refusal import NotReproducible

_MARK = "CONTINUE_FINAL_MESSAGE_TAG "
"""Put behind a message that stays open. Its last character shows whether the template strips white space there.

It is the engine's own, so that a text that contains it is cut where the engine cuts it.
"""


class ChatTemplate:
    """One compiled template."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens` are visible in the template, as `bos_token` and so on. Raises `jinja2.TemplateError`."""
        environment = _environment()
        parsed = environment.parse(source)
        self.wants_parts = wants_parts(parsed)
        """Whether messages' content is to be a list of parts rather than one text."""
        self._knows_developer = '"developer"' in source or "'developer'" in source
        self._variables = meta.find_undeclared_variables(parsed)
        self._special_tokens = dict(special_tokens)
        self.identity = (source, dumps(self._special_tokens, sort_keys=True))
        """Equal ones render alike."""
        self._template = environment.from_string(source)

    def render(self, chat: Chat) -> str:
        """Return the prompt. Raises `InvalidRequest` with the template's words when it refuses the chat."""
        messages = chat.messages
        if not self._knows_developer and any(message["role"] == "developer" for message in messages):
            messages = without_developer(messages)
        if not chat.continue_final_message:
            return self._render(chat, messages)
        text = self._render(chat, _with_open_end(messages))
        end = text.rfind(_MARK.rstrip())
        if end < 0:
            raise NotReproducible("the template does not show the message that is to be continued")
        return text[:end] if text.startswith(_MARK, end) else text[:end].rstrip()

    def _render(self, chat: Chat, messages: Sequence[Message]) -> str:
        known = {name: value for name, value in chat.variables.items() if name in self._variables}
        try:
            return self._template.render(
                messages=messages,
                tools=chat.tools,
                documents=chat.documents,
                add_generation_prompt=chat.add_generation_prompt,
                **{**self._special_tokens, **known},
            )
        except _Refused as error:
            raise InvalidRequest(str(error), param="messages") from error
        except Exception as error:  # a template is a program: it can fail in every way
            raise NotReproducible(f"the chat template failed: {error!r}") from error


def _with_open_end(messages: Sequence[Message]) -> list[Message]:
    """Mark the end of the last message's text."""
    *before, last = messages
    content = last["content"]
    if isinstance(content, str):
        return [*before, {**last, "content": content + _MARK}]
    if not content:
        raise NotReproducible("the message that is to be continued has no text")
    *parts, part = content
    return [*before, {**last, "content": [*parts, {**part, "text": part["text"] + _MARK}]}]


class _Refused(jinja2.TemplateError):
    """The template called `raise_exception`."""


class _GenerationBlock(Extension):
    """`{% generation %}` marks an assistant's words for training; here it only shows them, in a scope of their own."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own type

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_show"), [], [], body).set_lineno(line)

    def _show(self, caller: Any) -> Any:
        return caller()


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as a model is to read it: Jinja's own filter escapes it for HTML."""
    return dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise _Refused(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)  # noqa: DTZ005 - the engine's local time, which is ours
