"""What the console asks beyond the live feed: the prefix index, decisions, what if, and the end of a request."""

import asyncio
import json

import httpx
import pytest
from msgspec.structs import replace
from tests.admin_app import KEPT_BYTES, explanation, open_admin_app, usage
from tests.api.calling import Caller, problem
from tests.api.documented import Documented
from tests.api.inference_app import open_client, open_house, until
from tests.core import BLOCK, MODEL, spec, stored

from preble.daemon.config import LiveConfig
from preble.daemon.flow.events import EngineDown
from preble.daemon.ids import RequestId, TenantName
from preble.daemon.wire.openai import CompletionRequest

PREFIXES, DECISIONS = "/admin/v1/prefixes", "/admin/v1/decisions"
WHAT_IF = "/admin/v1/explain/req_1/what-if"


@pytest.fixture
async def anyone(admin):
    documented = Documented(admin.app)
    transport = httpx.ASGITransport(documented)
    async with httpx.AsyncClient(transport=transport, base_url="http://preble") as client:
        yield client
    assert not documented.faults


@pytest.fixture
def operator(anyone, tmp_path):
    return Caller(anyone, (tmp_path / "operator.key").read_text().strip())


def send(admin, name, text, tenant="t"):
    admin.runtime.submit(spec(name, text, tenant=tenant), lambda _: None)


# --- the prefix index ---


async def test_prompts_are_listed_by_what_they_share(admin, operator):
    admin.runtime.post(EngineDown(gpu="gpu1"))
    for number, rest in enumerate(("ijkl", "mnop", "mnopqrst")):
        send(admin, f"r{number}", "abcdefgh" + rest)
    admin.runtime.post(stored("gpu0", "abcdefgh"))
    page = (await operator.get(PREFIXES)).json()
    [root] = page["rows"]
    assert (page["total"], page["next"]) == (1, None)
    assert (root["tokens"], root["depth_tokens"], root["children"], root["requests"]) == (8, 8, 2, 3)
    assert (root["parent"], root["tenant"], root["by_gpu"]) == (None, "t", {"gpu0": 3})
    assert root["reported_tokens"] == {"gpu0": 8}
    behind = (await operator.get(PREFIXES, parent=root["id"])).json()["rows"]
    assert [(row["requests"], row["tokens"], row["parent"]) for row in behind] == [
        (2, BLOCK, root["id"]),
        (1, BLOCK, root["id"]),
    ]
    assert behind[0]["believed"] == ["gpu0"]
    assert behind[0]["reported_tokens"] == {}


async def test_pages_follow_each_other_without_gap_or_repetition(admin, operator):
    for number in range(7):
        for again in range(7 - number):
            send(admin, f"r{number}.{again}", f"{number:04}" * 2)
    found, after = [], {}
    while after is not None:
        page = (await operator.get(PREFIXES, limit=3, **after)).json()
        assert page["total"] == 7
        found += [row["requests"] for row in page["rows"]]
        after = {"after": page["next"]} if page["next"] else None
    assert found == [7, 6, 5, 4, 3, 2, 1]


async def test_a_prefix_that_two_tenants_share_is_nobodys_own(admin, operator):
    for tenant in ("one", "two"):
        send(admin, tenant, "abcdefgh", tenant=tenant)
    assert (await operator.get(PREFIXES)).json()["rows"][0]["tenant"] is None


async def test_with_a_gpu_only_what_it_has_or_was_sent_is_listed(admin, operator):
    send(admin, "r", "abcdefgh")
    assert len((await operator.get(PREFIXES, gpu="gpu0")).json()["rows"]) == 1
    assert (await operator.get(PREFIXES, gpu="gpu1")).json() == {"rows": [], "total": 0, "next": None}


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ({"parent": "ffff"}, 404, "parent"),
        ({"model": "unknown"}, 404, "model"),
        ({"after": "x"}, 400, "after"),
        ({"order": "age"}, 400, None),
        ({"limit": "0"}, 400, "limit"),
    ],
)
async def test_what_is_not_there_or_no_page_is_refused(operator, query, status, param):
    refused = await operator.get(PREFIXES, **query)
    assert refused.status_code == status
    if param:
        assert problem(refused)["param"] == param


async def test_texts_take_a_scope_that_no_operators_key_has_by_itself(anyone, operator):
    path = f"{PREFIXES}/ff/text"
    assert (await operator.get(path)).status_code == 403
    plain = (await operator.post("/admin/v1/keys", {"tenant": None})).json()
    assert "prompts:read" not in plain["scopes"]
    made = (await operator.post("/admin/v1/keys", {"tenant": None, "scopes": ["prompts:read"]})).json()
    refused = await Caller(anyone, made["key"]).get(path)
    assert (refused.status_code, problem(refused)["param"]) == (404, "prefix")
    assert "live.keep_prompts is false" in problem(refused)["message"]
    tenants = await operator.post("/admin/v1/keys", {"tenant": "default", "scopes": ["prompts:read"]})
    assert (tenants.status_code, problem(tenants)["param"]) == (400, "scopes")


class Reading:
    """A daemon that keeps prompts, and an operator who may read them."""

    def __init__(self, admin, operator, reader):
        self.admin, self.operator, self.reader = admin, operator, reader

    async def send(self, name, text, salt=None, tenant="acme"):
        asked = CompletionRequest(model=MODEL, prompt=text, max_tokens=1, cache_salt=salt)
        made = await self.admin.encoder.completion(RequestId(name), TenantName(tenant), asked, {"prompt": text})
        self.admin.runtime.submit(made, lambda _: None)

    async def listed(self, **query):
        return [row["id"] for row in (await self.operator.get(PREFIXES, **query)).json()["rows"]]

    async def text(self, prefix):
        return await self.reader.get(f"{PREFIXES}/{prefix}/text")

    async def readings(self):
        rows = (await self.operator.get("/admin/v1/audit")).json()["rows"]
        return [row for row in rows if row["action"] == "prefix.read_text"]


@pytest.fixture
async def reading(tmp_path):
    async with open_admin_app(tmp_path, live=LiveConfig(interval_ms=100, keep_prompts=True)) as admin:
        documented = Documented(admin.app)
        transport = httpx.ASGITransport(documented, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://preble") as client:
            operator = Caller(client, (tmp_path / "operator.key").read_text().strip())
            made = (await operator.post("/admin/v1/keys", {"tenant": None, "scopes": ["prompts:read"]})).json()
            yield Reading(admin, operator, Caller(client, made["key"]))
        assert not documented.faults


async def test_a_stretchs_own_text_is_told_and_the_audit_says_to_whom(reading):
    for number, rest in enumerate(("ijkl", "mnop")):
        await reading.send(f"r{number}", "abcdefgh" + rest)
    [root] = await reading.listed()
    behind = await reading.listed(parent=root)
    told = (await reading.text(root)).json()
    assert told == {"id": root, "text": "abcdefgh", "truncated": False}
    assert {(await reading.text(prefix)).json()["text"] for prefix in behind} == {"ijkl", "mnop"}
    *_, first = await reading.readings()
    keys = (await reading.operator.get("/admin/v1/keys")).json()["rows"]
    [reader] = [key["id"] for key in keys if key["scopes"] == ["prompts:read"]]
    assert (first["actor"], first["target"], first["tenant"]) == (reader, root, "acme")
    assert first["after"] == {"model": MODEL, "tokens": 8}


async def test_a_reading_that_cannot_be_written_down_is_not_answered(reading, monkeypatch):
    await reading.send("r", "abcdefgh")
    [root] = await reading.listed()

    async def fails(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(reading.admin.accounts.audit, "write", fails)
    refused = await reading.text(root)
    assert refused.status_code == 500
    assert "abcd" not in refused.text


async def test_who_may_not_read_leaves_no_trace_and_learns_nothing(reading):
    await reading.send("r", "abcdefgh")
    [root] = await reading.listed()
    assert (await reading.operator.get(f"{PREFIXES}/{root}/text")).status_code == 403
    assert not await reading.readings()


async def test_equal_prompts_of_two_scopes_are_two_stretches(reading):
    for salt in ("one", "two"):
        await reading.send(salt, "abcdefgh", salt=salt, tenant=salt)
    for prefix in await reading.listed():
        assert (await reading.text(prefix)).json()["text"] == "abcdefgh"
    assert {row["tenant"] for row in await reading.readings()} == {"one", "two"}


async def test_what_is_forgotten_or_was_never_listed_says_so(reading):
    await reading.send("r", "abcdefgh")
    [root] = await reading.listed()
    for number in range(KEPT_BYTES // 200):
        await reading.send(f"r{number}", f"{number:04}" * 2)
    forgotten = problem(await reading.text(root))
    assert (forgotten["code"], forgotten["param"]) == ("prompt_forgotten", "prefix")
    assert "live.kept_prompts_mib" in forgotten["message"]
    assert problem(await reading.text("ffff"))["param"] == "prefix"
    assert not await reading.readings()


# --- decisions ---


async def written(admin):
    for number in range(1, 6):
        tenant = "acme" if number % 2 else "zoo"
        admin.ledger.record(usage(number, tenant))
        admin.decisions.record(explanation(f"req_{number}"))
    await admin.ledger.close()
    await admin.decisions.close()


async def test_decisions_come_newest_first_a_page_at_a_time(admin, operator):
    await written(admin)
    first = (await operator.get(DECISIONS, limit=3)).json()
    assert [row["request_id"] for row in first["rows"]] == ["req_5", "req_4", "req_3"]
    second = (await operator.get(DECISIONS, limit=3, after=first["next"])).json()
    assert [row["request_id"] for row in second["rows"]] == ["req_2", "req_1"]
    assert second["next"] is None


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"tenant": "acme"}, ["req_5", "req_3", "req_1"]),
        ({"tenant": "nobody"}, []),
        ({"gpu": "cpu0", "mode": "exploit", "tenant": "zoo"}, ["req_4", "req_2"]),
        ({"mode": "explore"}, []),
        ({"mode": "\0"}, []),
    ],
)
async def test_decisions_are_chosen_by_tenant_gpu_and_mode(admin, operator, query, found):
    await written(admin)
    page = (await operator.get(DECISIONS, **query)).json()
    assert [row["request_id"] for row in page["rows"]] == found


# --- what if ---


async def test_what_if_asks_the_policy_again_without_some_gpus(admin, operator):
    admin.decisions.record(explanation())
    dear = (await operator.post(WHAT_IF, {"without": []})).json()
    assert (dear["gpu"], dear["mode"], dear["actual"]) == ("gpu5", "rebalance", None)
    other = (await operator.post(WHAT_IF, {"without": ["gpu5"]})).json()
    assert (other["gpu"], other["mode"], other["predicted_cached_tokens"]) == ("gpu0", "exploit", 2410)
    assert [row["gpu"] for row in other["candidates"]] == ["gpu0", "gpu1"]
    neither = (await operator.post(WHAT_IF, {"without": ["gpu0", "gpu1"]})).json()
    assert (neither["gpu"], neither["mode"], neither["predicted_cached_tokens"]) == ("gpu5", "explore", 0)


async def test_without_those_that_had_most_whoever_has_most_of_the_rest_is_exploited(admin, operator):
    known = explanation()
    rest = replace(known.candidates[2], cached_tokens=1800, missed_tokens=1320, holds_prefix=False)
    admin.decisions.record(replace(known, candidates=[*known.candidates[:2], rest]))
    other = (await operator.post(WHAT_IF, {"without": ["gpu0", "gpu1"]})).json()
    assert (other["gpu"], other["mode"], other["candidates"][0]["holds_prefix"]) == ("gpu5", "exploit", True)


@pytest.mark.parametrize("without", [["gpu0", "gpu1", "gpu5"], ["gpu9"]])
async def test_what_if_without_anybody_or_without_a_stranger_is_refused(admin, operator, without):
    admin.decisions.record(explanation())
    refused = await operator.post(WHAT_IF, {"without": without})
    assert (refused.status_code, problem(refused)["param"]) == (400, "without")


async def test_what_if_of_nothing_is_404_and_of_nonsense_400(operator):
    assert (await operator.post(WHAT_IF, {"without": []})).status_code == 404
    refused = await operator.post(WHAT_IF, {"with": []})
    assert refused.status_code == 400


# --- the end of a request ---


async def test_there_is_nothing_to_cancel_where_nothing_lives(operator):
    refused = await operator.post("/admin/v1/requests/req_1/cancel")
    assert (refused.status_code, problem(refused)["param"]) == (404, "request_id")


async def test_an_operator_tries_first_and_then_ends_a_request(admin, operator):
    ended = []
    call = type("Call", (), {"request_id": "req_1", "tenant": "default", "model": MODEL})()
    admin.lives.begin(call, type("Life", (), {"abandon": staticmethod(ended.append)})())
    planned = (await operator.post("/admin/v1/requests/req_1/cancel", dry_run=True)).json()
    assert planned["effect"] == ["req_1 of default ends; its client gets an error that says so."]
    assert not ended
    assert (await operator.post("/admin/v1/requests/req_1/cancel")).json() == {"request_id": "req_1"}
    assert ended[0].code == "cancelled_by_operator"
    [change] = (await operator.get("/admin/v1/audit", limit=1)).json()["rows"]
    assert (change["action"], change["target"], change["tenant"]) == ("request.cancel", "req_1", "default")


async def cancelled(stream):
    """What the client of a long request gets that an operator ends."""
    async with open_house() as house, open_client(house) as client:
        body = {"model": MODEL, "prompt": "Once", "max_tokens": 1900, "stream": stream}
        asking = asyncio.create_task(client.post("/v1/completions", json=body))
        await until(lambda: house.engine.running)
        [request_id] = house.lives._lives
        house.lives.cancel(request_id)
        answer = await asking
        assert house.engine.generation_tokens < 1900
        assert not house.lives._lives
        return answer


async def test_the_client_of_a_cancelled_request_is_told():
    answer = await cancelled(stream=False)
    assert (answer.status_code, problem(answer)["code"]) == (499, "cancelled_by_operator")


async def test_so_is_one_that_streams_where_its_stream_ends():
    answer = await cancelled(stream=True)
    if answer.status_code == 200:  # else its first token had not come
        *_, last = answer.text.strip().split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "cancelled_by_operator"
