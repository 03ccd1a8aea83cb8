"""What one request takes of its limits, by the daemon's clocks."""

from dataclasses import replace
from time import monotonic, time

from preble.daemon.ids import KeyId, TenantName
from preble.daemon.sched.types import RequestSpec
from preble.daemon.tenancy.account import Moment
from preble.daemon.tenancy.limits import NO_TOKENS, Limiter, Pass, Tokens


class Allowance:
    """Taken step by step before anything is queued, and given back once, however far it came."""

    def __init__(self, limiter: Limiter, tenant: TenantName, key_id: KeyId) -> None:
        self._limiter = limiter
        self._tenant = tenant
        self._key_id = key_id
        self._pass: Pass | None = None

    def enter(self, body_bytes: int) -> None:
        """Before the prompt is read. Raises `RateLimited`."""
        self._pass = self._limiter.enter(self._tenant, self._key_id, body_bytes, _now())

    def charge(self, spec: RequestSpec, *, asked: bool) -> RequestSpec:
        """Take its tokens; what it may be. `asked` if its client says how long the answer may be.

        Raises `InvalidRequest` for more than one request may have, and `RateLimited`.
        """
        prompt_tokens, n_sequences = spec.prompt.n_tokens, spec.n_sequences
        longest = self._held.longest_answer(prompt_tokens, spec.max_output_tokens, n_sequences, asked=asked)
        bounded = asked or longest < spec.max_output_tokens
        self._held.charge(prompt_tokens, longest * n_sequences, bounded=bounded, now=_now())
        return replace(spec, max_output_tokens=longest)

    def wait(self, *, again: bool) -> None:
        """It has to wait for an engine. Raises `RateLimited` if it may not; it may `again`."""
        self._held.wait(_now(), again=again)

    def start(self) -> None:
        """It waits no more."""
        self._held.start()

    def produced(self, output_tokens: int) -> None:
        """It has answered with about so much until now."""
        self._held.produced(output_tokens, _now())

    def headers(self) -> dict[str, str]:
        """What its client is told of the limits."""
        return self._held.headers(_now())

    def give_back(self, used: Tokens | None, *, refused: bool) -> None:
        """It is over, and `used` so much; None: no engine had it. What was `refused` then counts for nothing."""
        if self._pass is None or self._pass.ended:
            return
        if refused and used is None:
            self._pass.refuse(_now())
        else:
            self._pass.end(used or NO_TOKENS, _now())

    @property
    def _held(self) -> Pass:
        assert self._pass is not None, "it has not entered"
        return self._pass


def _now() -> Moment:
    return Moment(monotonic(), time())
