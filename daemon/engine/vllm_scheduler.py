"""vLLM's scheduler, with the prompts of tenants that want little computed alone, and shorter steps for those who yield.

vLLM loads `make_scheduler` in its own processes (`--scheduler-cls`); nothing of the daemon imports this module. What it
builds on vLLM does not promise to keep: `tests/sim/test_against_vllm.py` holds it to the model, with the vLLM there is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from preble.daemon.priority import Priority, most_yielding_tokens


class YieldingScheduler(Scheduler):
    """What vLLM does, with those who yield standing back. A request's priority is one of `Priority`."""

    running: list[Request]
    max_num_active_reqs: int
    max_num_scheduled_tokens: int

    def __init__(self, vllm_config: VllmConfig, **more: Any) -> None:
        super().__init__(vllm_config=vllm_config, **more)
        self._step_tokens = self.max_num_scheduled_tokens
        self._active_reqs = self.max_num_active_reqs
        self._prompt_tokens: int = self.scheduler_config.long_prefill_token_threshold
        self._steps_alone = 0
        """In a row, in which nothing that yields decoded."""

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """Plan the next step."""
        with self._others_aside():
            self._bound()
            return super().schedule(throttle_prefills)

    @contextmanager
    def _others_aside(self) -> Iterator[None]:
        """While a light prompt is computed, or can be begun, others are not, and what yields decodes in between."""
        if not self._has_light_prompt():
            self._steps_alone = 0
            yield
            return
        before = dict.fromkeys(self.running)
        running = {request for request in before if _stands_back(request, self._steps_alone)}
        waiting = [request for request in self.waiting if request.priority != Priority.LIGHT]
        self._steps_alone = 0 if all(request.is_prefill_chunk for request in running) else self._steps_alone + 1
        self.running = [request for request in before if request not in running]
        self.waiting.remove_requests(waiting)
        self.max_num_active_reqs = self._active_reqs - len(running)
        yield
        kept = running.union(self.running)
        begun = [request for request in self.running if request not in before]
        self.running = [request for request in before if request in kept] + begun
        for request in waiting:
            self.waiting.add_request(request)
        self.max_num_active_reqs = self._active_reqs

    def _has_light_prompt(self) -> bool:
        """Whether one has been begun, or the first in line is one and there is room for it."""
        if any(request.is_prefill_chunk and request.priority == Priority.LIGHT for request in self.running):
            return True
        first = self.waiting.peek_request() if self.waiting else None
        if first is None or first.priority != Priority.LIGHT or self._is_blocked_waiting_status(first.status):
            return False  # a grammar that is being compiled keeps nobody else waiting
        free_blocks = self.kv_cache_manager.block_pool.get_num_free_blocks()
        has_room = first.num_tokens <= self.block_size * free_blocks
        return has_room and len(self.running) < self._active_reqs

    def _bound(self) -> None:
        """Keep the step short if all prompts yield."""
        prompts = [request for request in self.running if request.is_prefill_chunk]
        prompts += [*self.waiting, *self.kv_holding_waiting]
        self.max_num_scheduled_tokens = self._step_tokens
        self.scheduler_config.long_prefill_token_threshold = self._prompt_tokens
        if prompts and all(Priority(request.priority).yields for request in prompts):
            of_prompts = most_yielding_tokens(self._step_tokens)
            decoding = sum(_missing_tokens(request) for request in self.running if not request.is_prefill_chunk)
            self.max_num_scheduled_tokens = min(self._step_tokens, decoding + of_prompts)
            self.scheduler_config.long_prefill_token_threshold = min(self._prompt_tokens or of_prompts, of_prompts)

    def _preempt_request(self, request: Request, timestamp: float, **how: Any) -> None:
        """Take it out of what runs.

        vLLM lets others hit the blocks of a chunk as soon as it is planned. One that was planned in this very step, and
        is not to be computed now, leaves blocks that nothing was written to.
        """
        block_ids = self.kv_cache_manager.get_block_ids(request.request_id)
        managers = self.kv_cache_manager.coordinator.single_type_managers
        for ids, manager in zip(block_ids, managers, strict=True):
            self.kv_cache_manager.evict_blocks(set(ids[request.num_computed_tokens // manager.block_size :]))
        super()._preempt_request(request, timestamp, **how)


class AsyncYieldingScheduler(YieldingScheduler, AsyncScheduler):
    """The same for vLLM's scheduler that plans a step while another is computed."""


def make_scheduler(vllm_config: VllmConfig, **more: Any) -> YieldingScheduler:
    """What vLLM calls for its scheduler."""
    is_async = vllm_config.scheduler_config.async_scheduling
    return (AsyncYieldingScheduler if is_async else YieldingScheduler)(vllm_config, **more)


def _stands_back(request: Request, steps_alone: int) -> bool:
    return Priority(request.priority).stands_back(prefills=request.is_prefill_chunk, after=steps_alone)


def _missing_tokens(request: Request) -> int:
    """What a step is to compute of a request that decodes."""
    return int(request.num_tokens_with_spec + request.num_output_placeholders - request.num_computed_tokens)
