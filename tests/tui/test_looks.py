"""Every screen as a picture, at two sizes. `PREBLE_NEW_LOOKS=1 pytest tests/tui/test_looks.py` takes them anew."""

import os
import re
from pathlib import Path

import pytest
from tests.tui.feeds import OPERATORS, snapshot, tick
from tests.tui.running import LARGE, SMALL, running

from preble.tui.keys import SCREENS
from preble.tui.state import Link
from preble.tui.theme import LIGHT

LOOKS = Path(__file__).parent / "looks"
OWN_NAMES = re.compile(r"terminal-\d+-")
IN_DOCS = Path(__file__).parents[2] / "docs" / "images"
"""Pictures there are some of these."""
SIZES = {"small": SMALL, "large": LARGE}


def picture(console) -> str:
    """The screen as SVG, without the number by which rich tells pictures on one page from each other."""
    svg = OWN_NAMES.sub("terminal-", console.export_screenshot(title="preble-tui", simplify=True))
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def check(console, name: str, tmp_path: Path) -> None:
    known, now = LOOKS / f"{name}.svg", picture(console)
    if os.environ.get("PREBLE_NEW_LOOKS"):
        LOOKS.mkdir(exist_ok=True)
        known.write_text(now)
        shown = IN_DOCS / f"console-{name.removesuffix('-large')}.svg"
        if name.endswith("-large") and shown.exists():
            shown.write_text(now)
    if now != known.read_text():
        (tmp_path / f"{name}.svg").write_text(now)
        pytest.fail(f"{name} looks another way; now it is {tmp_path / name}.svg")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("screen", SCREENS)
async def test_screens(screen, size, tmp_path):
    async with running(snapshot(), tick(2), size=SIZES[size]) as run:
        run.clock.now_s += 0.4
        run.console.go(screen)
        await run.until(lambda: screen == run.base.NAME)
        if screen == "decisions":
            await run.until(lambda: run.base.explanation is not None)
        if screen == "tree":
            await run.until(lambda: run.table.rows.shown)
            await run.press("enter")
            await run.until(lambda: len(run.table.rows.shown) > 4)
        await run.settle()
        check(run.console, f"{screen}-{size}", tmp_path)


def test_pictures_in_the_docs_are_those():
    shown = {path.stem.removeprefix("console-"): path.read_text() for path in IN_DOCS.glob("console-*.svg")}
    assert shown
    assert [name for name, text in shown.items() if text != (LOOKS / f"{name}-large.svg").read_text()] == []


async def test_light(tmp_path):
    async with running(size=LARGE, palette=LIGHT) as run:
        check(run.console, "light", tmp_path)


async def test_no_colour(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    async with running(size=SMALL) as run:
        colours = set(re.findall(r"-r\d+ \{ fill: (#[0-9a-f]{6})", picture(run.console)))
        assert len(colours) <= 2, colours  # the terminal's own, and that reversed
        check(run.console, "no-colour", tmp_path)


async def test_lost(tmp_path):
    async with running(snapshot(), Link("lost", "no daemon answers", 1004.0), size=SMALL) as run:
        check(run.console, "lost", tmp_path)


async def test_help(tmp_path):
    async with running(size=LARGE) as run:
        await run.press("question_mark")
        check(run.console, "help", tmp_path)


async def test_confirming(tmp_path):
    async with running(size=LARGE, can_write=True, with_client=True) as run:
        await run.press("2")
        await run.choose("gpu3")
        await run.press("D")
        await run.until(lambda: run.client.planned)
        await run.settle()
        check(run.console, "confirm", tmp_path)


async def test_choosing_a_tenant(tmp_path):
    async with running(size=LARGE, can_write=True, with_client=True) as run:
        await run.press("5")
        await run.choose(OPERATORS)
        await run.press("P")
        await run.settle()
        check(run.console, "choose", tmp_path)


async def test_plots_alone(tmp_path):
    async with running(size=SMALL) as run:
        await run.press("v")
        await run.settle()
        check(run.console, "plots", tmp_path)


async def test_a_request(tmp_path):
    async with running(size=SMALL) as run:
        await run.press("6")
        await run.choose("req-00056")
        await run.press("enter")
        check(run.console, "request", tmp_path)
