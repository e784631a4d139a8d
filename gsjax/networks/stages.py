"""Stages of a network: its named intermediate outputs, in order of depth.

A stage is what a module within a network returns for examples x `(n, ...)`, where that is an array `(n, ...)`. Its name
is the path of the module, joined by "/", and "#2", "#3", ... after that for the second, third, ... call of the same
module.

A network that declares stages, with modules of the class `Stage`, has these alone. All networks of `gsjax.networks` do,
and their docstrings have the names. There a stage stands after the nonlinearity, and after the pooling or the dropout
that a layer ends with, and the last stage is what the linear readout sees, once it is flattened. In any other network
the stages are found: the outputs of all modules in it, but not its own, and what they `sow` into the collection
"intermediates", under the path of the module and the name. They are in the order in which the network computes them.

Not all outputs are stages. Those that are not one array, such as the pair that a recurrent cell returns, and those
whose first axis is not that of the examples, are none: `nn.scan` and `nn.vmap` drop the outputs of the modules that
they lift, or stack them along an axis of their own. `nn.remat` and `nn.jit` change nothing.

A model in flax.nnx is a network here through flax's own bridge, `nnx.bridge.to_linen(Model, ...)`; the outputs of the
public methods of its submodules and what it sows as `nnx.Intermediate` are its stages.

What is computed from a stage is up to the caller: a nearest neighbour probe flattens it, `stage.reshape(n, -1)`, and a
readout that the network is not to learn from puts `jax.lax.stop_gradient` around it.
"""

from __future__ import annotations

import collections
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.extend.core import Var
from jax.interpreters import partial_eval
from jaxtyping import Array, PyTree, Real

from gsjax import _check

__all__ = ["Stage", "apply", "mode", "names", "shapes", "upto"]

_CAPTURED = "intermediates"


class Stage(nn.Module):
    """A module whose output is a stage of the network that it is in; this one returns its input.

    A network of your own declares a stage by a line such as `h = Stage(name="h1")(h)`, which changes neither its
    parameters nor its outputs, or by a module that is a subclass.

    >>> class Network(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         h = Stage(name="hidden")(nn.relu(nn.Dense(4)(x)))
    ...         return nn.Dense(2)(h)
    >>> names(Network(), jax.ShapeDtypeStruct((5, 3), float))
    ('hidden',)
    """

    def __call__(self, x: Array, *args: Any, **kwargs: Any) -> Any:
        """`x` as it is."""
        del args, kwargs  # of subclasses
        return x


def names(network: nn.Module, x: Real[Array, "n ..."] | jax.ShapeDtypeStruct) -> tuple[str, ...]:
    """The names of the stages of a network, in order of depth.

    Args:
        network: a flax.linen module.
        x: examples `(n, ...)`, or their shape and dtype as a `jax.ShapeDtypeStruct`: nothing is computed.

    Raises:
        ValueError: the network is no flax.linen module or has no stages; x is no non-empty array `(n, ...)`.

    >>> from gsjax import networks
    >>> names(networks.MLP((8, 4)), jax.ShapeDtypeStruct((5, 3), float))
    ('h1', 'h2')
    """
    return tuple(shapes(network, x))


def shapes(network: nn.Module, x: Real[Array, "n ..."] | jax.ShapeDtypeStruct) -> dict[str, tuple[int, ...]]:
    """The names of the stages of a network, in order of depth, each with its shape `(n, ...)` for x `(n, ...)`.

    Arguments and errors are those of `names`.

    >>> from gsjax import networks
    >>> shapes(networks.CNN((8, 4)), jax.ShapeDtypeStruct((5, 6, 6, 1), float))
    {'h1': (5, 6, 6, 8), 'h2': (5, 6, 6, 4), 'pool': (5, 4)}
    """
    _check_network(network)
    x = _examples(x, abstract=True)
    with _nnx_captured():
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        variables = jax.eval_shape(network.init, keys, x)
    found = _find(network, variables, x, {"dropout": keys["dropout"]})
    return {name: stage.shape for name, stage in found.stages.items()}


def apply(
    network: nn.Module,
    variables: Mapping[str, Any],
    x: Real[Array, "n ..."],
    names: Sequence[str] | None = None,
    *,
    train: bool = False,
    rngs: Any = None,
    mutable: Any = False,
) -> tuple[Any, Any]:
    """The outputs of a network for x `(n, ...)`, as `network.apply` gives them, and its stages.

    A pure function, under `jit`, `vmap` and `grad` too; stages that are not asked for are not kept.

    Args:
        network: a flax.linen module.
        variables: of the network: "params", and its other collections.
        x: examples `(n, ...)`.
        names: of the stages that are wanted; None is all of them.
        train: is passed on where the `__call__` of the network takes it (`mode`).
        rngs: keys by name, as for `network.apply`; dropout takes "dropout".
        mutable: collections that the call may change, as for `network.apply`.

    Returns:
        `(outputs, stages)`, the latter a dict from names to arrays `(n, ...)`. If `mutable` is not False it is
        `((outputs, stages), collections)`, without the collection "intermediates".

    Raises:
        ValueError: the network is no flax.linen module, or has no stages although some are wanted; x is no non-empty
            array `(n, ...)`; one of the `names` is not that of a stage; `train` is no flag.

    >>> from gsjax import networks
    >>> network, x = networks.MLP((8, 4)), np.ones((5, 3))
    >>> variables = network.init(jax.random.key(0), x)
    >>> logits, stages = apply(network, variables, x, ("h2",))
    >>> logits.shape, stages["h2"].shape
    ((5,), (5, 4))
    """
    _check_network(network)
    x = _examples(x)
    wanted: dict[str, _Stage] = {}
    if names is None or len(_check.sequence("names", names, "names of stages")):
        found = _find(network, variables, x, rngs, train=train, mutable=mutable)
        wanted = {name: _known("names", name, found) for name in (found.stages if names is None else names)}
    of_modules = {stage.path for stage in wanted.values()}
    outputs, arrays, changed = _run(
        network, variables, x, rngs, lambda _, path: path in of_modules, train=train, mutable=mutable
    )
    result = outputs, {name: arrays[stage.path, stage.call] for name, stage in wanted.items()}
    return result if mutable is False else (result, changed)


def upto(
    network: nn.Module,
    variables: Mapping[str, Any],
    x: Real[Array, "n ..."] | jax.ShapeDtypeStruct,
    position: str,
    *,
    train: bool = False,
    rngs: Any = None,
) -> PyTree[bool]:
    """Which parameters a stage depends on, as bools of Python in the structure of `variables["params"]`.

    It is read from the program that computes the stage, in which everything else is dead code. Names of parameters and
    their numbers play no part, and nothing is computed. What the program multiplies by zero, or stops the gradient of,
    counts as well.

    Args:
        network: a flax.linen module.
        variables: of the network, or their shapes and dtypes.
        x: examples `(n, ...)`, or their shape and dtype.
        position: the name of the stage.
        train: whether the program is that of training, as for `apply`.
        rngs: keys by name, as for `apply`.

    Raises:
        ValueError: the network is no flax.linen module, or has no stages; x is no non-empty array `(n, ...)`;
            `position` is not the name of a stage; `variables` have no "params"; `train` is no flag.

    >>> from gsjax import networks
    >>> network, x = networks.MLP((8, 4)), np.ones((5, 3))
    >>> upto(network, network.init(jax.random.key(0), x), x, "h1")
    {'W1': {'kernel': True}, 'W2': {'kernel': False}, 'W3': {'kernel': False}}
    """
    _check_network(network)
    x = _examples(x, abstract=True)
    _check.require("params" in variables, "variables", "a collection params", ", ".join(variables) or "none")
    mutable = [name for name in variables if name not in ("params", _CAPTURED)] if train else False
    found = _find(network, variables, x, rngs, train=train, mutable=mutable)
    output = _known("position", position, found).output
    wanted = [number == output for number in range(len(found.program.outvars))]
    _, used = partial_eval.dce_jaxpr(found.program, wanted)
    return jax.tree.unflatten(found.inputs, used)[0]["params"]


def mode(network: nn.Module, train: bool) -> dict[str, Any]:
    """The keyword `train` for the call of a network, where its `__call__` takes one, else none.

    >>> from gsjax import networks
    >>> mode(networks.FullyConnected((8,)), True), mode(networks.MLP((8,)), True)
    ({'train': True}, {})
    """
    train = _check.flag("train", train)
    called = getattr(network, "nnx_class", network).__call__
    return {"train": train} if "train" in inspect.signature(called).parameters else {}


class _Stage(NamedTuple):
    """A stage: the path of its module, which call of it, the shape of its output, and which output of the program."""

    path: str
    call: int
    shape: tuple[int, ...]
    output: int


class _Found(NamedTuple):
    """What is found in a network.

    Its `stages` by name, in order of depth; the `others`, paths of modules whose output is not one array `(n, ...)`;
    the `program` that computes all of them, a jaxpr, and the structure of its `inputs`, `(variables, x, rngs)`.
    """

    stages: dict[str, _Stage]
    others: set[str]
    program: Any
    inputs: Any


# Says of a module of the network and its path whether its output is wanted.
_Keep = Callable[[nn.Module, str], bool]


def _find(
    network: nn.Module, variables: Any, x: Any, rngs: Any, *, train: bool = False, mutable: Any = False
) -> _Found:
    """What is found in a network, without computing anything; at least one stage."""
    calls: list[str] = []
    declared: set[str] = set()

    def note(module: nn.Module, path: str) -> bool:
        calls.append(path)
        if isinstance(module, Stage):
            declared.add(path)
        return True

    def outputs(variables: Any, x: Any, rngs: Any) -> dict[tuple[str, int], Array]:
        return _run(network, variables, x, rngs, note, train=train, mutable=mutable)[1]

    variables, x, rngs = _abstract(variables, x, rngs)
    program, found = jax.make_jaxpr(outputs, return_shape=True)(variables, x, rngs)
    keys = sorted(found)
    order = _order(program.jaxpr, keys, calls)
    # What does not have twice as many rows for twice as many examples has another first axis, of n by coincidence.
    n = x.shape[0]
    double = jax.eval_shape(outputs, variables, jax.ShapeDtypeStruct((2 * n, *x.shape[1:]), x.dtype), rngs)

    def is_stage(key: tuple[str, int]) -> bool:
        rows = [array[key].shape[:1] for array in (found, double) if key in array]
        return rows == [(n,), (2 * n,)] and (not declared or key[0] in declared)

    stages = {_name(*key): _Stage(*key, found[key].shape, keys.index(key)) for key in order if is_stage(key)}
    _check.require(stages, "network", "a network with stages", f"{type(network).__name__} without")
    others = set() if declared else {*calls} - {*stages}
    return _Found(stages, others, program.jaxpr, jax.tree.structure((variables, x, rngs)))


def _order(program: Any, keys: list[tuple[str, int]], calls: list[str]) -> list[tuple[str, int]]:
    """The `keys` of the outputs of a program in the order in which it computes them.

    Outputs of one step of it, as of a module within `nn.remat`, are in the order of the `calls` of the modules, and
    what a module has sown comes before its own output.
    """
    steps = {variable: step for step, equation in enumerate(program.eqns) for variable in equation.outvars}
    counted: collections.Counter[str] = collections.Counter()
    called: dict[tuple[str, int], float] = {}
    for moment, path in enumerate(calls):
        called.setdefault((path, counted[path]), moment)
        counted[path] += 1

    def place(position: int) -> tuple[int, float]:
        key, variable = keys[position], program.outvars[position]
        parent = key[0].rpartition("/")[0]
        moment = called.get(key, called.get((parent, 0), math.inf) - 0.5)
        return steps.get(variable, -1) if isinstance(variable, Var) else -1, moment

    return [keys[position] for position in sorted(range(len(keys)), key=place)]


def _run(
    network: nn.Module, variables: Any, x: Any, rngs: Any, keep: _Keep, *, train: bool, mutable: Any
) -> tuple[Any, dict[tuple[str, int], Array], Any]:
    """The outputs of a network, the arrays that its modules returned, by path and call, and the changed collections."""

    def wanted(module: nn.Module, method: str) -> bool:
        return method == "__call__" and bool(module.path) and keep(module, "/".join(module.path))

    # A model of flax.nnx would write its new statistics into arrays of NumPy.
    given = {name: jax.tree.map(jnp.asarray, entry) for name, entry in variables.items() if name != _CAPTURED}
    with _nnx_captured():
        outputs, changed = network.apply(
            given, x, rngs=rngs, mutable=mutable, capture_intermediates=wanted, **mode(network, train)
        )
    changed = dict(changed)
    arrays = {}
    for path, values in flatten_dict(changed.pop(_CAPTURED, {}), sep="/").items():
        for call, value in enumerate(_several(values)):
            if isinstance(value, jax.Array | np.ndarray):
                arrays[path.removesuffix("/__call__"), call] = value
    return outputs, arrays, changed


@contextmanager
def _nnx_captured() -> Iterator[None]:
    """Within this context a model of flax.nnx sows what its submodules return into the flax.linen module around it."""
    nnx = sys.modules.get("flax.nnx")  # while it has not been imported, there is no model of it
    if nnx is None:
        yield
        return

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if not isinstance(module, nnx.bridge.ToLinen) or context.method_name != "__call__":
            return call(*args, **kwargs)
        method = kwargs.pop("nnx_method", None) or "__call__"

        def captured(model: Any, *args: Any, **kwargs: Any) -> Any:
            function = getattr(type(model), method) if isinstance(method, str) else method
            capture = nnx.capture(function, nnx.Intermediate, method_outputs=nnx.Intermediate)
            output, state = capture(model, *args, **kwargs)
            for path, variable in nnx.to_flat_state(state):
                for value in _several(variable.get_value()):
                    module.sow(_CAPTURED, "/".join(map(str, path)), value)
            return output

        return call(*args, nnx_method=captured, **kwargs)

    with nn.intercept_methods(intercept):
        yield


def _several(sown: Any) -> tuple[Any, ...]:
    """What has been sown under one name: a tuple, unless the module reduces it in a way of its own."""
    return sown if isinstance(sown, tuple) else (sown,)


def _abstract(*trees: Any) -> Any:
    """The shapes and dtypes of trees of arrays."""
    return jax.eval_shape(lambda *trees: trees, *trees)


def _check_network(network: Any) -> None:
    got = f"the class {network.__name__}" if isinstance(network, type) else type(network).__name__
    _check.require(isinstance(network, nn.Module), "network", "a flax.linen module", got)


def _examples(x: Any, *, abstract: bool = False) -> Any:
    """`x` as a non-empty array `(n, ...)`, or its shape and dtype where these suffice."""
    if not (abstract and isinstance(x, jax.ShapeDtypeStruct)):
        x = _check.array("x", x)
    _check.require(x.ndim and x.size, "x", "a non-empty array (n, ...)", f"shape {x.shape}")
    return x


def _known(argument: str, name: Any, found: _Found) -> _Stage:
    """The stage of this name; `argument` says where the name was given."""
    known, got = isinstance(name, str) and name in found.stages, repr(name)
    if isinstance(name, str) and name in found.others:
        got += ", whose output is not one array (n, ...)"
    _check.require(known, argument, f"one of the stages {', '.join(found.stages)}", got)
    return found.stages[name]


def _name(path: str, call: int) -> str:
    return path if call == 0 else f"{path}#{call + 1}"
