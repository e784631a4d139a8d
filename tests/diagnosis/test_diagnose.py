"""A diagnosis agrees with the functions that it calls, in every framework, and refuses bad arguments by name."""

# pyright: reportArgumentType=false
# Bad input is of any type.

# pyright: reportOptionalMemberAccess=false, reportCallIssue=false, reportArgumentType=false
from __future__ import annotations

import dataclasses
import html.parser
import json
import re

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gsjax
from gsjax import Ridge, SpectralDecoupling, diagnose, dual, features, multiclass, starvation, tangent, training
from tests.diagnosis.problem import INPUTS, WIDTH, N, centred, network, problem

RIDGE = Ridge(1.0)


@pytest.fixture(scope="module")
def report():
    """Everything that a report can have."""
    with jax.enable_x64(True):
        params, x, y, group = problem()
        apply_fn = centred(params)
        trained = jax.jit(lambda params: training.fit(apply_fn, params, x, y, RIDGE, max_steps=300))(params).params
        inputs = np.tile(x[:, :, None], (1, 1, 4))
        found = diagnose(
            apply_fn, params, x, y, penalty=RIDGE, top=6, trained_params=trained, group=group, inputs=inputs
        )
        yield found


def aligned(first, second):
    """The second array with the signs of the first, column by column."""
    return second * np.sign(np.sum(first * second, axis=0))


def test_numbers_are_those_of_the_library(x64):
    params, x, y, _ = problem(dtype=x64)
    found = diagnose(network, params, x, y, penalty=RIDGE, top=5)
    feats = features.from_ntk(tangent.ntk(network, params, x), y)
    optimum = dual.equilibrium(feats, RIDGE)
    tolerance = 1e-9 if x64 == jnp.float64 else 2e-3
    assert found.dtype == jnp.dtype(x64).name
    assert found.rank == feats.rank
    np.testing.assert_allclose(found.s, feats.s[:5], rtol=tolerance)
    np.testing.assert_allclose(found.strengths, feats.s2[:5], rtol=tolerance)
    np.testing.assert_allclose(found.response, np.abs(optimum.response[:5]), rtol=tolerance)
    slopes = np.asarray(starvation.matrix(feats, RIDGE))[:5, :5]
    np.testing.assert_allclose(found.starvation, slopes, rtol=tolerance, atol=tolerance * np.abs(slopes).max())
    assert (found.response >= 0).all()
    np.testing.assert_allclose(found.confidence, 1 - np.mean(optimum.alpha), rtol=tolerance)
    np.testing.assert_allclose(found.size, np.linalg.norm(optimum.margins), rtol=tolerance)
    np.testing.assert_allclose(found.start, np.linalg.norm(network(params, x)) / found.size, rtol=10 * tolerance)
    np.testing.assert_allclose(found.share, feats.s2[:5] / feats.s2.sum(), rtol=tolerance)
    np.testing.assert_allclose(aligned(feats.u[:, :5], found.weights[:, 0]), feats.u[:, :5], atol=20 * tolerance)
    assert found.path == "exact"
    assert found.labels == {-1: N // 2, 1: N // 2}
    assert bool(found.status.converged)


def test_weights_have_the_signs_of_positive_responses(report):
    with jax.enable_x64(True):
        params, x, y, _ = problem()
        optimum = dual.equilibrium(features.from_ntk(tangent.ntk(network, params, x), y), RIDGE)
    np.testing.assert_allclose(report.weights[:, 0].T @ optimum.margins, report.response, rtol=1e-9)


def test_classes_are_those_of_multiclass():
    with jax.enable_x64(True):
        params, x, y, group = problem(classes=3)
        found = diagnose(network, params, x, y, penalty=RIDGE, top=4, group=group, trained_params=params)
        feats = multiclass.from_ntk(tangent.ntk(network, params, x), y)
        optimum = multiclass.equilibrium(feats, RIDGE)
        slopes = multiclass.starvation_matrix(feats, RIDGE)
    np.testing.assert_allclose(found.s, feats.s[:4], rtol=1e-9)
    np.testing.assert_allclose(found.response, np.abs(optimum.response[:4]), rtol=1e-9)
    np.testing.assert_allclose(found.starvation, slopes[:4, :4], rtol=1e-8, atol=1e-12)
    right = np.asarray(jax.nn.softmax(optimum.logits))[np.arange(N), y]
    assert found.classes == 3
    np.testing.assert_allclose(found.confidence, right.mean(), rtol=1e-9)
    assert found.trained is not None
    assert found.trained.accuracy_start == np.mean(np.argmax(network(params, x), axis=1) == y)
    assert found.trained.accuracy_predicted == np.mean(
        np.argmax(network(params, x) + np.asarray(optimum.logits), axis=1) == y
    )
    assert "3 classes" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_two_classes_with_opposite_logits_are_the_binary_task():
    """Logits (-f/2, f/2) have features with half the strength of f, and the same responses up to sqrt(2)."""
    with jax.enable_x64(True):
        params, x, y, _ = problem()

        def two(params, x):
            return jnp.stack([-network(params, x), network(params, x)], axis=1) / 2

        one = diagnose(network, params, x, y, penalty=RIDGE, top=4)
        other = diagnose(two, params, x, (y + 1) // 2, penalty=RIDGE, top=4)
    np.testing.assert_allclose(other.strengths, one.strengths / 2, rtol=1e-9)
    np.testing.assert_allclose(other.response, one.response / np.sqrt(2), rtol=1e-8)
    np.testing.assert_allclose(other.confidence, one.confidence, rtol=1e-9)
    np.testing.assert_allclose(
        [pair.elasticity for pair in other.pairs], [pair.elasticity for pair in one.pairs], rtol=1e-7
    )
    for first, second in zip(one.pairs, other.pairs, strict=True):
        assert (first.starver, first.starved) == (second.starver, second.starved)
        np.testing.assert_array_equal(first.rows, second.rows)
        np.testing.assert_allclose(first.share, second.share, rtol=1e-7)
    np.testing.assert_array_equal(np.sign(one.examples.weight), np.sign(other.examples.weight))
    assert one.decoupling is not None
    assert other.decoupling is not None
    np.testing.assert_allclose(other.decoupling.ratio, one.decoupling.ratio, rtol=1e-7)


def test_parameters_in_float32_beside_64_bit_types():
    """The kernel has the precision of the parameters; float32 cuts off its rank, and the match is still found."""
    with jax.enable_x64(True):
        params, x, y, group = problem()
        x = x * [1.0, 1e-3, 1e-3, 1e-3]
        single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        moved = jax.tree.map(lambda leaf: 1.01 * leaf, single)
        found = diagnose(network, single, x, y, penalty=RIDGE, top=3, group=group, trained_params=moved)
        expected = diagnose(network, params, x, y, penalty=RIDGE, top=3, group=group)
    assert found.dtype == "float32"
    assert found.rank is not None
    assert found.rank < N
    assert "precision" in {caution.code for caution in found.cautions}
    np.testing.assert_allclose(found.strengths[0], expected.strengths[0], rtol=1e-4)
    np.testing.assert_allclose(found.response[0], expected.response[0], rtol=1e-4)
    assert found.decoupling is not None
    assert not found.decoupling.assumed


def test_features_and_top():
    with jax.enable_x64(True):
        params, x, y, _ = problem()
        small = diagnose(network, params, x, y, penalty=RIDGE, top=3)
        large = diagnose(network, params, x, y, penalty=RIDGE, top=10 * N)
    assert len(large.s) == N
    np.testing.assert_array_equal(large.s[:3], small.s)
    np.testing.assert_array_equal(large.starvation[:3, :3], small.starvation)
    np.testing.assert_allclose(large.share.sum(), 1)


def test_repeated_calls_agree(report):
    with jax.enable_x64(True):
        params, x, y, group = problem()
        again = diagnose(centred(params), params, x, y, penalty=RIDGE, top=6, group=group)
    first, second = report.to_dict(), again.to_dict()
    for name in ("s", "response", "starvation", "stability", "alignment", "verdict", "pairs"):
        assert first[name] == second[name], name


def test_no_starvation_under_spectral_decoupling():
    with jax.enable_x64(True):
        params, x, y, group = problem()
        found = diagnose(network, params, x, y, penalty=SpectralDecoupling(0.1), top=4, group=group)
    assert not found.starvation.any()
    assert found.pairs == ()
    assert found.starving == 0
    assert found.verdict is not None
    assert found.verdict.code == "no starvation"
    assert "None of the 12 ordered pairs" in str(found)
    assert "starvation" not in found.plot()


# ---- frameworks


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, use_bias=False)(jnp.tanh(nn.Dense(WIDTH, use_bias=False)(x)))[:, 0]


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(INPUTS, WIDTH, use_bias=False, rngs=rngs)
        self.last = nnx.Linear(WIDTH, 1, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))[:, 0]


def in_linen(params):
    scaled = params["last"][:, None] / np.sqrt(WIDTH)
    return Linen().apply, {"params": {"Dense_1": {"kernel": params["first"]}, "Dense_0": {"kernel": scaled}}}


def in_nnx(params):
    graph, state, rest = nnx.split(Nnx(nnx.Rngs(0)), nnx.Param, ...)
    scaled = params["last"][:, None] / np.sqrt(WIDTH)
    nnx.replace_by_pure_dict(state, {"first": {"kernel": params["first"]}, "last": {"kernel": scaled}})
    return lambda state, x: nnx.merge(graph, state, rest)(x), state


def in_equinox(params):
    model = eqx.nn.MLP(
        INPUTS, "scalar", WIDTH, 1, jnp.tanh, use_bias=False, use_final_bias=False, key=jax.random.key(0)
    )
    where = lambda model: [layer.weight for layer in model.layers]  # noqa: E731
    model = eqx.tree_at(where, model, [params["first"].T, params["last"][None] / np.sqrt(WIDTH)])
    state, static = eqx.partition(model, eqx.is_inexact_array)
    return lambda state, x: jax.vmap(eqx.combine(state, static))(x), state


@pytest.mark.parametrize("framework", [in_linen, in_nnx, in_equinox])
def test_frameworks_agree(framework):
    with jax.enable_x64(True):
        params, x, y, group = problem()
        apply_fn, state = framework(params)
        moved = jax.tree.map(lambda leaf: 1.01 * leaf, state)

        def plain(params, x):
            return jnp.tanh(x @ params["first"]) @ params["last"]

        scaled = {"first": params["first"], "last": params["last"] / np.sqrt(WIDTH)}
        expected = diagnose(
            plain,
            scaled,
            x,
            y,
            penalty=RIDGE,
            group=group,
            trained_params=jax.tree.map(lambda leaf: 1.01 * leaf, scaled),
        ).to_dict()
        found = diagnose(apply_fn, state, x, y, penalty=RIDGE, group=group, trained_params=moved).to_dict()
    for name in ("strengths", "response", "starvation", "toll"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-7, atol=1e-10)
    for name in ("error", "gradient", "accuracy"):
        np.testing.assert_allclose(found["trained"][name], expected["trained"][name], rtol=1e-7)
    for name in ("relative", "cosine", "turned"):
        np.testing.assert_allclose(found["trained"]["kernel"][name], expected["trained"]["kernel"][name], rtol=1e-6)
    assert [caution["code"] for caution in found["cautions"]] == [caution["code"] for caution in expected["cautions"]]


# ---- text, plain data, figures, page


def test_the_table_fits_and_says_everything(report):
    shown = str(report)
    assert max(map(len, shown.splitlines())) <= 100
    assert all(line == line.rstrip() for line in shown.splitlines())
    for heading in ("feature", "elasticity", "The trained network", "What not to conclude", "What was done"):
        assert heading in shown
    words = re.sub(r"\s+", " ", shown)
    for text in (*(caution.text for caution in report.cautions), report.verdict.text, *report.notes):
        assert text in words
    header = next(line for line in shown.splitlines() if line.startswith("feature "))
    rows = shown.splitlines()[shown.splitlines().index(header) + 1 :][: len(report.s)]
    assert [int(row.split()[0]) for row in rows] == list(range(1, len(report.s) + 1))
    assert [float(row.split()[1]) for row in rows] == [float(f"{value:.3g}") for value in report.strengths]


def test_a_wide_table_continues_below(report):
    """Every column is shown whole, for numbers of any width."""
    wide = dataclasses.replace(
        report, s=report.s * 1.23456e-7, toll=report.toll * 1.234e-9, response=report.response * 1.2e-8
    )
    lines = str(wide).splitlines()
    assert max(map(len, lines)) <= 100
    headers = [line.split() for line in lines if line.lstrip().startswith("feature ")]
    assert len(headers) >= 2
    for name in ("s^2", "ratio", "takes", "group", "label", "trained", "stable"):
        assert any(name in header for header in headers), name


def test_plain_data_is_json_without_nan(report):
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    np.testing.assert_array_equal(data["strengths"], report.strengths)
    np.testing.assert_array_equal(data["starvation"], report.starvation)
    assert data["penalty"] == {"kind": "Ridge", "strength": 1.0}
    assert data["rank"] == report.rank
    assert data["stability"]["agreement"][0][0] is None
    assert data["pairs"][0]["starver"] == report.pairs[0].starver
    assert [caution["code"] for caution in data["cautions"]] == [caution.code for caution in report.cautions]
    assert {"weights", "pictures"}.isdisjoint(data)


def test_figures_are_drawn(report):
    found = report.plot()
    assert set(found) == {"responses", "starvation", "examples", "pairs", "alignment", "trained"}
    assert all(isinstance(figure, gsjax.plotting.Figure) for figure in found.values())
    without = dataclasses.replace(report, pictures={}, alignment=None, verdict=None, trained=None)
    assert set(without.plot()) == {"responses", "starvation"}


class Parsed(html.parser.HTMLParser):
    """The tags of a page, its images, and whether all tags are closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.images, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        elif tag not in ("br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_self_contained(report, tmp_path):
    report.to_html(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    parsed = Parsed(text)
    assert not parsed.open
    assert len(parsed.images) == len(report.plot())
    assert all(len(image["alt"]) > 40 and image["src"].startswith("data:image/png;base64,") for image in parsed.images)
    assert not {"script", "link", "iframe"} & set(parsed.tags)
    for caution in report.cautions:
        assert html.escape(caution.text, quote=False) in text
    with pytest.raises(OSError, match="absent"):
        report.to_html(tmp_path / "absent" / "report.html")


def test_the_view_of_a_notebook_does_not_leak(report):
    parsed = Parsed(report._repr_html_())
    assert parsed.tags[0] == "div"
    assert not parsed.open
    assert not {"style", "script", "link", "html", "body", "h1", "h2"} & set(parsed.tags)
    assert len(parsed.images) == len(report.plot())
    assert "print it" in repr(report)


# ---- refusals


def refuse(match, **changes):
    params, x, y, _ = problem(dtype=np.float32)
    given = {"apply_fn": network, "params": params, "x": x, "y": y, "penalty": RIDGE, **changes}
    arguments = [given.pop(name) for name in ("apply_fn", "params", "x", "y")]
    with pytest.raises(ValueError, match=match):
        diagnose(*arguments, **given)


def column(params, x):
    return network(params, x)[:, None]


def pair(params, x):
    return jnp.stack([network(params, x)] * 2, axis=1)


ONES = np.ones(N, int)


@pytest.mark.parametrize(
    ("match", "changes"),
    [
        (r"^y: expected shape \(40,\), one label per example of x, got shape \(39,\)", {"y": ONES[:-1]}),
        (r"^y: expected shape \(40,\)", {"y": np.ones((N, 1))}),
        (r"^y: expected labels \(40,\), got str", {"y": "labels"}),
        (r"^y: expected labels -1 and \+1 for .*, got 0 and 1: write 2 \* y - 1", {"y": np.arange(N) % 2}),
        (r"^y: .* got 0 alone: write 2 \* y - 1", {"y": 0 * ONES}),
        (r"^y: expected labels -1 and \+1, got bools: write np.where\(y, 1, -1\)", {"y": ONES > 0}),
        (r"^y: expected labels -1 and \+1, got \[2", {"y": 2 * ONES}),
        (r"^y: expected labels -1 and \+1", {"y": np.full(N, np.nan)}),
        (r"^apply_fn: .*squeeze the output to \(n,\)", {"apply_fn": column}),
        (r"^apply_fn: .*squeeze the output to \(n,\)", {"apply_fn": column, "y": ONES}),
        (r"^apply_fn: .*two logits become one output by their difference", {"apply_fn": pair}),
        (r"^y: expected class indices, .* in 0\.\.1.* got -1\.\.", {"apply_fn": pair, "y": np.arange(N) % 3 - 1}),
        (r"^y: expected class indices.* got float64: write y.astype\(int\)", {"apply_fn": pair, "y": ONES / 1}),
        (r"^y: expected class indices.* got 0\.\.2", {"apply_fn": pair, "y": np.arange(N) % 3}),
        (r"^apply_fn: expected finite outputs", {"apply_fn": lambda params, x: network(params, x) / 0}),
        (r"^apply_fn: expected outputs that depend on params", {"apply_fn": lambda params, x: 0 * network(params, x)}),
        (r"^x: expected ", {"x": np.full((N, INPUTS), np.nan)}),
        (r"^x: expected ", {"x": "x"}),
        (r"^params: expected ", {"params": {}}),
        (r"^penalty: expected Ridge\(strength\) or SpectralDecoupling\(strength\), got float", {"penalty": 0.1}),
        (r"^penalty: expected Ridge", {"penalty": (RIDGE, RIDGE)}),
        (r"^penalty.strength: expected a scalar", {"penalty": Ridge(jnp.ones(N))}),
        (r"^penalty.strength: expected a scalar or shape \(40,\)", {"penalty": SpectralDecoupling(jnp.ones(3))}),
        (r"^penalty.target: expected a scalar or shape \(40,\)", {"penalty": SpectralDecoupling(0.1, jnp.ones(3))}),
        (r"^group: expected whole numbers \(40,\).* got int64 of shape \(39,\)", {"group": ONES[:-1]}),
        (r"^group: expected whole numbers", {"group": ONES / 2}),
        (r"^group: .* got <U5 of shape \(40,\): number the groups by np.unique", {"group": np.full(N, "water")}),
        (r"^group: expected whole numbers", {"group": "colour"}),
        (r"^inputs: expected pictures \(40, h, w\).* got shape \(40, 8\)", {"inputs": np.ones((N, 8))}),
        (r"^inputs: expected pictures", {"inputs": np.ones((N, 8, 8, 2))}),
        (r"^inputs: expected pictures", {"inputs": np.ones((N - 1, 8, 8))}),
        (r"^inputs: expected pictures", {"inputs": object()}),
        (r"^inputs: expected finite numbers", {"inputs": np.full((N, 8, 8), np.nan)}),
        (r"^trained_params: expected the structure of params", {"trained_params": {"first": 1.0}}),
        (
            r"^trained_params: expected shape \(4, 64\) at first, got shape \(2, 2\)",
            {"trained_params": {"first": np.ones((2, 2)), "last": np.ones(WIDTH)}},
        ),
        (
            r"^trained_params at last: expected finite numbers",
            {"trained_params": {"first": np.ones((INPUTS, WIDTH)), "last": np.full(WIDTH, np.inf)}},
        ),
        (r"^path: expected one of auto, exact, operator", {"path": "fast"}),
        (r"^top: expected a whole number of at least 1", {"top": 0}),
        (r"^shown: expected ", {"shown": 2.0}),
        (r"^batch_size: expected ", {"batch_size": 0}),
        (r"^max_products: expected ", {"max_products": 0}),
        (r"^seed: expected ", {"seed": -1}),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(match, changes):
    refuse(match, **changes)


def test_pictures_are_those_of_x_or_of_inputs():
    from gsjax.diagnosis.task import find_pictures

    x = jnp.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(find_pictures(None, x), x[..., None])
    np.testing.assert_array_equal(find_pictures(None, x[..., None]), x[..., None])
    assert find_pictures(None, jnp.ones((2, 12))) is None
    assert find_pictures(None, jnp.ones((2, 3, 4, 2))) is None
    inputs = np.ones((2, 5, 5, 3))
    np.testing.assert_array_equal(find_pictures(inputs, x), inputs)
