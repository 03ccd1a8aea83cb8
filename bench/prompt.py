"""What it costs to turn a chat into tokens, and from which length on a thread is worth its detour.

    .venv/bin/python bench/prompt.py --model .preble/demo-model

First a chat of several turns, made of this file's text: cold, warm (its last message is new each time, as in real use)
and repeated; reading and rendering are included. Then, for texts of several lengths, the time to tokenise on the loop,
and through a thread until the loop has the tokens.
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
from preble.daemon.prompt import tokens as tokens_module

TEXT = Path(__file__).read_text() * 200


async def median_us(call: Callable[[], Awaitable[object]], times: int) -> float:
    taken_us = []
    for _ in range(times):
        started_s = perf_counter()
        await call()
        taken_us.append((perf_counter() - started_s) * 1e6)
    return round(median(taken_us), 1)


def chat(n_chars: int, turns: int, ending: str = "") -> dict:
    size = n_chars // turns
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
    for name, inline_chars in (("inline_us", 1 << 30), ("thread_us", -1)):
        tokens_module.INLINE_CHARS = inline_chars
        encoder = PromptEncoder.load(model, cache_bytes=0)
        body = {"prompt": TEXT[:n_chars]}
        await median_us(lambda e=encoder, b=body: e.encode_completion(b), 5)
        report[name] = await median_us(lambda e=encoder, b=body: e.encode_completion(b), 200)
        encoder.close()
    return report


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(".preble/demo-model"))
    model = parser.parse_args().model
    for n_chars, turns in ((2_000, 1), (2_000, 12), (8_000, 12), (64_000, 30), (1_000_000, 30)):
        print(json.dumps(await chats(model, n_chars, turns)))
    for n_chars in (64, 256, 512, 1024, 2048, 4096, 16384):
        print(json.dumps(await hand_over(model, n_chars)))


asyncio.run(main())
