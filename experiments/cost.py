"""What a tangent kernel costs, by kind of network and number of examples: multiplications, memory and seconds.

    python -m experiments cost --preset smoke      a minute on 2 cores, nearly all of it compilation
    python -m experiments cost --preset laptop     half an hour on 2 idle cores, half of it VGG-11

*Counts* are exact, of the programs that `tangent.ntk` runs (`experiments/_multiplications.py`): the multiplications of
matrix products and convolutions, in the passes through the network, in gradients and in their contraction. Factors of
a block of examples are computed again for every block of the kernel that needs them, and the count includes that. The
floor is what cannot be saved by any order of blocks: one forward and one backward pass, and for each weight the cheaper
one of two ways, Gram matrices and gradients, to the upper triangle of the kernel. The memory by count is that of the
kernel and of the factors held at a time, in float32.

*Measurements* are made in a process for each kernel: the peak memory that the kernel adds to it, and seconds, the least
of up to three repetitions after a first call, without tracing for kernels of one block. Speeds are relative to a
product of two square matrices in the same process. Kernels with more multiplications than `--limit` are only counted,
and those with more examples than `--decomposed` are not decomposed. The equilibrium is that of random labels under the
ridge s_1^2 / 1e4. Since the same seed gives the same summary, seconds and megabytes are not in it, but in `seconds/`
and in a figure.

Examples are random images of 32 x 32 x 3; costs do not depend on what they show. Networks have one output and standard
sizes (`experiments/_cost_counts.py`), ResNet-18 a quarter of the usual channels, and batch norm uses its averages.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from experiments import _cost_report
from experiments._bounds import Bound, expect
from experiments._cost_counts import KINDS, LABELS, Kind, Work, work
from experiments._study import Cell, Report, Study
from gsjax import files

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Config:
    """Networks, numbers of examples, and what is measured."""

    kinds: tuple[Kind, ...] = KINDS
    """Kinds of networks."""
    ns: Annotated[tuple[int, ...], Bound(least=4)] = (100, 1000, 10_000)
    """Numbers of examples, in increasing order."""
    width: Annotated[int, Bound(least=64)] = 1024
    """Width of the fully connected network, to which the others are in proportion; a multiple of 64."""
    limit: float = 7e11
    """Multiplications up to which a kernel is computed."""
    decomposed: Annotated[int, Bound(least=4)] = 1000
    """Examples up to which a kernel is decomposed."""
    side: int = 2048
    """Size of the square matrices whose product is the unit of speed."""
    patience: float = 5.0
    """Seconds for the repetitions of each measurement."""


PRESETS = {
    "smoke": Config(kinds=("mlp", "transformer"), ns=(8, 16), width=64, decomposed=8, side=64, patience=0.1),
    "laptop": Config(),
}


def check(config: Config) -> None:
    """Checks what the bounds of single fields do not.

    Raises:
        ValueError: numbers that do not increase, or a width that is not a multiple of 64.
    """
    expect(sorted(config.ns) == list(config.ns), "ns", "increasing numbers", config.ns)
    expect(config.width % 64 == 0, "width", "a multiple of 64", config.width)


COUNTED: Mapping[str, Any] = {**dict.fromkeys(Work._fields, int), "computed": bool}
SOLVED: Mapping[str, Any] = {"rank": int, "iterations": int, "converged": int, "products": int}


def study(config: Config, *, out: Path, seed: int) -> Study:
    """A cell per kind and number of examples."""
    cells = []
    for kind in config.kinds:
        for n in config.ns:
            file = out / "seconds" / f"{kind}_{n:06d}.json"
            solved = dict.fromkeys(SOLVED, float)  # null where nothing is decomposed
            compute = functools.partial(row, kind, n, config, seed, file)
            cells.append(Cell({"kind": kind, "n": n}, compute, {**COUNTED, **solved}, 1, files=(file,)))
    source = {"name": "random images, 32 x 32 x 3", "train": max(config.ns), "stand-in": False}
    return Study(source, cells, functools.partial(report, config, out))


def report(config: Config, out: Path, rows: list[dict[str, Any]]) -> Report:
    """Counts in the summary, seconds in a figure."""
    return _cost_report.report(rows, config, functools.partial(read_seconds, out))


def row(kind: Kind, n: int, config: Config, seed: int, file: Path) -> list[dict[str, Any]]:
    """The counts of a kernel; what is measured is written to a file."""
    counted = work(kind, config.width, n)
    computed = counted.total <= config.limit
    found = measured(kind, n, config, seed) if computed else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write(file, files.json_document(told(kind, n, counted, found, config)))
    solved = {name: found.get(name) for name in SOLVED}
    return [{"kind": kind, "n": n, **counted._asdict(), "computed": computed, **solved}]


def measured(kind: Kind, n: int, config: Config, seed: int) -> dict[str, Any]:
    """The measurements of `experiments/_cost_worker.py`, from a process of its own.

    Raises:
        ValueError: the process failed; the message has its last line.
    """
    names = ("width", "side", "patience", "decomposed")
    arguments = {"kind": kind, "n": n, "seed": seed, **{name: getattr(config, name) for name in names}}
    command = [sys.executable, "-m", "experiments._cost_worker", json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise ValueError(f"{kind}, n = {n}: expected measurements from a process, got {last}")
    return json.loads(done.stdout)


def told(kind: Kind, n: int, counted: Work, found: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The measurements as a line of a table, with ratios; only the name and n for a kernel that is counted alone."""
    line: dict[str, Any] = {"network": LABELS[kind], "n": n}
    if not found:
        return {**line, "kernel, seconds": "by count only"}
    rate = config.side**3 / found["unit"]
    return {
        **line,
        "kernel, seconds": found["kernel"],
        "speed, of a matrix product's": counted.total / found["kernel"] / rate,
        "float64 / float32": found["kernel64"] / found["kernel"],
        "first call, seconds": found["first"],
        "peak memory, MiB": found["peak"],
        "matrix-free product / kernel": found["product"] / found["kernel"],
        "eigendecomposition, seconds": found.get("eigh"),
        "equilibrium, seconds": found.get("equilibrium"),
        "starvation matrix, seconds": found.get("starvation"),
        "multiplications a second, matrix product": rate,
        "machine": found["machine"],
    }


def read_seconds(out: Path) -> list[dict[str, Any]]:
    """What was measured, a line per kernel."""
    return [files.parse(path.read_bytes()) for path in sorted((out / "seconds").glob("*.json"))]
