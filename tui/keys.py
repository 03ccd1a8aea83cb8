"""Every key of the console, once: bindings, footer, help, palette, docs and tests are made from this table."""

from dataclasses import dataclass
from typing import Literal

Screen = Literal["overview", "gpus", "tree", "tenants", "templates", "requests", "logs", "decisions"]
SCREENS: tuple[Screen, ...] = ("overview", "gpus", "tree", "tenants", "templates", "requests", "logs", "decisions")
TITLES: dict[Screen, str] = {
    "overview": "Overview",
    "gpus": "GPUs",
    "tree": "Tree",
    "tenants": "Tenants",
    "templates": "Templates",
    "requests": "Requests",
    "logs": "Logs",
    "decisions": "Decisions",
}
FOOTER_KEYS = 7
"""The most that the footer shows."""

Group = Literal["go", "table", "look", "change", "console"]
GROUP_TITLES: dict[Group, str] = {
    "go": "Go",
    "table": "Tables",
    "look": "Look closer",
    "change": "Change (with --write)",
    "console": "Console",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One thing that keys do. `action` is also the name of the screen's method, `action_...`, that does it."""

    action: str
    keys: tuple[str, ...]
    """As Textual names them, the one that is shown first."""
    label: str
    """For the footer: one or two words."""
    help: str
    group: Group
    screens: tuple[Screen, ...] = SCREENS
    footer: int = 0
    """Its rank in the footer; 0: not there. Lower ranks first."""

    @property
    def shown(self) -> str:
        """The key as people read it."""
        return shown(self.keys[0])

    @property
    def changes(self) -> bool:
        """Whether it changes the world, so that it needs `--write` and fresh data."""
        return self.group == "change"


_SHOWN = {
    "escape": "esc", "question_mark": "?", "slash": "/", "minus": "-", "ctrl+p": "^p", "less_than_sign": "<",
    "greater_than_sign": ">", "pagedown": "pgdn", "pageup": "pgup",
    "ctrl+f": "^f", "ctrl+u": "^u", "ctrl+w": "^w", "ctrl+c": "^c",
}  # fmt: skip


def shown(name: str) -> str:
    """One of Textual's names of keys, as people read it."""
    return _SHOWN.get(name, name)


def _go(number: int, screen: Screen) -> Key:
    return Key(
        action=f"go('{screen}')",
        keys=(str(number),),
        label=TITLES[screen],
        help=f"{TITLES[screen]} screen",
        group="go",
    )


_WRITE = "Write the table, or its marked rows, to a JSON or CSV file"
_W_IS_FREE: tuple[Screen, ...] = tuple(screen for screen in SCREENS if screen != "decisions")  # there it is what if

KEYS: tuple[Key, ...] = (
    *(_go(number, screen) for number, screen in enumerate(SCREENS, 1)),
    Key(
        action="open",
        keys=("enter",),
        label="open",
        help="Go deeper: the row's own page, or the rows under it",
        group="go",
        footer=1,
    ),
    Key(
        action="back",
        keys=("escape",),
        label="back",
        help="Back to where you came from; first ends a filter",
        group="go",
        footer=90,
    ),
    Key(action="previous", keys=("minus",), label="previous", help="The screen before this one", group="go"),
    Key(action="move(1)", keys=("j", "down"), label="down", help="One row down", group="table"),
    Key(action="move(-1)", keys=("k", "up"), label="up", help="One row up", group="table"),
    Key(action="page(1)", keys=("pagedown", "ctrl+f"), label="page down", help="One page down", group="table"),
    Key(action="page(-1)", keys=("pageup", "ctrl+u"), label="page up", help="One page up", group="table"),
    Key(action="first", keys=("g", "home"), label="first", help="To the first row", group="table"),
    Key(action="last", keys=("G", "end"), label="last", help="To the last row", group="table"),
    Key(
        action="filter",
        keys=("slash",),
        label="filter",
        help="Filter: tenant:acme ttft>1s -mode:explore text",
        group="table",
        footer=3,
    ),
    Key(
        action="sort",
        keys=("s",),
        label="sort",
        help="Choose the column to sort by; again: the other way round",
        group="table",
        footer=30,
    ),
    Key(
        action="sort_more", keys=("S",), label="then sort by", help="Sort equal rows by one more column", group="table"
    ),
    Key(action="columns", keys=("c",), label="columns", help="Show and hide columns", group="table"),
    Key(action="mark", keys=("x",), label="mark", help="Mark the row, to copy or write several", group="table"),
    Key(
        action="pause",
        keys=("space",),
        label="pause",
        help="Hold what is shown; what comes meanwhile is kept and counted",
        group="look",
        footer=4,
    ),
    Key(
        action="follow",
        keys=("f",),
        label="follow",
        help="Stay at the newest row",
        group="look",
        screens=("requests", "logs"),
        footer=5,
    ),
    Key(
        action="explain",
        keys=("e",),
        label="explain",
        help="Why it went there: the decision of this request, or the last ones of this row",
        group="look",
        screens=("overview", "gpus", "tree", "tenants", "templates", "requests"),
        footer=6,
    ),
    Key(
        action="what_if",
        keys=("w",),
        label="what if",
        help="Decide again without the GPU under the cursor, or without several",
        group="look",
        screens=("decisions",),
        footer=2,
    ),
    Key(
        action="neighbour(1)",
        keys=("n",),
        label="next",
        help="The next decision",
        group="look",
        screens=("decisions",),
        footer=7,
    ),
    Key(
        action="neighbour(-1)",
        keys=("p",),
        label="previous",
        help="The decision before",
        group="look",
        screens=("decisions",),
    ),
    Key(
        action="order",
        keys=("o",),
        label="order",
        help="Another order of continuations: by requests, tokens or reuse",
        group="look",
        screens=("tree",),
        footer=8,
    ),
    Key(
        action="text",
        keys=("t",),
        label="text",
        help="Show the prompt's text; needs the scope prompts:read and is written to the audit",
        group="look",
        screens=("tree",),
        footer=7,
    ),
    Key(
        action="level",
        keys=("l",),
        label="level",
        help="Show logs from this level on: debug, info, warning, error",
        group="look",
        screens=("logs",),
        footer=6,
    ),
    Key(
        action="plots",
        keys=("v",),
        label="plots",
        help="Latency, hit ratio and load over the last hour",
        group="look",
        screens=("overview", "gpus"),
        footer=7,
    ),
    Key(
        action="copy",
        keys=("y",),
        label="copy",
        help="Copy the row's name, or those of marked rows",
        group="look",
        footer=40,
    ),
    Key(action="copy_json", keys=("Y",), label="copy JSON", help="Copy the row as JSON", group="look"),
    Key(action="write", keys=("w", "ctrl+w"), label="write", help=_WRITE, group="look", screens=_W_IS_FREE),
    Key(action="write", keys=("ctrl+w",), label="write", help=_WRITE, group="look", screens=("decisions",)),
    Key(
        action="drain",
        keys=("D",),
        label="drain",
        help="Drain the GPU: nothing new is placed there",
        group="change",
        screens=("gpus",),
        footer=2,
    ),
    Key(
        action="undrain",
        keys=("U",),
        label="undrain",
        help="Put the GPU back to work",
        group="change",
        screens=("gpus",),
        footer=2,
    ),
    Key(
        action="restart",
        keys=("R",),
        label="restart",
        help="Restart the GPU's engine when its requests have ended",
        group="change",
        screens=("gpus",),
        footer=2,
    ),
    Key(
        action="pin",
        keys=("P",),
        label="pin",
        help="Keep the template warm",
        group="change",
        screens=("templates",),
        footer=2,
    ),
    Key(
        action="unpin",
        keys=("U",),
        label="unpin",
        help="Keep the template warm no more",
        group="change",
        screens=("templates",),
        footer=2,
    ),
    Key(
        action="warm",
        keys=("W",),
        label="warm",
        help="Prefill the template where it is wanted",
        group="change",
        screens=("templates",),
        footer=2,
    ),
    Key(
        action="edit",
        keys=("E",),
        label="edit",
        help="Change the tenant's weight or limits",
        group="change",
        screens=("tenants",),
        footer=2,
    ),
    Key(
        action="revoke",
        keys=("R",),
        label="revoke key",
        help="Revoke one of the tenant's keys",
        group="change",
        screens=("tenants",),
        footer=2,
    ),
    Key(
        action="cancel",
        keys=("K",),
        label="cancel",
        help="Cancel the request",
        group="change",
        screens=("requests",),
        footer=2,
    ),
    Key(action="help", keys=("question_mark",), label="help", help="This help", group="console", footer=80),
    Key(
        action="command_palette",
        keys=("ctrl+p",),
        label="commands",
        help="Find any of these by name",
        group="console",
        footer=81,
    ),
    Key(action="slower", keys=("less_than_sign",), label="slower", help="Draw less often", group="console"),
    Key(action="faster", keys=("greater_than_sign",), label="faster", help="Draw more often", group="console"),
    Key(action="theme", keys=("T",), label="theme", help="Dark or light", group="console"),
    Key(
        action="quit",
        keys=("q", "ctrl+c"),
        label="quit",
        help="End the console; in a page of its own: back",
        group="console",
    ),
)


def keys_of(screen: Screen) -> list[Key]:
    """All that work on a screen."""
    return [key for key in KEYS if screen in key.screens]


def footer_of(screen: Screen, *, can_write: bool, works: frozenset[str] | None = None) -> list[Key]:
    """Those to show at the bottom, of what works here and now: `works` has their actions; None: all do."""
    shown = [
        key
        for key in keys_of(screen)
        if key.footer and (can_write or not key.changes) and (works is None or key.action in works)
    ]
    best = sorted(shown, key=lambda key: key.footer)
    always = [key for key in best if key.action in ("help", "command_palette")]
    others = [key for key in best if key not in always]
    return others[: FOOTER_KEYS - len(always)] + always
