"""`preble replay`: what it says of a recording, and its exit code."""

import json

from tests.cli.running import preble
from tests.sim.test_replay import small_recording


def test_equal_decisions_are_0(tmp_path):
    (tmp_path / "events").write_bytes(b"".join(small_recording()))
    result = preble("replay", tmp_path / "events")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "recorded by Preble 0, policy e2",
        "1 of 1 decisions are the same",
        "3 of 3 steps have the same effects",
    ]


def test_a_difference_is_1_and_shown(tmp_path):
    (tmp_path / "events").write_bytes(b"".join(small_recording()).replace(b'"gpu":"a","mode"', b'"gpu":"b","mode"'))
    result = preble("replay", tmp_path / "events")
    assert result.exit_code == 1
    assert "0 of 1 decisions are the same" in result.stdout
    assert "first difference: line 3, Arrived at 0.000 s" in result.stdout
    found = json.loads(preble("replay", tmp_path / "events", "--json").stdout)
    assert (found["decisions"], found["equal_decisions"], found["first_difference"]["line"]) == (1, 0, 3)


def test_a_file_cut_off_is_said_to_be(tmp_path):
    (tmp_path / "events").write_bytes(b"".join(small_recording())[:-3])
    result = preble("replay", tmp_path / "events")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "the last line is cut off, and left out")


def test_what_is_no_recording_is_2(tmp_path):
    (tmp_path / "events").write_text("prompt\n")
    result = preble("replay", tmp_path / "events")
    assert result.exit_code == 2
    assert f"{tmp_path / 'events'}: line 1: not a recording" in result.stderr
