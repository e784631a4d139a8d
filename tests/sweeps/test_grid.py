"""The fields of a sweep: bad values are named."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import pytest

from gsjax import sweeps


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("widths", ()),
        ("widths", 32),
        ("widths", (32, 0)),
        ("widths", (32, 32)),
        ("widths", (1.5,)),
        ("depths", (-1,)),
        ("depths", ()),
        ("seeds", 0),
        ("seeds", True),
        ("penalties", ()),
        ("penalties", "sd"),
        ("penalties", ("lasso",)),
        ("strengths", (0.0,)),
        ("strengths", (0.1, -1.0)),
        ("strengths", (float("nan"),)),
        ("strengths", ()),
        ("activation", "gelu"),
        ("tolerance", 0.0),
        ("tolerance", float("inf")),
        ("max_steps", 0),
        ("seed", -1),
        ("features", 0),
        ("scaling", "standard"),
    ],
)
def test_a_bad_field_is_named(field, value):
    with pytest.raises(ValueError, match=rf"^{field}: expected .+, got "):
        sweeps.Sweep(**{"widths": (4,), field: value})
