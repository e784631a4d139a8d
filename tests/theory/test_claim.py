"""Verdicts: when an observation holds, and what is an error."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gsjax.statistics import Slope
from tests.theory.invented import claim
from theory.claim import Observation, run
from theory.report import to_json


@pytest.mark.parametrize("shape", [(), (1,), (3, 2)])
def test_equal_is_absolute_near_zero_and_relative_elsewhere(shape):
    for scale, gap in ((0.0, 0.009), (1000.0, 9.0)):
        predicted = np.full(shape, scale)
        assert Observation.equal(predicted, predicted + gap, 0.01).holds
        assert not Observation.equal(predicted, predicted + 1.2 * gap + 0.002, 0.01).holds


def test_equal_can_be_recomputed_from_its_three_numbers():
    rng = np.random.default_rng(0)
    for shape in ((), (4,), (2, 3)):
        for tolerance in (1e-3, 1e-1):
            predicted = rng.normal(size=shape)
            seen = Observation.equal(predicted, predicted + 0.05 * rng.normal(size=shape), tolerance)
            p, o = float(seen.predicted), float(seen.observed)
            assert seen.holds == (abs(o - p) <= tolerance * (1 + abs(p)))


def test_equal_notices_one_wrong_entry_and_broadcasts_a_scalar():
    observed = np.zeros((20, 20))
    assert Observation.equal(0.0, observed, 1e-6).holds
    observed[3, 4] = -1.0
    seen = Observation.equal(0.0, observed, 1e-6, details={"n": 20})
    assert not seen.holds
    assert seen.observed == 1.0
    assert seen.details["n"] == 20


def test_below_is_strict_without_a_tolerance():
    assert Observation.below(0.0, [-1.0, -1e-300]).holds
    assert not Observation.below(0.0, [-1.0, 0.0]).holds
    assert Observation.below(0.0, [-1.0, 1e-13], tolerance=1e-12).holds
    assert not Observation.below(0.0, 1e-11, tolerance=1e-12).holds


@pytest.mark.parametrize(
    ("slope", "holds"),
    [
        (Slope(-0.5, -0.55, -0.45), True),
        (Slope(-0.5, -0.9, -0.1), False),  # too wide to support the claim
        (Slope(-0.55, -0.62, -0.5), False),
        (Slope(-0.9, -0.92, -0.88), False),
    ],
)
def test_a_slope_holds_if_its_whole_interval_is_within_tolerance(slope, holds):
    seen = Observation.slope(-0.5, slope, 0.1)
    assert seen.holds is holds
    assert seen.details["interval"] == slope[1:]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "check",
    [
        lambda bad: Observation(1.0, bad, 1.0, holds=True),
        lambda bad: Observation(bad, bad, 1.0, holds=True),
        lambda bad: Observation("finite", 1.0, bad, holds=True),
        lambda bad: Observation.equal(1.0, bad, 1.0),
        lambda bad: Observation.equal(bad, bad, 1.0),
        lambda bad: Observation.equal([1.0, 1.0], [1.0, bad], 1.0),
        lambda bad: Observation.equal(1.0, 1.0, bad),
        lambda bad: Observation.below(5.0, [-np.inf, bad]),
        lambda bad: Observation.slope(-0.5, Slope(bad, bad, bad), 0.1),
    ],
)
def test_numbers_that_are_not_finite_never_hold_and_are_valid_json(check, bad):
    with np.errstate(invalid="ignore"):  # inf - inf
        record = run(claim(check=lambda shift=0.0: check(bad)))
    assert record.verdict == "fails"
    assert json.loads(json.dumps(to_json(record), allow_nan=False)) == to_json(record)
    if isinstance(record.observation.observed, float) and not np.isfinite(record.observation.observed):
        assert to_json(record)["observed"] is None


@pytest.mark.parametrize("observed", [np.zeros(3), np.zeros((2, 1)), np.zeros((0,))])
def test_different_shapes_are_an_error(observed):
    with pytest.raises(ValueError, match=r"^observed: expected shape \(2,\)"):
        Observation.equal(np.zeros(2), observed, 1.0)


def test_an_empty_comparison_is_an_error():
    for compare in (Observation.equal, Observation.below):
        with pytest.raises(ValueError, match="at least one entry"):
            compare(0.0, [], 1.0)


@pytest.mark.parametrize("name", ["", "two words", "../up", "-option", "a/b"])
def test_a_name_that_is_not_a_file_name_is_refused(name):
    with pytest.raises(ValueError, match=r"^name: expected"):
        claim(name)
