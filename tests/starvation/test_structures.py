"""Bases and spectra in higher dimension: orthogonal, with the stated structure, and otherwise uniform."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from gsjax.starvation import structures

N, DRAWS = 6, 2000


@functools.cache
def drawn() -> dict[str, np.ndarray]:
    """Many bases of every kind, each of shape (DRAWS, N, N); one program for all of them."""

    def build(key):
        return {
            "random": structures.random_orthogonal(key, N),
            "near": structures.near_identity(key, N, 0.001),
            "positive": structures.near_identity(key, N, 0.001, signs="positive"),
            "aligned": structures.aligned(key, N, 0.8),
            "exceptions": structures.exceptions(key, N, 2),
            "blocks": structures.blocks(key, N, 3),
        }

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), DRAWS)
        # In a loop: batched decompositions at the same time may wait for each other's threads.
        return jax.tree.map(np.asarray, jax.jit(lambda keys: jax.lax.map(build, keys))(keys))


def test_bases_are_orthogonal_to_rounding():
    for u in drawn().values():
        np.testing.assert_allclose(np.swapaxes(u, 1, 2) @ u, np.broadcast_to(np.eye(N), u.shape), atol=1e-13)


def test_the_first_column_has_its_structure():
    aligned, exceptions = (drawn()[name][:, :, 0] for name in ("aligned", "exceptions"))
    np.testing.assert_allclose(aligned.sum(axis=1) / N**0.5, 0.8, rtol=1e-12)
    # The rest is uniform in the complement of the labels.
    rest = aligned - 0.8 / N**0.5
    np.testing.assert_allclose(rest.T @ rest / DRAWS, 0.36 / (N - 1) * (np.eye(N) - 1 / N), atol=0.01)
    np.testing.assert_allclose(exceptions, np.tile([-1, -1, 1, 1, 1, 1], (DRAWS, 1)) / N**0.5, rtol=1e-12)


@pytest.mark.parametrize("name", ["aligned", "exceptions"])
def test_the_other_columns_are_uniform_in_the_complement_of_the_first(name):
    u = drawn()[name]
    # A uniform direction v in d dimensions has E[v] = 0 and E[v v^T] = 1 / d.
    outer = np.einsum("kij,klj->jil", u[:, :, 1:], u[:, :, 1:]) / DRAWS
    complement = np.eye(N) - np.einsum("ki,kl->il", u[:, :, 0], u[:, :, 0]) / DRAWS
    np.testing.assert_allclose(outer, np.broadcast_to(complement / (N - 1), outer.shape), atol=0.03)
    np.testing.assert_allclose(u[:, :, 1:].mean(axis=0), 0, atol=0.04)


def test_a_random_basis_is_uniform():
    u = drawn()["random"]
    np.testing.assert_allclose((u**4).mean(axis=0), 3 / (N * (N + 2)), atol=0.012)
    np.testing.assert_allclose(u.mean(axis=0), 0, atol=0.04)


def test_a_perturbed_identity_has_the_size_of_its_perturbation():
    perturbed, positive = drawn()["near"], drawn()["positive"]
    off_diagonal, lower = ~np.eye(N, dtype=bool), np.tril(np.ones((N, N), bool), -1)
    np.testing.assert_allclose(perturbed[:, off_diagonal].std(), 0.001, rtol=0.02)
    np.testing.assert_allclose(perturbed, np.broadcast_to(np.eye(N), perturbed.shape), atol=0.01)
    assert 0.48 < np.mean(perturbed[:, lower] > 0) < 0.52
    assert np.mean(positive[:, lower] > 0) > 0.99
    np.testing.assert_allclose(np.abs(positive), np.abs(perturbed), atol=1e-4)


def test_blocks_share_no_example():
    u = drawn()["blocks"]
    assert not u[:, :3, 3:].any()
    assert not u[:, 3:, :3].any()
    np.testing.assert_allclose((u[:, :3, :3] ** 4).mean(axis=0), 3 / 15, atol=0.02)
    assert abs(np.mean(u[:, 0, 0] * u[:, 3, 3])) < 0.03  # drawn independently


def test_strengths_of_a_power_law():
    with jax.enable_x64(True):
        s2 = structures.power_law(8, 1.5)
        np.testing.assert_allclose(np.diff(np.log(s2)) / np.diff(np.log(np.arange(1, 9))), -1.5, rtol=1e-12)
        np.testing.assert_allclose(np.mean(s2), 1, rtol=1e-14)
        np.testing.assert_array_equal(structures.power_law(8, 0.0), 1)


@pytest.mark.parametrize(
    ("argument", "build"),
    [
        ("n", lambda key: structures.random_orthogonal(key, 0)),
        ("n", lambda key: structures.aligned(key, 1, 0.5)),
        ("n", lambda key: structures.power_law(0, 1.0)),
        ("size", lambda key: structures.near_identity(key, 3, -0.1)),
        ("size", lambda key: structures.near_identity(key, 3, np.nan)),
        ("signs", lambda key: structures.near_identity(key, 3, 0.1, signs="negative")),  # pyright: ignore[reportArgumentType]
        ("overlap", lambda key: structures.aligned(key, 3, 1.0)),
        ("overlap", lambda key: structures.aligned(key, 3, -0.1)),
        ("count", lambda key: structures.exceptions(key, 3, 0)),
        ("count", lambda key: structures.exceptions(key, 3, 3)),
        ("block", lambda key: structures.blocks(key, 6, 4)),
        ("block", lambda key: structures.blocks(key, 6, 0)),
        ("decay", lambda key: structures.power_law(3, -1.0)),
        ("decay", lambda key: structures.power_law(3, np.inf)),
    ],
)
def test_bad_input_is_named(argument, build):
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, got "):
        build(jax.random.key(0))
