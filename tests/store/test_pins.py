"""Pins and what templates saved, in both databases."""

from dataclasses import replace

from tests.admin_app import author, usage

from preble.daemon.store.accounts import Accounts
from preble.daemon.store.audit import AuditFilter
from preble.daemon.store.ledger import Ledger
from preble.daemon.store.pins import PinStore
from preble.daemon.store.templates import TemplateStore
from preble.daemon.templates.pins import Pin
from preble.daemon.wire.templates import TemplateBody


async def test_pins_are_kept_changed_and_forgotten(database):
    accounts = await Accounts.load(database)
    templates = await TemplateStore.load(database, accounts.audit, accounts.directory)
    template, _ = (await templates.register(None, "a", TemplateBody(text="x"), author())).value
    pin = Pin(
        tenant="acme",
        template_id=template.id,
        reference="production",
        model="m",
        replicas=1,
        max_replicas=2,
        expires_at_s=99.5,
        created_at_s=1.0,
        created_by="k",
    )
    store = PinStore(database, accounts.audit)
    await store.put(pin, None, "a", author(), dry_run=True)
    assert await store.load() == []
    assert (await store.put(pin, None, "a", author())).is_new
    other = replace(pin, reference="", created_at_s=2.0)
    await store.put(other, None, "a", author())
    done = await store.put(replace(pin, replicas=2, created_at_s=7.0, created_by="z"), pin, "a", author())
    changed = replace(pin, replicas=2)
    assert (done.value, done.is_new) == (changed, False)
    assert await store.load() == [changed, other]
    await store.remove([other], "a", author(), dry_run=True)
    await store.remove([other], "a", author())
    assert await store.load() == [changed]
    await store.forget(pin.key)
    assert await store.load() == []
    actions = [row.action for row in await accounts.audit.rows(AuditFilter(), 10)]
    assert actions[:4] == ["template.unpin", "template.pin", "template.pin", "template.pin"]


async def test_what_templates_saved_is_summed_with_the_rows_and_outlives_them(database):
    ledger = Ledger(database, 0.001)
    named = {"template_id": 3, "template": "a", "template_version": 1, "template_tokens": 8}
    hour_s = 3600.0
    rows = [
        usage(1, "acme", 10.0, cached_tokens=8, ttft_ms=2.0, saved_ms=5.0, **named),
        usage(2, "acme", hour_s + 20.0, cached_tokens=9, ttft_ms=4.0, saved_ms=6.0, **named),
        usage(3, "acme", 30.0, cached_tokens=4, ttft_ms=9.0, **named),
        usage(4, "zoo", 40.0, cached_tokens=None, **named),
        usage(5, "zoo", 50.0),
    ]
    for row in [*rows, rows[0]]:  # twice is once
        ledger.record(row)
    await ledger.close()
    [ours] = await ledger.templates("acme")
    assert (ours.requests, ours.prefix_tokens, ours.cached_tokens, ours.saved_us) == (3, 24, 20, 11_000)
    assert (ours.hit_ttfts, ours.hit_ttft_us, ours.miss_ttfts, ours.miss_ttft_us) == (2, 6000, 1, 9000)
    assert ours.last_used_s == hour_s + 20.0
    assert {each.tenant: each.requests for each in await ledger.templates(None)} == {"acme": 3, "zoo": 1}
    day_s = 86_400.0
    await ledger.forget(2 * day_s, rows_days=1, hours_days=10)
    assert [each.requests for each in await ledger.templates("acme")] == [3]
    await ledger.forget(12 * day_s, rows_days=1, hours_days=10)
    assert await ledger.templates(None) == []
