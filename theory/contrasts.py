"""Cases with and without starvation: equal strengths, no coupling, squared loss, more than two classes.

All sensitivities are finite differences of directly minimised objectives (`theory/direct.py`).
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from theory import direct, instances
from theory.claim import Claim, Control, Observation

STRENGTH = 0.1


def _planar(delta: float):
    """U of Eq. 15."""
    cosine = np.sqrt(1 - delta**2)
    return np.array([[cosine, -delta], [delta, cosine]])


def _bases(*sizes: int):
    return {f"random U, n = {n}": np.asarray(instances.orthogonal(jax.random.key(n), n)) for n in sizes}


def squared_loss(loss: str = "squared") -> Observation:
    """The largest `|d z_j* / d log s_i^2|`, i != j, in units of |z*|, under ridge."""
    errors = {}
    for name, u in ({"Eq. 15, delta = 0.5": _planar(0.5)} | _bases(3, 12)).items():
        y = np.where(np.arange(len(u)) % 2 > 0, 1.0, -1.0)
        s2 = np.geomspace(9, 0.3, len(u))
        judged = direct.squared(y) if loss == "squared" else direct.logistic(y)
        errors[name] = direct.off_diagonal(direct.elasticities(u, s2, y, judged, ridge=STRENGTH))
    return Observation.equal(0.0, list(errors.values()), 1e-9, details=instances.table(errors))


def absent(spread: float = 1.0, delta: float = 0.0) -> Observation:
    """The same under the logistic loss, with the coupling `delta` and with ratios of strengths up to `spread`."""
    errors = {}
    for strength in (1e-2, 1.0, 100.0):
        for name, u, s2 in (
            (f"delta = {delta:g}", _planar(delta), np.array([9.0, 4.0])),
            *((name, u, np.geomspace(spread, 1, len(u)) * 4) for name, u in (_bases(2, 12)).items()),
            ("Eq. 15, delta = 0.5", _planar(0.5), np.array([spread, 1.0]) * 4),
        ):
            y = np.ones(len(u))
            found = direct.off_diagonal(direct.elasticities(u, s2, y, direct.logistic(y), ridge=strength, step=1e-4))
            errors[f"{name}, lambda = {strength:g}"] = found
    return Observation.equal(0.0, list(errors.values()), 1e-7, details=instances.table(errors))


def _own_class(u, classes: int):
    """`u (n, r)` extended to k classes: an orthonormal `(n k, r)`, and labels.

    Feature j changes the logits of example i by `u_ij` along `e_c - 1/k`, normalised, where c is the example's class.
    """
    labels = np.arange(len(u)) % classes
    direction = np.eye(classes)[labels] - 1 / classes
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return (direction[:, :, None] * u[:, None, :]).reshape(-1, u.shape[1]), labels


def _probability(u, z, labels, classes: int):
    """The probability of each example's own class at responses z."""
    logits = (u @ z).reshape(-1, classes)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True))[np.arange(len(labels)), labels]


def classes_starve(strengths: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 0.3)) -> Observation:
    """The largest oriented `d z_2* / d log s_1^2` in units of |z*|, for the two features of Eq. 15 and k classes."""
    rows = []
    for k in (2, 3, 10):
        for delta in (0.1, 0.5, 0.9):
            for ratio in (1.2, 4.0):
                for strength in strengths:
                    u, labels = _own_class(_planar(delta), k)
                    s2, y, loss = np.array([ratio, 1.0]), np.ones(2 * k), direct.cross_entropy(labels, k)
                    slope = direct.elasticities(u, s2, y, loss, ridge=strength / 4)[1, 0]
                    p = _probability(u, direct.responses(u, s2, y, loss, ridge=strength / 4), labels, k)
                    rows.append({"k": k, "delta": delta, "s1^2 / s2^2": ratio, "lambda / s2^2": strength / 4,
                                 "p of the own class": float(p.min()), "slope": float(slope)})  # fmt: skip
    details = {"smallest p of an own class": min(row["p of the own class"] for row in rows), "instances": rows}
    return Observation.below(0.0, [row["slope"] for row in rows], details=details)


def classes_decoupled(penalised: str = "outputs") -> Observation:
    """The largest off-diagonal sensitivity with k classes and a penalty on the n k outputs, at full rank and below."""
    penalty: dict[str, Any] = {"hold" if penalised == "outputs" else "ridge": STRENGTH}
    errors = {}
    for k, n, r in ((3, 4, 12), (3, 6, 5), (10, 2, 2)):
        u, labels = np.asarray(instances.orthogonal(jax.random.key(k + r), n * k))[:, :r], np.arange(n) % k
        s2, loss = np.geomspace(9, 0.3, r), direct.cross_entropy(labels, k)
        slopes = direct.elasticities(u, s2, np.ones(n * k), loss, **penalty)
        errors[f"k = {k}, {r} features of {n * k} outputs"] = direct.off_diagonal(slopes)
    return Observation.equal(0.0, list(errors.values()), 1e-9, details=instances.table(errors))


CLAIMS = (
    Claim(
        name="squared-loss-no-starvation",
        reference="Section 3: the contrast to Definition 2",
        statement="Under the squared loss nothing starves: z_j* = s_j^2 / (s_j^2 + lambda) u_j.1 does not depend on "
        "the other strengths.",
        check=squared_loss,
        control=Control("logistic", "the logistic loss", {"loss": "logistic"}),
    ),
    Claim(
        name="starvation-absent",
        reference="Definition 2, Theorem 2",
        statement="Under the logistic loss nothing starves without coupling (delta = 0), and for any orthogonal U "
        "nothing starves at equal strengths.",
        check=absent,
        control=Control("both", "delta = 0.1, and strengths up to 10% apart", {"delta": 0.1, "spread": 1.1}),
    ),
    Claim(
        name="multiclass-starves",
        reference="Theorem 2 for softmax cross-entropy",
        statement="With k classes the stronger of two coupled features starves the weaker one, as long as the own "
        "class of every example has a probability above 1/2.",
        check=classes_starve,
        control=Control(
            "strong-ridge",
            "values of lambda at which these probabilities are below 1/2: with more than two classes the stronger "
            "feature feeds the weaker one",
            {"strengths": (10.0, 100.0)},
        ),
    ),
    Claim(
        name="multiclass-sd-no-starvation",
        reference="Eq. 17 for softmax cross-entropy",
        statement="With k classes and spectral decoupling of all outputs nothing starves, at any rank.",
        check=classes_decoupled,
        control=Control("ridge", "ridge of the same strength", {"penalised": "parameters"}),
    ),
)
