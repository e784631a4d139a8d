"""Just Train Twice: its error set, its weights against repetitions, what an update may touch, and bad input."""

# pyright: reportArgumentType=false, reportCallIssue=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsjax import methods, networks
from gsjax.methods.jtt import jtt, updates
from tests.methods.test_dedier import HARD, KEY, MOMENTUM, states
from tests.methods.test_learners import by_path, changed
from tests.methods.toys import N, Noisy, close, compiled

T = 3


def made(**options):
    return jtt(Noisy(), MOMENTUM, **{"identification_steps": T, "upweight": 5.0, **options})


def wrong(network, learner, data) -> np.ndarray:
    return np.sign(np.asarray(methods.predict(network, learner, data.x))) != data.y


def test_an_update_touches_one_network():
    """Leaf by leaf: parameters, optimiser state and running statistics of the one, nothing of the other."""
    course = states(made(), steps=6)
    for before, after in itertools.pairwise(course):
        moved = {
            name: changed(before.learners[name]._asdict(), after.learners[name]._asdict()) for name in before.learners
        }
        trained, frozen = ("identification", "main") if int(before.step) < T else ("main", "identification")
        # A bias before batch normalisation has no gradient but rounding; the key of dropout never changes.
        paths = by_path(before.learners[trained]._asdict())
        assert {path for path in paths if "['Dense_0']['bias']" not in path and "['key']" not in path} <= moved[trained]
        assert not moved[frozen]
        assert bool(changed(before.memory, after.memory)) == (int(before.step) == T)
    assert changed(course[0].params, course[0].others["identification"].params)


def test_weights_are_repetitions_of_the_error_set():
    """A step on the errors repeated as often as their weight says, by the same optimiser and from the same network."""
    network, optimizer = networks.FullyConnected((8,)), optax.sgd(0.5)
    method = jtt(network, optimizer, identification_steps=T, upweight=4.0, weight_decay=0.1)
    before, after = states(method, HARD, T + 1)[-2:]
    errors = wrong(network, before.others["identification"], HARD)
    assert 0 < errors.sum() < N
    rows = np.repeat(np.arange(N), np.where(errors, 4, 1))
    repeated = methods.Batch(HARD.x[rows], HARD.y[rows])
    erm = methods.get("erm")(network, optimizer, weight_decay=0.1)
    expected, _ = compiled(erm.update)(before._replace(others={}, memory=()), repeated)
    close(after.params, expected.params)
    np.testing.assert_allclose(after.memory, len(rows) / N, rtol=1e-6)
    np.testing.assert_allclose((after.memory - 1) / 3, errors.mean(), rtol=1e-5)


def test_the_objective_in_numpy():
    before, data = states(made(), HARD, T + 2)[-1], HARD
    with jax.enable_x64(True):
        network = networks.FullyConnected((8,))
        data = jax.tree.map(lambda leaf: np.asarray(leaf, float), HARD._replace(index=None))
        method = jtt(network, MOMENTUM, identification_steps=T, upweight=5.0)
        before = states(method, data, T + 2)[-1]
        _, info = compiled(method.update)(before, data)
        errors, f = (
            wrong(network, before.others["identification"], data),
            np.asarray(methods.predict(network, before, data.x)),
        )
    each, w = np.logaddexp(0, -data.y * f), np.where(errors, 5, 1)
    np.testing.assert_allclose(info, ((w * each).sum() / w.sum(), each.mean(), (w * each).sum() / w.sum()), rtol=1e-10)


def test_the_normalisation_of_an_epoch_is_that_of_the_data():
    chosen = np.split(np.random.default_rng(0).permutation(N), 3)
    batches = [jax.tree.map(lambda leaf, rows=rows: leaf[rows], HARD) for rows in chosen]
    course = states(made(), HARD, T + 6, [HARD] * T + batches * 2)
    w = np.where(wrong(Noisy(), course[T].others["identification"], HARD), 5, 1)
    assert w.max() > w.min()
    for state in (course[T + 3], course[T + 6]):
        np.testing.assert_allclose(state.memory, w.mean(), rtol=1e-6)
    np.testing.assert_allclose(course[T + 1].memory, w[chosen[0]].mean(), rtol=1e-6)


def test_without_weights_the_main_learner_is_erm():
    found = states(made(upweight=1.0, weight_decay=0.01), steps=updates(5, T))[-1]
    expected = states(methods.get("erm")(Noisy(), MOMENTUM, weight_decay=0.01), steps=5)[-1]
    close(found.main._asdict(), expected.main._asdict())
    assert int(found.step) == 8


def test_the_identification_network_is_erm():
    """Its optimiser is an own option; its initialisation is not that of the main learner."""
    state = made(identification_optimizer=optax.adam(0.01)).init(KEY, HARD)
    start = state._replace(**state.others["identification"]._asdict(), others={}, memory=())
    erm = methods.get("erm")(Noisy(), optax.adam(0.01))
    update, expected = compiled(erm.update), start
    for _ in range(T):
        expected, _ = update(expected, HARD)
    found = states(made(identification_optimizer=optax.adam(0.01)), steps=T + 2)[-1]
    close(found.others["identification"]._asdict(), expected.main._asdict())


def test_all_seeds_are_one_program():
    method, keys = made(), jax.random.split(KEY, 3)
    counted = methods.Method(method.init, chex.assert_max_traces(method.update, 1))
    run = methods.train(counted, keys, HARD, steps=10, record=[0, 7, 10])
    one = methods.train(method, keys[1:2], HARD, steps=10).state
    close(jax.tree.map(lambda leaf: leaf[1:2], run.state), one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"identification_steps": 0}, r"identification_steps: expected a whole number of at least 1, got 0"),
        ({"upweight": 0.5}, r"upweight: expected a number in \[1, inf\)"),
        ({"upweight": jnp.inf}, r"upweight: expected a"),
        ({"identification_optimizer": "adam"}, r"identification_optimizer: expected an optax optimiser"),
        ({"weight_decay": -1.0}, r"weight_decay: expected a finite number, 0 or above"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        made(**options)


def test_bad_numbers_of_updates():
    for bad, name in (((-1, 1), "main_updates"), ((1, 0), "identification_steps")):
        with pytest.raises(ValueError, match=f"^{name}: expected a whole number"):
            updates(*bad)
