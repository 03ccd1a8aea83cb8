"""What `/schema` says is true. That every answer of the other tests is as documented, the applications there check."""

import json

import httpx
import msgspec
import pytest
from jsonschema import Draft202012Validator
from tests.admin_app import open_admin_app
from tests.api.documented import Documented
from tests.api.inference_app import open_client, open_house, problem
from tests.core import MODEL

from preble.daemon import __version__
from preble.daemon.api.application import make_application
from preble.daemon.config import ServerConfig
from preble.daemon.wire.accounts import KeyCreate, KeyRotate, KeySettings, TenantCreate
from preble.daemon.wire.live import WhatIf
from preble.daemon.wire.openai import ChatRequest, CompletionRequest
from preble.daemon.wire.pins import PinWanted, WarmUp
from preble.daemon.wire.settings import TenantSettings
from preble.daemon.wire.templates import TemplateCreate, TemplateRender

OPEN = {"/health/live", "/health/ready", "/metrics"}
TEMPLATES = ("/v1/templates", "/admin/v1/templates")
WHAT_IF = "/admin/v1/explain/{request_id}/what-if"
BODIES = {
    "/v1/chat/completions": (ChatRequest, {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}),
    "/v1/completions": (CompletionRequest, {"model": MODEL, "prompt": ["x", "y"], "stream_options": None, "top_p": 1}),
    "/admin/v1/tenants": (TenantCreate, {"name": "a"}),
    "/admin/v1/keys": (KeyCreate, {"tenant": "a", "expires_in_days": 0.5}),
    WHAT_IF: (WhatIf, {"without": ["gpu0"]}),
    "/admin/v1/keys/{key_id}/rotate": (KeyRotate, {"overlap_s": 60}),
    **{path: (TemplateCreate, {"name": "a", "text": "{{b}}", "variables": {"b": {}}}) for path in TEMPLATES},
    **{f"{path}/{{name}}/render": (TemplateRender, {"variables": {"b": 1}}) for path in TEMPLATES},
    **{f"{path}/{{name}}/warm": (WarmUp, {"gpus": "all"}) for path in TEMPLATES},
    **{f"{path}/{{name}}/pin": (PinWanted, {"ttl_s": 60}) for path in TEMPLATES},
}
LABELS = [f"{path}/{{name}}/labels/{{label}}" for path in TEMPLATES]
CHANGES = {
    "/admin/v1/tenants/{name}": (TenantSettings, {"weight": 2, "limits": {"requests_per_minute": None}}),
    "/admin/v1/keys/{key_id}": (KeySettings, {"expires_at": "2027-01-01T00:00:00Z"}),
}
DRY_RUN = "/admin/v1/explain"
READERS = [
    *(("post", path) for path in (*BODIES, DRY_RUN)),
    *(("patch", path) for path in CHANGES),
    *(("put", path) for path in LABELS),
]


def make_document():
    app = make_application(ServerConfig(), health=None, inference=None, admin=None, templates=None, pins=None)
    return Documented(app).document


@pytest.fixture(scope="module")
def document():
    return make_document()


OPERATIONS = sorted((method, path) for path, item in make_document()["paths"].items() for method in item)


def schema_of(document, path, method="post"):
    reference = document["paths"][path][method]["requestBody"]["$ref"]
    body = document["components"]["requestBodies"][reference.rpartition("/")[2]]
    assert body["required"]
    return body["content"]["application/json"]["schema"]


async def test_the_document_is_served_without_a_key():
    async with open_house() as house, httpx.AsyncClient(base_url=house.base_url, trust_env=False) as anyone:
        served = await anyone.get("/schema/openapi.json")
        assert served.status_code == 200
        assert served.json()["info"]["version"] == __version__
        assert served.json()["paths"] == make_document()["paths"]


@pytest.mark.parametrize("path", ["/schema/nothing", "/schema/nothing.json", "/schema/no/thing"])
async def test_an_unknown_document_is_refused_like_any_unknown_route(path):
    async with open_house() as house, httpx.AsyncClient(base_url=house.base_url, trust_env=False) as anyone:
        answer = await anyone.get(path)
        assert (answer.status_code, problem(answer)["message"]) == (404, f"No such route: GET {path}")


def test_the_document_names_every_route():
    """Chance would have it that one is left out: Litestar documents what it is told to."""
    assert {path for _, path in OPERATIONS} >= {*OPEN, *BODIES, "/v1/models", "/v1/models/{name}", "/v1/usage"}
    assert len([path for _, path in OPERATIONS if path.startswith("/admin")]) == 39


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_route_says_what_it_does_and_who_may_use_it(document, method, path):
    operation = document["paths"][path][method]
    assert operation["description"].endswith(".")
    assert operation["tags"]
    if path in OPEN:
        assert not {"401", "403"} & operation["responses"].keys()
        assert "security" not in operation
    else:
        assert {"401", "403"} <= operation["responses"].keys()
        [[scheme]] = operation["security"]
        assert document["components"]["securitySchemes"][scheme]["scheme"] == "bearer"


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_reference_leads_somewhere_and_no_refusal_is_litestars_own(document, method, path):
    for status, answer in document["paths"][path][method]["responses"].items():
        if not status.startswith("2"):
            kind, name = answer["$ref"].removeprefix("#/components/").split("/")
            shape = document["components"][kind][name]["content"]["application/json"]["schema"]
            assert shape["required"] == ["error"]
            assert "status_code" not in json.dumps(shape)


@pytest.mark.parametrize("path", BODIES)
def test_documented_bodies_are_what_is_read(document, path):
    kind, good = BODIES[path]
    schema = schema_of(document, path)
    validator = Draft202012Validator(schema)
    validator.validate(good)
    msgspec.convert(good, kind)
    for name in schema.get("required", ()):
        lacking = {field: value for field, value in good.items() if field != name}
        assert not validator.is_valid(lacking)
    assert "$ref" not in json.dumps(schema)


@pytest.mark.parametrize("path", CHANGES)
def test_a_change_names_what_it_changes_and_nothing_has_a_default(document, path):
    kind, good = CHANGES[path]
    schema = schema_of(document, path, "patch")
    validator = Draft202012Validator(schema)
    validator.validate(good)
    validator.validate({})
    assert not validator.is_valid({"x": 1})
    assert not validator.is_valid({"limits": {"x": 1}})
    assert schema["properties"].keys() == set(kind.__struct_fields__)
    assert "default" not in json.dumps(schema)


def test_only_routes_that_read_a_body_document_one(document):
    readers = [each for each in OPERATIONS if "requestBody" in document["paths"][each[1]][each[0]]]
    assert sorted(readers) == sorted(READERS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_whatever_changes_something_can_be_tried_first(document, method, path):
    operation = document["paths"][path][method]
    changes = method != "get" and path not in (DRY_RUN, WHAT_IF) and not path.endswith("/render")
    changes = changes and path.startswith(("/admin", "/v1/templates"))
    assert ("dry_run" in [each["name"] for each in operation.get("parameters", ())]) == changes
    told = "Warmed" if path.endswith("/warm") else "PlannedChange"
    assert not changes or told in json.dumps(operation["responses"]["200"])


def test_versions_are_told_and_asked_for(document):
    for path in CHANGES:
        item = document["paths"][path]
        assert all("etag" in item[method]["responses"]["200"]["headers"] for method in ("get", "patch"))
        assert "if-match" in [each["name"] for each in item["patch"]["parameters"]]
        assert "412" in item["patch"]["responses"]


def test_a_dry_run_is_of_a_chat_or_of_a_completion(document):
    validator = Draft202012Validator(schema_of(document, DRY_RUN))
    chat, text = (BODIES[path][1] for path in ("/v1/chat/completions", "/v1/completions"))
    validator.validate(chat)
    validator.validate(text)
    assert not validator.is_valid({**chat, **text})
    assert not validator.is_valid({"model": MODEL})


@pytest.mark.parametrize(("method", "path"), READERS)
async def test_a_bad_bodys_refusal_is_as_documented(tmp_path, method, path):
    where = path.replace("{", "").replace("}", "")
    if path.startswith(("/admin", "/v1/templates")):
        async with open_admin_app(tmp_path) as admin:
            app = Documented(admin.app)
            key = (tmp_path / f"{'operator' if path.startswith('/admin') else 'default'}.key").read_text().strip()
            transport = httpx.ASGITransport(app)
            headers = {"authorization": f"Bearer {key}"}
            async with httpx.AsyncClient(transport=transport, base_url="http://preble", headers=headers) as client:
                refused = await client.request(method, where, json=[])
    else:
        async with open_house() as house, open_client(house) as client:
            refused = await client.request(method, where, json=[])
            app = house.asgi
    assert refused.status_code == 400
    assert (method.upper(), path, 400) in app.seen
    assert not app.faults


async def test_what_is_not_documented_would_be_seen(tmp_path):
    async with open_admin_app(tmp_path) as admin:
        app = Documented(admin.app)
        del app.document["paths"]["/admin/v1/gpus"]["get"]["responses"]["401"]
        shape = app.document["components"]["responses"]["Unauthenticated"]["content"]["application/json"]["schema"]
        shape["required"].append("detail")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://preble") as anyone:
            await anyone.get("/admin/v1/gpus")
            await anyone.get("/admin/v1/tenants/x")
    assert [fault.partition(" is ")[0] for fault in app.faults] == [
        "GET /admin/v1/gpus: 401",
        "GET /admin/v1/tenants/x: 401: [\"'detail'",
    ]
