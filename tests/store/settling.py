"""Settles requests as fast as it can until it is killed: `settling.py DATA_DIR DATABASE_URL FIRST`.

Its output says how many it has settled and, as far as it has seen, how many of those are written.
"""

import asyncio
import os
import sys
from pathlib import Path

from tests.store.records import mixed

from preble.daemon.store.db import Place, open_database
from preble.daemon.store.ledger import Ledger
from preble.daemon.store.usage_query import UsageFilter

FLUSH_S = 0.02
AT_ONCE = 20
REPEATED = 300


def say(what: str, number: int) -> None:
    os.write(1, f"{what} {number}\n".encode())  # at once, as a kill would have it


async def watch(ledger: Ledger) -> None:
    while True:
        newest = await ledger.rows(UsageFilter(), limit=1, offset=0)
        for record in newest:
            say("written", int(record.request_id.removeprefix("req_")) + 1)
        await asyncio.sleep(0.05)


async def main(data_dir: str, database_url: str, first: int) -> None:
    ledger = Ledger(await open_database(Place.of(Path(data_dir), database_url)), FLUSH_S)
    watching = asyncio.create_task(watch(ledger))
    for number in range(max(first - REPEATED, 0), first):  # perhaps they were written before, perhaps not
        ledger.record(mixed(number))
    while not watching.done():
        for number in range(first, first + AT_ONCE):
            ledger.record(mixed(number))
            if number % 7 == 0:
                ledger.record(mixed(number))
        first += AT_ONCE
        say("settled", first)
        await asyncio.sleep(0.002)
    watching.result()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
