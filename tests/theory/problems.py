"""Random problems for the tests of the theory."""

import numpy as np

from w2s_jax.theory import GaussianProblem


def random_problem(seed, p_T, p_S, *, p_T_gamma=0.3, p_S_nu=0.3, separation=2.0, d_z=10**4):
    """Maps in general position in as many dimensions as their columns need, at given ratios."""
    rng = np.random.default_rng(seed)
    p = max(p_T + p_S - 2, 1)
    maps = [np.linalg.qr(rng.normal(size=(p, k - 1)))[0] for k in (p_T, p_S)]
    sigma_xi = rng.uniform(0.5, 2)
    mu = rng.normal(size=p)
    mu *= separation * sigma_xi / np.linalg.norm(mu)
    sizes = (d_z, round(d_z * p_T / p_T_gamma), round(d_z * p_S / p_S_nu))
    return GaussianProblem(*sizes, mu, *maps, rng.uniform(0.5, 2), sigma_xi)
