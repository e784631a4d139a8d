"""Data: generators from a PRNG key, file readers, and a catalogue of data sets by name.

`load(key, name)` returns the training and test sets of any of `NAMES`; `get(name)` returns its catalogue entry. A data
set that can be read or generated is exported under its name: `mnist("test")` returns the `Images` of a split.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gsjax.data import catalogue, scaling, structured
from gsjax.data.catalogue import IMAGES, NAMES, available, get, load
from gsjax.data.coloring import Colored, blank, colored, gray, grayscale, paint
from gsjax.data.dataset import Dataset, split
from gsjax.data.digits import digit_images, digits
from gsjax.data.dominoes import Dominoes, domino_variants, dominoes, hide, patch_region, patched
from gsjax.data.entry import Entry, Examples, Sets
from gsjax.data.folders import ImageFolder, LabelledFolder, celeba, load_examples, load_images, waterbirds
from gsjax.data.groups import CELEBA_GROUPS, Groups, colored_groups
from gsjax.data.images import Images, two_classes
from gsjax.data.labelled import labelled_folder
from gsjax.data.moons import two_moons

__all__ = [
    "CELEBA_GROUPS",
    "IMAGES",
    "NAMES",
    "Colored",
    "Dataset",
    "Dominoes",
    "Entry",
    "Examples",
    "Groups",
    "ImageFolder",
    "Images",
    "LabelledFolder",
    "Sets",
    "available",
    "blank",
    "catalogue",
    "celeba",
    "colored",
    "colored_groups",
    "digit_images",
    "digits",
    "domino_variants",
    "dominoes",
    "get",
    "gray",
    "grayscale",
    "hide",
    "labelled_folder",
    "load",
    "load_examples",
    "load_images",
    "paint",
    "patch_region",
    "patched",
    "scaling",
    "split",
    "structured",
    "two_classes",
    "two_moons",
    "waterbirds",
]
__all__ += [name for name in catalogue.EXPORTED if name not in __all__]

# This comes after all imports, because some modules have the same name as their generator, which is what is exported.
globals().update({name: get(name).exported for name in catalogue.EXPORTED})

if TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., Any]: ...
