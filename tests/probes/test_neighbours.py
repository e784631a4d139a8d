"""Nearest neighbours: against sorted distances in NumPy and against scikit-learn, rules of ties, and precision."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from gsjax.probes import _search
from gsjax.probes.neighbours import NO_VOTE, knn

metrics: Any = pytest.mark.parametrize("metric", ["l1", "l2"])


def distances(bank, queries, metric):
    """Distances in float64, one query at a time."""
    bank, queries = np.asarray(bank, float), np.asarray(queries, float)
    power = {"l1": 1, "l2": 2}[metric]
    return np.array([(np.abs(bank - query) ** power).sum(axis=1) for query in queries])


def sorted_votes(bank, labels, queries, k, metric):
    """The rule in words: sort by distance and index, count the first k, and break ties by the nearest."""
    votes = []
    for row in distances(bank, queries, metric):
        nearest = [int(labels[i]) for i in sorted(range(len(row)), key=lambda i: (row[i], i))[:k]]
        counts = Counter(nearest)
        votes.append(next(label for label in nearest if counts[label] == max(counts.values())))
    return votes


def drawn(seed, m, n, d, classes, *, whole=False):
    rng = np.random.default_rng(seed)
    draw = (lambda shape: rng.integers(0, 3, shape).astype(float)) if whole else (lambda shape: rng.normal(size=shape))
    labels = rng.permutation(np.arange(m) % classes)
    return draw((m, d)), labels, draw((n, d))


@metrics
@pytest.mark.parametrize(("d", "k"), [(1, 1), (3, 8), (17, 29), (40, 60)])
def test_votes_are_those_of_sorted_distances(x64, metric, d, k):
    """Whole numbers have exact distances, so that there are many ties of distances and of votes."""
    bank, labels, queries = drawn(d, 60, 270, d, 4, whole=True)
    expected = sorted_votes(bank, labels, queries, k, metric)
    assert knn(bank.astype(x64), labels, queries.astype(x64), k, 4, metric=metric).tolist() == expected


@metrics
def test_votes_are_those_of_scikit_learn_where_no_votes_tie(x64, metric):
    bank, labels, queries = drawn(0, 200, 300, 12, 3)
    bank[:, 0], queries[:, 0] = bank[:, 0] + 2 * labels, 2 * queries[:, 0] + 2  # something to learn
    model = KNeighborsClassifier(29, metric={"l1": "manhattan", "l2": "euclidean"}[metric], algorithm="brute")
    shares = model.fit(bank, labels).predict_proba(queries)
    clear = np.sort(shares, axis=1)[:, -1] > np.sort(shares, axis=1)[:, -2]
    assert clear.mean() > 0.9
    votes = np.asarray(knn(bank.astype(x64), labels, queries.astype(x64), 29, 3, metric=metric))
    np.testing.assert_array_equal(votes[clear], model.predict(queries)[clear])


@metrics
def test_rules_of_ties(metric):
    bank = jnp.array([[1.0], [-1.0], [2.0], [-3.0], [3.0]])
    origin = jnp.zeros((1, 1))

    def vote(labels, k):
        return knn(bank, jnp.array(labels), origin, k, metric=metric).item()

    assert vote([1, 0, 0, 1, 1], 1) == 1  # two are equally near: the first of the bank
    assert vote([0, 1, 1, 0, 0], 1) == 0
    assert vote([2, 0, 0, 2, 1], 4) == 2  # two votes each: the class of the nearest
    assert vote([2, 0, 1, 1, 0], 5) == 0  # 0 and 1 have two votes each: the nearer of their nearest
    assert vote([0, 0, 0, 1, 1], 5) == 0  # the majority, not the nearest alone
    assert vote([1, 0, 0, 0, 1], 3) == 0
    assert vote([1, 1, 0, 0, 1], 4) == 1  # the third and fourth are not counted twice


@metrics
def test_labels_of_two_classes_and_their_indices_give_the_same_votes(metric):
    bank, labels, queries = drawn(1, 50, 40, 5, 2)
    indices = knn(bank, labels, queries, 10, metric=metric)
    signs = knn(bank, 2.0 * labels - 1, queries, 10, metric=metric)
    assert signs.dtype == indices.dtype == jnp.int32
    np.testing.assert_array_equal(signs, 2 * indices - 1)


@metrics
def test_order_units_and_axes_do_not_matter(metric):
    bank, labels, queries = drawn(2, 80, 100, 12, 3)
    votes = np.asarray(knn(bank, labels, queries, 9, metric=metric))
    assert len(set(votes.tolist())) == 3
    find = functools.partial(knn, k=9, metric=metric)
    rng = np.random.default_rng(3)
    rows, mixed, columns = rng.permutation(80), rng.permutation(100), rng.permutation(12)
    np.testing.assert_array_equal(find(bank[rows], labels[rows], queries), votes)
    np.testing.assert_array_equal(find(bank, labels, queries[mixed]), votes[mixed])
    np.testing.assert_array_equal(find(bank[:, columns], labels, queries[:, columns]), votes)
    for scale in (2.0**-20, 1000.0):
        np.testing.assert_array_equal(find(scale * bank, labels, scale * queries), votes)
    np.testing.assert_array_equal(find(bank + 3, labels, queries + 3), votes)
    images = find(bank.reshape(80, 2, 3, 2), labels, queries.reshape(100, 2, 3, 2))
    np.testing.assert_array_equal(images, votes)
    np.testing.assert_array_equal(np.concatenate([find(bank, labels, query[None]) for query in queries[:5]]), votes[:5])


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("seed", range(3))
def test_nearly_equal_points_have_their_exact_neighbours(seed, spread):
    """Clusters far from their mean: the square of a difference is lost in |a|^2 - 2 a.b + |b|^2, in float32.

    Each example of the bank is a class, so the vote of one neighbour names it.
    """
    rng = np.random.default_rng(seed)
    centres = 10 * rng.normal(size=(4, 20))

    def points(n):
        return (centres[rng.integers(0, 4, n)] + spread * rng.normal(size=(n, 20))).astype(np.float32)

    bank, queries = points(150), points(100)
    exact = distances(bank, queries, "l2")
    nearest, second = np.sort(exact, axis=1)[:, :2].T
    clear = second > nearest * (1 + 1e-5)  # not equal up to the rounding of a sum of 20 squares
    assert clear.mean() > 0.95
    found = np.asarray(knn(bank, np.arange(150), queries, 1, metric="l2"))
    np.testing.assert_array_equal(found[clear], exact.argmin(axis=1)[clear])
    a, b = queries - bank.mean(axis=0), bank - bank.mean(axis=0)
    products = (a**2).sum(axis=1)[:, None] - 2 * a @ b.T + (b**2).sum(axis=1)
    assert (products.argmin(axis=1) != exact.argmin(axis=1))[clear].any() == (spread < 1)


def test_the_certificate_holds_for_most_and_the_products_alone_do_for_them(monkeypatch):
    """For spread-out points no block takes all sums, so that the selection of candidates is what is tested."""
    bank, labels, queries = drawn(4, 300, 200, 64, 5)
    bank, queries = bank.astype(np.float32), queries.astype(np.float32)
    expected = sorted_votes(bank, labels, queries, 11, "l2")
    sums = _search._sums
    monkeypatch.setattr(_search, "_sums", lambda bank, size: lambda q: 0 * sums(bank, size)(q))  # all equally near
    votes = jax.jit(functools.partial(_search._votes, k=11, metric="l2"))
    assert votes(jnp.asarray(bank), jnp.asarray(labels), jnp.asarray(queries)).tolist() == expected


@metrics
def test_compiled_mapped_and_in_double_precision(metric):
    bank, labels, queries = drawn(5, 70, 60, 6, 3)
    banks, more = np.stack([bank, bank[::-1] + 0.1]), np.stack([queries, queries + 0.2])
    find = functools.partial(knn, k=7, metric=metric)
    expected = [find(bank, labels, queries).tolist() for bank, queries in zip(banks, more, strict=True)]
    mapped = jax.jit(jax.vmap(lambda bank, queries: find(bank, labels, queries)))
    assert mapped(banks, more).tolist() == expected
    assert jax.jit(find)(bank, labels, queries).tolist() == expected[0]
    halves = bank.astype(np.float16), queries.astype(np.float16)
    exact = sorted_votes(halves[0], labels, halves[1], 7, metric)
    assert find(halves[0], labels, halves[1]).tolist() == exact
    with jax.enable_x64(True):
        assert find(bank, labels, queries).tolist() == sorted_votes(bank, labels, queries, 7, metric)


@metrics
def test_without_finite_distances_there_is_no_vote(metric):
    bank, labels, queries = drawn(6, 40, 5, 4, 2)
    find = jax.jit(functools.partial(knn, k=3, metric=metric))
    votes = find(bank, labels, queries).tolist()
    queries[1, 2], queries[3, 0] = np.nan, np.inf
    assert find(bank, labels, queries).tolist() == [votes[0], NO_VOTE, votes[2], NO_VOTE, votes[4]]
    bank[0, 0] = np.nan
    assert set(find(bank, labels, queries).tolist()) == {NO_VOTE}


BANK, LABELS, QUERIES = np.ones((6, 2)), np.arange(6) % 3, np.ones((4, 2))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"k": 7}, "k: expected a whole number from 1 to 6, got 7"),
        ({"k": 0}, "k: expected a whole number from 1 to 6, got 0"),
        ({"labels": np.ones(6, int)}, "labels: expected examples of at least two classes, got class 1 alone"),
        ({"labels": np.ones(6)}, r"labels: expected examples of both classes, got 1.0 alone"),
        ({"labels": -np.ones(6, int), "classes": 2}, r"labels: expected examples of both classes, got -1 alone"),
        ({"classes": 4}, "labels: expected examples of each of the 4 classes, got none of class 3"),
        ({"labels": np.array([0, 3] * 3), "classes": 5}, "labels: .* got none of class 1, 2, 4"),
        ({"classes": 2}, r"labels: expected labels -1 and \+1, or class indices .* from 0 to 1, got \[0, 2\]"),
        ({"labels": LABELS - 1}, r"labels: expected labels -1 and \+1, or class indices"),
        ({"labels": LABELS - 1, "classes": 3}, r"labels: expected class indices of an integer type, from 0 to 2, got"),
        ({"labels": LABELS.astype(float), "classes": 3}, "labels: expected class indices of an integer type"),
        ({"labels": np.array([0.5, -1] * 3)}, "labels: expected labels"),
        ({"labels": LABELS[:5]}, r"labels: expected shape \(6,\), one label per example, got shape \(5,\)"),
        ({"labels": LABELS[:, None]}, r"labels: expected shape \(6,\)"),
        ({"labels": ["a"] * 6}, "labels: expected labels"),
        ({"classes": 1}, "classes: expected a whole number of at least 2, got 1"),
        ({"bank": np.ones((0, 2)), "labels": []}, "bank: expected a non-empty array"),
        ({"bank": np.ones(6)}, "bank: expected a non-empty array"),
        ({"bank": BANK * np.nan}, "bank: expected finite numbers, got 12 NaN"),
        ({"queries": np.ones((0, 2))}, "queries: expected a non-empty array"),
        ({"queries": QUERIES * np.inf}, "queries: expected finite numbers"),
        ({"queries": np.ones((4, 3))}, "queries: expected 2 entries per example, as in the bank, got 3"),
        ({"metric": "cosine"}, "metric: expected one of l1, l2, got 'cosine'"),
    ],
)
def test_bad_input(change, complaint):
    given = {"bank": BANK, "labels": LABELS, "queries": QUERIES, "k": 3}
    with pytest.raises(ValueError, match=f"^{complaint}"):
        knn(**{**given, **change})
