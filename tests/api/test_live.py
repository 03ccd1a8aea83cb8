"""`GET /admin/v1/live`, over the daemon's own server."""

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager, closing
from time import monotonic

import httpx
import msgspec
import pytest
from tests.admin_app import open_admin_app
from tests.api.documented import Documented
from tests.api.inference_app import DEADLINE_S, problem, until
from tests.core import spec

from preble.daemon.api.server import make_server
from preble.daemon.config import ServerConfig
from preble.daemon.wire.client import AdminClient
from preble.daemon.wire.live import LiveEvent, Snapshot, Tick

PATH = "/admin/v1/live"


class Served:
    """The admin routes on a free port, and an operator in front of them."""

    def __init__(self, admin, server, serving, client, key) -> None:
        self.admin = admin
        self.server = server
        self.serving = serving
        self.port = server.servers[0].sockets[0].getsockname()[1]
        self.client = client
        self.key = key

    @asynccontextmanager
    async def console(self, **request):
        """Events as they come."""
        async with self.client.stream("GET", PATH, **request) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            yield events_of(response)

    async def stop(self) -> float:
        """As `preble serve` does; how long the server took, in seconds."""
        began_s = monotonic()
        self.admin.feed.close()
        self.server.should_exit = True
        await self.serving
        return monotonic() - began_s


async def events_of(response):
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield msgspec.json.decode(line.removeprefix("data: "), type=LiveEvent)


async def all_of(events):
    return [event async for event in events]


@pytest.fixture
async def served(tmp_path):
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(open_admin_app(tmp_path))
        documented = Documented(admin.app)
        server = make_server(documented, ServerConfig(host="127.0.0.1", port=0))
        serving = asyncio.create_task(server.serve())
        await until(lambda: server.started or serving.done())
        port = server.servers[0].sockets[0].getsockname()[1]
        key = (tmp_path / "operator.key").read_text().strip()
        client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {key}"},
            timeout=DEADLINE_S,
            trust_env=False,
        )
        await stack.enter_async_context(client)
        yield Served(admin, server, serving, client, key)
        admin.feed.close()
        server.should_exit = True
        async with asyncio.timeout(DEADLINE_S):
            await serving
        assert not documented.faults


async def test_a_snapshot_then_ticks_that_tell_of_what_happens(served):
    async with served.console() as events:
        first = await anext(events)
        assert isinstance(first, Snapshot)
        assert [tenant.tenant for tenant in first.tenants] == ["default"]
        served.admin.runtime.submit(spec("req_1", "abcdefgh", tenant="default"), lambda _: None)
        number = first.sequence
        while True:
            tick = await anext(events)
            assert isinstance(tick, Tick)
            assert tick.sequence == (number := number + 1)
            if tick.requests:
                break
    assert [(row.request_id, row.state, row.tenant) for row in tick.requests] == [("req_1", "running", "default")]


@pytest.mark.parametrize("how", ["header", "query"])
async def test_who_was_cut_off_goes_on_where_it_was(served, how):
    async with served.console() as events:
        first = await anext(events)
    known = str(first.sequence)
    await asyncio.sleep(0.3)
    more = {"headers": {"last-event-id": known}} if how == "header" else {"params": {"after": known}}
    async with served.console(**more) as events:
        tick = await anext(events)
        assert (type(tick), tick.sequence) == (Tick, first.sequence + 1)


@pytest.mark.parametrize("known", ["0", "17", "nonsense", "-1", "9" * 30, ""])
async def test_who_knows_nothing_of_this_start_gets_a_snapshot(served, known):
    async with served.console(headers={"last-event-id": known}) as events:
        assert isinstance(await anext(events), Snapshot)


async def test_one_console_too_many_is_refused_with_when_to_come_back(served):
    async with AsyncExitStack() as stack:
        for _ in range(3):
            events = await stack.enter_async_context(served.console())
            await anext(events)
        refused = await served.client.get(PATH)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert problem(refused)["code"] == "too_many_consoles"
    await until(lambda: served.admin.feed._consoles == 0)
    async with served.console() as events:
        await anext(events)


async def test_it_takes_an_operators_key(served, tmp_path):
    tenants = {"authorization": f"Bearer {(tmp_path / 'default.key').read_text().strip()}"}
    assert (await served.client.get(PATH, headers=tenants)).status_code == 403
    assert (await served.client.get(PATH, headers={"authorization": "Bearer x"})).status_code == 401
    assert (await served.client.get(PATH, params={"after": "x"})).status_code == 400


async def test_the_end_of_the_daemon_ends_streams_at_once_also_of_who_does_not_read(served):
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.setblocking(False)
    await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", served.port))
    reader, writer = await asyncio.open_connection(sock=narrow)
    head = f"GET {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {served.key}\r\n\r\n"
    writer.write(head.encode())
    reader._transport.pause_reading()  # it never reads a byte
    for number in range(100):  # so much that buffers do not hold what is told of it
        served.admin.runtime.submit(spec(f"req_{number}", "abcdefgh", tenant="x" * 100_000), lambda _: None)
    async with served.console() as events:
        await anext(events)
        await until(lambda: any(each.flow.write_paused for each in served.server.server_state.connections))
        rest = asyncio.create_task(all_of(events))
        took_s = await served.stop()
        assert all(isinstance(event, Tick) for event in await rest)  # and the stream has an end
    writer.close()
    assert took_s < 10  # and not `drain_timeout_s`, 30


async def test_a_command_reads_it_too(served):
    def read():
        with AdminClient(f"http://127.0.0.1:{served.port}", served.key) as client, closing(client.live()) as events:
            return [next(events) for _ in range(3)]

    snapshot, *ticks = await asyncio.to_thread(read)
    assert isinstance(snapshot, Snapshot)
    assert all(isinstance(tick, Tick) for tick in ticks)
