"""Feature contamination: the program against other implementations, what is concluded from rows, and the command."""

from __future__ import annotations

import dataclasses
import itertools
import json

import jax
import numpy as np
import optax
import pytest
from scipy import optimize, special

from experiments import _contamination_kernel as tangents
from experiments import _contamination_program as program
from experiments import _contamination_remedies as remedies
from experiments import _contamination_report, _rows, feature_contamination
from experiments.__main__ import main
from experiments._contamination_program import Arm, Sizes
from experiments._study import fits, keys
from gsjax import methods
from gsjax.networks import TwoLayer

SMOKE = feature_contamination.PRESETS["smoke"]
SIZES = Sizes(core=3, background=5, dimension=12, width=8, n=40, test=30, record=(0, 7, 30))
RATE, DECAY = 0.05, 0.01
KINDS = list(itertools.product(program.NAMES, program.OPTIMIZERS, (True, False), (True, False)))
ACTIVATIONS = {
    "relu": lambda h: np.maximum(h, 0),
    "gelu": lambda h: h * special.ndtr(h),
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "identity": lambda h: h,
}
DERIVATIVES = {
    "relu": lambda h: (h > 0) * 1.0,
    "gelu": lambda h: special.ndtr(h) + h * np.exp(-(h**2) / 2) / np.sqrt(2 * np.pi),
    "tanh": lambda h: 1 - np.tanh(h) ** 2,
    "sigmoid": lambda h: special.expit(h) * special.expit(-h),
    "identity": np.ones_like,
}


def arms(kinds, **changed) -> Arm:
    activation, optimizer, hinge, trained = (np.array(column) for column in zip(*kinds, strict=True))
    numbers = {"centred": False, "scale": 1.0, "mean": 0.5, "learning_rate": RATE, "weight_decay": DECAY} | changed
    return Arm(
        activation=np.array([program.NAMES.index(name) for name in activation]),
        optimizer=np.array([program.OPTIMIZERS.index(name) for name in optimizer]),
        hinge=hinge,
        trained=trained,
        **{name: np.full(len(kinds), value) for name, value in numbers.items()},
    )


SCALED = [kind for kind in KINDS if kind[1:] == ("sgd", True, False)]


@pytest.fixture(scope="module")
def everything():
    """All kinds of arms from one key in one call, and then some with scaled and centred outputs."""
    both = zip(arms(KINDS), arms(SCALED, scale=3.0, centred=True), strict=True)
    runs = Arm(*(np.concatenate(pair) for pair in both))
    return program.train(keys(1, [0] * len(runs.scale)), runs, SIZES)


@pytest.fixture(scope="module")
def trained(everything):
    return jax.tree.map(lambda leaf: leaf[: len(KINDS)], everything)


def by_hand(activation, optimizer, hinge, trained, *, scale=1.0, centred=False):
    """The outputs on fresh and shifted examples after training in all dimensions, in float64 and by hand."""
    key = keys(1, [0])[0]
    rows = np.asarray(program.basis(program.state_key(key), SIZES), float)
    train, fresh, shifted, _ = (np.asarray(z, float) @ rows for z in program.task(key, SIZES, 0.5))
    start = program.initial(key, SIZES, trained)
    w = {name: np.asarray(leaf, float) for name, leaf in start._asdict().items()}
    origin, y = {name: leaf.copy() for name, leaf in w.items()}, np.where(np.arange(SIZES.n) % 2 == 0, 1.0, -1.0)
    xi, derivative = ACTIVATIONS[activation], DERIVATIVES[activation]

    def outputs(w, x):
        return scale * (xi(x @ w["hidden"].T + w["bias"]) @ w["output"] + w["offset"])

    def centre(x):
        return outputs(origin, x) if centred else 0.0

    first, second = ({name: np.zeros_like(leaf) for name, leaf in w.items()} for _ in range(2))
    for step in range(1, SIZES.record[-1] + 1):
        h = train @ w["hidden"].T + w["bias"]
        margins = y * (outputs(w, train) - centre(train))
        r = -scale * y * ((margins < 1) if hinge else special.expit(-margins)) / len(y)
        back = r[:, None] * w["output"] * derivative(h)
        gradient = {"hidden": back.T @ train, "bias": back.sum(0), "output": xi(h).T @ r, "offset": r.sum()}
        for name in w if trained else ("hidden", "bias"):
            g = gradient[name]
            if optimizer == "sgd":
                first[name] = 0.9 * first[name] + g + DECAY * w[name]
                w[name] = w[name] - RATE * first[name]
            else:
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.999 * second[name] + 0.001 * g**2
                ratio = first[name] / (1 - 0.9**step) / (np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8)
                w[name] = w[name] - RATE * (ratio + DECAY * w[name])
    return np.stack([outputs(w, x) - centre(x) for x in (fresh, shifted)])


@pytest.mark.parametrize("number", range(len(KINDS)), ids=["-".join(map(str, kind)) for kind in KINDS])
def test_every_kind_of_arm_is_trained_as_by_hand(trained, number):
    expected = by_hand(*KINDS[number])
    # Adam divides small gradients by their own size, so their rounding is not small.
    tolerance = 1e-4 if KINDS[number][1] == "adamw" else 1e-5
    np.testing.assert_allclose(trained.outputs[number], expected, atol=tolerance * np.abs(expected).max())


def test_scaled_and_centred_outputs_are_trained_as_by_hand(everything):
    found = jax.tree.map(lambda leaf: leaf[len(KINDS) :], everything)
    for kind, outputs, course in zip(SCALED, found.outputs, found.course.hinge, strict=True):
        expected = by_hand(*kind, scale=3.0, centred=True)
        np.testing.assert_allclose(outputs, expected, atol=1e-5 * np.abs(expected).max())
        np.testing.assert_array_equal(course[0], 1)  # the outputs are zero at initialisation
        margins = np.where(np.arange(SIZES.test) % 2 == 0, 1, -1) * expected
        np.testing.assert_allclose(course[-1, :2], np.maximum(1 - margins, 0).mean(axis=1), rtol=1e-4)


def by_methods(activation, optimizer, hinge, trained):
    """The outputs on fresh and shifted examples by `methods.train`, in all dimensions."""
    key = keys(1, [0])
    rows = program.basis(program.state_key(key[0]), SIZES)
    train, fresh, shifted, _ = (z @ rows for z in program.task(key[0], SIZES, 0.5))
    network = TwoLayer(SIZES.width, activation, trained)
    adam = optimizer == "adamw"
    rule = optax.adamw(RATE, weight_decay=DECAY) if adam else optax.sgd(RATE, momentum=0.9)
    loss = "hinge" if hinge else "cross_entropy"
    method = methods.get("erm")(network, rule, loss=loss, weight_decay=0.0 if adam else DECAY)
    run = methods.train(method, key, methods.Batch(train, program.labels(SIZES.n)), steps=SIZES.record[-1])
    learner = jax.tree.map(lambda leaf: leaf[0], methods.Learner(run.state.params, run.state.collections))
    return np.stack([methods.predict(network, learner, x) for x in (fresh, shifted)])


SOME = [("relu", "sgd", True, False), ("gelu", "adamw", False, True), ("identity", "sgd", False, True)]


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind in SOME else pytest.mark.slow) for kind in KINDS],
    ids=["-".join(map(str, kind)) for kind in KINDS],
)
def test_the_program_agrees_with_methods(trained, kind):
    expected = by_methods(*kind)
    tolerance = 1e-4 if kind[1] == "adamw" else 1e-5
    np.testing.assert_allclose(trained.outputs[KINDS.index(kind)], expected, atol=tolerance * np.abs(expected).max())


def test_remedies_start_from_the_networks_of_the_program(trained):
    found = remedies.train(
        keys(1, [0]), methods.get("erm"), optax.sgd(RATE, momentum=0.9), SIZES, weight_decay=DECAY, loss="hinge"
    )
    number = KINDS.index(("relu", "sgd", True, False))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(trained), strict=True):
        np.testing.assert_allclose(ours[0], theirs[number], atol=2e-5)
    with pytest.raises(ValueError, match="optimizer: expected one that commutes with rotations"):
        remedies.train(keys(1, [0]), methods.get("erm"), optax.adam(RATE), SIZES, weight_decay=DECAY)


def test_records_are_those_of_the_weights(trained):
    number = KINDS.index(("relu", "adamw", True, True))
    before, after = (np.asarray(each.hidden[number]) for each in (trained.before, trained.after))
    sign = np.sign(trained.after.output[number])
    course = jax.tree.map(lambda leaf: leaf[number], trained.course)
    for part, cut in enumerate((slice(3), slice(3, None))):
        for row, weights in ((0, before), (-1, after)):
            assert course.norms[row, part] == pytest.approx(np.linalg.norm(weights[:, cut], axis=1).mean(), rel=1e-5)
        change = (after - before)[:, cut] * (sign[:, None] if part == 0 else 1)
        assert course.signed[-1, part] == pytest.approx(change.mean(), rel=1e-4)
        assert course.learned[-1, part] == pytest.approx(np.linalg.norm(change, axis=1).mean(), rel=1e-5)
    fresh = np.asarray(program.task(keys(1, [0])[0], SIZES, 0.5).fresh)
    active = fresh @ after.T + trained.after.bias[number] > 0
    own = np.where(np.arange(SIZES.test) % 2 == 0, 1, -1)[:, None] * sign > 0
    assert course.active[-1].tolist() == pytest.approx([active[own].mean(), active[~own].mean()], abs=1e-6)


def test_sets_of_examples():
    data = program.task(keys(1, [0])[0], SIZES, 0.5)
    y = np.where(np.arange(SIZES.n) % 2 == 0, 1, -1)
    assert (y[:, None] * np.asarray(data.train)[:, :3] >= 0).all()
    np.testing.assert_array_equal(data.published[:, :3], data.train[:, :3])
    np.testing.assert_array_equal(data.shifted[:, :3], data.fresh[:, :3])
    assert not np.isin(data.fresh[:, :3], data.train[:, :3]).any()
    for z, sign in ((data.train, 1), (data.fresh, 1), (data.shifted, -1), (data.published, -1)):
        assert (sign * np.asarray(z)[:, 3:] >= 0).all()
    zero = np.asarray(program.task(keys(1, [0])[0], SIZES, 0.0).train)
    np.testing.assert_allclose(zero[:, 3:], np.asarray(data.train)[:, 3:] - 0.5, atol=1e-6)


def test_changes_of_the_outputs_are_the_best_in_distribution():
    rng = np.random.default_rng(0)
    y = np.where(np.arange(60) % 2 == 0, 1.0, -1.0)
    inside, outside = 0.3 * y + 0.2 + 0.1 * rng.normal(size=60), 0.1 * y + 0.2

    def hinge(f):
        return np.maximum(1 - y * f, 0).mean()

    found = remedies.adjusted(np.stack([inside, outside]), y)
    assert found["margins"] == pytest.approx([(y * inside).mean(), 0.1])
    assert found["offset"][0] <= min(hinge(inside + v) for v in np.linspace(-2, 2, 4001)) + 1e-6
    assert found["temperature"][0] <= min(hinge(inside / v) for v in np.geomspace(1e-3, 1e3, 4001)) + 1e-4
    assert found["offset"][1] == pytest.approx(hinge(outside + found["offset"][2]))
    assert found["temperature"][1] == pytest.approx(hinge(outside / found["temperature"][2]))


def test_the_predictor_of_the_kernel_is_the_ridge_solution_in_the_tangent_features():
    key, ridge = keys(1, [0])[0], 0.5
    start, data = program.initial(key, SIZES, False), program.task(key, SIZES, 0.5)
    start = start._replace(hidden=start.hidden @ program.basis(program.state_key(key), SIZES).T)
    found = tangents.glasses(start, "relu", data, core=3, ridge=ridge)
    w = jax.tree.map(lambda leaf: np.asarray(leaf, float), start)

    def phi(z):
        z = np.asarray(z, float)
        back = w.output * (z @ w.hidden.T + w.bias > 0)
        return np.concatenate([(back[:, :, None] * z[:, None]).reshape(len(z), -1), back], axis=1)

    y = np.where(np.arange(SIZES.n) % 2 == 0, 1.0, -1.0)
    design = y[:, None] * phi(data.train)

    def objective(theta):
        margins = design @ theta
        loss = np.logaddexp(0, -margins).sum() + ridge / 2 * theta @ theta
        return loss, -design.T @ special.expit(-margins) + ridge * theta

    theta = optimize.minimize(objective, np.zeros(design.shape[1]), jac=True, tol=1e-12).x
    for number, z in enumerate((data.fresh, data.shifted)):
        margins = y[: SIZES.test] * (phi(z) @ theta)
        assert found["kept"][number] == pytest.approx(margins.mean(), rel=1e-3)
        assert found["hinge"][number] == pytest.approx(np.maximum(1 - margins, 0).mean(), rel=1e-3)
        assert found["accuracy"][number] == pytest.approx((margins > 0).mean())
    np.testing.assert_allclose(found["strengths"], np.linalg.svd(design)[1][: tangents.SHOWN] ** 2, rtol=1e-6)
    assert all(fits(found[name], kind) for name, kind in tangents.COLUMNS.items())
    assert max(map(max, found["correlations"])) <= 1


def test_distances_of_kernels():
    one, other = np.diag([2.0, 1.0, 1.0]), np.diag([1.0, 2.0, 1.0])
    found = tangents.distance(one, other)
    assert found.relative == pytest.approx(np.sqrt(2 / 6))
    assert found.angle == pytest.approx(1 - 5 / 6)
    assert tangents.distance(one, one + 7.0).centred == pytest.approx(0, abs=1e-12)


def row(part, arm, seed, *, hinge=(0.01, 0.1), accuracy=(1.0, 0.99), grown=(2.0, 1.0), **more):
    """A row with plausible numbers, which vary a little with the seed."""
    noise = 1 + 0.01 * np.sin(7.0 * seed + len(arm))
    last = [hinge[0] * noise, hinge[1] * noise, hinge[1]]
    return {
        "part": part,
        "arm": arm,
        "seed": seed,
        "steps": [0, 10, 20],
        "hinge": [[1.0, 1.0, 1.0], [0.5, 0.9 * hinge[1], 0.6], last],
        "logistic": [[0.7, 0.7, 0.7]] * 3,
        "accuracy": [[0.5, 0.5, 0.5], [0.9, 0.8, 0.8], [accuracy[0], accuracy[1] * noise, accuracy[1]]],
        "norms": [[0.2, 0.2], [0.3, 0.2], [0.2 * grown[0] * noise, 0.2 * grown[1] * noise]],
        "learned": [[0.0, 0.0], [0.1, 0.1], [0.2, 0.1]],
        "signed": [[0.0, 0.0], [0.1, 0.1], [0.2, 0.1]],
        "active": [[0.5, 0.5], [0.7, 0.3], [0.9, 0.1]],
        "margins": [2.0, 0.5],
        "offset": [0.01, 0.3, 0.1],
        "temperature": [0.0, 0.2, 0.5],
        **more,
    }


STORY = {
    "hinge-sgd-frozen-relu": {"hinge": (0.01, 0.8), "grown": (2.3, 1.8)},
    "hinge-sgd-frozen-relu-zero": {"hinge": (0.01, 0.01)},
    "hinge-sgd-frozen-identity": {"hinge": (0.01, 0.01), "grown": (2.0, 0.8)},
}
SEEDS = 5


def rows(**changed):
    """Rows as a run writes them; `changed` replaces numbers of an arm, whose name has _ in place of -."""
    made = []
    for arm, numbers in STORY.items():
        options = numbers | changed.get(arm.replace("-", "_"), {})
        made += [row("arms", arm, seed, **options) for seed in range(SEEDS)]
    for arm, risk in (("decay 0.001", 0.8), ("decay 0.1", 0.7), ("logistic", 0.9), ("lff", 0.85)):
        made += [row("remedies", arm, seed, hinge=(0.1, risk)) for seed in range(SEEDS)]
    for arm in ("1", "16"):
        made += [row("scales", arm, seed, distance=[0.3, 0.02, 0.1]) for seed in range(SEEDS)]
    features = {"strengths": [4.0, 2.0, 1.0], "responses": [-1.0, 0.5, 0.1], "kept": [2.0, 0.6]}
    features |= {"margins": [[1.0, 0.9, 0.1], [0.5, 0.1, 0.0]], "correlations": [[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]]}
    made += [
        {"part": "kernel", "arm": "hinge-sgd-frozen-relu", "seed": seed, "hinge": [0.1, 0.4], "logistic": [0.1, 0.4]}
        | {"accuracy": [1.0, 0.9 + 0.01 * seed], "converged": True, **features}
        for seed in range(SEEDS)
    ]
    errors = changed.get("phase", {"16": 0.01, "64": 0.1})
    made += [
        row("phase", count, seed, accuracy=(1.0, 1 - error * mean), mean=mean)
        for count, error in errors.items()
        for mean in (0.0, 0.5)
        for seed in range(SEEDS)
    ]
    return made


def signatures(made):
    return {entry["name"]: entry for entry in _rows.judged(_contamination_report.report(made).signatures)}


def test_all_signatures_hold_in_the_published_story():
    found = signatures(rows())
    assert len(found) == 8
    assert all(entry["holds"] for entry in found.values())


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        ({"hinge_sgd_frozen_relu": {"hinge": (0.01, 0.4)}}, "ReLU: hinge loss out of distribution"),
        ({"hinge_sgd_frozen_relu": {"hinge": (0.2, 0.8)}}, "ReLU: hinge loss in distribution"),
        ({"hinge_sgd_frozen_relu": {"grown": (1.2, 1.8)}}, "ReLU: core projection, relative to initial"),
        ({"hinge_sgd_frozen_relu": {"grown": (2.0, 1.2)}}, "ReLU: background projection, relative to initial"),
        ({"hinge_sgd_frozen_identity": {"hinge": (0.0, 0.1)}}, "linear: hinge loss out of distribution"),
        ({"hinge_sgd_frozen_identity": {"grown": (2.0, 1.7)}}, "linear: background projection, relative to initial"),
        (
            {"hinge_sgd_frozen_relu_zero": {"hinge": (0.01, 0.06)}},
            "ReLU, background of mean zero: hinge loss out of distribution",
        ),
        ({"phase": {"16": 0.1, "64": 0.05}}, "error out of distribution, 64 minus 16 background features"),
    ],
)
def test_each_signature_fails_if_its_number_is_wrong(changed, failing):
    found = signatures(rows(**changed))
    assert [name for name, entry in found.items() if not entry["holds"]] == [failing]


def test_rows_of_the_summary():
    lines = {line["name"]: line["measured"] for line in _contamination_report.report(rows()).rows}
    assert lines["hinge-sgd-frozen-relu: mean margin out of distribution / in distribution"] == 0.25
    stopped = "hinge loss out of distribution, stopped at the least one in distribution"
    assert lines[f"hinge-sgd-frozen-relu: {stopped}"] == lines["hinge-sgd-frozen-relu: hinge loss out of distribution"]
    least = lines["hinge-sgd-frozen-relu: hinge loss out of distribution, least over training"]
    assert least == pytest.approx(0.72)
    assert "remedies, decay 0.1 minus decay 0.001: hinge loss out of distribution" in lines
    change = lines["remedies, lff minus logistic: hinge loss out of distribution"]
    assert change == pytest.approx(-0.05, abs=0.02)
    assert lines["scale 16: relative change of the kernel"] == 0.3
    assert lines["kernel at initialisation, feature 1: size of the response"] == 1
    assert lines["kernel at initialisation: mean margin out of distribution / in distribution"] == 0.3
    assert lines["64 background features of mean 0.5: error out of distribution"] == pytest.approx(0.05, abs=0.02)


def test_an_equilibrium_that_has_not_converged_is_marked():
    made = rows()
    kernels = [one for one in made if one["part"] == "kernel"]
    for lost, note in ((0, None), (2, f"2 of {SEEDS} equilibria have not converged")):
        for one in kernels[:lost]:
            one["converged"] = False
        lines = [line for line in _contamination_report.report(made).rows if line["name"].startswith("kernel at")]
        assert {line["differs"] for line in lines} == {note}


def test_figures_show_the_rows(figures, tmp_path):
    made = rows()
    for name, draw in _contamination_report.report(made).figures.items():
        draw(tmp_path / name)
    assert set(figures) == {"courses.png", "phase.png", "lazy.png", "kernel.png", "remedies.png"}
    risks = figures["courses.png"].axes[0]
    labels = {line.get_label(): line for line in risks.lines}
    relu = [one for one in made if one["arm"] == "hinge-sgd-frozen-relu" and one["part"] == "arms"]
    expected = np.mean([one["hinge"] for one in relu], axis=0)[:, 1]
    np.testing.assert_allclose(labels["ReLU: out of distribution"].get_ydata(), expected)
    errors = figures["phase.png"].axes[0]
    assert errors.get_ylabel() == "background features"
    many = [one for one in made if one["part"] == "phase" and one["arm"] == "64" and one["mean"] == 0.5]
    written = [text.get_text() for text in errors.texts]
    assert written[-1] == f"{np.mean([1 - one['accuracy'][-1][1] for one in many]):.2g}"


def test_presets_and_arms():
    for config in feature_contamination.PRESETS.values():
        feature_contamination.check(config)
    assert len(set(feature_contamination.FACTORIAL)) == 41
    paper = feature_contamination.PRESETS["laptop"]
    arm = feature_contamination.arm("logistic-adamw-trained-tanh", paper)
    assert program.NAMES[arm.activation], program.OPTIMIZERS[arm.optimizer] == ("tanh", "adamw")
    assert (arm.hinge, arm.trained, arm.mean, arm.scale) == (False, True, 0.5, 1.0)
    assert feature_contamination.arm("hinge-sgd-frozen-relu-zero", paper).mean == 0
    assert feature_contamination.sizes(paper, paper.steps).record[:2] == (0, 1000)  # the published evaluations


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"arms": ("hinge-sgd-frozen-erf",)}, "arms: expected names such as hinge-sgd-frozen-relu"),
        ({"n": 101}, "n: expected an even number"),
        ({"width": 15}, "width: expected an even number"),
        ({"background": 13}, "background: expected at most dimension - core = 12"),
        ({"counts": (2, 13)}, "counts: expected at most dimension - core = 12"),
        ({"counts": (4, 2)}, "counts: expected increasing numbers"),
        ({"counts": (4,)}, "counts: expected none or at least two"),
        ({"scales": (2.0, 1.0)}, "scales: expected increasing numbers"),
        ({"steps": 205}, "steps: expected a multiple of 10"),
        ({"records": 22}, "records: expected at most"),
        ({"kernel": 101}, "kernel: expected at most n = 100"),
    ],
)
def test_numbers_that_do_not_fit_together(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        feature_contamination.check(dataclasses.replace(SMOKE, **change))


def test_smoke_run_interrupted_and_finished(tmp_path, interrupt_after, figures):
    """The run is stopped after one arm and finished; rows, signatures and figures."""
    cells = interrupt_after(1)
    arms = ["hinge-sgd-frozen-relu", "hinge-sgd-frozen-identity"]
    command = ["feature_contamination", "--preset", "smoke", "--out", str(tmp_path), "--arms", *arms]
    command += ["--counts", "--scales", "--decays", "--sd", "--no-lff"]
    assert main(command) == 130
    assert main(command) == 0
    assert [cell["arm"] for cell in cells] == arms
    made = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(one["arm"], one["seed"]) for one in made] == [(arm, seed) for arm in arms for seed in range(SMOKE.main)]
    for one in made:
        assert all(fits(one[name], kind) for name, kind in feature_contamination.COURSE.items())
        assert one["steps"] == [0, 100, 200]
        assert one["offset"][0] <= one["hinge"][-1][0] + 1e-6
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert "linear: hinge loss out of distribution" in [entry["name"] for entry in summary["signatures"]]
    assert set(figures) == {"courses.png"}


@pytest.mark.slow
def test_every_part_runs(tmp_path, figures):
    assert main(["feature_contamination", "--preset", "smoke", "--out", str(tmp_path)]) == 0
    assert set(figures) == {"courses.png", "phase.png", "lazy.png", "kernel.png", "remedies.png"}
