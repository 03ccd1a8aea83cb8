"""What the console asks the daemon beside the feed: explanations, pages of the prefix tree, accounts, and changes.

Each answer can be recorded, and a recording answers what it holds; then there is no daemon to ask.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from preble.daemon.errors import PrebleError, Refused
from preble.daemon.wire.accounts import KeyRow, PlannedChange, TenantRow
from preble.daemon.wire.admin import Explanation
from preble.daemon.wire.console import ConsoleClient
from preble.daemon.wire.live import PrefixPage, PrefixText, TemplateKey
from preble.daemon.wire.pins import PinRow
from preble.tui.feed.replay import Answers

_T = TypeVar("_T")
PAGE_ROWS = 50


class NotRecorded(PrebleError):
    """There is no daemon to ask, and the recording does not have the answer."""


class Desk:
    """Asks one daemon, in threads, so that the console never waits. All of it raises `PrebleError`.

    `client` None: there is none, only `answers`.
    """

    def __init__(
        self,
        client: ConsoleClient | None,
        answers: Answers | None = None,
        on_answer: Callable[[str, Any], None] = lambda asked, answer: None,
    ) -> None:
        self._client = client
        self._answers = {} if answers is None else answers
        self._on_answer = on_answer

    async def explanation(self, request_id: str) -> Explanation:
        """Why a request went where it went."""
        return await self._ask(f"explain/{request_id}", Explanation, lambda client: client.explain(request_id))

    async def what_if(self, request_id: str, without: list[str]) -> Explanation:
        """What would have been decided without some GPUs."""
        asked = f"what-if/{request_id}/{','.join(without)}"
        return await self._ask(asked, Explanation, lambda client: client.what_if(request_id, without))

    async def prefixes(self, parent: str | None, after: str | None) -> PrefixPage:
        """A page of a prefix's continuations; None: of the empty prefix."""
        asked = f"prefixes/{parent or ''}/{after or ''}"
        return await self._ask(asked, PrefixPage, lambda client: client.prefixes(parent, after, PAGE_ROWS))

    async def prefix_text(self, prefix: str) -> PrefixText:
        """The text of a stretch; it is not recorded."""
        return await self._ask(f"text/{prefix}", PrefixText, lambda client: client.prefix_text(prefix), record=False)

    async def tenant(self, name: str) -> TenantRow:
        """A tenant's settings and limits."""
        return await self._ask(f"tenant/{name}", TenantRow, lambda client: client.tenant(name))

    async def keys(self, tenant: str) -> list[KeyRow]:
        """A tenant's keys."""
        return await self._ask(f"keys/{tenant}", list[KeyRow], lambda client: client.keys(tenant))

    async def pins(self, key: TemplateKey) -> list[PinRow]:
        """What is pinned of a template, in the caches of its owner or, if it is the operator's, of all tenants."""
        asked = f"pins/{key.owner or ''}/{key.name}"
        return await self._ask(asked, list[PinRow], lambda client: client.template_pins(key.name, key.owner))

    async def plan(self, change: Callable[[ConsoleClient, bool], Any]) -> PlannedChange:
        """What a change would do; nothing is done."""
        planned = await asyncio.to_thread(change, self._daemon(), True)
        if not isinstance(planned, PlannedChange):
            raise PrebleError(f"the daemon did not say what this would change, but {type(planned).__name__}")
        return planned

    async def do(self, change: Callable[[ConsoleClient, bool], Any]) -> int | None:
        """Do it; gives the number of its entry in the audit, None if nothing was changed. Raises `NoEntry` too."""
        return await asyncio.to_thread(self._daemon().perform, lambda client: change(client, False))

    def _daemon(self) -> ConsoleClient:
        if self._client is None:
            raise Refused("there is no daemon here that could be changed")
        return self._client

    async def _ask(self, asked: str, kind: type[_T], call: Callable[[ConsoleClient], _T], *, record: bool = True) -> _T:
        if self._client is None:
            raw = self._answers.get(asked)
            if raw is None:
                raise NotRecorded("there is no daemon to ask, and what was recorded does not hold it")
            answer = msgspec.json.decode(raw, type=kind)
        else:
            answer = await asyncio.to_thread(call, self._client)
        if record:
            self._on_answer(asked, answer)
        return answer
