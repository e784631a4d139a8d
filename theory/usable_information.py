"""Prediction depth and usable information: a spurious feature that lowers the mean depth raises the information.

Murali et al. 2023 state this for a suitably restricted family. The version here is finite and exact. A network has L
stages, and an example x has a vote v_l(x), one of k classes, at each of them, e.g. that of its nearest neighbours. The
depth d(x) is the first stage from which on all votes equal the last one, and u_l = P(d > l) is the share of examples
that are undecided at stage l. A vote at stage l is wrong with probability e_l.

The family V_l uses the votes of the first l stages, with one confidence: its predictors are the constants, and those
with probability q on v_m(x) and (1 - q) / (k - 1) on every other class, for some m <= l and 1/k <= q <= 1. It grows
with l. Let I_l be its usable information in bits, and

    h(e) = -(1 - e) log2(1 - e) - e log2(e / (k - 1))    up to e = 1 - 1/k,  and log2(k) beyond:

a concave function that does not fall.

**Votes.** I_l = max over m <= l of H(Y) - h(e_m), and at least 0. For the expected loss of q, which is
-(1 - e_m) log2(q) - e_m log2((1 - q) / (k - 1)), is least at q = max(1 - e_m, 1/k), and that of the constants at the
class balance.

**Depth.** The mean over l < L of I_l is at least H(Y) - h((E[d] - 1) / (L - 1) + e_L). For d(x) <= l implies
v_l(x) = v_L(x), so e_l <= u_l + e_L. The mean of u_l over l < L is (E[d] - 1) / (L - 1), and h is concave.

**Shortcut.** Consider clean data, and data with a spurious feature (marked by '), each with the votes of its own
network, under three hypotheses:

1. In both, the k classes are equally frequent.
2. On the clean data, at every stage l < L at most a share a >= 1/k of the votes on undecided examples is right; a = 1/k
   if they are guesses.
3. The feature lowers the mean depth, and leaves few last votes wrong:
   delta = ((1 - a) (E[d] - 1) - (E[d'] - 1)) / (L - 1) - e'_L > 0.

Then at some stage l < L,    I'_l - I_l >= h(1 - a) - h(1 - a - delta) > 0.

Proof: As above, e'_l <= u'_l + e'_L, and by (2) e_m >= (1 - a) u_m. The mean over l < L of (1 - a) u_l - u'_l - e'_L is
delta, so it is at least delta at some l. As u_m falls with m, e_m >= (1 - a) u_l for all m <= l, so by (1)
I_l <= log2(k) - h(t) with t = (1 - a) u_l, and I'_l >= log2(k) - h(t - delta). The gain is at least
h(t) - h(t - delta), which for a concave h is smallest at the largest t, 1 - a. It is positive there since h increases
up to 1 - 1/k >= 1 - a. QED

The bound is attained. If undecided votes are guesses, it is of second order in delta. A lower mean depth alone is not
enough: votes that are right before they are settled give depth and take no information away (2), and all votes may
agree on a wrong class (3). The family has to be restricted: if the last votes are right, the last stage has log2(k)
bits with and without the feature.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int
from scipy import optimize
from sklearn.neighbors import KNeighborsClassifier

from gsjax import data, methods, networks, probes
from gsjax.statistics import loglog_slope, mean
from theory.claim import Claim, Control, Observation

SEEDS = 8
NEIGHBOURS = 29
STEPS = 300

Votes = Int[np.ndarray, "stages n"]


class Sample(NamedTuple):
    """The votes of all stages, the labels, and the number of classes."""

    votes: Votes
    labels: Int[np.ndarray, " n"]
    classes: int


def depth(votes: Votes) -> Int[np.ndarray, " n"]:
    """The first stage, counted from 1, from which on all votes equal the last one."""
    stage = np.arange(1, len(votes) + 1)[:, None]
    return 1 + np.where(votes != votes[-1], stage, 0).max(axis=0)


def first_agreement(votes: Votes) -> Int[np.ndarray, " n"]:
    """The first stage, counted from 1, whose vote equals the last one; later votes may differ."""
    return 1 + np.argmax(votes == votes[-1], axis=0)


def entropy(p: Float[np.ndarray, " k"]) -> float:
    """The entropy in bits."""
    return float(-np.sum(p[p > 0] * np.log2(p[p > 0])))


def lost(e: float, k: int) -> float:
    """The function h: the bits that are lost by votes of k classes that are wrong with probability e."""
    if e >= 1 - 1 / k:
        return float(np.log2(k))
    return entropy(np.array([1 - e, e])) + e * float(np.log2(k - 1))


def balance(sample: Sample) -> float:
    """H(Y)."""
    return entropy(np.bincount(sample.labels, minlength=sample.classes) / len(sample.labels))


def information(sample: Sample) -> Float[np.ndarray, " stages"]:
    """I_l for every stage, by the formula of the paragraph on votes."""
    wrong = (sample.votes != sample.labels).mean(axis=1)
    each = [balance(sample) - lost(e, sample.classes) for e in wrong]
    return np.maximum.accumulate([0.0, *each])[1:]


# ---- votes


def votes(confidences: str = "one") -> Observation:
    """I_l by the formula against the numerical minimum of the expected loss over q, on random votes.

    With `confidences="per vote"` the confidence may depend on the class that the vote is for.
    """
    predicted, observed = [], []
    for sample in _random(np.random.default_rng(0), 60):
        predicted.append(information(sample)[0])
        groups = [np.ones(len(sample.labels), bool)]
        if confidences == "per vote":
            groups = [sample.votes[0] == vote for vote in range(sample.classes)]
        loss = sum(_least(sample.votes[0] == sample.labels, group, sample.classes) for group in groups)
        observed.append(max(0.0, balance(sample) - loss))
    return Observation.equal(predicted, observed, 1e-7)


def _least(right: np.ndarray, group: np.ndarray, k: int) -> float:
    """The contribution of a group of examples to the expected loss, at the best confidence q in [1/k, 1]."""

    def loss(q: float) -> float:
        return float(-np.log2(np.where(right, q, (1 - q) / (k - 1)))[group].sum() / len(right))

    found: Any = optimize.minimize_scalar(loss, bounds=(1 / k, 1 - 1e-12), method="bounded", options={"xatol": 1e-9})
    return float(found.fun)


def _random(rng: np.random.Generator, count: int) -> Iterator[Sample]:
    """Random votes, of 2 to 10 classes and at 2 to 8 stages, that agree with the last ones more or less often."""
    for _ in range(count):
        k, stages, n = rng.integers(2, 11), rng.integers(2, 9), 300
        labels = rng.choice(k, n, p=rng.dirichlet(np.full(k, 3.0)))
        last = np.where(rng.random(n) < rng.uniform(0, 0.3), rng.integers(k, size=n), labels)
        agrees = rng.random((stages - 1, n)) < rng.random((stages - 1, 1))
        earlier = np.where(agrees, last, rng.integers(k, size=(stages - 1, n)))
        yield Sample(np.concatenate([earlier, last[None]]), labels, int(k))


# ---- depth


def mean_depth(measured=depth) -> Observation:
    """The largest excess of the bound over the mean information, on random votes and on those of real networks."""
    excess, positive = [], 0
    for sample in [*_random(np.random.default_rng(1), 300), *_digits(0.5), *_digits(1.0)]:
        wrong = float((sample.votes[-1] != sample.labels).mean())
        undecided = (measured(sample.votes).mean() - 1) / (len(sample.votes) - 1)
        bound = balance(sample) - lost(undecided + wrong, sample.classes)
        excess.append(bound - information(sample)[:-1].mean())
        positive += bound > 0
    return Observation.below(0.0, excess, 1e-9, details={"bounds above 0 bits": int(positive)})


# ---- shortcut


def shortcut(assumed: float | None = None, errors: bool = True) -> Observation:
    """The largest excess of the bound over the gain at the best stage, over random pairs with delta > 0.

    Args:
        assumed: multiplies 1/k to give a; by default a is the share that hypothesis 2 asks for, counted on the votes.
        errors: whether delta counts the wrong last votes.
    """
    rng = np.random.default_rng(2)
    excess = []
    while len(excess) < 300:
        k, stages = int(rng.integers(2, 6)), int(rng.integers(2, 9))
        clean, spurious = _decided(rng, k, stages), _decided(rng, k, stages)
        a = _share(clean) if assumed is None else assumed / k
        delta = _delta(a, clean, spurious, errors)
        if delta > 0:
            excess.append(_bound(a, delta, k) - _gain(clean, spurious))
    return Observation.below(0.0, excess, 1e-9)


def _decided(rng: np.random.Generator, k: int, stages: int) -> Sample:
    """Votes with random distributions of depths, of wrong last votes, and of right votes among the undecided."""
    n = 120 * k
    labels = np.arange(n) % k
    depths = rng.choice(np.arange(1, stages + 1), n, p=rng.dirichlet(np.ones(stages)))

    def other(classes):
        return (classes + rng.integers(1, k, n)) % k

    last = np.where(rng.random(n) < rng.choice([0, 0.2]) * rng.random(), other(labels), labels)
    found = np.tile(last, (stages, 1))
    for stage in range(1, stages):
        vote = np.where(rng.random(n) < rng.random(), labels, other(labels))
        vote = np.where((depths == stage + 1) & (vote == last), other(last), vote)  # or the depth would be less
        found[stage - 1] = np.where(depths > stage, vote, last)
    return Sample(found, labels, k)


def _share(sample: Sample) -> float:
    """The a of hypothesis 2: the largest share, over the stages, of undecided votes that are right, at least 1/k."""
    depths, right = depth(sample.votes), sample.votes == sample.labels
    shares = [right[stage - 1, depths > stage].mean() for stage in range(1, len(right)) if (depths > stage).any()]
    return float(max([1 / sample.classes, *shares]))


def _delta(a: float, clean: Sample, spurious: Sample, errors: bool = True) -> float:
    """The delta of hypothesis 3, without its last term unless `errors`."""
    excess = [depth(sample.votes).mean() - 1 for sample in (clean, spurious)]
    wrong = float((spurious.votes[-1] != spurious.labels).mean()) if errors else 0.0
    return ((1 - a) * excess[0] - excess[1]) / (len(clean.votes) - 1) - wrong


def _bound(a: float, delta: float, k: int) -> float:
    return lost(1 - a, k) - lost(1 - a - delta, k)


def _gain(clean: Sample, spurious: Sample) -> float:
    """The largest gain in information over the stages before the last one."""
    return float(np.max(information(spurious)[:-1] - information(clean)[:-1]))


# ---- sharp, second-order

SIZES = (2, 3, 5, 10)


def _extremal(k: int, a: float, delta: float, n: int, spread: float = 0.0) -> tuple[Sample, Sample]:
    """The pair, with 4 stages, whose gain is the bound.

    All clean examples are undecided at all stages but the last, and a share a of their votes is right. With the feature
    a share 1 - a - delta of the examples is undecided, on average over the stages; `spread` makes it fall with them.
    """
    labels = np.arange(n) % k
    right, other = np.tile(labels, (4, 1)), (labels + 1) % k
    first = np.arange(n)
    clean, spurious = right.copy(), right.copy()
    clean[:2, round(a * n) :] = other[round(a * n) :]
    clean[2] = other
    for stage, factor in enumerate((1 + spread, 1, 1 - spread)):
        undecided = first < round((1 - a - delta) * factor * n)
        spurious[stage, undecided] = other[undecided]
    return Sample(clean, labels, k), Sample(spurious, labels, k)


def sharp(spread: float = 0.0) -> Observation:
    """The gain of the extremal pairs against the bound."""
    predicted, observed = [], []
    for k in SIZES:
        for a in (1 / k, 0.6):
            for delta in (0.1, 0.2):
                pair = _extremal(k, a, delta, 3000, spread)
                predicted.append(_bound(a, _delta(a, *pair), k))
                observed.append(_gain(*pair))
    return Observation.equal(predicted, observed, 1e-9)


def second_order(a: float | None = None) -> Observation:
    """The power of delta in the gain of the extremal pairs; the interval is over the numbers of classes."""
    deltas = np.array([0.002, 0.004, 0.008, 0.016])
    gains = [[_gain(*_extremal(k, a or 1 / k, delta, 30_000)) for delta in deltas] for k in SIZES]
    return Observation.slope(2.0, loglog_slope(deltas, np.array(gains)), 0.05)


# ---- restricted, estimate


def _added(agreement: float) -> float:
    """The information of a feature that agrees with balanced labels in this share of examples."""
    return 1 - entropy(np.array([agreement, 1 - agreement]))


def restricted(product: bool = False) -> Observation:
    """The gain by a shortcut s for the linear family on XOR, y = x_1 x_2, by minimisation over its weights.

    With `product=True` the family also has the input x_1 x_2.
    """
    signs = np.array([-1.0, 1.0])
    x = np.stack(np.meshgrid(signs, signs, signs, indexing="ij"), axis=-1).reshape(8, 3)
    y = x[:, 0] * x[:, 1]
    inputs = np.column_stack([x, np.ones(8), *([y] if product else [])])

    def least(agreement: float) -> float:
        p = np.where(x[:, 2] == y, agreement, 1 - agreement) / 4

        def loss(w):
            return jnp.sum(p * jax.nn.softplus(-y * (inputs @ w))) / jnp.log(2)

        value_and_grad = jax.value_and_grad(loss)
        start = np.zeros(inputs.shape[1])
        return optimize.minimize(lambda w: tuple(map(np.asarray, value_and_grad(w))), start, jac=True, tol=1e-10).fun

    agreements = (0.6, 0.75, 0.9, 0.99)
    gains = [least(0.5) - least(agreement) for agreement in agreements]
    return Observation.equal([_added(agreement) for agreement in agreements], gains, 1e-6)


def estimate(widths: tuple[int, ...] = ()) -> Observation:
    """`probes.usable_information` on samples of XOR with a shortcut; holds if the interval is within the tolerance."""
    agreement, tolerance = 0.9, 0.05

    def drawn(key, n):
        keys = jax.random.split(key)
        x = jax.random.rademacher(keys[0], (SEEDS, n, 2), float)
        y = x.prod(axis=-1)
        s = jnp.where(jax.random.bernoulli(keys[1], agreement, y.shape), y, -y)
        return jnp.concatenate([x, s[..., None]], axis=-1), y

    network = networks.FullyConnected(widths)
    found = probes.usable_information(
        jax.random.key(0),
        *drawn(jax.random.key(1), 1000),
        network=network,
        method=methods.get("erm")(network, optax.adam(optax.cosine_decay_schedule(0.1, STEPS))),
        held_out=drawn(jax.random.key(2), 4000),
        seeds=SEEDS,
        steps=STEPS,
        batch_size=None,
        per_seed=True,
    )
    value, low, high = map(float, found.interval)
    predicted = _added(agreement)
    holds = predicted - tolerance <= low and high <= predicted + tolerance and bool(found.calibrated.all())
    details = {"interval": (low, high), "seeds": SEEDS, "calibrated nulls": int(found.calibrated.sum())}
    return Observation(predicted, value, tolerance, holds, details)


# ---- networks


@functools.cache  # compiles once for all data
def _family() -> tuple[methods.Method, Any]:
    """The method that trains the networks, and a function that returns the stages."""
    network = networks.FullyConnected((32, 32, 32))
    method = methods.get("erm")(network, optax.adam(optax.cosine_decay_schedule(3e-3, STEPS)))

    def evaluate(state, images):
        return networks.stages.apply(network, {"params": state.params}, images)[1]

    return method, evaluate


@functools.cache
def _digits(agreement: float, draw: int = 0) -> tuple[Sample, ...]:
    """Votes of networks that tell odd from even digits, one sample per seed.

    The images have one more pixel. In a share `agreement` of them it is on if the digit is odd, in the others if it is
    even; `draw` is the number of the drawing of these. Half of the images are for training and are the neighbours, the
    other half have the votes.
    """
    images = data.digit_images()
    pixels = images.pixels.reshape(len(images.pixels), -1) / 255
    x, y = [], []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(pixels))[: len(pixels) // 2 * 2]
        odd = images.labels[rows] % 2
        revealed = np.where(np.random.default_rng((seed, draw)).random(len(rows)) < agreement, odd, 1 - odd)
        x.append(np.column_stack([pixels[rows], 3.0 * revealed]))
        y.append(2.0 * odd - 1)
    x, y = jnp.array(x), jnp.array(y)
    n = x.shape[1] // 2
    method, evaluate = _family()
    keys = jax.random.split(jax.random.key(0), SEEDS)
    train = methods.Batch(x[:, :n], y[:, :n])
    run = methods.train(
        method, keys, train, steps=STEPS, batch_size=128, evaluate=evaluate, held_out=x, per_seed=True, what="digits"
    )
    samples = []
    for seed in range(SEEDS):
        labels = np.asarray(y[seed] > 0).astype(int)
        nearest = KNeighborsClassifier(NEIGHBOURS, metric="manhattan", algorithm="brute")
        stages = [stage[seed, 0] for stage in run.records.values()]
        found = [nearest.fit(stage[:n], labels[:n]).predict(stage[n:]) for stage in stages]
        samples.append(Sample(np.stack(found), labels[n:], 2))
    return tuple(samples)


def trained(agreement: float = 1.0, draw: int = 0) -> Observation:
    """The gain in information by the pixel, a mean over the stages before the last.

    Only images count whose last vote is right, so that the gain is not that of more right last votes. The interval of
    the fall of the mean depth has to be above 0, too.
    """
    data_sets = {"clean": _digits(0.5), "with the pixel": _digits(agreement, draw)}
    samples = {name: [_right(sample) for sample in found] for name, found in data_sets.items()}
    depths = {name: np.array([depth(one.votes).mean() for one in found]) for name, found in samples.items()}
    bits = {name: np.array([information(one)[:-1].mean() for one in found]) for name, found in samples.items()}
    gain = mean(bits["with the pixel"] - bits["clean"])
    fall = mean(depths["clean"] - depths["with the pixel"])
    details = {
        "interval": (float(gain.low), float(gain.high)),
        "seeds": SEEDS,
        "fall of the mean depth": float(fall.value),
        "its interval": (float(fall.low), float(fall.high)),
        "seeds with delta > 0": sum(
            _delta(_share(one), one, other) > 0 for one, other in zip(*data_sets.values(), strict=True)
        ),
        "networks": [
            {
                "data": name,
                "mean depth": float(depths[name].mean()),
                "information, bits": float(bits[name].mean()),
                "last votes that are wrong": float(np.mean([(s.votes[-1] != s.labels).mean() for s in found])),
            }
            for name, found in data_sets.items()
        ],
    }
    return Observation("> 0", float(gain.value), "95% interval", bool(gain.low > 0 and fall.low > 0), details)


def _right(sample: Sample) -> Sample:
    """The examples whose last vote is right."""
    rows = sample.votes[-1] == sample.labels
    return Sample(sample.votes[:, rows], sample.labels[rows], sample.classes)


CLAIMS = (
    Claim(
        name="information-votes",
        reference="Xu et al. 2020, for the family of votes with one confidence",
        statement="The usable information of votes that are wrong with probability e is H(Y) - h(e), and at least 0.",
        check=votes,
        control=Control("confidences", "a confidence for each class that is voted for", {"confidences": "per vote"}),
    ),
    Claim(
        name="information-depth",
        reference="Murali et al. 2023, in a finite form",
        statement="The mean over l < L of the information of the first l stages is at least "
        "H(Y) - h((E[d] - 1) / (L - 1) + e_L), for random votes and for nearest neighbours in trained networks.",
        check=mean_depth,
        control=Control(
            "first agreement",
            "the depth is the first stage that agrees with the last, also if later ones do not",
            {"measured": first_agreement},
        ),
    ),
    Claim(
        name="information-shortcut",
        reference="Murali et al. 2023, in a finite form",
        statement="If a feature lowers the mean depth, with delta > 0, and at most a share a >= 1/k of the undecided "
        "votes is right without it, the information of the first l stages grows by at least "
        "h(1 - a) - h(1 - a - delta) at some l < L.",
        check=shortcut,
        control=Control("unsettled", "a = 1/k, although more of the undecided votes are right", {"assumed": 1.0}),
    ),
    Claim(
        name="information-shortcut-errors",
        reference="Murali et al. 2023, in a finite form",
        statement="The same if delta is reduced by the share of last votes that are wrong with the feature.",
        check=shortcut,
        control=Control("errors", "delta is not reduced", {"errors": False}),
    ),
    Claim(
        name="information-sharp",
        reference="Murali et al. 2023, in a finite form",
        statement="The gain h(1 - a) - h(1 - a - delta) is attained where all stages have the same share of "
        "undecided examples.",
        check=sharp,
        control=Control("unequal", "the share of undecided examples falls with the stage", {"spread": 0.2}),
    ),
    Claim(
        name="information-second-order",
        reference="Murali et al. 2023, in a finite form",
        statement="If undecided votes are guesses, a = 1/k, the least gain is proportional to delta^2.",
        check=second_order,
        control=Control("better", "70% of the undecided votes are right, for every number of classes", {"a": 0.7}),
    ),
    Claim(
        name="information-restricted",
        reference="Xu et al. 2020; Murali et al. 2023",
        statement="For the linear family on XOR, which has 0 bits, a feature that agrees with the label in a share p "
        "of the examples adds 1 - H(p) bits.",
        check=restricted,
        control=Control(
            "unrestricted", "the family can use x_1 x_2, so that nothing is left to add", {"product": True}
        ),
    ),
    Claim(
        name="information-estimate",
        reference="Xu et al. 2020",
        statement=f"On samples of XOR with such a feature, p = 0.9, probes.usable_information of the linear family is "
        f"1 - H(p) (95% interval over {SEEDS} seeds within the tolerance).",
        check=estimate,
        control=Control("unrestricted", "a network with a hidden layer, which can use XOR", {"widths": (32,)}),
    ),
    Claim(
        name="information-networks",
        reference="Murali et al. 2023",
        statement=f"In networks that tell odd from even digits, a pixel that reveals the label lowers the mean depth "
        f"and raises the mean information of the stages before the last, over images whose last vote is right (95% "
        f"intervals over {SEEDS} seeds).",
        check=trained,
        control=Control(
            "independent", "the pixel is on for half of the images of each class", {"agreement": 0.5, "draw": 1}
        ),
    ),
)
