"""The console on the real admin routes, over a real socket."""

from tests.cli.running import serving
from tests.tui.running import Running
from textual.widgets import Button, Input

from preble.daemon.config import LiveConfig
from preble.daemon.wire.console import ConsoleClient
from preble.daemon.wire.live import Snapshot, Tick
from preble.tui.actions import order_gpu
from preble.tui.app import Console, Options
from preble.tui.desk import Desk
from preble.tui.feed.live import LiveFeed
from preble.tui.state import Freshness
from preble.tui.widgets.confirm import Confirm


async def test_a_gpu_is_drained(tmp_path):
    with serving(tmp_path) as daemon, ConsoleClient(daemon.url, daemon.key("operator")) as client:
        feed = LiveFeed(daemon.url, daemon.key("operator"), waits_s=(0.05, 0.1))
        console = Console(feed, Desk(client), Options(can_write=True), draws_by_itself=False)
        async with console.run_test(size=(120, 36)) as pilot:
            run = Running(console, pilot, None, None, None)
            await run.until(lambda: console.freshness is Freshness.LIVE)
            gpu = client.gpus()[0].gpu
            console.confirm(order_gpu("drain", gpu, lambda: True))  # this daemon's feed tells of no engines
            await run.until(lambda: isinstance(console.screen, Confirm) and console.screen.planned is not None)
            console.screen.query_one(Input).focus()
            await run.press(*gpu)
            console.screen.query_one("#do", Button).press()
            await run.until(lambda: not isinstance(console.screen, Confirm))
            assert "done" in run.base.note
            assert [row.target for row in client.changes() if "drain" in row.action] == [gpu]
            await run.press("3")
            await run.until(lambda: run.base.NAME == "tree" and not run.base._is_fetching)
            assert run.base.fault == ""


async def test_a_wrong_key_is_told_and_ends_nothing(tmp_path):
    with serving(tmp_path) as daemon:
        feed = LiveFeed(daemon.url, None, waits_s=(0.05, 0.1))
        console = Console(feed, Desk(None), draws_by_itself=False)
        async with console.run_test() as pilot:
            run = Running(console, pilot, None, None, None)
            await run.until(lambda: console.freshness is Freshness.LOST)
            assert "key" in run.text()


async def test_the_tenth_console_works_and_the_eleventh_is_told_why_not_and_comes_when_one_leaves(tmp_path):
    with serving(tmp_path, LiveConfig()) as daemon:
        key, waits_s = daemon.key("operator"), (0.05, 0.1)
        feeds = [LiveFeed(daemon.url, key, waits_s=waits_s).items() for _ in range(10)]
        for feed in feeds:
            assert isinstance(await anext(feed), Snapshot)
        console = Console(LiveFeed(daemon.url, key, waits_s=waits_s), Desk(None), draws_by_itself=False)
        async with console.run_test() as pilot:
            run = Running(console, pilot, None, None, None)
            await run.until(lambda: console.freshness is Freshness.LOST)
            assert "There are 10 consoles already; live.max_consoles allows no more." in run.text()
            assert isinstance(await anext(feeds[-1]), Tick)
            await feeds.pop().aclose()
            await run.until(lambda: console.freshness is Freshness.LIVE)
        for feed in feeds:
            await feed.aclose()
