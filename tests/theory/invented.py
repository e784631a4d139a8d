"""An invented claim, which the tests of the theory share."""

from __future__ import annotations

from theory.claim import Claim, Control, Observation


def two_plus(shift=0.0, *, figure=None, details=None):
    return Observation.equal(2.0, 2.0 + shift, 1e-9, figure=figure, details=details or {})


def claim(name="two", check=two_plus, control=None):
    return Claim(
        name,
        "arithmetic, Eq. 1",
        "1 + 1 = 2",
        check,
        Control("shifted", "1 + 1 + 1", control or {"shift": 1.0}),
    )
