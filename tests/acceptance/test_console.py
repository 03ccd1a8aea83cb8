"""The console on real engines: an operator's walk through it, and a daemon that is killed and comes back under it."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count

import httpx
import openai
import psutil
import pytest
from tests.acceptance.conftest import MODEL, start_daemon, wait_for
from tests.tui.running import PATIENCE_S, Running
from textual.widgets import Button, Input

from preble.daemon.wire.console import ConsoleClient
from preble.daemon.wire.live import TemplateKey
from preble.daemon.wire.pins import WarmUp
from preble.tui.app import Console, Options
from preble.tui.desk import Desk
from preble.tui.feed.live import LiveFeed
from preble.tui.state import Freshness
from preble.tui.widgets.choose import Choose
from preble.tui.widgets.confirm import Confirm

pytestmark = [pytest.mark.engines, pytest.mark.timeout(240)]

TENANTS = ("reports", "agents")
MOVED_REQUESTS = 10


@asynccontextmanager
async def watching(url, key):
    """The console as an operator has it, with `--write`."""
    with ConsoleClient(url, key) as client:
        feed = LiveFeed(url, key, waits_s=(0.1, 0.5))
        console = Console(feed, Desk(client), Options(can_write=True), draws_by_itself=False)
        async with console.run_test(size=(160, 48)) as pilot:
            run = Running(console, pilot, None, None, None)
            await run.until(lambda: console.freshness is Freshness.LIVE and len(console.state.gpus) == 2)
            yield run


@contextmanager
def load(daemon):
    """Two tenants that each ask again and again behind a prefix of their own, and now and then about something new."""
    over = threading.Event()
    keys = []
    for tenant in TENANTS:
        daemon.cli("tenant", "create", tenant)
        keys.append(json.loads(daemon.cli("key", "create", tenant, "--json").stdout)["key"])

    def ask(tenant, key):
        sdk = daemon.sdk().with_options(api_key=key)
        for number in count():
            if over.is_set():
                return
            begins = f"{tenant} says " * 60 if number % 3 else f"{number} of {tenant}, which is new " * 20
            with suppress(openai.APIError):
                sdk.completions.create(model=MODEL, prompt=f"{begins}{number}", max_tokens=8)

    with ThreadPoolExecutor(len(TENANTS)) as clients:
        asked = [clients.submit(ask, *pair) for pair in zip(TENANTS, keys, strict=True)]
        try:
            yield
        finally:
            over.set()
            for client in asked:
                client.result(90)


async def confirmed(run, key, gpu):
    """Press a key that changes something, read what would follow, and do it."""
    await run.press(key)
    await agreed(run, gpu)


async def agreed(run, gpu=""):
    """Read what would follow, and do it."""
    await run.until(lambda: isinstance(run.console.screen, Confirm) and run.console.screen.planned is not None)
    dialog = run.console.screen
    assert run.console.focused.id == "cancel"
    if dialog.change.is_worst:
        assert dialog.query_one("#do", Button).disabled
        dialog.query_one(Input).focus()
        await run.press(*gpu)
    async with asyncio.timeout(PATIENCE_S):
        while run.console.screen is dialog:  # it asks again if by now something else would come of it
            dialog.query_one("#do", Button).focus()
            await run.press("enter")
            await run.until(lambda: run.console.screen is not dialog or not dialog._is_busy)
    assert "done; audit entry" in run.base.note


async def new_requests(run, holds):
    """Wait for so many requests that came after now, by the GPUs where they were placed."""
    before = set(run.console.state.requests)

    def gpus():
        rows = run.console.state.requests
        return [row.gpu for name, row in rows.items() if name not in before and row.gpu is not None]

    await run.until(lambda: holds(gpus()))
    return gpus()


async def test_an_operator_finds_the_gpu_that_is_slow_and_takes_it_out(daemon):
    with load(daemon):
        async with watching(daemon.url, daemon.key("operator")) as run:
            console = run.console
            await new_requests(run, lambda gpus: len(gpus) >= MOVED_REQUESTS)
            await run.until(lambda: any(row.load_ms for row in console.state.gpus.values()))

            await run.press("2")
            await run.until(lambda: run.base.NAME == "gpus")
            await run.press("space")  # hold it: loads go on changing
            ids = [column.id for column in run.table.rows.columns]
            await run.press("s", *["down"] * ids.index("load"), "enter", "g")
            loads = [row.load_ms for row in run.table.rows.shown]
            if loads != sorted(loads, reverse=True):
                await run.press("s", *["down"] * ids.index("load"), "enter", "g")
            slow = run.cursor
            assert slow == max(console.view.gpus.values(), key=lambda row: row.load_ms).gpu
            await run.press("space")
            assert run.cursor == slow
            [other] = set(console.state.gpus) - {slow}

            await explain_one(run, slow, other)
            await run.press("2")
            await run.until(lambda: run.base.NAME == "gpus")
            assert run.cursor == slow
            await confirmed(run, "D", slow)
            try:
                await run.until(lambda: console.state.gpus[slow].draining)
                moved = await new_requests(run, lambda gpus: len(gpus) >= MOVED_REQUESTS)
                assert set(moved) == {other}
                await run.press("6")
                await run.until(lambda: run.base.NAME == "requests" and run.table.rows.shown)
                assert {row.gpu for row in run.table.rows.shown[:MOVED_REQUESTS]} <= {other, None}

                await run.press("2")
                await run.until(lambda: run.base.NAME == "gpus")
                await run.choose(slow)
                await confirmed(run, "U", slow)
            finally:
                daemon.cli("gpu", "undrain", slow)
            await run.until(lambda: not console.state.gpus[slow].draining)
            await new_requests(run, lambda gpus: slow in gpus)
            with ConsoleClient(daemon.url, daemon.key("operator")) as client:
                orders = [row.action for row in client.changes() if row.target == slow]
            assert {"gpu.drain", "gpu.undrain"} <= set(orders)


async def explain_one(run, gpu, other):
    """From the GPU to one of the decisions that chose it: what each candidate cost, and what would be without it."""
    await run.press("e")
    await run.until(lambda: run.base.NAME == "decisions" and run.base.explanation is not None)
    await run.until(lambda: run.base.explanation.gpu == gpu and run.base.explanation.actual is not None)
    told = run.base.explanation
    assert {row.gpu for row in told.candidates} == {gpu, other}
    for shown in (told.request_id, "L ms", "M ms", "P ms", "◀ chosen", "what happened"):
        await run.until(lambda: shown in run.text())  # noqa: B023 (it is awaited here)
    await run.press("w")
    await run.until(lambda: run.base.what_if is not None)
    without, instead = run.base.what_if
    assert (without, instead.gpu) == ([gpu], other)


OWN = TemplateKey(owner="writers", name="letters", version=1)
OPERATORS = TemplateKey(owner=None, name="letters", version=1)


@pytest.fixture(scope="module")
def letters(daemon, tmp_path_factory):
    """A tenant's template and the operator's of the same name, both used once."""
    file = tmp_path_factory.mktemp("letters") / "letters.json"
    for tenant in ("writers", "readers"):
        daemon.cli("tenant", "create", tenant)
    for whose, tenant, options in (("writers'", "writers", ("--tenant", "writers")), ("operator's", "default", ())):
        rules = {"role": "system", "content": f"These are the {whose} rules for letters to shops. " * 12}
        file.write_text(json.dumps({"messages": [rules, {"role": "user", "content": "{{letter}}"}]}))
        daemon.cli("template", "register", str(file), *options)
        key = json.loads(daemon.cli("key", "create", tenant, "--json").stdout)["key"]
        use = {"template": {"name": "letters", "variables": {"letter": "It broke."}}}
        sdk = daemon.sdk().with_options(api_key=key)
        sdk.chat.completions.create(model=MODEL, messages=[], max_tokens=2, extra_body=use)


async def ordered(run, key, tenant):
    """Press a key on a template, name the tenant if the console asks for one, and agree."""
    await run.press(key)
    await run.until(lambda: run.console.screen is not run.base)
    if isinstance(run.console.screen, Choose):
        options = run.console.focused.options
        places = [place for place, option in enumerate(options) if tenant in str(option.prompt).split()]
        assert len(places) == 1
        await run.press(*["down"] * places[0], "enter")
    await run.until(lambda: f"--tenant {tenant}" in run.text())
    await agreed(run)


@pytest.mark.parametrize(("key", "tenant"), [(OWN, "writers"), (OPERATORS, "readers")])
async def test_an_operator_has_templates_warmed_and_kept_warm(daemon, letters, key, tenant):
    async with watching(daemon.url, daemon.key("operator")) as run:
        shown = run.console.state.templates
        with ConsoleClient(daemon.url, daemon.key("operator")) as client:

            def reported():
                rows = client.warm_template(key.name, WarmUp(gpus="all"), tenant, dry_run=True).rows
                return {row.gpu for row in rows if row.state == "warm"}

            def row():
                return run.console.state.templates.get(key)

            await run.press("5")
            await run.until(lambda: run.base.NAME == "templates" and row() is not None)
            assert {other for other in shown if other.name == key.name} == {OWN, OPERATORS}
            await run.choose(key)
            before = reported()
            await ordered(run, "W", tenant)
            [gpu] = reported()
            assert before in (set(), {gpu})
            await run.until(lambda: row().states.get(gpu) == "warm")

            await ordered(run, "P", tenant)
            await run.until(lambda: row().pinned and row().states.get(gpu) == "warm")
            [pin] = client.template_pins(key.name, tenant)
            assert (pin.owner, pin.tenant, pin.reference) == (key.owner, tenant, "1")
            assert row().states == {place.gpu: place.state for place in pin.places}
            assert {place.gpu for place in pin.places if place.state == "warm"} == reported() == {gpu}
            assert run.cursor == key

            await ordered(run, "U", tenant)
            await run.until(lambda: not row().pinned)
            assert client.template_pins(key.name, tenant) == []
            await run.until(lambda: row().states.get(gpu) == "warm")
            orders = [row.action for row in client.changes() if (row.target, row.tenant) == (key.name, tenant)]
            assert orders[:3] == ["template.unpin", "template.pin", "template.warm"]


@pytest.fixture
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("k")


def listening(daemon):
    """Wait until it answers; its engines may take longer."""

    def answers():
        assert daemon.process.poll() is None, (daemon.folder / "daemon.log").read_text()[-3000:]
        with suppress(httpx.HTTPError):
            return httpx.get(f"{daemon.url}/health/live", timeout=5).status_code == 200

    wait_for(answers, 60, "the daemon to listen")


def kill(daemon):
    """As the kernel would; its engines see to their own end."""
    below = [psutil.Process(pid) for pid in daemon.engine_pids()]
    daemon.process.kill()
    daemon.process.wait()
    psutil.wait_procs(below, timeout=30)


async def test_a_daemon_that_is_killed_and_comes_back_under_the_console(folder, demo_model):
    daemon = start_daemon(folder, demo=demo_model)
    try:
        listening(daemon)
        async with watching(daemon.url, daemon.key("operator")) as run:
            await run.press("2")
            await run.until(lambda: run.base.NAME == "gpus")
            await run.choose("cpu1")
            first = run.console.state.snapshot.boot_id
            kill(daemon)
            await run.until(lambda: run.console.freshness is Freshness.LOST)
            await run.until(lambda: "✕ LOST, retry in" in run.text())
            assert "cpu1" in run.text()
            await run.press("D")
            assert not isinstance(run.console.screen, Confirm)
            assert "not while the data is LOST" in run.base.note

            daemon = start_daemon(folder, port=daemon.port)
            await run.until(lambda: run.console.freshness is Freshness.LIVE)
            assert run.console.state.snapshot.boot_id != first
            await run.until(lambda: "daemon restarted" in run.text())
            assert run.cursor == "cpu1"
            await run.press("D")
            await run.until(lambda: isinstance(run.console.screen, Confirm))
            await run.press("escape")
    finally:
        daemon.stop()
