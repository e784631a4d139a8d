"""The warning rule by formula and by simulation, and digits with a patch that reveals the class."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

from gsjax import data, methods
from gsjax.methods import Batch
from gsjax.networks import FullyConnected
from gsjax.probes.alarms import false_alarms, warn
from gsjax.probes.monitoring import Course, early_mass, monitor

KEY = jax.random.key(0)


def at(tree, *index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def made(depth, layers=3):
    """A course of these depths, with the rest made up."""
    depth = np.asarray(depth, float)
    names = tuple(f"h{i}" for i in range(1, layers + 1))
    return Course(depth, 0.0 * depth, depth > 0, None, names)


def shares(early, valid, total=50):
    """A course with these numbers of examples of depth 1, and valid ones, of which the others have depth 2."""
    place = np.arange(total)
    early, valid = np.asarray(early)[..., None], np.asarray(valid)[..., None]
    return made(np.where(place < early, 1.0, np.where(place < valid, 2.0, np.nan)), layers=2)


def test_the_threshold_is_a_prediction_bound_of_the_log_odds():
    early, valid = np.array([[20, 5], [25, 5], [35, 5], [22, 5], [18, 5]]), np.full((5, 2), [50, 40])
    reference = shares(early, valid)
    bits = np.array([[0.1, 0.5], [0.3, 0.7], [0.2, 0.4], [0.2, 0.9], [0.25, 0.8]])
    reference = dataclasses.replace(reference, information=np.repeat(bits[..., None], 50, 2))
    found = warn(reference, at(reference, slice(2)), [3, 9], rate=0.08, information=True)
    t = scipy.stats.t.ppf(1 - 0.08 / 4, df=4) * np.sqrt(6 / 5)
    odds = np.log((early + 0.5) / (valid - early + 0.5))
    second = np.sqrt(1 / 5.5 + 1 / 35.5)  # all runs have the same number: the error of a share
    spread = np.array([odds[:, 0].std(ddof=1), second])
    np.testing.assert_allclose(scipy.special.logit(found.threshold), odds.mean(axis=0) + t * spread)
    informed = np.asarray(found.information_threshold)
    np.testing.assert_allclose(informed, bits.mean(axis=0) + t * bits.std(axis=0, ddof=1))
    assert found.rate == 0.08


def test_the_first_step_with_a_warning():
    reference = shares(np.full((6, 4), 10) + np.arange(6)[:, None], np.full((6, 4), 50))
    watched = shares([[10, 10, 49, 49], [10, 10, 10, 10], [49, 10, 10, 10], [0, 0, 0, 0]], np.full((4, 4), 50))
    found = warn(reference, watched, [1, 5, 9, 20])
    assert found.step.tolist() == [9, -1, 1, -1]
    assert found.warned.tolist() == [True, False, True, False]
    assert found.exceeds.tolist() == [[False, False, True, True], [False] * 4, [True, False, False, False], [False] * 4]
    assert found.measured.all()
    assert found.information_threshold is None
    alone = warn(reference, at(watched, 0), np.array([1, 5, 9, 20]))
    assert (alone.step.item(), alone.warned.item()) == (9, True)
    informed = dataclasses.replace(watched, information=watched.information.copy())
    informed.information[1, 3] = 1.0
    assert warn(reference, informed, [1, 5, 9, 20], information=True).step.tolist() == [9, 20, 1, -1]


def test_a_step_that_was_not_measured_gives_no_warning():
    reference = shares(np.full((6, 2), 1), np.full((6, 2), 50))
    watched = shares([[0, 40], [0, 1]], [[0, 50], [50, 50]])
    found = warn(reference, watched, [1, 2])
    assert found.step.tolist() == [2, -1]
    assert found.measured.tolist() == [False, True]
    converged = dataclasses.replace(watched, converged=np.array([[True, False], [True, True]]))
    assert warn(reference, converged, [1, 2]).step.tolist() == [-1, -1]
    watched.information[1, 0, 3] = np.inf
    assert warn(reference, watched, [1, 2], information=True).measured.tolist() == [False, False]


def test_the_least_number_of_runs():
    """By a search over the ratio of the bounds with an estimated and with a known distribution."""
    for rate, steps, least in ((0.05, 11, 5), (0.05, 12, 6), (0.01, 10, 7), (0.1, 1, 3)):
        tail = rate / steps
        n = np.arange(2, 30)
        ratio = scipy.stats.t.ppf(1 - tail, n - 1) * np.sqrt(1 + 1 / n) / scipy.stats.norm.ppf(1 - tail)
        assert n[ratio <= 2][0] == least
        runs = shares(np.full((least, steps), 10), np.full((least, steps), 50))
        warn(runs, runs, range(steps), rate=rate)
        with pytest.raises(ValueError, match=f"^reference: expected at least {least} runs for a rate of {rate:g} over"):
            warn(at(runs, slice(least - 1)), runs, range(steps), rate=rate)


def simulated(rng, runs, odds, spread, steps=8, examples=150, correlation=0.8):
    """Courses of runs whose early mass has normal log-odds, correlated over the steps, on a sample of examples."""
    noise = rng.normal(size=(steps, *runs))
    for step in range(1, steps):
        noise[step] = correlation * noise[step - 1] + np.sqrt(1 - correlation**2) * noise[step]
    p = scipy.special.expit(odds + spread * np.moveaxis(noise, 0, -1))
    return shares(rng.binomial(examples, p), np.full(p.shape, examples), examples)


@pytest.mark.parametrize("n", [5, 8])
@pytest.mark.parametrize("odds", [-2.0, 0.0, 2.0])
@pytest.mark.parametrize("spread", [0.1, 0.5, 1.0])
def test_false_alarms_are_at_most_as_frequent_as_stated(n, odds, spread):
    """Over independent references, one further run for each; the bound has a p-value of 0.001."""
    rng = np.random.default_rng([n, int(10 * odds) + 20, int(10 * spread)])
    trials, rate = 200, 0.1
    runs = simulated(rng, (trials, n + 1), odds, spread)
    alarms = 0
    for trial in range(trials):
        drawn = at(runs, trial)
        alarms += int(warn(at(drawn, slice(n)), at(drawn, n), range(8), rate=rate).warned)
    assert alarms <= scipy.stats.binom.ppf(0.999, trials, rate)


def test_a_shifted_course_is_found():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(50):
        reference, watched = simulated(rng, (8,), 0.0, 0.3), simulated(rng, (1,), 3.0, 0.3)
        found.append(warn(reference, watched, range(8)).warned.item())
    assert np.mean(found) > 0.9


def test_measured_rates_have_their_interval():
    reference = shares(np.array([[10], [11], [12], [10], [11], [48]]), np.full((6, 1), 50))
    clean = shares(np.array([[11]] * 7 + [[50]] * 3), np.full((10, 1), 50))
    found = false_alarms(at(reference, slice(5)), clean, level=0.9)
    exact = scipy.stats.binomtest(3, 10).proportion_ci(0.9, method="exact")
    np.testing.assert_allclose(found[:3], [0.3, exact.low, exact.high])
    assert found[3:] == (3, 10, 0.05)
    out = false_alarms(reference)  # of the six only the last one differs from the others
    assert (out.alarms, out.runs) == (1, 6)
    none = false_alarms(at(reference, slice(5)), at(clean, slice(7)))
    assert (none.rate, none.low) == (0, 0)
    np.testing.assert_allclose(none.high, scipy.stats.binomtest(0, 7).proportion_ci(method="exact").high)
    assert false_alarms(at(reference, slice(5)), at(clean, slice(7, 10))).high == 1


# ---- real training


@pytest.fixture(scope="module")
def digits():
    """Runs on noisy digits, 24 clean ones, and 5 with a bright pixel whose place tells the class; one program."""
    images = data.digit_images()
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(images[0]))[:1000]
    pixels, labels = (part[chosen] for part in images)
    x = pixels.astype(np.float32) / 255 + 0.3 * rng.normal(size=pixels.shape).astype(np.float32)
    y = labels.astype(np.int32)
    patched = x.copy()
    patched[np.arange(1000), y // 5 * 7, y % 5] = 3
    network = FullyConnected((48, 48), outputs=10)
    x, y = np.stack([x] * 24 + [patched] * 5), np.stack([y] * 29)
    first = slice(100), slice(800), slice(800, None)
    bank, train, held_out = ((x[:, part], y[:, part]) for part in first)
    run = methods.train(
        methods.get("erm")(network, optax.adam(2e-3)),
        jax.random.split(KEY, 29),
        Batch(*train),
        steps=80,
        batch_size=50,
        record=[10, 20, 40, 80],
        evaluate=monitor(network, k=15),
        held_out=(*held_out, bank),
        per_seed=True,
    )
    return at(run.records, slice(8)), at(run.records, slice(8, 24)), at(run.records, slice(24, None)), run.steps


def test_a_patch_that_reveals_the_class_raises_the_early_mass(digits):
    reference, clean, patched, _ = digits
    difference = early_mass(patched)[:, None] - early_mass(clean)[None]
    assert (difference.mean(axis=(0, 1)) > 0.02).all()
    assert difference[..., 0].mean() > 0.2  # at the first record
    assert patched.information.mean() > reference.information.mean()


def test_the_monitor_warns_of_the_patch_and_seldom_of_clean_digits(digits):
    reference, clean, patched, steps = digits
    found = warn(reference, patched, steps)
    assert (found.step == steps[0]).all()
    first, last = patched.correct[:, 0].mean(), patched.correct[:, -1].mean()
    assert first < 0.6 < 0.95 < last  # when the warnings come, the networks are far from trained
    measured = false_alarms(reference, clean)
    assert measured.runs == 16
    assert measured.low <= measured.nominal


# ---- bad input


RUNS = shares(np.full((6, 2), 10), np.full((6, 2), 50))
EMPTY = shares(np.zeros((6, 2)), np.where(np.arange(2) == 1, 0, np.full((6, 2), 50)))


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: warn(RUNS.depth, RUNS, [1, 2]), "reference: expected a Course"),
        (lambda: warn(RUNS, None, [1, 2]), "watched: expected a Course"),
        (lambda: warn(RUNS, RUNS, [1, 2, 3]), "reference: expected a course over 3 steps"),
        (lambda: warn(RUNS, at(RUNS, slice(None), slice(1)), [1, 2]), "watched: expected a course over 2 steps"),
        (lambda: warn(RUNS, RUNS, [2, 1]), "steps: expected increasing whole numbers"),
        (lambda: warn(RUNS, RUNS, []), "steps: expected increasing whole numbers"),
        (lambda: warn(at(RUNS, 0), RUNS, [1, 2]), r"reference: expected courses \(n, T, ...\), one row per run"),
        (lambda: warn(RUNS, made(RUNS.depth), [1, 2]), "watched: expected the layers h1, h2, got h1, h2, h3"),
        (lambda: warn(EMPTY, RUNS, [1, 2]), "reference: expected valid examples, converged probes and .* at step 2"),
        (lambda: warn(RUNS, RUNS, [1, 2], rate=0.5), r"rate: expected a number in \(0, 0.5\)"),
        (lambda: warn(RUNS, RUNS, [1, 2], information=1), "information: expected True or False"),
        (lambda: false_alarms(RUNS, level=1.0), r"level: expected a number in \(0, 1\)"),
        (lambda: false_alarms(at(RUNS, 0)), r"reference: expected courses \(n, T, ...\)"),
        (lambda: false_alarms(RUNS, at(RUNS, 0)), r"clean: expected courses \(m, T, ...\)"),
        (lambda: false_alarms(at(RUNS, slice(4))), "reference: expected at least 4 runs .*, got 3"),
    ],
)
def test_bad_courses(call, complaint):
    with pytest.raises(ValueError, match=f"^{complaint}"):
        call()
