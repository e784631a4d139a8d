"""The summary, the signatures and the figures of the experiment `dominoes`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from experiments import _rows
from experiments._domino_measures import spearman
from experiments._study import Report
from gsjax import plotting
from gsjax.probes import monitoring

DATA = {
    "harmful": "harmful",
    "harmful clean": "harmful, clean",
    "harmful alone": "harmful, core alone",
    "benign": "benign",
    "benign clean": "benign, clean",
    "benign alone": "benign, core alone",
}
REMEDIES = {"erm": "ERM", "sd": "SD", "group_dro": "Group DRO", "lff": "LfF", "irm": "IRM"}
PAIRS = ("harmful", "benign")
NEAR_CHANCE, HIGH = 0.6, 0.8  # core-only accuracies of harmful and of benign dominoes

ACCURACIES = {
    "test": "iid accuracy",
    "core only": "core-only accuracy, spurious half blanked",
    "random": "core-only accuracy, spurious half randomised",
    "spurious only": "spurious-only accuracy, core half blanked",
    "core random": "spurious-only accuracy, core half randomised",
    "reversed": "accuracy, spurious half reversed",
}
BITS = {"linear": "linear", "first": "first stage", "stages": "mean over stages", "network": "network"}

Rows = Sequence[Mapping[str, Any]]
Quantity = Callable[[Mapping[str, Any]], float]


def accuracy(variant: str) -> Quantity:
    """The accuracy on a variant of the test images."""
    return lambda row: row["accuracy"][variant]


def bits(family: str) -> Quantity:
    """The information of iid test images in a family, in bits per image."""
    return lambda row: row["information"][family]


def worst_group(row: Mapping[str, Any]) -> float:
    """The accuracy of the worst of four groups."""
    return min(row["groups"])


def worst_group_with_offset(row: Mapping[str, Any]) -> float:
    """The accuracy of the worst of four groups, with an offset on the logits that was selected on validation images."""
    return min(row["groups_offset"])


def mean_depth(row: Mapping[str, Any]) -> float:
    """The mean depth of valid examples; NaN if there are none.

    >>> mean_depth({"depth": [3, 0, 1], "invalid": 2})
    1.5
    """
    counts = np.array(row["depth"])
    return float(counts @ np.arange(1, len(counts) + 1) / counts.sum()) if counts.any() else np.nan


def first_mass(row: Mapping[str, Any]) -> float:
    """The share of valid examples with depth 1; NaN if there are none."""
    return row["depth"][0] / sum(row["depth"]) if any(row["depth"]) else np.nan


def invalid(row: Mapping[str, Any]) -> float:
    """The share of invalid examples."""
    return row["invalid"] / (row["invalid"] + sum(row["depth"]))


def field(*path: str) -> Quantity:
    """A field of the row; NaN for null."""

    def read(row: Mapping[str, Any]) -> float:
        found: Any = row
        for name in path:
            found = found[name]
        return np.nan if found is None else found

    return read


SALIENCY = "saliency on the spurious half"
QUANTITIES: dict[str, Quantity] = {
    **{label: accuracy(variant) for variant, label in ACCURACIES.items()},
    "worst-group accuracy": worst_group,
    "worst-group accuracy with an offset": worst_group_with_offset,
    "mean depth": mean_depth,
    "share of depth 1": first_mass,
    "share of invalid examples": invalid,
    "accuracy of the vote of the raw input": lambda row: row["votes"][0],
    **{f"information, {label}, bits": bits(family) for family, label in BITS.items()},
    "information, network without a temperature, bits": bits("uncalibrated"),
    "temperature": field("temperature"),
    SALIENCY: field("saliency"),
    "rank correlation of depth and information, network": field("ranks", "network"),
    "rank correlation of depth and information, linear": field("ranks", "linear"),
    "rank correlation of depth and permuted information": field("ranks", "permuted"),
}
NULL_GAP = "largest divergence of the linear null from the balance, bits"
OF_IMAGES = ("accuracy of the vote of the raw input", "information, linear, bits", NULL_GAP)
"""Quantities that do not depend on the trained network."""


def values(rows: Rows, quantity: Quantity) -> Float[np.ndarray, " networks"]:
    """A quantity of every network."""
    return np.array([quantity(row) for row in rows], float)


class Warned(NamedTuple):
    """When the monitor warned of networks, and when accuracies told them from clean ones; infinity stands for never.

    `monitor`, `random`, `test` and `higher (networks,)` are in epochs. `random` and `test` are for a lower accuracy
    with a random spurious half and on images as in training; `higher` is for a higher accuracy on the latter, a
    control. `threshold (T,)` is that of the monitor.
    """

    monitor: Float[np.ndarray, " networks"]
    random: Float[np.ndarray, " networks"]
    test: Float[np.ndarray, " networks"]
    higher: Float[np.ndarray, " networks"]
    threshold: Float[np.ndarray, " T"]


def course(rows: Rows) -> monitoring.Course:
    """The courses of networks, without the order of the examples, `(networks, T, n)`."""
    counts, lost = (np.array([row["course"][name] for row in rows]) for name in ("counts", "invalid"))
    depths = np.append(np.arange(1.0, counts.shape[-1] + 1), np.nan)
    every = np.concatenate([counts, lost[..., None]], axis=-1)
    depth: Any = np.array([[np.repeat(depths, one) for one in network] for network in every])
    names = tuple(f"stage {number}" for number in range(1, counts.shape[-1] + 1))
    return monitoring.Course(depth, np.zeros_like(depth), np.isfinite(depth), None, names)


def first_outside(
    clean: Float[np.ndarray, "m T"], watched: Float[np.ndarray, "n T"], rate: float, images: int, *, above: bool = False
) -> Int[np.ndarray, " n"]:
    """The first checkpoint at which an accuracy is below what clean networks show, or above; T if there is none.

    The bound is the end of the one-sided prediction interval for a further network at the rate / T, like that of
    `monitoring.warn` for the monitor. The standard deviation is at least that of `images` independent answers.
    """
    m, steps = clean.shape
    mean = clean.mean(axis=0)
    spread = np.maximum(clean.std(axis=0, ddof=1), np.sqrt(mean * (1 - mean) / images))
    reach = special.stdtrit(m - 1, 1 - rate / steps) * np.sqrt(1 + 1 / m) * spread
    outside = watched > mean + reach if above else watched < mean - reach
    return np.where(outside.any(axis=1), outside.argmax(axis=1), steps)


def warnings(watched: Rows, clean: Rows, *, epoch: int, rate: float, images: int) -> Warned:
    """When the monitor warns of networks, and when accuracies show the feature, against clean networks."""
    steps = np.array(clean[0]["course"]["steps"])
    found = monitoring.warn(course(clean), course(watched), steps, rate=rate)
    epochs = np.append(steps / epoch, np.inf)

    def first(variant: str, *, above: bool = False) -> Float[np.ndarray, " networks"]:
        known, new = (np.array([row["course"][variant] for row in rows]) for rows in (clean, watched))
        return epochs[first_outside(known, new, rate, images, above=above)]

    return Warned(
        monitor=np.where(found.warned, found.step / epoch, np.inf),
        random=first("random"),
        test=first("test"),
        higher=first("test", above=True),
        threshold=found.threshold,
    )


def report(rows: list[dict[str, Any]], *, epoch: int, rate: float, judged: int, images: int) -> Report:
    """Summary, signatures and figures from the rows of all arms.

    Args:
        rows: those of all networks.
        epoch: the steps of an epoch.
        rate: the nominal rate of false alarms.
        judged: the networks per arm, which are paired; clean data have more.
        images: the test images of each network.
    """
    names = {**DATA, **REMEDIES}
    found = {name: [row for row in rows if row["arm"] == name] for name in names}
    found = {name: each for name, each in found.items() if each}
    paired = {name: each[:judged] for name, each in found.items()}
    warned = {
        pair: warnings(found[pair], found[f"{pair} clean"], epoch=epoch, rate=rate, images=images)
        for pair in PAIRS
        if {pair, f"{pair} clean"} <= found.keys()
    }
    lines = []
    for name, each in paired.items():
        # The remedies are trained on the images of ERM.
        repeated = OF_IMAGES if name in REMEDIES and "erm" in paired and name != "erm" else ()
        lines += [line for line in measured(names[name], each) if not line["name"].endswith(repeated)]
    lines += [line for pair, each in warned.items() for line in told(pair, each)]
    lines += alarms(found, rate)
    lines += remedied(paired)
    figures: dict[str, Callable[[Path], object]] = {"depths.png": functools.partial(draw_depths, paired)}
    if warned:
        figures["courses.png"] = functools.partial(draw_courses, found, warned, epoch)
    if "harmful" in found:
        figures["saliency.png"] = functools.partial(draw_saliency, paired)
    if "erm" in found:
        figures["remedies.png"] = functools.partial(draw_remedies, paired)
    return Report(lines, signatures(paired, warned, epoch=epoch), figures)


def measured(label: str, rows: Rows) -> list[dict[str, Any]]:
    """All quantities of an arm; those that are not defined for every network are left out, with a note."""
    note = None if all(row["finite"] for row in rows) else "the objective was not always finite"
    found = []
    for name, quantity in QUANTITIES.items():
        each = values(rows, quantity)
        defined = each[np.isfinite(each)]
        missing = f"{len(defined)} of {len(each)} networks have a value"
        if len(defined):
            notes = [note, missing if len(defined) < len(each) else None]
            notes.append(f"its share of the area is {rows[0]['area']:g}" if name == SALIENCY else None)
            differs = "; ".join(filter(None, notes)) or None
            found.append(_rows.measured(f"{label}: {name}", defined, differs=differs))
    return [*found, whole(f"{label}: {NULL_GAP}", max(row["null_gap"] for row in rows), len(rows))]


def whole(name: str, value: float, networks: int) -> dict[str, Any]:
    """A row of the summary with one number for all networks, and no interval."""
    return {**_rows.measured(name, [value]), "seeds": networks}


def told(pair: str, warned: Warned) -> list[dict[str, Any]]:
    """How many networks were warned of or shown, and when."""
    found = []
    for name, label in (
        ("monitor", "monitor"),
        ("random", "accuracy with a random spurious half"),
        ("test", "iid accuracy, by being lower,"),
        ("higher", "iid accuracy, by being higher,"),
    ):
        epochs = getattr(warned, name)
        known = epochs[np.isfinite(epochs)]
        title = f"{pair}: share of networks that the {label} tells"
        found.append(whole(title, len(known) / len(epochs), len(epochs)))
        if len(known):
            found.append(_rows.measured(f"{pair}: epoch at which the {label} tells first", known))
        delay = epochs - warned.monitor if len(known) == len(epochs) else np.array([np.inf])
        if name != "monitor" and np.isfinite(delay).all():
            found.append(_rows.measured(f"{pair}: epochs from the warning until the {label} tells", delay))
    return found


def alarms(found: Mapping[str, Rows], rate: float) -> list[dict[str, Any]]:
    """The measured rate of false alarms on clean data, with its Clopper-Pearson interval."""
    lines = []
    for pair in PAIRS:
        if f"{pair} clean" in found:
            each = monitoring.false_alarms(course(found[f"{pair} clean"]), rate=rate)
            name = f"{pair}, clean: share of networks with a false alarm"
            differs = f"the nominal rate is {rate:g}; each network is judged by the others; interval by Clopper-Pearson"
            line = _rows.measured(name, [each.rate], differs=differs)
            lines.append({**line, "interval": [each.low, each.high], "seeds": each.runs})
    return lines


def remedied(paired: Mapping[str, Rows]) -> list[dict[str, Any]]:
    """What each remedy changes against ERM, and against ERM with an offset, in pairs of networks."""
    shown = ("worst-group accuracy", "mean depth", "share of depth 1", "information, mean over stages, bits")
    found = []
    for name in [name for name in REMEDIES if name in paired and name != "erm" and "erm" in paired]:
        for label in shown:
            change = values(paired[name], QUANTITIES[label]) - values(paired["erm"], QUANTITIES[label])
            if np.isfinite(change).all():
                found.append(_rows.measured(f"{REMEDIES[name]} minus ERM: {label}", change))
        change = values(paired[name], worst_group) - values(paired["erm"], worst_group_with_offset)
        found.append(_rows.measured(f"{REMEDIES[name]} minus (ERM + offset): worst-group accuracy", change))
    return found


def signatures(paired: Mapping[str, Rows], warned: Mapping[str, Warned], *, epoch: int) -> list[dict[str, Any]]:
    """The signatures that the arms in `paired` allow."""
    found: list[dict[str, Any]] = []

    def judge(name: str, each: Float[np.ndarray, " networks"], why: str, evidence: str, **bounds: float) -> None:
        defined = each[np.isfinite(each)]
        if len(defined) > 1:
            left = "" if len(defined) == len(each) else f"; {len(defined)} of {len(each)} networks have a value"
            found.append(_rows.signature(name, defined, why=why, reason=evidence + left, **bounds))
        else:
            found.append(_rows.stated(name, None, 1.0, why=why, reason=f"{evidence}; fewer than two have a value"))

    def shown(quantity: Quantity, *arms: str) -> str:
        return ", ".join(f"{_mean(values(paired[arm], quantity))} ({arm})" for arm in arms if arm in paired)

    for variant, how in (("random", "randomised"), ("core only", "blanked")):
        for pair, bound, what in (
            ("harmful", {"below": NEAR_CHANCE}, "near chance"),
            ("benign", {"above": HIGH}, "high"),
        ):
            if pair in paired:
                judge(
                    f"{pair}: core-only accuracy, spurious half {how}, is {what}",
                    values(paired[pair], accuracy(variant)),
                    "0.5 is chance",
                    shown(accuracy(variant), pair, f"{pair} clean", f"{pair} alone"),
                    **bound,
                )
    if {"harmful", "harmful clean"} <= paired.keys():
        for name, quantity, bound in (
            ("mean depth", mean_depth, {"below": 0.0}),
            ("share of depth 1", first_mass, {"above": 0.0}),
            ("information, linear", bits("linear"), {"above": 0.0}),
            ("information, mean over stages", bits("stages"), {"above": 0.0}),
        ):
            difference = values(paired["harmful"], quantity) - values(paired["harmful clean"], quantity)
            why, evidence = "no difference; networks are paired", shown(quantity, "harmful", "harmful clean")
            judge(f"{name}, harmful minus clean", difference, why, evidence, **bound)
    if "harmful clean" in paired:
        clean = paired["harmful clean"]
        evidence = shown(field("ranks", "network"), *DATA)
        for name, key, why, bound in (
            ("depth and information of an image, rank correlation", "network", "no order", {"below": 0.0}),
            (
                "the same with permuted information, a control",
                "permuted",
                "no order, up to 0.1",
                {"above": -0.1, "below": 0.1},
            ),
        ):
            judge(f"harmful, clean: {name}", values(clean, field("ranks", key)), why, evidence, **bound)
    if DATA.keys() <= paired.keys():
        evidence = f"mean depths {shown(mean_depth, *DATA)}; bits {shown(bits('linear'), *DATA)}"
        judge("depth and linear information over the six data sets", over_data(paired), "no order", evidence, below=0)
    for pair, bound in (("harmful", {"above": 0.0}), ("benign", {"below": 0.0})):
        if pair in paired:
            excess = values(paired[pair], field("saliency")) - values(paired[pair], field("area"))
            evidence = shown(field("saliency"), pair, f"{pair} clean")
            judge(f"{pair}: saliency on the spurious half minus its area", excess, "even saliency", evidence, **bound)
    if "harmful" in warned:
        each = warned["harmful"]
        last = paired["harmful"][0]["course"]["steps"][-1] / epoch
        never = [np.minimum(epochs, last + 1) for epochs in (each.random, each.monitor)]
        late = f"epochs {_listed(each.monitor)} (monitor) and {_listed(each.random)} (accuracy)"
        judge(
            "harmful: epochs from the warning to accuracy with a random spurious half",
            never[0] - never[1],
            "the same epoch; never counts as one epoch after the end",
            late,
            above=0,
        )
    return found


def over_data(paired: Mapping[str, Rows]) -> Float[np.ndarray, " networks"]:
    """For every seed, the rank correlation of mean depth with linear information over the data sets."""
    depth, information = (
        np.array([values(paired[name], quantity) for name in DATA]) for quantity in (mean_depth, bits("linear"))
    )
    return np.array([spearman(*pair) for pair in zip(depth.T, information.T, strict=True)])


def _mean(each: Float[np.ndarray, " networks"]) -> str:
    defined = each[np.isfinite(each)]
    return f"{defined.mean():.3f}" if len(defined) else "no value"


def _listed(epochs: Float[np.ndarray, " networks"]) -> str:
    return " ".join("never" if np.isinf(value) else f"{value:.2g}" for value in epochs)


def depths(rows: Rows) -> Float[np.ndarray, " n"]:
    """The depths of all networks of an arm in one list, NaN for invalid examples."""
    counts = np.sum([[*row["depth"], row["invalid"]] for row in rows], axis=0)
    return np.repeat(np.append(np.arange(1.0, len(counts)), np.nan), counts)


def draw_depths(paired: Mapping[str, Rows], path: Path) -> None:
    """Histograms of the depth, one per arm, over all networks."""
    groups = [{label: paired[name] for name, label in part.items() if name in paired} for part in (DATA, REMEDIES)]
    groups = [group for group in groups if group]
    figure, axes = plotting.panels(1, len(groups))
    figure.set_size_inches(6.5 * len(groups), 5.2)
    for group, ax in zip(groups, axes.flat, strict=True):
        most = len(next(iter(group.values()))[0]["depth"])
        plotting.depths({label: depths(rows) for label, rows in group.items()}, ax, most=most)
    plotting.save(figure, path)


def draw_courses(found: Mapping[str, Rows], warned: Mapping[str, Warned], epoch: int, path: Path) -> None:
    """Early mass at the checkpoints with the threshold of the monitor, and accuracies, for both pairs of halves."""
    figure, axes = plotting.panels(2, len(warned))
    figure.set_size_inches(6.5 * len(warned), 8)
    for (pair, each), (top, bottom) in zip(warned.items(), axes.T, strict=True):
        arms = {name: found[name] for name in (pair, f"{pair} clean")}
        epochs = np.array(found[pair][0]["course"]["steps"]) / epoch
        place = np.arange(len(epochs))  # checkpoints are evenly spaced, as on a logarithmic axis
        for (name, rows), color in zip(arms.items(), plotting.OKABE_ITO, strict=False):
            options: dict[str, Any] = {"color": color, "label": DATA[name], "ylabel": "share of depth 1"}
            mass = monitoring.early_mass(course(rows))
            known = np.isfinite(mass).all(axis=0)
            if known.any():
                plotting.curves(place[known], mass[:, known], top, linestyle="-", **options)
            for variant, style, what in (("test", "--", "iid"), ("random", "-", "spurious half random")):
                options |= {"label": f"{DATA[name]}: {what}", "ylabel": "accuracy"}
                accuracies = [row["course"][variant] for row in rows]
                plotting.curves(place, accuracies, bottom, linestyle=style, **options)
        top.plot(place, each.threshold, ":", color="black", label="threshold")
        for ax, told_at, label in ((top, each.monitor, "warning"), (bottom, each.random, "shown by accuracy")):
            first = np.searchsorted(epochs, told_at[np.isfinite(told_at)])
            ax.plot(first, np.full(len(first), -0.02), "^", color="black", label=label)
            ax.set_ylim(-0.05, 1.05)
            ax.set_xticks(place, [f"{value:.2g}" for value in epochs])
            ax.set_xlabel("epoch")
            ax.set_title(pair)
            ax.legend(fontsize=9, loc="lower right")
    plotting.save(figure, path)


def draw_saliency(paired: Mapping[str, Rows], path: Path) -> None:
    """Test images of the first network of each data set, with its saliency and Grad-CAM."""
    shown = [name for name in ("harmful", "harmful clean", "benign", "benign clean") if name in paired]
    figure, axes = plotting.panels(1, len(shown))
    figure.set_size_inches(4.2 * len(shown), 5.0)
    for name, ax in zip(shown, axes.flat, strict=True):
        pictures = {key: np.array(each) for key, each in paired[name][0]["pictures"].items()}
        maps = {"saliency": pictures["saliency"], "Grad-CAM": pictures["cam"]}
        plotting.saliency_maps(pictures["input"], maps, ax)
        ax.set_title(DATA[name])
    plotting.save(figure, path)


def draw_remedies(paired: Mapping[str, Rows], path: Path) -> None:
    """Accuracies, depth and information of ERM and the remedies, beside a network without the spurious half."""
    rows = {label: paired[name] for name, label in REMEDIES.items() if name in paired}
    if "harmful alone" in paired:
        rows["core alone"] = paired["harmful alone"]
    panels: list[tuple[str, dict[str, Quantity]]] = [
        (
            "accuracy",
            {
                "iid": accuracy("test"),
                "randomised": accuracy("random"),
                "reversed": accuracy("reversed"),
                "worst\ngroup": worst_group,
                "worst group\n+ offset": worst_group_with_offset,
            },
        ),
        ("share of test images", {"depth 1": first_mass, "invalid": invalid}),
        ("mean depth", {"mean depth": mean_depth}),
        ("information in bits", {"first\nstage": bits("first"), "stages": bits("stages"), "network": bits("network")}),
    ]
    figure, axes = plotting.panels(2, 2)
    figure.set_size_inches(15, 9)
    for (ylabel, quantities), ax in zip(panels, axes.flat, strict=True):
        series = {}
        for label, each in rows.items():
            table = np.stack([values(each, quantity) for quantity in quantities.values()], axis=1)
            if np.isfinite(table).all():
                series[label] = table
        if series:
            plotting.categories(list(quantities), series, ax, ylabel=ylabel)
        ax.tick_params("x", labelsize=11)
        if ylabel != "mean depth":
            ax.set_ylim(-0.05, 1.05)
    plotting.save(figure, path)
