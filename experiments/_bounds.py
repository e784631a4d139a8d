"""Checks of flags: one default rule for all experiments, and the `Bound` that a field may declare instead.

Without a `Bound`, a whole number is at least 1 and any other number is finite and above 0. A tuple is not empty, and
its entries are all different, each within the bounds of its type. A path is that of an existing file.
"""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np

MOST = 2**31 - 1  # the largest number of 32 bits
_SMALLEST, _LARGEST = (float(end) for end in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))


@dataclass(frozen=True)
class Bound:
    """The allowed range of a number or of each entry of a tuple, and its length: `Annotated[int, Bound(2)]`.

    Attributes:
        least: inclusive lower bound.
        above: exclusive lower bound, in place of `least`.
        most: inclusive upper bound.
        below: exclusive upper bound, in place of `most`.
        entries: minimum number of entries.
        repeats: whether entries may be equal.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    entries: int = 1
    repeats: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is within the bounds; NaN never is."""
        low = self.least is None or value >= self.least
        high = self.most is None or value <= self.most
        return (
            low and high and (self.above is None or value > self.above) and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        parts = {"of at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{name} {end}" for name, end in parts.items() if end is not None)


WHOLE = Bound(least=1)
NUMBER = Bound(above=0)


def check(config: Any) -> None:
    """Checks every field of a dataclass by its type and its `Bound`.

    Raises:
        ValueError: a value out of range, which is named like its flag.

    >>> @dataclass
    ... class Config:
    ...     learning_rates: tuple[float, ...]
    >>> check(Config((0.1, -1.0)))
    Traceback (most recent call last):
    ValueError: --learning-rates: expected finite numbers above 0, got -1.0
    """
    hints = _hints(type(config))
    for field in fields(config):
        require(field.name, getattr(config, field.name), hints[field.name])


def require(name: str, value: Any, hint: Any) -> None:
    """Checks one value by its type, which may be `Annotated` with a `Bound`.

    Raises:
        ValueError: it is out of range.
    """
    for expected, got in _wrong(value, hint, Bound()):
        raise ValueError(f"{flag(name)}: expected {expected}, got {got}")


def expect(condition: Any, name: str, expected: str, got: Any) -> None:
    """Checks a condition that the types and bounds of single fields cannot express.

    Args:
        condition: has to be true.
        name: name of the field or argument.
        expected: what the value should be, in words.
        got: the value.

    Raises:
        ValueError: `condition` is false.

    >>> expect(8 <= 4, "batch_size", "at most 4, the images there are", 8)
    Traceback (most recent call last):
    ValueError: batch_size: expected at most 4, the images there are, got 8
    """
    if not condition:
        raise ValueError(f"{name}: expected {expected}, got {got}")


def flag(name: str) -> str:
    """The flag that sets a field.

    >>> flag("learning_rate")
    '--learning-rate'
    """
    return f"--{name.replace('_', '-')}"


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _wrong(value: Any, hint: Any, bound: Bound, entry: bool = False) -> Iterator[tuple[str, Any]]:
    """Pairs (expected, got), one for each violation."""
    if typing.get_origin(hint) is Annotated:
        hint, *notes = typing.get_args(hint)
        yield from _wrong(value, hint, next((note for note in notes if isinstance(note, Bound)), bound), entry)
    elif typing.get_origin(hint) in (types.UnionType, typing.Union):
        kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
        if value is not None and len(kinds) == 1:
            yield from _wrong(value, kinds[0], bound, entry)
    elif typing.get_origin(hint) is tuple:
        kinds = [kind for kind in typing.get_args(hint) if kind is not Ellipsis]
        for number, each in enumerate(value):
            yield from _wrong(each, kinds[min(number, len(kinds) - 1)], bound, True)
        if len(value) < bound.entries:
            yield f"at least {'one value' if bound.entries == 1 else f'{bound.entries} values'}", _shown(value)
        if not bound.repeats and len(set(value)) < len(value):
            yield "different values", _shown(value)
    elif hint is int:
        limit = bound if bound.least is not None else WHOLE
        if isinstance(value, bool) or not isinstance(value, int) or not limit.holds(value):
            yield f"{'whole numbers' if entry else 'a whole number'} {limit}", value
        elif value > MOST:
            yield f"{'whole numbers' if entry else 'a whole number'} at most {MOST}", value
    elif hint is float:
        limit = bound if (bound.least, bound.above) != (None, None) else NUMBER
        kind = "finite numbers" if entry else "a finite number"
        if not (math.isfinite(value) and limit.holds(value)):
            yield f"{kind} {limit}", value
        elif abs(value) > _LARGEST or 0 < abs(value) < _SMALLEST:
            yield f"{kind} {limit}, such as single precision has", value
    elif hint is Path and not value.is_file():
        yield "a file", value


def _shown(values: tuple[Any, ...]) -> str:
    return " ".join(map(str, values)) or "none"
