"""The daemon's metrics in Prometheus' terms: base units, units in names. One registry per daemon."""

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from preble.daemon.ids import TenantName
from preble.daemon.sched.returns import ReturnCounts
from preble.daemon.tenancy.standing import Standing

_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TTFT_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1, 2, 4, 8, 15, 30, 60)
_DECISION_S = (5e-05, 1e-04, 2e-04, 5e-04, 1e-03, 2e-03, 5e-03, 1e-02)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuGauge:
    """One engine at the moment of a scrape. None: not known."""

    gpu: str
    model: str
    up: bool
    running: int
    waiting: int
    kv_used_ratio: float | None
    hit_ratio: float | None
    load_seconds: float
    indexed_blocks: int
    unplaced_blocks: int
    prefill_error_ratio: float | None = None
    decode_error_ratio: float | None = None


class Metrics:
    """Counts what happens; `render` is the page that Prometheus reads."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        by_gpu = ["model", "gpu"]
        by_tenant = ["model", "tenant"]
        self._requests = self._counter("requests", "Requests by how they ended.", [*by_tenant, "status"])
        self._decisions = self._counter("decisions", "Requests by the rule that placed them.", [*by_gpu, "mode"])
        self._prompt = self._counter("prompt_tokens", "Prompt tokens.", by_tenant)
        self._cached = self._counter("cached_prompt_tokens", "Prompt tokens that engines had cached.", by_tenant)
        self._predicted = self._counter(
            "predicted_cached_prompt_tokens", "Prompt tokens that the scheduler expected to be cached.", by_tenant
        )
        self._output = self._counter("output_tokens", "Output tokens.", by_tenant)
        self._service = self._counter("tenant_service_seconds", "GPU time that requests caused.", by_tenant)
        self._mispredicted = self._counter(
            "mispredicted_cached_tokens", "Difference of cached tokens expected and found, without sign.", by_gpu
        )
        self._mismatched = self._counter(
            "prompt_length_mismatches", "Requests whose prompt the engine counted otherwise than the daemon.", ["model"]
        )
        self._limited = self._counter("limited_requests", "Requests refused by a limit.", ["tenant", "limit"])
        self._templated = self._counter("template_requests", "Requests that began with a template.", ["tenant", "hit"])
        self._saved = self._counter("template_saved_tokens", "Tokens of templates found cached.", ["tenant"])
        self._evicted = self._counter("template_evictions", "Templates evicted from a GPU that had all.", ["tenant"])
        self._unauthenticated = self._counter("unauthenticated_requests", "Requests without a valid key.", [])
        self._ttft = self._histogram("time_to_first_token", "Of streamed requests.", by_gpu, _TTFT_S)
        self._latency = self._histogram("request_latency", "From arrival to end.", by_gpu, _LATENCY_S)
        self._queue = self._histogram("queue_wait", "From arrival until sent to an engine.", by_gpu, _TTFT_S)
        self._decision = self._histogram("decision", "Time to place a request.", [], _DECISION_S)

    def _counter(self, name: str, help_: str, labels: list[str]) -> Counter:
        return Counter(f"preble_{name}", help_, labels, registry=self._registry)

    def _histogram(self, name: str, help_: str, labels: list[str], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"preble_{name}_seconds", help_, labels, buckets=buckets, registry=self._registry)

    def observe_request(
        self,
        *,
        model: str,
        tenant: str,
        gpu: str | None,
        mode: str | None,
        status: str,
        ttft_s: float | None,
        latency_s: float,
        queue_s: float | None,
        prompt_tokens: int,
        cached_tokens: int | None,
        predicted_cached_tokens: int | None,
        output_tokens: int,
        gpu_s: float,
    ) -> None:
        """A request ended. `gpu` and `mode` are None if it was never placed."""
        self._requests.labels(model, tenant, status).inc()
        if gpu is None or mode is None:
            return
        self._decisions.labels(model, gpu, mode).inc()
        self._prompt.labels(model, tenant).inc(prompt_tokens)
        self._output.labels(model, tenant).inc(output_tokens)
        self._service.labels(model, tenant).inc(gpu_s)
        self._latency.labels(model, gpu).observe(latency_s)
        if queue_s is not None:
            self._queue.labels(model, gpu).observe(queue_s)
        if ttft_s is not None:
            self._ttft.labels(model, gpu).observe(ttft_s)
        if cached_tokens is not None and predicted_cached_tokens is not None:
            self._cached.labels(model, tenant).inc(cached_tokens)
            self._predicted.labels(model, tenant).inc(predicted_cached_tokens)
            self._mispredicted.labels(model, gpu).inc(abs(cached_tokens - predicted_cached_tokens))

    def observe_decision(self, seconds: float) -> None:
        """A request was placed."""
        self._decision.observe(seconds)

    def tokens_mismatch(self, model: str) -> None:
        """An engine counted a prompt otherwise than the daemon did."""
        self._mismatched.labels(model).inc()

    def template_used(self, tenant: str, tokens: int, cached_tokens: int) -> None:
        """A request began with a template of which so much could have been found cached, and so much was."""
        self._templated.labels(tenant, "yes" if 2 * cached_tokens > tokens else "no").inc()
        self._saved.labels(tenant).inc(cached_tokens)

    def template_evicted(self, tenant: str) -> None:
        """A GPU that had all of a template's prefix in this tenant's cache has it no more."""
        self._evicted.labels(tenant).inc()

    def limit_reached(self, tenant: str, limit: str) -> None:
        """A limit of the tenant, or of one of its keys, refused a request."""
        self._limited.labels(tenant, limit).inc()

    def auth_failure(self) -> None:
        """A request came without a valid key."""
        self._unauthenticated.inc()

    def track_gpus(self, gauges: Callable[[], Iterable[GpuGauge]]) -> None:
        """Ask `gauges` for the engines' state at every scrape."""
        self._registry.register(_GpuCollector(gauges))

    def track_pins(self, pins: Callable[[], Iterable[tuple[str, bool]]]) -> None:
        """Ask `pins` for each one's tenant, and whether it is as it should be, at every scrape."""
        self._registry.register(_PinCollector(pins))

    def track_returns(self, returns: Callable[[], Iterable[tuple[str, ReturnCounts]]]) -> None:
        """Ask `returns` for each model's sessions that called tools, at every scrape."""
        self._registry.register(_ReturnCollector(returns))

    def track_tenants(self, standings: Callable[[], Mapping[TenantName, Standing]]) -> None:
        """Ask `standings` how the tenants stand, at every scrape."""
        self._registry.register(_TenantCollector(standings))

    def track_fairness(self, fairness: Callable[[], tuple[float | None, float | None]]) -> None:
        """Ask for Jain's index and the greatest gap of service in ms, None where there is none, at every scrape."""
        self._registry.register(_FairnessCollector(fairness))

    def render(self) -> tuple[bytes, str]:
        """The page and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class _GpuCollector(Collector):
    def __init__(self, gauges: Callable[[], Iterable[GpuGauge]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        rows = list(self._gauges())
        yield _family("engine_up", "Whether the engine is in service.", rows, lambda row: float(row.up))
        yield _family("requests_running", "Requests in the engine.", rows, lambda row: row.running)
        yield _family("requests_waiting", "Requests waiting in the daemon.", rows, lambda row: row.waiting)
        yield _family("kv_cache_used_ratio", "KV blocks that requests hold.", rows, lambda row: row.kv_used_ratio)
        yield _family("prefix_hit_ratio", "Prompt tokens found cached.", rows, lambda row: row.hit_ratio)
        yield _family("load_seconds", "GPU time given within the window.", rows, lambda row: row.load_seconds)
        yield _family(
            "prefill_time_error_ratio", "Of predicted prefill times.", rows, lambda row: row.prefill_error_ratio
        )
        yield _family("decode_time_error_ratio", "Of predicted steps.", rows, lambda row: row.decode_error_ratio)
        yield _family("indexed_blocks", "KV blocks known to be cached.", rows, lambda row: row.indexed_blocks)
        unplaced = CounterMetricFamily(
            "preble_unplaced_blocks", "KV blocks cached behind a lost report.", labels=["model", "gpu"]
        )
        for row in rows:
            unplaced.add_metric([row.model, row.gpu], row.unplaced_blocks)
        yield unplaced


class _PinCollector(Collector):
    def __init__(self, pins: Callable[[], Iterable[tuple[str, bool]]]) -> None:
        self._pins = pins

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "preble_template_pins",
            "Pinned templates, by whether they are where they should be.",
            labels=["tenant", "kept"],
        )
        counts = Counts(self._pins())
        for (tenant, is_kept), count in counts.items():
            family.add_metric([tenant, "yes" if is_kept else "no"], count)
        yield family


class _ReturnCollector(Collector):
    def __init__(self, returns: Callable[[], Iterable[tuple[str, ReturnCounts]]]) -> None:
        self._returns = returns

    def collect(self) -> Iterator[Metric]:
        expected = GaugeMetricFamily(
            "preble_expected_returns", "Sessions that called tools and have yet to come back.", labels=["model"]
        )
        came = CounterMetricFamily(
            "preble_returns", "Sessions back from tools, by whether their prefix was cached.", labels=["model", "found"]
        )
        expired = CounterMetricFamily(
            "preble_expired_returns", "Sessions that called tools and did not come back in time.", labels=["model"]
        )
        for model, counts in self._returns():
            expected.add_metric([model], counts.expected)
            came.add_metric([model, "yes"], counts.found)
            came.add_metric([model, "no"], counts.returned - counts.found)
            expired.add_metric([model], counts.expired)
        yield expected
        yield came
        yield expired


class _FairnessCollector(Collector):
    def __init__(self, fairness: Callable[[], tuple[float | None, float | None]]) -> None:
        self._fairness = fairness

    def collect(self) -> Iterator[Metric]:
        jain, gap_ms = self._fairness()
        if jain is not None:
            yield GaugeMetricFamily("preble_fairness_jain_ratio", "1: all who wait have had the same by weight.", jain)
        if gap_ms is not None:
            yield GaugeMetricFamily("preble_service_gap_seconds", "Of two who wait, at most, by weight.", gap_ms / 1000)


class _TenantCollector(Collector):
    def __init__(self, standings: Callable[[], Mapping[TenantName, Standing]]) -> None:
        self._standings = standings

    def collect(self) -> Iterator[Metric]:
        weight = GaugeMetricFamily("preble_tenant_weight_ratio", "Its share, by those of others.", labels=["tenant"])
        credit = GaugeMetricFamily(
            "preble_tenant_credit_seconds", "GPU time until it has to stand back.", labels=["tenant"]
        )
        waiting = GaugeMetricFamily("preble_tenant_requests_waiting", "Before all engines.", labels=["tenant"])
        running = GaugeMetricFamily("preble_tenant_requests_running", "In all engines.", labels=["tenant"])
        for tenant, standing in self._standings().items():
            weight.add_metric([tenant], standing.weight)
            if standing.credit_ms is not None:
                credit.add_metric([tenant], standing.credit_ms / 1000)
            waiting.add_metric([tenant], standing.waiting)
            running.add_metric([tenant], standing.running)
        yield from (weight, credit, waiting, running)


def _family(
    name: str, help_: str, rows: Iterable[GpuGauge], value: Callable[[GpuGauge], float | None]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"preble_{name}", help_, labels=["model", "gpu"])
    for row in rows:
        known = value(row)
        if known is not None:
            family.add_metric([row.model, row.gpu], known)
    return family
