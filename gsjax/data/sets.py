"""The functions that make training and test sets from catalogue entries; each takes an entry and a `Wanted`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from gsjax import _check
from gsjax.data import coloring, scaling
from gsjax.data.entry import Entry, Examples, Sets, Wanted
from gsjax.data.folders import load_images
from gsjax.data.groups import colored_groups
from gsjax.data.images import Images

__all__ = ["coloured", "drawn", "files", "groups", "parts", "photographs"]


def drawn(
    entry: Entry,
    wanted: Wanted,
    *,
    draw: Callable[..., Any],
    n: int = 300,
    test: int = 1000,
    held_out: Mapping[str, Mapping[str, Any]] | None = None,
) -> Sets:
    """New examples from a generator, `draw(key, n, **options)` -> x, y (further results are ignored).

    Args:
        entry: the entry of the generator.
        wanted: the arguments of `load`.
        draw: the generator.
        n: the default number of training examples.
        test: the default number of examples of each held-out set.
        held_out: the options of each held-out set by name; by default one set "test" without options.
    """

    def sample(key: Key[Array, ""], n: int, options: Mapping[str, Any]) -> Examples:
        x, y, *_ = jax.jit(functools.partial(draw, **options), static_argnames="n")(key, n=n)
        return Examples(x, y)

    options_by_name = {"test": {}} if held_out is None else held_out
    train = sample(wanted.train_key, n if wanted.n is None else wanted.n, {})
    count = test if wanted.test is None else wanted.test
    tested = {name: sample(wanted.test_key, count, options) for name, options in options_by_name.items()}
    return Sets(train, tested, 1 if len(entry.classes) == 2 else len(entry.classes), entry.name)


def files(entry: Entry, wanted: Wanted, *, classes: tuple[int, ...] = ()) -> Sets:
    """Images of the entry or of its base, in [-1, 1], of all classes or of two (by default `classes`)."""
    classes = wanted.classes or classes
    images, about = parts(_source(entry), wanted.split_key)
    labels = np.unique(images[0].labels).tolist()
    if classes:
        good = len(classes) == 2 and len(set(classes)) == 2 and set(classes) <= set(labels)
        _check.require(good, "classes", f"none, or two different labels of {labels}", classes)
        images = [_select(part, np.isin(part.labels, classes)) for part in images]
    train, test = (
        Examples(
            scaling.signed(pixels),
            jnp.asarray(np.where(labels == classes[1], 1.0, -1.0)) if classes else jnp.asarray(labels, int),
        )
        for pixels, labels in _chosen(wanted, images)
    )
    return Sets(train, {"test": test}, 1 if classes else len(entry.classes), about)


def coloured(entry: Entry, wanted: Wanted, *, oracle: bool = False) -> Sets:
    """Colored MNIST made from the images of the base; with `oracle`, the same examples without colour.

    The two training environments have correlations .8 and .9. In the set "test" the colour agrees with the label with
    probability .1; the set "gray" is the same without colour.
    """
    images, about = parts(_source(entry), wanted.split_key)
    draw = jax.jit(coloring.colored, static_argnames=("correlations", "stride"))
    sets = []
    for part, key, correlations in zip(
        _chosen(wanted, images), (wanted.train_key, wanted.test_key), ((0.8, 0.9), (0.1,)), strict=True
    ):
        stride = 1 if part.pixels.shape[1] < 28 else 2
        x, y, color, environment = draw(key, part, correlations=correlations, stride=stride)
        x = coloring.grayscale(x) if oracle else x
        group = jnp.asarray(2 * (np.asarray(y) > 0) + np.asarray(color))
        sets.append(Examples(x, y, group, environment))
    train, test = sets
    held_out = {"test": test} if oracle else {"test": test, "gray": test._replace(x=coloring.gray(test.x))}
    return Sets(train, held_out, 1, f"{entry.name}: {about}")


def groups(entry: Entry, wanted: Wanted) -> Sets:
    """Images of the base with the group structure of CelebA; the test set has groups of equal size."""
    images, about = parts(_source(entry), wanted.split_key)
    train = colored_groups(wanted.train_key, images[0])
    rare = int((images[1].labels == 2).sum())  # label 2 is the rare class of `colored_groups`
    test = colored_groups(wanted.test_key, images[1], sizes=(rare // 2,) * 4)
    sets = []
    for whole, m, name in ((train, wanted.n, "n"), (test, wanted.test, "test")):
        _count(name, m, len(whole.y))
        sets.append(Examples(*(leaf[:m] for leaf in whole)))  # the examples are in random order
    return Sets(sets[0], {"test": sets[1]}, 1, f"{entry.name}: {about}", stand_in="for CelebA")


def photographs(entry: Entry, wanted: Wanted) -> Sets:
    """Photographs of a folder, in [-1, 1], each `wanted.size` pixels high and wide."""
    folder, sets = entry.read("train"), []
    for split, key, m, name in (
        ("train", wanted.train_key, wanted.n, "n"),
        ("test", wanted.test_key, wanted.test, "test"),
    ):
        rows = folder.rows(split)
        rows = rows[_drawn(key, len(rows), m, name)]
        x = scaling.signed(load_images(folder, rows, size=wanted.size))
        sets.append(Examples(x, jnp.asarray(folder.y[rows], float), jnp.asarray(folder.group[rows])))
    return Sets(sets[0], {"test": sets[1]}, 1, entry.name)


def parts(source: Entry, key: Key[Array, ""]) -> tuple[list[Images], str]:
    """The training and test images of `source`, and a description of them.

    If it has only one split, or the files of its training split are missing, the images are divided at random, 5 to 1.
    """
    if "test" not in source.sizes:
        return _divided(key, source.read()), source.title
    if not source.available("train") and source.available("test"):
        whole = source.read("test")
        return _divided(key, whole), f"{source.name}, the {len(whole.labels):,} images of its test split"
    train, test = source.read("train"), source.read("test")
    count, official = len(train.labels), source.sizes["train"]
    fewer = "" if count == official else f", {count:,} of {official:,} training images"
    return [train, test], source.name + fewer


def _source(entry: Entry) -> Entry:
    return entry.bases[0] if entry.bases else entry


def _divided(key: Key[Array, ""], whole: Images) -> list[Images]:
    order = _order(key, len(whole.labels))
    return [_select(whole, rows) for rows in np.split(order, [len(order) * 5 // 6])]


def _chosen(wanted: Wanted, images: Sequence[Images]) -> list[Images]:
    """The wanted numbers of training and test images."""
    train, test = images
    return [
        _select(train, _drawn(wanted.train_key, len(train.labels), wanted.n, "n")),
        _select(test, _drawn(wanted.test_key, len(test.labels), wanted.test, "test")),
    ]


def _drawn(key: Key[Array, ""], n: int, m: int | None, name: str) -> Int[np.ndarray, " m"]:
    """`m` of `n` rows, or all if None, in random order."""
    _count(name, m, n)
    return _order(key, n)[:m]


def _order(key: Key[Array, ""], n: int) -> Int[np.ndarray, " n"]:
    # NumPy's permutations need no compilation for every size.
    return np.random.default_rng(np.asarray(jax.random.key_data(key))).permutation(n)


def _count(name: str, m: int | None, n: int) -> None:
    _check.require(m is None or m <= n, name, f"at most {n}, the number of examples", m)


def _select(images: Images, rows: np.ndarray) -> Images:
    return Images(images.pixels[rows], images.labels[rows])
