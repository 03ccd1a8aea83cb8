"""A stand-in for vLLM's server on a Unix socket, for tests that need an engine's manners but not its answers.

Its token is the byte: a prompt of n bytes has n tokens, and every output token is one letter.
"""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from aiohttp import web

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_DEFAULT_TOKENS = 16


class FakeEngine:
    """Serves while its `async with` block runs. Change the public fields at any time; look at the counters after."""

    def __init__(
        self,
        socket_path: Path,
        *,
        model: str = "fake",
        ms_per_token: float = 1.0,
        ms_per_prompt_token: float = 0.0,
        block_size: int = 32,
        kv_blocks: int = 1000,
        max_model_len: int = 8192,
        sick_every: int | None = None,
    ) -> None:
        self.socket_path = socket_path
        self.model = model
        self.ms_per_token = ms_per_token
        self.ms_per_prompt_token = ms_per_prompt_token
        self.block_size = block_size
        self.kv_blocks = kv_blocks
        self.max_model_len = max_model_len
        self.sick_every = sick_every
        """Of so many health checks one fails."""
        self.health_checks = 0
        self.healthy = True
        self.hung = False
        """It takes requests and answers none, not even about its health."""
        self.bodies: list[dict[str, Any]] = []
        """What was asked of the completion routes, in order."""
        self.headers: list[dict[str, str]] = []
        """The headers of the same requests, names in lower case."""
        self.aborted: list[str] = []
        """The ids that were to be aborted, known or not."""
        self.disconnected = 0
        """Requests whose client left before the end."""
        self.running = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.hit_tokens = 0
        self._cached: set[int] = set()  # of each block, the hash of all up to its end, as in vLLM
        """Every prefix of whole blocks that it has seen, by its salt."""
        self._aborts: dict[str, asyncio.Event] = {}
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> "FakeEngine":
        app = web.Application(client_max_size=64 * 2**20, middlewares=[self._hang])
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/metrics", self._metrics),
                web.get("/v1/models", self._models),
                web.post("/v1/completions", self._completions),
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/completions/render", self._render_completion),
                web.post("/v1/chat/completions/render", self._render_chat),
                web.post("/inference/v1/abort_requests", self._abort),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.socket_path), backlog=2048).start()  # as vLLM
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    async def die(self) -> None:
        """Cut every connection in mid-sentence and stop listening, as a killed process does."""
        if self._runner is None:
            return
        runner = self._runner
        for site in list(runner.sites):
            await site.stop()
        self.cut()
        self._runner = None
        await runner.cleanup()
        self.socket_path.unlink(missing_ok=True)

    def cut(self) -> None:
        """Cut every connection in mid-sentence, and go on listening."""
        assert self._runner is not None
        assert self._runner.server is not None
        for connection in self._runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    @web.middleware
    async def _hang(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.hung:
            await asyncio.Event().wait()
        return await handler(request)

    # --- what it says of itself ---

    async def _health(self, _: web.Request) -> web.Response:
        self.health_checks += 1
        sick = self.sick_every is not None and self.health_checks % self.sick_every == 0
        return web.Response(status=200 if self.healthy and not sick else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        label = f'engine="0",model_name="{self.model}"'
        values = {
            f'vllm:cache_config_info{{block_size="{self.block_size}",num_gpu_blocks="{self.kv_blocks}",engine="0"}}': 1,
            f"vllm:num_requests_running{{{label}}}": self.running,
            f"vllm:num_requests_waiting{{{label}}}": 0,
            f"vllm:kv_cache_usage_perc{{{label}}}": 0.25,
            f"vllm:prefix_cache_queries_total{{{label}}}": self.prompt_tokens,
            f"vllm:prefix_cache_hits_total{{{label}}}": self.hit_tokens,
            f"vllm:prompt_tokens_total{{{label}}}": self.prompt_tokens,
            f"vllm:generation_tokens_total{{{label}}}": self.generation_tokens,
        }
        return web.Response(text="".join(f"{name} {float(value)}\n" for name, value in values.items()))

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [{"id": self.model, "object": "model", "max_model_len": self.max_model_len}]}
        )

    # --- completions ---

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request)
        if (refusal := self._refusal(body, "prompt")) is not None:
            return refusal
        prompts = _prompts(body)
        shared = request.headers.get("x-request-id", "fake")
        ids = [f"cmpl-{shared}-{number}" for number in range(len(prompts))]
        return await self._answer(request, body, f"cmpl-{shared}", ids, prompts, chat=False)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request)
        if (refusal := self._refusal(body, "messages")) is not None:
            return refusal
        name = f"chatcmpl-{request.headers.get('x-request-id', 'fake')}"
        return await self._answer(request, body, name, [name], [list(_rendered(body))], chat=True)

    async def _read(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return body

    def _refusal(self, body: dict[str, Any], needed: str) -> web.Response | None:
        if body.get("model") != self.model:
            return _error(404, f"The model `{body.get('model')}` does not exist.", "model", "NotFoundError")
        if not body.get(needed):
            return _error(400, f"Field required: {needed}", needed)
        for count in ("max_tokens", "n"):
            if (given := body.get(count)) is not None and given < 1:
                return _error(400, f"{count} must be at least 1, got {given}.", count)
        return None

    async def _answer(
        self,
        request: web.Request,
        body: dict[str, Any],
        name: str,
        ids: list[str],
        prompts: list[list[int]],
        *,
        chat: bool,
    ) -> web.StreamResponse:
        prompt_tokens = sum(map(len, prompts))
        cached_tokens = sum(self._cache(body.get("cache_salt"), prompt) for prompt in prompts)
        self.hit_tokens += cached_tokens
        writer = _Writer(body, name, len(ids), prompt_tokens, cached_tokens, chat=chat)
        abort = asyncio.Event()
        self._aborts |= dict.fromkeys(ids, abort)
        self.running += len(ids)
        try:
            await asyncio.sleep(prompt_tokens * self.ms_per_prompt_token / 1000)
            self.prompt_tokens += prompt_tokens
            if not body.get("stream"):
                async for token in self._generate(body, abort):
                    writer.take(token)
                return web.json_response(writer.whole("abort" if abort.is_set() else "length"))
            response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
            await response.prepare(request)
            async for token in self._generate(body, abort):
                writer.take(token)
                await response.write(_event(writer.chunk(token, None)))
            await response.write(_event(writer.chunk("", "abort" if abort.is_set() else "length")))
            if (body.get("stream_options") or {}).get("include_usage"):
                await response.write(_event(writer.usage_chunk()))
            await response.write(b"data: [DONE]\n\n")
            return response
        except (asyncio.CancelledError, ConnectionError):
            self.disconnected += 1
            raise
        finally:
            self.running -= len(ids)
            for engine_id in ids:
                self._aborts.pop(engine_id, None)

    def _cache(self, salt: str | None, prompt: list[int]) -> int:
        """How many tokens of a prompt are found, all but the last block at most; from now on all of it is."""
        chain, found = hash(salt), 0
        for end in range(self.block_size, len(prompt) + 1, self.block_size):
            chain = hash((chain, *prompt[end - self.block_size : end]))
            if chain in self._cached and end < len(prompt):
                found = end
            self._cached.add(chain)
        return found

    async def _generate(self, body: dict[str, Any], abort: asyncio.Event) -> AsyncIterator[str]:
        for number in range(body.get("max_tokens") or body.get("max_completion_tokens") or _DEFAULT_TOKENS):
            try:
                async with asyncio.timeout(self.ms_per_token / 1000):
                    await abort.wait()
                return
            except TimeoutError:
                self.generation_tokens += 1
                yield _LETTERS[number % len(_LETTERS)]

    # --- the scale-out routes ---

    async def _render_completion(self, request: web.Request) -> web.Response:
        body = await request.json()
        if (refusal := self._refusal(body, "prompt")) is not None:
            return refusal
        prompts = _prompts(body)
        shared = f"cmpl-{request.headers.get('x-request-id', 'fake')}"
        names = [shared] if len(prompts) == 1 else [f"{shared}-{number}" for number in range(len(prompts))]
        return web.json_response([_generate_request(*each, body) for each in zip(names, prompts, strict=True)])

    async def _render_chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        if not isinstance(body.get("messages"), list):
            return _error(400, "1 validation error:\n  Input should be a valid list", "body.messages")
        return web.json_response(_generate_request("chatcmpl-fake", _rendered(body), body))

    async def _abort(self, request: web.Request) -> web.Response:
        for engine_id in (await request.json())["request_ids"]:
            self.aborted.append(engine_id)
            if engine_id in self._aborts:
                self._aborts[engine_id].set()
        return web.Response()


class _Writer:
    """Puts generated tokens into the shapes that vLLM sends."""

    def __init__(
        self, body: dict[str, Any], name: str, n_prompts: int, prompt_tokens: int, cached_tokens: int, *, chat: bool
    ) -> None:
        self._chat = chat
        self._cached_tokens = cached_tokens
        self._n_choices = n_prompts * (body.get("n") or 1)
        self._prompt_tokens = prompt_tokens
        self._head = {"id": name, "created": 1_700_000_000, "model": body["model"]}
        self._text = ""

    def take(self, token: str) -> None:
        self._text += token

    def chunk(self, token: str, finish: str | None) -> dict[str, Any]:
        content = {"delta": {"content": token}} if self._chat else {"text": token}
        choices = [
            {"index": index, **content, "logprobs": None, "finish_reason": finish} for index in range(self._n_choices)
        ]
        return {**self._head, "object": self._object(".chunk"), "choices": choices}

    def usage_chunk(self) -> dict[str, Any]:
        return {**self._head, "object": self._object(".chunk"), "choices": [], "usage": self._usage()}

    def whole(self, finish: str) -> dict[str, Any]:
        message = {"message": {"role": "assistant", "content": self._text}} if self._chat else {"text": self._text}
        choices = [
            {"index": index, **message, "logprobs": None, "finish_reason": finish} for index in range(self._n_choices)
        ]
        return {**self._head, "object": self._object(""), "choices": choices, "usage": self._usage()}

    def _object(self, suffix: str) -> str:
        return f"chat.completion{suffix}" if self._chat else "text_completion"

    def _usage(self) -> dict[str, Any]:
        output = len(self._text) * self._n_choices
        return {
            "prompt_tokens": self._prompt_tokens,
            "total_tokens": self._prompt_tokens + output,
            "completion_tokens": output,
            "prompt_tokens_details": {"cached_tokens": self._cached_tokens},
        }


def _prompts(body: dict[str, Any]) -> list[list[int]]:
    """The tokens of each prompt of a completion."""
    given = body["prompt"]
    prompts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    return [list(prompt.encode()) if isinstance(prompt, str) else prompt for prompt in prompts]


def _generate_request(name: str, token_ids: Iterable[int], body: dict[str, Any]) -> dict[str, Any]:
    """What vLLM's render routes answer, as far as anybody reads it."""
    return {"request_id": name, "token_ids": list(token_ids), "sampling_params": {}, "model": body.get("model")}


def _rendered(body: dict[str, Any]) -> bytes:
    return "".join(str(message.get("content") or "") for message in body["messages"]).encode()


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def _error(status: int, message: str, param: str | None, kind: str = "BadRequestError") -> web.Response:
    error = {"message": message, "type": kind, "param": param, "code": status}
    return web.json_response({"error": error}, status=status)


async def _serve_until_sigterm(socket_path: Path, **options: Any) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with FakeEngine(socket_path, **options):
        await ended.wait()


if __name__ == "__main__":  # python fake_engine.py SOCKET '{"option": value}'
    asyncio.run(_serve_until_sigterm(Path(sys.argv[1]), **json.loads(sys.argv[2])))
