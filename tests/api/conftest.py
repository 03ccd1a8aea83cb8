"""The routes are tested on the daemon's own kind of event loop: its transports differ from asyncio's."""

import httpx
import pytest
import uvloop
from tests.admin_app import open_admin_app
from tests.api.calling import Caller
from tests.api.documented import Documented
from tests.api.inference_app import open_client, open_house


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def house():
    async with open_house() as opened:
        yield opened


@pytest.fixture
async def client(house):
    async with open_client(house) as opened:
        yield opened


@pytest.fixture
async def admin(tmp_path):
    async with open_admin_app(tmp_path) as opened:
        yield opened


@pytest.fixture
async def anyone(admin):
    """Callers whose every answer has to be as documented."""
    app = Documented(admin.app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://preble") as client:
        yield client
    assert not app.faults


@pytest.fixture
async def operator(anyone, tmp_path):
    return Caller(anyone, (tmp_path / "operator.key").read_text().strip())


@pytest.fixture
async def tenant(anyone, tmp_path):
    return Caller(anyone, (tmp_path / "default.key").read_text().strip())
