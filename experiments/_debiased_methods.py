"""Methods of the experiment `debiased_distillation`: their candidates, and controls in which weights are permuted."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from experiments import groups
from gsjax import methods
from gsjax.methods import Batch, Info, Method, State, dedier, distillation, jtt, terms

Options = tuple[tuple[str, Any], ...]
"""The options of a candidate, as pairs of names and values."""


class Recipe(NamedTuple):
    """How all networks of a setting are trained.

    Attributes:
        steps: updates of the student, the same for all methods.
        epoch: steps of an epoch.
        rate: the initial learning rate of SGD with momentum 0.9, which falls along a cosine.
        decay: weight decay.
        sizes: of the classes -1 and +1.
        mix: the share of the teacher's term in the loss.
        temperature: of the teacher's term.
        refresh: updates of the student from one refresh of DeDiER's weights to the next.
        reading: updates of the readout before a refresh.
        readout_rate: their learning rate; SGD with momentum 0.9 as well.
        readout_width: of the blocks of deeper readouts.
        pooled: whether the linear layer of a readout takes the mean over positions.
    """

    steps: int
    epoch: int
    rate: float
    decay: float
    sizes: tuple[int, int]
    mix: float
    temperature: float
    refresh: int
    reading: int
    readout_rate: float
    readout_width: int
    pooled: bool


class Planned(NamedTuple):
    """A method, the number of its updates, the first of which after a refresh of weights, and the readout's options.

    `first` is None for methods without a readout.
    """

    method: Method
    updates: int
    first: int | None = None
    readout: Options = ()


def candidates(
    positions: tuple[str, ...], *, beta: float, alpha: float, betas: tuple[float, ...], mix: float, temperature: float
) -> dict[str, list[dict[str, Any]]]:
    """The options that each method tries, in order; the first are published ones, round numbers, or the recipe's.

    "rate" and "decay" multiply those of the recipe, and "identify" counts epochs. DeDiER's first candidate is plain
    distillation.
    """
    base = {"position": positions[0], "beta": beta, "alpha": alpha}
    recipes = [{}, {"rate": 0.4}, {"decay": 20.0}, {"rate": 0.4, "decay": 20.0}]
    return {
        "erm": recipes,
        "balanced": recipes,
        "distillation": [
            {"mix": share, "temperature": heat} for share in (mix, mix / 2) for heat in (temperature, temperature / 4)
        ],
        "dedier": [
            base | {"beta": 0.0},
            base,
            base | {"beta": betas[-1]},
            base | {"position": positions[min(1, len(positions) - 1)]},
        ],
        "sd": [{"strength": strength} for strength in (0.2, 0.02, 1.0, 0.002)],
        "group_dro": [{"step_size": size, "decay": decay} for decay in (1.0, 20.0) for size in (0.01, 0.1)],
        "lff": [{"q": q} for q in (0.7, 0.3, 0.5, 0.9)],
        "jtt": [{"identify": epochs, "upweight": weight} for epochs in (1, 2) for weight in (20.0, 5.0)],
    }


@functools.lru_cache(maxsize=8)
def build(arm: str, options: Options, network: nn.Module, recipe: Recipe) -> Planned:
    """The method of an arm with the options of a candidate.

    LfF has the moving averages of its published code. Plain distillation pauses where DeDiER trains its readout, so
    that both see the same batches.
    """
    given = dict(options)
    rate, decay = given.pop("rate", 1.0) * recipe.rate, given.pop("decay", 1.0) * recipe.decay
    optimizer = sgd(rate, recipe.steps)
    common: dict[str, Any] = {"weight_decay": decay}
    taught = {"mix": given.pop("mix", recipe.mix), "temperature": given.pop("temperature", recipe.temperature)}
    if arm == "balanced":
        return Planned(groups.balanced(network, optimizer, sizes=recipe.sizes, weight_decay=decay), recipe.steps)
    if arm == "jtt":
        first = int(given.pop("identify")) * recipe.epoch
        common |= {"identification_steps": first, "identification_optimizer": optax.sgd(rate, momentum=0.9), **given}
        return Planned(jtt.jtt(network, optimizer, **common), jtt.updates(recipe.steps, first))
    pace = recipe.refresh, recipe.reading
    updates = dedier.updates(recipe.steps, *pace)
    if arm == "distillation":
        return Planned(paced(distillation.distillation(network, optimizer, **taught, **common), *pace), updates)
    if arm in ("dedier", "permuted", "permuted in classes"):
        where = {"position": given.pop("position"), "depth": int(given.pop("depth", 0))}
        where |= {"width": recipe.readout_width, "pooled": recipe.pooled}
        common |= {**taught, **given, "refresh_every": recipe.refresh, "readout_steps": recipe.reading}
        common["readout_optimizer"] = optax.sgd(recipe.readout_rate, momentum=0.9)
        if arm == "dedier":
            found = dedier.dedier(network, optimizer, **where, **common)
        else:
            found = permuted(network, optimizer, where=where, within=arm != "permuted", **common)
        weighted = {"beta": given["beta"], "alpha": given["alpha"]}
        return Planned(found, updates, sum(pace), tuple({**where, **weighted}.items()))
    more = {"lff": {"examples": sum(recipe.sizes), "decay": 0.7}, "group_dro": {"groups": 4}}.get(arm, {})
    registered = {"sd": "spectral_decoupling"}.get(arm, arm)
    return Planned(methods.get(registered)(network, optimizer, **common, **more, **given), recipe.steps)


def sgd(rate: float, steps: int) -> optax.GradientTransformation:
    """SGD with momentum 0.9 and a learning rate that falls along a cosine."""
    return optax.sgd(optax.cosine_decay_schedule(rate, steps), momentum=0.9)


def paced(method: Method, refresh_every: int, readout_steps: int) -> Method:
    """The method, with `readout_steps` idle updates after every `refresh_every` updates, for one without a memory.

    An idle update takes a batch and changes nothing but the number of the step, like the training of a readout. So the
    network sees the same batches as the student of `methods.dedier`.
    """
    period = refresh_every + readout_steps

    def update(state: State, batch: Batch) -> tuple[State, Info]:
        number, phase = jnp.divmod(state.step, period)

        def active() -> tuple[State, Info]:
            after, info = method.update(state._replace(step=number * refresh_every + phase), batch)
            return after._replace(step=state.step + 1), info

        def idle() -> tuple[State, Info]:
            blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(active)[1])
            return state._replace(step=state.step + 1), blank

        return lax.cond(phase < refresh_every, active, idle)

    return methods.checked(method.init, update)


def permuted(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    where: dict[str, Any],
    within: bool,
    beta: float,
    alpha: float,
    mix: float,
    temperature: float,
    refresh_every: int,
    weight_decay: float,
    shuffle: bool = True,
    **options: Any,
) -> Method:
    """DeDiER with its weights permuted over the examples of each batch: how much weight there is, but not where.

    Args:
        network: the student.
        optimizer: the student's.
        where: the options of `dedier` that define the readout.
        within: whether only examples of the same class exchange weights, so that each class keeps its own.
        beta: as all of the following, an option of `dedier`.
        alpha: likewise.
        mix: likewise.
        temperature: likewise.
        refresh_every: likewise.
        weight_decay: likewise.
        shuffle: whether weights are permuted; if not, the method is DeDiER.
        **options: further options of `dedier`.
    """
    shared = {"mix": mix, "temperature": temperature, "weight_decay": weight_decay, "refresh_every": refresh_every}
    base = dedier.dedier(network, optimizer, beta=beta, alpha=alpha, **shared, **where, **options)
    period = refresh_every + options["readout_steps"]

    def update(state: State, batch: Batch) -> tuple[State, Info]:
        def student() -> tuple[State, Info]:
            readings = dedier.snapshot_logits(network, state, batch.x, **where)
            weight = jnp.where(state.memory.refreshes > 0, dedier.weights(readings, batch.y, beta, alpha), 1)
            if shuffle:
                key = jax.random.fold_in(state.key, state.step)
                weight = weight[order(key, batch.y if within else jnp.zeros_like(batch.y))]

            def objective(logits: Array, ridge: Array) -> tuple[Info, tuple[()]]:
                loss = terms.losses(logits, batch.y).mean()
                each = distillation.divergence(logits, batch.teacher_logits, temperature)
                penalty = temperature**2 * (weight * each).mean()
                return Info((1 - mix) * loss + mix * penalty + ridge, loss, penalty), ()

            number, phase = jnp.divmod(state.step, period)
            main, info, _ = methods.minimise(
                network,
                optimizer,
                state.main,
                batch.x,
                objective,
                step=number * refresh_every + phase,
                weight_decay=weight_decay,
            )
            wrong = terms.errors(readings, batch.y).sum(dtype=jnp.int32)
            return state.stepped(main=main)._replace(
                memory=state.memory._replace(errors=wrong, mean_weight=weight.mean())
            ), info

        return lax.cond(state.step % period < refresh_every, student, lambda: base.update(state, batch))

    return methods.checked(base.init, update)


def order(key: Array, y: Float[Array, " n"]) -> Int[Array, " n"]:
    """A random permutation of the examples in which each takes the place of one with the same `y`.

    >>> moved = order(jax.random.key(0), jnp.array([1.0, 0.0, 1.0, 0.0, 1.0]))
    >>> sorted(moved[jnp.array([0, 2, 4])].tolist()), sorted(moved[jnp.array([1, 3])].tolist())
    ([0, 2, 4], [1, 3])
    """
    kept = jnp.argsort(y, stable=True)
    drawn = jnp.lexsort((jax.random.uniform(key, y.shape), y))
    return jnp.zeros(len(y), kept.dtype).at[kept].set(drawn)
