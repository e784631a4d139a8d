"""A small sweep over the digits, which the tests of sweeps share."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import jax
import numpy as np

from gsjax import sweeps
from gsjax.data import Dataset, digits

N = 24
SWEEP = sweeps.Sweep(widths=(6,), seeds=3, strengths=(2.0, 10.0), features=4)


def data(dtype=np.float64) -> tuple[Dataset, Dataset]:
    with jax.enable_x64(True):
        x, y = digits((3, 8), n=N + 10)
        x, y = np.asarray(x, dtype), np.asarray(y, dtype)
    return Dataset(x[:N], y[:N]), Dataset(x[N:], y[N:])


TRAIN, TEST = data()


def run(sweep=SWEEP, train=TRAIN, test=TEST, name="digits", **options) -> list[dict]:
    with jax.enable_x64(True):
        return sweeps.run(sweep, train, test, name=name, **options)
