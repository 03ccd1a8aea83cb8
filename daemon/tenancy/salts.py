"""Salts: what keeps the cached prefixes of tenants apart, in engines and in the index alike."""

import hmac
from dataclasses import dataclass

from preble.daemon.ids import TenantName
from preble.daemon.tenancy.directory import Directory

MASTER_BYTES = 32


@dataclass(frozen=True, slots=True)
class CacheScope:
    """Whose cached prefixes a request can find."""

    salt: str
    is_shared: bool
    """Other tenants use it too: then what is cached tells one what the others have asked."""


class Salts:
    """Looks up, for each request anew, which cached prefixes are its tenant's."""

    def __init__(self, master: bytes, directory: Directory) -> None:
        """`master` is secret: who knows it knows all salts."""
        self._master = master
        self._directory = directory

    def scope(self, tenant: TenantName, narrowed_by: str | None) -> CacheScope:
        """The scope of a tenant's request. A salt of the client's own narrows it, and can do nothing else.

        A tenant that never was shares nothing. One that has just been deleted ends its requests as it was: an earlier
        owner of its name had another epoch.
        """
        known = self._directory.remembered(tenant)
        is_shared = known is not None and known.settings.shares_prefixes
        if known is not None and is_shared:
            salt = make_salt(self._master, known.settings.isolation, self._directory.rotations)
        else:
            salt = make_salt(self._master, f"tenant:{tenant}", known.salt_epoch if known else 0)
        return CacheScope(salt if narrowed_by is None else narrow(salt, narrowed_by), is_shared)


def make_salt(master: bytes, scope: str, epoch: int) -> str:
    """The salt of a scope: 64 hexadecimal digits, which every engine takes."""
    return hmac.digest(master, f"{scope}\n{epoch}".encode(), "sha256").hex()


def narrow(salt: str, own: str) -> str:
    """A salt for those in the scope of `salt` who know `own`."""
    return hmac.digest(salt.encode(), own.encode(), "sha256").hex()
