"""Every entry of the catalogue: shapes, labels, dtypes, and the order and number of examples.

The files are made up: a few images in the official format of each entry.
"""

from __future__ import annotations

import csv
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gsjax import data
from gsjax.data import catalogue, sources
from gsjax.data.folders import Photographs
from gsjax.data.images import Cifar, Idx

TRAIN, TEST = 600, 100  # numbers of made-up images, with all labels in turn
SIZE = 8  # pixels of photographs


def write_idx(folder, files):
    rng = np.random.default_rng(0)
    (folder / files.folder).mkdir()
    for prefix, n in (("train", TRAIN), ("t10k", TEST)):
        pixels, labels = rng.integers(0, 256, (n, 28, 28)), np.arange(n) % files.classes
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4) for size in array.shape)
            path = folder / files.folder / f"{prefix}-{kind}-ubyte"
            path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_cifar(folder, files):
    rng = np.random.default_rng(0)
    (folder / files.folder).mkdir()
    for split, n in (("train", TRAIN), ("test", TEST)):
        labels = np.stack([np.arange(n) % classes for classes in files.classes], axis=1)
        records = np.concatenate([labels, rng.integers(0, 256, (n, 3072))], axis=1).astype(np.uint8)
        members = files.members[split]
        for member, part in zip(members, np.split(records, len(members)), strict=True):
            (folder / files.folder / member).write_bytes(part.tobytes())


def write_photographs(folder, name):
    """Writes 40 photographs of both classes with both attributes, in the three splits."""
    rng = np.random.default_rng(0)
    known = [(k, k % 2, k // 2 % 2, k // 4 % 3) for k in range(40)]
    if name == "celeba":
        place = folder / "celeba" / "img_align_celeba"
        rows = [f"{k}.png {2 * y - 1} {2 * attribute - 1}\n" for k, y, attribute, _ in known]
        place.mkdir(parents=True)
        (folder / "celeba" / "list_attr_celeba.txt").write_text("".join(["40\n", "Blond_Hair Male\n", *rows]))
        (folder / "celeba" / "list_eval_partition.txt").write_text("".join(f"{k}.png {s}\n" for k, *_, s in known))
    else:
        place = folder / "waterbird_complete95_forest2water2"
        place.mkdir()
        with open(place / "metadata.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["img_filename", "y", "place", "split"])
            table.writerows((f"{k}.png", *rest) for k, *rest in known)
    for k, *_ in known:
        Image.fromarray(rng.integers(0, 256, (20, 16, 3), np.uint8)).save(place / f"{k}.png")


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """A folder with the files of every entry that reads files."""
    folder = tmp_path_factory.mktemp("made-up")
    for entry in map(data.get, data.NAMES):
        if isinstance(entry.files, Idx):
            write_idx(folder, entry.files)
        elif isinstance(entry.files, Cifar):
            write_cifar(folder, entry.files)
        elif isinstance(entry.files, Photographs):
            write_photographs(folder, entry.name)
    return folder


@pytest.fixture
def made_up_data(made_up, monkeypatch):
    monkeypatch.setenv("GSJAX_DATA", str(made_up))
    monkeypatch.setenv("GSJAX_OFFLINE", "1")


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("GSJAX_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GSJAX_OFFLINE", "1")
    monkeypatch.setattr(sources, "_DEBIAN", tmp_path / "debian")


def counts(name: str) -> dict[str, Any]:
    """Numbers of training and test examples that every made-up data set has."""
    n, test = (12, 6) if data.get(name).shape[0] is None else (50, 20)
    return {"n": n, "test": test, "size": SIZE}


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_the_float_type_is_the_default_one(made_up_data, x64):
    for name in ("two_moons", "digits", "colored_digits", "celeba"):
        found = data.load(jax.random.key(0), name, **counts(name))
        for part in (found.train, *found.held_out.values()):
            assert part.x.dtype == x64
            assert part.y.dtype == x64 or found.outputs > 1


@pytest.mark.parametrize("name", data.NAMES)
def test_shapes_and_labels(name, made_up_data):
    entry, wanted, real = data.get(name), counts(name), jnp.result_type(float)
    found = data.load(jax.random.key(0), name, **wanted)
    assert "test" in found.held_out
    assert found.outputs == (1 if len(entry.classes) == 2 else len(entry.classes))
    for n, part in ((wanted["n"], found.train), *((wanted["test"], part) for part in found.held_out.values())):
        assert part.x.shape == (n, *(SIZE if extent is None else extent for extent in entry.shape))
        assert part.x.dtype == real
        labels = set(np.unique(part.y))
        assert part.y.shape == (n,)
        if found.outputs == 1:
            assert (part.y.dtype, labels <= {-1, 1}) == (real, True)
        else:
            assert jnp.issubdtype(part.y.dtype, jnp.integer)
            assert labels <= set(range(found.outputs))
        for numbers in (part.group, part.environment):
            assert numbers is None or (numbers.shape == (n,) and jnp.issubdtype(numbers.dtype, jnp.integer))
        if part.group is not None:
            np.testing.assert_array_equal(part.group // 2, part.y > 0)
            assert set(np.unique(part.group)) <= {0, 1, 2, 3}
        if len(entry.shape) == 3:
            assert float(jnp.abs(part.x).max()) <= 1
    assert len(np.unique(found.train.y)) > 1


@pytest.mark.parametrize("name", data.NAMES)
def test_the_key_decides_the_examples_and_their_order(name, made_up_data):
    wanted = counts(name)
    first, repeated, other = (data.load(jax.random.key(seed), name, **wanted) for seed in (0, 0, 1))
    assert same(first.train, repeated.train)
    assert same(first.held_out, repeated.held_out)
    assert not np.array_equal(first.train.x, other.train.x)
    seen = {x.tobytes() for x in np.asarray(first.train.x)}
    assert len(seen) == wanted["n"]
    assert not any(x.tobytes() in seen for x in np.asarray(first.held_out["test"].x))


@pytest.mark.parametrize("name", data.NAMES)
def test_bad_numbers_of_examples_are_named(name, made_up_data):
    for argument in ("n", "test", "size"):
        for value in (0, 2.0, True):
            with pytest.raises(ValueError, match=rf"^{argument}: expected a whole number of at least 1, got"):
                data.load(jax.random.key(0), name, **{**counts(name), argument: value})
    entry = data.get(name)
    if entry.files or entry.bases:  # data that is drawn has no limit
        for argument in ("n", "test"):
            with pytest.raises(ValueError, match=rf"^{argument}: expected at most \d+, the number of examples, got"):
                data.load(jax.random.key(0), name, **{**counts(name), argument: 10**6})


@pytest.mark.parametrize("name", data.NAMES)
def test_two_classes_can_be_chosen_where_there_are_more(name, made_up_data):
    entry = data.get(name)
    if len(entry.classes) == 2:
        with pytest.raises(ValueError, match=rf"^classes: expected none, because {name} has only two"):
            data.load(jax.random.key(0), name, classes=(0, 1))
        return
    one, other = (data.load(jax.random.key(0), name, classes=classes, n=12, test=2) for classes in ((0, 1), (1, 0)))
    assert (one.outputs, set(np.unique(one.train.y))) == (1, {-1, 1})
    np.testing.assert_array_equal(one.train.x, other.train.x)
    np.testing.assert_array_equal(one.train.y, -other.train.y)
    for bad in ((0,), (0, 0), (0, len(entry.classes)), (0, 1, 2)):
        with pytest.raises(ValueError, match=r"^classes: expected none, or two different labels"):
            data.load(jax.random.key(0), name, classes=bad)


@pytest.mark.parametrize("name", data.NAMES)
def test_missing_files_are_named_with_what_to_fetch(name, nowhere):
    entry = data.get(name)
    needed = [source for source in (entry, *entry.bases) if source.files and source.name != "digits"]
    assert data.available(name) == (not needed)
    for source in needed:
        with pytest.raises(FileNotFoundError) as caught:
            data.load(jax.random.key(0), name)
        assert source.title in str(caught.value)
        assert f"fetch {source.origin.what}" in str(caught.value)


def test_only_what_is_missing_is_named(made_up, nowhere, tmp_path):
    (tmp_path / "mnist").symlink_to(made_up / "mnist")
    for name in ("dominoes_mnist_fashion", "dominoes_fashion_mnist"):
        with pytest.raises(FileNotFoundError, match=r"fetch Fashion-MNIST") as caught:
            data.load(jax.random.key(0), name)
        assert "fetch MNIST" not in str(caught.value)


@pytest.mark.parametrize("name", data.NAMES)
def test_every_split_is_read(name, made_up_data):
    entry = data.get(name)
    assert data.available(name)
    if entry.files is None:
        for ask in (entry.read, lambda: entry.origin):
            with pytest.raises(ValueError, match=rf"^name: expected a data set with files, got '{name}'"):
                ask()
        return
    for split in entry.sizes:
        assert entry.available(split)
        whole = entry.read(split)
        if name in data.IMAGES:
            assert whole.pixels.shape[1:] == entry.shape
            assert (whole.pixels.dtype, whole.labels.dtype) == (np.uint8, np.uint8)
            assert set(np.unique(whole.labels)) == set(range(len(entry.classes)))
    for ask in (entry.read, entry.available):
        with pytest.raises(ValueError, match=r"^split: expected '\w+'"):
            ask("dev")


@pytest.mark.parametrize("name", [name for name in data.IMAGES if data.available(name)])
def test_data_on_this_machine_has_at_most_the_official_sizes(name):
    entry = data.get(name)
    for split, official in entry.sizes.items():
        if entry.available(split):
            whole = entry.read(split)
            assert whole.pixels.shape[1:] == entry.shape
            assert len(whole.labels) <= official
            assert set(np.unique(whole.labels)) == set(range(len(entry.classes)))


@pytest.mark.parametrize("name", data.NAMES)
def test_names_are_exported_and_listed(name):
    entry = data.get(name)
    if entry.exported:
        assert name in data.__all__
        assert getattr(data, name) == entry.exported
    [line] = [line for line in catalogue.markdown().splitlines() if line.startswith(f"| `{name}` |")]
    assert line.count("|") == 8
    assert all(f"{size:,} {split}" in line for split, size in entry.sizes.items())


def test_an_unknown_name():
    with pytest.raises(AttributeError, match=r"^module 'gsjax.data' has no attribute 'moons_of_mars'"):
        getattr(data, "moons_of_mars")  # noqa: B009
    with pytest.raises(ValueError, match=r"^name: expected one of two_moons, digits, mnist"):
        data.get("two_mons")
