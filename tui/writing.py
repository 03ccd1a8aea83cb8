"""Tables as files: what is shown, and as of when. Pure."""

from collections.abc import Collection, Mapping, Sequence
from csv import DictWriter
from dataclasses import dataclass
from io import StringIO
from typing import Any

import msgspec

from preble.tui.rows import Rows

FORMATS = [
    ("json", "JSON: one document, with as_of and the filter"),
    ("csv", "CSV: a line of names, then one line each, with as_of in front"),
]
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A table as it is shown. `as_of` is the daemon's time of it; None: it never told any."""

    screen: str
    as_of: str | None
    query: str
    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]

    def encoded(self, format: str) -> bytes:
        """What a file of one of `FORMATS` is to hold."""
        return self._csv() if format == "csv" else self._json()

    def _json(self) -> bytes:
        document = {"as_of": self.as_of, "screen": self.screen, "filter": self.query, "rows": self.rows}
        return msgspec.json.format(msgspec.json.encode(document))

    def _csv(self) -> bytes:
        text = StringIO()
        writer = DictWriter(text, ("as_of", *self.columns), lineterminator="\r\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({"as_of": self.as_of, **{name: _plain(value) for name, value in row.items()}})
        return text.getvalue().encode()


def sheet_of(rows: Rows[Any], hidden: Collection[str], screen: str, as_of: str | None) -> Sheet:
    """What is shown of a table, or of it what is marked, in the units of its columns."""
    columns = [column for column in rows.columns if not column.is_drawn and column.id not in hidden]
    return Sheet(
        screen=screen,
        as_of=as_of,
        query=rows.query.text,
        columns=tuple(column.id for column in columns),
        rows=[
            {column.id: column.value(row) for column in columns}
            for row in (rows.chosen() if rows.marked else rows.shown)
        ],
    )


def _plain(value: Any) -> Any:
    """Without what spreadsheets would take for a formula: names and log lines come from outside."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value
