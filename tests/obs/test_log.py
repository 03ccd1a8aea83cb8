"""The log: for people on a terminal, JSON lines elsewhere, and never a key."""

import io
import json
import logging
import os
import sys

import pytest
import structlog

from preble.daemon.obs.live.tail import LogTail
from preble.daemon.obs.log import configure
from preble.daemon.tenancy.keys import CHANCE_BYTES, mint


class Stderr(io.StringIO):
    """A stderr of our own: a terminal or none."""

    def __init__(self, is_terminal):
        super().__init__()
        self.isatty = lambda: is_terminal


@pytest.fixture
def configured(monkeypatch):
    """Configures the log and returns what is written to it; afterwards logging is as it was."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    root = logging.getLogger()
    handlers, level, structure = root.handlers[:], root.level, structlog.get_config()

    def configure_with(level, format_, *, is_terminal=False, tail=None):
        written = Stderr(is_terminal)
        monkeypatch.setattr(sys, "stderr", written)  # not earlier: pytest puts its own there before each phase
        for_people = configure(level, format_, tail)
        assert for_people == (format_ == "console" or (format_ == "auto" and is_terminal))
        return written

    yield configure_with
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**structure)  # which other tests may rely on that run in the same process


def lines(written):
    """One JSON object per line, and each of them whole."""
    return [json.loads(line) for line in written.getvalue().splitlines()]


# --- form ---


def test_what_is_no_terminal_gets_one_json_object_per_line(configured):
    stderr = configured("info", "auto")
    log = structlog.get_logger("a")
    log.info("began", text="two\nlines, \x1b[31m and \N{LINE SEPARATOR}", n=3, odd=object())
    log.warning("went_on", nothing=None)
    logging.getLogger("uvicorn.error").error("it %s", "broke\nin two")
    first, second, third = lines(stderr)
    assert (first["event"], first["level"], first["n"]) == ("began", "info", 3)
    assert first["text"].startswith("two\nlines")
    assert first["timestamp"].endswith("Z")
    assert second["nothing"] is None
    assert (third["event"], third["level"], third["logger"]) == ("it broke\nin two", "error", "uvicorn.error")


def test_an_exception_is_one_line_too(configured):
    stderr = configured("info", "json")
    for log in (structlog.get_logger("a"), logging.getLogger("b")):
        try:
            raise ValueError("no good")
        except ValueError:
            log.exception("broke")
    for line in lines(stderr):
        assert line["event"] == "broke"
        assert line["exception"].endswith("ValueError: no good")
        assert "exc_info" not in line


def test_a_terminal_gets_lines_for_people(configured):
    terminal = configured("info", "auto", is_terminal=True)
    structlog.get_logger("a").info("began", gpu="cpu0")
    assert "\x1b[" in terminal.getvalue()
    assert "began" in terminal.getvalue()


def test_no_colour_means_none(configured, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = configured("info", "auto", is_terminal=True)
    structlog.get_logger("a").info("began", gpu="cpu0")
    assert terminal.getvalue().split()[1:] == ["[info", "]", "began", "gpu=cpu0"]


@pytest.mark.parametrize(("format_", "is_json"), [("json", True), ("console", False)])
def test_the_format_can_be_chosen_against_the_terminal(configured, format_, is_json):
    terminal = configured("info", format_, is_terminal=True)
    structlog.get_logger("a").info("began")
    assert terminal.getvalue().startswith("{") == is_json


@pytest.mark.parametrize(
    ("level", "events"),
    [("debug", ["d", "i", "w", "e"]), ("info", ["i", "w", "e"]), ("warning", ["w", "e"]), ("error", ["e"])],
)
def test_a_level_leaves_out_what_is_below_it(configured, level, events):
    stderr = configured(level, "json")
    log = structlog.get_logger("a")
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    assert [line["event"] for line in lines(stderr)] == events


def test_other_libraries_are_heard_from_warnings_on(configured):
    stderr = configured("debug", "json")
    logging.getLogger("httpx").info("HTTP Request: GET")
    logging.getLogger("httpx").warning("slow")
    assert [line["event"] for line in lines(stderr)] == ["slow"]


def test_on_a_terminal_what_came_from_a_client_does_not_steer_it(configured):
    terminal = configured("info", "console", is_terminal=True)
    structlog.get_logger("a").info("began", model="\x1b[2Jx\x9b31m")
    logging.getLogger("b").warning("model \x1b]0;title\x07")
    assert not [piece for piece in ("\x1b[2J", "\x9b", "\x1b]", "\x07") if piece in terminal.getvalue()]


# --- secrets ---


@pytest.mark.parametrize("format_", ["json", "console"])
@pytest.mark.parametrize("env", ["live", "op"])
def test_a_key_is_hidden_wherever_it_stands_and_its_id_is_not(configured, format_, env):
    stderr = configured("info", format_)
    key = mint(env, os.urandom(CHANCE_BYTES))
    log = structlog.get_logger("a")

    def fail(local):
        raise ValueError(f"cannot take {local}")

    log.info(f"got {key.text}")
    log.info("got", text=f"Bearer {key.text}", raw=key.text.encode(), several=[key.text], nested={"a": {"b": key.text}})
    log.info("got", **{key.text: 1})
    logging.getLogger("b").error("got %s", key.text)
    for each in (log, logging.getLogger("b")):
        try:
            fail(key.text)
        except ValueError:
            each.exception("broke")
    secret = key.text.rpartition("_")[2]
    assert secret not in stderr.getvalue()
    assert stderr.getvalue().count(f"preble_{env}_{key.id}_[hidden]") == 9


def test_no_local_variable_is_printed_on_a_terminal(configured):
    terminal = configured("info", "console", is_terminal=True)
    prompt = "my private prompt"
    try:
        raise ValueError(len(prompt))
    except ValueError:
        structlog.get_logger("a").exception("broke")
    assert "ValueError" in terminal.getvalue()
    assert "my private prompt" not in terminal.getvalue().replace('prompt = "my private prompt"', "")


@pytest.mark.parametrize("format_", ["json", "console"])
@pytest.mark.parametrize("name", ["authorization", "Authorization", "key", "api_key", "secret", "password"])
def test_what_is_named_a_secret_is_hidden_whatever_it_is(configured, format_, name):
    stderr = configured("info", format_)
    log = structlog.get_logger("a")
    log.info("got", **{name: "hunter2"})
    log.info("got", headers={name: "hunter2", "accept": "text/plain"}, request={"headers": {name: b"hunter2"}})
    assert "hunter2" not in stderr.getvalue()
    assert stderr.getvalue().count("[hidden]") == 3
    assert "text/plain" in stderr.getvalue()


# --- for consoles ---


@pytest.mark.parametrize("format_", ["json", "console"])
def test_a_tail_gets_every_line_and_no_key(configured, format_):
    tail, told, key = LogTail(), [], mint("live", os.urandom(CHANCE_BYTES)).text
    configured("info", format_, tail=tail)
    structlog.get_logger().info("early", number=1)
    tail.listen(told.append)
    structlog.get_logger().info("served", authorization="Bearer x", text=f"with {key} in it", headers={"key": "zzz"})
    structlog.get_logger().debug("unseen")
    logging.getLogger("library").error("failed with %s", key)
    assert [(line.level, line.event) for line in told[:2]] == [("info", "early"), ("info", "served")]
    assert told[0].fields == {"number": "1"}
    assert told[1].fields["authorization"] == "[hidden]"
    assert "zzz" not in told[1].fields["headers"]
    assert told[2].level == "error"
    assert len(told) == 3
    assert key not in str(told)
    assert "[hidden]" in told[1].fields["text"]
    assert "[hidden]" in told[2].event


def test_a_line_without_end_is_cut_for_the_tail(configured):
    tail, told = LogTail(), []
    configured("info", "json", tail=tail)
    tail.listen(told.append)
    structlog.get_logger().info("long", text="x" * 100_000, **{f"field{number}": number for number in range(100)})
    assert len(told[0].fields["text"]) <= 2001
    assert len(told[0].fields) <= 32


def test_before_anybody_listens_only_the_latest_lines_are_kept(configured):
    tail, told = LogTail(kept=3), []
    configured("info", "json", tail=tail)
    for number in range(10):
        structlog.get_logger().info("line", number=number)
    tail.listen(told.append)
    assert [line.fields["number"] for line in told] == ["7", "8", "9"]
