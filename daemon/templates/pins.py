"""Prefixes that are to stay in GPUs' caches: what is wanted, what is there, and what is to be done now.

Engines have no way to hold a prefix, so it is kept by watching: computed again when it was evicted, or used again
shortly before it would be. All of that is worked out here; who asks sees to it, and tells what came of it. All times
are the caller's, in seconds.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from preble.daemon.errors import Conflict, InvalidRequest
from preble.daemon.ids import BlockKey, GpuId, KeyId, ModelName, TenantName
from preble.daemon.templates.demand import Demand
from preble.daemon.templates.residence import state_of
from preble.daemon.wire.percents import percent
from preble.daemon.wire.pins import State

PinKey = tuple[TenantName, int, str, ModelName]
"""Tenant, template, reference and model."""

STAYS_S = 60.0
"""What was evicted before has not stayed: then the next try waits."""
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 300.0
SPARE_RATIO = 0.5
"""Of a GPU's blocks: what would be evicted before so many others were stored is used again."""
_LEAST_BETWEEN_USES_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What somebody wants."""

    tenant: TenantName
    """In whose cache, and at whose expense."""
    template_id: int
    reference: str
    """A version's number, a label, or nothing for what requests get."""
    model: ModelName
    replicas: int
    """GPUs that are to have it, whatever is asked for."""
    max_replicas: int
    """GPUs that may have it, if so much is asked for."""
    expires_at_s: float | None
    """Seconds since the epoch; None: never."""
    created_at_s: float
    created_by: KeyId

    @property
    def key(self) -> PinKey:
        """There is one of each."""
        return self.tenant, self.template_id, self.reference, self.model


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRoom:
    """A GPU as far as pins need to know it."""

    gpu: GpuId
    kv_blocks: int
    takes_new: bool


@dataclass(slots=True, eq=False)
class Held:
    """A pin, and how it stands."""

    pin: Pin
    version: int = 0
    """0: not known yet."""
    tokens: int = 0
    keys: tuple[BlockKey, ...] = ()
    homes: dict[GpuId, float] = field(default_factory=dict)
    """GPUs that have it, or are getting it; when they got it."""
    warming: set[GpuId] = field(default_factory=set)
    stale: set[GpuId] = field(default_factory=set)
    """Had it when it was another version, or had another salt."""
    used_at_s: dict[GpuId, float] = field(default_factory=dict)
    demand: Demand = field(default_factory=Demand)
    tries: int = 0
    """That did not last."""
    next_try_s: float = 0.0
    evictions: int = 0
    warm_ups: int = 0
    problem: str | None = None

    def wanted(self, now_s: float) -> int:
        """How many GPUs are to have it: so many that its requests take no more than so much of each."""
        return min(self.pin.max_replicas, max(self.pin.replicas, self.demand.gpus(now_s)))

    def state(self, gpu: GpuId, there: int) -> State:
        """With so many blocks there."""
        return state_of(there, len(self.keys), is_warming=gpu in self.warming, is_stale=gpu in self.stale)


@dataclass(frozen=True, slots=True)
class Todo:
    """What is to be done for one pin."""

    held: Held
    among: Collection[GpuId]
    """Where it is to be computed."""
    count: int
    """On so many of them, those that can best afford it."""


@dataclass(frozen=True, slots=True)
class HomeChanged:
    """A prefix is to stay on a GPU, or need not any more."""

    model: ModelName
    gpu: GpuId
    keys: tuple[BlockKey, ...]
    pinned: bool


class Pins:
    """All of them. `share` of a GPU's blocks may be pinned in all."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._held: dict[PinKey, Held] = {}
        self._changes: list[HomeChanged] = []

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def __len__(self) -> int:
        return len(self._held)

    def find(self, key: PinKey) -> Held | None:
        """How it stands."""
        return self._held.get(key)

    def put(self, pin: Pin) -> Held:
        """Have it from now on, in place of the same one as it was."""
        held = self._held.setdefault(pin.key, Held(pin))
        held.pin = pin
        held.tries, held.next_try_s = 0, 0.0
        return held

    def drop(self, key: PinKey) -> None:
        """Have it no more. What is cached stays until it is evicted."""
        held = self._held.pop(key, None)
        if held is not None:
            self._leave_all(held)

    def read(self, held: Held, version: int, tokens: int, keys: tuple[BlockKey, ...]) -> None:
        """What it is in the cache now; whatever was there before is stale if it differs."""
        if keys != held.keys:
            held.stale = {*held.stale, *held.homes} - held.warming
            self._leave_all(held)
            held.tries, held.next_try_s = 0, 0.0
        held.version, held.tokens, held.keys, held.problem = version, tokens, keys, None

    def take_changes(self) -> list[HomeChanged]:
        """What has changed since this was last asked."""
        changes, self._changes = self._changes, []
        return changes

    # --- what is to be done ---

    def look(self, held: Held, gpus: Iterable[GpuRoom], there: Mapping[GpuId, int], now_s: float) -> Todo | None:
        """By the blocks of it that GPUs have reported; None if nothing is to be done, or not yet.

        What a GPU has of it without having been told stays there, if it is wanted.
        """
        if not held.keys:
            return None
        rooms = {room.gpu: room for room in gpus}
        whole = [gpu for gpu in rooms if there.get(gpu, 0) >= len(held.keys)]
        self._leave_lost(held, rooms, whole, now_s)
        wanted = held.wanted(now_s)
        for gpu in whole:
            held.stale.discard(gpu)
            if gpu not in held.homes and len(held.homes) < wanted and self._fits(held, rooms[gpu]):
                self._settle(held, gpu, now_s)
        for gpu in list(held.homes)[wanted:]:
            self._leave(held, gpu)
        missing = wanted - len(held.homes)
        if missing <= 0:
            held.problem = None
            return None
        if now_s < held.next_try_s:
            return None
        among = [
            gpu for gpu, room in rooms.items() if room.takes_new and gpu not in held.homes and self._fits(held, room)
        ]
        held.problem = None if len(among) >= missing else self._crowded(held, rooms, missing)
        return Todo(held, among, min(missing, len(among))) if among else None

    def to_use(self, held: Held, gpu: GpuId, spare_blocks: int, kv_blocks: int, now_s: float) -> bool:
        """Whether it would soon be evicted from a GPU that has it, so that it is to be used."""
        if gpu in held.warming or spare_blocks >= SPARE_RATIO * kv_blocks:
            return False
        return now_s - held.used_at_s.get(gpu, float("-inf")) >= _LEAST_BETWEEN_USES_S

    def began(self, held: Held, gpu: GpuId, now_s: float) -> None:
        """It is being computed there."""
        held.warming.add(gpu)
        held.warm_ups += 1
        held.used_at_s[gpu] = now_s
        if gpu not in held.homes:
            self._settle(held, gpu, now_s)

    def ended(self, held: Held, gpu: GpuId, problem: str | None, now_s: float) -> None:
        """That is over, and went well if there was no problem."""
        held.warming.discard(gpu)
        held.problem = problem
        if problem is None:
            held.used_at_s[gpu] = now_s
        else:
            self._leave(held, gpu)
            self._wait(held, now_s)

    def failed(self, held: Held, problem: str, now_s: float) -> None:
        """It could not even be tried."""
        held.problem = problem
        self._wait(held, now_s)

    def _leave_lost(self, held: Held, rooms: Mapping[GpuId, GpuRoom], whole: Collection[GpuId], now_s: float) -> None:
        for gpu, since_s in list(held.homes.items()):
            if gpu in held.warming or gpu in whole:
                continue
            self._leave(held, gpu)
            if gpu in rooms:  # else the GPU is gone, and that says nothing about the others
                held.evictions += 1
                if now_s - since_s >= STAYS_S:
                    held.tries, held.next_try_s = 0, now_s
                else:
                    self._wait(held, now_s)

    @staticmethod
    def _wait(held: Held, now_s: float) -> None:
        held.next_try_s = now_s + min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(held.tries, 30))
        held.tries += 1

    def _settle(self, held: Held, gpu: GpuId, now_s: float) -> None:
        held.homes[gpu] = now_s
        self._changes.append(HomeChanged(held.pin.model, gpu, held.keys, pinned=True))

    def _leave(self, held: Held, gpu: GpuId) -> None:
        if held.homes.pop(gpu, None) is not None and not self._is_anothers(held, gpu):
            self._changes.append(HomeChanged(held.pin.model, gpu, held.keys, pinned=False))

    def _is_anothers(self, held: Held, gpu: GpuId) -> bool:
        """Whether the same prefix is to stay there for another pin too."""
        others = (other for other in self._held.values() if other is not held)
        return any(other.keys == held.keys and gpu in other.homes for other in others)

    def _leave_all(self, held: Held) -> None:
        for gpu in list(held.homes):
            self._leave(held, gpu)

    # --- what there is room for ---

    def _fits(self, held: Held, room: GpuRoom) -> bool:
        return self.pinned_blocks(room.gpu) + len(held.keys) <= self.most_blocks(room)

    def most_blocks(self, room: GpuRoom) -> int:
        """That can be pinned on a GPU in all."""
        return int(self._share * room.kv_blocks)

    def pinned_blocks(self, gpu: GpuId, besides: PinKey | None = None) -> int:
        """Of all that is to stay on a GPU, or of all pins but one."""
        return sum(len(held.keys) for key, held in self._held.items() if gpu in held.homes and key != besides)

    def places(
        self, pin: Pin, keys: tuple[BlockKey, ...], gpus: Sequence[GpuRoom], whole: Sequence[GpuId]
    ) -> list[GpuRoom]:
        """GPUs that would keep a pin of these blocks, as `look` takes them: its homes, then those that have it all.

        `gpus` are all there are, those first that can best afford to compute it.
        """
        held, rooms = self._held.get(pin.key), {room.gpu: room for room in gpus}
        homes = held.homes if held is not None and held.keys == keys else {}

        def has_room(room: GpuRoom) -> bool:
            fits = self.pinned_blocks(room.gpu, pin.key) + len(keys) <= self.most_blocks(room)
            return room.gpu in homes or (fits and (room.takes_new or room.gpu in whole))

        order = (rooms[gpu] for gpu in dict.fromkeys([*homes, *whole, *rooms]) if gpu in rooms)
        return [room for room in order if has_room(room)][: pin.replicas]

    def _crowded(self, held: Held, rooms: Mapping[GpuId, GpuRoom], missing: int) -> str:
        free = [max(0, self.most_blocks(room) - self.pinned_blocks(room.gpu)) for room in rooms.values()]
        most = max(free, default=0)
        return f"{missing} more GPUs are wanted; it has {len(held.keys)} blocks, and {most} more can be pinned on one"

    def check(self, pin: Pin, n_blocks: int, gpus: Collection[GpuRoom]) -> None:
        """Raise `InvalidRequest` or `Conflict` if there is no room for a pin of so many blocks."""
        if not gpus:
            return
        most = min(self.most_blocks(room) for room in gpus)
        share = f"{percent(self._share)} of its blocks"
        if n_blocks > most:
            message = f"It has {n_blocks} blocks; of a GPU {most} can be pinned in all ({share})."
            raise InvalidRequest(message, code="pin_budget_exceeded")
        if pin.max_replicas > len(gpus):
            message = f"`replicas`: {pin.max_replicas} are wanted, and {len(gpus)} GPUs serve this model."
            raise InvalidRequest(message, param="replicas")
        others = [held for held in self._held.values() if held.pin.model == pin.model and held.pin.key != pin.key]
        taken = sum(held.pin.replicas * len(held.keys) for held in others)
        if taken + pin.replicas * n_blocks > most * len(gpus):
            message = (
                f"It has {n_blocks} blocks, {pin.replicas} times; {taken} are pinned of {most * len(gpus)} that can be "
                f"({share}, of {len(gpus)} GPUs)."
            )
            raise Conflict(message, code="pin_budget_exceeded")

    def tokens_of(self, tenant: TenantName, key_id: KeyId | None = None, besides: PinKey | None = None) -> int:
        """Tokens that a tenant has pinned, or one of its keys, each as often as it is to be there."""
        return sum(
            held.pin.replicas * held.tokens
            for held in self._held.values()
            if held.pin.tenant == tenant and key_id in (None, held.pin.created_by) and held.pin.key != besides
        )

    def next_s(self, now_s: float) -> float:
        """How long until something may be due that no news tell of."""
        waits = [held.next_try_s - now_s for held in self._held.values() if held.next_try_s > now_s]
        return max(0.0, min(waits, default=_LONGEST_WAIT_S))
