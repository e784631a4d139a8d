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
# - how close a trained network of finite width comes, at the optimum and during training;
# - how to do all of this with a network of your own.
#
# Less than a minute on two cores. Notebook 1 has the ideas, in two dimensions.

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
# Real handwritten digits, 8 by 8 pixels: 120 threes (label $-1$) and eights ($+1$). The network is that of Eq. 1, in
# NTK parametrisation, with one hidden layer of 512 tanh units.

# %%
x, y = data.digits((3, 8), n=120, key=jax.random.key(0))
network = networks.MLP((512,), activation="tanh")
params = network.init(jax.random.key(1), x)
print(x.shape, y.shape, network.apply(params, x).shape)

# %% [markdown]
# ## Features
#
# Close to its initialisation a wide network is linear in its parameters, $\hat y = \Phi \theta$, with
# $\Phi = \partial \hat y / \partial \theta$ and everything centred at the initialisation (Eqs. 2 and 3). The theory
# needs only the Gram matrix of $\Phi$, the tangent kernel. `tangent.ntk` never forms the 120 by 33,280 numbers of
# $\Phi$ itself. Here they still fit into memory, so we check once.

# %%
kernel = tangent.ntk(network.apply, params, x)
phi = tangent.ntrf(network.apply, params, x)
print("Phi", phi.shape, " kernel", kernel.shape)
np.testing.assert_allclose(kernel, phi @ phi.T, rtol=1e-9, atol=1e-9)

# %% [markdown]
# Definition 1: $Y \Phi = U S V^\top$ with $Y = \mathrm{diag}(y)$. Column $u_j$ of $U$ weighs the examples that make up
# feature $j$, $s_j^2$ is its strength, and the response $z = U^\top Y \hat y$ says how far it has been learned.

# %%
feats = features.from_ntk(kernel, y)
print(
    f"{feats.rank} features, of which the strongest 10 have {feats.s2[:10].sum() / feats.s2.sum():.0%} of the strength"
)
print("s^2 =", feats.s2[:6].round(1), "...", feats.s2[-1].round(3))

# %% [markdown]
# ## Where training ends
#
# For ridge, $\sum_i \log(1 + e^{-y_i \hat y_i}) + \frac\lambda2 \|\theta\|^2$ (Eq. 5), the optimum is a fixed point in
# one variable per example (Eqs. 9 and 11):
#
# $$\log\frac{1 - \alpha^*}{\alpha^*} = \frac1\lambda\, U S^2 U^\top \alpha^*,
# \qquad z^* = \frac1\lambda\, S^2 U^\top \alpha^* .$$
#
# For spectral decoupling, with $\frac\lambda2 \|\hat y\|^2$ in place of $\frac\lambda2 \|\theta\|^2$ (Eq. 17), every
# example has its own equation, which does not contain $S$ (Eq. 18). A solution includes its diagnostics: the residual,
# the iterations of Newton's method, whether it has converged, and whether the examples are decoupled, which requires
# full rank.

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
# The signs of singular vectors are arbitrary; below, every feature has the sign that makes its response positive.

# %%
figure, axes = plotting.panels(columns=2)
for ax, (name, optimum) in zip(axes.flat, optima.items(), strict=True):
    plotting.spectrum(feats.s, jnp.abs(optimum.response), ax).set_title(name)
axes[0, 1].set_ylim(axes[0, 0].get_ylim())
figure

# %% [markdown]
# Strengths fall over more than three decades. Under ridge the responses fall with them, and faster. Under spectral
# decoupling every margin is the same, and the weak features respond as much as this requires. The median response of
# the weaker half of the features:

# %%
weaker = {name: jnp.median(jnp.abs(optimum.response[60:])) for name, optimum in optima.items()}
print({name: f"{value:.2g}" for name, value in weaker.items()})
assert weaker["ridge"] < weaker["spectral decoupling"]

# %% [markdown]
# ## Who starves whom
#
# Entry $[j, i]$ of the starvation matrix is $\partial z_j^* / \partial (s_i^2)$. Where it is negative, feature $i$
# starves feature $j$ (Definition 2): were $i$ stronger, less of $j$ would be learned. One linear solve gives all
# $120 \times 120$ of them; the figure has the twelve strongest features.

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
# The strongest three features help each other; beyond them both signs mix. In two dimensions, with $\delta > 0$, the
# weaker feature is always starved (Theorem 2). Here about one pair in two starves, and if it does, then in both
# directions. Notebook 3 asks what shifts this balance. Under spectral decoupling all entries are zero.
#
# An entry by hand: of the twelve, take the pair with the strongest starvation, make feature $i$ stronger by a
# thousandth, and solve again.

# %%
among = np.where(np.eye(12, dtype=bool), 0, matrix[:12, :12])
j, i = np.unravel_index(np.argmin(among), among.shape)
change = 1e-3 * feats.s2[i]
stronger = features.from_spectrum(feats.u, feats.s.at[i].set(jnp.sqrt(feats.s2[i] + change)), feats.y)
before, after = (jnp.abs(dual.equilibrium(f, penalties["ridge"]).response[j]) for f in (feats, stronger))
print(f"feature {i + 1} starves feature {j + 1}: {(after - before) / change:.5f}, the matrix says {matrix[j, i]:.5f}")
np.testing.assert_allclose((after - before) / change, matrix[j, i], rtol=1e-2)

# %% [markdown]
# ## What training does
#
# All of the above is about the linearised network. Now train the network itself to the minimum of the same loss, at two
# widths, and read its responses in the features of its own initialisation.

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
# With sixteen times the width, the error is less than a tenth; notebook 4 measures how it depends on the width. During
# training, gradient descent on the network (dashed) follows the gradient flow of the linearised network (solid). The
# figure has the responses of the five strongest features over training time, the step size times the number of steps.

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
# the step size. Strength does not decide alone: feature 3 ends above feature 2, since its agreement with the labels
# matters as well.
#
# ## Your own network
#
# You do not need the networks of `gsjax.networks`: any function `apply_fn(params, x)` with outputs `(n,)` works.
# Here a small convolutional network of flax, in its standard parametrisation and with biases.

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
# The feature that is by far the strongest has a small response, and its column is nearly white: it says little about
# the labels, and making it stronger changes nothing. The features that matter come after it.
#
# **What to try next**
#
# - Other digits, `data.digits((4, 9))`, or your own `x` and `y` of $-1$ and $+1$: is there a feature that many others
#   starve?
# - $\lambda$ from $10^{-3}$ to $10$: when do the weak features begin to be learned, and what becomes of the blue
#   corner?
# - Random labels, `jax.random.rademacher(key, (120,), float)`: which features have to answer now?
# - More examples than fit: `tangent.ntk(..., batch_size=...)`, or `features.from_operator` for the strongest features
#   alone. More than two classes: `gsjax.multiclass`.
