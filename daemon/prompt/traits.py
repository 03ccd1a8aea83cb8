"""What identifies a model's way with texts, and what in a text it takes for more than text."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec

from preble.daemon.errors import InvalidRequest
from preble.daemon.prompt.chat import read_body
from preble.daemon.prompt.files import ModelFiles
from preble.daemon.prompt.refusal import NotReproducible
from preble.daemon.prompt.template import ChatTemplate

_SAID = ("said by nobody 1", "said by nobody 2", "said by nobody 3", "said by nobody 4")
_CALL = {"id": "call_1", "type": "function", "function": {"name": "nothing", "arguments": "{}"}}
_CHATS: tuple[list[dict[str, Any]], ...] = (
    [
        {"role": role, "content": said}
        for role, said in zip(("system", "user", "assistant", "user"), _SAID, strict=True)
    ],
    [{"role": role, "content": said} for role, said in zip(("user", "assistant", "user"), _SAID, strict=False)],
    [
        {"role": "user", "content": _SAID[0]},
        {"role": "assistant", "content": "", "tool_calls": [_CALL]},
        {"role": "tool", "content": _SAID[1], "tool_call_id": "call_1"},
        {"role": "assistant", "content": _SAID[2]},
    ],
)
"""A chat template that refuses one of these may take another."""
_LETTER, _SIGN = re.compile(r"[^\W\d_]"), re.compile(r"[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Of one model."""

    fingerprint: bytes
    """Changes with the tokenizer and the chat template: what was found out with another is not true any more."""
    markers: tuple[str, ...]
    """Texts that become tokens of their own, or by which the chat template tells one message from the next."""
    added_ids: frozenset[int]
    """Tokens that no ordinary text becomes."""
    merges: bool
    """What follows a text can change its last tokens."""
    text_of: Callable[[int], str]
    """A token as text; what is no whole character is shown as U+FFFD."""


def read_traits(files: ModelFiles) -> Traits:
    """What a model's files say."""
    added = {token.content: token_id for token_id, token in files.tokenizer.get_added_tokens_decoder().items()}
    templates = [template for template in (files.template, files.tool_template) if template is not None]
    roles = {marker for template in templates for marker in _role_markers(template, added)}
    return Traits(
        fingerprint=_fingerprint(files, templates),
        markers=tuple(sorted({*filter(str.strip, added), *roles})),
        added_ids=frozenset(added.values()),
        merges=bool(msgspec.json.decode(files.tokenizer.to_str())["model"].get("merges", True)),
        text_of=lambda token_id: files.tokenizer.decode([token_id], skip_special_tokens=False),
    )


def _fingerprint(files: ModelFiles, templates: Collection[ChatTemplate]) -> bytes:
    parts = [files.tokenizer.to_str(), *(part for template in templates for part in template.identity)]
    return sha256("\0".join(parts).encode()).digest()


def _role_markers(template: ChatTemplate, added: Mapping[str, int]) -> Iterator[str]:
    """The lines that it writes between messages, cut at added tokens; bare words are none."""
    cuts = "|".join(map(re.escape, sorted(added, key=len, reverse=True)))
    for messages in _CHATS:
        try:
            text = template.render(read_body({"messages": messages}).chat(content_as_parts=template.wants_parts))
        except (InvalidRequest, NotReproducible):
            continue
        for between in re.split("|".join(_SAID), text):
            for piece in re.split(rf"{cuts}|\n" if cuts else r"\n", between):
                if _LETTER.search(piece) and _SIGN.search(piece):
                    yield piece.strip()
