"""Templates, with the models that they are for: what of them can be cached, and requests that use them."""

import dataclasses
from asyncio import sleep
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from preble.daemon.errors import ApiError, EngineError, InvalidRequest, NotFound
from preble.daemon.flow.encode import ModelEncoder
from preble.daemon.flow.recognition import Recogniser
from preble.daemon.ids import BlockKey, ModelName
from preble.daemon.prompt import Traits
from preble.daemon.sched.blocks import TokenIds
from preble.daemon.store.templates import TemplateStore, TokenRow
from preble.daemon.templates.body import checked, filled, names_of
from preble.daemon.templates.comparison import VARIABLES_TRIED, Other, advised, partings
from preble.daemon.templates.directory import Owner, Template, Version
from preble.daemon.templates.prefix import bare, common_tokens, variants, whole_blocks
from preble.daemon.templates.using import Named, Use, refuse_disguised, safe_values, used
from preble.daemon.tenancy.audit import Author, Outcome
from preble.daemon.wire.openai import ChatRequest, CompletionRequest
from preble.daemon.wire.templates import Advice, Analysis, TemplateBody, TemplateUse

_CACHEABLES_KEPT = 10_000


class TemplateDesk:
    """What routes ask about templates."""

    def __init__(self, store: TemplateStore, encoders: Callable[[], Mapping[ModelName, ModelEncoder]]) -> None:
        """`encoders` are those of the models served."""
        self.store = store
        self._encoders = encoders
        self._cacheables: dict[tuple[int, int, ModelName], int] = {}
        self.recogniser = Recogniser(store, encoders)

    async def register(
        self,
        owner: Owner,
        name: str,
        body: TemplateBody,
        author: Author,
        models: Collection[str],
        *,
        description: str | None = None,
        dry_run: bool = False,
    ) -> Outcome[tuple[Template, Version]]:
        """Make a version, if one of these models takes it; what it is in tokens is then known for each that does.

        Raises `InvalidRequest`, `NotFound` for a model that is not served, and `Conflict`.
        """
        body = checked(body)
        found, refused = await self._read(owner, body, self._models_for(body, models))
        if not found and refused:
            raise next(iter(refused.values()))
        done = await self.store.register(owner, name, body, author, description=description, dry_run=dry_run)
        if not dry_run:
            for model, row in found.items():
                await self._keep(*done.value, model, row)
        return done

    async def analyses(
        self, owner: Owner, template: Template, version: Version, models: Collection[str]
    ) -> list[Analysis]:
        """What a version is to each of these models, and what it shares with others that `owner` can see."""
        body = await self.store.body(template, version)
        wanted = sorted(models) if body.model is None else [body.model]
        return [await self._analysis(owner, template, version, ModelName(model), models) for model in wanted]

    async def prefix(self, template: Template, version: Version, model: ModelName) -> TokenIds:
        """What can be cached of a version: whole blocks of tokens. Raises the `ApiError` with which a model refuses it.

        Also `EngineError` where only an engine can tell.
        """
        if model not in self._encoders():
            raise NotFound(f"The model `{model}` is not served here.", param="model", code="model_not_found")
        row = await self._token_row(template, version, model)
        return row.prefix[: whole_blocks(len(row.prefix), self._encoders()[model].block_tokens)]

    def chain(self, model: ModelName, salt: str, tokens: TokenIds) -> tuple[BlockKey, ...]:
        """Tokens as a chain of blocks, for those whose cached prefixes have this salt."""
        return tuple(self._encoders()[model].block_keys(salt, tokens))

    def model_for(self, body: TemplateBody, wanted: str | None, models: Collection[str]) -> ModelName:
        """The model that is meant, of these. Raises `NotFound`, and `InvalidRequest` where there is a choice."""
        if wanted is not None and body.model not in (None, wanted):
            raise InvalidRequest(f"The template is for the model {body.model!r}.", param="model")
        found = self._models_for(body if wanted is None else replace(body, model=wanted), models)
        if len(found) != 1:
            raise InvalidRequest(f"`model`: name one of {', '.join(found) or 'none'}.", param="model")
        return found[0]

    async def rendered(self, owner: Owner, use: TemplateUse, models: Collection[str]) -> tuple[Version, TemplateBody]:
        """A version with values in place of its variables; for any of these models.

        Raises `NotFound` and `InvalidRequest`.
        """
        _, version, body = await self.find(owner, use)
        markers = {marker for model in self._models_for(body, models) for marker in self._traits(model).markers}
        return version, filled(body, safe_values(body, use.variables, markers))

    async def use(
        self, owner: Owner, model: ModelName, wanted: ChatRequest | CompletionRequest, request: Mapping[str, Any]
    ) -> Use:
        """A request that names a template, with that in it; `wanted` is what was read of it.

        Raises `NotFound` and `InvalidRequest`.
        """
        assert wanted.template is not None
        template, version, body = await self.find(owner, wanted.template)
        told = f"Template {wanted.template.name!r} is for"
        if body.model not in (None, model):
            raise InvalidRequest(f"{told} the model {body.model!r}.", param="template.name")
        if (body.text is None) != isinstance(wanted, ChatRequest):
            kind = "chats: it is a list of messages" if body.text is None else "completions: it is a text"
            raise InvalidRequest(f"{told} {kind}.", param="template.name")
        use = used(body, wanted.template, request, self._traits(model).markers)
        tokens = await self._cacheable(template, version, model)
        return dataclasses.replace(
            use,
            named=Named(
                template_id=template.id,
                name=template.name,
                version=version.number,
                tokens=tokens,
                blocks=tokens // self._encoders()[model].block_tokens,
            ),
        )

    async def _cacheable(self, template: Template, version: Version, model: ModelName) -> int:
        """Tokens that can be cached of a version, 0 where nobody can say; it is remembered."""
        key = (template.id, version.number, model)
        if key not in self._cacheables:
            try:
                self._cacheables[key] = len(await self.prefix(template, version, model))
            except (ApiError, EngineError):
                return 0
            if len(self._cacheables) > _CACHEABLES_KEPT:
                del self._cacheables[next(iter(self._cacheables))]
        return self._cacheables[key]

    async def prove(self, model: ModelName, use: Use, request: Mapping[str, Any], scope: str) -> None:
        """Raise `InvalidRequest` if a value has become more than text: a token that only chat templates write.

        Raises as `ModelEncoder.tokens`; `request` is without its template.
        """
        if use.harmless is None:
            return
        encoder, added = self._encoders()[model], self._traits(model).added_ids
        ours = await encoder.tokens({**request, **use.fields}, scope)
        theirs = await encoder.tokens({**request, **use.harmless}, scope)
        if _only(added, ours) != _only(added, theirs):
            refuse_disguised(use.names)

    async def find(self, owner: Owner, use: TemplateUse) -> tuple[Template, Version, TemplateBody]:
        """What an owner means. Raises `NotFound` and `InvalidRequest`."""
        if use.version is not None and use.label is not None:
            raise InvalidRequest("`version` and `label` exclude each other.", param="template.version")
        template = self.store.directory.visible(owner, use.name)
        version = template.version(use.version, use.label)
        return template, version, await self.store.body(template, version)

    def _traits(self, model: str) -> Traits:
        return self._encoders()[ModelName(model)].traits

    def _models_for(self, body: TemplateBody, models: Collection[str]) -> list[ModelName]:
        if body.model is None:
            return [ModelName(model) for model in sorted(models)]
        if body.model not in models:
            served = ", ".join(sorted(models)) or "none"
            message = f"The model `{body.model}` does not exist. Served here: {served}."
            raise NotFound(message, param="model", code="model_not_found")
        return [ModelName(body.model)]

    # --- tokens ---

    async def _read(
        self, owner: Owner, body: TemplateBody, models: Iterable[ModelName]
    ) -> tuple[dict[ModelName, TokenRow], dict[ModelName, InvalidRequest]]:
        """What models make of a body, and why others do not take it. Those that cannot say now are in neither."""
        found: dict[ModelName, TokenRow] = {}
        refused: dict[ModelName, InvalidRequest] = {}
        for model in models:
            try:
                found[model] = await self._tokenised(owner, body, model)
            except InvalidRequest as error:
                refused[model] = error
            except (ApiError, EngineError):
                continue
        return found, refused

    async def _token_row(self, template: Template, version: Version, model: ModelName) -> TokenRow:
        """What was found out before, if that was with the tokenizer and chat template of today."""
        known = await self.store.tokens(template, version, model)
        if known is not None and known.fingerprint == self._encoders()[model].traits.fingerprint:
            return known
        body = await self.store.body(template, version)
        found = await self._tokenised(template.owner, body, model)
        await self._keep(template, version, model, found)
        return found

    async def _keep(self, template: Template, version: Version, model: ModelName, found: TokenRow) -> None:
        await self.store.put_tokens(template, version, model, found)
        self.recogniser.note(template, version.number, model, found.prefix)

    async def _tokenised(self, owner: Owner, body: TemplateBody, model: ModelName) -> TokenRow:
        """Raises `InvalidRequest` if the model does not take it; and as `ModelEncoder.tokens`."""
        encoder, scope = self._encoders()[model], f"template:{owner or ''}"
        prefix = await self._prefix_of(model, scope, body)
        try:
            tokens = len(await encoder.tokens({**bare(body), "model": model}, scope))
        except InvalidRequest:  # it wants something after it
            tokens = len(prefix)
        longest = encoder.max_model_len
        if longest is not None and tokens >= longest:
            message = f"The template has {tokens} tokens; this model's maximum context length is {longest} tokens."
            raise InvalidRequest(message, param="messages", code="context_length_exceeded")
        block = encoder.block_tokens
        advice: list[Advice] = []
        if whole_blocks(tokens, block) > whole_blocks(len(prefix), block):
            names = names_of(body)[:VARIABLES_TRIED]
            without = [len(await self._prefix_of(model, scope, body, names[: at + 1])) for at in range(len(names))]
            advice = advised(names, len(prefix), without, block)
        told = [msgspec.to_builtins(each) for each in advice]
        return TokenRow(fingerprint=encoder.traits.fingerprint, tokens=tokens, prefix=prefix, advice=told)

    async def _prefix_of(self, model: ModelName, scope: str, body: TemplateBody, fixed: Sequence[str] = ()) -> TokenIds:
        encoder = self._encoders()[model]
        prompts: list[TokenIds] = []
        refusal: InvalidRequest | None = None
        for request in variants(body, fixed, merges=encoder.traits.merges):
            await sleep(0)  # others have their turn: each takes its time
            try:
                tokens = await encoder.tokens({**request, "model": model}, scope)
            except InvalidRequest as error:
                refusal = refusal or error
            else:
                prompts = [common_tokens([*prompts, tokens])]
        if not prompts:
            assert refusal is not None
            raise refusal
        return prompts[0]

    async def _analysis(
        self, owner: Owner, template: Template, version: Version, model: ModelName, models: Collection[str]
    ) -> Analysis:
        if model not in models:
            return _empty(model, 0, f"{model} is not served here")
        encoder = self._encoders()[model]
        block = encoder.block_tokens
        try:
            row = await self._token_row(template, version, model)
        except (ApiError, EngineError) as error:
            return _empty(model, block, str(error))
        others = await self._others(owner, template, model)
        cacheable = whole_blocks(len(row.prefix), block)
        return Analysis(
            model=model,
            tokens=row.tokens,
            prefix_tokens=len(row.prefix),
            block_tokens=block,
            cacheable_tokens=cacheable,
            cacheable_ratio=min(1.0, cacheable / row.tokens) if row.tokens else 0.0,
            shares=partings(row.prefix, others, block, encoder.traits.text_of),
            advice=[msgspec.convert(each, Advice) for each in row.advice],
        )

    async def _others(self, owner: Owner, template: Template, model: ModelName) -> list[Other]:
        """The newest versions of what else the owner can see, as far as they are known in today's tokens."""
        fingerprint = self._encoders()[model].traits.fingerprint
        there = {(one.id, one.latest.number): one for one in self.store.directory.all_visible(owner)}
        there.pop((template.id, template.latest.number), None)
        prefixes = await self.store.prefixes(there, model, fingerprint)
        return [
            Other(name=one.name, owner=one.owner, version=one.latest.number, prefix=prefixes[key])
            for key, one in there.items()
            if key in prefixes
        ]


def _only(added: Collection[int], tokens: TokenIds) -> list[int]:
    return [token for token in tokens.tolist() if token in added]


def _empty(model: str, block_tokens: int, problem: str) -> Analysis:
    return Analysis(
        model=model,
        tokens=0,
        prefix_tokens=0,
        block_tokens=block_tokens,
        cacheable_tokens=0,
        cacheable_ratio=0.0,
        shares=[],
        advice=[],
        problem=problem,
    )
