"""All routes as one ASGI application, and who may use them."""

from collections.abc import Callable
from time import monotonic, time
from typing import Any

from litestar import Litestar, Request
from litestar.di import Provide

from preble.daemon.api.admin import AdminController, AdminService
from preble.daemon.api.audit import AuditController
from preble.daemon.api.console import ConsoleController
from preble.daemon.api.health import HealthController, HealthService
from preble.daemon.api.inference import InferenceController, InferenceService
from preble.daemon.api.keys import KeysController
from preble.daemon.api.live import LiveController
from preble.daemon.api.pins import (
    AdminPinsController,
    AdminStatsController,
    PinsController,
    PinService,
    StatsController,
)
from preble.daemon.api.problems import exception_handlers
from preble.daemon.api.request_ids import tell_request_id
from preble.daemon.api.schema import openapi_config
from preble.daemon.api.templates import AdminTemplatesController, TemplatesController, TemplateService
from preble.daemon.api.tenants import TenantsController
from preble.daemon.api.usage import OperatorsUsageController, TenantsUsageController
from preble.daemon.config import ServerConfig
from preble.daemon.errors import RateLimited, Unauthenticated
from preble.daemon.tenancy.failures import FailureLimiter
from preble.daemon.tenancy.model import Known, Principal, Scope, authenticate


class Authenticator:
    """Whom a request is from, if its key may do what it asks."""

    def __init__(self, known: Known, failures: FailureLimiter, on_failure: Callable[[], None]) -> None:
        self._known = known
        self._failures = failures
        self._on_failure = on_failure

    def __call__(self, request: Request[Any, Any, Any], scope: Scope) -> Principal:
        """Raises `Unauthenticated`, `Forbidden`, and `RateLimited` where too many without a valid key come from."""
        try:
            principal = authenticate(request.headers.get("authorization"), self._known, time())
        except Unauthenticated:
            self._on_failure()
            wait_s = self._failures.count(request.client.host if request.client else "", monotonic())
            if wait_s is None:
                raise
            message = "Too many requests without a valid API key have come from this address."
            raise RateLimited(message, retry_after_s=wait_s) from None
        principal.require(scope)
        return principal


def make_application(
    config: ServerConfig,
    *,
    health: HealthService,
    inference: InferenceService,
    admin: AdminService,
    templates: TemplateService,
    pins: PinService,
) -> Litestar:
    """Put the routes together with what they need."""
    return Litestar(
        route_handlers=[
            HealthController,
            InferenceController,
            AdminController,
            OperatorsUsageController,
            TenantsUsageController,
            TenantsController,
            KeysController,
            AuditController,
            LiveController,
            TemplatesController,
            AdminTemplatesController,
            ConsoleController,
            PinsController,
            AdminPinsController,
            StatsController,
            AdminStatsController,
        ],
        dependencies={
            "health": _provide(health),
            "inference": _provide(inference),
            "admin": _provide(admin),
            "templates": _provide(templates),
            "pins": _provide(pins),
        },
        exception_handlers=exception_handlers(),
        before_send=[tell_request_id],
        request_max_body_size=config.max_body_bytes,
        openapi_config=openapi_config(),
        logging_config=None,
    )


def _provide(service: object) -> Provide:
    return Provide(lambda: service, sync_to_thread=False)
