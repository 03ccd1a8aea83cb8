"""What a daemon finds or makes in its data directory at start: secrets, and on day one a first tenant."""

import os
import stat
from pathlib import Path
from secrets import token_hex

from preble.daemon.errors import ConfigError
from preble.daemon.ids import TenantName
from preble.daemon.store.accounts import Accounts
from preble.daemon.store.keys import KeySpec
from preble.daemon.tenancy.audit import LOCAL, Author
from preble.daemon.tenancy.directory import Directory
from preble.daemon.tenancy.keys import id_of, matches
from preble.daemon.tenancy.model import Scope
from preble.daemon.tenancy.salts import MASTER_BYTES
from preble.daemon.wire.settings import TenantSettings

OPERATOR_KEY_FILE = "operator.key"
DEFAULT_KEY_FILE = "default.key"
MASTER_KEY_FILE = "master.key"
DEFAULT_TENANT = TenantName("default")


def ensure_master_key(data_dir: Path) -> bytes:
    """The secret behind all salts, made where there is none. Raises `ConfigError` if it is spoilt, or no secret."""
    file = data_dir / MASTER_KEY_FILE
    if not os.path.lexists(file):
        write_secret(file, token_hex(MASTER_BYTES))
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            message = f"data_dir: {file} has mode {mode:04o}, and others may read it or change it"
            raise ConfigError(f"{message}: delete it if somebody may have, else chmod 600 {file}")
        master = bytes.fromhex(file.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"data_dir: {file} cannot be read: {error}") from error
    if len(master) != MASTER_BYTES:
        raise ConfigError(f"data_dir: {file} is not a key of {MASTER_BYTES} bytes: delete it, and a new one is made")
    return master


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
