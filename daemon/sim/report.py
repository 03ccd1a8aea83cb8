"""From what became of each request to the numbers of a run, and runs side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from types import MappingProxyType

import msgspec
import numpy as np

from preble.daemon.ids import GpuId, TenantName
from preble.daemon.sched.types import TimeModel
from preble.daemon.sim.shares import fairness
from preble.daemon.sim.types import Outcome


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What was simulated. Equal settings give equal numbers."""

    workload: str
    """A workload's name, or a trace's."""
    policy: str
    fairness: str
    gpus: int
    rate: float
    """Requests per second that were asked for."""
    seed: int
    fit: str
    arrivals: str


class TenantNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant's part of a run."""

    requests: int
    refused: int
    mean_latency_s: float | None
    p50_ttft_s: float | None
    p99_ttft_s: float | None
    hit_ratio: float | None
    gpu_s: float
    """GPU time that its requests caused, as estimated by the GPU's time model."""


class Run(Setting, frozen=True, kw_only=True):
    """A simulation's numbers. Latencies are of requests that were served; None where there were none."""

    requests: int
    refused: int
    """Or failed: not answered to their end."""
    mean_latency_s: float | None
    """From arrival to the last token."""
    p50_latency_s: float | None
    p99_latency_s: float | None
    mean_ttft_s: float | None
    """From arrival to the first token."""
    p50_ttft_s: float | None
    p99_ttft_s: float | None
    mean_tpot_s: float | None
    """Between tokens, of answers with more than one."""
    hit_ratio: float | None
    """Prompt tokens found cached over all prompt tokens."""
    predicted_hit_ratio: float | None
    """The same as the scheduler expected it."""
    oracle_hit_ratio: float
    """What one cache over all GPUs that forgets nothing would have hit."""
    throughput: float | None
    """Requests served per second, from the first arrival to the last end."""
    duration_s: float
    preemptions: int
    jain_index: float | None
    """Of service by weight, while at least two tenants waited; see `sim.shares`."""
    service_gap_s: float | None
    """The most GPU time by weight that one of two tenants which waited all along got more than the other."""
    tenants: dict[TenantName, TenantNumbers]


class Report(msgspec.Struct, frozen=True):
    """What `preble simulate --json` prints."""

    runs: tuple[Run, ...]


def summarise(
    setting: Setting,
    outcomes: Sequence[Outcome],
    time_model: TimeModel,
    oracle_hit_ratio: float,
    weights: Mapping[TenantName, float] = MappingProxyType({}),
    cached_charge_ratio: float = 0.0,
) -> Run:
    """The numbers of one simulation on GPUs of this time model, with tenants of these weights (1 if not given).

    A cached prompt token is charged so much of a computed one.
    """
    gpu_s = _GpuTime(time_model, cached_charge_ratio, outcomes)
    shares = fairness(outcomes, gpu_s.of, weights)
    served = [outcome for outcome in outcomes if outcome.complete]
    latencies = [outcome.ended_s - outcome.arrived_s for outcome in served]
    ttfts = _ttfts(served)
    ends = [outcome.ended_s for outcome in outcomes]
    duration_s = max(ends) - min(outcome.arrived_s for outcome in outcomes) if outcomes else 0.0
    by_tenant: dict[TenantName, list[Outcome]] = {}
    for outcome in outcomes:
        by_tenant.setdefault(outcome.tenant, []).append(outcome)
    return Run(
        **msgspec.structs.asdict(setting),
        requests=len(outcomes),
        refused=len(outcomes) - len(served),
        mean_latency_s=_mean(latencies),
        p50_latency_s=_percentile(latencies, 50),
        p99_latency_s=_percentile(latencies, 99),
        mean_ttft_s=_mean(ttfts),
        p50_ttft_s=_percentile(ttfts, 50),
        p99_ttft_s=_percentile(ttfts, 99),
        mean_tpot_s=_mean(list(_tpots(served))),
        hit_ratio=_share(served, lambda outcome: outcome.cached_tokens),
        predicted_hit_ratio=_share(served, lambda outcome: outcome.predicted_tokens),
        oracle_hit_ratio=oracle_hit_ratio,
        throughput=len(served) / duration_s if duration_s > 0 else None,
        duration_s=duration_s,
        preemptions=sum(outcome.preemptions for outcome in outcomes),
        jain_index=shares.jain,
        service_gap_s=shares.gap_s,
        tenants={name: _tenant(by_tenant[name], gpu_s) for name in sorted(by_tenant)},
    )


def _tenant(outcomes: Sequence[Outcome], gpu_s: "_GpuTime") -> TenantNumbers:
    served = [outcome for outcome in outcomes if outcome.complete]
    ttfts = _ttfts(served)
    return TenantNumbers(
        requests=len(outcomes),
        refused=len(outcomes) - len(served),
        mean_latency_s=_mean([outcome.ended_s - outcome.arrived_s for outcome in served]),
        p50_ttft_s=_percentile(ttfts, 50),
        p99_ttft_s=_percentile(ttfts, 99),
        hit_ratio=_share(served, lambda outcome: outcome.cached_tokens),
        gpu_s=sum(map(gpu_s.of, served)),
    )


class _GpuTime:
    """An estimate of the GPU time that each request caused, as tenants are charged for it.

    That is its prefill, a little for what was cached, and its share of the steps that decode.
    """

    def __init__(self, model: TimeModel, cached_charge_ratio: float, outcomes: Sequence[Outcome]) -> None:
        self._model = model
        self._cached_ms_per_token = cached_charge_ratio * model.prefill_ms_per_token
        spans: dict[GpuId, list[tuple[float, float]]] = {}
        for outcome in outcomes:
            if outcome.gpu is not None and outcome.first_token_s is not None:
                spans.setdefault(outcome.gpu, []).append((outcome.first_token_s, outcome.ended_s))
        self._batch = {gpu: _mean_overlap(sorted(of_one)) for gpu, of_one in spans.items()}

    def of(self, outcome: Outcome) -> float:
        """Seconds, of a request that was served."""
        assert outcome.gpu is not None, "only a GPU answers"
        prefill_ms = self._model.prefill_ms(outcome.prompt_tokens - outcome.cached_tokens)
        prefill_ms += self._cached_ms_per_token * outcome.cached_tokens
        decode_ms = self._model.decode_ms(outcome.output_tokens - 1, self._batch[outcome.gpu])
        return (prefill_ms + decode_ms) / 1000


def _mean_overlap(spans: Sequence[tuple[float, float]]) -> float:
    """How many of these spans of time, sorted, there are at once in the mean, while there is any."""
    covered_s, until_s = 0.0, 0.0
    for start_s, end_s in spans:
        covered_s += max(0.0, end_s - max(start_s, until_s))
        until_s = max(until_s, end_s)
    return sum(end_s - start_s for start_s, end_s in spans) / covered_s if covered_s > 0 else 1.0


def _ttfts(served: Sequence[Outcome]) -> list[float]:
    return [outcome.first_token_s - outcome.arrived_s for outcome in served if outcome.first_token_s is not None]


def _tpots(served: Sequence[Outcome]) -> Iterator[float]:
    for outcome in served:
        if outcome.output_tokens > 1 and outcome.first_token_s is not None:
            yield (outcome.ended_s - outcome.first_token_s) / (outcome.output_tokens - 1)


def _share(served: Sequence[Outcome], tokens: Callable[[Outcome], int]) -> float | None:
    prompt_tokens = sum(outcome.prompt_tokens for outcome in served)
    return sum(map(tokens, served)) / prompt_tokens if prompt_tokens else None


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None
