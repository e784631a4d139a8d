"""Many features at once: what structure of U makes starvation prevail, and what real networks on real data have of it.

Theorem 2 of Pezeshki et al. 2021 is about two features, of which the stronger starves the weaker. Here there are n: the
starvation matrix of Definition 2 at the equilibrium of Eq. 9, for random bases U with and without structure
(`gsjax.starvation.structures`), and for the U of networks at initialisation on pairs of classes of real images.
Strengths have mean one, and lambda is relative to that. Kernels are as they come, not centred; from the images the mean
image of their data set has been taken away.

    python -m experiments ensembles --preset smoke     20 seconds on 2 cores, nearly all of it compilation
    python -m experiments ensembles --preset laptop    six minutes on 2 cores
    python -m experiments ensembles --preset paper     larger n and more draws; it has not been run

The smoke preset wants no data but scikit-learn's digits. A data set whose files are not there is left out, and the
summary says so. What the laptop preset found, n = 64, strengths like 1/i and lambda = 0.1 where nothing else is said:

- Half of all pairs starve in a random U, 0.498 [0.495, 0.501], whatever n, decay and lambda are.
- All of them do where stronger features load positively on the examples of weaker ones, 0.998 [0.997, 0.998] at
  perturbations of 1e-5 of an identity. At 1e-2 that is over: 0.391 [0.384, 0.397].
- A strongest feature that agrees with the labels starves the others, 0.972 [0.966, 0.977] of them at an overlap of
  0.999; but at 0.3 to 0.5 it starves fewer than half of them, and among all pairs it changes little.
- Features that compete for a few examples which the strongest gets wrong starve each other: 0.707 [0.699, 0.715] of all
  pairs for one such example; all of them, as predicted, if the others are equally strong.
- Real networks at initialisation, n = 128: 0.50 to 0.58 of all pairs, the more the fewer examples carry the loss (rank
  correlation -0.92 [-0.97, -0.81] over 26 pairs of classes). Their strongest feature has little to do with the labels;
  the best aligned one starves up to three quarters of the features weaker than itself.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key
from scipy import integrate, stats

from experiments import _rows
from experiments._bounds import Bound
from gsjax import _check, data, features, networks, plotting, records, statistics, tangent
from gsjax.data import Dataset, Images
from gsjax.objectives import Ridge
from gsjax.starvation import structures
from gsjax.starvation.ensemble import Ensemble, ensemble

Structure = Literal["random", "near identity", "positive loadings", "aligned", "exceptions", "blocks"]
Task = str  # a data set and the labels of two classes, as in "fashion_mnist_2_4"
Network = Literal["mlp", "cnn"]

# What each structure is where something else is varied; see `bases`.
PARAMETERS: dict[Structure, float] = {
    "random": 0.0,
    "near identity": 1e-3,
    "positive loadings": 1e-3,
    "aligned": 0.9,
    "exceptions": 1.0,
    "blocks": 0.0,
}
BLOCK = 8
NEAR = 0.05  # what counts as near a share of pairs: a tenth of what lies between a half, no effect, and all
# Named in the text and figures. What is said over tasks is over these and a ring of classes, each with the next one.
TASKS = ("digits_3_8", "digits_0_1", "mnist_3_8", "mnist_0_1", "fashion_mnist_2_4", "fashion_mnist_1_9", "cifar10_3_5")
RING = tuple(
    f"{name}_{label}_{(label + 1) % 10}"
    for name, labels in (("mnist", range(1, 10)), ("fashion_mnist", range(10)))  # mnist_0_1 is there already
    for label in labels
)
OFFICIAL = 10_000  # images in each of the test splits
LABELS: dict[Structure, str] = {
    "random": "random",
    "near identity": "near identity (0.001), random signs",
    "positive loadings": "near identity (0.001), positive",
    "aligned": "aligned with the labels (0.9)",
    "exceptions": "aligned but for one exception",
    "blocks": f"blocks of {BLOCK}",
}
SIGNS: dict[Structure, str] = {"positive loadings": "positive", "near identity": "random signs"}
# Of tasks, in text and figures; other data sets have the title of the catalogue.
SHORT: dict[str, str] = {"fashion_mnist": "Fashion", "cifar10": "CIFAR-2", "digits": "digits"}


@dataclass(frozen=True)
class Config:
    """What is computed: one thing varied at a time around `n`, `decay` and `strength`."""

    n: int = 64
    """Examples, and features, of the random bases."""
    decay: float = 1.0
    """Of their strengths, s_i^2 proportional to i^-decay."""
    strength: float = 0.1
    """lambda, relative to the mean of s_i^2."""
    ns: tuple[int, ...] = (16, 32, 64, 128)
    """Other n, multiples of 8."""
    decays: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5, 2.0)
    """Other decays; at 0, equal strengths, nothing starves."""
    strengths: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """Other lambdas."""
    sizes: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """Of the perturbation of an identity."""
    overlaps: Annotated[tuple[float, ...], Bound(least=0, below=1)] = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
    """Of the strongest feature with the labels."""
    counts: tuple[int, ...] = (1, 2, 3, 4, 8, 16)
    """Of the examples on which a feature disagrees with the labels that agrees with all others."""
    draws: Annotated[int, Bound(least=2)] = 40
    """Random bases; networks, each on examples of its own."""
    tasks: tuple[str, ...] = (*TASKS, *RING)
    """Data sets of images (as in mnist_3_8), each with the labels of the classes that are -1 and +1."""
    networks: tuple[Network, ...] = ("mlp", "cnn")
    """mlp: two hidden layers of 256; cnn: two of 16 channels and stride 2, averaged over positions. Eq. 1, relu."""
    examples: Annotated[tuple[int, ...], Bound(least=2)] = (32, 64, 128)
    """Numbers of real examples; the smaller sets are parts of the largest."""
    real_strengths: tuple[float, ...] = (1e-3, 1e-1, 10.0)
    """lambda on real data."""
    x64: bool = True
    """Double precision."""


PRESETS: dict[str, Config] = {
    "smoke": Config(
        n=16,
        ns=(16,),
        decays=(1.0,),
        strengths=(0.1,),
        sizes=(1e-5, 1e-3),
        overlaps=(0.0, 0.99),
        counts=(1, 2),
        draws=8,
        tasks=("digits_3_8",),
        networks=("mlp",),
        examples=(16,),
        real_strengths=(1e-3, 1e-1),
    ),
    "laptop": Config(),
    "paper": Config(n=256, ns=(32, 64, 128, 256, 512), draws=200, examples=(64, 128, 256, 512)),
}


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not.

    Raises:
        ValueError: `n` or one of `ns` of which no blocks can be made; counts of exceptions that are no exceptions; a
            task that is none.
    """
    for name, sizes in (("n", (config.n,)), ("ns", config.ns)):
        for n in sizes:
            _check.require(n > BLOCK and n % BLOCK == 0, name, f"multiples of {BLOCK} above it", n)
    good = all(count < config.n / 2 for count in config.counts) and min(config.counts) * 8 <= config.n
    expected = f"numbers from 1 to less than {config.n / 2:g}, one up to n / 8"
    _check.require(good, "counts", expected, config.counts)
    for task in config.tasks:
        known = re.fullmatch(rf"({'|'.join(data.IMAGES)})_(\d)_(?!\2)\d", task)
        _check.require(known, "tasks", f"one of {', '.join(data.IMAGES)} with two labels, as in mnist_3_8", task)


class Cell(NamedTuple):
    """An ensemble of random bases; `spectrum` is "power law", or "step": one strong feature, all others equal."""

    structure: Structure
    parameter: float
    spectrum: Literal["power law", "step"]
    n: int
    decay: float
    strength: float


def cells(config: Config) -> list[Cell]:
    """All ensembles of random bases: those that vary n, decay and lambda, and those that vary the structure."""
    base = Cell("random", 0.0, "power law", config.n, config.decay, config.strength)
    found = []
    for structure, parameter in PARAMETERS.items():
        of = base._replace(structure=structure, parameter=parameter)
        found += [of, *(of._replace(n=n) for n in config.ns), *(of._replace(decay=decay) for decay in config.decays)]
        found += [of._replace(strength=strength) for strength in config.strengths]
    varied: dict[Structure, Sequence[float]] = {
        "near identity": config.sizes,
        "positive loadings": config.sizes,
        "aligned": config.overlaps,
        "exceptions": config.counts,
    }
    for structure, parameters in varied.items():
        found += [base._replace(structure=structure, parameter=float(parameter)) for parameter in parameters]
    found += [base._replace(structure="exceptions", parameter=float(q), spectrum="step") for q in config.counts]
    return list(dict.fromkeys(found))


def bases(
    keys: Key[Array, " draws"], parameter: float | Float[Array, ""], *, structure: Structure, n: int
) -> Float[Array, "draws n n"]:
    """Random bases of a structure; `parameter` is the size, overlap or count that it takes."""
    build: dict[Structure, Callable[[Array], Array]] = {
        "random": lambda key: structures.random_orthogonal(key, n),
        "near identity": lambda key: structures.near_identity(key, n, parameter),
        "positive loadings": lambda key: structures.near_identity(key, n, parameter, signs="positive"),
        "aligned": lambda key: structures.aligned(key, n, parameter),
        "exceptions": lambda key: structures.exceptions(key, n, jnp.asarray(parameter, int)),
        "blocks": lambda key: structures.blocks(key, n, BLOCK),
    }
    return lax.map(build[structure], keys)


def spectrum(cell: Cell) -> Float[Array, " n"]:
    """The strengths of a cell; in a step the strongest has half of all there is."""
    if cell.spectrum == "power law":
        return structures.power_law(cell.n, cell.decay)
    s2 = jnp.ones(cell.n).at[0].set(cell.n - 1)
    return s2 / jnp.mean(s2)


def competing(count: int) -> float:
    """The share of pairs that starve among the features that compete for `count` exceptions.

    `1 - E[t] / pi` for the angle t between a line of random direction in `count` dimensions and the line along the
    vector of ones, of density proportional to `sin(t)^(count - 2)`; see `gsjax.starvation.ensemble`.

    >>> [round(competing(count), 3) for count in (1, 2, 3)]
    [1.0, 0.75, 0.682]
    """
    if count == 1:
        return 1.0
    moment, total = (
        integrate.quad(lambda t, power=power: t**power * np.sin(t) ** (count - 2), 0, np.pi / 2)[0] for power in (1, 0)
    )
    return 1 - moment / total / np.pi


def network(name: Network) -> nn.Module:
    """The network of a name."""
    return networks.MLP((256, 256)) if name == "mlp" else networks.CNN((16, 16), strides=(2, 2))


@functools.cache
def images(source: str) -> Images:
    """The test split of a data set, which suffices, and is there where the larger one is not."""
    return data.get(source).read("test")


def source(task: Task) -> tuple[str, tuple[int, int]]:
    """The data set of a task, and its two classes.

    >>> source("fashion_mnist_2_4")
    ('fashion_mnist', (2, 4))
    """
    name, first, second = task.rsplit("_", 2)
    return name, (int(first), int(second))


def there(task: Task) -> bool:
    """Whether the files of a task are."""
    name, _ = source(task)
    return name == "digits" or data.available(name, "test")


def load(key: Key[Array, ""], task: Task, n: int) -> Dataset:
    """`n` examples of a task, in random order."""
    name, classes = source(task)
    return (
        data.digits(classes, n=n, key=key)
        if name == "digits"
        else data.two_classes(images(name), classes, n=n, key=key)
    )


def real(
    key: Key[Array, ""], task: Task, name: Network, config: Config
) -> list[tuple[int, Float[Array, "draws n r"], Float[Array, "draws r"]]]:
    """Bases and strengths, of mean one, of networks at initialisation, each on examples of its own, for every n.

    Features beyond the lowest numerical rank of all draws are left out.
    """
    module = network(name)

    @jax.jit
    def kernel(key: Key[Array, ""], x: Array) -> Array:
        return tangent.ntk(module.apply, module.init(key, x[:1]), x)

    found = []
    for of_data, of_weights in jax.random.split(key, (config.draws, 2)):
        x, y = load(of_data, task, max(config.examples))
        gram = kernel(of_weights, x)
        found.append([features.from_ntk(gram[:n, :n], y[:n]) for n in config.examples])
    stacks = []
    for n, feats in zip(config.examples, zip(*found, strict=True), strict=True):
        r = min(len(feat.s) for feat in feats)
        u, s2 = jnp.stack([feat.u[:, :r] for feat in feats]), jnp.stack([feat.s2[:r] for feat in feats])
        stacks.append((n, u, s2 / jnp.mean(s2, axis=1, keepdims=True)))
    return stacks


def overlaps(u: Float[Array, "draws n r"]) -> dict[str, np.ndarray]:
    """`|1.u_j| / sqrt(n)` of the strongest feature, which is the first, and the largest of all, a number a draw."""
    every = np.abs(np.asarray(u).sum(axis=1)) / u.shape[1] ** 0.5
    return {"overlap_strongest": every[:, 0], "overlap_aligned": every.max(axis=1)}


def run(config: Config, out: Path, *, preset: str, seed: int) -> None:
    """Computes what is not there yet, and writes `rows.jsonl`, `summary.json` and the figures."""
    check(config)
    if jax.process_index() != 0:  # small matrices: there is nothing to share out
        return
    table = records.Table(out, {**dataclasses.asdict(config), "seed": seed})
    draw = jax.jit(bases, static_argnames=("structure", "n"))
    for cell in cells(config):
        if not table.has(cell._asdict()):
            start = time.perf_counter()
            # The same draws in all cells of a structure: differences between them are not those of the draw.
            keys = jax.random.split(_key(seed, cell.structure), config.draws)
            found = ensemble(
                draw(keys, cell.parameter, structure=cell.structure, n=cell.n), spectrum(cell), Ridge(cell.strength)
            )
            table.add(cell._asdict(), _by_draw(cell._asdict(), found, {}), time.perf_counter() - start)
    present: list[Task] = [task for task in config.tasks if there(task)]
    for task, name in itertools.product(present, config.networks):
        if not table.has({"task": task, "network": name}):
            start, rows = time.perf_counter(), []
            for n, u, s2 in real(_key(seed, f"{task} {name}"), task, name, config):
                for strength in config.real_strengths:
                    cell = {"task": task, "network": name, "n": n, "strength": strength}
                    rows += _by_draw(cell, ensemble(u, s2, Ridge(strength)), overlaps(u))
            table.add({"task": task, "network": name}, rows, time.perf_counter() - start)

    rows = Rows(table.rows)
    draw_structures(rows, config, out / "structures.png")
    draw_scaling(rows, config, out / "scaling.png")
    if present:
        draw_real(rows, config, present, out / "real.png")
    _rows.finish(
        out,
        experiment="ensembles",
        preset=preset,
        config=config,
        seed=seed,
        data=about(config),
        rows=summarise(rows, config, present),
        signatures=judge(rows, config, present),
    )


class Rows:
    """The rows of a table, as arrays over draws."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """From rows that have a `draw`, and otherwise what they are of, and what was found."""
        self._rows = rows

    def draws(self, of: Mapping[str, Any], field: str) -> Float[np.ndarray, " draws"]:
        """The numbers `field` of all draws of an ensemble; NaN where there is none."""
        found = [row[field] for row in self._rows if all(row.get(key) == value for key, value in of.items())]
        return np.array(found, float)

    def synthetic(
        self, config: Config, structure: Structure, field: str, **changed: Any
    ) -> Float[np.ndarray, " draws"]:
        """The same of a structure as it is where nothing else is varied, except for what is `changed`."""
        base = Cell(structure, PARAMETERS[structure], "power law", config.n, config.decay, config.strength)
        return self.draws(base._replace(**changed)._asdict(), field)

    def others(self, config: Config, count: int, spectrum: str = "step") -> Float[np.ndarray, " draws"]:
        """The share of pairs that starve among all but the strongest feature, which is wrong on `count` examples."""
        changed = {"parameter": float(count), "spectrum": spectrum}
        share, first = (self.synthetic(config, "exceptions", field, **changed) for field in ("share", "by_strongest"))
        return (config.n * share - 2 * first) / (config.n - 2)


def about(config: Config) -> list[dict[str, Any]]:
    """What a summary says of its data; a set that is absent has no examples."""
    found = []
    for task in config.tasks:
        name, classes = source(task)
        kind = "scikit-learn's 8 x 8 digits" if name == "digits" else f"{name}, test split"
        if name != "digits" and there(task) and len(images(name).labels) < OFFICIAL:
            kind += f" ({len(images(name).labels):,} of its {OFFICIAL:,} images: a subset)"
        sizes = f"{max(config.examples)} a draw" if there(task) else "its files are not there: left out"
        found.append({"name": f"{kind}, classes {classes[0]} and {classes[1]}", "train": sizes, "stand-in": False})
    return found


def summarise(rows: Rows, config: Config, present: Sequence[Task]) -> list[dict[str, Any]]:
    """Shares, sizes and inequalities by structure; what varies with it; and the same of real networks."""
    found = []
    of = {
        "share": "share of pairs that starve",
        "strongest": "strongest",
        "inequality": "inequality, decades",
        "downhill": "starving pairs in which the stronger takes more",
    }
    for structure, label in LABELS.items():
        for field, name in of.items():
            found += _measured(f"{label}: {name}", rows.synthetic(config, structure, field))
    for size in config.sizes:
        for structure, label in SIGNS.items():
            name = f"near identity ({size:g}), {label}: share of pairs that starve"
            found += _measured(name, rows.synthetic(config, structure, "share", parameter=size))
    for overlap in config.overlaps:
        for field, name in (("by_strongest", "starved by the strongest"), ("share", "share of pairs that starve")):
            values = rows.synthetic(config, "aligned", field, parameter=overlap)
            found += _measured(f"strongest aligned with the labels ({overlap:g}): {name}", values)
    for count in config.counts:
        predicted = f"{competing(count):.3f} predicted for n >> {count}"
        name = f"strongest wrong on {count} of {config.n}, others equally strong: share of their pairs that starve"
        found += _measured(name, rows.others(config, count), predicted)
        name = f"strongest wrong on {count} of {config.n}, power law: share of pairs that starve"
        found += _measured(name, rows.synthetic(config, "exceptions", "share", parameter=float(count)))
    names = of | {
        "support": "share of examples that carry the loss",
        "overlap_strongest": "overlap of the strongest with the labels",
        "by_strongest": "starved by the strongest",
        "overlap_aligned": "overlap of the best aligned",
        "by_aligned": "weaker ones starved by the best aligned",
    }
    for task, name in itertools.product(present, config.networks):
        cell = _real_cell(task, name, config)
        for field, what in names.items():
            found += _measured(f"{title(task)}, {name}: {what}", rows.draws(cell, field))
        for changed in [{"n": n} for n in config.examples] + [{"strength": s} for s in config.real_strengths]:
            if changed.items() <= cell.items():
                continue
            [(key, value)] = changed.items()
            what = f"{'lambda' if key == 'strength' else key} = {value:g}: {of['share']}"
            found += _measured(f"{title(task)}, {name}, {what}", rows.draws(cell | changed, "share"))
    return found


def judge(rows: Rows, config: Config, present: Sequence[Task]) -> list[dict[str, Any]]:
    """Whether starvation prevails where it should, and does not where it should not."""

    def share(name: str, values: np.ndarray, limit: float) -> dict[str, Any]:
        why = f"{limit:g} in the limit, by theory, and no further from it than {NEAR:g}"
        reason = f"the mean over draws is {values.mean():.3f}, that of single draws from {values.min():.3f} to "
        reason += f"{values.max():.3f}"
        above, below = limit - NEAR, limit + NEAR if limit + NEAR < 1 else None
        return _rows.signature(name, values, above=above, below=below, why=why, reason=reason)

    size, overlap = min(config.sizes), max(config.overlaps)
    found = [share("random: half of all pairs starve", rows.synthetic(config, "random", "share"), 0.5)]
    for structure, label in SIGNS.items():
        prevails = structure == "positive loadings"
        name = f"near identity ({size:g}), {label}: {'nearly all' if prevails else 'half of all'} pairs starve"
        found.append(share(name, rows.synthetic(config, structure, "share", parameter=size), 1.0 if prevails else 0.5))
    for at, label, limit in (
        (overlap, "the strongest starves nearly all others", 1.0),
        (min(config.overlaps), "control: it starves half of them", 0.5),
    ):
        name = f"overlap {at:g} with the labels, {label}"
        found.append(share(name, rows.synthetic(config, "aligned", "by_strongest", parameter=at), limit))
    few = [count for count in config.counts if 8 * count <= config.n]
    for spectrum, label in (
        ("step", "all other strengths equal: the predicted share of the other pairs starves"),
        ("power law", "control, strengths by the power law: fewer than the predicted share"),
    ):
        gaps = [rows.others(config, count, spectrum) - competing(count) for count in few]
        worst = max(gaps, key=lambda gap: abs(gap.mean()))
        bounds = {"above": -NEAR, "below": NEAR} if spectrum == "step" else {"below": -NEAR}
        why = f"the prediction holds for n >> {few[-1]}; the largest of the differences from it for {few} exceptions"
        reason = f"the differences are {', '.join(f'{gap.mean():.3f}' for gap in gaps)}"
        found.append(_rows.signature(f"few exceptions, {label}", worst, **bounds, why=why, reason=reason))
    within = rows.synthetic(config, "blocks", "share") / rows.synthetic(config, "blocks", "coupled")
    found.append(share("blocks: half of the pairs within a block starve", within, 0.5))
    across = (rows.synthetic(config, "blocks", "coupled") * (config.n - 1) - (BLOCK - 1)).round(9)
    found.append(
        _rows.stated(
            "blocks: features coupled to one in another block",
            statistics.mean(across),
            float(across.any()),
            why="none, exactly",
            reason=f"in {np.count_nonzero(across)} of {len(across)} draws there are some",
        )
    )
    if len(present) > 3:
        found += _judge_real(rows, config, present)
    return found


def _judge_real(rows: Rows, config: Config, present: Sequence[Task]) -> list[dict[str, Any]]:
    """What holds over tasks: these are what is resampled, as the networks and lambdas of one are no other tasks."""

    def of(task: Task, field: str) -> list[np.ndarray]:
        cells = [
            {"task": task, "network": name, "n": max(config.examples), "strength": strength}
            for name in config.networks
            for strength in config.real_strengths
        ]
        return [rows.draws(cell, field) for cell in cells]

    shares = [draws for task in present for draws in of(task, "share")]
    means = [draws.mean() for draws in shares]
    found = [
        _rows.stated(
            "real networks: more than 45% and fewer than 65% of all pairs starve, for each task, network and lambda",
            statistics.mean(np.array([np.mean(of(task, "share")) for task in present])),
            max(statistics.within(draws, above=0.45, below=0.65) for draws in shares),
            why="bounds set after a pilot of three tasks; the p-value is the largest of all, which needs no correction",
            reason=f"the means over draws go from {min(means):.3f} to {max(means):.3f}",
        )
    ]
    for field, name, cause, sign in (
        ("support", "the fewer examples carry the loss, the more pairs starve", "share", -1),
        ("overlap_aligned", "the better the best aligned agrees with the labels, the more it starves", "by_aligned", 1),
    ):
        x, y = ([np.mean([np.nanmean(draws) for draws in of(task, key)]) for task in present] for key in (field, cause))
        found.append(
            _rows.stated(
                f"real networks: {name}",
                rank_correlation(np.array(x), np.array(y)),
                permutation(sign * np.array(x), np.array(y)),
                why=f"rank correlation over {len(present)} tasks, by permutation; means over networks and lambdas",
                reason=f"{len(present)} tasks are too few to tell, or there is no such relation",
            )
        )
    return found


def rank_correlation(x: np.ndarray, y: np.ndarray) -> statistics.Interval:
    """Spearman's correlation with its 95% interval (Bonett and Wright 2000), by Fisher's transformation."""
    ranks = [stats.rankdata(of) for of in (x, y)]
    r = float(np.clip(np.corrcoef(*ranks)[0, 1], -1, 1)) if np.ptp(x) and np.ptp(y) else 0.0
    reach = stats.norm.ppf(0.975) * np.sqrt((1 + r**2 / 2) / (len(x) - 3))
    with np.errstate(divide="ignore"):
        ends = np.tanh(np.arctanh(r) + np.array([-reach, reach]))
    return statistics.Interval(np.asarray(r), *map(np.asarray, ends))


def permutation(x: np.ndarray, y: np.ndarray) -> float:
    """The one-sided p-value of a positive rank correlation: the share of orders of `y` with one at least as large."""
    ranks = [stats.rankdata(of) - (len(of) + 1) / 2 for of in (x, y)]
    orders = np.random.default_rng(0).permuted(np.tile(ranks[1], (20_000, 1)), axis=1)
    return float((1 + np.sum(orders @ ranks[0] >= ranks[1] @ ranks[0] - 1e-9)) / (1 + len(orders)))


def draw_structures(rows: Rows, config: Config, path: Path) -> None:
    """Share of pairs against what makes the structure: size, overlap, number of exceptions."""
    figure, ((left, middle, right),) = plotting.panels(1, 3)

    def against(structure: Structure, field: str, parameters: Sequence[float]) -> np.ndarray:
        columns = [rows.synthetic(config, structure, field, parameter=float(p)) for p in parameters]
        return np.array(columns).T

    ylabel = "share that starves"
    series = {
        "positive loadings": against("positive loadings", "share", config.sizes),
        "random signs": against("near identity", "share", config.sizes),
    }
    plotting.against(
        config.sizes, series, left, xlabel="size of the perturbation of $U = 1$", ylabel=ylabel, logx=True, baseline=0.5
    )
    series = {
        "others starved by feature 1": against("aligned", "by_strongest", config.overlaps),
        "all pairs": against("aligned", "share", config.overlaps),
    }
    xlabel = r"overlap of feature 1, $1^\top u_1 / \sqrt{n}$"
    plotting.against(config.overlaps, series, middle, xlabel=xlabel, ylabel=ylabel, baseline=0.5)
    series = {
        "pairs of others, equally strong": np.array([rows.others(config, q) for q in config.counts]).T,
        "power law, all pairs": against("exceptions", "share", config.counts),
    }
    xlabel = "examples that feature 1 gets wrong"
    plotting.against(config.counts, series, right, xlabel=xlabel, ylabel=ylabel, logx=True, baseline=0.5)
    theory = [competing(count) for count in config.counts]
    right.plot(config.counts, theory, "kx", markersize=8, zorder=4, label="theory, equally strong, $n \\to \\infty$")
    right.legend(loc="upper right", frameon=False)
    for ax in (left, middle, right):
        ax.set_ylim(-0.02, 1.05)
    plotting.save(figure, path)


def draw_scaling(rows: Rows, config: Config, path: Path) -> None:
    """Share, size and inequality against n, decay and lambda, a line a structure."""
    figure, axes = plotting.panels(3, 3)
    ylabels = {
        "share": "share of pairs that starve",
        "strongest": r"strongest, $\sqrt{E_{ji} E_{ij}}$",
        "inequality": r"inequality, $|\log_{10} E_{ji} / E_{ij}|$",
    }
    columns = (
        ("n", config.ns, "$n$", True),
        ("decay", config.decays, "decay of the spectrum", False),
        ("strength", config.strengths, r"$\lambda$ / mean of $s_i^2$", True),
    )
    for line, (field, ylabel) in zip(axes, ylabels.items(), strict=True):
        for ax, (name, values, xlabel, logx) in zip(line, columns, strict=True):
            series = {
                label: np.array([rows.synthetic(config, structure, field, **{name: value}) for value in values]).T
                for structure, label in LABELS.items()
            }
            plotting.against(
                values,
                series,
                ax,
                xlabel=xlabel,
                ylabel=ylabel,
                logx=logx,
                baseline=0.5 if field == "share" else None,
            )
            ax.get_legend().remove()
            if field == "strongest":
                ax.set_yscale("log")
            else:
                ax.set_ylim(0, 1.05 if field == "share" else None)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=12)
    plotting.save(figure, path, dpi=110)


def draw_real(rows: Rows, config: Config, present: Sequence[Task], path: Path) -> None:
    """Real networks: share of pairs by task; who starves against its overlap; share against support."""
    figure, ((left, middle, right),) = plotting.panels(1, 3)
    n = max(config.examples)
    named = [task for task in present if task in TASKS]
    series = {
        name: np.array([rows.draws(_real_cell(task, name, config), "share") for task in named]).T
        for name in config.networks
    }
    plotting.categories(
        [title(task).replace(" ", "\n") for task in named], series, left, ylabel="share of pairs that starve"
    )
    left.tick_params(axis="x", labelsize=10)
    left.axhline(0.5, color="0.35", linestyle="--", linewidth=1.3, zorder=1)
    overlap = [rows.synthetic(config, "aligned", "by_strongest", parameter=o) for o in config.overlaps]
    plotting.against(
        config.overlaps,
        {"random bases": np.array(overlap).T},
        middle,
        xlabel="overlap with the labels",
        ylabel="weaker features it starves",
        baseline=0.5,
    )
    for task in present:
        color = plotting.OKABE_ITO[named.index(task)] if task in named else "0.75"
        for name in config.networks:
            kind = {
                "color": color,
                "zorder": 3 if task in named else 2,
                "marker": {"mlp": "o", "cnn": "s"}[name],
                "linestyle": "",
            }
            for strength in config.real_strengths:
                cell = {"task": task, "network": name, "n": n, "strength": strength}
                mean = {
                    field: np.nanmean(rows.draws(cell, field))
                    for field in ("overlap_aligned", "by_aligned", "support", "share")
                }
                middle.plot(mean["overlap_aligned"], mean["by_aligned"], markersize=5, **kind)
                first = (name, strength) == (config.networks[0], config.real_strengths[0])
                label = title(task) if first and task in named else None
                right.plot(mean["support"], mean["share"], markersize=5, label=label, **kind)
    right.axhline(0.5, color="0.35", linestyle="--", linewidth=1.3, zorder=1)
    right.set_xlabel("share of examples that carry the loss")
    right.set_ylabel("share of pairs that starve")
    right.legend(fontsize=10, frameon=False)
    plotting.save(figure, path)


def title(task: Task) -> str:
    """What to call a task.

    >>> title("fashion_mnist_2_4")
    'Fashion 2/4'
    """
    name, classes = source(task)
    return f"{SHORT.get(name, data.get(name).title)} {classes[0]}/{classes[1]}"


def _real_cell(task: Task, name: Network, config: Config) -> dict[str, Any]:
    """The real ensemble that the summary is about: all examples, and the lambda closest to `strength`."""
    strength = min(config.real_strengths, key=lambda strength: abs(np.log(strength / config.strength)))
    return {"task": task, "network": name, "n": max(config.examples), "strength": strength}


def _by_draw(cell: Mapping[str, Any], found: Ensemble, further: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    columns = {key: np.asarray(value) for key, value in {**found._asdict(), **further}.items()}
    return [
        {**cell, "draw": draw, **{key: column[draw] for key, column in columns.items()}}
        for draw in range(len(columns["share"]))
    ]


def _measured(name: str, values: np.ndarray, differs: str | None = None) -> list[dict[str, Any]]:
    """A row over the draws in which there is such a number, if there are two."""
    good = values[np.isfinite(values)]
    missing = len(values) - len(good)
    remarks = [differs] if differs else []
    remarks += [f"{missing} of {len(values)} draws without"] if missing else []
    return [_rows.measured(name, good, differs="; ".join(remarks) or None)] if len(good) > 1 else []


def _key(seed: int, name: str) -> Key[Array, ""]:
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
