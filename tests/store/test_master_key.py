"""The secret behind all salts: made once, kept to its owner, and refused if it was not."""

import pytest

from preble.daemon.errors import ConfigError
from preble.daemon.store.bootstrap import MASTER_KEY_FILE, ensure_master_key
from preble.daemon.tenancy.salts import MASTER_BYTES


def test_it_is_made_once_for_its_owner_alone(tmp_path):
    master = ensure_master_key(tmp_path)
    assert len(master) == MASTER_BYTES
    assert (tmp_path / MASTER_KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert ensure_master_key(tmp_path) == master


def test_no_two_are_the_same(tmp_path):
    first = ensure_master_key(tmp_path)
    (tmp_path / MASTER_KEY_FILE).unlink()
    assert ensure_master_key(tmp_path) != first


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_one_that_others_may_use_is_refused(tmp_path, mode):
    ensure_master_key(tmp_path)
    (tmp_path / MASTER_KEY_FILE).chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        ensure_master_key(tmp_path)


@pytest.mark.parametrize("content", [b"", b"00" * 31, b"x" * 64, b"\xff" * 64])
def test_one_that_is_spoilt_is_refused_and_stays(tmp_path, content):
    ensure_master_key(tmp_path)
    (tmp_path / MASTER_KEY_FILE).write_bytes(content)
    with pytest.raises(ConfigError, match=MASTER_KEY_FILE):
        ensure_master_key(tmp_path)
    assert (tmp_path / MASTER_KEY_FILE).read_bytes() == content
