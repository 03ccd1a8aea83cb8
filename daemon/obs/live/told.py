"""What consoles have been told of rows, so that a tick says only what is new."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Row = TypeVar("_Row")


class Told(Generic[_Key, _Row]):
    """Rows of one kind, as they were told last."""

    def __init__(self, key: Callable[[_Row], _Key]) -> None:
        """`key` tells rows from each other."""
        self._key = key
        self._rows: Mapping[_Key, _Row] = {}

    def forget(self) -> None:
        """Nobody has been told of any."""
        self._rows = {}

    def news(self, rows: Iterable[_Row]) -> tuple[list[_Row], list[_Key]]:
        """Rows that are not as they were told, and keys of those that were told and are no more."""
        told, self._rows = self._rows, {self._key(row): row for row in rows}
        changed = [row for key, row in self._rows.items() if told.get(key) != row]
        return changed, [key for key in told if key not in self._rows]
