"""On data whose spurious feature is known by construction, the verdict names it; with another attribute it does not."""

# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false
from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import Ridge, data, diagnose, networks
from gsjax.diagnosis.alignment import align
from gsjax.diagnosis.verdict import judge

pytestmark = pytest.mark.slow

LAMBDA = 2.0


def coloured(correlation=0.9):
    found = data.colored(jax.random.key(0), data.digit_images(), correlations=(correlation,), label_noise=0.1, stride=1)
    return found.x[:300], np.asarray(found.y[:300]), np.asarray(found.color[:300])


def dominoes():
    """Real digits above real digits: 0 and 1 are easy (spurious), 3 and 8 hard (core)."""
    images = data.digit_images()
    found = data.dominoes(jax.random.key(0), images, images, n=300, classes=((3, 8), (0, 1)), correlation=0.9)
    return found.x, np.asarray(found.y), np.asarray(found.attribute)


def structured():
    """A background that says nothing about the label, with a large mean: features of it, but no shortcut."""
    found = data.structured.sample(jax.random.key(0), 300, core=4, background=4, dimension=32)
    return found.x, np.asarray(found.y), np.asarray(found.z[:, 4:].mean(axis=1) > 0.5).astype(int)


def diagnosed(x, y, group):
    network = networks.MLP((128,))
    params = network.init(jax.random.key(1), x)
    apply_fn = lambda theta, x: network.apply(theta, x) - network.apply(params, x)  # noqa: E731
    return diagnose(apply_fn, params, x, y, penalty=Ridge(LAMBDA), group=group, top=8)


def correlation_within_labels(report, y, group, feature):
    """Computed apart from the report: the correlation of the feature with the group, both centred for each label."""
    direction, attribute = y * report.weights[:, 0, feature], group.astype(float)
    for label in (-1, 1):
        direction[y == label] -= direction[y == label].mean()
        attribute[y == label] -= attribute[y == label].mean()
    return abs(np.corrcoef(direction, attribute)[0, 1])


@pytest.mark.parametrize(("task", "least"), [(coloured, 0.9), (dominoes, 0.85)])
def test_a_shortcut_is_named(task, least):
    with jax.enable_x64(True):
        x, y, group = task()
        report = diagnosed(x, y, group)
    named = report.verdict.aligned
    assert named is not None
    # A correlation over both labels is a lower bound, since the effect of the attribute may differ between labels.
    correlation = correlation_within_labels(report, y, group, named)
    assert correlation > least
    assert correlation**2 <= report.alignment.group[named] <= 1.05 * correlation**2
    assert np.argmax(report.response) == named, "the network relies on it"
    # Examples whose attribute misleads have negative weight, the others have not.
    misled = (y > 0) != group
    assert np.mean(report.weights[misled, 0, named] < 0) > 0.9
    assert np.mean(report.weights[~misled, 0, named] < 0) < 0.1


def test_the_colour_starves_the_others_under_a_strong_ridge():
    with jax.enable_x64(True):
        x, y, group = coloured()
        report = diagnosed(x, y, group)
    assert report.verdict.code == "aligned"
    assert report.verdict.starver == report.verdict.aligned


def test_a_background_without_a_label_is_a_feature_but_no_shortcut():
    with jax.enable_x64(True):
        x, y, group = structured()
        report = diagnosed(x, y, group)
    assert report.verdict.code == "other"
    assert report.verdict.aligned != np.argmax(report.response)
    assert report.alignment.label[report.verdict.aligned] < report.alignment.group[report.verdict.aligned]


@pytest.mark.parametrize("task", [coloured, dominoes, structured])
def test_a_shuffled_attribute_is_not_named(task):
    """At a level of 5%, over 40 shuffles: 2 on average, and more than 6 in one of 200 cases."""
    with jax.enable_x64(True):
        x, y, group = task()
        report = diagnosed(x, y, group)
    directions = report.weights * y[:, None, None]
    named = 0
    for seed in range(40):
        shuffled = np.random.default_rng(seed).permutation(group)
        found = align(directions, y, shuffled, seed)
        named += judge(report.toll, report.response, found).aligned is not None
    assert named <= 6


def test_a_gray_image_has_no_feature_of_the_colour():
    with jax.enable_x64(True):
        x, y, group = coloured(correlation=0.5)
        report = diagnosed(data.gray(jnp.asarray(x)), y, group)
    assert report.verdict.code == "none"
