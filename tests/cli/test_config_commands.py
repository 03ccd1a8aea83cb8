"""`preble config`: what is in force, where it is from, and a file to begin with."""

import json
import tomllib

import msgspec
from tests.cli.running import preble

from preble.daemon.config import Config, load


def test_the_file_to_begin_with_is_right_as_it_is(tmp_path):
    text = preble("config", "default").stdout
    (tmp_path / "preble.toml").write_text(text)
    checked = preble("config", "check", "--config", str(tmp_path / "preble.toml"), "--json")
    assert checked.exit_code == 0
    assert json.loads(checked.stdout)["models"] == [model["name"] for model in tomllib.loads(text)["models"]]
    assert json.loads(preble("config", "default", "--json").stdout) == tomllib.loads(text)


def test_every_value_is_shown_with_where_it_is_from(tmp_path):
    file = tmp_path / "preble.toml"
    file.write_text('[server]\nport = 9\n[[models]]\nname = "a"\npath = "b"\n')
    rows = json.loads(preble("config", "show", "--config", str(file), "--json").stdout)
    assert {row["key"] for row in rows if row["from"] == str(file)} == {
        "server.port",
        "models[0].name",
        "models[0].path",
    }
    shown = {row["key"]: row["value"] for row in rows}
    assert (shown["server.port"], shown["server.host"]) == (9, "127.0.0.1")
    assert shown["data_dir"] == str(tmp_path / ".preble")
    n_values = sum(len(value) if isinstance(value, dict) else 1 for value in msgspec.to_builtins(Config()).values())
    n_of_the_model = len(msgspec.to_builtins(load(file).models[0]))
    assert len(rows) == n_values - 1 + n_of_the_model
    lines = preble("config", "show", "--config", str(file)).stdout.splitlines()
    assert next(line.split() for line in lines if line.startswith("server.port")) == ["server.port", "9", str(file)]


def test_the_schema_knows_every_section():
    schema = json.loads(preble("config", "schema").stdout)
    assert schema["$defs"]["Config"]["properties"].keys() == set(Config.__struct_fields__)
