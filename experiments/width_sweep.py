"""The width from which on theory describes trained networks, and how the error decreases with the width.

MLPs of Eq. 1 (Pezeshki et al. 2021) of increasing width are trained to the minimum of Eq. 5 (ridge) or 17 (spectral
decoupling). Their responses are compared with the equilibrium of the dual dynamics, for the tangent kernel of the same
network at initialisation and for that of infinite width. Some networks are trained again with the strength of a feature
changed, and the change of the responses is compared with the starvation matrix.

    python -m experiments width_sweep --preset smoke      15 seconds on 2 cores, nearly all of it compilation
    python -m experiments width_sweep --preset laptop     19 minutes on 2 shared cores
    python -m experiments width_sweep --preset pod        widths to 16,384, depths to 3, 64 seeds: for accelerators

The smoke preset has two widths and two seeds, and only tests that everything works. The pod preset has not been run.
The results are in `docs/results/width_sweep.md`.

In the limit the error is expected to fall like width^-1, a factor width^(-1/2) faster than the bound of Lee et al. 2019
(Dyer and Gur-Ari 2020). Against the kernel of infinite width it is expected to fall like width^(-1/2), which is the
spread of kernels of finite width. Local slopes, between each width and the next, show which networks are wide enough.

Under spectral decoupling the outputs agree with theory at every width; the parameters' responses S V^T theta approach
it. Training stops at a finite gradient, which leaves an error in the outputs. Where this error is no longer small
compared with that of the parameters, as with lambda = 10 at the largest widths, it flattens the slope.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float

from experiments import _rows
from experiments._bounds import Bound, expect
from experiments._study import Cell, Report, Study, select
from gsjax import data, plotting, statistics, sweeps
from gsjax.data import Dataset
from gsjax.statistics import Interval, Slope, loglog_slope

Data = Literal["two_moons", "digits", "fashion_mnist", "mnist", "cifar2"]


@dataclass(frozen=True)
class Config:
    """The grid of the sweep."""

    data: tuple[Data, ...] = ("two_moons", "digits")
    """Data sets: two_moons; digits (8x8, in scikit-learn); fashion_mnist, mnist, cifar2 (two classes of CIFAR-10)."""
    classes: Annotated[tuple[int, int], Bound(least=0)] = (3, 8)
    """Which two classes of the images; cifar2 takes them as labels of CIFAR-10 (3 cat, 5 dog)."""
    n: Annotated[int, Bound(least=2)] = 200
    """Training examples."""
    test: int = 100
    """Test examples."""
    widths: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
    """Widths of the hidden layers."""
    depths: Annotated[tuple[int, ...], tyro.conf.arg(aliases=("--depth",)), Bound(least=0)] = (1,)
    """Numbers of hidden layers."""
    seeds: Annotated[int, Bound(least=2)] = 8
    """Networks per cell."""
    penalties: Annotated[tuple[Literal["ridge", "sd"], ...], tyro.conf.arg(aliases=("--penalty",))] = ("ridge", "sd")
    """Penalties: ridge (Eq. 5), sd for spectral decoupling (Eq. 17)."""
    strengths: tuple[float, ...] = (1.0, 10.0)
    """Their strengths lambda."""
    activation: str = "tanh"
    """Activation. With relu, ridge can stop at a kink without a vanishing gradient, so runs do not converge."""
    tolerance: float = 1e-5
    """Factor by which the gradient norm has to fall for a run to have converged."""
    max_steps: int = 4000
    """Largest number of steps of a run."""
    starving: int = 3
    """Number of strongest features whose strength is changed to measure starvation."""
    starving_widths: Annotated[tuple[int, ...], Bound(entries=0)] = (32, 256, 1024)
    """Widths at which starvation is measured, with the first penalty, strength and depth; none if empty."""
    x64: bool = True
    """Double precision."""


PRESETS: dict[str, Config] = {
    "smoke": Config(
        data=("digits",),
        n=24,
        test=12,
        widths=(16, 32),
        seeds=2,
        strengths=(10.0,),
        tolerance=1e-3,
        starving=2,
        starving_widths=(32,),
    ),
    "laptop": Config(),
    "pod": Config(
        data=("two_moons", "digits", "mnist", "fashion_mnist", "cifar2"),
        n=512,
        test=1000,
        widths=(64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384),
        depths=(1, 2, 3),
        seeds=64,
        strengths=(1.0, 10.0, 100.0),
        tolerance=1e-3,
        starving_widths=(64, 1024, 16384),
        x64=False,
    ),
}


def make_sweep(config: Config, seed: int) -> sweeps.Sweep:
    """The `sweeps.Sweep` of a configuration."""
    names = {field.name for field in dataclasses.fields(sweeps.Sweep)} & vars(config).keys()
    return sweeps.Sweep(**{name: getattr(config, name) for name in names}, seed=seed)


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not.

    Raises:
        ValueError: an unknown activation; `starving` larger than the number of features.
    """
    make_sweep(config, seed=0)
    expect(config.starving <= config.n, "starving", f"at most n = {config.n}", config.starving)


def load(name: str, config: Config, seed: int) -> tuple[Dataset, Dataset]:
    """The training and test examples.

    Two moons get a constant third coordinate, since Eq. 1 has no biases. They are scaled by five, so that the first
    layer separates neighbouring points: otherwise the kernel of a smooth activation has only about half of full rank.
    """
    key, total = jax.random.key(seed), config.n + config.test
    if name == "two_moons":
        x, y = data.two_moons(key, total)
        whole = Dataset(5 * jnp.concatenate([x, jnp.ones((total, 1))], axis=1), y)
    elif name == "digits":
        whole = data.digits(config.classes, n=total, key=key)
    else:
        # The test split is large enough, and often present where the training split is not.
        images = data.get("cifar10" if name == "cifar2" else name).read("test")
        whole = data.two_classes(images, config.classes, n=total, key=key)
    return Dataset(whole.x[: config.n], whole.y[: config.n]), Dataset(whole.x[config.n :], whole.y[config.n :])


def study(config: Config, *, out: Path, seed: int) -> Study:
    """A cell per network, penalty and data set; in the folder `starvation`, a cell per width of `starving_widths`."""
    sweep, sizes, cells = make_sweep(config, seed), [], []
    for name in config.data:
        train, test = load(name, config, seed)
        sizes.append({"name": name, "train": len(train.y), "test": len(test.y), "stand-in": False})
        cells += [sweep_cell(sweep, cell, train, test, name) for cell in sweeps.cells(sweep)]
        cells += [starvation_cell(sweep, config, width, train, name) for width in config.starving_widths]
    return Study(sizes, cells, functools.partial(report, config), together=True)


def sweep_cell(sweep: sweeps.Sweep, cell: sweeps.Cell, train: Dataset, test: Dataset, name: str) -> Cell:
    """The networks with one width, depth, penalty and strength, each compared with theory."""
    single = dataclasses.replace(
        sweep, widths=(cell.width,), depths=(cell.depth,), penalties=(cell.penalty,), strengths=(cell.strength,)
    )
    compute = functools.partial(sweeps.run, single, train, test, name=name)
    errors = ("error_empirical", "error_infinite", "error_parameters", "drift", "test_accuracy", "gradient_norm")
    columns = {"seed": int, "n": int, **dict.fromkeys(errors, float), "iterations": int, "converged": bool}
    columns |= dict.fromkeys(("errors_empirical", "errors_infinite"), (float, None))
    return Cell({"data": name, **cell._asdict()}, compute, columns, sweep.seeds)


def starvation_cell(sweep: sweeps.Sweep, config: Config, width: int, train: Dataset, name: str) -> Cell:
    """Predicted and measured starvation in the networks of a width."""
    cell = sweeps.Cell(width, config.depths[0], config.penalties[0], config.strengths[0])
    key = {"data": name, **cell._asdict()}

    def compute() -> list[dict[str, Any]]:
        measured = sweeps.starvation(sweep, cell, train, features=config.starving)
        return [
            {**key, "seed": seed, "predicted": p.tolist(), "measured": m.tolist(), "converged": bool(c)}
            for seed, (p, m, c) in enumerate(zip(*measured, strict=True))
        ]

    matrix = (float, config.starving, config.starving)
    columns = {"seed": int, "predicted": matrix, "measured": matrix, "converged": bool}
    return Cell(key, compute, columns, sweep.seeds, folder="starvation")


def report(config: Config, rows: list[dict[str, Any]]) -> Report:
    """For each data set: rows and signatures of every sweep over widths, the error of starvation, and a figure."""
    lines, signatures, figures = [], [], {}
    for name in config.data:
        finished = [row for row in select(rows, data=name) if "predicted" not in row]
        starved = [row for row in select(rows, data=name) if "predicted" in row]
        figures[f"{name}.png"] = functools.partial(draw, finished, starved, config)
        for group in groups(finished, config):
            lines += summarise(group, config)
            signatures.append(judge(group))
        lines += compare(starved, config)
    return Report(lines, signatures, figures)


def groups(rows: Sequence[dict[str, Any]], config: Config) -> list[list[dict[str, Any]]]:
    """The rows of one data set by depth, penalty and strength; each group is a sweep over widths."""
    kinds = itertools.product(config.depths, config.penalties, config.strengths)
    return [[r for r in rows if (r["depth"], r["penalty"], r["strength"]) == kind] for kind in kinds]


def against_width(group: Sequence[dict[str, Any]], key: str) -> tuple[list[int], np.ndarray]:
    """The widths at which every seed has converged, and the values of `key` at these widths, one row per seed."""
    return sweeps.against_width(group, key)


def judged(group: Sequence[dict[str, Any]]) -> str:
    """The error that is judged: of the two readings of Definition 1, the one that depends on the width."""
    return sweeps.READINGS[group[0]["penalty"]]


def local_slopes(widths: Sequence[int], values: Float[np.ndarray, "seeds w"]) -> list[Slope]:
    """The slope between each width and the next, with its interval over seeds; empty for fewer than three widths.

    Local slopes show what the slope over all widths hides: whether it still changes, and where it settles.
    """
    if len(widths) < 3:  # with two widths it is the slope over all
        return []
    return [loglog_slope(widths[i : i + 2], values[:, i : i + 2]) for i in range(len(widths) - 1)]


def stopped(group: Sequence[dict[str, Any]], width: int) -> str:
    """A note on the error that the end of training leaves at a width under spectral decoupling; empty for ridge.

    At the minimum of Eq. 17 the outputs of any network are the predicted ones, so their error is due to the tolerance
    of training. If the error of the parameters is not much larger, it reflects the tolerance and not the width.
    """
    trained = [row for row in group if row["width"] == width]
    if trained[0]["penalty"] != "sd":
        return ""
    outputs, parameters = (np.mean([row[key] for row in trained]) for key in ("error_empirical", "error_parameters"))
    return f"where training stopped, outputs are off by {outputs / parameters:.0%} of the error at width {width}"


def summarise(group: Sequence[dict[str, Any]], config: Config) -> list[dict[str, Any]]:
    """Slopes against the width, and values at the largest width, with intervals over seeds."""
    first = group[0]
    setting = f"{first['data']}, {first['penalty']}, lambda = {first['strength']:g}, depth {first['depth']}"
    failed = sum(not row["converged"] for row in group)
    unconverged = f"{failed} of {len(group)} runs did not converge" if failed else ""

    def row(name: str, measured: Any, low: Any, high: Any, width: int | None = None) -> dict[str, Any]:
        differs = "; ".join(filter(None, (unconverged, stopped(group, width) if width else "")))
        return {
            "name": f"{setting}: {name}",
            "measured": float(measured),
            "interval": [float(low), float(high)],
            "seeds": config.seeds,
            "published": None,
            "differs": differs,
        }

    rows = []
    slopes = {"slope of the error": judged(group), "slope of the error against infinite width": "error_infinite"}
    for name, key in slopes.items():
        widths, values = against_width(group, key)
        if len(widths) > 1 and not (key == "error_infinite" and first["penalty"] == "sd"):
            rows.append(row(name, *loglog_slope(widths, values), widths[-1]))
    widths, values = against_width(group, judged(group))
    for i, slope in enumerate(local_slopes(widths, values)):
        rows.append(row(f"local slope of the error, widths {widths[i]} to {widths[i + 1]}", *slope, widths[i + 1]))
    for name, key in {"error": judged(group), "drift of the kernel": "drift"}.items():
        widths, values = against_width(group, key)
        if widths:
            noted = widths[-1] if key != "drift" else None
            rows.append(row(f"{name} at width {widths[-1]}", *statistics.mean(values[:, -1]), noted))
    return rows


def judge(group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whether the error falls faster than the bound of width^(-1/2)."""
    first, (widths, values) = group[0], against_width(group, judged(group))
    setting = f"{first['data']}, {first['penalty']}, lambda = {first['strength']:g}, depth {first['depth']}"
    name, why = f"{setting}: the error falls with the width", "slope below -1/2, the bound of Lee et al. 2019"
    if len(widths) < 2:
        reason = "there are fewer than two widths at which every run has converged"
        return _rows.stated(name, None, 1.0, why=why, reason=reason)
    slope = loglog_slope(widths, values)
    # Errors are averaged geometrically, so the slope is the mean of one slope per seed.
    each = [loglog_slope(widths, np.stack([errors, errors])).value for errors in values]
    reason = f"the slope is {slope.value:.2f} over widths from {widths[0]} to {widths[-1]}"
    interval = Interval(*map(np.asarray, slope))
    return _rows.stated(name, interval, statistics.within(each, below=-0.5), why=why, reason=reason)


def compare(starved: Sequence[dict[str, Any]], config: Config) -> list[dict[str, Any]]:
    """The error of the starvation matrix against measured starvation: |measured - predicted|_F / |predicted|_F."""
    rows = []
    for width in config.starving_widths:
        trained = [row for row in starved if row["width"] == width]
        predicted, measured = (np.array([row[key] for row in trained]) for key in ("predicted", "measured"))
        errors = np.linalg.norm(measured - predicted, axis=(1, 2)) / np.linalg.norm(predicted, axis=(1, 2))
        value, low, high = statistics.mean(errors)
        failed = sum(not row["converged"] for row in trained)
        first = trained[0]
        rows.append(
            {
                "name": f"{first['data']}, {first['penalty']}, width {width}: error of the starvation matrix",
                "measured": float(value),
                "interval": [float(low), float(high)],
                "seeds": len(trained),
                "published": None,
                "differs": f"{failed} of {len(trained)} networks did not converge" if failed else "",
            }
        )
    return rows


def draw(rows: Sequence[dict[str, Any]], starved: Sequence[dict[str, Any]], config: Config, path: Path) -> None:
    """The error against the width, one panel per depth, strength and penalty; local slopes and starvation below."""
    lines, local = len(config.depths) * len(config.strengths), len(config.widths) > 2
    figure, axes = plotting.panels(lines + local + bool(starved), len(config.penalties))
    for group in groups(rows, config):
        depth, penalty, strength = (group[0][key] for key in ("depth", "penalty", "strength"))
        line = config.depths.index(depth) * len(config.strengths) + config.strengths.index(strength)
        ax = axes[line][config.penalties.index(penalty)]
        series = {judged(group): "own kernel", "error_infinite": "infinite width", "drift": "drift of the kernel"}
        for key, label in series.items():
            widths, values = against_width(group, key)
            if len(widths) > 1 and not (key == "error_infinite" and penalty == "sd"):
                plotting.error_against_width(widths, values, loglog_slope(widths, values), ax=ax, label=label)
        ax.set_xlabel(f"width ({penalty}, $\\lambda$ = {strength:g}, depth {depth})")
        ax.set_ylabel("relative error")
        if local:
            draw_local(axes[lines][config.penalties.index(penalty)], group)
    if starved:
        ax, *others = axes[-1]
        for width in config.starving_widths:
            trained = [row for row in starved if row["width"] == width]
            predicted, measured = (np.ravel([row[key] for row in trained]) for key in ("predicted", "measured"))
            ax.plot(predicted, measured, ".", label=f"width {width}", alpha=0.7)
        ax.axline((0, 0), slope=1, color="black", linewidth=0.8)
        ax.set_xscale("symlog", linthresh=1e-3)
        ax.set_yscale("symlog", linthresh=1e-3)
        ax.set_xlabel(r"predicted $dz_j^*/ds_i^2$")
        ax.set_ylabel("measured")
        ax.legend()
        for other in others:
            other.set_axis_off()
    plotting.save(figure, path)


def draw_local(ax: Any, group: Sequence[dict[str, Any]]) -> None:
    """Adds the local slopes of the error of one sweep over widths to the panel of its penalty."""
    widths, values = against_width(group, judged(group))
    slopes = np.array(local_slopes(widths, values)).reshape(-1, 3)
    if not ax.lines:
        for exponent in (-1, -0.5):
            ax.axhline(exponent, color="0.35", linestyle="--", linewidth=1.3, zorder=1)
    centres = np.sqrt(np.multiply(widths[1:], widths[:-1]))[: len(slopes)]
    value, low, high = slopes.T
    label = f"$\\lambda$ = {group[0]['strength']:g}, depth {group[0]['depth']}"
    ax.errorbar(centres, value, [value - low, high - value], fmt="o-", capsize=3, markersize=4, label=label)
    ax.set_xscale("log")
    ax.set_xlabel(f"width ({group[0]['penalty']})")
    ax.set_ylabel("local slope of the error")
    ax.legend()
