"""Properties of every method, in one table."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalOperand=false, reportOptionalSubscript=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from gsjax import methods
from gsjax.methods import Batch, Method
from gsjax.networks import FullyConnected, TwoLayer, stages
from tests.methods.learners import TOYS
from tests.methods.toys import Linear, N, Noisy, batch, close, compiled, leaves

STEPS = 40
TABLE = {name: (entry.constructor, entry.example) for name, entry in methods.REGISTRY.items()} | TOYS
VARIANTS = TABLE | {
    "doubled": (methods.get("spectral_decoupling"), {"strength": 0.2}),
    "by_class": (
        methods.get("spectral_decoupling"),
        {"strength": [0.1, 0.2], "target": [-1.0, 2.0], "class_means": True},
    ),
    "scheduled": (methods.get("spectral_decoupling"), {"strength": 0.2, "switch": 3}),
    "hinge": (methods.get("erm"), {"loss": "hinge", "weight_decay": 1e-3}),
    "decoupled_hinge": (methods.get("spectral_decoupling"), {"loss": "hinge", "strength": 0.1}),
    "lff_averaged": (methods.get("lff"), {"examples": N}),
}
every_method = pytest.mark.parametrize("variant", [*TABLE, "hinge", "decoupled_hinge", "lff_averaged"])


def chosen(variant: str, network: nn.Module) -> dict:
    """The options of a variant; a `position` is the first stage of the network."""
    options = VARIANTS[variant][1]
    return {**options, "position": stages.names(network, batch().x)[0]} if "position" in options else options


def plain(variant: str) -> nn.Module:
    """A linear network, or one with a hidden layer for a method that needs a last layer."""
    return FullyConnected((8,)) if variant == "dfr" else Linear()


@functools.cache
def method(variant: str, network: nn.Module) -> Method:
    return VARIANTS[variant][0](network, optax.sgd(0.3, momentum=0.5), **chosen(variant, network))


@functools.cache
def update(variant: str, network: nn.Module) -> Callable:
    return compiled(method(variant, network).update)


def test_names():
    assert {
        "erm",
        "spectral_decoupling",
        "irm",
        "vrex",
        "group_dro",
        "lff",
        "distillation",
        "dedier",
        "jtt",
        "dfr",
    } <= set(methods.NAMES)
    for name in methods.NAMES:
        assert methods.get(name) is getattr(getattr(methods, name), name)
        assert name in methods.__all__
    with pytest.raises(ValueError, match=r"^name: expected one of erm, spectral_decoupling, irm.*, got 'irmv1'"):
        methods.get("irmv1")


@every_method
def test_batched_seeds_equal_single_seeds_and_learn(variant):
    instance, data = method(variant, plain(variant)), batch()
    states = [instance.init(key, data) for key in jax.random.split(jax.random.key(0))]
    course = compiled(
        jax.vmap(lambda state: lax.scan(lambda state, _: instance.update(state, data), state, length=STEPS))
    )
    stacked, infos = course(jax.tree.map(lambda *seeds: jnp.stack(seeds), *states))
    assert (stacked.step == STEPS).all()
    assert (infos.loss[:, -1] < infos.loss[:, 0] / 2).all()

    def run_seed(state):
        for _ in range(STEPS):
            state, _ = update(variant, plain(variant))(state, data)
        return state

    one_by_one = [leaves(run_seed(state)) for state in states]
    for leaf, *per_seed in zip(leaves(stacked), *one_by_one, strict=True):
        np.testing.assert_allclose(leaf, per_seed, rtol=1e-4, atol=1e-5)
    for one, repeated in zip(one_by_one[0], leaves(run_seed(states[0])), strict=True):
        np.testing.assert_array_equal(one, repeated)


@pytest.mark.parametrize("name", [*methods.NAMES, "hinge", "decoupled_hinge"])
def test_a_frozen_output_layer_stays_as_it_is(name):
    """Bit by bit in every learner, with weight decay before and within the optimiser; the trained layer changes."""
    optimizer, network, data = optax.adamw(0.1, weight_decay=0.1), TwoLayer(6), batch()
    instance = VARIANTS[name][0](network, optimizer, **{**chosen(name, network), "weight_decay": 0.1})
    if name == "dfr":
        with pytest.raises(ValueError, match=r"^network: expected parameters after one of its stages, got TwoLayer"):
            instance.init(jax.random.key(0), data)
        return
    before = after = instance.init(jax.random.key(0), data)
    step = compiled(instance.update)
    for _ in range(3):
        after, _ = step(after, data)
    for label, first in before.learners.items():
        if label == "readout":  # another network
            continue
        learner = after.learners[label]
        assert len(leaves(first.collections)) == 2
        for leaf, initial in zip(leaves(learner.collections), leaves(first.collections), strict=True):
            np.testing.assert_array_equal(leaf, initial)
        assert set(learner.params) == {"hidden"}
        for leaf, initial in zip(leaves(learner.params), leaves(first.params), strict=True):
            assert (leaf != initial).all()


@pytest.mark.parametrize(
    ("one_output", "two_outputs"),
    [
        ("spectral_decoupling", "doubled"),
        ("irm", "irm"),
        ("group_dro", "group_dro"),
        ("lff_averaged", "lff_averaged"),
        ("distillation", "distillation"),
        ("jtt", "jtt"),
    ],
)
def test_two_outputs_are_equivalent_to_one(one_output, two_outputs):
    """The two outputs are (-f / 2, f / 2), whose squares sum to f^2 / 2."""
    data, key = batch(), jax.random.key(0)
    pair = np.stack([-data.teacher_logits / 2, data.teacher_logits / 2], axis=1)
    classes = data._replace(y=(data.y > 0).astype(np.int32), teacher_logits=pair)
    one, two = method(one_output, Linear()).init(key, data), method(two_outputs, Linear(pair=True)).init(key, classes)
    for _ in range(3):
        one, info = update(one_output, Linear())(one, data)
        two, info_of_two = update(two_outputs, Linear(pair=True))(two, classes)
        close((two, info_of_two), (one, info), rtol=1e-4)


def test_running_statistics_and_dropout():
    data, compute = batch(), update("erm", Noisy())
    state = method("erm", Noisy()).init(jax.random.key(0), data)
    after, info = compute(state, data)
    mean = after.collections["batch_stats"]["BatchNorm_0"]["mean"]
    hidden = data.x @ state.params["Dense_0"]["kernel"] + state.params["Dense_0"]["bias"]
    np.testing.assert_allclose(mean, 0.1 * hidden.mean(axis=0), rtol=1e-4, atol=1e-6)

    # Dropout depends on the key and on the step; predictions have none.
    for other in (state._replace(key=jax.random.key(1)), state._replace(step=state.step + 1)):
        assert float(compute(other, data)[1].loss) != float(info.loss)
    predictions = [methods.predict(Noisy(), after._replace(key=key), data.x) for key in jax.random.split(after.key)]
    np.testing.assert_array_equal(*predictions)
    for _ in range(30):
        after, info = compute(after, data)
    assert float(info.loss) < 0.2


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_precision_follows_the_data(variant, x64):
    instance, data = method(variant, Noisy()), jax.tree.map(jnp.asarray, batch(x64))
    state = jax.eval_shape(instance.init, jax.random.key(0), data)
    after, info = jax.eval_shape(instance.update, state, data)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, info))} == {np.dtype(x64)}
    # The state keeps its types, so that a loop can carry it.
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )


BAD: list[tuple[str, Callable[[Batch], Batch], str]] = [
    ("erm", lambda b: b._replace(y=b.y[1:]), rf"y: expected shape \({N},\)"),
    ("erm", lambda b: b._replace(y=(b.y > 0).astype(float)), r"y: expected labels -1 and \+1"),
    ("erm", lambda b: b._replace(x=b.x * np.nan), r"x: expected finite numbers"),
    ("erm", lambda b: b._replace(x=b.x[:0]), r"x: expected a non-empty array"),
    (
        "irm",
        lambda b: b._replace(environment=None),
        r"environment: expected whole numbers \(12,\) from 0 to 1, got None",
    ),
    ("irm", lambda b: b._replace(environment=b.index), r"environment: .* from 0 to 1, got \[0, 11\]"),
    ("vrex", lambda b: b._replace(environment=b.environment - 1), r"environment: .* from 0 to 1, got \[-1, 0\]"),
    ("vrex", lambda b: b._replace(environment=b.environment / 2), r"environment: .* got float32 of shape \(12,\)"),
    ("group_dro", lambda b: b._replace(group=None), r"group: expected whole numbers \(12,\) from 0 to 2, got None"),
    ("group_dro", lambda b: b._replace(group=b.group[:3]), r"group: .* of shape \(3,\)"),
    ("lff_averaged", lambda b: b._replace(index=None), r"index: expected whole numbers .* got None"),
    ("lff_averaged", lambda b: b._replace(index=b.index + 1), r"index: .* from 0 to 11, got \[1, 12\]"),
]


@pytest.mark.parametrize(("variant", "spoil", "message"), BAD)
def test_bad_batches_are_refused_by_init_and_by_the_loop(variant, spoil, message):
    instance, bad = method(variant, Linear()), spoil(batch())
    with pytest.raises(ValueError, match=f"^{message}"):
        instance.init(jax.random.key(0), bad)
    with pytest.raises(ValueError, match=f"^{message.partition(':')[0]}: expected"):
        methods.train(instance, jax.random.split(jax.random.key(0), 2), bad, steps=1)


@pytest.mark.parametrize("name", methods.NAMES)
def test_a_method_needs_exactly_the_fields_of_its_entry(name):
    instance, data = method(name, plain(name)), batch()
    needs = methods.REGISTRY[name].needs
    blank = {field: None for field in Batch._fields if field not in ("x", "y", *needs)}
    instance.init(jax.random.key(0), data._replace(**blank))
    for field in needs:
        with pytest.raises(ValueError, match=f"^{field}: expected "):
            instance.init(jax.random.key(0), data._replace(**{field: None}))


def test_labels_of_several_classes():
    instance = method("erm", Linear(pair=True))
    for y in (np.arange(N), np.tile([-1, 1], N // 2), np.zeros(N)):
        with pytest.raises(ValueError, match=r"^y: expected whole numbers \(12,\) from 0 to 1"):
            instance.init(jax.random.key(0), batch()._replace(y=y))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("erm", {"weight_decay": -1.0}, r"weight_decay: expected a finite number, 0 or above, got -1"),
        ("spectral_decoupling", {"strength": [0.1, -0.1]}, r"strength: expected finite numbers, 0 or above"),
        ("spectral_decoupling", {"strength": 0.1, "loss_scale": 0.0}, r"loss_scale: expected a finite positive number"),
        ("spectral_decoupling", {"strength": 0.1, "target": np.inf}, r"target: expected finite numbers"),
        ("spectral_decoupling", {"strength": [0.1, 0.2], "switch": 3}, r"strength: expected a scalar"),
        ("spectral_decoupling", {"strength": 0.0, "switch": 3}, r"strength: expected a finite positive number"),
        ("spectral_decoupling", {"strength": 0.1, "switch": -1}, r"switch: expected a whole number"),
        ("spectral_decoupling", {"strength": 0.1, "switch": 3, "loss_scale": 0.5}, r"loss_scale: expected none"),
        ("irm", {"penalty_weight": np.nan}, r"penalty_weight: expected a finite number, 0 or above"),
        ("irm", {"penalty_weight": 1.0, "environments": 0}, r"environments: expected a whole number of at least 1"),
        ("vrex", {"penalty_weight": 1.0, "anneal": 0.5}, r"anneal: expected a whole number of at least 0"),
        ("group_dro", {"groups": 0}, r"groups: expected a whole number"),
        ("group_dro", {"groups": 2, "step_size": -0.1}, r"step_size: expected a finite number, 0 or above"),
        ("lff", {"q": 0.0}, r"q: expected a number in \(0, 1\]"),
        ("lff", {"decay": 1.0}, r"decay: expected a number in \[0, 1\)"),
        ("lff", {"examples": 0}, r"examples: expected a whole number"),
    ],
)
def test_bad_options_are_refused_by_the_constructor(name, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        methods.get(name)(Linear(), optax.sgd(0.1), **options)


@pytest.mark.parametrize("field", ["strength", "target"])
def test_options_by_class_have_one_entry_per_class(field):
    options = {"strength": 0.1, field: [0.1, 0.2, 0.3]}
    instance = methods.get("spectral_decoupling")(Linear(), optax.sgd(0.1), **options)
    with pytest.raises(ValueError, match=rf"^{field}: expected one number or 2, one per class, got shape \(3,\)"):
        instance.init(jax.random.key(0), batch())


def test_outputs_of_another_shape():
    class Wrong(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x)[:, :, None]

    expected = r"^network: expected outputs \(12,\) or \(12, k\) with k > 1, got shape \(12, 2, 1\)"
    with pytest.raises(ValueError, match=expected):
        methods.get("erm")(Wrong(), optax.sgd(0.1)).init(jax.random.key(0), batch())
