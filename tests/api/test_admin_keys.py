"""The operator's routes for keys: shown once, changed at once, rotated without a gap."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from tests.admin_app import usage
from tests.api.calling import Caller, problem
from tests.core import spec

from preble.daemon.ids import KeyId
from preble.daemon.tenancy.keys import id_of

KEYS = "/admin/v1/keys"


async def make(operator, **wanted) -> dict:
    made = await operator.post(KEYS, {"tenant": "default", **wanted})
    assert made.status_code == 201, made.text
    return made.json()


async def works(anyone, key: str) -> bool:
    return (await Caller(anyone, key).get("/v1/usage")).status_code == 200


async def ids(operator, **query) -> list[str]:
    return [row["id"] for row in (await operator.get(KEYS, **query)).json()["rows"]]


async def test_a_key_works_until_the_next_request_after_its_revocation(operator, anyone):
    created = await make(operator, name="app")
    assert created.keys() >= {"key", "id", "tenant"}
    assert await works(anyone, created["key"])
    revoked = (await operator.post(f"{KEYS}/{created['id']}/revoke")).json()
    assert (revoked["revoked_at"] is not None, revoked["version"]) == (True, 2)
    assert not await works(anyone, created["key"])
    assert (await operator.post(f"{KEYS}/{created['id']}/revoke")).json() == revoked, "once is enough"


async def revoking(operator, key_id: str) -> list[str]:
    """What it would do."""
    answer = await operator.post(f"{KEYS}/{key_id}/revoke", dry_run=True)
    assert answer.status_code == 200, answer.text
    return answer.json()["effect"]


async def test_revoking_says_whose_key_it_is_what_it_may_and_when_it_was_used(admin, operator):
    created = await make(operator, name="app", scopes=["inference", "usage:read"])
    shown, made_at = f"preble_live_{created['id']}_…{created['last4']}", created["created_at"][:16].replace("T", " ")
    assert created["key"].startswith(shown.partition("…")[0])
    whose, scopes, used, requests = await revoking(operator, created["id"])
    assert whose == f"It is a key of default named 'app': {shown}, made {made_at} (UTC)."
    assert scopes == "Its scopes are inference, usage:read."
    assert used == "No use of it is on record."
    assert requests.startswith("None of its requests runs or waits; ")
    admin.ledger.record(usage(1, created_at_s=1_793_491_200.0, key_id=created["id"]))
    admin.ledger.record(usage(2, created_at_s=1_793_500_000.0))
    await admin.ledger.close()
    assert (await revoking(operator, created["id"]))[2] == "It was last used 2026-11-01 00:00 (UTC)."
    assert (await operator.get(f"{KEYS}/{created['id']}")).json()["revoked_at"] is None, "nothing was done"


async def test_revoking_says_how_many_requests_are_under_way_and_what_becomes_of_them(admin, operator):
    created = await make(operator)
    for number, key_id in enumerate([created["id"]] * 3 + ["another"]):
        call = SimpleNamespace(request_id=f"r{number}", key_id=key_id)
        admin.lives.begin(call, None)
        if number != 1:  # that one is still on its way
            admin.runtime.submit(spec(f"r{number}", "abcdefgh"), lambda _: None)
    [requests] = [line for line in await revoking(operator, created["id"]) if "401" in line]
    assert requests.startswith("Of its requests 2 run and 1 waits: they go on to their end; ")


async def test_revoking_says_who_is_left_without_a_key_and_what_was_revoked_before_says_nothing(operator, tmp_path):
    created = await make(operator)
    assert "no other key" not in " ".join(await revoking(operator, created["id"]))
    own = id_of((tmp_path / "operator.key").read_text().strip())
    told = await revoking(operator, own)
    assert told[0].startswith("It is an operator's key")
    assert told[-2:] == ["The operator has no other key that works.", "It is the key that this is asked with."]
    await operator.post(f"{KEYS}/{id_of((tmp_path / 'default.key').read_text().strip())}/revoke")
    assert "default has no other key that works." in await revoking(operator, created["id"])
    await operator.post(f"{KEYS}/{created['id']}/revoke")
    assert await revoking(operator, created["id"]) == []


async def test_keys_are_listed_without_their_secrets(operator):
    created = await make(operator, expires_in_days=1.5, limits={"requests_per_minute": 7})
    assert created["key"] not in (await operator.get(KEYS)).text
    *_, row = (await operator.get(KEYS, tenant="default")).json()["rows"]
    assert row == {name: value for name, value in created.items() if name != "key"}
    assert (row["last4"], row["limits"]["requests_per_minute"]) == (created["key"][-4:], 7)
    assert row["created_at"].endswith("+00:00")
    assert row["expires_at"] > row["created_at"]
    assert row["scopes"] == ["inference", "templates", "usage:read"]
    shown = await operator.get(f"{KEYS}/{row['id']}")
    assert (shown.json(), shown.headers["etag"]) == (row, '"1"')


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "tenant"),
        ({"tenant": "nobody"}, 404, "tenant"),
        ({"tenant": "default", "expires_in_days": 0}, 400, "expires_in_days"),
        ({"tenant": "default", "expires_in_days": -1}, 400, "expires_in_days"),
        ({"tenant": "default", "expires_in_days": 1e300}, 400, "expires_in_days"),
        ({"tenant": "default", "expires_in_days": "1"}, 400, "expires_in_days"),
        ({"tenant": "default", "name": "x" * 201}, 400, "name"),
        ({"tenant": "default", "name": "\x1b[31m"}, 400, "name"),
        ({"tenant": "default", "scopes": ["admin:write"]}, 400, "scopes"),
        ({"tenant": None, "scopes": ["inference"]}, 400, "scopes"),
        ({"tenant": "default", "scopes": []}, 400, "scopes"),
        ({"tenant": "default", "limits": {"queued_requests": -1}}, 400, "limits.queued_requests"),
    ],
)
async def test_a_bad_key_is_refused_by_the_name_of_its_field(operator, body, status, param):
    response = await operator.post(KEYS, body)
    assert (response.status_code, problem(response)["param"]) == (status, param)
    assert len(await ids(operator)) == 2


async def test_a_key_does_what_it_was_made_for_and_nothing_else(operator, anyone):
    made = await make(operator, scopes=["inference"])
    refused = await Caller(anyone, made["key"]).get("/v1/usage")
    assert (refused.status_code, "usage:read" in problem(refused)["message"]) == (403, True)


async def test_an_operators_key_may_be_for_reading_alone(operator, anyone):
    made = await make(operator, tenant=None, scopes=["admin:read"])
    assert (made["tenant"], made["key"].startswith("preble_op_")) == (None, True)
    reader = Caller(anyone, made["key"])
    assert (await reader.get(KEYS)).status_code == 200
    assert (await reader.post(KEYS, {"tenant": "default"})).status_code == 403


async def test_unknown_keys_and_tenants_are_not_found(operator):
    for method, path in (("GET", ""), ("PATCH", ""), ("POST", "/revoke"), ("POST", "/rotate")):
        assert (await operator.send(method, f"{KEYS}/nothing{path}", json={})).status_code == 404
    assert (await operator.get(KEYS, tenant="nobody")).status_code == 404
    assert problem(await operator.get(KEYS, after="nothing"))["param"] == "after"


async def test_keys_are_listed_page_by_page(operator):
    made = [(await make(operator))["id"] for _ in range(4)]
    everything = await ids(operator)
    assert set(everything) >= set(made)
    found, after = [], None
    while True:
        page = (await operator.get(KEYS, limit=4, **({"after": after} if after else {}))).json()
        found += [row["id"] for row in page["rows"]]
        after = page["next"]
        if after is None:
            break
    assert found == everything


# --- made once ---


async def test_a_request_that_is_sent_again_makes_no_second_key(operator, anyone):
    named = {"idempotency-key": "deploy 7"}
    first = await operator.send("POST", KEYS, json={"tenant": "default", "name": "app"}, headers=named)
    again = await operator.send("POST", KEYS, json={"name": "app", "tenant": "default"}, headers=named)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == {**first.json(), "key": None}
    assert len(await ids(operator, tenant="default")) == 2
    other = await operator.send("POST", KEYS, json={"tenant": "default", "name": "b"}, headers=named)
    assert (other.status_code, problem(other)["param"]) == (409, "idempotency-key")
    assert await works(anyone, first.json()["key"])


@pytest.mark.parametrize("name", [b"", b"x" * 256, b"\x85"])
async def test_a_requests_name_has_bounds(operator, name):
    refused = await operator.send("POST", KEYS, json={"tenant": "default"}, headers={"idempotency-key": name})
    assert refused.status_code == 400


# --- changed ---


async def test_what_is_not_named_of_a_key_stays(operator):
    made = await make(operator, name="app", expires_in_days=2, limits={"tokens_per_day": 5})
    path = f"{KEYS}/{made['id']}"
    changed = await operator.patch(path, {"name": "web", "limits": {"requests_per_minute": 9}})
    row = changed.json()
    assert (row["name"], row["scopes"], row["version"]) == ("web", made["scopes"], 2)
    assert row["expires_at"] == made["expires_at"]
    assert (row["limits"]["tokens_per_day"], row["limits"]["requests_per_minute"]) == (5, 9)
    assert (await operator.patch(path, {"expires_at": None})).json()["expires_at"] is None
    assert (await operator.patch(path, {"limits": {"tokens_per_day": None}})).json()["limits"]["tokens_per_day"] is None
    assert (await operator.patch(path, {"name": "web"})).json()["version"] == 4, "it has that name"


async def test_a_change_of_scopes_or_expiry_counts_from_the_next_request_on(operator, anyone):
    made = await make(operator)
    path = f"{KEYS}/{made['id']}"
    await operator.patch(path, {"scopes": ["inference"]})
    assert not await works(anyone, made["key"])
    await operator.patch(path, {"scopes": ["usage:read"]})
    assert await works(anyone, made["key"])
    await operator.patch(path, {"expires_at": "2020-01-01T00:00:00Z"})
    assert not await works(anyone, made["key"])
    later = datetime.now(UTC) + timedelta(hours=1)
    row = (await operator.patch(path, {"expires_at": later.replace(tzinfo=None).isoformat()})).json()
    assert row["expires_at"][:19] == later.isoformat()[:19], "without an offset it is UTC"
    assert await works(anyone, made["key"])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": None}, "name"),
        ({"name": "\n"}, "name"),
        ({"scopes": ["admin:read"]}, "scopes"),
        ({"scopes": None}, "scopes"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "0001-01-01T00:00:00+14:00"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-14:00"}, "expires_at"),
        ({"tenant": "other"}, "tenant"),
        ({"limits": {"x": 1}}, "limits"),
    ],
)
async def test_a_bad_change_of_a_key_is_refused_by_the_name_of_its_field(operator, body, param):
    made = await make(operator)
    response = await operator.patch(f"{KEYS}/{made['id']}", body)
    assert (response.status_code, problem(response)["param"]) == (400, param)


async def test_a_lost_update_of_a_key_is_refused(operator):
    path = f"{KEYS}/{(await make(operator))['id']}"
    tag = {"if-match": '"1"'}
    assert (await operator.patch(path, {"name": "a"}, headers=tag)).status_code == 200
    assert (await operator.patch(path, {"name": "b"}, headers=tag)).status_code == 412


async def test_a_revoked_key_is_changed_no_more(operator):
    made = await make(operator)
    await operator.post(f"{KEYS}/{made['id']}/revoke")
    assert (await operator.patch(f"{KEYS}/{made['id']}", {"expires_at": None})).status_code == 409
    assert (await operator.post(f"{KEYS}/{made['id']}/rotate", {})).status_code == 409


# --- rotated ---


async def test_a_rotated_key_works_for_the_overlap_beside_the_new_one(admin, operator, anyone):
    old = await make(operator, name="app", scopes=["usage:read"], expires_in_days=30, limits={"tokens_per_day": 5})
    answered = await operator.post(f"{KEYS}/{old['id']}/rotate", {"overlap_s": 3600})
    new = answered.json()
    assert (answered.status_code, id_of(new["key"])) == (201, new["id"])
    assert [new[name] for name in ("tenant", "name", "scopes", "limits")] == [
        old[name] for name in ("tenant", "name", "scopes", "limits")
    ]
    assert await works(anyone, old["key"])
    assert await works(anyone, new["key"])
    ends = admin.accounts.directory.key(KeyId(old["id"]))
    lives = admin.accounts.directory.key(KeyId(new["id"]))
    assert ends.expires_at_s == pytest.approx(lives.created_at_s + 3600)
    assert lives.expires_at_s == pytest.approx(lives.created_at_s + 30 * 86_400), "as long as the old one had"
    assert (await operator.get(f"{KEYS}/{old['id']}")).json()["replaced_by"] == new["id"]
    again = await operator.post(f"{KEYS}/{old['id']}/rotate", {"overlap_s": 3600})
    assert (again.status_code, new["id"] in problem(again)["message"]) == (409, True)


async def test_without_an_overlap_the_old_key_ends_at_once(operator, anyone):
    old = await make(operator)
    new = (await operator.post(f"{KEYS}/{old['id']}/rotate", {})).json()
    assert not await works(anyone, old["key"])
    assert await works(anyone, new["key"])
    assert new["expires_at"] is None


async def test_an_overlap_makes_no_key_live_longer(operator):
    old = await make(operator, expires_in_days=0.01)
    await operator.post(f"{KEYS}/{old['id']}/rotate", {"overlap_s": 7 * 86_400})
    assert (await operator.get(f"{KEYS}/{old['id']}")).json()["expires_at"] == old["expires_at"]


async def test_an_expired_key_is_not_rotated(operator):
    old = await make(operator)
    await operator.patch(f"{KEYS}/{old['id']}", {"expires_at": "2020-01-01T00:00:00Z"})
    assert (await operator.post(f"{KEYS}/{old['id']}/rotate", {})).status_code == 409


# --- tried ---


async def test_what_is_tried_of_keys_is_told_and_not_done(operator, anyone):
    made = await make(operator)
    before = (await operator.get(KEYS)).json()
    created = await operator.post(KEYS, {"tenant": "default", "name": "x"}, dry_run=True)
    assert (created.status_code, created.json()["after"]["name"]) == (200, "x")
    assert "key" not in created.json()
    path = f"{KEYS}/{made['id']}"
    assert (await operator.patch(path, {"name": "y"}, dry_run=True)).json()["after"]["name"] == "y"
    assert (await operator.post(f"{path}/rotate", {}, dry_run=True)).json()["after"]["expires_at"] is not None
    assert (await operator.post(f"{path}/revoke", dry_run=True)).json()["after"]["revoked_at"] is not None
    assert (await operator.post(KEYS, {"tenant": "nobody"}, dry_run=True)).status_code == 404
    assert (await operator.get(KEYS)).json() == before
    assert await works(anyone, made["key"])
