import pytest
from click.testing import CliRunner

from preble.tui.main import main
from preble.tui.theme import DARK, LIGHT, Palette


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--demo", "--replay", "x"], "exclude each other"),
        (["--demo", "--write"], "--write wants a daemon"),
        (["--record", "x", "--replay", "y"], "exclude each other"),
        (["--replay", "nothing.jsonl"], "cannot be read"),
        (["--url", "localhost:1"], "is no address"),
        (["--key-file", "nothing.key", "--url", "http://localhost:1"], "cannot be read"),
    ],
)
def test_what_cannot_be_is_refused(arguments, says, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert says in done.output


def test_help_names_every_option():
    text = CliRunner().invoke(main, ["--help"]).output
    for option in ("--url", "--key-file", "--write", "--record", "--replay", "--demo", "--ascii", "--light"):
        assert option in text


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


DEUTERANOPIA = ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969))
PROTANOPIA = ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052))
"""As Machado, Oliveira and Fernandes have it (2009), at full severity."""


def seen(color: str, by) -> list[float]:
    parts = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return [sum(weight * part for weight, part in zip(row, parts, strict=True)) for row in by]


@pytest.mark.parametrize("palette", [DARK, LIGHT], ids=lambda palette: palette.name)
def test_every_role_can_be_read(palette: Palette):
    for ground in (palette.background, palette.surface, palette.cursor):
        for color in (palette.text, palette.ok, palette.warn, palette.bad, palette.accent):
            high, low = sorted((luminance(color), luminance(ground)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 3.0, (color, ground)


@pytest.mark.parametrize("palette", [DARK, LIGHT], ids=lambda palette: palette.name)
@pytest.mark.parametrize("by", [DEUTERANOPIA, PROTANOPIA], ids=["deuteranopia", "protanopia"])
def test_roles_are_told_apart_without_red_or_green(palette: Palette, by):
    for one in (palette.ok, palette.accent):
        for other in {palette.ok, palette.warn, palette.bad, palette.accent} - {one}:
            distance = sum((a - b) ** 2 for a, b in zip(seen(one, by), seen(other, by), strict=True)) ** 0.5
            assert distance > 40, (one, other, distance)
