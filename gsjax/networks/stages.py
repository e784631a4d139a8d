"""Stages of a network: its named intermediate outputs, in order of depth.

A stage is the output of a module in a network for examples x `(n, ...)`, if that output is an array `(n, ...)`. Its
name is the path of the module, joined by "/". The second, third, ... call of the same module adds "#2", "#3", ...

A network can declare its stages with modules of the class `Stage`; it then has no others. All networks of
`gsjax.networks` do, and their docstrings list the names. Their stages come after the nonlinearity, and after the
pooling or dropout at the end of a layer. The last stage, once flattened, is the input of the linear readout.

In any other network the stages are found. They are the outputs of all its submodules, and the values that modules `sow`
into the collection "intermediates", named by the path of the module and the name of the value. They are in the order in
which the network computes them. Some outputs are not stages: outputs that are not one array, such as the pair that a
recurrent cell returns, and outputs whose first axis is not that of the examples. `nn.scan` and `nn.vmap` drop the
outputs of the modules that they lift, or stack them along a new axis. `nn.remat` and `nn.jit` change nothing.

A flax.nnx model becomes a network through flax's own bridge, `nnx.bridge.to_linen(Model, ...)`. Its stages are the
outputs of the public methods of its submodules, and the values that it sows as `nnx.Intermediate`.

The caller decides what to compute from a stage. A nearest-neighbour probe flattens it, `stage.reshape(n, -1)`. A
readout that must not train the network wraps it in `jax.lax.stop_gradient`. `after` gives the outputs as a function of
a stage.
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
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var
from jax.interpreters import partial_eval
from jaxtyping import Array, PyTree, Real

from gsjax import _check

__all__ = ["Stage", "after", "apply", "mode", "names", "shapes", "upto"]

_CAPTURED = "intermediates"
_CALLS = ("jit", "remat2")  # the steps of a program that `nn.jit` and `nn.remat` set apart


class Stage(nn.Module):
    """A module whose output is a stage of the network that contains it; this class returns its input.

    Your own network declares a stage with a line such as `h = Stage(name="h1")(h)`, which changes neither parameters
    nor outputs, or with a module that is a subclass.

    >>> class Network(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         h = Stage(name="hidden")(nn.relu(nn.Dense(4)(x)))
    ...         return nn.Dense(2)(h)
    >>> names(Network(), jax.ShapeDtypeStruct((5, 3), float))
    ('hidden',)
    """

    def __call__(self, x: Array, *args: Any, **kwargs: Any) -> Any:
        """Returns `x` unchanged."""
        del args, kwargs  # for subclasses
        return x


def names(network: nn.Module, x: Real[Array, "n ..."] | jax.ShapeDtypeStruct) -> tuple[str, ...]:
    """The names of the stages of a network, in order of depth.

    Args:
        network: a flax.linen module.
        x: examples `(n, ...)`, or their shape and dtype as a `jax.ShapeDtypeStruct`; nothing is computed.

    Raises:
        ValueError: the network is not a flax.linen module or has no stages; x is not a non-empty array `(n, ...)`.

    >>> from gsjax import networks
    >>> names(networks.MLP((8, 4)), jax.ShapeDtypeStruct((5, 3), float))
    ('h1', 'h2')
    """
    return tuple(shapes(network, x))


def shapes(network: nn.Module, x: Real[Array, "n ..."] | jax.ShapeDtypeStruct) -> dict[str, tuple[int, ...]]:
    """The shapes `(n, ...)` of the stages of a network for x `(n, ...)`, by name, in order of depth.

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
    """The outputs of a network for x `(n, ...)`, as from `network.apply`, together with its stages.

    This is a pure function, also under `jit`, `vmap` and `grad`. Stages that are not requested are not kept.

    Args:
        network: a flax.linen module.
        variables: the variables of the network: "params" and its other collections.
        x: examples `(n, ...)`.
        names: the names of the requested stages; None requests all.
        train: passed on if the network's `__call__` takes it (`mode`).
        rngs: keys by name, as for `network.apply`; dropout uses "dropout".
        mutable: collections that the call may change, as for `network.apply`.

    Returns:
        `(outputs, stages)`, where `stages` is a dict from names to arrays `(n, ...)`. If `mutable` is not False,
        `((outputs, stages), collections)`, without the collection "intermediates".

    Raises:
        ValueError: the network is not a flax.linen module, or has no stages although some are requested; x is not a
            non-empty array `(n, ...)`; one of the `names` is not the name of a stage; `train` is not a flag.

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
    paths = {stage.path for stage in wanted.values()}
    outputs, arrays, changed = _run(
        network, variables, x, rngs, lambda _, path: path in paths, train=train, mutable=mutable
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
    """Which parameters a stage depends on, as Python bools in the structure of `variables["params"]`.

    The answer is read from the program that computes the stage, after removal of its dead code. Names and values of
    parameters play no role, and nothing is computed. Parameters that the program multiplies by zero, or whose gradient
    it stops, count as well.

    Args:
        network: a flax.linen module.
        variables: the variables of the network, or their shapes and dtypes.
        x: examples `(n, ...)`, or their shape and dtype.
        position: the name of the stage.
        train: whether the network is in training mode, as for `apply`.
        rngs: keys by name, as for `apply`.

    Raises:
        ValueError: the network is not a flax.linen module, or has no stages; x is not a non-empty array `(n, ...)`;
            `position` is not the name of a stage; `variables` have no "params"; `train` is not a flag.

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
    program = found.program.jaxpr
    wanted = [number == output for number in range(len(program.outvars))]
    _, used = partial_eval.dce_jaxpr(program, wanted)
    return jax.tree.unflatten(found.inputs, used)[0]["params"]


def after(
    network: nn.Module, variables: Mapping[str, Any], x: Real[Array, "n ..."], position: str
) -> tuple[Array, Callable[[Array], Any]]:
    """A stage of a network for x `(n, ...)`, and the rest of the network: the outputs as a function of this stage.

    The network is in evaluation mode. In the rest of the network every operation on the value of the stage takes the
    new value instead. Paths around the stage, such as those of residual connections, keep the values that they have for
    x. A value that a module only sows has no operations after it, so the outputs do not change with it. Both results
    are pure functions of their arguments, also under `jit`, `vmap` and `grad`.

    Args:
        network: a flax.linen module.
        variables: the variables of the network: "params" and its other collections.
        x: examples `(n, ...)`.
        position: the name of the stage.

    Returns:
        `(stage, rest)`, where `stage` is an array `(n, ...)`, and `rest(stage)` are the outputs for x.

    Raises:
        ValueError: the network is not a flax.linen module, or has no stages; x is not a non-empty array `(n, ...)`;
            `position` is not the name of a stage; by `rest`: a value of another shape.

    >>> from gsjax import networks
    >>> network, x = networks.MLP((8, 4)), np.ones((5, 3))
    >>> h, rest = after(network, network.init(jax.random.key(0), x), x, "h2")
    >>> h.shape, rest(0 * h).tolist()
    ((5, 4), [0.0, 0.0, 0.0, 0.0, 0.0])
    """
    _check_network(network)
    x = _examples(x)
    found = _find(network, variables, x, None)
    stage, arguments = _known("position", position, found), jax.tree.leaves((variables, x))
    places, values = _evaluate(found.program, arguments, {})
    place = places[stage.output]

    def rest(h: Array) -> Any:
        h = _check.array("h", h)
        _check.require(h.shape == stage.shape, "h", f"shape {stage.shape}, that of {position}", f"shape {h.shape}")
        places, values = _evaluate(found.program, arguments, {place: h})
        return jax.tree.unflatten(found.outputs, [values[number] for number in places])[1]

    return values[place], rest


def mode(network: nn.Module, train: bool) -> dict[str, Any]:
    """The keyword argument `train` for the call of a network, or no argument if its `__call__` does not take it.

    >>> from gsjax import networks
    >>> mode(networks.FullyConnected((8,)), True), mode(networks.MLP((8,)), True)
    ({'train': True}, {})
    """
    train = _check.flag("train", train)
    called = getattr(network, "nnx_class", network).__call__
    return {"train": train} if "train" in inspect.signature(called).parameters else {}


class _Stage(NamedTuple):
    """A stage: the path of its module, the number of the call, its shape, and the index of the program's output."""

    path: str
    call: int
    shape: tuple[int, ...]
    output: int


class _Found(NamedTuple):
    """The stages of a network and the program that computes them.

    `stages` are by name, in order of depth. `rejected` are the paths of modules whose output is not one array
    `(n, ...)`. `program` is the jaxpr that computes all stages and the outputs. `inputs` is the tree structure of its
    arguments, `(variables, x, rngs)`, and `outputs` that of its results, `(arrays by path and call, outputs)`.
    """

    stages: dict[str, _Stage]
    rejected: set[str]
    program: ClosedJaxpr
    inputs: Any
    outputs: Any


# Decides whether the output of a module at a path is kept.
_Keep = Callable[[nn.Module, str], bool]


def _find(
    network: nn.Module, variables: Any, x: Any, rngs: Any, *, train: bool = False, mutable: Any = False
) -> _Found:
    """Finds the stages of a network, at least one, without computing anything."""
    calls: list[str] = []
    declared: set[str] = set()

    def note(module: nn.Module, path: str) -> bool:
        calls.append(path)
        if isinstance(module, Stage):
            declared.add(path)
        return True

    def results(variables: Any, x: Any, rngs: Any) -> tuple[dict[tuple[str, int], Array], Any]:
        outputs, arrays, _ = _run(network, variables, x, rngs, note, train=train, mutable=mutable)
        return arrays, outputs

    variables, x, rngs = _abstract(variables, x, rngs)
    program, both = jax.make_jaxpr(results, return_shape=True)(variables, x, rngs)
    found, _ = both
    keys = sorted(found)
    order = _order(program.jaxpr, keys, calls)
    # An array whose first axis is n by coincidence does not get twice as many rows for twice as many examples.
    n = x.shape[0]
    double, _ = jax.eval_shape(results, variables, jax.ShapeDtypeStruct((2 * n, *x.shape[1:]), x.dtype), rngs)

    def is_stage(key: tuple[str, int]) -> bool:
        rows = [array[key].shape[:1] for array in (found, double) if key in array]
        return rows == [(n,), (2 * n,)] and (not declared or key[0] in declared)

    stages = {_name(*key): _Stage(*key, found[key].shape, keys.index(key)) for key in order if is_stage(key)}
    _check.require(stages, "network", "a network with stages", f"{type(network).__name__} without")
    rejected = set() if declared else {*calls} - {*stages}
    inputs, outputs = jax.tree.structure((variables, x, rngs)), jax.tree.structure(both)
    return _Found(stages, rejected, program, inputs, outputs)


def _order(program: Any, keys: list[tuple[str, int]], calls: list[str]) -> list[tuple[str, int]]:
    """The `keys` of the outputs of a program, in the order in which the program computes them.

    Outputs of one step of the program, such as those inside `nn.remat`, are in the order of the `calls` of the modules.
    Values that a module sows come before its own output.
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
    """The outputs of a network, the arrays that its modules return, by path and call, and the changed collections."""

    def wanted(module: nn.Module, method: str) -> bool:
        return method == "__call__" and bool(module.path) and keep(module, "/".join(module.path))

    # A flax.nnx model would write its new statistics into NumPy arrays in place.
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


def _evaluate(
    program: ClosedJaxpr, arguments: Sequence[Any], replaced: Mapping[int, Array]
) -> tuple[list[int], list[Any]]:
    """Runs a program: the places of its results, and the values of all its variables by place.

    The values at the places in `replaced` are replaced where they are computed. Programs within the program, those of
    `nn.jit` and `nn.remat`, are run as a part of it. A value that they only pass on keeps its place.
    """
    values: list[Any] = []

    def place(value: Any) -> int:
        values.append(replaced.get(len(values), value))
        return len(values) - 1

    def run(program: Jaxpr, places: Sequence[int]) -> list[int]:
        known = dict(zip([*program.constvars, *program.invars], places, strict=True))

        def read(atom: Any) -> int:
            return place(atom.val) if isinstance(atom, Literal) else known[atom]

        for equation in program.eqns:
            inputs = [read(atom) for atom in equation.invars]
            if equation.primitive.name in _CALLS:
                inner = equation.params["jaxpr"]
                inner, constants = (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, ())
                outputs = run(inner, [*map(place, constants), *inputs])
            else:
                options = equation.primitive.get_bind_params(equation.params)
                with equation.ctx.manager:
                    results = equation.primitive.bind(*(values[number] for number in inputs), **options)
                outputs = [place(result) for result in (results if equation.primitive.multiple_results else [results])]
            known.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in program.outvars]

    return run(program.jaxpr, [place(value) for value in (*program.consts, *arguments)]), values


@contextmanager
def _nnx_captured() -> Iterator[None]:
    """In this context a flax.nnx model sows the outputs of its submodules into the flax.linen module around it."""
    nnx = sys.modules.get("flax.nnx")  # without this module there are no models to capture
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
    """The values sown under one name: a tuple, unless the module uses its own reduction."""
    return sown if isinstance(sown, tuple) else (sown,)


def _abstract(*trees: Any) -> Any:
    """The shapes and dtypes of trees of arrays."""
    return jax.eval_shape(lambda *trees: trees, *trees)


def _check_network(network: Any) -> None:
    got = f"the class {network.__name__}" if isinstance(network, type) else type(network).__name__
    _check.require(isinstance(network, nn.Module), "network", "a flax.linen module", got)


def _examples(x: Any, *, abstract: bool = False) -> Any:
    """`x` as a non-empty array `(n, ...)`; with `abstract` its shape and dtype suffice."""
    if not (abstract and isinstance(x, jax.ShapeDtypeStruct)):
        x = _check.array("x", x)
    _check.require(x.ndim and x.size, "x", "a non-empty array (n, ...)", f"shape {x.shape}")
    return x


def _known(argument: str, name: Any, found: _Found) -> _Stage:
    """The stage `name`; `argument` is the argument that errors name."""
    known, got = isinstance(name, str) and name in found.stages, repr(name)
    if isinstance(name, str) and name in found.rejected:
        got += ", whose output is not one array (n, ...)"
    _check.require(known, argument, f"one of the stages {', '.join(found.stages)}", got)
    return found.stages[name]


def _name(path: str, call: int) -> str:
    return path if call == 0 else f"{path}#{call + 1}"
