"""The rows of the experiment `prediction_depth` as arrays over seeds, and its summary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments import _ranks, _rows
from experiments._depth_networks import LABELS, built
from experiments._depth_tasks import CLASSES, CONTROLS, PATCHED, VARIANTS, title
from experiments._study import select

if TYPE_CHECKING:
    from experiments.prediction_depth import Config

INFORMATION = "information"  # in place of a network: the cells of the family that knows nothing of the networks

# Mean depths of VGG-16, as read off the published figure.
PUBLISHED = {
    ("kmnist", "patches"): 1.1,
    ("mnist", "clean"): 2.3,
    ("fashion_mnist", "clean"): 4.0,
    ("kmnist", "clean"): 5.3,
    ("cifar10", "clean"): 6.5,
}
ORDER = ("mnist", "fashion_mnist", "kmnist", "cifar10")  # by published mean depth
Rows = Sequence[Mapping[str, Any]]


def planned(config: Config) -> Iterator[tuple[str, str, str]]:
    """The networks, data sets and variants of all cells; those of the small family come first."""
    all_variants = [(name, variant) for name in config.data for variant in VARIANTS]
    all_variants += [(config.control, variant) for variant in CONTROLS]
    for network in (INFORMATION, *config.networks):
        for name, variant in all_variants:
            if network in (INFORMATION, config.networks[0]) or variant in ("clean", "patches"):
                yield network, name, variant


class Found(NamedTuple):
    """The rows of all cells, with the quantities of each as arrays over seeds."""

    rows: Rows
    config: Config

    def array(self, quantity: str, network: str, name: str, variant: str = "clean") -> Float[np.ndarray, "seeds ..."]:
        """A column of the rows of a cell; what is null in the file is NaN."""
        rows = select(self.rows, network=network, data=name, variant=variant)
        return np.array([row[quantity] for row in rows], dtype=float)

    def depths(
        self, network: str, name: str, variant: str = "clean", *, epoch: int = -1
    ) -> Float[np.ndarray, "seeds q"]:
        """The depths after the epoch with this number in `config.epochs`; NaN where invalid."""
        return self.array("depth", network, name, variant)[:, epoch]

    def over_data(self, measure: Callable[[str], np.ndarray]) -> Float[np.ndarray, " seeds"]:
        """The mean of `measure(name)` -> `(seeds,)` over the data sets."""
        return np.mean([measure(name) for name in self.config.data], axis=0)


def mean_depth(depths: Float[np.ndarray, "... q"]) -> Float[np.ndarray, "..."]:
    """The mean depth of the valid examples; NaN if there is none.

    >>> mean_depth(np.array([[1.0, 3.0, np.nan], [np.nan] * 3])).tolist()
    [2.0, nan]
    """
    count = (~np.isnan(depths)).sum(axis=-1)
    return np.where(count > 0, np.nansum(depths, axis=-1) / np.maximum(count, 1), np.nan)


def invalid(depths: Float[np.ndarray, "... q"]) -> Float[np.ndarray, "..."]:
    """The share of invalid examples."""
    return np.isnan(depths).mean(axis=-1)


def at_first(depths: Float[np.ndarray, "... q"]) -> Float[np.ndarray, "..."]:
    """The share of all examples that are decided at the first stage."""
    return (depths == 1).mean(axis=-1)


def of_class(depths: Float[np.ndarray, "... q"], label: int, *, others: bool = False) -> Float[np.ndarray, "... some"]:
    """The depths of the examples of one class, or of all others; test images have the labels 0, 1, ..., 9, 0, ..."""
    return depths[..., (np.arange(depths.shape[-1]) % CLASSES == label) != others]


def shared(
    found: Found, network: str, name: str, *, epoch: int = 0
) -> tuple[Float[np.ndarray, "seeds q"], Float[np.ndarray, "seeds q"]]:
    """The depths on clean data after an epoch and at the end, of the images that are valid at both; NaN for others.

    The valid images of an early epoch are the easy ones, so means over all valid ones would compare different images.
    """
    early, last = found.depths(network, name, epoch=epoch), found.depths(network, name)
    invalid_once = np.isnan(early) | np.isnan(last)
    return np.where(invalid_once, np.nan, early), np.where(invalid_once, np.nan, last)


def correlations(
    depths: Float[np.ndarray, "seeds q"], bits: Float[np.ndarray, "seeds q"], *, permuted: int = 0
) -> Float[np.ndarray, " seeds"]:
    """The rank correlation of depth and information over the valid examples of each seed; NaN if they are fewer than 4.

    With `permuted`, the mean over this number of random pairings, of the depth of an example with the information of an
    example of the same class.
    """
    found, generator = [], np.random.default_rng(0)
    for depth, information in zip(depths, bits, strict=True):
        valid = np.flatnonzero(~np.isnan(depth))
        values = []
        for _ in range(max(1, permuted)):
            partners = valid.copy()
            for label in range(CLASSES if permuted else 0):
                members = valid % CLASSES == label
                partners[members] = generator.permutation(valid[members])
            enough = len(valid) > 3
            values.append(float(_ranks.correlation(depth[valid], information[partners]).value) if enough else np.nan)
        found.append(np.mean(values))
    return np.array(found)


def summarise(found: Found) -> list[dict[str, Any]]:
    """The rows of the summary."""
    config, lines = found.config, []

    def row(name: str, values: np.ndarray, **options: Any) -> None:
        known = values[np.isfinite(values)]
        if len(known) < len(values):
            options["differs"] = f"{len(values) - len(known)} of {len(values)} seeds have no valid example"
        if len(known):
            lines.append(_rows.measured(name, known, **options))

    for network, name, variant in planned(config):
        if network == INFORMATION:
            bits = found.array("bits", network, name, variant)
            row(f"one hidden layer, {title(name, variant)}: usable information in bits", bits.mean(axis=1))
            continue
        label, depths = f"{LABELS[network]}, {title(name, variant)}", found.depths(network, name, variant)
        published = PUBLISHED.get((name, variant)) if network == "vgg" else None
        row(f"{label}: mean depth", mean_depth(depths), published=published, differs=published and differs(config))
        row(f"{label}: decided at the first stage", at_first(depths))
        row(f"{label}: invalid", invalid(depths))
        votes = found.array("votes", network, name, variant)[:, -1]
        diverged = [not each["finite"] for each in select(found.rows, network=network, data=name, variant=variant)]
        if any(diverged):
            row(f"{label}: share of networks whose objective was not finite", np.array(diverged, float))
        row(f"{label}: accuracy of the network", found.array("test", network, name, variant)[:, -1])
        row(f"{label}: accuracy of the votes of the raw input (layer 0)", votes[:, 0])
        row(f"{label}: accuracy of the votes of the last stage", votes[:, -1])
        row(f"{label}: information of the network in bits", found.array("bits", network, name, variant).mean(axis=1))
        if variant == "patch":
            for others in (False, True):
                group = "the other classes" if others else "the class with the patch"
                row(f"{label}: mean depth of {group}", mean_depth(of_class(depths, PATCHED, others=others)))
        if variant == "clean":
            summarise_clean(found, network, name, row)
    return lines


def differs(config: Config) -> str:
    """What differs from the published networks."""
    return (
        f"{len(built('vgg', config).positions) - 1} convolutions after ReLU, {config.n:,} colour images of "
        f"{config.size} x {config.size}, {config.epochs[-1]} epochs; published: 13 before batch norm, 60,000 grayscale "
        "images of 32 x 32 (50,000 of CIFAR-10), 3 epochs, 50 test images"
    )


def summarise_clean(found: Found, network: str, name: str, row: Callable[..., None]) -> None:
    """Effects of k, of the kind of probe and of undertraining, and the correlation with information, on clean data."""
    config, label = found.config, f"{LABELS[network]}, {title(name)}"
    last = found.depths(network, name)
    other = found.array("other", network, name)
    for number, k in enumerate(config.other_k):
        row(f"{label}: mean depth with k = {k}", mean_depth(other[:, number]))
        row(f"{label}: invalid with k = {k}", invalid(other[:, number]))
    linear = found.array("linear", network, name)
    row(f"{label}: mean depth by linear probes", mean_depth(linear))
    row(f"{label}: invalid by linear probes", invalid(linear))
    row(f"{label}: networks whose linear probes all converged", found.array("linear converged", network, name))
    row(f"{label}: accuracy of the linear probe of the raw input", found.array("linear votes", network, name)[:, 0])
    for number, epoch in enumerate(config.epochs[:-1]):
        early, when = found.depths(network, name, epoch=number), f"after epoch {epoch} of {config.epochs[-1]}"
        row(f"{label}: mean depth {when}", mean_depth(early))
        row(f"{label}: invalid {when}", invalid(early))
        before, after = shared(found, network, name, epoch=number)
        row(
            f"{label}: mean depth {when}, minus that at the end, of the images valid at both",
            mean_depth(before - after),
        )
    families = {"the network": network, "one hidden layer": INFORMATION}
    for family, source in families.items():
        bits = found.array("bits", source, name)
        row(f"{label}: rank correlation of depth and information of {family}", correlations(last, bits))
    control = correlations(last, found.array("bits", INFORMATION, name), permuted=20)
    row(f"{label}: the same with the information of other images of the class", control)
