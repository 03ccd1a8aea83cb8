"""What an engine reports of its cache arrives once, in order, and whole, or is known to be lost."""

import asyncio

import numpy as np
import pytest
from tests.engine.publisher import Publisher, pack, removed, stored

from preble.daemon.engine import kvevents
from preble.daemon.engine.blocknames import BlockNames, Removed, Stored
from preble.daemon.engine.kvevents import KvListener, decode
from preble.daemon.flow.events import BlocksCleared, BlocksRemoved, BlocksStored, KvChange, KvReported
from preble.daemon.ids import GpuId, ModelName
from preble.daemon.sched.blocks import BlockHasher, root_key


def test_what_vllm_sends():
    changes = decode(
        pack(
            stored(11, 12, extra_keys=[["SALT"], None], group_idx=0, kv_cache_spec_kind="full_attention"),
            stored(13, parent_block_hash=12, extra_keys=[None], locality=None),
            removed(11, 12),
            {"type": "AllBlocksCleared"},
        )
    )
    assert changes == [
        Stored(hashes=(11, 12), parent_hash=None, token_ids=(0, 1, 2, 3), lora="", salt="SALT"),
        Stored(hashes=(13,), parent_hash=12, token_ids=(0, 1), lora="", salt=""),
        Removed(hashes=(11, 12)),
        BlocksCleared(),
    ]


def test_blocks_evicted_one_after_the_other_are_one_change():
    elsewhere = removed(14, medium="CPU")
    assert decode(pack(removed(13), elsewhere, removed(12, 11), stored(21), elsewhere, removed(21), stored(22))) == [
        Removed(hashes=(13, 12, 11)),
        Stored(hashes=(21,), parent_hash=None, token_ids=(0, 1), lora="", salt=""),
        Removed(hashes=(21,)),
        Stored(hashes=(22,), parent_hash=None, token_ids=(0, 1), lora="", salt=""),
    ]


@pytest.mark.parametrize(
    ("extra_keys", "lora_name", "lora", "salt"),
    [
        (None, None, "", ""),
        ([["S"]], None, "", "S"),
        ([["tuned"]], "tuned", "tuned", ""),
        ([["tuned", "S"]], "tuned", "tuned", "S"),
    ],
)
def test_lora_and_salt_are_told_apart(extra_keys, lora_name, lora, salt):
    [change] = decode(pack(stored(1, extra_keys=extra_keys, lora_name=lora_name)))
    assert isinstance(change, Stored)
    assert (change.lora, change.salt) == (lora, salt)


@pytest.mark.parametrize(
    "event",
    [
        stored(1, medium="CPU"),
        removed(1, medium="STORAGE"),
        stored(1, group_idx=1),
        removed(1, group_idx=1),
        stored(1, group_idx=0, kv_cache_spec_kind="sliding_window"),
    ],
)
def test_other_media_and_other_kinds_of_cache_do_not_count(event):
    assert decode(pack(event)) == []


def test_blocks_are_taken_up_to_the_first_image():
    events = pack(
        stored(1, 2, 3, extra_keys=[["S"], [["image", 4]], None]),
        stored(4, extra_keys=[[["image", 0], "S"]]),
        stored(5, extra_keys=[[b"embedding"]]),
    )
    assert decode(events) == [Stored(hashes=(1,), parent_hash=None, token_ids=(0, 1), lora="", salt="S")]


def test_whole_digests_are_folded_to_their_last_64_bits():
    digest = bytes(range(32))
    expected = int.from_bytes(digest[-8:], "big")
    assert decode(pack(stored(digest, parent_block_hash=digest))) == [
        Stored(hashes=(expected,), parent_hash=expected, token_ids=(0, 1), lora="", salt="")
    ]


def same_names(told):
    """For tests in which only the order of things matters."""
    for change in told:
        match change:
            case Stored():
                yield BlocksStored(keys=change.hashes, parent=change.parent_hash)
            case Removed():
                yield BlocksRemoved(keys=change.hashes)
            case _:
                yield change


class Listening:
    """A listener at work, and what it has posted."""

    def __init__(self, publisher: Publisher) -> None:
        self.reports: list[KvReported] = []
        self.gaps: list[int] = []
        self._news = asyncio.Event()
        self._listener = KvListener(
            GpuId("gpu0"), 3, publisher.endpoint, publisher.replay_endpoint, self._take, same_names, self.gaps.append
        )

    def _take(self, report: KvReported) -> None:
        self.reports.append(report)
        self._news.set()

    async def __aenter__(self) -> "Listening":
        self._task = asyncio.create_task(self._listener.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._listener.close()

    @property
    def changes(self) -> list[KvChange]:
        return [change for report in self.reports for change in report.changes]

    async def got(self, n_changes: int) -> list[int | None]:
        """Wait for so many changes; return the first hash of each, None for a clearing."""
        async with asyncio.timeout(10):
            while len(self.changes) < n_changes:
                self._news.clear()
                await self._news.wait()
        return [None if isinstance(change, BlocksCleared) else change.keys[0] for change in self.changes]


async def test_what_came_before_is_replayed_and_what_comes_after_follows(tmp_path):
    async with Publisher(tmp_path).serving() as publisher:
        for number in range(3):
            await publisher.publish(stored(number))
        async with Listening(publisher) as listening:
            assert await listening.got(3) == [0, 1, 2]
            await publisher.followed()
            for number in range(3, 6):
                await publisher.publish(stored(number), removed(number))
            assert await listening.got(9) == [0, 1, 2, 3, 3, 4, 4, 5, 5]
        assert publisher.replays == [0]
        assert listening.gaps == []
        assert {(report.gpu, report.epoch) for report in listening.reports} == {("gpu0", 3)}


async def test_a_gap_is_repaired_in_order(tmp_path):
    async with Publisher(tmp_path).serving() as publisher, Listening(publisher) as listening:
        await publisher.followed()
        for number in range(6):
            await publisher.publish(stored(number), lost=number in (2, 3))
        assert await listening.got(6) == [0, 1, 2, 3, 4, 5]
        assert listening.gaps == [2]
        assert publisher.replays == [0, 2]


async def test_what_the_buffer_no_longer_holds_clears_the_index_first(tmp_path):
    async with Publisher(tmp_path, buffer=3).serving() as publisher, Listening(publisher) as listening:
        await publisher.followed()
        await publisher.publish(stored(0))
        await listening.got(1)
        for number in range(1, 8):
            await publisher.publish(stored(number), lost=number < 7)
        assert await listening.got(5) == [0, None, 5, 6, 7]
        assert listening.gaps == [6]


async def test_a_replay_cut_short_is_taken_up_again(tmp_path, monkeypatch):
    monkeypatch.setattr(kvevents, "_REPLAY_TIMEOUT_MS", 100)
    async with Publisher(tmp_path).serving() as publisher:
        for number in range(10):
            await publisher.publish(stored(number))
        publisher.replay_limit = 4
        async with Listening(publisher) as listening:
            assert await listening.got(10) == list(range(10))
        assert publisher.replays == [0, 4, 8]


async def test_a_replay_with_a_hole_is_taken_up_again_at_the_hole(tmp_path):
    async with Publisher(tmp_path).serving() as publisher:
        for number in range(10):
            await publisher.publish(stored(number))
        publisher.dropped_once = {3, 4, 9}
        async with Listening(publisher) as listening:
            assert await listening.got(10) == list(range(10))
        assert publisher.replays == [0, 3]


async def test_without_a_replay_the_rest_is_still_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(kvevents, "_REPLAY_TIMEOUT_MS", 100)
    async with Publisher(tmp_path).serving() as publisher:
        publisher.replay_limit = 0
        async with Listening(publisher) as listening:
            await publisher.followed()
            await publisher.publish(stored(0), lost=True)
            await publisher.publish(stored(1))
            await publisher.publish(stored(2))
            assert await listening.got(3) == [None, 1, 2]


async def test_a_message_that_cannot_be_understood_clears_the_index(tmp_path):
    async with Publisher(tmp_path).serving() as publisher, Listening(publisher) as listening:
        await publisher.followed()
        await publisher.publish(stored(0))
        await publisher.publish(payload=pack({"type": "SomethingNew"}))
        await publisher.publish(stored(2))
        assert await listening.got(3) == [0, None, 2]
        assert listening.gaps == [1]


async def test_what_is_queued_is_posted_together(tmp_path):
    async with Publisher(tmp_path).serving() as publisher, Listening(publisher) as listening:
        await publisher.followed()
        for number in range(500):
            await publisher.publish(stored(number))
        assert await listening.got(500) == list(range(500))
        assert len(listening.reports) < 100


async def test_a_flood_is_posted_in_few_events_and_lets_others_run(tmp_path):
    async with Publisher(tmp_path).serving() as publisher:
        for number in range(2_000):
            await publisher.publish(stored(number))
        async with Listening(publisher) as listening:
            assert await listening.got(2_000) == list(range(2_000))
        assert 2 <= len(listening.reports) <= 20


# --- names ---

MODEL = ModelName("m")
FIRST = Stored(hashes=(11, 12), parent_hash=None, token_ids=(1, 2, 3, 4), lora="", salt="S")
KEYS = tuple(BlockHasher(2).chain(root_key(MODEL, salt="S"), np.array([1, 2, 3, 4, 5, 6], dtype=np.uint32)))


def test_blocks_get_the_keys_that_prompts_have():
    names = BlockNames(MODEL, block_size=2)
    after = Stored(hashes=(13,), parent_hash=12, token_ids=(5, 6), lora="", salt="")
    assert list(names.ours([FIRST, after])) == [
        BlocksStored(keys=KEYS[:2], parent=None),
        BlocksStored(keys=KEYS[2:], parent=KEYS[1]),
    ]
    assert list(names.ours([Removed((13, 99))])) == [BlocksRemoved(keys=(KEYS[2],))]
    assert len(names) == 2


def test_blocks_behind_an_unknown_block_are_counted_and_left_out():
    names = BlockNames(MODEL, block_size=2)
    assert list(names.ours([Stored(hashes=(5, 6), parent_hash=4, token_ids=(1, 2, 3, 4), lora="", salt="")])) == []
    assert (names.unplaced_blocks, len(names)) == (2, 0)


def test_a_cleared_cache_has_no_names():
    names = BlockNames(MODEL, block_size=2)
    assert list(names.ours([FIRST, BlocksCleared()]))[1:] == [BlocksCleared()]
    assert list(names.ours([Removed((11,))])) == []
