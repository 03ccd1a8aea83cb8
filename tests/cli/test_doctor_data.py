"""What `preble doctor` says of files: models, the data directory, keys and the database. It never changes any."""

import json
import os
import sqlite3
from pathlib import Path

import pytest
from tests.cli.running import preble
from tokenizers import Tokenizer, models

from preble.daemon.cli import check_data
from preble.daemon.cli.check_data import check_data as checks_of
from preble.daemon.cli.check_data import check_sockets
from preble.daemon.cli.check_models import check_model
from preble.daemon.config import ModelConfig
from preble.daemon.ids import GpuId
from preble.daemon.store.db import Place, newest_revision, upgrade


def found(data_dir):
    return {check.name: check for check in checks_of(data_dir)}


def statuses(data_dir):
    return {name: check.status for name, check in found(data_dir).items()}


@pytest.fixture
def data_dir(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    return folder


# --- models ---


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    Tokenizer(models.BPE()).save(str(folder / "tokenizer.json"))
    return folder


def checked(path):
    return check_model(ModelConfig(name="a", path=str(path)), Path("data"))


def test_a_whole_model_is_right(model):
    assert checked(model).status == "ok"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_model_that_lacks_a_file_fails_by_its_name(model, name):
    (model / name).unlink()
    check = checked(model)
    assert (check.status, name in check.detail) == ("fail", True)


def test_a_broken_tokenizer_or_template_fails_by_its_name(model):
    (model / "chat_template.jinja").write_text("{% if %}")
    assert "chat template" in checked(model).detail
    (model / "chat_template.jinja").unlink()
    (model / "tokenizer.json").write_text("{")
    assert checked(model).status == "fail"
    assert "tokenizer.json" in checked(model).detail


def test_a_model_without_a_chat_template_serves_completions_only(model):
    (model / "tokenizer_config.json").write_text("{}")
    check = checked(model)
    assert (check.status, "chat template" in check.detail) == ("warn", True)


def test_a_folder_that_is_not_there_is_told_from_a_model_of_the_hub(tmp_path):
    assert checked(tmp_path / "gone").status == "fail"
    check = checked("nobody-at-all/no-model")
    assert (check.status, check.mend) == ("warn", "fetch it now: hf download nobody-at-all/no-model")


def test_the_demo_model_is_always_there(tmp_path):
    assert checked("demo").status == "ok"


# --- the data directory ---


def test_a_private_directory_is_right(data_dir):
    assert statuses(data_dir) == {"data directory": "ok", "disk": "ok", "keys": "ok", "database": "ok"}


def test_a_directory_that_is_still_to_be_made_is_right_where_it_can_be(tmp_path):
    assert statuses(tmp_path / "a" / "b") == {"data directory": "ok", "disk": "ok"}
    (tmp_path / "file").touch()
    assert found(tmp_path / "file")["data directory"].status == "fail"
    assert found(tmp_path / "file" / "b")["data directory"].status == "fail"


def test_a_directory_that_others_may_look_into_is_worth_a_word(data_dir):
    data_dir.chmod(0o750)
    check = found(data_dir)["data directory"]
    assert (check.status, "0750" in check.detail, f"chmod 700 {data_dir}" in check.mend) == ("warn", True, True)


def test_a_directory_of_somebody_else_is_a_fault(data_dir, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    check = found(data_dir)["data directory"]
    assert (check.status, "12345" in check.detail) == ("fail", True)


def test_a_directory_that_cannot_be_written_is_a_fault(data_dir, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert found(data_dir)["data directory"].status == "fail"
    assert found(data_dir / "below")["data directory"].status == "fail"


def test_what_may_not_be_looked_into_is_left_out(data_dir, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert statuses(data_dir) == {"data directory": "fail", "disk": "ok"}


@pytest.mark.parametrize(("free", "status"), [(1 << 30, "ok"), ((1 << 30) - 1, "warn"), ((64 << 20) - 1, "fail")])
def test_little_room_is_worth_a_word_and_none_is_a_fault(data_dir, monkeypatch, free, status):
    monkeypatch.setattr(check_data.shutil, "disk_usage", lambda _: check_data.shutil._ntuple_diskusage(0, 0, free))
    assert statuses(data_dir)["disk"] == status


def test_keys_that_others_may_read_are_faults(data_dir):
    for name, mode in (("operator.key", 0o600), ("default.key", 0o640)):
        (data_dir / name).touch()
        (data_dir / name).chmod(mode)
    checks = found(data_dir)
    assert "keys" not in checks
    assert "key operator.key" not in checks
    assert checks["key default.key"].status == "fail"
    assert checks["key default.key"].mend == f"chmod 600 {data_dir / 'default.key'}"


# --- the database ---


def test_a_database_of_this_version_is_right(data_dir):
    upgrade(Place.of(data_dir))
    check = found(data_dir)["database"]
    assert (check.status, newest_revision() in check.detail) == ("ok", True)


def test_a_server_that_does_not_answer_fails_and_the_file_is_not_looked_at(data_dir):
    (check,) = [check for check in checks_of(data_dir, f"postgresql:///x?host={data_dir}") if check.name == "database"]
    assert (check.status, "start the server" in check.mend) == ("fail", True)
    assert "\n" not in check.detail


def test_a_database_of_another_version_is_worth_a_word(data_dir):
    upgrade(Place.of(data_dir))
    with sqlite3.connect(data_dir / "preble.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
    connection.close()
    check = found(data_dir)["database"]
    assert (check.status, "0000" in check.detail, "preble db upgrade" in check.mend) == ("warn", True, True)


def test_a_database_without_a_schema_is_worth_a_word(data_dir):
    (data_dir / "preble.db").touch()
    check = found(data_dir)["database"]
    assert (check.status, "at revision none" in check.detail) == ("warn", True)


def test_a_file_that_is_no_database_is_a_fault(data_dir):
    (data_dir / "preble.db").write_bytes(b"no database" * 1000)
    check = found(data_dir)["database"]
    assert (check.status, "not a database" in check.detail) == ("fail", True)


def test_a_database_in_use_is_read_with_what_is_not_yet_in_its_main_file(data_dir):
    upgrade(Place.of(data_dir))
    connection = sqlite3.connect(data_dir / "preble.db")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("UPDATE alembic_version SET version_num = '0000'")
    connection.commit()
    assert (data_dir / "preble.db-wal").stat().st_size > 0
    assert found(data_dir)["database"].status == "warn"
    connection.close()


def test_nothing_is_changed(data_dir):
    upgrade(Place.of(data_dir))
    with sqlite3.connect(data_dir / "preble.db") as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    (data_dir / "operator.key").touch(mode=0o644)
    data_dir.chmod(0o755)
    file = data_dir.parent / "preble.toml"
    file.write_text('data_dir = "data"\n[server]\nport = 0\n[[models]]\nname = "a"\npath = "demo"\nhardware = "cpu"\n')

    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_mode) for path in data_dir.parent.rglob("*")}

    before = state()
    assert "database" in preble("doctor", "--config", str(file)).stdout
    assert state() == before
    assert data_dir in before


# --- sockets ---


def test_sockets_lie_in_the_data_directory_unless_that_makes_their_paths_too_long(tmp_path, monkeypatch):
    short, long = tmp_path / "d", tmp_path / ("d" * 100)
    assert check_sockets(short, [GpuId("gpu0")]).detail == f"in {short / 'run'}"
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    assert check_sockets(long, [GpuId("gpu0")]).detail == "in /tmp"
    monkeypatch.setattr("tempfile.tempdir", str(long))
    check = check_sockets(long, [GpuId("gpu0")])
    assert (check.status, "TMPDIR" in check.mend) == ("fail", True)
