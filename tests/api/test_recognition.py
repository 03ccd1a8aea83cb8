"""Requests that name no template, and begin with one all the same."""

from dataclasses import replace

import pytest
from tests.api.bodies import COMPLETIONS
from tests.api.inference_app import LIMITS, TENANT, open_client
from tests.core import MODEL

from preble.daemon.wire.templates import TemplateBody

TEXT = "0123456789 " * 10


@pytest.fixture
def known(house):
    """Registers a template, and finds out how many of its tokens can be cached."""

    async def register(name, text, owner=TENANT):
        house.shelf.put(name, TemplateBody(text=text), owner)
        template = house.shelf.directory.own(owner, name)
        return len(await house.templates.prefix(template, template.latest, MODEL))

    return register


async def recognised(house, client, prompt, **fields):
    answer = await client.post(COMPLETIONS, json={"model": MODEL, "max_tokens": 1, "prompt": prompt, **fields})
    assert answer.status_code == 200, answer.text
    return house.templates.recogniser.of(house.settled[-1])


async def test_the_plain_text_of_a_template_is_its_use_whatever_comes_behind_it(house, client, known):
    tokens = await known("a", TEXT + "{{x}}")
    for fields in ({}, {"cache_salt": "of its own"}):
        named = await recognised(house, client, TEXT + "Where is it?", **fields)
        assert (named.name, named.version, named.tokens) == ("a", 1, tokens)
        assert named.blocks == tokens // LIMITS.block_size > 0
    assert await recognised(house, client, "x" + TEXT) is None
    assert await recognised(house, client, TEXT[:20]) is None


async def test_it_is_the_longest_and_of_equal_ones_the_tenants_own_and_then_the_newest(house, client, known):
    short, long = await known("short", TEXT + "{{x}}"), await known("long", TEXT + TEXT + "{{x}}", None)
    assert 0 < short < long
    assert (await recognised(house, client, TEXT + TEXT + "Where?")).name == "long"
    assert (await recognised(house, client, TEXT + "Where?")).name == "short"
    await known("operator's", TEXT + "{{other}}", None)
    assert (await recognised(house, client, TEXT + "Where?")).name == "short"
    await known("newer", TEXT + "{{other}}")
    assert (await recognised(house, client, TEXT + "Where?")).name == "newer"


async def test_another_tenants_template_is_nobodys_and_one_that_was_deleted_either(house, client, known):
    await known("theirs", TEXT + "{{x}}", "other")
    assert await recognised(house, client, TEXT + "Where?") is None
    house.put_tenant("other")
    async with open_client(house, house.make_key("other")) as others:
        assert (await recognised(house, others, TEXT + "Where?")).name == "theirs"
        house.shelf.directory.put(replace(house.shelf.directory.own("other", "theirs"), deleted_at_s=1.0))
        assert await recognised(house, others, TEXT + "Where?") is None


async def test_a_warm_up_is_nobodys_use(house, client, known):
    await known("a", TEXT)
    await recognised(house, client, TEXT)
    one = house.settled[-1]
    assert house.templates.recogniser.of(replace(one, call=replace(one.call, salt=None))) is None
