"""The filter language of all tables: `tenant:acme ttft>1s -mode:explore "some text"`.

Terms stand apart by blanks, and a row has to match each of them. `field:value` is the whole value or one of its words,
or a pattern with `*`, and `NAME@VERSION` is found by its name, too; `field>value` and the like compare numbers; a word
alone is looked for in all of the row's texts; `-` in front turns a term around. Upper and lower case are alike. Numbers
are in the unit of the column, or have one: `ms`, `s`, `min`, `k`, `M`, `%`.
"""

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase

Value = str | float | None
"""Of a field: a text, a number in the unit its column shows, or None for what is not known, which matches nothing."""
Fields = Mapping[str, Value]
_Test = Callable[[Fields], bool]

_TERM = re.compile(r'(-?)(?:([a-z_]+)(>=|<=|>|<|=|:))?("[^"]*"?|\S*)\s*', re.IGNORECASE)
_NUMBER = re.compile(r"([-+]?\d+(?:\.\d+)?)\s*(ms|s|min|k|M|%|)")
_VERSION = re.compile(r"@\d+$")
_UNITS = {"": 1.0, "ms": 1.0, "%": 1.0, "s": 1e3, "min": 6e4, "k": 1e3, "M": 1e6}
_ALIASES = {"status": "state", "node": "gpu", "model_name": "model", "cached": "hit"}
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
}


class QueryError(ValueError):
    """What is wrong with a filter, for whoever typed it."""


class Query:
    """A filter, ready to be asked. `text` is what was typed; an empty one matches everything."""

    def __init__(self, text: str, tests: tuple[_Test, ...]) -> None:
        self.text = text
        self._tests = tests

    def matches(self, fields: Fields) -> bool:
        """Whether a row has all that is asked."""
        return all(test(fields) for test in self._tests)


EVERYTHING = Query("", ())


def parse(text: str, names: Collection[str]) -> Query:
    """Read a filter over fields of these names. Raises `QueryError`."""
    tests: list[_Test] = []
    position = 0
    stripped = text.strip()
    while position < len(stripped):
        found = _TERM.match(stripped, position)
        assert found is not None, stripped  # every part of it may be empty
        position = max(found.end(), position + 1)
        minus, field, operator, value = found.groups()
        test = _test(field, operator, value.strip('"'), names)
        tests.append(_opposite(test) if minus else test)
    return Query(stripped, tuple(tests))


def _test(field: str | None, operator: str | None, value: str, names: Collection[str]) -> _Test:
    if field is None or operator is None:
        return _contains(value.lower())
    name = _known(field.lower(), names)
    if not value:
        raise QueryError(f"{field}{operator} wants a value")
    if operator in _COMPARE:
        return _compares(name, operator, _read_number(field + operator, value))
    return _equals(name, value.lower())


def _known(field: str, names: Collection[str]) -> str:
    name = field if field in names else _ALIASES.get(field, field)
    if name in names:
        return name
    near = difflib.get_close_matches(name, sorted(names), n=1)
    hint = f"the nearest is {near[0]}" if near else "there are " + ", ".join(sorted(names))
    raise QueryError(f"there is no {field} here; {hint}")


def _read_number(what: str, value: str) -> float:
    found = _NUMBER.fullmatch(value)
    if found is None:
        raise QueryError(f"{what} wants a number such as 1s, 250ms, 40% or 3k, not {value}")
    return float(found[1]) * _UNITS[found[2]]


def _contains(word: str) -> _Test:
    return lambda fields: any(isinstance(value, str) and word in value.lower() for value in fields.values())


def _equals(name: str, wanted: str) -> _Test:
    parsed = _NUMBER.fullmatch(wanted)
    wanted_number = float(parsed[1]) * _UNITS[parsed[2]] if parsed else None

    def test(fields: Fields) -> bool:
        value = fields.get(name)
        if value is None:
            return wanted in ("none", "–", "-")
        if isinstance(value, str):
            low = value.lower()
            return any(fnmatchcase(word, wanted) for word in (low, *low.split(), _VERSION.sub("", low)))
        return value == wanted_number

    return test


def _compares(name: str, operator: str, wanted: float) -> _Test:
    compare = _COMPARE[operator]

    def test(fields: Fields) -> bool:
        value = fields.get(name)
        return isinstance(value, int | float) and compare(value, wanted)

    return test


def _opposite(test: _Test) -> _Test:
    return lambda fields: not test(fields)
