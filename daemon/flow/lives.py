"""The requests that live, so that an operator can end one."""

from collections.abc import Callable

from preble.daemon.errors import NotFound
from preble.daemon.flow.call import Call, Settled
from preble.daemon.flow.request import RequestLife
from preble.daemon.flow.runtime import Cancelled
from preble.daemon.ids import KeyId, RequestId


class Lives:
    """Knows each request from its beginning until it is settled."""

    def __init__(self) -> None:
        self._lives: dict[RequestId, tuple[Call, RequestLife]] = {}

    def begin(self, call: Call, life: RequestLife) -> RequestLife:
        """One more."""
        self._lives[call.request_id] = call, life
        return life

    def settled(self, then: Callable[[Settled], None]) -> Callable[[Settled], None]:
        """For `RequestLife`: forget it, and tell on."""

        def settle(settled: Settled) -> None:
            self._lives.pop(settled.call.request_id, None)
            then(settled)

        return settle

    def find(self, request_id: str) -> tuple[Call, RequestLife]:
        """Raises `NotFound`."""
        found = self._lives.get(RequestId(request_id))
        if found is None:
            raise NotFound(f"No request {request_id!r} is waiting or running.", param="request_id")
        return found

    def of_key(self, key_id: KeyId) -> list[RequestId]:
        """Those that were asked for with a key."""
        return [request_id for request_id, (call, _) in self._lives.items() if call.key_id == key_id]

    def cancel(self, request_id: str) -> None:
        """End it; its client is told that an operator has done so. Raises `NotFound`."""
        why = Cancelled("An operator has cancelled this request.", code="cancelled_by_operator")
        _, life = self.find(request_id)
        life.abandon(why)
