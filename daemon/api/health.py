"""Whether the daemon is alive, whether it can serve, and its metrics: for machines, without a key."""

from collections.abc import Callable
from dataclasses import dataclass

from litestar import Controller, MediaType, Response, get
from litestar.di import NamedDependency

from preble.daemon.api.schema import operation
from preble.daemon.errors import Unavailable


@dataclass(frozen=True, slots=True)
class HealthService:
    """What the routes below need, put together by the composition root."""

    unready: Callable[[], str | None]
    """Why requests cannot be served now; None when they can."""
    render_metrics: Callable[[], tuple[bytes, str]]
    """The metrics page and its content type."""


Health = NamedDependency[HealthService]


class HealthController(Controller):
    """`/health/live`, `/health/ready` and `/metrics`."""

    tags = ("health",)

    @get("/health/live", operation_class=operation())
    async def live(self) -> dict[str, str]:
        """Answer as long as the event loop turns."""
        return {"status": "live"}

    @get("/health/ready", operation_class=operation(Unavailable))
    async def ready(self, health: Health) -> dict[str, str]:
        """Answer 200 when every model has an engine that takes requests, else 503 and the reason."""
        reason = health.unready()
        if reason is not None:
            raise Unavailable(reason, retry_after_s=1.0)
        return {"status": "ready"}

    @get("/metrics", operation_class=operation(), media_type=MediaType.TEXT)
    async def metrics(self, health: Health) -> Response[bytes]:
        """Prometheus' text format."""
        page, content_type = health.render_metrics()
        return Response(page, media_type=content_type)
