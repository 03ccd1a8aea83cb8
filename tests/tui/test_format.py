import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.tui import format as fmt

NUMBERS = {
    0: "0", 0.42: "0.42", 7: "7", 9.996: "10", 37: "37", 412.4: "412", 999.7: "1 000",
    1472: "1 472", 9999.4: "9 999", 9999.6: "10k", 41_250: "41.2k", 999_600: "1M", -1240: "-1 240",
}  # fmt: skip
TIMES = {
    0: "0",
    0.31: "0.31",
    84: "84",
    999.6: "1 000",
    1472.4: "1 472",
    9_999.4: "9 999",
    9_999.6: "10 000",
    41_234: "41 200",
    99_951: "100k",
    412_000: "412k",
}
DURATIONS = {90: "90 ms", 999.6: "1 s", 4200: "4.2 s", 120_000: "2 min", 180_000: "3 min"}
AGES = {0.4: "0.4s", 9.96: "10s", 31: "31s", 240: "4m", 7200: "2h", 259_200: "3d"}


@pytest.mark.parametrize(("value", "text"), NUMBERS.items())
def test_numbers(value, text):
    assert fmt.number(value) == text


@pytest.mark.parametrize(("ratio", "text"), {None: "–", 0.0: "0 %", 0.474: "47 %", 2.4: "240 %"}.items())
def test_shares(ratio, text):
    assert fmt.share(ratio) == text


@pytest.mark.parametrize(("value", "text"), TIMES.items())
def test_milliseconds(value, text):
    assert fmt.milliseconds(value) == text


@pytest.mark.parametrize(("value", "text"), DURATIONS.items())
def test_durations(value, text):
    assert fmt.duration(value) == text


@pytest.mark.parametrize(("value", "text"), AGES.items())
def test_ages(value, text):
    assert fmt.age(value) == text


@given(st.floats(0, 9e14, allow_nan=False))
def test_numbers_are_never_wider_than_their_column(value):
    assert len(fmt.number(value)) <= 5
    assert len(fmt.milliseconds(value)) <= 6
    assert len(fmt.age(value)) <= max(4, len(str(int(value / 86_400))) + 1)


@pytest.mark.parametrize(
    "write", [fmt.number, fmt.count, fmt.percent, fmt.milliseconds, fmt.duration, fmt.age, fmt.clock]
)
def test_what_is_not_known_is_no_zero(write):
    assert write(None) == "–"


def test_times_of_day_are_in_utc():
    assert fmt.clock("2026-11-21T14:02:31.97+00:00") == "14:02:31"
    assert fmt.clock("2026-11-21T14:02:31.97+00:00", tenths=True) == "14:02:31.9"
    assert fmt.clock("yesterday") == "–"
    assert fmt.seconds_between("2026-11-21T14:02:31+00:00", "2026-11-21T14:02:33.5+00:00") == 2.5


def test_bars_and_sparks_keep_their_width():
    assert "".join(fmt.bar(0.5, 6)) == "━━━───"
    assert "".join(fmt.bar(7.0, 4)) == "━━━━"
    assert fmt.bar(None, 3) == ("", "   ")
    assert fmt.spark([0, None, 5, 10], 6) == "  ▁ ▄▇"
    assert fmt.spark([], 4) == "    "
    assert fmt.resample([1.0, 3.0, None, 5.0], 2) == [2.0, 5.0]


def test_terminals_are_not_obeyed():
    assert fmt.clean("a\x1b[31mred\x1b[0m\x07 b\nc\x9bd\u202e") == "ared· b⏎c·d·"
    assert fmt.clean("\x1b]0;title\x07x") == "x"


def test_everything_has_a_likeness_in_ascii():
    signs = "–…·●◐○✕▲▼▶◀▸▾←→│─█▓▒░×≠✓■□«»≈━╸▁▂▃▄▅▆▇⏎µ"
    assert "?" not in fmt.to_ascii(signs)
    assert len(fmt.to_ascii(signs)) == len(signs)
