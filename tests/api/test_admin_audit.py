"""The audit over HTTP: every change is in it, who made it and what it was before, and no secret."""

import asyncio

import pytest
from tests.api.calling import problem

from preble.daemon.errors import Conflict
from preble.daemon.tenancy.keys import id_of

AUDIT = "/admin/v1/audit"


@pytest.fixture
async def changed(operator):
    """An operator's day: the answers, in order."""
    made = await operator.post("/admin/v1/tenants", {"name": "acme"})
    key = await operator.post("/admin/v1/keys", {"tenant": "acme", "name": "app"})
    key_id = key.json()["id"]
    answers = [
        made,
        key,
        await operator.patch("/admin/v1/tenants/acme", {"weight": 3, "limits": {"tokens_per_day": 5}}),
        await operator.post("/admin/v1/tenants/acme/rotate-salt"),
        await operator.patch(f"/admin/v1/keys/{key_id}", {"name": "web"}),
        await operator.post(f"/admin/v1/keys/{key_id}/rotate", {"overlap_s": 60}),
        await operator.post(f"/admin/v1/keys/{key_id}/revoke"),
        await operator.post("/admin/v1/gpus/cpu0/drain"),
        await operator.post("/admin/v1/gpus/cpu0/undrain"),
        await operator.post("/admin/v1/gpus/cpu0/restart"),
        await operator.delete("/admin/v1/tenants/acme", revoke_keys=True),
    ]
    assert all(answer.is_success for answer in answers), answers
    return answers


async def rows(operator, **query) -> list[dict]:
    return (await operator.get(AUDIT, **query)).json()["rows"]


async def test_every_change_is_there_with_its_author_and_request(operator, changed, tmp_path):
    found = await rows(operator)
    done = [row for row in reversed(found) if row["actor"] != "local"]
    assert [row["action"] for row in done] == [
        "tenant.create", "key.create", "tenant.update", "tenant.rotate_salt", "key.update", "key.rotate", "key.create",
        "key.revoke", "gpu.drain", "gpu.undrain", "gpu.restart", "key.revoke", "tenant.delete",
    ]  # fmt: skip
    assert {row["actor"] for row in done} == {id_of((tmp_path / "operator.key").read_text().strip())}
    requests = [answer.headers["x-request-id"] for answer in changed]
    assert list(dict.fromkeys(row["request_id"] for row in done)) == requests
    assert {row["tenant"] for row in done if not row["action"].startswith("gpu")} == {"acme"}
    assert [row["number"] for row in found] == sorted((row["number"] for row in found), reverse=True)


async def test_what_the_daemon_did_by_itself_is_local(operator):
    found = await rows(operator)
    assert [(row["actor"], row["action"]) for row in found] == [
        ("local", "key.create"), ("local", "tenant.create"), ("local", "key.create"),
    ]  # fmt: skip


async def test_before_and_after_tell_what_was_changed(operator, changed):
    update = next(row for row in await rows(operator) if row["action"] == "tenant.update")
    assert (update["before"]["weight"], update["after"]["weight"]) == (1.0, 3.0)
    assert (update["before"]["limits"], update["after"]["limits"]) == ({}, {"tokens_per_day": 5})
    create, delete = [
        next(row for row in await rows(operator) if row["action"] == f"tenant.{action}" and row["target"] == "acme")
        for action in ("create", "delete")
    ]
    assert (create["before"], delete["after"]) == (None, None)
    drain = next(row for row in await rows(operator) if row["action"] == "gpu.drain")
    assert (drain["target"], drain["before"], drain["after"]) == (
        "cpu0",
        {"state": "ready", "draining": False},
        {"state": "ready", "draining": True},
    )


async def test_no_secret_is_in_it(operator, changed, tmp_path):
    text = (await operator.get(AUDIT)).text
    secrets = [answer.json()["key"] for answer in changed if "key" in answer.json()]
    assert len(secrets) == 2
    for secret in (*secrets, (tmp_path / "operator.key").read_text().strip()):
        assert secret not in text
        assert secret.rpartition("_")[2] not in text


async def test_it_is_filtered_by_tenant_and_time_and_read_page_by_page(operator, changed):
    everything = await rows(operator)
    assert await rows(operator, tenant="acme") == [row for row in everything if row["tenant"] == "acme"]
    assert await rows(operator, tenant="nobody") == []
    assert await rows(operator, since="2020-01-01T00:00:00Z") == [row for row in everything if row["actor"] != "local"]
    found, after = [], None
    while True:
        page = (await operator.get(AUDIT, limit=4, **({"after": after} if after else {}))).json()
        found += page["rows"]
        after = page["next"]
        if after is None:
            break
    assert found == everything


async def test_what_one_request_changed_is_found_by_its_id(operator, changed):
    for answer in changed:
        found = await rows(operator, request_id=answer.headers["x-request-id"])
        assert {row["request_id"] for row in found} == {answer.headers["x-request-id"]}
    assert len(found) == 2, "deleting a tenant revokes its key"
    for nobodys in ("req_unknown", "a\0"):
        assert await rows(operator, request_id=nobodys) == []


@pytest.mark.parametrize(
    ("query", "param"), [({"after": 0}, "after"), ({"since": "x"}, "since"), ({"limit": 0}, "limit")]
)
async def test_a_bad_query_of_it_is_refused_by_the_name_of_its_field(operator, query, param):
    response = await operator.get(AUDIT, **query)
    assert (response.status_code, problem(response)["param"]) == (400, param)


async def test_what_was_refused_changed_nothing_and_is_not_there(admin, operator, monkeypatch):
    async def refuse(_):
        raise Conflict("it is being stopped already")

    monkeypatch.setattr(type(admin.gpus), "restart", lambda _, gpu: refuse(gpu))
    before = await rows(operator)
    assert (await operator.post("/admin/v1/gpus/cpu0/restart")).status_code == 409
    assert (await operator.post("/admin/v1/gpus/cpu9/drain")).status_code == 404
    assert (await operator.post("/admin/v1/tenants", {"name": "default", "weight": 2})).status_code == 409
    assert (await operator.delete("/admin/v1/tenants/default")).status_code == 409
    assert await rows(operator) == before


async def test_an_order_that_takes_its_time_is_there_as_soon_as_it_is_given(admin, operator, monkeypatch):
    drained = asyncio.Event()

    async def wait_for_requests():
        await drained.wait()

    monkeypatch.setattr(type(admin.gpus), "restart", lambda *_: wait_for_requests())
    restarting = asyncio.create_task(operator.post("/admin/v1/gpus/cpu0/restart"))
    async with asyncio.timeout(10):
        while "gpu.restart" not in [row["action"] for row in await rows(operator)]:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.001)
    assert not restarting.done()
    drained.set()
    assert (await restarting).status_code == 200
