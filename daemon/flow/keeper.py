"""Keeps pinned templates in GPUs' caches: looks whenever engines have news, and warms what is missing."""

from asyncio import sleep, timeout
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from time import monotonic, time

import structlog
from sqlalchemy.exc import SQLAlchemyError

from preble.daemon.background import alongside
from preble.daemon.errors import ApiError, EngineError
from preble.daemon.flow.call import Settled
from preble.daemon.flow.events import PinChanged
from preble.daemon.flow.pin_foresight import PinForesight, PinPlace
from preble.daemon.flow.runtime import Runtime
from preble.daemon.flow.templates import TemplateDesk
from preble.daemon.flow.warming import Prefix, Reports, Warmer
from preble.daemon.ids import GpuId, KeyId, TenantName
from preble.daemon.sched.attempt import EngineView
from preble.daemon.sched.types import Candidate
from preble.daemon.store.pins import PinStore
from preble.daemon.templates.directory import Owner, Template, Version
from preble.daemon.templates.pins import SPARE_RATIO, GpuRoom, Held, Pin, PinKey, Pins, Todo
from preble.daemon.tenancy.audit import Author, Change, Outcome
from preble.daemon.tenancy.directory import Directory
from preble.daemon.tenancy.model import Tenant
from preble.daemon.wire.moments import iso
from preble.daemon.wire.pins import PinnedOn, PinRow

_LEAST_BETWEEN_LOOKS_S = 0.05
_MOST_BETWEEN_LOOKS_S = 2.0
_log = structlog.get_logger(__name__)


class Keeper:
    """Hosts the pins: what they are is in the database, how they stand in `Pins`."""

    def __init__(
        self,
        store: PinStore,
        share: float,
        desk: TemplateDesk,
        warmer: Warmer,
        runtime: Runtime,
        tenants: Directory,
        reports: Reports,
    ) -> None:
        """`share` of a GPU's blocks may be pinned in all."""
        self._store = store
        self._desk = desk
        self._warmer = warmer
        self._runtime = runtime
        self._tenants = tenants
        self._reports = reports
        self._pins = Pins(share)
        self._prefixes: dict[PinKey, tuple[int, Prefix]] = {}
        """As they were last read, with the version."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep them for as long as the block runs."""
        for pin in await self._store.load():
            self._pins.put(pin)
        async with alongside(self._run()):
            yield

    async def _run(self) -> None:
        while True:
            news = self._reports.news
            try:
                await self.look()
            except SQLAlchemyError as error:
                _log.error("pins_not_looked_at", error=str(error))
            try:
                async with timeout(min(_MOST_BETWEEN_LOOKS_S, self._pins.next_s(monotonic()))):
                    await news.wait()
            except TimeoutError:
                pass
            await sleep(_LEAST_BETWEEN_LOOKS_S)

    async def look(self) -> None:
        """See what is missing, and have it warmed."""
        if not len(self._pins):
            return
        views = [view for view in self._runtime.views() if view.up]
        for held in self._pins:
            found = self._find(held.pin)
            if found is None:
                self._drop(held.pin)
                await self._store.forget(held.pin.key)
                continue
            template, version, tenant = found
            prefix = await self._read(held, template, version)
            is_there = self._pins.find(held.pin.key) is held  # else it was unpinned meanwhile
            if prefix is not None and is_there and not tenant.settings.suspended:
                self._keep(held, prefix, views)
        self._tell_changes()

    def _find(self, pin: Pin) -> tuple[Template, Version, Tenant] | None:
        """What it is of; None if that is gone, or its time is over."""
        template = self._desk.store.directory.by_id(pin.template_id)
        tenant = self._tenants.find(pin.tenant)
        if template is None or tenant is None or tenant.created_at_s > pin.created_at_s:
            return None
        if template.created_at_s > pin.created_at_s or (pin.expires_at_s is not None and pin.expires_at_s <= time()):
            return None
        try:
            return template, version_of(template, pin.reference), tenant
        except ApiError:  # its label is gone
            return None

    async def _read(self, held: Held, template: Template, version: Version) -> Prefix | None:
        """Its prefix, for the version and the salt of now; None if nobody can tell."""
        pin, now_s = held.pin, monotonic()
        number, prefix = self._prefixes.get(pin.key, (0, None))
        if prefix is not None and number == version.number and self._warmer.is_current(prefix):
            return prefix
        if prefix is None and now_s < held.next_try_s:
            return None
        try:
            prefix = await self._warmer.prefix(pin.tenant, template, version, pin.model)
        except (ApiError, EngineError) as error:
            self._pins.failed(held, str(error), now_s)
            return None
        self._prefixes[pin.key] = version.number, prefix
        self._pins.read(held, version.number, len(prefix.tokens), prefix.keys)
        self._warmer.watch(prefix)
        return prefix if prefix.keys else None

    def _drop(self, pin: Pin) -> None:
        self._pins.drop(pin.key)
        self._prefixes.pop(pin.key, None)

    def _keep(self, held: Held, prefix: Prefix, views: Sequence[EngineView]) -> None:
        gpus = {view.gpu: view for view in views if view.model == prefix.model}
        there = self._runtime.residency(prefix.model, prefix.keys)
        now_s = monotonic()
        todo = self._pins.look(held, map(_room, gpus.values()), there, now_s)
        for gpu in list(held.homes):
            blocks = gpus[gpu].kv_blocks
            spare = self._runtime.spare_blocks(prefix.model, prefix.keys, gpu, int(SPARE_RATIO * blocks) + 1)
            if there.get(gpu, 0) >= len(prefix.keys) and self._pins.to_use(held, gpu, spare, blocks, now_s):
                self._warm(held, prefix, gpu)
        if todo is not None:
            for gpu in self._cheapest(todo, prefix):
                self._warm(held, prefix, gpu)

    def _candidates(self, prefix: Prefix) -> list[Candidate]:
        """None where no engine can compute it now."""
        try:
            return self._warmer.candidates(prefix)
        except ApiError:
            return []

    def _cheapest(self, todo: Todo, prefix: Prefix) -> list[GpuId]:
        try:
            candidates = self._warmer.candidates(prefix)
        except ApiError as error:
            self._pins.failed(todo.held, error.message, monotonic())
            return []
        return [each.gpu for each in candidates if each.gpu in todo.among][: todo.count]

    def _warm(self, held: Held, prefix: Prefix, gpu: GpuId) -> None:
        self._pins.began(held, gpu, monotonic())
        self._tell_changes()
        self._runtime.spawn(self._warmed(held, prefix, gpu))

    async def _warmed(self, held: Held, prefix: Prefix, gpu: GpuId) -> None:
        tried = await self._warmer.warm(prefix, gpu, held.pin.created_by)
        problem = tried.error.message if tried.error is not None else None
        self._pins.ended(held, gpu, problem, monotonic())
        self._tell_changes()
        self._reports.tell()

    def _tell_changes(self) -> None:
        for each in self._pins.take_changes():
            self._runtime.post(PinChanged(model=each.model, gpu=each.gpu, keys=each.keys, pinned=each.pinned))

    # --- what is wanted ---

    async def pin(self, pin: Pin, prefix: Prefix, name: str, author: Author, *, dry_run: bool) -> Outcome[Pin]:
        """Keep it from now on. Raises `InvalidRequest` and `Conflict` where there is no room."""
        views = [view for view in self._runtime.views() if view.up and view.model == pin.model]
        self._pins.check(pin, len(prefix.keys), [_room(view) for view in views])
        known = self._pins.find(pin.key)
        done = await self._store.put(pin, known.pin if known else None, name, author, dry_run=dry_run)
        if not dry_run:
            held = self._pins.put(done.value)
            held.tokens = len(prefix.tokens)
            held.keys = held.keys or prefix.keys  # for its state to be told before it is looked at
            self._reports.tell()
        return done

    def foresee(self, pin: Pin, prefix: Prefix) -> PinForesight:
        """What a pin would do now. Nothing is changed."""
        views = {view.gpu: view for view in self._runtime.views() if view.up and view.model == pin.model}
        there = self._runtime.residency(prefix.model, prefix.keys)
        whole = [gpu for gpu in views if there.get(gpu, 0) >= len(prefix.keys)]
        cheapest = [each.gpu for each in self._candidates(prefix) if each.gpu in views]
        rooms = [_room(views[gpu]) for gpu in dict.fromkeys([*cheapest, *views])]
        places = self._pins.places(pin, prefix.keys, rooms, whole)
        chosen = [room.gpu for room in places]
        return PinForesight(
            tokens=len(prefix.tokens),
            blocks=len(prefix.keys),
            replicas=pin.replicas,
            max_replicas=pin.max_replicas,
            places=[
                PinPlace(
                    gpu=room.gpu,
                    cached_tokens=there.get(room.gpu, 0) * views[room.gpu].block_size,
                    others_blocks=self._pins.pinned_blocks(room.gpu, pin.key),
                    most_blocks=self._pins.most_blocks(room),
                )
                for room in places
            ],
            elsewhere=[gpu for gpu in whole if gpu not in chosen],
        )

    async def unpin(self, pins: Sequence[Pin], name: str, author: Author, *, dry_run: bool) -> Change:
        """Let these go."""
        change = await self._store.remove(pins, name, author, dry_run=dry_run)
        if not dry_run:
            for pin in pins:
                self._drop(pin)
            self._tell_changes()
        return change

    def pinned_tokens(self, tenant: TenantName, key_id: KeyId | None, besides: Pin) -> int:
        """Tokens that a tenant has pinned, or one of its keys, without this pin."""
        return self._pins.tokens_of(tenant, key_id, besides.key)

    def settled(self, settled: Settled) -> None:
        """A request has ended: what it took of a GPU's time counts for the template that it began with."""
        call = settled.call
        if call.template is None:
            return
        used = (call.tenant, call.template.template_id, call.template.version, call.model)
        for held in self._pins:
            if (held.pin.tenant, held.pin.template_id, held.version, held.pin.model) == used:
                held.demand.add(settled.gpu_ms, monotonic())

    # --- how it stands ---

    def kept(self) -> list[tuple[TenantName, bool]]:
        """Of each pin, whose it is, and whether it is on as many GPUs as are wanted."""
        now_s = monotonic()
        return [(held.pin.tenant, len(held.homes) >= held.wanted(now_s)) for held in self._pins]

    def find(self, tenant: Owner, template_id: int | None = None) -> list[Held]:
        """Pins of a tenant, or of all, of one template or all."""
        return [
            held
            for held in self._pins
            if tenant in (None, held.pin.tenant) and template_id in (None, held.pin.template_id)
        ]

    def row(self, held: Held) -> PinRow:
        """One as it stands."""
        pin, now_s = held.pin, monotonic()
        template = self._desk.store.directory.by_id(pin.template_id)
        waits_s = held.next_try_s - now_s
        return PinRow(
            name=template.name if template else "",
            owner=template.owner if template else None,
            tenant=pin.tenant,
            reference=pin.reference or None,
            version=held.version or None,
            model=pin.model,
            replicas=pin.replicas,
            max_replicas=pin.max_replicas,
            wanted_replicas=held.wanted(now_s),
            expires_at=None if pin.expires_at_s is None else iso(pin.expires_at_s),
            created_at=iso(pin.created_at_s),
            created_by=pin.created_by,
            cacheable_tokens=held.tokens,
            places=self._places(held),
            evictions=held.evictions,
            warm_ups=held.warm_ups,
            problem=held.problem,
            next_try_in_s=round(waits_s, 1) if waits_s > 0 else None,
        )

    def _places(self, held: Held) -> list[PinnedOn]:
        there: Mapping[GpuId, int] = self._runtime.residency(held.pin.model, held.keys)
        return [
            PinnedOn(
                gpu=view.gpu,
                state=held.state(view.gpu, there.get(view.gpu, 0)),
                cached_tokens=there.get(view.gpu, 0) * view.block_size,
                is_kept=view.gpu in held.homes,
            )
            for view in self._runtime.views()
            if view.model == held.pin.model and view.up
        ]


def version_of(template: Template, reference: str) -> Version:
    """What a pin's reference stands for now. Raises `NotFound`."""
    if reference.isdigit():
        return template.version(int(reference))
    return template.version(label=reference or None)


def _room(view: EngineView) -> GpuRoom:
    return GpuRoom(gpu=view.gpu, kv_blocks=view.kv_blocks, takes_new=not view.draining)
