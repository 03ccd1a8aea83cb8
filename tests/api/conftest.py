"""The routes are tested on the daemon's own kind of event loop: its transports differ from asyncio's."""

import pytest
import uvloop
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
