"""The tasks of the experiment `remedies`: coloured digits, dominoes and coloured groups, or folders of photographs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from experiments import _domino_tasks, _photographs
from experiments._bounds import expect
from experiments._domino_tasks import EASY, HARD, Half, pieces
from gsjax import data, methods
from gsjax.data import CELEBA_GROUPS, ImageFolder, Images, scaling

Name = Literal["coloured digits", "dominoes", "coloured groups", "celeba", "waterbirds"]
PHOTOGRAPHS = ("celeba", "waterbirds")
DIGITS = ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))  # the classes +1 and -1 of coloured digits
CORRELATIONS = {"coloured digits": (0.8, 0.9), "dominoes": (0.9, 1.0)}  # of both environments
RARE = (1.5, 0.5)  # factors of the share of the rarest group in both environments of coloured groups

Hide = Callable[[Any], Any]


class Sizes(NamedTuple):
    """Numbers of images to train, and to validate and test each; `stride` of pixels, and `size` of photographs."""

    n: int
    test: int
    stride: int
    size: int


class Task(NamedTuple):
    """The examples of several networks; all leaves have an axis of networks first.

    `group` is 2 [y = +1] + the attribute, i.e. the class that the spurious feature suggests. In `train` the attribute
    is correlated with the label, and `iid` are test images of the same kind. In `balanced`, training images for a
    teacher, and in `validation` and `test` all groups are equally frequent, up to chance. `core (networks, t)` is the
    label -1 or +1 that the core feature of `test` suggests, which differs from `test.y` if labels are noisy.
    """

    train: methods.Batch
    balanced: methods.Batch
    validation: methods.Batch
    test: methods.Batch
    iid: methods.Batch
    core: Float[Array, "networks t"]


def draw(name: str, keys: Key[Array, " networks"], sizes: Sizes, images: str) -> tuple[Task, Hide | None]:
    """The task of this name for every network, and the function of x that removes the spurious feature.

    Images to train, to validate and to test are disjoint. Those of the three small tasks have the same number of
    pixels; they are flattened and divided by the root mean square of the pixels of the training images. The function is
    None for photographs.

    Args:
        name: of the task.
        keys: one per network.
        sizes: numbers of images.
        images: "digits" for scikit-learn's, or "real" for MNIST and Fashion-MNIST; without a meaning for photographs.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: more images than there are.
    """
    if name in PHOTOGRAPHS:
        return _of_folder(name, keys, sizes), None
    make = {"coloured digits": _coloured_digits, "dominoes": _dominoes, "coloured groups": _coloured_groups}[name]
    task, hide = make(keys, sizes, images == "digits")
    shape, scale = task.train.x.shape[2:], float(jnp.sqrt(jnp.mean(task.train.x**2)))

    def flat(batch: methods.Batch) -> methods.Batch:
        return batch._replace(x=batch.x.reshape(*batch.x.shape[:2], -1) / scale)

    def hidden(x: Any) -> Array:
        return hide((x * scale).reshape(*x.shape[:-1], *shape)).reshape(x.shape) / scale

    return Task(*map(flat, task[:-1]), core=task.core), hidden


def shares(train: methods.Batch) -> Float[np.ndarray, "networks 4"]:
    """The shares of the four groups in the training images of each network."""
    return np.array([np.bincount(group, minlength=4) / len(group) for group in np.asarray(train.group)])


def environments(n: int) -> Int[np.ndarray, "2 4"]:
    """The sizes of the groups of coloured groups in both environments, each with half of n images.

    The groups have the shares of CelebA in both together. The rarest one has 1.5 and 0.5 times its share in the two.

    >>> environments(2000).tolist()
    [[440, 411, 136, 13], [440, 411, 145, 4]]
    """
    parts = np.array(CELEBA_GROUPS) / sum(CELEBA_GROUPS)
    sizes = []
    for factor in RARE:
        rare = max(1, round(n / 2 * parts[3] * factor))
        both = round(n / 2 * parts[2:].sum())
        second = round(n / 2 * parts[1])
        sizes.append([n // 2 - second - both, second, both - rare, rare])
    return np.array(sizes)


def _dominoes(keys: Key[Array, " networks"], sizes: Sizes, small: bool) -> tuple[Task, Hide]:
    hard, easy = ("digits", "digits") if small else ("fashion_mnist", "mnist")
    halves = Half(hard, HARD[hard]), Half(easy, EASY[easy])
    drawn = functools.partial(_domino_tasks.draw, keys, *halves, n=sizes.n, test=sizes.test, stride=sizes.stride)
    task = drawn(correlations=CORRELATIONS["dominoes"])
    region = jnp.asarray(task.spurious)
    random, validation = task.test["random"], task.validation["random"]
    balanced = drawn(correlations=(0.5, 0.5)).train
    found = Task(task.train, balanced, validation, random, task.test["test"], random.y)
    return found, functools.partial(_black, region)


def _black(region: Array, x: Any) -> Array:
    return data.hide(jnp.asarray(x), region)


def _coloured_digits(keys: Key[Array, " networks"], sizes: Sizes, small: bool) -> tuple[Task, Hide]:
    half = Half("digits" if small else "mnist", DIGITS)
    found = _digits_program(sizes)(keys, tuple(_part(half, *place) for place in (("train", sizes.n), *_held(sizes))))
    return found, data.gray


def _held(sizes: Sizes) -> list[tuple[str, int]]:
    return [("validation", sizes.test), ("test", sizes.test)]


def _part(half: Half, split: str, n: int) -> Images:
    """The images of a split.

    Raises:
        ValueError: there are fewer than n.
    """
    found = pieces(half)[("train", "validation", "test").index(split)]
    expect(n <= len(found.labels), "n" if split == "train" else "test", f"at most {len(found.labels)}", n)
    return found


@functools.lru_cache(maxsize=4)
def _digits_program(sizes: Sizes) -> Callable[..., Task]:
    pair = CORRELATIONS["coloured digits"]

    def one(key: Key[Array, ""], parts: Sequence[Images]) -> Task:
        def batch(number: int, part: Images, n: int, correlations: Sequence[float]) -> tuple[methods.Batch, Array]:
            order, colours = jax.random.split(jax.random.fold_in(key, number))
            rows = jax.random.permutation(order, len(part.labels))[:n]
            chosen = Images(*(jnp.asarray(leaf)[rows] for leaf in part))  # pyright: ignore[reportArgumentType]  traced
            options = {"correlations": correlations, "positive": DIGITS[0], "stride": sizes.stride}
            x, y, colour, environment = data.colored(colours, chosen, **options)
            group = 2 * (y > 0).astype(int) + colour
            core = jnp.where(jnp.isin(chosen.labels, jnp.array(DIGITS[0])), 1.0, -1.0).astype(x.dtype)
            return methods.Batch(x, y, group, environment, jnp.arange(n)), core

        train, validation, test = parts
        tested, core = batch(3, test, sizes.test, (0.5,))
        return Task(
            batch(0, train, sizes.n, pair)[0],
            batch(1, train, sizes.n, (0.5, 0.5))[0],
            batch(2, validation, sizes.test, (0.5,))[0],
            tested,
            batch(4, test, sizes.test, pair)[0],
            core,
        )

    return jax.jit(jax.vmap(one, in_axes=(0, None)))


def _coloured_groups(keys: Key[Array, " networks"], sizes: Sizes, small: bool) -> tuple[Task, Hide]:
    # As in the experiment `groups`: dresses and coats against pullovers.
    classes = ((1, 3, 5, 9), (8,)) if small else ((3, 4), (2,))
    parts = pieces(Half("digits" if small else "fashion_mnist", classes))
    even = [[count // 4] * 4 for count in (sizes.n, sizes.test)]
    iid = environments(sizes.test).sum(axis=0).tolist()

    def one(key: Key[Array, ""]) -> Task:
        def batch(number: int, split: int, *wanted: Sequence[int]) -> methods.Batch:
            drawn = [
                data.colored_groups(
                    jax.random.fold_in(key, 10 * number + place),
                    parts[split],
                    classes=classes,
                    sizes=counts,
                    stride=sizes.stride,
                )
                for place, counts in enumerate(wanted)
            ]
            x, y, group = (jnp.concatenate(leaves) for leaves in zip(*drawn, strict=True))
            environment = jnp.concatenate([jnp.full(len(each.y), place) for place, each in enumerate(drawn)])
            return methods.Batch(x, y, group, environment, jnp.arange(len(y)))

        test = batch(3, 2, even[1])
        # The environments take their images from the same set, so that a few are in both.
        train = batch(0, 0, *environments(sizes.n).tolist())
        return Task(train, batch(1, 0, even[0]), batch(2, 1, even[1]), test, batch(4, 2, iid), test.y)

    return jax.jit(jax.vmap(one))(keys), data.gray


def _of_folder(name: str, keys: Key[Array, " networks"], sizes: Sizes) -> Task:
    """Photographs of a folder, in memory; every network has its own choice of them."""
    folder = _photographs.folder(name)
    tasks = []
    for key in keys:
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        train = folder.rows("train")
        train = rng.permutation(train)[: sizes.n]
        balanced = np.concatenate([rng.choice(train[folder.group[train] == g], len(train) // 4) for g in range(4)])
        validation, test = (_even(folder, split, sizes.test, rng) for split in ("validation", "test"))
        iid = rng.permutation(folder.rows("test"))[: len(test)]
        made = [_read(folder, rows, sizes.size) for rows in (train, balanced, validation, test, iid)]
        tasks.append(Task(*made, core=made[3].y))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)


def _even(folder: ImageFolder, split: str, count: int, rng: np.random.Generator) -> Int[np.ndarray, " rows"]:
    """Rows of a split with equally many of each group: `count` in all, or as many as there are."""
    rows = folder.rows(split)
    members = [rows[folder.group[rows] == group] for group in range(4)]
    each = min(count // 4, *map(len, members))
    return np.concatenate([rng.permutation(member)[:each] for member in members])


def _read(folder: ImageFolder, rows: Int[np.ndarray, " rows"], size: int) -> methods.Batch:
    x = scaling.imagenet(jnp.asarray(data.load_images(folder, rows, size=size)))
    y, group = jnp.asarray(folder.y[rows], jnp.float32), jnp.asarray(folder.group[rows])
    return methods.Batch(x, y, group, index=jnp.arange(len(rows)))
