"""Practice: networks really trained to their optimum, held against what their own tangent kernels predict.

Every network is an MLP of one hidden layer of tanh units (Eq. 1), trained by `training.fit` until the norm of its
gradient has fallen by the factor that the study states. The prediction is the equilibrium of the dual dynamics
for the features of the same network at initialisation, so that nothing is left between the two but what Eq. 3
leaves out. That falls like 1/width: theta moves along gradients, and in the second-order term these make
a sum over hidden units that is odd in their readout weights, hence of mean zero, a factor width^(-1/2) below the
bound of Lee et al. 2019, which is width^(-1/2) (Dyer and Gur-Ari 2020). ReLU units would be slower, because
a kink that is crossed has no second-order term, and under ridge they come to rest on kinks, where the gradient
does not vanish.

Definition 1 reads the responses in two ways, `U^T Y yhat` off the outputs and `S V^T theta` off the parameters; in
training they agree only as far as the network is linear. Under spectral decoupling the outputs cannot tell: Eq. 17
is minimal where every margin is m, and every network that can get there, of whatever width, does. What still
knows about the width is by which theta it got there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from gsjax import Ridge, SpectralDecoupling, data, dual, features, networks, plotting, tangent, training
from gsjax.data import Dataset
from gsjax.objectives import Penalty
from gsjax.statistics import loglog_slope
from theory.claim import Claim, Control, Observation

SEEDS = 8
EXPONENT, TOLERANCE = -1.0, 0.3
NEAR = 0.03  # the error that the widest network must come below
EXACT = 0.01  # the error of the outputs under spectral decoupling, at every width


@dataclass(frozen=True)
class Study:
    """What is trained: data, penalty, widths, and by which factor the norm of the gradient has to fall."""

    data: Callable[[], Dataset]
    penalty: Penalty
    widths: Sequence[int]
    gradient: float


class Trained(NamedTuple):
    """Networks of one width, a row a seed: the kernel at initialisation, centred outputs, and how training ended.

    `linear` is Phi_0 theta for the theta that was reached, so that `U^T Y linear = S V^T theta`.
    """

    kernel: Float[Array, "seeds n n"]
    outputs: Float[Array, "seeds n"]
    linear: Float[Array, "seeds n"]
    gradient_norm: Float[Array, " seeds"]
    initial_gradient_norm: Float[Array, " seeds"]
    iterations: Int[Array, " seeds"]
    converged: Bool[Array, " seeds"]


class Compared(NamedTuple):
    """Relative errors of the responses, a row a seed; the rank of the kernel; whether the equilibrium was found."""

    outputs: Float[Array, " seeds"]
    parameters: Float[Array, " seeds"]
    rank: Int[Array, " seeds"]
    converged: Bool[Array, " seeds"]


def moons() -> Dataset:
    """Two moons, n = 200, with a coordinate for the biases of the paper's network, which Eq. 1 does not have.

    The scale makes the first layer tell neighbours apart: without it the kernel of a smooth activation has, to
    rounding, half the rank that Eq. 18 asks for.
    """
    x, y = data.two_moons(jax.random.key(0), 200)
    return Dataset(5 * jnp.concatenate([x, jnp.ones((len(x), 1))], axis=1), y)


def digits() -> Dataset:
    """Threes and eights of scikit-learn's handwritten digits, n = 200."""
    return data.digits((3, 8), n=200)


@functools.cache
def _train():
    def train(keys: Key[Array, " seeds"], x, y, penalty: Penalty, scale, tolerance, width: int) -> Trained:
        network = networks.MLP((width,), activation="tanh")

        def apply_fn(params, x):
            return scale * network.apply(params, x)

        def one(key):
            params = network.init(key, x)
            fit = training.fit(apply_fn, params, x, y, penalty, tolerance=tolerance)
            theta = jax.tree.map(jnp.subtract, fit.params, params)
            _, linear = jax.jvp(lambda params: apply_fn(params, x), (params,), (theta,))
            return Trained(tangent.ntk(apply_fn, params, x), fit.logits, linear, *fit[3:])

        return jax.lax.map(one, keys)

    return jax.jit(train, static_argnames="width")


@functools.cache
def _compare():
    def one(trained: Trained, y, penalty: Penalty) -> Compared:
        feats = features.from_ntk(trained.kernel, y)
        equilibrium = dual.equilibrium(feats, penalty)
        predicted = equilibrium.response

        def error(logits):
            missed = jnp.where(feats.s > 0, feats.response(logits) - predicted, 0)
            return jnp.linalg.norm(missed) / jnp.linalg.norm(predicted)

        return Compared(error(trained.outputs), error(trained.linear), feats.rank, equilibrium.converged)

    return jax.jit(lambda trained, y, penalty: jax.lax.map(lambda seed: one(seed, y, penalty), trained))


def check(study: Study, scaling: str = "ntk") -> Observation:
    """Slope, in the width, of the relative error |z - z*| / |z*| of the responses.

    They are read off the outputs under ridge, and off the parameters under spectral decoupling, where the outputs
    have to be right at every width. In "mean-field" scaling the outputs are divided by sqrt(width), which makes the
    kernel smaller by the width, and lambda of ridge with it, so that K / lambda and z* are what they were.
    """
    x, y = study.data()
    keys = jax.random.split(jax.random.key(1), SEEDS)
    runs: list[tuple[Trained, Compared]] = []
    for width in study.widths:
        scale = width**-0.5 if scaling == "mean-field" else 1.0
        penalty = study.penalty
        if isinstance(penalty, Ridge):
            penalty = Ridge(penalty.strength * scale**2)
        trained = _train()(keys, x, y, penalty, scale, study.gradient, width=width)
        runs.append((trained, _compare()(trained, y, penalty)))

    ridge = isinstance(study.penalty, Ridge)
    outputs, parameters = (np.stack([getattr(c, name) for _, c in runs], axis=1) for name in ("outputs", "parameters"))
    errors = outputs if ridge else parameters
    slope = loglog_slope(study.widths, errors)
    converged = all(bool(jnp.all(t.converged & c.converged)) for t, c in runs)
    near = _mean(errors[:, -1]) < NEAR
    exact = ridge or bool(np.max(outputs) < EXACT)

    def draw() -> plotting.Figure:
        figure, axes = plotting.panels()
        series = {"$U^T Y \\hat y$": outputs, "$S V^T \\theta$": parameters}
        for label, values in series.items():
            judged = values is errors
            plotting.error_against_width(
                study.widths, values, slope if judged else None, -1.0 if judged else None, axes[0, 0], label=label
            )
        return figure

    details = {
        "responses read off the": "outputs" if ridge else "parameters",
        "every run converged": converged,
        f"error at the largest width below {NEAR}": near,
        **({} if ridge else {f"outputs right to {EXACT} at every width": exact}),
        "networks": [_row(width, *run) for width, run in zip(study.widths, runs, strict=True)],
        "seeds": SEEDS,
    }
    observation = Observation.slope(EXPONENT, slope, TOLERANCE, details=details, figure=draw)
    return observation._replace(holds=observation.holds and converged and near and exact)


def _row(width: int, trained: Trained, compared: Compared) -> dict[str, float | int | bool]:
    """What the report says of one width; of the seeds the worst, where it is not a mean."""
    return {
        "width": width,
        "error, outputs": _mean(compared.outputs),
        "error, parameters": _mean(compared.parameters),
        "gradient norm": float(jnp.max(trained.gradient_norm)),
        "relative to the initial one": float(jnp.max(trained.gradient_norm / trained.initial_gradient_norm)),
        "iterations": int(jnp.max(trained.iterations)),
        "converged": int(jnp.sum(trained.converged)),
        "rank": int(jnp.min(compared.rank)),
    }


def _mean(errors) -> float:
    return float(np.exp(np.mean(np.log(errors))))


def _claim(name: str, of: str, study: Study) -> Claim:
    ridge = isinstance(study.penalty, Ridge)
    statement = {
        True: "MLPs trained to the minimum of Eq. 5 on {of}: their responses U^T Y yhat approach z* of Eq. 11, in the "
        "features of their own kernel at initialisation, like 1/width.",
        False: "MLPs trained to the minimum of Eq. 17 on {of}: their responses are z* at every width if read off the "
        "outputs, U^T Y yhat, and approach it like 1/width if read off the parameters, S V^T theta.",
    }[ridge]
    return Claim(
        name=name,
        reference="Eqs. 5, 9, 11; Dyer and Gur-Ari 2020"
        if ridge
        else "Eqs. 17, 18, Definition 1; Dyer and Gur-Ari 2020",
        statement=statement.format(of=of),
        check=functools.partial(check, study),
        control=Control(
            "mean-field",
            "outputs divided by sqrt(width), with the same z*: features go on being learned at every width "
            "(Chizat et al. 2019)",
            {"scaling": "mean-field"},
        ),
    )


MOONS, DIGITS = (128, 256, 512, 1024, 2048), (32, 64, 128, 256, 512)
CLAIMS = (
    _claim("practice-moons-ridge", "two moons", Study(moons, Ridge(50.0), MOONS, 1e-6)),
    _claim("practice-moons-decoupling", "two moons", Study(moons, SpectralDecoupling(1.0), MOONS, 1e-5)),
    _claim("practice-digits-ridge", "real digits", Study(digits, Ridge(10.0), DIGITS, 1e-6)),
    _claim("practice-digits-decoupling", "real digits", Study(digits, SpectralDecoupling(1.0), DIGITS, 1e-5)),
)
