"""Data: generators from a PRNG key, and readers of files."""

from gsjax.data.dataset import Dataset, split
from gsjax.data.digits import digits
from gsjax.data.moons import two_moons

__all__ = ["Dataset", "digits", "split", "two_moons"]
