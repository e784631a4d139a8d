"""Costs and benefits of relying on one feature: confidence where data are rare, and errors when the feature is lost.

Section 2.1 of Pezeshki et al. 2021 names two sides of gradient starvation, excessive invariance and implicit
regularisation, and tests neither. Here a linear model sees classes y = -1, +1 with two predictive features,
x_1 = a (y + sigma e_1) and x_2 = y + sigma e_2, and coordinates of pure noise, all Gaussian. Both features are equally
informative; x_1 is a times larger, so its strength dominates. The density of a point and the error of a direction have
closed forms, and the optima of Eqs. 5 and 17 are exact equilibria (`dual.equilibrium`).

    python -m experiments invariance --preset smoke      half a minute on 2 cores
    python -m experiments invariance --preset laptop     three minutes on 2 cores

Test data share the dominant feature, lose it (its mean is zero), or have it reversed. Spectral decoupling (SD) is
compared with ERM (a ridge of 0.001), a tuned ridge, and early stopping. SD, ridge and early stopping have the strength
or time with the least error on data that share the feature. This selection uses the closed form of the error, so it is
better than with any validation set. Confidence is compared at temperatures that give every method a mean confidence of
0.9 on points in distribution; a temperature changes no error.

Known limit: with a starved deviation of 2, points with contradicting features are hardly rarer than others. So the
density is low only for contradicting points in the other setting, and for points far out. `docs/results/invariance.md`
has the results.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import optimize, special

from experiments import _rows
from experiments._bounds import Bound, expect
from experiments._study import Cell, Report, Study
from gsjax import dual, features, plotting, statistics
from gsjax.objectives import Penalty, Ridge, SpectralDecoupling

SHIFTS = {"shared": 1.0, "lost": 0.0, "reversed": -1.0}  # the mean of x_1, in units of that in training
ARMS = {"erm": "ERM", "ridge": "ridge", "early": "early stopping", "sd": "SD"}
PLACES = ("in distribution", "contradicted", "far")


@dataclass(frozen=True)
class Config:
    """The data and the methods."""

    n: int = 40
    """Training examples."""
    noise: tuple[int, ...] = (3, 10, 20, 30)
    """Numbers of coordinates of pure noise, in increasing order."""
    dominance: float = 5.0
    """Factor a by which the first feature is larger."""
    sigma: float = 0.7
    """Standard deviation of the dominant feature within a class, in units of its mean."""
    starved: tuple[float, ...] = (0.7, 2.0)
    """Standard deviations of the other feature: as informative as the dominant one, and less."""
    erm: float = 1e-3
    """Strength of the ridge that stands for ERM."""
    ridge: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
    """Candidate strengths of the ridge."""
    sd: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0)
    """Candidate strengths of SD."""
    steps: tuple[int, ...] = (1, 3, 10, 30, 100, 300, 1000)
    """Candidate numbers of steps for early stopping."""
    far: float = 5.0
    """Factor by which points far out are scaled."""
    points: int = 2000
    """Number of points of each kind at which confidence is measured."""
    confidence: Annotated[float, Bound(above=0.5, below=1)] = 0.9
    """Mean confidence in distribution at which confidence elsewhere is compared."""
    seeds: Annotated[int, Bound(least=2)] = 20
    """Training sets of each setting."""
    x64: bool = True
    """Double precision."""


PRESETS: dict[str, Config] = {
    "smoke": Config(
        n=20, noise=(2, 6), starved=(0.7,), points=200, seeds=2, ridge=(0.1, 10.0), sd=(0.01, 1.0), steps=(1, 99)
    ),
    "laptop": Config(),
}


class Problem(NamedTuple):
    """The distribution of training data: `scale (d,)` within a class, and `mean (d,)` of the class +1."""

    scale: Float[np.ndarray, " d"]
    mean: Float[np.ndarray, " d"]


def problem(config: Config, noise: int, starved: float) -> Problem:
    """The dominant feature, the starved one, and coordinates of pure noise, in this order."""
    scale = np.r_[config.dominance * config.sigma, starved, np.ones(noise)]
    return Problem(scale, np.r_[config.dominance, 1.0, np.zeros(noise)])


def draw_points(
    classes: Problem, rng: np.random.Generator, n: int, *, place: str = "in distribution", far: float = 1.0
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    """Points and labels: in distribution, with the starved feature of the other class, or `far` times further out."""
    y = rng.choice([-1.0, 1.0], n)
    means = y[:, None] * classes.mean
    if place == "contradicted":
        means[:, 1] *= -1
    x = means + classes.scale * rng.standard_normal(means.shape)
    return x * (far if place == "far" else 1.0), y


def log_density(classes: Problem, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """The logarithm of the density of the training distribution, an equal mixture of the two classes."""
    both = [-0.5 * np.sum(((x - sign * classes.mean) / classes.scale) ** 2, axis=1) for sign in (-1.0, 1.0)]
    constant = np.sum(np.log(classes.scale)) + 0.5 * len(classes.scale) * np.log(2 * np.pi) + np.log(2)
    return np.logaddexp(*both) - constant


def error(classes: Problem, theta: Float[np.ndarray, " d"], shift: float) -> float:
    """The error of sign(theta . x) if the mean of x_1 is `shift` times that in training: Phi(-mean / deviation)."""
    mean = classes.mean * np.r_[shift, np.ones(len(theta) - 1)]
    return float(special.ndtr(-(theta @ mean) / np.linalg.norm(theta * classes.scale)))


def optimum(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"], penalty: Penalty) -> Float[np.ndarray, " d"]:
    """The parameters at the optimum of Eq. 5 or 17, from the margins of the exact equilibrium.

    Raises:
        RuntimeError: the solver has not converged.
    """
    solved = dual.equilibrium(features.from_ntrf(jnp.asarray(x), jnp.asarray(y)), penalty)
    if not bool(solved.converged):
        raise RuntimeError(f"no equilibrium was found for {penalty}")
    return np.linalg.lstsq(x, y * np.asarray(solved.margins), rcond=None)[0]


def descent(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"], steps: Sequence[int]
) -> list[Float[np.ndarray, " d"]]:
    """Parameters after each number of `steps` of gradient descent on the unpenalised loss, from zero, at rate 1/L."""
    rate = 4 / np.linalg.norm(x, 2) ** 2  # the curvature of the logistic loss is at most 1/4
    theta, found = np.zeros(x.shape[1]), {}
    for step in range(1, max(steps) + 1):
        theta = theta + rate * x.T @ (y * special.expit(-y * (x @ theta)))
        if step in steps:
            found[step] = theta
    return [found[step] for step in steps]


def temperature(logits: Float[np.ndarray, " n"], target: float) -> float:
    """The temperature at which the mean confidence sigmoid(|logit| / T) is `target`, a number in (1/2, 1)."""
    size = np.abs(logits)
    root: Any = optimize.brentq(lambda log: special.expit(size / np.exp(log)).mean() - target, -30, 30)
    return float(np.exp(root))


def confidence(logits: Float[np.ndarray, " n"], temperature: float = 1.0) -> float:
    """The mean probability of the predicted class at a temperature."""
    return float(special.expit(np.abs(logits) / temperature).mean())


def one_seed(config: Config, noise: int, starved: float, seed: int, index: int) -> list[dict[str, Any]]:
    """All methods on one training set, one row per method."""
    classes, rng = problem(config, noise, starved), np.random.default_rng([seed, index])
    x, y = draw_points(classes, rng, config.n)
    candidates = {
        "erm": {config.erm: optimum(x, y, Ridge(config.erm))},
        "ridge": {strength: optimum(x, y, Ridge(strength)) for strength in config.ridge},
        "early": dict(zip(config.steps, descent(x, y, config.steps), strict=True)),
        "sd": {strength: optimum(x, y, SpectralDecoupling(strength)) for strength in config.sd},
    }
    places = {place: draw_points(classes, rng, config.points, place=place, far=config.far)[0] for place in PLACES}
    rows = []
    for arm, tried in candidates.items():
        strength, theta = min(tried.items(), key=lambda item: error(classes, item[1], SHIFTS["shared"]))
        logits = {place: points @ theta for place, points in places.items()}
        equalising = temperature(logits["in distribution"], config.confidence)
        rows.append(
            {
                "noise": noise,
                "starved": starved,
                "seed": index,
                "arm": arm,
                "chosen": strength,
                "error": {shift: error(classes, theta, value) for shift, value in SHIFTS.items()},
                "temperature": equalising,
                "raw": {place: confidence(values) for place, values in logits.items()},
                "calibrated": {place: confidence(values, equalising) for place, values in logits.items()},
                "log_density": {place: float(log_density(classes, points).mean()) for place, points in places.items()},
            }
        )
    return rows


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not.

    Raises:
        ValueError: too many coordinates: with fewer than n of them, parameters follow from the margins; or `noise` is
            not in increasing order.
    """
    expect(max(config.noise) + 2 < config.n, "noise", f"less than n - 2 = {config.n - 2}", max(config.noise))
    expect(sorted(config.noise) == list(config.noise), "noise", "increasing numbers", config.noise)


def study(config: Config, *, out: Path, seed: int) -> Study:
    """A cell per setting, i.e. deviation of the starved feature and number of noise coordinates."""

    def training_sets(noise: int, starved: float) -> list[dict[str, Any]]:
        return [row for index in range(config.seeds) for row in one_seed(config, noise, starved, seed, index)]

    def report(rows: list[dict[str, Any]]) -> Report:
        figures = {"errors.png": functools.partial(draw, rows, config)}
        return Report(summarise(rows, config), judge(rows, config), figures)

    by_place = dict.fromkeys(PLACES, float)
    columns = {"seed": int, "arm": str, "chosen": float, "temperature": float, "error": dict.fromkeys(SHIFTS, float)}
    columns |= dict.fromkeys(("raw", "calibrated", "log_density"), by_place)
    return Study(
        {"name": "two Gaussian features", "train": config.n, "stand-in": False},
        [
            Cell(
                {"noise": noise, "starved": starved},
                functools.partial(training_sets, noise, starved),
                columns,
                config.seeds * len(ARMS),
            )
            for starved, noise in itertools.product(config.starved, config.noise)
        ],
        report,
    )


def column(
    rows: Sequence[dict[str, Any]], noise: int, starved: float, arm: str, kind: str, key: str
) -> Float[np.ndarray, " seeds"]:
    """The numbers of a method in a setting, one per seed, in the order of seeds."""
    chosen = [row for row in rows if (row["noise"], row["starved"], row["arm"]) == (noise, starved, arm)]
    return np.array([row[kind][key] for row in sorted(chosen, key=lambda row: row["seed"])])


def settings(config: Config) -> list[tuple[int, float, str]]:
    """The settings that are reported and judged, with their names: least and most noise for each starved feature."""
    ends = dict.fromkeys((config.noise[0], config.noise[-1]))
    return [
        (noise, starved, f"starved deviation {starved:g}, {noise} of noise")
        for starved in config.starved
        for noise in ends
    ]


def summarise(rows: Sequence[dict[str, Any]], config: Config) -> list[dict[str, Any]]:
    """Errors of every method, and its confidence off the data, as it is and at equal confidence in distribution."""
    found = []
    for noise, starved, name in settings(config):
        for arm, label in ARMS.items():
            for shift in SHIFTS:
                values = column(rows, noise, starved, arm, "error", shift)
                found.append(_rows.measured(f"{name}: {label}, error, {shift}", values))
        for arm, label in ARMS.items():
            for place in PLACES[1:]:
                for kind, state in {
                    "raw": "as it is",
                    "calibrated": f"at {config.confidence:g} in distribution",
                }.items():
                    values = column(rows, noise, starved, arm, kind, place)
                    found.append(_rows.measured(f"{name}: {label}, confidence {place}, {state}", values))
    return found


def judge(rows: Sequence[dict[str, Any]], config: Config) -> list[dict[str, Any]]:
    """The expectations from Section 2.1, as differences paired by training set."""
    found = []
    for noise, starved, name in settings(config):

        def gap(other: str, kind: str, key: str, noise: int = noise, starved: float = starved) -> np.ndarray:
            return column(rows, noise, starved, "sd", kind, key) - column(rows, noise, starved, other, kind, key)

        def says(other: str, kind: str, key: str, *, gap: Any = gap) -> str:
            values = gap(other, kind, key)
            return f"the difference is {values.mean():+.4f}, and has that sign in {largest_side(values)} training sets"

        found += [
            _rows.signature(
                f"{name}: where the feature is shared, SD errs more than the ridge",
                gap("ridge", "error", "shared"),
                above=0,
                why="fewer features, less variance: implicit regularisation; zero is no difference",
                reason=says("ridge", "error", "shared"),
            ),
            *(
                _rows.signature(
                    f"{name}: where the feature is {shift}, SD errs less than the ridge",
                    gap("ridge", "error", shift),
                    below=0,
                    why="zero is no difference",
                    reason=says("ridge", "error", shift),
                )
                for shift in ("lost", "reversed")
            ),
            *(
                _rows.signature(
                    f"{name}: SD is less confident {region} than ERM at equal confidence in distribution",
                    gap("erm", "calibrated", place),
                    below=0,
                    why="the temperature is taken out, so that zero is no difference",
                    reason=says("erm", "calibrated", place),
                )
                for place, region in {"contradicted": "where features contradict", "far": "far out"}.items()
            ),
        ]
    return found


def largest_side(values: Float[np.ndarray, " seeds"]) -> str:
    """How many of the values have the sign of their mean.

    >>> largest_side(np.array([1.0, 2.0, -0.5]))
    '2 of 3'
    """
    return f"{int(np.sum(np.sign(values) == np.sign(values.mean())))} of {len(values)}"


def draw(rows: Sequence[dict[str, Any]], config: Config, path: Path) -> None:
    """Errors against the number of noise coordinates, one column per shift; calibrated confidence in the last one."""
    figure, axes = plotting.panels(len(config.starved), len(SHIFTS) + 1)
    panels = [("error", shift, f"error, {shift}") for shift in SHIFTS]
    panels.append(("calibrated", "contradicted", "confidence, contradicted"))
    for line, starved in zip(axes, config.starved, strict=True):
        for ax, (kind, key, label) in zip(line, panels, strict=True):
            for (arm, name), marker in zip(ARMS.items(), "osv^", strict=True):
                values = [statistics.mean(column(rows, noise, starved, arm, kind, key)) for noise in config.noise]
                middle, low, high = np.array(values, float).T
                ax.errorbar(config.noise, middle, (middle - low, high - middle), marker=marker, capsize=2, label=name)
            ax.set_xlabel(f"noise coordinates (starved deviation {starved:g})")
            ax.set_ylabel(label)
    axes[0][0].legend()
    plotting.save(figure, path)
