"""What tests of several packages need."""

import pytest
from hypothesis import HealthCheck, settings

from preble.daemon.engine.demo_model import ensure_demo_model

settings.register_profile("preble", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("preble")  # no test fails for being slow: a busy machine may pause for seconds


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory):
    """The folder of a demo model, made once per run."""
    return ensure_demo_model(tmp_path_factory.mktemp("demo"), lambda said: None)
