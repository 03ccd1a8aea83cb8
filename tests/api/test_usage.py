"""The ledger over HTTP: an operator sees all of it, a tenant what it may know of itself; as JSON or CSV."""

import csv
from io import StringIO

import pytest
from tests.admin_app import author, usage
from tests.api.calling import Caller, problem

from preble.daemon.store.ledger import Ledger
from preble.daemon.wire.settings import TenantSettings


@pytest.fixture
async def used(admin):
    await admin.accounts.tenants.create("acme", TenantSettings(), author(0.0))
    await record(admin, *(usage(number, "acme" if number < 3 else "default") for number in range(5)))
    return admin


async def record(admin, *records):
    """Have them written, and wait until they are."""
    ledger = Ledger(admin.ledger._engine, 0.001)
    for each in records:
        ledger.record(each)
    await ledger.close()


async def test_operators_see_the_usage_of_all(used, operator):
    page = (await operator.get("/admin/v1/usage", limit=2, offset=1)).json()
    assert [row["request_id"] for row in page["rows"]] == ["req_3", "req_2"]
    assert page["rows"][0]["created_at"] == "1970-01-01T00:00:03.000+00:00"
    assert {row["tenant"]: row["requests"] for row in page["totals"]} == {"acme": 3, "default": 2}
    acme = (await operator.get("/admin/v1/usage", tenant="acme", since="1970-01-01T00:00:01Z")).json()
    (totals,) = acme["totals"]
    assert (totals["tenant"], totals["requests"], totals["finished"]) == ("acme", 2, 2)
    assert (totals["prompt_tokens"], totals["cached_tokens"], totals["output_tokens"]) == (20, 8, 6)
    assert (await operator.get("/admin/v1/tenants/acme")).json()["prompt_tokens"] == 30


async def test_what_another_has_used_who_had_the_name_is_the_operators_alone(used, operator, anyone):
    await operator.delete("/admin/v1/tenants/acme", revoke_keys=True)
    await operator.post("/admin/v1/tenants", {"name": "acme"})
    assert (await operator.get("/admin/v1/tenants/acme")).json()["requests"] == 0
    assert (await operator.get("/admin/v1/usage", tenant="acme")).json()["totals"][0]["requests"] == 3
    made = (await operator.post("/admin/v1/keys", {"tenant": "acme"})).json()
    assert (await Caller(anyone, made["key"]).get("/v1/usage")).json() == {"rows": [], "totals": [], "next": None}


async def test_a_tenant_sees_its_own_usage_only(used, tenant):
    page = (await tenant.get("/v1/usage")).json()
    assert {row["tenant"] for row in page["rows"]} == {"default"}
    assert [row["tenant"] for row in page["totals"]] == ["default"]
    assert (await tenant.get("/v1/usage", tenant="acme")).json() == page


@pytest.mark.parametrize("name", ["tenant", "key"])
async def test_the_usage_of_nobody_is_not_found(operator, name):
    response = await operator.get("/admin/v1/usage", **{name: "nobody"})
    assert (response.status_code, problem(response)["param"]) == (404, name)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"since": "yesterday"}, "since"),
        ({"until": "tomorrow"}, "until"),
        ({"since": "2026-11-21T00:00:00Z", "until": "2026-11-20T00:00:00Z"}, "until"),
        ({"by": "gpu"}, "by"),
        ({"format": "xml"}, "format"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"offset": -1}, "offset"),
        ({"offset": 10**30}, "offset"),
        ({"limit": "x"}, "limit"),
    ],
)
async def test_a_bad_query_is_refused_by_the_name_of_its_field(operator, query, param):
    for path in ("/admin/v1/usage", "/v1/usage"):
        response = await operator.get(path, **query)
        assert (response.status_code, problem(response)["param"]) == (400, param)


# --- what is asked for ---


async def test_usage_is_of_what_is_asked_for(used, operator):
    async def found(**query):
        return [row["request_id"] for row in (await operator.get("/admin/v1/usage", **query)).json()["rows"]]

    await record(used, usage(7, "acme", key_id="other"), usage(8, "acme", model="another"))
    assert await found(key="other") == ["req_7"]
    assert await found(model="another") == ["req_8"]
    assert await found(tenant="acme", key="k", model="preble-demo") == ["req_2", "req_1", "req_0"]
    assert await found(since="1970-01-01T00:00:01Z", until="1970-01-01T00:00:03Z") == ["req_2", "req_1"]
    assert await found(model="no\0ne") == []


async def test_every_page_is_told_where_the_next_begins(used, operator):
    seen, offset = [], 0
    while offset is not None:
        page = (await operator.get("/admin/v1/usage", limit=2, offset=offset)).json()
        seen += [row["request_id"] for row in page["rows"]]
        offset = page["next"]
    assert seen == ["req_4", "req_3", "req_2", "req_1", "req_0"]


async def test_totals_can_be_asked_for_by_name_and_by_time_and_then_come_in_pages(used, operator):
    first = (await operator.get("/admin/v1/usage", by="tenant", limit=1)).json()
    assert (first["rows"], [each["tenant"] for each in first["totals"]], first["next"]) == ([], ["acme"], 1)
    second = (await operator.get("/admin/v1/usage", by="tenant", limit=1, offset=1)).json()
    assert ([each["tenant"] for each in second["totals"]], second["next"]) == (["default"], None)
    for by in ("hour", "day", "month"):
        (total,) = (await operator.get("/admin/v1/usage", by=by)).json()["totals"]
        assert (total["start"], total["requests"], total["gpu_ms"]) == ("1970-01-01T00:00:00+00:00", 5, 62.5)
    (total,) = (await operator.get("/admin/v1/usage", by="model")).json()["totals"]
    assert (total["model"], total["tenant"], total["mean_latency_ms"]) == ("preble-demo", None, 20.0)


@pytest.mark.parametrize("by", [None, "tenant", "key", "model", "hour"])
async def test_a_tenant_sees_nothing_of_another_however_it_asks(used, tenant, by):
    query = {} if by is None else {"by": by}
    own = (await tenant.get("/v1/usage", **query)).json()
    assert [each["requests"] for each in own["totals"]] == [2]
    for foreign in ({"tenant": "acme"}, {"tenant": "acme", "format": "json"}):
        assert (await tenant.get("/v1/usage", **query, **foreign)).json() == own
    await record(used, usage(7, "acme", key_id="other"))
    assert (await tenant.get("/v1/usage", **query, key="other")).json() == {"rows": [], "totals": [], "next": None}


async def test_a_key_without_the_scope_sees_nothing(operator, anyone):
    made = (await operator.post("/admin/v1/keys", {"tenant": "default", "scopes": ["inference"]})).json()
    assert (await Caller(anyone, made["key"]).get("/v1/usage")).status_code == 403


# --- CSV ---


def lines(response) -> list[dict[str, str]]:
    assert (response.status_code, response.headers["content-type"].partition(";")[0]) == (200, "text/csv")
    return list(csv.DictReader(StringIO(response.text)))


async def test_csv_has_what_json_has(used, operator, tenant):
    for caller, path in ((operator, "/admin/v1/usage"), (tenant, "/v1/usage")):
        for by, part in ((None, "rows"), ("hour", "totals")):
            query = {} if by is None else {"by": by}
            told = (await caller.get(path, **query)).json()[part]
            as_text = [{name: "" if value is None else str(value) for name, value in row.items()} for row in told]
            assert lines(await caller.get(path, **query, format="csv")) == as_text
            assert lines(await caller.send("GET", path, headers={"accept": "text/csv"}, **query)) == as_text


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("application/json, text/csv;q=0.5", "application/json"),
        ("text/csv, application/json;q=0.5", "text/csv"),
        ("text/csv;q=oops, ;;,", "text/csv"),
        ("text/html", "application/json"),
    ],
)
async def test_the_client_says_what_it_takes(used, operator, accept, kind):
    answer = await operator.send("GET", "/admin/v1/usage", headers={"accept": accept})
    assert answer.headers["content-type"].partition(";")[0] == kind
    asked = await operator.send("GET", "/admin/v1/usage", headers={"accept": accept}, format="json")
    assert asked.headers["content-type"] == "application/json"


# --- costs ---


async def test_costs_are_told_where_there_were_prices(used, operator):
    await record(used, usage(7, "default", cost_micros=2_000_001))
    page = (await operator.get("/admin/v1/usage", limit=2)).json()
    assert [row["cost"] for row in page["rows"]] == [2.000001, None]
    assert {each["tenant"]: each["cost"] for each in page["totals"]} == {"acme": None, "default": 2.000001}
