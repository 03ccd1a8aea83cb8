"""The key table, and each of its keys pressed."""

import json
from csv import DictReader

import pytest
from tests.architecture.tree import ROOT
from tests.tui.feeds import OPERATORS, RAG, TENANTS, gpu, log, request, snapshot, template, tick
from tests.tui.running import running
from textual.widgets import Input

from preble.daemon.wire.live import TemplateKey
from preble.tui import keys as key_table
from preble.tui.keys import FOOTER_KEYS, KEYS, SCREENS, footer_of, keys_of
from preble.tui.screens.base import BaseScreen
from preble.tui.state import Freshness, Link
from preble.tui.widgets.help import Help, help_text


@pytest.mark.parametrize("screen", SCREENS)
def test_no_key_means_two_things(screen):
    names = [name for key in keys_of(screen) for name in key.keys]
    assert len(names) == len(set(names))
    assert not {"ctrl+b", "ctrl+a", "ctrl+j", "ctrl+s", "ctrl+o"} & set(names), "terminals and tmux want these"


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("can_write", [False, True])
def test_the_footer_has_few_keys_and_shows_no_change_that_may_not_be_made(screen, can_write):
    footer = footer_of(screen, can_write=can_write)
    assert len(footer) <= FOOTER_KEYS
    assert {"help", "command_palette"} <= {key.action for key in footer}
    assert can_write or not [key for key in footer if key.changes]


def test_what_changes_the_world_is_a_capital_and_moves_nothing():
    assert all(len(name) == 1 and name.isupper() for key in KEYS if key.changes for name in key.keys)


def test_help_has_every_key():
    for screen in SCREENS:
        text = help_text(screen, can_write=True).plain
        assert all(key.help in text and key.shown in text for key in keys_of(screen))


def test_the_documentation_has_every_key():
    text = (ROOT / "docs" / "console.md").read_text()
    missing = [key.help for key in KEYS if f"| `{key.shown}`" not in text or key.help not in text]
    assert not missing


async def test_every_key_has_something_that_it_does():
    async with running() as run:
        for screen in SCREENS:
            run.console.go(screen)
            await run.until(lambda screen=screen: screen == run.base.NAME)
            for key in keys_of(screen):
                assert hasattr(run.base, f"action_{key.action.partition('(')[0]}"), key.action


async def test_digits_go_to_screens_and_back():
    async with running() as run:
        for number, screen in enumerate(SCREENS, 1):
            await run.press(str(number))
            await run.until(lambda screen=screen: screen == run.base.NAME)
        await run.press("escape")
        await run.until(lambda: run.base.NAME == "logs")
        await run.press("minus")
        await run.until(lambda: run.base.NAME == "decisions")
        await run.press("minus")
        await run.until(lambda: run.base.NAME == "logs")


async def test_moving():
    async with running(size=(120, 14)) as run:
        await run.press("2")
        assert run.cursor == "gpu0"
        for keys, cursor in ((["j", "j", "down"], "gpu3"), (["k", "up"], "gpu1"), (["G"], "gpu7"), (["g"], "gpu0")):
            await run.press(*keys)
            assert run.cursor == cursor
        await run.press("pagedown")
        assert run.table.rows.index > 1
        await run.press("pageup")
        assert run.cursor == "gpu0"


async def test_the_cursor_stays_on_its_row_through_sorts_inserts_and_removals():
    async with running() as run:
        await run.press("2")
        await run.choose("gpu5")
        run.table.sort_by("load")
        await run.settle()
        assert run.cursor == "gpu5"
        await run.tell(tick(2, gpus=[gpu(5, load_ms=9e4), gpu(11)], gone_gpus=["gpu0", "gpu1"]))
        assert run.cursor == "gpu5"
        assert run.base.selected.load_ms == 9e4
        run.table.sort_by("gpu")
        await run.tell(tick(3, gpus=[gpu(number) for number in range(8)]))
        assert run.cursor == "gpu5"
        await run.press("3", "2")
        await run.until(lambda: run.base.NAME == "gpus")
        assert run.cursor == "gpu5"


async def test_sorting_by_a_chosen_column_and_a_second():
    async with running() as run:
        await run.press("2")
        await run.press("s", "down", "down", "enter")  # GPU, state, run
        assert [(by.column, by.descending) for by in run.table.rows.sort] == [("run", True)]
        await run.press("S", "enter")
        assert [by.column for by in run.table.rows.sort] == ["run", "gpu"]
        await run.press("s", "down", "down", "enter")
        assert [(by.column, by.descending) for by in run.table.rows.sort] == [("run", False)]


async def test_columns_are_hidden_and_shown():
    async with running() as run:
        await run.press("2")
        await run.press("c", "down", "space", "enter")
        assert "state" in run.table.hidden
        assert "state" not in [column.id for column in run.table.visible_columns()]


async def test_filtering():
    async with running() as run:
        await run.press("6")
        await run.press("slash", *"tenant:acme", "enter")
        assert {row.tenant for row in run.table.rows.shown} == {"acme"}
        await run.press("slash", *" zzz:1")
        assert "there is no zzz here" in run.base.note
        await run.press("escape")
        assert len(run.table.rows.shown) == 60
        assert not run.base.query_one("#filter", Input).display


async def test_going_deeper_and_back():
    async with running() as run:
        assert run.table.id == "alarms"
        await run.press("enter")
        await run.until(lambda: run.base.NAME == "gpus" and run.cursor == "gpu7")
        await run.choose("gpu3")
        await run.press("enter")
        await run.until(lambda: run.base.NAME == "requests")
        assert run.table.rows.query.text == "gpu:gpu3"
        assert {row.gpu for row in run.table.rows.shown} == {"gpu3"}
        await run.press("enter")
        assert "TTFT" in run.text()
        await run.press("escape")
        await run.press("e")
        await run.until(lambda: run.base.NAME == "decisions" and run.base.explanation is not None)
        await run.press("escape")
        await run.until(lambda: run.base.NAME == "requests")
        await run.press("escape")
        assert run.table.rows.query.text == "", "first the filter ends"
        await run.press("escape")
        await run.until(lambda: run.base.NAME == "gpus")


@pytest.mark.parametrize(
    ("screen", "row", "filter"),
    [("4", "acme", "tenant:acme"), ("5", RAG, "template:rag-7@3 tenant:zoo"), ("5", OPERATORS, "template:tools-v4@4")],
)
async def test_the_requests_of_a_row(screen, row, filter):
    async with running() as run:
        await run.press(screen)
        await run.choose(row)
        await run.press("enter")
        await run.until(lambda: run.base.NAME == "requests")
        assert run.table.rows.query.text == filter
        assert run.table.rows.shown


async def test_the_requests_of_an_operators_template_are_not_those_of_tenants_own_of_that_name():
    own = template(0, key=TemplateKey(owner="press", name=OPERATORS.name, version=1))
    async with running(snapshot(templates=[template(0), own])) as run:
        await run.press("5")
        await run.choose(OPERATORS)
        await run.press("enter")
        await run.until(lambda: run.base.NAME == "requests")
        assert run.table.rows.query.text == "template:tools-v4@4 -tenant:press"
        assert {row.tenant for row in run.table.rows.shown} == set(TENANTS) - {"press"}


async def test_templates_of_one_name_have_their_own_cursor_and_say_whose_they_are():
    async with running() as run:
        await run.press("5")
        await run.choose(RAG)
        lines = [line.split() for line in run.text().splitlines() if "rag-7 " in line or "tools-v4 " in line]
        assert ["tools-v4", "4", "◆", "shared"] in [line[:4] for line in lines]
        assert [line[:3] for line in lines if line[0] == "rag-7"] == [
            ["rag-7", "3", "zoo"],
            ["rag-7", "2", "zoo"],
            ["rag-7", "3", "shop"],
        ]
        await run.tell(tick(2, templates=[template(3, saved_tokens_per_min=9e9)], gone_templates=[OPERATORS]))
        assert run.cursor == run.base.selected.key == RAG
        await run.press("y")
        assert run.console.copied == "rag-7@3"
        await run.press("slash", *"owner:shared", "enter")
        assert run.table.rows.shown == []
        await run.tell(tick(3, templates=[template(0)]))
        assert [row.key for row in run.table.rows.shown] == [OPERATORS]


@pytest.mark.parametrize(("screen", "row"), [("2", "gpu3"), ("4", "acme"), ("5", RAG)])
async def test_the_decisions_of_a_row(screen, row):
    async with running() as run:
        await run.press(screen)
        await run.choose(row)
        await run.press("e")
        await run.until(lambda: run.base.NAME == "decisions")
        assert (row.name if row is RAG else row) in run.table.rows.query.text
        assert run.table.rows.shown


async def test_pausing_holds_what_is_shown_and_loses_nothing():
    async with running() as run:
        await run.press("6")
        await run.press("space")
        await run.tell(tick(2, requests=[request(number) for number in range(100, 117)]))
        assert len(run.table.rows.shown) == 60
        assert "PAUSED +17 new" in run.text()
        await run.press("space")
        assert len(run.table.rows.shown) == 77


async def test_following_ends_when_somebody_moves():
    async with running() as run:
        await run.press("6")
        assert run.cursor == "req-00059"
        await run.tell(tick(2, requests=[request(60)]))
        assert run.cursor == "req-00060"
        await run.press("j")
        assert run.cursor == "req-00059"
        await run.tell(tick(3, requests=[request(61)]))
        assert run.cursor == "req-00059"
        await run.press("f")
        assert run.cursor == "req-00061"


async def test_marking_and_copying():
    async with running() as run:
        await run.press("2")
        await run.press("x", "x", "y")
        assert run.console.copied == "gpu0\ngpu1"
        await run.press("Y")
        assert json.loads(run.console.copied.splitlines()[1])["gpu"] == "gpu1"


async def test_writing_a_table(tmp_path):
    async with running(writes_to=tmp_path) as run:
        await run.press("2")
        await run.press("slash", *"wait>10", "enter", "w", "enter")
        (path,) = tmp_path.iterdir()
        document = json.loads(path.read_text())
        assert path.name == "preble-gpus-20261121T140200Z.json"
        assert run.base.note == f"wrote 1 row to {path.name}"
        [row] = document["rows"]
        assert (row["gpu"], round(row["kv"])) == ("gpu3", 97)
        assert not {"kvbar", "loads"} & set(row), "pictures are not written"
        assert (document["as_of"], document["filter"]) == (snapshot().at, "wait>10")
        await run.press("ctrl+w", "enter")
        assert "cannot be written" in run.base.note
        await run.press("w", "escape")
        assert len(list(tmp_path.iterdir())) == 1


async def test_writing_marked_rows_as_csv(tmp_path):
    rows = [gpu(number) for number in range(8)] + [gpu(8, gpu="=1+1", hit_ratio=None)]
    async with running(snapshot(gpus=rows), writes_to=tmp_path) as run:
        await run.press("2")
        for name in ("gpu3", "=1+1"):
            await run.choose(name)
            await run.press("x")
        await run.press("w", "j", "enter")
        (path,) = tmp_path.iterdir()
        assert path.name == "preble-gpus-20261121T140200Z.csv"
        with path.open(newline="") as file:
            written = list(DictReader(file))
        assert [row["gpu"] for row in written] == ["'=1+1", "gpu3"], "no formula for a spreadsheet"
        assert {row["as_of"] for row in written} == {snapshot().at}
        assert written[0]["hit"] == "", "not known is not zero"


async def test_decisions_are_written_on_another_key_since_theirs_is_what_if(tmp_path):
    async with running(writes_to=tmp_path) as run:
        await run.press("8")
        await run.until(lambda: run.base.explanation is not None)
        await run.press("ctrl+w", "enter")
        (path,) = tmp_path.iterdir()
        assert path.name.startswith("preble-decisions-")


async def test_logs_from_a_level_on_and_one_in_full():
    async with running(snapshot(), tick(2, logs=[log(3, event="bad \x1b[31mred")])) as run:
        await run.press("7")
        assert "bad red" in run.text()
        await run.press("l", "l", "l")
        assert {row[1].level for row in run.table.rows.shown} == {"error"}
        await run.press("enter")
        assert '"request_id": "req-00003"' in run.text()
        await run.press("escape")
        assert run.base.NAME == "logs"


async def test_a_decision_and_what_if():
    async with running() as run:
        await run.press("8")
        await run.until(lambda: run.base.explanation is not None)
        first = run.base.explanation.request_id
        assert "◀ chosen" in run.text()
        assert "cheaper, holds less" in run.text(), "why the cheapest lost"
        await run.press("w")
        await run.until(lambda: run.base.what_if is not None)
        assert "gpu6 costs least of those that are left" in run.text()
        await run.press("n")
        await run.until(lambda: run.base.explanation is not None and run.base.explanation.request_id != first)
        await run.press("p")
        await run.until(lambda: run.base.explanation is not None and run.base.explanation.request_id == first)
        await run.press("enter", "Y")
        assert json.loads(run.console.copied)["request_id"] == first
        await run.press("escape")
        assert run.base.NAME == "decisions"


async def test_a_decision_that_is_not_known_says_so():
    async with running(snapshot(requests=0), tick(2, requests=[request(1234)])) as run:
        await run.press("8")
        await run.until(lambda: run.base.fault)
        await run.settle()
        assert "what was recorded does not hold it" in run.text()


async def test_the_tree_is_fetched_as_it_is_opened():
    async with running() as run:
        await run.press("3")
        await run.until(lambda: run.table.rows.shown)
        assert run.cursor == "a1f09c11"
        await run.press("enter")
        await run.until(lambda: len(run.table.rows.shown) == 7)
        assert "1 more" in run.text()
        await run.choose("a1f09c11+more")
        await run.press("enter")
        await run.until(lambda: run.table.put_on("b2000003"))
        await run.choose("a1f09c11")
        await run.press("enter")
        assert len(run.table.rows.shown) == 4
        await run.press("o")
        assert run.base.prefixes.order == "tokens"
        assert run.cursor == "a1f09c11"


async def test_a_prompts_text_is_shown_only_after_a_question():
    async with running() as run:
        await run.press("3")
        await run.until(lambda: run.table.rows.shown)
        await run.press("t")
        assert "the audit will say that you have read it" in run.text()
        await run.press("enter")
        assert run.base.note == "", "Cancel is the first"
        await run.press("t", "down", "enter")
        await run.until(lambda: run.base.note)
        assert "does not hold it" in run.base.note


async def test_plots_help_palette_pace_and_theme():
    async with running(size=(120, 36)) as run:
        await run.press("v")
        assert "hit ratio" in run.text()
        await run.press("escape", "question_mark")
        assert isinstance(run.console.screen, Help)
        await run.press("escape", "ctrl+p")
        assert not isinstance(run.console.screen, BaseScreen)
        await run.press("escape", "greater_than_sign")
        assert "0.25 s" in run.base.note
        await run.press("less_than_sign", "less_than_sign")
        assert "1 s" in run.base.note
        await run.press("T")
        assert not run.console.palette.is_dark


async def test_the_palette_finds_every_key_that_may_be_pressed():
    async with running() as run:
        commands = [command.title for command in run.console.get_system_commands(run.base)]
        keys = [key for key in keys_of("overview") if key.action != "command_palette" and not key.changes]
        assert len(commands) == len(keys)
        assert not [key for key in key_table.KEYS if not key.label]


async def test_quitting():
    async with running() as run:
        await run.press("q")
        assert run.console._exit


@pytest.mark.parametrize(("after_s", "word"), [(0.2, "LIVE"), (1.5, "LATE"), (9.0, "STALE")])
async def test_how_old_the_data_is_stands_on_every_screen(after_s, word):
    async with running() as run:
        run.clock.now_s += after_s
        for screen in SCREENS:
            run.console.go(screen)
            await run.until(lambda screen=screen: screen == run.base.NAME)
            await run.settle()
            assert word in run.text().splitlines()[0]
            assert run.base.query("LiveTable").first().is_dimmed == (word == "STALE")


async def test_loss_is_shown_and_keeps_keys_and_data():
    async with running() as run:
        await run.tell(Link("lost", "no daemon answers", run.clock.now_s + 4))
        assert run.console.freshness is Freshness.LOST
        assert "LOST, retry in 4s" in run.text()
        assert "no daemon answers" in run.text()
        await run.press("2")
        assert run.table.rows.shown
        await run.tell(snapshot(boot_id="boot-b", sequence=1))
        assert "LIVE" in run.text()
        assert "daemon restarted" in run.text()


async def test_ascii_is_ascii(tmp_path):
    async with running(ascii_only=True, size=(160, 45)) as run:
        svg = run.console.export_screenshot(simplify=True).partition("<g class=")[2]
        assert not {sign for sign in svg if ord(sign) > 126} - {"\xa0", "…"}
