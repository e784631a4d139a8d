"""Feature contamination: why networks learn features that say nothing about the label, and what they lose by it.

Zhang et al. (ICML 2024) prove for networks with two layers, asymptotically in the number of features, that most neurons
become active on one class only, that background features are then learned to the same order as core features, and that
the risk vanishes in distribution while it stays of order one after a shift of the background; linear networks do not
suffer from this. The mechanism is theirs: the background part of a neuron's gradient is proportional to (P+ - P-) E[z].
The forms below, for finite sizes and with constants, are derived here, and are what the claims check.

Core features are y z_j, j = 1..c, and background features z_j, j = 1..b. All z_j are independent of each other and of
y, with mean mu and standard deviation s. The shift changes the sign of the background. The network is
f(x) = sum_k a_k xi(w_k.x), with a_k = +-1/m for half of the m neurons each, and the loss the mean of max(0, 1 - y f).

**Gradient.** Let phi_k = 1{y f < 1} xi'(w_k.x). On any sample, and in expectation,

    -dL/dw_k = a_k E[y phi_k x],   with the background part   (a_k / 2) (E[phi_k z | y = 1] - E[phi_k z | y = -1]).

1. *Linear network*: phi_k = 1{y f < 1} for all k. The expected background part vanishes while no margin has reached 1,
   and afterwards if the output does not depend on the background. In general it opposes the output's dependence on the
   background, v = sum_k a_k w_k: its inner product with v is E[v.z (1{u.z + v.z < 1} - 1{u.z - v.z < 1})] / 2, where
   u.z is the contribution of the core to the margin, and the difference is never of the sign of v.z. So under the
   gradient flow of the expected loss the background's weights cannot grow: d/dt sum_k |w_k|^2 / 2 is this product.
2. *Any activation*: with P+- = E[phi_k | y = +-1] the expected background part is (a_k / 2) ((P+ - P-) mu + r_k),
   where r_k = Cov(phi_k, z | +) - Cov(phi_k, z | -). For a feature that no neuron uses r_kj = 0, so it starts to be
   learned at the rate (a_k / 2) (P+ - P-) mu. In general |r_k| <= s (sd(phi_k | +) + sd(phi_k | -)), by Bessel's
   inequality, as the (z_j - mu) / s are orthonormal. For ReLU this is at most s, and the main term has the norm
   |P+ - P-| mu sqrt(b).
3. A sample of n examples differs from the expectation by a term of order n^(-1/2).

**Growth.** While all margins are below 1 neurons do not interact, and the gradient of a neuron depends only on the
direction of its weights. Let its weights be sign(a_k) C / sqrt(c) on each core and B / sqrt(b) on each background
feature, so that C and B are the norms. On its own class, y = sign(a_k), the neuron is active. On the other
one w.x is a sum of many terms with mean mu (sqrt(b) B - sqrt(c) C) and standard deviation s sqrt(B^2 + C^2); if it is
normal, with P = P(w.x > 0) and a density term psi,

    dC/dt = (mu sqrt(c) (1 + P) - psi C) / (2 m),      dB/dt = (mu sqrt(b) (1 - P) - psi B) / (2 m).

The ratio r = B / C is constant if r = dB / dC, where psi cancels:

    (G)   r = sqrt(b / c) (1 - P) / (1 + P),    P = Phi(h),    h = (mu / s) (sqrt(b) r - sqrt(c)) / sqrt(1 + r^2).

Initial weights are forgotten when C sqrt(c) mu exceeds s times their norm: from normal weights of standard deviation
sigma with d = b + c after a number of steps proportional to m sigma / (eta sqrt(d)), where eta is the learning rate.
The dependence on m, eta and sigma is exact, up to the discretisation. For b = c the mean margin is 1 after
4 m / (eta mu^2 d) steps.

For b = c, (G) gives P = (s / mu) x / sqrt(d) with Phi(-x) = P, so P falls like sqrt(log(d) / d): the exponent -1/2 is
reached only at sizes where log(d) hardly changes. For b < c, P falls exponentially.

**Shift.** On its own class w.x has the mean mu (sqrt(c) C + sqrt(b) B) in distribution and, shifted, that of the other
class with the opposite sign. The mean margin falls by the factor

    (S)   rho = (phi(h) - h Phi(-h)) (s / mu) sqrt(1 + r^2) / (sqrt(c) + sqrt(b) r),    phi = Phi',

which approaches max(0, c - b) / (c + b), or P for b = c. Where the mean margin in distribution is 1, the shifted risk
is about 1 - rho: of order one, min(1, 2 b / (b + c)) for large c and b. Shifted margins are still positive on average,
so that the failure shows in the risk more than in the accuracy.

**After the first margins of 1.** Let b = c, let tau be the number of steps in units of 4 m / (eta mu^2 d), and M the
mean margin. Margins are about normal, with the standard deviation e M. Then

    (R)   dM/dtau = v Phi(-q),     q = (M - 1) / (e M),     risk = e M (phi(q) - q Phi(-q)),

with v = 1 and e = (s / mu) sqrt(1 + r^2) / (sqrt(c) (1 + r)), which is about s / (mu sqrt(d)). This neglects that
features are smaller than mu on the examples below the margin, and the initial weights. Without a background
e = (s / mu) / sqrt(c), with v = 2 for a linear network, whose neurons learn from both classes, and v = 1/2 for ReLU and
a background of mean zero, which the margins do not profit from. For large tau the risk is e^2 / (q^2 v tau) with q^2
of order 2 log(v tau / e): its exponent in tau approaches -1 from below, and that in d at equal tau as well.

Networks are trained on fresh examples in each step, without biases, momentum or weight decay. The initial weights are
normal with standard deviation sigma, and the same for both signs of a_k, so that f = 0. Some neurons
start inactive on nearly all examples and are late.
"""

from __future__ import annotations

import functools
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from scipy import integrate, stats

from gsjax import methods, networks, objectives
from gsjax.data import structured
from gsjax.probes import contamination
from gsjax.statistics import Interval, loglog_slope
from gsjax.statistics import mean as average
from theory.claim import Claim, Control, Observation

SEEDS = 8
WIDTH = 16
UNIT = 64  # steps until the mean margin is 1
BATCH = 128
MEAN, DEVIATION = 0.5, 12**-0.5  # of z_j uniform on [0, 1)
CORE, BACKGROUND = 3, 5  # where expectations are sums over all combinations of features

Kernel = Float[Array, "features width"]


# ---- gradient


def network(activation: str = "relu", width: int = WIDTH) -> networks.TwoLayer:
    """The network of the theory, without biases."""
    return networks.TwoLayer(width, activation, bias=False)


def variables(one: networks.TwoLayer, kernel: Kernel) -> dict[str, Any]:
    """The variables of a network with this first layer."""
    found: Any = one.init(jax.random.key(0), jnp.zeros((1, len(kernel))))
    return {**found, "params": {"hidden": {"kernel": kernel}}}


def margins(one: networks.TwoLayer, kernel: Kernel, x: Any, y: Any) -> Float[Array, " n"]:
    """The margins y f(x) of a network with this first layer."""
    outputs: Any = one.apply(variables(one, kernel), x)
    return y * outputs


@functools.cache
def _descent(activation: str) -> Any:
    """A function of kernel, x, y, core and basis: the background part of -dL/dw_k, and the margins."""
    one = network(activation, 8)

    @functools.partial(jax.jit, static_argnums=3)
    def descent(kernel, x, y, core, basis):
        gradient = contamination.gradient(one, variables(one, kernel), x, y, loss="hinge")
        return contamination.projections(-gradient, core, basis=basis).background, margins(one, kernel, x, y)

    return descent


def descent(
    activation: str, kernel: Kernel, x: Any, y: Any, core: int = CORE, basis: Any = None
) -> tuple[np.ndarray, float]:
    """The background part of -dL/dw_k by automatic differentiation, and the share of margins of 1 and above."""
    part, found = _descent(activation)(kernel, x, y, core, basis)
    return np.asarray(part), float((found >= 1).mean())


DERIVATIVES = {
    "relu": lambda h: (h > 0).astype(float),
    "identity": np.ones_like,
    "tanh": lambda h: 1 - np.tanh(h) ** 2,
    "sigmoid": lambda h: np.exp(-h) / (1 + np.exp(-h)) ** 2,
}
VALUES = {
    "relu": lambda h: np.maximum(h, 0),
    "identity": lambda h: h,
    "tanh": np.tanh,
    "sigmoid": lambda h: 1 / (1 + np.exp(-h)),
}


class Slopes(NamedTuple):
    """phi_k of every example, the output weights a_k, and y."""

    phi: Float[np.ndarray, "n width"]
    a: Float[np.ndarray, " width"]
    y: Float[np.ndarray, " n"]

    def by_class(self, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """E[of | y = 1] and E[of | y = -1]."""
        return of[self.y > 0].mean(axis=0), of[self.y < 0].mean(axis=0)


def slopes(activation: str, kernel: Any, x: Any, y: Any, masked: bool = True) -> Slopes:
    """phi_k in NumPy; without the factor 1{y f < 1} unless `masked`."""
    kernel, x, y = (np.asarray(array) for array in (kernel, x, y))
    width = kernel.shape[1]
    a = np.where(np.arange(width) < width // 2, 1, -1) / width
    h = x @ kernel
    below = y * (VALUES[activation](h) @ a) < 1 if masked else np.ones(len(y))
    return Slopes(below[:, None] * DERIVATIVES[activation](h), a, y)


def gradient(masked: bool = True) -> Observation:
    """The background part by automatic differentiation against the formula, for several activations, on samples."""
    predicted, observed, above = [], [], []
    for number, activation in enumerate(VALUES):
        for seed in range(SEEDS):
            keys = jax.random.split(jax.random.key(100 * number + seed), 3)
            basis = structured.random_basis(keys[2], 12, 20)
            x, y, z, _ = structured.sample(keys[0], 200, core=5, background=7, dimension=20, basis=basis)
            kernel = _weights(keys[1], 5, 7)
            found = slopes(activation, kernel, z, y, masked)
            plus, minus = found.by_class(found.phi[:, None, :] * np.asarray(z)[:, 5:, None])
            predicted.append(found.a / 2 * (plus - minus))
            part, share = descent(activation, basis.T @ kernel, x, y, 5, basis)
            observed.append(part)
            above.append(share)
    details = {"seeds": SEEDS, "share of margins of 1 and above": float(np.mean(above))}
    return Observation.equal(predicted, observed, 1e-12, details=details)


def _weights(key: Any, core: int, background: int, size: float = 2.0) -> Kernel:
    """Random weights of 8 neurons that are right about the core, so that some margins are above 1 and some below."""
    sign = jnp.where(jnp.arange(8) < 4, 1.0, -1.0)
    right = jnp.concatenate([jnp.tile(sign, (core, 1)), jnp.zeros((background, 8))])
    return size / 2 * (right + jax.random.normal(key, (core + background, 8)))


# ---- in expectation: over all combinations of features that are 0 or 1, each with both labels


def _all(common: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Inputs x and labels y for every z in {0, 1}^8 with both labels, so that means are expectations; mu = s = 1/2.

    With `common=True` all background features are equal.
    """
    count = CORE + BACKGROUND
    z = (np.arange(2**count)[:, None] >> np.arange(count)) % 2
    if common:
        z = np.concatenate([z[:, :CORE], np.repeat(z[:, -1:], BACKGROUND, axis=1)], axis=1)
    y = np.repeat([1.0, -1.0], len(z))
    z = np.tile(z, (2, 1)).astype(float)
    return np.concatenate([y[:, None] * z[:, :CORE], z[:, CORE:]], axis=1), y


def linear(activation: str = "identity") -> Observation:
    """The expected background part: for small random weights, and for large ones on the core only."""
    x, y = _all()
    observed, above = [], []
    for seed in range(SEEDS):
        keys = jax.random.split(jax.random.key(seed))
        for kernel in (_weights(keys[0], CORE, BACKGROUND, 0.1), _weights(keys[1], CORE, BACKGROUND).at[CORE:].set(0)):
            part, share = descent(activation, kernel, x, y)
            observed.append(part)
            above.append(share)
    shares = {"small weights": float(np.mean(above[::2])), "large weights": float(np.mean(above[1::2]))}
    details = {"seeds": SEEDS, "share of margins of 1 and above": shares}
    return Observation.equal(0.0, observed, 1e-12, details=details)


def opposes(activation: str = "identity") -> Observation:
    """d/dt of half the squared norm of the background's weights, under the expected gradient."""
    x, y = _all()
    rates, above = [], []
    for seed in range(6 * SEEDS):
        kernel = _weights(jax.random.key(seed), CORE, BACKGROUND, 1.0 + seed % 3)
        part, share = descent(activation, kernel, x, y)
        rates.append(float(np.sum(part * np.asarray(kernel)[CORE:])))
        above.append(share)
    details = {"networks": len(rates), "share of margins of 1 and above": float(np.mean(above))}
    return Observation.below(0.0, rates, details=details)


def unused(used: bool = False) -> Observation:
    """The expected part of the last background feature, against (a_k / 2) (P+ - P-) mu."""
    x, y = _all()
    predicted, observed = [], []
    for seed in range(SEEDS):
        kernel = _weights(jax.random.key(seed), CORE, BACKGROUND)
        kernel = kernel if used else kernel.at[-1].set(0)
        found = slopes("relu", kernel, x, y)
        plus, minus = found.by_class(found.phi)
        predicted.append(found.a / 2 * (plus - minus) * 0.5)
        observed.append(descent("relu", kernel, x, y)[0][-1])
    details = {"seeds": SEEDS, "mean size of the part": float(np.abs(observed).mean())}
    return Observation.equal(predicted, observed, 1e-12, details=details)


def bound(common: bool = False) -> Observation:
    """The largest |r_k| - s (sd(phi_k | +) + sd(phi_k | -)), for weights of several sizes and all activations."""
    x, y = _all(common)
    excess, relative = [], []
    for activation in VALUES:
        for seed in range(3 * SEEDS):
            kernel = _weights(jax.random.key(seed), CORE, BACKGROUND, 1.0 + seed % 3)
            found = slopes(activation, kernel, x, y)
            means, squares = np.array(found.by_class(found.phi)), np.array(found.by_class(found.phi**2))
            largest = 0.5 * np.sqrt(np.maximum(squares - means**2, 0)).sum(axis=0)
            part = descent(activation, kernel, x, y)[0] * 2 / found.a
            norm = np.linalg.norm(part - (means[0] - means[1]) * 0.5, axis=0)
            excess.append(norm - largest)
            relative.append(float(norm.sum() / largest.sum()))
    details = {"seeds": 3 * SEEDS, "mean of |r_k| relative to the bound": float(np.mean(relative))}
    return Observation.below(0.0, excess, 1e-12, details=details)


def sampling(activation: str = "identity") -> Observation:
    """The exponent, in n, of the root mean square of the background part on samples, before margins of 1."""
    sizes = np.array([100, 400, 1600, 6400])
    found = []
    for seed in range(SEEDS):
        keys = jax.random.split(jax.random.key(seed), 1 + len(sizes))
        kernel = _weights(keys[0], 8, 64, 0.1)
        row = []
        for key, n in zip(keys[1:], sizes, strict=True):
            x, y, _, _ = structured.sample(key, int(n), core=8, background=64, dimension=72)
            row.append(np.sqrt(np.mean(descent(activation, kernel, x, y, 8)[0] ** 2)))
        found.append(row)
    return Observation.slope(-0.5, loglog_slope(sizes, np.array(found)), 0.1, details={"seeds": SEEDS})


# ---- training


class Setting(NamedTuple):
    """What a training run may change without being compiled again.

    Attributes:
        core: c.
        background: b.
        steps: the numbers of steps after which networks are measured; eight of them.
        sigma: the standard deviation of the initial weights, in units of 1/d.
        mean: of the z_j of the background.
        core_mean: of the z_j of the core.
        unit: 4 m / (eta mu^2 d), the number of steps until the mean margin is 1 for b = c; determines eta.
    """

    core: int
    background: int
    steps: tuple[int, ...]
    sigma: float = 0.25
    mean: float = MEAN
    core_mean: float = MEAN
    unit: float = UNIT


class Course(NamedTuple):
    """Measures at the recorded steps: means over neurons and fresh examples, `(seeds, steps)`.

    `core` and `background` are the changes of the projections on the sums of the features since initialisation, signed
    for the core by a_k; the others are means of norms of the change. `own` and `other` are the rates of activation.
    """

    core: Any
    background: Any
    core_norm: Any
    background_norm: Any
    own: Any
    other: Any
    margin: Any
    risk: Any
    shifted_margin: Any
    shifted_risk: Any


@functools.cache
def _program(activation: str, most: int, test: int) -> Any:
    """The compiled training of all seeds, for up to `most` core and `most` background features; others are absent."""
    d, one = 2 * most, network(activation)
    a = variables(one, jnp.zeros((d, WIDTH)))["frozen"]["output"]["kernel"][:, 0]

    def drawn(key, n, options, shifted=False):
        core, background, mean, core_mean = (options[name] for name in ("core", "background", "mean", "core_mean"))
        present = jnp.arange(most)

        def uniform(count, mean):
            return structured.Uniform(*(jnp.where(present < count, mean + end, 0.0) for end in (-0.5, 0.5)))

        found = structured.sample(
            key,
            n,
            core=most,
            background=most,
            dimension=d,
            shifted=shifted,
            core_distribution=uniform(core, core_mean),
            background_distribution=uniform(background, mean),
        )
        return methods.Batch(found.x, found.y)

    def measure(key, kernel, initial, options):
        (x, y, *_), shifted = drawn(key, test, options), drawn(key, test, options, True).x
        before, after = margins(one, kernel, x, y), margins(one, kernel, shifted, y)
        rates = contamination.activation_rates(x @ kernel, y, output=a)
        signed = contamination.projections(kernel, most, initial=initial, output=a)
        change = contamination.projections(kernel, most, initial=initial)
        norms = contamination.norms(change)
        return Course(
            core=signed.core.sum(axis=0).mean() / jnp.sqrt(options["core"]),
            background=change.background.sum(axis=0).mean() / jnp.sqrt(options["background"]),
            core_norm=norms.core.mean(),
            background_norm=norms.background.mean(),
            own=rates.own.mean(),
            other=rates.other.mean(),
            margin=before.mean(),
            risk=objectives.hinge_loss(before) / test,
            shifted_margin=after.mean(),
            shifted_risk=objectives.hinge_loss(after) / test,
        )

    def train(key, options):
        initial_key, data, held_out = jax.random.split(key, 3)
        features = options["core"] + options["background"]
        learning_rate = 4 * WIDTH / (MEAN**2 * features * options["unit"])
        method = methods.get("erm")(one, optax.sgd(learning_rate), loss="hinge")
        state = method.init(initial_key, drawn(data, BATCH, options))
        initial = options["sigma"] / features * jnp.tile(jax.random.normal(initial_key, (d, WIDTH // 2)), (1, 2))
        state = state._replace(params={"hidden": {"kernel": initial}})

        def step(i, state):
            return method.update(state, drawn(jax.random.fold_in(data, i), BATCH, options))[0]

        def advance(state, ends):
            state = jax.lax.fori_loop(ends[0], ends[1], step, state)
            return state, measure(held_out, state.params["hidden"]["kernel"], initial, options)

        steps = options["steps"]
        return jax.lax.scan(advance, state, (jnp.concatenate([jnp.zeros(1, int), steps[:-1]]), steps))[1]

    return jax.jit(jax.vmap(train, in_axes=(0, None)))


def course(setting: Setting, activation: str = "relu", most: int = 128, test: int = 2000, seeds: int = SEEDS) -> Course:
    """Networks trained by `methods.erm` on fresh examples, and measured on `test` other ones."""
    with _lock(activation, most, test):  # or claims that run at the same time would compile and train twice
        return _course(setting, activation, most, test, seeds)


@functools.cache
def _lock(*program: Any) -> threading.Lock:
    return threading.Lock()


@functools.cache
def _course(setting: Setting, activation: str, most: int, test: int, seeds: int) -> Course:
    options = {name: jnp.asarray(value) for name, value in setting._asdict().items()}
    found = _program(activation, most, test)(jax.random.split(jax.random.key(0), seeds), options)
    return Course(*map(np.asarray, found))


# ---- growth, and the shift

FEATURES = ((8, 8), (16, 16), (32, 32), (64, 64), (128, 128), (64, 32), (32, 64))
EQUAL = FEATURES[:5]
GROWTH = (1, 2, 4, 8, 16, 24, 32, 64)
HALF = GROWTH.index(UNIT // 2)  # the mean margin is 1/2, and nearly all margins are below 1


def growth(mean: float = MEAN) -> Observation:
    """The ratio of the background's to the core's growth against (G)."""
    return _compare("B / C", 0, lambda one: one.background / one.core, 0.03, mean=mean)


def shift(activation: str = "relu") -> Observation:
    """The mean margin after the shift, relative to that before it, against (S)."""
    return _compare("rho", 2, lambda one: one.shifted_margin / one.margin, 0.02, activation=activation)


def _compare(name, entry, measure, tolerance, *, mean: float = MEAN, activation: str = "relu") -> Observation:
    """A ratio at the mean margin 1/2 for all numbers of features: both ends of the interval against the theory."""
    predicted, ends, rows = [], [], []
    for core, background in FEATURES:
        run = course(Setting(core, background, GROWTH, mean=mean), activation)
        value, low, high = map(float, average(measure(run)[:, HALF]))
        theory = contamination.growth(core, background, mean=MEAN, deviation=DEVIATION)[entry]
        predicted.append([theory, theory])
        ends.append([low, high])
        row = {"core": core, "background": background, f"{name}, theory": theory, f"{name}, networks": value}
        rows.append({**row, "low": low, "high": high})
    return Observation.equal(predicted, ends, tolerance, details={"seeds": SEEDS, "features": rows})


def rate(activation: str = "relu") -> Observation:
    """The exponent, in the number of steps, of the ratio of the norms of the background's and the core's change.

    The number that is shown is from the growth; the exponent between 1 and 16 units has to hold as well.
    """
    windows = {}
    for name, run, steps, first in (
        ("growth", course(Setting(64, 64, GROWTH), activation), GROWTH, 8),
        ("after it", late(32, activation), LATE, UNIT),
    ):
        start = steps.index(first)
        windows[name] = loglog_slope(steps[start:], (run.background_norm / run.core_norm)[:, start:])
    found = {name: Observation.slope(0.0, slope, 0.1) for name, slope in windows.items()}
    details = {"seeds": SEEDS, "windows": [{"window": name, **slope._asdict()} for name, slope in windows.items()]}
    judged = Observation.slope(0.0, windows["growth"], 0.1, details=details)
    return judged._replace(holds=all(one.holds for one in found.values()))


def asymmetry(core_mean: float = MEAN) -> Observation:
    """The gain of P(active | own class) - P(active | other class) until the mean margin is 1/2; the lowest over d."""
    rows = []
    for core, background in EQUAL:
        run = course(Setting(core, background, GROWTH, sigma=2.0, core_mean=core_mean))
        difference = run.own - run.other
        gain = _interval(average(difference[:, HALF] - difference[:, 0]))
        rows.append({"d": core + background, "after one step": float(difference[:, 0].mean()), **gain})
    lowest = min(rows, key=lambda row: row["low"])
    details = {"interval": (lowest["low"], lowest["high"]), "seeds": SEEDS, "gain": rows}
    return Observation("> 0.25", lowest["mean"], "95% interval", lowest["low"] > 0.25, details)


def _interval(found: Interval) -> dict[str, float]:
    return {"mean": float(found.value), "low": float(found.low), "high": float(found.high)}


def other_class(factor: int = 1) -> Observation:
    """The exponent, in d, of the activation on the other class, against that of (G) with b = c over the same d.

    The networks have b = factor c.
    """
    cores = [core for core, _ in EQUAL if factor * core <= 128]
    d = np.array([core + factor * core for core in cores])
    runs = [course(Setting(core, factor * core, GROWTH)) for core in cores]
    found = np.stack([run.other[:, HALF] for run in runs], axis=1)
    theory = np.array([contamination.growth(core, core).other for core in d // 2])
    far = np.array([contamination.growth(core, core).other for core in (5 * 10**5, 5 * 10**7)])
    rows = [
        {"d": int(size), "P, theory for b = c": float(p), **_interval(average(one))}
        for size, p, one in zip(d, theory, found.T, strict=True)
    ]
    asymptotic = float(np.log(far[1] / far[0]) / np.log(100))
    details = {"seeds": SEEDS, "rates": rows, "exponent of the theory from d = 10^6 to 10^8": asymptotic}
    return Observation.slope(_exponent(d, theory), loglog_slope(d, found), 0.1, details=details)


def _exponent(x: Any, values: np.ndarray) -> float:
    """The slope on logarithmic axes."""
    return float(np.polyfit(np.log(x), np.log(values), 1)[0])


def onset(power: float = 0.0) -> Observation:
    """The exponent, in d, of the number of steps until the activation rates of the two classes differ by 1/2.

    The learning rate is the same for all d. The initial weights have the standard deviation 0.03 (d / 256)^power.
    """
    d = np.array([core + background for core, background in EQUAL])
    rows = []
    for (core, background), size in zip(EQUAL, d, strict=True):
        unit = 128 * 256 / size
        sigma = 0.03 * (size / 256) ** power
        expected = 0.46 * sigma * np.sqrt(size) * unit  # only determines where the course is recorded
        steps = tuple(round(float(expected * factor)) for factor in np.geomspace(0.4, 2.5, len(GROWTH)))
        setting = Setting(core, background, steps, sigma=float(sigma * size), unit=float(unit))
        run = course(setting, test=500, seeds=2 * SEEDS)
        difference = np.maximum.accumulate(run.own - run.other, axis=1)
        rows.append([np.exp(np.interp(0.5, one, np.log(steps))) for one in difference])
    times = np.array(rows).T
    details = {"seeds": 2 * SEEDS, "steps": dict(zip(d.tolist(), times.mean(axis=0).tolist(), strict=True))}
    return Observation.slope(-0.5, loglog_slope(d, times), 0.15, details=details)


# ---- risk

LATE = tuple(int(UNIT * time) for time in (0.5, 1, 2, 4, 6, 8, 12, 16))
WINDOW = slice(LATE.index(4 * UNIT), None)
SMALL, LARGE = 0.05, 0.5  # bounds on risks at the end


def late(core: int, activation: str = "relu", mean: float = MEAN) -> Course:
    """Long training with b = c."""
    return course(Setting(core, core, LATE, mean=mean), activation, 64, 20_000)


def risk_theory(core: int, activation: str = "relu", mean: float = MEAN) -> np.ndarray:
    """The risk by (R) at the steps of `late`."""
    r, e, speed = contamination.growth(core, core).ratio, DEVIATION / (MEAN * np.sqrt(core)), 1.0
    if activation == "relu" and mean:
        e *= np.hypot(1, r) / (1 + r)
    else:  # no background
        speed = 2.0 if activation == "identity" else 0.5

    def height(m):
        return (m - 1) / (e * m)

    times = np.array(LATE) / UNIT
    solved = integrate.solve_ivp(
        lambda _, m: speed * stats.norm.cdf(-height(m)), (0, times[-1]), [1e-6], t_eval=times, rtol=1e-8, atol=1e-10
    )
    q = height(solved.y[0])
    return e * solved.y[0] * (stats.norm.pdf(q) - q * stats.norm.cdf(-q))


def _risk(
    values: np.ndarray, predicted: float, tolerance: float, *, above: float = 0.0, below: float = np.inf
) -> Observation:
    """The exponent of a risk in the number of steps; at the end its interval has to lie between `above` and `below`."""
    end = average(values[:, -1])
    risks = [{"step": step, "risk": float(value)} for step, value in zip(LATE, values.mean(axis=0), strict=True)]
    details = {"seeds": SEEDS, "course": risks, "at the end": _interval(end)}
    found = Observation.slope(predicted, loglog_slope(LATE[WINDOW], values[:, WINDOW]), tolerance, details=details)
    return found._replace(holds=bool(found.holds and above < end.low and end.high < below))


def risk(shifted: bool = False) -> Observation:
    """The exponent of the risk of the ReLU network in distribution, against that of (R) for the same steps."""
    run = late(32)
    predicted = _exponent(LATE[WINDOW], risk_theory(32)[WINDOW])
    return _risk(run.shifted_risk if shifted else run.risk, predicted, 0.2, below=SMALL)


def shifted_risk(mean: float = MEAN) -> Observation:
    """The exponent of the shifted risk of the ReLU network."""
    return _risk(late(32, mean=mean).shifted_risk, 0.0, 0.05, above=LARGE)


def linear_risk(activation: str = "identity") -> Observation:
    """The exponent of the shifted risk against that of (R) for a linear network."""
    predicted = _exponent(LATE[WINDOW], risk_theory(32, "identity")[WINDOW])
    return _risk(late(32, activation).shifted_risk, predicted, 0.2, below=SMALL)


def centred_risk(mean: float = 0.0) -> Observation:
    """The exponent of the shifted risk against that of (R) for a ReLU network without background."""
    predicted = _exponent(LATE[WINDOW], risk_theory(32, mean=0.0)[WINDOW])
    return _risk(late(32, mean=mean).shifted_risk, predicted, 0.2, below=SMALL)


def dimension(shifted: bool = False) -> Observation:
    """The exponent, in d, of the risk after 4 units; the end of its interval has to be below -1."""
    cores, entry = np.array([16, 32, 64]), LATE.index(4 * UNIT)
    runs = [late(int(core)) for core in cores]
    found = loglog_slope(2 * cores, np.stack([(r.shifted_risk if shifted else r.risk)[:, entry] for r in runs], axis=1))
    theory = _exponent(2 * cores, np.array([risk_theory(int(core))[entry] for core in cores]))
    details = {"interval": (found.low, found.high), "seeds": SEEDS, "exponent of the theory": theory}
    return Observation("< -1", found.value, "95% interval", found.high < -1, details)


CLAIMS = (
    Claim(
        name="contamination-gradient",
        reference="Zhang et al. 2024; derived in theory/feature_contamination.py",
        statement="On any sample the background part of -dL/dw_k is (a_k / 2) (mean of phi_k z over y = 1, minus that "
        "over y = -1) with phi_k = 1{y f < 1} xi'(w_k.x), for ReLU, tanh, sigmoid and linear networks.",
        check=gradient,
        control=Control("margins", "examples with margins above 1 pull as well", {"masked": False}),
    ),
    Claim(
        name="contamination-linear",
        reference="Zhang et al. 2024; derived in theory/feature_contamination.py",
        statement="The expected background part vanishes in a linear network while no margin has reached 1, and for "
        "any margins if the output does not depend on the background.",
        check=linear,
        control=Control("relu", "the same weights in a ReLU network", {"activation": "relu"}),
    ),
    Claim(
        name="contamination-linear-opposes",
        reference="derived in theory/feature_contamination.py",
        statement="In a linear network with margins on both sides of 1 the expected gradient lowers the norm of the "
        "background's weights.",
        check=opposes,
        control=Control("relu", "the same weights in a ReLU network", {"activation": "relu"}),
    ),
    Claim(
        name="contamination-relu",
        reference="Zhang et al. 2024; derived in theory/feature_contamination.py",
        statement="A background feature that no ReLU neuron uses has the expected part (a_k / 2) (P+ - P-) E[z_j].",
        check=unused,
        control=Control("used", "the neurons use the feature", {"used": True}),
    ),
    Claim(
        name="contamination-bound",
        reference="derived in theory/feature_contamination.py",
        statement="For any weights the expected background part differs from (a_k / 2) (P+ - P-) E[z] by at most "
        "|a_k| s / 2 times the sum of the standard deviations of phi_k in the two classes.",
        check=bound,
        control=Control("dependent", "all background features are equal: not independent", {"common": True}),
    ),
    Claim(
        name="contamination-sampling",
        reference="derived in theory/feature_contamination.py",
        statement=f"On n examples the background part of a linear network falls like n^(-1/2) ({SEEDS} seeds, "
        "n = 100 to 6400).",
        check=sampling,
        control=Control("relu", "the same weights in a ReLU network", {"activation": "relu"}),
    ),
    Claim(
        name="contamination-growth",
        reference="derived in theory/feature_contamination.py, (G)",
        statement="Until the mean margin is 1/2 the background grows r times as much as the core, with r of (G), for 8 "
        f"to 128 core and background features (95% intervals over {SEEDS} seeds within the tolerance).",
        check=growth,
        control=Control("centred", "the background has mean zero", {"mean": 0.0}),
    ),
    Claim(
        name="contamination-rate",
        reference="Zhang et al. 2024",
        statement="The background grows at the rate of the core: the exponent of the ratio of their changes in the "
        f"number of steps is 0, in the growth and until 16 times the steps to margins of 1 ({SEEDS} seeds).",
        check=rate,
        control=Control("linear", "a linear network", {"activation": "identity"}),
    ),
    Claim(
        name="contamination-asymmetry",
        reference="Zhang et al. 2024",
        statement="Training makes neurons active on the class of the sign of a_k and inactive on the other one: the "
        f"difference of the rates grows, for d = 16 to 256 (95% intervals over {SEEDS} seeds).",
        check=asymmetry,
        control=Control("no core", "the core has mean zero, and says nothing about the label", {"core_mean": 0.0}),
    ),
    Claim(
        name="contamination-asymmetry-steps",
        reference="derived in theory/feature_contamination.py",
        statement="From initial weights of one size the number of steps until the rates differ by 1/2 falls like "
        f"d^(-1/2), d = 16 to 256 ({2 * SEEDS} seeds).",
        check=onset,
        control=Control("smaller weights", "initial weights proportional to d^(-1/2): like 1/d", {"power": -0.5}),
    ),
    Claim(
        name="contamination-asymmetry-dimension",
        reference="derived in theory/feature_contamination.py, (G)",
        statement="For b = c the activation on the other class falls with d as (G) says, d = 16 to 256, more slowly "
        f"than d^(-1/2) ({SEEDS} seeds).",
        check=other_class,
        control=Control("more background", "b = 2 c: the rate approaches (b - c) / (b + c)", {"factor": 2}),
    ),
    Claim(
        name="contamination-shift",
        reference="derived in theory/feature_contamination.py, (S)",
        statement="The shift lowers the mean margin by the factor rho of (S), for 8 to 128 core and background "
        f"features (95% intervals over {SEEDS} seeds within the tolerance).",
        check=shift,
        control=Control("linear", "a linear network", {"activation": "identity"}),
    ),
    Claim(
        name="contamination-risk",
        reference="Zhang et al. 2024; derived in theory/feature_contamination.py, (R)",
        statement=f"The risk of a ReLU network in distribution goes to 0 with the exponent of (R) in the number of "
        f"steps, and ends below {SMALL} (d = 64, {SEEDS} seeds).",
        check=risk,
        control=Control("shifted", "the risk after the shift of the background", {"shifted": True}),
    ),
    Claim(
        name="contamination-risk-dimension",
        reference="Zhang et al. 2024",
        statement="The risk in distribution, after 4 times the steps to margins of 1, falls faster than 1/d "
        f"(d = 32 to 128, 95% interval over {SEEDS} seeds).",
        check=dimension,
        control=Control("shifted", "the risk after the shift of the background", {"shifted": True}),
    ),
    Claim(
        name="contamination-risk-shifted",
        reference="Zhang et al. 2024",
        statement="The risk of the same network after the shift stays of order one: its exponent in the number of "
        f"steps is 0, and it ends above {LARGE} (d = 64, {SEEDS} seeds).",
        check=shifted_risk,
        control=Control("centred", "the background has mean zero", {"mean": 0.0}),
    ),
    Claim(
        name="contamination-risk-linear",
        reference="Zhang et al. 2024; derived in theory/feature_contamination.py, (R)",
        statement="In a linear network the shifted risk goes to 0 with the exponent of (R), and ends below "
        f"{SMALL} (d = 64, {SEEDS} seeds).",
        check=linear_risk,
        control=Control("relu", "a ReLU network", {"activation": "relu"}),
    ),
    Claim(
        name="contamination-risk-centred",
        reference="derived in theory/feature_contamination.py, (R)",
        statement="If the background has mean zero, the shifted risk of a ReLU network goes to 0 with the exponent of "
        f"(R), and ends below {SMALL} (d = 64, {SEEDS} seeds).",
        check=centred_risk,
        control=Control("mean", "the background has the mean 1/2", {"mean": MEAN}),
    ),
)
