"""What an engine says of itself in its `/metrics`: the few values Preble uses, out of the hundreds it prints."""

from collections import defaultdict
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from preble.daemon.errors import EngineError

_INFO = "vllm:cache_config_info"
_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
_KV_USAGE = "vllm:kv_cache_usage_perc"
_QUERIES = "vllm:prefix_cache_queries_total"
_HITS = "vllm:prefix_cache_hits_total"
_PROMPT = "vllm:prompt_tokens_total"
_GENERATION = "vllm:generation_tokens_total"

_WANTED = tuple(name + "{" for name in (_INFO, _RUNNING, _WAITING, _KV_USAGE, _QUERIES, _HITS, _PROMPT, _GENERATION))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """One reading. The totals count from the engine's start."""

    block_size: int
    """Tokens per KV block."""
    kv_blocks: int
    """As the engine counts them: one of them is a placeholder that it never hands out."""
    running: int
    waiting: int
    kv_usage_ratio: float
    """Share of the KV blocks that running requests hold; cached blocks nobody uses count as free."""
    prefix_query_tokens: int
    prefix_hit_tokens: int
    prompt_tokens: int
    generation_tokens: int


def parse(text: str) -> EngineMetrics:
    """Read an engine's `/metrics`. Raises `EngineError` when something that Preble needs is not there."""
    # The whole page is some 600 lines; parsing them all would hold up the event loop for milliseconds.
    lines = [line for line in text.splitlines() if line.startswith(_WANTED)]
    values: dict[str, float] = defaultdict(float)
    info: dict[str, str] = {}
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            values[sample.name] += sample.value
            if sample.name == _INFO:
                info = sample.labels
    try:
        return EngineMetrics(
            block_size=int(info["block_size"]),
            kv_blocks=int(info["num_gpu_blocks"]),
            running=int(values[_RUNNING]),
            waiting=int(values[_WAITING]),
            kv_usage_ratio=values[_KV_USAGE],
            prefix_query_tokens=int(values[_QUERIES]),
            prefix_hit_tokens=int(values[_HITS]),
            prompt_tokens=int(values[_PROMPT]),
            generation_tokens=int(values[_GENERATION]),
        )
    except (KeyError, ValueError) as error:
        raise EngineError(f"the engine's metrics do not tell its KV cache: {error!r}") from error
