"""Listens to what one engine puts into its prefix cache and drops from it, and repairs what the wire loses.

Every message of the engine is turned into changes exactly once and in order. What is lost beyond repair becomes a
`BlocksCleared`: the index then knows less than the engine caches, never more.
"""

import asyncio
from collections.abc import Callable, Iterable
from itertools import chain, groupby
from typing import Never

import msgspec
import zmq
import zmq.asyncio

from preble.daemon.engine.blocknames import Removed, Stored, Told
from preble.daemon.flow.events import BlocksCleared, KvChange, KvReported
from preble.daemon.ids import GpuId

_END_SEQ = b"\xff" * 8
_REPLAY_TIMEOUT_MS = 5000
"""Until the first message of a replay comes."""
_REPLAY_PAUSE_MS = 300
"""Between two messages of a replay, which the engine sends in one go."""
_POST_BLOCKS = 512
"""After so many blocks they are posted and the event loop gets its turn, even if more are queued."""


class _Stored(msgspec.Struct, tag="BlockStored", gc=False):
    block_hashes: tuple[int | bytes, ...]
    parent_block_hash: int | bytes | None
    token_ids: tuple[int, ...]
    block_size: int
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[list[object] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


class _Removed(msgspec.Struct, tag="BlockRemoved", gc=False):
    block_hashes: tuple[int | bytes, ...]
    medium: str | None = None
    group_idx: int | None = None


class _Cleared(msgspec.Struct, tag="AllBlocksCleared"):
    pass


class _Batch(msgspec.Struct, array_like=True):
    ts: float
    events: list[_Stored | _Removed | _Cleared]


_decoder = msgspec.msgpack.Decoder(_Batch)


def decode(payload: bytes) -> list[Told]:
    """Read one message of an engine: changes of the prefix cache on its GPU; other media do not count.

    An engine evicts block by block, and says so of each: what it evicts before it stores anything is one change.
    Raises `msgspec.ValidationError` or `msgspec.DecodeError` if the payload is not what vLLM sends.
    """
    changes: list[Told] = []
    for kind, run in groupby(_decoder.decode(payload).events, key=type):
        if kind is _Removed:
            removed = [event.block_hashes for event in run if isinstance(event, _Removed) and _on_gpu(event)]
            if names := _names(chain.from_iterable(removed)):
                changes.append(Removed(names))
            continue
        for event in run:
            match event:
                case _Stored() if _on_gpu(event) and event.kv_cache_spec_kind in (None, "full_attention"):
                    if (stored := _stored(event)) is not None:
                        changes.append(stored)
                case _Cleared():
                    changes.append(BlocksCleared())
    return changes


def _on_gpu(event: _Stored | _Removed) -> bool:
    return event.medium in (None, "GPU") and event.group_idx in (None, 0)


def _stored(event: _Stored) -> Stored | None:
    """Keep the leading blocks that tokens, LoRA and salt alone tell apart; images and embeddings need more."""
    count, salt = len(event.block_hashes), ""
    for number, keys in enumerate(event.extra_keys or ()):
        if not keys:
            continue
        rest = keys[1 if event.lora_name else 0 :]
        if len(rest) > 1 or not all(isinstance(key, str) for key in rest):
            count = number
            break
        if number == 0 and rest:
            salt = str(rest[0])
    if count == 0:
        return None
    return Stored(
        hashes=_names(event.block_hashes[:count]),
        parent_hash=None if event.parent_block_hash is None else _name(event.parent_block_hash),
        token_ids=event.token_ids[: count * event.block_size],
        lora=event.lora_name or "",
        salt=salt,
    )


def _names(hashes: Iterable[int | bytes]) -> tuple[int, ...]:
    return tuple(map(_name, hashes))


def _name(block_hash: int | bytes) -> int:
    """Fold a whole digest as the engine itself would: to its last 64 bits."""
    return block_hash if isinstance(block_hash, int) else int.from_bytes(block_hash[-8:], "big")


class KvListener:
    """Follows the reports of one start (epoch) of one engine.

    Make it before the engine starts, so that it is connected once the engine speaks; `run` it when its posts are
    wanted; `close` it when the engine has ended.
    """

    def __init__(
        self,
        gpu: GpuId,
        epoch: int,
        endpoint: str,
        replay_endpoint: str,
        post: Callable[[KvReported], None],
        ours: Callable[[Iterable[Told]], Iterable[KvChange]],
        on_gap: Callable[[int], None],
    ) -> None:
        """`ours` puts into our keys what the engine says in its names; `on_gap` is told how many messages a gap had."""
        self._gpu = gpu
        self._epoch = epoch
        self._replay_endpoint = replay_endpoint
        self._post = post
        self._ours = ours
        self._on_gap = on_gap
        self._next_seq = 0
        self._changes: list[KvChange] = []
        self._n_blocks = 0
        self._context = zmq.asyncio.Context()
        self._events = self._socket(zmq.SUB, endpoint)
        self._events.subscribe(b"")

    def _socket(self, kind: int, endpoint: str) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.rcvhwm = 0  # better to hold what the engine says than to lose it
        socket.connect(endpoint)
        return socket

    def close(self) -> None:
        """Let go of the sockets. End `run` first."""
        self._context.destroy(linger=0)

    async def run(self) -> Never:
        """Post everything the engine has reported since its start, and go on until cancelled."""
        await self._catch_up()
        self._flush()
        while True:
            await self._take_one()
            while self._n_blocks < _POST_BLOCKS and int(self._events.get(zmq.EVENTS)) & zmq.POLLIN:
                await self._take_one()
            self._flush()
            await asyncio.sleep(0)

    async def _take_one(self) -> None:
        _topic, seq_bytes, payload = await self._events.recv_multipart()
        seq = int.from_bytes(seq_bytes, "big")
        if seq > self._next_seq:
            self._on_gap(seq - self._next_seq)
            await self._catch_up()
            if seq > self._next_seq:
                self._resume_at(seq)
        self._accept(seq, payload)

    async def _catch_up(self) -> None:
        """Take all that the engine's replay buffer has from the next message on."""
        whole, before = False, -1
        while not whole and self._next_seq > before:
            before = self._next_seq
            whole = await self._replay()

    async def _replay(self) -> bool:
        """Take one replay; False if it broke off, which happens to long ones when the engine's queue to us is full."""
        replay = self._socket(zmq.DEALER, self._replay_endpoint)
        try:
            await replay.send_multipart([b"", self._next_seq.to_bytes(8, "big")])
            first = True
            while await replay.poll(_REPLAY_TIMEOUT_MS if first else _REPLAY_PAUSE_MS):
                *_, seq_bytes, payload = await replay.recv_multipart()
                if seq_bytes == _END_SEQ:
                    return True
                seq = int.from_bytes(seq_bytes, "big")
                if seq > self._next_seq:
                    if not first:
                        return False
                    self._resume_at(seq)
                first = False
                self._accept(seq, payload)
                if self._n_blocks >= _POST_BLOCKS:
                    self._flush()
                    await asyncio.sleep(0)
            return False
        finally:
            replay.close()

    def _resume_at(self, seq: int) -> None:
        """Give up what came before `seq`."""
        self._take([BlocksCleared()])
        self._next_seq = seq

    def _accept(self, seq: int, payload: bytes) -> None:
        if seq < self._next_seq:
            return
        self._next_seq = seq + 1
        try:
            told = decode(payload)
        except msgspec.MsgspecError:
            self._on_gap(1)
            told = [BlocksCleared()]  # whatever it said, we cannot know any more what is cached
        self._take(told)

    def _take(self, told: list[Told]) -> None:
        for change in self._ours(told):
            self._changes.append(change)
            if not isinstance(change, BlocksCleared):
                self._n_blocks += len(change.keys)

    def _flush(self) -> None:
        if self._changes:
            self._post(KvReported(gpu=self._gpu, epoch=self._epoch, changes=tuple(self._changes)))
            self._changes.clear()
            self._n_blocks = 0
