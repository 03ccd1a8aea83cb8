"""A console under a test: with a feed that says what the test says, and a clock that the test moves."""

import asyncio
from contextlib import asynccontextmanager

from tests.tui.feeds import answers, snapshot
from textual.widgets import Button, Input

from preble.daemon.errors import PrebleError
from preble.daemon.wire.accounts import KeyRow, PlannedChange, TenantRow
from preble.daemon.wire.console import NoEntry
from preble.daemon.wire.pins import PinRow
from preble.daemon.wire.settings import NO_LIMITS
from preble.tui.app import Console, Options
from preble.tui.desk import Desk
from preble.tui.widgets.confirm import Confirm

PATIENCE_S = 60.0
SMALL, LARGE = (80, 24), (160, 45)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Told:
    """Gives what it is told to give."""

    def __init__(self, *items) -> None:
        self._queue: asyncio.Queue = asyncio.Queue()
        for item in items:
            self._queue.put_nowait(item)

    def tell(self, *items) -> None:
        for item in items:
            self._queue.put_nowait(item)

    async def items(self):
        while True:
            yield await self._queue.get()


EFFECT = ("New requests go elsewhere.", "9 waiting move to gpu0, gpu1.")


class FakeClient:
    """Notes what it is asked for, and plans or does it."""

    def __init__(self) -> None:
        self.done: list[tuple] = []
        self.planned: list[tuple] = []
        self.pins: list[PinRow] = []
        self.fault: PrebleError | None = None
        self.effect = EFFECT
        self.entry: int | None = 41
        """The number of the next one in the audit."""
        self.audit_fault: NoEntry | None = None

    def _change(self, dry_run: bool, *what):
        if self.fault is not None:
            raise self.fault
        (self.planned if dry_run else self.done).append(what)
        before, after = {"draining": False, "version": 1}, {"draining": True, "version": 2}
        return (
            PlannedChange(action=what[0], target=str(what[1]), before=before, after=after, effect=self.effect)
            if dry_run
            else object()
        )

    def perform(self, change):
        change(self)
        if self.audit_fault is not None:
            raise self.audit_fault
        return self.entry

    def plan_gpu(self, gpu, order):
        return self._change(True, order, gpu)

    def order_gpu(self, gpu, order):
        return self._change(False, order, gpu)

    def order_template(self, key, order, reference, tenant, *, model=None, dry_run=False):
        return self._change(dry_run, order, key, reference, tenant, *([model] if model is not None else []))

    def template_pins(self, name, tenant=None):
        return [row for row in self.pins if row.name == name and tenant in (None, row.tenant)]

    def update_tenant(self, name, settings, *, dry_run=False):
        return self._change(dry_run, "change", name, settings)

    def revoke_key(self, key_id, *, dry_run=False):
        return self._change(dry_run, "revoke", key_id)

    def cancel_request(self, request_id, *, dry_run=False):
        return self._change(dry_run, "cancel", request_id)

    def tenant(self, name):
        return TenantRow(
            name=name, created_at="2026-11-01T00:00:00+00:00", version=3, weight=2.0, priority="interactive",
            isolation="private", suspended=False, salt_epoch=0, limits=NO_LIMITS, keys=1, requests=1, prompt_tokens=1,
            cached_tokens=0, output_tokens=1,
        )  # fmt: skip

    def keys(self, tenant):
        return [
            KeyRow(
                id="KEY1", tenant=tenant, name="app", last4="wxyz", scopes=["inference"], limits=NO_LIMITS,
                created_at="2026-11-01T00:00:00+00:00", expires_at=None, revoked_at=None, replaced_by=None, version=1,
            )
        ]  # fmt: skip


class Running:
    """A console that runs, and what drives it."""

    def __init__(self, console, pilot, clock, source, client) -> None:
        self.console, self.pilot, self.clock, self.source, self.client = console, pilot, clock, source, client

    @property
    def base(self):
        return self.console.base

    @property
    def table(self):
        return self.base.table

    @property
    def cursor(self):
        return self.table.rows.cursor

    async def settle(self) -> None:
        """Let workers and messages come to rest, then draw what is known."""
        await self.pilot.pause()
        self.console.draw()
        await self.pilot.pause()

    async def until(self, holds) -> None:
        """Wait for workers, however slow the machine is."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                await self.settle()
                await asyncio.sleep(0.01)

    async def press(self, *keys) -> None:
        await self.pilot.press(*keys)
        await self.settle()

    async def tell(self, *items) -> None:
        self.source.tell(*items)
        await self.settle()

    async def choose(self, key) -> None:
        """Put the cursor of the first table on a row."""
        assert self.table.put_on(key)
        await self.settle()

    def text(self) -> str:
        """All that can be read on the screen."""
        lines = self.console.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip) for strip in lines)


@asynccontextmanager
async def running(*items, size=(120, 36), can_write=False, with_client=False, **options):
    clock, source, client = Clock(), Told(*(items or (snapshot(),))), FakeClient()
    desk = Desk(client if with_client else None, answers())
    chosen = Options(can_write=can_write, **options)
    console = Console(source, desk, chosen, now=clock, draws_by_itself=False)
    async with console.run_test(size=size) as pilot:
        run = Running(console, pilot, clock, source, client)
        await run.until(lambda: console.state.snapshot is not None)
        await run.settle()
        yield run


# --- dialogs ---


def is_asking(run) -> bool:
    return isinstance(run.console.screen, Confirm)


async def planned(run) -> None:
    await run.until(lambda: is_asking(run) and run.console.screen.planned is not None)


async def confirm(run, name: str | None = None) -> None:
    """Type the name if it is asked for, and press the button that is not Cancel."""
    await planned(run)
    if name is not None:
        run.console.screen.query_one(Input).focus()
        await run.press(*name)
    run.console.screen.query_one("#do", Button).press()
    await run.until(lambda: not is_asking(run))
