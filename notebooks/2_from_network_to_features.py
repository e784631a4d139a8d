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
# # 2 · From a network and data to features, responses and starvation
#
# **What you will learn**
#
# - how to decompose a network and real data into *tangent features* and their strengths (Eqs. 2 and 4 of Pezeshki et
#   al., 2021);
# - which responses the theory predicts at the end of training, and how to see whether a prediction can be trusted;
# - how to read a starvation matrix, and how to check one of its entries by hand;
# - how close a trained network of finite width comes to the prediction, at the optimum and during training;
# - how to do all of this with a network of your own.
#
# This takes less than a minute on two cores. Notebook 1 introduces the ideas in two dimensions.

# %%
# %matplotlib inline
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsjax import (
    Ridge,
    SpectralDecoupling,
    data,
    dual,
    features,
    linearized,
    networks,
    plotting,
    starvation,
    tangent,
    training,
)

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## Data and network
#
# The data are 120 real handwritten digits of 8 by 8 pixels: threes (label $-1$) and eights (label $+1$). The network is
# that of Eq. 1, in NTK parametrisation, with one hidden layer of 512 tanh units.

# %%
x, y = data.digits((3, 8), n=120, key=jax.random.key(0))
network = networks.MLP((512,), activation="tanh")
params = network.init(jax.random.key(1), x)
print(x.shape, y.shape, network.apply(params, x).shape)

# %% [markdown]
# ## Features
#
# Near its initialisation a wide network is linear in its parameters, to a good approximation: $\hat y = \Phi \theta$
# with $\Phi = \partial \hat y / \partial \theta$. Both $\hat y$ and $\theta$ are measured from their values at
# initialisation (Eqs. 2 and 3). The theory needs only the Gram matrix $\Phi \Phi^\top$, the tangent kernel.
# `tangent.ntk` computes it without forming $\Phi$, which has 120 by 33,280 entries. Here $\Phi$ still fits into memory,
# so we can compare the two.

# %%
kernel = tangent.ntk(network.apply, params, x)
phi = tangent.ntrf(network.apply, params, x)
print("Phi", phi.shape, " kernel", kernel.shape)
np.testing.assert_allclose(kernel, phi @ phi.T, rtol=1e-9, atol=1e-9)

# %% [markdown]
# Definition 1 decomposes $Y \Phi = U S V^\top$ with $Y = \mathrm{diag}(y)$. Column $u_j$ of $U$ has the weights of the
# examples in feature $j$, and $s_j^2$ is the strength of the feature. Its response, the entry $z_j$ of
# $z = U^\top Y \hat y$, says how far the network has learned it.

# %%
feats = features.from_ntk(kernel, y)
print(
    f"{feats.rank} features, of which the strongest 10 have {feats.s2[:10].sum() / feats.s2.sum():.0%} of the strength"
)
print("s^2 =", feats.s2[:6].round(1), "...", feats.s2[-1].round(3))

# %% [markdown]
# ## Where training ends
#
# With a ridge penalty, training minimises $\sum_i \log(1 + e^{-y_i \hat y_i}) + \frac\lambda2 \|\theta\|^2$ (Eq. 5).
# The optimum is a fixed point in one variable $\alpha_i$ per example (Eqs. 9 and 11):
#
# $$\log\frac{1 - \alpha^*}{\alpha^*} = \frac1\lambda\, U S^2 U^\top \alpha^*,
# \qquad z^* = \frac1\lambda\, S^2 U^\top \alpha^* .$$
#
# Spectral decoupling replaces $\frac\lambda2 \|\theta\|^2$ by $\frac\lambda2 \|\hat y\|^2$ (Eq. 17). If the kernel has
# full rank, the examples are then decoupled: each has its own equation, which does not contain $S$ (Eq. 18). A solution
# comes with its diagnostics: the residual, the number of Newton iterations, whether the solver has converged, and
# whether the examples are decoupled.

# %%
penalties = {"ridge": Ridge(1.0), "spectral decoupling": SpectralDecoupling(0.1)}
optima = {name: dual.equilibrium(feats, penalty) for name, penalty in penalties.items()}
for name, optimum in optima.items():
    print(
        f"{name}: converged {optimum.converged}, residual {optimum.residual:.0e}, {optimum.iterations} iterations, "
        f"decoupled {optimum.decoupled}, margins {(feats.u @ optimum.response).min():.2f} to "
        f"{(feats.u @ optimum.response).max():.2f}"
    )
    assert optimum.converged

# %% [markdown]
# The signs of singular vectors are arbitrary. From here on, the sign of every feature is the one that makes its
# response positive.

# %%
figure, axes = plotting.panels(columns=2)
for ax, (name, optimum) in zip(axes.flat, optima.items(), strict=True):
    plotting.spectrum(feats.s, jnp.abs(optimum.response), ax).set_title(name)
axes[0, 1].set_ylim(axes[0, 0].get_ylim())
figure

# %% [markdown]
# The strengths span more than three decades. Under ridge the responses decrease with the strengths, and faster. Under
# spectral decoupling all margins are equal, and the weak features have the responses that this requires. We compare the
# median response of the weaker half of the features:

# %%
weaker = {name: jnp.median(jnp.abs(optimum.response[60:])) for name, optimum in optima.items()}
print({name: f"{value:.2g}" for name, value in weaker.items()})
assert weaker["ridge"] < weaker["spectral decoupling"]

# %% [markdown]
# ## Who starves whom
#
# Entry $[j, i]$ of the starvation matrix is $\partial z_j^* / \partial (s_i^2)$. Where it is negative, feature $i$
# starves feature $j$ (Definition 2): if $i$ were stronger, the network would learn less of $j$. One linear solve gives
# all $120 \times 120$ entries. The figure shows those of the twelve strongest features.

# %%
matrix = starvation.matrix(feats, penalties["ridge"])
plotting.starvation(matrix[:12, :12], feats.s2[:12]).get_figure()

# %%
print(
    f"{starvation.share(feats, penalties['ridge']):.1%} of all pairs starve; the signs of [j, i] and [i, j] agree in",
    end=" ",
)
print(f"{(jnp.sign(matrix) == jnp.sign(matrix.T)).mean():.1%}")
assert (jnp.diag(matrix) > 0).all()
assert not starvation.matrix(feats, penalties["spectral decoupling"]).any()

# %% [markdown]
# The three strongest features help each other. Among the others, both signs occur. In two dimensions, with
# $\delta > 0$, the weaker feature is always starved (Theorem 2). Here about half of all pairs starve, and a pair that
# starves does so in both directions. Notebook 3 shows what shifts this balance. Under spectral decoupling all entries
# are zero.
#
# We check one entry by hand. Among the twelve features, we take the pair with the most negative entry, increase the
# strength of feature $i$ by a thousandth, and solve again.

# %%
off_diagonal = np.where(np.eye(12, dtype=bool), 0, matrix[:12, :12])
j, i = np.unravel_index(np.argmin(off_diagonal), off_diagonal.shape)
change = 1e-3 * feats.s2[i]
stronger = features.from_spectrum(feats.u, feats.s.at[i].set(jnp.sqrt(feats.s2[i] + change)), feats.y)
before, after = (jnp.abs(dual.equilibrium(f, penalties["ridge"]).response[j]) for f in (feats, stronger))
print(f"feature {i + 1} starves feature {j + 1}: {(after - before) / change:.5f}, the matrix says {matrix[j, i]:.5f}")
np.testing.assert_allclose((after - before) / change, matrix[j, i], rtol=1e-2)

# %% [markdown]
# ## What training does
#
# So far, everything is about the linearised network. Now we train networks of two widths to the minimum of the same
# loss, and measure their responses to the features at their own initialisation.

# %%
for width in (32, 512):
    wide = networks.MLP((width,), activation="tanh")
    start = wide.init(jax.random.key(1), x)
    initial = features.from_ntk(tangent.ntk(wide.apply, start, x), y)
    predicted = dual.equilibrium(initial, penalties["ridge"]).response
    fit = training.fit(wide.apply, start, x, y, penalties["ridge"])
    error = jnp.linalg.norm(initial.response(fit.logits) - predicted) / jnp.linalg.norm(predicted)
    print(f"width {width}: converged {fit.converged} in {fit.iterations} steps, |z - z*| / |z*| = {error:.1%}")
assert error < 0.05

# %% [markdown]
# At sixteen times the width, the error is less than a tenth as large. Notebook 4 measures how it depends on the width.
# During training, gradient descent on the network (dashed) follows the gradient flow of the linearised network (solid).
# The figure shows the responses to the five strongest features over the training time, which is the step size times the
# number of steps.

# %%
steps = np.unique(np.geomspace(1, 400, 30).astype(int))
descent = training.descend(network.apply, params, x, y, penalties["ridge"], step_size=0.01, steps=steps)
flow = linearized.flow(feats, penalties["ridge"], times=descent.times)
assert flow.converged
sign = jnp.sign(optima["ridge"].response[:5])
ax = plotting.paths(descent.times, sign * flow.response[:, :5])
plotting.paths(descent.times, sign * feats.response(descent.logits)[:, :5], ax, linestyle="--", labels=()).get_figure()

# %% [markdown]
# Solid and dashed lines nearly coincide. The remaining difference is due to the finite width and, at the beginning, to
# the step size. The response does not depend on the strength alone: feature 3 ends above feature 2, because the
# agreement of a feature with the labels matters as well.
#
# ## Your own network
#
# You do not need the networks of `gsjax.networks`: any function `apply_fn(params, x)` with outputs `(n,)` works. Here
# we use a small convolutional network of flax, in its standard parametrisation and with biases.

# %%
layers = [nn.Conv(16, (3, 3)), nn.tanh, nn.Conv(32, (3, 3), strides=2), nn.tanh, nn.Dense(1)]
own = nn.Sequential([*layers, lambda outputs: outputs.mean(axis=(1, 2, 3))])
own_params = own.init(jax.random.key(2), x)
own_feats = features.from_ntk(tangent.ntk(own.apply, own_params, x), y)
own_optimum = dual.equilibrium(own_feats, Ridge(1.0))
own_matrix = starvation.matrix(own_feats, Ridge(1.0))
assert own_optimum.converged

figure, axes = plotting.panels(columns=2)
plotting.spectrum(own_feats.s, jnp.abs(own_optimum.response), axes[0, 0])
plotting.starvation(own_matrix[:12, :12], own_feats.s2[:12], axes[0, 1])
figure

# %% [markdown]
# By far the strongest feature has a small response, and its column is nearly white: it says little about the labels,
# and making it stronger changes almost nothing. The features that matter come after it.
#
# **What to try next**
#
# - Other digits, `data.digits((4, 9))`, or your own `x` and `y` of $-1$ and $+1$: is there a feature that many others
#   starve?
# - $\lambda$ from $10^{-3}$ to $10$: when does the network begin to learn the weak features, and what happens to the
#   blue corner of the matrix?
# - Random labels, `jax.random.rademacher(key, (120,), float)`: which features have large responses now?
# - More examples than fit into memory: `tangent.ntk(..., batch_size=...)`, or `features.from_operator` for the
#   strongest features only. More than two classes: `gsjax.multiclass`.
