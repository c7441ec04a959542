"""The asymptotic risks again, slowly: plain NumPy, plain iterations, tensor Gauss-Hermite points.

Follows the equations step by step on the joint law of both group features, and solves for the
test law's P (which the package replaces by its adjoint).
"""

import itertools

import numpy as np


def joint_points(problem, num_nodes):
    """Standard points of (T'xi, S'xi) around their mean, and their weights."""
    a, b = problem.p_T - 1, problem.p_S - 1
    Xi = np.asarray(problem.Xi)
    covariance = np.block([[np.eye(a), Xi], [Xi.T, np.eye(b)]])
    values, vectors = np.linalg.eigh(covariance) if a + b else (np.zeros(0), np.zeros((0, 0)))
    factor = vectors[:, values > 1e-12] * np.sqrt(values[values > 1e-12])
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    weights = weights / weights.sum()
    rank = factor.shape[1]
    points = np.array(list(itertools.product(nodes, repeat=rank))).reshape(-1, rank)
    product = np.array([np.prod(w) for w in itertools.product(weights, repeat=rank)])
    return points @ factor.T, product


class Reference:
    def __init__(self, problem, num_nodes=60):
        self.problem = problem
        self.points, self.point_weights = joint_points(problem, num_nodes)

    def rows(self, eta):
        problem = self.problem
        a = problem.p_T - 1
        mean = np.concatenate([problem.mu_T, problem.mu_S])
        parts, weights = [], []
        for g, share in ((0.0, 1 - eta), (1.0, eta)):
            parts.append(g * mean + problem.sigma_xi * self.points)
            weights.append(share * self.point_weights)
        seen = np.concatenate(parts)
        one = np.ones((len(seen), 1))
        w, psi = np.hstack([one, seen[:, :a]]), np.hstack([one, seen[:, a:]])
        return w, psi, np.concatenate(weights)

    def solve(self, x, weights, ratio, l2):
        N = np.einsum("m,mi,mj->ij", weights, x, x) + l2 * np.eye(x.shape[1])
        for _ in range(20000):
            c = 1 / (1 + ratio * np.einsum("mi,ij,mj->m", x, np.linalg.inv(N), x))
            new = np.einsum("m,mi,mj->ij", weights * c, x, x) + l2 * np.eye(x.shape[1])
            done = np.abs(new - N).max() < 1e-14 * np.abs(N).max()
            N = new
            if done:
                break
        return N, 1 / (1 + ratio * np.einsum("mi,ij,mj->m", x, np.linalg.inv(N), x))

    def without_penalty(self, eta_l, eta_u, eta_t):
        """Steps 1 to 5 without penalties."""
        problem = self.problem
        scale = problem.sigma_y**2 * problem.gamma
        w, psi, weights = self.rows(eta_l)
        M_T, _ = self.solve(w, weights, problem.gamma, 0.0)
        inverse_T = np.linalg.inv(M_T)
        w_test, psi_test, test = self.rows(eta_t)
        A_T = np.einsum("m,mi,mj->ij", test, w_test, w_test)
        A_S = np.einsum("m,mi,mj->ij", test, psi_test, psi_test)
        teacher = scale * np.trace(inverse_T @ A_T)
        w, psi, weights = self.rows(eta_u)
        M_S, c = self.solve(psi, weights, problem.nu, 0.0)
        inverse_S = np.linalg.inv(M_S)
        B = inverse_S @ np.einsum("m,mi,mj->ij", weights * c, psi, w)
        r = w - psi @ B
        s = scale * np.einsum("mi,ij,mj->m", r, inverse_T, r)
        R = self.test_law(psi, weights, c, inverse_S, A_S)
        student = scale * np.trace(inverse_T @ B.T @ A_S @ B)
        student += problem.nu * np.sum(weights * s * c**2 * np.einsum("mi,ij,mj->m", psi, R, psi))
        return teacher, student

    def test_law(self, psi, weights, c, inverse_S, A_S):
        """R = inverse P inverse, P = A + nu E[c^2 (psi' R psi) psi psi']: a p^2 by p^2 system."""
        p = psi.shape[1]
        outer = np.einsum("mi,mj->mij", psi, psi).reshape(len(psi), -1)
        turned = outer @ np.kron(inverse_S, inverse_S)
        system = np.eye(p * p) - self.problem.nu * np.einsum(
            "m,mi,mj->ij", weights * c**2, outer, turned
        )
        P = np.linalg.solve(system, A_S.ravel()).reshape(p, p)
        return inverse_S @ P @ inverse_S

    def with_penalty(self, eta_l, eta_u, eta_t, l2_T, l2_S, b):
        """Steps 1 to 7 with penalties."""
        problem = self.problem
        gamma, nu = problem.gamma, problem.nu
        w, psi, weights = self.rows(eta_l)
        N_T, c_T = self.solve(w, weights, gamma, l2_T)
        inverse = np.linalg.inv(N_T)
        M_T = N_T - l2_T * np.eye(len(N_T))
        alpha = inverse @ M_T[:, 0]
        delta = alpha.copy()
        delta[0] -= 1
        V = np.zeros_like(N_T)
        for _ in range(20000):
            inner = problem.sigma_y**2 + b**2 * (w @ delta) ** 2 + np.einsum("mi,ij,mj->m", w, V, w)
            new = gamma * inverse @ np.einsum("m,mi,mj->ij", weights * c_T**2 * inner, w, w)
            new = new @ inverse
            done = np.abs(new - V).max() < 1e-14 * np.abs(new).max()
            V = new
            if done:
                break
        w_test, psi_test, test = self.rows(eta_t)
        A_T = np.einsum("m,mi,mj->ij", test, w_test, w_test)
        A_S = np.einsum("m,mi,mj->ij", test, psi_test, psi_test)
        teacher = b**2 * delta @ A_T @ delta + np.trace(V @ A_T)
        w, psi, weights = self.rows(eta_u)
        N_S, c = self.solve(psi, weights, nu, l2_S)
        inverse_S = np.linalg.inv(N_S)
        B = inverse_S @ np.einsum("m,mi,mj->ij", weights * c, psi, w)
        r = w - psi @ B
        s = np.einsum("mi,ij,mj->m", r, V + b**2 * np.outer(alpha, alpha), r)
        R = self.test_law(psi, weights, c, inverse_S, A_S)
        error = B @ alpha
        error[0] -= 1
        student = b**2 * error @ A_S @ error + np.trace(V @ B.T @ A_S @ B)
        student += nu * np.sum(weights * s * c**2 * np.einsum("mi,ij,mj->m", psi, R, psi))
        return teacher, student
