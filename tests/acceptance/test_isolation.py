"""Tenants apart on real engines: who finds whose prefixes, by the engines' own count."""

import json
import random

import pytest
from tests.acceptance.conftest import MODEL

pytestmark = pytest.mark.engines
BLOCK = 32
PROMPT_BLOCKS = 20


class Asker:
    """A tenant with a key of its own."""

    def __init__(self, daemon, name, isolation):
        self.daemon, self.name = daemon, name
        daemon.cli("tenant", "create", name, "--isolation", isolation)
        self.key = json.loads(daemon.cli("key", "create", name, "--json").stdout)["key"]

    def ask(self, prompt, **extra):
        """Headers and usage of an answer to a chat."""
        asking = self.daemon.sdk().with_options(api_key=self.key).chat.completions.with_raw_response
        messages = [{"role": "user", "content": prompt}]
        raw = asking.create(model=MODEL, messages=messages, max_tokens=2, extra_body=extra)
        return raw.headers, raw.parse().usage

    def finds(self, prompt, **extra):
        """Tokens that the engine has found cached, as operators see it; foretold to within a block."""
        headers, _ = self.ask(prompt, **extra)
        told = self.daemon.explain(headers["x-request-id"])
        found = told["actual"]["cached_tokens"]
        assert abs(told["predicted_cached_tokens"] - found) <= BLOCK
        return found


@pytest.fixture(scope="module")
def tenants(daemon):
    """Two of each isolation."""
    kinds = {"private": "private", "group": "group:red", "shared": "shared"}
    return {kind: [Asker(daemon, f"{kind}-{n}", isolation) for n in (1, 2)] for kind, isolation in kinds.items()}


def letters(seed):
    return "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz ", k=PROMPT_BLOCKS * BLOCK))


MOST = (PROMPT_BLOCKS - 1) * BLOCK


def test_what_a_private_tenant_has_asked_is_news_to_another(tenants):
    one, other = tenants["private"]
    prompt = letters("private")
    assert one.finds(prompt) == 0
    assert other.finds(prompt) == 0
    assert one.finds(prompt) >= MOST
    assert other.ask(prompt)[1].prompt_tokens_details.cached_tokens >= MOST


@pytest.mark.parametrize("kind", ["group", "shared"])
def test_tenants_that_share_find_what_the_other_has_asked_and_are_not_told(tenants, kind):
    one, other = tenants[kind]
    prompt = letters(kind)
    assert one.finds(prompt) == 0
    assert other.finds(prompt) >= MOST
    headers, usage = other.ask(prompt)
    assert usage.prompt_tokens > MOST
    assert usage.prompt_tokens_details is None
    assert not {"x-preble-gpu", "x-preble-decision", "x-preble-cached-tokens"} & set(headers)
    assert tenants["private"][0].finds(prompt) == 0


@pytest.mark.parametrize("kind", ["private", "group", "shared"])
def test_after_a_rotation_nothing_is_found_any_more(daemon, tenants, kind):
    one, other = tenants[kind]
    prompt = letters(f"rotated {kind}")
    one.finds(prompt)
    assert one.finds(prompt) >= MOST
    daemon.cli("tenant", "rotate-salt", one.name)
    assert one.finds(prompt) == 0
    assert (other.finds(prompt) >= MOST) == (kind != "private")


def test_a_salt_of_ones_own_narrows_what_is_found(tenants):
    one, other = tenants["shared"]
    prompt = letters("own salts")
    assert one.finds(prompt, cache_salt="a") == 0
    assert one.finds(prompt, cache_salt="a") >= MOST
    assert one.finds(prompt, cache_salt="b") == 0
    assert one.finds(prompt) == 0
    assert other.finds(prompt, cache_salt="a") >= MOST
    assert tenants["private"][0].finds(prompt, cache_salt="a") == 0
