"""The console on the real admin routes, over a real socket."""

import pytest
from tests.cli.running import serving
from tests.tui.feeds import snapshot
from tests.tui.running import Clock, Running, Told
from textual.widgets import Button, Input

from preble.daemon.config import LiveConfig
from preble.daemon.wire.console import ConsoleClient, NoEntry
from preble.daemon.wire.live import Snapshot, TemplateKey, Tick
from preble.daemon.wire.templates import TemplateCreate
from preble.tui.actions import order_gpu, order_template, revoke_key
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
            [entry] = [row for row in client.changes() if "drain" in row.action]
            assert entry.target == gpu
            assert run.base.note == f"Drain {gpu}: done; audit entry {entry.number}"
            await run.press("3")
            await run.until(lambda: run.base.NAME == "tree" and not run.base._is_fetching)
            assert run.base.fault == ""


async def test_dialogs_say_what_the_daemon_says_of_a_key_and_of_a_pin(tmp_path):
    key = TemplateKey(owner="default", name="a", version=1)
    with serving(tmp_path) as daemon, ConsoleClient(daemon.url, daemon.key("operator")) as client:
        client.register_template(TemplateCreate(name="a", text="abcdefghij" * 20), "default")
        [made] = client.keys("default")
        feed, options = Told(snapshot()), Options(can_write=True)
        console = Console(feed, Desk(client), options, now=Clock(), draws_by_itself=False)
        async with console.run_test(size=(160, 45)) as pilot:
            run = Running(console, pilot, None, None, None)
            await run.until(lambda: console.freshness is Freshness.LIVE)
            for change, says in (
                (
                    revoke_key(made.id, lambda: True),
                    f"It is a key of default named {made.name!r}: preble_live_{made.id}",
                ),
                (order_template("pin", key, "1", "default", lambda: True), "200 tokens (50 blocks) are kept on gpu0."),
            ):
                console.confirm(change)
                await run.until(lambda says=says: says.split(":")[0] in run.text())
                await run.press("escape")


def test_a_change_is_told_with_its_own_entry_of_the_audit_and_without_one_if_it_changed_nothing(tmp_path):
    with serving(tmp_path) as daemon, ConsoleClient(daemon.url, daemon.key("operator")) as client:
        made = client.create_key(None, {"scopes": ["admin:write"]})
        numbers = [client.perform(lambda one, gpu=gpu: one.order_gpu(gpu, "drain")) for gpu in ("cpu0", "cpu1")]
        drained = [row for row in client.changes() if row.action == "gpu.drain"]
        assert {row.number: row.target for row in drained} == dict(zip(numbers, ("cpu0", "cpu1"), strict=True))
        client.revoke_key(made.id)
        assert client.perform(lambda one: one.revoke_key(made.id)) is None


def test_a_change_whose_entry_cannot_be_read_was_made(tmp_path):
    with serving(tmp_path) as daemon, ConsoleClient(daemon.url, daemon.key("operator")) as operator:
        made = operator.create_key(None, {"scopes": ["admin:write"]})
        with ConsoleClient(daemon.url, made.key) as client, pytest.raises(NoEntry, match="admin:read"):
            client.perform(lambda one: one.order_gpu("cpu0", "drain"))
        assert [row.target for row in operator.changes() if row.actor == made.id] == ["cpu0"]


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
