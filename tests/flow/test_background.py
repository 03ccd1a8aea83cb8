"""What goes on while a block runs."""

import asyncio

import pytest
from structlog.testing import capture_logs

from preble.daemon.background import alongside

DEADLINE_S = 10.0


async def for_ever():
    await asyncio.Event().wait()


async def test_the_work_ends_with_the_block():
    ended = asyncio.Event()

    async def work():
        try:
            await for_ever()
        finally:
            await asyncio.sleep(0)
            ended.set()

    with capture_logs() as logs:
        async with asyncio.timeout(DEADLINE_S), alongside(work()):
            await asyncio.sleep(0)
        assert ended.is_set(), "the block's end waits for that of the work"
        await asyncio.sleep(0)
    assert logs == []


async def test_the_work_ends_with_a_block_that_fails():
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(DEADLINE_S), alongside(for_ever()):
            raise ZeroDivisionError
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_error_in_the_work_is_told_at_once_and_the_block_goes_on():
    async def work():
        raise ZeroDivisionError

    with capture_logs() as logs:
        async with alongside(work()):
            async with asyncio.timeout(DEADLINE_S):
                while not logs:  # noqa: ASYNC110 (nothing tells)
                    await asyncio.sleep(0)
    (line,) = logs
    assert line["event"] == "background_work_failed"
    assert isinstance(line["exc_info"], ZeroDivisionError)
