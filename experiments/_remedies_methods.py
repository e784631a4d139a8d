"""The methods of the experiment `remedies` with their search spaces, trained for many configurations at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from gsjax import methods
from gsjax.methods import Batch, Info, Method, State, terms

Distribution = tuple[str, Any]  # "log" or "even" with both ends, or "one of" with values


class Setting(NamedTuple):
    """What all methods share: the network, the number of its updates, of examples, and the stages for readouts."""

    network: nn.Module
    steps: int
    examples: int
    positions: tuple[str, str]


class Arm(NamedTuple):
    """A method of the table: its label, the extra information it uses, and the search space of its own options.

    `make(setting, optimizer, variant, **options)` is the method. `numbers` are options that are drawn and do not change
    the program. `variants` do change it, and are taken in turn. `updates(steps, variant)` are the updates that contain
    `steps` updates of the whole main network.
    """

    label: str
    make: Callable[..., Method]
    numbers: Mapping[str, Distribution] = {}
    variants: tuple[Any, ...] = (None,)
    updates: Callable[[int, Any], int] = lambda steps, variant: steps
    uses: str = ""


class Configuration(NamedTuple):
    """Options of a method: `name` is the arm whose method is trained, `values` its numbers, `variant` the rest."""

    name: str
    values: tuple[float, ...]
    variant: Any = None

    def __str__(self) -> str:
        named = zip(names(self.name), self.values, strict=True)
        kind = [] if self.variant is None else [f"variant {self.variant}"]
        return ", ".join([ARMS[self.name].label, *kind, *(f"{name} {value:.3g}" for name, value in named)])


COMMON: dict[str, Distribution] = {
    "learning_rate": ("one of", (0.005, 0.02, 0.05)),
    "weight_decay": ("one of", (1e-4, 1e-3, 1e-2)),
}
READOUT = optax.sgd(0.02, momentum=0.9)  # of the readouts of DeDiER and of the sieve
NEUTRAL = (0.02, 1e-3)  # the first configuration of every method, that of doing nothing: ERM with these


def names(name: str) -> tuple[str, ...]:
    """The names of the numbers of a configuration."""
    return (*COMMON, *ARMS[name].numbers)


def configurations(name: str, count: int, seed: int) -> list[Configuration]:
    """The configurations that are tried: the neutral one, which is ERM, and `count - 1` random ones.

    Learning rate and weight decay of the i-th one are the same for all methods.

    >>> first, second = configurations("sd", 2, 0)
    >>> str(first)
    'ERM, learning_rate 0.02, weight_decay 0.001'
    >>> second.values[:2] == configurations("erm", 2, 0)[1].values
    True
    """
    neutral = name if name == "oracle" else "erm"
    found = [Configuration(neutral, NEUTRAL)]
    arm = ARMS[name]
    for number in range(1, count):
        common = [_drawn(np.random.default_rng([seed, number, i]), COMMON[key]) for i, key in enumerate(COMMON)]
        rng = np.random.default_rng([seed, number, *name.encode()])
        own = [_drawn(rng, each) for each in arm.numbers.values()]
        found.append(Configuration(name, (*common, *own), arm.variants[number % len(arm.variants)]))
    return found


def _drawn(rng: np.random.Generator, distribution: Distribution) -> float:
    kind, given = distribution
    if kind == "one of":
        return float(given[rng.integers(len(given))])
    low, high = given
    return float(np.exp(rng.uniform(np.log(low), np.log(high))) if kind == "log" else rng.uniform(low, high))


@functools.lru_cache(maxsize=256)
def method(name: str, variant: Any, setting: Setting) -> Method:
    """The method of an arm, whose numbers are part of the data, so that all configurations share a compiled program.

    `teacher_features[0]` of a batch are the numbers, in the order of `names`; no method here uses a teacher's features.
    The memory of the state is the pair of the numbers and the memory of the method.
    """
    arm = ARMS[name]

    def built(values: Array) -> Method:
        options = dict(zip(names(name), values, strict=True))
        rate = options.pop("learning_rate")
        return arm.make(setting, decaying(rate, setting.steps), variant, **options)

    def init(key: Key[Array, ""], batch: Batch) -> State:
        values: Any = batch.teacher_features
        state = built(values[0]).init(key, batch._replace(teacher_features=None))
        return state._replace(memory=(values[0], state.memory))

    def update(state: State, batch: Batch) -> tuple[State, Info]:
        values, memory = state.memory
        inner = state._replace(memory=memory)
        after, info = built(values).update(inner, batch._replace(teacher_features=None))
        return after._replace(memory=(values, after.memory)), info

    return Method(init, update)


def decaying(rate: Any, steps: int) -> optax.GradientTransformation:
    """SGD with momentum 0.9, and a learning rate that falls from `rate` to zero along a cosine."""
    schedule = optax.cosine_decay_schedule(1.0, steps)
    return optax.sgd(lambda step: rate * schedule(step), momentum=0.9)


class Counted(NamedTuple):
    """The memory of `reweighted`: the weight of each class or group, `(count,)`."""

    weights: Float[Array, " count"]


def reweighted(
    network: nn.Module, optimizer: optax.GradientTransformation, *, groups: bool, power: Any, weight_decay: Any
) -> Method:
    """ERM with weights: mean_i w_i loss_i + (weight_decay / 2) ||theta||^2.

    w is (n / (G n_g))^power for an example of class or group g, of which there are n_g of all n in the data given to
    `init`; G is the number of classes or groups that occur. Weights are scaled to a mean of 1 over the data. With a
    power of 0 this is ERM, with 1 all groups count alike.
    """
    count = 4 if groups else 2

    def member(batch: Batch) -> Any:
        return batch.group if groups else (jnp.asarray(batch.y) > 0).astype(int)

    def init(key: Key[Array, ""], batch: Batch) -> State:
        state = methods.init_state(network, optimizer, key, batch)
        parts = (jnp.arange(count)[:, None] == member(batch)).mean(axis=1)
        weights = jnp.where(parts > 0, jnp.where(parts > 0, parts, 1) ** -power, 0)
        return state._replace(memory=Counted((weights / (parts @ weights)).astype(jnp.float32)))

    def update(state: State, batch: Batch) -> tuple[State, Info]:
        def objective(logits: Array, ridge: Array) -> tuple[Info, tuple[()]]:
            each = terms.losses(logits, batch.y)
            loss = (state.memory.weights[member(batch)] * each).mean()
            return Info(loss + ridge, each.mean(), loss), ()

        main, info, _ = methods.minimise(
            network, optimizer, state.main, batch.x, objective, step=state.step, weight_decay=weight_decay
        )
        return state.stepped(main=main), info

    return methods.checked(init, update)


def _registered(name: str, **fixed: Any) -> Callable[..., Method]:
    def make(setting: Setting, optimizer: optax.GradientTransformation, variant: Any, **options: Any) -> Method:
        return methods.get(name)(setting.network, optimizer, **fixed, **options)

    return make


def _invariant(name: str) -> Callable[..., Method]:
    def make(setting: Setting, optimizer: optax.GradientTransformation, variant: Any, **options: Any) -> Method:
        return methods.get(name)(setting.network, optimizer, anneal=setting.steps // 4, **options)

    return make


def _lff(setting: Setting, optimizer: optax.GradientTransformation, variant: Any, **options: Any) -> Method:
    return methods.get("lff")(setting.network, optimizer, examples=setting.examples, decay=0.7, **options)


def _dedier(setting: Setting, optimizer: optax.GradientTransformation, variant: Any, **options: Any) -> Method:
    position = setting.positions[variant]
    fixed = {"refresh_every": period(setting.steps), "readout_steps": period(setting.steps)}
    return methods.get("dedier")(
        setting.network, optimizer, position=position, readout_optimizer=READOUT, **fixed, **options
    )


def _sieve(setting: Setting, optimizer: optax.GradientTransformation, variant: Any, **options: Any) -> Method:
    position = setting.positions[variant]
    fixed = {"every": 5, "depth": 0, "readout_optimizer": READOUT}
    return methods.get("sieve")(setting.network, optimizer, position=position, **fixed, **options)


def _jtt(setting: Setting, optimizer: optax.GradientTransformation, variant: Any, **options: Any) -> Method:
    first = identification(setting.steps, variant)
    return methods.get("jtt")(setting.network, optimizer, identification_steps=first, **options)


def _dfr(
    setting: Setting, optimizer: optax.GradientTransformation, variant: Any, last_rate: Any, **options: Any
) -> Method:
    last = optax.sgd(last_rate, momentum=0.9)
    return methods.get("dfr")(
        setting.network, optimizer, groups=4, feature_steps=setting.steps, last_optimizer=last, **options
    )


def period(steps: int) -> int:
    """DeDiER's updates of the student between two refreshes, and of the readout in each: an eighth of all.

    >>> period(240)
    30
    """
    return max(1, steps // 8)


def identification(steps: int, share: float) -> int:
    """JTT's updates of the first network.

    >>> identification(240, 0.25)
    60
    """
    return max(1, round(steps * share))


def _reweighted(groups: bool) -> Callable[..., Method]:
    def make(setting: Setting, optimizer: optax.GradientTransformation, variant: Any, **options: Any) -> Method:
        return reweighted(setting.network, optimizer, groups=groups, **options)

    return make


ARMS: dict[str, Arm] = {
    "erm": Arm("ERM", _registered("erm")),
    "sd": Arm("SD", _registered("spectral_decoupling"), {"strength": ("log", (0.003, 1.0))}),
    "lff": Arm("LfF", _lff, {"q": ("even", (0.3, 0.9))}),
    "irm": Arm("IRM", _invariant("irm"), {"penalty_weight": ("log", (1.0, 1e4))}, uses="environments"),
    "vrex": Arm("V-REx", _invariant("vrex"), {"penalty_weight": ("log", (1.0, 1e4))}, uses="environments"),
    "distillation": Arm(
        "distillation",
        _registered("distillation"),
        {"mix": ("even", (0.3, 1.0)), "temperature": ("log", (1.0, 8.0))},
        uses="a teacher",
    ),
    "dedier": Arm(
        "DeDiER",
        _dedier,
        {"mix": ("even", (0.3, 1.0)), "temperature": ("log", (1.0, 8.0)), "beta": ("log", (0.5, 8.0))},
        variants=(0, 1),
        updates=lambda steps, variant: methods.dedier.updates(steps, period(steps), period(steps)),
        uses="a teacher",
    ),
    "sieve": Arm("sieve", _sieve, {"forget_rate": ("log", (1e-3, 1.0))}, variants=(0, 1)),
    "jtt": Arm(
        "JTT",
        _jtt,
        {"upweight": ("log", (2.0, 50.0))},
        variants=(0.125, 0.5),
        updates=lambda steps, variant: methods.jtt.updates(steps, identification(steps, variant)),
    ),
    "dfr": Arm(
        "DFR",
        _dfr,
        {"last_rate": ("log", (0.003, 0.3))},
        updates=lambda steps, variant: methods.dfr.updates(steps // 2, steps),
        uses="groups",
    ),
    "group_dro": Arm(
        "Group DRO", _registered("group_dro", groups=4), {"step_size": ("log", (1e-3, 1.0))}, uses="groups"
    ),
    "group_balanced": Arm(
        "group-balanced ERM", _reweighted(True), {"power": ("one of", (0.5, 0.75, 1.0))}, uses="groups"
    ),
    "class_balanced": Arm("class-balanced ERM", _reweighted(False), {"power": ("one of", (0.5, 1.0, 1.5))}),
    "oracle": Arm("oracle", _registered("erm"), uses="the spurious feature is removed, in testing too"),
}
DERIVED = {
    "offset": ("ERM + offset", ""),
    "stopped": ("ERM, stopped early", ""),
    "teacher": ("ERM on balanced data", "balanced data; it is the teacher"),
}
LABELS = {**{name: arm.label for name, arm in ARMS.items()}, **{name: label for name, (label, _) in DERIVED.items()}}
USES = {**{name: arm.uses for name, arm in ARMS.items()}, **{name: uses for name, (_, uses) in DERIVED.items()}}
ENVIRONMENTS = tuple(name for name, arm in ARMS.items() if arm.uses == "environments")


class Trained(NamedTuple):
    """Trained networks, in the order of configurations and, within one, of keys.

    `learners` has an axis of networks first, and then, if `record` was given, one of recorded updates. `seconds` are
    those of the processor per network, without compilation.
    """

    learners: methods.Learner
    finite: np.ndarray
    seconds: float


def train(
    name: str,
    variant: Any,
    values: Float[np.ndarray, "configurations numbers"],
    setting: Setting,
    keys: Key[Array, " seeds"],
    data: Batch,
    *,
    batch_size: int,
    together: int,
    record: tuple[int, ...] = (),
    clock: Callable[[], float],
) -> Trained:
    """Trains a network for each configuration and key, all in one compiled program.

    Args:
        name: of the arm.
        variant: of its configurations.
        values: their numbers.
        setting: what all methods have in common.
        keys: one per seed.
        data: training examples of each seed.
        batch_size: examples per update.
        together: how many networks are trained at a time.
        record: the updates after which networks are returned; by default the last one, without an axis.
        clock: the time in seconds, e.g. `time.process_time`.
    """
    seeds = len(keys)
    total = len(values) * seeds
    steps = ARMS[name].updates(setting.steps, variant)
    options: dict[str, Any] = {"batch_size": batch_size, "per_seed": True, "evaluate": _learner, "what": LABELS[name]}
    # All calls have the same number of networks, so that they share a compiled program.
    rows = np.arange(-(-total // together) * together).reshape(-1, together) % total
    parts, finite, seconds = [], [], 0.0
    for number, part in enumerate(rows):
        own = jax.tree.map(lambda leaf, part=part: jnp.asarray(leaf)[part % seeds], data)
        numbers = np.repeat(np.asarray(values, np.float32)[part // seeds, None], len(data.y[0]), axis=1)
        own = own._replace(teacher_features=jnp.asarray(numbers))
        run = functools.partial(
            methods.train, method(name, variant, setting), keys[part % seeds], own, held_out=own.y, **options
        )
        if number == 0:
            run(steps=1)  # compiles
        start = clock()
        done = run(steps=steps, record=list(record) or [steps])
        seconds += clock() - start
        parts.append(done.records)
        finite.append(done.finite)
    learners = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:total], *parts)
    learners = learners if record else jax.tree.map(lambda leaf: leaf[:, 0], learners)
    return Trained(learners, np.concatenate(finite)[:total], seconds / rows.size)


def _learner(state: State, _: Any) -> methods.Learner:
    """What the network that predicts needs, without its optimiser's state."""
    return methods.Learner(state.params, state.collections)
