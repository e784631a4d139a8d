"""Two moons: a straight boundary with hardly any margin, unless the outputs are decoupled (Fig. 1), and who else helps.

Pezeshki et al. 2021: 300 points of two classes that the first coordinate alone separates, by the small margin of Fig. 1
(b), or does not separate (a). A network 2-500-1 of ReLUs is trained by full-batch gradient descent with momentum for
10,000 steps, on (1/n) sum softplus(-y yhat), with c (1/n) sum yhat^2 added for spectral decoupling (c). Fig. 1 (d) has
paths in feature space: the responses of Definition 1, for the features at initialisation, taken together in those of
the three strongest features, which a straight boundary takes, and those of all others. The grid of regularisers is that
of the paper's appendix.

    python -m experiments two_moons --preset smoke      10 seconds on 2 cores
    python -m experiments two_moons --preset laptop     the paper's settings; 20 minutes, 13 of them the deep network

The margin of SD's averaged boundary is 2.4 [2.3, 2.5] times ERM's, and it bends 6.2 [5.8, 6.7] times as far; of the
other regularisers Adam comes closest, with a margin 1.6 times ERM's.

What is drawn is the boundary of the outputs averaged over seeds, as in the paper; what is measured of it is

- its geometric margin: the distance of the nearest example, negative if one is on the wrong side;
- how far it bends: the standard deviation of its x_1 over the range that the examples have in x_2, the starved
  coordinate; and of each network the share of x_2 in the gradient of its output at the examples,
  sum (d yhat/d x_2)^2 / sum |d yhat/d x|^2.

Intervals are bootstraps over seeds: of networks, on one set of examples.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from experiments import _rows
from experiments._bounds import Bound
from gsjax import data, features, methods, networks, plotting, records, statistics, tangent
from gsjax._progress import track
from gsjax.data import Dataset
from gsjax.probes import boundary
from gsjax.statistics import bootstrap

GRID = np.linspace(-2, 2, 100)
LINEAR = 3  # the strongest features: what a constant, x_1 and x_2 make up, and a straight boundary takes
CORNERS = np.stack(np.meshgrid(GRID, GRID), axis=-1).reshape(-1, 2)  # the points of the grid, x_1 running fastest


@dataclass(frozen=True)
class Config:
    """What is trained on two moons."""

    n: Annotated[int, Bound(least=2)] = 300
    """Examples."""
    noise: Annotated[float, Bound(least=0)] = 0.1
    """Standard deviation around the moons."""
    delta: float = 0.1
    """Half of the gap between the classes along x_1 (b, c); they overlap as much in (a)."""
    width: int = 500
    """Units of a hidden layer."""
    depth: Annotated[int, Bound(least=2)] = 5
    """Layers of the network called deep."""
    seeds: Annotated[int, Bound(least=2)] = 10
    """Networks an arm."""
    steps: int = 10_000
    """Steps of training; ten times as many in the arm called longer."""
    learning_rate: float = 0.01
    """Of gradient descent with momentum 0.9."""
    c: float = 0.003
    """Spectral decoupling: the factor of mean yhat^2."""
    trajectory_decay: Annotated[float, Bound(least=0)] = 2e-4
    """Weight decay in the arms that are followed in time (d)."""
    resamples: int = 500
    """Bootstrap samples of the intervals of averaged boundaries."""
    arms: Annotated[tuple[str, ...], Bound(entries=0)] = ()
    """Only these arms; all of them if empty."""


PRESETS = {
    "smoke": Config(
        n=60, width=32, seeds=2, steps=60, resamples=20, arms=("erm", "sd", "followed: erm", "followed: sd")
    ),
    "laptop": Config(),
    "paper": Config(),
}


class Arm(NamedTuple):
    """One way to train; all of its seeds are one compiled program."""

    name: str
    method: methods.Method
    network: Any
    steps: int
    delta: float
    rotation: float = 0.0  # of the inputs, in radians
    followed: bool = False  # whether its responses are recorded on the way


def published(c: float) -> float:
    """The strength of c mean yhat^2 in the convention of the library, (strength / 2) yhat^2 an example."""
    return 2 * c


def arms(config: Config) -> list[Arm]:
    """The panels of Fig. 1, and the regularisers of the appendix at the margin of Fig. 1 (b).

    Raises:
        ValueError: `config.arms` has another name.
    """
    plain = networks.FullyConnected((config.width,))
    momentum = optax.sgd(config.learning_rate, 0.9)
    erm = functools.partial(methods.get("erm"), plain, momentum)
    sd = functools.partial(methods.get("spectral_decoupling"), plain, momentum, strength=published(config.c))

    def of(name: str, method: methods.Method, network: Any = plain, **changes: Any) -> Arm:
        return Arm(name, method, network, **{"steps": config.steps, "delta": config.delta, **changes})

    def other(name: str, network: Any) -> Arm:
        return of(name, methods.get("erm")(network, momentum), network)

    decay = config.trajectory_decay
    found = [
        of("overlapping: erm", erm(), delta=-config.delta),
        of("erm", erm()),
        of("sd", sd()),
        of("weight decay", erm(weight_decay=0.01)),
        of("longer", erm(), steps=10 * config.steps),
        *(of(f"adam {rate:g}", methods.get("erm")(plain, optax.adam(rate))) for rate in (1e-4, 3e-3)),
        of("rotated", erm(), rotation=np.pi / 4),
        other("dropout", networks.FullyConnected((config.width,), dropout=0.7)),
        other("batch norm", networks.FullyConnected((config.width,), batch_norm=True)),
        other("deep", networks.FullyConnected((config.width,) * (config.depth - 1))),
        of("followed: overlapping", erm(weight_decay=decay), delta=-config.delta, followed=True),
        of("followed: erm", erm(weight_decay=decay), followed=True),
        of("followed: sd", sd(weight_decay=decay), followed=True),
    ]
    names = [arm.name for arm in found]
    unknown = [name for name in config.arms if name not in names]
    if unknown:
        raise ValueError(f"arms: expected some of {', '.join(names)}, got {', '.join(unknown)}")
    return [arm for arm in found if not config.arms or arm.name in config.arms]


def run(config: Config, out: Path, *, preset: str, seed: int) -> None:
    """Trains the arms that are not trained yet, and writes rows, boundaries, responses, `summary.json` and figures."""
    table = records.Table(out, {**dataclasses.asdict(config), "seed": seed})
    planned = arms(config)
    found = {arm.name: trained(arm, config, seed, table) for arm in track(planned, "arms")}
    rows, signatures = summarise(planned, found, table.rows, config, seed)
    _rows.finish(
        out,
        experiment="two_moons",
        preset=preset,
        config=config,
        seed=seed,
        data={"name": "two moons", "train": config.n, "stand-in": False},
        rows=rows,
        signatures=signatures,
    )
    draw(planned, found, config, seed, out)


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not: see `arms`."""
    arms(config)


def examples(delta: float, config: Config, seed: int) -> Dataset:
    """The same examples for all networks."""
    return data.two_moons(jax.random.key(seed), config.n, noise=config.noise, delta=delta)


def trained(arm: Arm, config: Config, seed: int, table: records.Table) -> Mapping[str, np.ndarray]:
    """The arrays of an arm, from its file or from training: `grid (seeds, 100, 100)`, `logits (seeds, n)`, and of one
    that is followed `times (T,)` and `responses (seeds, T, 2)`.
    """  # noqa: D205
    path, cell = table.folder / "arms" / f"{arm.name}.npz".replace(": ", " "), {"arm": arm.name}
    if table.has(cell) and path.exists():
        return unpacked(path, config, followed=arm.followed)
    start = time.perf_counter()
    x, y = examples(arm.delta, config, seed)
    keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed + 1), number))(jnp.arange(config.seeds))
    batch = methods.Batch(turned(x, arm.rotation), y)
    followed = sorted({round(step) for step in np.geomspace(1, arm.steps, 80)} if arm.followed else {arm.steps})

    def outputs(state: methods.State, x: Float[Array, "k 2"]) -> Float[Array, " k"]:
        return methods.predict(arm.network, state, turned(x, arm.rotation))

    def evaluate(state: methods.State, points: Float[Array, "k 2"]) -> dict[str, Array]:
        logits = outputs(state, x)
        grid = outputs(state, points).reshape(len(GRID), len(GRID))
        slopes = jax.grad(lambda x: outputs(state, x).sum())(x)
        return {
            "logits": logits,
            "loss": jax.nn.softplus(-y * logits).mean(),
            "accuracy": (y * logits > 0).mean(),
            "share": (slopes[:, 1] ** 2).sum() / (slopes**2).sum(),
            **({"params": state.params} if arm.followed else {"grid": grid}),
        }

    result = methods.train(
        arm.method,
        keys,
        batch,
        steps=arm.steps,
        record=[0, *followed] if arm.followed else followed,
        evaluate=evaluate,
        held_out=jnp.asarray(CORNERS, x.dtype),
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
    rows = [
        {**cell, "seed": number, **{name: float(recorded[name][number, -1]) for name in ("loss", "accuracy", "share")}}
        for number in range(config.seeds)
    ]
    if not table.has(cell):
        table.add(cell, rows, time.perf_counter() - start)
    return arrays


def turned(x: Float[Array, "n 2"], angle: float) -> Float[Array, "n 2"]:
    """Inputs rotated by an angle."""
    cos, sin = np.cos(angle), np.sin(angle)
    return x @ jnp.asarray([[cos, sin], [-sin, cos]], x.dtype) if angle else x


def followed_responses(
    network: Any, params: Any, x: Array, y: Array, logits: Float[np.ndarray, "seeds T n"]
) -> Float[np.ndarray, "seeds T 2"]:
    """Responses to centred outputs of the features at initialisation: |z| of the strongest 3, |z| of all others."""

    @jax.jit
    def one(params: Any, logits: Float[Array, "T n"]) -> Float[Array, "T 2"]:
        kernel = tangent.ntk(lambda params, x: network.apply({"params": params}, x), params, x)
        z = (y * logits) @ features.from_ntk(kernel, y).u
        return jnp.stack([jnp.linalg.norm(part, axis=1) for part in (z[:, :LINEAR], z[:, LINEAR:])], axis=1)

    seeds = [jax.tree.map(lambda leaf, seed=seed: leaf[seed], params) for seed in range(len(logits))]
    return np.stack([np.asarray(one(*pair)) for pair in zip(seeds, logits, strict=True)])


def unpacked(path: Path, config: Config, *, followed: bool) -> dict[str, np.ndarray]:
    """The arrays of an arm in a file that `packed` has made.

    Raises:
        ValueError: it is damaged, or has other arrays.
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
            "responses": (seeds, steps, 2),
        }
        for name, array in arrays.items():
            if array.shape != shapes[name] or array.dtype.kind not in "fi":
                raise ValueError(f"{name}: expected numbers {shapes[name]}, got {array.dtype}{array.shape}")
    except Exception as error:  # those of zipfile, zlib, tokenize and others, each in its own way
        raise ValueError(f"{path} is damaged ({error}); delete it, and it is computed again") from error
    return arrays


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays in NumPy's format, the same bytes for the same arrays."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def geometry(
    grid: Float[np.ndarray, "seeds k k"], logits: Float[np.ndarray, "seeds n"], x: np.ndarray, y: np.ndarray
) -> tuple[Callable[[np.ndarray], float], Callable[[np.ndarray], float]]:
    """Margin and bend of the boundary of weighted averages of networks, as functions of the weights."""
    inside = np.linspace(x[:, 1].min(), x[:, 1].max(), 201)

    def margin(weights: np.ndarray) -> float:
        lines = boundary.zero_level(GRID, GRID, np.tensordot(weights, grid, axes=1))
        return float((boundary.distances(x, lines) * np.sign(y * (weights @ logits))).min())

    def bend(weights: np.ndarray) -> float:
        lines = boundary.zero_level(GRID, GRID, np.tensordot(weights, grid, axes=1))
        found = boundary.positions(lines, inside)
        return float(np.nanstd(found)) if np.isfinite(found).any() else 0.0

    return margin, bend


def summarise(
    planned: Sequence[Arm],
    found: Mapping[str, Mapping[str, np.ndarray]],
    rows: Sequence[Mapping[str, Any]],
    config: Config,
    seed: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Margin, bend and share of every arm; SD against ERM, in pairs of equal seeds."""
    lines, measures = [], {}
    for arm in planned:
        of = [row for row in rows if row["arm"] == arm.name]
        lines.append(_rows.measured(f"{arm.name}: training accuracy", [row["accuracy"] for row in of]))
        if arm.followed:
            strong, weak = found[arm.name]["responses"][:, -1].T
            lines.append(_rows.measured(f"{arm.name}: response of the weak features over the strong", weak / strong))
            continue
        x, y = map(np.asarray, examples(arm.delta, config, seed))
        measures[arm.name] = geometry(found[arm.name]["grid"], found[arm.name]["logits"], x, y)
        for name, measure in zip(("geometric margin", "bend"), measures[arm.name], strict=True):
            value, low, high = bootstrap(measure, config.seeds, resamples=config.resamples)
            lines.append(
                {
                    **_rows.measured(f"{arm.name}: {name} of the averaged boundary", [float(value)]),
                    "interval": [float(low), float(high)],
                    "seeds": config.seeds,
                }
            )
        lines.append(_rows.measured(f"{arm.name}: share of x_2 in the gradient", [row["share"] for row in of]))
    signatures = []
    if {"erm", "sd"} <= measures.keys():
        for number, (name, factor) in enumerate((("geometric margin", 1.5), ("bend", 4.0))):
            sd, erm = measures["sd"][number], measures["erm"][number]
            ratio = bootstrap(
                lambda weights, sd=sd, erm=erm: sd(weights) / erm(weights), config.seeds, resamples=config.resamples
            )
            why = f"the lower end of the interval over seeds against {factor:g}"
            name = f"{name} of the averaged boundary, SD over ERM"
            signatures.append(_rows.signature(name, ratio, ratio.low >= factor, why))
    if {"followed: erm", "followed: sd"} <= found.keys():
        strong, weak = np.stack([found[f"followed: {name}"]["responses"][:, -1] for name in ("sd", "erm")]).T
        ratio = statistics.mean(np.divide(*(weak / strong).T))
        name = "response of the weak features over the strong, SD over ERM"
        signatures.append(_rows.signature(name, ratio, ratio.low > 1, "the interval over seeds lies above one"))
    return lines, signatures


def draw(
    planned: Sequence[Arm],
    found: Mapping[str, Mapping[str, np.ndarray]],
    config: Config,
    seed: int,
    out: Path,
) -> None:
    """Fig. 1 (a) to (d), and the boundaries of all arms."""
    still = [arm for arm in planned if not arm.followed]
    titles = {"overlapping: erm": "(a) overlapping, ERM", "erm": "(b) separable, ERM", "sd": "(c) separable, SD"}
    first = [arm for arm in still if arm.name in titles]
    followed = [arm for arm in planned if arm.followed]

    def picture(arm: Arm, ax: Any, title: str) -> None:
        x, y = examples(arm.delta, config, seed)
        plotting.decision_boundary(GRID, GRID, found[arm.name]["grid"].mean(axis=0), x, y, ax=ax)
        ax.set_title(title)

    count = len(first) + bool(followed)
    figure, axes = plotting.panels(-(-count // 2), 2)
    for arm, ax in zip(first, axes.flat, strict=False):
        picture(arm, ax, titles[arm.name])
    for ax in axes.flat[len(first) :]:
        ax.set_axis_off()
    if followed:
        ax = axes.flat[len(first)]
        ax.set_axis_on()
        labels = {"followed: overlapping": "overlapping, ERM", "followed: erm": "ERM", "followed: sd": "SD"}
        styles = {"followed: overlapping": ":", "followed: erm": "--", "followed: sd": "-"}
        for arm in followed:
            strong, weak = found[arm.name]["responses"].mean(axis=0).T
            ax.plot(strong, weak, styles[arm.name], label=labels[arm.name])
            ax.plot(strong[-1:], weak[-1:], "o", color=ax.lines[-1].get_color(), markersize=6)
        ax.set_xlabel("response of the 3 strongest features")
        ax.set_ylabel("response of all others")
        ax.legend(frameon=False)
        ax.set_title("(d) paths in feature space")
    plotting.save(figure, out / "figure1.png")

    figure, axes = plotting.panels(-(-len(still) // 4), min(4, len(still)))
    for ax in axes.flat:
        ax.set_axis_off()
    for arm, ax in zip(still, axes.flat, strict=False):
        ax.set_axis_on()
        picture(arm, ax, arm.name.replace("erm", "ERM").replace("sd", "SD"))
    plotting.save(figure, out / "boundaries.png", dpi=80)
