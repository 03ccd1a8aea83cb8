"""The package's face: bodies in, token ids out, and the proof that they are an engine's."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from preble.daemon.errors import InvalidRequest
from preble.daemon.prompt.chat import read_body
from preble.daemon.prompt.files import ModelFiles, read_model
from preble.daemon.prompt.probes import PROBES
from preble.daemon.prompt.refusal import NotReproducible
from preble.daemon.prompt.tokens import Draft, Tokens, token_ids
from preble.daemon.prompt.traits import read_traits
from preble.daemon.sched.blocks import TokenIds

Render = Callable[[Mapping[str, Any]], Awaitable[Sequence[int]]]
"""Asks an engine for a chat's tokens; raises `InvalidRequest` when the engine refuses it."""

_T = TypeVar("_T")
_TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
_DEFAULT_CACHE_BYTES = 64 << 20

INLINE_CHARS = 512
"""Up to here tokenising takes no longer than handing it to a thread and back (0.1 ms): see bench/prompt.py."""
LIGHT_CHARS = 1 << 16
"""Up to here all but tokenising is done on the loop, mostly in 2 ms: a thread would wait for the interpreter lock."""
_CHARS_PER_VALUE = 128
"""What one value of a body weighs, in characters of text: reading and rendering it takes 1 to 3 us."""


class PromptEncoder:
    """Makes one model's prompts. Use it in one event loop; it owns its threads until `close`."""

    def __init__(self, files: ModelFiles, *, workers: int = 2, cache_bytes: int = _DEFAULT_CACHE_BYTES) -> None:
        """`workers` threads take what is long; `cache_bytes` bounds what is remembered of texts seen."""
        self._template = files.template
        self._tool_template = files.tool_template
        self._tokens = Tokens(files.tokenizer, cache_bytes=cache_bytes)
        self.traits = read_traits(files)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="prompt")

    @classmethod
    def load(cls, model_path: Path, workers: int = 2, *, cache_bytes: int = _DEFAULT_CACHE_BYTES) -> "PromptEncoder":
        """Read `model_path`, a folder or else a Hugging Face id, which is fetched. Raises `ConfigError`."""
        return cls(read_model(model_path), workers=workers, cache_bytes=cache_bytes)

    def close(self) -> None:
        """Finish what was begun, and end the threads. Nothing may be encoded from then on."""
        self._pool.shutdown()

    async def encode_chat(self, body: Mapping[str, Any], max_model_len: int | None = None, scope: str = "") -> TokenIds:
        """Raises `InvalidRequest` when no engine would take it, `NotReproducible` when only an engine can tell.

        What is longer than `max_model_len` tokens, if given, is refused at once if its length in characters shows it.
        What is remembered of its texts serves the same `scope` alone: how long this takes tells nobody else of them.
        """
        [ids] = await self._encode(lambda: self._begin_chat(body, max_model_len, scope), body)
        return ids

    async def encode_completion(
        self, body: Mapping[str, Any], max_model_len: int | None = None, scope: str = ""
    ) -> tuple[TokenIds, ...]:
        """Return the tokens of each prompt. Raises as `encode_chat`."""
        return tuple(await self._encode(lambda: self._begin_completion(body, max_model_len, scope), body))

    async def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones visible."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._tokens.decode, tokens)

    async def verify(self, render: Render) -> str | None:
        """Compare fixed chats with what an engine makes of them; None if all are equal, else which are not.

        A chat that the engine refuses, or that is left to it, proves nothing and is passed over. Raises what `render`
        raises otherwise.
        """
        different = [name for name, body in PROBES.items() if not await self._agrees(body, render)]
        return f"{', '.join(different)} come out differently" if different else None

    async def _agrees(self, body: Mapping[str, Any], render: Render) -> bool:
        try:
            theirs = await render(body)
        except InvalidRequest:
            return True
        try:
            ours = await self.encode_chat(body)
        except NotReproducible:
            return True
        except InvalidRequest:
            return False
        return bool(np.array_equal(ours, theirs))

    async def _encode(self, begin: Callable[[], Draft], body: Mapping[str, Any]) -> list[TokenIds]:
        loop = asyncio.get_running_loop()
        if not is_light(body, LIGHT_CHARS):
            return await loop.run_in_executor(self._pool, lambda: self._tokens.finish(begin()))
        draft = begin()
        if draft.missing_chars <= INLINE_CHARS:
            return self._tokens.finish(draft, at_once=True)
        return await loop.run_in_executor(self._pool, self._tokens.finish, draft)

    def _begin_chat(self, body: Mapping[str, Any], max_model_len: int | None, scope: str) -> Draft:
        request = read_body(body)
        template = self._tool_template if request.tools else self._template
        if template is None:
            raise NotReproducible("the model has no chat template")
        text = template.render(request.chat(content_as_parts=template.wants_parts))
        self._refuse_endless([text], max_model_len, "messages")
        return self._tokens.begin([text], scope, add_special_tokens=request.add_special_tokens)

    def _begin_completion(self, body: Mapping[str, Any], max_model_len: int | None, scope: str) -> Draft:
        for field in ("prompt_embeds", "suffix", "truncate_prompt_tokens", "kv_transfer_params"):
            if body.get(field) is not None:
                raise NotReproducible(f"{field} is given")
        add_special_tokens = body.get("add_special_tokens", True)
        if not isinstance(add_special_tokens, bool):
            raise InvalidRequest("`add_special_tokens` must be true or false.", param="add_special_tokens")
        given = body.get("prompt")
        texts = [given] if isinstance(given, str) else _converted(given, list[str])
        if texts:
            self._refuse_endless(texts, max_model_len, "prompt")
            return self._tokens.begin(texts, scope, add_special_tokens=add_special_tokens)
        prompts = _converted([given], list[list[_TokenId]]) or _converted(given, list[list[_TokenId]])
        if not (given and prompts):
            message = "`prompt` must be a text, a list of token ids, or a list of either."
            raise InvalidRequest(message, param="prompt")
        return Draft([[token_ids(prompt)] for prompt in prompts])

    def _refuse_endless(self, texts: Sequence[str], max_model_len: int | None, param: str) -> None:
        """Refuse what cannot fit, as vLLM does, before anybody spends a second on its tokens."""
        longest = max(map(len, texts))
        if max_model_len is not None and longest > max_model_len * self._tokens.max_chars_per_token:
            raise InvalidRequest(
                f"This model's maximum context length is {max_model_len} tokens. "
                f"However, your {param} resulted in {longest} characters, which cannot be so few tokens.",
                param=param,
                code="context_length_exceeded",
            )


def is_light(body: Mapping[str, Any], limit_chars: int) -> bool:
    """Whether the body's texts, and what else takes as long as they do, come to at most `limit_chars`.

    Takes no longer for a heavy body: it stops when it knows.
    """
    values: list[Any] = [body]
    for value in values:
        if isinstance(value, str):
            limit_chars -= len(value)
        elif isinstance(value, Mapping | list):
            limit_chars -= _CHARS_PER_VALUE * len(value)
        if limit_chars < 0:
            return False
        if isinstance(value, Mapping):
            values += value.values()
        elif isinstance(value, list):
            values += value
    return True


def _converted(given: Any, kind: type[list[_T]]) -> list[_T]:
    """Return `given` if it is of that kind, else nothing."""
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError:
        return []
