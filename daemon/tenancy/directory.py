"""Every tenant and key, in memory: what each request is looked up in. Changed by their store alone, and at once."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches

from preble.daemon.errors import NotFound
from preble.daemon.ids import KeyId, TenantName
from preble.daemon.tenancy.model import ApiKey, Tenant


class Directory:
    """Look-ups that cost as much however many there are. Whoever keeps what is found keeps an old one."""

    def __init__(self, tenants: Iterable[Tenant] = (), keys: Iterable[ApiKey] = ()) -> None:
        self._watchers: list[Callable[[Tenant], None]] = []
        self._tenants: dict[TenantName, Tenant] = {}
        self._keys: dict[KeyId, ApiKey] = {}
        self._keys_of: dict[TenantName | None, dict[KeyId, ApiKey]] = {}
        self.rotations = 0
        """How often salts have been rotated in all; never fewer, since deleted tenants count."""
        for tenant in tenants:
            self.put_tenant(tenant)
        for key in keys:
            self.put_key(key)

    def put_tenant(self, tenant: Tenant) -> None:
        """Know it from now on, in place of what was known by its name."""
        before = self._tenants.get(tenant.name)
        self.rotations += tenant.salt_epoch - (before.salt_epoch if before else 0)
        self._tenants[tenant.name] = tenant
        for watcher in self._watchers:
            watcher(tenant)

    def watch(self, watcher: Callable[[Tenant], None]) -> None:
        """Tell it of every tenant, now and whenever something about one changes."""
        self._watchers.append(watcher)
        for tenant in self._tenants.values():
            watcher(tenant)

    def put_key(self, key: ApiKey) -> None:
        """Know it from now on, in place of what was known by its id."""
        self._keys[key.id] = key
        self._keys_of.setdefault(key.tenant, {})[key.id] = key

    def key(self, key_id: KeyId) -> ApiKey | None:
        """The key with this id, whether it works or not."""
        return self._keys.get(key_id)

    def find(self, tenant: TenantName) -> Tenant | None:
        """Its settings as they are now; None if there is no such tenant."""
        found = self._tenants.get(tenant)
        return found if found is not None and found.deleted_at_s is None else None

    def remembered(self, tenant: TenantName) -> Tenant | None:
        """The same, or else the one that had the name last."""
        return self._tenants.get(tenant)

    def tenant(self, name: str) -> Tenant:
        """The same for an operator. Raises `NotFound`, with the nearest name."""
        found = self.find(TenantName(name))
        if found is None:
            near = get_close_matches(name, [tenant.name for tenant in self.tenants()], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise NotFound(f"There is no tenant {name!r}.{hint}", param="tenant")
        return found

    def has_had_tenants(self) -> bool:
        """Whether there is one, or ever was."""
        return bool(self._tenants)

    def tenants(self) -> list[Tenant]:
        """All tenants, by name."""
        there = [tenant for tenant in self._tenants.values() if tenant.deleted_at_s is None]
        return sorted(there, key=lambda tenant: tenant.name)

    def some(self, wanted: Iterable[TenantName], most: int) -> list[Tenant]:
        """Those of `wanted` that are there, and others up to `most` in all, without order."""
        found = {name: tenant for name in wanted if (tenant := self.find(name)) is not None}
        for name, tenant in self._tenants.items():
            if len(found) >= most:
                break
            if tenant.deleted_at_s is None:
                found[name] = tenant
        return list(found.values())

    def find_keys(self, tenant: str | None = None) -> list[ApiKey]:
        """All keys, or one tenant's, oldest first. Raises `NotFound` for an unknown tenant."""
        chosen = list(self._keys.values()) if tenant is None else self.keys_of(self.tenant(tenant).name)
        return sorted(chosen, key=lambda key: (key.created_at_s, key.id))

    def keys_of(self, tenant: TenantName) -> list[ApiKey]:
        """A tenant's keys, in no order; none if there is no such tenant."""
        return list(self._keys_of.get(tenant, {}).values())
