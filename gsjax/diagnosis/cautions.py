"""What should not be concluded from a diagnosis, in words and as data.

Every check reads the numbers of a finished report. Each threshold is a constant with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from gsjax.diagnosis.report import Diagnosis

__all__ = ["CHECKS", "Caution", "find", "nearly_equal"]

# The library drops features below n eps s_1^2; where the weakest kept one is within this factor of that level, rounding
# has cut off the spectrum, and not the kernel itself. `features.from_ntk` warns at the same level.
_NO_GAP = 16
# A kernel's eigenvalues have absolute errors of about n eps s_1^2. Above this multiple of it, s^2 has two digits.
_TWO_DIGITS = 100
# The prediction has an error of the order of the relative movement of the kernel; at a quarter, neither responses nor
# their order are predicted by more than their first digit.
_DRIFT = 0.25
_ERROR = 0.25
# Training to the tolerance of `training.fit` ends below 1e-3 in float32. At a tenth of the initial gradient, about a
# tenth of the loss is still to be minimised.
_GRADIENT = 0.1
# Half of the direction or more is another one on other data of half the size.
_OVERLAP = 0.5
# One of ten halves may disagree by chance; two are unlikely for a sign that the data determine.
_AGREEMENT = 0.85
# A mean over fewer examples has a standard error of more than a fifth of the standard deviation.
_FEW = 25
# Below 30% the mean of the labels exceeds 0.4, and one output for all examples becomes a strong feature of the labels.
_MINORITY = 0.3
# The share of the way from the accuracy of the most frequent class to 1. On easy data, networks at initialisation can
# come close to it, since the direction of the largest variance can be that of the classes.
_SKILL = 0.8
# The theory trains the change of the outputs. Outputs at `params` above this part of it shift the optimum noticeably.
_START = 0.25
# A response below this part of the norm of all responses is a small difference of larger contributions.
_WEAK = 0.01


class Caution(NamedTuple):
    """A reason not to draw a conclusion.

    `code` names it, `text` says it in words (features count from 1), `touches` lists the fields of the report that it
    is about, and `numbers` holds its evidence as plain data (features count from 0).
    """

    code: str
    text: str
    touches: tuple[str, ...]
    numbers: Mapping[str, Any]


def find(report: Diagnosis) -> tuple[Caution, ...]:
    """The cautions of a report, in the order of `CHECKS`."""
    return tuple(caution for check in CHECKS if (caution := check(report)) is not None)


def nearly_equal(s2: np.ndarray, n: int) -> list[list[int]]:
    """Runs of features whose strengths differ by less than the sampling error of a strength, `sqrt(2 / n) s^2`.

    This is the rule of North et al. (1982) for the eigenvalues of a sample: features whose distance is below the
    sampling error are random mixtures of each other.

    >>> nearly_equal(np.array([9.0, 4.0, 3.9, 1.0]), 200)
    [[1, 2]]
    """
    close = (s2[:-1] - s2[1:]) < np.sqrt(2 / n) * s2[:-1]
    runs: list[list[int]] = []
    for j in np.flatnonzero(close):
        if runs and runs[-1][-1] == j:
            runs[-1].append(int(j) + 1)
        else:
            runs.append([int(j), int(j) + 1])
    return runs


def _rounding(report: Diagnosis) -> float:
    """The error of the squared strengths."""
    eps, s2 = float(np.finfo(report.dtype).eps), float(report.s[0]) ** 2
    return (report.rows if report.path == "exact" else 4 * np.sqrt(report.rows)) * eps * s2


def _cut_off(report: Diagnosis) -> bool:
    """Whether features are missing because of rounding, and not because the kernel has no more."""
    if report.rank is None or report.rank == report.rows or report.weakest is None:
        return False
    return bool(report.weakest**2 < _NO_GAP * _rounding(report))


def _rank(report: Diagnosis) -> Caution | None:
    if report.rank is None or report.rank == report.rows:
        return None
    if _cut_off(report):
        text = (
            f"{report.dtype} resolves {report.rank} features for {report.rows} outputs. With the others missing, "
            "spectral decoupling does not decouple the examples (Eq. 18 does not hold). This is due to rounding, and "
            "need not be so in a higher precision."
        )
    else:
        text = (
            f"The kernel has {report.rank} features for {report.rows} outputs, so its rows are not independent. "
            "Spectral decoupling then does not decouple the examples (Eq. 18 does not hold), and repeated inputs, or "
            "fewer parameters than outputs, limit what any training can fit."
        )
    return Caution("rank", text, ("rank", "decoupling"), {"rank": report.rank, "rows": report.rows})


def _precision(report: Diagnosis) -> Caution | None:
    weak = np.flatnonzero(report.s.astype(float) ** 2 < _TWO_DIGITS * _rounding(report)).tolist()
    cut = _cut_off(report)
    if not weak and not cut:
        return None
    parts = []
    if weak:
        parts.append(f"The strengths of {_named(weak)} have fewer than two digits in {report.dtype}.")
    if cut:
        parts.append(
            f"{report.dtype} resolves {report.rank} of {report.rows} features; the others are rounding errors."
        )
    if report.dtype == "float32":
        parts.append(
            'Compute in float64: jax.config.update("jax_enable_x64", True), with x and params in float64. Most '
            "frameworks make float32 parameters even then: params = jax.tree.map(lambda leaf: leaf.astype(float), "
            "params)."
        )
    touches = ("strengths", "response", "starvation", "rank")
    return Caution("precision", " ".join(parts), touches, {"features": weak, "cut_off": cut})


def _convergence(report: Diagnosis) -> Caution | None:
    if report.status.converged:
        return None
    text = (
        f"The optimum, or the starvation matrix at it, was not found to the tolerance (residual "
        f"{report.status.residual:.1e} after {report.status.iterations} iterations). Responses and everything that "
        "follows from them may be wrong; a stronger penalty or float64 helps."
    )
    touches = ("response", "starvation", "pairs", "decoupling", "trained")
    return Caution("convergence", text, touches, {"residual": report.status.residual})


def _matched(report: Diagnosis) -> Caution | None:
    if report.decoupling is None or report.decoupling.converged:
        return None
    text = (
        f"No strength of {report.decoupling.kind} with the same total confidence was found, so the two penalties are "
        "not compared at equal confidence."
    )
    return Caution("matched", text, ("decoupling",), {"confidence": report.confidence})


def _assumed(report: Diagnosis) -> Caution | None:
    if report.decoupling is None or not report.decoupling.assumed:
        return None
    text = (
        "The rank of the kernel was not computed. The effect of spectral decoupling assumes full row rank: no repeated "
        "inputs, and more parameters than outputs."
    )
    return Caution("assumed_rank", text, ("decoupling",), {"rows": report.rows})


def _equal(report: Diagnosis) -> Caution | None:
    runs = nearly_equal(report.s.astype(float) ** 2, report.n)
    if not runs:
        return None
    names = "; ".join(_named(run) for run in runs)
    text = (
        f"Nearly equal strengths: {names}. With {report.n} examples they cannot be told apart. Only their common span "
        "means something, not the single features, nor starvation within it."
    )
    return Caution("nearly_equal", text, ("examples", "alignment", "starvation"), {"features": runs})


def _weak(report: Diagnosis) -> Caution | None:
    z = np.abs(report.response)
    weak = np.flatnonzero(z < _WEAK * report.size).tolist()
    if not weak:
        return None
    text = (
        f"The responses to {_named(weak)} nearly vanish, so relative changes of them (elasticities, ratios) are large "
        "without meaning much. Look at the cost instead."
    )
    return Caution("weak_response", text, ("pairs", "decoupling"), {"features": weak})


def _few(report: Diagnosis) -> Caution | None:
    if report.stability is not None:
        return None
    text = f"{report.n} examples are too few to be divided into halves: nothing is known about what is due to chance."
    return Caution("too_few", text, ("strengths", "starvation", "alignment"), {"n": report.n})


def _unstable(report: Diagnosis) -> Caution | None:
    if report.stability is None:
        return None
    weak = np.flatnonzero(report.stability.overlap < _OVERLAP).tolist()
    if not weak:
        return None
    text = (
        f"Random halves of the data have mostly other directions in place of {_named(weak)}. There are too few "
        "examples to say what they are; their examples and alignments are those of this sample."
    )
    return Caution("unstable_features", text, ("examples", "alignment"), {"features": weak})


def _signs(report: Diagnosis) -> Caution | None:
    if report.stability is None:
        return None
    starving = [(pair.starver, pair.starved) for pair in report.pairs]
    unsure = [pair for pair in starving if not report.stability.agreement[pair[1], pair[0]] >= _AGREEMENT]
    if not unsure:
        return None
    text = (
        f"Of the {len(starving)} starving pairs, {len(unsure)} do not have the same sign on random halves of the data. "
        "Whether these starve is not known; the table marks them with ?."
    )
    return Caution(
        "unstable_signs", text, ("starvation", "pairs", "starving"), {"pairs": [list(pair) for pair in unsure]}
    )


def _verdict(report: Diagnosis) -> Caution | None:
    if report.stability is None or report.verdict is None or report.verdict.starver is None:
        return None
    starver = report.verdict.starver
    costs = {pair.starved: -pair.cost for pair in report.pairs if pair.starver == starver}
    sure = sum(cost for j, cost in costs.items() if report.stability.agreement[j, starver] >= _AGREEMENT)
    share = sure / sum(costs.values())
    if share >= 0.5:
        return None
    text = (
        f"That feature {starver + 1} takes most from the others rests on signs that differ between halves of the data: "
        f"{share:.0%} of what it takes is by signs that agree. The answer about the attribute may be due to chance."
    )
    return Caution("unsure_verdict", text, ("toll", "verdict"), {"feature": starver, "share": share})


def _groups(report: Diagnosis) -> Caution | None:
    found = report.alignment
    if found is None or not found.known or found.smallest >= _FEW:
        return None
    text = (
        f"The smallest combination of label and group has {found.smallest} examples, so alignments depend on these "
        "few. The level expected by chance allows for it; the size of an alignment is uncertain."
    )
    return Caution("small_groups", text, ("alignment", "verdict"), {"smallest": found.smallest})


def _confounded(report: Diagnosis) -> Caution | None:
    if report.alignment is None or report.alignment.known:
        return None
    text = (
        "The group is a function of the label: no label occurs with two groups. No data like these can tell a feature "
        "of the group from a feature of the label."
    )
    return Caution("group_is_label", text, ("alignment", "verdict"), {})


def _one_class(report: Diagnosis) -> Caution | None:
    if len(report.labels) > 1:
        return None
    text = (
        "All examples have the same label. Any output of the right sign is correct, so nothing here is about telling "
        "classes apart."
    )
    return Caution("one_class", text, ("response", "starvation", "verdict"), {"labels": dict(report.labels)})


def _unbalanced(report: Diagnosis) -> Caution | None:
    share = min(report.labels.values()) / report.n
    classes = len(report.labels)
    if classes < 2 or share >= _MINORITY * 2 / classes:
        return None
    text = (
        f"The rarest label has {share:.0%} of the examples. A feature with one sign on all examples, often the first, "
        "then stands for the frequencies of the labels (the offset) rather than for anything seen in the inputs."
    )
    return Caution("unbalanced", text, ("response", "starvation", "verdict"), {"share": share})


def _already(report: Diagnosis) -> Caution | None:
    chance = max(report.labels.values()) / report.n
    if chance == 1 or (report.accuracy_start - chance) / (1 - chance) < _SKILL:
        return None
    text = (
        f"At params the accuracy is {report.accuracy_start:.1%} already. If these parameters are trained, the report "
        "is about training on from there, with the features of the trained network, not about how it was trained."
    )
    return Caution("already_trained", text, ("response", "starvation"), {"accuracy": report.accuracy_start})


def _start(report: Diagnosis) -> Caution | None:
    if not report.start > _START:
        return None
    text = (
        f"The outputs at params have {report.start:.0%} of the size of the predicted changes. The theory is about the "
        "change: it trains f(theta) - f(params). Training the plain outputs ends elsewhere. To compare with such a "
        "training, use a network whose outputs at params vanish, for example by subtracting those of a copy."
    )
    return Caution("outputs_at_start", text, ("response", "trained"), {"relative": report.start})


def _drift(report: Diagnosis) -> Caution | None:
    if report.trained is None or report.trained.kernel.relative < _DRIFT:
        return None
    moved = report.trained.kernel
    text = (
        f"Training has moved the kernel by {moved.relative:.0%} of its size (cosine {moved.cosine:.3f}). "
        + (
            "Mostly its scale has changed: features keep their directions, but not their strengths. "
            if moved.turned < _DRIFT
            else "The features at params are no longer those of the trained network. "
        )
        + "Responses and starvation at params describe the start of training."
    )
    return Caution("kernel_drift", text, ("starvation", "response", "trained"), {"relative": moved.relative})


def _far(report: Diagnosis) -> Caution | None:
    if report.trained is None or report.trained.error < _ERROR:
        return None
    text = (
        f"The trained outputs differ from the prediction by {report.trained.error:.0%} of its size. The responses are "
        "not those of this network; look at the observed ones."
    )
    return Caution("prediction", text, ("response", "decoupling"), {"error": report.trained.error})


def _optimum(report: Diagnosis) -> Caution | None:
    if report.trained is None or report.trained.gradient < _GRADIENT:
        return None
    text = (
        f"At trained_params the gradient of this objective has {report.trained.gradient:.1%} of its norm at params, so "
        "the network is not at an optimum of it. The objective is a sum over examples of losses of f(theta) - "
        "f(params), with lambda / 2 in the penalty and a ridge on theta - params: a mean over n examples with weight "
        "decay w is Ridge(n w)."
    )
    return Caution("not_at_optimum", text, ("trained",), {"gradient": report.trained.gradient})


CHECKS: tuple[Callable[[Any], Caution | None], ...] = (
    _convergence,
    _precision,
    _rank,
    _assumed,
    _matched,
    _one_class,
    _unbalanced,
    _already,
    _start,
    _few,
    _equal,
    _unstable,
    _signs,
    _verdict,
    _weak,
    _confounded,
    _groups,
    _optimum,
    _drift,
    _far,
)


def _named(indices: Iterable[int]) -> str:
    """Features by number, from 1, with ranges: "features 2, 4-6"."""
    numbers = [index + 1 for index in indices]
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"feature{'s' if len(numbers) > 1 else ''} {shown}"
