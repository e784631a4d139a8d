"""Coloured digits: the colour starves the digit, and how each remedy changes that (Table 2 and Fig. 3).

Pezeshki et al. 2021, with the data of Arjovsky et al. 2019. The label says whether a digit is below five, and is
flipped with probability 0.25. The colour agrees with the label with probability 0.8 and 0.9 in the two training
environments, and with probability 0.1 in the test environment. A network 392-300-300-1 is trained on all examples at
once by Adam.

    python -m experiments colored_mnist --preset smoke      seconds
    python -m experiments colored_mnist --preset laptop     10 restarts on the 10,000 digits of MNIST's test file: an
                                                            hour on 2 cores, 4 minutes on an H100
    python -m experiments colored_mnist --preset fashion    Fashion-MNIST, full size, Table 2: 5 minutes on an H100
    python -m experiments colored_mnist --preset paper      all 70,000 digits of MNIST, split as published: 2 minutes
                                                            for two restarts on an H100; on 2 cores 1.5 hours for
                                                            two restarts of Table 2 (--arms erm rex irm sd oracle)

Every restart draws its own split, label noise, colours and network. Compared are:

- *Selection of the step.* The published recipes, including their numbers of steps, were tuned on the test environment.
  So the accuracy is reported at the published step, at the step with the best accuracy on held-out images of the
  *training* environments, and at the best step on the test environment itself.
- *Ablation.* The two parts of SD's published schedule also run alone: the penalty, and the slow phase, in which the
  whole loss is multiplied by c.
- *Trivial explanations.* One is another threshold on ERM's logits, chosen on held-out images of the training
  environments or on the test images themselves. The other is a temperature that makes ERM as confident as SD on
  held-out images.

The paper does not run Group DRO (groups of label and colour) and Learning from Failure (with the moving averages of its
code) here; they have the optimiser and steps of ERM. REx has those of IRM, as in its published code. The images of the
presets fashion and smoke are stand-ins. `docs/results/colored_mnist.md` has the results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Key

from experiments import _rows
from experiments._bounds import Bound
from experiments._calibration import TEMPERATURES, accuracy, best_threshold, calmed, entropy
from experiments._study import Cell, Columns, Report, Study, keys, select
from gsjax import data, methods, networks, plotting
from gsjax.data import Images

LABELS = {"erm": "ERM", "rex": "REx", "irm": "IRM", "sd": "SD", "group dro": "Group DRO", "lff": "LfF"}
SCHEDULE = ("erm", "sd", "sd, penalty alone", "sd, slow phase alone")  # arms whose accuracies are drawn over time
ENVIRONMENTS = ("gray", "coloured", "gray blank", "coloured blank")  # of Fig. 3


@dataclass(frozen=True)
class Config:
    """The coloured images, and the training."""

    data: Literal["mnist", "fashion_mnist", "digits"] = "mnist"
    """Images: MNIST, Fashion-MNIST, or scikit-learn's 8x8 digits, which need no file."""
    train: Annotated[int, Bound(least=2)] = 3000
    """Training images, half of them in each environment."""
    validation: Annotated[int, Bound(least=2)] = 3500
    """Held-out images of the training environments, for selecting the step."""
    test: int = 3500
    """Test images."""
    seeds: Annotated[int, Bound(least=2)] = 10
    """Restarts."""
    arms: Annotated[tuple[str, ...], Bound(entries=0)] = ()
    """Methods to train; all of them if empty."""
    width: int = 300
    """Units per hidden layer; IRM and REx have 1.3 times as many and the oracle 0.277 times (83), as published."""
    stretch: float = 1.0
    """Factor on all published numbers of steps."""
    records: int = 40
    """Number of times that accuracies are recorded during training."""
    split: Literal["drawn", "published"] = "drawn"
    """How images are split: drawn anew for every restart; or in the order of the files, first training, then test and
    then validation images, as published for MNIST (50,000 and the last 10,000 of its training file)."""


TABLE = ("erm", "rex", "irm", "sd", "oracle")  # the arms of Table 2

PRESETS = {
    "smoke": Config(data="digits", train=400, validation=200, test=200, seeds=2, width=32, stretch=0.02, records=4),
    "laptop": Config(),
    "fashion": Config(data="fashion_mnist", train=50_000, validation=10_000, test=10_000, seeds=5, arms=TABLE),
    "paper": Config(train=50_000, validation=10_000, test=10_000, split="published"),
}

# Table 2 and Fig. 3 as published; accuracies as fractions, entropies in nats.
TABLE_2 = {"erm": (0.911, 0.237), "rex": (0.715, 0.687), "irm": (0.705, 0.671), "sd": (0.700, 0.684)}
TABLE_2["oracle"] = (0.735, 0.730)
FIGURE_3 = {
    "erm": ((0.633, 0.239, 0.499, 0.094), (0.54, 0.44, 0.63, 0.00)),
    "sd": ((0.683, 0.672, 0.500, 0.094), (0.66, 0.63, 0.66, 0.41)),
    "irm": ((0.669, 0.666, 0.497, 0.496), (0.60, 0.59, 0.65, 0.64)),
}


ANNEAL = 190  # first step with the full penalty of IRM and REx, as published
EARLIER = 60  # the same for the arms "irm, earlier" and "rex, earlier"

# Half of the published gain of SD over ERM on the test environment.
HALF_GAIN = (TABLE_2["sd"][1] - TABLE_2["erm"][1]) / 2
NOISE = 0.25  # share of flipped labels

# Restarts that are trained together, with all arms, before the next ones. This bounds the loss if a run is stopped.
_BLOCK = 2


class Arm(NamedTuple):
    """One way to train. Restarts that are trained together are one compiled program."""

    name: str
    network: Any
    method: methods.Method
    steps: int
    grayscale: bool = False


class Sample(NamedTuple):
    """The coloured images of a restart."""

    train: methods.Batch
    validation: methods.Batch
    test: methods.Batch


def arms(config: Config) -> list[Arm]:
    """The methods of Table 2 with their published recipes, two competitors, and the two parts of SD's schedule.

    Losses are means over examples, as in the published code. Conversions:

    - SD's penalty is c mean yhat^2, which is a strength of 2 c.
    - IRM's l2 of w stands for w ||theta||^2, which is a weight decay of 2 w.
    - REx minimises L_0 + L_1 + w ||theta||^2 + v (L_0 - L_1)^2 with the same w and v. This is twice the objective of
      `vrex` with a weight decay of w.

    Raises:
        ValueError: an unknown name in `config.arms`.
    """

    def mlp(width: float) -> networks.FullyConnected:
        return networks.FullyConnected((round(width),) * 2, initialization="xavier")

    def oracle() -> Arm:
        """ERM on gray images as in Arjovsky et al.'s script, whose numbers Table 2 repeats."""
        network = mlp(83 / 300 * config.width)
        method = methods.get("erm")(network, optax.adam(0.0028171488133821726), weight_decay=2 * 0.0008602868865288383)
        return Arm("oracle", network, method, steps(101), grayscale=True)

    def steps(published: int) -> int:
        return max(2, round(published * config.stretch))

    def arm(name: str, method: str, published: int = 1001, **options: Any) -> Arm:
        network = mlp(config.width)
        return Arm(name, network, methods.get(method)(network, optax.adam(1e-4), **options), steps(published))

    def decoupled(name: str, **options: Any) -> Arm:
        return arm(name, "spectral_decoupling", 2001, **options)

    def invariant(name: str, method: str, weight_decay: float, anneal: int = ANNEAL) -> Arm:
        network = mlp(1.3 * config.width)
        options = {"penalty_weight": 91257.18613115903, "anneal": steps(anneal), "weight_decay": weight_decay}
        optimizer = optax.adam(4.898536566546834e-4)
        return Arm(name, network, methods.get(method)(network, optimizer, **options), steps(501))

    schedule = methods.spectral_decoupling.published_schedule(c=2e-5, switch=steps(450))
    strength, scale = schedule["strength"], schedule["loss_scale"]
    found = [
        arm("erm", "erm"),
        invariant("rex", "vrex", 0.00110794568),
        invariant("irm", "irm", 2 * 0.00110794568),
        decoupled("sd", strength=strength, loss_scale=scale),
        arm("group dro", "group_dro", groups=4),
        arm("lff", "lff", examples=config.train),
        oracle(),
        invariant("rex, earlier", "vrex", 0.00110794568, EARLIER),
        invariant("irm, earlier", "irm", 2 * 0.00110794568, EARLIER),
        decoupled("sd, penalty alone", strength=strength),
        decoupled("sd, slow phase alone", strength=0.0, loss_scale=scale),
    ]
    names = [arm.name for arm in found]
    unknown = [name for name in config.arms if name not in names]
    if unknown:
        raise ValueError(f"arms: expected some of {', '.join(names)}, got {', '.join(unknown)}")
    return [arm for arm in found if not config.arms or arm.name in config.arms]


def check(config: Config) -> None:
    """Checks the names of the arms."""
    arms(config)


def load(config: Config) -> tuple[Images, str]:
    """All available images, and their description.

    Raises:
        ValueError: fewer images than `config` asks for.
        FileNotFoundError: the files are missing.
    """
    wanted, entry = config.train + config.validation + config.test, data.get(config.data)
    if config.data == "digits":
        images, title = entry.read(), entry.title
    else:
        images, title = entry.read("test"), f"{config.data}, test file"
        if wanted > len(images.labels):
            both = zip(entry.read("train"), images, strict=True)
            images, title = Images(*map(np.concatenate, both)), f"{config.data}, both files"
    if wanted > len(images.labels):
        raise ValueError(f"train: expected at most {len(images.labels)} images in all ({title}), got {wanted}")
    return images, title


def sample(key: Key[Array, ""], images: Images, config: Config) -> Sample:
    """The split and the colours of one restart."""
    order_key, *part_keys = jax.random.split(key, 4)
    if config.split == "drawn":
        order = jax.random.permutation(order_key, len(images.labels))
        train, validation, test, _ = np.split(order, np.cumsum([config.train, config.validation, config.test]))
    else:
        order = np.arange(len(images.labels))
        train, test, validation, _ = np.split(order, np.cumsum([config.train, config.test, config.validation]))
    parts = []
    for rows, key, correlations in zip(
        (train, validation, test), part_keys, ((0.8, 0.9), (0.8, 0.9), (0.1,)), strict=True
    ):
        chosen = Images(*(jnp.asarray(leaf)[rows] for leaf in images))  # pyright: ignore[reportArgumentType]  traced
        stride = 2 if images.pixels.shape[1] == 28 else 1
        x, y, color, environment = data.colored(key, chosen, correlations=correlations, stride=stride)
        group = 2 * (y > 0).astype(int) + color
        parts.append(methods.Batch(x, y, group, environment, jnp.arange(len(y))))
    return Sample(*parts)


def study(config: Config, *, out: Path, seed: int) -> Study:
    """A cell per arm and restart. Restarts are trained in blocks, with all arms of a block before the next one."""
    planned, (images, title) = arms(config), load(config)
    sample_one = functools.partial(sample, config=config)
    draw_all = jax.jit(jax.vmap(lambda key, all_: sample_one(jax.random.fold_in(key, 1), all_), in_axes=(0, None)))

    @functools.lru_cache(maxsize=1)
    def samples(block: range) -> Sample:
        return draw_all(keys(seed, block), images)

    @functools.lru_cache(maxsize=1)  # the other restarts of the block are separate cells
    def rows_of_block(arm: Arm, block: range) -> list[dict[str, Any]]:
        return trained(arm, block, keys(seed, block), samples(block), config)

    def one(arm: Arm, block: range, restart: int) -> list[dict[str, Any]]:
        return select(rows_of_block(arm, block), seed=restart)

    def report(rows: list[dict[str, Any]]) -> Report:
        found = {arm.name: select(rows, arm=arm.name) for arm in planned}
        figures = {"environments.png": functools.partial(draw_environments, found)}
        if any(name in found for name in SCHEDULE):
            figures["schedule.png"] = functools.partial(draw_schedule, found)
        return Report(summarise(found, config, title), judge(found), figures)

    sizes = {"train": config.train, "validation": config.validation, "test": config.test}
    return Study(
        {"name": f"coloured {title}", **sizes, "stand-in": config.data != "mnist"},
        [
            Cell(
                {"arm": arm.name, "seed": restart}, functools.partial(one, arm, block, restart), columns(arm, config), 1
            )
            for block in blocks(config)
            for arm in planned
            for restart in block
        ],
        report,
    )


def blocks(config: Config) -> list[range]:
    """The restarts that are trained together."""
    return [range(start, min(start + _BLOCK, config.seeds)) for start in range(0, config.seeds, _BLOCK)]


def recorded(arm: Arm, config: Config) -> list[int]:
    """The steps after which accuracies are recorded."""
    return sorted({round(step) for step in np.linspace(0, arm.steps, config.records + 1)})


def columns(arm: Arm, config: Config) -> Columns:
    """The columns of a row; see `_measured`."""
    steps, environments = len(recorded(arm, config)), len(ENVIRONMENTS)
    return {
        "finite": bool,
        "steps": (int, steps),
        **dict.fromkeys(("train", "validation", "test"), (float, steps)),
        **dict.fromkeys(("accuracies", "entropies"), (float, environments)),
        "cooled": (float, len(TEMPERATURES), 1 + environments),
        "shifted": (float, 2),
    }


def trained(
    arm: Arm, restarts: Sequence[int], restart_keys: Key[Array, " seeds"], samples: Sample, config: Config
) -> list[dict[str, Any]]:
    """Trains some restarts of an arm; one row per restart."""
    result = methods.train(
        arm.method,
        restart_keys,
        samples.train._replace(x=seen(arm.grayscale, samples.train.x)),
        steps=arm.steps,
        record=recorded(arm, config),
        evaluate=_measured(arm.network, arm.grayscale),  # pyright: ignore[reportArgumentType]  flax's modules do hash
        held_out=samples,
        per_seed=True,
        what=arm.name,
    )
    rows = []
    for place, restart in enumerate(restarts):
        found = {name: np.asarray(values)[place] for name, values in result.records.items()}
        rows.append(
            {
                "arm": arm.name,
                "seed": restart,
                "finite": bool(result.finite[place]),
                "steps": result.steps.tolist(),
                **{name: found[name].tolist() for name in ("train", "validation", "test")},
                **{name: found[name][-1].tolist() for name in ("accuracies", "entropies", "cooled", "shifted")},
            }
        )
    return rows


@functools.cache  # compiles once for all restarts, and for all arms with the same network
def _measured(network: Any, grayscale: bool) -> Callable[[methods.State, Sample], dict[str, Array]]:
    """A function that measures accuracies and entropies of a network.

    - `train`, `validation`, `test ()`: accuracies.
    - `accuracies`, `entropies (4,)`: in the environments of Fig. 3.
    - `cooled (T, 5)`: entropies at `TEMPERATURES`, on validation images and in those four environments.
    - `shifted (2,)`: test accuracy with the threshold on the logits that is best on validation images, and with the one
      that is best on the test images.
    """

    def evaluate(state: methods.State, held_out: Sample) -> dict[str, Array]:
        def outputs(x: Array) -> Array:
            return jnp.asarray(methods.predict(network, state, seen(grayscale, x)))

        logits = {name: outputs(batch.x) for name, batch in held_out._asdict().items()}
        found = {name: accuracy(logits[name], batch.y) for name, batch in held_out._asdict().items()}
        x, y = held_out.test.x, held_out.test.y
        shown = (data.gray(x), x, data.blank(data.gray(x)), data.blank(x))
        fig3 = jnp.stack([outputs(images) for images in shown])

        def cooled(temperature: Array) -> Array:
            each = entropy(logits["validation"] / temperature).mean()
            return jnp.concatenate([each[None], entropy(fig3 / temperature).mean(axis=1)])

        thresholds = (best_threshold(logits["validation"], held_out.validation.y), best_threshold(logits["test"], y))
        return {
            **found,
            "accuracies": jax.vmap(accuracy, (0, None))(fig3, y),
            "entropies": entropy(fig3).mean(axis=1),
            "cooled": lax.map(cooled, jnp.asarray(TEMPERATURES, fig3.dtype)),
            "shifted": jnp.stack([accuracy(logits["test"] - threshold, y) for threshold in thresholds]),
        }

    return evaluate


def seen(grayscale: bool, x: Float[Array, "*n height width 2"]) -> Float[Array, "*n height width c"]:
    """The inputs of a network: grayscale images for the oracle, coloured images otherwise."""
    return data.grayscale(x) if grayscale else x


def selected(rows: Sequence[Mapping[str, Any]], criterion: str) -> np.ndarray:
    """Test accuracy of every restart at one of its steps.

    This is the last step if `criterion` is "published", and otherwise the step with the best accuracy on the split of
    that name.
    """
    if criterion == "published":
        return np.array([row["test"][-1] for row in rows])
    return np.array([row["test"][int(np.argmax(row[criterion]))] for row in rows])


def summarise(rows: Mapping[str, Sequence[Mapping[str, Any]]], config: Config, title: str) -> list[dict[str, Any]]:
    """The rows of Table 2 and Fig. 3, and the effect of selecting on the test environment."""
    size = f"{config.train} of 50,000 training images" if config.train != 50_000 else ""
    other = "" if config.data == "mnist" else f"images: {title}, a stand-in"
    scaled = f"{config.stretch:g} times the published steps" if config.stretch != 1 else ""
    drawn = "the split is drawn anew for every restart" if config.split == "drawn" else ""
    common = "; ".join(filter(None, [size, other, scaled])) or drawn
    extra = {
        "rex": "hyperparameters of IRM",
        "rex, earlier": f"as rex, with its penalty from step {EARLIER} on instead of {ANNEAL}",
        "irm, earlier": f"as irm, with its penalty from step {EARLIER} on instead of {ANNEAL}",
        "group dro": "not in Table 2",
        "lff": "not in Table 2",
    }
    lines = []
    for name, restarts in rows.items():
        differs = "; ".join(filter(None, [common, extra.get(name)])) or None
        train, test = TABLE_2.get(name, (None, None))
        values = [row["train"][-1] for row in restarts]
        lines.append(_rows.measured(f"{name}: training accuracy", values, published=train, differs=differs))
        for criterion, published, step in (
            ("published", test, "published step"),
            ("validation", None, "best step on the training environments"),
            ("test", None, "best step on the test environment"),
        ):
            label = f"{name}: test accuracy at the {step}"
            lines.append(_rows.measured(label, selected(restarts, criterion), published=published, differs=differs))
    for name, restarts in rows.items():
        for number, environment in enumerate(ENVIRONMENTS):
            published = [values[number] for values in FIGURE_3[name]] if name in FIGURE_3 else [None, None]
            for kind, value in zip(("accuracies", "entropies"), published, strict=True):
                label = f"{name}, {environment}: {'accuracy' if kind == 'accuracies' else 'entropy'}"
                values = [row[kind][number] for row in restarts]
                lines.append(_rows.measured(label, values, published=value, differs=common or None))
    for number, split in enumerate(("validation", "test")):
        for name, restarts in rows.items():
            label = f"{name}: test accuracy with the threshold that is best on {split} images"
            values = [row["shifted"][number] for row in restarts]
            lines.append(_rows.measured(label, values, differs="not in the paper"))
    if {"erm", "sd"} <= rows.keys():
        for number, environment in enumerate(ENVIRONMENTS):
            label = f"erm at the temperature at which it is as sure as sd on validation images, {environment}: entropy"
            values = calmed(rows["erm"], rows["sd"])[:, number]
            lines.append(_rows.measured(label, values, differs="not in the paper"))
    worth = {criterion: selected_arm(rows, criterion) for criterion in ("validation", "test")}
    for criterion, (chosen, values) in worth.items():
        label = f"test accuracy of the method and step that are best on {criterion} images"
        lines.append(_rows.measured(label, values, differs=f"chosen a restart: {chosen}; without the oracle"))
    return lines


def selected_arm(rows: Mapping[str, Sequence[Mapping[str, Any]]], split: str) -> tuple[str, np.ndarray]:
    """Test accuracy of every restart if both the method and its step are selected by accuracy on `split`."""
    names = [name for name in rows if name != "oracle"]
    best = np.array([[max(row[split]) for row in rows[name]] for name in names])
    tested = np.array([selected(rows[name], split) for name in names])
    chosen = best.argmax(axis=0)
    counts = {names[number]: int((chosen == number).sum()) for number in np.unique(chosen)}
    return ", ".join(f"{name} {count}" for name, count in counts.items()), tested[chosen, np.arange(len(chosen))]


Rows = Mapping[str, Sequence[Mapping[str, Any]]]


def judge(rows: Rows) -> list[dict[str, Any]]:
    """The signatures of Table 2 and Fig. 3 over restarts, with those of trivial explanations."""
    found = []
    if "erm" in rows:
        train, test = (_last(rows, "erm", part) for part in ("train", "test"))
        why = "as many labels are not flipped, so that more takes the colour, or labels learned by heart"
        reason = f"the colour has not been used after the published steps; test accuracy is {test.mean():.3f}"
        found.append(_rows.signature("training accuracy of ERM", train, above=1 - NOISE, why=why, reason=reason))
        why = "chance, which who follows the colour falls below"
        reason = f"the colour is not followed; training accuracy is {train.mean():.3f}"
        found.append(_rows.signature("test accuracy of ERM", test, below=0.5, why=why, reason=reason))
    found += _judge_decoupled(rows)
    if {"sd", "erm"} <= rows.keys():
        found += _judge_entropies(rows)
    found += _judge_invariant(rows)
    if {"sd", "oracle"} <= rows.keys():
        oracle, sd = (_last(rows, name, "test") for name in ("oracle", "sd"))
        reason = f"{oracle.mean():.3f} (oracle) and {sd.mean():.3f} (SD)"
        why = "gray images have no colour to follow"
        found.append(
            _rows.signature("test accuracy, oracle minus SD", oracle - sd, above=0, why=why, reason=reason),
        )
    return found


def _judge_decoupled(rows: Rows) -> list[dict[str, Any]]:
    """SD against ERM, against the parts of its own schedule, and against ERM with another threshold."""
    found, why = [], "half of the published gain of SD over ERM"
    controls = {
        "erm": "ERM",
        "sd, penalty alone": "SD's penalty alone",
        "sd, slow phase alone": "SD's slow phase alone",
    }
    for other, label in controls.items():
        if {"sd", other} <= rows.keys():
            ours, theirs = (_last(rows, name, "test") for name in ("sd", other))
            train = [_last(rows, name, "train").mean() for name in ("sd", other)]
            reason = (
                f"{ours.mean():.3f} (SD) against {theirs.mean():.3f}; in training {train[0]:.3f} and {train[1]:.3f}"
            )
            name = f"test accuracy, SD minus {label}"
            found.append(_rows.signature(name, ours - theirs, above=HALF_GAIN, why=why, reason=reason))
    if {"sd", "erm"} <= rows.keys():
        sd, erm = (_last(rows, name, "test") for name in ("sd", "erm"))
        for number, split in enumerate(("validation", "test")):
            moved = np.array([row["shifted"][number] for row in rows["erm"]])
            name = f"test accuracy, SD minus ERM with the threshold that is best on {split} images"
            reason = f"a threshold alone takes ERM from {erm.mean():.3f} to {moved.mean():.3f}"
            found.append(_rows.signature(name, sd - moved, above=HALF_GAIN, why=why, reason=reason))
    return found


def _judge_entropies(rows: Rows) -> list[dict[str, Any]]:
    """SD against ERM on blank images, with and without dividing ERM's logits by a temperature."""
    found, why = [], "SD is the less sure one in Fig. 3"
    sd, erm = (np.array([row["entropies"] for row in rows[name]]) for name in ("sd", "erm"))
    calm = calmed(rows["erm"], rows["sd"])
    for number in (2, 3):
        values = f"{sd[:, number].mean():.3f} nats (SD)"
        name = f"entropy on {ENVIRONMENTS[number]} images, SD minus ERM"
        reason = f"{values} and {erm[:, number].mean():.3f} (ERM), of 0.693 at most"
        found.append(_rows.signature(name, (sd - erm)[:, number], above=0, why=why, reason=reason))
        name += " at a temperature"
        reason = (
            f"{values} and {calm[:, number].mean():.3f} (ERM, its logits divided by what makes it as sure as SD on "
        )
        reason += (
            f"validation images; {erm[:, number].mean():.3f} before): SD is less sure because its logits are smaller"
        )
        found.append(_rows.signature(name, (sd - calm)[:, number], above=0, why=why, reason=reason))
    return found


def _judge_invariant(rows: Rows) -> list[dict[str, Any]]:
    """REx and IRM against ERM, with their penalties from the published step on, and from an earlier step on."""
    found = []
    for name in ("rex", "irm"):
        for arm, onset in ((name, ANNEAL), (f"{name}, earlier", EARLIER)):
            if {arm, "erm"} <= rows.keys():
                steps = np.array(rows[arm][0]["steps"])
                start = np.argmax(steps >= onset * steps[-1] / 501)
                accuracy = np.mean([row["train"][start] for row in rows[arm]])
                label = LABELS[name] + ("" if arm == name else f" with its penalty from step {EARLIER} on")
                reason = (
                    f"training accuracy is {accuracy:.3f} when the penalty sets in, of {1 - NOISE:g} that can be had "
                )
                reason += f"without learning labels by heart, and {_last(rows, arm, 'train').mean():.3f} in the end"
                found.append(
                    _rows.signature(
                        f"test accuracy, {label} minus ERM",
                        _last(rows, arm, "test") - _last(rows, "erm", "test"),
                        above=(TABLE_2[name][1] - TABLE_2["erm"][1]) / 2,
                        why=f"half of the published gain of {LABELS[name]} over ERM",
                        reason=reason,
                    )
                )
    return found


def _last(rows: Rows, name: str, part: str) -> Float[np.ndarray, " seeds"]:
    """Accuracies of an arm on `part` after the published number of steps."""
    return np.array([row[part][-1] for row in rows[name]])


def draw_environments(rows: Rows, path: Path) -> None:
    """Accuracies and entropies in the environments of Fig. 3."""
    figure, (axes,) = plotting.panels(1, 2)
    shown = {LABELS.get(name, name): arm for name, arm in rows.items() if "," not in name}  # without the ablations
    names = [name.replace(" ", "\n") for name in ENVIRONMENTS]
    for ax, kind, label in zip(axes, ("accuracies", "entropies"), ("accuracy", "entropy in nats"), strict=True):
        series = {name: [row[kind] for row in restarts] for name, restarts in shown.items()}
        plotting.categories(names, series, ax=ax, ylabel=label)
    axes[1].get_legend().remove()
    plotting.save(figure, path)


def draw_schedule(rows: Rows, path: Path) -> None:
    """Accuracies during training of ERM, SD and the parts of its schedule."""
    figure, (axes,) = plotting.panels(1, 2)
    for ax, kind in zip(axes, ("train", "test"), strict=True):
        for name in [name for name in SCHEDULE if name in rows]:
            label = LABELS.get(name, name.replace("sd", "SD")) if kind == "train" else ""
            plotting.curves(rows[name][0]["steps"], [row[kind] for row in rows[name]], ax=ax, label=label)
        ax.set_ylabel(f"{'training' if kind == 'train' else 'test'} accuracy")
        ax.set_ylim(0, 1)
    plotting.save(figure, path)
