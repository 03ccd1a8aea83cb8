"""An engine's reports of its prefix cache, without the engine."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio


def stored(*hashes: int | bytes, **fields: object) -> dict[str, object]:
    event = {
        "type": "BlockStored",
        "block_hashes": list(hashes),
        "parent_block_hash": None,
        "token_ids": list(range(2 * len(hashes))),
        "block_size": 2,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
    }
    return {**event, **fields}


def removed(*hashes: int, **fields: object) -> dict[str, object]:
    return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": "GPU", **fields}


def pack(*events: dict[str, object]) -> bytes:
    return msgspec.msgpack.encode([12.5, list(events), 0])


class Publisher:
    """The engine's side: publishes, keeps a buffer, and answers replay requests from it."""

    def __init__(self, folder: Path, buffer: int = 10_000, *, events: str = "kv", replay: str = "re") -> None:
        """`events` and `replay` name its sockets in `folder`."""
        self.endpoint = f"ipc://{folder}/{events}"
        self.replay_endpoint = f"ipc://{folder}/{replay}"
        self.buffer: deque[tuple[int, bytes]] = deque(maxlen=buffer)
        self.replay_limit = 1_000_000
        """So many messages of a replay arrive, and no end marker after a cut."""
        self.dropped_once: set[int] = set()
        """Messages that the next replay leaves out."""
        self.replays: list[int] = []
        self._replayed = asyncio.Event()
        self._next_seq = 0
        self._context = zmq.asyncio.Context()
        self._pub = self._context.socket(zmq.XPUB)
        self._router = self._context.socket(zmq.ROUTER)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Publisher"]:
        self._pub.bind(self.endpoint)
        self._router.bind(self.replay_endpoint)
        task = asyncio.create_task(self._answer_replays())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._context.destroy(linger=0)

    async def followed(self) -> None:
        """Wait until a listener is subscribed and has had its first replay."""
        async with asyncio.timeout(10):
            assert await self._pub.recv() == b"\x01"
            await self._replayed.wait()

    async def publish(self, *events: dict[str, object], lost: bool = False, payload: bytes | None = None) -> None:
        payload = payload or pack(*events)
        seq, self._next_seq = self._next_seq, self._next_seq + 1
        self.buffer.append((seq, payload))
        if not lost:
            await self._pub.send_multipart([b"", seq.to_bytes(8, "big"), payload])

    async def _answer_replays(self) -> None:
        while True:
            client, _, start = await self._router.recv_multipart()
            self.replays.append(int.from_bytes(start, "big"))
            due = [(seq, payload) for seq, payload in self.buffer if seq >= self.replays[-1]]
            arriving = [(seq, payload) for seq, payload in due if seq not in self.dropped_once]
            self.dropped_once.clear()
            for seq, payload in arriving[: self.replay_limit]:
                await self._router.send_multipart([client, b"", b"", seq.to_bytes(8, "big"), payload])
            if len(due) <= self.replay_limit:
                await self._router.send_multipart([client, b"", b"", b"\xff" * 8, b""])
            self._replayed.set()
