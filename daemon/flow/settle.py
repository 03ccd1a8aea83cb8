"""Books what became of a request: ledger row, explanation, metrics, log line, and how long GPUs' first tokens took."""

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import structlog

from preble.daemon.flow.call import Settled
from preble.daemon.flow.explain import explain
from preble.daemon.ids import GpuId
from preble.daemon.obs.metrics import Metrics
from preble.daemon.sched.types import TimeModel
from preble.daemon.templates.using import Named
from preble.daemon.tenancy.ledger import UsageRecord
from preble.daemon.tenancy.prices import Prices
from preble.daemon.wire.admin import Explanation

_RECENT_TTFTS = 256
_log = structlog.get_logger(__name__)


class Bookkeeper:
    """Takes each request's end once."""

    def __init__(
        self,
        *,
        record_usage: Callable[[UsageRecord], None],
        record_explanation: Callable[[Explanation], None],
        metrics: Metrics,
        prices: Prices,
        tell: Callable[[Settled], None] = lambda _: None,
        time_model: Callable[[GpuId], TimeModel | None] = lambda _: None,
        recognised: Callable[[Settled], Named | None] = lambda _: None,
    ) -> None:
        """`tell` hears of every end too; `time_model` says how long a GPU takes.

        `recognised` is the template that a request begins with which names none.
        """
        self._record_usage = record_usage
        self._record_explanation = record_explanation
        self._metrics = metrics
        self._prices = prices
        self._tell = [tell]
        self._time_model = time_model
        self._recognised = recognised
        self._ttfts_ms: dict[GpuId, deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT_TTFTS))

    def settle(self, settled: Settled) -> None:
        """Book it. Never blocks: writing to disk is the stores' business."""
        if settled.call.template is None and (named := self._recognised(settled)) is not None:
            settled = replace(settled, call=replace(settled.call, template=named))
        usage = _usage(settled, self._prices, self._saved_ms(settled))
        self._record_usage(usage)
        if settled.decision is not None:
            self._record_explanation(explain(settled, settled.decision))
            if settled.ttft_ms is not None:
                self._ttfts_ms[settled.decision.gpu].append(settled.ttft_ms)
        if settled.limit is not None:
            self._metrics.limit_reached(settled.call.tenant, settled.limit)
        self._observe(usage)
        if settled.call.template is not None and settled.cached_tokens is not None:
            tokens = settled.call.template.tokens
            self._metrics.template_used(usage.tenant, tokens, min(tokens, settled.cached_tokens))
        for tell in self._tell:
            tell(settled)
        self._log(settled)

    def listen(self, tell: Callable[[Settled], None]) -> None:
        """Tell of every end from now on."""
        self._tell.append(tell)

    def _saved_ms(self, settled: Settled) -> float | None:
        """GPU time that was not spent on what was cached of a template; None where that is not known."""
        named, decision, cached = settled.call.template, settled.decision, settled.cached_tokens
        model = self._time_model(decision.gpu) if decision is not None else None
        if named is None or model is None or cached is None:
            return None
        found = min(cached, named.tokens)
        return model.prefill_ms(settled.prompt_tokens) - model.prefill_ms(settled.prompt_tokens - found)

    def ttft_p50_ms(self, gpu: GpuId) -> float | None:
        """Median TTFT of the GPU's latest streamed requests; None when there were none."""
        recent = self._ttfts_ms.get(gpu)
        return median(recent) if recent else None

    def _observe(self, usage: UsageRecord) -> None:
        self._metrics.observe_request(
            model=usage.model,
            tenant=usage.tenant,
            gpu=usage.gpu,
            mode=usage.mode,
            status=usage.status,
            ttft_s=_seconds(usage.ttft_ms),
            latency_s=usage.latency_ms / 1000,
            queue_s=_seconds(usage.queue_ms),
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            predicted_cached_tokens=usage.predicted_cached_tokens,
            output_tokens=usage.output_tokens,
            gpu_s=usage.gpu_ms / 1000,
        )

    def _log(self, settled: Settled) -> None:
        decision = settled.decision
        if (
            decision is not None
            and settled.cached_tokens is not None
            and settled.prompt_tokens != decision.prompt_tokens
        ):
            self._metrics.tokens_mismatch(settled.call.model)
        _log.info(
            "request_ended",
            request_id=settled.call.request_id,
            tenant=settled.call.tenant,
            model=settled.call.model,
            status=settled.status,
            http_status=settled.http_status,
            error=settled.error,
            gpu=decision.gpu if decision else None,
            mode=decision.mode if decision else None,
            prompt_tokens=settled.prompt_tokens,
            cached_tokens=settled.cached_tokens,
            output_tokens=settled.output_tokens,
            queue_ms=_rounded(settled.queue_ms),
            ttft_ms=_rounded(settled.ttft_ms),
            latency_ms=_rounded(settled.latency_ms),
        )


def _usage(settled: Settled, prices: Prices, saved_ms: float | None) -> UsageRecord:
    call, decision = settled.call, settled.decision
    named = call.template
    return UsageRecord(
        request_id=call.request_id,
        tenant=call.tenant,
        key_id=call.key_id,
        model=call.model,
        gpu=decision.gpu if decision else None,
        mode=decision.mode.value if decision else None,
        endpoint=call.path,
        status=settled.status,
        http_status=settled.http_status,
        created_at_s=settled.received_at_s,
        prompt_tokens=settled.prompt_tokens,
        cached_tokens=settled.cached_tokens,
        output_tokens=settled.output_tokens,
        predicted_cached_tokens=decision.cached_tokens if decision else None,
        attempts=settled.attempts,
        queue_ms=settled.queue_ms,
        ttft_ms=settled.ttft_ms,
        latency_ms=settled.latency_ms,
        gpu_ms=settled.gpu_ms,
        cost_micros=prices.cost_micros(
            call.model,
            prompt_tokens=settled.prompt_tokens,
            cached_tokens=0 if call.hide_cache else settled.cached_tokens or 0,  # as limits do: it would tell
            output_tokens=settled.output_tokens,
        ),
        template_id=named.template_id if named else None,
        template=named.name if named else None,
        template_version=named.version if named else None,
        template_tokens=named.tokens if named else None,
        saved_ms=saved_ms,
    )


def _seconds(value_ms: float | None) -> float | None:
    return None if value_ms is None else value_ms / 1000


def _rounded(value_ms: float | None) -> float | None:
    return None if value_ms is None else round(value_ms, 1)
