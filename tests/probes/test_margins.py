"""Margins and attacks: exact for linear networks; balls, bounds and invariances for any network."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.probes import margins

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
W, B = np.array([1.0, -2.0, 0.5, 0.0]), 0.3
X = RNG.uniform(-1, 1, (12, 4))
Y = np.where(X @ W + B > 0, 1.0, -1.0) * np.where(np.arange(12) < 9, 1, -1)  # three labels are wrong
norms = pytest.mark.parametrize("norm", ["linf", "l2"])


def linear(x):
    return x @ jnp.asarray(W, x.dtype) + B


def two_outputs(x):
    """The same network with two logits; their difference is 500 times the single output, so that losses underflow."""
    f = 500 * linear(x)
    return jnp.stack([1 - f / 2, 1 + f / 2], axis=1)


IMAGES = np.random.default_rng(1).uniform(-1, 1, (20, 2, 2, 2)).astype(np.float32)
WEIGHTS = np.random.default_rng(2).normal(size=(3, 8, 16)), np.random.default_rng(3).normal(size=(3, 16, 3))


def network(x, weights=(WEIGHTS[0][0], WEIGHTS[1][0])):
    """A small network of three classes on images."""
    first, second = (jnp.asarray(weight, x.dtype) for weight in weights)
    return jnp.tanh(x.reshape(len(x), -1) @ first) @ second


LABELS = np.asarray(network(IMAGES)).argmax(axis=1)
LABELS[3] = (LABELS[3] + 1) % 3  # one wrong label


def sizes(delta, norm):
    flat = np.asarray(delta, float).reshape(len(delta), -1)
    return np.abs(flat).max(axis=1) if norm == "linf" else np.linalg.norm(flat, axis=1)


@norms
@pytest.mark.parametrize("logits_fn", [linear, two_outputs])
def test_margins_of_a_linear_network_are_exact(norm, logits_fn):
    """|w x + b| over the dual norm of w, 0 for misclassified inputs, and infinite beyond max_radius."""
    exact = np.abs(X @ W + B) / np.linalg.norm(W, 1 if norm == "linf" else 2) * (np.arange(12) < 9)
    reach = float(np.sort(exact)[-2:].mean())
    y = jnp.asarray(Y if logits_fn is linear else (Y > 0).astype(int))
    found = jax.jit(lambda x: margins.margins(logits_fn, x, y, max_radius=reach, norm=norm, steps=5))(X)
    within_reach = exact <= reach
    np.testing.assert_array_equal(found.flipped, within_reach)
    np.testing.assert_allclose(found.distance[within_reach], exact[within_reach], atol=1.1 * reach / 2**10)
    assert np.all(np.asarray(found.distance)[within_reach] >= exact[within_reach] - 1e-5)  # an upper bound
    assert np.isinf(found.distance[~within_reach]).all()
    np.testing.assert_array_equal(found.adversarial[9:], X[9:].astype(np.float32))
    np.testing.assert_array_equal(found.adversarial[~within_reach], X[~within_reach].astype(np.float32))
    assert not margins.correct(logits_fn(found.adversarial), y)[within_reach].any()


def test_margins_within_bounds_are_exact():
    """The least r with sum_i |w_i| min(r, room_i) >= |w x + b|; room_i is the distance to the bound."""
    right = slice(0, 9)
    f = X[right] @ W + B
    downhill = -np.sign(f)[:, None] * np.sign(W)
    room = np.where(downhill > 0, 1 - X[right], X[right] + 1)
    radii = np.linspace(0, 2, 20001)
    falls = (np.abs(W) * np.minimum(radii[:, None, None], room)).sum(axis=2)
    reached = falls >= np.abs(f)
    assert reached[-1].any()
    exact = np.where(reached[-1], radii[reached.argmax(axis=0)], np.inf)
    free = np.abs(f) / np.abs(W).sum()
    assert (exact > free + 0.01).any()  # the bounds matter

    find = functools.partial(margins.margins, linear, max_radius=2.0, steps=10, bisections=12, bounds=(-1, 1))
    found = jax.jit(find)(X[right], Y[right])
    np.testing.assert_allclose(found.distance, exact, atol=2e-3)
    assert np.abs(found.adversarial).max() <= 1


@norms
def test_adversarial_examples_flip_and_have_the_stated_distance(norm):
    @jax.jit
    def found_and_judged(x, y, directions):
        found = margins.margins(network, x, y, max_radius=2.0, norm=norm, bounds=(-1, 1))
        nearer = jax.vmap(
            lambda d: margins.correct(network(jnp.clip(x + d * found.distance[:, None, None, None], -1, 1)), y)
        )
        return found, margins.correct(network(found.adversarial), y), nearer(directions)

    directions = np.random.default_rng(0).normal(size=(100, *IMAGES.shape))
    directions *= 0.9 / sizes(directions.reshape(2000, -1), norm).reshape(100, 20, 1, 1, 1)
    found, right, nearer = jax.tree.map(np.asarray, found_and_judged(IMAGES, LABELS, directions.astype(np.float32)))
    wrong = np.arange(20) == 3
    np.testing.assert_array_equal(found.distance == 0, wrong)
    assert found.flipped.sum() > 15
    assert not right[found.flipped].any()
    np.testing.assert_allclose(
        sizes(found.adversarial - IMAGES, norm)[found.flipped], found.distance[found.flipped], atol=1e-6
    )
    assert np.abs(found.adversarial).max() <= 1
    assert nearer[:, found.flipped & ~wrong].all()  # random directions do not flip within 0.9 of the distance

    @jax.jit
    def in_reverse(x, y):
        return margins.margins(network, x, y, max_radius=2.0, norm=norm, bounds=(-1, 1))

    for one, other in zip(found, in_reverse(IMAGES[::-1], LABELS[::-1]), strict=True):
        np.testing.assert_allclose(one, other[::-1], atol=1e-5)


@norms
def test_attacks_from_a_random_start_stay_within_ball_and_bounds(norm):
    radius, x = np.array([0.3, 0.6], np.float32), np.minimum(IMAGES, 0.9)  # one radius per channel
    attack = {"radius": radius, "step_size": radius / 4, "steps": 8, "norm": norm}

    @jax.jit
    def start(key):
        return margins.pgd(network, x, LABELS, key=key, bounds=(-1.0, np.array([1.0, 0.9])), **attack)

    several = [np.asarray(start(key)) for key in jax.random.split(KEY)]
    for points in several:
        size = sizes((points - x) / radius, norm)
        assert size.max() <= 1 + 1e-5
        assert np.median(size) > 0.9  # the loss rises up to the boundary of the ball
        assert points.min() >= -1
        assert points[..., 0].max() <= 1
        assert points[..., 1].max() <= np.float32(0.9)
    assert not np.array_equal(several[0], several[1])


def test_a_random_start_is_uniform_in_the_ball():
    """With a constant loss only the start matters: its relative length has the distribution function r^d."""
    flat, x = jax.jit(lambda x, key, norm: margins.pgd(
        lambda x: 0 * x[:, 0], x, np.ones(len(x)), radius=2.0, step_size=1.0, steps=1, norm=norm, key=key
    ), static_argnums=2), np.zeros((4000, 3))  # fmt: skip
    for norm in ("linf", "l2"):
        lengths = np.sort(sizes(flat(x, KEY, norm), norm) / 2)
        np.testing.assert_allclose(lengths**3, np.arange(4000) / 4000, atol=1.95 / np.sqrt(4000))  # Kolmogorov, .1%


@norms
def test_accuracy_falls_with_the_radius(norm):
    radii = np.array([1e-6, 0.1, 0.3, 1.0, 3.0], np.float32)

    @jax.jit
    def attacked(radii):
        def one(radius):
            return margins.accuracy(network, IMAGES, LABELS, radius=radius, step_size=radius / 4, norm=norm)

        found = margins.margins(network, IMAGES, LABELS, max_radius=3.0, steps=8, bisections=8, norm=norm)
        return jax.lax.map(one, radii), found.distance

    found, distance = map(np.asarray, attacked(radii))
    assert found[0] == pytest.approx(19 / 20)
    assert found[-1] <= 0.1
    assert np.all(np.diff(found) <= 0)
    np.testing.assert_allclose(found[:4], [(distance > r).mean() for r in radii[:4]], atol=0.051)


def test_a_radius_in_pixels_is_exact_on_normalised_inputs():
    """An attack on pixels equals an attack on the normalised image with one radius per channel."""
    pixels, mean, std = (IMAGES + 1) / 2, np.array([0.5, 0.4], np.float32), np.array([0.2, 0.3], np.float32)
    radius, step, bounds = 5 / 255, 2 / 255, (-mean / std, (1 - mean) / std)

    @jax.jit
    def both(pixels):
        norm = (pixels - mean) / std
        normalised_attack = margins.pgd(network, norm, LABELS, radius=radius / std, step_size=step / std, bounds=bounds)
        pixel_attack = margins.pgd(
            lambda p: network((p - mean) / std), pixels, LABELS, radius=radius, step_size=step, bounds=(0, 1)
        )
        return normalised_attack * std + mean, pixel_attack

    normalised_attack, pixel_attack = both(np.clip(pixels, 0.01, 0.99))
    np.testing.assert_allclose(normalised_attack, pixel_attack, atol=1e-6)
    assert np.abs(normalised_attack - pixels).max() == pytest.approx(5 / 255, abs=0.011)


def test_many_networks_at_once():
    def one(weights):
        return margins.margins(lambda x: network(x, weights), IMAGES, LABELS, max_radius=2.0, steps=4, bisections=3)

    batched, looped = jax.jit(lambda w: (jax.vmap(one)(w), jax.lax.map(one, w)))(WEIGHTS)
    assert batched.distance.shape == (3, 20)
    np.testing.assert_allclose(batched.distance, looped.distance, atol=1e-5)


def test_dtype_is_that_of_the_input():
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            x = jnp.asarray(X, dtype)
            found = jax.eval_shape(lambda x: margins.margins(linear, x, Y, max_radius=1.0), x)
            assert found.distance.dtype == found.adversarial.dtype == dtype


def test_attacks_match_foolbox():
    """With the same start, number of steps and step size, attacks of foolbox end at the same points."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # foolbox imports deprecated names of SciPy
        foolbox = pytest.importorskip("foolbox")
    model = foolbox.JAXModel(network, bounds=(-1, 1))
    linf, l2 = foolbox.attacks.LinfPGD, foolbox.attacks.L2PGD
    for norm, radius, attack in (("linf", 0.1, linf), ("linf", 0.3, linf), ("l2", 0.3, l2)):
        options: dict[str, Any] = {"radius": radius, "step_size": radius / 10, "steps": 20, "norm": norm}
        theirs = attack(abs_stepsize=radius / 10, steps=20, random_start=False)
        _, points, success = theirs(model, jnp.asarray(IMAGES), jnp.asarray(LABELS), epsilons=[radius])
        ours = jax.jit(functools.partial(margins.pgd, network, bounds=(-1, 1), **options))(IMAGES, LABELS)
        np.testing.assert_array_equal(~margins.correct(network(ours), jnp.asarray(LABELS)), success[0])
        np.testing.assert_allclose(ours, points[0], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"radius": 0.0}, "radius"),
        ({"step_size": -1.0}, "step_size"),
        ({"steps": 0}, "steps"),
        ({"norm": "l1"}, "norm"),
        ({"bounds": (-0.5, 0.5)}, "bounds"),
        ({"x": X[:0]}, "x"),
        ({"x": X.copy() * np.nan}, "x"),
        ({"y": Y + 1}, "y"),
        ({"y": Y[:3]}, "y"),
        ({"logits_fn": two_outputs}, "y"),
        ({"logits_fn": two_outputs, "y": np.full(12, 2)}, "y"),
        ({"logits_fn": lambda x: x[:, :, None]}, "logits_fn"),
        ({"logits_fn": lambda x: x[:, :1]}, "logits_fn"),
    ],
)
def test_bad_attacks(change, complaint):
    arguments = {"logits_fn": linear, "x": X, "y": Y, "radius": 0.1, "step_size": 0.1, **change}
    with pytest.raises(ValueError, match=rf"^{complaint}: expected"):
        margins.pgd(**arguments)


@pytest.mark.parametrize(
    ("change", "complaint"), [({"max_radius": 0.0}, "max_radius"), ({"max_radius": np.ones(2)}, "max_radius"),
                              ({"steps": 0}, "steps"), ({"bisections": -1}, "bisections")]
)  # fmt: skip
def test_bad_margins(change, complaint):
    with pytest.raises(ValueError, match=rf"^{complaint}: expected"):
        margins.margins(linear, X, Y, **{"max_radius": 1.0, **change})
