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
# # 6 · Depth and information
#
# **What you will learn**
#
# - when a spurious feature is harmful and when it is benign: we exchange the two halves of dominoes (Murali et al.
#   2023);
# - what the *prediction depth* of an image is: the stage of a network from which on its class is decided;
# - what the *usable information* of a data set is, in bits, and how it goes together with depth;
# - how a monitor warns during training, and what a warning does not say.
#
# This takes a minute on two cores. Notebook 5 compares remedies; this one is about diagnosis.

# %%
# %matplotlib inline
import jax
import numpy as np
import optax

from gsjax import data, methods, networks, plotting, probes, statistics

# %% [markdown]
# ## Dominoes
#
# Two images are stacked, and both tell the label. Both halves are digits of scikit-learn. The *easy* half has 0 or 6
# for the label -1, and 1 or 7 for +1. The *hard* half has 3 or 5 against 8 or 9, with strong noise on the pixels. The
# lower half is called *core*: the label is to be predicted from it. The upper half is called *spurious*. There are two
# tasks, and each of them has a clean version.
#
# | task | core half | spurious half |
# |---|---|---|
# | harmful | hard | easy, always agrees with the label |
# | harmful, clean | hard | easy, independent of the label |
# | benign | easy | hard, always agrees with the label |
# | benign, clean | easy | hard, independent of the label |
#
# A draw has 400 training and 160 test images. There are six draws, each for a network of its own.

# %%
images = data.digit_images()
rng = np.random.default_rng(0)
noisy = np.clip(images.pixels + rng.normal(0, 110, images.pixels.shape), 0, 255).astype(np.uint8)
rows = rng.permutation(len(images.labels))
parts = {"train": rows[:1250], "test": rows[1250:]}
easy, hard = (
    {part: data.Images(pixels[chosen], images.labels[chosen]) for part, chosen in parts.items()}
    for pixels in (images.pixels, noisy)
)
easy_classes, hard_classes = ((0, 6), (1, 7)), ((3, 5), (8, 9))
orders = {"harmful": (hard, easy, hard_classes, easy_classes), "benign": (easy, hard, easy_classes, hard_classes)}
keys = jax.random.split(jax.random.key(0), 6)
dominoes = {
    (name, part, correlation): jax.vmap(
        lambda key, part=part, correlation=correlation, halves=halves: data.dominoes(
            jax.random.fold_in(key, len(part)),
            halves[0][part],
            halves[1][part],
            n={"train": 400, "test": 160}[part],
            classes=halves[2:],
            correlation=correlation,
        )
    )(keys)
    for name, halves in orders.items()
    for part in parts
    for correlation in (1.0, 0.5)
}

# %%
figure, axes = plotting.panels(columns=2)
for ax, name in zip(axes.flat, orders, strict=True):
    sample = dominoes[name, "train", 1.0]
    shown = np.argsort(sample.y[0])[[0, 1, 2, -3, -2, -1]]
    core = {"core half": np.tile(1.0 * sample.core[0], (len(shown), 1, 1))}
    plotting.saliency_maps((sample.x[0, shown] + 1) / 2, core, ax, labels=[f"{y:+.0f}" for y in sample.y[0, shown]])
    ax.set_title(name)
figure

# %% [markdown]
# The second row marks the core half in colour.
#
# ## Harmful or benign
#
# The same network is trained on all four: four hidden layers of 64 units, stochastic gradient descent with momentum. At
# eight steps of training we record two things. `probes.monitor` records the depths, explained below. The accuracy on
# test images is recorded twice: on images as in training, and with the spurious half independent of the label.

# %%
network = networks.FullyConnected((64, 64, 64, 64))
method = methods.get("erm")(network, optax.sgd(0.05, momentum=0.9))
monitor = probes.monitor(network, k=15)
steps = [0, 5, 10, 20, 40, 80, 160, 320]
runs = {}
for name in orders:
    for correlation, kind in ((1.0, name), (0.5, f"{name}, clean")):
        train, test, random = (
            dominoes[name, *rest] for rest in (("train", correlation), ("test", correlation), ("test", 0.5))
        )
        runs[kind] = methods.train(
            method,
            keys,
            methods.Batch(train.x, train.y),
            steps=steps[-1],
            batch_size=64,
            record=steps,
            evaluate=lambda state, held_out: (
                monitor(state, held_out[0]),
                [(methods.predict(network, state, x) * y > 0).mean() for x, y in held_out[1]],
            ),
            held_out=((test.x, test.y, (train.x, train.y)), [(test.x, test.y), (random.x, random.y)]),
            per_seed=True,
            what=kind,
        )
assert all(run.finite.all() for run in runs.values())
courses = {kind: run.records[0] for kind, run in runs.items()}

# %%
figure, axes = plotting.panels(columns=2)
for ax, name in zip(axes.flat, orders, strict=True):
    usual, independent = runs[name].records[1]
    plotting.curves(steps, usual, ax, label="images as in training")
    plotting.curves(steps, independent, ax, label="spurious half independent", ylabel="test accuracy")
    ax.set(title=name, xlabel="step", xlim=(0, steps[-1]), ylim=(0.3, 1.02))
    ax.legend(loc="lower right")
figure

# %%
accuracy = {kind: [statistics.mean(values[:, -1]) for values in run.records[1]] for kind, run in runs.items()}
for kind, (usual, independent) in accuracy.items():
    print(
        f"{kind:15} as in training {usual.value:.2f} [{usual.low:.2f}, {usual.high:.2f}]   "
        f"spurious half independent {independent.value:.2f} [{independent.low:.2f}, {independent.high:.2f}]"
    )
assert accuracy["harmful"][1].high < 0.65 < 0.9 < accuracy["benign"][1].low

# %% [markdown]
# On images as in training both networks are nearly always right, and nothing looks wrong. Once the spurious half is
# independent of the label, the network of the harmful task guesses, and that of the benign task is as good as before.
# Both tasks are made of the same images: a spurious feature is harmful *for a network* if it is easier to learn than
# the core feature. The clean version of the harmful task shows that the hard half can be learned, at least in part.
#
# ## Prediction depth
#
# After every stage of the network the 15 nearest training images vote on the class of a test image, by the L1 distance
# of the activations. The *prediction depth* is the first stage from which on all votes agree with that of the last
# stage. If the network itself does not agree with the last vote, the image is *invalid* and has no depth.

# %%
late = steps.index(40)
figure, [[ax]] = plotting.panels()
plotting.depths({kind: course.depth[:, late].ravel() for kind, course in courses.items()}, ax, most=4)
ax.set_title("all test images of the six networks, after 40 steps")
figure

# %%
mass = {kind: probes.monitoring.early_mass(course) for kind, course in courses.items()}
for kind, shares in mass.items():
    print(f"{kind:15} decided at the first stage:", " ".join(f"{share:.2f}" for share in np.nanmean(shares, axis=0)))
print(f"{'at steps':43}", *(f"{step:<4}" for step in steps))
assert (mass["harmful"][:, late] > mass["harmful, clean"][:, late]).all()

# %% [markdown]
# Nearly every image of the harmful task is decided at the first stage; in its clean version many images need more
# stages, or are still invalid. So the spurious feature lowers the depth. Two warnings belong to this figure.
#
# - The benign task has small depths as well, and so has its clean version: its core half is easy. A small depth is a
#   sign of an easy feature, not of a harmful one.
# - Depths are small even at step 0, when no layer has been trained. Neighbours in random features, or in the raw
#   pixels, tell easy images apart. At late steps the depths of the clean task become small, too, as its first layer has
#   learned.
#
# ## Usable information
#
# How many bits about the label can a family $\mathcal V$ of networks extract from the images (Xu et al. 2020)? With
# natural logarithms replaced by those of base 2,
#
# $$I_{\mathcal V}(X \to Y) = H_{\mathcal V}(Y \mid \varnothing) - H_{\mathcal V}(Y \mid X), \qquad
# H_{\mathcal V}(Y \mid X) = \inf_{f \in \mathcal V} E\left[-\log_2 f[X](Y)\right] .$$
#
# One network is trained on images, another one on empty images, and both are judged on test images. A balanced binary
# label has one bit. We take two families: linear classifiers of the pixels, and networks with 64 hidden units.

# %%
families = {"linear": networks.FullyConnected(()), "64 hidden units": networks.FullyConnected((64,))}
information = {}
for family, member in families.items():
    for name in orders:
        for correlation, kind in ((1.0, name), (0.5, f"{name}, clean")):
            train, test = (dominoes[name, part, correlation] for part in parts)
            information[family, kind] = probes.pointwise_information(
                jax.random.key(1),
                train.x,
                train.y,
                network=member,
                held_out=(test.x, test.y),
                seeds=len(keys),
                steps=200,
                null="balance",
                per_seed=True,
            )
assert all(found.finite.all() for found in information.values())
figure, [[ax]] = plotting.panels()
figure.set_size_inches(6.5, 3.6)
bits = {
    family: np.stack([information[family, kind].value.mean(axis=1) for kind in runs], axis=1) for family in families
}
plotting.categories([kind.replace(", ", "\n") for kind in runs], bits, ax, ylabel="information on test images, bits")
ax.axhline(0, color="0.35", linewidth=1, linestyle=(0, (1, 3)))
figure

# %% [markdown]
# The easy half, core or spurious, has nearly the whole bit. Where only the hard half is left, a linear classifier finds
# a part of a bit. The larger family finds *less*, in some draws less than nothing: it is more expressive, but has
# memorised its 400 images and is wrong with confidence on others. Information that is measured by training is a lower
# bound, which depends on the family and on the number of images.
#
# Depth and information go together in the other direction. In the clean version of the harmful task we compare, image
# by image, the bits of a linear classifier for images that the network decides at its first stage and for all others.

# %%
pointwise = information["linear", "harmful, clean"].value
depth = courses["harmful, clean"].depth[:, steps.index(80)]
first, later = (
    np.array([np.nanmean(np.where(chosen, values, np.nan)) for chosen, values in zip(which, pointwise, strict=True)])
    for which in (depth == 1, depth > 1)
)
gap = statistics.mean(first - later)
print(f"bits of images decided at the first stage {first.mean():.2f}, of images decided later {later.mean():.2f}")
print(f"difference, in pairs of networks: {gap.value:.2f} [{gap.low:.2f}, {gap.high:.2f}]")
assert gap.value > 0

# %% [markdown]
# Images that are decided early have more bits. The network and the linear classifier share nothing but the images.
#
# ## A monitor that warns
#
# A warning needs a *reference*: runs on data that are known to be clean. Here these are the clean versions; in
# practice, images of another source, or images in which the suspected region is hidden. At each recorded step
# `probes.alarms.warn` compares the share of images that are decided at the first stage with a bound for one more clean
# run.

# %%
found = {name: probes.alarms.warn(courses[f"{name}, clean"], courses[name], steps, rate=0.05) for name in orders}
for name, warnings in found.items():
    print(f"{name}: {warnings.warned.sum()} of {len(keys)} networks warned of, first at steps {warnings.step.tolist()}")
    alarms = probes.alarms.false_alarms(courses[f"{name}, clean"], rate=0.05)
    print(f"  false alarms: {alarms.alarms} of {alarms.runs}, at most {alarms.high:.2f} with 95% confidence")
assert found["harmful"].warned.all()

figure, axes = plotting.panels(columns=2)
for ax, name in zip(axes.flat, orders, strict=True):
    counts = probes.monitoring.histogram(courses[name])
    plotting.monitor(
        range(len(steps)),
        counts.counts.sum(axis=0),
        ax,
        depths=counts.depths,
        invalid=counts.invalid.sum(axis=0),
        threshold=found[name].threshold,
    )
    ax.set(xlabel=f"{name}: step", xticks=range(len(steps)), xticklabels=steps)
figure

# %% [markdown]
# All networks of the harmful task are warned of, already at step 0. This is early, but it also means that the warning
# has nothing to do with the dynamics of training: a vote of neighbours in random features has seen the spurious half.
# In the benign task the depths of the reference are as small as those of the watched networks. Six clean runs bound the
# rate of false alarms only loosely.
#
# The full experiment, on clothes and MNIST with a convolutional network, says the same: see `docs/results/dominoes.md`.
# What a warning is about has to be looked at. Here is where the networks look, by the gradient of the output by the
# pixels.

# %%
for name in orders:
    test, state = dominoes[name, "test", 1.0], runs[name].state
    shares = [
        np.nanmean(probes.region_share(probes.saliency(network, {"params": params}, x), region).share)
        for params, x, region in zip(
            (jax.tree.map(lambda leaf, seed=seed: leaf[seed], state.params) for seed in range(len(keys))),
            test.x,
            test.spurious,
            strict=True,
        )
    ]
    share = statistics.mean(shares)
    print(f"{name}: share of the saliency on the spurious half {share.value:.2f} [{share.low:.2f}, {share.high:.2f}]")

# %% [markdown]
# **What to try next**
#
# - Less noise, `rng.normal(0, 60, ...)`: the hard half becomes easy. Is there still a harmful task?
# - A correlation of 0.95 instead of 1.0: a few images tell the halves apart. Does accuracy with an independent spurious
#   half recover, and after how many steps?
# - Other probes: `probes.monitor(network, probe="linear")`, or other numbers of neighbours `k`. Which of the findings
#   depend on them?
# - `count_input=True` makes the raw pixels layer 0. How many images are decided there?
# - Your own images: [docs/training_dynamics.md](../docs/training_dynamics.md) goes from a folder with a table of labels
#   to a warning.
