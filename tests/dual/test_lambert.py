"""Lambert's W and Wright's omega against SciPy and mpmath, their derivatives against closed forms."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.special

from gsjax.dual import closed_form
from gsjax.dual.lambert import lambertw, wright_omega

lambert = jax.jit(lambertw)  # one program instead of one per operation
omega = jax.jit(wright_omega)

ACCURACY = {dtype: 4 * float(jnp.finfo(dtype).eps) for dtype in (jnp.float32, jnp.float64)}


def exact(function, points) -> np.ndarray:
    """`function` at the points, computed with 40 digits and rounded to floats."""
    with mpmath.workdps(40):
        return np.array([float(function(mpmath.mpf(float(x)))) for x in points])


def normal(x64, low, high, n=181) -> np.ndarray:
    """Points from `low` to `high` that are normal numbers."""
    info = jnp.finfo(x64)
    points = np.geomspace(max(low, 1.01 * float(info.tiny)), min(high, 0.99 * float(info.max)), n)
    return np.asarray(jnp.asarray(points))


@pytest.mark.parametrize(("low", "high"), [(1e-305, 1e-30), (1e-30, 1e-6), (1e-6, 1), (1, 10), (10, 1e300)])
def test_lambertw_of_positive_arguments(x64, low, high):
    x = normal(x64, low, high)
    np.testing.assert_allclose(lambert(x), exact(mpmath.lambertw, x), rtol=ACCURACY[x64])


@pytest.mark.parametrize(("low", "high"), [(1e-305, 1e-30), (1e-30, 1e-6), (1e-6, 0.3), (0.3, 0.3678)])
def test_lambertw_of_negative_arguments(x64, low, high):
    x = -normal(x64, low, high)
    np.testing.assert_allclose(lambert(x), exact(mpmath.lambertw, x), rtol=ACCURACY[x64])


def test_lambertw_at_the_branch_point(x64):
    """W is about -1 + sqrt(2 (e x + 1)) there, and e x + 1 has all digits of x."""
    x = [np.asarray(-1 / math.e, x64)]
    while x[-1] * -math.e > 0.99:
        step = np.nextafter(x[-1], x64(0)) if len(x) < 20 else x[-1] + (x[-1] - x[0])
        x.append(np.asarray(step, x64))
    x = np.stack(x)
    with mpmath.workdps(40):
        x = x[[mpmath.mpf(float(value)) >= -mpmath.exp(-1) for value in x]]
    assert len(x) > 30
    np.testing.assert_allclose(lambert(x), exact(mpmath.lambertw, x), rtol=ACCURACY[x64])
    # Left of -1/e by rounding, W is -1.
    np.testing.assert_allclose(lambert(np.nextafter(np.asarray(-1 / math.e, x64), x64(-1))), -1, rtol=ACCURACY[x64])


def test_lambertw_of_zero_and_outside_its_domain(x64):
    assert float(lambertw(jnp.zeros(()))) == 0
    assert float(jax.grad(lambertw)(jnp.zeros(()))) == 1
    assert np.isnan(lambert(-0.4))
    for x in (-0.4, np.nan, np.array([1.0, -1.0])):
        with pytest.raises(ValueError, match=r"^x: expected .+, got "):
            lambertw(jnp.asarray(x))


def test_derivatives_of_lambertw():
    with jax.enable_x64(True):
        x = jnp.concatenate([-jnp.geomspace(0.35, 1e-8, 30), jnp.geomspace(1e-8, 1e12, 60)])
        w = scipy.special.lambertw(x).real
        first = jax.jit(jax.vmap(jax.grad(lambertw)))(x)
        np.testing.assert_allclose(first, np.exp(-w) / (1 + w), rtol=1e-12)
        second = jax.jit(jax.vmap(jax.grad(jax.grad(lambertw))))(x)
        np.testing.assert_allclose(second, -np.exp(-2 * w) * (2 + w) / (1 + w) ** 3, rtol=1e-11)
        np.testing.assert_allclose(jax.jit(jax.vmap(jax.jacfwd(lambertw)))(x), first, rtol=1e-14)


def test_batched_compiled_and_looped_agree(x64):
    x = jnp.geomspace(0.1, 1e3, 6).reshape(2, 3)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.vmap(lambertw)))(x), lambertw(x), rtol=ACCURACY[x64])
    assert lambertw(x).dtype == x64
    assert lambertw(jnp.asarray(2)).dtype == x64  # whole numbers are read as floats
    np.testing.assert_allclose(lambertw(jnp.asarray(2)), 0.8526055020137255, rtol=ACCURACY[x64])
    assert closed_form.lambertw is lambertw


def test_wright_omega_over_the_whole_range_of_margins(x64):
    lowest = math.log(float(jnp.finfo(x64).tiny)) + 1  # below it omega is not a normal number
    x = np.asarray(jnp.asarray(np.linspace(max(lowest, -800), 800, 401)))
    expected = exact(lambda v: mpmath.lambertw(mpmath.exp(v)), x)
    np.testing.assert_allclose(omega(x), expected, rtol=ACCURACY[x64])
    np.testing.assert_array_equal(omega(jnp.array([-800.0, -1e30])), 0)
    assert float(omega(jnp.asarray(1e15))) == pytest.approx(1e15)


def test_wright_omega_against_forty_digits():
    with jax.enable_x64(True):
        x = np.concatenate([np.linspace(-40, 40, 81), [-37.0, -36.0, 0.0, 1.0, 1 + 1e-12]])
        reference = exact(lambda x: mpmath.lambertw(mpmath.exp(x)), x)
        np.testing.assert_allclose(omega(x), reference, rtol=4e-15)


def test_derivatives_of_wright_omega():
    with jax.enable_x64(True):
        x = jnp.linspace(-800, 800, 161)
        w = scipy.special.wrightomega(x)
        first = jax.jit(jax.vmap(jax.grad(wright_omega)))(x)
        np.testing.assert_allclose(first, w / (1 + w), rtol=1e-13, atol=1e-300)
        second = jax.jit(jax.vmap(jax.grad(jax.grad(wright_omega))))(x)
        np.testing.assert_allclose(second, w / (1 + w) ** 3, rtol=1e-12, atol=1e-300)
