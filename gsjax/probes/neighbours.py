"""Exact nearest-neighbour probes: the k examples of a bank that are nearest to each query vote on its class.

They are the classifiers of stages in the prediction depth of Baldock et al. 2021.
"""

from __future__ import annotations

from jaxtyping import Array, Int, Real

from gsjax import _check
from gsjax.probes._banks import bank_labels, examples, flat
from gsjax.probes._search import NO_VOTE, Metric, votes

__all__ = ["NO_VOTE", "Metric", "knn"]


def knn(
    bank: Real[Array, "m ..."],
    labels: Real[Array, " m"],
    queries: Real[Array, "n ..."],
    k: int = 29,
    classes: int | None = None,
    *,
    metric: Metric = "l1",
) -> Int[Array, " n"]:
    """The majority vote of the k nearest examples of a bank, for each query.

    The neighbours are exact up to the rounding of the distances in the dtype of the input (float32 at least). If
    distances are equal, the example with the lower index in the bank is nearer. If several classes have the most votes,
    the one with the nearest example wins.

    Under "l1" all distances are sums of absolute differences. Under "l2" a product of matrices selects candidates,
    whose distances are then sums of squared differences. A bound on the rounding of the product certifies that no other
    example can be among the k nearest. Blocks of queries without this certificate, e.g. among nearly equal points far
    from the mean of the bank, take the sums for the whole bank, which costs as much as "l1".

    Queries pass in blocks, so that memory is a few times that of bank and queries, and some MB. Inputs of the same
    shapes share one compiled program. In float64, XLA sorts all distances, which takes most of the time. The function
    also works under `jit` and `vmap`, where values are not checked: a query gets the vote `NO_VOTE` if one of its
    distances is not finite.

    Args:
        bank: examples, `(m, ...)`; all axes but the first are flattened.
        labels: their labels `(m,)`: -1 and +1, or class indices of an integer type.
        queries: examples `(n, ...)` with as many entries each.
        k: the number of neighbours.
        classes: the number of classes, for checks: each needs an example in the bank. None asks for two classes.
        metric: "l1" or "l2".

    Returns:
        The labels voted for, `(n,)`, as whole numbers.

    Raises:
        ValueError: bank or queries empty, not finite, or with different numbers of entries; labels that do not fit, of
            one class alone, or without an example of one of the `classes`; k below one or larger than the bank.

    >>> knn([[0.0], [1.0], [5.0], [6.0]], [0, 0, 1, 1], [[2.0], [4.0]], k=3).tolist()
    [0, 1]
    """
    bank, queries = flat(examples("bank", bank)), flat(examples("queries", queries))
    d = bank.shape[1]
    _check.require(queries.shape[1] == d, "queries", f"{d} entries per example, as in the bank", queries.shape[1])
    classes = None if classes is None else _check.whole("classes", classes, least=2)
    labels = bank_labels("labels", labels, len(bank), classes)
    k = _check.whole("k", k, least=1, most=len(bank))
    _check.choice("metric", metric, ("l1", "l2"))
    return votes(bank, labels, queries, k=k, metric=metric)
