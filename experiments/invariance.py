"""What relying on one feature costs and saves: confidence where data are rare, and errors when that feature is lost.

Section 2.1 of Pezeshki et al. 2021 names two sides of gradient starvation, excessive invariance and implicit
regularisation, and tests neither. Here a linear model sees classes y = -1, +1 with two predictive features,
x_1 = a (y + sigma e_1) and x_2 = y + sigma e_2, and coordinates of pure noise, all Gaussian. Both features are equally
informative; x_1 is a times larger, so its strength dominates. The density of a point and the error of a direction have
closed forms, and the optima of Eq. 5 and 17 are exact equilibria (`dual.equilibrium`).

    python -m experiments invariance --preset smoke      half a minute on 2 cores
    python -m experiments invariance --preset laptop     three minutes on 2 cores

Test data share the dominant feature, lose it (its mean is zero), or have it reversed. Beside spectral decoupling (SD)
stand ERM (a ridge of 0.001), a chosen ridge, and early stopping; SD, ridge and stopping each have the strength or the
time of least error in distribution, which is the error on data that share the feature. That choice uses the closed
form, so it is better than any validation set could make it. A temperature changes no error. Confidence is compared at
the temperatures at which every method has a mean confidence of 0.9 on points in distribution.

11 of 20 signatures hold in the laptop preset (40 examples, 20 training sets; differences with 95% intervals):

- Implicit regularisation is there where examples are few for the coordinates or the starved feature tells little. With
  30 coordinates of noise SD errs more than the ridge on data that share the feature, by +0.121 [+0.100, +0.141] if both
  features are as informative, and by +0.182 [+0.161, +0.202] if the starved one is less so. With 3 coordinates it is
  +0.011 [+0.007, +0.015] for the less informative one, and nothing is found for the other, -0.005 [-0.009, +0.000]. SD
  lifts weak directions, and those of noise are among them.
- Where the feature is reversed SD errs less in all four settings, from -0.038 [-0.060, -0.016] to
  -0.312 [-0.356, -0.268], so that with 30 coordinates of noise the order of the two methods is turned around. Part of
  that is an approach to chance: with 30 coordinates the mean error of SD is still above one half.
- Excessive invariance shows, beyond a temperature, in one of the four settings that are judged. Where features
  contradict, SD is less confident than ERM, -0.037 [-0.056, -0.018], with 3 coordinates and features as informative.
  With 30 coordinates it is more confident, +0.030 [+0.017, +0.042]; there SD's lower confidence without a temperature
  is one of scale.
- Far out, at five times the distance, all are as confident, above 0.97: outputs of a linear model grow with the
  distance, and the decoupling bounds them on training data only. Differences are 0.003 at most.

With a starved deviation of 2 points where features contradict are hardly rarer than others (0.3 nats), so the density
is low there only for the other setting (2.4 nats) and far out.
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
    """What is computed."""

    n: int = 40
    """Examples to train on."""
    noise: tuple[int, ...] = (3, 10, 20, 30)
    """Numbers of coordinates of pure noise, in increasing order."""
    dominance: float = 5.0
    """By which factor a the first feature is the larger one."""
    sigma: float = 0.7
    """Standard deviation of the dominant feature within a class, in units of its mean."""
    starved: tuple[float, ...] = (0.7, 2.0)
    """Those of the other feature: as informative as the dominant one, and less."""
    erm: float = 1e-3
    """The ridge that stands for ERM."""
    ridge: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
    """Strengths to choose the ridge from."""
    sd: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0)
    """Strengths to choose that of SD from."""
    steps: tuple[int, ...] = (1, 3, 10, 30, 100, 300, 1000)
    """Steps of gradient descent to choose the end of training from."""
    far: float = 5.0
    """How many times further out than their class points lie that are far."""
    points: int = 2000
    """Points at which confidence is measured, of each kind."""
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
    of: Problem, rng: np.random.Generator, n: int, *, place: str = "in distribution", far: float = 1.0
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    """Points and labels: in distribution, with the starved feature of the other class, or `far` times further out."""
    y = rng.choice([-1.0, 1.0], n)
    means = y[:, None] * of.mean
    if place == "contradicted":
        means[:, 1] *= -1
    x = means + of.scale * rng.standard_normal(means.shape)
    return x * (far if place == "far" else 1.0), y


def log_density(of: Problem, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """The logarithm of the density of the training distribution, an equal mixture of the two classes."""
    both = [-0.5 * np.sum(((x - sign * of.mean) / of.scale) ** 2, axis=1) for sign in (-1.0, 1.0)]
    constant = np.sum(np.log(of.scale)) + 0.5 * len(of.scale) * np.log(2 * np.pi) + np.log(2)
    return np.logaddexp(*both) - constant


def error(of: Problem, theta: Float[np.ndarray, " d"], shift: float) -> float:
    """The error of sign(theta . x) where the mean of x_1 is `shift` times that in training: Phi(-mean / deviation)."""
    mean = of.mean * np.r_[shift, np.ones(len(theta) - 1)]
    return float(special.ndtr(-(theta @ mean) / np.linalg.norm(theta * of.scale)))


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
    """Parameters after so many steps of gradient descent on the unpenalised loss, from zero, at rate 1/L."""
    rate = 4 / np.linalg.norm(x, 2) ** 2  # the curvature of the logistic loss is 1/4 at most
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


def confidence(logits: Float[np.ndarray, " n"], at: float = 1.0) -> float:
    """The mean probability of the predicted class at a temperature."""
    return float(special.expit(np.abs(logits) / at).mean())


def one_seed(config: Config, noise: int, starved: float, seed: int, index: int) -> list[dict[str, Any]]:
    """All arms on one training set, one row per arm."""
    of, rng = problem(config, noise, starved), np.random.default_rng([seed, index])
    x, y = draw_points(of, rng, config.n)
    candidates = {
        "erm": {config.erm: optimum(x, y, Ridge(config.erm))},
        "ridge": {strength: optimum(x, y, Ridge(strength)) for strength in config.ridge},
        "early": dict(zip(config.steps, descent(x, y, config.steps), strict=True)),
        "sd": {strength: optimum(x, y, SpectralDecoupling(strength)) for strength in config.sd},
    }
    places = {place: draw_points(of, rng, config.points, place=place, far=config.far)[0] for place in PLACES}
    rows = []
    for arm, tried in candidates.items():
        strength, theta = min(tried.items(), key=lambda item: error(of, item[1], SHIFTS["shared"]))
        logits = {place: points @ theta for place, points in places.items()}
        at = temperature(logits["in distribution"], config.confidence)
        rows.append(
            {
                "noise": noise,
                "starved": starved,
                "seed": index,
                "arm": arm,
                "chosen": strength,
                "error": {shift: error(of, theta, value) for shift, value in SHIFTS.items()},
                "temperature": at,
                "raw": {place: confidence(values) for place, values in logits.items()},
                "calibrated": {place: confidence(values, at) for place, values in logits.items()},
                "log_density": {place: float(log_density(of, points).mean()) for place, points in places.items()},
            }
        )
    return rows


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not.

    Raises:
        ValueError: as many coordinates as examples or more, where the parameters do not follow from the margins.
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
    """The numbers of an arm in a setting, one per seed, in their order."""
    of = [row for row in rows if (row["noise"], row["starved"], row["arm"]) == (noise, starved, arm)]
    return np.array([row[kind][key] for row in sorted(of, key=lambda row: row["seed"])])


def settings(config: Config) -> list[tuple[int, float, str]]:
    """Least and most noise for each starved feature, and what they are called: those that are reported and judged."""
    ends = dict.fromkeys((config.noise[0], config.noise[-1]))
    return [
        (noise, starved, f"starved deviation {starved:g}, {noise} of noise")
        for starved in config.starved
        for noise in ends
    ]


def summarise(rows: Sequence[dict[str, Any]], config: Config) -> list[dict[str, Any]]:
    """Errors of every arm, and confidence off the data at its own temperature and at equal confidence on them."""
    found = []
    for noise, starved, name in settings(config):
        for arm, label in ARMS.items():
            for shift in SHIFTS:
                values = column(rows, noise, starved, arm, "error", shift)
                found.append(_rows.measured(f"{name}: {label}, error, {shift}", values))
        for arm, label in ARMS.items():
            for place in PLACES[1:]:
                for kind, how in {"raw": "as it is", "calibrated": f"at {config.confidence:g} in distribution"}.items():
                    values = column(rows, noise, starved, arm, kind, place)
                    found.append(_rows.measured(f"{name}: {label}, confidence {place}, {how}", values))
    return found


def judge(rows: Sequence[dict[str, Any]], config: Config) -> list[dict[str, Any]]:
    """What Section 2.1 leads to expect, as differences in pairs of training sets."""
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
                    f"{name}: SD is less confident {where} than ERM at equal confidence in distribution",
                    gap("erm", "calibrated", place),
                    below=0,
                    why="the temperature is taken out, so that zero is no difference",
                    reason=says("erm", "calibrated", place),
                )
                for place, where in {"contradicted": "where features contradict", "far": "far out"}.items()
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
    """Errors against the number of noise coordinates, one column per shift; confidence at equal confidence last."""
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
