"""Whatever changes the world: who may, what is asked before, and on which row it is done."""

import asyncio

import pytest
from msgspec.structs import replace
from tests.tui.feeds import OPERATORS, RAG, TENANTS, gpu, pin, request, snapshot, template, tick
from tests.tui.running import confirm, is_asking, planned, running
from textual.widgets import Button, Input

from preble.daemon.errors import Refused
from preble.daemon.wire.live import TemplateKey
from preble.tui.screens.templates import tenants_for
from preble.tui.state import Link
from preble.tui.widgets.confirm import Confirm

GPU_KEYS = {"D": "drain", "U": "undrain", "R": "restart"}
TEMPLATE_KEYS = {"P": "pin", "U": "unpin", "W": "warm"}


@pytest.mark.parametrize(("key", "order"), GPU_KEYS.items())
async def test_orders_to_gpus(key, order):
    async with running(can_write=True, with_client=True) as run:
        await run.press("2")
        await run.choose("gpu3")
        await run.press(key)
        await planned(run)
        assert run.client.planned == [(order, "gpu3")]
        text = run.text()
        assert "draining: false → true" in text
        assert "9 waiting move to gpu0, gpu1." in text
        assert f"preble gpu {order} gpu3" in text
        assert "computed 0.0s ago" in text
        assert run.console.focused.id == "cancel"
        assert run.client.done == []
        await confirm(run, None if order == "undrain" else "gpu3")
        assert run.client.done == [(order, "gpu3")]
        assert run.base.note == f"{order.capitalize()} gpu3: done; audit entry 41"


@pytest.mark.parametrize(("key", "order"), TEMPLATE_KEYS.items())
async def test_orders_to_templates(key, order):
    """Of two tenants' templates of one name, and of two versions, the one under the cursor is meant."""
    async with running(can_write=True, with_client=True) as run:
        run.client.pins = [pin(RAG, "zoo", "3"), pin(replace(RAG, version=2), "zoo", "2")]
        await run.press("5")
        await run.choose(RAG)
        await run.press(key)
        await planned(run)
        assert f"preble template {order} rag-7@3 --tenant zoo" in run.text()
        await run.tell(tick(2, gone_templates=[OPERATORS]))
        await confirm(run)
        assert run.client.planned == run.client.done == [(order, RAG, "3", "zoo")]


@pytest.mark.parametrize(("key", "order"), [("P", "pin"), ("W", "warm")])
async def test_an_operators_template_is_ordered_for_a_tenant_that_is_chosen(key, order):
    own = template(1, key=TemplateKey(owner="zoo", name=OPERATORS.name, version=1))
    async with running(snapshot(templates=[template(0), own]), can_write=True, with_client=True) as run:
        await run.press("5")
        await run.choose(OPERATORS)
        await run.press(key)
        assert f"{order.capitalize()} tools-v4@4 in whose cache?" in run.text()
        names = [option.id for option in run.console.focused.options]
        assert sorted(names) == ["acme", "batch", "press", "shop"], "zoo has one of its own, which hides it"
        await run.press(*["j"] * names.index("press"), "enter")
        await planned(run)
        assert run.console.focused.id == "cancel"
        assert f"preble template {order} tools-v4@4 --tenant press" in run.text()
        await run.press("y")
        assert run.console.copied == f"preble template {order} tools-v4@4 --tenant press"
        await confirm(run)
        assert run.client.done == [(order, OPERATORS, "4", "press")]
        assert run.base.note.startswith(f"{order.capitalize()} tools-v4@4 for press: done")


async def test_nobody_is_chosen_and_nothing_is_ordered():
    async with running(can_write=True, with_client=True) as run:
        await run.press("5")
        await run.choose(OPERATORS)
        for key in ("P", "W"):
            await run.press(key, "escape")
            assert run.console.screen is run.base
        assert run.client.planned == []
        await run.tell(tick(2, gone_tenants=list(TENANTS)))
        await run.press("P")
        assert "no tenant is known" in run.base.note


async def test_tenants_that_asked_with_it_are_offered_first():
    rows = [request(number, tenant="shop", template="tools-v4@4") for number in range(2)]
    rows.append(request(7, tenant="zoo", template="tools-v4@3"))
    async with running(snapshot(), can_write=True) as run:
        state = run.console.state
        state.requests = {row.request_id: row for row in [*rows, request(9, tenant="press", template="tools-v4@4")]}
        names, texts = zip(*tenants_for(state, OPERATORS), strict=True)
        assert names == ("shop", "press", "acme", "batch", "zoo")
        assert "2 requests of late with it" in texts[0]
        assert "requests" not in texts[2]


async def test_what_is_unpinned_is_one_of_the_pins_that_there_are():
    async with running(can_write=True, with_client=True) as run:
        run.client.pins = [pin(OPERATORS, "acme"), pin(OPERATORS, "acme", "4"), pin(OPERATORS, "shop", "production")]
        run.client.pins += [pin(replace(OPERATORS, version=3), "zoo")]
        await run.press("5")
        await run.choose(OPERATORS)
        await run.press("U")
        await run.until(lambda: run.console.screen is not run.base)
        assert len(run.console.focused.options) == 3, "another version is another row"
        await run.press("j", "j", "enter")
        await planned(run)
        assert "preble template unpin tools-v4@production --tenant shop " in run.text()
        await run.press("escape", "U")
        await run.until(lambda: not isinstance(run.console.screen, Confirm) and run.console.screen is not run.base)
        await run.press("enter")
        await planned(run)
        assert "preble template unpin tools-v4 --tenant acme " in run.text()
        await confirm(run)
        assert run.client.done == [("unpin", OPERATORS, None, "acme")]
        run.client.pins = []
        await run.press("U")
        await run.until(lambda: run.base.note == "tools-v4@4 is not pinned")
        assert run.console.screen is run.base


async def test_of_pins_of_several_models_the_one_that_is_chosen_goes():
    async with running(can_write=True, with_client=True) as run:
        run.client.pins = [pin(RAG, "zoo"), replace(pin(RAG, "zoo"), model="another")]
        await run.press("5")
        await run.choose(RAG)
        await run.press("U")
        await run.until(lambda: run.console.screen is not run.base)
        await run.press("j", "enter")
        await planned(run)
        await confirm(run)
        assert run.client.done == [("unpin", RAG, None, "zoo", "another")]


async def test_whoever_begins_to_type_the_name_types_it_into_the_field():
    async with running(can_write=True, with_client=True) as run:
        await run.press("2")
        await run.choose("gpu3")
        await run.press("D")
        await planned(run)
        assert run.console.focused.id == "cancel"
        await run.press(*"gpu3")
        assert run.console.screen.query_one(Input).value == "gpu3"
        await run.press("enter")
        assert run.client.done == []
        assert run.console.focused.id == "do"


@pytest.mark.parametrize(("screen", "key", "method"), [("4", "E", "tenant"), ("4", "R", "keys"), ("5", "U", "pins")])
async def test_a_question_that_comes_late_is_not_asked_on_another_screen(screen, key, method, monkeypatch):
    async with running(can_write=True, with_client=True) as run:
        asked, answer = asyncio.Event(), asyncio.Event()
        original = getattr(run.console.desk, method)

        async def slow(*arguments):
            asked.set()
            await answer.wait()
            return await original(*arguments)

        monkeypatch.setattr(run.console.desk, method, slow)
        run.client.pins = [pin(RAG, "zoo"), pin(RAG, "zoo", "3")]
        await run.press(screen)
        await run.choose("zoo" if screen == "4" else RAG)
        await run.press(key)
        await asked.wait()
        await run.press("6")
        answer.set()
        await run.settle()
        assert run.console.screen is run.base
        assert run.base.NAME == "requests"


async def test_a_request_is_ended_by_a_button_that_does_not_say_cancel_too():
    async with running(can_write=True, with_client=True) as run:
        await run.press("6")
        await run.choose("req-00055")
        await run.press("K")
        await planned(run)
        assert [str(button.label) for button in run.console.screen.query(Button)] == ["Cancel", "End request"]


async def test_enter_cancels():
    async with running(can_write=True, with_client=True) as run:
        await run.press("2", "D")
        await planned(run)
        await run.press("enter")
        assert not is_asking(run)
        assert run.client.done == []


async def test_the_worst_need_the_name():
    async with running(can_write=True, with_client=True) as run:
        await run.press("2")
        await run.choose("gpu3")
        await run.press("R")
        await planned(run)
        button, box = run.console.screen.query_one("#do", Button), run.console.screen.query_one(Input)
        assert button.disabled
        box.focus()
        await run.press(*"gpu2")
        assert button.disabled
        await run.press("backspace", "3")
        assert not button.disabled
        await run.press("enter")
        assert run.client.done == [], "enter only goes on to the button"
        assert run.console.focused is button


async def test_it_is_done_to_the_row_of_the_key_press():
    async with running(can_write=True, with_client=True) as run:
        await run.press("2")
        await run.choose("gpu3")
        await run.press("U")
        await planned(run)
        await run.tell(
            tick(2, gpus=[gpu(number, load_ms=float(number)) for number in range(8)], gone_gpus=["gpu0", "gpu1"])
        )
        await confirm(run)
        assert run.client.done == [("undrain", "gpu3")]


async def test_a_row_that_has_gone_is_refused():
    async with running(can_write=True, with_client=True) as run:
        await run.press("2")
        await run.choose("gpu3")
        await run.press("U")
        await planned(run)
        await run.tell(tick(2, gone_gpus=["gpu3"]))
        assert run.console.screen.query_one("#do", Button).disabled
        assert "gpu3 is not there any more" in run.text()
        assert run.client.done == []


@pytest.mark.parametrize("loss", ["stale", "lost"])
async def test_nothing_is_asked_on_old_data(loss):
    """Neither which tenant is meant, nor which setting, nor which pin."""
    async with running(can_write=True, with_client=True) as run:
        if loss == "lost":
            await run.tell(Link("lost", "gone", None))
        else:
            run.clock.now_s += 60
        for screen, keys in (("4", "ER"), ("5", "PUW")):
            await run.press(screen)
            for key in keys:
                await run.press(key)
                assert run.console.screen is run.base
                assert f"not while the data is {loss.upper()}" in run.base.note


@pytest.mark.parametrize("loss", ["stale", "lost"])
async def test_nothing_is_changed_on_old_data(loss):
    async with running(can_write=True, with_client=True) as run:
        await run.press("2", "U")
        await planned(run)
        if loss == "lost":
            await run.tell(Link("lost", "gone", None))
        else:
            run.clock.now_s += 60
            await run.settle()
        assert run.console.screen.query_one("#do", Button).disabled
        assert f"not while the data is {loss.upper()}" in run.text()
        await run.press("escape", "U")
        assert not is_asking(run)
        assert loss.upper() in run.base.note
        assert run.client.done == []


async def test_without_write_nothing_is_even_asked():
    async with running(with_client=True) as run:
        for screen, keys in (("2", "DUR"), ("4", "ER"), ("5", "PUW"), ("6", "K")):
            await run.press(screen)
            assert "read-only" in run.text()
            for key in keys:
                await run.press(key)
                assert "--write" in run.base.note
        assert run.client.planned == run.client.done == []


async def test_a_refusal_is_told():
    async with running(can_write=True, with_client=True) as run:
        run.client.fault = Refused("gpu0 is the last one")
        await run.press("2", "U")
        await run.until(lambda: "gpu0 is the last one" in run.text())
        assert run.console.screen.query_one("#do", Button).disabled


@pytest.mark.parametrize(
    ("downs", "typed", "settings"),
    [
        (0, "3", {"weight": 3.0}),
        (1, "60", {"limits": {"requests_per_minute": 60}}),
        (6, "none", {"limits": {"tokens_per_day": None}}),
    ],
)
async def test_changing_a_tenant(downs, typed, settings):
    async with running(can_write=True, with_client=True) as run:
        await run.press("4")
        await run.choose("acme")
        await run.press("E")
        await run.until(lambda: run.console.screen is not run.base)
        await run.press(*["down"] * downs, "enter")
        run.console.focused.value = "much"
        await run.press("enter")
        assert "not that" in run.text()
        run.console.focused.value = typed
        await run.press("enter")
        await confirm(run)
        assert run.client.done == [("change", "acme", settings)]


async def test_revoking_a_key():
    async with running(can_write=True, with_client=True) as run:
        await run.press("4")
        await run.choose("acme")
        await run.press("R")
        await run.until(lambda: run.console.screen is not run.base)
        assert "wxyz" in run.text()
        await run.press("enter")
        await confirm(run, "KEY1")
        assert run.client.done == [("revoke", "KEY1")]


async def test_cancelling_a_request():
    async with running(can_write=True, with_client=True) as run:
        await run.press("6")
        await run.choose("req-00055")
        await run.press("K")
        await confirm(run)
        assert run.client.done == [("cancel", "req-00055")]
        await run.tell(tick(2, requests=[request(55, state="finished")]))
        await run.press("K")
        assert "not there any more" in run.base.note


async def test_copying_the_command():
    async with running(snapshot(), can_write=True, with_client=True) as run:
        await run.press("2", "U")
        await planned(run)
        await run.press("y")
        assert run.console.copied == "preble gpu undrain gpu0"
