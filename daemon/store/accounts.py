"""Tenants and keys, opened together: the directory that requests look up in, and the stores that change it."""

from asyncio import Lock
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from preble.daemon.store.audit import AuditLog
from preble.daemon.store.keys import KeyStore, read_key
from preble.daemon.store.tables import api_keys, tenants
from preble.daemon.store.tenants import TenantStore, read_tenant
from preble.daemon.tenancy.directory import Directory


@dataclass(frozen=True, slots=True)
class Accounts:
    """One owner of them all. What was changed counts from the next look-up."""

    directory: Directory
    tenants: TenantStore
    keys: KeyStore
    audit: AuditLog

    @classmethod
    async def load(cls, engine: AsyncEngine) -> "Accounts":
        """Read everything once."""
        async with engine.connect() as connection:
            directory = Directory(
                [read_tenant(row) for row in (await connection.execute(select(tenants))).mappings()],
                [read_key(row) for row in (await connection.execute(select(api_keys))).mappings()],
            )
        audit, lock = AuditLog(engine), Lock()
        return cls(directory, TenantStore(audit, directory, lock), KeyStore(engine, audit, directory, lock), audit)
