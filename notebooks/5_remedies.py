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
# # 5 · Spectral decoupling against the other remedies
#
# **What you will learn**
#
# - how a colour that agrees with the label starves the shape of a digit in a trained network;
# - what spectral decoupling (SD), IRM, V-REx, Group DRO and Learning from Failure (LfF) change, under one protocol and
#   with published recipes;
# - why it matters which data are used to select a method and its number of steps;
# - what the full runs show, and what the paper reports.
#
# This takes a minute or two on two cores.

# %%
# %matplotlib inline
import json
from pathlib import Path

import jax
import numpy as np
import optax

from gsjax import data, methods, networks, plotting, statistics

# %% [markdown]
# ## Coloured digits
#
# This is Colored MNIST (Arjovsky et al. 2019) with the 8 by 8 digits of scikit-learn. The label says whether a digit is
# below five, and is flipped with probability 0.25. An image is in one of two colour channels. In the two training
# environments the colour agrees with the label in 80% and 90% of all cases. In the test environment it agrees in 10%:
# there the colour is reversed. So shape alone can reach 75% everywhere, and colour alone reaches 85% in training and
# 10% in the test environment.
#
# There are 400 training images and four restarts. Each restart has its own label noise, colours and network, by `vmap`
# over keys.

# %%
images = data.digit_images()
order = jax.random.permutation(jax.random.key(0), len(images.labels))
parts = [data.Images(images.pixels[rows], images.labels[rows]) for rows in np.split(np.asarray(order), [400, 800])]
keys = jax.random.split(jax.random.key(1), 4)
train, validation, test = (
    jax.vmap(lambda key, part=part, agree=agree: data.colored(key, part, correlations=agree, stride=1))(
        jax.vmap(lambda key, number=number: jax.random.fold_in(key, number))(keys)
    )
    for number, (part, agree) in enumerate(zip(parts, ((0.8, 0.9), (0.8, 0.9), (0.1,)), strict=True))
)
print("train", train.x.shape, "validation", validation.x.shape, "test", test.x.shape)

# %%
figure, axes = plotting.panels(2, 6)
figure.set_size_inches(9, 3.6)
colors = np.array([[0.0, 0.45, 0.7], [0.84, 0.37, 0.0]])
for row, (name, sample) in zip(axes, {"training": train, "test": test}.items(), strict=True):
    for ax, x, y in zip(row, sample.x[0], sample.y[0], strict=False):
        ax.imshow(np.asarray(x) @ colors)
        ax.set_title(f"{name}: {y:+.0f}")
        ax.set_axis_off()
figure

# %% [markdown]
# ## Six methods, one protocol
#
# A method is a pair of functions, `init(key, batch) -> state` and `update(state, batch) -> (state, info)`.
# `methods.train` runs it for all restarts in one compiled program, and evaluates it during training. The recipes of
# ERM, SD, IRM and V-REx are the published ones, except that one network with two hidden layers of 256 units replaces
# those with 300 and 390 units. Group DRO and LfF are not in the paper's comparison; they use ERM's optimiser and half
# its steps.
#
# SD minimises $\frac1n \sum_i \log(1 + e^{-y_i \hat y_i}) + \frac{\lambda}{2n} \sum_i \hat y_i^2$ (Eq. 17 divided by
# $n$). Its published schedule for this task has two phases. Up to step 450, $\frac\lambda2 = c = 2 \cdot 10^{-5}$. From
# then on, $\frac\lambda2 = 1$ and the whole loss is multiplied by $c$. Adam keeps its memory of the larger gradients of
# the first phase, which makes the second phase slow.
#
# Besides images and labels, IRM and V-REx use the environment of an image, and Group DRO uses its group, the
# combination of label and colour. LfF trains a second, biased network to find out which images are hard.

# %%
network = networks.FullyConnected((256, 256), initialization="xavier")
adam, fast = optax.adam(1e-4), optax.adam(4.898536566546834e-4)
schedule = methods.spectral_decoupling.published_schedule(c=2e-5, switch=450)
invariance = {"penalty_weight": 91257.18613115903, "anneal": 190}
recipes = {
    "ERM": (methods.get("erm")(network, adam), 1001),
    "SD": (methods.get("spectral_decoupling")(network, adam, **schedule), 2001),
    "IRM": (methods.get("irm")(network, fast, **invariance, weight_decay=2 * 0.00110794568), 501),
    "V-REx": (methods.get("vrex")(network, fast, **invariance, weight_decay=0.00110794568), 501),
    "Group DRO": (methods.get("group_dro")(network, adam, groups=4), 501),
    "LfF": (methods.get("lff")(network, adam), 501),
}
group = 2 * (train.y > 0).astype(int) + train.color
batch = methods.Batch(train.x, train.y, group, train.environment)
runs = {
    name: methods.train(
        method,
        keys,
        batch,
        steps=steps,
        record=np.linspace(0, steps, 41).astype(int),
        evaluate=lambda state, sets: [(methods.predict(network, state, x) * y > 0).mean() for x, y, *_ in sets],
        held_out=[train, validation, test],
        per_seed=True,
        what=name,
    )
    for name, (method, steps) in recipes.items()
}
assert all(run.finite.all() for run in runs.values())

# %%
figure, [[left, right]] = plotting.panels(columns=2)
for (name, run), style in zip(runs.items(), ("-", "-", "--", ":", "-.", "--"), strict=True):
    plotting.curves(run.steps, run.records[0], left, label=name, ylabel="accuracy in training", linestyle=style)
    plotting.curves(run.steps, run.records[2], right, ylabel="accuracy, colour turned round", linestyle=style)
for ax in (left, right):
    ax.set_ylim(0, 1)
    ax.axhline(0.75, color="0.35", linewidth=1, linestyle=(0, (1, 3)))
left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0)
figure

# %% [markdown]
# Lines are means over restarts, with 95% intervals. The dotted line marks the 75% that shape alone can reach.
#
# All methods but Group DRO learn the colour first, with an accuracy of 85% in training and 10% with the colour
# reversed. Then ERM memorises its 400 images, and reaches 100% and 23%. SD follows ERM up to step 450. In the slow
# phase it *unlearns*: its training accuracy falls to 73%, about what shape alone reaches, and its test accuracy rises
# to 60%.
#
# IRM and V-REx are no better than ERM. Their penalties set in at step 190. By then the few images are already
# memorised, and two environments that are both fitted nearly perfectly hardly differ. Group DRO is given the colours
# and starts best, but then memorises the images as well. LfF overcorrects. Its biased network learns the colour. The
# other network is then trained mainly on the images that the biased one gets wrong, and learns the colour as evidence
# *against* the label. An accuracy of 89% in the test environment with 19% in training is not robustness.

# %%
last = {name: [part[:, -1] for part in run.records] for name, run in runs.items()}
for name, (training, _, reversed_colour) in last.items():
    numbers = [
        f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in map(statistics.mean, (training, reversed_colour))
    ]
    print(f"{name:10} training {numbers[0]}   colour turned round {numbers[1]}")
gain = statistics.mean(last["SD"][2] - last["ERM"][2])
print(f"SD minus ERM, colour turned round, in pairs of restarts: {gain.value:.2f} [{gain.low:.2f}, {gain.high:.2f}]")
assert gain.low > 0.2

# %% [markdown]
# ## The effect of tuning on the test environment
#
# The paper states openly that all methods of this benchmark are tuned on the test environment. This includes the number
# of steps. We compare three choices of the step:
#
# - the last step of the recipe;
# - the step with the best accuracy on held-out images of the *training* environments, which are all that one has in
#   practice;
# - the step with the best accuracy on the test environment itself.

# %%
chosen = {}
for name, run in runs.items():
    _, held_out, reversed_colour = run.records
    validated = np.take_along_axis(reversed_colour, held_out.argmax(axis=1)[:, None], axis=1)[:, 0]
    chosen[name] = np.stack([reversed_colour[:, -1], validated, reversed_colour.max(axis=1)], axis=1)
choices = ["the recipe's\nlast step", "best step on\ntraining colours", "best step on\nturned colours"]
best = {name: run.steps[run.records[2].argmax(axis=1)].tolist() for name, run in runs.items()}
print("best steps on turned colours:", best)
figure, [[ax]] = plotting.panels()
plotting.categories(choices, chosen, ax, ylabel="accuracy, colour turned round")
ax.set_ylim(0, 1)
figure

# %% [markdown]
# With honest validation most of the gain is gone. In the validation data the colour helps. The best step of nearly
# every method, SD included, is therefore one at which it relies on the colour, and its accuracy in the test environment
# is near 10%. Group DRO, which is given the groups, stays where it was. With the third choice all methods gain. For
# ERM, IRM, V-REx and Group DRO, the best step in the test environment is step 0, a network that has learned nothing, at
# 57%. SD has to run to its end. A number from this benchmark says what a method *can* do if someone knows when to stop
# it, not what it will do.
#
# ## The full runs
#
# `python -m experiments colored_mnist --preset laptop` uses 3,000 digits of MNIST at 14 by 14 pixels, networks with 300
# hidden units, and 10 restarts. Its results are in the repository. The paper trains on 50,000 digits.

# %%
record = json.loads(Path("../experiments/records/colored_mnist/laptop/summary.json").read_text())
found = {row["name"]: row for row in record["rows"]}
arms = ["erm", "sd", "irm", "rex", "group dro", "lff", "sd, penalty alone", "sd, slow phase alone"]
shown = {arm: found[f"{arm}: test accuracy at the published step"] for arm in arms} | {
    f"best on {data_set}": found[f"test accuracy of the method and step that are best on {data_set} images"]
    for data_set in ("validation", "test")
}
print(f"{'colour turned round':22} {'3,000 digits':22} paper, 50,000")
for name, row in shown.items():
    low, high = row["interval"]
    print(f"{name:22} {row['measured']:.3f} [{low:.3f}, {high:.3f}]   {row['published'] or '-'}")

# %% [markdown]
# ERM is close to its published accuracy, and SD is not far below, with 59% against 68%. IRM and REx reach 67% to 69% in
# the paper, but 27% to 29% with 3,000 digits. The reason is the one given above: the few digits are already memorised
# when the penalties set in. Two lines separate the parts of SD's schedule. The penalty alone and the slow phase alone
# are both at ERM's level. Only together do they unlearn the colour, so Eq. 17 alone does not explain this result. The
# last two lines show the effect of tuning: they are the method and step that are best on validation images, and those
# that are best on test images.
#
# **What to try next**
#
# - More images: `[1000, 1200]` instead of `[400, 800]`. Which gains more, IRM or SD? (This takes three times as long.)
# - The two halves of SD's schedule: `strength=schedule["strength"]` without `loss_scale`, or `strength=0.0` with it.
# - `anneal=20` for IRM and V-REx: penalties that set in before the images are memorised.
# - Images without colour, or colours without images: `data.gray`, `data.blank` (Fig. 3), and `data.grayscale` for an
#   oracle that cannot see the colour.
# - Your own recipe: any network with outputs `(n,)`, any optimiser of optax, and any method of `methods.NAMES` by
#   `methods.get(name)`. From the command line: `python -m experiments train --method irm --data colored_digits`.
