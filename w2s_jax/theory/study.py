"""The consequences on one base problem: series of theory and of simulation, ready to draw.

Each study varies one thing at a time. Theory is the proportional form, with the published leading
order beside it; simulation is drawn at the sizes of the problem, so that up to a few percent of a
difference are of order 1 / d_z.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from w2s_jax.theory.consequences import (
    best_eta_u,
    failure_map,
    gain_curve,
    group_risks,
    penalty_effect,
    separated,
)
from w2s_jax.theory.findings import examples, findings, judge
from w2s_jax.theory.problem import GaussianProblem
from w2s_jax.theory.risks import FORMS, risks
from w2s_jax.theory.simulation import Simulation, simulate

ETA_L = 0.1
THEORY = ("proportional", "published")
POINTS = 2**10  # of the integration rule: its error is far below a line's width


class Series(NamedTuple):
    """Numbers of one line or one set of dots.

    Attributes:
      panel: of the figure.
      label: what the line is, without its source.
      source: "proportional", "mixture", "published" or "simulated".
      x: values ``[k]``.
      y: values ``[k]``.
      error: standard errors of simulated values ``[k]``, otherwise None.
    """

    panel: str
    label: str
    source: str
    x: np.ndarray
    y: np.ndarray
    error: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Study:
    """A figure's series with what they show.

    Attributes:
      name: short, for files.
      caption: what varies, and what is fixed.
      x_label: of all panels.
      y_label: of all panels.
      series: lines and dots.
      log_x: whether x is drawn on a logarithmic axis.
    """

    name: str
    caption: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False


@dataclasses.dataclass(frozen=True)
class Setup:
    """Sizes of the base problem and effort of the simulation.

    Attributes:
      d_z: dimension of the core features.
      num_draws: for each simulated point.
      labels_per_draw: of each of these, as in `simulate`.
      num_dots: simulated points on a curve.
      seed: of the data.
    """

    d_z: int = 48
    num_draws: int = 32
    labels_per_draw: int = 16
    num_dots: int = 5
    seed: int = 0

    def problem(
        self, similarity: float = 1.0, nu_share: float = 0.1, mu: float = 2.0
    ) -> GaussianProblem:
        """Three features on either side; 5 labelled samples a feature, 1 / nu_share unlabelled."""
        sizes = {
            "d_z": self.d_z,
            "n_labelled": 15 * self.d_z,
            "n_unlabelled": round(3 * self.d_z / nu_share),
        }
        return GaussianProblem.from_similarity(3, 3, similarity, mu, mu, **sizes)

    def tilted(self, Xi: float = 0.8, mu: tuple[float, float] = (0.0, 4.0)) -> GaussianProblem:
        """One group feature each, at p_T gamma = 0.2 and p_S nu = 0.05.

        Args:
          Xi: cosine of the angle between the two directions.
          mu: of the minority, along the teacher's direction and across it.
        """
        teacher, student = np.eye(2)[:, :1], np.array([[Xi], [np.sqrt(1 - Xi**2)]])
        return GaussianProblem(self.d_z, 10 * self.d_z, 40 * self.d_z, mu, teacher, student)

    @property
    def dots(self) -> np.ndarray:
        """Fractions that are simulated."""
        return np.linspace(0.0, 1.0, self.num_dots)

    def simulate(self, problem: GaussianProblem, *settings: Any, **options: Any) -> Simulation:
        """`simulate` with this effort."""
        effort: dict[str, Any] = {
            "num_draws": self.num_draws,
            "labels_per_draw": self.labels_per_draw,
            "seed": self.seed,
        }
        return simulate(problem, *settings, **(effort | options))


def _curves(
    setup: Setup, panel: str, labels: Sequence[str], problem: GaussianProblem, eta_t: np.ndarray
) -> Iterable[Series]:
    """The gain against eta_u, a curve an eta_t: both forms and simulated dots."""
    grid = np.linspace(0, 1, 33)
    found = [setup.simulate(problem, ETA_L, float(eta_u), eta_t) for eta_u in setup.dots]
    gains, errors = (np.stack([getattr(v, n) for v in found]) for n in ("gain", "gain_error"))
    lines = {
        form: gain_curve(problem, ETA_L, grid, eta_t, form=form, num_points=POINTS)
        for form in THEORY
    }
    for number, label in enumerate(labels):
        for form in THEORY:
            yield Series(panel, label, form, grid, lines[form][number])
        dots = (setup.dots, gains[:, number], errors[:, number])
        yield Series(panel, label, "simulated", *dots)


def gain_study(setup: Setup) -> Study:
    """Gain against eta_u for several similarities, nu, separations and eta_t."""
    base, tests = setup.problem(), np.array([0.1, 0.5, 0.9])
    varied: dict[str, list[tuple[str, GaussianProblem]]] = {
        "similarity": [(f"|Ξ|² = {v:g}", setup.problem(similarity=v)) for v in (0, 1, 1.9)],
        "pseudolabels": [(f"p_S ν = {v:g}", setup.problem(nu_share=v)) for v in (0.1, 0.3, 0.6)],
        "separation": [(f"|μ|²/σ² = {v:g}", separated(base, v)) for v in (1, 8, 32)],
    }
    series = [
        one
        for panel, cases in varied.items()
        for label, problem in cases
        for one in _curves(setup, panel, [label], problem, tests[1:2])
    ]
    series += _curves(setup, "test data", [f"η_t = {v:g}" for v in tests], base, tests)
    return Study(
        "gain",
        "Gain of the student over its teacher (excess risk, sigma_y = 1) against the minority "
        f"fraction eta_u of the unlabelled data, eta_l = {ETA_L}. Three features on either side, "
        "|Xi|² = 1, |mu_T| = |mu_S| = 2, p_T gamma = 0.2, p_S nu = 0.1, eta_t = 0.5 unless varied.",
        "minority fraction of unlabelled data $\\eta_u$",
        "gain in excess risk",
        tuple(series),
    )


def best_study(setup: Setup) -> Study:
    """Best eta_u against eta_t: closed form of the published risk, and by optimisation."""
    tests = np.linspace(0, 1, 9)
    places = np.linspace(0, len(tests) - 1, setup.num_dots).astype(int)
    series = []
    for label, problem in (
        ("shared direction", setup.tilted()),
        ("no shared direction", setup.tilted(0.0, (3.0, 3.0))),
    ):
        found = [best_eta_u(problem, ETA_L, float(eta_t)) for eta_t in tests]
        for source, choice, gain in (
            ("proportional", "eta_u", "gain"),
            ("published", "published_eta_u", "published_gain"),
        ):
            chosen, reached = (
                np.array([getattr(one, name) for one in found]) for name in (choice, gain)
            )
            series.append(Series("best $\\eta_u$", label, source, tests, chosen))
            series.append(Series("gain at this $\\eta_u$", label, source, tests, reached))
            draws = [
                setup.simulate(problem, ETA_L, float(chosen[i]), float(tests[i])) for i in places
            ]
            values, errors = (
                np.array([float(getattr(one, name)) for one in draws])
                for name in ("gain", "gain_error")
            )
            name = f"{label}, {source} choice"
            dots = (tests[places], values, errors)
            series.append(Series("gain at this $\\eta_u$", name, "simulated", *dots))
    return Study(
        "best",
        "Left: the eta_u of least student risk against eta_t, by optimising the proportional form "
        "and by the closed form of the published one. Right: the gain at either choice, by the "
        "proportional form (lines) and by simulation (dots, hollow at the published choice). "
        f"eta_l = {ETA_L}, p_T = p_S = 2, p_T gamma = 0.2, p_S"
        " nu = 0.05. Shared direction: Xi = 0.8 and mu = 4 across the teacher's direction, so that "
        "only the student sees the group. No shared direction: Xi = 0 and mu = 3 in either.",
        "minority fraction of test data $\\eta_t$",
        "",
        tuple(series),
    )


def failure_study(setup: Setup) -> Study:
    """The boundary in (eta_u, separation) beyond which the student is worse than its teacher."""
    separations, grid = np.linspace(0.5, 40, 24), np.linspace(0, 1, 65)
    base, tests = setup.tilted(), np.array([0.1, 0.5, 0.9])
    x, y = (v.ravel() for v in np.meshgrid(setup.dots, np.linspace(4, 36, 3)))
    draws = [
        setup.simulate(separated(base, float(separation)), ETA_L, float(eta_u), tests)
        for eta_u, separation in zip(x, y, strict=True)
    ]
    z = np.stack([one.gain / one.gain_error for one in draws])
    series = []
    for number, eta_t in enumerate(tests):
        panel = f"$\\eta_t$ = {eta_t:g}"
        for form in THEORY:
            options = {"form": form, "num_points": POINTS}
            found = failure_map(base, separations, ETA_L, grid, float(eta_t), **options)
            for label, ends, limit in (
                ("from here", found.lower, grid[0]),
                ("up to here", found.upper, grid[-1]),
            ):
                ends = np.where(ends == limit, np.nan, ends)  # no boundary on this side
                series.append(Series(panel, label, form, ends, separations))
        own = z[:, number]
        for label, mine in (("gain", own > 2), ("loss", own < -2), ("undecided", abs(own) <= 2)):
            series.append(Series(panel, label, "simulated", x[mine], y[mine]))
    return Study(
        "failure",
        "Where weak-to-strong fails: between its two boundaries around the best eta_u the student "
        "is no worse than its teacher; where one is missing, that side has no loss. Shaded: loss "
        "by the proportional form. Dots: simulated gain or loss of more than two standard "
        f"errors. eta_l = {ETA_L}, with the shared direction of the second figure.",
        "minority fraction of unlabelled data $\\eta_u$",
        "separation $\\|\\mu_\\xi\\|^2/\\sigma_\\xi^2$",
        tuple(series),
    )


def group_study(setup: Setup) -> Study:
    """Risks of majority and minority against eta_u."""
    problem, grid = setup.tilted(), np.linspace(0, 1, 33)
    found = {
        form: group_risks(problem, ETA_L, grid, form=form, num_points=POINTS) for form in THEORY
    }
    draws = [setup.simulate(problem, ETA_L, float(v), np.array([0.0, 1.0])) for v in setup.dots]
    series = []
    for number, group in enumerate(("majority", "minority")):
        panel = f"{group} ($\\eta_t$ = {number})"
        for side in ("teacher", "student"):
            for form in THEORY:
                own = getattr(getattr(found[form], group), side)
                series.append(Series(panel, side, form, grid, own))
            value, error = (
                np.array([getattr(one, name)[number] for one in draws])
                for name in (side, f"{side}_error")
            )
            series.append(Series(panel, side, "simulated", setup.dots, value, error))
    return Study(
        "groups",
        "Excess risk of teacher and student in each group: a group gains where the student's line "
        f"is below the teacher's. eta_l = {ETA_L}, with the shared direction of the second figure.",
        "minority fraction of unlabelled data $\\eta_u$",
        "excess risk",
        tuple(series),
    )


def penalty_study(setup: Setup) -> Study:
    """What a penalty of the teacher or of the student changes."""
    problem, eta_u, eta_t = setup.problem(), 0.4, 0.5
    grid, none = np.logspace(-3, 1, 25), np.zeros(1)
    dots = np.logspace(-3, 1, setup.num_dots)
    series = []
    for panel, name in (("teacher's penalty", "teacher_l2"), ("student's penalty", "student_l2")):
        other = "student_l2" if name == "teacher_l2" else "teacher_l2"
        penalties: dict[str, Any] = {name: grid, other: none}
        found = penalty_effect(problem, ETA_L, eta_u, eta_t, **penalties)
        draws = [
            setup.simulate(problem, ETA_L, eta_u, eta_t, **{name: float(value)}) for value in dots
        ]
        for side in ("teacher", "student"):
            line = np.ravel(getattr(found, side))
            series.append(Series(panel, side, "proportional", grid, line))
            value, error = (
                np.array([float(getattr(one, end)) for one in draws])
                for end in (side, f"{side}_error")
            )
            series.append(Series(panel, side, "simulated", dots, value, error))
    return Study(
        "penalties",
        "Excess risk of teacher and student against a ridge penalty of one of them, the other "
        f"without; |beta| = 1. eta_l = {ETA_L}, eta_u = {eta_u}, eta_t = {eta_t}, otherwise as in "
        "the first figure. The published form has no penalties.",
        "penalty l2",
        "excess risk",
        tuple(series),
        log_x=True,
    )


def finding_study(setup: Setup) -> Study:
    """Every finding's gains by each form and by simulation; x numbers its settings."""
    series = []
    for finding in findings():
        judged = judge(finding, setup.num_draws, setup.labels_per_draw, setup.seed)
        places = np.arange(len(finding.settings), dtype=float)
        label = "; ".join(f"{eta_u:g}, {eta_t:g}" for eta_u, eta_t in finding.settings)
        for form in FORMS:
            series.append(Series(finding.name, label, form, places, judged.forms[form]))
        own = (places, judged.simulated, judged.error)
        series.append(Series(finding.name, label, "simulated", *own))
    return Study(
        "findings",
        "Gains of the examples below: by simulation, by the proportional form, by the leading "
        "order for the mixture, and by the published leading order.",
        "$\\eta_u$, $\\eta_t$",
        "gain",
        tuple(series),
    )


def example_study(setup: Setup) -> Study:
    """Risks of one problem at small and at large ratios, by each form and by simulation."""
    series, sides = [], np.arange(2.0)
    for example in examples():
        # One draw of the large problem says more than one of the small ones, and costs more.
        count = setup.num_draws if example.problem.d_z < 100 else max(2, setup.num_draws // 4)
        found = setup.simulate(example.problem, *example.settings, num_draws=count)
        for form in FORMS:
            own = risks(example.problem, *example.settings, form=form)
            values = np.array([own.teacher, own.student])
            series.append(Series(example.name, "teacher; student", form, sides, values))
        values, errors = (
            np.array([found.teacher, found.student]),
            np.array([found.teacher_error, found.student_error]),
        )
        series.append(Series(example.name, "teacher; student", "simulated", sides, values, errors))
    return Study(
        "examples",
        "Excess risk on the minority (eta_t = 1, eta_l = 0.1, eta_u = 0.4, sigma_y = 1) of one "
        "problem with p_T = 5, p_S = 4, |Xi|² = 0.27, |mu_T| = 1.785 and |mu_S| = 1.5, at two "
        "pairs of ratios; d_z = 30 and d_z = 200.",
        "",
        "excess risk",
        tuple(series),
    )


STUDIES: dict[str, Callable[[Setup], Study]] = {
    "gain": gain_study,
    "best": best_study,
    "failure": failure_study,
    "groups": group_study,
    "penalties": penalty_study,
    "findings": finding_study,
    "examples": example_study,
}


def distance_at_practical_ratios(setup: Setup) -> dict[str, float]:
    """Largest relative distance of either leading order's student risk from the proportional form.

    Over eta_u and eta_t from 0 to 1 on the base problem.
    """
    grid = np.linspace(0, 1, 9)
    settings = (setup.problem(), ETA_L, grid[:, None], grid)
    exact = risks(*settings, num_points=POINTS).student
    return {
        form: float(np.max(np.abs(risks(*settings, form=form).student / exact - 1)))
        for form in ("mixture", "published")
    }
