"""Settings and fixtures that all tests share."""

import pytest
from hypothesis import settings

# The same examples in every run, and no timing of tests: the machines are shared.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")


@pytest.fixture
def count_compilations():
    """A list that grows by one name with every program that XLA compiles."""
    import jax

    compiled = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(kwargs.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield compiled
    jax.monitoring.unregister_event_duration_listener(listen)
