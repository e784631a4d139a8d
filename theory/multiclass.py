"""More than two classes, to which the paper says that its theory extends."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from gsjax import Ridge, features, multiclass, networks, objectives, starvation, tangent
from theory import instances
from theory.claim import Claim, Control, Observation

STRENGTH = 0.1
NAMES = ("random", "digits")


@functools.cache
def _phi(name: str):
    """Tangent features `(n, k, m)` and labels: random ones of 16 examples and 3 classes, or 60 digits 3, 5 and 8."""
    if name == "random":
        return jax.random.normal(jax.random.key(9), (16, 3, 80)), jnp.arange(16) % 3
    pixels, target = load_digits(return_X_y=True)
    rows = np.flatnonzero(np.isin(target, (3, 5, 8)))[:60]
    x = jnp.asarray((pixels[rows] - pixels.mean(axis=0)) / pixels.std())
    network = networks.MLP((32,), outputs=3)
    phi = tangent.ntrf(network.apply, network.init(jax.random.key(0), x), x)
    return phi, jnp.searchsorted(jnp.array([3, 5, 8]), jnp.asarray(target[rows]))


def _cross_entropy(logits, labels):
    return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def _one_against_the_rest(logits, labels):
    return objectives.logistic_loss((2 * jax.nn.one_hot(labels, logits.shape[1]) - 1) * logits)


solve = jax.jit(multiclass.equilibrium)
matrix = jax.jit(multiclass.starvation_matrix, static_argnames="oriented")


def equilibrium(loss=_cross_entropy, names: tuple[str, ...] = NAMES) -> Observation:
    """Logits at the multi-class equilibrium against those of the directly minimised training objective."""
    errors = {}
    for name in names:
        phi, labels = _phi(name)

        def objective(theta, phi=phi, labels=labels):
            return loss(phi @ theta, labels) + objectives.penalty_value(Ridge(STRENGTH), theta, jnp.zeros(1))

        minimised = phi @ instances.minimum(objective, phi.shape[2]).x
        state = solve(multiclass.from_ntrf(phi, labels), Ridge(STRENGTH))
        errors[name] = float(jnp.max(jnp.abs(state.logits - minimised)) / jnp.max(jnp.abs(minimised)))
    return Observation.equal(0.0, list(errors.values()), 1e-6, details=instances.table(errors))


def starvation_matrix(correlated: bool = True) -> Observation:
    """The multi-class starvation matrix against automatic differentiation through the equilibrium.

    With `correlated=False` the curvature is `diag(p (1 - p))`, that of k one-against-the-rest losses.
    """
    errors = {}
    for name in NAMES:
        feats = multiclass.from_ntrf(*_phi(name))

        def response(s2, feats=feats):
            return multiclass.equilibrium(feats._replace(s=jnp.sqrt(s2)), Ridge(STRENGTH)).response

        expected = jax.jit(jax.jacfwd(response))(feats.s2)
        if correlated:
            closed = matrix(feats, Ridge(STRENGTH), oriented=False)
        else:
            p = jax.nn.softmax(solve(feats, Ridge(STRENGTH)).logits)
            pull = feats.u.T @ (jax.nn.one_hot(feats.labels, p.shape[1]) - p).ravel()
            gram = feats.u.T @ ((p * (1 - p)).reshape(-1, 1) * feats.u)
            closed = starvation.sensitivity(feats.s2, gram, pull, STRENGTH)
        errors[name] = float(jnp.max(jnp.abs(closed - expected)) / jnp.max(jnp.abs(expected)))
    return Observation.equal(0.0, list(errors.values()), 1e-8, details=instances.table(errors))


def two_classes(scale: float = 0.5) -> Observation:
    """Two classes with logits `(-scale f, scale f)`: their difference against the binary equilibrium of f."""
    phi, y = instances.phi("random")
    binary = instances.equilibrium(features.from_ntrf(phi, y), Ridge(STRENGTH))
    labels = ((1 + y) / 2).astype(int)
    feats = multiclass.from_ntrf(jnp.stack([-scale * phi, scale * phi], axis=1), labels)
    logits = solve(feats, Ridge(STRENGTH)).logits
    margin = jnp.log1p(-binary.alpha) - jnp.log(binary.alpha)
    return Observation.equal(margin, y * (logits[:, 1] - logits[:, 0]), 1e-8)


CLAIMS = (
    Claim(
        name="multiclass-equilibrium",
        reference="Eqs. 5 to 11 for softmax cross-entropy",
        statement="The equilibrium in the features of the (n k, m) tangent matrix is the minimum of softmax "
        "cross-entropy with ridge.",
        check=equilibrium,
        control=Control(
            "one-against-the-rest",
            "k logistic losses instead of the softmax",
            {"loss": _one_against_the_rest, "names": ("random",)},
        ),
    ),
    Claim(
        name="multiclass-starvation",
        reference="Definition 2 for softmax cross-entropy",
        statement="The starvation matrix has the binary closed form, with diag(p) - p p^T in place of "
        "alpha (1 - alpha).",
        check=starvation_matrix,
        control=Control("one-against-the-rest", "diag(p (1 - p)) instead of diag(p) - p p^T", {"correlated": False}),
    ),
    Claim(
        name="multiclass-two-classes",
        reference="Eqs. 5 to 11 for softmax cross-entropy",
        statement="Two classes with logits (-f/2, f/2) give back the binary equilibrium.",
        check=two_classes,
        control=Control("scale", "logits (-f, f), whose difference is 2 f", {"scale": 1.0}),
    ),
)
