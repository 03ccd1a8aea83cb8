"""What tests of several packages need."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.internal.conjecture import engine

from preble.daemon.engine.demo_model import ensure_demo_model

PHASES = [phase for phase in Phase if phase is not Phase.explain]  # it may take minutes to say what was in vain
settings.register_profile("preble", deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("preble")  # no test fails for being slow: a busy machine may pause for seconds
engine.MAX_SHRINKING_SECONDS = 20  # a failing example is told before the test's time is up, if not the smallest one


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory):
    """The folder of a demo model, made once per run."""
    return ensure_demo_model(tmp_path_factory.mktemp("demo"), lambda said: None)
