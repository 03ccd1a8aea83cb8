"""Changes of pins: in the database and the audit, in this order, one at a time. Who keeps them holds them in memory."""

from asyncio import Lock
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import ColumnElement, Executable, and_, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from preble.daemon.store.audit import AuditLog
from preble.daemon.store.tables import template_pins
from preble.daemon.templates.pins import Pin, PinKey
from preble.daemon.tenancy.audit import Author, Change, Outcome
from preble.daemon.wire.moments import iso


class PinStore:
    """Writes pins. With `dry_run` nothing is changed."""

    def __init__(self, engine: AsyncEngine, audit: AuditLog) -> None:
        self._engine = engine
        self._audit = audit
        self._lock = Lock()

    async def load(self) -> list[Pin]:
        """All there are, oldest first."""
        query = select(template_pins).order_by(template_pins.c.created_at_s)
        async with self._engine.connect() as connection:
            return [Pin(**row) for row in (await connection.execute(query)).mappings()]

    async def put(
        self, pin: Pin, before: Pin | None, name: str, author: Author, *, dry_run: bool = False
    ) -> Outcome[Pin]:
        """Have one of the template `name`, in place of the one before, if there was one; its age stays."""
        if before is not None:
            pin = replace(pin, created_at_s=before.created_at_s, created_by=before.created_by)
        shown = None if before is None else shown_pin(before)
        change = Change(action="template.pin", target=name, tenant=pin.tenant, before=shown, after=shown_pin(pin))
        if not dry_run and pin != before:
            async with self._lock:
                await self._audit.write(author, [change], _delete(pin.key), insert(template_pins).values(asdict(pin)))
        return Outcome(pin, change)

    async def remove(self, pins: Sequence[Pin], name: str, author: Author, *, dry_run: bool = False) -> Change:
        """Have these no more; they are of one template, called `name`, and one tenant."""
        before: dict[str, Any] = {"pins": [shown_pin(pin) for pin in pins]}
        change = Change(action="template.unpin", target=name, tenant=pins[0].tenant, before=before, after=None)
        if not dry_run:
            async with self._lock:
                await self._audit.write(author, [change], *(_delete(pin.key) for pin in pins))
        return change

    async def forget(self, key: PinKey) -> None:
        """Its time is over, or what it was of is gone: nobody does that."""
        async with self._lock, self._engine.begin() as connection:
            await connection.execute(_delete(key))


def _delete(key: PinKey) -> Executable:
    columns = template_pins.primary_key.columns
    clauses: list[ColumnElement[bool]] = [column == value for column, value in zip(columns, key, strict=True)]
    return delete(template_pins).where(and_(*clauses))


def shown_pin(pin: Pin) -> dict[str, Any]:
    """A pin as the audit remembers it."""
    return {
        "reference": pin.reference,
        "model": pin.model,
        "replicas": pin.replicas,
        "max_replicas": pin.max_replicas,
        "expires_at": None if pin.expires_at_s is None else iso(pin.expires_at_s),
    }
