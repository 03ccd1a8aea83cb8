"""What of a template is the same whatever its variables are and whatever comes after it, in tokens.

Found by comparison: characters would not do, for the last token before a variable may reach into its value, and a chat
template may move, trim or leave out what it is given. So the template is rendered with values that differ in how they
begin, and with different things after it; what all of these have in common is the prefix.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from preble.daemon.sched.blocks import TokenIds
from preble.daemon.templates.body import PLACE, filled, names_of, rewritten
from preble.daemon.wire.templates import TemplateBody

FILLERS = ("", "a", "Z", "7", " b", "  ", "\n", "\n\n", ".", ",", "-", "(", "'s", '"', "é", "東", "\u0301", "ing", "s")
"""Values that begin in every way that a tokenizer treats in its own."""
_TAILS: Sequence[Sequence[Mapping[str, Any]]] = (
    ({"role": "user", "content": "a"},),
    ({"role": "user", "content": "Z 7"},),
    ({"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}),
)
"""What requests may append to a chat. A chat template that wants turns to alternate takes some of these only."""

_LAST_WORD = re.compile(r"\s*\S{0,16}\Z")
"""Tokenizers that merge do so within words, with the white space before them; few tokens are longer."""

_UNLIKE = ("Z", "\n")
"""What follows in place of that word: no tokens are common to both."""


def request_body(body: TemplateBody) -> dict[str, Any]:
    """The part of a request that a template without variables stands for."""
    if body.text is not None:
        return {"prompt": body.text}
    made: dict[str, Any] = {"messages": msgspec.to_builtins(body.messages)}
    return made if body.tools is None else {**made, "tools": body.tools}


def bare(body: TemplateBody) -> dict[str, Any]:
    """A request for the template with empty variables, and nothing after it."""
    alone = request_body(filled(body, dict.fromkeys(names_of(body), "")))
    return alone if body.text is not None else {**alone, "add_generation_prompt": False}


def variants(body: TemplateBody, fixed: Sequence[str] = (), *, merges: bool) -> Iterator[dict[str, Any]]:
    """Requests of which all have the prefix in common, and nothing else. The variables `fixed` are left empty.

    Where a tokenizer `merges`, any value may make other tokens of the word before it: that is then no part of it.
    """
    names = names_of(body)
    free = [name for name in names if name not in fixed]
    if merges:
        held_back = rewritten(body, lambda text: _held_back(text, free, at_end=body.text is not None))
        for filler in _UNLIKE:
            shorter = request_body(filled(held_back, {name: filler if name in free else "" for name in names}))
            yield shorter if free or "prompt" not in shorter else {"prompt": shorter["prompt"] + filler}
    empty = request_body(filled(body, dict.fromkeys(names, "")))
    yield from _followed(empty)
    for filler in FILLERS[1:] if free else ():
        request = request_body(filled(body, {name: filler if name in free else "" for name in names}))
        yield request
        if "messages" in request:
            yield _with(request, _TAILS[0])


def common_tokens(prompts: Sequence[TokenIds]) -> TokenIds:
    """The longest beginning that all have in common."""
    first, *others = prompts
    length = min((shared_tokens(first, other) for other in others), default=len(first))
    return first[:length]


def shared_tokens(one: TokenIds, other: TokenIds) -> int:
    """How many tokens two prompts have in common from their beginning on."""
    length = min(len(one), len(other))
    differing = np.flatnonzero(one[:length] != other[:length])
    return int(differing[0]) if len(differing) else length


def whole_blocks(n_tokens: int, block_tokens: int) -> int:
    """The tokens of those that fill blocks."""
    return n_tokens - n_tokens % block_tokens


def _held_back(text: str, free: Sequence[str], *, at_end: bool) -> str:
    """Without the word before the first variable, or before what is appended."""
    places = (match.start() for match in PLACE.finditer(text) if not match[1] and match[2] in free)
    end = next(places, len(text) if at_end else None)
    return text if end is None else _LAST_WORD.sub("", text[:end]) + text[end:]


def _followed(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The request by itself, and with things after it that begin in different ways."""
    yield request
    if "prompt" in request:
        yield from ({"prompt": request["prompt"] + tail} for tail in FILLERS[1:])
        return
    yield {**request, "add_generation_prompt": False}
    yield from (_with(request, tail) for tail in _TAILS)


def _with(request: dict[str, Any], tail: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {**request, "messages": [*request["messages"], *tail]}
