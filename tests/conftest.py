"""What tests of several packages need."""

import pytest

from preble.daemon.engine.demo_model import ensure_demo_model


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory):
    """The folder of a demo model, made once per run."""
    return ensure_demo_model(tmp_path_factory.mktemp("demo"), lambda said: None)
