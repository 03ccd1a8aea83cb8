"""Whatever an operator sends, the daemon does not fail, and answers as `/schema` says. Schemathesis makes it up."""

from uuid import uuid4

import pytest
import schemathesis
from hypothesis import settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.api.test_schema import make_document
from tests.cli.running import serving

from preble.daemon.wire.client import AdminClient
from preble.daemon.wire.templates import TemplateCreate

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EVERYTHING = schemathesis.openapi.from_dict(make_document())
ADMIN = EVERYTHING.include(path_regex="^(/admin|/v1/template)").exclude(path="/admin/v1/live")  # which does not end
OF_ONE = EVERYTHING.include(path_regex="^(/admin|/v1/templates).*{")
THOROUGHLY = settings(max_examples=25)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("fuzzed")) as running:
        yield running


@pytest.fixture(scope="module")
def operator(served):
    with AdminClient(served.url, served.key("operator")) as client:
        yield client


def made(operator) -> dict[str, str]:
    """Names that there are, by the parameter in which they stand."""
    tenant = operator.create_tenant(f"t{uuid4().hex}").name
    key_id = operator.create_key(tenant, {}).id
    for owner in (None, "default"):
        operator.register_template(TemplateCreate(name=tenant, text="{{a}}", description=None), owner)
        operator.label_template(tenant, "production", 1, owner)
    return {
        "name": tenant,
        "label": "production",
        "key_id": key_id,
        "gpu": "cpu0",
        "request_id": "req_1",
        "prefix": "ff",
    }


class There:
    """What there is to ask about: new for each operation, and once a request has used some of it up."""

    def __init__(self, operator):
        self._operator = operator
        self._operation: str | None = None
        self._names: dict[str, str] = {}

    def put_into(self, case) -> None:
        if case.operation.label != self._operation:
            self._operation, self._names = case.operation.label, made(self._operator)
        case.path_parameters = {name: self._names[name] for name in case.path_parameters}

    def see(self, case, answer) -> None:
        if (case.method == "DELETE" or case.path.endswith(("/revoke", "/rotate"))) and answer.status_code < 300:
            self._operation = None


@pytest.fixture(scope="module")
def there(operator):
    return There(operator)


def send(case, served) -> schemathesis.Response:
    key = served.key("operator" if case.path.startswith("/admin") else "default")
    headers = {"authorization": f"Bearer {key}"}
    return case.call_and_validate(base_url=served.url, headers=headers, checks=CHECKS)


@ADMIN.parametrize()
@THOROUGHLY
def test_no_request_makes_a_route_fail_or_say_what_is_not_documented(case, served):
    send(case, served)


@OF_ONE.parametrize()
@THOROUGHLY
def test_nor_does_one_about_what_there_is(case, served, there):
    there.put_into(case)
    there.see(case, send(case, served))
