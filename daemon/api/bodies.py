"""Request bodies: JSON that a struct describes, or a 400 that names the field. Called once the caller is known."""

import re
from typing import Any, TypeVar

import msgspec

from preble.daemon.errors import InvalidRequest

_T = TypeVar("_T")
_FIELD = re.compile(r"field `([^`]+)`")


def read_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in a request's body. Raises `InvalidRequest`."""
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.ValidationError as error:
        raise InvalidRequest("The request body must be a JSON object.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise InvalidRequest("The request body is nested too deeply.") from error


def convert(body: dict[str, Any], kind: type[_T]) -> _T:
    """The object as a struct. Raises `InvalidRequest`, which names the field that is wrong, missing or unknown."""
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).rpartition(" - at `$.")
        named = _FIELD.search(str(error))
        param = where.rstrip("`") if what else named and named.group(1)
        raise InvalidRequest(f"{what or error}.", param=param) from error
