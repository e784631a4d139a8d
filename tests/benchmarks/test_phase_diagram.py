"""A phase diagram of 200 x 200 x 5 points against loops over its points.

    make bench          a table: microseconds per point, and how many times longer the others take

All solve Eq. 9 for two features and differentiate the responses with respect to both strengths, in float64. The loops,
over a random sample of the same points, are `scipy.optimize.root` (MINPACK's hybr) with the analytic Jacobian, on the
dual in logit coordinates, started at the equilibrium of uncoupled features; and our general solver for any number of
features, vmapped. They are timed in turns after warm-up; the table shows the fastest of several rounds.
"""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's.

from __future__ import annotations

import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special

from gsjax import Ridge, dual, features, starvation

SAMPLE, ROUNDS = 2000, 5


def solve_with_scipy(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Responses and sensitivities of points (ratio, delta, strength), and how many were not solved.

    Uses Python floats where these are faster than arrays of two numbers.
    """
    responses, slopes, failed = [], [], 0
    starts = scipy.special.lambertw(np.stack([points[:, 0], np.ones(len(points))], 1) / points[:, 2:]).real
    for (ratio, delta, strength), start in zip(points.tolist(), starts, strict=True):
        cosine, t1, t2 = math.sqrt(1 - delta * delta), ratio / strength, 1 / strength
        k11, k22 = cosine * cosine * t1 + delta * delta * t2, delta * delta * t1 + cosine * cosine * t2
        k12 = cosine * delta * (t1 - t2)

        def field(m, k11=k11, k12=k12, k22=k22):
            m1, m2 = m.tolist()
            a1, a2 = 1 / (1 + math.exp(m1)), 1 / (1 + math.exp(m2))
            d1, d2 = a1 * (1 - a1), a2 * (1 - a2)
            value = m1 - k11 * a1 - k12 * a2, m2 - k12 * a1 - k22 * a2
            return value, ((1 + k11 * d1, k12 * d2), (k12 * d1, 1 + k22 * d2))

        found = scipy.optimize.root(field, start, jac=True, method="hybr", tol=1e-10)
        failed += not found.success
        m1, m2 = found.x.tolist()
        a1, a2 = 1 / (1 + math.exp(m1)), 1 / (1 + math.exp(m2))
        d1, d2 = a1 * (1 - a1), a2 * (1 - a2)
        c11, c22 = cosine * cosine * d1 + delta * delta * d2, delta * delta * d1 + cosine * cosine * d2
        c12 = cosine * delta * (d2 - d1)
        determinant = strength * (1 + t1 * c11 + t2 * c22 + t1 * t2 * d1 * d2)
        p1, p2 = (cosine * a1 + delta * a2) / determinant, (cosine * a2 - delta * a1) / determinant
        responses.append((cosine * m1 + delta * m2, cosine * m2 - delta * m1))
        slopes.append(((p1 * (1 + t2 * c22), -p2 * t1 * c12), (-p1 * t2 * c12, p2 * (1 + t1 * c11))))
    return np.array(responses), np.array(slopes), failed


@jax.jit
def solve_generally(points):
    def one(point):
        feats = features.planar(point[1], jnp.stack([point[0], jnp.ones_like(point[0])]))
        return dual.equilibrium(feats, Ridge(point[2])).response, starvation.matrix(feats, Ridge(point[2]))

    return jax.vmap(one)(points)


def test_phase_diagram_against_loops(capsys, once):
    sample = 200 if once else SAMPLE
    ratio, delta, strength = np.geomspace(0.1, 100, 200), np.linspace(-0.99, 0.99, 200), np.geomspace(1e-3, 1, 5)
    grid = np.stack(np.meshgrid(ratio, delta, strength, indexing="ij"), axis=-1).reshape(-1, 3)
    rows = np.random.default_rng(0).choice(len(grid), sample, replace=False)
    points = grid[rows]
    with jax.enable_x64(True):
        ways = {
            "phase_diagram": (len(grid), lambda: starvation.phase_diagram(ratio, delta, strength)),
            "scipy.optimize.root, a loop": (sample, lambda: solve_with_scipy(points)),
            "starvation.matrix, vmapped": (sample, lambda: solve_generally(points)),
        }
        results = {name: jax.block_until_ready(run()) for name, (_, run) in ways.items()}
        fastest = dict.fromkeys(ways, np.inf)
        for _ in range(1 if once else ROUNDS):
            for name, (count, run) in ways.items():
                start = time.perf_counter()
                jax.block_until_ready(run())
                fastest[name] = min(fastest[name], (time.perf_counter() - start) / count)
    found = results["phase_diagram"]
    assert found.converged.all()
    responses, slopes, failed = results["scipy.optimize.root, a loop"]
    ours = np.asarray(found.response).reshape(-1, 2)[rows], np.asarray(found.starvation).reshape(-1, 2, 2)[rows]
    z, matrix = results["starvation.matrix, vmapped"]
    np.testing.assert_allclose(ours[0], z, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours[1], matrix, rtol=1e-5, atol=1e-9)
    oriented = np.where(responses < 0, -1, 1)[..., None] * slopes
    agrees = np.all(np.isclose(responses, z, rtol=1e-6), axis=1) & np.all(np.isclose(oriented, matrix, 1e-4), (1, 2))
    with capsys.disabled():
        print(f"\n\n{len(grid)} equilibria with derivatives: {fastest['phase_diagram'] * len(grid):.3f} s")
        print(f"{'':30} {'µs a point':>10} {'times as long':>14}")
        for name, seconds in fastest.items():
            print(f"{name:30} {1e6 * seconds:10.2f} {seconds / fastest['phase_diagram']:14.0f}")
        print(f"SciPy: {failed} of {sample} not solved, {agrees.mean():.1%} as ours")
