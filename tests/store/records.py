"""Usage of made-up requests."""

import msgspec

from preble.daemon.tenancy.ledger import Status, UsageRecord


def usage(number: int, tenant: str = "acme", created_at_s: float | None = None, **changes) -> UsageRecord:
    record = UsageRecord(
        request_id=f"req_{number}",
        tenant=tenant,
        key_id="k",
        model="m",
        endpoint="/v1/completions",
        gpu="cpu0",
        mode="exploit",
        status=Status.FINISHED,
        http_status=200,
        created_at_s=float(number) if created_at_s is None else created_at_s,
        prompt_tokens=10,
        cached_tokens=4 if number % 2 else None,
        predicted_cached_tokens=4,
        output_tokens=3,
        attempts=1,
        queue_ms=0.5,
        ttft_ms=None,
        latency_ms=20.0,
        gpu_ms=12.5,
        cost_micros=None,
    )
    return msgspec.structs.replace(record, **changes)


def mixed(number: int) -> UsageRecord:
    """Of several tenants, keys and ends, 1,800 in an hour."""
    return usage(
        number,
        ("acme", "zoo", "third")[number % 3],
        2.0 * number,
        key_id=f"k{number % 5}",
        model="mn"[number % 2],
        status=list(Status)[number % 4],
        prompt_tokens=number % 1000,
        cached_tokens=number % 100 or None,
        output_tokens=number % 17,
        ttft_ms=number * 0.1 if number % 2 else None,
        latency_ms=number * 0.7,
        gpu_ms=number * 0.3,
        cost_micros=number if number % 4 else None,
    )
