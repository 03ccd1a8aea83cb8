"""Text to token ids, off the event loop when it is long, remembering what it has tokenised. Belongs to one loop."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from sys import getsizeof

import msgspec
import numpy as np
from tokenizers import Tokenizer

from preble.daemon.prompt.splitting import added_token_pattern
from preble.daemon.sched.blocks import TokenIds

INLINE_CHARS = 512
"""Up to here tokenising takes no longer than handing it to a thread and back (0.1 ms): see bench/prompt.py."""


class Tokens:
    """A tokenizer with its threads and its memory."""

    def __init__(self, tokenizer: Tokenizer, *, cache_bytes: int, workers: int) -> None:
        """Takes `tokenizer` over; it must neither truncate nor pad."""
        self._tokenizer = tokenizer
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="tokenise")
        self._adds_special_tokens = tokenizer.num_special_tokens_to_add(is_pair=False) > 0
        self._cache = SegmentCache(cache_bytes)
        self._added = None
        if not tokenizer.encode_special_tokens:
            self._added = added_token_pattern(msgspec.json.decode(tokenizer.to_str()))
        self._added_ids = {
            token.content: np.array([token_id], dtype=np.uint32)
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
        }

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    @property
    def splits(self) -> bool:
        """Whether prompts are tokenised piece by piece, and pieces remembered."""
        return self._added is not None

    async def encode(self, text: str, *, add_special_tokens: bool) -> TokenIds:
        """`add_special_tokens` asks for those that the tokenizer itself puts around a prompt, if it does."""
        if self._added is None or (add_special_tokens and self._adds_special_tokens):
            [ids] = await self._tokenise([text], add_special_tokens)
            return ids
        pieces = self._added.split(text)
        known = [self._added_ids.get(piece) if n % 2 else self._cache.get(piece) for n, piece in enumerate(pieces)]
        missing = list(dict.fromkeys(piece for piece, ids in zip(pieces, known, strict=True) if ids is None))
        fresh = dict(zip(missing, await self._tokenise(missing, add_special_tokens=False), strict=True))
        for piece, ids in fresh.items():
            self._cache.put(piece, ids)
        return np.concatenate([fresh[piece] if ids is None else ids for piece, ids in zip(pieces, known, strict=True)])

    async def _tokenise(self, texts: Sequence[str], add_special_tokens: bool) -> list[TokenIds]:
        if sum(map(len, texts)) <= INLINE_CHARS:
            return [_ids(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids) for text in texts]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._tokenise_batch, texts, add_special_tokens)

    def _tokenise_batch(self, texts: Sequence[str], add_special_tokens: bool) -> list[TokenIds]:
        """Runs in a thread. Of the tokenizer's methods only those for batches let go of the interpreter lock."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [_ids(encoding.ids) for encoding in encodings]


class SegmentCache:
    """Tokens of texts, the least recently used forgotten first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[str, TokenIds] = OrderedDict()
        self.size_bytes = 0
        """Of the texts and tokens kept."""

    def get(self, text: str) -> TokenIds | None:
        """Also marks it as used."""
        ids = self._entries.get(text)
        if ids is not None:
            self._entries.move_to_end(text)
        return ids

    def put(self, text: str, ids: TokenIds) -> None:
        """Remember `ids`, which must not be changed any more, unless they alone are over the limit."""
        size_bytes = _size_bytes(text, ids)
        if text in self._entries or size_bytes > self._limit_bytes:
            return
        self._entries[text] = ids
        self.size_bytes += size_bytes
        while self.size_bytes > self._limit_bytes:
            self.size_bytes -= _size_bytes(*self._entries.popitem(last=False))


def _size_bytes(text: str, ids: TokenIds) -> int:
    return getsizeof(text) + getsizeof(ids)


def _ids(token_ids: Sequence[int]) -> TokenIds:
    return np.array(token_ids, dtype=np.uint32)
