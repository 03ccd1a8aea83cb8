"""What the console asks the daemon beyond the command line: the prefix tree, what-ifs, and plans of changes."""

from preble.daemon.wire.accounts import PlannedChange
from preble.daemon.wire.admin import Explanation
from preble.daemon.wire.client import _PATIENT, AdminClient, _segment
from preble.daemon.wire.live import LiveRequest, LiveTemplate, PrefixPage, PrefixText, WhatIf


class ConsoleClient(AdminClient):
    """An `AdminClient` for the console. Every method raises `Unreachable` and `Refused`."""

    def prefixes(self, parent: str | None, after: str | None, limit: int) -> PrefixPage:
        """Some of a prefix's continuations, those with most requests first; `parent` None: of the empty prefix."""
        return self._get("/prefixes", PrefixPage, parent=parent, after=after, limit=str(limit))

    def prefix_text(self, prefix: str) -> PrefixText:
        """The text of a stretch; the audit says who has read it."""
        return self._get(f"/prefixes/{_segment(prefix)}/text", PrefixText)

    def what_if(self, request_id: str, without: list[str]) -> Explanation:
        """What would have been decided about a request if these GPUs had not been there."""
        path = f"/explain/{_segment(request_id)}/what-if"
        return self._call("POST", path, Explanation, json={"without": WhatIf(without=without).without})

    def plan_gpu(self, gpu: str, order: str) -> PlannedChange:
        """What `order_gpu` would do."""
        return self._plan(f"/gpus/{_segment(gpu)}/{order}")

    def cancel_request(self, request_id: str, *, dry_run: bool = False) -> LiveRequest | PlannedChange:
        """End a request before its time."""
        path = f"/requests/{_segment(request_id)}/cancel"
        return self._plan(path) if dry_run else self._call("POST", path, LiveRequest)

    def order_template(self, name: str, order: str, *, dry_run: bool = False) -> LiveTemplate | PlannedChange:
        """`pin`, `unpin` or `warm` one."""
        path = f"/templates/{_segment(name)}/{order}"
        return self._plan(path) if dry_run else self._call("POST", path, LiveTemplate, timeout=_PATIENT)

    def _plan(self, path: str) -> PlannedChange:
        return self._call("POST", path, PlannedChange, params={"dry_run": "true"})
