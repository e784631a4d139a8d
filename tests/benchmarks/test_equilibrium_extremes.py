"""Extremes: thousands of random problems must converge or report that they did not.

Sizes 2 to 500, condition numbers of the strengths to 1e12, penalties from 1e-12 to 1e12, in double and in single
precision, a third of the problems below full rank, features random, near the identity, or aligned with the mean. The
truth is in extended precision (`tests/dual/truth.py`). Checked where the solver reports `converged`:

- the relative error of every dual variable;
- the relative error of every response, beyond rounding of u and alpha (`ROUNDINGS` times eps times the sum of the
  magnitudes of its terms), since a response that is zero up to rounding has no relative accuracy;
- the error of every entry of the starvation matrix relative to its size for fully coupled features, up to 2/FLOOR:
  an entry is proportional to a pull, which has no relative accuracy below FLOOR roundings.
"""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools
import time
from typing import NamedTuple

import jax
import numpy as np
import pytest
import scipy.linalg

from gsjax import Ridge, SpectralDecoupling, dual, features, multiclass, starvation
from tests.dual import truth
from tests.dual.truth import FLOOR, LONG, logistic
from tests.instances import decoupled_margins, dense

SIZES = {2: 400, 3: 300, 5: 300, 10: 300, 20: 300, 50: 200, 100: 120, 200: 60, 500: 24}
FEWER = {size: count // 4 for size, count in SIZES.items() if size <= 200}
LEAST = {2: 40, 20: 30, 100: 12}
ACCURACY = {np.float64: 1e-8, np.float32: 1e-3}  # of dual variables and responses, each relative to itself
SHARE = {np.float64: 0.99, np.float32: 0.95}  # of problems that converge
ROUNDINGS = 4 * FLOOR  # the solver allows FLOOR of them in its criterion, and adds some
LARGEST_MATRIX = 100  # extended precision takes too long beyond

pytestmark = pytest.mark.skipif(bool(np.finfo(LONG).eps > 1e-18), reason="needs extended precision for the truth")


class Problem(NamedTuple):
    u: np.ndarray
    s: np.ndarray
    strength: float


def draw(rng: np.random.Generator, n: int, dtype=np.float64) -> Problem:
    """A random problem of size n, rounded to `dtype`."""
    kind = rng.random()
    if kind < 0.25:
        basis = np.eye(n) + 0.3 * rng.standard_normal((n, n)) / np.sqrt(n)
    elif kind < 0.4:
        basis = np.column_stack([np.ones(n), rng.standard_normal((n, n - 1))])
    else:
        basis = rng.standard_normal((n, n))
    condition, scale = 10 ** rng.uniform(0, 12 if dtype is np.float64 else 8), 10 ** rng.uniform(-3, 4)
    s2 = np.sort(scale * condition ** -rng.random(n))[::-1]
    if rng.random() < 0.3:
        s2 = np.where(np.arange(n) < rng.integers(1, n + 1), s2, 0)
    problem = Problem(np.linalg.qr(basis)[0], np.sqrt(s2), 10 ** rng.uniform(-12, 12))
    return Problem(*(np.asarray(part, dtype) for part in problem))


class Row(NamedTuple):
    n: int
    converged: bool
    iterations: int
    alpha: float
    response: float
    slopes: float
    last_step: float
    seconds: float


def relative(found, true, allowed, tiny):
    """The largest error beyond `allowed`, relative to the true numbers."""
    excess = np.maximum(np.abs(found - true) - allowed, 0)
    return float(np.max(excess / np.maximum(np.abs(true), tiny), initial=0))


@functools.partial(jax.jit, static_argnames=("form", "slopes"))
def _ridge(u, s, penalty, *, form, slopes):
    feats = features.from_spectrum(u, s)
    state = dual.equilibrium(feats, penalty, form=form)
    return state, starvation.matrix(feats, penalty, form=form, oriented=False) if slopes else None


def ridge(sizes: dict[int, int], form: str, dtype, seed: int) -> list[Row]:
    rows, rng = [], np.random.default_rng(seed)
    tiny, eps = float(np.finfo(dtype).tiny), float(np.finfo(dtype).eps)
    for n, count in sizes.items():
        for _ in range(count):
            u, s, strength = draw(rng, n, dtype)
            small, start = n <= LARGEST_MATRIX, time.perf_counter()
            state, slopes = jax.block_until_ready(_ridge(u, s, Ridge(strength), form=form, slopes=small))
            seconds = time.perf_counter() - start
            true = truth.solve(u, s, strength, form=form, eps=eps, guess=np.asarray(state.response), slopes=small)
            normal = true.alpha > tiny  # below, floats have no relative accuracy
            wrong = 0.0
            if small:
                excess = np.abs(np.asarray(slopes) - true.slopes)[np.ix_(s > 0, s > 0)]
                wrong = float(np.max(excess / np.maximum(true.scale[np.ix_(s > 0, s > 0)], tiny), initial=0))
            rows.append(
                Row(
                    n,
                    bool(state.converged),
                    int(state.iterations),
                    relative(np.asarray(state.alpha)[normal], true.alpha[normal], 0, tiny),
                    relative(np.asarray(state.response), true.response, ROUNDINGS * true.rounding, tiny),
                    wrong,
                    true.last_step,
                    seconds,
                )
            )
    return rows


def report(title: str, rows: list[Row], dtype, capsys) -> None:
    """Prints the table and checks the errors."""
    with capsys.disabled():
        print(f"\n{title}: {len(rows)} problems")
        print("errors: of alpha, response and starvation matrix where converged, of alpha where not")
        print("    n   count  converged  iterations: median  max    alpha  response    matrix  not converged  ms each")
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
                f"   {max(r.slopes for r in good):.1e}  {wrong:13.1e}  {milliseconds:7.1f}"
            )
    converged = [row for row in rows if row.converged]
    assert max(row.last_step for row in converged) < 1e-10, "the truth itself is in doubt"
    assert max(row.alpha for row in converged) < ACCURACY[dtype]
    assert max(row.response for row in converged) < ACCURACY[dtype]
    assert max(row.slopes for row in converged) < 2 / FLOOR
    assert len(converged) >= SHARE[dtype] * len(rows)
    assert np.median([row.iterations for row in converged]) <= 8


@pytest.mark.parametrize("form", ["exact", "linearized"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_ridge(form, dtype, capsys, once):
    sizes = LEAST if once else SIZES if form == "exact" and dtype is np.float64 else FEWER
    with jax.enable_x64(dtype is np.float64):
        rows = ridge(sizes, form, dtype, seed=["exact", "linearized"].index(form))
    assert sizes is not SIZES or len(rows) >= 2000
    report(f"ridge, {'Eq. 9' if form == 'exact' else 'Eq. 10'}, {dtype.__name__}", rows, dtype, capsys)


def strengths_and_targets(rng, n, dtype):
    """Penalties of examples over up to twelve decades (six in single precision), targets in half of the cases."""
    width = rng.uniform(0, 12 if dtype is np.float64 else 6)
    strength = 10 ** (rng.uniform(-12, 12 - width) + width * rng.random(n))
    target = 3 * rng.standard_normal(n) * (rng.random() < 0.5)
    return strength.astype(dtype), target.astype(dtype), rng.choice([-1.0, 1.0], n)


@jax.jit
def _decoupled(u, s, y, penalty):
    return dual.equilibrium(features.from_spectrum(u, s, y), penalty)


def decoupled(u, s, y, strength, target):
    penalty, start = dense(SpectralDecoupling(strength, target), len(y)), time.perf_counter()
    state = jax.block_until_ready(_decoupled(u, s, y, penalty))
    return state, time.perf_counter() - start


def compare(n, u, state, margins, spread, last_step, seconds, dtype) -> Row:
    """The row of a state, given true margins whose terms have the size `spread`."""
    tiny, eps = float(np.finfo(dtype).tiny), float(np.finfo(dtype).eps)
    alpha, response = logistic(margins)[0], u.T.astype(LONG) @ margins
    normal, floor = alpha > tiny, ROUNDINGS * eps * (np.abs(u).T @ np.maximum(np.abs(margins), spread))
    return Row(
        n,
        bool(state.converged),
        int(state.iterations),
        relative(np.asarray(state.alpha)[normal], alpha[normal], FLOOR * eps * np.max(spread) * alpha[normal], tiny),
        relative(np.asarray(state.response), response, floor, tiny),
        0.0,
        last_step,
        seconds,
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_decoupling_at_full_rank(dtype, capsys, once):
    rows, rng = [], np.random.default_rng(2)
    with jax.enable_x64(dtype is np.float64):
        for n, count in ({2: 20, 50: 12} if once else {2: 100, 10: 100, 50: 60, 200: 20}).items():
            for _ in range(count):
                u = draw(rng, n, dtype).u
                strength, target, y = strengths_and_targets(rng, n, dtype)
                state, seconds = decoupled(u, np.ones(n, dtype), y, strength, target)
                assert bool(state.decoupled)
                margins = decoupled_margins(strength.astype(LONG), target.astype(LONG), y.astype(LONG))
                rows.append(compare(n, u, state, margins, np.abs(margins), 0.0, seconds, dtype))
    report(f"spectral decoupling at full rank, Eq. 18, {dtype.__name__}", rows, dtype, capsys)


def test_decoupling_below_full_rank(capsys, once):
    rows, rng = [], np.random.default_rng(3)
    with jax.enable_x64(True):
        for n, count in ({3: 20, 50: 12} if once else {3: 100, 10: 100, 50: 60}).items():
            for _ in range(count):
                u = draw(rng, n).u
                rank = int(rng.integers(1, n))
                strength, target, y = strengths_and_targets(rng, n, np.float64)
                s = np.where(np.arange(n) < rank, 1.0, 0.0)
                state, seconds = decoupled(u, s, y, strength, target)
                assert not bool(state.decoupled)
                z = np.asarray(state.response)[:rank]
                margins, last_step = decoupled_truth(u[:, :rank], strength, y * target, z)
                spread = np.full(n, np.max(np.abs(margins)))
                state = state._replace(response=state.response[:rank])
                rows.append(compare(n, u[:, :rank], state, margins, spread, last_step, seconds, np.float64))
    report("spectral decoupling below full rank", rows, np.float64, capsys)


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


def test_several_classes_in_single_precision(capsys, once):
    """Against the same problem in double precision, which `tests/test_multiclass.py` compares with other solvers."""
    rng, rows = np.random.default_rng(4), []
    solve = jax.jit(lambda feats, penalty: multiclass.equilibrium(feats, penalty))
    for n, k, count in ((2, 2, 60), (4, 3, 60), (10, 5, 40), (40, 3, 20)):
        for _ in range(count // 5 if once else count):
            u, s, strength = draw(rng, n * k, np.float32)
            labels, found = rng.integers(0, k, n), {}
            for wide in (False, True):
                with jax.enable_x64(wide):
                    basis, values, ridge = (
                        np.asarray(part, float if wide else np.float32) for part in (u, s, strength)
                    )
                    feats = multiclass.Features(basis, values, None, labels, n * k)
                    found[wide] = jax.tree.map(np.asarray, solve(feats, Ridge(ridge)))
            single, double = found[False], found[True]
            if not double.converged:
                continue
            shown = np.exp(double.logits - double.logits.max(axis=1, keepdims=True))
            p = (shown / shown.sum(axis=1, keepdims=True)).ravel()
            residuals = np.eye(k)[labels].ravel() - p
            b = s.astype(float) / np.sqrt(float(strength))
            spread = np.abs(u * b) @ np.abs(np.where(b > 0, double.response / np.where(b > 0, b, 1), 0))
            spread = p * spread + p * np.repeat((p * spread).reshape(n, k).sum(axis=1), k)
            rounding = b**2 * (np.abs(u).T @ (np.abs(residuals) + spread)) * np.finfo(np.float32).eps
            means = np.einsum("nk,nkr->nr", p.reshape(n, k), (u * b).reshape(n, k, -1))
            rounding = rounding / (1 + ((u * b) ** 2).T @ p - (means**2).sum(axis=0))
            wrong = relative(single.response, double.response, ROUNDINGS * rounding, np.finfo(np.float32).tiny)
            rows.append(Row(n * k, bool(single.converged), int(single.iterations), 0.0, wrong, 0.0, 0.0, 0.0))
    report("several classes, float32", rows, np.float32, capsys)
    assert len(rows) >= (34 if once else 170)
