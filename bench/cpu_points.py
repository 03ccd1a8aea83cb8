"""What CPU engines' steps take, measured past the daemon: what fit_cpu.py fits, and validate.py looks at again.

All engines are measured at the same time, since that is how they run, and what one does slows the others. So do the
daemon, the API servers and the clients: a `company` keeps as many cores busy as they would.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from uuid import uuid4

import aiohttp
from cpu_engines import BLOCK_TOKENS, MAX_NUM_BATCHED_TOKENS, MODEL, random_prompt

URL = "http://engine/v1/completions"
DECODE_STEPS = 64
WINDOW_STEPS = 24
"""Of a sequence that decodes; in every second one a request comes."""
WINDOWS = 24
"""With a request, in one measurement."""
BESIDE_MS = 10.0
"""By so little a step is longer that it is known to about half a millisecond, a twentieth of this."""
COMPANION = Path(__file__).resolve().parent / "companion.py"
COMPANIONS = 2

Terms = dict[str, float]
"""How often each coefficient is in a measurement."""


@dataclass(frozen=True, eq=False)
class Kind:
    """One thing to measure, in milliseconds."""

    what: str
    terms: Terms
    measure: Callable[[aiohttp.ClientSession], Awaitable[float]]
    weighed_ms: float = 0.0
    """What takes less counts like this, since it is no surer: differences of longer times."""


@dataclass(frozen=True)
class Point:
    """What it took."""

    what: str
    terms: Terms
    ms: float
    scale_ms: float
    """Errors are relative to it: `ms`, or more where that is unsure."""


# --- kinds ---


def lone_prompt(n_tokens: int, context: int) -> Kind:
    """A prompt whose last `n_tokens` are not cached, with its way to the engine and back."""

    async def measure(http: aiohttp.ClientSession) -> float:
        salt, prompt = uuid4().hex, random_prompt(context)
        if context > n_tokens:
            await ask(http, [prompt[: context - n_tokens]], 1, salt)
        return await ask(http, [prompt], 1, salt)

    terms = {"way": 1.0, "way_per_token": context, "per_request": 1.0}
    for chunk, end in chunks(n_tokens, context):
        terms = add(terms, {"base": 1, **computed(chunk, end)})
    return Kind(f"{n_tokens} tokens to {context}", terms, measure)


def prompt_beside(n_tokens: int, context: int) -> Kind:
    """How long such a prompt, which takes one step, keeps a sequence waiting that decodes meanwhile."""

    async def measure(http: aiohttp.ClientSession) -> float:
        salt, head = uuid4().hex, random_prompt(context - n_tokens)
        if head:
            await ask(http, [head + random_prompt(n_tokens)], 1, salt)
        coming: list[asyncio.Task[float]] = []
        times_s: list[float] = []
        async for at_s in tokens(http, 1 + WINDOW_STEPS * (2 * WINDOWS + 1), salt):
            window, step = divmod(len(times_s), WINDOW_STEPS)
            times_s.append(at_s)
            if step == 0 and window % 2 == 1 and window < 2 * WINDOWS:
                coming.append(asyncio.create_task(ask(http, [head + random_prompt(n_tokens)], 1, salt)))
        await asyncio.gather(*coming)
        return 1000 * median(longer(times_s[::WINDOW_STEPS]))

    terms = {"per_request": 1.0, **computed(n_tokens, context)}
    return Kind(f"{n_tokens} tokens to {context} while another decodes", terms, measure, BESIDE_MS)


def uncached_prompt(n_tokens: int) -> Kind:
    """What a prompt takes longer than the same once more: nothing of its way."""

    async def measure(http: aiohttp.ClientSession) -> float:
        salt, prompt = uuid4().hex, random_prompt(n_tokens)
        return await ask(http, [prompt], 1, salt) - await ask(http, [prompt], 1, salt)

    n_again = (n_tokens - 1) % BLOCK_TOKENS + 1
    once, again = computed(n_tokens, n_tokens), computed(n_again, n_tokens)
    terms = {name: once[name] - again[name] for name in once}
    return Kind(f"{n_tokens} tokens more", terms, measure)


def decoding(batch: int, context: int, sharing: int = 1) -> Kind:
    """A step that decodes for `batch` sequences, in turn of so many prompts that `sharing` of them have each."""

    async def measure(http: aiohttp.ClientSession) -> float:
        salt, prompts = uuid4().hex, [random_prompt(context) for _ in range(batch // sharing)] * sharing
        await ask(http, prompts, 1, salt)
        first_ms = await ask(http, prompts, 1, salt)
        return (await ask(http, prompts, 1 + DECODE_STEPS, salt) - first_ms) / DECODE_STEPS

    again = (batch - batch // sharing) * context
    once = batch * (context + DECODE_STEPS / 2) - again
    terms = {"base": 1.0, "per_token": batch, "per_decode_context": once, "per_shared_context": again}
    what = f"{batch} sequences of {context}"
    return Kind(what if sharing == 1 else f"{what}, {sharing} of each prompt", terms, measure)


def computed(chunk: int, end: int) -> Terms:
    """A chunk of a prompt that ends there."""
    attended = chunk * end - chunk * (chunk - 1) / 2
    return {"per_token": chunk, "per_chunk_context": end, "per_attended": attended}


def chunks(n_tokens: int, context: int) -> Iterator[tuple[int, int]]:
    """Tokens of each step, and where they end."""
    done = context - n_tokens
    while done < context:
        n = min(MAX_NUM_BATCHED_TOKENS, context - done)
        done += n
        yield n, done


def add(some: Terms, others: Terms) -> Terms:
    return {name: some.get(name, 0) + others.get(name, 0) for name in some | others}


def longer(ends: list[float]) -> list[float]:
    """By how much every second span between these is longer than those around it."""
    spans = [after - before for before, after in pairwise(ends)]
    return [spans[at] - (spans[at - 1] + spans[at + 1]) / 2 for at in range(1, len(spans) - 1, 2)]


# --- measuring ---


async def ask(http: aiohttp.ClientSession, prompts: list[list[int]], output_tokens: int, salt: str) -> float:
    """Milliseconds of one request with so many prompts at once."""
    started_s = time.perf_counter()
    async with http.post(URL, json=request(prompts, output_tokens, salt)) as response:
        answer = await response.text()
    if response.status != 200:
        raise SystemExit(answer)
    return (time.perf_counter() - started_s) * 1000


async def tokens(http: aiohttp.ClientSession, n_tokens: int, salt: str) -> AsyncIterator[float]:
    """When each token of a short prompt's answer came, in seconds."""
    async with http.post(URL, json=request([random_prompt(BLOCK_TOKENS)], n_tokens, salt) | {"stream": True}) as stream:
        async for line in stream.content:
            if line.startswith(b"data: {"):
                yield time.perf_counter()


def request(prompts: list[list[int]], output_tokens: int, salt: str) -> dict[str, object]:
    return {
        "model": MODEL,
        "prompt": prompts,
        "max_tokens": output_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "cache_salt": salt,
    }


@asynccontextmanager
async def clients(sockets: list[Path]) -> AsyncIterator[list[aiohttp.ClientSession]]:
    """One of each engine, which has been warmed up: its first requests pay for that."""
    async with AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))))
            for path in sockets
        ]
        for http in engines:
            await ask(http, [random_prompt(64)], 8, uuid4().hex)
        yield engines


async def measured(sockets: list[Path], kinds: Sequence[Kind], rounds: int) -> list[Point]:
    """The median of each. All are in every round, so a machine that gets slower meanwhile slows all of them.

    One that is in `kinds` more than once is measured so often.
    """
    values: dict[Kind, list[float]] = {kind: [] for kind in kinds}
    async with clients(sockets) as engines:
        for _ in range(rounds):
            for kind in kinds:
                values[kind] += await asyncio.gather(*map(kind.measure, engines))
    medians = {kind: median(ms) for kind, ms in values.items()}
    return [Point(kind.what, kind.terms, ms, max(ms, kind.weighed_ms)) for kind, ms in medians.items()]


# --- company ---


@contextmanager
def company(cores: float) -> Iterator[None]:
    """Other processes that keep so many cores busy, two at most."""
    command = [sys.executable, str(COMPANION), str(min(1.0, cores / COMPANIONS))]
    companions = [subprocess.Popen(command) for _ in range(COMPANIONS)]
    try:
        yield
    finally:
        for each in companions:
            each.kill()
            each.wait()
