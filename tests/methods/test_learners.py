"""Which leaves a step changes, in methods with several networks."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's.

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsjax import methods
from gsjax.methods import Info, Method
from tests.methods.learners import TOYS, sieve, stage_value, taught, variables
from tests.methods.toys import Noisy, batch, close, compiled, leaves

DATA, KEY = batch(), jax.random.key(0)
BELOW = {"Dense_0"}  # the layers that the stage of that name depends on
OPTIMIZERS = {
    "momentum": optax.sgd(0.3, momentum=0.5),
    "adam": optax.adam(0.1),
    "clipped, with decay and a schedule": optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(0.1, 100), weight_decay=0.1)
    ),
    "by layer": optax.partition(
        {"first": optax.adam(0.1), "rest": optax.sgd(0.1, momentum=0.5)},
        lambda params: {name: "first" if name == "Dense_0" else "rest" for name in params},
    ),
}


def by_path(tree) -> dict[str, np.ndarray]:
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(tree)]
    return dict(zip(paths, leaves(tree), strict=True))


def changed(before, after) -> set[str]:
    """The paths of the leaves that differ in any bit."""
    old, new = by_path(before), by_path(after)
    assert old.keys() == new.keys()
    return {path for path in old if old[path].tobytes() != new[path].tobytes()}


def paths(tree, *names: str) -> set[str]:
    """The paths of the leaves that belong to the named layers; without names, of those that belong to no layer."""
    layers = ("Dense_0", "BatchNorm_0", "Dense_1")
    found = {path: [name for name in layers if f"'{name}'" in path] for path in by_path(tree)}
    return {path for path, owners in found.items() if (owners[0] in names if owners else not names)}


def squares(logits, ridge):
    value = (logits**2).mean() + ridge
    return Info(value, value, value), ()


@functools.cache
def erm() -> Method:
    return methods.get("erm")(Noisy(), optax.sgd(0.3, momentum=0.5))


def toy(name: str, **options) -> Method:
    make, given = TOYS[name]
    return make(Noisy(), optax.sgd(0.3, momentum=0.5), **{**given, **options})


@pytest.fixture(scope="module")
def course() -> list[methods.State]:
    """The states of three steps of ERM."""
    states, update = [erm().init(KEY, DATA)], compiled(erm().update)
    for _ in range(3):
        states.append(update(states[-1], DATA)[0])
    return states


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
def test_a_partial_step_changes_only_the_named_layers(optimizer):
    network = Noisy()
    step = functools.partial(methods.minimise, network, optimizer, x=DATA.x, objective=squares, weight_decay=0.1)

    def steps(learner):
        only = {name: jax.tree.map(lambda _, name=name: name in BELOW, tree) for name, tree in learner.params.items()}
        learner, _, _ = step(learner=learner, step=0)
        return learner, step(learner=learner, step=1, only=only)[0], step(learner=learner, step=1)[0]

    learner, partial, whole = compiled(steps)(methods.init_learner(network, optimizer, KEY, DATA.x))

    assert changed(learner.params, partial.params) == paths(learner.params, *BELOW)
    assert changed(learner.params, whole.params) == set(by_path(learner.params))
    # In the optimiser's state, leaves of these layers change, and so do counts, which belong to no layer.
    layer_paths = paths(learner.optimizer, *BELOW)
    assert layer_paths
    assert changed(learner.optimizer, partial.optimizer) == layer_paths | paths(learner.optimizer)
    assert changed(learner.optimizer, whole.optimizer) == set(by_path(learner.optimizer))
    assert not changed(learner.collections, partial.collections)
    assert changed(learner.collections, whole.collections)
    assert not changed(learner.key, partial.key)


def test_a_partial_step_equals_a_step_of_the_optimiser_on_its_layers():
    network, rate, momentum = Noisy(), 0.3, 0.5
    optimizer = optax.sgd(rate, momentum)
    learner = methods.init_learner(network, optimizer, KEY, DATA.x)
    only = {name: jax.tree.map(lambda _, name=name: name in BELOW, learner.params[name]) for name in learner.params}

    def value(params, learner):
        rngs = {"dropout": jax.random.fold_in(learner.key, 4)}
        given = {**variables(learner), "params": params}
        logits, _ = network.apply(given, DATA.x, train=True, rngs=rngs, mutable=["batch_stats"])
        return (logits**2).mean()

    gradient = compiled(jax.grad(value))
    step = compiled(
        lambda learner: methods.minimise(network, optimizer, learner, DATA.x, squares, step=4, only=only)[0]
    )
    for _ in range(2):
        trace = gradient(learner.params, learner)["Dense_0"]["kernel"]
        trace += momentum * learner.optimizer[0].trace["Dense_0"]["kernel"]
        expected = learner.params["Dense_0"]["kernel"] - rate * trace
        learner = step(learner)
        np.testing.assert_allclose(learner.params["Dense_0"]["kernel"], expected, rtol=1e-5, atol=1e-7)


def test_a_readout_without_forgetting_does_not_change_erm(course):
    method = toy("readout")  # its forgetting steps have the rate 0
    state, update, losses = method.init(KEY, DATA), compiled(method.update), []
    for expected in course[1:]:
        state, info = update(state, DATA)
        close(state._replace(others={}), expected)
        losses.append(float(info.penalty))
    assert losses == sorted(losses, reverse=True)  # it learns


def test_forgetting_changes_only_layers_up_to_its_stage(course):
    method = toy("forgetting", rate=0.01, every=2)
    state, update = method.init(KEY, DATA), compiled(method.update)
    first, _ = update(state, DATA)
    close(first._replace(others={}), course[1])  # the first forgetting step is the second one
    second, _ = update(first, DATA)
    assert changed(course[2].params, second.params) >= paths(second.params, *BELOW)
    above = [{name: tree for name, tree in state.params.items() if name not in BELOW} for state in (second, course[2])]
    assert above[0]
    close(*above)
    for field in ("collections", "optimizer", "step", "key", "memory"):
        close(getattr(second, field), getattr(course[2], field))
    # The squared output of the readout is smaller than without forgetting.
    readout = second.others["readout"].params["Dense_0"]
    sizes = [
        float(((stage_value(Noisy(), state.main, DATA.x, "Dense_0") @ readout["kernel"] + readout["bias"]) ** 2).mean())
        for state in (course[2], second)
    ]
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize("position", [None, "Dense_0"])
def test_a_teacher_is_frozen_and_attracts_the_student(position):
    strong, none = (taught(Noisy(), optax.sgd(0.05), weight=weight, position=position) for weight in (3.0, 0.0))
    distances = []
    for method in (strong, none):
        state, update = method.init(KEY, DATA), compiled(method.update)
        teacher = state.others["teacher"]
        assert teacher.optimizer is None
        assert changed(state.params, teacher.params)  # it is another network
        for _ in range(20):
            state, _ = update(state, DATA)
        assert not changed(teacher, state.others["teacher"])

        def response(learner):
            if position is None:
                return methods.predict(Noisy(), learner, DATA.x)
            return stage_value(Noisy(), learner, DATA.x, position)

        distances.append(float(((response(state) - response(teacher)) ** 2).mean()))
    assert distances[0] < distances[1] / 2


@pytest.mark.parametrize("name", TOYS)
def test_all_seeds_train_in_one_program(name):
    method, traced = toy(name), []

    def update(state, batch):
        traced.append(batch)
        return method.update(state, batch)

    counted = Method(method.init, update)
    keys = jax.random.split(KEY, 3)
    run = methods.train(
        counted, keys, DATA, steps=30, batch_size=6, record=[0, 30], evaluate=held_out_loss, held_out=DATA
    )
    assert len(traced) == 1
    assert run.finite.all()
    assert (run.records[:, 1] < run.records[:, 0] / 2).all()
    for learner in run.state.learners.values():
        assert {leaf.shape[0] for leaf in jax.tree.leaves(learner)} == {3}


def held_out_loss(state, batch):
    return methods.terms.losses(methods.predict(Noisy(), state, batch.x), batch.y).mean()


def test_learners_by_name():
    state = sieve(Noisy(), optax.sgd(0.1), position="Dense_0").init(KEY, DATA)
    assert list(state.learners) == ["main", "readout"]
    moved = methods.map_learners(
        lambda learner: learner._replace(params=jax.tree.map(lambda leaf: leaf + 1, learner.params)), state
    )
    assert changed(state, moved) == {path for path in by_path(state) if ".params" in path}
    renamed = state.with_learners(main=moved.main, teacher=methods.Learner(state.params))
    assert not changed(moved.params, renamed.params)
    assert not changed(state.others["readout"], renamed.others["readout"])
    assert list(renamed.learners) == ["main", "readout", "teacher"]
    assert list(state.others) == ["readout"]
    assert int(renamed.stepped().step) == int(state.step) + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": {"Dense_0": True}}, r"only: expected True or False for each leaf of the params, got \{'Dense_0'"),
        ({"only": "ones"}, r"only: expected True or False for each leaf"),
        ({"stages": ("Dense_7",)}, r"names: expected one of the stages Dense_0, .* got 'Dense_7'"),
        ({"weight_decay": -1.0}, r"weight_decay: expected a finite number, 0 or above"),
        ({"learner": "teacher"}, r"learner: expected a learner with optimiser state"),
    ],
)
def test_bad_arguments_of_a_step(options, message):
    learner = methods.init_learner(Noisy(), optax.sgd(0.1), KEY, DATA.x)
    if options.get("only") == "ones":
        options = {"only": jax.tree.map(jnp.ones_like, learner.params)}
    if options.get("learner") == "teacher":
        options = {"learner": learner._replace(optimizer=None)}
    arguments = {"learner": learner, "x": DATA.x, "objective": squares, "step": 0, **options}
    with pytest.raises(ValueError, match=f"^{message}"):
        jax.eval_shape(lambda: methods.minimise(Noisy(), optax.sgd(0.1), **arguments))


def test_an_optimiser_that_couples_its_parameters_takes_no_partial_steps():
    optimizer = optax.scale_by_lbfgs()
    learner = methods.init_learner(Noisy(), optimizer, KEY, DATA.x)
    only = jax.tree.map(lambda _: True, learner.params)
    with pytest.raises(ValueError, match=r"^optimizer: expected one whose state is per parameter.* got .*memory"):
        jax.eval_shape(lambda: methods.minimise(Noisy(), optimizer, learner, DATA.x, squares, step=0, only=only))
