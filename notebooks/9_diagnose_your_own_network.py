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
# # 9 · Diagnose your own network
#
# **What you will learn**
#
# - how to get a report on any network and data with one call, `gsjax.diagnose`;
# - how to ask whether the feature that starves the others is a spurious one that you suspect;
# - how to find the examples behind a feature, and behind one feature starving another;
# - how to compare the report with a trained network, and from which of its numbers no conclusion should be drawn.
#
# This takes less than a minute on two cores. Notebook 2 computes the main numbers step by step, and `docs/diagnosis.md`
# explains every one of them.

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import numpy as np

from gsjax import Ridge, data, diagnose, networks, training

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## A network, data and a suspicion
#
# The data are small handwritten digits, labelled by whether they are below five, with one label in ten flipped at
# random. Each image is red or green. The colour agrees with the label in nine of ten images: an easier feature than
# the digit. We suspect that the network learns the colour in place of the digit. Replace `x`, `y`, `attribute` and
# `network` by your own: any function `apply_fn(params, x)` with outputs `(n,)` works, and labels are $-1$ and $+1$.
# The kernel has the precision of the parameters. A layer of flax makes them in float32 unless its `param_dtype` says
# otherwise.

# %%
coloured = data.colored(jax.random.key(0), data.digit_images(), correlations=(0.9,), label_noise=0.1, stride=1)
x, y, attribute = coloured.x[:300], coloured.y[:300], np.asarray(coloured.color[:300])
network = networks.MLP((256,))
params = network.init(jax.random.key(1), x)
print(x.shape, y.shape, f"the colour agrees with the label in {np.mean((y > 0) == attribute):.0%}")

# %% [markdown]
# The theory is about the change of the outputs in training. We subtract the outputs at initialisation, so that the
# change is all there is, and train to the minimum of $\sum_i \log(1 + e^{-y_i f_i}) + \frac\lambda2 \|\theta -
# \theta_0\|^2$. If you train with a mean over $n$ examples and weight decay $w$, then $\lambda = n w$.

# %%
apply_fn = lambda theta, x: network.apply(theta, x) - network.apply(params, x)  # noqa: E731
penalty = Ridge(2.0)
fit = jax.jit(lambda theta, x: training.fit(apply_fn, theta, x, y, penalty, max_steps=200))(params, x)
print(f"gradient {fit.gradient_norm / fit.initial_gradient_norm:.0e} of the initial one", end=", ")
print(f"accuracy {jnp.mean(y * fit.logits > 0):.1%}")

# %% [markdown]
# ## The report
#
# Only network, parameters, data and penalty are needed. The attribute, the trained parameters and pictures to draw are
# optional. The images have two channels, so we pass them as red, green and blue.

# %%
pictures = np.concatenate([x, np.zeros_like(x[..., :1])], axis=-1)
report = diagnose(
    apply_fn, params, x, y, penalty=penalty, trained_params=fit.params, group=attribute, inputs=pictures, top=8
)
print(report)

# %% [markdown]
# In a notebook the report itself is shown as tables and figures. Here we look at its parts one by one. The verdict says
# whether the feature that takes most from the others is one of the colour, and how much the network relies on it.

# %%
print(report.verdict.text)
best = report.verdict.aligned
assert best is not None
assert report.alignment.group[best] > 0.5
figures = report.plot()
figures["alignment"]

# %% [markdown]
# ## Features and their examples
#
# The heaviest examples of a feature show what it is about. A feature with a positive response raises the margins of
# examples of positive weight, and lowers those of examples of negative weight. For the feature of the colour, these are
# the images whose colour misleads.

# %%
figures["examples"]

# %%
weights = report.weights[:, 0, best]
misled = (y > 0) != attribute
print(f"negative weight in the feature of the colour: {np.mean(weights[misled] < 0):.0%} of the misleading images,")
print(f"{np.mean(weights[~misled] < 0):.0%} of the others")
assert np.mean(weights[misled] < 0) > 0.9

# %% [markdown]
# ## What spectral decoupling would change
#
# The report compares the penalty with spectral decoupling of equal total confidence. A ratio above that of the colour
# means that decoupling moves the network from the colour towards this feature.

# %%
figures["responses"]

# %%
ratios = report.decoupling.ratio
print({f"feature {j + 1}": f"{ratio:.2f}" for j, ratio in enumerate(ratios)})

# %% [markdown]
# ## Who starves whom
#
# Red entries mean that a stronger feature $i$ would lower the response to feature $j$. The pictures show the examples
# through which the first pairs starve: both features agree about those with a plus.

# %%
figures["starvation"]

# %%
figures["pairs"]

# %% [markdown]
# ## What not to conclude
#
# Every caution has a code, and lists the fields of the report that it is about. The signs of single entries of the
# starvation matrix often differ between random halves of the data: with a few hundred examples, a single red entry
# means little. The feature of the colour, on the other hand, is the same in both halves of every split.

# %%
for caution in report.cautions:
    print(f"{caution.code}: {', '.join(caution.touches)}")
print(f"overlap of the feature of the colour between halves: {report.stability.overlap[best]:.2f}")
assert report.stability.overlap[best] > 0.8

# %% [markdown]
# The negative control: a random attribute. No feature aligns with it, and the report says so.

# %%
shuffled = np.random.default_rng(0).permutation(attribute)
control = diagnose(apply_fn, params, x, y, penalty=penalty, group=shuffled, top=8)
print(control.verdict.text)
assert control.verdict.code == "none"

# %% [markdown]
# A report can be kept as one page that needs no other files, `report.to_html("diagnosis.html")`, or as plain data,
# `report.to_dict()`. The command `gsjax diagnose` does the same for saved parameters and arrays.
#
# **What to try next**
#
# - $\lambda$ from 0.1 to 10: does the colour still take most from the others, or does it only have the largest
#   response?
# - `diagnose(apply_fn, fit.params, ...)`: the features of the trained network. What is the first caution now?
# - Several initialisations: which features return, and which signs?
# - Several classes: logits `(n, k)` and class indices as labels; thousands of examples: the same call takes another
#   path, and says so in `report.notes`.
