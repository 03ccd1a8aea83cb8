"""A simulated request while it lives."""

from collections.abc import Iterator
from dataclasses import dataclass

from preble.daemon.ids import BlockKey, GpuId
from preble.daemon.sim.agenda import to_s
from preble.daemon.sim.steps import Job
from preble.daemon.sim.types import Outcome, SimRequest


@dataclass(slots=True, kw_only=True, eq=False)
class Live:
    """A request from its arrival to its end."""

    request: SimRequest
    session: Iterator[SimRequest] | None
    """What its client sends afterwards."""
    returned: bool
    arrived_ps: int
    output_tokens: int
    """What it will produce, within its client's cap and the model's context."""
    keys: tuple[BlockKey, ...] = ()
    """Of the full blocks of its prompt and its answer."""
    gpu: GpuId | None = None
    predicted_tokens: int = 0
    dispatched_ps: int | None = None
    first_token_ps: int | None = None
    job: Job | None = None
    """In an engine, or on the way there, or the last that was."""

    def outcome(self, ended_ps: int, *, complete: bool) -> Outcome:
        """What has become of it."""
        job = self.job
        return Outcome(
            request_id=self.request.request_id,
            tenant=self.request.tenant,
            gpu=self.gpu,
            arrived_s=to_s(self.arrived_ps),
            dispatched_s=None if self.dispatched_ps is None else to_s(self.dispatched_ps),
            first_token_s=None if self.first_token_ps is None else to_s(self.first_token_ps),
            ended_s=to_s(ended_ps),
            prompt_tokens=self.request.prompt_tokens,
            predicted_tokens=self.predicted_tokens,
            cached_tokens=job.cached_tokens if job else 0,
            output_tokens=job.produced if job else 0,
            preemptions=job.preemptions if job else 0,
            returned=self.returned,
            complete=complete,
        )
