"""Two features, one growing stronger: primal and dual paths, and where they end (Fig. 5).

Pezeshki et al. 2021, Fig. 5: two examples with labels +1, Y Phi = U S V^T with the rotation U of Eq. 15 at
delta = 1/2, a random V, s_2 = 2 and s_1 from 2 to 6. A linear model is trained by gradient descent from theta = 0 on
Eq. 5 (ridge) or Eq. 17 (spectral decoupling), with sums over examples as in the paper. The dual dynamics of Eqs. 9 and
18 start at alpha = 1e-8. As feature 1 grows stronger, ridge learns less and less of feature 2, while the end point of
spectral decoupling does not depend on s_1.

    python -m experiments toy_dynamics --preset smoke     10 seconds on 2 cores, nearly all of it compilation
    python -m experiments toy_dynamics --preset laptop    the same
    python -m experiments toy_dynamics --preset paper     the same settings: the published ones are cheap

Deviations from the published recipe:

- The published 5,000 steps end before the optimum at s_1 = 5 and 6. Here gradient descent continues until the gradient
  has vanished, where it meets the exact equilibrium.
- In the dual, steps of the published size would be far outside the stability region of Eq. 9, whose rates reach
  s_1^2 / lambda = 3600. So an implicit method integrates the dual path.
- V is drawn several times; the result does not depend on it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from experiments import _rows
from experiments._bounds import Bound, expect
from experiments._study import Cell, Columns, Report, Study, select
from gsjax import dual, features, linearized, plotting, statistics, training
from gsjax.features import Features
from gsjax.objectives import Penalty, Ridge, SpectralDecoupling

ACCURACY = 1e-3  # largest allowed distance of end points from the exact equilibrium
TITLES = {"ridge": "ridge", "sd": "spectral decoupling"}


@dataclass(frozen=True)
class Config:
    """The toy of Fig. 5; the defaults are the published settings."""

    s1: Annotated[tuple[float, ...], Bound(entries=2)] = (2.0, 3.0, 4.0, 5.0, 6.0)
    """Singular values of the first feature, increasing; more than one."""
    s2: float = 2.0
    """Singular value of the second feature."""
    delta: Annotated[float, Bound(above=0, below=1)] = 0.5
    """Coupling of Eq. 15: the sine of the angle of U."""
    ridge: float = 0.01
    """lambda of Eq. 5."""
    sd: float = 0.002
    """lambda of Eq. 17."""
    learning_rate: float = 0.05
    """Step size of gradient descent on the sum over examples."""
    steps: Annotated[int, Bound(least=2)] = 5000
    """Published number of steps."""
    initial: Annotated[float, Bound(above=0, below=1)] = 1e-8
    """Initial value of the dual variables."""
    tolerance: float = 1e-8
    """Factor by which the gradient norm has to fall for the descent to have converged."""
    max_steps: int = 1_000_000
    """Largest number of steps."""
    seeds: Annotated[int, Bound(least=2)] = 5
    """Draws of V."""
    x64: bool = True
    """Double precision."""


PRESETS: dict[str, Config] = {
    "smoke": Config(s1=(2.0, 3.0), steps=500, seeds=2),
    "laptop": Config(),
    "paper": Config(),
}


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not.

    Raises:
        ValueError: `s1` does not increase, or the descent is bounded before the published number of steps.
    """
    expect(all(low < high for low, high in itertools.pairwise(config.s1)), "s1", "increasing numbers", config.s1)
    least = f"at least the {config.steps} published steps"
    expect(config.max_steps >= config.steps, "max_steps", least, config.max_steps)


class Descent(NamedTuple):
    """Gradient descent on one problem, in responses.

    Attributes:
        path: at `recorded_steps(config)`, which end with the published number of steps, `(T, 2)`.
        end: at the last step, `(2,)`.
        steps: number of steps to the end.
        converged: whether the gradient has fallen by the tolerance.
    """

    path: Float[Array, "T 2"]
    end: Float[Array, " 2"]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]


class Theory(NamedTuple):
    """The predictions for one problem, which do not depend on V.

    Attributes:
        times: of the recorded steps, `(T,)`.
        flow: the gradient flow at these times, in responses, `(T, 2)`.
        alpha: the dual variables at 0 and from 1e-6 to the last of these times, `(T, 2)`.
        dual_end: the response of the last of them, `(2,)`.
        equilibrium: the exact equilibrium in responses, `(2,)`.
        alpha_equilibrium: the same in dual variables, `(2,)`.
        converged: whether all solvers have converged.
    """

    times: Float[Array, " T"]
    flow: Float[Array, "T 2"]
    alpha: Float[Array, "T 2"]
    dual_end: Float[Array, " 2"]
    equilibrium: Float[Array, " 2"]
    alpha_equilibrium: Float[Array, " 2"]
    converged: Bool[Array, ""]


def recorded_steps(config: Config) -> np.ndarray:
    """The steps that are recorded: 0, and up to 120 from 1 to the published number."""
    return np.unique(np.concatenate([[0], np.geomspace(1, config.steps, 120).round()])).astype(int)


def problem(config: Config, s1: Float[ArrayLike, ""]) -> Features:
    """The features: U of Eq. 15, s = (s1, s2), labels +1."""
    return features.planar(config.delta, jnp.stack([jnp.asarray(s1), jnp.asarray(config.s2)]) ** 2)


def descend(
    config: Config,
    ridge: Float[Array, ""],
    sd: Float[Array, ""],
    s1: Float[Array, ""],
    key: Key[Array, ""],
) -> Descent:
    """Gradient descent with a random V on Eq. 5 or 17; the other strength is zero, so both share one program."""
    feats, penalty = problem(config, s1), (Ridge(ridge), SpectralDecoupling(sd))
    phi = feats.u * feats.s @ jax.random.orthogonal(key, 2).T
    descent = training.descend(
        _linear,
        jnp.zeros(2),
        phi,
        feats.y,
        penalty,
        step_size=config.learning_rate,
        steps=jnp.asarray(recorded_steps(config)),
        tolerance=config.tolerance,
        max_steps=config.max_steps,
    )
    end = feats.response(_linear(descent.params, phi))
    return Descent(feats.response(descent.logits), end, descent.steps, descent.converged)


def predict(config: Config, penalty: Penalty, s1: float) -> Theory:
    """The flow of Eq. 5 or 17, the dual of Eq. 9 or 18, and the equilibrium of both."""
    feats, times = problem(config, s1), config.learning_rate * jnp.asarray(recorded_steps(config), float)
    # The dual changes first on the time scale lambda / s_1^2, the primal with the first step.
    moments = jnp.concatenate([jnp.zeros(1), jnp.geomspace(1e-6, times[-1], len(times) - 1)])
    flow = linearized.flow(feats, penalty, times=times)
    ascent = dual.integrate(feats, penalty, times=moments, initial=config.initial)
    exact = dual.equilibrium(feats, penalty)
    return Theory(
        times=times,
        flow=flow.response,
        alpha=ascent.alpha,
        dual_end=ascent.response[-1],
        equilibrium=exact.response,
        alpha_equilibrium=exact.alpha,
        converged=flow.converged & ascent.converged & exact.converged,
    )


def study(config: Config, *, out: Path, seed: int) -> Study:
    """A cell per penalty: the descent on all problems with every V, and the predictions."""
    over_v = jax.vmap(functools.partial(descend, config), (None, None, None, 0))
    descents = jax.jit(jax.vmap(over_v, (None, None, 0, None)))
    keys = jax.random.split(jax.random.key(seed), config.seeds)

    def paths(name: str, penalty: Penalty) -> list[dict[str, Any]]:
        strengths = (jnp.asarray(penalty.strength * (name == other)) for other in TITLES)
        measured = jax.tree.map(np.asarray, descents(*strengths, jnp.asarray(config.s1), keys))._asdict()
        return [
            {
                "penalty": name,
                "s1": s1,
                "measured": {key: leaf[i] for key, leaf in measured.items()},
                "predicted": predict(config, penalty, s1)._asdict(),
            }
            for i, s1 in enumerate(config.s1)
        ]

    def report(rows: list[dict[str, Any]]) -> Report:
        lines = [row for name in TITLES for row in summarise(select(rows, penalty=name), config)]
        return Report(lines, judge(rows, config), {"paths.png": functools.partial(draw, rows, config)})

    return Study(
        {"name": "two features", "train": 2, "stand-in": False},
        [
            Cell({"penalty": name}, functools.partial(paths, name, penalty), columns(config), len(config.s1))
            for name, penalty in {"ridge": Ridge(config.ridge), "sd": SpectralDecoupling(config.sd)}.items()
        ],
        report,
    )


def columns(config: Config) -> Columns:
    """The columns of a row: a `Descent` for every V, and a `Theory`."""
    moments, seeds = len(recorded_steps(config)), config.seeds
    descent = {"path": (float, seeds, moments, 2), "end": (float, seeds, 2)}
    descent |= {"steps": (int, seeds), "converged": (bool, seeds)}
    theory = {"times": (float, moments), **dict.fromkeys(("flow", "alpha"), (float, moments, 2))}
    theory |= dict.fromkeys(("dual_end", "equilibrium", "alpha_equilibrium"), (float, 2))
    return {"s1": float, "measured": descent, "predicted": {**theory, "converged": bool}}


def summarise(rows: Sequence[dict[str, Any]], config: Config) -> list[dict[str, Any]]:
    """End points, measured and predicted, and the distance that remains after the published number of steps."""
    found, title, distances = [], TITLES[rows[0]["penalty"]], []
    for row in rows:
        measured, exact, name = row["measured"], row["predicted"]["equilibrium"], f"{title}, s_1 = {row['s1']:g}"
        path, end, steps = np.array(measured["path"]), np.array(measured["end"]), max(measured["steps"])
        differs = f"run on to {steps:,} steps" if all(measured["converged"]) else f"not converged at step {steps:,}"
        for j in range(2):
            found.append(_rows.measured(f"{name}: z_{j + 1}, measured", end[:, j], differs=differs))
            found.append(_rows.measured(f"{name}: z_{j + 1}, predicted", [exact[j]]))
        left = np.abs(path[:, -1] - exact).max(axis=1)
        found.append(_rows.measured(f"{name}: error of z after {config.steps:,} steps", left))
        distances.append(np.abs(path - np.array(row["predicted"]["flow"])).max(axis=(1, 2)))
    name = f"{title}: largest distance between descent and its flow"
    return [*found, _rows.measured(name, np.max(distances, axis=0))]


def judge(rows: Sequence[dict[str, Any]], config: Config) -> list[dict[str, Any]]:
    """Whether both paths of every problem end at its equilibrium, and how the end points depend on s_1.

    Seeds are rotations of the parameters, which change only rounding, so intervals over seeds are very narrow.
    """
    found, ends = [], f"{ACCURACY:g}, less than a thousandth of any response at the equilibria"
    for s1 in config.s1:
        runs = [row for row in rows if row["s1"] == s1]
        worst = np.max([error(row) for row in runs], axis=0)
        unfinished = sum(not (row["predicted"]["converged"] and all(row["measured"]["converged"])) for row in runs)
        found.append(
            _rows.stated(
                f"s_1 = {s1:g}: the paths end at the exact equilibrium",
                statistics.mean(worst),
                1.0 if unfinished else statistics.within(worst, below=ACCURACY),
                why=f"largest |z - z*| of primal and dual, ridge and spectral decoupling, below {ends}",
                reason=f"{unfinished} of {len(runs)} have not converged; the largest distance is {worst.max():.2g}",
            )
        )
    ridge, sd = (np.array([row["measured"]["end"] for row in select(rows, penalty=name)])[..., 1] for name in TITLES)
    steps = np.diff(ridge, axis=0)
    found.append(
        _rows.stated(
            "ridge: z_2 falls as s_1 grows",
            statistics.mean(ridge[-1] - ridge[0]),
            statistics.within(steps.max(axis=0), below=-ACCURACY),
            why=f"every step of s_1 takes z_2 down by more than {ends}; the value is that of all steps together",
            reason=f"the smallest of the steps is {steps.max():.2g}",
        )
    )
    name, spread = "spectral decoupling: z_2 stays as s_1 grows", np.ptp(sd, axis=0)
    reason = f"z_2 goes from {sd.min():.6g} to {sd.max():.6g}"
    return [
        *found,
        _rows.signature(name, spread, below=ACCURACY, why=f"{ends}; the largest z_2 less the smallest", reason=reason),
    ]


def error(row: dict[str, Any]) -> np.ndarray:
    """The distance of the end points from the exact equilibrium, the larger of primal and dual, for every V."""
    exact = np.array(row["predicted"]["equilibrium"])
    primal = np.abs(np.array(row["measured"]["end"]) - exact).max(axis=1)
    return np.maximum(primal, np.abs(np.array(row["predicted"]["dual_end"]) - exact).max())


def draw(rows: Sequence[dict[str, Any]], config: Config, path: Path) -> None:
    """Responses on the left, dual variables on the right; ridge above, spectral decoupling below."""
    figure, axes = plotting.panels(2, 2)
    labels = [f"$s_1 = {s1:g}$" for s1 in config.s1]
    for (left, right), penalty in zip(axes, TITLES, strict=True):
        runs = select(rows, penalty=penalty)
        exact, alpha, alpha_exact = (
            np.array([row["predicted"][key] for row in runs]) for key in ("equilibrium", "alpha", "alpha_equilibrium")
        )
        plotting.plane([row["measured"]["path"][0] for row in runs], exact, left, labels=labels)
        plotting.plane(alpha, alpha_exact, right, labels=())
        left.set(title=f"{TITLES[penalty]}: responses", xlabel="$z_1$", ylabel="$z_2$")
        right.set(title=f"{TITLES[penalty]}: dual variables", xlabel=r"$\alpha_1$", ylabel=r"$\alpha_2$")
    plotting.save(figure, path)


def _linear(theta: Float[Array, " m"], phi: Float[Array, "n m"]) -> Float[Array, " n"]:
    return phi @ theta
