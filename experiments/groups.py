"""Rare groups: average and worst-group accuracy of spectral decoupling and its competitors (Table 3).

Pezeshki et al. 2021 classify blond against dark hair in CelebA, where blond men are 0.85% of all. ERM, spectral
decoupling (SD) with a target for each class, Learning from Failure and Group DRO are trained in the same way: by SGD,
for the same number of epochs, on the same batches, without reweighting. Only Group DRO knows the groups of training
images.

    python -m experiments groups --preset smoke       half a minute, on scikit-learn's digits
    python -m experiments groups --preset laptop      coloured Fashion-MNIST, three to seven minutes on 2 cores
    python -m experiments groups --preset shirts      the same with classes that are harder to tell apart
    python -m experiments groups --preset paper --weights resnet50.safetensors        CelebA, for an accelerator
    python -m experiments groups --preset paper --data waterbirds --learning-rate 1e-3 --epochs 300 --weights ...

The data of the laptop preset are a stand-in, `data.colored_groups`: dresses and coats against pullovers in two colours,
with CelebA's proportions of groups, and about as hard to classify as hair. This pair was chosen after first results on
another one, pullovers and coats against shirts, which turned out harder; that one is the preset shirts. SD's targets
were published for these proportions (2.5 for the rare class, 0.44 for the frequent one), so all methods keep their
published hyperparameters. None is tuned here.

The epoch with the best worst-group accuracy on validation images is reported, as is usual in this literature, and the
last epoch beside it. In the validation and test images of the stand-in both colours are equally frequent, as in
Waterbirds (Sagawa et al. 2020). There average accuracies weight the groups by their shares in training. For CelebA the
average is over its test images.

*Controls.* SD's published targets pull both classes to the positive side, so its gain could be a shift of the
threshold. Hence an offset on the logits is also selected for every method after training (`experiments/_offsets.py`).
The published SD was trained by Adam and the published ERM by SGD, so both also run with Adam, at a usual step size and
not at the published one. `docs/results/groups.md` has the results.

CelebA does not fit into memory. Photographs are read while the previous step is computed, without augmentation, for one
network after another on one device. A run that was stopped continues with the first unfinished network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from experiments import _photographs, _rows
from experiments._bounds import Bound, expect
from experiments._offsets import CHOICES, best_epoch, measure, selected
from experiments._photographs import Course, Outputs
from experiments._study import Cell, Report, Row, Study, keys, select
from gsjax import data, methods, networks, plotting
from gsjax.data import ImageFolder, Images
from gsjax.methods import terms

GROUPS = {
    "celeba": ("dark-haired women", "dark-haired men", "blond women", "blond men"),
    "waterbirds": ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water"),
}
Arm = Literal["erm", "sd", "lff", "group_dro", "balanced", "erm_adam", "sd_adam"]
LABELS = {
    "erm": "ERM",
    "sd": "SD",
    "lff": "LfF",
    "group_dro": "Group DRO",
    "balanced": "Balanced ERM",
    "erm_adam": "ERM by Adam",
    "sd_adam": "SD by Adam",
}

# Table 3: average and worst-group accuracy on CelebA.
PUBLISHED = {
    "erm": ("0.9461 ± 0.0067", "0.4035 ± 0.0168"),
    "sd": ("0.9164 ± 0.0061", "0.8324 ± 0.0201"),
    "lff": (None, "0.8124 ± 0.0138"),
    "group_dro": ("0.9176 ± 0.0028", "0.8778 ± 0.0096"),
}
HALF_GAIN = (0.8324 - 0.4035) / 2  # half of the published gain of SD over ERM on the worst group


@dataclass(frozen=True)
class Config:
    """Data and training."""

    data: Literal["digits", "fashion_mnist", "celeba", "waterbirds"] = "fashion_mnist"
    """Coloured images, digits (8x8, in scikit-learn) or fashion_mnist; or a folder of photographs."""
    frequent: Annotated[tuple[int, ...], Bound(least=0, most=9)] = (3, 4)
    """Labels of the frequent class of coloured images, y = -1: dresses and coats."""
    rare: Annotated[tuple[int, ...], Bound(least=0, most=9)] = (2,)
    """Labels of the rare class of coloured images, y = +1: pullovers."""
    arms: tuple[Arm, ...] = ("erm", "sd", "lff", "group_dro", "balanced", "erm_adam", "sd_adam")
    """Methods to train."""
    seeds: int = 10
    """Networks per method; coloured images are drawn anew for each."""
    epochs: int = 30
    """Passes over the training images."""
    batch_size: int = 128
    """Images per step."""
    learning_rate: float = 0.02
    """Learning rate of SGD, with momentum 0.9."""
    adam_learning_rate: float = 1e-3
    """Learning rate of the methods that are trained by Adam."""
    weight_decay: Annotated[float, Bound(least=0)] = 1e-4
    """Adds (weight_decay / 2) ||theta||^2 to every objective."""
    widths: Annotated[tuple[int, ...], Bound(repeats=True)] = (256, 256)
    """Widths of the hidden layers of the network for coloured images."""
    blocks: Annotated[tuple[int, ...], Bound(repeats=True)] = (3, 4, 6, 3)
    """Blocks per stage of the residual network for photographs; the default is ResNet-50."""
    weights: Path | None = None
    """Its initial weights, a .safetensors file with torchvision's names; random if None."""
    size: int = 224
    """Height and width to which photographs are scaled."""


PRESETS = {
    "smoke": Config(
        data="digits",
        frequent=(1, 3, 5, 9),
        rare=(8,),
        seeds=2,
        epochs=6,
        batch_size=16,
        learning_rate=0.1,
        widths=(32,),
    ),
    "laptop": Config(),
    "shirts": Config(frequent=(2, 4), rare=(6,)),
    "paper": Config(data="celeba", seeds=5, epochs=50, learning_rate=1e-4, adam_learning_rate=1e-4),
}


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not.

    Raises:
        ValueError: a label is both frequent and rare.
    """
    disjoint = set(config.frequent).isdisjoint(config.rare)
    expect(disjoint, "rare", f"other labels than the frequent {config.frequent}", config.rare)


class Parts(NamedTuple):
    """Training, validation and test examples; leaves may have an axis of seeds first."""

    train: methods.Batch
    validation: methods.Batch
    test: methods.Batch


def method(name: str, network: nn.Module, config: Config, sizes: tuple[int, int]) -> methods.Method:
    """A method of Table 3 with its published hyperparameters, or a control; `sizes` are those of the classes -1, +1.

    - SD: the published factors c multiply mean (yhat - target)^2, without 1/2, so strengths are 2 c. The penalty is 0.1
      times the class mean of (yhat - 0.44)^2 for y = -1, and of (yhat - 2.5)^2 for y = +1.
    - Learning from Failure: q = 0.7 and, as in its code, moving averages of the losses of all examples.
    - Group DRO: step size 0.01.
    - Balanced ERM: the loss of each example is multiplied by n / (2 n_c), with n_c of n examples in its class. On
      average this is the same as sampling both classes equally often.
    """
    network_and = network, optax.sgd(config.learning_rate, momentum=0.9)
    if name.endswith("_adam"):
        network_and = network, optax.adam(config.adam_learning_rate)
    if name == "balanced":
        return balanced(*network_and, sizes=sizes, weight_decay=config.weight_decay)
    options: dict[str, dict[str, Any]] = {
        "erm": {},
        "spectral_decoupling": {"strength": (2 * 0.1, 2 * 0.1), "target": (0.44, 2.5), "class_means": True},
        "lff": {"q": 0.7, "examples": sum(sizes), "decay": 0.7},
        "group_dro": {"groups": 4, "step_size": 0.01},
    }
    registered = name.removesuffix("_adam").replace("sd", "spectral_decoupling")
    return methods.get(registered)(*network_and, weight_decay=config.weight_decay, **options[registered])


def balanced(
    network: nn.Module, optimizer: optax.GradientTransformation, *, sizes: tuple[int, int], weight_decay: float
) -> methods.Method:
    """mean_i n loss_i / (2 n_c) + (weight_decay / 2) ||theta||^2, with n_c of the n examples in the class of i."""

    def init(key: Key[Array, ""], batch: methods.Batch) -> methods.State:
        return methods.init_state(network, optimizer, key, batch)

    def update(state: methods.State, batch: methods.Batch) -> tuple[methods.State, methods.Info]:
        def objective(logits: Array, ridge: Array) -> tuple[methods.Info, tuple[()]]:
            each, (label, _) = terms.losses(logits, batch.y), terms.classes(logits, batch.y)
            weights = sum(sizes) / (2 * jnp.asarray(sizes, logits.dtype))
            loss = (weights[label] * each).mean()
            return methods.Info(loss + ridge, loss, jnp.zeros_like(loss)), ()

        main, info, _ = methods.minimise(
            network, optimizer, state.main, batch.x, objective, step=state.step, weight_decay=weight_decay
        )
        return state.stepped(main=main), info

    return methods.checked(init, update)


def study(config: Config, *, out: Path, seed: int) -> Study:
    """A cell per method; for photographs, a cell per network."""
    photographs = config.data in ("celeba", "waterbirds")
    described, cells = (from_folder if photographs else from_colored)(config, keys(seed, range(config.seeds)))

    def report(rows: list[dict[str, Any]]) -> Report:
        found = {arm: select(rows, arm=arm) for arm in config.arms}
        signatures = judge(found) if config.seeds > 1 else []
        return Report(summarise(found, config), signatures, {"groups.png": functools.partial(draw, found, config)})

    return Study(described, cells, report)


def make_cell(config: Config, key: Row, train: Callable[[], list[dict[str, Any]]], count: int) -> Cell:
    """A cell whose rows are made by `row`."""
    found = {"offset": (float, config.epochs), **dict.fromkeys(("validation", "test"), (float, config.epochs, 4))}
    kinds = dict.fromkeys(("none", "groups", "classes", "odds"), found)
    columns = {"seed": int, "shares": (float, 4), "finite": bool, **kinds}
    return Cell(key, lambda: [{**row, **key} for row in train()], columns, count)


def from_colored(config: Config, seeds: Key[Array, " seeds"]) -> tuple[dict[str, Any], list[Cell]]:
    """Coloured images: their description in the summary, and a cell per method.

    Training, validation and test images are disjoint. In validation and test images both colours are equally frequent.

    Raises:
        FileNotFoundError: the files of Fashion-MNIST are missing.
    """
    entry = data.get(config.data)
    if config.data == "digits":
        whole, stride = entry.read(), 1
        cuts = (slice(900), slice(900, 1350), slice(1350, None))
        pieces = [Images(*(leaf[cut] for leaf in whole)) for cut in cuts]
    else:
        whole, stride = entry.read("train"), 2
        pieces = [Images(*(leaf[cut] for leaf in whole)) for cut in (slice(50_000), slice(50_000, None))]
        pieces.append(entry.read("test"))
    classes = config.frequent, config.rare

    def batch(number: int) -> methods.Batch:
        images = pieces[number]
        halves = [int(np.isin(images.labels, labels).sum()) // 2 for labels in classes]
        sizes = np.repeat(halves, 2).tolist() if number > 0 else None

        def drawn(key: Key[Array, ""]) -> methods.Batch:
            key = jax.random.fold_in(key, number)
            x, y, group = data.colored_groups(key, images, classes=classes, sizes=sizes, stride=stride)
            return methods.Batch(x, y, group, index=jnp.arange(len(y)))

        return jax.jit(jax.vmap(drawn))(seeds)

    parts = Parts(*map(batch, range(3)))
    counts = {name: np.bincount(part.group[0]) for name, part in parts._asdict().items()}
    train = functools.partial(train_colored, seeds, parts, counts["train"] / counts["train"].sum(), config)
    cells = [make_cell(config, {"arm": arm}, functools.partial(train, arm), config.seeds) for arm in config.arms]
    return about(f"colored_groups of {entry.title}", counts, stand_in=True), cells


def train_colored(
    seeds: Key[Array, " seeds"], parts: Parts, shares: Float[np.ndarray, " 4"], config: Config, arm: str
) -> list[dict[str, Any]]:
    """Trains all seeds of a method in one compiled program; one row per seed."""
    network, examples = networks.FullyConnected(config.widths), parts.train.y.shape[1]
    sizes = (int((parts.train.y[0] < 0).sum()), int((parts.train.y[0] > 0).sum()))
    expect(1 <= config.batch_size <= examples, "batch_size", f"1 to {examples}", config.batch_size)
    epoch = examples // config.batch_size

    def evaluate(state: methods.State, held_out: Parts) -> dict[str, dict[str, Array]]:
        def outputs(part: methods.Batch) -> Outputs:
            return Outputs(jnp.asarray(methods.predict(network, state, part.x)), part.y, jnp.asarray(part.group))

        return measure(outputs(held_out.validation), outputs(held_out.test), shares=shares, sizes=sizes)

    result = methods.train(
        method(arm, network, config, sizes),
        seeds,
        parts.train,
        steps=config.epochs * epoch,
        batch_size=config.batch_size,
        record=range(epoch, config.epochs * epoch + 1, epoch),
        evaluate=evaluate,
        held_out=parts,
        per_seed=True,
        what=LABELS[arm],
    )

    def history(seed: int) -> Course:
        return Course(jax.tree.map(lambda leaf: leaf[seed], result.records), bool(result.finite[seed]))

    return [row(seed, shares, history(seed)) for seed in range(len(seeds))]


def from_folder(config: Config, seeds: Key[Array, " seeds"]) -> tuple[dict[str, Any], list[Cell]]:
    """Photographs: their description in the summary, and a cell per network.

    Raises:
        FileNotFoundError: the folder is missing.
        ValueError: its files are damaged, or one of its splits lacks a group.
    """
    folder = _photographs.folder(config.data)
    counts = _photographs.counts(folder)
    weights = counts["test" if config.data == "celeba" else "train"]
    train = functools.partial(train_photographs, seeds, folder, weights / weights.sum(), config)
    cells = [
        make_cell(config, {"arm": arm, "seed": seed}, functools.partial(train, arm, seed), 1)
        for arm in config.arms
        for seed in range(config.seeds)
    ]
    return about(config.data, counts, stand_in=False), cells


def train_photographs(
    seeds: Key[Array, " seeds"],
    folder: ImageFolder,
    shares: Float[np.ndarray, " 4"],
    config: Config,
    arm: str,
    seed: int,
) -> list[dict[str, Any]]:
    """Trains one network of a method, and returns its row."""
    network = networks.ResNet(config.blocks)
    y = folder.y[folder.rows("train")]
    sizes = int((y < 0).sum()), int((y > 0).sum())
    history = _photographs.train(
        method(arm, network, config, sizes),
        network,
        seeds[seed],
        folder,
        functools.partial(measure, shares=shares, sizes=sizes),
        epochs=config.epochs,
        batch_size=config.batch_size,
        size=config.size,
        weights=config.weights,
        what=f"{LABELS[arm]}, network {seed + 1} of {config.seeds}",
    )
    return [row(seed, shares, history)]


def about(name: str, counts: Mapping[str, np.ndarray], *, stand_in: bool) -> dict[str, Any]:
    """The description of the data in the summary."""
    return {"name": name, **{part: count.tolist() for part, count in counts.items()}, "stand-in": stand_in}


def row(seed: int, shares: Float[np.ndarray, " 4"], history: Course) -> dict[str, Any]:
    """The row of a network: the results of `measure` after every epoch, and the weights of the groups in averages."""
    found = jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), history.found)
    return {"seed": seed, "shares": np.asarray(shares).tolist(), "finite": history.finite, **found}


def summarise(found: Mapping[str, Sequence[Mapping[str, Any]]], config: Config) -> list[dict[str, Any]]:
    """The rows of Table 3, the accuracies of the groups, and the effects of selecting the epoch and of an offset."""
    published = PUBLISHED if config.data != "waterbirds" else {}
    if config.data in ("digits", "fashion_mnist"):
        images = "8x8 digits" if config.data == "digits" else "Fashion-MNIST 14x14"
        differs = f"coloured {images}, a stand-in for CelebA; MLP of {config.widths}, not a pretrained ResNet-50"
    else:
        differs = "no reweighted batches for Group DRO" + ("" if config.weights else "; the network is not pretrained")
    rows = []
    for arm, trained in found.items():
        label, groups = LABELS[arm], selected(trained)
        note = differs if all(row["finite"] for row in trained) else f"{differs}; the objective was not always finite"
        reference = published.get(arm, (None, None))
        noted = f"{note}; published with Adam" if arm == "sd" else note

        def averages(groups: Float[np.ndarray, "seeds 4"], trained: Any = trained) -> Float[np.ndarray, " seeds"]:
            return (groups * [row["shares"] for row in trained]).sum(axis=1)

        rows += [
            _rows.measured(f"{label}: average accuracy", averages(groups), published=reference[0], differs=noted),
            _rows.measured(f"{label}: worst-group accuracy", groups.min(axis=1), published=reference[1], differs=noted),
        ]
        last = np.array([row["none"]["test"][-1] for row in trained])
        rows.append(_rows.measured(f"{label}: worst-group accuracy, last epoch", last.min(axis=1), differs=note))
        for group, name in enumerate(group_names(config)):
            rows.append(_rows.measured(f"{label}: accuracy, {name}", groups[:, group], differs=note))
        epochs = [1 + best_epoch(row) for row in trained]
        rows.append(_rows.measured(f"{label}: epoch selected, of {config.epochs}", epochs, differs=note))
        for name, choice in CHOICES.items():
            if name != "published" and (name != "log odds" or arm in ("erm", "erm_adam")):
                groups, title = selected(trained, choice), choice.label.format(label)
                rows.append(_rows.measured(f"{title}: average accuracy", averages(groups), differs=note))
                rows.append(_rows.measured(f"{title}: worst-group accuracy", groups.min(axis=1), differs=note))
                if choice.offset in ("groups", "classes"):
                    rows.append(_rows.measured(f"{title}: offset", selected(trained, choice, "offset"), differs=note))
    return rows


def judge(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Whether each remedy is better than ERM, paired by seed, and whether SD is more than a shift of the threshold."""
    signatures = []
    for arm in [arm for arm in ("sd", "lff", "group_dro") if arm in found and "erm" in found]:
        remedy, erm = selected(found[arm]), selected(found["erm"])
        judged = {"worst group": lambda groups: groups.min(axis=1), "rarest group": lambda groups: groups[:, 3]}
        for name, pick in judged.items():
            ours, theirs = pick(remedy), pick(erm)
            shown = ", ".join(f"{value:.2f}" for value in remedy.mean(axis=0))
            reason = (
                f"{ours.mean():.3f} ({LABELS[arm]}) and {theirs.mean():.3f} (ERM); the groups of {LABELS[arm]}: {shown}"
            )
            label = f"{LABELS[arm]} beats ERM on the {name}"
            why = "equal accuracy; differences are paired by seed"
            signatures.append(_rows.signature(label, ours - theirs, above=0, why=why, reason=reason))
    return signatures + judge_controls(found)


def judge_controls(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The worst group of SD against trivial remedies: an offset on the logits, balanced classes, another optimiser.

    Group DRO shows whether a method can be better than an offset here. A temperature is not included, since it changes
    no sign and hence no accuracy.

    Where one method is said to be better than another, the bound is 0. Where two are said not to differ, the bounds are
    half of the published gain of SD over ERM.
    """
    signatures = []

    def compare(ours: tuple[str, str], theirs: tuple[str, str], *, alike: bool = False) -> None:
        pair = [ours, theirs]
        if any(arm not in found for arm, _ in pair):
            return
        first, second = (selected(found[arm], CHOICES[choice]).min(axis=1) for arm, choice in pair)
        labels = [CHOICES[choice].label.format(LABELS[arm]) for arm, choice in pair]
        difference = " minus ".join(f"({label})" if "+" in label or "," in label else label for label in labels)
        signatures.append(
            _rows.signature(
                f"worst group, {difference}{', near 0' * alike}",
                first - second,
                above=-HALF_GAIN if alike else 0,
                below=HALF_GAIN if alike else None,
                why="half of what SD is published to gain over ERM" if alike else "equal accuracy, in pairs of seeds",
                reason=f"{first.mean():.3f} ({labels[0]}) and {second.mean():.3f} ({labels[1]})",
            )
        )

    compare(("erm", "offset"), ("erm", "published"))
    compare(("sd", "published"), ("erm", "offset"))
    compare(("sd", "offset"), ("erm", "offset"))
    compare(("sd", "offset"), ("erm", "offset"), alike=True)
    compare(("group_dro", "offset"), ("erm", "offset"))
    compare(("sd", "published"), ("erm", "balance"))
    compare(("sd", "blind"), ("erm", "blind"))
    compare(("sd", "blind"), ("erm", "blind offset"))
    compare(("sd", "blind"), ("erm", "log odds"))
    compare(("sd", "published"), ("balanced", "published"))
    compare(("erm_adam", "published"), ("erm", "published"), alike=True)
    compare(("sd_adam", "published"), ("erm_adam", "offset"))
    return signatures


def group_names(config: Config) -> tuple[str, ...]:
    """The names of the four groups."""
    if config.data in GROUPS:
        return GROUPS[config.data]
    names = data.get(config.data).classes
    classes = [" or ".join(names[label] for label in labels) for labels in (config.frequent, config.rare)]
    return tuple(f"{name}, colour {color}" for name in classes for color in (0, 1))


def draw(found: Mapping[str, Sequence[Mapping[str, Any]]], config: Config, path: Path) -> None:
    """Accuracy of every group by method, and of the worst group with each kind of offset and for each epoch.

    Intervals are over seeds. The methods trained by Adam are in the summary only.
    """
    figure, ((left, middle, right),) = plotting.panels(1, 3)
    names = [name.replace(", ", ",\n").replace(" or ", "\nor ") for name in group_names(config)]
    published = {arm: trained for arm, trained in found.items() if arm in PUBLISHED} or found
    by_group = {LABELS[arm]: selected(trained) for arm, trained in published.items()}
    plotting.categories(names, by_group, ax=left, ylabel="test accuracy")
    left.tick_params("x", labelsize=9)
    kinds = {
        "none": "published",
        "offset": "offset",
        "by class\nbalance": "balance",
        "none,\nno groups": "blind",
        "offset,\nno groups": "blind offset",
    }
    series = {
        LABELS[arm]: np.stack([selected(trained, CHOICES[kind]).min(axis=1) for kind in kinds.values()], axis=1)
        for arm, trained in found.items()
        if arm in {**published, "balanced": ()}
    }
    plotting.categories(list(kinds), series, ax=middle, ylabel="test accuracy, worst group")
    middle.tick_params("x", labelsize=9)
    for trained in published.values():
        worst = np.min([row["none"]["test"] for row in trained], axis=2)
        plotting.curves(np.arange(1, config.epochs + 1), worst, ax=right)
    right.set_xlabel("epoch")
    right.set_ylabel("test accuracy, worst group")
    plotting.save(figure, path)
