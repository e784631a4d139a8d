"""Data: generators from a PRNG key, and readers of files."""

from gsjax.data.dataset import Dataset, split
from gsjax.data.digits import digits
from gsjax.data.images import Images, cifar10, fashion_mnist, mnist, two_classes
from gsjax.data.moons import two_moons

__all__ = ["Dataset", "Images", "cifar10", "digits", "fashion_mnist", "mnist", "split", "two_classes", "two_moons"]
