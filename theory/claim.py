"""Claims, how they are judged, and the records of their runs."""

from __future__ import annotations

import math
import re
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gsjax.statistics import Slope

if TYPE_CHECKING:
    from gsjax.plotting import Figure

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Observation(NamedTuple):
    """A predicted and an observed number, and the verdict.

    Attributes:
        predicted: the prediction of the theory; a number, or a few words if it is not a single number.
        observed: the computed value.
        tolerance: largest allowed difference.
        holds: the verdict. `run` sets it to false if one of the three numbers is NaN or infinite.
        details: anything that helps to assess the verdict: gradient norms, tables (a list of mappings), arrays.
            `details["interval"] = (low, high)` is shown beside `observed`.
        figure: draws the figure of the claim; called once, when the report is written.
    """

    predicted: float | str
    observed: float | str
    tolerance: float | str
    holds: bool
    details: Mapping[str, Any] = NOTHING
    figure: Callable[[], Figure] | None = None

    @classmethod
    def equal(
        cls,
        predicted: Any,
        observed: Any,
        tolerance: float,
        *,
        details: Mapping[str, Any] = NOTHING,
        figure: Callable[[], Figure] | None = None,
    ) -> Observation:
        """Holds if |observed - predicted| <= tolerance (1 + |predicted|) in every entry.

        Args:
            predicted: array of any shape, or one number that every entry of `observed` should equal.
            observed: non-empty array. Arrays are reported by their largest error
                |observed - predicted| / (1 + |predicted|), whose predicted value is 0.
            tolerance: absolute where |predicted| is small, relative where it is large.

        Raises:
            ValueError: the shapes differ, or `observed` is empty.

        >>> Observation.equal(1.0, [1.0, 1.5], tolerance=0.1)[:4]  # 0.5 / (1 + 1)
        (0.0, 0.25, 0.1, False)
        """
        p, o = np.asarray(predicted, dtype=float), np.asarray(observed, dtype=float)
        if o.size == 0 or p.shape not in ((), o.shape):
            raise ValueError(f"observed: expected shape {p.shape} and at least one entry, got shape {o.shape}")
        error = np.max(np.abs(o - p) / (1 + np.abs(p)))  # NaN if any entry is
        holds = bool(error <= tolerance)
        if o.ndim == 0:
            return cls(float(p), float(o), tolerance, holds, details, figure)
        measure = f"largest |observed − predicted| / (1 + |predicted|) of {o.size} entries"
        return cls(0.0, float(error), tolerance, holds, {"observed is the": measure, **details}, figure)

    @classmethod
    def below(
        cls,
        bound: float,
        observed: Any,
        tolerance: float = 0.0,
        *,
        details: Mapping[str, Any] = NOTHING,
        figure: Callable[[], Figure] | None = None,
    ) -> Observation:
        """Holds if every entry of `observed` is strictly below bound + tolerance.

        With tolerance 0 this is a strict inequality (a sign). An inequality that may be tight needs a tolerance for
        rounding. A non-empty array is reported by its largest entry.

        Raises:
            ValueError: `observed` is empty.

        >>> Observation.below(0.0, [-2.0, -1.0])[:4]
        ('< 0', -1.0, 0.0, True)
        """
        o = np.asarray(observed, dtype=float)
        if o.size == 0:
            raise ValueError(f"observed: expected at least one entry, got shape {o.shape}")
        largest = float(np.max(o))  # NaN if any entry is
        if o.ndim > 0:
            details = {"observed is the": f"largest of {o.size} entries", **details}
        sign = "≤" if tolerance else "<"
        return cls(f"{sign} {bound:g}", largest, tolerance, largest < bound + tolerance, details, figure)

    @classmethod
    def slope(
        cls,
        predicted: float,
        observed: Slope,
        tolerance: float,
        *,
        details: Mapping[str, Any] = NOTHING,
        figure: Callable[[], Figure] | None = None,
    ) -> Observation:
        """Holds if the whole interval of the slope lies within `tolerance` of the predicted exponent.

        This is an equivalence test: a slope that is too noisy fails like one that is wrong. Requiring that the interval
        contain the prediction would reward noise.

        >>> Observation.slope(-0.5, Slope(-0.48, -0.53, -0.44), tolerance=0.1).holds
        True
        """
        value, low, high = observed
        holds = bool(predicted - tolerance <= low and high <= predicted + tolerance)
        return cls(predicted, value, tolerance, holds, {"interval": (low, high), **details}, figure)


@dataclass(frozen=True)
class Control:
    """The check of a claim with one hypothesis broken: `check(**options)` must not hold.

    It uses the code, verdict and tolerance of the claim, so it reveals a check that is too weak.

    Attributes:
        name: short, unique within the claim.
        statement: which hypothesis is broken, and how.
        options: keyword arguments of the claim's check that break it.
    """

    name: str
    statement: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """A numbered statement, the code that checks it, and the control that must fail.

    Attributes:
        name: letters, digits, `_`, `-` and `.`; the argument of `--only` and the name of the figure.
        reference: source of the statement, e.g. "Pezeshki et al. 2021, Eq. 11".
        statement: the statement in words and plain-text mathematics.
        check: computes the observation; its keyword arguments have defaults under which the claim holds.
        control: the negative control.

    Raises:
        ValueError: a name with other characters.
    """

    name: str
    reference: str
    statement: str
    check: Callable[..., Observation]
    control: Control

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(f"name: expected letters, digits, '_', '-' and '.', got {self.name!r}")


class Record(NamedTuple):
    """The result of running a claim and its control.

    Attributes:
        claim: the claim that was run.
        observation: of the claim as stated.
        control: of the claim with its hypothesis broken.
        seconds: wall-clock time of both.
        error: the exception of the check or of drawing its figure, if any.
        control_error: the exception of the check with the control's options, if any. Such a control has not been
            judged, and fails the run like one that holds.
        figure: name of the PNG file in the report's folder.
    """

    claim: Claim
    observation: Observation
    control: Observation
    seconds: float
    error: str | None = None
    control_error: str | None = None
    figure: str | None = None

    @property
    def passes(self) -> bool:
        """The claim holds, its control does not, and nothing raised."""
        return (self.verdict, self.control_verdict) == ("holds", "fails")

    @property
    def verdict(self) -> str:
        """`holds`, `fails` or `error`."""
        return _verdict(self.observation, self.error)

    @property
    def control_verdict(self) -> str:
        """`holds`, `fails` or `error`; it should be `fails`."""
        return _verdict(self.control, self.control_error)


def describe(exception: Exception) -> str:
    """Type and text of an exception, as records show it.

    >>> describe(ValueError("labels"))
    'ValueError: labels'
    """
    return f"{type(exception).__name__}: {exception}".removesuffix(": ")


def run(claim: Claim) -> Record:
    """Checks a claim and its control. Exceptions are recorded, so that the other claims still run.

    >>> record = run(Claim("two", "arithmetic", "1 + 1 = 2", lambda a=1: Observation.equal(2, 1 + a, 0),
    ...                    Control("three", "1 + 2", {"a": 2})))
    >>> record.observation.holds, record.control.holds, record.passes
    (True, False, True)
    """
    start = time.perf_counter()
    observation, error = _observe(claim.check, NOTHING)
    control, control_error = _observe(claim.check, claim.control.options)
    return Record(claim, observation, control, time.perf_counter() - start, error, control_error)


def holds(claim: Claim) -> bool:
    """The verdict on a claim, without its control; false if its check raises.

    >>> holds(Claim("two", "arithmetic", "1 + 1 = 2", lambda a=1: Observation.equal(2, 1 + a, 0), Control("", "", {})))
    True
    """
    return _observe(claim.check, NOTHING)[0].holds


def _verdict(observation: Observation, error: str | None) -> str:
    if error is not None:
        return "error"
    return "holds" if observation.holds else "fails"


def _observe(check: Callable[..., Observation], options: Mapping[str, Any]) -> tuple[Observation, str | None]:
    """The observation in Python numbers, and the error, if any."""
    try:
        observation = check(**options)
        predicted, observed, tolerance = (v if isinstance(v, str) else float(v) for v in observation[:3])
        finite = all(isinstance(v, str) or math.isfinite(v) for v in (predicted, observed, tolerance))
        holds = bool(observation.holds) and finite
        return Observation(predicted, observed, tolerance, holds, observation.details, observation.figure), None
    except Exception as exception:  # noqa: BLE001  whatever a check raises is its result
        error = describe(exception)
        details = {"traceback": "".join(traceback.format_exception(exception))}
        return Observation("not computed", error, "not computed", False, details), error
