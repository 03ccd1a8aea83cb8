import pytest

from preble.tui.query import QueryError, parse

NAMES = ("template", "tenant", "gpu", "ttft", "hit", "mode", "state", "event")
ROW = {
    "template": "tools-v4@12",
    "tenant": "acme",
    "gpu": "cpu0",
    "ttft": 1500.0,
    "hit": 64.0,
    "mode": "explore",
    "state": "failed",
    "event": None,
}


MATCHING = """
tenant:acme | TENANT:ACME | tenant:ac* | ttft>1s | ttft>=1500ms | ttft<2s ttft>1.4s | hit<65% | hit<65 | hit=64 |
status:failed | -mode:exploit | cpu | "cpu0" | -nothing | event:none |
tenant:acme ttft>1s state:failed gpu:cpu0 -mode:exploit acm |
template:tools-v4 | template:tools-v4@12 | -template:tools-v4@1 | template:tools* | template:*@12
"""
OTHERS = """
tenant:acm | ttft>2s | ttft<1500 | hit>0.7k | -acme | zoo | -tenant:acme | tenant:acme mode:exploit | event>3 |
event:x | template:tools | template:tools-v4@1 | template:12 | -template:tools-v4
"""


@pytest.mark.parametrize("text", ["", *MATCHING.split("|")])
def test_what_matches(text):
    assert parse(text, NAMES).matches(ROW)


@pytest.mark.parametrize("text", OTHERS.split("|"))
def test_what_does_not(text):
    assert not parse(text, NAMES).matches(ROW)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tenat:acme", "the nearest is tenant"),
        ("ttft>soon", "wants a number"),
        ("tenant:", "wants a value"),
        ("zzz:1", "there are"),
    ],
)
def test_what_cannot_be_read_is_said(text, says):
    with pytest.raises(QueryError, match=says):
        parse(text, NAMES)


def test_what_is_not_known_matches_no_comparison():
    assert not parse("ttft>0", NAMES).matches({**ROW, "ttft": None})
    assert not parse("ttft<9999999", NAMES).matches({**ROW, "ttft": None})


def test_one_of_several_words():
    assert parse("gpu:cpu1", NAMES).matches({"gpu": "cpu0 cpu1"})
