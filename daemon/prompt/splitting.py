"""Decides whether a tokenizer may be given a prompt piece by piece, cut at its added tokens. Tokenises nothing.

The library itself cuts at added tokens first and treats what is between them separately. That makes the pieces'
tokens the whole's, provided that an added token neither swallows white space around it nor depends on what is there,
and that no later step depends on where in the prompt a piece was. Only steps known to be so are let through.
"""

import re
from collections.abc import Collection, Mapping
from os.path import commonprefix
from typing import Any

_PLACELESS_NORMALIZERS = frozenset({"NFC", "NFD", "NFKC", "NFKD", "Lowercase"})
_PLACELESS_PRE_TOKENIZERS = frozenset({"ByteLevel", "Split", "Digits"})


def added_token_pattern(tokenizer: Mapping[str, Any]) -> re.Pattern[str] | None:
    """Return what matches the added tokens of `tokenizer` (a tokenizer.json), or None if it must have prompts whole.

    Where several begin, it matches the longest, as the library does.
    """
    added = tokenizer["added_tokens"]
    plain = all(not token[flag] for token in added for flag in ("lstrip", "rstrip", "single_word", "normalized"))
    if not (added and plain and _is_placeless(tokenizer)):
        return None
    return re.compile(_longest_of({token["content"] for token in added}))


def _longest_of(words: Collection[str]) -> str:
    """Write an expression that reads once what words begin with in common.

    A plain alternative of a few hundred words tries each at every place: 160 ms for 1 MB of text made for that.
    """
    shared = commonprefix(list(words))  # noqa: RUF071 - of characters, as it should be
    rests = sorted({word[len(shared) :] for word in words})
    branches = [_longest_of([rest for rest in rests if rest.startswith(first)]) for first in _firsts(rests)]
    tail = f"(?:{'|'.join(branches)}){'?' if '' in rests else ''}" if branches else ""
    return re.escape(shared) + tail


def _firsts(words: Collection[str]) -> list[str]:
    return sorted({word[0] for word in words if word})


def _is_placeless(tokenizer: Mapping[str, Any]) -> bool:
    model = tokenizer["model"]
    return (
        model.get("type") == "BPE"
        and not model.get("dropout")
        and _consists_of(_PLACELESS_NORMALIZERS, tokenizer["normalizer"], "normalizers")
        and _consists_of(_PLACELESS_PRE_TOKENIZERS, tokenizer["pre_tokenizer"], "pretokenizers")
    )


def _consists_of(allowed: frozenset[str], step: Mapping[str, Any] | None, members: str) -> bool:
    if step is None:
        return True
    if step["type"] == "Sequence":
        return all(_consists_of(allowed, member, members) for member in step[members])
    return step["type"] in allowed and not step.get("add_prefix_space")
