"""Excess risks of teacher and student on the Gaussian problem: formulas and simulation."""

from w2s_jax.theory.mixture import RiskParts, mixture_parts
from w2s_jax.theory.problem import GaussianProblem, TheoryError
from w2s_jax.theory.published import best_published_eta_u
from w2s_jax.theory.risks import FORMS, Risks, risks
from w2s_jax.theory.simulation import Simulation, simulate

__all__ = [
    "FORMS",
    "GaussianProblem",
    "RiskParts",
    "Risks",
    "Simulation",
    "TheoryError",
    "best_published_eta_u",
    "mixture_parts",
    "risks",
    "simulate",
]
