"""Problems that the tests of the computing core share, and independent solutions of them."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from scipy.special import expit, log_softmax, softmax

from gsjax import Ridge, SpectralDecoupling, dual, features

# Rounding errors of a short chain of well-conditioned operations, by precision.
ROUNDING = {jnp.float32: 2e-5, jnp.float64: 1e-12}

# Errors of fixed points at the solver's default tolerance, eps^(2/3), in a well-conditioned problem.
SOLVED = {jnp.float32: 2e-4, jnp.float64: 1e-9}


def orthogonal(rng: np.random.Generator, n: int) -> np.ndarray:
    """A random orthogonal matrix `(n, n)`, uniform in the sense of Haar."""
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.sign(np.diag(r))


def rotation(delta: float) -> np.ndarray:
    """The U of Eq. 15."""
    return np.array([[np.sqrt(1 - delta**2), -delta], [delta, np.sqrt(1 - delta**2)]])


class Instance(NamedTuple):
    """`Y Phi = U S V^T` with all its factors known: `u (n, n)`, `s (n,)` (zeros last), `vt (n, m)`, `y (n,)`."""

    u: np.ndarray
    s: np.ndarray
    vt: np.ndarray
    y: np.ndarray

    @property
    def phi(self) -> np.ndarray:
        """`Phi (n, m)`."""
        return self.y[:, None] * (self.u * self.s) @ self.vt

    @property
    def kernel(self) -> np.ndarray:
        """`Y Phi Phi^T Y (n, n)`."""
        return (self.u * self.s**2) @ self.u.T


def instance(seed: int, *, n: int = 5, m: int = 8, rank: int | None = None, condition: float = 30.0) -> Instance:
    """A random instance: U Haar, `s` log-spaced over `condition` and jittered, all but `rank` of them zero."""
    rng = np.random.default_rng(seed)
    s = 2 * condition ** -np.linspace(0, 1, n) * rng.uniform(0.9, 1.1, n)
    s = np.where(np.arange(n) < (n if rank is None else rank), np.sort(s)[::-1], 0)
    return Instance(orthogonal(rng, n), s, orthogonal(rng, m)[:n], rng.choice([-1.0, 1.0], n))


@functools.partial(jax.jit, static_argnames=("form", "tolerance"))
def _equilibrium(u, s, y, penalty, *, form, tolerance):
    return dual.equilibrium(features.from_spectrum(u, s, y), penalty, form=form, tolerance=tolerance)


def dense(penalty: Any, n: int) -> Any:
    """A penalty with arrays instead of scalars, so that all penalties of a kind share a compiled program."""
    shape = () if isinstance(penalty, Ridge) else (n,)
    return jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf, float), shape), penalty)


def equilibrium(u, s, y, penalty, *, form="exact", tolerance=None) -> dual.Equilibrium:
    """`dual.equilibrium`, compiled once for all problems of one shape."""
    return _equilibrium(u, s, y, dense(penalty, len(y)), form=form, tolerance=tolerance)


def solve(problem: Instance, penalty: Any, **options: Any) -> dual.Equilibrium:
    """`dual.equilibrium` of an instance."""
    return equilibrium(problem.u, problem.s, problem.y, penalty, **options)


def ridge_field(kernel: np.ndarray, strength: float, alpha: np.ndarray, form: str = "exact") -> np.ndarray:
    """Eq. 9, or Eq. 10, as printed, for a kernel `Y Phi Phi^T Y`; the second with `K / lambda + I`."""
    if form == "exact":
        return -np.log(alpha) + np.log1p(-alpha) - kernel @ alpha / strength
    return -np.log(alpha) - kernel @ alpha / strength - alpha


def trust_region(value, grad, hessian, size: int) -> np.ndarray:
    """The minimum of a smooth, strongly convex function by SciPy's exact trust-region method, from zero."""
    found = scipy.optimize.minimize(
        value, np.zeros(size), jac=grad, hess=hessian, method="trust-exact", options={"gtol": 1e-11}
    )
    return found.x - np.linalg.solve(hessian(found.x), grad(found.x))


def primal_minimum(phi: np.ndarray, y: np.ndarray, penalty: Any) -> np.ndarray:
    """`theta (m,)` at the minimum of Eq. 5 or 17, from the formula. With a rank-deficient `phi` and no ridge, theta is
    not unique; a tiny ridge selects one, and all have the same outputs."""
    m = phi.shape[1]
    if isinstance(penalty, Ridge):
        decay, pull, target = float(penalty.strength), np.zeros_like(y), np.zeros_like(y)
    else:
        decay, pull, target = 1e-13, *(np.broadcast_to(x, y.shape) for x in (penalty.strength, penalty.target))

    def value(theta):
        f = phi @ theta
        return np.logaddexp(0, -y * f).sum() + (pull * (f - target) ** 2).sum() / 2 + decay / 2 * theta @ theta

    def grad(theta):
        f = phi @ theta
        return phi.T @ (-y * expit(-y * f) + pull * (f - target)) + decay * theta

    def hessian(theta):
        f = phi @ theta
        return (phi.T * (expit(f) * expit(-f) + pull)) @ phi + decay * np.eye(m)

    return trust_region(value, grad, hessian, m)


def softmax_minimum(phi: np.ndarray, labels: np.ndarray, penalty: Any) -> np.ndarray:
    """`theta (m,)` at the minimum of softmax cross-entropy and penalty, for `phi (n, k, m)`, from the formula."""
    n, k, m = phi.shape
    flat = phi.reshape(n * k, m)
    one_hot = np.eye(k)[labels]
    if isinstance(penalty, Ridge):
        decay, pull, target = float(penalty.strength), np.zeros(n * k), np.zeros(n * k)
    else:
        decay, pull, target = 1e-13, *(np.broadcast_to(x, (n * k,)) for x in (penalty.strength, penalty.target))

    def value(theta):
        f = flat @ theta
        loss = -(one_hot * log_softmax(f.reshape(n, k), axis=1)).sum()
        return loss + (pull * (f - target) ** 2).sum() / 2 + decay / 2 * theta @ theta

    def grad(theta):
        f = flat @ theta
        return flat.T @ ((softmax(f.reshape(n, k), axis=1) - one_hot).ravel() + pull * (f - target)) + decay * theta

    def hessian(theta):
        p = softmax((flat @ theta).reshape(n, k), axis=1)
        mean = np.einsum("nk,nkm->nm", p, phi)
        return (flat.T * (p.ravel() + pull)) @ flat - mean.T @ mean + decay * np.eye(m)

    return trust_region(value, grad, hessian, m)


def decoupled_margins(strength, target, y) -> np.ndarray:
    """The margins that solve `strength_i (m_i - y_i target_i) = sigma(-m_i)` (Eqs. 17 and 18), by bisection."""
    low = y * np.broadcast_to(target, y.shape)
    high, centre = low + 1 / strength, low
    for _ in range(200):
        middle = (low + high) / 2
        too_low = strength * (middle - centre) < expit(-middle)
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
    return (low + high) / 2


def central_differences(function, x: np.ndarray, step: float, *args: Any) -> np.ndarray:
    """The Jacobian of `function(x, *args)` at `x (d,)` to fourth order in `step`, one column per coordinate."""
    columns = []
    for direction in np.eye(len(x)):
        inner, outer = (
            np.asarray(function(x + h * direction, *args) - function(x - h * direction, *args)) / (2 * h)
            for h in (step, 2 * step)
        )
        columns.append((4 * inner - outer) / 3)
    return np.stack(columns, axis=-1)


def slope(x, y) -> float:
    """The exponent p of `y ~ x^p`, by least squares in logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


__all__ = [
    "ROUNDING",
    "SOLVED",
    "Instance",
    "Ridge",
    "SpectralDecoupling",
    "central_differences",
    "decoupled_margins",
    "equilibrium",
    "instance",
    "orthogonal",
    "primal_minimum",
    "ridge_field",
    "rotation",
    "slope",
    "softmax_minimum",
    "solve",
    "trust_region",
]
