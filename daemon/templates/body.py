"""A template's body: whether it is one, where its variables stand, and what identifies it."""

import re
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256

import msgspec
from msgspec.structs import replace

from preble.daemon.errors import InvalidRequest
from preble.daemon.templates.values import formatted
from preble.daemon.wire.templates import MAX_BODY_CHARS, VARIABLE, TemplateBody, TextPart, Variable

PLACE = re.compile(rf"(\\?)\{{\{{\s*({VARIABLE})\s*\}}\}}")
"""A variable in a text; with a backslash before it, it is none, and stays without the backslash."""


def checked(body: TemplateBody) -> TemplateBody:
    """The same body in the one form that has a digest. Raises `InvalidRequest`, which names what is wrong."""
    if (body.text is None) == (body.messages is None):
        raise InvalidRequest("A template has either `text` or `messages`.", param="text")
    if body.text is not None and body.tools is not None:
        raise InvalidRequest("`tools` belong to `messages`; a text has none.", param="tools")
    for at, said in enumerate(body.messages or ()):
        if said.content is None and not (said.role == "assistant" and said.tool_calls):
            place = f"messages[{at}].content"
            raise InvalidRequest(f"`{place}` is missing.", param=place)
    used = set(names_of(body))
    if unused := sorted(body.variables.keys() - used):
        message = f"`variables`: {', '.join(map(repr, unused))} stand nowhere in the template."
        raise InvalidRequest(message, param=f"variables.{unused[0]}")
    for name, variable in body.variables.items():
        _check(name, variable)
    ordered = replace(body, variables=dict(sorted(body.variables.items())))
    if len(encoded(ordered)) > MAX_BODY_CHARS:
        raise InvalidRequest(f"A template may have {MAX_BODY_CHARS} characters in all, as JSON.", param="text")
    return ordered


def encoded(body: TemplateBody) -> str:
    """JSON that keeps the order of what is in it: a chat template may show that."""
    return msgspec.json.encode(body).decode()


def decoded(text: str) -> TemplateBody:
    """What `encoded` made."""
    return msgspec.json.decode(text, type=TemplateBody)


def digest_of(body: TemplateBody) -> bytes:
    """SHA-256: equal bodies are one version."""
    return sha256(encoded(body).encode()).digest()


def texts_of(body: TemplateBody) -> Iterator[str]:
    """The texts in which variables are replaced, in the order of the prompt."""
    if body.text is not None:
        yield body.text
    for message in body.messages or ():
        if isinstance(message.content, str):
            yield message.content
        else:
            yield from (part.text for part in message.content or ())


def names_of(body: TemplateBody) -> list[str]:
    """Its variables, each once, in the order in which they come."""
    return list(dict.fromkeys(name for text in texts_of(body) for name in names_in(text)))


def names_in(text: str) -> list[str]:
    """The variables that stand in a text, as often as they do."""
    return [match[2] for match in PLACE.finditer(text) if not match[1]]


def variables_of(body: TemplateBody) -> dict[str, Variable]:
    """The same with what is said of them."""
    return {name: body.variables.get(name, Variable()) for name in names_of(body)}


def filled(body: TemplateBody, values: Mapping[str, str]) -> TemplateBody:
    """The body with these in place of its variables; there must be one for each."""
    return rewritten(body, lambda text: PLACE.sub(lambda at: at[0][1:] if at[1] else values[at[2]], text))


def rewritten(body: TemplateBody, rewrite: Callable[[str], str]) -> TemplateBody:
    """The body with each text in which variables can stand as `rewrite` makes it."""
    if body.text is not None:
        return replace(body, text=rewrite(body.text))
    messages = []
    for message in body.messages or ():
        if isinstance(message.content, str):
            message = replace(message, content=rewrite(message.content))
        elif message.content is not None:
            message = replace(message, content=[TextPart(text=rewrite(part.text)) for part in message.content])
        messages.append(message)
    return replace(body, messages=messages)


def _check(name: str, variable: Variable) -> None:
    param = f"variables.{name}"
    if variable.default is None:
        return
    if variable.required:
        raise InvalidRequest(f"`{param}` is required, so that its default would never be used.", param=param)
    _, problem = formatted(variable, variable.default)
    if problem is not None:
        raise InvalidRequest(f"`{param}.default` {problem}.", param=f"{param}.default")
