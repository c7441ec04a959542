r"""Leading order in d_z / n for the two-component mixture, many pseudolabels (our derivation).

With kappa(eta) = eta (1 - eta) the variance of the group indicator, the teacher's and the student's
features have the second moments

    A(eta) = [[1, eta mu'], [eta mu, sigma_xi^2 I + (kappa + eta^2) mu mu']],
    C(eta) = E[psi w'] = [[1, eta mu_T'], [eta mu_S, sigma_xi^2 Xi' + (kappa + eta^2) mu_S mu_T']].

Least squares gives the teacher the error Q_T = sigma_y^2 gamma A_T(eta_l)^{-1}; the student
projects the teacher on its own features, B = A_S(eta_u)^{-1} C(eta_u) and Q_S = B Q_T B'. A risk is
tr(A(eta_t) Q). Leaving kappa out (a group feature drawn from N(eta mu, sigma_xi^2 I), a shift of
the mean) gives the published leading order.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from w2s_jax.theory.problem import Reduced


def second_moment(
    eta: Array | float,
    mu: Float[Array, " k"],
    sigma_xi: Array | float,
    between_groups: float = 1.0,
) -> Float[Array, "p p"]:
    """A(eta) of features [1; xi]; `between_groups` = 0 leaves kappa out."""
    return cross_moment(eta, mu, mu, jnp.eye(len(mu)), sigma_xi, between_groups)


def cross_moment(
    eta: Array | float,
    mu_S: Float[Array, " b"],
    mu_T: Float[Array, " a"],
    Xi_transposed: Float[Array, "b a"],
    sigma_xi: Array | float,
    between_groups: float = 1.0,
) -> Float[Array, "p_S p_T"]:
    """C(eta) of features [1; xi_S] with [1; xi_T]; `between_groups` = 0 leaves kappa out."""
    second = eta**2 + between_groups * eta * (1 - eta)
    block = sigma_xi**2 * Xi_transposed + second * jnp.outer(mu_S, mu_T)
    top = jnp.concatenate([jnp.ones(1), eta * mu_T])[None]
    return jnp.concatenate([top, jnp.concatenate([eta * mu_S[:, None], block], axis=1)])


def inverse_second_moment(
    eta: Array | float,
    mu: Float[Array, " k"],
    sigma_xi: Array | float,
    between_groups: float = 1.0,
) -> Float[Array, "p p"]:
    """A(eta)^{-1} in closed form: its Schur complement is sigma_xi^2 I + kappa mu mu'."""
    inverse = inverse_spread(between_groups * eta * (1 - eta), mu, sigma_xi)
    side = -eta * (inverse @ mu)
    corner = 1 - eta * (mu @ side)
    top = jnp.concatenate([corner[None], side])[None]
    return jnp.concatenate([top, jnp.concatenate([side[:, None], inverse], axis=1)])


def inverse_spread(
    kappa: Array | float, mu: Float[Array, " k"], sigma_xi: Array | float
) -> Float[Array, "k k"]:
    """(sigma_xi^2 I + kappa mu mu')^{-1}."""
    within = sigma_xi**2
    share = kappa / (within + kappa * jnp.sum(mu**2))
    return (jnp.eye(len(mu)) - share * jnp.outer(mu, mu)) / within


def mixture_moments(
    reduced: Reduced,
    eta_l: Array | float,
    eta_u: Array | float,
    between_groups: float = 1.0,
) -> tuple[Float[Array, "p_T p_T"], Float[Array, "p_S p_S"]]:
    """Second moments Q_T and Q_S of the coefficients' errors at leading order.

    Args:
      reduced: the problem; nu is not read.
      eta_l: minority fraction of the labelled samples.
      eta_u: of the unlabelled samples.
      between_groups: 0 leaves the variance between groups out.
    """
    gamma, _, sigma_y, sigma_xi, mu_T, mu_S, Xi = reduced
    cross = cross_moment(eta_u, mu_S, mu_T, Xi.T, sigma_xi, between_groups)
    B = inverse_second_moment(eta_u, mu_S, sigma_xi, between_groups) @ cross
    teacher = sigma_y**2 * gamma * inverse_second_moment(eta_l, mu_T, sigma_xi, between_groups)
    return teacher, B @ teacher @ B.T


class RiskParts(NamedTuple):
    """Leading order in units of sigma_y^2 gamma; a risk is the sum of its parts.

    Attributes:
      constant: of the feature that tells nothing of the group, always 1.
      teacher_shift: cost of eta_t being another than eta_l.
      teacher_spread: cost of the teacher's group features.
      student_shift: cost of all shifts, m' Sigma^{-1} m.
      student_spread: cost of what the student inherits of the teacher's group features.
    """

    constant: Array
    teacher_shift: Array
    teacher_spread: Array
    student_shift: Array
    student_spread: Array


def mixture_parts(
    reduced: Reduced, eta_l: Array | float, eta_u: Array | float, eta_t: Array | float
) -> RiskParts:
    r"""The mixture's leading order in closed form, part by part.

    With a = mu_T, b = Xi mu_S, Sigma = sigma_xi^2 I + kappa_l aa', the share
    rho = kappa_u |mu_S|^2 / (sigma_xi^2 + kappa_u |mu_S|^2) of the student's variance along mu_S
    that lies between groups, and K = (sigma_xi^2 I + kappa_u mu_S mu_S')^{-1} (sigma_xi^2 Xi' +
    kappa_u mu_S a') the fit of the teacher's group features by the student's within D(eta_u),

        m = (eta_t - eta_l) a - (1 - rho) (eta_t - eta_u) (a - b),
        student = 1 + m' Sigma^{-1} m + tr(Sigma^{-1} K' (sigma_xi^2 I + kappa_t mu_S mu_S') K),
        teacher = 1 + (eta_t - eta_l)^2 a' Sigma^{-1} a
                  + tr(Sigma^{-1} (sigma_xi^2 I + kappa_t aa')).

    Args:
      reduced: the problem; gamma, nu and sigma_y are not read.
      eta_l: minority fraction of the labelled samples.
      eta_u: of the unlabelled samples.
      eta_t: of the test data.
    """
    _, _, _, sigma_xi, a, mu_S, Xi = reduced
    within = sigma_xi**2

    def kappa(eta: Array | float) -> Array | float:
        return eta * (1 - eta)

    def spread(mu: Array, eta: Array | float) -> Array:
        return within * jnp.eye(len(mu)) + kappa(eta) * jnp.outer(mu, mu)

    between = kappa(eta_u) * jnp.sum(mu_S**2)
    rho = between / (within + between)
    b = Xi @ mu_S
    m = (eta_t - eta_l) * a - (1 - rho) * (eta_t - eta_u) * (a - b)
    inverse = inverse_spread(kappa(eta_l), a, sigma_xi)
    cross = within * Xi.T + kappa(eta_u) * jnp.outer(mu_S, a)
    K = inverse_spread(kappa(eta_u), mu_S, sigma_xi) @ cross
    return RiskParts(
        jnp.ones(()),
        (eta_t - eta_l) ** 2 * (a @ inverse @ a),
        jnp.trace(inverse @ spread(a, eta_t)),
        m @ inverse @ m,
        jnp.trace(inverse @ K.T @ spread(mu_S, eta_t) @ K),
    )
