"""The feed: one encoding for all consoles, resuming, and consoles that do not read."""

import asyncio
from time import monotonic

import msgspec
import pytest
from tests.obs.live.hosts import Told

from preble.daemon.config import LiveConfig
from preble.daemon.errors import Unavailable
from preble.daemon.obs.live import feed as feed_module
from preble.daemon.obs.live.feed import LiveFeed
from preble.daemon.wire.live import LiveEvent, Snapshot, Tick

CONFIG = LiveConfig(interval_ms=100, ticks_kept=3, max_consoles=2)


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def decoded(event: bytes):
    number, kind, data = event.decode().strip().split("\n")
    value = msgspec.json.decode(data.removeprefix("data: "), type=LiveEvent)
    assert number == f"id: {value.sequence}"
    assert kind == f"event: {type(value).__name__.lower()}"
    return value


class Opened:
    """A feed whose ticks are made by hand."""

    def __init__(self, config=CONFIG):
        self.told = Told("a", live=config)
        self.clock = Clock()
        self.feed = LiveFeed(self.told.board, config, self.clock)

    def tick(self, passed_s=0.5):
        self.clock.now_s += passed_s
        self.told.now_s = self.clock.now_s
        self.feed._advance()

    async def attach(self, after=None):
        console = self.feed.attach(after)
        return console, decoded(await anext(console))


async def test_a_snapshot_then_ticks_without_a_gap():
    opened = Opened()
    console, first = await opened.attach()
    assert isinstance(first, Snapshot)
    for number in range(1, 4):
        opened.tick()
        tick = decoded(await anext(console))
        assert isinstance(tick, Tick)
        assert tick.sequence == first.sequence + number


async def test_who_comes_back_soon_gets_the_ticks_since_and_else_a_snapshot():
    opened = Opened()
    console, first = await opened.attach()
    await console.aclose()
    for _ in range(3):
        opened.tick()
    _, event = await opened.attach(after=first.sequence)
    assert (type(event), event.sequence) == (Tick, first.sequence + 1)
    opened.tick()
    _, event = await opened.attach(after=first.sequence)  # of which the next is not kept any more
    assert isinstance(event, Snapshot)


@pytest.mark.parametrize("after", [0, 1, 2**53])
async def test_a_number_of_another_start_gets_a_snapshot(after):
    opened = Opened()
    _, event = await opened.attach(after)
    assert isinstance(event, Snapshot)


async def test_a_console_that_does_not_read_gets_a_snapshot_and_holds_nothing():
    opened = Opened()
    slow, first = await opened.attach()
    for _ in range(50):
        opened.tick()
    assert len(opened.feed._ticks) == 3
    event = decoded(await anext(slow))
    assert isinstance(event, Snapshot)
    assert event.sequence == first.sequence + 50


async def test_one_console_too_many_is_told_when_to_come_back_and_may_when_one_has_left():
    opened = Opened()
    consoles = [await opened.attach() for _ in range(2)]
    with pytest.raises(Unavailable) as refused:
        opened.feed.attach(None)
    assert (refused.value.code, refused.value.retry_after_s) == ("too_many_consoles", 5.0)
    await consoles[0][0].aclose()
    await opened.attach()


async def test_nothing_is_made_for_nobody_once_the_last_has_been_gone_for_a_while():
    opened = Opened()
    opened.tick()
    assert not opened.feed._ticks
    console, _ = await opened.attach()
    opened.tick()
    await console.aclose()
    opened.tick()
    assert len(opened.feed._ticks) == 2
    opened.tick(61.0)
    assert not opened.feed._ticks
    assert not opened.told.board.watched


async def test_all_consoles_get_the_same_bytes():
    opened = Opened()
    consoles = [(await opened.attach())[0] for _ in range(2)]
    opened.tick()
    one, other = [await anext(console) for console in consoles]
    assert one is other


async def test_the_end_of_the_feed_ends_every_stream_and_lets_none_begin():
    opened = Opened()
    console, _ = await opened.attach()
    waiting = asyncio.create_task(anext(console, None))
    await asyncio.sleep(0)
    opened.feed.close()
    assert await waiting is None
    with pytest.raises(Unavailable):
        opened.feed.attach(None)


async def test_silence_is_broken_by_a_comment(monkeypatch):
    monkeypatch.setattr(feed_module, "_HEARTBEAT_S", 0.01)
    opened = Opened()
    console, _ = await opened.attach()
    assert await anext(console) == b": still here\n\n"


async def test_a_fault_in_what_is_told_does_not_end_the_feed(monkeypatch):
    opened = Opened()
    monkeypatch.setattr(opened.told, "failures", lambda: 1 / 0)
    running = asyncio.create_task(opened.feed.run())
    console, _ = await opened.attach()
    await asyncio.sleep(0.35)
    monkeypatch.undo()
    assert opened.feed._faults.total > 0
    assert isinstance(decoded(await anext(console)), Tick)
    opened.feed.close()
    await running


async def test_two_thousand_requests_a_second_are_told_of_as_far_as_there_is_room():
    """Ten seconds of them: what a tick tells is bounded, the rest is counted, and nothing piles up."""
    opened = Opened(LiveConfig(requests_per_tick=200, ticks_kept=10))
    console, _ = await opened.attach()
    began_s, told_of, dropped = monotonic(), 0, 0
    for tick in range(20):
        for number in range(1000):
            name = f"r{tick}.{number}"
            decision = opened.told.arrive(name, "abcdefgh")
            opened.told.end(name, ttft_ms=float(number))
            opened.told(finished(decision))
        opened.tick()
        event = decoded(await anext(console))
        assert len(event.requests) <= 200
        told_of, dropped = told_of + len(event.requests), dropped + event.dropped_requests
    assert told_of == 20 * 200
    assert dropped >= 20 * 800
    assert event.traffic.arrived_per_s == pytest.approx(2000, rel=0.01)
    print(f"{20_000 / (monotonic() - began_s):.0f} requests a second")


def finished(decision):
    from preble.daemon.flow.events import Finished

    return Finished(attempt_id=decision.attempt_id, output_tokens=3)
