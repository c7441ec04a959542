"""Settings of the tests that simulate."""

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="session")
def one_blas_thread():
    """Cholesky factors of a few hundred rows take a hundred times longer with two busy threads."""
    with threadpool_limits(1, user_api="blas"):
        yield
