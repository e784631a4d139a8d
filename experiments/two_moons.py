"""Two moons: spectral decoupling widens the margin of a nearly straight boundary (Fig. 1), and other regularisers.

Pezeshki et al. 2021: 300 points of two classes, which the first coordinate alone separates by a small margin (Fig. 1 b)
or does not separate (a). A network 2-500-1 of ReLUs is trained by full-batch gradient descent with momentum for 10,000
steps on (1/n) sum softplus(-y yhat), with c (1/n) sum yhat^2 added for spectral decoupling (c). Fig. 1 (d) shows paths
in feature space: the responses of Definition 1 for the features at initialisation. The grid of regularisers is that of
the paper's appendix; networks of a tenth and of ten times the width are added.

    python -m experiments two_moons --preset smoke      10 seconds on 2 cores
    python -m experiments two_moons --preset laptop     the paper's settings; 4 minutes on an H100

Every seed has its own examples and network, as published (`--shared` gives all seeds the same examples). The figures
show the boundary of the outputs averaged over seeds, with the examples of the first seed. The measurements are made for
each network with its own examples:

- geometric margin: the distance of the nearest example from the boundary, negative if one is on the wrong side;
- bend of the boundary: the standard deviation of its x_1 over the range of the examples in x_2, the starved coordinate;
- share of x_2 in the gradient of the output at the examples, sum (d yhat/d x_2)^2 / sum |d yhat/d x|^2.

Fig. 1 (d) as published plots the absolute responses of features 2 and 7. A second figure shows the norms of the
responses of the three strongest features, which suffice for a straight boundary, and of all others.
`docs/results/two_moons.md` has the results.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from scipy import special

from experiments import _rows
from experiments._bounds import Bound
from experiments._study import Cell, Report, Study, keys, select
from gsjax import data, features, methods, networks, plotting, records, statistics, tangent
from gsjax.data import Dataset
from gsjax.probes import boundary
from gsjax.statistics import Interval

GRID = np.linspace(-2, 2, 100)
SHOWN = (1, 6)  # features 2 and 7, whose responses Fig. 1 (d) plots
LINEAR = 3  # number of strongest features, which suffice for a straight boundary: a constant, x_1 and x_2
CORNERS = np.stack(np.meshgrid(GRID, GRID), axis=-1).reshape(-1, 2)  # the points of the grid, x_1 running fastest


@dataclass(frozen=True)
class Config:
    """Data and training."""

    n: Annotated[int, Bound(least=2)] = 300
    """Examples."""
    noise: Annotated[float, Bound(least=0)] = 0.1
    """Standard deviation around the moons."""
    delta: float = 0.1
    """Half of the gap between the classes along x_1 in (b, c), and half of their overlap in (a)."""
    width: int = 500
    """Units per hidden layer."""
    depth: Annotated[int, Bound(least=2)] = 5
    """Layers of the network in the arm "deep"."""
    seeds: Annotated[int, Bound(least=2)] = 10
    """Networks per arm."""
    steps: int = 10_000
    """Steps of training; ten times as many in the arm "longer"."""
    learning_rate: float = 0.01
    """Learning rate of gradient descent with momentum 0.9."""
    c: float = 0.003
    """Factor of mean yhat^2 in spectral decoupling."""
    trajectory_decay: Annotated[float, Bound(least=0)] = 2e-4
    """Weight decay in the arms whose responses are recorded over time (d)."""
    shared: bool = False
    """Give all seeds the same examples."""
    arms: Annotated[tuple[str, ...], Bound(entries=0)] = ()
    """Arms to train; all of them if empty."""


PRESETS = {
    "smoke": Config(n=60, width=32, seeds=2, steps=60, arms=("erm", "sd", "followed: erm", "followed: sd")),
    "laptop": Config(),
    "paper": Config(),
}


class Arm(NamedTuple):
    """One way to train; all seeds are one compiled program."""

    name: str
    method: methods.Method
    network: Any
    steps: int
    delta: float
    rotation: float = 0.0  # of the inputs, in radians
    followed: bool = False  # whether its responses are recorded during training


def published(c: float) -> float:
    """The strength that corresponds to c mean yhat^2; the library's penalty is (strength / 2) yhat^2 per example."""
    return 2 * c


def arms(config: Config) -> list[Arm]:
    """The panels of Fig. 1, and the regularisers of the appendix at the margin of Fig. 1 (b).

    Raises:
        ValueError: an unknown name in `config.arms`.
    """
    plain = networks.FullyConnected((config.width,))
    momentum = optax.sgd(config.learning_rate, 0.9)
    erm = functools.partial(methods.get("erm"), plain, momentum)
    sd = functools.partial(methods.get("spectral_decoupling"), plain, momentum, strength=published(config.c))

    def arm(name: str, method: methods.Method, network: Any = plain, **changes: Any) -> Arm:
        return Arm(name, method, network, **{"steps": config.steps, "delta": config.delta, **changes})

    def other(name: str, network: Any) -> Arm:
        return arm(name, methods.get("erm")(network, momentum), network)

    decay = config.trajectory_decay
    found = [
        arm("overlapping: erm", erm(), delta=-config.delta),
        arm("erm", erm()),
        arm("sd", sd()),
        arm("weight decay", erm(weight_decay=0.01)),
        arm("longer", erm(), steps=10 * config.steps),
        *(arm(f"adam {rate:g}", methods.get("erm")(plain, optax.adam(rate))) for rate in (1e-4, 3e-3)),
        arm("rotated", erm(), rotation=np.pi / 4),
        other("dropout", networks.FullyConnected((config.width,), dropout=0.7)),
        other("batch norm", networks.FullyConnected((config.width,), batch_norm=True)),
        other("deep", networks.FullyConnected((config.width,) * (config.depth - 1))),
        other("narrow", networks.FullyConnected((max(1, config.width // 10),))),
        other("wide", networks.FullyConnected((10 * config.width,))),
        arm("followed: overlapping", erm(weight_decay=decay), delta=-config.delta, followed=True),
        arm("followed: erm", erm(weight_decay=decay), followed=True),
        arm("followed: sd", sd(weight_decay=decay), followed=True),
    ]
    names = [each.name for each in found]
    unknown = [name for name in config.arms if name not in names]
    if unknown:
        raise ValueError(f"arms: expected some of {', '.join(names)}, got {', '.join(unknown)}")
    return [each for each in found if not config.arms or each.name in config.arms]


def study(config: Config, *, out: Path, seed: int) -> Study:
    """A cell per arm, with all seeds; an additional file per arm has its boundaries, or its responses over time."""
    planned = arms(config)
    paths = {arm.name: out / "arms" / f"{arm.name}.npz".replace(": ", " ") for arm in planned}

    def report(rows: list[dict[str, Any]]) -> Report:
        found = {arm.name: unpacked(paths[arm.name], config, followed=arm.followed) for arm in planned}
        pictures = Pictures(planned, found, config, seed)
        figures = {"figure1.png": pictures.figure_1, "boundaries.png": pictures.boundaries}
        if any(arm.followed for arm in planned):
            figures["paths.png"] = pictures.paths
        return Report(*summarise(planned, found, rows, config, seed), figures)

    columns = {"seed": int, **dict.fromkeys(("loss", "accuracy", "share"), float)}
    return Study(
        {"name": "two moons", "train": config.n, "stand-in": False},
        [
            Cell(
                {"arm": arm.name},
                functools.partial(train, arm, config, seed, paths[arm.name]),
                columns,
                config.seeds,
                files=[paths[arm.name]],
            )
            for arm in planned
        ],
        report,
    )


def check(config: Config) -> None:
    """Checks the names of the arms."""
    arms(config)


def examples(delta: float, config: Config, seed: int) -> Dataset:
    """The examples of every network, `x (seeds, n, 2)`, `y (seeds, n)`: its own, or the same for all networks."""
    numbers = np.zeros(config.seeds, int) if config.shared else np.arange(config.seeds)
    draw_one = functools.partial(data.two_moons, n=config.n, noise=config.noise, delta=delta)
    return jax.vmap(draw_one)(keys(seed, numbers.tolist()))


def train(arm: Arm, config: Config, seed: int, path: Path) -> list[dict[str, Any]]:
    """Trains an arm; one row per seed, and a file `path` with the arrays that `unpacked` reads."""
    x, y = examples(arm.delta, config, seed)
    batch = methods.Batch(turned(x, arm.rotation), y)
    followed = sorted({round(step) for step in np.geomspace(1, arm.steps, 80)} if arm.followed else {arm.steps})

    def outputs(state: methods.State, x: Float[Array, "k 2"]) -> Float[Array, " k"]:
        return methods.predict(arm.network, state, turned(x, arm.rotation))

    def evaluate(state: methods.State, held_out: tuple[Array, Array]) -> dict[str, Array]:
        x, y = held_out
        logits = outputs(state, x)
        slopes = jax.grad(lambda x: outputs(state, x).sum())(x)
        return {
            "logits": logits,
            "loss": jax.nn.softplus(-y * logits).mean(),
            "accuracy": (y * logits > 0).mean(),
            "share": (slopes[:, 1] ** 2).sum() / (slopes**2).sum(),
            **(
                {"params": state.params} if arm.followed else {"grid": outputs(state, points).reshape(2 * (len(GRID),))}
            ),
        }

    points = jnp.asarray(CORNERS, x.dtype)
    result = methods.train(
        arm.method,
        keys(seed + 1, range(config.seeds)),
        batch,
        steps=arm.steps,
        record=[0, *followed] if arm.followed else followed,
        evaluate=evaluate,
        held_out=(x, y),
        per_seed=True,
        what=arm.name,
    )
    recorded = result.records
    arrays = {name: recorded[name][:, -1] for name in ("grid", "logits") if name in recorded}
    if arm.followed:
        start_params = jax.tree.map(lambda leaf: leaf[:, 0], result.records["params"])
        centred = recorded["logits"] - recorded["logits"][:, :1]
        responses = followed_responses(arm.network, start_params, x, y, centred[:, 1:])
        arrays |= {"times": np.asarray(followed), "responses": responses}
    path.parent.mkdir(exist_ok=True)
    records.write(path, packed(arrays))
    last = {name: recorded[name][:, -1].tolist() for name in ("loss", "accuracy", "share")}
    return [
        {"arm": arm.name, "seed": number, **{name: values[number] for name, values in last.items()}}
        for number in range(config.seeds)
    ]


def turned(x: Float[Array, "n 2"], angle: float) -> Float[Array, "n 2"]:
    """Inputs rotated by an angle."""
    cos, sin = np.cos(angle), np.sin(angle)
    return x @ jnp.asarray([[cos, sin], [-sin, cos]], x.dtype) if angle else x


def followed_responses(
    network: Any,
    params: Any,
    x: Float[Array, "seeds n 2"],
    y: Float[Array, "seeds n"],
    logits: Float[np.ndarray, "seeds T n"],
) -> Float[np.ndarray, "seeds T 4"]:
    """Responses of centred outputs in the initial features: |z_2|, |z_7|, norms of the first 3 and of the rest."""

    @jax.jit
    def one(params: Any, x: Array, y: Array, logits: Float[Array, "T n"]) -> Float[Array, "T 4"]:
        kernel = tangent.ntk(lambda params, x: network.apply({"params": params}, x), params, x)
        z = (y * logits) @ features.from_ntk(kernel, y).u
        norms = [jnp.linalg.norm(part, axis=1) for part in (z[:, :LINEAR], z[:, LINEAR:])]
        return jnp.stack([*(jnp.abs(z[:, i]) for i in SHOWN), *norms], axis=1)

    seeds = [jax.tree.map(lambda leaf, seed=seed: leaf[seed], params) for seed in range(len(logits))]
    return np.stack([np.asarray(one(*inputs)) for inputs in zip(seeds, x, y, logits, strict=True)])


def unpacked(path: Path, config: Config, *, followed: bool) -> dict[str, np.ndarray]:
    """The arrays of an arm, from a file that `packed` has made.

    Raises:
        ValueError: the file is damaged, or has other arrays.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("logits", *(("times", "responses") if followed else ("grid",)))}
        seeds, steps = config.seeds, len(arrays.get("times", ()))
        shapes = {
            "logits": (seeds, config.n),
            "grid": (seeds, len(GRID), len(GRID)),
            "times": (steps,),
            "responses": (seeds, steps, 4),
        }
        for name, array in arrays.items():
            if array.shape != shapes[name] or array.dtype.kind not in "fi":
                raise ValueError(f"{name}: expected numbers {shapes[name]}, got {array.dtype}{array.shape}")
    except Exception as error:  # zipfile, zlib, tokenize and others raise various exceptions
        raise ValueError(f"{path} is damaged ({error}); delete it, and it is computed again") from error
    return arrays


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays in NumPy's .npz format, with the same bytes for the same arrays."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


class Geometry(NamedTuple):
    """The boundaries of all networks, each on its own examples: `margin (seeds,)` and `bend (seeds,)`."""

    margin: Float[np.ndarray, " seeds"]
    bend: Float[np.ndarray, " seeds"]


def geometry(
    grid: Float[np.ndarray, "seeds k k"],
    logits: Float[np.ndarray, "seeds n"],
    x: Float[np.ndarray, "seeds n 2"],
    y: Float[np.ndarray, "seeds n"],
) -> Geometry:
    """Margin and bend of the boundary of every network."""
    margins, bends = [], []
    for values, outputs, points, labels in zip(grid, logits, x, y, strict=True):
        lines = boundary.zero_level(GRID, GRID, values)
        margins.append((boundary.distances(points, lines) * np.sign(labels * outputs)).min())
        places = boundary.positions(lines, np.linspace(points[:, 1].min(), points[:, 1].max(), 201))
        bends.append(np.nanstd(places) if np.isfinite(places).any() else 0.0)
    return Geometry(np.array(margins), np.array(bends))


def summarise(
    planned: Sequence[Arm],
    found: Mapping[str, Mapping[str, np.ndarray]],
    rows: Sequence[Mapping[str, Any]],
    config: Config,
    seed: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Margin, bend and share of every arm, and the signatures."""
    lines, measures = [], {}
    for arm in planned:
        trained = select(rows, arm=arm.name)
        lines.append(_rows.measured(f"{arm.name}: training accuracy", [row["accuracy"] for row in trained]))
        if arm.followed:
            seventh, weak = _shares(found[arm.name]["responses"])
            lines.append(_rows.measured(f"{arm.name}: |z_7| over |z_2|", seventh))
            lines.append(_rows.measured(f"{arm.name}: response of the weak features over the strong", weak))
            continue
        x, y = map(np.asarray, examples(arm.delta, config, seed))
        measures[arm.name] = geometry(found[arm.name]["grid"], found[arm.name]["logits"], x, y)
        lines.append(_rows.measured(f"{arm.name}: geometric margin", measures[arm.name].margin))
        lines.append(_rows.measured(f"{arm.name}: bend of the boundary", measures[arm.name].bend))
        lines.append(_rows.measured(f"{arm.name}: share of x_2 in the gradient", [row["share"] for row in trained]))
    return lines, judge(measures, {name: found[name]["responses"] for name in found if "responses" in found[name]})


def _shares(responses: Float[np.ndarray, "seeds T 4"]) -> tuple[np.ndarray, np.ndarray]:
    """|z_7| / |z_2| at the end, and the norm of the weak responses over that of the strong ones; each `(seeds,)`."""
    second, seventh, strong, weak = responses[:, -1].T
    return seventh / second, weak / strong


def judge(measures: Mapping[str, Geometry], responses: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """SD against ERM, paired by seed, and whether no other regulariser has the effect of SD.

    "Does not help" is an equivalence test: the margin differs from that of ERM, in either direction, by less than half
    of the gain of SD. At one half a margin is as far from ERM as from SD.
    """
    signatures = []
    if {"erm", "sd"} <= measures.keys():
        erm, sd = measures["erm"], measures["sd"]
        for name, ours, theirs in (("geometric margin", sd.margin, erm.margin), ("bend", sd.bend, erm.bend)):
            reason = f"{ours.mean():.3f} (SD) and {theirs.mean():.3f} (ERM)"
            why = "no difference; seeds are paired"
            signatures.append(
                _rows.signature(f"{name} of the boundary, SD minus ERM", ours - theirs, above=0, why=why, reason=reason)
            )
        signatures += [
            no_help(name, measures[name].margin, erm.margin, sd.margin)
            for name in measures
            if name not in ("erm", "sd", "overlapping: erm")
        ]
    if {"followed: erm", "followed: sd"} <= responses.keys():
        sd, erm = (_shares(responses[f"followed: {name}"]) for name in ("sd", "erm"))
        labels = ("|z_7| over |z_2|", "response of the weak features over the strong")
        for name, ours, theirs in zip(labels, sd, erm, strict=True):
            reason = f"{ours.mean():.3f} (SD) and {theirs.mean():.3f} (ERM)"
            signatures.append(
                _rows.signature(
                    f"{name}, SD minus ERM",
                    ours - theirs,
                    above=0,
                    why="no difference; seeds are paired",
                    reason=reason,
                )
            )
    return signatures


def no_help(
    name: str, margin: Float[np.ndarray, " seeds"], erm: Float[np.ndarray, " seeds"], sd: Float[np.ndarray, " seeds"]
) -> dict[str, Any]:
    """Whether a regulariser changes the margin of ERM by less than half of the gain of SD, paired by seed."""
    gains, sd_gains = margin - erm, sd - erm
    # Tests on means of differences. A quotient by the mean gain of SD would treat that mean as known.
    p = max(statistics.within(gains - sd_gains / 2, below=0), statistics.within(gains + sd_gains / 2, above=0))
    share = gains.mean() / sd_gains.mean()
    moved = f"it makes the margin {'smaller' if share < 0 else 'larger'} by {abs(share):.0%} of what SD gains"
    spread = f"{margin.mean():.3f} with a standard deviation of {margin.std(ddof=1):.3f} over seeds"
    return _rows.stated(
        f"{name} does not help: what its margin gains over ERM, relative to SD",
        quotient(gains, sd_gains),
        p,
        why="between -0.5 and 0.5 (nearer to ERM than to SD, or as near on the other side)",
        reason=f"{moved}, to {spread}; ERM has {erm.mean():.3f} and {erm.std(ddof=1):.3f}, SD {sd.mean():.3f}",
    )


def quotient(numerators: Float[np.ndarray, " seeds"], denominators: Float[np.ndarray, " seeds"]) -> Interval | None:
    """The quotient of two means over the same seeds with its 95% interval; None if the denominator may be zero.

    A quotient r is in the interval if Student's t does not reject that the mean of `numerators` - r `denominators` is
    zero (Fieller 1954). The ends are the roots of a quadratic equation.
    """
    n, (top, bottom) = len(numerators), (numerators.mean(), denominators.mean())
    k = special.stdtrit(n - 1, 0.975) ** 2 / n
    (first, mixed), (_, second) = k * np.cov(numerators, denominators)
    a, b, c = bottom**2 - second, top * bottom - mixed, top**2 - first
    if a <= 0:
        return None
    root = np.sqrt(b**2 - a * c)
    return Interval(*map(np.asarray, (top / bottom, (b - root) / a, (b + root) / a)))


class Pictures(NamedTuple):
    """The figures, drawn from the arms, their arrays by name, and the configuration and seed of the examples."""

    planned: Sequence[Arm]
    found: Mapping[str, Mapping[str, np.ndarray]]
    config: Config
    seed: int

    def boundary(self, arm: Arm, ax: Any, title: str) -> None:
        """Draws the boundary of an arm's outputs averaged over seeds, with the examples of the first seed."""
        x, y = (np.asarray(values)[0] for values in examples(arm.delta, self.config, self.seed))
        plotting.decision_boundary(GRID, GRID, self.found[arm.name]["grid"].mean(axis=0), x, y, ax=ax)
        ax.set_title(title)

    def figure_1(self, path: Path) -> None:
        """Fig. 1 (a) to (d)."""
        titles = {"overlapping: erm": "(a) overlapping, ERM", "erm": "(b) separable, ERM", "sd": "(c) separable, SD"}
        first = [arm for arm in self.planned if arm.name in titles]
        followed = [arm for arm in self.planned if arm.followed]
        count = len(first) + bool(followed)
        figure, axes = plotting.panels(-(-count // 2), 2)
        for arm, ax in zip(first, axes.flat, strict=False):
            self.boundary(arm, ax, titles[arm.name])
        for ax in axes.flat[len(first) :]:
            ax.set_axis_off()
        if followed:
            ax = axes.flat[len(first)]
            ax.set_axis_on()
            draw_paths(ax, followed, self.found, (0, 1))
            ax.set_xlabel("$|z_2|$")
            ax.set_ylabel("$|z_7|$")
            ax.set_title("(d) paths in feature space")
        plotting.save(figure, path)

    def paths(self, path: Path) -> None:
        """The paths of the strong responses against all others."""
        figure, ((ax,),) = plotting.panels()
        draw_paths(ax, [arm for arm in self.planned if arm.followed], self.found, (2, 3))
        ax.set_xlabel("response of the 3 strongest features")
        ax.set_ylabel("response of all others")
        plotting.save(figure, path)

    def boundaries(self, path: Path) -> None:
        """The boundaries of all arms whose responses are not followed."""
        shown = [arm for arm in self.planned if not arm.followed]
        figure, axes = plotting.panels(-(-len(shown) // 4), min(4, len(shown)))
        for ax in axes.flat:
            ax.set_axis_off()
        for arm, ax in zip(shown, axes.flat, strict=False):
            ax.set_axis_on()
            self.boundary(arm, ax, arm.name.replace("erm", "ERM").replace("sd", "SD"))
        plotting.save(figure, path, dpi=80)


def draw_paths(
    ax: Any, followed: Sequence[Arm], found: Mapping[str, Mapping[str, np.ndarray]], columns: tuple[int, int]
) -> None:
    """Two of the recorded responses against each other, averaged over seeds, one path per arm."""
    labels = {"followed: overlapping": "overlapping, ERM", "followed: erm": "ERM", "followed: sd": "SD"}
    styles = {"followed: overlapping": ":", "followed: erm": "--", "followed: sd": "-"}
    for arm in followed:
        x, y = found[arm.name]["responses"].mean(axis=0).T[list(columns)]
        ax.plot(x, y, styles[arm.name], label=labels[arm.name])
        ax.plot(x[-1:], y[-1:], "o", color=ax.lines[-1].get_color(), markersize=6)
    ax.legend(frameon=False)
