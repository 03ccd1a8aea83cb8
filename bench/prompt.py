"""What it costs to turn a body into tokens, from which length on a thread pays, and how long the loop is held.

    .venv/bin/python bench/prompt.py --model .preble/demo-model

First a chat of several turns, made of this file's text: cold, warm (its last message is new each time, as in real use)
and repeated; reading and rendering are included. Then, for texts of several lengths, the time to tokenise on the loop,
and through a thread until the loop has the tokens. Last, for bodies of 1 MB, or just too light for a thread, some made
to be slow, the longest time for which another task of the loop had to wait (the median and the worst of seven tries).
"""

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter

from preble.daemon.prompt import PromptEncoder
from preble.daemon.prompt import encoder as encoder_module

MILLION = 1_000_000
TEXT = Path(__file__).read_text() * 400


async def median_us(call: Callable[[], Awaitable[object]], times: int) -> float:
    taken_us = []
    for _ in range(times):
        started_s = perf_counter()
        await call()
        taken_us.append((perf_counter() - started_s) * 1e6)
    return round(median(taken_us), 1)


def chat(n_chars: int, turns: int, ending: str = "") -> dict:
    size = n_chars // turns
    assert n_chars <= len(TEXT)
    contents = [f"{turn} {TEXT[turn * size : (turn + 1) * size]}" for turn in range(turns)]
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(contents)]
    return {"messages": [*messages, {"role": "user", "content": f"And now? {ending}"}]}


async def chats(model: Path, n_chars: int, turns: int) -> dict[str, float]:
    number = count()
    encoder = PromptEncoder.load(model)
    forgetful = PromptEncoder.load(model, cache_bytes=0)
    body = chat(n_chars, turns)
    n_tokens = len(await encoder.encode_chat(body))
    report = {
        "chars": n_chars,
        "turns": turns,
        "tokens": n_tokens,
        "cold_us": await median_us(lambda: forgetful.encode_chat(body), 20),
        "warm_us": await median_us(lambda: encoder.encode_chat(chat(n_chars, turns, f"{next(number)}")), 300),
        "repeated_us": await median_us(lambda: encoder.encode_chat(body), 300),
    }
    encoder.close()
    forgetful.close()
    return report


async def hand_over(model: Path, n_chars: int) -> dict[str, float]:
    report: dict[str, float] = {"chars": n_chars}
    usual_chars = encoder_module.INLINE_CHARS
    for name, inline_chars in (("inline_us", 1 << 30), ("thread_us", -1)):
        encoder_module.INLINE_CHARS = inline_chars
        encoder = PromptEncoder.load(model, cache_bytes=0)
        body = {"prompt": TEXT[:n_chars]}
        await median_us(lambda e=encoder, b=body: e.encode_completion(b), 5)
        report[name] = await median_us(lambda e=encoder, b=body: e.encode_completion(b), 200)
        encoder.close()
    encoder_module.INLINE_CHARS = usual_chars
    return report


def big_bodies() -> dict[str, dict]:
    schema = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(30_000)}}
    question = {"role": "user", "content": "Hello"}
    return {
        "one message": {"messages": [{"role": "user", "content": TEXT[:MILLION]}]},
        "30 turns": chat(MILLION, 30),
        "one message, just not heavy": {"messages": [{"role": "user", "content": TEXT[:65_000]}]},
        "only added tokens, just not heavy": {"messages": [{"role": "user", "content": "<s>" * 21_666}]},
        "30,000 messages": {"messages": [question] * 30_000},
        "150 messages, just not heavy": {"messages": [question] * 150},
        "a tool with 30,000 parameters": {
            "messages": [question],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}],
        },
        "only <": {"messages": [{"role": "user", "content": "<" * MILLION}]},
        "only added tokens": {"messages": [{"role": "user", "content": "<s>" * (MILLION // 3)}]},
        "only 東": {"messages": [{"role": "user", "content": "東" * (MILLION // 3)}]},
        "200,000 token ids": {"prompt": [300] * 200_000},
        "100,000 prompts": {"prompt": ["a"] * 100_000},
    }


async def longest_wait_s(call: Callable[[], Awaitable[object]]) -> float:
    """How long a task had to wait that only ever wants its next turn."""
    longest_s = 0.0

    async def tick() -> None:
        nonlocal longest_s
        while True:
            before_s = perf_counter()
            await asyncio.sleep(0)
            longest_s = max(longest_s, perf_counter() - before_s)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    await call()
    await asyncio.sleep(0)
    ticking.cancel()
    return longest_s


async def held(model: Path, name: str, body: dict) -> dict:
    encoder = PromptEncoder.load(model, cache_bytes=0)
    encode = encoder.encode_chat if "messages" in body else encoder.encode_completion
    waits_ms = [await longest_wait_s(lambda: encode(body)) * 1e3 for _ in range(7)]
    took_us = await median_us(lambda: encode(body), 3)
    encoder.close()
    return {
        "body": name,
        "held_ms": round(median(waits_ms), 1),
        "worst_held_ms": round(max(waits_ms), 1),
        "took_ms": round(took_us / 1e3, 1),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(".preble/demo-model"))
    model = parser.parse_args().model
    for n_chars, turns in ((2_000, 1), (2_000, 12), (8_000, 12), (64_000, 30), (MILLION, 30)):
        print(json.dumps(await chats(model, n_chars, turns)))
    for n_chars in (64, 256, 512, 1024, 2048, 4096, 16384):
        print(json.dumps(await hand_over(model, n_chars)))
    for name, body in big_bodies().items():
        print(json.dumps(await held(model, name, body), ensure_ascii=False))


asyncio.run(main())
