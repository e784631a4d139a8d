"""The objective of each method against its formula: by hand, in NumPy or through an identity."""

# pyright: reportArgumentType=false, reportCallIssue=false
# NumPy's arrays stand for JAX's.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit, log_softmax

from gsjax import SpectralDecoupling, methods
from gsjax.methods import Batch, Info, State
from gsjax.methods.lff import generalised, relative_difficulty
from gsjax.objectives import penalty_value
from tests.methods.toys import compiled

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 2, 6)
Y = np.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
ENVIRONMENT = np.array([0, 0, 1, 1, 1, 0])
RATE = 0.5


class Outputs(nn.Module):
    """A network whose parameters are its outputs: a step of SGD shows the gradient by the outputs."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        return self.param("f", nn.initializers.normal(), self.shape, x.dtype)


def stepper(name: str, shape: tuple[int, ...] = (6,), **options) -> Callable:
    """A function that updates given outputs: the next state, its info, and the gradient by the outputs."""
    method = methods.get(name)(Outputs(shape), optax.sgd(RATE), **options)
    update = compiled(method.update)

    def step(batch: Batch, logits: np.ndarray = LOGITS, step_number: int = 0, memory: Any = None):
        with jax.enable_x64(True):
            state: State = method.init(jax.random.key(0), batch)
            state = state._replace(params={"f": jnp.asarray(logits)}, step=jnp.array(step_number, jnp.int32))
            if memory is not None:
                state = state._replace(memory=memory)
            after, info = update(state, batch)
            return after, Info(*map(float, info)), (logits - np.asarray(after.params["f"])) / RATE

    return step


def batch(y: np.ndarray = Y, **fields) -> Batch:
    return Batch(np.zeros((len(y), 1)), y, **fields)


def losses(logits: np.ndarray = LOGITS, y: np.ndarray = Y) -> np.ndarray:
    return np.logaddexp(0, -y * logits)


def gradient_is(found: np.ndarray, objective, logits: np.ndarray = LOGITS, h: float = 1e-6) -> None:
    """Compares a gradient with central differences of the objective."""
    shifts = h * np.eye(logits.size).reshape(-1, *logits.shape)
    expected = [(objective(logits + shift) - objective(logits - shift)) / (2 * h) for shift in shifts]
    np.testing.assert_allclose(found, np.reshape(expected, logits.shape), rtol=1e-5, atol=1e-8)


def test_erm_with_weight_decay():
    _, info, gradient = stepper("erm", weight_decay=0.3)(batch())
    objective = lambda f: losses(f).mean() + 0.15 * (f**2).sum()  # noqa: E731
    np.testing.assert_allclose(info, (objective(LOGITS), losses().mean(), 0), rtol=1e-12)
    gradient_is(gradient, objective)


def hinges(logits: np.ndarray = LOGITS, y: np.ndarray = Y) -> np.ndarray:
    return np.maximum(0, 1 - y * logits)


def test_hinge_loss():
    assert 0 < (hinges() > 0).sum() < len(Y)
    _, info, gradient = stepper("erm", loss="hinge", weight_decay=0.3)(batch())
    objective = lambda f: hinges(f).mean() + 0.15 * (f**2).sum()  # noqa: E731
    np.testing.assert_allclose(info, (objective(LOGITS), hinges().mean(), 0), rtol=1e-12)
    gradient_is(gradient, objective)

    _, info, gradient = stepper("spectral_decoupling", loss="hinge", strength=0.3, loss_scale=2.0)(batch())
    penalty = lambda f: 0.15 * (f**2).mean()  # noqa: E731
    np.testing.assert_allclose(
        info, (2 * (hinges().mean() + penalty(LOGITS)), hinges().mean(), penalty(LOGITS)), rtol=1e-12
    )
    gradient_is(gradient, lambda f: 2 * (hinges(f).mean() + penalty(f)))

    _, _, gradient = stepper("erm", loss="hinge")(batch(), Y.copy())
    np.testing.assert_array_equal(gradient, 0)  # all margins are exactly 1
    _, _, expected = stepper("erm")(batch())
    np.testing.assert_array_equal(stepper("erm", loss="cross_entropy")(batch())[2], expected)


@pytest.mark.parametrize("name", ["erm", "spectral_decoupling"])
def test_a_loss_is_known_and_fits_the_outputs(name):
    options = methods.REGISTRY[name].example
    with pytest.raises(ValueError, match=r"^loss: expected one of cross_entropy, hinge, got 'squared'"):
        stepper(name, **options, loss="squared")
    with pytest.raises(ValueError, match=r"^loss: expected cross_entropy for outputs \(n, k\), got 'hinge'"):
        stepper(name, (3, 2), **options, loss="hinge")(batch(np.array([0, 1, 1])))


def test_spectral_decoupling_is_the_library_s_penalty_over_n():
    _, info, gradient = stepper("spectral_decoupling", strength=0.3, target=0.5)(batch())
    value = lambda f: float(penalty_value(SpectralDecoupling(0.3, 0.5), (), jnp.asarray(f))) / 6  # noqa: E731
    with jax.enable_x64(True):
        np.testing.assert_allclose(info, (losses().mean() + value(LOGITS), losses().mean(), value(LOGITS)), rtol=1e-12)
        gradient_is(gradient, lambda f: losses(f).mean() + value(f))


def test_the_published_schedule():
    c = 2e-5
    step = stepper("spectral_decoupling", **methods.spectral_decoupling.published_schedule(c=c, switch=450))
    same = stepper("spectral_decoupling", strength=2 * c, switch=450)
    before = lambda f: losses(f).mean() + c * (f**2).mean()  # noqa: E731
    after = lambda f: c * (losses(f).mean() + (f**2).mean())  # noqa: E731
    for step_number, objective in ((0, before), (449, before), (450, after), (1000, after)):
        _, info, gradient = step(batch(), step_number=step_number)
        np.testing.assert_allclose(info.objective, objective(LOGITS), rtol=1e-10)
        gradient_is(gradient, objective, h=1e-4)
        np.testing.assert_array_equal(same(batch(), step_number=step_number)[2], gradient)
    with pytest.raises(ValueError, match=r"^c: expected a finite positive number"):
        methods.spectral_decoupling.published_schedule(c=0)
    with pytest.raises(ValueError, match=r"^switch: expected a whole number"):
        methods.spectral_decoupling.published_schedule(switch=-1)


def test_means_over_classes_as_published_for_celeba():
    step = stepper("spectral_decoupling", strength=0.2, target=[0.44, 2.5], class_means=True)

    def objective(f, y=Y):
        sets = [(0.1 * (f[y == label] - target) ** 2).mean() for label, target in ((-1, 0.44), (1, 2.5)) if label in y]
        return losses(f, y).mean() + sum(sets)

    _, info, gradient = step(batch())
    np.testing.assert_allclose(info.objective, objective(LOGITS), rtol=1e-12)
    gradient_is(gradient, objective)

    # A class without members adds nothing.
    y = np.ones(6)
    _, info, gradient = step(batch(y))
    np.testing.assert_allclose(info.objective, objective(LOGITS, y), rtol=1e-12)
    gradient_is(gradient, lambda f: objective(f, y))


def test_spectral_decoupling_of_several_classes():
    logits, y = RNG.normal(0, 1, (4, 3)), np.array([0, 2, 1, 2])
    strength, target = np.array([0.1, 0.2, 0.3]), np.array([0.0, 1.0, -1.0])
    step = stepper("spectral_decoupling", (4, 3), strength=strength, target=target)
    _, info, gradient = step(batch(y), logits)

    def objective(f):
        penalty = strength[y, None] / 2 * (f - target[y, None]) ** 2
        return (penalty.sum(axis=1) - log_softmax(f, axis=1)[range(4), y]).mean()

    np.testing.assert_allclose(info.objective, objective(logits), rtol=1e-12)
    gradient_is(gradient, objective, logits)


def risks(f: np.ndarray) -> np.ndarray:
    return np.array([losses(f, Y)[e == ENVIRONMENT].mean() for e in (0, 1)])


def invariance(f: np.ndarray, h: float = 1e-4) -> float:
    """The penalty of IRM, with differences for the derivative by the scale."""
    return (((risks((1 + h) * f) - risks((1 - h) * f)) / (2 * h)) ** 2).mean()


def variance(f: np.ndarray) -> float:
    return risks(f).var(ddof=1)


@pytest.mark.parametrize(("name", "penalty"), [("irm", invariance), ("vrex", variance)])
def test_penalties_over_environments(name, penalty):
    step = stepper(name, penalty_weight=50.0, anneal=10, environments=4, weight_decay=0.2)
    for step_number, weight in ((9, 1.0), (10, 50.0)):

        def objective(f, weight=weight):
            return (risks(f).mean() + weight * penalty(f) + 0.1 * (f**2).sum()) / weight

        _, info, gradient = step(batch(environment=ENVIRONMENT), step_number=step_number)
        np.testing.assert_allclose(info, (objective(LOGITS), risks(LOGITS).mean(), penalty(LOGITS)), rtol=1e-6)
        gradient_is(gradient, objective, h=1e-4)


def test_a_weight_below_one_scales_nothing():
    _, info, _ = stepper("irm", penalty_weight=0.25)(batch(environment=ENVIRONMENT))
    assert info.objective == pytest.approx(info.loss + 0.25 * info.penalty, rel=1e-12)


def test_equal_environments():
    twice = batch(np.tile(Y, 2), environment=np.repeat([0, 1], 6)), np.tile(LOGITS, 2)
    _, irm, _ = stepper("irm", (12,), penalty_weight=1.0)(*twice)
    slope = (-Y * LOGITS * expit(-Y * LOGITS)).mean()
    np.testing.assert_allclose(irm.penalty, slope**2, rtol=1e-12)
    step = stepper("vrex", (12,), penalty_weight=100.0)
    _, vrex, gradient = step(*twice)
    assert vrex.penalty == pytest.approx(0, abs=1e-30)
    _, erm, expected = stepper("erm", (12,))(*twice)
    np.testing.assert_allclose(100 * gradient, expected, rtol=1e-10)
    assert vrex.loss == pytest.approx(erm.loss, rel=1e-12)
    # One environment has no variance.
    assert step(twice[0]._replace(environment=np.ones(12, int)), twice[1])[1].penalty == 0


def test_v_rex_is_half_of_what_the_published_code_minimises():
    def published(f, weight, l2):
        first, second = risks(f)
        return (first + second + l2 * (f**2).sum() + weight * (first - second) ** 2) / max(weight, 1)

    step = stepper("vrex", penalty_weight=1e4, anneal=100, weight_decay=1e-3)
    for step_number, weight in ((0, 1), (100, 1e4)):
        _, info, _ = step(batch(environment=ENVIRONMENT), step_number=step_number)
        np.testing.assert_allclose(2 * info.objective, published(LOGITS, weight, 1e-3), rtol=1e-12)


def test_weights_of_groups_by_hand():
    # Losses log(1 + exp(-m)) of 2, 1 and 3 nats; group 1 has no members.
    logits = -np.log(np.expm1([2.0, 1.0, 3.0]))
    groups = batch(np.ones(3), group=np.array([0, 0, 2]))
    step = stepper("group_dro", (3,), groups=3, step_size=np.log(2))
    with jax.enable_x64(True):
        state, info, gradient = step(groups, logits)
        # Means 1.5, none and 3: the weights 1/3 are multiplied by 2^1.5, 1 and 2^3.
        weights = np.array([2**1.5, 1, 8]) / (2**1.5 + 9)
        np.testing.assert_allclose(state.memory, weights, rtol=1e-12)
        np.testing.assert_allclose(info, (weights @ [1.5, 0, 3], 2, weights @ [1.5, 0, 3]), rtol=1e-12)
        np.testing.assert_allclose(gradient, -(1 - np.exp([-2.0, -1, -3])) * weights[[0, 0, 2]] / [2, 2, 1], rtol=1e-12)
        # The same losses once more.
        state, _, _ = step(groups, logits, memory=state.memory)
        np.testing.assert_allclose(state.memory, np.array([8, 1, 64]) / 73, rtol=1e-12)


def test_one_group_is_erm():
    _, robust, gradient = stepper("group_dro", groups=1, weight_decay=0.1)(batch(group=np.zeros(6, int)))
    _, erm, expected = stepper("erm", weight_decay=0.1)(batch())
    assert robust.objective == pytest.approx(erm.objective, rel=1e-12)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12)


def test_generalised_cross_entropy():
    cross_entropy = np.array([0.0, 0.5, 3.0])
    with jax.enable_x64(True):
        for q in (0.7, 1.0):
            np.testing.assert_allclose(generalised(cross_entropy, q), (1 - np.exp(-cross_entropy) ** q) / q, rtol=1e-12)
        np.testing.assert_allclose(generalised(cross_entropy, 1e-9), cross_entropy, rtol=1e-8)
        weights = relative_difficulty(jnp.array([3.0, 0.0, 0.0]), jnp.array([1.0, 1.0, 0.0]))
        np.testing.assert_allclose(weights, [0.75, 0, 0], rtol=1e-8)


def failing(biased: np.ndarray, examples: int | None = None, before: Any = None, **fields):
    """A step of LfF from given outputs of the biased network; gives the gradients by the outputs of both networks."""
    with jax.enable_x64(True):
        method = methods.get("lff")(Outputs(LOGITS.shape), optax.sgd(RATE), q=0.7, examples=examples)
        state = method.init(jax.random.key(0), batch(**fields))
        state = state._replace(params={"f": jnp.asarray(LOGITS)})
        state = state.with_learners(biased=state.others["biased"]._replace(params={"f": jnp.asarray(biased)}))
        if before is not None:
            state = state._replace(memory=before)
        after, info = compiled(method.update)(state, batch(**fields))
        gradients = (biased - after.others["biased"].params["f"]) / RATE, (LOGITS - after.params["f"]) / RATE
        return after.memory, info, gradients


BIASED = RNG.normal(0, 2, 6)


def test_learning_from_failure():
    memory, info, (biased_gradient, debiased_gradient) = failing(BIASED)
    weight = losses(BIASED) / (losses(BIASED) + losses())
    np.testing.assert_allclose(debiased_gradient, weight * -Y * expit(-Y * LOGITS) / 6, rtol=1e-6)
    penalty = lambda f: ((1 - expit(Y * f) ** 0.7) / 0.7).mean()  # noqa: E731
    gradient_is(biased_gradient, penalty, BIASED)
    expected = (penalty(BIASED) + (weight * losses()).mean(), losses().mean(), penalty(BIASED))
    np.testing.assert_allclose(info, expected, rtol=1e-6)
    assert memory == ()


def test_moving_averages_of_the_examples():
    index, current = np.array([7, 0, 3, 8, 4, 1]), np.stack([losses(BIASED), losses()])
    averages, _, _ = failing(BIASED, examples=10, index=index)
    expected = np.zeros((2, 10))
    expected[:, index] = current  # the first loss of an example is its average
    np.testing.assert_allclose(averages.losses, expected, rtol=1e-12)
    assert np.flatnonzero(averages.seen).tolist() == sorted(index)

    # A second step. An example of class +1 outside the batch has a large average, which is the maximum of its class.
    with jax.enable_x64(True):
        before = averages._replace(
            losses=averages.losses.at[:, 9].set(20.0),
            seen=averages.seen.at[9].set(True),
            label=averages.label.at[9].set(1),
        )
    averages, _, (_, gradient) = failing(BIASED[::-1], examples=10, before=before, index=index)
    followed = 0.7 * current + 0.3 * np.stack([losses(BIASED[::-1]), losses()])
    np.testing.assert_allclose(averages.losses[:, index], followed, rtol=1e-12)
    largest = np.where(Y > 0, 20, followed[:, Y < 0].max(axis=1, keepdims=True))
    biased, debiased = followed / largest
    weight = biased / (biased + debiased)
    np.testing.assert_allclose(gradient, weight * -Y * expit(-Y * LOGITS) / 6, rtol=1e-6)
