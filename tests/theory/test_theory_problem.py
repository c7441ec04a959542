import dataclasses

import jax
import numpy as np
import pytest

from w2s_jax.theory import GaussianProblem, TheoryError

SIZES = {"d_z": 100, "n_labelled": 1000, "n_unlabelled": 5000}


@pytest.mark.parametrize(
    ("p_T", "p_S", "similarity", "mu_T", "mu_S"),
    [
        (1, 1, 0.0, 0.0, 0.0),
        (1, 4, 0.0, 0.0, 3.0),
        (2, 2, 0.0, 3.0, 0.5),
        (4, 3, 1.3, 2.0, 5.0),
        (3, 6, 1.999, 1.0, 1.1),
        (3, 5, 2.0, 1.5, 1.5),
        (6, 6, 5.0, 2.0, 2.0),
    ],
)
def test_from_similarity_has_the_numbers_asked_for(p_T, p_S, similarity, mu_T, mu_S):
    problem = GaussianProblem.from_similarity(p_T, p_S, similarity, mu_T, mu_S, **SIZES)
    T, S = problem.teacher_map, problem.student_map
    assert (problem.p_T, problem.p_S) == (p_T, p_S)
    np.testing.assert_allclose(T.T @ T, np.eye(p_T - 1), atol=1e-12)
    np.testing.assert_allclose(S.T @ S, np.eye(p_S - 1), atol=1e-12)
    np.testing.assert_allclose(np.sum((T.T @ S) ** 2), similarity, atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(T.T @ problem.mu_xi), mu_T, atol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(S.T @ problem.mu_xi), mu_S, atol=1e-8)


def test_from_overlap_has_the_products_asked_for():
    rng = np.random.default_rng(0)
    Xi = rng.normal(size=(3, 2))
    Xi *= 0.9 / np.linalg.norm(Xi, 2)
    mu_T, mu_S = rng.normal(size=3), rng.normal(size=2)
    problem = GaussianProblem.from_overlap(Xi, mu_T, mu_S, **SIZES)
    np.testing.assert_allclose(problem.Xi, Xi, atol=1e-12)
    np.testing.assert_allclose(problem.mu_T, mu_T, atol=1e-10)
    np.testing.assert_allclose(problem.mu_S, mu_S, atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 0.0, 0.0, 0.0), "p_T must be a whole number from 1 on, found 0"),
        ((3, 2, 1.1, 1.0, 1.0), r"similarity must be from 0 to min\(p_T, p_S\) - 1 = 1, found 1.1"),
        ((3, 2, -0.1, 1.0, 1.0), "similarity must be from 0"),
        ((1, 2, 0.0, 1.0, 1.0), "mu_T must be a length >= 0, and 0 where there is no group"),
        ((3, 3, 2.0, 1.0, 1.5), "no mu_xi has these projections"),
        ((3, 3, 1.0, float("nan"), 1.5), "mu_T must be a length"),
        (("a", 3, 1.0, 1.0, 1.0), "p_T must be numbers, found 'a'"),
        ((3, 3, 1.0, [1.0, 2.0], 1.5), r"mu_T must be one number, found shape \(2,\)"),
    ],
)
def test_impossible_numbers(arguments, message):
    with pytest.raises(TheoryError, match=message):
        GaussianProblem.from_similarity(*arguments, **SIZES)


def test_a_shared_subspace_cannot_see_less_than_its_part():
    GaussianProblem.from_similarity(3, 5, 2.0, 1.5, 1.5, **SIZES)
    with pytest.raises(TheoryError, match="no mu_xi"):
        GaussianProblem.from_similarity(3, 5, 2.0, 1.5, 1.0, **SIZES)


def test_overlap_of_a_wrong_shape_or_size():
    with pytest.raises(TheoryError, match=r"\[2, 1\] as mu_T and mu_S say, found \[1, 2\]"):
        GaussianProblem.from_overlap(np.zeros((1, 2)), np.zeros(2), np.zeros(1), **SIZES)
    with pytest.raises(TheoryError, match="largest singular value is 1.2"):
        GaussianProblem.from_overlap([[1.2]], [1.0], [1.0], **SIZES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_z": 0}, "d_z must be a whole number"),
        ({"d_z": "many"}, "d_z must be numbers, found 'many'"),
        ({"d_z": None}, "d_z must be a whole number"),
        ({"sigma_y": "a"}, "sigma_y must be numbers, found 'a'"),
        ({"n_labelled": -3}, "n_labelled must be a whole number"),
        ({"n_unlabelled": True}, "n_unlabelled must be a whole number"),
        ({"mu_xi": [[1.0]]}, "mu_xi must be a finite vector"),
        ({"mu_xi": [np.nan, 1.0]}, "mu_xi must be a finite vector"),
        ({"teacher_map": [[1.0], [1.0]]}, "columns of teacher_map must be orthonormal"),
        ({"student_map": [[np.nan], [1.0]]}, "columns of student_map must be orthonormal"),
        ({"student_map": [[1.0]]}, r"student_map must be \[p, k\] with p = 2"),
        ({"sigma_y": -1.0}, "sigma_y must be finite and at least 0, found -1"),
        ({"sigma_xi": 0.0}, "sigma_xi must be finite and greater than 0"),
    ],
)
def test_problems_that_make_no_sense(changes, message):
    problem = GaussianProblem(10, 20, 30, [1.0, 2.0], [[1.0], [0.0]])
    with pytest.raises(TheoryError, match=message):
        problem.replace(**changes)


def test_pytree_keeps_sizes_static_and_arrays_as_leaves():
    problem = GaussianProblem.from_similarity(3, 2, 0.5, 1.0, 2.0, **SIZES)
    leaves, structure = jax.tree.flatten(problem)
    assert len(leaves) == 5
    again = jax.tree.unflatten(structure, leaves)
    for field in dataclasses.fields(problem):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(problem, field.name))
    stacked = jax.tree.map(lambda *v: np.stack(v), problem, problem)
    assert stacked.mu_xi.shape == (2, 3)
    assert stacked.d_z == 100
