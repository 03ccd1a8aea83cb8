"""How fast the machine is just now: some of a calibration's steps, measured again, over what the calibration says.

A virtual machine's speed changes within minutes, and an engine's steps take longer when the other cores are busy. So
what was measured at another time is scaled.
"""

import asyncio
from statistics import fmean

import msgspec
from cpu_engines import Daemon
from cpu_points import Point, company, decoding, measured, uncached_prompt

from preble.daemon.sim.fits import Fit

PROBES = (
    *(decoding(batch, 1024) for batch in (1, 4, 16)),
    decoding(8, 2048, 4),
    *(uncached_prompt(n_tokens) for n_tokens in (256, 512, 1024)),
)
"""Some of all that the loads are made of."""
ROUNDS = 3


def slowness(daemon: Daemon, fit: Fit, cores: float) -> float:
    """How many times as long as `fit` says steps take now, while other processes keep so many cores busy."""
    with company(cores):
        points = asyncio.run(measured(daemon.sockets(), PROBES, ROUNDS))
    return fmean(point.ms / expected_ms(fit, point) for point in points)


def expected_ms(fit: Fit, point: Point) -> float:
    """What `fit` says of it, which has all that fit_cpu.py measures and nothing else."""
    step, prefill = fit.step, fit.prefill
    assert step.ms_per_shared_context_token is not None, "a calibration by fit_cpu.py"
    each_ms = {
        "base": step.base_ms,
        "per_token": step.ms_per_token,
        "per_decode_context": step.ms_per_context_token,
        "per_shared_context": step.ms_per_shared_context_token,
        "per_chunk_context": prefill.ms_per_context_token,
        "per_attended": prefill.ms_per_attended_token,
    }
    return sum(each_ms[name] * count for name, count in point.terms.items())


def slower(fit: Fit, factor: float) -> Fit:
    """The calibration of an engine that takes so many times as long for everything."""
    step, prefill = (
        type(part)(**{name: ms and factor * ms for name, ms in msgspec.structs.asdict(part).items()})
        for part in (fit.step, fit.prefill)
    )
    return msgspec.structs.replace(fit, step=step, prefill=prefill)
