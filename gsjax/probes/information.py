r"""Usable information: how many bits about the labels a family of networks can extract from the inputs.

For a family V of predictors f[x](y), which may also ignore the input (f[null]), Xu et al. 2020, "A Theory of Usable
Information under Computational Constraints", define

.. math::

    I_V(X \to Y) = H_V(Y \mid \varnothing) - H_V(Y \mid X),
    \qquad H_V(Y \mid X) = \inf_{f \in V} \mathrm{E}[-\log_2 f[X](Y)].

Ethayarajh et al. 2022, "Understanding Dataset Difficulty with V-Usable Information", split it into numbers per example,

.. math::

    \text{PVI}(x \to y) = -\log_2 g_\varnothing[\varnothing](y) + \log_2 g[x](y),

where g is trained on the examples, and g_null on an empty input with the same labels. All numbers here are in bits.

V is given by a network and a method of `gsjax.methods`. The empty input consists of zeros. A network whose output at
zero can be any constant, such as one with biases, has H_V(Y | null) equal to the entropy of the class balance, so a
g_null that differs from the balance has not converged. The results say by how much it differs, since this difference is
counted as information.

The networks are evaluated on examples that they were not trained on. A network that overfits can give these less
probability than the null does: information that is estimated in this way can be negative, and is then, in expectation,
below that of the best member of V.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, Real

from gsjax import _check, methods, networks, statistics
from gsjax.methods import Batch, Method

__all__ = ["PointwiseInformation", "UsableInformation", "pointwise_information", "surprisal", "usable_information"]


class PointwiseInformation(NamedTuple):
    """Pointwise information of held-out examples, in bits; every field has one row per seed.

    `value (seeds, m)` is `null - conditional`. `conditional (seeds, m)` is -log2 g[x](y), and `null (seeds, m)` is
    -log2 g_null[null](y). `examples (seeds, m)` are the positions of the examples in the held-out data, or in `x` if
    part of it was held out. `null_gap (seeds,)` is the divergence of g_null from the class balance of its training
    examples, and `calibrated (seeds,)` tells whether it is within the tolerance. `finite (seeds,)` tells whether the
    objectives of g and g_null were finite at every step, and all values are.
    """

    value: Float[np.ndarray, "seeds m"]
    conditional: Float[np.ndarray, "seeds m"]
    null: Float[np.ndarray, "seeds m"]
    examples: Int[np.ndarray, "seeds m"]
    null_gap: Float[np.ndarray, " seeds"]
    calibrated: Bool[np.ndarray, " seeds"]
    finite: Bool[np.ndarray, " seeds"]


class UsableInformation(NamedTuple):
    """Usable information in bits: means over held-out examples, with one entry per seed.

    `value (seeds,)` is `null_entropy - conditional_entropy`, and `interval` its mean over the seeds with the interval
    of Student's t, or NaN if a seed is not finite. `null_gap`, `calibrated` and `finite` are those of
    `PointwiseInformation`.
    """

    value: Float[np.ndarray, " seeds"]
    interval: statistics.Interval
    conditional_entropy: Float[np.ndarray, " seeds"]
    null_entropy: Float[np.ndarray, " seeds"]
    null_gap: Float[np.ndarray, " seeds"]
    calibrated: Bool[np.ndarray, " seeds"]
    finite: Bool[np.ndarray, " seeds"]


def surprisal(logits: Float[ArrayLike, " n"] | Float[ArrayLike, "n k"], y: Real[ArrayLike, " n"]) -> Float[Array, " n"]:
    """The surprisal -log2 p(y) of each label in bits, for logits `(n,)` of labels -1 and +1, or `(n, k)` of indices.

    The pointwise information of a trained network is the surprisal of the class balance minus that of the network.

    Raises:
        ValueError: logits of another shape, or y that are not labels of these logits.

    >>> surprisal(jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([0])).tolist()
    [2.0]
    """
    logits = _check.floating("logits", logits)
    _check.require(logits.ndim > 0, "logits", "outputs (n,) or (n, k)", f"shape {logits.shape}")
    _check.outputs("logits", logits.shape, len(logits), classes=True)
    return methods.terms.losses(logits, _check.array("y", y)) / np.log(2)


def pointwise_information(
    key: Key[Array, ""],
    x: Real[ArrayLike, "n ..."],
    y: Real[ArrayLike, " n"],
    *,
    network: nn.Module | None = None,
    method: Method | None = None,
    held_out: tuple[Real[ArrayLike, "m ..."], Real[ArrayLike, " m"]] | None = None,
    group: Int[ArrayLike, " n"] | None = None,
    environment: Int[ArrayLike, " n"] | None = None,
    seeds: int = 5,
    steps: int = 1000,
    batch_size: int | None = 128,
    null: Literal["trained", "balance"] = "trained",
    tolerance: float = 0.01,
    per_seed: bool = False,
) -> PointwiseInformation:
    """Pointwise V-information of held-out examples in bits (Ethayarajh et al. 2022), for several seeds.

    g and g_null are trained alike by `methods.train`, with the same keys, i.e. the same initialisation and the same
    order of the labels.

    By default the examples are divided into as many parts as there are seeds, with the classes spread evenly, and seed
    i holds out the i-th part (cross-validation). The parts have n // seeds examples, and the remaining ones, fewer
    than `seeds`, are never held out. The seeds then differ by their examples as well as by their networks. With
    `held_out` they differ only by their networks.

    Args:
        key: determines the parts, the initial networks and the order of the examples.
        x: examples `(n, ...)`. With held-out parts, the memory for the training examples is `seeds` times theirs.
        y: labels `(n,)`: -1 and +1 for a network with outputs `(n,)`, class indices for outputs `(n, k)`.
        network: the network of V; by default `FullyConnected((64,))` with as many outputs as the labels need.
        method: the method of V, built on the `network`; by default `erm` with Adam, and a learning rate that falls from
            0.01 to 0 along a cosine.
        held_out: other examples `(m, ...)` and their labels `(m,)`, on which all seeds are evaluated.
        group, environment: fields of the `Batch` that the method needs, `(n,)`.
        seeds: the number of seeds, at least 2.
        steps: the number of updates of g, and of g_null.
        batch_size: the number of examples per update, or all if there are fewer; None takes all.
        null: "trained", or "balance": the class balance of the training examples in place of g_null. It is the limit of
            g_null for a network that can output any constant, takes no time, and can be used where a network outputs
            the same at zero for all its parameters, such as `networks.MLP`.
        tolerance: the largest divergence, in bits, of a calibrated g_null from the class balance.
        per_seed: whether every seed has its own data: x `(seeds, n, ...)` and y `(seeds, n)`, and so on for the other
            arrays. Each seed then holds out n // seeds of its examples, or is evaluated on its own `held_out`.

    Raises:
        ValueError: data that are empty, not finite or of different lengths; labels that do not fit the outputs; a class
            without examples, or with one only if part of them is held out; fewer examples than seeds; a `method`
            without its `network` or of another network; numbers out of range; the errors of the method's `init`.

    >>> x = jax.random.normal(jax.random.key(0), (100, 2))
    >>> found = pointwise_information(jax.random.key(1), x, jnp.sign(x[:, 0]), steps=200)
    >>> found.value.shape, bool(found.value.mean() > 0.5), found.calibrated.all().item()
    ((5, 20), True, True)
    """
    _check.key("key", key)
    seeds, steps = _check.whole("seeds", seeds, least=2), _check.whole("steps", steps, least=1)
    if batch_size is not None:
        batch_size = _check.whole("batch_size", batch_size, least=1)
    _check.choice("null", null, ("trained", "balance"))
    _check.number("tolerance", tolerance, "[0, inf)")
    per_seed = _check.flag("per_seed", per_seed)
    axes = (seeds,) if per_seed else ()
    x, y = _examples("x", x, "y", y, axes)
    fields = {"group": group, "environment": environment}
    arrays: dict[str, Any] = {"x": x, "y": y, **{name: _annotation(name, value, y) for name, value in fields.items()}}
    data: Any = Batch(**arrays)
    network, family = _family(network, method, y, steps)
    outputs = _outputs(network, family, jax.tree.map(lambda leaf: leaf[0], data) if per_seed else data)
    labels = _indices("y", y, outputs)
    classes = np.arange(outputs or 2)
    counts, least = (labels[..., None] == classes).sum(axis=-2), 2 if held_out is None else 1
    _check.require((counts >= least).all(), "y", f"at least {least} of each of {len(classes)} classes", counts.tolist())

    if jnp.issubdtype(key.dtype, jnp.integer):
        key = jax.random.wrap_key_data(key)
    parts_key, train_key = jax.random.split(key)
    keys = jax.vmap(functools.partial(jax.random.fold_in, train_key))(np.arange(seeds))
    if held_out is None:
        trained_on, examples = _parts(parts_key, labels, seeds)
        inputs, tested = _taken((x, labels), examples, per_seed)
        data, labels = _taken((data, labels), trained_on, per_seed)
    else:
        pair = isinstance(held_out, tuple | list) and len(held_out) == 2
        _check.require(pair, "held_out", "a pair of examples and labels", type(held_out).__name__)
        inputs, given = _examples("held_out", held_out[0], "held_out", held_out[1], axes)
        size, got = x.shape[labels.ndim :], inputs.shape[labels.ndim :]
        _check.require(got == size, "held_out", f"examples of shape {size}", got)
        tested = np.broadcast_to(_indices("held_out", given, outputs), (seeds, given.shape[-1]))
        examples = np.broadcast_to(np.arange(given.shape[-1]), tested.shape)

    own = per_seed or held_out is None
    options: dict[str, Any] = {"steps": steps, "per_seed": own, "evaluate": _cached(_log2_probabilities, network)}
    options["batch_size"] = None if batch_size is None else min(batch_size, labels.shape[-1])
    run: Any = methods.train(family, keys, data, held_out=inputs, what="training on examples", **options)
    conditional = -np.take_along_axis(run.records[:, 0].astype(float), tested[..., None], axis=2)[..., 0]
    shares = (labels[..., None] == classes).mean(axis=-2)
    if null == "balance":
        ignorant, finite = np.broadcast_to(np.log2(shares), (seeds, len(classes))), run.finite
    else:
        data, one = data._replace(x=jnp.zeros_like(data.x)), jnp.zeros_like(inputs[:, :1] if own else inputs[:1])
        null_run: Any = methods.train(family, keys, data, held_out=one, what="training on empty inputs", **options)
        ignorant, finite = null_run.records[:, 0, 0].astype(float), run.finite & null_run.finite
    null_surprisal = -np.take_along_axis(ignorant, tested, axis=1)
    gap = np.maximum(0, np.sum(shares * (np.log2(shares) - ignorant), axis=1))  # rounding can make it negative
    value = null_surprisal - conditional
    finite = finite & np.isfinite(value).all(axis=1)
    return PointwiseInformation(value, conditional, null_surprisal, examples, gap, gap <= tolerance, finite)


def usable_information(
    key: Key[Array, ""], x: Real[ArrayLike, "n ..."], y: Real[ArrayLike, " n"], *, level: float = 0.95, **options: Any
) -> UsableInformation:
    """V-usable information I_V(X -> Y) in bits (Xu et al. 2020): the mean over held-out examples.

    The interval is over seeds. With held-out parts, whose examples are all different, it includes the choice of the
    examples (except that the training examples overlap). With `held_out` it holds for these examples, and with
    `per_seed` it includes whatever differs between the data of the seeds.

    Args:
        key, x, y: as in `pointwise_information`.
        level: the confidence level of the interval, in (0, 1).
        options: those of `pointwise_information`.

    Raises:
        ValueError: `level` outside (0, 1); the errors of `pointwise_information`.

    >>> x = jax.random.normal(jax.random.key(0), (100, 2))
    >>> found = usable_information(jax.random.key(1), x, jnp.sign(x[:, 0]), steps=200)
    >>> found.interval.low.item() > 0.5, found.finite.all().item()
    (True, True)
    """
    _check.number("level", level, "(0, 1)")
    found = pointwise_information(key, x, y, **options)
    value = found.value.mean(axis=1)
    nothing = statistics.Interval(*[np.array(np.nan)] * 3)  # leaving out a seed would favour those that trained well
    return UsableInformation(
        value,
        statistics.mean(value, level=level) if found.finite.all() else nothing,
        found.conditional.mean(axis=1),
        found.null.mean(axis=1),
        found.null_gap,
        found.calibrated,
        found.finite,
    )


def _examples(name: str, x: Any, label_name: str, y: Any, axes: tuple[int, ...]) -> tuple[Array, np.ndarray]:
    """Checks examples `(*axes, n, ...)` and their labels `(*axes, n)`."""
    x = _check.array(name, x)
    rows = len(axes) + 1
    fits = x.ndim >= rows and x.size and x.shape[: len(axes)] == axes
    sizes = f"({axes[0]}, n, ...), one row per seed" if axes else "(n, ...)"
    _check.require(fits, name, f"a non-empty array {sizes}", f"shape {x.shape}")
    _check.finite(name, x)
    _check.finite(label_name, y)
    y = np.asarray(y)
    expected = f"labels of shape {x.shape[:rows]}"
    _check.require(y.shape == x.shape[:rows], label_name, expected, f"shape {y.shape}")
    return x, y


def _annotation(name: str, value: Any, y: np.ndarray) -> np.ndarray | None:
    if value is None:
        return None
    _check.real(name, value)
    value = np.asarray(value)
    _check.require(value.shape == y.shape, name, f"shape {y.shape}, as of y", f"shape {value.shape}")
    return value


def _family(network: Any, method: Any, y: np.ndarray, steps: int) -> tuple[nn.Module, Any]:
    """The network and the method, with their defaults."""
    if network is None:
        _check.require(method is None, "network", "the network of the method", None)
        binary = bool(np.isin(y, (-1, 1)).all())
        indices = bool(y.min() >= 0 and y.max() < y.shape[-1])
        _check.require(binary or indices, "y", "labels -1 and +1, or class indices from 0", np.unique(y)[[0, -1]])
        network = networks.FullyConnected((64,), outputs=1 if binary else max(2, int(y.max()) + 1))
    is_module = isinstance(network, nn.Module)
    _check.require(is_module, "network", "a flax.linen module", type(network).__name__)
    if method is None:
        return network, _cached(_erm, network, steps)
    is_method = hasattr(method, "init") and hasattr(method, "update")
    expected = 'a method, such as methods.get("erm")(network, optimizer)'
    is_optimizer = isinstance(method, optax.GradientTransformation)
    _check.require(is_method and not is_optimizer, "method", expected, type(method).__name__)
    return network, method


def _outputs(network: nn.Module, method: Method, data: Batch) -> int | None:
    """The number of logits of the network, None for outputs `(n,)`; the method also checks the data."""
    state = jax.eval_shape(lambda key: method.init(key, data), jax.random.key(0))
    try:
        logits = jax.eval_shape(lambda state: methods.predict(network, state, data.x), state)
    except flax.errors.FlaxError as error:
        raise ValueError(f"method: expected a method of the network, got one of another network: {error}") from error
    return logits.shape[1] if logits.ndim == 2 else None


def _indices(name: str, y: np.ndarray, outputs: int | None) -> np.ndarray:
    """The class indices of labels `(..., n)` for this number of outputs."""
    flat = y.ravel()
    if outputs is None:
        _check.labels(name, flat, len(flat))
        return (y > 0).astype(int)
    return np.asarray(methods.terms.members(name, flat, len(flat), outputs)).reshape(y.shape)


def _parts(
    key: Array, labels: Int[np.ndarray, "*seeds n"], seeds: int
) -> tuple[Int[np.ndarray, "seeds rest"], Int[np.ndarray, "seeds m"]]:
    """The positions of the training examples and of the held-out examples of each seed."""
    n = labels.shape[-1]
    m = n // seeds
    _check.require(m, "seeds", f"at most {n}, the number of examples", seeds)

    def dealt(key: Array, labels: np.ndarray) -> np.ndarray:
        # Examples of a class are dealt one after another, so that no part gets all of them.
        order = np.asarray(jax.random.permutation(key, n))
        order = order[np.argsort(labels[order], kind="stable")]
        return np.sort(order[: m * seeds].reshape(m, seeds).T, axis=1)

    if labels.ndim == 1:
        held = dealt(key, labels)
    else:
        held = np.stack([dealt(jax.random.fold_in(key, seed), own)[0] for seed, own in enumerate(labels)])
    return np.stack([np.setdiff1d(np.arange(n), part) for part in held]), held


def _taken(tree: Any, rows: Int[np.ndarray, "seeds m"], per_seed: bool) -> Any:
    """The examples at `rows` for each seed, of data that are shared or per seed."""
    return jax.tree.map(lambda leaf: leaf[np.arange(len(rows))[:, None], rows] if per_seed else leaf[rows], tree)


def _cached(make: Callable[..., Any], *args: Any) -> Any:
    """`make(*args)`, the same object for the same arguments, so that its programs are compiled once."""
    try:
        return make(*args)
    except TypeError:  # a network with an attribute that cannot be hashed
        return make.__wrapped__(*args)  # pyright: ignore[reportFunctionMemberAccess]


@functools.lru_cache(maxsize=32)
def _erm(network: Any, steps: int) -> Method:
    return methods.erm.erm(network, optax.adam(optax.cosine_decay_schedule(1e-2, steps)))


@functools.lru_cache(maxsize=32)
def _log2_probabilities(network: Any) -> Callable[[methods.State, Array], Float[Array, "m k"]]:
    """A function that returns the log-probabilities of the classes, to the base 2."""

    def evaluate(state: methods.State, x: Array) -> Array:
        logits = _check.single("network", methods.predict(network, state, x))
        if logits.ndim == 1:
            logits = jnp.stack([jnp.zeros_like(logits), logits], axis=1)
        return jax.nn.log_softmax(logits) / np.log(2)

    return evaluate
