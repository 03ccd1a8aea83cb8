"""The id of each HTTP request: made here, and told in whatever is answered."""

from secrets import token_hex

from litestar.datastructures import MutableScopeHeaders
from litestar.types import Message, Scope

from preble.daemon.ids import RequestId

_STATE = "request_id"


def request_id(scope: Scope) -> RequestId:
    """The same each time it is asked for."""
    state = scope["state"]
    if _STATE not in state:
        state[_STATE] = new_request_id()
    known: RequestId = state[_STATE]
    return known


def new_request_id() -> RequestId:
    """For what no scope is left of, or was never made of."""
    return RequestId(f"req_{token_hex(12)}")


async def tell_request_id(message: Message, scope: Scope) -> None:
    """For `Litestar(before_send=...)`: no answer goes without, wherever it was made."""
    if message["type"] == "http.response.start":
        MutableScopeHeaders.from_message(message).setdefault("x-request-id", request_id(scope))
