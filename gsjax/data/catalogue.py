"""The data sets of the project, one entry for each; a new data set needs only an entry.

The entries determine `NAMES`, the names that `gsjax.data` exports, the choices of `python -m experiments train --data`,
the messages about missing files, the tests that every data set passes, and the list in the documentation.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
from jaxtyping import Array, Key

from gsjax import _check
from gsjax.data import _arguments, folders, scaling, sets, structured
from gsjax.data.digits import digit_images, digits
from gsjax.data.entry import Entry, Sets, Wanted
from gsjax.data.images import Cifar, Idx, Images
from gsjax.data.moons import two_moons
from gsjax.data.sources import Origin

__all__ = ["EXPORTED", "IMAGES", "NAMES", "available", "check", "get", "load", "markdown"]


class _BuiltIn:
    """The digits included in scikit-learn."""

    origin = Origin("scikit-learn")

    def read(self, split: str) -> Images:
        return digit_images()

    def available(self, split: str) -> bool:
        return True


_DIGITS = tuple(f"digit {label}" for label in range(10))
_ARJOVSKY = {"Arjovsky et al. 2019, Colored MNIST": scaling.fraction}
_SAGAWA = {"Sagawa et al. 2020": scaling.imagenet}
_LIKE_MNIST = {"train": 60_000, "test": 10_000}
_LIKE_CIFAR = {"train": 50_000, "test": 10_000}
_TORONTO = "https://www.cs.toronto.edu/~kriz"

_IMAGES = (
    Entry(
        name="digits",
        title="8x8 digits of scikit-learn",
        about="handwritten digits (the test part of a set of UCI's), within scikit-learn",
        classes=_DIGITS,
        shape=(8, 8, 1),
        sets=sets.files,
        files=_BuiltIn(),
        sizes={"all": 1797},
        function=digits,
    ),
    Entry(
        name="mnist",
        title="MNIST",
        about="handwritten digits (LeCun et al. 1998)",
        classes=_DIGITS,
        shape=(28, 28, 1),
        sets=sets.files,
        files=Idx(
            "mnist",
            Origin(
                "MNIST (four files *-ubyte.gz)",
                "https://ossci-datasets.s3.amazonaws.com/mnist",
                {
                    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
                    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
                    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
                },
            ),
        ),
        sizes=_LIKE_MNIST,
        recipes=_ARJOVSKY,
    ),
    Entry(
        name="fashion_mnist",
        title="Fashion-MNIST",
        about="articles of clothing (Xiao et al. 2017)",
        classes=(
            "t-shirt",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
        shape=(28, 28, 1),
        sets=sets.files,
        files=Idx(
            "fashion-mnist",
            Origin(
                "Fashion-MNIST (Debian's package dataset-fashion-mnist)",
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
                {
                    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
                    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
                    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
                },
            ),
        ),
        sizes=_LIKE_MNIST,
    ),
    Entry(
        name="kmnist",
        title="KMNIST",
        about="handwritten Japanese characters (Clanuwat et al. 2018)",
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        shape=(28, 28, 1),
        sets=sets.files,
        files=Idx(
            "kmnist",
            Origin(
                "KMNIST (four files *-ubyte.gz)",
                "https://codh.rois.ac.jp/kmnist/dataset/kmnist",
                {
                    "train-images-idx3-ubyte.gz": "bdb82020997e1d708af4cf47b453dcf7",
                    "train-labels-idx1-ubyte.gz": "e144d726b3acfaa3e44228e80efcd344",
                    "t10k-images-idx3-ubyte.gz": "5c965bf0a639b31b8f53240b1b52f4d7",
                    "t10k-labels-idx1-ubyte.gz": "7320c461ea6c1c855c0b718fb2a4b134",
                },
            ),
        ),
        sizes=_LIKE_MNIST,
    ),
    Entry(
        name="cifar10",
        title="CIFAR-10",
        about="coloured photographs (Krizhevsky 2009)",
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        shape=(32, 32, 3),
        sets=sets.files,
        files=Cifar(
            "cifar-10-binary.tar.gz",
            "cifar-10-batches-bin",
            {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]},
            Origin(
                "CIFAR-10 (cifar-10-binary.tar.gz)",
                _TORONTO,
                {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
            ),
        ),
        sizes=_LIKE_CIFAR,
        recipes={
            "Pezeshki et al. 2021, Fig. 2": scaling.signed,
            "Pezeshki et al. 2021, Table 1": scaling.standard,
        },
    ),
    Entry(
        name="cifar100",
        title="CIFAR-100",
        about="coloured photographs with their fine labels (Krizhevsky 2009)",
        classes=tuple(f"class {label}" for label in range(100)),
        shape=(32, 32, 3),
        sets=sets.files,
        files=Cifar(
            "cifar-100-binary.tar.gz",
            "cifar-100-binary",
            {"train": ["train.bin"], "test": ["test.bin"]},
            Origin(
                "CIFAR-100 (cifar-100-binary.tar.gz)",
                _TORONTO,
                {"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
            ),
            classes=(20, 100),
        ),
        sizes=_LIKE_CIFAR,
        recipes={"Pezeshki et al. 2021, Table 1": scaling.standard},
    ),
)
_IMAGE_ENTRIES = {entry.name: entry for entry in _IMAGES}
# The names of image sets within the names of data sets that are made from them.
_SHORT = {name: name for name in ("digits", "mnist", "kmnist")} | {"fashion_mnist": "fashion", "cifar10": "cifar"}
# The classes of image sets in dominoes: the published ones, except that Fashion-MNIST's are as easy as those of MNIST.
_DOMINOES: dict[str, sets.Pair] = {
    name: ((first,), (second,))
    for name, (first, second) in {"mnist": (0, 1), "kmnist": (0, 1), "fashion_mnist": (2, 4), "cifar10": (0, 1)}.items()
}
# Two labels in each class, since there are few digits.
_EASY, _HARD = ((0, 6), (1, 7)), ((3, 5), (8, 9))
_GRAY = tuple(entry for entry in _IMAGES if entry.shape[-1] == 1)


def _coloured(base: Entry) -> tuple[int, ...]:
    """Height and width of the coloured images: larger images keep every other row and column."""
    return tuple(int(extent or 0) // (1 if base.shape[0] == 8 else 2) for extent in base.shape[:2])


def _dominoes(name: str, core: str, spurious: str, classes: tuple[sets.Pair, sets.Pair], *, harmful: bool) -> Entry:
    """Dominoes of two classes each of two image sets."""
    bases = tuple(_IMAGE_ENTRIES[base] for base in dict.fromkeys((core, spurious)))
    high, wide, channels = (max(int(base.shape[axis] or 0) for base in bases) for axis in range(3))
    below, above = (
        tuple(" or ".join(base.classes[label] for label in group) for group in pair)
        for base, pair in zip((bases[0], bases[-1]), classes, strict=True)
    )
    kind = "easier to learn: harmful" if harmful else "harder to learn: benign"
    return Entry(
        name=name,
        title=f"dominoes of {' and '.join(base.title for base in bases)}",
        about=f"{' against '.join(below)} below (core); above, {' against '.join(above)} agrees with the label for 95 "
        f"in 100 examples (spurious, {kind}; Murali et al. 2023)",
        classes=below,
        shape=(2 * high, wide, channels),
        sets=functools.partial(sets.halves, classes=classes),
        bases=bases,
    )


_ENTRIES = (
    Entry(
        name="two_moons",
        title="two moons",
        about="two interleaving half circles in the plane, made one-sided and shifted (Pezeshki et al. 2021, Fig. 1)",
        classes=("upper moon", "lower moon"),
        shape=(2,),
        sets=functools.partial(sets.drawn, draw=two_moons),
        function=two_moons,
    ),
    *_IMAGES,
    Entry(
        name="cifar2",
        title="cats and dogs of CIFAR-10",
        about="two classes of CIFAR-10",
        classes=("cat", "dog"),
        shape=(32, 32, 3),
        sets=functools.partial(sets.files, classes=(3, 5)),
        bases=(_IMAGE_ENTRIES["cifar10"],),
        recipes={"Pezeshki et al. 2021, Fig. 2": scaling.signed},
    ),
    *(
        Entry(
            name=f"colored_{base.name}",
            title=f"coloured {base.title}",
            about=f"{base.title}: labels from 0 to 4 against the others, with noise, and a colour that agrees with the "
            "label more or less often (Arjovsky et al. 2019); a group is a label with a colour",
            classes=("labels from 5 to 9", "labels from 0 to 4"),
            shape=(*_coloured(base), 2),
            sets=sets.coloured,
            bases=(base,),
            recipes=_ARJOVSKY,
        )
        for base in _GRAY
    ),
    *(
        Entry(
            name=f"oracle_{base.name}",
            title=f"coloured {base.title}, in grayscale",
            about=f"as colored_{base.name}, but without the colour",
            classes=("labels from 5 to 9", "labels from 0 to 4"),
            shape=(*_coloured(base), 1),
            sets=functools.partial(sets.coloured, oracle=True),
            bases=(base,),
            recipes=_ARJOVSKY,
        )
        for base in _GRAY
    ),
    Entry(
        name="colored_groups",
        title="coloured groups of Fashion-MNIST",
        about="dresses and coats against pullovers, in two colours, in groups as unequal as CelebA's, for which they "
        "stand in; tested on groups of equal size",
        classes=("dress or coat", "pullover"),
        shape=(14, 14, 2),
        sets=sets.groups,
        bases=(_IMAGE_ENTRIES["fashion_mnist"],),
    ),
    _dominoes("dominoes_digits", "digits", "digits", (_HARD, _EASY), harmful=True),
    _dominoes("dominoes_digits_swapped", "digits", "digits", (_EASY, _HARD), harmful=False),
    *(
        _dominoes(
            f"dominoes_{_SHORT[spurious]}_{_SHORT[core]}",
            core,
            spurious,
            (_DOMINOES[core], _DOMINOES[spurious]),
            harmful=spurious == "mnist",
        )
        for hard in ("fashion_mnist", "kmnist", "cifar10")
        for core, spurious in ((hard, "mnist"), ("mnist", hard))
    ),
    *(
        Entry(
            name=f"{_SHORT[base.name]}_patch",
            title=f"{base.title} with a patch",
            about=f"{base.title}, with a white patch of {size} x {size} pixels in the upper left corner of one class "
            "only: label 1, or the larger of two chosen labels (Murali et al. 2023)",
            classes=base.classes,
            shape=base.shape,
            sets=functools.partial(sets.patches, size=size),
            bases=(base,),
        )
        for base in _IMAGES
        if base.name in _SHORT
        for size in (2 if base.shape[0] == 8 else 5,)
    ),
    Entry(
        name="structured_features",
        title="structured features",
        about="32 core features that tell the label and 32 background features that do not, in 256 dimensions; in the "
        "set shifted the background has the opposite sign (Zhang et al. 2024)",
        classes=("negative core", "positive core"),
        shape=(256,),
        sets=functools.partial(
            sets.drawn, draw=structured.sample, n=1000, held_out={"test": {}, "shifted": {"shifted": True}}
        ),
        function=structured.sample,
    ),
    Entry(
        name="celeba",
        title="CelebA",
        about="aligned portraits with 40 attributes, blond hair by sex (Liu et al. 2015, Sagawa et al. 2020)",
        classes=("dark hair", "blond hair"),
        shape=(None, None, 3),
        sets=sets.photographs,
        files=folders.celeba_files,
        sizes={"train": 162_770, "validation": 19_867, "test": 19_962},
        recipes=_SAGAWA,
        function=folders.celeba,
    ),
    Entry(
        name="waterbirds",
        title="Waterbirds",
        about="birds before land and water (Sagawa et al. 2020)",
        classes=("landbird", "waterbird"),
        shape=(None, None, 3),
        sets=sets.photographs,
        files=folders.waterbirds_files,
        sizes={"train": 4_795, "validation": 1_199, "test": 5_794},
        recipes=_SAGAWA,
        function=folders.waterbirds,
    ),
)

_CATALOGUE: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
NAMES: tuple[str, ...] = tuple(_CATALOGUE)
IMAGES: tuple[str, ...] = tuple(_IMAGE_ENTRIES)  # read as `Images`, with more than two classes
EXPORTED: tuple[str, ...] = tuple(entry.name for entry in _ENTRIES if entry.exported)


def get(name: str) -> Entry:
    """The catalogue entry of the data set `name`, one of `NAMES`.

    Raises:
        ValueError: no data set has this name.

    >>> get("fashion_mnist").classes[2], get("mnist").sizes["test"]
    ('pullover', 10000)
    """
    _arguments.choice("name", name, NAMES)
    return _CATALOGUE[name]


def available(name: str, split: str = "") -> bool:
    """Whether the files of a split (by default the first) of a data set are present, or none are needed.

    Nothing is downloaded.

    Raises:
        ValueError: an unknown name or split; GSJAX_DATA does not name a readable folder.

    >>> available("digits"), isinstance(available("mnist", "test"), bool)
    (True, True)
    """
    return get(name).available(split)


def load(
    key: Key[Array, ""],
    name: str,
    *,
    classes: Sequence[int] = (),
    n: int | None = None,
    test: int | None = None,
    size: int = 64,
) -> Sets:
    """The training and test sets of a data set.

    Images are scaled to [-1, 1], coloured images to [0, 1]. Labels are -1 and +1 for two classes, and class indices
    otherwise. If the files of the training split are missing, the images of the test split are divided 5 to 1. The
    digits of scikit-learn, which have one split, are divided in the same way.

    Args:
        key: determines the examples, their order, colours and noise.
        name: one of `NAMES`; `get(name).about` describes it.
        classes: two labels of a data set with more than two classes, which become -1 and +1; all classes if empty.
        n: the number of training examples; by default all, or the default of the entry if examples are generated.
        test: the number of examples of each held-out set, with the same default.
        size: the height and width of photographs in pixels.

    Raises:
        ValueError: an unknown data set; classes that it does not have; more examples than it has; a damaged file.
        FileNotFoundError: its files are missing; the error says what to fetch and where to put it.

    >>> found = load(jax.random.key(0), "colored_digits", n=100)
    >>> found.train.x.shape, list(found.held_out), found.outputs
    ((100, 8, 8, 2), ['test', 'gray'], 1)
    """
    _arguments.key("key", key)
    entry = get(name)
    check(name, classes)
    n, test = (
        value if value is None else _check.whole(argument, value, least=1)
        for argument, value in (("n", n), ("test", test))
    )
    size = _check.whole("size", size, least=1)
    train_key, test_key, split_key = jax.random.split(key, 3)
    return entry.sets(entry, Wanted(train_key, test_key, split_key, tuple(classes), n, test, size))


def check(name: str, classes: Sequence[int] = ()) -> None:
    """Checks the arguments that can be checked without reading data.

    Raises:
        ValueError: an unknown data set; `classes` given for a data set with two classes; not exactly two `classes`.
    """
    entry = get(name)
    given = _arguments.wholes("classes", classes)
    choice = not given or len(entry.classes) > 2
    _check.require(choice, "classes", f"none, because {name} has only two", given)
    _check.require(len(given) in (0, 2), "classes", "none, or two different labels", given)


def markdown() -> str:
    """A table of all data sets in Markdown, for the documentation."""
    lines = [
        "| name | what it is | official sizes | classes | an example | published scaling | files |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in _ENTRIES:
        sizes = ", ".join(f"{size:,} {split}" for split, size in entry.sizes.items())
        bases = ", ".join(base.title for base in entry.bases)
        shape = " x ".join("size" if extent is None else str(extent) for extent in entry.shape)
        recipes = "; ".join(f"{function.__name__} ({source})" for source, function in entry.recipes.items())
        origin = entry.files.origin if entry.files else None
        files = f"of {bases}" if bases else "none: generated"
        if origin:
            files = f"{origin.what}, {'downloaded' if origin.checksums else 'not downloaded'}"
        cells = (f"`{entry.name}`", entry.about, sizes or "-", len(entry.classes), shape, recipes or "-", files)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"
