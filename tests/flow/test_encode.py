"""What the daemon cannot tell of a prompt, its engine tells."""

import numpy as np
import pytest
from msgspec.structs import replace

from preble.daemon.errors import InvalidRequest, Unavailable
from preble.daemon.flow.encode import ModelEncoder
from preble.daemon.ids import ModelName, RequestId, TenantName
from preble.daemon.prompt import NotReproducible
from preble.daemon.sched.blocks import BlockHasher, root_key
from preble.daemon.wire.openai import ChatRequest, CompletionRequest

WHO = (RequestId("r"), TenantName("t"))
CHAT = ChatRequest(model="m", messages=[{"role": "user", "content": "hi"}])
COMPLETION = CompletionRequest(model="m", prompt="hi")


class Tokeniser:
    """Gives up on whatever is marked as odd."""

    def __init__(self):
        self.scopes = []

    async def encode_chat(self, body, max_model_len, scope):
        self.scopes.append(scope)
        return self._tokens(body)

    async def encode_completion(self, body, max_model_len, scope):
        self.scopes.append(scope)
        return (self._tokens(body),)

    def _tokens(self, body):
        if body.get("odd"):
            raise NotReproducible("odd")
        return np.arange(body.get("n", 5), dtype=np.uint32)


class Engine:
    async def render_chat(self, body):
        return [7, 7, 7]

    async def render_completion(self, body):
        return [[7, 7], [7]]


def encoder(*, engine=Engine, max_model_len=100, tokeniser=None):
    return ModelEncoder(ModelName("m"), 2, tokeniser or Tokeniser(), engine=engine, max_model_len=lambda: max_model_len)


async def test_prompts_are_made_here():
    assert (await encoder().chat(*WHO, CHAT, {})).prompt.n_tokens == 5
    assert (await encoder().completion(*WHO, COMPLETION, {})).prompt.n_tokens == 5


async def test_salted_prompts_are_matched_and_remembered_by_their_salt():
    tokeniser = Tokeniser()
    ours = encoder(tokeniser=tokeniser)
    seen = [(await ours.chat(*WHO, replace(CHAT, cache_salt=salt), {})).prompt for salt in "abb"]
    seen.append((await ours.completion(*WHO, replace(COMPLETION, cache_salt="b"), {})).prompt)
    first, *others = [prompt.block_keys for prompt in seen]
    assert others == [tuple(BlockHasher(2).chain(root_key(ModelName("m"), salt="b"), np.arange(5)))] * 3
    assert not set(first) & set(others[0])
    assert tokeniser.scopes == ["a", "b", "b", "b"]


async def test_what_cannot_be_told_here_is_told_by_an_engine():
    assert (await encoder().chat(*WHO, CHAT, {"odd": True})).prompt.n_tokens == 3
    batch = await encoder().completion(*WHO, COMPLETION, {"odd": True})
    assert (batch.prompt.n_tokens, batch.n_sequences, len(batch.prompt.block_keys)) == (3, 2, 1)


async def test_chats_are_the_engines_business_once_they_came_out_differently():
    model = encoder()
    model.renders_here = False
    assert (await model.chat(*WHO, CHAT, {})).prompt.n_tokens == 3


async def test_an_engines_refusal_is_ours():
    class Refusing:
        async def render_completion(self, body):
            raise InvalidRequest("suffix is not supported", param="suffix")

    with pytest.raises(InvalidRequest, match="suffix"):
        await encoder(engine=Refusing).completion(*WHO, COMPLETION, {"odd": True})


@pytest.mark.parametrize(("n", "asked"), [(100, None), (101, 1), (50, 51)])
async def test_a_prompt_must_leave_room_for_what_is_asked(n, asked):
    request = CompletionRequest(model="m", prompt="x", max_tokens=asked or 1)
    with pytest.raises(InvalidRequest) as refused:
        await encoder().completion(*WHO, request, {"n": n})
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")


async def test_an_empty_prompt_is_refused():
    with pytest.raises(InvalidRequest, match="must not be empty"):
        await encoder().completion(*WHO, COMPLETION, {"n": 0})


async def test_without_an_engine_nobody_knows_how_long_prompts_may_be():
    with pytest.raises(Unavailable):
        await encoder(max_model_len=None).chat(*WHO, CHAT, {})
