"""What the machine's host does when nothing happens."""

import asyncio

import msgspec
from tests.core import CONFIG, MODEL, spec, up

from preble.daemon.flow.events import Failed
from preble.daemon.flow.machine import Machine
from preble.daemon.flow.runtime import Runtime

WINDOW_S = 0.2
DEADLINE_S = 10.0


async def test_the_window_passes_though_nothing_happens():
    machine = Machine(msgspec.structs.replace(CONFIG, window_s=WINDOW_S))
    runtime = Runtime(machine, on_step_s=lambda _: None)
    runtime.post(up("a"))
    async with runtime.upkeep():
        ticket = runtime.submit(spec("r1", "x" * 40), on_abort=lambda _: None)
        dispatch = await ticket.dispatched()
        runtime.post(Failed(attempt_id=dispatch.attempt_id, retry=False))
        assert machine.indexed_blocks(MODEL) == 10, "its use in the window is all that keeps them"
        async with asyncio.timeout(DEADLINE_S):
            while machine.indexed_blocks(MODEL):  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "it goes on without its host"
