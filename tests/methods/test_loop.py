"""The loop gives the results of a plain loop, for any number of seeds, devices and records."""

# pyright: reportArgumentType=false, reportCallIssue=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from gsjax import methods
from gsjax.methods import Batch, Method
from tests.methods.learners import TOYS
from tests.methods.toys import Linear, N, batch, close, compiled, leaves

SIZE, STEPS = 5, 7  # two batches per epoch; two examples are left over
KEYS = jax.random.split(jax.random.key(3), 3)
DATA = batch()
PLAIN = methods.get("erm")(Linear(), optax.sgd(0.3, momentum=0.5))
TRACED = []
STREAMED = [("lff", methods.get("lff"), {"examples": N}), *((name, *TOYS[name]) for name in ("forgetting", "matching"))]


def update(state, batch):
    TRACED.append(batch)
    return PLAIN.update(state, batch)


ERM = Method(PLAIN.init, update)


def evaluate(state, x):
    return {"logits": methods.predict(Linear(), state, x), "step": state.step}


def train(keys=KEYS, data=DATA, method=ERM, **options) -> methods.Run:
    options = {"steps": STEPS, "batch_size": SIZE, "evaluate": evaluate, "held_out": DATA.x, **options}
    return methods.train(method, keys, data, **options)


def same(one, other) -> None:
    for leaf, expected in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(leaf, expected)


def seeds(tree, rows):
    return jax.tree.map(lambda leaf: leaf[rows], tree)


@pytest.fixture(scope="module")
def run() -> methods.Run:
    return train(record=[0, 2, STEPS])


def test_the_loop_equals_a_plain_loop_over_updates(run):
    update = compiled(PLAIN.update)
    for seed, key in enumerate(KEYS):
        state_key, order_key = jax.random.split(key)
        state, seen, order = ERM.init(state_key, DATA), [], np.arange(N)
        for step in range(STEPS):
            if step % (N // SIZE) == 0:
                order = jax.random.permutation(jax.random.fold_in(order_key, step // (N // SIZE)), N)
            if step in run.steps:
                seen.append(evaluate(state, DATA.x))
            start = SIZE * (step % (N // SIZE))
            rows = order[start : start + SIZE]
            state, _ = update(state, jax.tree.map(lambda leaf, rows=rows: leaf[rows], DATA))
        seen.append(evaluate(state, DATA.x))
        close(seeds(run.state, seed), state, rtol=1e-4, atol=1e-5)
        close(seeds(run.records, seed), jax.tree.map(lambda *records: np.stack(records), *seen), rtol=1e-4, atol=1e-5)
    assert run.records["step"].tolist() == [[0, 2, STEPS]] * 3
    assert run.finite.all()


def test_other_seeds_and_records_change_no_bit(run):
    single = train(KEYS[1:2])
    same(seeds(run.state, slice(1, 2)), single.state)
    assert single.steps.tolist() == [STEPS]
    assert single.records["logits"].shape == (1, 1, N)
    same(run.state, train(record=range(STEPS)).state)


def test_programs_are_compiled_once(run):
    before = len(TRACED)
    for steps, record in ((STEPS, range(STEPS)), (3 * STEPS, [5, 6, 19]), (100, [0, 100])):
        train(steps=steps, record=record)
    assert len(TRACED) == before


def test_data_of_each_seed(run):
    # With the same examples for all seeds nothing changes. With other examples for one seed, only that seed changes.
    own = jax.tree.map(lambda leaf: np.stack([leaf] * 3), DATA)
    x = np.stack([DATA.x] * 3)
    same(run.state, train(data=own, held_out=x, per_seed=True).state)
    spoilt = own._replace(x=own.x * np.array([1, 2, 1], np.float32)[:, None, None])
    other = train(data=spoilt, held_out=x, per_seed=True)
    same(seeds(run.state, np.array([0, 2])), seeds(other.state, np.array([0, 2])))
    assert not np.array_equal(run.records["logits"][1, -1], other.records["logits"][1, -1])


def test_an_objective_that_was_not_finite_in_one_step():
    def update(state, batch):
        after, info = PLAIN.update(state, batch)
        spoilt = (state.step == 1) & (batch.x[0, 0] > 0)
        return after, info._replace(objective=jnp.where(spoilt, jnp.nan, info.objective))

    x = np.stack([DATA.x - DATA.x[0], DATA.x - DATA.x[0] + 1])
    data = Batch(x, np.stack([DATA.y] * 2))
    run = methods.train(Method(PLAIN.init, update), KEYS[:2], data, steps=4, per_seed=True, record=[4], what="a test")
    assert run.finite.tolist() == [True, False]
    assert run.records is None
    assert jnp.issubdtype(run.state.key.dtype, jax.dtypes.prng_key)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": jax.random.key(0)}, r"keys: expected typed keys \(seeds,\)"),
        ({"keys": np.zeros((2, 2), np.uint32)}, r"keys: expected typed keys \(seeds,\)"),
        ({"keys": KEYS[:0]}, r"keys: expected typed keys \(seeds,\)"),
        ({"steps": 0}, r"steps: expected a whole number of at least 1"),
        ({"batch_size": 0}, r"batch_size: expected a whole number of at least 1"),
        ({"batch_size": 13}, r"batch_size: expected at most 12"),
        ({"record": [0, STEPS + 1]}, rf"record: expected increasing whole numbers from 0 to {STEPS}"),
        ({"record": [2, 1]}, r"record: expected increasing"),
        ({"record": [-1]}, r"record: expected increasing"),
        ({"record": []}, r"record: expected increasing"),
        ({"data": DATA._replace(y=DATA.y[:3])}, r"y: expected \(n, ...\), with \(12,\) as in x"),
        ({"per_seed": True, "held_out": None}, r"y: expected \(seeds, n, ...\), with \(12, 4\) as in x"),
        ({"data": Batch(np.zeros((2, 4, 1)), np.ones((2, 4))), "per_seed": True}, r"data: expected 3 seeds"),
        ({"mesh": Mesh(np.array(jax.devices()[:1]), ("rows",))}, r"mesh: expected an axis 'seeds'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        train(**options)


@pytest.mark.parametrize(("name", "constructor", "options"), STREAMED)
def test_a_stream_equals_the_loop_for_one_seed(name, constructor, options):
    method = constructor(Linear(), optax.sgd(0.3, momentum=0.5), **options)
    expected = train(KEYS[:1], method=method, steps=4, record=[2, 4])
    state_key, order_key = jax.random.split(KEYS[0])

    def batches(epoch):
        order = jax.random.permutation(jax.random.fold_in(order_key, epoch), N)
        for rows in np.split(np.asarray(order)[: 2 * SIZE], 2):
            yield jax.tree.map(lambda leaf, rows=rows: leaf[rows], DATA)
        raise AssertionError("more batches were requested than needed")

    state = method.init(state_key, DATA)
    start = leaves(state)
    run = methods.stream(method, state, batches, epochs=2, steps=2, evaluate=lambda state: evaluate(state, DATA.x))
    close(run.state, seeds(expected.state, 0), rtol=1e-4, atol=1e-5)
    close(run.records, seeds(expected.records, 0), rtol=1e-4, atol=1e-5)
    assert run.steps.tolist() == [2, 4]
    assert run.finite.shape == ()
    assert run.finite
    same(state, start)  # the initial state is unchanged
    half = methods.stream(method, state, batches, epochs=1, steps=2)
    assert half.records is None
    rest = methods.stream(method, half.state, lambda epoch: batches(epoch + 1), epochs=1, steps=2)
    same(rest.state, run.state)


def test_a_stream_reports_an_objective_that_was_not_finite():
    state = PLAIN.init(KEYS[0], DATA)
    spoilt = [DATA, DATA._replace(x=DATA.x * np.float32(np.nan)), DATA]
    assert not methods.stream(PLAIN, state, lambda _: spoilt, epochs=1, steps=3).finite


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": optax.sgd(0.1)}, r"method: expected a method, such as"),
        ({"state": {}}, r"state: expected a state of the method, got dict"),
        ({"epochs": 0}, r"epochs: expected a whole number of at least 1"),
        ({"steps": 0}, r"steps: expected a whole number of at least 1"),
        ({"steps": 3}, r"batches: expected 3 in epoch 0, got 2"),
        (
            {"batches": lambda epoch: [(DATA.x, DATA.y)]},
            r"batches: expected a gsjax\.methods\.Batch\(x, y\), got tuple",
        ),
    ],
)
def test_bad_arguments_of_a_stream(options, message):
    state = PLAIN.init(KEYS[0], DATA)
    given = {"method": PLAIN, "state": state, "batches": lambda _: [DATA] * 2, "epochs": 1, "steps": 1, **options}
    with pytest.raises(ValueError, match=f"^{message}"):
        methods.stream(**given)


@pytest.mark.devices8
def test_eight_devices_change_no_bit():
    one_device, eight_devices = (train(mesh=Mesh(np.array(jax.devices()[:count]), ("seeds",))) for count in (1, 8))
    same(one_device.state, eight_devices.state)
    same(one_device.records, eight_devices.records)
    own = jax.tree.map(lambda leaf: np.stack([leaf] * 3), DATA)
    same(one_device.state, train(data=own, held_out=np.stack([DATA.x] * 3), per_seed=True).state)
