"""Names of things, as distinct types, so that one is never passed for another."""

from typing import NewType

ModelName = NewType("ModelName", str)
"""What a client sends as `model`, and a `[[models]]` entry's `name`."""

GpuId = NewType("GpuId", str)
"""One engine's place: a GPU (`gpu0`), a tensor-parallel group of them (`gpu0-1`), or a CPU engine (`cpu0`)."""

TenantName = NewType("TenantName", str)

KeyId = NewType("KeyId", str)
"""The public part of an API key."""

RequestId = NewType("RequestId", str)

AttemptId = NewType("AttemptId", int)
"""One try of a request on one engine. News that carries an old attempt's id is ignored."""

BlockKey = NewType("BlockKey", int)
"""Chain hash of a KV block: equal keys mean equal tokens in this block and in all before it (64 bits, unsigned)."""
