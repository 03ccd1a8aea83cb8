"""The operator's routes for engines, and why a request went where it went."""

from asyncio import create_task, sleep
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Protocol

from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter

from preble.daemon.api.bodies import read_body, read_object
from preble.daemon.api.changes import DryRun as DryRunFlag
from preble.daemon.api.changes import author_of, planned
from preble.daemon.api.dry_run import DryRun
from preble.daemon.api.request_ids import request_id as id_of
from preble.daemon.api.schema import keyed
from preble.daemon.errors import Conflict, EngineFailed, InvalidRequest, NotFound, TooLarge, Unavailable
from preble.daemon.flow.kept import KeptStretch
from preble.daemon.ids import KeyId
from preble.daemon.obs.live.feed import LiveFeed
from preble.daemon.sched.browse import Order
from preble.daemon.store.accounts import Accounts
from preble.daemon.store.decisions import DecisionLog
from preble.daemon.store.ledger import Ledger
from preble.daemon.tenancy.audit import Change
from preble.daemon.tenancy.model import Principal, Scope
from preble.daemon.wire.accounts import PlannedChange
from preble.daemon.wire.admin import Explanation, GpuRow
from preble.daemon.wire.live import PrefixPage, PrefixText
from preble.daemon.wire.openai import ChatRequest, CompletionRequest

AnyRequest = Request[Any, Any, Any]
Limit = Annotated[int, QueryParameter(ge=1, le=1000)]
Offset = Annotated[int, QueryParameter(ge=0, le=10**12)]


class GpuOperations(Protocol):
    """What can be done with engines. Every method raises `NotFound` for an unknown GPU."""

    def rows(self) -> list[GpuRow]:
        """All engines."""

    async def drain(self, gpu: str) -> None:
        """Place nothing new there."""

    async def undrain(self, gpu: str) -> None:
        """Put it back to work."""

    async def restart(self, gpu: str) -> None:
        """Drain it, end it and start it again."""

    def foresee(self, gpu: str, order: str) -> list[str]:
        """What `drain`, `undrain` or `restart` would do now, in sentences."""


class ConsoleOperations(Protocol):
    """What the console asks beyond the live feed."""

    def prefixes(
        self, model: str | None, parent: str | None, order: Order, gpu: str | None, limit: int, after: str | None
    ) -> PrefixPage:
        """A page of the prefix index; of the first model if None is named. Raises `NotFound` and `InvalidRequest`."""

    def kept(self, prefix: str) -> KeptStretch:
        """What is kept of a stretch's text. Raises `NotFound`, which says why nothing is."""

    async def text(self, kept: KeptStretch) -> PrefixText:
        """The text itself."""

    def suppose(self, known: Explanation, without: Collection[str]) -> Explanation:
        """A decision as it would have been without these GPUs. Raises `InvalidRequest`."""

    def requests_of(self, key_id: KeyId) -> tuple[int, int]:
        """How many requests of a key are with an engine, and how many wait until they are."""

    def request(self, request_id: str) -> dict[str, Any]:
        """A request that waits or runs. Raises `NotFound`."""

    def cancel(self, request_id: str) -> None:
        """End it. Raises `NotFound`."""


@dataclass(frozen=True, slots=True)
class AdminService:
    """What the routes below need, put together by the composition root."""

    authenticate: Callable[[AnyRequest, Scope], Principal]
    accounts: Accounts
    ledger: Ledger
    decisions: DecisionLog
    gpus: GpuOperations
    dry_run: DryRun
    feed: LiveFeed
    console: ConsoleOperations


Admin = NamedDependency[AdminService]


class AdminController(Controller):
    """`/admin/v1/...`, for operators' keys."""

    path = "/admin/v1"
    tags = ("operators",)

    @get("/gpus", operation_class=keyed())
    async def list_gpus(self, request: AnyRequest, admin: Admin) -> list[GpuRow]:
        """Every engine."""
        admin.authenticate(request, Scope.ADMIN_READ)
        return admin.gpus.rows()

    @post("/gpus/{gpu:str}/drain", status_code=200, operation_class=keyed(InvalidRequest, NotFound))
    async def drain(
        self, request: AnyRequest, admin: Admin, gpu: FromPath[str], dry_run: DryRunFlag = False
    ) -> Response[GpuRow | PlannedChange]:
        """Place nothing new on a GPU."""
        return await _order(request, admin, admin.gpus.drain, gpu, {"draining": True}, dry_run)

    @post("/gpus/{gpu:str}/undrain", status_code=200, operation_class=keyed(InvalidRequest, NotFound))
    async def undrain(
        self, request: AnyRequest, admin: Admin, gpu: FromPath[str], dry_run: DryRunFlag = False
    ) -> Response[GpuRow | PlannedChange]:
        """Put a GPU back to work."""
        return await _order(request, admin, admin.gpus.undrain, gpu, {"draining": False}, dry_run)

    @post("/gpus/{gpu:str}/restart", status_code=200, operation_class=keyed(InvalidRequest, NotFound, Conflict))
    async def restart(
        self, request: AnyRequest, admin: Admin, gpu: FromPath[str], dry_run: DryRunFlag = False
    ) -> Response[GpuRow | PlannedChange]:
        """Let a GPU's requests finish, then start its engine again; answers when that has begun."""
        return await _order(request, admin, admin.gpus.restart, gpu, {"restarting": True}, dry_run)

    @get("/explain/{request_id:str}", operation_class=keyed(NotFound))
    async def explain(self, request: AnyRequest, admin: Admin, request_id: FromPath[str]) -> Explanation:
        """Why a request went where it went, and what then happened."""
        admin.authenticate(request, Scope.ADMIN_READ)
        explanation = await admin.decisions.find(request_id)
        if explanation is None:
            raise NotFound(f"There is no decision for request {request_id!r}: unknown, running still, or too old.")
        return explanation

    @post(
        "/explain",
        status_code=200,
        operation_class=keyed(
            InvalidRequest, NotFound, TooLarge, EngineFailed, Unavailable, body=ChatRequest | CompletionRequest
        ),
    )
    async def dry_run(self, request: AnyRequest, admin: Admin, tenant: FromQuery[str | None] = None) -> Explanation:
        """Where a chat or a completion would go now, and why. It is not run, and changes nothing.

        What is cached for it, and how long its answer is expected to be, depends on whose it is: for nobody, nothing is
        cached.
        """
        admin.authenticate(request, Scope.ADMIN_READ)
        whose = admin.accounts.directory.tenant(tenant).name if tenant is not None else None
        return await admin.dry_run(id_of(request.scope), whose, read_object(await read_body(request)))


def seconds(moment: datetime | None) -> float | None:
    """A point in time since the epoch; in UTC where it does not say."""
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


async def _order(
    request: AnyRequest,
    admin: AdminService,
    act: Callable[[str], Coroutine[Any, Any, None]],
    gpu: str,
    after: dict[str, bool],
    dry_run: bool,
) -> Response[Any]:
    """Have something done to a GPU, and have it in the audit unless it is refused."""
    author = author_of(request, admin.authenticate(request, Scope.ADMIN_WRITE))
    row = _gpu_row(admin.gpus, gpu)
    before = {"state": row.state, "draining": row.draining} if row is not None else {}
    order = request.url.path.rpartition("/")[2]
    change = Change(
        action=f"gpu.{order}",
        target=gpu,
        tenant=None,
        before=before,
        after={**before, **after},
    )
    if dry_run and row is not None:
        return Response(planned(change, admin.gpus.foresee(gpu, order)))
    acting = create_task(act(gpu))
    await sleep(0)  # whatever refuses it does so before it waits for anything
    if not acting.done() or acting.exception() is None:
        await admin.accounts.audit.write(author, [change])
    await acting
    return Response(_gpu_row(admin.gpus, gpu))


def _gpu_row(gpus: GpuOperations, gpu: str) -> GpuRow | None:
    return next((row for row in gpus.rows() if row.gpu == gpu), None)
