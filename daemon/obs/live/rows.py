"""From counts, and what the host knows, to the rows that consoles are shown."""

from collections.abc import Mapping

from preble.daemon.obs.live.counts import Counts, Line
from preble.daemon.obs.live.facts import GpuNow, TenantNow
from preble.daemon.obs.live.windows import ENOUGH, Recent
from preble.daemon.tenancy.standing import Standing
from preble.daemon.wire.live import LiveGpu, LiveTenant, LiveTraffic

_MOST_TENANTS_OF_A_GPU = 5


def gpu_row(now: GpuNow, recent: Recent, of_s: float) -> LiveGpu:
    """One engine. `of_s` is how much time the counts are of."""
    served = {tenant: us for tenant, us in recent.named("served:").items() if us > 0}
    total_us = sum(served.values())
    most = sorted(served, key=lambda tenant: (-served[tenant], tenant))[:_MOST_TENANTS_OF_A_GPU]
    return LiveGpu(
        gpu=now.gpu,
        state=now.state,
        draining=now.draining,
        detail=now.detail,
        model=now.model,
        running=now.running,
        waiting=now.waiting,
        kv_used_ratio=rounded(now.kv_used_ratio),
        kv_cached_ratio=rounded(now.kv_cached_ratio),
        cached_tokens=now.cached_tokens,
        hit_ratio=rounded(recent.ratio("cached_tokens", "looked_up_tokens")),
        load_ms=round(now.load_ms, 1),
        outstanding_ms=round(now.outstanding_ms, 1),
        decode_ratio=round(now.decode_ratio, 3),
        ttft=recent.spread("ttft"),
        evicted_blocks_per_s=round(recent.sum("evicted_blocks") / of_s, 2),
        prefill_error_ratio=rounded(now.prefill_error_ratio),
        decode_error_ratio=rounded(now.decode_error_ratio),
        restarts=now.restarts,
        uptime_s=None if now.uptime_s is None else round(now.uptime_s),
        age_s=None if now.age_s is None else round(now.age_s, 1),
        tenants={tenant: round(served[tenant] / total_us, 3) for tenant in most},
    )


def tenant_rows(
    tenants: list[TenantNow], standings: Mapping[str, Standing], lines: Mapping[str, Line], of_s: float
) -> list[LiveTenant]:
    """All of them, since each one's share depends on the others."""
    served = {name: max(0, line.recent.sum("served_us")) for name, line in lines.items()}
    total_us = sum(served.values())
    wanted = sum(tenant.weight for tenant in tenants if tenant.tenant in lines)
    nothing = Line(1)
    rows = []
    for tenant in tenants:
        line = lines.get(tenant.tenant, nothing)
        due = tenant.weight / wanted if line is not nothing else None
        share = served.get(tenant.tenant, 0) / total_us if total_us else None
        rows.append(_tenant_row(tenant, standings.get(tenant.tenant), line, of_s / 60, share, due))
    return rows


def _tenant_row(
    tenant: TenantNow, standing: Standing | None, line: Line, of_min: float, share: float | None, due: float | None
) -> LiveTenant:
    recent = line.recent
    tokens = recent.sum("prompt_tokens") + recent.sum("output_tokens")
    credit_ms = standing.credit_ms if standing is not None else None
    return LiveTenant(
        tenant=tenant.tenant,
        priority=tenant.priority,
        weight=tenant.weight,
        suspended=tenant.suspended,
        share_ratio=rounded(share),
        due_ratio=rounded(due),
        credit_ms=None if credit_ms is None else round(credit_ms, 1),
        running=line.running,
        waiting=line.waiting,
        queue=recent.spread("queue"),
        ttft=recent.spread("ttft"),
        requests_per_min=round(recent.sum("arrived") / of_min, 2),
        tokens_per_min=round(tokens / of_min, 1),
        hit_ratio=rounded(recent.ratio("cached_tokens", "looked_up_tokens")),
        saved_tokens_per_min=round(recent.sum("cached_tokens") / of_min, 1),
        budget_used_ratio=rounded(tenant.budget_used_ratio),
        refused=recent.named("refused:"),
    )


def traffic_row(counts: Counts, of_s: float, jain: float | None, gap_ms: float | None) -> LiveTraffic:
    """All requests together."""
    line, recent = counts.all, counts.all.recent
    placed = recent.sum("placed")
    modes = recent.named("mode:")
    decided = recent.spread("decision")
    return LiveTraffic(
        arrived_per_s=round(recent.sum("arrived") / of_s, 3),
        ended_per_s=round(recent.sum("ended") / of_s, 3),
        refused_per_s=round(recent.sum("refused") / of_s, 3),
        running=line.running,
        waiting=line.waiting,
        ttft=recent.spread("ttft"),
        tpot=recent.spread("tpot"),
        queue=recent.spread("queue"),
        worst_tenant=_worst(counts.tenants),
        prompt_tokens_per_s=round(recent.sum("prompt_tokens") / of_s, 1),
        output_tokens_per_s=round(recent.sum("output_tokens") / of_s, 1),
        hit_ratio=rounded(recent.ratio("cached_tokens", "looked_up_tokens")),
        modes={mode: round(count / placed, 3) for mode, count in sorted(modes.items())} if placed else {},
        moved_ratio=round((modes.get("moved", 0) + modes.get("replicate", 0)) / placed, 3) if placed else None,
        belief_error_ratio=rounded(recent.ratio("misjudged_tokens", "judged_tokens")),
        decision_p50_us=_us(decided.p50_ms),
        decision_p99_us=_us(decided.p99_ms),
        jain_index=rounded(jain),
        service_gap_ms=None if gap_ms is None else round(gap_ms, 1),
    )


def _worst(lines: Mapping[str, Line]) -> str | None:
    for what in ("ttft", "queue"):  # a first token is known of streams alone
        spreads = {name: line.recent.spread(what) for name, line in lines.items()}
        known = {name: spread.p99_ms for name, spread in spreads.items() if spread.count >= ENOUGH}
        if known:
            return max(known, key=lambda name: known[name] or 0.0)
    return None


def rounded(ratio: float | None) -> float | None:
    """To a thousandth, as nobody reads more."""
    return None if ratio is None else round(ratio, 3)


def _us(value_ms: float | None) -> float | None:
    return None if value_ms is None else round(1000 * value_ms, 1)
