"""Float32 against float64: which numbers of the theory survive single precision, and what they depend on.

    python -m experiments precision --preset smoke      a minute on 2 cores, nearly all of it compilation
    python -m experiments precision --preset laptop     20 minutes on 2 cores, most of it for training

Everything is computed twice, from the same float32 parameters and examples: in float64, which counts as exact, and in
float32 with 64-bit types off, as a user has it who does not switch them on. Two more rows mix the types. In "kernel in
float32" the kernel is computed in float32 and all that follows from it in float64. In "bfloat16" parameters and
examples are rounded to bfloat16 first, and the float64 results are for the rounded values, so that only the arithmetic
is judged; the library accumulates kernels in float32.

Networks are at initialisation, on two classes of real images: a fully connected and a convolutional one (Eq. 1 of
Pezeshki et al. 2021), a residual network with batch norm, and a transformer. Smaller sets of examples are the first
ones of the largest. The ridge is `s_1^2 / c` for several condition numbers c; spectral decoupling has strength 0.1.

*Measures* are decimal digits, `-log10` of a relative error: of the largest entry for arrays, of each number itself for
strengths and the responses to single features. A feature is resolved if its strength and those of all stronger ones
are right to 1%. The angle of a singular vector is compared with the distance of its strength to the next one. Signs of
starvation are compared pair by pair, among the ten strongest features and among all that float32 keeps. Trajectories
are those of `linearized.flow` and `dual.integrate`. The first two networks are also trained to their optimum
(`training.fit`). `--trained` adds others; a residual network takes far longer than the first two.

Accelerators are not measured. There, the products of the kernel ask for the highest precision, as the library always
does; `docs/precision.md` says where.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments import _precision_measures as measures
from experiments import _precision_report, _real_bases
from experiments._architectures import Transformer
from experiments._bounds import Bound, expect
from experiments._study import Cell, Report, Study, keys
from gsjax import networks
from gsjax.objectives import Ridge, SpectralDecoupling

Kind = Literal["mlp", "cnn", "resnet", "transformer"]


@dataclass(frozen=True)
class Config:
    """Networks, examples and ridges."""

    kinds: tuple[Kind, ...] = ("mlp", "cnn", "resnet", "transformer")
    """Kinds of networks."""
    images: Literal["digits", "mnist"] = "mnist"
    """Where the images of 3 and 8 are from."""
    ns: Annotated[tuple[int, ...], Bound(least=16)] = (50, 100)
    """Numbers of examples, in increasing order; trajectories and training use the smallest, feature matrices the
    largest."""
    conditions: Annotated[tuple[float, ...], Bound(above=1)] = (1e2, 1e4, 1e6, 1e8)
    """Values of s_1^2 / lambda, in increasing order; trajectories and training use the smallest."""
    seeds: Annotated[int, Bound(least=2)] = 5
    """Networks of each kind, each with its own examples."""
    width: Annotated[int, Bound(least=4)] = 64
    """Width of the fully connected network; the others have a fraction of it."""
    trained: tuple[Kind, ...] = ("mlp", "cnn")
    """Those of `kinds` that are also trained to their optimum."""


PRESETS = {
    "smoke": Config(
        kinds=("mlp",), images="digits", ns=(16, 24), conditions=(1e2, 1e6), seeds=2, width=8, trained=("mlp",)
    ),
    "laptop": Config(),
}

ARMS = ("float32", "kernel in float32", "bfloat16")


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not.

    Raises:
        ValueError: numbers that do not increase, a width that the other networks cannot have a quarter of, or training
            of a kind that is not among `kinds`.
    """
    for name in ("ns", "conditions"):
        values = getattr(config, name)
        expect(sorted(values) == list(values), name, "increasing numbers", values)
    expect(config.width % 4 == 0, "width", "a multiple of 4", config.width)
    expect(set(config.trained) <= set(config.kinds), "trained", f"only kinds of {config.kinds}", config.trained)


@functools.cache
def network(kind: Kind, width: int) -> nn.Module:
    """The network of a kind, with one output."""
    small = width // 4
    return {
        "mlp": networks.MLP((width, width)),
        "cnn": networks.CNN((small, small), strides=(2, 2)),
        "resnet": networks.ResNet((1, 1), block="basic", stem="small", width=small),
        "transformer": Transformer(2 * small),
    }[kind]


AT: Mapping[str, Any] = {
    **dict.fromkeys(("alpha", "margins", "response", "strongest", "weakest", "entries"), float),
    **dict.fromkeys(("flipped_top", "flipped", "share", "share_exact", "weighted", "weighted_exact"), float),
    "converged": bool,
    "converged_exact": bool,
}
PATH: Mapping[str, Any] = {"logits": float, "converged": bool, "converged_exact": bool}


def study(config: Config, *, out: Path, seed: int) -> Study:
    """For each kind and seed, cells for all kernels, feature matrices, trajectories, and training where asked for."""
    columns = {
        "n": int,
        "arm": str,
        **dict.fromkeys(
            ("kernel", "norm", "condition", "weyl", "davis_kahan", "loss_by_strength", "turn_by_gap", "held"), float
        ),
        "strengths": (float, len(measures.PLACES)),
        "sine": (float, len(measures.GAPS)),
        **dict.fromkeys(("kept", "kept_exact", "resolved"), int),
        "decoupled": bool,
        "at": dict.fromkeys(map(str, range(len(config.conditions))), AT),
    }
    cells = []
    for kind in config.kinds:
        for number in range(config.seeds):
            bench = Bench(kind, number, config, seed)
            for measure, compute, fields, size in (
                ("kernel", bench.kernels, columns, len(config.ns) * len(ARMS)),
                ("features", bench.features, {"n": int, "kept": int, "resolved": int}, 1),
                ("paths", bench.paths, {**PATH, "dual": float}, 1),
                ("trained", bench.trained, {**PATH, "penalty": str, "objective": float}, 2),
            ):
                if measure == "trained" and kind not in config.trained:
                    continue
                key = {"kind": kind, "seed": number, "measure": measure}
                cells.append(Cell(key, functools.partial(rows, key, compute), fields, size))
    source = {"name": f"{config.images}, test split, classes 3 and 8", "train": max(config.ns), "stand-in": False}
    return Study(source, cells, functools.partial(report, config))


def rows(key: Mapping[str, Any], compute: Any) -> list[dict[str, Any]]:
    """The rows of a cell."""
    return [{**key, **row} for row in compute()]


def report(config: Config, found: list[dict[str, Any]]) -> Report:
    """Digits by kind, number of examples and condition."""
    return _precision_report.report(found, config)


class Bench:
    """A network with its examples; the kernels are computed once, when they are needed first."""

    def __init__(self, kind: Kind, number: int, config: Config, seed: int) -> None:
        self.kind, self.number, self.config, self.seed = kind, number, config, seed
        self.network = network(kind, config.width)
        self.given = functools.cache(self._given)
        self.exact = functools.cache(self._exact)

    def _given(self) -> tuple[Any, np.ndarray, np.ndarray]:
        """Variables, images and labels in float32."""
        with jax.enable_x64(False):
            data_key, key = jax.random.split(keys(self.seed, [self.number])[0])
            task = _real_bases.load(data_key, f"{self.config.images}_3_8", max(self.config.ns))
            variables = jax.jit(self.network.init)(key, task.x)
            return jax.tree.map(np.asarray, variables), np.asarray(task.x), np.asarray(task.y)

    def _exact(self) -> np.ndarray:
        variables, x, _ = self.given()
        return measures.kernel(self.network, variables, x, jnp.float64)

    def strength(self, kernel: np.ndarray, condition: float) -> float:
        """The ridge at a condition number, from the exact kernel."""
        return float(np.linalg.eigvalsh(kernel)[-1] / condition)

    def kernels(self) -> list[dict[str, Any]]:
        """Kernels and all that follows from them, for every number of examples."""
        (variables, x, y), exact = self.given(), self.exact()
        single = measures.kernel(self.network, variables, x, jnp.float32)
        # To the values that bfloat16 has, and back to the types that float64 is computed from.
        with jax.enable_x64(False):
            half, images = jax.tree.map(
                np.asarray, measures.cast(measures.cast((variables, x), jnp.bfloat16), jnp.float32)
            )
        rounded = measures.kernel(self.network, half, images, jnp.float64)
        narrow = measures.kernel(self.network, half, images, jnp.bfloat16)
        found = []
        for n in self.config.ns:
            for arm, matrix, truth, dtype in (
                ("float32", single, exact, jnp.float32),
                ("kernel in float32", single, exact, jnp.float64),
                ("bfloat16", narrow, rounded, jnp.float32),
            ):
                found.append({"n": n, "arm": arm, **self.compared(matrix[:n, :n], truth[:n, :n], y[:n], dtype)})
        return found

    def compared(self, matrix: np.ndarray, truth: np.ndarray, y: np.ndarray, dtype: Any) -> dict[str, Any]:
        """All measures of a kernel against the exact one."""
        strengths = [self.strength(truth, condition) for condition in self.config.conditions]
        exact, solved = measures.solve(truth, y, strengths, jnp.float64), measures.solve(matrix, y, strengths, dtype)
        at = {str(number): measures.at_condition(solved, exact, number) for number in range(len(strengths))}
        return {**measures.against(solved, exact, matrix, truth), "at": at}

    def features(self) -> list[dict[str, Any]]:
        """Strengths from the feature matrix in float32, for the largest number of examples."""
        (variables, x, _), exact = self.given(), self.exact()
        s2, kept = measures.strengths_of_features(self.network, variables, x)
        return [{"n": len(x), "kept": kept, "resolved": measures.resolved(s2, np.linalg.eigvalsh(exact)[::-1])}]

    def paths(self) -> list[dict[str, Any]]:
        """Trajectories of the smallest number of examples, up to ten times the time constant of the ridge."""
        n, exact, y = self.config.ns[0], self.exact(), self.given()[2]
        kernel, condition = exact[:n, :n], self.config.conditions[0]
        strength = self.strength(kernel, condition)
        times = np.concatenate([[0.0], np.geomspace(1 / (condition * strength), 10 / strength, 20)])
        return [measures.paths(kernel, y[:n], strength, times)]

    def trained(self) -> list[dict[str, Any]]:
        """Training on the smallest number of examples, under a ridge and under spectral decoupling."""
        (variables, x, y), n = self.given(), self.config.ns[0]
        ridge = Ridge(self.strength(self.exact()[:n, :n], self.config.conditions[0]))
        return [
            {"penalty": name, **measures.trained(self.network, variables, x[:n], y[:n], penalty)}
            for name, penalty in (("ridge", ridge), ("SD", SpectralDecoupling(measures.STRENGTH)))
        ]
