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
from gsjax.data.dominoes import Dominoes, domino_variants, dominoes, most_dominoes, patched
from gsjax.data.entry import Entry, Examples, Sets, Wanted
from gsjax.data.folders import load_examples
from gsjax.data.groups import colored_groups
from gsjax.data.images import Images

__all__ = ["Pair", "coloured", "drawn", "files", "groups", "halves", "parts", "patches", "photographs"]

# Two classes, each of one label or more.
Pair = tuple[tuple[int, ...], tuple[int, ...]]


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
    images, classes, about = _of_classes(entry, wanted, classes)
    train, test = (_examples(part, classes) for part in _chosen(wanted, images))
    return Sets(train, {"test": test}, 1 if classes else len(entry.classes), about)


def patches(entry: Entry, wanted: Wanted, *, label: int = 1, size: int = 5) -> Sets:
    """Images of the base, in [-1, 1], with a patch in the class `label`, or in the larger of two chosen labels.

    In the set "no patch" no image has it, and in the set "reversed" those of all other classes have it. With two
    classes, the attribute is the patch.
    """
    (train, test), classes, about = _of_classes(entry, wanted, ())
    label = max(classes) if classes else label

    def examples(images: Images, rows: np.ndarray, has_patch: bool = True, others: bool = False) -> Examples:
        found = _examples(
            _select(patched(images, label, size=size, others=others) if has_patch else images, rows), classes
        )
        patch = has_patch & ((images.labels[rows] == label) ^ others)
        return found._replace(group=jnp.asarray(2 * (np.asarray(found.y) > 0) + patch) if classes else None)

    rows = _drawn(wanted.test_key, len(test.labels), wanted.test, "test")
    held_out = {
        "test": examples(test, rows),
        "no patch": examples(test, rows, has_patch=False),
        "reversed": examples(test, rows, others=True),
    }
    drawn = examples(train, _drawn(wanted.train_key, len(train.labels), wanted.n, "n"))
    return Sets(drawn, held_out, 1 if classes else len(entry.classes), f"{entry.name}: {about}")


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


def halves(entry: Entry, wanted: Wanted, *, classes: tuple[Pair, Pair]) -> Sets:
    """Dominoes made from two `classes` of the first base, the core half, and of the last base, the spurious half.

    The correlation is .95, in training as in testing. The held-out sets are those of `domino_variants`.
    """
    found = _together(entry.bases, wanted.split_key)
    (train, test), about = zip(found[0][0], found[-1][0], strict=True), dict.fromkeys(text for _, text in found)

    def draw(
        function: Callable[..., Any], key: Key[Array, ""], pair: tuple[Images, Images], m: int | None, name: str
    ) -> Any:
        most = most_dominoes(*pair, classes)
        _count(name, m, most)
        return function(key, *pair, n=max(m or most, 2), classes=classes)

    def examples(drawn: Dominoes, m: int | None) -> Examples:
        return Examples(drawn.x[:m], drawn.y[:m], (2 * (drawn.y > 0) + drawn.attribute)[:m])

    variants = draw(domino_variants, wanted.test_key, test, wanted.test, "test")
    held_out = {name: examples(variant, wanted.test) for name, variant in variants.items()}
    drawn = examples(draw(dominoes, wanted.train_key, train, wanted.n, "n"), wanted.n)
    return Sets(drawn, held_out, 1, f"{entry.name}: {'; '.join(about)}")


def photographs(entry: Entry, wanted: Wanted) -> Sets:
    """Photographs of a folder, in [-1, 1], each `wanted.size` pixels high and wide."""
    folder, sets = entry.read("train"), []
    for split, key, m, name in (
        ("train", wanted.train_key, wanted.n, "n"),
        ("test", wanted.test_key, wanted.test, "test"),
    ):
        rows = folder.rows(split)
        rows = rows[_drawn(key, len(rows), m, name)]
        sets.append(load_examples(folder, rows, size=wanted.size))
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


def _together(bases: Sequence[Entry], key: Key[Array, ""]) -> list[tuple[list[Images], str]]:
    """`parts` of all bases; if several are missing, one error says what to fetch for each."""
    found, missing = [], []
    for base in bases:
        try:
            found.append(parts(base, key))
        except FileNotFoundError as error:
            missing.append(str(error))
    if missing:
        raise FileNotFoundError("; and ".join(missing))
    return found


def _of_classes(entry: Entry, wanted: Wanted, classes: tuple[int, ...]) -> tuple[list[Images], tuple[int, ...], str]:
    """Training and test images of all classes, or of two (by default `classes`), those two, and a description."""
    classes = wanted.classes or classes
    images, about = parts(_source(entry), wanted.split_key)
    labels = np.unique(images[0].labels).tolist()
    if classes:
        good = len(classes) == 2 and len(set(classes)) == 2 and set(classes) <= set(labels)
        _check.require(good, "classes", f"none, or two different labels of {labels}", classes)
        images = [_select(part, np.isin(part.labels, classes)) for part in images]
    return images, classes, about


def _examples(images: Images, classes: tuple[int, ...]) -> Examples:
    """Images in [-1, 1] with their labels, -1 and +1 for two `classes`."""
    pixels, labels = images
    y = jnp.asarray(np.where(labels == classes[1], 1.0, -1.0)) if classes else jnp.asarray(labels, int)
    return Examples(scaling.signed(pixels), y)


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
