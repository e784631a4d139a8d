"""The gallery of the README: four small figures that `python -m experiments gallery` recomputes with the library.

- phase_diagram: where one of two features starves the other, by theory (Eq. 15, Theorem 2).
- two_moons: the boundary of a trained network, with and without spectral decoupling (Fig. 1).
- digits: the starvation matrix of a network on real digits, at initialisation.
- trajectories: how two features are learned over time, with and without spectral decoupling (Fig. 5).

Equations and figures are numbered as in Pezeshki et al. 2021. The same environment gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from PIL import Image
from threadpoolctl import threadpool_limits

from gsjax import data, features, linearized, methods, networks, plotting, records, starvation, tangent
from gsjax.objectives import Ridge, SpectralDecoupling
from gsjax.progress import track

FOLDER = Path(__file__).with_name("records") / "gallery"

SEEDS = 5  # networks whose outputs are averaged for a boundary, each trained on its own examples
STEPS = 2000
INCHES, DPI = (5.8, 4.4), 280  # 1624 pixels wide, four times the 400 pixels of the README


@dataclass(frozen=True)
class Options:
    """Draw the four figures of the README's gallery: about a minute."""

    out: Path = FOLDER
    """Folder that the figures are written to."""


def main(arguments: Sequence[str]) -> int:
    """The command `python -m experiments gallery`; returns the exit status.

    Raises:
        OSError: a file cannot be written.
    """
    options = tyro.cli(Options, args=arguments, prog="python -m experiments gallery")
    options.out.mkdir(parents=True, exist_ok=True)
    with jax.enable_x64(True), threadpool_limits(1, "blas"):
        for draw in track(FIGURES, "figures"):
            records.write(options.out / f"{draw.__name__}.png", png(draw()))
    print(f"{options.out}: {', '.join(f'{draw.__name__}.png' for draw in FIGURES)}")
    return 0


def phase_diagram() -> plotting.Figure:
    """Starvation of the second of two features, over their ratio of strengths and their coupling."""
    diagram = starvation.phase_diagram(jnp.geomspace(0.1, 10, 200), jnp.linspace(-0.99, 0.99, 200), jnp.array([0.1]))
    figure, axes = plotting.panels()
    plotting.phase_diagram(diagram, axes[0, 0])
    return figure


def two_moons() -> plotting.Figure:
    """Decision boundaries of networks trained without and with spectral decoupling.

    As in the experiment `two_moons`, every seed has its own examples and network. The boundary is that of the outputs
    averaged over seeds; the examples shown are those of the first seed.
    """
    network, momentum = networks.FullyConnected((200,)), optax.sgd(0.01, 0.9)
    trained = {
        "ERM": methods.get("erm")(network, momentum),
        "spectral decoupling": methods.get("spectral_decoupling")(network, momentum, strength=0.006),
    }
    first, second = np.linspace(-1.75, 1.75, 175), np.linspace(-2.4, 2.4, 240)
    corners = jnp.stack(jnp.meshgrid(first, second), axis=-1).reshape(-1, 2)
    examples, keys = (jax.random.split(jax.random.key(number), SEEDS) for number in range(2))
    x, y = jax.vmap(lambda key: data.two_moons(key, 300))(examples)
    figure, axes = plotting.panels(columns=2)
    for ax, (name, method) in zip(axes.flat, trained.items(), strict=True):
        run = methods.train(
            method,
            keys,
            methods.Batch(x, y),
            steps=STEPS,
            evaluate=lambda state, _: methods.predict(network, state, corners),
            held_out=(x, y),
            per_seed=True,
            what=name,
        )
        logits = run.records[:, -1].mean(axis=0).reshape(len(second), len(first))
        plotting.decision_boundary(first, second, logits, x[0], y[0], ax).set_title(name)
    axes[0, 1].set_ylabel("")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), markerscale=2, frameon=False)
    return figure


def digits() -> plotting.Figure:
    """The starvation matrix among the strongest features of a network on real digits."""
    x, y = data.digits((3, 8), n=200)
    network = networks.MLP((512,), activation="tanh")
    feats = features.from_ntk(tangent.ntk(network.apply, network.init(jax.random.key(0), x), x), y)
    strongest = slice(20)
    matrix = starvation.matrix(feats, Ridge(1.0))[strongest, strongest]
    figure, axes = plotting.panels()
    plotting.starvation(matrix, feats.s2[strongest], axes[0, 0])
    return figure


def trajectories() -> plotting.Figure:
    """Learning of two coupled features over time: equally strong, and the first one 25 times as strong."""
    times = jnp.geomspace(1e-2, 1e4, 240)
    ratio, delta = jnp.array([1.0, 25.0]), jnp.array([0.3])
    penalties = {"ridge": Ridge(0.0025), "SD": SpectralDecoupling(0.002)}
    found = {name: linearized.trajectories(ratio, delta, penalty, times=times) for name, penalty in penalties.items()}
    figure = plotting.trajectories(found, dual=False)[0, 0].get_figure()
    figure.set_layout_engine("constrained", w_pad=0.1)  # room for the optima beyond the right edge
    return figure


FIGURES: tuple[Callable[[], plotting.Figure], ...] = (phase_diagram, two_moons, digits, trajectories)


def png(figure: plotting.Figure) -> bytes:
    """The PNG of a figure, four times as wide as the README shows it, in 256 colours, without matplotlib's version."""
    figure.set_size_inches(*INCHES)
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    Image.open(drawn).convert("RGB").quantize(256).save(packed, format="png", optimize=True)
    return packed.getvalue()
