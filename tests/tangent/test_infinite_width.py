"""The kernel of infinite width against quadrature, hand formulas and wide networks; its singular points.

Convolutional networks, and whatever else goes through neural-tangents, in test_neural_tangents.py.
"""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's.

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
from jax.test_util import check_grads

from gsjax import networks
from gsjax.networks import CNN, MLP
from gsjax.tangent import infinite_ntk, ntk
from tests.tangent import digits50

ACTIVATIONS = ("erf", "linear", "relu", "tanh")
compiled = jax.jit(infinite_ntk, static_argnums=0)
activations = pytest.mark.parametrize("activation", ACTIVATIONS)
# Most of the time goes into programs. Of what is the same code, or the same in both precisions, one is quick.
single_first = pytest.mark.parametrize(
    "x64", [pytest.param(False, id="x32"), pytest.param(True, id="x64", marks=pytest.mark.slow)], indirect=True
)


def slow_but(*quick):
    """All activations, those that are not `quick` in `make slow` alone."""
    slow = [pytest.param(name, marks=pytest.mark.slow) for name in ACTIVATIONS if name not in quick]
    return pytest.mark.parametrize("activation", [*quick, *slow])


def points(n=6, d=4, seed=0):
    """Directions at random, lengths over two orders of magnitude."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(n, d)) * 10 ** rng.uniform(-1, 1, size=(n, 1)))


def moments(activation, q1, q2, cov):
    """E[xi(u) xi(v)] and E[xi'(u) xi'(v)] by quadrature that knows nothing of closed forms."""
    if activation == "linear":
        return cov, 1.0
    if activation == "relu":  # homogeneous: an integral over the angle of a standard Gaussian, E r^2 = 2
        angle = math.acos(cov / math.sqrt(q1 * q2))
        lower, upper = angle - math.pi / 2, math.pi / 2

        def product(phi):
            return math.cos(phi) * math.cos(phi - angle) / math.pi

        xi = math.sqrt(q1 * q2) * scipy.integrate.quad(product, lower, upper, epsabs=1e-13)[0]
        return xi, (upper - lower) / (2 * math.pi)
    # A plain two-dimensional grid: the trapezoid rule of an analytic integrand with Gaussian tails.
    g = np.arange(-180, 181) / 20
    density = np.exp(-(g[:, None] ** 2 + g**2) / 2) / np.exp(-(g**2) / 2).sum() ** 2
    u = np.broadcast_to(math.sqrt(q1) * g[:, None], density.shape)
    v = cov / q1 * u + math.sqrt(q2 - cov**2 / q1) * g
    if activation == "tanh":
        return (density * np.tanh(u) * np.tanh(v)).sum(), (density / np.cosh(u) ** 2 / np.cosh(v) ** 2).sum()
    xi = (density * scipy.special.erf(u) * scipy.special.erf(v)).sum()
    return xi, (density * np.exp(-(u**2) - v**2)).sum() * 4 / math.pi


def by_quadrature(network, x, y):
    """Theta^(L) of a pair, by the recursion with quadrature."""
    factor = networks.gamma(network.activation)
    q1, q2, cov = (float(a @ b) / len(a) for a, b in ((x, x), (y, y), (x, y)))
    theta = cov
    for _ in network.widths:
        kappa, kappa_dot = moments(network.activation, q1, q2, cov)
        # The variances are one-dimensional: xi(g sqrt(q))^2 on a fine grid.
        g = np.arange(-4000, 4001) / 320
        density = np.exp(-(g**2) / 2)
        xi = {"relu": lambda f: np.maximum(f, 0), "erf": scipy.special.erf, "tanh": np.tanh, "linear": lambda f: f}
        q1, q2 = (
            factor * float(density @ xi[network.activation](math.sqrt(q) * g) ** 2 / density.sum()) for q in (q1, q2)
        )
        cov = factor * kappa
        theta = cov + factor * kappa_dot * theta
    return theta


@slow_but("relu", "tanh")
@pytest.mark.parametrize("depth", [*(pytest.param(depth, marks=pytest.mark.slow) for depth in (0, 1)), 3])
def test_against_quadrature(activation, depth):
    network = MLP((8,) * depth, 1, activation)
    with jax.enable_x64(True):
        x, y = points() / 3, points(5, seed=1) / 3
        expected = [[by_quadrature(network, np.asarray(a), np.asarray(b)) for b in y] for a in x]
        np.testing.assert_allclose(compiled(network, x, y), expected, rtol=1e-9, atol=1e-12)


@single_first
def test_linear_network_by_hand(x64):
    x = jnp.asarray(points(), float)
    kernel = infinite_ntk(MLP((3, 3, 3), 1, "linear"), x)
    assert kernel.dtype == x64
    np.testing.assert_allclose(kernel, (3 + 1) * np.asarray(x) @ np.asarray(x).T / 4, rtol=1e-5, atol=1e-5)


@slow_but()
def test_wide_networks_tend_to_it(activation):
    """The mean over 300 seeds of the empirical kernel at width 128: each entry within 4.5 standard errors."""
    network = MLP((128, 128), 1, activation)
    x = jax.random.normal(jax.random.key(0), (4, 3))

    @jax.jit
    def kernels(keys):
        return jax.lax.map(lambda key: ntk(network.apply, network.init(key, x), x), keys)

    samples = np.asarray(kernels(jax.random.split(jax.random.key(1), 300)), float)
    error = samples.std(axis=0, ddof=1) / math.sqrt(len(samples))
    theory = np.asarray(compiled(network, x))
    assert (np.abs(samples.mean(axis=0) - theory) < 4.5 * error).all()
    # The gate is a gate: a layer more would not pass it.
    deeper = np.asarray(compiled(MLP((128,) * 3, 1, activation), x))
    assert (np.abs(samples.mean(axis=0) - deeper) > 4.5 * error).any()


@slow_but("relu")
def test_symmetric_to_the_last_bit_and_positive_definite(activation):
    x = points(40, 5)
    kernel = np.asarray(compiled(MLP((2, 2), 1, activation), x))
    np.testing.assert_array_equal(kernel, kernel.T)
    with jax.enable_x64(True):
        eigenvalues = np.linalg.eigvalsh(compiled(MLP((2, 2), 1, activation), points(40, 5)))
    if activation == "linear":  # of rank 5
        assert abs(eigenvalues[:-5]).max() < 1e-12 * eigenvalues[-1]
    else:
        assert eigenvalues[0] > 0


@single_first
@pytest.mark.parametrize(
    ("d", "scale"), [pytest.param(2, 1e-12, marks=pytest.mark.slow), (784, 1e-12), (784, 1.0), (784, 1e6)]
)
def test_relu_is_exact_at_equal_opposite_and_zero_points(x64, d, scale):
    """With L = 3: opposite points are orthogonal after one layer, at the angle arccos(1/pi) after two."""
    x = scale * jax.random.normal(jax.random.key(0), (5, d), float)
    y = jnp.concatenate([-x, x[::-1], 3 * x, jnp.zeros_like(x)])
    q = np.asarray((x**2).sum(axis=1)) / d
    kernel = np.asarray(compiled(MLP((4, 4, 4)), x, y))
    rtol = 100 * float(jnp.finfo(x64).eps)
    angle = math.acos(1 / math.pi)
    opposite = (math.sin(angle) + 2 * (math.pi - angle) / math.pi) / math.pi
    np.testing.assert_allclose(np.diag(kernel[:, :5]), opposite * q, rtol=rtol)
    np.testing.assert_allclose(np.diag(kernel[:, 5:10][:, ::-1]), 4 * q, rtol=rtol)
    np.testing.assert_allclose(np.diag(kernel[:, 10:15]), 12 * q, rtol=rtol)
    np.testing.assert_array_equal(kernel[:, 15:], 0)


@single_first
@slow_but("erf")
def test_gradient_is_finite_at_singular_points(x64, activation):
    network = MLP((2, 2), 1, activation)
    x = jnp.array([[1.0, 2.0], [1.0, 2.0], [-1.0, -2.0], [0.0, 0.0], [1.0, 2.5]], float)
    jacobian = jax.jit(jax.jacobian(lambda x: infinite_ntk(network, x)))(x)
    assert np.isfinite(jacobian).all()
    mixed = jax.jit(jax.jacobian(lambda x1: infinite_ntk(network, x1, x)))(x)
    assert np.isfinite(mixed).all()


@single_first
def test_gradient_of_the_diagonal_of_relu(x64):
    """Theta(x, x) = (L + 1) |x|^2 / d_0, so its gradient is 2 (L + 1) x / d_0."""
    x = jax.random.normal(jax.random.key(0), (4, 3), float)
    gradient = jax.jit(jax.grad(lambda x: jnp.trace(infinite_ntk(MLP((2, 2)), x))))(x)
    np.testing.assert_allclose(gradient, 2 * 3 * x / 3, rtol=1e-5)


@slow_but()
def test_gradient_against_finite_differences(activation):
    network = MLP((2, 2), 1, activation)
    with jax.enable_x64(True):
        x, y = points(3), points(3, seed=1)
        check_grads(jax.jit(lambda x: infinite_ntk(network, x, y)), (x,), 1, ("fwd", "rev"), 1e-6, 1e-6)


@pytest.mark.slow
def test_relu_is_homogeneous_and_rotation_invariant():
    with jax.enable_x64(True):
        x = points()
        rotation = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (4, 4)))[0]
        kernel = compiled(MLP((2, 2)), x)
        np.testing.assert_allclose(compiled(MLP((2, 2)), 5 * x @ rotation), 25 * kernel, rtol=1e-7)


@single_first
def test_outputs_are_independent(x64):
    x = points()
    single, several = compiled(MLP((4, 4)), x), compiled(MLP((4, 4), 3), x)
    assert several.shape == (6, 6, 3, 3)
    np.testing.assert_array_equal(several, np.asarray(single)[..., None, None] * np.eye(3))


def test_images_are_flattened_and_jit_agrees():
    network = MLP((4,), 1, "linear")
    x = jax.random.normal(jax.random.key(0), (5, 4, 4, 1))
    flat = infinite_ntk(network, x.reshape(5, 16), x[:2].reshape(2, 16))
    np.testing.assert_array_equal(infinite_ntk(network, x, x[:2]), flat)
    np.testing.assert_allclose(compiled(network, x, x[:2]), flat, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("q", [1e-4, 1.0, 30.0])
def test_tanh_has_its_variance_and_slope_at_equal_points(q):
    """With one hidden layer: Theta(x, x) = gamma (E[tanh(g sqrt(q))^2] + q E[tanh'(g sqrt(q))^2]), at all scales."""
    g = np.arange(-40000, 40001) / 4000
    density = np.exp(-(g**2) / 2) / np.exp(-(g**2) / 2).sum()
    u = math.sqrt(q) * g
    expected = networks.gamma("tanh") * (density @ np.tanh(u) ** 2 + q * (density @ np.cosh(u) ** -4.0))
    with jax.enable_x64(True):
        x = jnp.full((1, 3), math.sqrt(q))
        kernel = compiled(MLP((4,), 1, "tanh"), jnp.concatenate([x, -x]))
        np.testing.assert_allclose(kernel, expected * np.array([[1, -1], [-1, 1]]), rtol=1e-12)


def close_points(x64, scale, d=6):
    """A point, and what is equal, opposite, parallel, orthogonal, nearly equal and nearly opposite to it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=d)
    x[: d // 2] = 0
    noise = rng.normal(size=(3, d)) * np.array([[1e-6], [1e-3], [1e-4]])
    y = [
        x,
        -x,
        3.7 * x,
        np.roll(x, d // 2),
        *(np.array([[1], [1], [-1]]) * x + noise),
        1.000001 * x,
        rng.normal(size=d),
    ]
    x, y = (np.asarray(scale * np.asarray(points), x64) for points in ([x], y))
    return x, y


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 255.0, 1e4, 1e6, 1e9, 1e12])
@pytest.mark.parametrize(
    ("activation", "depth", "accuracy"),
    [
        pytest.param("erf", 1, 20, marks=pytest.mark.slow),
        ("erf", 4, 20),
        pytest.param("relu", 1, 10, marks=pytest.mark.slow),
        ("relu", 3, 10),
    ],
)
def test_every_entry_to_rounding_at_every_scale(x64, activation, depth, accuracy, scale):
    x, y = close_points(x64, scale)
    found = np.asarray(compiled(MLP((2,) * depth, 1, activation), x, y), float)[0]
    expected = np.array([float(digits50.theta(activation, depth, x[0], point)) for point in y])
    np.testing.assert_allclose(found, expected, rtol=accuracy * float(jnp.finfo(x64).eps), atol=1e-20 * scale**2)


@single_first
@pytest.mark.parametrize(
    ("scale", "rows"),
    [(255.0, [4]), *(pytest.param(s, [0, 4, 7], marks=pytest.mark.slow) for s in (1e-3, 255.0, 1e12))],
)
def test_every_entry_of_tanh_at_every_scale(x64, scale, rows):
    x, y = close_points(x64, scale)
    found = np.asarray(compiled(MLP((2,), 1, "tanh"), x, y[rows]), float)[0]
    expected = [float(digits50.theta("tanh", 1, x[0], y[row])) for row in rows]
    np.testing.assert_allclose(found, expected, rtol=max(3e-14, 20 * float(jnp.finfo(x64).eps)))


def test_what_the_precision_does_not_hold_is_refused_or_nan():
    network, x = MLP((2,)), np.ones((2, 3), np.float32)
    for scale in (1e-20, 1e-17, 1e19, 1e30):
        bad = x * np.array([[1], [scale]], np.float32)
        with pytest.raises(ValueError, match=r"^x2: expected examples of a root mean square from .*, or zero, .* got "):
            infinite_ntk(network, x, bad)
        kernel = np.asarray(compiled(network, x, bad))
        assert np.isnan(kernel[:, 1]).all()
        np.testing.assert_allclose(kernel[:, 0], 2, rtol=1e-6)
    with pytest.raises(ValueError, match=r"^x1: expected real numbers"):
        infinite_ntk(network, x + 1j)
    assert compiled(network, x.astype(np.float16)).dtype == np.float32


@pytest.mark.parametrize("scale", [1.0, 255.0, 1e6])
@pytest.mark.parametrize("activation", ["erf", pytest.param("relu", marks=pytest.mark.slow)])
def test_convolutions_of_large_and_of_close_images(activation, scale):
    """Float32 against float64, on images nearly equal, of constant patches, and with zeros."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(1, 5, 4, 2))
    x = np.concatenate([x, x + 1e-3 * rng.normal(size=x.shape), np.zeros_like(x), rng.uniform(size=x.shape)])
    x[3, :3] = 0.5
    x = (scale * x).astype(np.float32)
    network = CNN((4, 4), 1, activation, strides=(1, 2))
    found = np.asarray(compiled(network, x), float)
    with jax.enable_x64(True):
        expected = np.asarray(compiled(network, x.astype(float)))
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_bad_input_is_named():
    x = jnp.ones((3, 2))
    expected = r"^network: .*MLP or CNN, or a kernel_fn of neural-tangents, got "
    with pytest.raises(ValueError, match=expected + "Dense"):
        infinite_ntk(nn.Dense(1), x)
    with pytest.raises(ValueError, match=expected + "tuple"):
        infinite_ntk((abs, abs, abs), x)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"^x1: .*4 axes, got shape \(3, 2\)"):
        infinite_ntk(CNN((4,)), x)
    with pytest.raises(ValueError, match=r"^x1: .*non-empty"):
        infinite_ntk(MLP((4,)), x[:0])
    with pytest.raises(ValueError, match=r"^x1: .*non-empty"):
        infinite_ntk(MLP((4,)), x[0])
    with pytest.raises(ValueError, match=r"^x2: .*NaN"):
        infinite_ntk(MLP((4,)), x, x * jnp.nan)
    with pytest.raises(ValueError, match=r"^x2: .*\(2,\), got shape \(3, 1\)"):
        infinite_ntk(MLP((4,)), x, x[:, :1])
