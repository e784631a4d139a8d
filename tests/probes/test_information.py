"""Usable information: against quadrature, scikit-learn, and families that can or cannot use a feature."""

# pyright: reportArgumentType=false, reportCallIssue=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression

from gsjax import methods, networks, probes
from gsjax.probes import information

KEY = jax.random.key(0)
LINEAR, MLP = networks.FullyConnected(()), networks.FullyConnected((16,))


def family(network, steps=200):
    """Adam with large steps first, so that a linear network reaches its optimum in a few steps."""
    schedule = optax.cosine_decay_schedule(0.1, steps)
    return {"network": network, "method": methods.get("erm")(network, optax.adam(schedule))}


linear = family(LINEAR)
usable = functools.partial(probes.usable_information, KEY, steps=200, batch_size=None)
pointwise = functools.partial(probes.pointwise_information, KEY, steps=200, batch_size=None)


def entropy(p):
    return float(-np.sum(special.xlogy(p, p)) / np.log(2))


def mixture(shape, seed=0, balance=0.5):
    """Two unit Gaussians at +1 and -1 on the first axis, with a second axis of noise; labels are the signs."""
    rng = np.random.default_rng(seed)
    y = np.where(rng.random(shape) < balance, 1.0, -1.0)
    return (rng.normal(size=(*shape, 2)) + y[..., None] * np.eye(2)[0]).astype(np.float32), y.astype(np.float32)


def mixture_information(balance=0.5):
    """I(X; Y) of the mixture in bits, by quadrature: the Bayes rule is the logit 2 x_1 + log-odds of the balance."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    odds = np.log(balance / (1 - balance))
    lost = sum(
        share * weights @ np.logaddexp(0, -sign * (2 * (nodes + sign) + odds))
        for sign, share in ((1, balance), (-1, 1 - balance))
    )
    return entropy([balance, 1 - balance]) - lost / np.log(2)


def xor(n, seed=0):
    x = np.random.default_rng(seed).choice([-1.0, 1.0], (n, 2)).astype(np.float32)
    return x, x[:, 0] * x[:, 1]


@pytest.mark.parametrize("balance", [0.5, 0.2])
def test_a_family_with_the_bayes_rule_recovers_the_information_of_a_mixture(balance):
    """Each seed has its own data, so that the interval includes their sampling."""
    x, y = mixture((8, 2000), balance=balance)
    found = usable(x, y, **linear, seeds=8, held_out=mixture((8, 2000), 1, balance), per_seed=True)
    assert found.interval.low < mixture_information(balance) < found.interval.high
    assert found.interval.high - found.interval.low < 0.06
    assert found.calibrated.all()
    np.testing.assert_allclose(found.null_entropy, entropy([balance, 1 - balance]), atol=0.06)


@pytest.mark.slow
def test_the_interval_of_held_out_parts_covers_the_sampling_of_the_examples():
    """One sample of few examples: the interval is that of the mean over all of them, not only that of the networks."""
    hits = [
        found.interval.low < mixture_information() < found.interval.high
        for seed in range(8)
        for found in [usable(*mixture((200,), seed), **linear, null="balance")]
    ]
    assert sum(hits) >= 6  # 95% intervals: fewer than 6 of 8 have probability 0.006


def test_independent_labels_carry_no_information():
    x, _ = mixture((8, 500))
    y = np.random.default_rng(2).choice([-1.0, 1.0], (8, 500))
    found = usable(x, y, **linear, seeds=8, per_seed=True)
    assert found.interval.low < 0.01
    assert -0.03 < found.interval.value < 0.005


def test_a_linear_family_cannot_use_xor_and_a_network_can():
    x, y = xor(200)
    restricted, network = (usable(x, y, **each) for each in (linear, family(MLP)))
    assert abs(restricted.interval.value) < 0.02
    assert network.interval.low > 0.97
    assert network.interval.high <= 1.01


def test_pointwise_values_are_those_of_an_independent_solver():
    """g of a linear family is the optimum of logistic regression, and g_null the class balance, here of 3 classes."""
    rng = np.random.default_rng(0)
    centres = 1.5 * rng.normal(size=(3, 4))
    y, test_y = (rng.choice(3, size, p=[0.5, 0.3, 0.2]) for size in (300, 50))
    x, test_x = (centres[label] + rng.normal(size=(len(label), 4)) for label in (y, test_y))
    softmax = family(networks.FullyConnected((), outputs=3))
    found = pointwise(x, y, **softmax, held_out=(test_x, test_y), seeds=2)
    solved = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000).fit(x, y).predict_log_proba(test_x) / np.log(2)
    shares = np.bincount(y) / len(y)
    expected = solved[np.arange(50), test_y] - np.log2(shares[test_y])
    np.testing.assert_allclose(found.value, np.tile(expected, (2, 1)), atol=0.02)
    np.testing.assert_allclose(found.null, np.tile(-np.log2(shares[test_y]), (2, 1)), atol=0.02)
    assert found.examples.tolist() == [list(range(50))] * 2
    # Names of classes play no role: g is unique.
    names = np.array([2, 0, 1])
    renamed = pointwise(x, names[y], **softmax, held_out=(test_x, names[test_y]), seeds=2)
    np.testing.assert_allclose(renamed.value, found.value, atol=0.02)


@pytest.mark.slow
def test_signs_and_indices_of_two_classes_are_the_same_labels():
    x, y = mixture((200,), balance=0.3)
    test_x, test_y = mixture((40,), 1)
    signs = pointwise(x, y, **linear, held_out=(test_x, test_y), seeds=2)
    flipped = pointwise(x, -y, **linear, held_out=(test_x, -test_y), seeds=2)
    indices = pointwise(
        x,
        (y > 0).astype(int),
        **family(networks.FullyConnected((), outputs=2)),
        held_out=(test_x, (test_y > 0).astype(int)),
        seeds=2,
    )
    np.testing.assert_allclose(flipped.value, signs.value, atol=0.05)
    np.testing.assert_allclose(indices.value, signs.value, atol=0.05)
    assert (signs.value[0] != signs.value[1]).all(), "the seeds start from different networks"


def test_surprisal_is_in_bits(x64):
    logits, y = np.random.default_rng(0).normal(size=(6, 3)), np.array([0, 1, 2, 0, 1, 2])
    expected = -np.log2(special.softmax(logits, axis=1)[np.arange(6), y])
    tolerance = 1e-12 if x64 == jnp.float64 else 1e-5
    np.testing.assert_allclose(information.surprisal(logits, y), expected, rtol=tolerance)
    sign = np.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
    expected = -np.log2(special.expit(sign * logits[:, 0]))
    np.testing.assert_allclose(jax.jit(information.surprisal)(logits[:, 0], sign), expected, rtol=tolerance)
    np.testing.assert_allclose(information.surprisal(jnp.zeros((6, 8)), y), 3.0, rtol=1e-6)  # uniform over 8


def test_usable_information_is_the_mean_of_the_pointwise_values():
    x, y = mixture((200,))
    each, mean = pointwise(x, y, **linear), usable(x, y, **linear, level=0.5)
    np.testing.assert_array_equal(mean.value, each.value.mean(axis=1))
    np.testing.assert_allclose(mean.null_entropy - mean.conditional_entropy, mean.value, atol=1e-12)
    np.testing.assert_array_equal(each.value, each.null - each.conditional)
    error = mean.value.std(ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(mean.interval.high - mean.interval.value, 0.7407 * error, rtol=1e-3)  # t_4 at 75%


def test_a_mislabelled_example_has_negative_information():
    x, y = mixture((200,))
    x[:, 0] *= 3
    wrong = int(np.argmax(x[:, 0] * y))
    y[wrong] = -y[wrong]
    found = pointwise(x, y, **linear)
    values = dict(zip(found.examples.ravel().tolist(), found.value.ravel().tolist(), strict=True))
    assert values[wrong] < -3
    assert np.median(list(values.values())) > 0.5


@pytest.mark.parametrize("per_seed", [False, True])
@pytest.mark.parametrize(("n", "seeds"), [(103, 5), (41, 2), (6, 6)])
def test_held_out_parts(n, seeds, per_seed):
    y = np.resize(np.repeat([1, 0, 2], [9, 3, 1]), (seeds, n) if per_seed else n)
    rest, held = information._parts(KEY, y, seeds)
    assert held.shape == (seeds, n // seeds)
    for seed in range(seeds):
        assert sorted([*rest[seed], *held[seed]]) == list(range(n)), "held out or trained on"
        own = y[seed] if per_seed else y
        shares = np.bincount(own[held[seed]], minlength=3) / (n // seeds)
        np.testing.assert_allclose(shares, np.bincount(own, minlength=3) / n, atol=1.5 / (n // seeds))
    if not per_seed:
        assert len(set(held.ravel())) == held.size, "each example at most once"
    else:
        assert len({tuple(part) for part in held}) > 1, "the seeds hold out other positions"


def test_networks_are_not_trained_on_the_examples_they_are_evaluated_on():
    """One input per example: what was learned about other examples says nothing about this one."""
    n = 40
    y = np.resize([1.0, -1.0], n)
    held = pointwise(np.eye(n), y, **linear, null="balance").value
    seen = pointwise(np.eye(n), y, **linear, null="balance", held_out=(np.eye(n), y)).value
    assert np.abs(held).max() < 0.6
    assert seen.min() > 0.9


def test_results_depend_only_on_the_key():
    x, y = mixture((200,))
    one, other = pointwise(x, y, **linear), pointwise(x, y, **linear)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)
    older = probes.pointwise_information(jax.random.PRNGKey(0), x, y, **linear, steps=200, batch_size=None)
    np.testing.assert_array_equal(older.value, one.value)
    changed = probes.pointwise_information(jax.random.key(1), x, y, **linear, steps=200, batch_size=None)
    assert not np.array_equal(changed.examples, one.examples)


def test_a_null_that_has_not_converged_is_reported():
    x, y = mixture((200,))
    y = np.where(np.arange(200) < 20, 1.0, -1.0)  # a tenth, also of each held-out part
    h = entropy([0.1, 0.9])
    good = usable(x, y, **linear)
    assert good.calibrated.all()
    np.testing.assert_allclose(good.null_entropy, h, atol=0.01)
    short = usable(x, y, **linear, steps=3)
    assert not short.calibrated.any()
    # Without biases the output at zero is zero, so that g_null is uniform whatever the steps.
    plain = networks.MLP((8,))
    stuck = usable(x, y, network=plain)
    assert not stuck.calibrated.any()
    np.testing.assert_allclose(stuck.null_gap, 1 - h, atol=0.01)
    np.testing.assert_allclose(stuck.null_entropy, 1, atol=1e-6)
    assert usable(x, y, network=plain, tolerance=0.9).calibrated.all()
    known = usable(x, y, network=plain, null="balance")
    assert known.calibrated.all()
    assert (known.null_gap == 0).all()
    np.testing.assert_allclose(known.null_entropy, h, atol=0.01)
    np.testing.assert_allclose(known.conditional_entropy, stuck.conditional_entropy, rtol=1e-6)


def test_training_that_fails_is_reported_and_not_left_out():
    x, y = mixture((200,))
    x = x + 30  # beside an empty input, which trains
    diverging = methods.get("erm")(LINEAR, optax.sgd(1e30))
    found = usable(x, y, network=LINEAR, method=diverging)
    assert found.value.shape == (5,)
    assert not found.finite.any()
    assert np.isnan(found.interval).all()


@pytest.mark.slow
def test_methods_with_groups_and_networks_with_statistics():
    x, y = mixture((200,))
    network = networks.FullyConnected((8,), batch_norm=True, dropout=0.1)
    method = methods.get("group_dro")(network, optax.adam(1e-2), groups=2, step_size=0.1)
    found = usable(x, y, network=network, method=method, group=(x[:, 1] > 0).astype(int), batch_size=32)
    assert found.finite.all()
    assert found.interval.low > 0.1
    with pytest.raises(ValueError, match=r"^group: expected whole numbers"):
        usable(x, y, network=network, method=method)


def test_the_default_family_takes_images_of_several_classes():
    rng = np.random.default_rng(0)
    y = np.resize([0, 1, 2, 3], 120)
    x = rng.integers(0, 3, (120, 2, 2, 1)) + 9 * np.eye(4, dtype=int)[y].reshape(120, 2, 2, 1)
    found = probes.usable_information(KEY, x, y, steps=300)
    assert found.interval.low > 1.8
    np.testing.assert_allclose(found.null_entropy, 2, atol=0.02)


X, Y = mixture((20,))
ERM = methods.get("erm")(LINEAR, optax.sgd(0.1))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"key": 0}, "key: expected a key"),
        ({"x": np.full((20, 2), np.nan)}, "x: expected finite"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, "x: expected a non-empty array"),
        ({"x": X[:19]}, r"y: expected labels of shape \(19,\), got shape \(20,\)"),
        ({"y": np.ones(20)}, r"y: expected at least 2 of each of 2 classes, got \[0, 20\]"),
        ({"y": np.zeros(20, int)}, r"y: expected at least 2 of each of 2 classes, got \[20, 0\]"),
        ({"y": np.resize([0, 2], 20)}, r"y: expected at least 2 of each of 3 classes, got \[10, 0, 10\]"),
        ({"y": np.r_[-1.0, np.ones(19)]}, r"y: expected at least 2 of each of 2 classes, got \[1, 19\]"),
        ({"y": np.resize([0, 999], 20)}, r"y: expected labels -1 and \+1, or class indices from 0, got \[  0 999\]"),
        ({"y": np.resize([-2, 1], 20)}, r"y: expected labels -1 and \+1, or class indices from 0, got \[-2  1\]"),
        ({"y": np.resize([0.0, 1.0], 20)}, r"y: expected whole numbers \(20,\) from 0 to 1, got float"),
        ({"y": Y > 0}, "y: expected "),
        ({"y": np.resize([0, 1], 20), "network": LINEAR}, r"y: expected labels -1 and \+1"),
        ({"network": networks.FullyConnected((), outputs=2)}, "y: expected whole numbers"),
        ({"y": np.resize([0, 1], 20), "network": networks.FullyConnected((), outputs=3)}, "y: expected at least 2 of"),
        ({"seeds": 21}, "seeds: expected at most 20, the number of examples, got 21"),
        ({"network": networks.FullyConnected}, "network: expected a flax.linen module"),
        ({"method": ERM}, "network: expected the network of the method, got None"),
        ({"network": MLP, "method": ERM}, "method: expected a method of the network, got one of another"),
        ({"network": LINEAR, "method": optax.sgd(0.1)}, "method: expected a method, such as"),
        ({"network": LINEAR, "method": "erm"}, "method: expected a method, such as"),
        ({"group": np.zeros(19, int)}, r"group: expected shape \(20,\), as of y"),
        ({"environment": ["a"]}, "environment: expected "),
        ({"held_out": X}, "held_out: expected a pair of examples and labels"),
        ({"held_out": (X, Y[:3])}, r"held_out: expected labels of shape \(20,\)"),
        ({"held_out": (X, 2 * Y)}, r"held_out: expected labels -1 and \+1"),
        ({"held_out": (X[:, :1], Y)}, r"held_out: expected examples of shape \(2,\), got \(1,\)"),
        ({"per_seed": True}, r"x: expected a non-empty array \(5, n, ...\), one row per seed, got shape \(20, 2\)"),
        ({"per_seed": True, "x": np.ones((5, 20, 2))}, r"y: expected labels of shape \(5, 20\), got shape \(20,\)"),
    ],
)
def test_bad_input(options, complaint):
    with pytest.raises(ValueError, match=f"^{complaint}"):
        probes.usable_information(**{"key": KEY, "x": X, "y": Y, "steps": 1, **options})


def test_the_level_of_the_interval_is_checked_before_anything_is_trained():
    with pytest.raises(ValueError, match=r"^level: expected a number in \(0, 1\)"):
        probes.usable_information(KEY, X, Y, level=1.0, steps=0)
