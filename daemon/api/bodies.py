"""Request bodies: JSON that a struct describes, or a 400 that names the field. Called once the caller is known."""

import re
from typing import Any, TypeVar

import msgspec
from litestar import Request
from litestar.exceptions import InternalServerException

from preble.daemon.errors import InvalidRequest
from preble.daemon.flow.runtime import Cancelled

_T = TypeVar("_T")
_FIELD = re.compile(r"field `([^`]+)`")


async def read_body(request: Request[Any, Any, Any]) -> bytes:
    """All of it. Raises `Cancelled` when the client leaves before the end."""
    try:
        return await request.body()
    except InternalServerException as error:
        raise Cancelled from error


def read_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in a request's body. Raises `InvalidRequest`."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise InvalidRequest("The request body is nested too deeply.") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    return body


def merged(current: msgspec.Struct, changes: dict[str, Any], kind: type[_T]) -> _T:
    """What becomes of settings when these of their fields are given anew. Raises `InvalidRequest`, as `convert`."""
    return convert(_merge(msgspec.to_builtins(current), changes), kind)


def convert(body: dict[str, Any], kind: type[_T]) -> _T:
    """The object as a struct. Raises `InvalidRequest`, which names the field that is wrong, missing or unknown."""
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).rpartition(" - at `$.")
        if what:
            param = where.rstrip("`")
            raise InvalidRequest(f"`{param}`: {what}.", param=param) from error
        named = _FIELD.search(str(error))
        raise InvalidRequest(f"{error}.", param=named and named.group(1)) from error


def _merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """As JSON merge patches (RFC 7396), except that null is a value as any other."""
    both_objects = {name for name, value in new.items() if isinstance(value, dict) and isinstance(old.get(name), dict)}
    return {**old, **{name: _merge(old[name], value) if name in both_objects else value for name, value in new.items()}}
