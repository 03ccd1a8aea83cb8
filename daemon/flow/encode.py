"""From a request body to what the scheduler needs of it: its tokens' block keys, and how much it may produce."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from preble.daemon.errors import EngineError, EngineFailed, InvalidRequest, Unavailable
from preble.daemon.flow.kept import KeptPrompts
from preble.daemon.ids import BlockKey, ModelName, RequestId, TenantName
from preble.daemon.prompt import NotReproducible, Traits
from preble.daemon.sched.blocks import BlockHasher, TokenIds, root_key
from preble.daemon.sched.types import Prompt, RequestSpec
from preble.daemon.wire.openai import ChatRequest, CompletionRequest

_T = TypeVar("_T")
_DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions, and vLLM's


class Tokeniser(Protocol):
    """Turns bodies into exactly the tokens that the engine will see; raises `NotReproducible` where it cannot.

    `max_model_len` lets it refuse what is far too long before it has its tokens; None if nobody knows. What it
    remembers of a text it uses for requests of the same `scope` alone.
    """

    @property
    def traits(self) -> Traits:
        """What its model takes for more than text."""

    async def encode_chat(self, body: Mapping[str, Any], max_model_len: int | None, scope: str) -> TokenIds:
        """Tokens of a chat request's prompt."""

    async def encode_completion(
        self, body: Mapping[str, Any], max_model_len: int | None, scope: str
    ) -> Sequence[TokenIds]:
        """Tokens of each prompt of a completion request."""

    async def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones visible."""


class Renderer(Protocol):
    """The part of an engine client that tells what tokens the engine makes of a body; raises `InvalidRequest`."""

    async def render_chat(self, body: Mapping[str, Any]) -> Sequence[int]:
        """Of a chat."""

    async def render_completion(self, body: Mapping[str, Any]) -> Sequence[Sequence[int]]:
        """Of each prompt of a completion."""


class ModelEncoder:
    """Makes `RequestSpec`s for one model."""

    def __init__(
        self,
        model: ModelName,
        block_size: int,
        tokeniser: Tokeniser,
        *,
        engine: Callable[[], Renderer],
        max_model_len: Callable[[], int | None],
        kept: KeptPrompts | None = None,
    ) -> None:
        """`engine` names one to ask for what only it can tell; `max_model_len` is None while no engine is up.

        What comes is kept in `kept`; nowhere, if that is None.
        """
        self._model = model
        self._hasher = BlockHasher(block_size)
        self._tokeniser = tokeniser
        self._engine = engine
        self._max_model_len = max_model_len
        self._kept = kept
        self.renders_here = True
        """Whether chats are rendered by the daemon. False once it has been found to differ from the engine."""

    @property
    def traits(self) -> Traits:
        """What the model takes for more than text."""
        return self._tokeniser.traits

    @property
    def block_tokens(self) -> int:
        """Tokens of a KV block."""
        return self._hasher.block_size

    @property
    def max_model_len(self) -> int | None:
        """Tokens of prompt and output together; None while no engine has said."""
        return self._max_model_len()

    async def tokens(self, body: Mapping[str, Any], scope: str) -> TokenIds:
        """Tokens of a chat, or of a completion's first prompt; what is remembered of them is for `scope` alone.

        Raises `InvalidRequest`; and `Unavailable` and `EngineError` where only an engine can tell.
        """
        if "messages" in body:
            return await self._chat_tokens(body, scope)
        return (await self._completion_tokens(body, scope))[0]

    def block_keys(self, salt: str, tokens: TokenIds) -> list[BlockKey]:
        """The chain of the whole blocks of a prompt, for those whose cached prefixes have this salt."""
        return self._hasher.chain(root_key(self._model, salt=salt), tokens)

    @property
    def keeps_prompts(self) -> bool:
        """Whether tokens of prompts are kept at all."""
        return self._kept is not None

    def kept_tokens(self, keys: Sequence[BlockKey], most_tokens: int) -> list[int]:
        """Of these blocks, those of the leading ones that are kept, up to so many tokens."""
        return self._kept.tokens(keys, most_tokens) if self._kept is not None else []

    async def text(self, tokens: Sequence[int]) -> str:
        """What the tokens say, special ones visible."""
        return await self._tokeniser.decode(tokens)

    async def chat(
        self, request_id: RequestId, tenant: TenantName, request: ChatRequest, body: Mapping[str, Any]
    ) -> RequestSpec:
        """Raises `InvalidRequest` when the prompt cannot be made or leaves no room for an answer.

        `request` has the salt that its engine will get, whatever its client sent.
        """
        tokens = await self._chat_tokens(body, request.cache_salt or "")
        asked = request.max_completion_tokens or request.max_tokens
        return self._spec(request_id, tenant, request, [tokens], asked, "messages")

    async def completion(
        self, request_id: RequestId, tenant: TenantName, request: CompletionRequest, body: Mapping[str, Any]
    ) -> RequestSpec:
        """Raises as `chat`. A batch of prompts goes to one engine, and is placed by its first prompt."""
        tokens = await self._completion_tokens(body, request.cache_salt or "")
        asked = request.max_tokens or _DEFAULT_COMPLETION_TOKENS
        return self._spec(request_id, tenant, request, tokens, asked, "prompt")

    async def _chat_tokens(self, body: Mapping[str, Any], scope: str) -> TokenIds:
        if self.renders_here:
            try:
                return await self._tokeniser.encode_chat(body, self._max_model_len(), scope)
            except NotReproducible:
                pass  # the engine can
        return np.asarray(await self._engine().render_chat(body), dtype=np.uint32)

    async def _completion_tokens(self, body: Mapping[str, Any], scope: str) -> Sequence[TokenIds]:
        try:
            return await self._tokeniser.encode_completion(body, self._max_model_len(), scope)
        except NotReproducible:
            return [np.asarray(ids, dtype=np.uint32) for ids in await self._engine().render_completion(body)]

    def _spec(
        self,
        request_id: RequestId,
        tenant: TenantName,
        request: ChatRequest | CompletionRequest,
        prompts: Sequence[TokenIds],
        asked_tokens: int | None,
        param: str,
    ) -> RequestSpec:
        if not all(map(len, prompts)):
            raise InvalidRequest(f"`{param}` must not be empty.", param=param)
        room = self._room(max(len(prompt) for prompt in prompts), asked_tokens, param)
        keys = self.block_keys(request.cache_salt or "", prompts[0])
        if self._kept is not None:
            self._kept.note(keys, prompts[0], self.block_tokens)
        return RequestSpec(
            request_id=request_id,
            model=self._model,
            tenant=tenant,
            prompt=Prompt(n_tokens=sum(map(len, prompts)), block_keys=tuple(keys)),
            max_output_tokens=min(asked_tokens or room, room),
            n_sequences=(request.n or 1) * len(prompts),
        )

    def _room(self, prompt_tokens: int, asked_tokens: int | None, param: str) -> int:
        """Output tokens that the context leaves, at least one."""
        longest = self._max_model_len()
        if longest is None:
            raise Unavailable("No engine serves this model at the moment.", retry_after_s=1.0)
        if prompt_tokens + (asked_tokens or 1) > longest:
            asked = f" and {asked_tokens} tokens of output were asked for" if asked_tokens else ""
            raise InvalidRequest(
                f"This model's maximum context length is {longest} tokens. "
                f"However, your {param} resulted in {prompt_tokens} tokens{asked}.",
                param=param,
                code="context_length_exceeded",
            )
        return longest - prompt_tokens


async def encoded(encode: Callable[[], Awaitable[_T]]) -> _T:
    """What `encode` makes of a request. Raises as it does, but `EngineFailed` for an engine that failed at its part."""
    try:
        return await encode()
    except EngineError as error:
        raise EngineFailed(f"The engine failed while it was asked for the prompt's tokens: {error}") from error


def engine_request_ids(request_id: RequestId, request: ChatRequest | CompletionRequest) -> tuple[str, ...]:
    """What vLLM calls a request that was sent with our id in `X-Request-Id`."""
    if isinstance(request, ChatRequest):
        return (f"chatcmpl-{request_id}",)
    return tuple(f"cmpl-{request_id}-{number}" for number in range(request.n_prompts))
