"""preble.toml: the annotated file says what the code does, and what is wrong is refused by file and key."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from preble.daemon.config import Config, ModelConfig, load
from preble.daemon.errors import ConfigError

ROOT = Path(__file__).parents[2]
FILE = ROOT / "preble.toml"
LINE = re.compile(r"(?P<key>\w+) = (?P<value>[^#]+?)\s*(# (?P<comment>.+))?")
NOTHING_TO_SAY = {"data_dir"}  # its comment stands above it


def documented() -> dict[str, tuple[object, str]]:
    """Value and comment of each key in the file; of several [[models]] only the first counts."""
    found: dict[str, tuple[object, str]] = {}
    prefix = ""
    for line in FILE.read_text().splitlines():
        if line.startswith("["):
            prefix = line.strip("[]") + "."
        elif (match := LINE.fullmatch(line)) and prefix + match["key"] not in found:
            value = tomllib.loads(f"value = {match['value']}")["value"]
            found[prefix + match["key"]] = (value, match["comment"] or "")
    return found


def known() -> dict[str, object]:
    """Every key of the code with its default; `NODEFAULT` where there is none."""
    found: dict[str, object] = {}
    for field in msgspec.structs.fields(Config):
        if field.name == "models":
            section = ModelConfig
        elif isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            section = field.type
        else:
            found[field.name] = field.default
            continue
        for inner in msgspec.structs.fields(section):
            found[f"{field.name}.{inner.name}"] = inner.default
    return found


# --- the annotated file ---


def test_the_file_has_every_key_of_the_code_and_no_other_in_the_same_order():
    assert list(documented()) == list(known())


@pytest.mark.parametrize("key", known())
def test_each_key_is_explained_and_stands_there_with_its_default(key):
    value, comment = documented()[key]
    assert comment or key in NOTHING_TO_SAY
    default = known()[key]
    if default is not msgspec.NODEFAULT and key != "models.extra_args":
        assert (value, type(value)) == (default, type(default))
    if key == "models.extra_args":
        assert (value, default) == ([], ())  # TOML's array is a tuple here


def test_every_section_is_there():
    raw = tomllib.loads(FILE.read_text())
    assert raw.keys() == set(Config.__struct_fields__)


def test_the_file_is_right_and_serves_with_and_without_gpus():
    config = load(FILE)
    assert {model.hardware for model in config.models} == {"cuda", "cpu"}
    assert msgspec.structs.replace(config, models=(), data_dir=".preble") == Config()


def test_every_value_that_need_not_be_whole_has_its_unit_in_its_name():
    units = ("_s", "_steps", "_ratio", "_weight", "_utilization")
    for key, default in known().items():
        if isinstance(default, float):
            assert key.endswith(units), key


# --- what comes of a file ---


@pytest.fixture
def file(tmp_path):
    return tmp_path / "preble.toml"


MODEL = '[[models]]\nname = "a"\npath = "x"\n'
OTHER = '[[models]]\nname = "b"\npath = "x"\n'


def test_an_empty_file_is_the_defaults(file):
    file.write_text("")
    assert load(file) == msgspec.structs.replace(Config(), data_dir=str(file.parent / ".preble"))


def test_relative_paths_are_from_the_files_folder_wherever_a_command_runs(file, monkeypatch):
    monkeypatch.chdir("/")
    (file.parent / "model").mkdir()
    (file.parent / "demo").mkdir()
    file.write_text(f'data_dir = "a/../b"\n{MODEL.replace("x", "model")}{OTHER.replace("x", "demo")}gpus = [1]')
    file.write_text(file.read_text().replace('path = "model"', 'path = "model"\ngpus = [0]'))
    config = load(file)
    assert config.data_dir == str(file.parent / "b")
    assert [model.path for model in config.models] == [str(file.parent / "model"), "demo"]


def test_a_path_that_is_no_folder_is_left_to_the_hub(file):
    file.write_text(MODEL.replace("x", "Qwen/Qwen3-8B"))
    assert load(file).models[0].path == "Qwen/Qwen3-8B"


def test_a_tilde_is_the_home_directory(file, monkeypatch):
    monkeypatch.setenv("HOME", str(file.parent / "home"))
    file.write_text('data_dir = "~/data"')
    assert load(file).data_dir == str(file.parent / "home" / "data")


@pytest.mark.parametrize("url", ["", "postgresql:///preble", "postgresql://user@host:5433/preble?sslmode=require"])
def test_the_database_is_a_file_or_a_server(file, url):
    file.write_text(f'database_url = "{url}"')
    assert load(file).database_url == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql://host/x", "begins with postgresql://"),
        ("preble.db", "begins with postgresql://"),
        ("postgresql://host:port/x", "Port could not be cast"),
        ("postgresql://user:secret@host/x", "leave the password to ~/.pgpass"),
    ],
)
def test_a_database_that_cannot_be_is_refused_and_no_password_is_repeated(file, url, why):
    file.write_text(f'database_url = "{url}"')
    with pytest.raises(ConfigError, match=f"database_url: .*{why}") as refused:
        load(file)
    assert "secret" not in str(refused.value)


# --- what is refused ---


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("dta_dir = 1", "dta_dir", "data_dir"),
        ("[sever]", "sever", "server"),
        ("[server]\nprot = 1", "server.prot", "server.port"),
        ("[scheduler]\nwindow = 1", "scheduler.window", "scheduler.window_s"),
        ("[engines]\nhealth_interval_ms = 1", "engines.health_interval_ms", "engines.health_interval_s"),
        ("[ledger]\nretention = 1", "ledger.retention", "ledger.retention_days"),
        ("[prices]\nper_million = 1", "prices.per_million", "prices.per_million_tokens"),
        (
            "[prices.per_million_tokens.m]\ninputs = 1",
            "prices.per_million_tokens.m.inputs",
            "prices.per_million_tokens.m.input",
        ),
        ("[log]\nlvl = 1", "log.lvl", "log.level"),
        (MODEL + OTHER + "gpu = [1]", "models[1].gpu", "models[1].gpus"),
        ("[server]\nqqq = 1", "server.qqq", "server."),
        ("a.b = 1", "a", ""),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(file, text, key, nearest):
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert str(refused.value).startswith(f"{file}: unknown key {key}; the nearest known key is {nearest}")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[server]\nport = "8000"', "server.port: Expected `int`, got `str`"),
        ("[server]\nport = true", "server.port: Expected `int`, got `bool`"),
        ("[ledger]\nhours_retention_days = 31", "ledger.hours_retention_days: Expected `int` >= 32"),
        ("[ledger]\nretention_days = 4000", "ledger.hours_retention_days: at least as many as ledger.retention_days"),
        (
            "[prices.per_million_tokens.m]\ninput = 1\noutput = 1",
            "prices.per_million_tokens.m: there is no such model; the nearest is '*'",
        ),
        (
            'prices.per_million_tokens = {"*" = {output = 1}}',
            "prices.per_million_tokens[...].input: it has no default and must be there",
        ),
        ('prices.per_million_tokens = {"*" = {input = -1, output = 1}}', "prices.per_million_tokens"),
        ("[server]\nport = 1.5", "server.port: Expected `int`, got `float`"),
        ("[server]\nport = -1", "server.port: Expected `int` >= 0"),
        ("[server]\nport = 65536", "server.port: Expected `int` <= 65535"),
        ("[server]\nmax_body_bytes = 0", "server.max_body_bytes: Expected `int` >= 1"),
        ("[server]\nkeep_alive_s = 0", "server.keep_alive_s: Expected `float` > 0.0"),
        ("[server]\ndrain_timeout_s = -0.1", "server.drain_timeout_s: Expected `float` >= 0.0"),
        ("[scheduler]\nwindow_s = nan", "scheduler.window_s: Expected `float`"),
        ("[scheduler]\nwindow_s = inf", "scheduler.window_s: Expected `float` <="),
        ("[scheduler]\ndecode_imbalance_ratio = 0.9", "scheduler.decode_imbalance_ratio: Expected `float` >= 1.0"),
        ("[scheduler]\ndecisions_kept = 100000000000000000000", "scheduler.decisions_kept: Expected `int` <="),
        ('[log]\nlevel = "loud"', "log.level: 'loud' is none of 'debug', 'info', 'warning', 'error'"),
        ("server = 3", "server: Expected `object`, got `int`"),
        ("data_dir = 3", "data_dir: Expected `str`, got `int`"),
        ('data_dir = ""', "data_dir: Expected `str` of length >= 1"),
        ('data_dir = "~no-such-user-here"', "data_dir: "),
        ('data_dir = "a\\u0000"', "data_dir: "),
        ("models = 1", "models: Expected `array`, got `int`"),
        ("models = [1]", "models[0]: Expected `object`, got `int`"),
        ('[models]\nname = "a"', "models: each begins with [[models]]"),
        ('[[models]]\nname = "a"', "models[0].path: it has no default and must be there"),
        (MODEL.replace('"a"', '""'), "models[0].name: Expected `str` of length >= 1"),
        (MODEL + 'hardware = "tpu"', "models[0].hardware: 'tpu' is none of 'cuda', 'cpu'"),
        (MODEL + "gpus = []", "models[0].gpus: Expected `array` of length >= 1"),
        (MODEL + "gpus = [0, -1]", "models[0].gpus[1]: Expected `int` >= 0"),
        (MODEL + 'gpus = "some"', "models[0].gpus: 'some' is none of 'all'"),
        (MODEL + "gpu_memory_utilization = 1.1", "models[0].gpu_memory_utilization: Expected `float` <= 1.0"),
        (MODEL + 'extra_args = "--x"', "models[0].extra_args: Expected `array`, got `str`"),
        (MODEL + OTHER + "engines = 0", "models[1].engines: Expected `int` >= 1"),
        (MODEL + MODEL, "models[1].name: 'a' is the name of models[0] too"),
        (MODEL + "gpus = [2, 2]", "models[0].gpus: CUDA device 2 is already taken by models[0]"),
        (
            MODEL + "gpus = [1]\n" + OTHER + "gpus = [0, 1]",
            "models[1].gpus: CUDA device 1 is already taken by models[0]",
        ),
        (MODEL + OTHER + "gpus = [0]", "models[1].gpus: models[0] wants some of the same GPUs"),
        (MODEL + "gpus = [0]\n" + OTHER, "models[1].gpus: models[0] wants some of the same GPUs"),
        (
            MODEL + "max_num_batched_tokens = 255",
            "models[0].max_num_batched_tokens: vLLM wants at least max_num_seqs, 256",
        ),
        (
            MODEL + "max_model_len = 1000\nlong_prefill_token_threshold = 1001",
            "models[0].long_prefill_token_threshold: vLLM wants at most max_model_len, 1000",
        ),
    ],
)
def test_a_wrong_value_is_refused_by_file_and_key(file, text, complaint):
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert str(refused.value).startswith(f"{file}: {complaint}")


@pytest.mark.parametrize(
    "text",
    [
        MODEL + "gpus = [0]\n" + OTHER + "gpus = [1]",
        MODEL + OTHER + 'hardware = "cpu"',
        MODEL + 'hardware = "cpu"\n' + OTHER + 'hardware = "cpu"',
        "[server]\nport = 0\nkeep_alive_s = 1",
    ],
)
def test_what_does_not_clash_is_taken(file, text):
    file.write_text(text)
    load(file)


@pytest.mark.parametrize("content", [b"x", b"a = 1\na = 2", b"\xff", b'a = "', b"[" * 5000])
def test_what_is_no_toml_is_refused_by_its_file(file, content):
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"{file}: not valid TOML")):
        load(file)


def test_a_file_that_cannot_be_read_is_refused_by_its_name(file):
    with pytest.raises(ConfigError, match=re.escape(f"{file}: there is no such file")):
        load(file)
    with pytest.raises(ConfigError, match=re.escape(f"{file.parent}: cannot be read: Is a directory")):
        load(file.parent)
