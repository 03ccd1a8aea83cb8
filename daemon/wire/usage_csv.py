"""Usage as comma-separated values: a line of names, then one line each. What is not known or not told is empty."""

from collections.abc import Iterable
from csv import DictWriter
from io import StringIO

import msgspec

from preble.daemon.wire.admin import UsagePage, UsageRow, UsageTotals


def rows_csv(page: UsagePage) -> str:
    """The requests of a page."""
    return _csv(UsageRow, page.rows)


def totals_csv(page: UsagePage) -> str:
    """The totals of a page."""
    return _csv(UsageTotals, page.totals)


def _csv(kind: type[msgspec.Struct], found: Iterable[msgspec.Struct]) -> str:
    text = StringIO()
    writer = DictWriter(text, kind.__struct_fields__, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(msgspec.structs.asdict(each) for each in found)
    return text.getvalue()
