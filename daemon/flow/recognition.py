"""Which template a request begins with that names none: its blocks are the same, and so is what it finds cached."""

from collections.abc import Callable, Mapping, Sequence

from preble.daemon.flow.call import Settled
from preble.daemon.flow.encode import ModelEncoder
from preble.daemon.ids import BlockKey, ModelName
from preble.daemon.sched.blocks import TokenIds, root_key
from preble.daemon.store.templates import TemplateStore
from preble.daemon.templates.beginnings import Beginnings
from preble.daemon.templates.directory import Owner, Template, VersionKey
from preble.daemon.templates.using import Named

_READ_AT_ONCE = 1000


class Recogniser:
    """Knows what can be cached of versions, as far as that was read with the models' tokenizers of today."""

    def __init__(self, store: TemplateStore, encoders: Callable[[], Mapping[ModelName, ModelEncoder]]) -> None:
        """`encoders` are those of the models served."""
        self._store = store
        self._encoders = encoders
        self._beginnings = Beginnings()

    async def recall(self) -> None:
        """Know all that was read before. What was read with another tokenizer is known once it is read again."""
        there = [(each, number) for each in self._store.directory.everything() for number in each.versions]
        for start in range(0, len(there), _READ_AT_ONCE):
            some = {(each.id, number): each for each, number in there[start : start + _READ_AT_ONCE]}
            for model, encoder in self._encoders().items():
                prefixes = await self._store.prefixes(some, model, encoder.traits.fingerprint)
                for key, prefix in prefixes.items():
                    self.note(some[key], key[1], model, prefix)

    def note(self, template: Template, number: int, model: ModelName, prefix: TokenIds) -> None:
        """A version begins with these tokens, whatever its variables are."""
        keys = self._encoders()[model].block_keys("", prefix)
        self._beginnings.put(model, template.owner, (template.id, number), root_key(model), keys)

    def of(self, settled: Settled) -> Named | None:
        """The version with the longest prefix that a request begins with, of its tenant's or the operator's.

        Of several it is the tenant's own; then one that requests get without naming a version; then the newest.
        """
        call, keys = settled.call, settled.block_keys
        if call.salt is None:
            return None
        root = root_key(call.model, salt=call.salt)
        found = [self._longest(owner, call.model, root, keys) for owner in (call.tenant, None)]
        return max((each for each in found if each is not None), key=lambda named: named.blocks, default=None)

    def _longest(self, owner: Owner, model: ModelName, root: BlockKey, keys: Sequence[BlockKey]) -> Named | None:
        for blocks, versions in self._beginnings.find(model, owner, root, keys):
            there = [found for key in versions if (found := self._find(key)) is not None]
            if there:
                template, number = max(there, key=_rank)
                tokens = blocks * self._encoders()[model].block_tokens
                return Named(template_id=template.id, name=template.name, version=number, tokens=tokens, blocks=blocks)
        return None

    def _find(self, key: VersionKey) -> tuple[Template, int] | None:
        template = self._store.directory.by_id(key[0])
        return None if template is None or key[1] not in template.versions else (template, key[1])


def _rank(found: tuple[Template, int]) -> tuple[bool, int, int]:
    template, number = found
    return number == template.version().number, template.id, number
