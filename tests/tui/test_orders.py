"""What the console orders of templates goes to the routes that the daemon has."""

import httpx
import pytest

from preble.daemon.wire.accounts import PlannedChange
from preble.daemon.wire.console import ConsoleClient

PLAN = {"dry_run": True, "action": "template.pin", "target": "triage", "before": None, "after": None}
ROW = {"gpu": "gpu0", "state": "cold", "cached_tokens": 0, "cost_ms": 19.4, "request_id": None, "problem": None}
WARMED = {"name": "triage", "version": 1, "model": "m", "tenant": "acme", "cacheable_tokens": 192, "rows": [ROW]}


@pytest.fixture
def asked(monkeypatch):
    """The requests that a client sends; each is answered as the daemon answers a dry run."""
    requests = []

    def answer(request):
        requests.append(request)
        return httpx.Response(200, json=WARMED if request.url.path.endswith("/warm") else PLAN)

    send = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **given: send(**given, transport=httpx.MockTransport(answer)))
    return requests


@pytest.mark.parametrize(
    ("order", "method", "route"), [("warm", "POST", "warm"), ("pin", "POST", "pin"), ("unpin", "DELETE", "pin")]
)
def test_an_order_is_tried_where_the_daemon_takes_it(asked, order, method, route):
    with ConsoleClient("http://daemon", "key") as client:
        plan = client.order_template("triage", order, "acme", dry_run=True)
    [request] = asked
    assert (request.method, request.url.path) == (method, f"/admin/v1/templates/triage/{route}")
    assert dict(request.url.params) == {"tenant": "acme", "dry_run": "true"}
    assert isinstance(plan, PlannedChange)


def test_a_warm_up_says_what_it_would_cost(asked):
    with ConsoleClient("http://daemon", "key") as client:
        plan = client.order_template("triage", "warm", "acme", dry_run=True)
    assert plan.effect == ("gpu0 computes 192 tokens, which adds 19 ms to the latency of all requests.",)
