"""Changes of templates: in the database, the audit and the directory, in this order, one at a time."""

import re
from asyncio import Lock
from collections import OrderedDict
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy import Executable, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from preble.daemon.errors import Conflict, Forbidden, InvalidRequest, NotFound
from preble.daemon.ids import KeyId, ModelName
from preble.daemon.sched.blocks import TokenIds
from preble.daemon.store.audit import AuditLog
from preble.daemon.store.dialects import insert_or
from preble.daemon.store.tables import template_analyses, template_labels, template_versions
from preble.daemon.store.tables import templates as rows
from preble.daemon.store.tenants import check_version
from preble.daemon.templates.body import checked, decoded, digest_of, encoded
from preble.daemon.templates.directory import Owner, Template, Templates, Version
from preble.daemon.tenancy.audit import Author, Change, Outcome
from preble.daemon.tenancy.directory import Directory
from preble.daemon.wire.templates import LABEL, LATEST, TEMPLATE_NAME, TemplateBody

MAX_TEMPLATES, MAX_VERSIONS, MAX_LABELS = 10_000, 10_000, 100
"""Of one owner; of one template."""
_BODIES_KEPT = 256
_IDS_PER_QUERY = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """What one model makes of a version: nobody's salt is in it."""

    fingerprint: bytes
    """Of the tokenizer and chat template that it was made with."""
    tokens: int
    prefix: TokenIds
    advice: list[dict[str, Any]]


class TemplateStore:
    """Registers, labels and deletes. With `dry_run` everything is checked and nothing is changed."""

    def __init__(self, engine: AsyncEngine, audit: AuditLog, directory: Templates) -> None:
        self.directory = directory
        self._engine = engine
        self._audit = audit
        self._lock = Lock()
        self._bodies: OrderedDict[tuple[int, int], TemplateBody] = OrderedDict()

    @classmethod
    async def load(cls, engine: AsyncEngine, audit: AuditLog, tenants: Directory) -> "TemplateStore":
        """Read all but the bodies, once."""

        def is_there(template: Template) -> bool:
            if template.owner is None:
                return True
            owner = tenants.find(template.owner)
            return owner is not None and owner.created_at_s <= template.created_at_s

        return cls(engine, audit, Templates(is_there, await _read(engine)))

    async def register(
        self,
        owner: Owner,
        name: str,
        body: TemplateBody,
        author: Author,
        *,
        description: str | None = None,
        dry_run: bool = False,
    ) -> Outcome[tuple[Template, Version]]:
        """Make a version, and the template if there is none; what says the same is the version that there is.

        A description of None stays as it was. Raises `InvalidRequest`, and `Conflict` where there are too many.
        """
        _check_name(name, description)
        body = checked(body)
        async with self._lock:
            known = self.directory.remembered(owner, name)
            before = known if known is not None and known.deleted_at_s is None else None
            made = before.with_digest(digest_of(body)) if before else None
            told = before.description if before else ""
            if description is not None:
                told = description
            if before is not None and made is not None and told == before.description:
                state = _shown(before, made)
                return Outcome((before, made), _change("register", before, state, state))
            is_new = made is None
            version = made or await self._next(known, body, author)
            after = await self._revised(known, before, owner, name, version, told, author)
            shown = None if is_new or before is None else _shown(before, made)
            change = _change("register" if is_new else "update", after, shown, _shown(after, version))
            if dry_run:
                return Outcome((after, version), change)
            statements: list[Executable] = [_kept(after) if known else insert(rows).values(_row(after))]
            if is_new:
                statements.append(insert(template_versions).values(_version_row(after.id, version, body)))
            await self._audit.write(author, [change], *statements)
            self.directory.put(after)
            return Outcome((after, version), change)

    async def label(
        self,
        owner: Owner,
        name: str,
        label: str,
        number: int | None,
        author: Author,
        *,
        if_version: Container[int] | None = None,
        dry_run: bool = False,
    ) -> Outcome[Template]:
        """Point a label to a version, or take it away (None).

        Raises `NotFound`, `Forbidden`, `InvalidRequest`, `Conflict`, and `PreconditionFailed` if it has changed.
        """
        async with self._lock:
            before = self._own(owner, name)
            check_version(before.changes, if_version)
            labels = _relabelled(before, label, number)
            if labels == before.labels:
                return Outcome(before, _change("label", before, _shown(before), _shown(before)))
            after = replace(before, labels=labels, changes=before.changes + 1)
            change = _change("label", after, _shown(before), _shown(after))
            if not dry_run:
                where = (template_labels.c.template_id == after.id, template_labels.c.label == label)
                statements: list[Executable] = [delete(template_labels).where(*where), _kept(after)]
                if number is not None:
                    values = {"template_id": after.id, "label": label, "number": number}
                    statements.append(insert(template_labels).values(values))
                await self._audit.write(author, [change], *statements)
                self.directory.put(after)
            return Outcome(after, change)

    async def delete(
        self,
        owner: Owner,
        name: str,
        author: Author,
        *,
        if_version: Container[int] | None = None,
        dry_run: bool = False,
    ) -> Outcome[Template]:
        """Have it no more, with all of its versions. Its rows stay, and so does the numbering.

        Raises `NotFound`, `Forbidden`, and `PreconditionFailed` if it has changed.
        """
        async with self._lock:
            before = self._own(owner, name)
            check_version(before.changes, if_version)
            change = _change("delete", before, _shown(before), None)
            if not dry_run:
                after = replace(before, deleted_at_s=author.at_s, labels={}, changes=before.changes + 1)
                gone = delete(template_labels).where(template_labels.c.template_id == after.id)
                await self._audit.write(author, [change], gone, _kept(after))
                self.directory.put(after)
            return Outcome(before, change)

    async def body(self, template: Template, version: Version) -> TemplateBody:
        """What a version says."""
        key = (template.id, version.number)
        if key not in self._bodies:
            where = (template_versions.c.template_id == key[0], template_versions.c.number == key[1])
            async with self._engine.connect() as connection:
                found = (await connection.execute(select(template_versions.c.body).where(*where))).scalar_one()
            self._bodies[key] = decoded(found)
        self._bodies.move_to_end(key)
        if len(self._bodies) > _BODIES_KEPT:
            self._bodies.popitem(last=False)
        return self._bodies[key]

    async def tokens(self, template: Template, version: Version, model: ModelName) -> TokenRow | None:
        """What was found of a version for a model, with whichever tokenizer that was."""
        table = template_analyses.c
        where = (table.template_id == template.id, table.number == version.number, table.model == model)
        async with self._engine.connect() as connection:
            row = (await connection.execute(select(template_analyses).where(*where))).mappings().one_or_none()
        if row is None:
            return None
        return TokenRow(
            fingerprint=row["fingerprint"],
            tokens=row["tokens"],
            prefix=_prefix(row["prefix"]),
            advice=row["advice"],
        )

    async def prefixes(
        self, versions: Collection[tuple[int, int]], model: ModelName, fingerprint: bytes
    ) -> dict[tuple[int, int], TokenIds]:
        """Those found with this fingerprint, of versions named by their template's id and their number."""
        table = template_analyses.c
        where = (table.model == model, table.fingerprint == fingerprint)
        query = select(table.template_id, table.number, table.prefix).where(*where)
        found: dict[tuple[int, int], TokenIds] = {}
        ids = sorted({template_id for template_id, _ in versions})
        async with self._engine.connect() as connection:
            for start in range(0, len(ids), _IDS_PER_QUERY):
                some = query.where(table.template_id.in_(ids[start : start + _IDS_PER_QUERY]))
                for template_id, number, prefix in await connection.execute(some):
                    if (template_id, number) in versions:
                        found[template_id, number] = _prefix(prefix)
        return found

    async def put_tokens(self, template: Template, version: Version, model: ModelName, found: TokenRow) -> None:
        """Remember what was found, in place of what was before."""
        values = {
            "fingerprint": found.fingerprint,
            "tokens": found.tokens,
            "prefix": found.prefix.astype("<u4").tobytes(),
            "advice": found.advice,
        }
        key = {"template_id": template.id, "number": version.number, "model": model}
        statement = insert_or(self._engine, template_analyses).values(**key, **values)
        async with self._engine.begin() as connection:
            await connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=values))

    def _own(self, owner: Owner, name: str) -> Template:
        """What an owner may change. Raises `NotFound`, and `Forbidden` for what it can only use."""
        found = self.directory.visible(owner, name)
        if found.owner != owner:
            raise Forbidden(f"Template {name!r} is the operator's: register one of your own under that name.")
        return found

    async def _next(self, known: Template | None, body: TemplateBody, author: Author) -> Version:
        """The version to be made. Raises `Conflict`."""
        number = known.latest.number + 1 if known else 1
        if number > MAX_VERSIONS:
            raise Conflict(f"A template can have {MAX_VERSIONS} versions: register it under another name.")
        return Version(number=number, digest=digest_of(body), created_at_s=author.at_s, created_by=KeyId(author.name))

    async def _revised(
        self,
        known: Template | None,
        before: Template | None,
        owner: Owner,
        name: str,
        version: Version,
        description: str,
        author: Author,
    ) -> Template:
        """The template with this version and description. Raises `Conflict`."""
        versions = {**(before.versions if before else {}), version.number: version}
        if before is not None:
            return replace(before, versions=versions, description=description, changes=before.changes + 1)
        if sum(one.owner == owner for one in self.directory.all_visible(owner)) >= MAX_TEMPLATES:
            raise Conflict(f"There can be {MAX_TEMPLATES} templates: delete some first.")
        return Template(
            id=known.id if known else await self._next_id(),
            owner=owner,
            name=name,
            description=description,
            created_at_s=author.at_s,
            created_by=KeyId(author.name),
            changes=known.changes + 1 if known else 1,
            versions=versions,
        )

    async def _next_id(self) -> int:
        async with self._engine.connect() as connection:
            return ((await connection.execute(select(func.max(rows.c.id)))).scalar() or 0) + 1


def _prefix(kept: bytes) -> TokenIds:
    return np.frombuffer(kept, dtype="<u4").astype(np.uint32)


async def _read(engine: AsyncEngine) -> list[Template]:
    columns = [column for column in template_versions.c if column.name != "body"]
    async with engine.connect() as connection:
        found = (await connection.execute(select(rows).order_by(rows.c.id))).mappings().all()
        versions: dict[int, dict[int, Version]] = {}
        for row in (await connection.execute(select(*columns).order_by(template_versions.c.number))).mappings():
            versions.setdefault(row["template_id"], {})[row["number"]] = _read_version(row)
        labels: dict[int, dict[str, int]] = {}
        for row in (await connection.execute(select(template_labels))).mappings():
            labels.setdefault(row["template_id"], {})[row["label"]] = row["number"]
    return [_read_template(row, versions[row["id"]], labels.get(row["id"], {})) for row in found]


def _read_template(row: Mapping[Any, Any], versions: Mapping[int, Version], labels: Mapping[str, int]) -> Template:
    fields = {name: value for name, value in row.items() if name != "first_version"}
    kept = {number: version for number, version in versions.items() if number >= row["first_version"]}
    return Template(**fields, versions=kept, labels=labels)


def _read_version(row: Mapping[Any, Any]) -> Version:
    return Version(
        number=row["number"],
        digest=row["digest"],
        created_at_s=row["created_at_s"],
        created_by=KeyId(row["created_by"]),
    )


def _row(template: Template) -> dict[str, Any]:
    return {
        "id": template.id,
        "owner": template.owner,
        "name": template.name,
        "description": template.description,
        "created_at_s": template.created_at_s,
        "created_by": template.created_by,
        "changes": template.changes,
        "first_version": min(template.versions),
        "deleted_at_s": template.deleted_at_s,
    }


def _kept(template: Template) -> Executable:
    return update(rows).where(rows.c.id == template.id).values(_row(template))


def _version_row(template_id: int, version: Version, body: TemplateBody) -> dict[str, Any]:
    return {
        "template_id": template_id,
        "number": version.number,
        "digest": version.digest,
        "body": encoded(body),
        "created_at_s": version.created_at_s,
        "created_by": version.created_by,
    }


def _relabelled(template: Template, label: str, number: int | None) -> dict[str, int]:
    if re.fullmatch(LABEL, label) is None or label == LATEST:
        message = f"A label has up to 63 of a-z, 0-9, '.', '_' and '-', begins with a letter, and is not {LATEST!r}."
        raise InvalidRequest(message, param="label")
    others = {name: version for name, version in template.labels.items() if name != label}
    if number is None:
        if label not in template.labels:
            raise NotFound(f"Template {template.name!r} has no label {label!r}.", param="label")
        return others
    if len(others) >= MAX_LABELS:
        raise Conflict(f"A template can have {MAX_LABELS} labels.", param="label")
    return {**others, label: template.version(number).number}


def _check_name(name: str, description: str | None) -> None:
    if re.fullmatch(TEMPLATE_NAME, name) is None:
        message = "A template's name has up to 63 of a-z, 0-9, '.', '_' and '-', and begins with a letter or digit."
        raise InvalidRequest(message, param="name")
    if description is not None and "\0" in description:
        raise InvalidRequest("`description` must not have NUL characters.", param="description")


def _shown(template: Template, version: Version | None = None) -> dict[str, Any]:
    """A template as the audit remembers it."""
    shown: dict[str, Any] = {"description": template.description, "labels": dict(sorted(template.labels.items()))}
    version = version or template.latest
    return {**shown, "version": version.number, "digest": version.digest.hex()}


def _change(action: str, template: Template, before: dict[str, Any] | None, after: dict[str, Any] | None) -> Change:
    return Change(action=f"template.{action}", target=template.name, tenant=template.owner, before=before, after=after)
