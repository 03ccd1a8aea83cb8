"""What a change would do, and what came of it: plans that get old, entries in the audit, keys that are offered."""

import pytest
from tests.tui.feeds import OPERATORS, RAG, iso, snapshot, tick
from tests.tui.running import SMALL, confirm, planned, running
from textual.widgets import Button

from preble.daemon.errors import Refused
from preble.daemon.wire.accounts import PlannedChange
from preble.daemon.wire.console import NoEntry
from preble.tui.actions import differences

# --- a plan that is too old ---


async def press_do(run) -> None:
    dialog = run.console.screen
    dialog.query_one("#do", Button).press()
    await run.settle()
    await run.until(lambda: run.console.screen is not dialog or not dialog._is_busy)


async def test_an_old_plan_is_made_anew_and_done_if_it_is_still_the_same():
    async with running(can_write=True, with_client=True) as run:
        await run.press("2", "U")
        await planned(run)
        run.clock.now_s += 4
        await run.tell(tick(2))
        await press_do(run)
        assert (len(run.client.planned), len(run.client.done)) == (1, 1), "young enough"
        await run.press("U")
        await planned(run)
        run.clock.now_s += 6
        await run.tell(tick(3))
        await press_do(run)
        assert (len(run.client.planned), len(run.client.done)) == (3, 2)


async def test_what_was_not_shown_is_not_done_but_shown_and_asked_again():
    async with running(can_write=True, with_client=True) as run:
        await run.press("2")
        await run.choose("gpu3")
        await run.press("D")
        await planned(run)
        await run.press(*"gpu3")
        run.client.effect = ("New requests go elsewhere.", "12 waiting move to gpu0.")
        run.clock.now_s += 6
        await run.tell(tick(2))
        await press_do(run)
        assert run.client.done == []
        text = run.text()
        assert "something else would come of it" in text
        assert "▲ 12 waiting move to gpu0." in text
        assert "▲ New requests go elsewhere." not in text, "that is as it was"
        assert "9 waiting" not in text
        assert run.console.focused.id == "cancel"
        await press_do(run)
        assert run.client.done == [("drain", "gpu3")], "the name need not be typed again"


async def test_a_daemon_that_was_restarted_under_the_dialog_is_asked_anew():
    async with running(can_write=True, with_client=True) as run:
        await run.press("2", "U")
        await planned(run)
        await run.tell(snapshot(boot_id="boot-b"))
        run.client.effect = ("gpu0 is in service.",)
        await press_do(run)
        assert run.client.done == []
        assert "▲ gpu0 is in service." in run.text()


async def test_what_the_daemon_refuses_by_now_is_not_done():
    async with running(can_write=True, with_client=True) as run:
        await run.press("2", "U")
        await planned(run)
        run.clock.now_s += 6
        await run.tell(tick(2))
        run.client.fault = Refused("gpu0 is gone")
        await press_do(run)
        assert "the daemon refuses: gpu0 is gone" in run.text()
        assert run.console.screen.query_one("#do", Button).disabled
        assert run.client.done == []


# --- what is told of it ---


@pytest.mark.parametrize(
    ("entry", "fault", "says"),
    [
        (None, None, "done; nothing was changed, so the audit has no entry"),
        (7, NoEntry("it is gone"), "done; its entry in the audit cannot be read: it is gone"),
    ],
)
async def test_what_is_done_without_an_entry_says_why(entry, fault, says):
    async with running(can_write=True, with_client=True) as run:
        run.client.entry, run.client.audit_fault = entry, fault
        await run.press("2", "U")
        await confirm(run)
        assert run.base.note.endswith(says)


def test_the_moment_of_a_change_is_no_part_of_its_effect():
    """Else no plan to revoke a key would be the same as the one before."""
    before, after = {"revoked_at": None}, {"revoked_at": iso()}
    plan = PlannedChange(action="key.revoke", target="KEY1", before=before, after=after)
    assert differences(plan) == ["revoked_at: – → now"]


def test_what_is_new_is_told_in_a_line():
    plan = PlannedChange(action="template.pin", target="a", before=None, after={"replicas": 2, "expires_at": None})
    assert differences(plan) == ["new: replicas 2"]


@pytest.mark.parametrize("key", ["U", "R"])
async def test_the_buttons_stay_in_sight_however_long_the_effect_is(key):
    async with running(size=SMALL, can_write=True, with_client=True) as run:
        run.client.effect = tuple(f"This is line {number} of what would come of it." for number in range(30))
        await run.press("2", key)
        await planned(run)
        await run.settle()
        for button in run.console.screen.query(Button):
            assert button.region.bottom < SMALL[1]
        text = run.text()
        assert "Cancel" in text
        assert "same as: preble gpu" in text
        assert "line 0 " in text
        assert "line 29 " not in text
        await run.press(*["pagedown"] * 10)
        assert "line 29 " in run.text()


# --- what is offered ---


def offered(run) -> list[str]:
    return run.text().splitlines()[-1].split()


async def test_only_what_works_is_offered():
    async with running(size=(160, 45), can_write=True, with_client=True) as run:
        await run.press("2")
        await run.choose("gpu3")
        assert "drain" in offered(run)
        assert "undrain" not in offered(run)
        await run.choose("gpu5")
        assert "undrain" in offered(run)
        assert "drain" not in offered(run)
        await run.press("5")
        await run.choose(OPERATORS)
        assert "unpin" in offered(run)
        await run.choose(RAG)
        assert "unpin" not in offered(run)
