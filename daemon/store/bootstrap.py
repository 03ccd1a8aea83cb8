"""What a daemon finds or makes in its data directory at start: the operator's key, and on day one a first tenant."""

import os
from pathlib import Path

from preble.daemon.ids import TenantName
from preble.daemon.store.accounts import Accounts
from preble.daemon.store.keys import KeySpec
from preble.daemon.tenancy.audit import LOCAL, Author
from preble.daemon.tenancy.directory import Directory
from preble.daemon.tenancy.keys import id_of, matches
from preble.daemon.tenancy.model import Scope
from preble.daemon.wire.settings import TenantSettings

OPERATOR_KEY_FILE = "operator.key"
DEFAULT_KEY_FILE = "default.key"
DEFAULT_TENANT = TenantName("default")


async def ensure_first_keys(accounts: Accounts, data_dir: Path, *, create_default_tenant: bool, now_s: float) -> None:
    """Make sure that the operator's key file holds a key that works, and that somebody can be served.

    Tenant "default" is made only where there never was a tenant.
    """
    author = Author(name=LOCAL, at_s=now_s)
    if not _is_operator_key(accounts.directory, data_dir / OPERATOR_KEY_FILE, now_s):
        await _make_key(accounts, None, data_dir / OPERATOR_KEY_FILE, author)
    if create_default_tenant and not accounts.directory.has_had_tenants():
        await accounts.tenants.create(DEFAULT_TENANT, TenantSettings(), author)
        await _make_key(accounts, DEFAULT_TENANT, data_dir / DEFAULT_KEY_FILE, author)


async def _make_key(accounts: Accounts, tenant: TenantName | None, file: Path, author: Author) -> None:
    made = (await accounts.keys.create(tenant, KeySpec(name=f"written to {file.name}"), author)).value
    assert made.text is not None, "it is new"
    write_secret(file, made.text)


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner may read, at no moment readable by others and never half-written."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(text + "\n")
    draft.replace(path)


def _is_operator_key(directory: Directory, path: Path, now_s: float) -> bool:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return False
    key_id = id_of(text)
    key = directory.key(key_id) if key_id else None
    return key is not None and matches(text, key.digest) and key.is_valid(now_s) and Scope.ADMIN_WRITE in key.scopes
