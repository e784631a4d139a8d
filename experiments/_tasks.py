"""Every data set of the project as a task: something to train on, and sets to measure accuracy on, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from gsjax import _check, data
from gsjax.data import ImageFolder, Images
from gsjax.methods import Batch

# The readers of image files, and how many images their official training split has.
_FILES: dict[str, tuple[Callable[[str], Images], int]] = {
    "mnist": (data.mnist, 60_000),
    "fashion_mnist": (data.fashion_mnist, 60_000),
    "kmnist": (data.kmnist, 60_000),
    "cifar10": (data.cifar10, 50_000),
    "cifar100": (data.cifar100, 50_000),
}
_ONE_CHANNEL = ("digits", "mnist", "fashion_mnist", "kmnist")


class Task(NamedTuple):
    """What is learned: `train`, the sets of `held_out` by name, the `outputs` that a network needs; `about` all this.

    Labels are -1 and +1 if `outputs` is 1, and class indices otherwise. `about` is what a summary says of its data.
    """

    train: Batch
    held_out: dict[str, Batch]
    outputs: int
    about: dict[str, Any]


class _Wanted(NamedTuple):
    """The arguments of `load`, its key as one for each of what is drawn."""

    name: str
    train_key: Key[Array, ""]
    test_key: Key[Array, ""]
    split_key: Key[Array, ""]
    classes: tuple[int, ...]
    n: int | None
    test: int | None
    image_size: int


def load(
    key: Key[Array, ""],
    name: str,
    *,
    classes: Sequence[int] = (),
    n: int | None = None,
    test: int | None = None,
    image_size: int = 64,
) -> Task:
    """The task of a name; pixels are scaled to [-1, 1], those of coloured images to [0, 1].

    - two_moons: 300 examples, and 1,000 to test on, by default.
    - digits (8 x 8, in scikit-learn), mnist, fashion_mnist, kmnist, cifar10, cifar100: all classes, or two of them;
      cifar2: cats and dogs of CIFAR-10.
    - colored_digits, colored_mnist, ...: Colored MNIST's environments .8 and .9, tested where the colour agrees with
      the label with probability .1, and without colour. A group is a label with a colour, 2 [y = +1] + colour.
    - oracle_digits, oracle_mnist, ...: the same images and labels in grayscale.
    - colored_groups: Fashion-MNIST with CelebA's structure of groups, tested on groups of equal size.
    - celeba, waterbirds: photographs from their folders.

    Where the training split of a set of image files is absent, the images of its test split are divided, 5 to 1.

    Args:
        key: draws examples, their order, colours and noise.
        name: one of `NAMES`.
        classes: the labels that become -1 and +1, of image files; all classes if empty.
        n: examples to train on; all there are by default.
        test: examples to test on; all there are by default.
        image_size: of photographs, in pixels either way.

    Raises:
        ValueError: no such task; classes that it does not have; more examples than it has; a damaged file.
        FileNotFoundError: its files are nowhere; what to fetch, and where to put it.

    >>> task = load(jax.random.key(0), "colored_digits", n=100)
    >>> task.train.x.shape, list(task.held_out), task.outputs
    ((100, 8, 8, 2), ['test', 'gray'], 1)
    """
    check(name, classes)
    for argument, value in (("n", n), ("test", test), ("image_size", image_size)):
        _check.require(value is None or value >= 1, argument, "at least 1", value)
    train_key, test_key, split_key = jax.random.split(key, 3)
    return _LOADERS[name](_Wanted(name, train_key, test_key, split_key, tuple(classes), n, test, image_size))


def check(name: str, classes: Sequence[int] = ()) -> None:
    """Checks what can be without data.

    Raises:
        ValueError: no such task; classes for one that has two of its own.
    """
    _check.require(name in NAMES, "data", f"one of {', '.join(NAMES)}", repr(name))
    choice = not classes or name in ("digits", *_FILES)
    _check.require(choice, "classes", f"none, as {name} has two of its own", classes)
    two = len(classes) in (0, 2)
    _check.require(two, "classes", "none, or two different labels", classes)


def _moons(wanted: _Wanted) -> Task:
    draw = jax.jit(data.two_moons, static_argnames="n")
    train, test = draw(wanted.train_key, n=wanted.n or 300), draw(wanted.test_key, n=wanted.test or 1000)
    return _task(wanted.name, Batch(*train), {"test": Batch(*test)}, 1)


def _files(wanted: _Wanted, source: str, classes: tuple[int, ...] = ()) -> Task:
    """Image files, in all their classes or in two."""
    classes = wanted.classes or classes
    parts, known = _splits(wanted, source)
    labels = np.unique(parts[0].labels).tolist()
    if classes:
        good = len(classes) == 2 and len(set(classes)) == 2 and set(classes) <= set(labels)
        _check.require(good, "classes", f"none, or two different labels of {labels}", classes)
        parts = [_select(images, np.isin(images.labels, classes)) for images in parts]
    train, test = (
        Batch(
            _scaled(pixels),
            jnp.asarray(np.where(labels == classes[1], 1.0, -1.0)) if classes else jnp.asarray(labels, int),
        )
        for pixels, labels in _drawn_images(wanted, parts)
    )
    return _task(known, train, {"test": test}, 1 if classes else labels[-1] + 1)


def _colored(wanted: _Wanted, source: str, *, oracle: bool) -> Task:
    """Colored MNIST and its likes, or, for the oracle, the same without colour."""
    parts, known = _splits(wanted, source)
    draw = jax.jit(data.colored, static_argnames=("correlations", "stride"))
    sets = []
    for images, key, correlations in zip(
        _drawn_images(wanted, parts), (wanted.train_key, wanted.test_key), ((0.8, 0.9), (0.1,)), strict=True
    ):
        stride = 1 if images.pixels.shape[1] < 28 else 2
        x, y, color, environment = draw(key, images, correlations=correlations, stride=stride)
        x = data.grayscale(x) if oracle else x
        group = jnp.asarray(2 * (np.asarray(y) > 0) + np.asarray(color))
        sets.append(Batch(x, y, group=group, environment=environment))
    train, test = sets
    held_out = {"test": test} if oracle else {"test": test, "gray": test._replace(x=data.gray(test.x))}
    return _task(f"{wanted.name}: {known}", train, held_out, 1)


def _groups(wanted: _Wanted) -> Task:
    """A stand-in for CelebA."""
    parts, known = _splits(wanted, "fashion_mnist")
    train = data.colored_groups(wanted.train_key, parts[0])
    rare = int((parts[1].labels == 6).sum())
    test = data.colored_groups(wanted.test_key, parts[1], sizes=(rare // 2,) * 4)
    sets = []
    for whole, m, name in ((train, wanted.n, "n"), (test, wanted.test, "test")):
        _count(name, m, len(whole.y))
        x, y, group = (leaf[:m] for leaf in whole)  # they are in random order
        sets.append(Batch(x, y, group=group))
    task = _task(f"{wanted.name}: {known}", sets[0], {"test": sets[1]}, 1)
    return task._replace(about={**task.about, "stand-in": "for CelebA"})


def _photographs(wanted: _Wanted, read: Callable[[], ImageFolder]) -> Task:
    folder, sets = read(), []
    for split, key, m, name in (
        ("train", wanted.train_key, wanted.n, "n"),
        ("test", wanted.test_key, wanted.test, "test"),
    ):
        rows = folder.rows(split)
        rows = rows[_drawn(key, len(rows), m, name)]
        x = _scaled(data.load_images(folder, rows, size=wanted.image_size))
        sets.append(Batch(x, jnp.asarray(folder.y[rows], float), group=jnp.asarray(folder.group[rows])))
    return _task(wanted.name, sets[0], {"test": sets[1]}, 1)


_LOADERS: dict[str, Callable[[_Wanted], Task]] = {
    "two_moons": _moons,
    **{name: functools.partial(_files, source=name) for name in ("digits", *_FILES)},
    "cifar2": functools.partial(_files, source="cifar10", classes=(3, 5)),
    **{f"colored_{name}": functools.partial(_colored, source=name, oracle=False) for name in _ONE_CHANNEL},
    **{f"oracle_{name}": functools.partial(_colored, source=name, oracle=True) for name in _ONE_CHANNEL},
    "colored_groups": _groups,
    "celeba": functools.partial(_photographs, read=data.celeba),
    "waterbirds": functools.partial(_photographs, read=data.waterbirds),
}

NAMES: tuple[str, ...] = tuple(_LOADERS)


def _splits(wanted: _Wanted, source: str) -> tuple[list[Images], str]:
    """The images to train and to test on, and what to call them."""
    if source == "digits":
        return _divided(wanted.split_key, data.digit_images()), "scikit-learn's 8 x 8 digits"
    read, official = _FILES[source]
    if not data.available(source, "train") and data.available(source, "test"):
        whole = read("test")
        return _divided(wanted.split_key, whole), f"{source}, the {len(whole.labels):,} images of its test split"
    train, test = read("train"), read("test")
    part = "" if len(train.labels) == official else f", {len(train.labels):,} of {official:,} training images"
    return [train, test], source + part


def _divided(key: Key[Array, ""], whole: Images) -> list[Images]:
    order = _order(key, len(whole.labels))
    return [_select(whole, rows) for rows in np.split(order, [len(order) * 5 // 6])]


def _drawn_images(wanted: _Wanted, parts: Sequence[Images]) -> list[Images]:
    """As many images to train and to test on as are wanted."""
    (train, test), m = parts, wanted
    return [
        _select(train, _drawn(m.train_key, len(train.labels), m.n, "n")),
        _select(test, _drawn(m.test_key, len(test.labels), m.test, "test")),
    ]


def _drawn(key: Key[Array, ""], there: int, m: int | None, name: str) -> Int[np.ndarray, " m"]:
    """`m` of the rows there are, or all, in random order."""
    _count(name, m, there)
    return _order(key, there)[:m]


def _order(key: Key[Array, ""], there: int) -> Int[np.ndarray, " there"]:
    # By numpy, whose permutations are not compiled anew for every size.
    return np.random.default_rng(np.asarray(jax.random.key_data(key))).permutation(there)


def _count(name: str, m: int | None, there: int) -> None:
    _check.require(m is None or m <= there, name, f"at most {there}, the examples there are", m)


def _select(images: Images, rows: np.ndarray) -> Images:
    return Images(images.pixels[rows], images.labels[rows])


def _scaled(pixels: np.ndarray) -> Float[Array, "n height width c"]:
    return jnp.asarray(pixels.astype(jnp.result_type(float)) / 127.5 - 1)


def _task(name: str, train: Batch, held_out: dict[str, Batch], outputs: int) -> Task:
    sizes = {"train": len(train.y), **{key: len(of.y) for key, of in held_out.items()}}
    train = train._replace(index=jnp.arange(len(train.y)))
    return Task(train, held_out, outputs, {"name": name, **sizes, "stand-in": False})
