"""API keys: how one is made, read and compared. `preble_<env>_<id>_<secret><check>`.

The prefix lets secret scanners find a leaked key, the id finds its row, the secret has 256 random bits, and the check
(CRC-32) rejects a mistyped key before anything is looked up. A fast hash is right: there is nothing to guess.
"""

import hmac
import re
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal
from zlib import crc32

from preble.daemon.ids import KeyId

Env = Literal["live", "op"]
"""`live` for tenants, `op` for operators."""

_ID_LENGTH = 12
_ID_BYTES = 16  # far more than 12 letters hold, so that all are as likely
_SECRET_BYTES = 32
_SECRET_LENGTH = 43  # as many bytes in base64url
_CHECK_LENGTH = 6
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KEY = re.compile(
    rf"preble_(?:live|op)_([0-9A-Za-z]{{{_ID_LENGTH}}})_[\w-]{{{_SECRET_LENGTH}}}[0-9A-Za-z]{{{_CHECK_LENGTH}}}",
    re.ASCII,
)
_NOBODY = bytes(32)

CHANCE_BYTES = _ID_BYTES + _SECRET_BYTES
"""How many random bytes a key is made of."""


@dataclass(frozen=True, slots=True)
class MintedKey:
    """A new key. `text` is shown to its owner once and kept nowhere."""

    id: KeyId
    text: str

    @property
    def digest(self) -> bytes:
        """What is stored in its place."""
        return digest(self.text)

    @property
    def last4(self) -> str:
        """Its end, by which its owner can tell it from others."""
        return self.text[-4:]


def is_tenants(text: str) -> bool:
    """Whether a key is a tenant's, rather than an operator's."""
    return text.startswith("preble_live_")


def mint(env: Env, chance: bytes) -> MintedKey:
    """Make a new key of `CHANCE_BYTES` random bytes, which must come from the system's own source of them."""
    assert len(chance) == CHANCE_BYTES, f"{len(chance)} bytes"
    key_id = _letters(int.from_bytes(chance[:_ID_BYTES], "big"), _ID_LENGTH)
    secret = urlsafe_b64encode(chance[_ID_BYTES:]).rstrip(b"=").decode()
    body = f"preble_{env}_{key_id}_{secret}"
    return MintedKey(KeyId(key_id), body + _check(body))


def id_of(text: str) -> KeyId | None:
    """The id in a key; None if this is no key of ours, or a mistyped one."""
    match = _KEY.fullmatch(text)
    if match is None or _check(text[:-_CHECK_LENGTH]) != text[-_CHECK_LENGTH:]:
        return None
    return KeyId(match.group(1))


def digest(text: str) -> bytes:
    """SHA-256 of the whole key."""
    return sha256(text.encode()).digest()


def matches(text: str, stored: bytes | None) -> bool:
    """Whether the key is the one that was stored. Takes as long for a key that was never stored (None)."""
    return hmac.compare_digest(digest(text), stored if stored is not None else _NOBODY) and stored is not None


def _check(body: str) -> str:
    return _letters(crc32(body.encode()), _CHECK_LENGTH)


def _letters(value: int, length: int) -> str:
    """The last digits of a number, lowest first."""
    digits = []
    for _ in range(length):
        value, digit = divmod(value, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)
