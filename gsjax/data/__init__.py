"""Data: generators from a PRNG key, and readers of files."""

from gsjax.data.coloring import Colored, blank, colored, gray, grayscale, paint
from gsjax.data.dataset import Dataset, split
from gsjax.data.digits import digit_images, digits
from gsjax.data.folders import ImageFolder, celeba, load_images, waterbirds
from gsjax.data.groups import CELEBA_GROUPS, Groups, colored_groups
from gsjax.data.images import Images, available, cifar10, cifar100, fashion_mnist, kmnist, mnist, two_classes
from gsjax.data.moons import two_moons

__all__ = [
    "CELEBA_GROUPS",
    "Colored",
    "Dataset",
    "Groups",
    "ImageFolder",
    "Images",
    "available",
    "blank",
    "celeba",
    "cifar10",
    "cifar100",
    "colored",
    "colored_groups",
    "digit_images",
    "digits",
    "fashion_mnist",
    "gray",
    "grayscale",
    "kmnist",
    "load_images",
    "mnist",
    "paint",
    "split",
    "two_classes",
    "two_moons",
    "waterbirds",
]
