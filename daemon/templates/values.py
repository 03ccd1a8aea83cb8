"""Values of variables: of the right type and length, and never more than text in the place that they are for."""

from collections.abc import Collection, Mapping
from math import isfinite
from typing import Any

from preble.daemon.errors import InvalidRequest
from preble.daemon.wire.templates import Variable

PARAM = "template.variables"
_NAMES_SHOWN = 20


def formatted(variable: Variable, value: Any) -> tuple[str, str | None]:
    """A value as text, and what is wrong with it, if anything."""
    text, problem = _text(variable, value)
    if problem is None and len(text) > variable.max_length:
        problem = f"has {len(text)} characters, and may have {variable.max_length}"
    return text, problem


def texts_for(variables: Mapping[str, Variable], given: Mapping[str, Any]) -> dict[str, str]:
    """A text for each variable. Raises `InvalidRequest`, which names every value that is wrong, missing or unknown."""
    texts: dict[str, str] = {}
    problems = {name: "is no variable of this template" for name in given if name not in variables}
    for name, variable in variables.items():
        value = given.get(name)
        if value is None:
            value = variable.default
        if value is None:
            texts[name] = ""
            if variable.is_required:
                problems[name] = "is missing"
            continue
        texts[name], problem = formatted(variable, value)
        if problem is not None:
            problems[name] = problem
    refuse(problems)
    return texts


def refuse(problems: Mapping[str, str]) -> None:
    """Raise `InvalidRequest` with what is wrong with each of these variables, if there are any."""
    if not problems:
        return
    told = [f"`{name[:100]}` {problem}" for name, problem in list(problems.items())[:_NAMES_SHOWN]]
    more = len(problems) - len(told)
    message = f"Variables of the template: {'; '.join(told)}{f'; and {more} more' if more else ''}."
    param = f"{PARAM}.{next(iter(problems))[:100]}" if len(problems) == 1 else PARAM
    raise InvalidRequest(message, param=param)


def marked(texts: Mapping[str, str], markers: Collection[str]) -> dict[str, str]:
    """What is wrong with those values that hold what only a chat template may write."""
    found = {name: next((each for each in markers if each in text), None) for name, text in texts.items()}
    return {
        name: f"holds {marker!r}, which the model takes for more than text" for name, marker in found.items() if marker
    }


def _text(variable: Variable, value: Any) -> tuple[str, str | None]:
    match variable.type, value:
        case "string", str():
            return value, None
        case "boolean", bool():
            return ("true" if value else "false"), None
        case (("integer" | "number"), bool()):
            pass
        case (("integer" | "number"), int()) if abs(value) < 1 << 64:
            return str(value), None
        case "number", float() if isfinite(value):
            return repr(value), None
    return "", f"must be of the type {variable.type}"
