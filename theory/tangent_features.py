"""The network and its tangent features: Eqs. 3 and 4, and the limit of infinite width."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax.flatten_util import ravel_pytree

from gsjax import data, networks, plotting, tangent
from gsjax.statistics import loglog_slope
from theory import instances
from theory.claim import Claim, Control, Observation


def linearisation(base: int = 0) -> Observation:
    """Slope, in the size of the step, of the remainder of Eq. 3; `base` seeds the parameters that Phi belongs to."""
    network = networks.MLP((64, 64), activation="erf")
    sizes = np.geomspace(1e-3, 1e-1, 5)
    x, _ = data.digits((3, 8), n=50)
    theta, unravel = ravel_pytree(network.init(jax.random.key(0), x))
    phi = tangent.ntrf(network.apply, network.init(jax.random.key(base), x), x)

    @jax.jit
    @jax.vmap
    def errors(key):
        direction = jax.random.normal(key, theta.shape)

        def error(size):
            step = size * direction
            moved, given = (jnp.asarray(network.apply(unravel(point), x)) for point in (theta + step, theta))
            return jnp.linalg.norm(moved - given - phi @ step)

        return jax.lax.map(error, jnp.asarray(sizes))

    remainders = errors(jax.random.split(jax.random.key(1), 6))
    slope = loglog_slope(sizes, remainders)
    return Observation.slope(2.0, slope, 0.1, details={"step sizes": sizes.tolist(), "directions": 6})


def responses(labels: str = "as given") -> Observation:
    """U^T Y Phi theta against S V^T theta for random theta."""

    def error(name):
        phi, y = instances.phi(name)
        feats = instances.feats(name)
        assert feats.vt is not None
        theta = jax.random.normal(jax.random.key(2), (8, phi.shape[1]))
        seen = feats if labels == "as given" else feats._replace(y=jnp.ones_like(y))
        by_outputs = seen.response(theta @ phi.T)
        by_parameters = (theta @ feats.vt.T) * feats.s
        return jnp.max(jnp.abs(by_outputs - by_parameters)) / jnp.max(jnp.abs(by_parameters))

    errors = {name: float(error(name)) for name in ("random", "moons", "digits")}
    return Observation.equal(0.0, list(errors.values()), 1e-12, details=instances.table(errors))


WIDTHS = (64, 128, 256, 512)


@functools.cache
def _kernels(width: int, seeds: int):
    x, _ = data.digits((3, 8), n=20)
    network = networks.MLP((width, width))

    def kernel(key):
        return tangent.ntk(network.apply, network.init(key, x), x)

    return jax.jit(lambda keys: jax.lax.map(kernel, keys))(jax.random.split(jax.random.key(3), seeds))


def infinite_width(depth: int = 2, seeds: int = 24) -> Observation:
    """Slope, in the width, of the distance of the empirical kernel of two layers from the limit of `depth` ones."""
    x, _ = data.digits((3, 8), n=20)
    limit = tangent.infinite_ntk(networks.MLP((1,) * depth), x)
    distances = [jnp.linalg.norm(_kernels(width, seeds) - limit, axis=(1, 2)) for width in WIDTHS]
    errors = np.stack(distances, axis=1) / jnp.linalg.norm(limit)
    slope = loglog_slope(WIDTHS, errors)

    def draw():
        figure, axes = plotting.panels()
        label = r"$\|K - K_\infty\| / \|K_\infty\|$"
        plotting.error_against_width(WIDTHS, errors, slope, reference=-0.5, ax=axes[0, 0], label=label)
        return figure

    return Observation.slope(-0.5, slope, 0.15, details={"widths": WIDTHS, "seeds": seeds}, figure=draw)


def norms(scale: float = 1.0, seeds: int = 16) -> Observation:
    """The mean of `|h^(3)|^2 / |h^(0)|^2` over seeds, for inputs of norm `scale`; and gamma by SciPy's quadrature.

    The norm of h^(3) is estimated from 500 outputs, which are W h^(3) with rows of W ~ N(0, 1). The 95% interval of
    each mean has to lie within 0.1 of 1. In addition, E[xi(g)^2] = 1 / gamma has to hold to 1e-8.
    """
    x = jax.random.normal(jax.random.key(5), (8, 10))
    x = scale * jnp.sqrt(10.0) * x / jnp.linalg.norm(x, axis=1, keepdims=True)
    density, rows, exact = scipy.stats.norm.pdf, [], []
    functions = {"relu": lambda g: max(g, 0.0), "erf": scipy.special.erf, "tanh": np.tanh, "linear": lambda g: g}
    for activation, xi in functions.items():
        network = networks.MLP((512, 512, 512), outputs=500, activation=activation)

        def ratio(key, network=network):
            return jnp.mean(jnp.asarray(network.apply(network.init(key, x), x)) ** 2) / scale**2

        found = np.asarray(jax.jit(lambda keys, ratio=ratio: jax.lax.map(ratio, keys))(_keys(seeds)))
        mean, half = float(found.mean()), float(scipy.stats.t.ppf(0.975, seeds - 1) * scipy.stats.sem(found))
        second = 2 * scipy.integrate.quad(lambda g, xi=xi: density(g) * (xi(g) ** 2 + xi(-g) ** 2) / 2, 0, 40)[0]
        exact.append(abs(networks.gamma(activation) * second - 1))
        rows.append({"activation": activation, "mean": mean, "low": mean - half, "high": mean + half})
    worst = max(max(abs(row["low"] - 1), abs(row["high"] - 1)) for row in rows)
    details = {"networks": rows, "seeds": seeds, "gamma E[xi(g)^2] - 1": exact}
    seen = Observation.below(0.1, worst, details=details)
    return seen._replace(holds=seen.holds and max(exact) < 1e-8)


def _keys(seeds: int):
    return jax.random.split(jax.random.key(6), seeds)


CLAIMS = (
    Claim(
        name="eq1-norm",
        reference="Eq. 1",
        statement="gamma preserves the norm: on average over W (width 512), |h^(3)|^2 is that of the input, 1; "
        "gamma = 1 / E[xi(g)^2].",
        check=norms,
        control=Control(
            "longer-inputs",
            "inputs of norm 3: only homogeneous activations preserve norms other than 1",
            {"scale": 3.0},
        ),
    ),
    Claim(
        name="eq3-linearisation",
        reference="Eq. 3",
        statement="yhat = Phi_0 theta to first order: its difference from f(theta_0 + theta) - f(theta_0) grows like "
        "the square of theta (erf network on real digits).",
        check=linearisation,
        control=Control(
            "phi-elsewhere", "Phi at parameters other than theta_0: the error is of first order", {"base": 1}
        ),
    ),
    Claim(
        name="eq4-responses",
        reference="Eq. 4, Definition 1",
        statement="U^T Y yhat = S V^T theta for yhat = Phi_0 theta.",
        check=responses,
        control=Control("labels-forgotten", "responses without Y", {"labels": "forgotten"}),
    ),
    Claim(
        name="infinite-width",
        reference="Jacot et al. 2018, Theorem 1; Eq. 1",
        statement="The empirical kernel approaches the analytic one like width^(-1/2) "
        "(two hidden ReLU layers, digits).",
        check=infinite_width,
        control=Control("another-depth", "the limit of one hidden layer", {"depth": 1}),
    ),
)
