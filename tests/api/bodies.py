"""Requests that tenants send: the good ones, and what must not come of the others."""

import pytest
from tests.core import MODEL

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
HELLO = [{"role": "user", "content": "Hello there."}]
GOOD = {
    CHAT: {"model": MODEL, "messages": HELLO, "max_tokens": 4},
    COMPLETIONS: {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 4},
}
BOTH = pytest.mark.parametrize("path", [CHAT, COMPLETIONS])


def untouched(house) -> bool:
    """Nothing has reached an engine, and nothing is held for it."""
    return not house.engine.bodies and not house.runtime.live_requests
