"""Every caution appears where its reason holds, and not where it does not."""

# pyright: reportOptionalMemberAccess=false

# pyright: reportArgumentType=false
from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import Ridge, SpectralDecoupling, diagnose
from gsjax.diagnosis import cautions, text
from gsjax.diagnosis.alignment import Alignment
from gsjax.diagnosis.decoupling import Effect
from gsjax.diagnosis.solution import Status
from gsjax.diagnosis.stability import Stability
from gsjax.diagnosis.trained import Movement, Trained
from gsjax.diagnosis.verdict import Verdict
from tests.diagnosis.problem import N, centred, network, problem


def codes(report: Any) -> set[str]:
    return {caution.code for caution in cautions.find(report)}


@pytest.fixture(scope="module")
def clean():
    """A report without any reason for caution, made from one of real data by better numbers."""
    with jax.enable_x64(True):
        params, x, y, _ = problem()
        report = diagnose(centred(params), params, x, y, penalty=Ridge(1.0), top=3)
    ones = np.ones(3)
    better = dataclasses.replace(
        report,
        n=2000,
        rows=2000,
        rank=2000,
        labels={-1: 1000, 1: 1000},
        s=np.array([3.0, 2.0, 1.0]),
        response=ones,
        size=2.0,
        stability=Stability(ones, np.ones((3, 3)), 10, 1000),
        alignment=Alignment(ones, ones, 0.1, 50, known=True),
        verdict=Verdict("aligned", "Yes.", report.pairs[0].starver, 0),
        trained=Trained(0.01, ones, 0.5, 0.9, 0.9, 1e-6, Movement(0.01, 1.0, 0.01, 40)),
    )
    assert codes(better) == set()
    return better


def effect(**changes):
    given = {"kind": "ridge", "strength": 1.0, "response": np.ones(3), "ratio": np.ones(3), "confidence": 0.8}
    return Effect(**{**given, "converged": True, "assumed": False, **changes})


def trained(clean, **changes):
    return {"trained": clean.trained._replace(**changes)}


WEAK = {"s": np.array([1.0, 0.5, 1e-7]), "weakest": 1e-7}
MOVED = Movement(0.5, 0.9, 0.3, 40)

CASES = {
    "rank": (lambda clean: {"rank": 1999}, lambda clean: {"rank": None}),
    "precision": (lambda clean: WEAK, lambda clean: {"s": np.array([1.0, 0.5, 1e-4])}),
    "convergence": (lambda clean: {"status": Status(False, 0.1, 100)}, lambda clean: {"status": Status(True, 0.1, 1)}),
    "matched": (lambda clean: {"decoupling": effect(converged=False)}, lambda clean: {"decoupling": None}),
    "assumed_rank": (lambda clean: {"decoupling": effect(assumed=True)}, lambda clean: {"decoupling": effect()}),
    "nearly_equal": (
        lambda clean: {"s": np.array([3.0, 2.99, 1.0])},
        lambda clean: {"s": np.array([3.0, 2.9, 1.0])},
    ),
    "weak_response": (
        lambda clean: {"response": np.array([1.0, 0.019, 1.0])},
        lambda clean: {"response": np.array([1.0, 0.021, 1.0])},
    ),
    "too_few": (lambda clean: {"stability": None}, lambda clean: {}),
    "unstable_features": (
        lambda clean: {"stability": clean.stability._replace(overlap=np.array([1.0, 0.49, 1.0]))},
        lambda clean: {"stability": clean.stability._replace(overlap=np.array([1.0, 0.51, 1.0]))},
    ),
    "unstable_signs": (
        lambda clean: {"stability": clean.stability._replace(agreement=np.full((3, 3), 0.8)), "verdict": None},
        lambda clean: {"stability": clean.stability._replace(agreement=np.full((3, 3), 0.9))},
    ),
    "small_groups": (
        lambda clean: {"alignment": clean.alignment._replace(smallest=24)},
        lambda clean: {"alignment": clean.alignment._replace(smallest=25)},
    ),
    "group_is_label": (
        lambda clean: {"alignment": clean.alignment._replace(known=False)},
        lambda clean: {"alignment": None},
    ),
    "one_class": (lambda clean: {"labels": {1: 2000}}, lambda clean: {"labels": {-1: 900, 1: 1100}}),
    "unbalanced": (lambda clean: {"labels": {-1: 500, 1: 1500}}, lambda clean: {"labels": {-1: 650, 1: 1350}}),
    "already_trained": (lambda clean: {"accuracy_start": 0.95}, lambda clean: {"accuracy_start": 0.85}),
    "outputs_at_start": (lambda clean: {"start": 0.3}, lambda clean: {"start": 0.2}),
    "kernel_drift": (lambda clean: trained(clean, kernel=MOVED), lambda clean: {"trained": None}),
    "prediction": (lambda clean: trained(clean, error=0.3), lambda clean: trained(clean, error=0.2)),
    "not_at_optimum": (lambda clean: trained(clean, gradient=0.2), lambda clean: trained(clean, gradient=0.01)),
}


@pytest.mark.parametrize("code", CASES)
def test_a_caution_appears_where_its_reason_holds(code, clean):
    bad, good = (dataclasses.replace(clean, **change(clean)) for change in CASES[code])
    assert codes(bad) == {code}
    assert code not in codes(good)
    [caution] = cautions.find(bad)
    assert caution.text[0].isupper() or caution.text[0].isdigit() or caution.text.startswith("float")
    assert caution.text.endswith((".", "?."))
    fields = {field.name for field in dataclasses.fields(bad)} | {"strengths"}
    assert set(caution.touches) <= fields
    assert caution.text in dataclasses.replace(bad, cautions=(caution,)).to_dict()["cautions"][0]["text"]
    json.dumps(dict(caution.numbers), allow_nan=False)


def test_the_verdict_rests_on_signs_that_agree(clean):
    starver = clean.verdict.starver
    unsure = clean.stability.agreement.copy()
    unsure[:, starver] = 0.5
    bad = dataclasses.replace(clean, stability=clean.stability._replace(agreement=unsure))
    assert codes(bad) == {"unsure_verdict", "unstable_signs"}
    assert text.answer(clean) == "Yes."
    assert text.answer(dataclasses.replace(bad, cautions=cautions.find(bad))).startswith("This may be due to chance")


def test_a_kernel_that_has_mostly_grown_keeps_its_directions(clean):
    for turned, words in ((0.1, "Mostly its scale has changed"), (0.3, "are no longer those of the trained network")):
        [found] = cautions.find(dataclasses.replace(clean, **trained(clean, kernel=Movement(0.5, 0.9, turned, 40))))
        assert words in found.text


def test_every_check_has_a_case(clean):
    found = set()
    for bad, _ in CASES.values():
        found |= codes(dataclasses.replace(clean, **bad(clean)))
    assert len(cautions.CHECKS) == len(found | {"unsure_verdict"})


# ---- on data


def diagnosed(x64=True, **changes):
    with jax.enable_x64(x64):
        params, x, y, group = problem(dtype=np.float64 if x64 else np.float32)
        given = {"apply_fn": centred(params), "x": x, "y": y, "penalty": Ridge(1.0), "top": 3, **changes}
        apply_fn, x, y = (given.pop(name) for name in ("apply_fn", "x", "y"))
        if "group" in given:
            given["group"] = given["group"](y, group)
        return diagnose(apply_fn, params, x, y, **given)


def test_repeated_inputs_lower_the_rank():
    """Each example occurs twice: half the rank, and spectral decoupling no longer gives equal margins."""
    _, x, y, _ = problem()
    rows = np.repeat(np.arange(N // 2), 2)
    found = diagnosed(x=x[rows], y=y[rows])
    assert found.rank == N // 2
    [rank] = [caution for caution in found.cautions if caution.code == "rank"]
    assert "repeated inputs" in rank.text
    assert "rank" not in {caution.code for caution in diagnosed().cautions}


def test_float32_cuts_off_weak_features():
    def faint(params, x):
        return network(params, x * jnp.array([1.0, 1e-3, 1e-3, 1e-3]))

    found = diagnosed(x64=False, apply_fn=faint)
    [caution] = [caution for caution in found.cautions if caution.code == "precision"]
    assert caution.numbers["cut_off"]
    assert "jax_enable_x64" in caution.text
    [rank] = [caution for caution in found.cautions if caution.code == "rank"]
    assert "due to rounding" in rank.text
    assert "repeated inputs" not in rank.text
    assert "precision" not in {caution.code for caution in diagnosed().cautions}


def test_labels_of_one_class():
    assert "one_class" in {caution.code for caution in diagnosed(y=np.ones(N)).cautions}


def test_outputs_at_the_start_and_trained_parameters():
    def shifted(params, x):
        return network(params, x) + x[:, 1]

    assert "outputs_at_start" in {caution.code for caution in diagnosed(apply_fn=shifted).cautions}

    def trained(params, x):  # a network whose first input is the label
        return 30 * network(params, x) * 0 + 10 * x[:, 1] + network(params, x)

    _, x, y, _ = problem()
    x = x.copy()
    x[:, 1] = y
    assert "already_trained" in {caution.code for caution in diagnosed(apply_fn=trained, x=x).cautions}


def test_a_group_that_is_the_label():
    found = diagnosed(group=lambda y, group: (y > 0).astype(int))
    assert "group_is_label" in {caution.code for caution in found.cautions}
    assert found.verdict.code == "unknown"
    found = diagnosed(group=lambda y, group: group)
    assert "group_is_label" not in {caution.code for caution in found.cautions}
    assert "small_groups" in {caution.code for caution in found.cautions}


def test_few_examples():
    _, x, y, _ = problem()
    assert "too_few" in {caution.code for caution in diagnosed(x=x[:14], y=y[:14]).cautions}


def test_an_equilibrium_that_is_not_found():
    """A ridge so weak that float32 cannot hold the strengths over it: flagged, and no starvation is reported."""
    found = diagnosed(x64=False, penalty=Ridge(1e-30))
    if found.status.converged:  # then it has to be right
        np.testing.assert_array_equal(np.isfinite(found.starvation), True)
    else:
        assert "convergence" in {caution.code for caution in found.cautions}
        assert np.isnan(found.starvation).all()


def test_decoupling_below_chance_has_no_match():
    """Labels at random under a strong ridge: hardly any confidence; a strength is found or flagged."""
    found = diagnosed(penalty=Ridge(1e9))
    assert abs(found.confidence - 0.5) < 1e-3
    if not found.decoupling.converged:
        assert "matched" in {caution.code for caution in found.cautions}
    under = diagnosed(penalty=SpectralDecoupling(0.1))
    assert under.decoupling.kind == "ridge"
