"""`preble template`, against a daemon's real routes; and templates as files."""

import json
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.running import data, preble

from preble.daemon.cli.output import Exit
from preble.daemon.cli.template_files import FORMATS, parsed, read_folder, written
from preble.daemon.errors import ConfigError
from preble.daemon.wire.templates import TemplateBody, TemplateMessage, Variable

LONG = "You are a terse assistant.\nAnswer in one line.\n" * 10


@pytest.fixture
def key(daemon):
    """Of a tenant that no other test has."""
    tenant = f"t{uuid4().hex[:12]}"
    preble("tenant", "create", tenant)
    return data("key", "create", tenant)["key"]


@pytest.fixture
def own(key):
    """Commands with that key."""

    def run(*arguments):
        return data("template", *arguments, PREBLE_KEY=key)

    return run


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "plain.txt").write_text("Dear {{name}},\n")
    (tmp_path / "chat.yaml").write_text(
        f"name: triage\ndescription: it sorts\nmessages:\n- role: system\n  content: {json.dumps(LONG)}\n"
        "- role: user\n  content: '{{question}}'\nvariables:\n  question: {max_length: 50}\n"
    )
    (tmp_path / "t.toml").write_text('text = "{{n}} x"\n[variables.n]\ntype = "integer"\ndefault = 3\n')
    (tmp_path / "README.md").write_text("about these")
    return tmp_path


def refusal(*arguments, code=Exit.REFUSED, **environment):
    result = preble("template", *arguments, **environment)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    return result.stderr


def test_a_folder_that_is_registered_twice_changes_nothing(own, folder):
    first = own("import", folder)
    assert [(row["file"], row["template"], row["state"]) for row in first] == [
        ("chat.yaml", "triage", "new"),
        ("plain.txt", "plain", "new"),
        ("t.toml", "t", "new"),
    ]
    before = own("list")
    assert {row["state"] for row in own("import", folder)} == {"unchanged"}
    assert own("list") == before
    (folder / "plain.txt").write_text("Hi {{name}},\n")
    assert [row["state"] for row in own("import", folder, "--dry-run")] == ["unchanged", "changed", "unchanged"]
    assert own("list") == before
    changed = own("import", folder, "--label", "production")
    assert [(row["version"], row["state"]) for row in changed] == [(1, "unchanged"), (2, "changed"), (1, "unchanged")]
    assert own("show", "plain@production")["version"] == 2


def test_importing_what_was_exported_changes_nothing(own, folder, tmp_path):
    own("import", folder)
    before = [own("show", name) for name in ("plain", "t", "triage")]
    paths = own("export", tmp_path / "out")
    assert [path.rpartition("/")[2] for path in paths] == ["plain.yaml", "t.yaml", "triage.yaml"]
    assert {row["state"] for row in own("import", tmp_path / "out")} == {"unchanged"}
    assert [own("show", name) for name in ("plain", "t", "triage")] == before
    assert "- role: system\n  content: |\n    You are" in (tmp_path / "out" / "triage.yaml").read_text()


def test_an_operator_shares_templates_and_has_those_of_tenants(daemon, folder, tmp_path):
    name = f"s{uuid4().hex[:8]}"
    shared = data("template", "register", folder / "plain.txt", "--name", name)
    assert shared["owner"] is None
    assert data("template", "register", folder / "plain.txt", "--name", name, "--tenant", "acme")["owner"] == "acme"
    listed = [row["owner"] for row in data("template", "list", "--tenant", "acme") if row["name"] == name]
    assert listed == ["acme", None]
    paths = data("template", "export", tmp_path / "o", "--tenant", "acme")
    assert [path.rpartition("/")[2] for path in paths] == [f"{name}.yaml"]
    data("template", "delete", name, "--tenant", "acme")
    assert "no template" in refusal("show", name + "x")


def test_a_tenants_key_is_for_its_own_templates_alone(key, folder):
    assert "leave out --tenant" in refusal("list", "--tenant", "acme", PREBLE_KEY=key)
    assert "leave out --tenant" in refusal("register", folder / "plain.txt", "--tenant", "acme", PREBLE_KEY=key)
    assert preble("tenant", "list", PREBLE_KEY=key).exit_code == Exit.REFUSED


def test_what_can_be_cached_is_reported(own, key, folder):
    [analysis] = own("register", folder / "chat.yaml")["analyses"]
    assert analysis["cacheable_tokens"] > len(LONG) - 16
    shown = preble("template", "show", "triage", PREBLE_KEY=key).stdout
    assert "without variables" in shown
    assert "content: |" in shown
    (folder / "early.txt").write_text("{{day}}" + LONG)
    advised = preble("template", "register", folder / "early.txt", PREBLE_KEY=key).stdout
    assert "Move {{day}} behind" in advised
    (folder / "twin.txt").write_text(LONG + "a")
    own("register", folder / "twin.txt")
    told = preble("template", "register", folder / "twin.txt", "--name", "twin2", PREBLE_KEY=key).stdout
    assert f"{len(LONG) + 1} tokens as twin@1" in told


def test_versions_differ_and_labels_move(own, key, folder):
    own("register", folder / "plain.txt")
    (folder / "plain.txt").write_text("Dear {{name}}!\n")
    own("register", folder / "plain.txt")
    assert own("label", "plain", "production", "1")["labels"] == {"production": 1}
    assert [row["labels"] for row in own("versions", "plain")] == [["latest"], ["production"]]
    told = own("diff", "plain@production", "plain@latest")
    assert (told["a"], told["b"]) == ("plain@1", "plain@2")
    assert {"-  Dear {{name}},", "+  Dear {{name}}!"} <= set(told["diff"])
    assert "changed meanwhile" in refusal("label", "plain", "x", "1", "--if-version", "1", PREBLE_KEY=key)
    assert own("label", "plain", "production", "--remove")["labels"] == {}
    refusal("label", "plain", "production", code=Exit.USAGE, PREBLE_KEY=key)
    assert own("delete", "plain")["name"] == "plain"
    refusal("show", "plain", PREBLE_KEY=key)


def test_a_template_is_rendered(own, key, folder):
    own("import", folder)
    assert own("render", "t", "--var", "n=12")["text"] == "12 x"
    assert own("render", "t@1")["text"] == "3 x"
    assert preble("template", "render", "plain", "--var", "name=Ann=e", PREBLE_KEY=key).stdout == "Dear Ann=e,\n\n"
    assert "role: user\n" in preble("template", "render", "triage", "--var", "question=why", PREBLE_KEY=key).stdout
    assert "`n` must be of the type integer" in refusal("render", "t", "--var", "n=x", PREBLE_KEY=key)
    refusal("render", "t", "--var", "n", code=Exit.USAGE, PREBLE_KEY=key)


def test_standard_input_is_a_file(key):
    from click.testing import CliRunner

    from preble.daemon.cli.main import main

    for given_, arguments in (('{"name": "in", "text": "{{a}} b"}', ()), ("{{a}} b", ("--name", "in"))):
        done = CliRunner(env={"PREBLE_KEY": key}).invoke(
            main, ["template", "register", "-", "--json", *arguments], input=given_
        )
        assert json.loads(done.stdout)["version"] == 1, done.stderr


@pytest.mark.parametrize(
    ("text", "file_format", "what"),
    [
        ("{", "json", "no json"),
        ("a: [", "yaml", "no yaml"),
        ("a = ", "toml", "no toml"),
        ("[]", "json", "table of fields"),
        ('{"text": 1}', "json", "text"),
        ('{"texts": "a"}', "json", "texts"),
    ],
)
def test_what_is_no_template_is_refused_with_its_place(text, file_format, what):
    with pytest.raises(ConfigError, match=f"^here: .*{what}"):
        parsed(text, file_format, "here", "a", None)


def test_two_files_of_one_name_are_refused_before_anything_is_registered(folder):
    (folder / "triage.json").write_text('{"text": "a"}')
    with pytest.raises(ConfigError, match="triage"):
        read_folder(folder)
    assert set(FORMATS.values()) == {"toml", "yaml", "json", "text"}


TEXTS = st.text(min_size=1) | st.text(alphabet="a \n\t:-#'\"|>&*!%@`\\{}\x85\u2028\ufeff", min_size=1)


@given(TEXTS, TEXTS, st.dictionaries(TEXTS, TEXTS | st.integers() | st.booleans() | st.none(), min_size=1))
def test_whatever_is_written_is_read_again(text, description, tool):
    messages = [TemplateMessage(role="user", content=text), TemplateMessage(role="assistant", content="{{a}}")]
    body = TemplateBody(messages=messages, tools=[tool], variables={"a": Variable(default=text, max_length=10**6)})
    again = parsed(written(body, name="a", description=description), "yaml", "x", None, None)
    assert (again.name, again.description) == ("a", description)
    fields = {name: getattr(again, name) for name in TemplateBody.__struct_fields__}
    assert msgspec.json.encode(TemplateBody(**fields)) == msgspec.json.encode(body)
