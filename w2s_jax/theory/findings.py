"""Statements about the two-component mixture, each with the assumption under which it holds.

Each example shows, at stated ratios, what the published leading order says, what the proportional
form says, and what simulation finds. The statements are about this mixture at these ratios; a group
feature whose mean shifts with eta, the published form's own setting, is not what they are about.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from w2s_jax.theory.problem import GaussianProblem
from w2s_jax.theory.risks import FORMS, risks
from w2s_jax.theory.simulation import simulate


@dataclasses.dataclass(frozen=True, eq=False)
class Finding:
    """An example and what it shows.

    Attributes:
      name: short, for tables.
      statement: what holds for this mixture.
      assumption: under which.
      problem: the example, its sizes those of the simulation.
      eta_l: minority fraction of the labelled samples.
      settings: pairs (eta_u, eta_t).
    """

    name: str
    statement: str
    assumption: str
    problem: GaussianProblem
    eta_l: float
    settings: tuple[tuple[float, float], ...]


class Judged(NamedTuple):
    """A finding's gains at its settings ``[k]``: by each form, and simulated.

    Attributes:
      forms: name of the form -> gains.
      simulated: mean gains.
      error: standard errors of these.
    """

    forms: dict[str, np.ndarray]
    simulated: np.ndarray
    error: np.ndarray


def findings() -> tuple[Finding, ...]:
    """The examples, at d_z = 20, gamma = 0.02 and nu = 0.004 unless their names say otherwise."""
    e1, e2 = np.eye(2)[:, :1], np.eye(2)[:, 1:]
    tilted = np.array([[0.8], [0.6]])
    sizes = (20, 1000, 5000)
    dense = (40, 115, 115)
    return (
        Finding(
            "test fraction met",
            "At eta_u = eta_t the student is never worse than its teacher, whatever eta_l.",
            "many pseudolabels (nu -> 0); a projection argument, at any p_T gamma",
            GaussianProblem(*sizes, [0.0, 4.0], e1, tilted),
            0.05,
            ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0)),
        ),
        Finding(
            "equal fractions",
            "eta_u = eta_l does not guard against a loss where the test data have another fraction;"
            " the published form says so too.",
            "the student sees more of the minority's mean in the shared directions, |Xi mu_S| > "
            "|mu_T|, than the teacher sees at all",
            GaussianProblem(*sizes, [0.0, 4.0], e1, tilted),
            0.05,
            ((0.05, 0.0), (0.05, 0.5), (0.05, 1.0)),
        ),
        Finding(
            "balanced on both sides",
            "At eta_l = eta_u = 1/2 the student is never worse, at any eta_t.",
            "many pseudolabels (nu -> 0)",
            GaussianProblem(*sizes, [0.0, 4.0], e1, tilted),
            0.5,
            ((0.5, 0.0), (0.5, 0.5), (0.5, 1.0)),
        ),
        Finding(
            "two optima",
            "The gain need not fall like (eta_u - eta_l)^2 around eta_l = eta_t: it can have a "
            "local minimum there.",
            "eta_u (1 - eta_u) |mu_S|^2 is not small beside sigma_xi^2, which makes the student "
            "read the group from features that the teacher lacks",
            GaussianProblem(*sizes, [3.0, 3.0], e1, e2),
            0.5,
            ((0.5, 0.5), (0.25, 0.5), (0.09, 0.5), (0.01, 0.5)),
        ),
        Finding(
            "as many features as samples, nearly",
            "At p_T gamma = p_S nu = 0.7 the student loses far more than a leading order can show: "
            "so few pseudolabels add noise of their own.",
            "sizes in proportion; leading orders are made for small ratios",
            GaussianProblem(*dense, [0.0, 4.0], e1, tilted),
            0.1,
            ((0.1, 0.5), (0.5, 0.5), (0.9, 0.5)),
        ),
    )


class Example(NamedTuple):
    """One problem and setting whose risks are known.

    Attributes:
      name: its ratios.
      problem: its sizes those of the simulation.
      settings: (eta_l, eta_u, eta_t).
    """

    name: str
    problem: GaussianProblem
    settings: tuple[float, float, float]


def examples() -> tuple[Example, ...]:
    """Five and four features on the minority, at small ratios and with 0.7 features a sample."""

    def problem(d_z: int, n_labelled: int, n_unlabelled: int) -> GaussianProblem:
        sizes = {"d_z": d_z, "n_labelled": n_labelled, "n_unlabelled": n_unlabelled}
        return GaussianProblem.from_similarity(5, 4, 0.27, 1.785, 1.5, **sizes)

    settings = (0.1, 0.4, 1.0)
    return (
        Example("p_T γ = 0.05, p_S ν = 0.01", problem(30, 3000, 12000), settings),
        Example("p_T γ = p_S ν = 0.7", problem(200, 1429, 1143), settings),
    )


def judge(finding: Finding, num_draws: int, labels_per_draw: int = 1, seed: int = 0) -> Judged:
    """A finding's gains by every form and by simulation.

    Args:
      finding: one of `findings`.
      num_draws: for each eta_u; settings that share it share draws.
      labels_per_draw: as in `simulate`.
      seed: of the data.
    """
    eta_u, eta_t = np.array(finding.settings).T
    forms = {
        form: risks(finding.problem, finding.eta_l, eta_u, eta_t, form=form).gain for form in FORMS
    }
    simulated, error = np.empty(len(eta_u)), np.empty(len(eta_u))
    for value in np.unique(eta_u):
        mine = np.flatnonzero(eta_u == value)
        found = simulate(
            finding.problem,
            finding.eta_l,
            float(value),
            eta_t[mine],
            num_draws=num_draws,
            labels_per_draw=labels_per_draw,
            seed=seed,
        )
        simulated[mine], error[mine] = found.gain, found.gain_error
    return Judged(forms, simulated, error)
