"""Plays plans on the scheduler that vLLM has in our engines, without a model: tokens come as planned.

A step takes 10 ms and 1 ms a token.

A process of its own, since vLLM is heavy: `python vllm_scheduler.py MODEL_FOLDER`, plans in as JSON, and out, for each,
what became of its requests. It uses vLLM's internals, as its own tests do.
"""

import json
import sys

import torch
from vllm import SamplingParams
from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from preble.daemon.engine.vllm_scheduler import YieldingScheduler, make_scheduler


def scheduler_of(model: str, plan: dict) -> YieldingScheduler:
    limits, block_size = plan["limits"], plan["block_size"]
    vllm_config = VllmConfig(
        model_config=ModelConfig(model=model, dtype="float32", max_model_len=limits["max_model_len"]),
        scheduler_config=SchedulerConfig(
            max_num_seqs=limits["max_num_seqs"],
            max_num_batched_tokens=limits["budget"],
            max_model_len=limits["max_model_len"],
            enable_chunked_prefill=True,
            is_encoder_decoder=False,
            policy="priority",
            long_prefill_token_threshold=limits["threshold"],
            async_scheduling=False,
        ),
        cache_config=CacheConfig(block_size=block_size, enable_prefix_caching=True),
    )
    n_blocks = vllm_config.cache_config.num_gpu_blocks = limits["kv_blocks"] + 1  # one is vLLM's placeholder
    spec = FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float32)
    groups = [KVCacheGroupSpec(["layer"], spec)]
    return make_scheduler(
        vllm_config=vllm_config,
        kv_cache_config=KVCacheConfig(num_blocks=n_blocks, kv_cache_tensors=[], kv_cache_groups=groups),
        block_size=block_size,
        structured_output_manager=StructuredOutputManager(vllm_config),
    )


def play(model: str, plan: dict) -> dict:
    scheduler, hasher = scheduler_of(model, plan), get_request_block_hasher(plan["block_size"], sha256)
    coming, requests, answers = list(plan["requests"]), {}, {}
    produced, first_ms, end_ms, cached = {}, {}, {}, {}
    now_ms = 0
    while coming or scheduler.has_unfinished_requests():
        if not scheduler.has_unfinished_requests():
            now_ms = max(now_ms, coming[0]["at_ms"])
        while coming and coming[0]["at_ms"] <= now_ms:
            each = coming.pop(0)
            name = each["name"]
            requests[name] = Request(
                request_id=name,
                prompt_token_ids=each["prompt"],
                sampling_params=SamplingParams(max_tokens=len(each["answer"]), ignore_eos=True),
                pooling_params=None,
                priority=each["priority"],
                block_hasher=hasher,
                arrival_time=each["at_ms"] + 1e-6 * len(requests),
            )
            answers[name], produced[name] = each["answer"], 0
            scheduler.add_request(requests[name])
        step = scheduler.schedule()
        for new in step.scheduled_new_reqs:
            cached[new.req_id] = new.num_computed_tokens
        now_ms += 10 + step.total_num_scheduled_tokens if step.total_num_scheduled_tokens else 0
        names = list(step.num_scheduled_tokens)
        tokens = []
        for name in names:
            is_done = requests[name].num_computed_tokens == requests[name].num_tokens
            tokens.append([answers[name][produced[name]]] if is_done else [])
            if is_done:
                produced[name] += 1
                first_ms.setdefault(name, now_ms)
                end_ms[name] = now_ms
        output = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=tokens,
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )
        scheduler.update_from_output(step, output)
    preemptions = {name: request.num_preemptions for name, request in requests.items()}
    return {"first_ms": first_ms, "end_ms": end_ms, "cached": cached, "preemptions": preemptions}


if __name__ == "__main__":
    init_none_hash(sha256)
    print(json.dumps([play(sys.argv[1], plan) for plan in json.load(sys.stdin)]))
