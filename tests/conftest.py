"""Settings and fixtures that all tests share."""

import os
import shutil
import sys
import tempfile

import pytest
from hypothesis import settings

# The same examples in every run, and no timing of tests: the machines are shared.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

COMPILED = "W2S_JAX_TEST_COMPILED"


def pytest_configure(config):
    """Lets the processes of one test run share compiled programs; the first makes the folder."""
    import jax

    if not hasattr(config, "workerinput"):
        os.environ[COMPILED] = tempfile.mkdtemp(prefix="w2s_jax_compiled_")
    jax.config.update("jax_compilation_cache_dir", os.environ[COMPILED])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_unconfigure(config):
    """Removes the folder."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(COMPILED), ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Drops a module's programs when it ends: a process cannot map any number of them."""
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()


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
