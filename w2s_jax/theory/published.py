"""The published leading order: Liu, Dong and Lei, arXiv 2509.24005, Theorems 1 and 2.

Exact to leading order in d_z / n where the group feature of D(eta) is N(eta mu_xi, sigma_xi^2 I).
For a mixture of two groups they leave out the variance between groups, which
`w2s_jax.theory.mixture` has.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from w2s_jax.theory.problem import GaussianProblem, Reduced


def published_risks(
    reduced: Reduced, eta_l: Array | float, eta_u: Array | float, eta_t: Array | float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Excess risks of teacher and student to leading order, the student's at nu -> 0.

    teacher = sigma_y^2 gamma (p_T + |(eta_t - eta_l) mu_T|^2 / sigma_xi^2),
    student = sigma_y^2 gamma (1 + |Xi|_F^2
              + |(eta_u - eta_l) mu_T + (eta_t - eta_u) Xi mu_S|^2 / sigma_xi^2).

    Args:
      reduced: the problem; nu is not read.
      eta_l: minority fraction of the labelled samples.
      eta_u: of the unlabelled samples.
      eta_t: of the test data.
    """
    gamma, _, sigma_y, sigma_xi, a, mu_S, Xi = reduced
    scale = sigma_y**2 * gamma
    teacher = jnp.sum(((eta_t - eta_l) * a) ** 2) / sigma_xi**2
    shift = (eta_u - eta_l) * a + (eta_t - eta_u) * (Xi @ mu_S)
    student = jnp.sum(Xi**2) + jnp.sum(shift**2) / sigma_xi**2
    return scale * (1 + len(a) + teacher), scale * (1 + student)


def best_published_eta_u(
    problem: GaussianProblem,
    eta_l: float,
    eta_t: float,
    lowest: float = 0.0,
    highest: float = 1.0,
) -> float:
    """The eta_u of least published student risk, NaN where the risk does not depend on it.

    With a = mu_T and b = Xi mu_S it is <a - b, eta_l a - eta_t b> / |a - b|^2, clipped (our
    derivation): a quadratic in eta_u.

    Args:
      problem: the problem.
      eta_l: minority fraction of the labelled samples.
      eta_t: of the test data.
      lowest: end of the range allowed.
      highest: the other end.

    >>> problem = GaussianProblem(9, 99, 999, [2.0, 0.0], [[1.0], [0.0]], [[0.0], [1.0]])
    >>> best_published_eta_u(problem, eta_l=0.1, eta_t=0.5)  # nothing shared: stay at eta_l
    0.1
    """
    a, b = np.asarray(problem.mu_T), np.asarray(problem.Xi @ problem.mu_S)
    length = float((a - b) @ (a - b))
    if length <= 1e-14 * float(a @ a + b @ b):
        return float("nan")
    return float(np.clip((a - b) @ (eta_l * a - eta_t * b) / length, lowest, highest))
