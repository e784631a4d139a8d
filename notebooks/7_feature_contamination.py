# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7 · Feature contamination
#
# **What you will learn**
#
# - why a ReLU network learns background features that say nothing about the label, and a linear network does not (Zhang
#   et al. 2024);
# - how to see it in the weights, in the activations and in the gradient;
# - to which ratio background and core are learned: it can be computed;
# - what is lost when the background is reversed: margins first, accuracy only with many background features.
#
# This takes a minute on two cores. It is about features that are *not* correlated with the label, unlike those of the
# other notebooks.

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsjax import methods, networks, plotting, statistics
from gsjax.data import structured
from gsjax.probes import contamination

# %% [markdown]
# ## The data
#
# An example is a sum of orthonormal features $m_j$,
#
# $$x = \sum_{j \in \text{core}} y\, z_j\, m_j + \sum_{j \in \text{background}} z_j\, m_j ,$$
#
# where all $z_j$ are independent and uniform on $[0, 1)$. The sign of a core feature is the label. A background feature
# has a mean of 1/2, whatever the label. In the shifted data the sign of the background is reversed, and nothing else
# changes. Here the features are unit vectors, 32 of the core and 32 of the background. There are 1000 examples for
# training and 1000 for testing, drawn anew for each of six networks.
#
# The third kind of data, "mean zero", has a background that is uniform on $[-1/2, 1/2)$.

# %%
count = 32
options = {"core": count, "background": count, "dimension": 2 * count}
kinds = {"mean 1/2": structured.Uniform(0.0, 1.0), "mean zero": structured.Uniform(-0.5, 0.5)}
keys = jax.random.split(jax.random.key(0), 6)
train, test, shifted = (
    {
        kind: jax.vmap(
            lambda key, use=use, kind=kind, shift=shift: structured.sample(
                jax.random.fold_in(key, use), 1000, background_distribution=kinds[kind], shifted=shift, **options
            )
        )(keys)
        for kind in kinds
    }
    for use, shift in ((0, False), (1, False), (1, True))
)
label, background = train["mean 1/2"].y[0], train["mean 1/2"].x[0][:, count:]
print(
    "correlation of a background feature with the label, at most", np.abs(np.corrcoef(label, background.T)[0, 1:]).max()
)

# %% [markdown]
# ## Three networks
#
# The network has two layers and 64 hidden neurons, of which only the first layer is trained,
#
# $$f(x) = \sum_k a_k\, \sigma(w_k^\top x + b_k), \qquad a_k = \pm \tfrac{1}{64} ,$$
#
# by gradient descent on the hinge loss $\max(0, 1 - y f(x))$. We compare ReLU, the identity (a linear network), and
# ReLU on the data of mean zero. During training we record the hinge loss on test data and on the same data shifted, the
# norms of the weights along core and background features, and how often a neuron is active on examples of its own class
# (that with the sign of $a_k$) and of the other class.

# %%
arms = {"ReLU": ("relu", "mean 1/2"), "linear": ("identity", "mean 1/2"), "ReLU, mean zero": ("relu", "mean zero")}
steps = np.linspace(0, 750, 31).astype(int)
networks_of = {activation: networks.TwoLayer(64, activation) for activation in ("relu", "identity")}
learners = {
    activation: methods.get("erm")(network, optax.sgd(0.1), loss="hinge") for activation, network in networks_of.items()
}
runs = {}
for name, (activation, kind) in arms.items():
    network = networks_of[activation]
    runs[name] = methods.train(
        learners[activation],
        keys,
        methods.Batch(train[kind].x, train[kind].y),
        steps=steps[-1],
        record=steps,
        evaluate=lambda state, tests, network=network: {
            "kernel": state.params["hidden"]["kernel"],
            "loss": [methods.terms.losses(methods.predict(network, state, x), y, "hinge").mean() for x, y in tests],
            "margin": [methods.predict(network, state, x) * y for x, y in tests],
            "active": contamination.activation_rates(
                tests[0][0] @ state.params["hidden"]["kernel"] + state.params["hidden"]["bias"],
                tests[0][1],
                output=state.collections["frozen"]["output"]["kernel"][:, 0],
            ),
        },
        held_out=[(test[kind].x, test[kind].y), (shifted[kind].x, shifted[kind].y)],
        per_seed=True,
        what=name,
    )
assert all(run.finite.all() for run in runs.values())

# %%
figure, axes = plotting.panels(columns=2)
for ax, part, title in zip(axes.flat, (0, 1), ("test data", "test data, background reversed"), strict=True):
    for name, run in runs.items():
        plotting.curves(steps, run.records["loss"][part], ax, label=name, ylabel="hinge loss")
    ax.set(title=title, ylim=(0, 1.1), xlabel="step")
axes[0, 1].legend(loc="upper right")
figure

# %%
for name, run in runs.items():
    usual, reverse = (statistics.mean(run.records["loss"][part][:, -1]) for part in (0, 1))
    print(f"{name:16} test {usual.value:.3f} [{usual.low:.3f}, {usual.high:.3f}]", end="")
    print(f"   reversed {reverse.value:.3f} [{reverse.low:.3f}, {reverse.high:.3f}]")

# %% [markdown]
# On test data all three are about equally good. With the background reversed only the ReLU network fails, and only if
# the background has a mean. The label is the same, the core is the same, and the background says nothing in either
# data set: this is not a spurious correlation.
#
# ## What the weights learn
#
# The change of the weights of one ReLU network since initialisation. Each line is a neuron, the upper half with
# $a_k > 0$. Each column is a feature, the core on the left.

# %%
changes = {name: run.records["kernel"][:, -1] - run.records["kernel"][:, 0] for name, run in runs.items()}
largest = max(np.abs(change[0]).max() for change in changes.values())
figure, axes = plotting.panels(columns=3)
figure.set_size_inches(9.5, 3.6)
for ax, (name, change) in zip(axes.flat, changes.items(), strict=True):
    shown = ax.imshow(change[0].T, cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
    ax.axvline(count - 0.5, color="0.2", linewidth=1)
    ax.axhline(change.shape[2] / 2 - 0.5, color="0.2", linewidth=1)
    ax.set(title=name, xlabel="core | background", xticks=[], yticks=[])
axes[0, 0].set_ylabel("neurons: $a_k < 0$ | $a_k > 0$")
figure.colorbar(shown, ax=axes, label="change of the weight")
figure

# %% [markdown]
# In all three the core is learned with the sign of $a_k$: neurons of the positive class gain positive weights, the
# others negative ones. In the ReLU network the neurons of *both* classes gain positive weights on the background.
# (White lines are neurons that are active on no example and do not learn.) The output adds up the neurons of the
# positive class and subtracts the others. So this would cancel if both were active on the same examples. They are not:

# %%
figure, axes = plotting.panels(columns=2)
output = runs["ReLU"].state.collections["frozen"]["output"]["kernel"][0, :, 0]
for ax, name in zip(axes.flat, ("ReLU", "linear"), strict=True):
    rates = runs[name].records["active"]
    plotting.curves(steps, rates.own.mean(axis=2), ax, label="own class")
    plotting.curves(steps, rates.other.mean(axis=2), ax, label="other class", ylabel="P(active)")
    ax.set(title=name, ylim=(0, 1), xlabel="step")
axes[0, 0].legend(loc="center right")
figure

# %%
sums = {}
for name, run in runs.items():
    found = [
        contamination.projections(last, count, initial=first, output=output)
        for first, last in zip(run.records["kernel"][:, 0], run.records["kernel"][:, -1], strict=True)
    ]
    core = statistics.mean([part.core.mean() for part in found])
    signed = [jnp.sign(output) * part.background for part in found]
    learned = statistics.mean([part.mean() for part in signed])
    sums[name] = learned
    print(f"{name:16} mean change of a weight, with the sign of a_k: core {core.value:.3f}", end="")
    print(f"   without it: background {learned.value:.3f} [{learned.low:.3f}, {learned.high:.3f}]")
assert sums["ReLU"].low > 5 * abs(sums["linear"].value)

# %% [markdown]
# A ReLU neuron becomes active on its own class and silent on the other one. (In the linear network "active" means a
# positive preactivation, which has no effect.) So it sees the background of one class only, whose mean is positive, and
# in the sum over examples nothing takes it away again.
#
# ## The mechanism in the gradient
#
# As long as all margins are below 1, the part of the gradient of a neuron along the background feature $j$ is
#
# $$-\frac{\partial L}{\partial \langle w_k, m_j\rangle} = a_k\, E\left[y\, \sigma'(w_k^\top x + b_k)\, z_j\right]
# \approx \frac{a_k}{2}\, (P_+ - P_-)\, E[z_j] ,$$
#
# where $P_\pm$ are the probabilities that the neuron is active on the classes. For $\sigma' = 1$ both are one, and
# nothing is left. `contamination.gradient` has the left side by differentiation, for one of the ReLU networks early in
# training. Dots are neurons.

# %%
early = 2
first = {"kernel": runs["ReLU"].records["kernel"][0, early], "bias": runs["ReLU"].state.params["hidden"]["bias"][0]}
x, y = train["mean 1/2"].x[0], train["mean 1/2"].y[0]
frozen = jax.tree.map(lambda leaf: leaf[0], runs["ReLU"].state.collections)
figure, axes = plotting.panels(columns=2)
for ax, (activation, network) in zip(axes.flat, networks_of.items(), strict=True):
    slope = contamination.gradient(network, {"params": {"hidden": first}, **frozen}, x, y, loss="hinge")
    along = -contamination.projections(slope, count).background.mean(axis=0)
    active = contamination.activation_rates(x @ first["kernel"] + first["bias"], y)
    expected = output / 2 * (active.own - active.other) * 0.5
    ax.plot(expected, along, "o", markersize=4, color=plotting.OKABE_ITO[0])
    ends = [float(expected.min()), float(expected.max())]
    ax.plot(ends, ends, "--", color="0.35", linewidth=1)
    ax.set(
        title={"relu": "ReLU"}.get(activation, "linear"),
        xlabel="$a_k (P_+ - P_-) E[z] / 2$",
        ylabel="$-$gradient along the background",
    )
    if activation == "relu":
        print("ReLU: correlation", np.corrcoef(expected, along)[0, 1])
figure

# %% [markdown]
# For ReLU the dots are on the line. It is positive for neurons of both signs, as $P_+ - P_-$ has the sign of $a_k$ once
# the neuron has learned the core. The linear network with the same weights has no such force.
#
# ## The ratio can be computed
#
# If neurons are active on their own class, and sums over many features are normal, then the weights grow in the
# direction in which the norm $B$ along the background and $C$ along the core have the ratio
#
# $$r = \frac{B}{C} = \sqrt{\frac{b}{c}}\; \frac{1 - P}{1 + P}, \qquad P = \Phi(h), \qquad
# h = \frac{\mu}{s}\, \frac{\sqrt b\, r - \sqrt c}{\sqrt{1 + r^2}} ,$$
#
# for $b$ background and $c$ core features with mean $\mu$ and standard deviation $s$. $P$ is the rate of activation on
# the other class. `contamination.growth` solves this, and says what is left of the mean margin if the background is
# reversed. It assumes that the initial weights are forgotten, so we start from weights that are twenty times smaller
# than before. We train four networks for each of five numbers of background features, all in one program in which some
# features are absent, and read off the ratio when the mean margin is nearest to one half.

# %%
backgrounds = np.array([8, 16, 32, 64, 128])
width, most, short = 64, 128, np.arange(0, 301, 10)
present = jnp.repeat(jnp.arange(most)[None] < backgrounds[:, None], 4, axis=0)
seeds = jax.random.split(jax.random.key(2), len(present))
varied = [
    jax.vmap(
        lambda key, present, use=use, shift=shift: structured.sample(
            jax.random.fold_in(key, use),
            600,
            core=count,
            background=most,
            dimension=count + most,
            background_distribution=structured.Uniform(jnp.zeros(most), present.astype(float)),
            shifted=shift,
        )
    )(seeds, present)
    for use, shift in ((0, False), (1, False), (1, True))
]
network = networks.TwoLayer(width, bias=False)
usual = methods.get("erm")(network, optax.sgd(0.1), loss="hinge")
small = usual._replace(
    init=lambda key, batch: (state := usual.init(key, batch))._replace(
        params=jax.tree.map(lambda leaf: leaf / 20, state.params)
    )
)
run = methods.train(
    small,
    seeds,
    methods.Batch(varied[0].x, varied[0].y),
    steps=short[-1],
    record=short,
    evaluate=lambda state, tests: (
        state.params["hidden"]["kernel"],
        [methods.predict(network, state, x) * y for x, y in tests],
    ),
    held_out=[(sample.x, sample.y) for sample in varied[1:]],
    per_seed=True,
    what="numbers of background features",
)
kernels, margins = run.records
means = [part.mean(axis=2) for part in margins]
half = np.abs(means[0] - 0.5).argmin(axis=1)
here = np.arange(len(half))
change = (kernels[here, half] - kernels[:, 0]) @ np.diag(np.where(np.arange(width) < width // 2, 1.0, -1.0))
core_norm = change[:, :count].sum(axis=1).mean(axis=1) / np.sqrt(count)
raw = (kernels[here, half] - kernels[:, 0])[:, count:].sum(axis=1).mean(axis=1)
ratio = (raw / np.sqrt(np.repeat(backgrounds, 4)) / core_norm).reshape(len(backgrounds), 4).T
kept = (means[1] / means[0])[here, half].reshape(len(backgrounds), 4).T

fine = np.unique(np.geomspace(8, 128, 40).astype(int))
theory = [contamination.growth(count, int(b)) for b in fine]
figure, axes = plotting.panels(columns=2)
for ax, values, line, what in (
    (axes[0, 0], ratio, [one.ratio for one in theory], "background over core, $B / C$"),
    (axes[0, 1], kept, [one.margin for one in theory], "margin, reversed over usual"),
):
    ax.plot(fine, line, "--", color="0.35", label="computed")
    plotting.against(backgrounds, {"networks": values}, ax, xlabel="background features", ylabel=what, logx=True)
    ax.legend()
figure

# %%
computed = [contamination.growth(count, int(b)) for b in backgrounds]
for b, one, measured, left in zip(backgrounds, computed, ratio.T, kept.T, strict=True):
    found, rest = statistics.mean(measured), statistics.mean(left)
    print(f"{b:4} background features: B / C computed {one.ratio:.2f}, networks {found.value:.2f}", end="")
    print(f" [{found.low:.2f}, {found.high:.2f}]; margin kept {one.margin:.2f}, networks {rest.value:.2f}")
assert np.abs(ratio.mean(axis=0) - [one.ratio for one in computed]).max() < 0.1

# %% [markdown]
# The background is learned most, relative to the core, if there are about as many features of both kinds. With more of
# them the neurons become active on the other class as well, and the ratio falls. The margin that is left only falls.
#
# ## What is lost
#
# Left, the margins $y f(x)$ of the test data of the first ReLU network, with 32 features of either kind. Right, the
# accuracy after the background has been reversed, in the networks with 8 to 128 background features.

# %%
figure, axes = plotting.panels(columns=2)
bins = np.linspace(-0.25, 2, 60)
for part, name in enumerate(("usual background", "reversed")):
    values = runs["ReLU"].records["margin"][part][0, -1]
    style = {"histtype": "step", "color": plotting.OKABE_ITO[part], "linewidth": 2, "linestyle": ("-", "--")[part]}
    axes[0, 0].hist(values, bins, label=name, **style)
axes[0, 0].set(xlabel="margin", ylabel="test examples")
axes[0, 0].legend()
right = [(part[:, -1] > 0).mean(axis=1).reshape(len(backgrounds), 4).T for part in margins]
series = {"usual background": right[0], "reversed": right[1]}
plotting.against(
    backgrounds, series, axes[0, 1], xlabel="background features", ylabel="test accuracy", logx=True, baseline=0.5
)
axes[0, 1].legend()
figure

# %%
for name, values in series.items():
    print(f"{name:17}", *(f"{b}: {value:.3f}  " for b, value in zip(backgrounds, values.mean(axis=0), strict=True)))
one = runs["ReLU"].records["margin"]
relative = statistics.mean(one[1][:, -1].mean(axis=1) / one[0][:, -1].mean(axis=1))
print(
    f"32 features of either kind, margin that is kept: {relative.value:.2f} [{relative.low:.2f}, {relative.high:.2f}]"
)

# %% [markdown]
# With as many background as core features most reversed examples are still classified correctly, but with a small part
# of their margin: the failure shows in the loss first. It shows in the accuracy the more, the more background features
# the core has to outvote.
#
# The full experiment has the published network and training, a phase diagram over the number and the mean of the
# background features, what the tangent kernel at initialisation says, and remedies, which do not help:
# `docs/results/feature_contamination.md`.
#
# **What to try next**
#
# - Other activations: `networks.TwoLayer(64, "tanh")`, `"sigmoid"`, `"gelu"`. Which of them are contaminated? The part
#   of the gradient along the background tells, from the symmetry of $\sigma'$.
# - `weight_decay=0.01` in `methods.get("erm")(...)`: does it take away the background more than the core?
# - A smaller mean of the background, `structured.Uniform(-0.25, 0.75)`. How does $r$ fall with the mean?
# - `structured.Spheres()` as `core_distribution`, a core that no linear network can use.
# - The kernel of the network at initialisation, as in notebook 2: does its predictor lose the margin as well?
