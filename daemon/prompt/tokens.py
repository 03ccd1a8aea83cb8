"""Text to token ids, remembering what it has tokenised. Knows no threads, but may be used from several."""

from __future__ import annotations  # `array` takes no parameter at run time before Python 3.12

import re
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from sys import getsizeof
from threading import Lock
from typing import TypeAlias

import msgspec
import numpy as np
from tokenizers import Encoding, Tokenizer

from preble.daemon.prompt.refusal import NotReproducible
from preble.daemon.prompt.splitting import added_token_pattern
from preble.daemon.sched.blocks import TokenIds

Ids: TypeAlias = "array[int]"
"""Token ids as they are kept and joined: made from a list four times as fast as numpy's arrays."""
_Piece: TypeAlias = "str | Ids"
Segment: TypeAlias = tuple[str, str]
"""A scope, and a text that was seen in it."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Prompts of which some pieces are still text."""

    prompts: Sequence[Sequence[_Piece]]
    missing: Sequence[str] = ()
    """The pieces that are text, each once."""
    scope: str = ""
    """Whose they are: nobody else profits from their having been tokenised."""
    add_special_tokens: bool = False

    @property
    def missing_chars(self) -> int:
        """Characters yet to be tokenised."""
        return sum(map(len, self.missing))


class Tokens:
    """A tokenizer, and its memory of what stood between added tokens."""

    def __init__(self, tokenizer: Tokenizer, *, cache_bytes: int) -> None:
        """Takes `tokenizer` over; it must neither truncate nor pad."""
        self._tokenizer = tokenizer
        self._adds_special_tokens = tokenizer.num_special_tokens_to_add(is_pair=False) > 0
        self.max_chars_per_token = max(map(len, tokenizer.get_vocab(with_added_tokens=True)))
        """As vLLM counts them. It refuses a text of more characters than the whole context could have by this."""
        self._cache = SegmentCache(cache_bytes)
        self._added = None
        if not tokenizer.encode_special_tokens:
            self._added = added_token_pattern(msgspec.json.decode(tokenizer.to_str()))
        self._added_ids = {
            token.content: token_ids([token_id]) for token_id, token in tokenizer.get_added_tokens_decoder().items()
        }

    def begin(self, texts: Sequence[str], scope: str = "", *, add_special_tokens: bool) -> Draft:
        """Look up what is known in this scope.

        `add_special_tokens` asks for those that the tokenizer puts around a prompt, if any.
        Raises `NotReproducible` if a text is none that an engine could be sent.
        """
        for text in texts:
            _check(text)
        if self._added is None or (add_special_tokens and self._adds_special_tokens):
            return Draft([[text] for text in texts], list(dict.fromkeys(texts)), scope, add_special_tokens)
        prompts = [[self._known(scope, piece) or piece for piece in _cut(self._added, text)] for text in texts]
        missing = dict.fromkeys(piece for pieces in prompts for piece in pieces if isinstance(piece, str))
        return Draft(prompts, list(missing), scope)

    def finish(self, draft: Draft, *, at_once: bool = False) -> list[TokenIds]:
        """Tokenise what is missing, nearly all of that on several cores and without the interpreter lock.

        With `at_once`, in this very thread: the cores may all be busy with the long text of another.
        """
        encodings = self._encoded(draft) if at_once else self._encoded_on_all_cores(draft)
        fresh = {text: token_ids(encoding.ids) for text, encoding in zip(draft.missing, encodings, strict=True)}
        if self._added is not None and not draft.add_special_tokens:
            for text, ids in fresh.items():
                self._cache.put((draft.scope, text), ids)
        return [_joined(pieces, fresh) for pieces in draft.prompts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text that they stand for, special tokens visible; where half a character is left, its replacement."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def _encoded(self, draft: Draft) -> list[Encoding]:
        special = draft.add_special_tokens
        return [self._tokenizer.encode(text, add_special_tokens=special) for text in draft.missing]

    def _encoded_on_all_cores(self, draft: Draft) -> list[Encoding]:
        return self._tokenizer.encode_batch_fast(list(draft.missing), add_special_tokens=draft.add_special_tokens)

    def _known(self, scope: str, piece: str) -> Ids | None:
        return self._added_ids.get(piece) or self._cache.get((scope, piece))


class SegmentCache:
    """Tokens of texts, by scope; the least recently used are forgotten first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = Lock()
        self._entries: OrderedDict[Segment, Ids] = OrderedDict()
        self.size_bytes = 0
        """Of the scopes, texts and tokens kept."""

    def get(self, segment: Segment) -> Ids | None:
        """Also marks it as used."""
        with self._lock:
            ids = self._entries.get(segment)
            if ids is not None:
                self._entries.move_to_end(segment)
            return ids

    def put(self, segment: Segment, ids: Ids) -> None:
        """Remember `ids`, which must not be changed any more, unless they alone are over the limit."""
        size_bytes = _size_bytes(segment, ids)
        with self._lock:
            if segment in self._entries or size_bytes > self._limit_bytes:
                return
            self._entries[segment] = ids
            self.size_bytes += size_bytes
            while self.size_bytes > self._limit_bytes:
                self.size_bytes -= _size_bytes(*self._entries.popitem(last=False))


def token_ids(ids: Sequence[int]) -> Ids:
    """Keep `ids`, which must be below 2^32."""
    return array("I", ids)


def _check(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # a tool call's arguments, which are JSON within JSON, can hide one
        raise NotReproducible("half of a surrogate pair is in the text") from error


def _cut(added: re.Pattern[str], text: str) -> Iterator[str]:
    """Yield added tokens and what is between them. One by one, so that other threads get their turn."""
    end = 0
    for match in added.finditer(text):
        if match.start() > end:
            yield text[end : match.start()]
        yield match.group()
        end = match.end()
    if end < len(text):
        yield text[end:]


def _joined(pieces: Sequence[_Piece], fresh: dict[str, Ids]) -> TokenIds:
    ids = array("I")
    for piece in pieces:
        ids.extend(fresh[piece] if isinstance(piece, str) else piece)
    return np.asarray(ids, dtype=np.uint32)


def _size_bytes(segment: Segment, ids: Ids) -> int:
    return getsizeof(segment) + sum(map(getsizeof, segment)) + getsizeof(ids)
