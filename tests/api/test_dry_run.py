"""What would become of a request, asked over HTTP: the decision, or the refusal, that the request would get."""

import httpx
import pytest
from tests.admin_app import author
from tests.api.documented import Documented
from tests.core import CONFIG, LIMITS, MODEL, spec, stored

from preble.daemon.flow import events
from preble.daemon.wire.settings import TenantSettings

TEXT = {"model": MODEL, "prompt": "x" * 40}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "x" * 40}]}


@pytest.fixture
async def ask(admin, tmp_path):
    app = Documented(admin.app)
    headers = {"authorization": f"Bearer {(tmp_path / 'operator.key').read_text().strip()}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://preble", headers=headers
    ) as client:

        async def post(body, **query):
            return await client.post("/admin/v1/explain", json=body, params=query)

        yield post
    assert not app.faults


async def explained(ask, body, **query):
    response = await ask(body, **query)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("body", [TEXT, CHAT])
async def test_it_is_explained_as_a_request_that_has_ended_but_for_what_happened(admin, ask, body):
    admin.runtime.post(stored("gpu0", "x" * 32, salt=admin.salts.scope("default", None).salt))
    told = await explained(ask, body, tenant="default")
    assert (told["gpu"], told["mode"], told["prompt_tokens"]) == ("gpu0", "exploit", 40)
    assert (told["predicted_cached_tokens"], told["predicted_output_tokens"]) == (32, CONFIG.expected_output_tokens)
    assert [row["missed_tokens"] for row in told["candidates"]] == [8, 40]
    assert (told["actual"], told["attempts"]) == (None, 0)


async def test_it_finds_what_is_cached_for_its_tenant_alone(admin, ask):
    await admin.accounts.tenants.create("acme", TenantSettings(), author())
    admin.runtime.post(stored("gpu0", "x" * 32, salt=admin.salts.scope("acme", "inner").salt))
    salted = {**TEXT, "cache_salt": "inner"}
    assert (await explained(ask, salted, tenant="acme"))["predicted_cached_tokens"] == 32
    for body, who in ((TEXT, {"tenant": "acme"}), (salted, {"tenant": "default"}), (salted, {})):
        assert (await explained(ask, body, **who))["predicted_cached_tokens"] == 0


async def test_it_changes_nothing(admin, ask):
    before = admin.runtime.views()
    assert await explained(ask, TEXT) != await explained(ask, CHAT)
    assert admin.runtime.views() == before
    assert admin.runtime.live_requests == 0


async def test_an_answers_length_is_that_of_its_tenants_answers(admin, ask):
    await admin.accounts.tenants.create("acme", TenantSettings(), author())
    for number, tenant in enumerate(["acme"] * 3 + ["other"] * 9):
        submitted = admin.runtime.submit(spec(f"r{number}", f"{tenant}{number}", tenant=tenant), lambda _: None)
        n_tokens = 100 if tenant == "acme" else 10
        admin.runtime.post(events.Finished(attempt_id=submitted.decision.attempt_id, output_tokens=n_tokens))
    body = {**TEXT, "max_tokens": 500}
    assert (await explained(ask, body, tenant="acme"))["predicted_output_tokens"] == 100
    assert 10 < (await explained(ask, body))["predicted_output_tokens"] < 100
    assert (await ask(body, tenant="nobody")).status_code == 404


REFUSED = {
    "neither": ({"model": MODEL}, 400, "messages"),
    "both": ({**TEXT, **CHAT}, 400, "messages"),
    "no model": ({"prompt": "x"}, 400, "model"),
    "another model": ({**TEXT, "model": "other"}, 404, "model"),
    "no output": ({**TEXT, "max_tokens": 0}, 400, "max_tokens"),
    "an empty prompt": ({**TEXT, "prompt": ""}, 400, "prompt"),
    "too long": ({**TEXT, "prompt": "x" * LIMITS.max_model_len}, 400, "prompt"),
    "an engine that fails": ({**TEXT, "suffix": "."}, 502, None),
}


@pytest.mark.parametrize(("body", "status", "param"), REFUSED.values(), ids=REFUSED)
async def test_what_would_be_refused_is(ask, body, status, param):
    response = await ask(body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


async def test_without_an_engine_it_is_503_as_the_request_would_be(admin, ask):
    for view in admin.runtime.views():
        admin.runtime.post(events.EngineDown(gpu=view.gpu))
    response = await ask(TEXT)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "no_engine")
    assert response.headers["retry-after"] == "1"
