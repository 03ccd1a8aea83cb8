"""What a prefix says: shown as it is, but for what terminals would obey; refused in words."""

import pytest
from tests.tui.running import running

from preble.daemon.errors import Refused
from preble.daemon.wire.live import PrefixText
from preble.tui.widgets.page import TextPage


class Reads:
    """Answers for one prefix, or refuses."""

    def __init__(self, answer) -> None:
        self.answer = answer
        self.asked = []

    async def __call__(self, prefix):
        self.asked.append(prefix)
        if isinstance(self.answer, Exception):
            raise self.answer
        return PrefixText(id=prefix, text=self.answer, truncated=True)


async def ask(run, answer) -> Reads:
    """Press what an operator presses, with the cursor on the first prefix."""
    await run.press("3")
    await run.until(lambda: run.table.rows.shown)
    reads = run.console.desk.prefix_text = Reads(answer)
    await run.press("t", "down", "enter")
    await run.until(lambda: isinstance(run.console.screen, TextPage) or run.base.note)
    return reads


async def test_text_is_shown_as_it_is_but_for_what_terminals_obey(monkeypatch):
    async with running() as run:
        copied = []
        monkeypatch.setattr(run.console, "copy_to_clipboard", copied.append)
        reads = await ask(run, "<|user|>[bold]no markup[/bold]\n\x1b[31mred\x07 \x9b2J\x00end")
        text = run.text()
        assert reads.asked == [run.console.screen_stack[-2].table.rows.cursor]
        assert "<|user|>[bold]no markup[/bold]" in text
        assert "red" in text
        assert "… (cut)" in text
        assert not {"\x1b", "\x07", "\x9b", "\x00"} & set(text)
        await run.press("y")
        assert not {"\x1b", "\x07", "\x9b", "\x00"} & set(copied[0])
        assert copied[0].startswith("<|user|>[bold]no markup[/bold]\nred")


@pytest.mark.parametrize(
    ("why", "says"),
    [
        ("This key lacks the scope prompts:read.", "lacks the scope prompts:read"),
        ("The text of 'x' is not kept: live.keep_prompts is false in preble.toml.", "live.keep_prompts is false"),
    ],
)
async def test_a_refusal_says_why(why, says):
    async with running(size=(160, 45)) as run:
        await ask(run, Refused(why))
        assert not isinstance(run.console.screen, TextPage)
        assert says in run.text()
