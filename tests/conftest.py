"""Settings and fixtures that all tests share."""

from hypothesis import settings

# The same examples in every run, and no timing of tests: the machines are shared.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")
