"""What the console orders of templates goes to the routes that the daemon has."""

import json

import httpx
import pytest

from preble.daemon.errors import Refused
from preble.daemon.wire.accounts import PlannedChange
from preble.daemon.wire.console import ConsoleClient
from preble.daemon.wire.live import TemplateKey
from preble.tui.widgets.confirm import effect_of

KEY = TemplateKey(owner="acme", name="triage", version=2)
PLAN = {"dry_run": True, "action": "template.pin", "target": "triage", "before": None, "after": None}
ROW = {"gpu": "gpu0", "state": "cold", "cached_tokens": 0, "cost_ms": 19.4, "request_id": None, "problem": None}
WARMED = {"name": "triage", "version": 2, "model": "m", "tenant": "acme", "cacheable_tokens": 192, "rows": [ROW]}
PINS = [{"reference": "", "model": "m"}, {"reference": "2", "model": "m"}]


def version_of(owner):
    """As `GET /admin/v1/templates/NAME` tells it."""
    return {
        "name": "triage", "owner": owner, "description": "", "created_at": "", "created_by": "", "latest": 2,
        "labels": {}, "changes": 1, "version": 2, "digest": "", "body": {}, "variables": {}, "analyses": [],
    }  # fmt: skip


class Asked(list):
    """The requests that a client sends; each is answered as the daemon answers a dry run."""

    owner = "acme"

    def answer(self, request):
        self.append(request)
        if request.method == "GET":
            return httpx.Response(200, json=version_of(self.owner))
        plan = PLAN | {"before": {"pins": PINS}} if request.method == "DELETE" else PLAN
        return httpx.Response(200, json=WARMED if request.url.path.endswith("/warm") else plan)


@pytest.fixture
def asked(monkeypatch):
    asked, send = Asked(), httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **given: send(**given, transport=httpx.MockTransport(asked.answer)))
    return asked


def order(order, reference="2", key=KEY):
    with ConsoleClient("http://daemon", "key") as client:
        return client.order_template(key, order, reference, "acme", dry_run=True)


@pytest.mark.parametrize(
    ("name", "method", "route"), [("warm", "POST", "warm"), ("pin", "POST", "pin"), ("unpin", "DELETE", "pin")]
)
@pytest.mark.parametrize(
    ("reference", "named"), [("2", {"version": 2}), ("production", {"label": "production"}), (None, {})]
)
def test_an_order_is_tried_where_the_daemon_takes_it(asked, name, method, route, reference, named):
    assert isinstance(order(name, reference), PlannedChange)
    [looked, request] = asked
    assert (looked.method, looked.url.path) == ("GET", "/admin/v1/templates/triage")
    assert dict(looked.url.params) == {"tenant": "acme"}
    assert (request.method, request.url.path) == (method, f"/admin/v1/templates/triage/{route}")
    which = {part: str(value) for part, value in named.items()} if name == "unpin" else {}
    assert dict(request.url.params) == {"tenant": "acme", "dry_run": "true", **which}
    if name != "unpin":
        body = json.loads(request.content)
        assert {part: body[part] for part in ("version", "label") if body[part] is not None} == named


@pytest.mark.parametrize(
    ("meant", "is_now", "text"),
    [
        (None, "acme", "triage means another template to acme: its own, which hides the operator's"),
        ("acme", None, "triage means another template to acme: the operator's"),
    ],
)
@pytest.mark.parametrize("name", ["warm", "pin", "unpin"])
def test_another_owners_template_of_that_name_is_left_alone(asked, name, meant, is_now, text):
    asked.owner = is_now
    with pytest.raises(Refused, match=text):
        order(name, key=TemplateKey(owner=meant, name="triage", version=2))
    assert [request.method for request in asked] == ["GET"]


@pytest.mark.parametrize("name", ["warm", "pin", "unpin"])
def test_an_order_can_be_for_one_model(asked, name):
    with ConsoleClient("http://daemon", "key") as client:
        client.order_template(KEY, name, None, "acme", model="m", dry_run=True)
    request = asked[-1]
    given = request.url.params if name == "unpin" else json.loads(request.content)
    assert given["model"] == "m"
    assert "all" not in given


def test_a_warm_up_says_what_it_would_cost(asked):
    assert order("warm").effect == ("gpu0 computes 192 tokens, which adds 19 ms to the latency of all requests.",)


def test_a_warm_up_says_what_is_there_already(asked, monkeypatch):
    rows = [
        ROW | {"state": "warm", "cached_tokens": 192},
        ROW | {"gpu": "gpu1", "state": "partial", "cached_tokens": 64},
    ]
    monkeypatch.setitem(WARMED, "rows", rows)
    assert order("warm").effect == (
        "gpu0 has all 192 tokens already.",
        "gpu1 computes 128 tokens, which adds 19 ms to the latency of all requests.",
    )


def test_what_leaves_nothing_behind_says_its_effect_alone(asked):
    assert effect_of(order("warm")) == list(order("warm").effect)
    same = PlannedChange(action="gpu.drain", target="gpu0", before={"draining": True}, after={"draining": True})
    assert effect_of(same) == ["nothing would change: it is so already"]
    gone = PlannedChange(action="tenant.delete", target="acme", before={"weight": 1}, after=None)
    assert effect_of(gone) == ["it would be there no more"]


def test_unpinning_says_each_pin_that_would_go(asked):
    assert order("unpin", None).effect == (
        "GPUs of m need not keep what requests get of it any more.",
        "GPUs of m need not keep what was pinned as 2 any more.",
    )
