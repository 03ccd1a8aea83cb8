"""The package's face: bodies in, token ids out, and the proof that they are an engine's."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from preble.daemon.errors import InvalidRequest
from preble.daemon.prompt.chat import read_body
from preble.daemon.prompt.files import ModelFiles, read_model
from preble.daemon.prompt.probes import PROBES
from preble.daemon.prompt.refusal import NotReproducible
from preble.daemon.prompt.tokens import Tokens
from preble.daemon.sched.blocks import TokenIds

Render = Callable[[Mapping[str, Any]], Awaitable[Sequence[int]]]
"""Asks an engine for a chat's tokens; raises `InvalidRequest` when the engine refuses it."""

_TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
_DEFAULT_CACHE_BYTES = 64 << 20


class PromptEncoder:
    """Makes one model's prompts. Use it in one event loop; it owns its threads until `close`."""

    def __init__(self, files: ModelFiles, *, workers: int = 2, cache_bytes: int = _DEFAULT_CACHE_BYTES) -> None:
        """`workers` threads tokenise long texts; `cache_bytes` bounds what is remembered of texts seen."""
        self._template = files.template
        self._tool_template = files.tool_template
        self._tokens = Tokens(files.tokenizer, cache_bytes=cache_bytes, workers=workers)

    @classmethod
    def load(cls, model_path: Path, workers: int = 2, *, cache_bytes: int = _DEFAULT_CACHE_BYTES) -> "PromptEncoder":
        """Read `model_path`, a folder or else a Hugging Face id, which is fetched. Raises `ConfigError`."""
        return cls(read_model(model_path), workers=workers, cache_bytes=cache_bytes)

    def close(self) -> None:
        """End the threads."""
        self._tokens.close()

    async def encode_chat(self, body: Mapping[str, Any]) -> TokenIds:
        """Raises `InvalidRequest` when no engine would take it, `NotReproducible` when only an engine can tell."""
        request = read_body(body)
        template = self._tool_template if request.tools else self._template
        if template is None:
            raise NotReproducible("the model has no chat template")
        text = template.render(request.chat(content_as_parts=template.wants_parts))
        return await self._encode(text, request.add_special_tokens)

    async def encode_completion(self, body: Mapping[str, Any]) -> tuple[TokenIds, ...]:
        """Return the tokens of each prompt. Raises as `encode_chat`."""
        for field in ("prompt_embeds", "suffix", "truncate_prompt_tokens", "kv_transfer_params"):
            if body.get(field) is not None:
                raise NotReproducible(f"{field} is given")
        special = body.get("add_special_tokens", True)
        if not isinstance(special, bool):
            raise InvalidRequest("`add_special_tokens` must be true or false.", param="add_special_tokens")
        return tuple([await self._prompt(prompt, special) for prompt in _prompts(body.get("prompt"))])

    async def verify(self, render: Render) -> str | None:
        """Compare fixed chats with what an engine makes of them; None if all are equal, else which are not.

        A chat that one side refuses, or leaves to the other, proves nothing and is passed over. Raises what `render`
        raises otherwise.
        """
        different = [name for name, body in PROBES.items() if not await self._agrees(body, render)]
        return f"{', '.join(different)} come out differently" if different else None

    async def _agrees(self, body: Mapping[str, Any], render: Render) -> bool:
        try:
            theirs = await render(body)
            ours = await self.encode_chat(body)
        except (InvalidRequest, NotReproducible):
            return True
        return bool(np.array_equal(ours, theirs))

    async def _prompt(self, prompt: str | list[int], add_special_tokens: bool) -> TokenIds:
        if isinstance(prompt, str):
            return await self._encode(prompt, add_special_tokens)
        return np.array(prompt, dtype=np.uint32)

    async def _encode(self, text: str, add_special_tokens: bool) -> TokenIds:
        try:
            text.encode()
        except UnicodeEncodeError as error:  # a tool call's arguments, which are JSON within JSON, can hide one
            raise NotReproducible("half of a surrogate pair is in the text") from error
        return await self._tokens.encode(text, add_special_tokens=add_special_tokens)


def _prompts(given: Any) -> Sequence[str | list[int]]:
    if isinstance(given, str):
        return [given]
    kinds: tuple[tuple[Any, bool], ...] = ((list[_TokenId], True), (list[str], False), (list[list[_TokenId]], False))
    for kind, is_one in kinds:
        try:
            prompts = msgspec.convert(given, kind)
        except msgspec.ValidationError:
            continue
        if prompts:
            return [prompts] if is_one else prompts
    raise InvalidRequest("`prompt` must be a text, a list of token ids, or a list of either.", param="prompt")
