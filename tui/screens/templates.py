"""Registered prompt templates: how much they save, and where they are warm."""

from collections import Counter
from collections.abc import Iterable

from textual.app import ComposeResult
from textual.containers import Vertical

from preble.daemon.errors import PrebleError
from preble.daemon.wire.live import LiveTemplate, TemplateKey
from preble.tui import columns as col
from preble.tui import format as fmt
from preble.tui.actions import order_template
from preble.tui.keys import Key
from preble.tui.roles import Cell, Role
from preble.tui.rows import Column, SortBy
from preble.tui.screens.base import BaseScreen
from preble.tui.state import ConsoleState
from preble.tui.widgets.choose import Choose
from preble.tui.widgets.lines import Lines
from preble.tui.widgets.table import LiveTable
from preble.tui.working import start

_SIGNS: dict[str, tuple[str, Role]] = {
    "warm": ("█", "ok"),
    "partial": ("▒", "warn"),
    "warming": ("░", "accent"),
    "stale": ("×", "bad"),
    "cold": ("·", "muted"),
}


class TemplatesScreen(BaseScreen):
    """`5`."""

    NAME = "templates"

    def body(self) -> ComposeResult:
        """The table and the details."""
        columns: list[Column[LiveTemplate]] = [
            col.text("template", "template", 16, lambda row: row.key.name, role="strong", widest=48),
            col.number("version", "ver", 4, lambda row: row.key.version, str),
            col.text("owner", "owner", 12, _owner, role=_owner_role, shown=_shown_owner, widest=32),
            col.number("tokens", "tokens", 7, lambda row: row.cacheable_tokens, fmt.milliseconds),
            col.number("requests", "req/min", 7, lambda row: row.requests_per_min),
            col.percent("hit", "hit %", 5, lambda row: row.hit_ratio, role=col.below(0.6, 0.3)),
            Column(
                id="where", title="on GPUs", width=14, widest=40, show=self._where, value=lambda row: float(_warm(row))
            ),
            col.text("pinned", "pinned", 6, lambda row: "yes" if row.pinned else "no", role=_pinned_role, priority=2),
            col.number("saved", "saved tok/min", 14, lambda row: row.saved_tokens_per_min, priority=3),
        ]
        with Vertical():
            yield LiveTable(
                columns,
                lambda row: row.key,
                sort=(SortBy("saved", True),),
                empty="no registered template was used of late",
            )
            yield Lines(classes="detail below")

    def show(self, view: ConsoleState) -> None:
        """The table and the details."""
        self.query_one(LiveTable).show(view.templates.values())
        self._show_details(view)

    def on_live_table_moved(self) -> None:
        """Another one is chosen."""
        self._show_details(self.console.view)

    def on_live_table_opened(self, event: LiveTable.Opened) -> None:
        """The requests that used it."""
        row = event.table.rows.current
        if row is not None:
            self.console.go("requests", _requests(self.console.view.templates, row.key))

    def decisions_of(self, row: LiveTemplate) -> tuple[str, str | None]:
        """Those of its requests."""
        return _requests(self.console.view.templates, row.key), None

    def name_of(self, row: LiveTemplate) -> str:
        """As commands want it."""
        return row.key.reference

    def works(self, key: Key) -> bool:
        """Only what is pinned can be unpinned."""
        return super().works(key) and (key.action != "unpin" or bool(self.selected.pinned))

    def action_pin(self) -> None:
        """Pin the one under the cursor."""
        self._order("pin")

    def action_unpin(self) -> None:
        """Ask which pin of the one under the cursor is to go."""
        if self.selected is not None and self.may_change():
            start(self, self._unpin, self.selected.key, group="ask")

    def action_warm(self) -> None:
        """Warm the one under the cursor."""
        self._order("warm")

    def _order(self, order: str) -> None:
        """Ask for whom, unless it is a tenant's own."""
        if self.selected is None or not self.may_change():
            return
        key: TemplateKey = self.selected.key  # taken now: the cursor may be elsewhere when it is done
        if key.owner is not None:
            self._confirm(order, key, str(key.version), key.owner)
            return

        def chosen(tenant: str | None) -> None:
            if tenant is not None:
                self._confirm(order, key, str(key.version), tenant)

        options = tenants_for(self.console.state, key)
        if not options:
            self.tell(f"{key.reference}: no tenant is known in whose cache it could be")
            return
        self.app.push_screen(Choose(f"{order.capitalize()} {key.reference} in whose cache?", options), chosen)

    async def _unpin(self, key: TemplateKey) -> None:
        try:
            rows = await self.console.desk.pins(key)
        except PrebleError as error:
            self.tell(f"{key.reference}: {error}")
            return
        if not self.is_current:
            return  # the operator is elsewhere by now
        pins = dict.fromkeys(
            (row.tenant, row.reference, row.model)
            for row in rows
            if row.owner == key.owner and row.version in (None, key.version)
        )
        if not pins:
            self.tell(f"{key.reference} is not pinned")
            return

        def chosen(number: str | None) -> None:
            if number is not None:
                tenant, reference, model = list(pins)[int(number)]
                is_one = [pin[:2] for pin in pins].count((tenant, reference)) == 1
                self._confirm("unpin", key, reference, tenant, model=None if is_one else model)

        if key.owner is not None and len(pins) == 1:
            chosen("0")
            return
        options = [(str(number), _pin(*pin)) for number, pin in enumerate(pins)]
        self.app.push_screen(Choose(f"Unpin {key.reference} from whose cache?", options), chosen)

    def _confirm(
        self, order: str, key: TemplateKey, reference: str | None, tenant: str, *, model: str | None = None
    ) -> None:
        self.console.confirm(
            order_template(order, key, reference, tenant, lambda: key in self.console.state.templates, model=model)
        )

    def _where(self, row: LiveTemplate) -> Cell:
        gpus = sorted(self.console.view.gpus)
        count: Cell = ((f"{_warm(row)}/{len(gpus)} ", "text"),)
        return count + tuple(_SIGNS.get(row.states.get(gpu, "cold"), ("?", "warn")) for gpu in gpus)

    def _show_details(self, view: ConsoleState) -> None:
        lines = self.query_one(".detail", Lines)
        row = view.templates.get(self.selected.key) if self.selected is not None else None
        lines.border_title = fmt.clean(row.key.reference) if row is not None else ""
        lines.show(details(row) if row is not None else [])


def tenants_for(state: ConsoleState, key: TemplateKey) -> list[tuple[str, str]]:
    """Tenants that can have one of the operator's, by name; those first that have asked with it of late."""
    hides = {other.owner for other in state.templates if other.name == key.name}
    asked = Counter(row.tenant for row in state.requests.values() if row.template == key.reference)
    names = sorted(state.tenants.keys() - hides, key=lambda name: (-asked[name], name))
    width = max(map(len, names), default=0)
    return [
        (name, fmt.clean(f"{name:<{width}}   {f'{asked[name]} requests of late with it' if asked[name] else ''}"))
        for name in names
    ]


def _requests(templates: Iterable[TemplateKey], key: TemplateKey) -> str:
    """A filter of its requests: they name a template, and a tenant's own hides the operator's of that name."""
    if key.owner is not None:
        return f"template:{key.reference} tenant:{key.owner}"
    others = sorted({other.owner for other in templates if other.name == key.name and other.owner is not None})
    return " ".join([f"template:{key.reference}", *(f"-tenant:{owner}" for owner in others)])


def _pin(tenant: str, reference: str | None, model: str) -> str:
    return fmt.clean(f"{tenant}   {f'as {reference}' if reference else 'what requests get'}   of {model}")


def _owner(row: LiveTemplate) -> str:
    """For filters: both words are found."""
    return row.key.owner or "operator shared"


def _shown_owner(row: LiveTemplate) -> str:
    return row.key.owner or "◆ shared"


def _owner_role(row: LiveTemplate) -> Role:
    return "text" if row.key.owner is not None else "accent"


def _warm(row: LiveTemplate) -> int:
    return sum(1 for state in row.states.values() if state == "warm")


def _pinned_role(row: LiveTemplate) -> Role:
    return "accent" if row.pinned else "muted"


def details(row: LiveTemplate) -> list[Cell]:
    """Where it is, and what it saves."""
    states: list[tuple[str, Role]] = []
    for gpu, state in sorted(row.states.items()):
        sign, role = _SIGNS.get(state, ("?", "warn"))
        states += [(f"{gpu} ", "text"), (f"{sign} {state}   ", role)]
    legend: list[tuple[str, Role]] = []
    for state, (sign, role) in _SIGNS.items():
        legend += [(f"{sign} ", role), (f"{state}   ", "muted")]
    owner = "the operator, shared by all tenants" if row.key.owner is None else fmt.clean(row.key.owner)
    where: tuple[tuple[str, Role], ...] = tuple(states) or (("nowhere", "muted"),)
    return [
        ((" where     ", "muted"), *where),
        (
            (" saves     ", "muted"),
            (f"{fmt.number(row.saved_tokens_per_min)} prompt tokens/min, hit {fmt.share(row.hit_ratio)}", "text"),
        ),
        ((" owner     ", "muted"), (f"{owner}{', pinned' if row.pinned else ''}", "text")),
        ((" signs     ", "muted"), *legend),
    ]
