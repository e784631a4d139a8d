"""What random networks are drawn with: a generator of numbers, the parameters so far, and families of pieces."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

Params = dict[str, Any]  # leaves by name
Get = Callable[[Params], Any]  # a weight
Layer = Callable[[Params, Any], Any]  # of parameters and hidden values (n, ...), to hidden values (n, ...)
Shape = tuple[int, ...]  # of one example

KINDS = {"vector": 1, "series": 2, "image": 3, "tokens": 1}


class Piece(NamedTuple):
    name: str
    make: Callable[..., Any]
    kind: str = ""  # of a layer: what it is applied to
    keeps: bool = False  # a layer keeps the shape where it may choose its features
    needs: frozenset[str] = frozenset()  # "wide": no half precision; "reverse": no forward mode; "whole": see `sub`


class Family(dict[str, Piece]):
    """Pieces that can replace each other."""

    def add(self, name: str, kind: str = "", *, keeps: bool = False, needs: str = "") -> Callable[..., Any]:
        def register(make: Callable[..., Any]) -> Callable[..., Any]:
            assert name not in self, name
            self[name] = Piece(name, make, kind, keeps, frozenset(needs.split()))
            return make

        return register


WEIGHTS, BIASES, ACTIVATIONS, LAYERS, WRAPPERS, TREES, OUTPUTS = (Family() for _ in range(7))
FAMILIES = {
    "weight": WEIGHTS,
    "bias": BIASES,
    "activation": ACTIVATIONS,
    "layer": LAYERS,
    "wrapper": WRAPPERS,
    "tree": TREES,
    "output": OUTPUTS,
}
OPTIONS: set[str] = set()  # of pieces, such as the padding of a convolution; each has to occur, too


def option(*names: str) -> None:
    OPTIONS.update(names)


@dataclasses.dataclass
class Draw:
    """A network while it is drawn: pieces that still have to occur, and its parameters."""

    rng: np.random.Generator
    due: dict[str, str] = dataclasses.field(default_factory=dict)  # family -> the piece that has to occur
    pieces: set[str] = dataclasses.field(default_factory=set)
    leaves: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    used: set[str] = dataclasses.field(default_factory=set)
    avoid: frozenset[str] = frozenset()
    depth: int = 0
    eps: list[float] = dataclasses.field(default_factory=lambda: [0.0])  # of pieces in lower precision
    count: Iterator[int] = dataclasses.field(default_factory=itertools.count)

    def chance(self, p: float = 0.5) -> bool:
        return bool(self.rng.random() < p)

    def whole(self, least: int, most: int) -> int:
        return int(self.rng.integers(least, most + 1))

    def size(self) -> int:
        """Of an axis; 1 often enough."""
        return int(self.rng.choice([1, 2, 2, 3, 3, 4]))

    def choice(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def constant(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=shape)

    def mark(self, name: str) -> None:
        assert name in OPTIONS, name
        self.pieces.add(name)

    def lower(self, dtype: Any) -> None:
        self.eps.append(float(jnp.finfo(dtype).eps))

    def leaf(self, *shape: int) -> str:
        name = f"w{next(self.count)}"
        spread = min(1.0, max(0.35, 1 / math.sqrt(math.prod(shape[:-1]) or 1)))
        self.leaves[name] = spread * self.rng.normal(size=shape)
        self.used.add(name)
        return name

    def sub(self, *, own: bool = False, avoid: str = "") -> Draw:
        """A draw for the inside of a wrapper. Its leaves are its `own` or those of this draw; `used` is its own.

        No convolutions ("whole") in branches that examples choose: mapped over examples, both branches are computed,
        the other one from zeros, and where it divides zero by zero, XLA's grouped convolution, which adds up zeros
        times all groups, carries the result over to other examples, also in JAX's own derivatives.
        """
        leaves = {} if own else self.leaves
        inner = dataclasses.replace(self, leaves=leaves, used=set(), depth=self.depth + 1)
        inner.avoid = self.avoid | frozenset(avoid.split())
        return inner

    def pick(self, family: str, common: Sequence[str] = (), *, kind: str = "", keeps: bool = False) -> Piece:
        """The piece that is due if it fits here, else one of the `common` ones or any other."""
        pieces = FAMILIES[family]

        def fits(piece: Piece) -> bool:
            return not (piece.needs & self.avoid) and piece.kind in (kind or piece.kind, "") and piece.keeps >= keeps

        name = self.due.get(family)
        if name is not None and fits(pieces[name]):
            del self.due[family]
        elif common and self.chance(0.6):
            name = self.choice(common)
        else:
            name = self.choice([piece.name for piece in pieces.values() if fits(piece)])
        self.pieces.add(name)
        return pieces[name]


def chosen(p: Params, names: set[str]) -> Params:
    return {name: p[name] for name in sorted(names)}
