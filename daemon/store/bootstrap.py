"""What a daemon finds or makes in its data directory at start: the operator's key, and on day one a first tenant."""

import os
from pathlib import Path

from preble.daemon.ids import TenantName
from preble.daemon.store.accounts import Accounts
from preble.daemon.tenancy.keys import id_of, matches
from preble.daemon.tenancy.model import Scope

OPERATOR_KEY_FILE = "operator.key"
DEFAULT_KEY_FILE = "default.key"
DEFAULT_TENANT = TenantName("default")


async def ensure_first_keys(accounts: Accounts, data_dir: Path, *, create_default_tenant: bool, now_s: float) -> None:
    """Make sure that the operator's key file holds a key that works, and that somebody can be served.

    Tenant "default" is made only where there is no tenant at all.
    """
    operator_file = data_dir / OPERATOR_KEY_FILE
    if not _is_operator_key(accounts, operator_file, now_s):
        minted = await accounts.create_key(None, name=f"written to {OPERATOR_KEY_FILE}", now_s=now_s)
        write_secret(operator_file, minted.text)
    if create_default_tenant and not accounts.tenants():
        await accounts.create_tenant(DEFAULT_TENANT, now_s)
        minted = await accounts.create_key(DEFAULT_TENANT, name=f"written to {DEFAULT_KEY_FILE}", now_s=now_s)
        write_secret(data_dir / DEFAULT_KEY_FILE, minted.text)


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner may read, at no moment readable by others and never half-written."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(text + "\n")
    draft.replace(path)


def _is_operator_key(accounts: Accounts, path: Path, now_s: float) -> bool:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return False
    key_id = id_of(text)
    key = accounts.lookup(key_id) if key_id else None
    return key is not None and matches(text, key.digest) and key.is_valid(now_s) and Scope.ADMIN_WRITE in key.scopes
