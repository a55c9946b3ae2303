"""The mathematics of FedPCA in float64: local loss and its gradients, steps in Euclidean space and on the Grassmann manifold.

S: (d, d) second moment of a device's standard records; U, Z: (d, k); y: (d, k) the dual Y over rho; T: (k, k).

Source: Nguyen et al. 2024, arXiv:2407.07421. Departure from the authors' code: the inner product <Y, U - Z> is Frobenius's, and
neither dual nor penalty is divided by the number of records.
"""

import numpy as np

from edgehold.core.anomaly import Doubles


def second_moment(z: Doubles) -> Doubles:
    """S = z'z / n of standard records z, (n, d); exactly symmetric."""
    found = z.T @ z / len(z)
    return np.asarray((found + found.T) / 2)


def loss(s: Doubles, u: Doubles) -> float:
    """F(U) = |(I - UU')X|^2 / n = tr S - 2 tr(U'SU) + tr(U'SU U'U)."""
    inner = u.T @ s @ u
    return float(np.trace(s) - 2 * np.trace(inner) + np.sum(inner * (u.T @ u)))


def gradient(s: Doubles, u: Doubles) -> Doubles:
    """Of F: -4SU + 2SU(U'U) + 2U(U'SU)."""
    su = s @ u
    return np.asarray(-4 * su + 2 * su @ (u.T @ u) + 2 * u @ (u.T @ su))


def tangent(u: Doubles, direction: Doubles) -> Doubles:
    """The part of a direction along the manifold at orthonormal U: G - U(U'G)."""
    return np.asarray(direction - u @ (u.T @ direction))


def excess(u: Doubles) -> Doubles:
    """FedPE's constraint h(U) = max(0, U'U - I)^2, entry by entry, (k, k)."""
    return np.asarray(np.square(np.maximum(0.0, u.T @ u - np.eye(u.shape[1]))))


def excess_gradient(u: Doubles, t: Doubles, rho: float) -> Doubles:
    """Of <T, h(U)> + rho/2 |h(U)|^2: U(Q + Q') with M = max(0, U'U - I) and Q = 2 M (T + rho M^2), entry by entry."""
    m = np.maximum(0.0, u.T @ u - np.eye(u.shape[1]))
    q = 2 * m * (t + rho * m * m)
    return np.asarray(u @ (q + q.T))


def qf(a: Doubles) -> Doubles:
    """Q of the thin QR with a positive diagonal of R: without that a column may change its sign, and a dual, which is linear,
    would see a jump of 2.
    """
    q, r = np.linalg.qr(a)
    return np.asarray(q * np.where(r.diagonal() < 0, -1.0, 1.0))


def fedpg(s: Doubles, start: Doubles, z: Doubles, y: Doubles, rho: float, eta: float, steps: int) -> Doubles:
    """U after steps on the manifold down F(U) + rho <y, U - Z> + rho/2 |U - Z|^2, orthonormal. start: orthonormal.

    Where U is orthonormal the tangent part of F's gradient is that of -2SU, and U itself has none.
    """
    u, fixed = start, rho * (y - z)
    for _ in range(steps):
        u = qf(u - eta * tangent(u, fixed - 2 * (s @ u)))
    return u


def fedpe(
    s: Doubles, start: Doubles, z: Doubles, y: Doubles, t: Doubles, rho: float, eta: float, steps: int
) -> Doubles:  # fmt: skip
    """U after plain gradient steps down the augmented Lagrangian with h; not orthonormal."""
    u = start
    for _ in range(steps):
        u = u - eta * (gradient(s, u) + rho * (y + u - z) + excess_gradient(u, t, rho))
    return u


def step_size(s: Doubles, rho: float) -> float:
    """0.25 / (lambda_1(S) + rho)."""
    return float(0.25 / (np.linalg.eigvalsh(s)[-1] + rho))


def leading(s: Doubles, k: int) -> Doubles:
    """The k eigenvectors of S with the largest eigenvalues, largest first: the best subspace there is."""
    return np.asarray(np.linalg.eigh(s)[1][:, ::-1][:, :k])


def angle(u: Doubles, v: Doubles) -> float:
    """Largest principal angle between two subspaces given by orthonormal bases, in degrees.

    From the sine, |(I - VV')U|, because the cosine of a small angle says nothing in float64.
    """
    sine = np.linalg.norm(u - v @ (v.T @ u), 2)
    return float(np.degrees(np.arcsin(min(1.0, float(sine)))))


def error(u: Doubles) -> float:
    """How far a basis is from orthonormal: max |U'U - I|."""
    return float(np.abs(u.T @ u - np.eye(u.shape[1])).max())
