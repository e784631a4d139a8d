"""The parts of a diagnosis against independent computations."""

# pyright: reportArgumentType=false
from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import Ridge, SpectralDecoupling, diagnose, dual, features, multiclass, tangent
from gsjax.diagnosis import alignment, decoupling, examples, verdict
from gsjax.diagnosis.alignment import Alignment, align, explained
from gsjax.diagnosis.cautions import nearly_equal
from gsjax.diagnosis.solution import Solution, Status, match_shape, solve, terms
from gsjax.diagnosis.stability import halves
from gsjax.diagnosis.trained import accuracy
from tests.diagnosis.problem import N, centred, network, problem

RIDGE = Ridge(1.0)


@pytest.fixture(scope="module")
def feats():
    with jax.enable_x64(True):
        params, x, y, _ = problem()
        yield features.from_ntk(tangent.ntk(network, params, x), y)


@pytest.fixture(scope="module")
def report():
    with jax.enable_x64(True):
        params, x, y, group = problem()
        yield diagnose(network, params, x, y, penalty=RIDGE, top=5, group=group)


# ---- starving pairs and examples


def test_terms_sum_to_the_coupling(report, feats):
    """`C = U^T D U` with `D = alpha (1 - alpha)`, from the equilibrium; also for several classes."""
    with jax.enable_x64(True):
        alpha = np.asarray(dual.equilibrium(feats, RIDGE).alpha)
        u = report.weights
        margins = jnp.asarray(np.log(1 / alpha - 1))[:, None]
        pull, curved, confidence = map(np.asarray, match_shape(jnp.asarray(u), margins, None))
    np.testing.assert_allclose(pull[:, 0], alpha)
    np.testing.assert_allclose(confidence, 1 - alpha)
    found = np.einsum("ncr,ncs->rs", curved, curved)
    np.testing.assert_allclose(found, u[:, 0].T @ ((alpha * (1 - alpha))[:, None] * u[:, 0]), rtol=1e-12)
    for pair in report.pairs:
        own = u[:, 0, pair.starver] * u[:, 0, pair.starved] * alpha * (1 - alpha)
        order = np.argsort(-np.abs(own))[: len(pair.rows)]
        np.testing.assert_array_equal(pair.rows, order)
        np.testing.assert_allclose(pair.term, own[order], rtol=1e-9)
        np.testing.assert_allclose(pair.share, np.abs(own[order]) / np.abs(own).sum(), rtol=1e-9)


def test_terms_of_classes_are_covariances():
    random = np.random.default_rng(0)
    logits, u, labels = random.normal(size=(6, 3)), random.normal(size=(6, 3, 2)), np.arange(6) % 3
    with jax.enable_x64(True):
        pull, curved, confidence = map(
            np.asarray, match_shape(jnp.asarray(u), jnp.asarray(logits), jnp.asarray(labels))
        )
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(pull, np.eye(3)[labels] - p, atol=1e-12)
    np.testing.assert_allclose(confidence, p[np.arange(6), labels])
    dummy = np.zeros(2)
    solution = Solution(u, dummy, dummy, np.zeros((2, 2)), logits, pull, curved, confidence, 2, Status(True, 0.0, 1))
    expected = [u[k, :, 0] @ (np.diag(p[k]) - np.outer(p[k], p[k])) @ u[k, :, 1] for k in range(6)]
    np.testing.assert_allclose(terms(solution, 0, 1), expected, atol=1e-12)


def test_elasticity_is_that_of_a_stronger_feature(report, feats):
    """A finite difference of the equilibrium with one strength changed."""
    for pair in report.pairs[:3]:
        sizes = []
        for factor in (0.999, 1.001):
            with jax.enable_x64(True):
                s = feats.s.at[pair.starver].multiply(np.sqrt(factor))
                changed = dual.equilibrium(features.from_spectrum(feats.u, s, feats.y), RIDGE)
            sizes.append(abs(float(changed.response[pair.starved])))
        slope = np.log(sizes[1] / sizes[0]) / np.log(1.001 / 0.999)
        np.testing.assert_allclose(pair.elasticity, slope, rtol=1e-3, atol=1e-8)
        np.testing.assert_allclose(pair.cost, slope * report.response[pair.starved], rtol=1e-3, atol=1e-8)
        np.testing.assert_allclose(pair.sensitivity * report.strengths[pair.starver], pair.cost)


def test_pairs_are_the_negative_entries_in_order(report):
    starving = {(i, j) for j in range(5) for i in range(5) if i != j and report.starvation[j, i] < 0}
    assert {(pair.starver, pair.starved) for pair in report.pairs} == starving
    elasticities = [pair.elasticity for pair in report.pairs]
    assert elasticities == sorted(elasticities)
    assert report.starving == len(starving) / 20
    toll = [sum(-pair.cost for pair in report.pairs if pair.starver == i) for i in range(5)]
    np.testing.assert_allclose(report.toll, toll)


def test_the_heaviest_examples(report):
    found = report.examples
    for j in range(5):
        weights = report.weights[:, 0, j]
        np.testing.assert_array_equal(np.abs(found.weight[j]), np.sort(np.abs(weights))[::-1][:6])
        np.testing.assert_array_equal(weights[found.rows[j]], found.weight[j])


# ---- the other penalty


def test_uniform_margins_are_an_optimum_of_spectral_decoupling(report, feats):
    strength, margins = decoupling.uniform_margins(report.confidence, np.asarray(feats.y), None)
    with jax.enable_x64(True):
        optimum = dual.equilibrium(feats, SpectralDecoupling(strength))
    np.testing.assert_allclose(optimum.margins, margins[:, 0], rtol=1e-9)
    np.testing.assert_allclose(np.mean(1 - optimum.alpha), report.confidence, rtol=1e-12)
    effect = report.decoupling
    assert effect.kind == "spectral decoupling"
    assert effect.converged
    assert not effect.assumed
    np.testing.assert_allclose(effect.strength, strength)
    sign = np.sign(np.sum(np.asarray(feats.u[:, :5]) * report.weights[:, 0], axis=0))
    np.testing.assert_allclose(effect.response, sign * optimum.response[:5], rtol=1e-8)
    np.testing.assert_allclose(effect.ratio, effect.response / report.response)


def test_uniform_margins_of_classes():
    with jax.enable_x64(True):
        params, x, y, _ = problem(n=6, classes=3)
        feats = multiclass.from_ntk(tangent.ntk(network, params, x), y)
        strength, logits = decoupling.uniform_margins(0.7, y, 3)
        optimum = multiclass.equilibrium(feats, SpectralDecoupling(strength))
    np.testing.assert_allclose(optimum.logits, logits, rtol=1e-8)
    np.testing.assert_allclose(jax.nn.softmax(jnp.asarray(logits))[np.arange(6), y], 0.7, rtol=1e-6)


@pytest.mark.parametrize(("confidence", "classes"), [(0.5, None), (0.4, None), (1.0, None), (0.3, 3)])
def test_no_strength_where_confidence_is_not_above_chance(confidence, classes):
    strength, margins = decoupling.uniform_margins(confidence, np.zeros(2, int), classes)
    assert np.isnan(strength)
    assert np.isnan(margins).all()


def test_the_ridge_of_equal_confidence():
    """Ridge to decoupling and back: the strength returns, and so do the responses."""
    with jax.enable_x64(True):
        params, x, y, _ = problem()
        first = diagnose(network, params, x, y, penalty=RIDGE, top=4)
        assert first.decoupling is not None
        second = diagnose(network, params, x, y, penalty=SpectralDecoupling(first.decoupling.strength), top=4)
    assert second.decoupling is not None
    assert second.decoupling.kind == "ridge"
    assert second.decoupling.converged
    np.testing.assert_allclose(second.decoupling.strength, 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.abs(second.decoupling.response), first.response, rtol=1e-5)
    np.testing.assert_allclose(second.response, np.abs(first.decoupling.response), rtol=1e-8)


# ---- alignment


def test_explained_share_is_that_of_analysis_of_variance():
    random = np.random.default_rng(0)
    values, label, group = random.normal(size=(60, 1, 3)), np.arange(60) % 2, random.integers(0, 3, 60)
    values[:, 0, 1] += group + 5 * label
    found = explained(values, label, group)
    for j in range(3):
        v = values[:, 0, j]
        within = sum(np.sum((v[label == a] - v[label == a].mean()) ** 2) for a in (0, 1))
        cells = [v[(label == a) & (group == b)] for a in (0, 1) for b in range(3)]
        rest = sum(np.sum((cell - cell.mean()) ** 2) for cell in cells)
        np.testing.assert_allclose(found[j], 1 - rest / within)
    # With one class, this is the coefficient of determination of the indicators of the groups.
    design = np.eye(3)[group]
    for j, share in enumerate(explained(values, np.zeros(60, int), group)):
        v = values[:, 0, j]
        residual = v - design @ np.linalg.lstsq(design, v, rcond=None)[0]
        np.testing.assert_allclose(share, 1 - residual @ residual / np.sum((v - v.mean()) ** 2))


def test_several_outputs_add_their_sums_of_squares():
    random = np.random.default_rng(0)
    values, label, group = random.normal(size=(30, 2, 1)), np.arange(30) % 2, random.integers(0, 2, 30)
    parts = [explained(values[:, [c]], label, group)[0] for c in range(2)]
    within = [np.sum((values[:, c, 0] - [values[label == a, c, 0].mean() for a in label]) ** 2) for c in range(2)]
    np.testing.assert_allclose(explained(values, label, group)[0], np.average(parts, weights=within))


@pytest.mark.parametrize("scale", [1.0, -3.0])
def test_alignment_is_invariant(scale):
    """To signs and sizes of features, to the names of groups, and to codes of label and attribute."""
    random = np.random.default_rng(0)
    values, label, group = random.normal(size=(50, 1, 2)), np.where(np.arange(50) % 2, 1, -1), random.integers(0, 2, 50)
    first = align(values, label, group, seed=0)
    second = align(scale * values, label, 7 * group + 2 * (label > 0) * 100, seed=0)
    np.testing.assert_allclose(first.group, second.group)
    np.testing.assert_allclose(first.label, second.label)
    assert first.smallest == second.smallest


def test_the_attribute_and_the_label_as_features():
    label, group = np.tile([1, 1, -1, -1], 20), np.tile([0, 1, 0, 1], 20)
    noise = np.random.default_rng(0).normal(size=80)
    values = np.stack([group, label, np.ones(80), noise], axis=1)[:, None].astype(float)
    found = align(values, label, group, seed=0)
    np.testing.assert_allclose(found.group[:3], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found.label[:3], [0, 1, 0], atol=1e-12)
    assert found.group[3] < found.chance < 0.3
    assert found.smallest == 20


def test_chance_is_exceeded_in_one_of_twenty_cases(monkeypatch):
    """Over independent groups, at most 5% of the largest alignments are beyond the level, and not far fewer."""
    random = np.random.default_rng(0)
    values, label = random.normal(size=(40, 1, 4)), np.arange(40) % 2
    beyond = 0
    monkeypatch.setattr(alignment, "PERMUTATIONS", 99)  # the level stays 5 / 100
    for seed in range(100):
        found = align(values, label, random.integers(0, 2, 40), seed=seed)
        beyond += found.group.max() > found.chance
    # The level is 5%: 5 of 100 on average, with a standard deviation of 2.2.
    assert 1 <= beyond <= 12


def test_a_group_that_follows_from_the_label_tells_nothing():
    values, label = np.random.default_rng(0).normal(size=(20, 1, 2)), np.arange(20) % 2
    found = align(values, label, 3 - label, seed=0)
    assert not found.known
    assert np.isnan(found.group).all()
    assert verdict.judge(np.ones(2), np.ones(2), found).code == "unknown"


def test_the_number_of_permutations_gives_the_level():
    rank = (1 - alignment.LEVEL) * (alignment.PERMUTATIONS + 1)
    assert rank == round(rank)


def aligned(*group, chance=0.1):
    return Alignment(np.array(group), np.zeros(len(group)), chance, 50, known=True)


@pytest.mark.parametrize(
    ("code", "starver", "best", "toll", "found"),
    [
        ("aligned", 0, 0, [2.0, 1.0], aligned(0.9, 0.0)),
        ("aligned", 0, 1, [2.0, 1.0], aligned(0.5, 0.9)),  # the attribute is spread over two features
        ("other", 0, 1, [2.0, 1.0], aligned(0.4, 0.9)),
        ("other", 0, 1, [2.0, 1.0], aligned(0.09, 0.15)),  # comparable, but not beyond chance
        ("none", 0, None, [2.0, 1.0], aligned(0.1, 0.05)),
        ("no starvation", None, 0, [0.0, 0.0], aligned(0.9, 0.0)),
        ("unknown", None, 0, [np.nan, np.nan], aligned(0.9, 0.0)),
    ],
)
def test_verdicts(code, starver, best, toll, found):
    judged = verdict.judge(np.array(toll), np.array([1.0, 2.0]), found)
    assert (judged.code, judged.starver, judged.aligned) == (code, starver, best)
    assert judged.text[0].isupper()
    assert judged.text.endswith(".")


# ---- stability


@pytest.mark.parametrize(
    ("n", "outputs", "size"), [(15, 1, 0), (16, 1, 8), (41, 1, 20), (5000, 1, 1000), (5000, 10, 100)]
)
def test_halves_are_disjoint_and_bounded(n, outputs, size):
    found = halves(n, outputs, seed=0)
    assert len(found) == (5 if size else 0)
    for first, second in found:
        assert len(first) == len(second) == size
        assert not set(first) & set(second)
        assert len(set(first)) == size


def test_repeated_data_are_stable():
    """If every example occurs many times, the features of halves continue to each other."""
    with jax.enable_x64(True):
        params, x, y, _ = problem(n=4)
        rows = np.repeat(np.arange(4), N // 4)
        found = diagnose(network, params, x[rows], y[rows], penalty=RIDGE, top=2)
    assert found.stability is not None
    assert (found.stability.overlap > 0.9).all()
    assert found.stability.agreement[0, 1] == found.stability.agreement[1, 0] == 1


def test_noise_is_not_stable():
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        x, y = random.normal(size=(N, 30)), np.where(np.arange(N) % 2, 1, -1)
        found = diagnose(lambda w, x: x @ w, jnp.zeros(30), x, y, penalty=RIDGE, top=5)
    assert found.stability is not None
    assert found.stability.overlap.max() < 0.5
    assert found.stability.overlap.mean() < 0.3
    assert {"unstable_features", "unstable_signs"} <= {caution.code for caution in found.cautions}


def test_the_weight_of_the_penalty_is_that_per_example(feats):
    """A half of data that are two copies of each other has the same responses up to sqrt(2)."""
    from gsjax.diagnosis.task import reduced

    with jax.enable_x64(True):
        params, x, y, _ = problem(n=N // 2)
        half = solve(tangent.ntk(network, params, x), y, reduced(RIDGE, np.arange(N // 2), N))
        twice = np.concatenate([x, x]), np.concatenate([y, y])
        whole = solve(tangent.ntk(network, params, twice[0]), jnp.asarray(twice[1]), RIDGE)
    np.testing.assert_allclose(np.abs(whole.response[:5]), np.sqrt(2) * np.abs(half.response[:5]), rtol=1e-9)


# ---- the trained network


def test_a_linear_network_ends_where_it_was_predicted():
    """Trained to the optimum of the same objective, a network that is linear in its parameters matches exactly."""
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        x, y = random.normal(size=(N, 5)), np.where(np.arange(N) % 2, 1, -1)
        start = jnp.asarray(random.normal(size=5))
        # The optimum in parameters: theta = start + X^T Y alpha / lambda.
        kernel = x @ x.T
        alpha = dual.equilibrium(features.from_ntk(jnp.asarray(kernel), y), RIDGE).alpha
        trained = start + x.T @ (y * alpha)
        found = diagnose(lambda w, x: x @ w, start, x, y, penalty=RIDGE, trained_params=trained)
    assert found.trained is not None
    np.testing.assert_allclose(found.trained.response, found.response, rtol=1e-8)
    assert found.trained.error < 1e-9
    assert found.trained.gradient < 1e-9
    assert found.trained.kernel.relative == 0
    np.testing.assert_allclose([found.trained.kernel.cosine, found.trained.kernel.turned], [1, 0], atol=1e-12)
    assert found.trained.accuracy == found.trained.accuracy_predicted
    assert found.rank == 5


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("penalty", [RIDGE, SpectralDecoupling(0.3, target=0.5)])
def test_the_gradient_is_that_of_the_objective(penalty, classes):
    from gsjax import objectives
    from gsjax.diagnosis.task import check_task, outputs
    from gsjax.diagnosis.trained import gradient_norm

    with jax.enable_x64(True):
        params, x, y, _ = problem(n=12, classes=classes)
        moved = jax.tree.map(lambda leaf: 1.3 * leaf + 0.1, params)
        task = check_task(network, params, x, y, penalty)

        def objective(theta):
            logits = network(theta, x) - network(params, x)
            change = jax.tree.map(jnp.subtract, theta, params)
            if classes is None:
                return objectives.objective(penalty, change, logits, jnp.asarray(y))
            loss = -jnp.sum(jax.nn.log_softmax(logits)[jnp.arange(12), y])
            return loss + objectives.penalty_value(penalty, change, logits.ravel())

        gradient = jax.grad(objective)(moved)
        expected = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
        found = gradient_norm(task, moved, outputs(network, moved, task.x))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_a_rescaled_kernel_has_not_turned():
    """A kernel times 4: it has moved by 3 of its size, and remains after no rescaling."""
    with jax.enable_x64(True):
        x, y = np.random.default_rng(0).normal(size=(N, 3)), np.where(np.arange(N) % 2, 1, -1)

        def squared(w, x):
            return x @ w**2

        found = diagnose(squared, jnp.ones(3), x, y, penalty=RIDGE, trained_params=2 * jnp.ones(3))
    assert found.trained is not None
    np.testing.assert_allclose(found.trained.kernel.relative, 3, rtol=1e-9)
    np.testing.assert_allclose(found.trained.kernel.cosine, 1, rtol=1e-9)
    np.testing.assert_allclose(found.trained.kernel.turned, 0, atol=1e-9)
    assert "kernel_drift" in {caution.code for caution in found.cautions}


def test_accuracy_of_outputs_and_of_logits():
    assert accuracy(np.array([1.0, -1.0, 2.0, 0.0]), np.array([1, 1, 1, 1])) == 0.5
    assert accuracy(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0])) == 0.5


# ---- nearly equal strengths


@pytest.mark.parametrize(
    ("s2", "n", "runs"),
    [
        ([9.0, 4.0, 1.0], 200, []),
        ([9.0, 8.9, 8.8, 1.0], 200, [[0, 1, 2]]),
        ([9.0, 8.9, 4.0, 3.9], 200, [[0, 1], [2, 3]]),
        ([9.0, 8.9], 10**6, []),
        ([9.0], 10, []),
    ],
)
def test_runs_of_nearly_equal_strengths(s2, n, runs):
    assert nearly_equal(np.array(s2), n) == runs


def test_the_report_keeps_numbers_of_a_failed_solver_apart(report):
    """NaN in the matrix gives no starving pair, no verdict on starvation, and no figure of it."""
    bad = dataclasses.replace(
        report, starvation=np.full((5, 5), np.nan), pairs=(), starving=float("nan"), toll=np.full(5, np.nan)
    )
    assert "Who starves whom is not known" in str(bad)
    assert "starvation" not in bad.plot()
    assert bad.to_dict()["starvation"] == [[None] * 5] * 5
    dummy = np.zeros((5, 1, 5))
    failed = Solution(
        dummy, report.s, report.response, bad.starvation, dummy[..., 0], dummy[..., 0], dummy, dummy[:, 0, 0], 5,
        Status(False, 1.0, 1),
    )  # fmt: skip
    assert examples.starving(failed, 3) == ()
    assert np.isnan(verdict.tolls(failed)).all()


def test_centred_networks_have_no_outputs_at_the_start():
    with jax.enable_x64(True):
        params, x, y, _ = problem()
        assert diagnose(centred(params), params, x, y, penalty=RIDGE).start == 0
