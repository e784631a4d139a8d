"""What the catalogue knows of a data set, and what it gives: sets of examples to train and to test on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int, Key

from gsjax import _check
from gsjax.data import _arguments
from gsjax.data.images import Files
from gsjax.data.sources import Origin

__all__ = ["Entry", "Examples", "Sets", "Wanted"]


class Examples(NamedTuple):
    """A set of examples.

    Attributes:
        x: inputs, `(n, ...)`; images as `(n, height, width, channels)`.
        y: labels, `(n,)`: -1.0 and +1.0 where there are two classes, else class indices from 0, whole numbers.
        group: 2 [y = +1] + attribute, `(n,)`, where a binary attribute goes with the label spuriously.
        environment: where each example comes from, `(n,)`, from 0, where there are several environments.
    """

    x: Float[Array, "n ..."]
    y: Array
    group: Int[Array, " n"] | None = None
    environment: Int[Array, " n"] | None = None


class Sets(NamedTuple):
    """Examples to train on, and sets to measure accuracy on.

    Attributes:
        train: what is trained on.
        held_out: the other sets by name, "test" among them; no example of them is in `train`.
        outputs: how many a network needs: 1 for two classes, else one per class.
        about: what these examples are, as where a file has fewer than the official number.
        stand_in: for what they stand in, if they do.
    """

    train: Examples
    held_out: dict[str, Examples]
    outputs: int
    about: str
    stand_in: str | None = None


class Wanted(NamedTuple):
    """The arguments of `load`, its key as one for each thing that is drawn; None for all examples there are."""

    train_key: Key[Array, ""]
    test_key: Key[Array, ""]
    split_key: Key[Array, ""]
    classes: tuple[int, ...]
    n: int | None
    test: int | None
    size: int


@dataclass(frozen=True, eq=False)
class Entry:
    """A data set.

    Attributes:
        name: in `load(key, name)`, `--data name`, and `gsjax.data.name` if it can be read or drawn.
        title: what to call it.
        about: what it is, in a line, with its source.
        classes: their names, in the order of the labels.
        shape: of an example that `load` gives; None for an extent that is an argument.
        sets: `sets(entry, wanted)` -> the `Sets` that `load` gives; see `gsjax.data.sets`.
        files: how its files are read; None if it has none of its own.
        sizes: the official number of examples in each split that can be read; empty if examples are drawn, or are made
            from those of `bases`.
        bases: the entries whose examples this one is made from.
        recipes: how published recipes centre and scale it: a function of `gsjax.data.scaling` by source.
        function: what `gsjax.data` exports under the name, in place of `read`.
    """

    name: str
    title: str
    about: str
    classes: tuple[str, ...]
    shape: tuple[int | None, ...]
    sets: Callable[[Entry, Wanted], Sets]
    files: Files | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    bases: tuple[Entry, ...] = ()
    recipes: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    function: Callable[..., Any] | None = None

    def read(self, split: str = "") -> Any:
        """What is in a split, as in its files: `Images`, or an `ImageFolder`. The first split by default.

        Raises:
            FileNotFoundError: the files of this split are nowhere; what to fetch, and where to put it.
            ValueError: an unknown split; a damaged file, which is named; a data set without files.
        """
        files, split = self._files(split)
        return files.read(split)

    def available(self, split: str = "") -> bool:
        """Whether the files of a split, by default the first, are there, or none are needed; nothing is downloaded.

        Raises:
            ValueError: an unknown split; GSJAX_DATA names no folder that can be read.
        """
        if self.bases:
            return all(base.available(split) for base in self.bases)
        if self.files is None:
            return True
        files, split = self._files(split)
        return files.available(split)

    @property
    def origin(self) -> Origin:
        """Where its files come from.

        Raises:
            ValueError: a data set without files.
        """
        return self._files("")[0].origin

    @property
    def exported(self) -> Callable[..., Any] | None:
        """What `gsjax.data` has under the name."""
        return self.function or (self.read if self.files else None)

    def _files(self, split: str) -> tuple[Files, str]:
        if self.files is None:
            raise ValueError(f"name: expected a data set with files, got {self.name!r}")
        split = next(iter(self.sizes)) if isinstance(split, str) and not split else split
        expected = " or ".join(map(repr, self.sizes))
        _check.require(isinstance(split, str) and split in self.sizes, "split", expected, _arguments.shown(split))
        return self.files, split
