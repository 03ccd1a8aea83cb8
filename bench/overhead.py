"""What the daemon adds to TTFT at low load: the same small streamed requests through it and to an engine directly.

    .venv/bin/python bench/overhead.py --socket SOCKET   # one of the running daemon's engines: .preble/run/*.sock

Requests go one at a time, in turn to the daemon and straight to one of its engines' sockets, so that both see the same
machine at the same moment. Prints p50 and p99 of each and the difference of the medians, in milliseconds.
"""

import argparse
import asyncio
import json
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import aiohttp


async def time_to_first_token_ms(session: aiohttp.ClientSession, url: str, body: dict, headers: dict) -> float:
    started_s = perf_counter()
    async with session.post(url, json=body, headers=headers) as response:
        if response.status != 200:
            raise SystemExit(f"{url}: {response.status}: {await response.text()}")
        await response.content.readany()
        first_s = perf_counter()
        async for _ in response.content.iter_any():
            pass
    return (first_s - started_s) * 1000


async def compare(args: argparse.Namespace, key: str) -> dict[str, dict[str, float]]:
    messages = [{"role": "user", "content": "What is the capital of France? " * args.repeat}]
    body = {"model": args.model, "messages": messages, "max_tokens": 4, "stream": True, "temperature": 0}
    times: dict[str, list[float]] = {"direct": [], "preble": []}
    direct = aiohttp.ClientSession(connector=aiohttp.UnixConnector(args.socket))
    preble = aiohttp.ClientSession()
    async with direct, preble:
        for number in range(args.warm_up + args.requests):
            pair = [
                ("direct", direct, "http://engine/v1/chat/completions", {}),
                ("preble", preble, f"{args.url}/v1/chat/completions", {"authorization": f"Bearer {key}"}),
            ]
            for name, session, url, headers in pair if number % 2 else reversed(pair):
                time_ms = await time_to_first_token_ms(session, url, body, headers)
                if number >= args.warm_up:
                    times[name].append(time_ms)
    return {
        name: {"p50_ms": round(median(values), 2), "p99_ms": round(quantiles(values, n=100)[98], 2)}
        for name, values in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key-file", default=".preble/default.key")
    parser.add_argument("--socket", default=".preble/run/cpu0.sock")
    parser.add_argument("--model", default="preble-demo")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--warm-up", type=int, default=30)
    parser.add_argument("--repeat", type=int, default=1, help="how often the question is repeated: a longer prompt")
    args = parser.parse_args()
    figures = asyncio.run(compare(args, Path(args.key_file).read_text().strip()))
    added = figures["preble"]["p50_ms"] - figures["direct"]["p50_ms"]
    print(json.dumps({**figures, "added_p50_ms": round(added, 2)}, indent=2))


if __name__ == "__main__":
    main()
