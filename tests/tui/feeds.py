"""A cluster that is made up and always the same: eight GPUs, one of them down and one full, and a tenant in need."""

import math
from datetime import UTC, datetime, timedelta
from itertools import count

import msgspec

from preble.daemon.wire.admin import Actual, CandidateRow, Explanation
from preble.daemon.wire.live import (
    Alarm,
    LiveGpu,
    LiveRequest,
    LiveTemplate,
    LiveTenant,
    LiveTraffic,
    LogLine,
    PrefixPage,
    PrefixRow,
    Snapshot,
    Spread,
    TemplateKey,
    Tick,
)
from preble.daemon.wire.pins import PinRow
from preble.tui.feed.source import Line

START = datetime(2026, 11, 21, 14, 2, 0, tzinfo=UTC)
TENANTS = ("acme", "zoo", "batch", "press", "shop")
MODEL = "llama-3.1-8b"
TEMPLATES = ("tools-v4@4", "rag-7@3", "agent-base@2", None)
OPERATORS = TemplateKey(owner=None, name="tools-v4", version=4)
RAG = TemplateKey(owner="zoo", name="rag-7", version=3)
TEMPLATE_KEYS = (
    OPERATORS,
    RAG,
    TemplateKey(owner="batch", name="agent-base", version=2),
    TemplateKey(owner="shop", name="rag-7", version=3),
    TemplateKey(owner="zoo", name="rag-7", version=2),
)
"""Two tenants have templates of one name, and one of them two versions of it."""
MODES = ("exploit", "exploit", "explore", "exploit", "decode_heavy", "rebalance")


def iso(seconds: float = 0.0) -> str:
    return (START + timedelta(seconds=seconds)).isoformat()


def wave(number: int, at: float, low: float, high: float) -> float:
    return low + (high - low) * (0.5 + 0.5 * math.sin(number * 1.7 + at / 3))


def spread(count: int, p50_ms: float) -> Spread:
    if count < 20:
        return Spread(count=count, p50_ms=None, p90_ms=None, p99_ms=None)
    return Spread(count=count, p50_ms=p50_ms, p90_ms=2.1 * p50_ms, p99_ms=4.6 * p50_ms)


def gpu(number: int, at: float = 0.0, **changes) -> LiveGpu:
    is_down, is_full = number == 7, number == 3
    row = LiveGpu(
        gpu=f"gpu{number}",
        state="backoff" if is_down else "draining" if number == 5 else "ready",
        draining=number == 5,
        detail="the engine ended with code -9; started again in 12 s" if is_down else "",
        model=MODEL,
        running=0 if is_down else round(wave(number, at, 3, 22)),
        waiting=0 if is_down else 34 if is_full else round(wave(number, at, 0, 4)),
        kv_used_ratio=None if is_down else 0.97 if is_full else wave(number, at, 0.2, 0.7),
        kv_cached_ratio=None if is_down else wave(number, at, 0.6, 0.98),
        cached_tokens=0 if is_down else round(wave(number, at, 310_000, 412_000)),
        hit_ratio=None if is_down else wave(number, at, 0.55, 0.84),
        load_ms=0.0 if is_down else 3980.0 if is_full else wave(number, at, 200, 1800),
        outstanding_ms=0.0 if is_down else 2200.0 if is_full else wave(number, at, 20, 400),
        decode_ratio=wave(number, at, 0.2, 0.6),
        ttft=spread(0 if is_down else 240, 390 if is_full else wave(number, at, 60, 130)),
        evicted_blocks_per_s=59.0 if is_full else 0.0,
        prefill_error_ratio=None if is_down else 0.06,
        decode_error_ratio=None if is_down else 0.04,
        restarts=3 if is_down else 0,
        uptime_s=None if is_down else 86_400.0 * 2,
        age_s=31.0 if is_down else 0.4,
        tenants={} if is_down else {"acme": 0.62, "zoo": 0.2, "press": 0.1},
    )
    return msgspec.structs.replace(row, **changes)


def tenant(number: int, at: float = 0.0, **changes) -> LiveTenant:
    in_need = number == 0
    row = LiveTenant(
        tenant=TENANTS[number],
        priority="batch" if TENANTS[number] == "batch" else "interactive",
        weight=2.0 if in_need else 1.0,
        suspended=False,
        share_ratio=(0.41, 0.18, 0.06, 0.2, 0.15)[number],
        due_ratio=(0.25, 0.25, 0.05, 0.25, 0.2)[number],
        credit_ms=-1240.0 if in_need else wave(number, at, 10, 400),
        running=round(wave(number, at, 2, 18)),
        waiting=31 if in_need else round(wave(number, at, 0, 3)),
        queue=spread(400 if number != 2 else 12, 913 if in_need else 20),
        ttft=spread(400 if number != 2 else 12, 413 if in_need else 104),
        requests_per_min=wave(number, at, 60, 900),
        tokens_per_min=wave(number, at, 150e3, 1.2e6),
        hit_ratio=wave(number, at, 0.4, 0.9),
        saved_tokens_per_min=wave(number, at, 60e3, 310e3),
        budget_used_ratio=0.86 if in_need else 0.31 if number == 1 else None,
        refused={"tokens_per_day": 12, "requests_per_minute": 3} if in_need else {},
    )
    return msgspec.structs.replace(row, **changes)


def template(number: int, **changes) -> LiveTemplate:
    states = {f"gpu{index}": ("warm", "cold", "partial", "warm", "stale")[(index + number) % 5] for index in range(8)}
    row = LiveTemplate(
        key=TEMPLATE_KEYS[number],
        cacheable_tokens=(2410, 1120, 640, 1472, 2300)[number],
        requests_per_min=(7640.0, 980.0, 60.0, 41.0, 12.0)[number],
        hit_ratio=(0.96, 0.41, None, 0.71, 0.88)[number],
        saved_tokens_per_min=(18.4e6, 0.4e6, 0.0, 9841.0, 21.5e3)[number],
        pinned=number == 0,
        states=states,
    )
    return msgspec.structs.replace(row, **changes)


def pin(key: TemplateKey, tenant: str, reference: str | None = None) -> PinRow:
    return PinRow(
        name=key.name, owner=key.owner, tenant=tenant, reference=reference, version=key.version, model=MODEL,
        replicas=1, max_replicas=1, wanted_replicas=1, expires_at=None, created_at=iso(-600), created_by="op",
        cacheable_tokens=640, places=[], evictions=0, warm_ups=1, problem=None, next_try_in_s=None,
    )  # fmt: skip


def traffic(at: float = 0.0, **changes) -> LiveTraffic:
    row = LiveTraffic(
        arrived_per_s=412.0,
        ended_per_s=409.0,
        refused_per_s=0.4,
        running=96,
        waiting=round(wave(0, at, 30, 45)),
        ttft=spread(24_310, 132),
        tpot=spread(24_310, 8.2),
        queue=spread(24_310, 41),
        worst_tenant="acme",
        prompt_tokens_per_s=612_000.0,
        output_tokens_per_s=31_500.0,
        hit_ratio=0.71,
        modes={"exploit": 0.83, "explore": 0.13, "rebalance": 0.03, "decode_heavy": 0.01},
        moved_ratio=0.02,
        belief_error_ratio=0.031,
        decision_p50_us=84.0,
        decision_p99_us=310.0,
        jain_index=0.94,
        service_gap_ms=412.0,
    )
    return msgspec.structs.replace(row, **changes)


def request(number: int, **changes) -> LiveRequest:
    state = ("finished", "streaming", "finished", "waiting", "finished", "failed", "running")[number % 7]
    is_over, is_placed = state in ("finished", "failed"), state != "waiting"
    prompt = 640 + 310 * (number % 9)
    wait_ms = 1900.0 if number % 5 == 0 else 12.0 + number % 40
    row = LiveRequest(
        request_id=f"req-{number:05d}",
        at=iso(number * 0.11 - 30),
        tenant=TENANTS[number % 5],
        model=MODEL,
        template=TEMPLATES[number % 4],
        state=state,
        gpu=f"gpu{(3, 1, 2, 6, 4, 5, 0)[number % 7]}" if is_placed else None,
        mode=MODES[number % 6] if is_placed else None,
        prompt_tokens=prompt,
        predicted_cached_tokens=prompt // 2 if is_placed else None,
        cached_tokens=prompt // 2 - 10 if is_over else None,
        output_tokens=60 + number % 200 if is_over else None,
        attempts=1,
        queue_ms=wait_ms if is_placed else None,
        ttft_ms=wait_ms + 90.0 if state in ("finished", "streaming") else None,
        latency_ms=wait_ms + 1400.0 if is_over else None,
        error="the engine ended while it answered" if state == "failed" else None,
    )
    return msgspec.structs.replace(row, **changes)


def log(number: int, **changes) -> LogLine:
    level, event = (
        ("info", "request_finished"),
        ("info", "decided"),
        ("warning", "engine_silent"),
        ("error", "engine_ended"),
        ("debug", "prefix_moved"),
    )[number % 5]
    fields = {"gpu": f"gpu{number % 8}", "request_id": f"req-{number:05d}", "ms": str(12 + number)}
    row = LogLine(at=iso(number * 0.5 - 30), level=level, event=event, fields=fields)
    return msgspec.structs.replace(row, **changes)


def alarms() -> list[Alarm]:
    told = (
        ("critical", "gpu", "gpu7", "engine is down: it ended with code -9", -31),
        ("warning", "gpu", "gpu3", "KV cache 97 % in use, evicting 59 blocks/s", -40),
        ("warning", "tenant", "acme", "waits 4.2 s at the 99th percentile", -95),
    )
    names = ("severity", "kind", "name", "text")
    return [Alarm(**dict(zip(names, row, strict=False)), since=iso(row[4])) for row in told]


def snapshot(*, sequence: int = 1, boot_id: str = "boot-a", requests: int = 60, **changes) -> Snapshot:
    points = 60
    history: dict[str, list[float | None]] = {
        "ttft_p50_ms": [wave(1, i, 80, 160) for i in range(points)],
        "ttft_p99_ms": [wave(2, i, 400, 900) for i in range(points)],
        "latency_p50_ms": [wave(1, i, 1200, 1900) for i in range(points)],
        "latency_p99_ms": [wave(2, i, 4000, 9000) for i in range(points)],
        "hit_ratio": [None] * 3 + [wave(3, i, 0.6, 0.75) for i in range(points - 3)],
        "arrived_per_s": [wave(4, i, 300, 412) for i in range(points)],
        "waiting": [wave(5, i, 5, 40) for i in range(points)],
        "running": [wave(6, i, 50, 110) for i in range(points)],
    }
    for number in range(8):
        history[f"load_ms/gpu{number}"] = [wave(number, i, 200, 4000 if number == 3 else 1800) for i in range(points)]
        history[f"kv_cached_ratio/gpu{number}"] = [wave(number, i, 0.5, 0.98) for i in range(points)]
    row = Snapshot(
        sequence=sequence,
        boot_id=boot_id,
        at=iso(),
        started_at=iso(-86_400),
        version="0.1.0",
        name="prod-a",
        interval_ms=500,
        recent_s=300.0,
        models=[MODEL],
        policy="e2",
        fairness="d2lpm",
        gpus=[gpu(number) for number in range(8)],
        tenants=[tenant(number) for number in range(5)],
        templates=[template(number) for number in range(len(TEMPLATE_KEYS))],
        traffic=traffic(),
        alarms=alarms(),
        requests=[request(number) for number in range(requests)],
        logs=[log(number) for number in range(40)],
        history=history,
        history_step_s=60.0,
    )
    return msgspec.structs.replace(row, **changes)


def tick(sequence: int, at: float | None = None, *, boot_id: str = "boot-a", **changes) -> Tick:
    at = (sequence - 1) * 0.5 if at is None else at
    row = Tick(
        sequence=sequence,
        boot_id=boot_id,
        at=iso(at),
        gpus=[],
        tenants=[],
        templates=[],
        traffic=traffic(at),
        alarms=alarms(),
        requests=[],
        logs=[],
        gone_gpus=[],
        gone_tenants=[],
        gone_templates=[],
        dropped_requests=0,
        dropped_logs=0,
    )
    return msgspec.structs.replace(row, **changes)


def explanation(row: LiveRequest) -> Explanation:
    cached = row.prompt_tokens // 2
    candidates = [
        CandidateRow(
            gpu=f"gpu{number}",
            cached_tokens=cached if number % 2 == 0 else 0,
            missed_tokens=row.prompt_tokens - (cached if number % 2 == 0 else 0),
            load_ms=wave(number, 0, 200, 1800),
            evict_ms=55.0 if number == 3 else 0.0,
            prefill_ms=96.0 if number % 2 == 0 else 402.0,
            wait_ms=wave(number, 0, 5, 80),
            decode_ms=12.0,
            requests=4 + number,
            cost_ms=(180.0 if number % 2 == 0 else 480.0) + 11 * number - (430 if number == 5 else 0),
            holds_prefix=number % 2 == 0,
            decode_ratio=0.4,
        )
        for number in range(7)
    ]
    actual = Actual(
        status="ok", cached_tokens=cached - 10, output_tokens=61, queue_ms=row.queue_ms, ttft_ms=row.ttft_ms,
        latency_ms=1900.0,
    )  # fmt: skip
    return Explanation(
        request_id=row.request_id,
        model=row.model,
        gpu=row.gpu or "gpu0",
        mode=row.mode or "exploit",
        reason=f"{cached} of {row.prompt_tokens} tokens are cached on gpu0, gpu2, gpu4, gpu6, more than are missing; "
        f"{row.gpu or 'gpu0'} costs least among them",
        prompt_tokens=row.prompt_tokens,
        predicted_cached_tokens=cached,
        candidates=candidates,
        attempts=1,
        decided_at=row.at,
        actual=actual if row.latency_ms is not None else None,
        predicted_output_tokens=200,
    )


def prefix(key: str, parent: str | None, tokens: int, requests: int, **changes) -> PrefixRow:
    row = PrefixRow(
        id=key,
        parent=parent,
        tokens=tokens,
        depth_tokens=tokens if parent is None else tokens + 2410,
        children=0,
        requests=requests,
        by_gpu={"gpu0": requests // 2, "gpu3": requests // 3},
        reported_tokens={"gpu0": tokens, "gpu3": tokens // 3},
        believed=[],
        active={"gpu0": 3},
        tenant="acme",
        template=None,
        expected_output_tokens=180.0,
    )
    return msgspec.structs.replace(row, **changes)


def prefix_pages() -> dict[str, PrefixPage]:
    top = [
        prefix("a1f09c11", None, 2410, 22_900, children=3, template="tools-v4@4", tenant=None),
        prefix("9f3c77aa", None, 1880, 610, children=1, believed=["gpu4", "gpu6"]),
        prefix("77d2e0b4", None, 1120, 412, template="rag-7@3", reported_tokens={f"gpu{n}": 1120 for n in range(5)}),
        prefix("c0ffee00", None, 320, 18, tenant="zoo", reported_tokens={}, believed=["gpu1"]),
    ]
    under = [
        prefix("b2000001", "a1f09c11", 380, 9100, tenant="acme"),
        prefix("b2000002", "a1f09c11", 512, 4020, tenant="zoo", believed=["gpu2"]),
    ]
    rest = [prefix("b2000003", "a1f09c11", 96, 40, tenant="press")]
    return {
        "prefixes//": PrefixPage(rows=top, total=4, next=None),
        "prefixes/a1f09c11/": PrefixPage(rows=under, total=3, next="b2000002"),
        "prefixes/a1f09c11/b2000002": PrefixPage(rows=rest, total=3, next=None),
    }


def answers(requests: int = 80) -> dict[str, msgspec.Raw]:
    known: dict[str, object] = {**prefix_pages()}
    for number in range(requests):
        row = request(number)
        if row.gpu is None:
            continue
        known[f"explain/{row.request_id}"] = explanation(row)
        other = msgspec.structs.replace(explanation(row), gpu="gpu6", reason="gpu6 costs least of those that are left")
        known[f"what-if/{row.request_id}/{row.gpu}"] = other
    return {asked: msgspec.Raw(msgspec.json.encode(answer)) for asked, answer in known.items()}


def recording(ticks: int = 3) -> list[Line]:
    """As a console would have recorded it."""
    lines = [Line(at_s=0.0, event=snapshot())]
    lines += [Line(at_s=0.0, asked=asked, answer=answer) for asked, answer in answers().items()]
    numbers = count(60)
    for number in range(ticks):
        rows = [request(next(numbers)) for _ in range(5)]
        event = tick(number + 2, requests=rows, gpus=[gpu(2, number + 1.0)], logs=[log(40 + number)])
        lines.append(Line(at_s=0.5 * (number + 1), event=event))
    return lines
