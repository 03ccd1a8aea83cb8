"""Every store of a daemon, on one database."""

from asyncio import sleep
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time

import structlog
from sqlalchemy.exc import SQLAlchemyError

from preble.daemon.background import alongside
from preble.daemon.config import Config, LedgerConfig
from preble.daemon.store.accounts import Accounts
from preble.daemon.store.bootstrap import ensure_first_keys, ensure_master_key
from preble.daemon.store.db import Place, claimed, open_database
from preble.daemon.store.decisions import DecisionLog
from preble.daemon.store.evictions import EvictionLog
from preble.daemon.store.ledger import Ledger
from preble.daemon.store.pins import PinStore
from preble.daemon.store.templates import TemplateStore
from preble.daemon.store.time_models import TimeModels
from preble.daemon.tenancy.salts import Salts

_FORGET_S = 3600.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Stores:
    """All of them."""

    accounts: Accounts
    salts: Salts
    time_models: TimeModels
    ledger: Ledger
    decisions: DecisionLog
    templates: TemplateStore
    pins: PinStore
    evictions: EvictionLog

    def faults(self) -> list[str | None]:
        """Why something cannot be written now; None of what can."""
        return [self.ledger.fault, self.decisions.fault, self.evictions.fault]


@asynccontextmanager
async def open_stores(config: Config, data_dir: Path) -> AsyncIterator[Stores]:
    """With the first keys, and what waits written at the end. Raises `ConfigError`."""
    async with AsyncExitStack() as stack:
        database = await open_database(Place.of(data_dir, config.database_url))
        stack.push_async_callback(database.dispose)
        await stack.enter_async_context(claimed(database))
        accounts = await Accounts.load(database)
        await ensure_first_keys(
            accounts, data_dir, create_default_tenant=config.server.create_default_tenant, now_s=time()
        )
        salts = Salts(ensure_master_key(data_dir), accounts.directory)
        flush_s = config.ledger.flush_interval_ms / 1000
        decisions = DecisionLog(database, flush_s, config.scheduler.decisions_kept)
        stack.push_async_callback(decisions.close)
        ledger = Ledger(database, flush_s)
        stack.push_async_callback(ledger.close)
        evictions = await EvictionLog.load(database, flush_s, time())
        stack.push_async_callback(evictions.close)
        await stack.enter_async_context(alongside(forget_often(ledger, evictions, config.ledger)))
        templates = await TemplateStore.load(database, accounts.audit, accounts.directory)
        time_models = await TimeModels.load(database)
        pins = PinStore(database, accounts.audit)
        yield Stores(accounts, salts, time_models, ledger, decisions, templates, pins, evictions)


async def forget_often(ledger: Ledger, evictions: EvictionLog, config: LedgerConfig) -> None:
    """Delete usage that is too old, now and every hour, until cancelled."""
    while True:
        try:
            await ledger.forget(time(), rows_days=config.retention_days, hours_days=config.hours_retention_days)
            await evictions.forget(time(), hours_days=config.hours_retention_days)
        except SQLAlchemyError as error:
            _log.error("old_usage_not_deleted", error=str(error))
        await sleep(_FORGET_S)
