"""The catalogue entry of a data set, and the training and test sets that it returns."""

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
        y: labels, `(n,)`: -1.0 and +1.0 for two classes, else class indices from 0, whole numbers.
        group: 2 [y = +1] + attribute, `(n,)`, if a binary attribute is spuriously correlated with the label.
        environment: the environment of each example, `(n,)`, from 0, if there are several.
    """

    x: Float[Array, "n ..."]
    y: Array
    group: Int[Array, " n"] | None = None
    environment: Int[Array, " n"] | None = None


class Sets(NamedTuple):
    """A training set and held-out sets.

    Attributes:
        train: the examples to train on.
        held_out: the held-out sets by name, including "test"; none of their examples is in `train`.
        outputs: the number of outputs that a network needs: 1 for two classes, else one per class.
        about: a description of these examples, e.g. if the files have fewer than the official number.
        stand_in: the data set for which these examples are a stand-in, or None.
    """

    train: Examples
    held_out: dict[str, Examples]
    outputs: int
    about: str
    stand_in: str | None = None


class Wanted(NamedTuple):
    """The arguments of `load`, with its key split by use; an `n` or `test` of None means all examples."""

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
        name: its name in `load(key, name)` and `--data name`, and as `gsjax.data.name` if it can be read or generated.
        title: its title in text.
        about: a one-line description with its source.
        classes: the names of the classes, in the order of the labels.
        shape: the shape of an example from `load`; None for an extent that is an argument.
        sets: `sets(entry, wanted)` -> the `Sets` that `load` returns; see `gsjax.data.sets`.
        files: the reader of its files; None if it has no files of its own.
        sizes: the official number of examples of each split that can be read; empty if examples are generated, or made
            from the examples of `bases`.
        bases: the entries from whose examples this one is made.
        recipes: the scaling of published recipes: a function of `gsjax.data.scaling` for each source.
        function: the function that `gsjax.data` exports under the name, instead of `read`.
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
        """The contents of the files of a split (by default the first): `Images`, or an `ImageFolder`.

        Raises:
            FileNotFoundError: the files of this split are missing; the error says what to fetch and where to put it.
            ValueError: an unknown split; a damaged file, which the error names; a data set without files.
        """
        files, split = self._files(split)
        return files.read(split)

    def available(self, split: str = "") -> bool:
        """Whether the files of a split (by default the first) are present, or none are needed; nothing is downloaded.

        Raises:
            ValueError: an unknown split; GSJAX_DATA does not name a readable folder.
        """
        if self.bases:
            return all(base.available(split) for base in self.bases)
        if self.files is None:
            return True
        files, split = self._files(split)
        return files.available(split)

    @property
    def origin(self) -> Origin:
        """The origin of its files.

        Raises:
            ValueError: a data set without files.
        """
        return self._files("")[0].origin

    @property
    def exported(self) -> Callable[..., Any] | None:
        """The function that `gsjax.data` exports under the name."""
        return self.function or (self.read if self.files else None)

    def _files(self, split: str) -> tuple[Files, str]:
        if self.files is None:
            raise ValueError(f"name: expected a data set with files, got {self.name!r}")
        split = next(iter(self.sizes)) if isinstance(split, str) and not split else split
        expected = " or ".join(map(repr, self.sizes))
        _check.require(isinstance(split, str) and split in self.sizes, "split", expected, _arguments.shown(split))
        return self.files, split
