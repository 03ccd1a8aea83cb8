"""Templates as consoles are told of them."""

from dataclasses import replace
from types import SimpleNamespace

from tests.obs.test_metrics import settled

from preble.daemon.flow.live_templates import LiveTemplates
from preble.daemon.templates.using import Named
from preble.daemon.wire.live import TemplateKey


def test_of_what_is_used_and_not_pinned_it_is_told_where_it_is_warm():
    whole = {(7, 2): {"gpu1"}, (8, 1): {"gpu0"}}
    known = {number: SimpleNamespace(name="a", owner=owner) for number, owner in ((7, None), (8, "acme"))}
    shown = LiveTemplates(SimpleNamespace(by_id=known.get), SimpleNamespace(find=lambda tenant: []), lambda: whole)
    one = settled(prompt_tokens=100, cached_tokens=96)
    for version in (1, 2):
        named = Named(template_id=7, name="a", version=version, tokens=64, blocks=4)
        shown.settled(replace(one, call=replace(one.call, template=named)))
    rows = {row.key.version: row for row in shown.rows()}
    assert {row.key for row in rows.values()} == {TemplateKey(owner=None, name="a", version=each) for each in (1, 2)}
    assert (rows[1].states, rows[2].states) == ({}, {"gpu1": "warm"})
    assert (rows[2].cacheable_tokens, rows[2].hit_ratio, rows[2].pinned) == (64, 1.0, False)
    whole.clear()
    assert [row.states for row in shown.rows()] == [{}, {}]
