"""The routes are tested on the daemon's own kind of event loop: its transports differ from asyncio's."""

import uvloop


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}
