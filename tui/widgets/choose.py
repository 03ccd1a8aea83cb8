"""Small lists to choose from, over the screen."""

from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList, SelectionList, Static
from textual.widgets.option_list import Option
from textual.widgets.selection_list import Selection

if TYPE_CHECKING:
    from preble.tui.widgets.table import LiveTable


class Choose(ModalScreen[str | None]):
    """One of some: its id, or None if nobody chose."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss(None)", show=False),
        Binding("j", "app.simulate_key('down')", show=False),
        Binding("k", "app.simulate_key('up')", show=False),
    ]

    def __init__(self, title: str, options: list[tuple[str, str]]) -> None:
        super().__init__()
        self._title = title
        self._options = options

    def compose(self) -> ComposeResult:
        """The list."""
        with Vertical(classes="box"):
            yield Static(self._title, classes="box-title", markup=False)
            yield OptionList(*(Option(text, id=name) for name, text in self._options), markup=False)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """That one."""
        self.dismiss(event.option.id)


class ChooseColumn(Choose):
    """The column to sort by."""

    def __init__(self, table: "LiveTable[Any]", *, add: bool) -> None:
        signs = {by.column: "▼" if by.descending else "▲" for by in table.rows.sort}
        options = [(column.id, f"{signs.get(column.id, ' ')} {column.title}") for column in table.rows.columns]
        super().__init__("Then sort by" if add else "Sort by", options)


class ChooseColumns(ModalScreen[set[str] | None]):
    """The columns to show: the ids of those to hide, or None if all is to stay as it is."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss(None)", show=False),
        Binding("enter", "done", show=False, priority=True),
    ]

    def __init__(self, table: "LiveTable[Any]") -> None:
        super().__init__()
        self._table = table

    def compose(self) -> ComposeResult:
        """The list."""
        table = self._table
        options = [Selection(column.title, column.id, column.id not in table.hidden) for column in table.rows.columns]
        with Vertical(classes="box"):
            yield Static("Columns: space shows or hides, enter is done", classes="box-title", markup=False)
            yield SelectionList[str](*options)

    def action_done(self) -> None:
        """Hide what is not chosen; something always stays."""
        shown = set(self.query_one(SelectionList).selected)
        names = {column.id for column in self._table.rows.columns}
        self.dismiss(names - shown if shown else None)
