"""Extremes: thousands of random problems that must converge or say that they did not; a wrong number is a defect.

Sizes 2 to 500, condition numbers of the strengths to 1e12, penalties from 1e-8 to 1e4, a third of the problems below
full rank, features random, near the identity, or aligned with the mean. The truth is Newton's method on the conditions
of optimality in extended precision, started from the solution under test and checked by the size of its last step:
the problems are convex, so what satisfies the conditions is the optimum.
"""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import time
from typing import NamedTuple

import jax
import numpy as np
import pytest
import scipy.linalg
from scipy.special import expit, wrightomega

from gsjax import Ridge, SpectralDecoupling
from tests.instances import decoupled_margins, equilibrium

SIZES = {2: 400, 3: 300, 5: 300, 10: 300, 20: 300, 50: 200, 100: 120, 200: 60, 500: 24}
ACCURACY = 1e-8  # of every dual variable, relatively, and of responses, relative to the largest
SHARE = 0.99  # of problems that converge

LONG = np.longdouble

pytestmark = pytest.mark.skipif(bool(np.finfo(LONG).eps > 1e-18), reason="needs extended precision for the truth")


class Problem(NamedTuple):
    u: np.ndarray
    s: np.ndarray
    strength: float


def draw(rng: np.random.Generator, n: int) -> Problem:
    """A random problem of size n."""
    kind = rng.random()
    if kind < 0.25:
        basis = np.eye(n) + 0.3 * rng.standard_normal((n, n)) / np.sqrt(n)
    elif kind < 0.4:
        basis = np.column_stack([np.ones(n), rng.standard_normal((n, n - 1))])
    else:
        basis = rng.standard_normal((n, n))
    condition, scale = 10 ** rng.uniform(0, 12), 10 ** rng.uniform(-3, 4)
    s2 = np.sort(scale * condition ** -rng.random(n))[::-1]
    if rng.random() < 0.3:
        s2 = np.where(np.arange(n) < rng.integers(1, n + 1), s2, 0)
    return Problem(np.linalg.qr(basis)[0], np.sqrt(s2), 10 ** rng.uniform(-8, 4))


def logistic(margins):
    """`alpha` and its slope `-d alpha / d m`."""
    return expit(-margins), expit(-margins) * expit(margins)


def linearised(margins):
    """The same for `-log alpha - alpha = m`, polished to extended precision."""
    x = -np.asarray(margins)
    w = np.maximum(wrightomega(x.astype(float)), np.finfo(float).tiny).astype(LONG)
    for _ in range(2):
        w = w * (1 + x - np.log(w)) / (1 + w)
    return w, w / (1 + w)


def refine(basis, offset, dual, w) -> tuple[np.ndarray, float]:
    """The margins `basis w + offset` at the minimum of `loss + |w|^2 / 2`, and the last step of any margin."""
    double = basis.astype(float)
    step, w = np.inf, w.astype(LONG)
    for _ in range(40):
        alpha, curvature = dual(basis @ w + offset)
        gradient = (w - basis.T @ alpha).astype(float)
        hessian = np.eye(len(w)) + (double.T * curvature.astype(float)) @ double
        scale = 1 / np.sqrt(np.diag(hessian))
        factor = scipy.linalg.cho_factor(scale[:, None] * hessian * scale)
        p = -scale * scipy.linalg.cho_solve(factor, scale * gradient)
        w = w + p
        before, step = step, float(np.max(np.abs(double @ p)) / (1 + np.max(np.abs(basis @ w))))
        if step < 1e-17 or (step < 1e-13 and step > before / 2):
            break
    return basis @ w + offset, step


def truth(problem: Problem, state, dual) -> tuple[np.ndarray, float]:
    """Margins in extended precision, from those of the solution."""
    carrying = problem.s > 0
    basis = problem.u[:, carrying].astype(LONG) * (problem.s[carrying].astype(LONG) / np.sqrt(LONG(problem.strength)))
    w = np.asarray(state.response)[carrying] / problem.s[carrying] * np.sqrt(problem.strength)
    return refine(basis, LONG(0), dual, w)


class Row(NamedTuple):
    n: int
    converged: bool
    iterations: int
    alpha: float
    response: float
    last_step: float
    seconds: float


def compare(n, u, state, margins, dual, last_step, seconds) -> Row:
    alpha, _ = dual(margins)
    response = u.T.astype(LONG) @ margins
    normal = alpha > np.finfo(float).tiny  # below, doubles have no relative accuracy
    wrong_alpha = np.max(np.abs(np.asarray(state.alpha)[normal] / alpha[normal] - 1), initial=0)
    wrong_response = np.max(np.abs(response - np.asarray(state.response))) / (1 + np.max(np.abs(response)))
    return Row(
        n, bool(state.converged), int(state.iterations), float(wrong_alpha), float(wrong_response), last_step, seconds
    )


def report(title: str, rows: list[Row], capsys) -> None:
    """The table, and the verdict."""
    with capsys.disabled():
        print(f"\n{title}: {len(rows)} problems")
        print("errors: of alpha and response where converged, of alpha where not")
        print("    n   count  converged  iterations: median  max    alpha  response  not converged  ms each")
        for n in sorted({row.n for row in rows}):
            group = [row for row in rows if row.n == n]
            good, bad = ([row for row in group if row.converged is c] for c in (True, False))
            iterations = [row.iterations for row in good]
            wrong = max((r.alpha for r in bad), default=0.0)
            milliseconds = 1e3 * np.median([r.seconds for r in group])
            print(
                f"{n:5d}  {len(group):6d}  {len(good) / len(group):9.2%}"
                f"  {np.median(iterations):18.0f}  {max(iterations):3d}"
                f"  {max(r.alpha for r in good):.1e}   {max(r.response for r in good):.1e}"
                f"  {wrong:13.1e}  {milliseconds:7.1f}"
            )
    assert max(row.last_step for row in rows) < 1e-12, "the truth itself is in doubt"
    converged = [row for row in rows if row.converged]
    assert max(row.alpha for row in converged) < ACCURACY
    assert max(row.response for row in converged) < ACCURACY
    assert len(converged) >= SHARE * len(rows)
    assert np.median([row.iterations for row in converged]) <= 8


def timed(*args, **options):
    start = time.perf_counter()
    state = jax.block_until_ready(equilibrium(*args, **options))
    return state, time.perf_counter() - start


def run(sizes: dict[int, int], form: str, dual, seed: int) -> list[Row]:
    rows, rng = [], np.random.default_rng(seed)
    for n, count in sizes.items():
        for _ in range(count):
            problem = draw(rng, n)
            state, seconds = timed(problem.u, problem.s, np.ones(n), Ridge(problem.strength), form=form)
            margins, last_step = truth(problem, state, dual)
            rows.append(compare(n, problem.u, state, margins, dual, last_step, seconds))
    return rows


def test_ridge(capsys):
    with jax.enable_x64(True):
        rows = run(SIZES, "exact", logistic, seed=0)
    assert len(rows) >= 2000
    report("ridge, Eq. 9", rows, capsys)


def test_ridge_linearised(capsys):
    sizes = {n: max(count // 5, 8) for n, count in SIZES.items()}
    with jax.enable_x64(True):
        report("ridge, Eq. 10", run(sizes, "linearized", linearised, seed=1), capsys)


def strengths_and_targets(rng, n):
    """Penalties of examples over up to twelve decades, targets in half of the cases."""
    width = rng.uniform(0, 12)
    strength = 10 ** (rng.uniform(-8, 4 - width) + width * rng.random(n))
    return strength, 3 * rng.standard_normal(n) * (rng.random() < 0.5), rng.choice([-1.0, 1.0], n)


def test_decoupling_at_full_rank(capsys):
    rows, rng = [], np.random.default_rng(2)
    with jax.enable_x64(True):
        for n, count in {2: 100, 10: 100, 50: 60, 200: 20}.items():
            for _ in range(count):
                u = draw(rng, n).u
                strength, target, y = strengths_and_targets(rng, n)
                state, seconds = timed(u, np.ones(n), y, SpectralDecoupling(strength, target))
                assert bool(state.decoupled)
                margins = decoupled_margins(strength.astype(LONG), target.astype(LONG), y.astype(LONG))
                rows.append(compare(n, u, state, margins, logistic, 0.0, seconds))
    report("spectral decoupling at full rank, Eq. 18", rows, capsys)


def test_decoupling_below_full_rank(capsys):
    rows, rng = [], np.random.default_rng(3)
    with jax.enable_x64(True):
        for n, count in {3: 100, 10: 100, 50: 60}.items():
            for _ in range(count):
                u = draw(rng, n).u
                rank = int(rng.integers(1, n))
                strength, target, y = strengths_and_targets(rng, n)
                s = np.where(np.arange(n) < rank, 1.0, 0.0)
                state, seconds = timed(u, s, y, SpectralDecoupling(strength, target))
                assert not bool(state.decoupled)
                z = np.asarray(state.response)[:rank]
                margins, last_step = decoupled_truth(u[:, :rank], strength, y * target, z)
                rows.append(compare(n, u, state, margins, logistic, last_step, seconds))
    report("spectral decoupling below full rank", rows, capsys)


def decoupled_truth(u, strength, centre, z) -> tuple[np.ndarray, float]:
    """The margins `U z` at which `U^T (L (m - Y t) - sigma(-m))` vanishes, by Newton's method from `z`."""
    step, z, u_long = np.inf, z.astype(LONG), u.astype(LONG)
    for _ in range(60):
        margins = u_long @ z
        alpha, curvature = logistic(margins)
        gradient = (u_long.T @ (strength * (margins - centre) - alpha)).astype(float)
        # The factor R of the weighted features, without forming the Hessian R^T R, whose condition is its square.
        r = np.linalg.qr(np.sqrt(strength + curvature.astype(float))[:, None] * u, mode="r")
        p = -scipy.linalg.solve_triangular(r, scipy.linalg.solve_triangular(r, gradient, trans=1))
        z = z + p
        before, step = step, float(np.max(np.abs(u @ p)) / (1 + np.max(np.abs(margins))))
        if step < 1e-17 or (step < 1e-13 and step > before / 2):
            break
    return u_long @ z, step
