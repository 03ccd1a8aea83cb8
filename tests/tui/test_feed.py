"""Where events come from: a daemon that dies and comes back, recordings, and the simulated cluster."""

import asyncio
import sys

import msgspec
import pytest
from tests.tui.feeds import recording, request, snapshot, tick
from tests.tui.running import Clock, running

from preble.daemon.errors import ConfigError
from preble.daemon.wire.live import Snapshot
from preble.tui.desk import Desk
from preble.tui.feed import replay
from preble.tui.feed.live import LiveFeed
from preble.tui.feed.record import Recorder
from preble.tui.feed.replay import Demo, Replay, read_recording
from preble.tui.feed.source import write_line
from preble.tui.feed.sse import EventReader, TooLong
from preble.tui.state import ConsoleState, Freshness, Link

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
REFUSAL = b'{"error": {"message": "ten consoles are connected already"}}'


def sse(event) -> bytes:
    return b"id: %d\ndata: %s\n\n" % (event.sequence, msgspec.json.encode(event))


class Daemon:
    """Answers each connection with the next of its answers, then hangs up, unless it is to stay."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.stays = False
        self.heads: list[str] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer) -> None:
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        writer.write(self.answers.pop(0) if self.answers else HEAD)
        await writer.drain()
        if self.stays and not self.answers:
            await reader.read()
        writer.close()


@pytest.fixture
async def daemon():
    made = Daemon()
    await made.start()
    yield made
    await made.stop()


def feed_of(daemon: Daemon, **options) -> LiveFeed:
    return LiveFeed(f"http://127.0.0.1:{daemon.port}", "secret", waits_s=(0.01, 0.02), **options)


async def take(feed, count: int) -> list:
    taken = []
    async for item in feed.items():
        taken.append(item)
        if len(taken) == count:
            break
    return taken


async def test_it_goes_on_where_it_was_cut_off(daemon):
    daemon.answers = [HEAD + sse(snapshot()) + sse(tick(2)), HEAD + sse(tick(3))]
    items = await take(feed_of(daemon), 4)
    assert [getattr(item, "sequence", item) for item in items[:2]] == [1, 2]
    assert items[2].kind == "lost"
    assert items[2].reason == "the daemon has ended the feed"
    assert items[3].sequence == 3
    assert "authorization: bearer secret" in daemon.heads[0]
    assert "last-event-id" not in daemon.heads[0]
    assert "last-event-id: 2" in daemon.heads[1]


async def test_a_refusal_is_told_in_the_daemons_words(daemon):
    daemon.answers = [b"HTTP/1.1 503 no\r\ncontent-length: %d\r\n\r\n%s" % (len(REFUSAL), REFUSAL)]
    (item,) = await take(feed_of(daemon), 1)
    assert item.reason == "ten consoles are connected already"
    assert item.retry_at_s is not None


async def test_silence_is_loss(daemon):
    daemon.answers, daemon.stays = [HEAD + sse(snapshot())], True
    items = await take(feed_of(daemon, silence_s=0.2), 2)
    assert items[1].reason == "the feed has fallen silent"


async def test_nonsense_is_loss_and_the_next_try_asks_for_a_snapshot(daemon):
    daemon.answers = [HEAD + sse(snapshot()) + b"id: 2\ndata: {}\n\n", HEAD + sse(snapshot())]
    items = await take(feed_of(daemon), 3)
    assert "another version" in items[1].reason
    assert "last-event-id" not in daemon.heads[1]


async def test_nobody_there_is_tried_again_ever_later(daemon):
    await daemon.stop()
    clock = Clock()
    items = await take(LiveFeed(f"http://127.0.0.1:{daemon.port}", None, now=clock, waits_s=(0.01, 0.04)), 4)
    assert [round(item.retry_at_s - clock.now_s, 3) for item in items] == [0.01, 0.02, 0.04, 0.04]
    assert "no daemon answers" in items[0].reason
    await daemon.start()


async def test_a_console_survives_the_daemon(daemon):
    """It is killed and started again: the console keeps its data meanwhile, and says what happened."""
    daemon.answers, daemon.stays = [HEAD + sse(snapshot())], True
    feed = feed_of(daemon, silence_s=30)
    async with running(Link("connecting"), snapshot()) as run:

        async def pump() -> None:
            async for item in feed.items():
                run.source.tell(item)

        pumping = asyncio.create_task(pump())
        await run.until(lambda: daemon.heads)
        daemon.stays = False
        run.source.tell(Link("lost", "cut", None))
        await run.until(lambda: run.console.freshness is Freshness.LOST)
        assert run.console.view.gpus
        daemon.answers = [HEAD + sse(snapshot(boot_id="boot-b"))]
        run.source.tell(snapshot(boot_id="boot-b"))
        await run.until(lambda: run.console.state.restarted_s is not None)
        await run.settle()
        assert "daemon restarted" in run.text()
        pumping.cancel()


def test_events_come_whole_however_they_are_cut():
    whole = b": hello\n\n" + sse(snapshot()) + b"event: x\r\nid: 7\r\ndata: one\r\ndata: two\r\n\r\n"
    for size in (1, 7, 4096, len(whole)):
        reader = EventReader()
        events = [event for start in range(0, len(whole), size) for event in reader.feed(whole[start : start + size])]
        assert [event.id for event in events] == ["1", "7"]
        assert isinstance(msgspec.json.decode(events[0].data, type=Snapshot), Snapshot)
        assert events[1].data == b"one\ntwo"


def test_an_event_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr("preble.tui.feed.sse.MOST_BYTES", 100)
    reader = EventReader()
    with pytest.raises(TooLong):
        list(reader.feed(b"data: " + b"x" * 200))


async def test_what_is_recorded_can_be_played(tmp_path):
    path, clock = tmp_path / "feed.jsonl", Clock()
    recorder = Recorder(path, now=clock)
    recorder.event(snapshot())
    clock.now_s += 0.5
    recorder.event(tick(2, requests=[request(99)]))
    recorder.answer("explain/x", {"a": 1})
    recorder.close()
    assert path.stat().st_mode & 0o777 == 0o600
    lines = read_recording(path)
    assert [line.at_s for line in lines] == [0.0, 0.5, 0.5]
    replay = Replay(lines, speed=0)
    assert msgspec.json.decode(replay.answers["explain/x"]) == {"a": 1}
    state = ConsoleState()
    items = [item async for item in replay.items()]
    for item in items[:2]:
        state.fold(item, 0.0)
    assert "req-00099" in state.requests
    assert items[2].kind == "ended"
    with pytest.raises(ConfigError, match="cannot be written"):
        Recorder(path)


def test_a_recording_that_was_cut_off_is_played_as_far_as_it_goes(tmp_path):
    path = tmp_path / "feed.jsonl"
    whole = b"".join(write_line(line) + b"\n" for line in recording())
    path.write_bytes(whole[:-20])
    assert len(read_recording(path)) == len(recording()) - 1
    path.write_bytes(b"nonsense\n" + whole)
    with pytest.raises(ConfigError, match="line 1"):
        read_recording(path)
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match="no events"):
        read_recording(path)


async def test_a_full_recording_ends_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("preble.tui.feed.record.MOST_BYTES", 10)
    recorder = Recorder(tmp_path / "feed.jsonl")
    recorder.event(snapshot())
    assert "nothing more is recorded" in recorder.fault
    recorder.close()


async def test_the_demo_is_the_simulators_own(tmp_path):
    command = (sys.executable, "-m", "preble.daemon.cli.main", "demo-feed", "--seconds", "3", "--at-once")
    heard = []
    items = [item async for item in Demo(command, on_event=heard.append).items()]
    assert isinstance(items[0], Snapshot)
    assert len(heard) == len(items) - 1 > 3
    assert items[-1].kind == "lost"


async def test_a_demo_that_fails_says_why():
    items = [item async for item in Demo((sys.executable, "-c", "import sys; sys.exit('no such thing')")).items()]
    assert "no such thing" in items[0].reason


async def test_two_thousand_requests_a_second_are_kept_up_with():
    """A minute of them at once: all are counted, what is shown is bounded, and drawing costs one screenful."""
    async with running() as run:
        await run.press("6")
        for second in range(60):
            rows = [request(second * 2000 + number) for number in range(2000)]
            run.source.tell(tick(second + 2, requests=rows, dropped_requests=10))
        await run.until(lambda: run.console.state.sequence == 61)
        await run.settle()
        state = run.console.state
        assert len(state.requests) == len(run.table.rows.shown) == 2000
        assert state.request_changes == 60 + 120_000
        assert state.dropped_requests == 600
        assert run.cursor == "req-119999"
        assert "not told 600" in run.text()


async def test_of_a_demo_so_many_answers_are_kept_and_the_first_are_forgotten(monkeypatch):
    monkeypatch.setattr(replay, "_MOST_ANSWERS", 3)
    demo = Demo()
    for asked in ("a", "b", "c", "a", "d"):
        demo._answer(asked, msgspec.Raw(b"1"))
    assert list(demo.answers) == ["c", "a", "d"]


async def test_what_a_demo_answers_is_recorded_too():
    told = []
    demo = Demo()
    demo._answer("prefixes//", msgspec.Raw(b'{"rows": [], "total": 0, "next": null}'))
    await Desk(None, demo.answers, lambda asked, answer: told.append((asked, answer.total))).prefixes(None, None)
    assert told == [("prefixes//", 0)]
