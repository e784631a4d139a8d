"""Coloured digits: the colour starves the digit, and what each remedy makes of it (Table 2 and Fig. 3).

Pezeshki et al. 2021, with the data of Arjovsky et al. 2019: whether a digit is below five, a label flipped in a quarter
of the cases, and a colour that agrees with the label with probability 0.8 and 0.9 in the two environments to train on,
and 0.1 in the one to test on. A network 392-300-300-1 is trained on all examples at once, by Adam.

    python -m experiments colored_mnist --preset smoke      seconds
    python -m experiments colored_mnist --preset laptop     10 restarts on the 10,000 digits of MNIST's test file;
                                                            55 minutes on 2 cores that had other work, too
    python -m experiments colored_mnist --preset fashion    Fashion-MNIST, of full size, ERM and SD: 45 minutes;
                                                            --arms erm sd irm oracle for more
    python -m experiments colored_mnist --preset paper      all 70,000 digits of MNIST, 10 restarts, split as published;
                                                            --arms erm rex irm sd oracle for Table 2 alone

Every restart draws split, label noise, colours and network anew. The published recipes were tuned on the test
environment, their numbers of steps among them. What that is worth is measured: beside the accuracy at the published
step stand that at the step with the best accuracy on held-out images of the *training* environments, and that at the
best step on the test environment itself. The ablation runs the two parts of SD's published schedule alone: the penalty,
and the slow phase, in which the whole loss is multiplied by c.

The laptop preset, with 3,000 digits in place of 50,000, has ERM at 25.3% [24.1, 26.5] on the test environment and SD
at 58.9% [58.3, 59.4]; the penalty alone gets 27.3%, the slow phase alone 23.3%. IRM and REx get hardly further than
ERM: so few digits are learned by heart (95% training accuracy) before their penalties set in, at step 190. Learning
from Failure turns round, and takes the colour for evidence against the label: 86% on the test environment, 17% in
training. The method and step with the best validation accuracy have 9.8% on the test environment, those with the best
test accuracy 90.4%.

With 50,000 images of Fashion-MNIST (classes below five against the others, 3 restarts) ERM has 88.7% [88.3, 88.9] in
training and 19.5% [18.4, 20.9] on the test environment, SD 70.3% [70.0, 70.9] and 55.2% [54.7, 55.5]. The step that is
best on held-out images of the training environments has both at 10%.

Group DRO (groups of label and colour) and Learning from Failure, which the paper does not run here, have the optimiser
and steps of ERM; REx has those of IRM, as in its published code.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from experiments import _rows
from experiments._bounds import Bound
from gsjax import data, methods, networks, plotting, records, statistics
from gsjax._progress import track
from gsjax.data import Images

LABELS = {"erm": "ERM", "rex": "REx", "irm": "IRM", "sd": "SD", "group dro": "Group DRO", "lff": "LfF"}
ENVIRONMENTS = ("gray", "coloured", "gray blank", "coloured blank")  # of Fig. 3


@dataclass(frozen=True)
class Config:
    """What is coloured, and what is trained on it."""

    data: Literal["mnist", "fashion_mnist", "digits"] = "mnist"
    """Images: MNIST, Fashion-MNIST, or scikit-learn's 8x8 digits, which need no file."""
    train: Annotated[int, Bound(least=2)] = 3000
    """Images to train on, half of them in each environment."""
    validation: Annotated[int, Bound(least=2)] = 3500
    """Images to select the step on, in the training environments."""
    test: int = 3500
    """Images to test on."""
    seeds: Annotated[int, Bound(least=2)] = 10
    """Restarts."""
    arms: Annotated[tuple[str, ...], Bound(entries=0)] = ()
    """Only these arms; all of them if empty."""
    width: int = 300
    """Units of a hidden layer; IRM and REx have 1.3 times as many and the oracle 0.277 times (83), as published."""
    stretch: float = 1.0
    """Factor of all published numbers of steps."""
    records: int = 40
    """How often accuracies are recorded on the way."""
    split: Literal["drawn", "published"] = "drawn"
    """Images to train and test on: drawn for every restart, or the first and the next ones of the files, as published
    for MNIST (50,000 and the last 10,000 of its training file); the rest is for validation."""


PRESETS = {
    "smoke": Config(data="digits", train=400, validation=200, test=200, seeds=2, width=32, stretch=0.02, records=4),
    "laptop": Config(),
    "fashion": Config(data="fashion_mnist", train=50_000, validation=10_000, test=10_000, seeds=3, arms=("erm", "sd")),
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


# Restarts that are trained at a time, all arms of them before the next ones: what a run that is stopped can lose.
_TOGETHER = 2


class Arm(NamedTuple):
    """One way to train; the restarts that are trained together are one compiled program."""

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
    """Table 2's methods with their published recipes, two competitors, and the two halves of SD's schedule.

    Means over examples as in the published code, in which SD's penalty is c mean yhat^2, that is a strength of 2 c, and
    IRM's l2 of w stands for w ||theta||^2, that is a weight decay of 2 w. REx's code minimises L_0 + L_1 + w
    ||theta||^2 + v (L_0 - L_1)^2 with the same w and v: twice the objective of `vrex` with a weight decay of w.

    Raises:
        ValueError: `config.arms` has another name.
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

    def invariant(name: str, method: str, weight_decay: float) -> Arm:
        network = mlp(1.3 * config.width)
        options = {"penalty_weight": 91257.18613115903, "anneal": steps(190), "weight_decay": weight_decay}
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
        arm("lff", "lff"),
        oracle(),
        decoupled("sd, penalty alone", strength=strength),
        decoupled("sd, slow phase alone", strength=0.0, loss_scale=scale),
    ]
    names = [arm.name for arm in found]
    unknown = [name for name in config.arms if name not in names]
    if unknown:
        raise ValueError(f"arms: expected some of {', '.join(names)}, got {', '.join(unknown)}")
    return [arm for arm in found if not config.arms or arm.name in config.arms]


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not: see `arms`."""
    arms(config)


def load(config: Config) -> tuple[Images, str]:
    """All images that there are, and what they are.

    Raises:
        ValueError: fewer than `config` asks for.
        FileNotFoundError: the files are nowhere.
    """
    wanted = config.train + config.validation + config.test
    if config.data == "digits":
        images, what = data.digit_images(), "8x8 digits of scikit-learn"
    else:
        read = {"mnist": data.mnist, "fashion_mnist": data.fashion_mnist}[config.data]
        images, what = read("test"), f"{config.data}, test file"
        if wanted > len(images.labels):
            both = zip(read("train"), images, strict=True)
            images, what = Images(*map(np.concatenate, both)), f"{config.data}, both files"
    if wanted > len(images.labels):
        raise ValueError(f"train: expected at most {len(images.labels)} images in all ({what}), got {wanted}")
    return images, what


def sample(key: Key[Array, ""], images: Images, config: Config) -> Sample:
    """The split and the colours of one restart."""
    order_key, *keys = jax.random.split(key, 4)
    if config.split == "drawn":
        order = jax.random.permutation(order_key, len(images.labels))
        train, validation, test, _ = np.split(order, np.cumsum([config.train, config.validation, config.test]))
    else:
        order = np.arange(len(images.labels))
        train, test, validation, _ = np.split(order, np.cumsum([config.train, config.test, config.validation]))
    parts = []
    for rows, key, correlations in zip((train, validation, test), keys, ((0.8, 0.9), (0.8, 0.9), (0.1,)), strict=True):
        chosen = Images(*(jnp.asarray(leaf)[rows] for leaf in images))  # pyright: ignore[reportArgumentType]  traced
        stride = 2 if images.pixels.shape[1] == 28 else 1
        x, y, color, environment = data.colored(key, chosen, correlations=correlations, stride=stride)
        group = 2 * (y > 0).astype(int) + color
        parts.append(methods.Batch(x, y, group, environment, jnp.arange(len(y))))
    return Sample(*parts)


def run(config: Config, out: Path, *, preset: str, seed: int) -> None:
    """Trains the arms that are not trained yet, and writes `rows.jsonl`, `summary.json` and the figures."""
    planned = arms(config)
    table = records.Table(out, {**dataclasses.asdict(config), "seed": seed})
    images, what = load(config)
    draw_all = jax.jit(jax.vmap(lambda key, of: sample(jax.random.fold_in(key, 1), of, config), in_axes=(0, None)))
    blocks = [range(start, min(start + _TOGETHER, config.seeds)) for start in range(0, config.seeds, _TOGETHER)]
    for block in track(blocks, "restarts"):
        missing = [
            arm for arm in planned if not all(table.has({"arm": arm.name, "seed": restart}) for restart in block)
        ]
        if not missing:
            continue
        keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(jnp.asarray(block))
        samples = draw_all(keys, images)
        for arm in missing:
            start = time.perf_counter()
            of_block = trained(arm, block, keys, samples, config)
            seconds = (time.perf_counter() - start) / len(block)
            for row in of_block:
                if not table.has({"arm": arm.name, "seed": row["seed"]}):
                    table.add({"arm": arm.name, "seed": row["seed"]}, [row], seconds)
    rows = {arm.name: [row for row in table.rows if row["arm"] == arm.name] for arm in planned}
    stand_in = config.data != "mnist"
    _rows.finish(
        out,
        experiment="colored_mnist",
        preset=preset,
        config=config,
        seed=seed,
        data={
            "name": f"coloured {what}",
            "train": config.train,
            "validation": config.validation,
            "test": config.test,
            "stand-in": stand_in,
        },
        rows=summarise(rows, config, what),
        signatures=judge(rows),
    )
    draw(rows, out)


def trained(
    arm: Arm, restarts: Sequence[int], keys: Key[Array, " seeds"], samples: Sample, config: Config
) -> list[dict[str, Any]]:
    """Trains some restarts of an arm; one row per restart."""

    def see(x: Float[Array, "n height width 2"]) -> Float[Array, "n height width c"]:
        return data.grayscale(x) if arm.grayscale else x

    def accuracy(logits: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
        return (y * logits > 0).mean()

    def evaluate(state: methods.State, held_out: Sample) -> dict[str, Array]:
        def outputs(x: Array) -> Array:
            return jnp.asarray(methods.predict(arm.network, state, see(x)))

        found = {name: accuracy(outputs(batch.x), batch.y) for name, batch in held_out._asdict().items()}
        x, y = held_out.test.x, held_out.test.y
        seen = (data.gray(x), x, data.blank(data.gray(x)), data.blank(x))
        logits = jnp.stack([outputs(images) for images in seen])
        correct = jax.vmap(accuracy, (0, None))(logits, y)
        return {**found, "accuracies": correct, "entropies": entropy(logits).mean(axis=1)}

    result = methods.train(
        arm.method,
        keys,
        samples.train._replace(x=see(samples.train.x)),
        steps=arm.steps,
        record=sorted({round(step) for step in np.linspace(0, arm.steps, config.records + 1)}),
        evaluate=evaluate,
        held_out=samples,
        per_seed=True,
        what=arm.name,
    )
    rows = []
    for place, restart in enumerate(restarts):
        of = {name: np.asarray(values)[place] for name, values in result.records.items()}
        rows.append(
            {
                "arm": arm.name,
                "seed": restart,
                "finite": bool(result.finite[place]),
                "steps": result.steps.tolist(),
                **{name: of[name].tolist() for name in ("train", "validation", "test")},
                "accuracies": of["accuracies"][-1].tolist(),
                "entropies": of["entropies"][-1].tolist(),
            }
        )
    return rows


def entropy(logits: Float[Array, "..."]) -> Float[Array, "..."]:
    """Entropy in nats of the predicted distribution, which has the probability 1 / (1 + exp(-logit)) for y = +1.

    >>> round(float(entropy(jnp.zeros(()))), 4), float(entropy(jnp.asarray(200.0)))
    (0.6931, 0.0)
    """
    return jax.nn.softplus(-jnp.abs(logits)) + jnp.abs(logits) * jax.nn.sigmoid(-jnp.abs(logits))


def selected(rows: Sequence[Mapping[str, Any]], by: str) -> np.ndarray:
    """Test accuracy of every restart at the recorded step that is best `by` "validation" or "test", or the last one."""
    if by == "published":
        return np.array([row["test"][-1] for row in rows])
    return np.array([row["test"][int(np.argmax(row[by]))] for row in rows])


def summarise(rows: Mapping[str, Sequence[Mapping[str, Any]]], config: Config, what: str) -> list[dict[str, Any]]:
    """Table 2 and Fig. 3, and what it is worth to select on the test environment."""
    size = f"{config.train} of 50,000 training images" if config.train != 50_000 else ""
    other = "" if config.data == "mnist" else f"images: {what}, a stand-in"
    scaled = f"{config.stretch:g} times the published steps" if config.stretch != 1 else ""
    drawn = "the split is drawn anew for every restart" if config.split == "drawn" else ""
    common = "; ".join(filter(None, [size, other, scaled])) or drawn
    extra = {"rex": "hyperparameters of IRM", "group dro": "not in Table 2", "lff": "not in Table 2"}
    lines = []
    for name, of in rows.items():
        differs = "; ".join(filter(None, [common, extra.get(name)])) or None
        train, test = TABLE_2.get(name, (None, None))
        lines.append(
            _rows.measured(
                f"{name}: training accuracy", [row["train"][-1] for row in of], published=train, differs=differs
            )
        )
        for by, published in (("published", test), ("validation", None), ("test", None)):
            at = {"published": "at the published step", "validation": "at the best step on the training environments"}
            label = f"{name}: test accuracy {at.get(by, 'at the best step on the test environment')}"
            lines.append(_rows.measured(label, selected(of, by), published=published, differs=differs))
    for name, of in rows.items():
        for number, environment in enumerate(ENVIRONMENTS):
            published = [values[number] for values in FIGURE_3[name]] if name in FIGURE_3 else [None, None]
            for kind, value in zip(("accuracies", "entropies"), published, strict=True):
                label = f"{name}, {environment}: {'accuracy' if kind == 'accuracies' else 'entropy'}"
                values = [row[kind][number] for row in of]
                lines.append(_rows.measured(label, values, published=value, differs=common or None))
    worth = {by: selected_arm(rows, by) for by in ("validation", "test")}
    for by, (chosen, values) in worth.items():
        label = f"test accuracy of the method and step that are best on {by} images"
        lines.append(_rows.measured(label, values, differs=f"chosen a restart: {chosen}; without the oracle"))
    return lines


def selected_arm(rows: Mapping[str, Sequence[Mapping[str, Any]]], by: str) -> tuple[str, np.ndarray]:
    """Test accuracy of every restart when the method and its step are both chosen by accuracy on `by`."""
    names = [name for name in rows if name != "oracle"]
    best = np.array([[max(row[by]) for row in rows[name]] for name in names])
    tested = np.array([selected(rows[name], by) for name in names])
    chosen = best.argmax(axis=0)
    counts = {names[number]: int((chosen == number).sum()) for number in np.unique(chosen)}
    return ", ".join(f"{name} {count}" for name, count in counts.items()), tested[chosen, np.arange(len(chosen))]


def judge(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The signatures of Table 2 and Fig. 3, over restarts."""
    signatures = []
    if "erm" in rows:
        erm = rows["erm"]
        train, test = (statistics.mean([row[name][-1] for row in erm]) for name in ("train", "test"))
        why = "the whole interval over restarts lies above 0.8"
        signatures.append(_rows.signature("training accuracy of ERM", train, train.low > 0.8, why))
        why = "the whole interval over restarts lies below 0.4"
        signatures.append(_rows.signature("test accuracy of ERM", test, test.high < 0.4, why))
    pairs = {
        "sd": "the lower end of the interval, in pairs of restarts, against 0.25",
        "sd, penalty alone": "the published schedule beats its penalty alone: the interval lies above zero",
        "sd, slow phase alone": "the published schedule beats its slow phase alone: the interval lies above zero",
    }
    if "sd" in rows:
        sd = np.array([row["test"][-1] for row in rows["sd"]])
        for other, why in pairs.items():
            against = "erm" if other == "sd" else other
            if against in rows:
                gain = statistics.mean(sd - [row["test"][-1] for row in rows[against]])
                bound = 0.25 if other == "sd" else 0.0
                signatures.append(
                    _rows.signature(
                        f"test accuracy, SD minus {LABELS.get(against, against)}", gain, gain.low > bound, why
                    )
                )
        if "erm" in rows:
            for number in (2, 3):
                sure = [np.array([row["entropies"][number] for row in rows[name]]) for name in ("sd", "erm")]
                gain = statistics.mean(sure[0] - sure[1])
                name = f"entropy on {ENVIRONMENTS[number]} images, SD minus ERM"
                signatures.append(_rows.signature(name, gain, gain.low > 0, "the interval lies above zero"))
    return signatures


def draw(rows: Mapping[str, Sequence[Mapping[str, Any]]], out: Path) -> None:
    """Fig. 3 as numbers, and accuracies in the course of training."""
    figure, (axes,) = plotting.panels(1, 2)
    shown = {LABELS.get(name, name): of for name, of in rows.items() if "alone" not in name}
    names = [name.replace(" ", "\n") for name in ENVIRONMENTS]
    for ax, kind, label in zip(axes, ("accuracies", "entropies"), ("accuracy", "entropy in nats"), strict=True):
        series = {name: [row[kind] for row in of] for name, of in shown.items()}
        plotting.categories(names, series, ax=ax, ylabel=label)
    axes[1].get_legend().remove()
    plotting.save(figure, out / "environments.png")

    followed = [name for name in ("erm", "sd", "sd, penalty alone", "sd, slow phase alone") if name in rows]
    if followed:
        figure, (axes,) = plotting.panels(1, 2)
        for ax, kind in zip(axes, ("train", "test"), strict=True):
            for name in followed:
                label = LABELS.get(name, name.replace("sd", "SD")) if kind == "train" else ""
                plotting.curves(rows[name][0]["steps"], [row[kind] for row in rows[name]], ax=ax, label=label)
            ax.set_ylabel(f"{'training' if kind == 'train' else 'test'} accuracy")
            ax.set_ylim(0, 1)
        plotting.save(figure, out / "schedule.png")
