"""Every template that there is, without bodies: what requests look names up in. Changed by the store alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from preble.daemon.errors import NotFound
from preble.daemon.ids import KeyId, TenantName
from preble.daemon.wire.templates import LATEST, PRODUCTION

Owner = TenantName | None
"""None: the operator; then every tenant can use it."""

VersionKey = tuple[int, int]
"""A template's id, and a version's number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version: what it says never changes."""

    number: int
    digest: bytes
    created_at_s: float
    """Seconds since the epoch."""
    created_by: KeyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A name with its versions and labels."""

    id: int
    owner: Owner
    name: str
    description: str
    created_at_s: float
    """Seconds since the epoch."""
    created_by: KeyId
    changes: int
    """Counts its changes, from 1."""
    versions: Mapping[int, Version]
    """By number, oldest first; those from before it was deleted, if it was, are not among them."""
    labels: Mapping[str, int] = field(default_factory=dict)
    deleted_at_s: float | None = None

    @property
    def latest(self) -> Version:
        """The newest version."""
        return self.versions[max(self.versions)]

    def version(self, number: int | None = None, label: str | None = None) -> Version:
        """The one of that number or label; with neither `production`, or else the newest. Raises `NotFound`."""
        if number is not None:
            found = self.versions.get(number)
            if found is None:
                message = f"Template {self.name!r} has no version {number}; its newest is {self.latest.number}."
                raise NotFound(message, param="template.version")
            return found
        if label is None:
            label = PRODUCTION if PRODUCTION in self.labels else LATEST
        if label == LATEST:
            return self.latest
        if label not in self.labels:
            there = ", ".join([*sorted(self.labels), LATEST])
            message = f"Template {self.name!r} has no label {label!r}; there are {there}."
            raise NotFound(message, param="template.label")
        return self.versions[self.labels[label]]

    def with_digest(self, digest: bytes) -> Version | None:
        """The version that says just this."""
        return next((version for version in self.versions.values() if version.digest == digest), None)


class Templates:
    """Look-ups by owner and name."""

    def __init__(self, is_there: Callable[[Template], bool], templates: Iterable[Template] = ()) -> None:
        """`is_there` tells whether a template's owner is still the tenant that made it."""
        self._is_there = is_there
        self._of: dict[Owner, dict[str, Template]] = {}
        self._by_id: dict[int, Template] = {}
        for template in templates:
            self.put(template)

    def put(self, template: Template) -> None:
        """Know it from now on, in place of what was known by its name."""
        self._of.setdefault(template.owner, {})[template.name] = template
        self._by_id[template.id] = template

    def remembered(self, owner: Owner, name: str) -> Template | None:
        """The owner's own template of that name, be it deleted; None if it never had one."""
        found = self._of.get(owner, {}).get(name)
        return found if found is not None and self._is_there(found) else None

    def by_id(self, template_id: int) -> Template | None:
        """The one with this id, if it is still there."""
        found = self._by_id.get(template_id)
        return found if found is not None and found.deleted_at_s is None and self._is_there(found) else None

    def own(self, owner: Owner, name: str) -> Template | None:
        """The owner's own template of that name."""
        found = self.remembered(owner, name)
        return found if found is not None and found.deleted_at_s is None else None

    def visible(self, owner: Owner, name: str) -> Template:
        """What the name means to this owner: its own template, or else the operator's. Raises `NotFound`."""
        found = self.own(owner, name) or self.own(None, name)
        if found is None:
            near = get_close_matches(name, {template.name for template in self.all_visible(owner)}, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise NotFound(f"There is no template {name[:100]!r}.{hint}", param="template.name")
        return found

    def everything(self) -> Sequence[Template]:
        """All that are there, whoever's they are."""
        return [found for template_id in self._by_id if (found := self.by_id(template_id)) is not None]

    def all_visible(self, owner: Owner) -> Sequence[Template]:
        """The owner's own and the operator's, by name; of one name its own first."""
        owners: tuple[Owner, ...] = (None,) if owner is None else (owner, None)
        found = (self.own(each, name) for each in owners for name in self._of.get(each, ()))
        return sorted((one for one in found if one is not None), key=lambda one: (one.name, one.owner is None))
