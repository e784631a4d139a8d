"""The network that the user names, "pkg.module:build", as `apply_fn` and `params`."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

__all__ = ["Failure", "Network", "blamed", "here", "load", "one_output"]


class Failure(ValueError):
    """An error in the user's code, which has raised the exception that is its cause."""


class Network(NamedTuple):
    """What `load` returns."""

    apply_fn: Callable[[Any, Any], Any]
    """`apply_fn(params, x)`, with outputs `(n,)` or `(n, k)`."""
    params: PyTree
    notes: tuple[str, ...]
    """What was built and how it is called, one sentence each."""


@contextlib.contextmanager
def here() -> Iterator[None]:
    """A context in which modules of the current folder can be imported, as with `python -m`."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def load(spec: str, x: Any, *, seed: int = 0) -> Network:
    """Imports "pkg.module:build", calls `build()`, and makes `apply_fn` and `params` of its result.

    The result is `(apply_fn, params)`, or a module: of flax.linen, which is initialised on the first example; of
    flax.nnx, split into its `nnx.Param`s and the rest, in evaluation mode; of Equinox, for a single example, split into
    its inexact arrays and the rest, in inference mode, and mapped over the examples. A module may also take the place
    of `build` itself.

    Args:
        spec: the names of a module and, after a colon, of a function in it.
        x: `(n, ...)`, on whose first example a flax.linen module is initialised.
        seed: of the key for that.

    Raises:
        ValueError: there is no such module or name, or the result is none of these.
        Failure: the import or the call raised an exception.
    """
    module, _, name = spec.partition(":")
    if not (module and name):
        raise ValueError(f"--model: expected MODULE:NAME, such as nets:build, got {spec!r}")
    if module.endswith(".py") or "/" in module or os.sep in module:
        dotted = ".".join(Path(module).with_suffix("").parts)
        raise ValueError(f"--model: expected the name of a module, {dotted}:{name}, got the file {module}")
    built: Any = _imported(module)
    for part in name.split("."):
        if not hasattr(built, part):
            raise ValueError(f"--model: the module {module} has no {name}")
        built = getattr(built, part)
    if callable(built) and _kind(built) is None:
        with blamed(f"--model: {spec}", module):
            built = built()
    return _network(built, x, seed, spec, module)


def one_output(network: Network, x: Any, module: str) -> tuple[Network, int | None]:
    """The network, and its number of outputs k, which is None for outputs `(n,)`; outputs `(n, 1)` become `(n,)`.

    Raises:
        ValueError: the outputs are of another shape.
        Failure: the network raised an exception.
    """
    with blamed("--model: apply_fn(params, x)", module):
        outputs = jax.eval_shape(network.apply_fn, network.params, x)
    shape = getattr(outputs, "shape", None)
    if shape is None:
        raise ValueError(f"--model: expected outputs in one array, got {type(outputs).__name__}")
    if shape == (len(x),):
        return network, None
    if len(shape) != 2 or shape[0] != len(x) or shape[1] == 0:
        raise ValueError(f"--model: expected outputs ({len(x)},) or ({len(x)}, k), got shape {shape}")
    if shape[1] > 1:
        return network, shape[1]

    @functools.wraps(network.apply_fn)
    def apply_fn(params: Any, x: Any) -> Any:
        return network.apply_fn(params, x)[:, 0]

    notes = (*network.notes, "model: the one output (n, 1) is taken as (n,)")
    return Network(apply_fn, network.params, notes), None


@contextlib.contextmanager
def blamed(what: str, module: str, *, apart: tuple[type[Exception], ...] | type[Exception] = ()) -> Iterator[None]:
    """Turns an exception in the block into a `Failure` that names it, and the last line of `module` that it passed.

    Exceptions of a type in `apart` are left as they are.
    """
    try:
        yield
    except apart:
        raise
    except (Exception, SystemExit) as error:
        told = str(error).strip().partition("\n")[0]
        name = type(error).__name__
        location = ""
        file = getattr(sys.modules.get(module), "__file__", None)
        frames = traceback.extract_tb(error.__traceback__)
        if lines := [frame.lineno for frame in frames if frame.filename == file]:
            location = f" (line {lines[-1]} of {file})"
        raise Failure(f"{what} raised {name}{f': {told}' if told else ''}{location}") from error


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ValueError(
                f"--model: there is no module {error.name} in {os.getcwd()} or among the installed packages"
            ) from None
        raise Failure(f"--model: importing {name} raised {type(error).__name__}: {error}") from error
    except (Exception, SystemExit) as error:
        told = str(error).strip().partition("\n")[0]
        raise Failure(f"--model: importing {name} raised {type(error).__name__}: {told}") from error


def _kind(value: Any) -> str | None:
    """The framework of a module; the class of a module is none."""
    nnx = sys.modules.get("flax.nnx")  # if it is not imported, nothing is of it
    if isinstance(value, nn.Module):
        return "flax.linen"
    if nnx is not None and isinstance(value, nnx.Module):
        return "flax.nnx"
    return "Equinox" if isinstance(value, eqx.Module) else None


def _network(built: Any, x: Any, seed: int, spec: str, module: str) -> Network:
    kind, name = _kind(built), type(built).__name__
    with blamed(f"--model: {spec}: setting up {name}", module):
        if kind == "flax.linen":
            variables = built.init(jax.random.key(seed), jnp.asarray(x[:1]))
            return Network(built.apply, variables, (f"model: {name} of flax.linen, initialised with seed {seed}",))
        if kind == "flax.nnx":
            return _nnx(built, name)
        if kind == "Equinox":
            return _equinox(built, name)
    expected = "(apply_fn, params), or a module of flax.linen, flax.nnx or Equinox"
    if not (isinstance(built, tuple | list) and len(built) == 2 and callable(built[0])):
        raise ValueError(f"--model: {spec}: expected {expected}, got {_described(built)}")
    if callable(built[1]) and not isinstance(built[1], eqx.Module):
        advice = "a transformed function of Haiku becomes (transformed.apply, transformed.init(key, x))"
        raise ValueError(f"--model: {spec}: expected {expected}, got two functions: {advice}")
    return Network(built[0], built[1], (f"model: apply_fn and params of {spec}",))


def _nnx(model: Any, name: str) -> Network:
    from flax import nnx

    model.eval()  # no dropout, and running statistics instead of those of a batch
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def apply_fn(params: Any, x: Any) -> Any:
        return nnx.merge(graph, params, rest)(x)

    notes = [f"model: {name} of flax.nnx, in evaluation mode; its nnx.Params are the parameters"]
    kinds = {type(variable).__name__ for _, variable in nnx.to_flat_state(rest)} - {"RngKey", "RngCount"}
    if kinds:
        notes.append(f"model: its variables {', '.join(sorted(kinds))} stay as they were built, also for --trained")
    return Network(apply_fn, params, tuple(notes))


def _equinox(model: Any, name: str) -> Network:
    params, static = eqx.partition(eqx.nn.inference_mode(model), eqx.is_inexact_array)

    def apply_fn(params: Any, x: Any) -> Any:
        return jax.vmap(eqx.combine(params, static))(x)

    notes = f"model: {name} of Equinox, in inference mode, called for one example at a time (jax.vmap)"
    return Network(apply_fn, params, (notes,))


def _described(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
