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
# # 1 · Gradient starvation in two dimensions
#
# **What you will learn**
#
# - what gradient starvation looks like: a network that could use two coordinates of its input draws its boundary with
#   only one (Fig. 1 of Pezeshki et al., 2021);
# - the smallest model that shows it, two features whose coupling is one number $\delta$, solved by hand (Eqs. 9, 11,
#   15);
# - what "feature 1 starves feature 2" means, as a derivative (Definition 2), and why spectral decoupling ends it (Eq.
#   18);
# - how the features are learned over time, by gradient descent and by the dual dynamics (Fig. 5);
# - when starvation sets in, and when spectral decoupling undoes it.
#
# A minute on two cores.

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsjax import (
    Ridge,
    SpectralDecoupling,
    data,
    dual,
    features,
    linearized,
    methods,
    networks,
    plotting,
    starvation,
    tangent,
)
from gsjax.probes import boundary

# %% [markdown]
# ## A network that stops looking
#
# Two moons, shifted so that the first coordinate alone separates the classes, but only by a small margin. A curved
# boundary, which needs $x_2$ as well, would leave far more room. We train the paper's network, 500 hidden units, by
# full-batch gradient descent with momentum on
#
# $$\frac1n \sum_i \log\left(1 + e^{-y_i \hat y_i}\right) + \frac{\lambda}{2n} \sum_i \hat y_i^2 ,$$
#
# where $\lambda = 0$ is empirical risk minimisation (ERM) and $\lambda > 0$ is *spectral decoupling* (SD, Eq. 17).
# Each has three seeds, in one compiled program. During training we record the outputs on a grid and on the examples.

# %%
x, y = data.two_moons(jax.random.key(0), 300, delta=0.1)
network = networks.FullyConnected((500,))
momentum = optax.sgd(0.01, momentum=0.9)
arms = {
    "ERM": methods.get("erm")(network, momentum),
    "SD": methods.get("spectral_decoupling")(network, momentum, strength=0.006),
}
grid = np.linspace(-2, 2, 81)
corners = jnp.stack(jnp.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
steps = np.unique(np.geomspace(10, 6000, 25).astype(int))
runs = {
    name: methods.train(
        method,
        jax.random.split(jax.random.key(1), 3),
        methods.Batch(x, y),
        steps=6000,
        record=[0, *steps],
        evaluate=lambda state, inputs: {
            "params": state.params,
            "outputs": methods.predict(network, state, inputs),
        },
        held_out=jnp.concatenate([corners, x]),
        what=name,
    ).records
    for name, method in arms.items()
}

# %%
logits = {name: run["outputs"][:, -1, : len(corners)].reshape(3, 81, 81).mean(axis=0) for name, run in runs.items()}
figure, axes = plotting.panels(columns=2)
for ax, (name, values) in zip(axes.flat, logits.items(), strict=True):
    plotting.decision_boundary(grid, grid, values, x, y, ax=ax).set_title(name)
figure

# %% [markdown]
# Both networks classify every example. ERM has found the coordinate that separates and has gone no further: its
# boundary is nearly the vertical line $x_1 = 0$, and passes close by the examples. SD bends its boundary around the
# moons. The geometric margin, the distance from the boundary to the nearest example, shows the same as a number.

# %%
margin = {name: boundary.distances(x, boundary.zero_level(grid, grid, values)).min() for name, values in logits.items()}
print({name: round(float(value), 3) for name, value in margin.items()})
assert margin["SD"] > margin["ERM"]
assert all((y * run["outputs"][:, -1, len(corners) :] > 0).all() for run in runs.values())

# %% [markdown]
# Where has the second coordinate gone? The paper's answer is in the *tangent features* of the network at initialisation
# (Eqs. 2 and 4): with $\Phi = \partial \hat y / \partial \theta$ and labels $Y = \mathrm{diag}(y)$,
#
# $$Y \Phi = U S V^\top, \qquad z = U^\top Y \hat y .$$
#
# Column $j$ of $U$ is a feature, $s_j^2$ its strength, and the response $z_j$ says how much of it has been learned.
# Here the three strongest features, a constant, $x_1$ and $x_2$, suffice for a straight boundary; all others bend it.
# We plot the norm of the other responses, $(\sum_{j > 3} z_j^2)^{1/2}$, relative to that of the three strongest.

# %%
kernel_fn = jax.jit(jax.vmap(lambda params: tangent.ntk(network.apply, {"params": params}, x)))
figure, axes = plotting.panels()
for name, run in runs.items():
    start = jax.tree.map(lambda leaf: leaf[:, 0], run["params"])
    kernels = kernel_fn(start)
    feats = jax.vmap(lambda kernel: features.from_ntk(kernel, y))(kernels)
    outputs = run["outputs"][:, :, len(corners) :]
    z = jax.vmap(features.response)(feats, outputs[:, 1:] - outputs[:, :1])
    ratio = jnp.linalg.norm(z[..., 3:], axis=-1) / jnp.linalg.norm(z[..., :3], axis=-1)
    plotting.curves(steps, ratio, axes[0, 0], label=name, ylabel="weak over strong responses")
axes[0, 0].set_xscale("log")
figure

# %% [markdown]
# Under ERM the weak features stay at a few hundredths of the strong ones, and the curve rises only with the logarithm
# of the steps: waiting does not help. Under SD they grow to a third. Nothing has forbidden ERM to learn them. The next
# section shows why it does not.
#
# ## Two features, one number
#
# Take two examples and two features. Eq. 15 couples them by $\delta$:
#
# $$U = \begin{pmatrix} \sqrt{1 - \delta^2} & -\delta \\ \delta & \sqrt{1 - \delta^2} \end{pmatrix}.$$
#
# Example 1 is mostly feature 1 and example 2 mostly feature 2. With $\delta \ne 0$ each of them also contains a part of
# the other feature. From here on everything is theory, which needs double precision.

# %%
jax.config.update("jax_enable_x64", True)

delta, s1, s2, strength = 0.5, 3.0, 2.0, 0.01
feats = features.planar(delta, jnp.array([s1**2, s2**2]))
print("U =", feats.u.round(3), "strengths s^2 =", feats.s2, sep="\n")

# %% [markdown]
# Train the linear model $\hat y = \Phi \theta$ on $\sum_i \log(1 + e^{-y_i \hat y_i}) + \frac\lambda2 \|\theta\|^2$
# (Eq. 5). Its optimum is the fixed point of the dual dynamics, with one variable $\alpha_i \in (0, 1)$ per example (Eq.
# 9),
#
# $$\dot\alpha = \log\frac{1 - \alpha}{\alpha} - \frac1\lambda\, U S^2 U^\top \alpha,
# \qquad z^* = \frac1\lambda\, S^2 U^\top \alpha^* \quad \text{(Eq. 11)} .$$
#
# `dual.equilibrium` solves it, and reports whether it has converged. To check by hand, we insert the solution into both
# equations.

# %%
optimum = dual.equilibrium(feats, Ridge(strength))
alpha = optimum.alpha
field = jnp.log((1 - alpha) / alpha) - feats.u @ (feats.s2 * (feats.u.T @ alpha)) / strength
print("alpha* =", alpha, "  z* =", optimum.response, "  alpha_dot =", field)
assert optimum.converged
np.testing.assert_allclose(field, 0, atol=1e-8)
np.testing.assert_allclose(optimum.response, feats.s2 * (feats.u.T @ alpha) / strength)

# %% [markdown]
# Now make feature 1 stronger and leave everything else as it is. Under ridge the response to feature 2 goes down,
# though feature 2 is as strong as before. Under spectral decoupling nothing changes, since every $\alpha_i$ then has
# its own equation, $\dot\alpha_i = \log\frac{1 - \alpha_i}{\alpha_i} - \alpha_i / \lambda$ (Eq. 18), in which
# neither $U$ nor $S$ appears.

# %%
singular = jnp.linspace(2.0, 6.0, 9)
growing = jax.vmap(lambda s1: features.planar(delta, jnp.stack([s1**2, s2**2])))(singular)
z_star = {
    name: jax.vmap(lambda feats, penalty=penalty: dual.equilibrium(feats, penalty).response)(growing)
    for name, penalty in {"ridge": Ridge(0.01), "SD": SpectralDecoupling(0.002)}.items()
}
figure, axes = plotting.panels(columns=2)
for j, ax in enumerate(axes.flat):
    series = {name: z[None, :, j] for name, z in z_star.items()}
    plotting.against(singular, series, ax, xlabel="singular value $s_1$", ylabel=f"response $z_{j + 1}^*$")
assert (np.diff(z_star["ridge"][:, 1]) < 0).all()
np.testing.assert_allclose(np.ptp(z_star["SD"], axis=0), 0, atol=1e-9)
figure

# %% [markdown]
# The stronger feature 1, the larger $z_1^*$ and the smaller $z_2^*$. The more example 2 is classified by its share
# $\delta$ of feature 1, the smaller is $\alpha_2^* = \sigma(-\hat y_2 y_2)$, the force with which it still asks for
# feature 2. The fall begins flat: where the two are equally strong the derivative is zero, and Theorem 2 asks for
# $s_1 > s_2$.
#
# ## Starvation is a derivative
#
# Definition 2: feature $i$ starves feature $j$ if $\partial z_j^* / \partial (s_i^2) < 0$. The signs of singular
# vectors are arbitrary, so the features are first oriented such that $z_j^* \ge 0$. `starvation.matrix` has all of
# these derivatives, `[j, i]` for feature $i$ starving $j$, from one linear solve; it is the Jacobian of $z^*$.

# %%
matrix = starvation.matrix(feats, Ridge(strength))
print(matrix)
assert matrix[1, 0] < 0
assert matrix[0, 1] < 0
jacobian = jax.jacobian(lambda s2: dual.equilibrium(features.planar(delta, s2), Ridge(strength)).response)(feats.s2)
np.testing.assert_allclose(matrix, jacobian, rtol=1e-6)
assert not starvation.matrix(feats, SpectralDecoupling(strength)).any()

# %% [markdown]
# Both off-diagonal entries are negative: Theorem 2 says so for $\partial z_2^* / \partial (s_1^2)$ where
# $s_1^2 > s_2^2$, and the signs of `[j, i]` and `[i, j]` always agree. The weak feature starves the strong one as well,
# and the two sizes differ as $(z_1^* / s_1^4) : (z_2^* / s_2^4)$.

# %%
z = optimum.response
print("measured", matrix[1, 0] / matrix[0, 1], " predicted", (z[0] / s1**4) / (z[1] / s2**4))
np.testing.assert_allclose(matrix[1, 0] / matrix[0, 1], (z[0] / s1**4) / (z[1] / s2**4))

# %% [markdown]
# ## The path to the optimum
#
# Fig. 5 of the paper. The left column has gradient descent in the limit of small steps (`linearized.flow`), from
# $\theta = 0$, in training time. The right column has the dual dynamics (`dual.integrate`) from $\alpha = 10^{-8}$.
# Dots are the positions at $t = 250$, which is 5,000 steps of size 0.05; crosses are the equilibria.

# %%
times = jnp.concatenate([jnp.zeros(1), jnp.geomspace(1e-2, 250.0, 120)])
moments = jnp.concatenate([jnp.zeros(1), jnp.geomspace(1e-6, 250.0, 120)])
figure, axes = plotting.panels(2, 2)
problems = [features.planar(delta, jnp.array([s1**2, s2**2])) for s1 in (2.0, 3.0, 4.0, 5.0, 6.0)]
labels = [f"$s_1 = {feats.s[0]:g}$" for feats in problems]
for (left, right), (name, penalty) in zip(
    axes, {"ridge": Ridge(0.01), "spectral decoupling": SpectralDecoupling(0.002)}.items(), strict=True
):
    ends = [dual.equilibrium(feats, penalty) for feats in problems]
    flows = [linearized.flow(feats, penalty, times=times) for feats in problems]
    ascents = [dual.integrate(feats, penalty, times=moments) for feats in problems]
    assert all(path.converged for path in [*flows, *ascents])
    plotting.plane([path.response for path in flows], [end.response for end in ends], left, labels=labels)
    plotting.plane(
        [path.alpha for path in ascents],
        [end.alpha for end in ends],
        right,
        labels=(),
        xlabel=r"$\alpha_1$",
        ylabel=r"$\alpha_2$",
    )
    left.set_title(f"{name}: responses")
    right.set_title(f"{name}: dual variables")
figure

# %% [markdown]
# Top, ridge: $z_1$ grows first, and each path ends lower than the one before it, since feature 2 is starved more.
# Bottom, spectral decoupling: the strong feature still comes first, but the weak one catches up, and all five paths end
# in the same point. In the dual there is a single path for all $s_1$. Training and dual share their end points, but not
# their time scale: the dual arrives when training has hardly begun.

# %%
for name, clock, path, end in (
    ("training", times, flows[-1].response, ends[-1].response),
    ("dual", moments, ascents[-1].alpha, ends[-1].alpha),
):
    away = jnp.abs(path / end - 1).max(axis=1) > 0.01
    print(f"{name}: within 1% of the optimum from t = {clock[jnp.flatnonzero(away)[-1] + 1]:.2g} on")

# %% [markdown]
# ## When does starvation set in?
#
# The matrix above is that of the optimum. `starvation.trajectory` computes the same derivatives at any time of
# training, $\partial z_j(t) / \partial (s_i^2)$ along the gradient flow, oriented by the end of the path. The left
# panel shows the entry `[1, 0]`, which is negative where feature 1 starves feature 2; the right panel shows its
# absolute value on logarithmic axes. The third curve is spectral decoupling with one strength per example, the second
# twice the first.

# %%
strengths = {
    "ridge": Ridge(0.05),
    "SD": SpectralDecoupling(0.05),
    "SD by example": SpectralDecoupling(jnp.array([0.05, 0.1])),
}
times = jnp.concatenate([jnp.zeros(1), jnp.geomspace(1e-3, 1e3, 241)])
trajectories = {name: starvation.trajectory(feats, penalty, times=times) for name, penalty in strengths.items()}
figure, axes = plotting.panels(columns=2)
for ax, logy in zip(axes.flat, (False, True), strict=True):
    plotting.starvation_over_time(trajectories, ax, logy=logy)
figure

# %% [markdown]
# Early on spectral decoupling starves like ridge: the outputs are still too small for the penalty to act on them. It
# has 93% of ridge's starvation at $t = 0.1$, is at its worst at about $t = 1.6$, and has undone it by $t = 10$. So
# stopping early removes the remedy. Under ridge starvation is also worst during training, at about $t = 9$, with 31%
# more than at the optimum.
#
# Straight lines on the right are powers of time. Features act on each other only where the loss of one example is more
# curved than that of another. At the start all have the same curvature, so that starvation sets in with $t^4$. Where
# the penalty holds examples with different strengths, they differ from the start, and it sets in with $t^2$.

# %%
early, later = (
    {name: float(jnp.interp(time, times, path.sensitivity[:, 1, 0])) for name, path in trajectories.items()}
    for time in (0.1, 10.0)
)
print("SD over ridge, at t = 0.1:", early["SD"] / early["ridge"], "  at t = 10:", later["SD"] / later["ridge"])
assert round(100 * early["SD"] / early["ridge"]) == 93
assert later["SD"] / later["ridge"] < 0.01
worst = {name: path.sensitivity[:, 1, 0].argmin() for name, path in trajectories.items()}
print("starves most at", {name: round(float(times[step]), 1) for name, step in worst.items()})
most = trajectories["ridge"].sensitivity[jnp.array([worst["ridge"], -1]), 1, 0]
assert round(float(100 * (most[0] / most[1] - 1))) == 31
for name, power in {"ridge": 4, "SD": 4, "SD by example": 2}.items():
    size = -trajectories[name].sensitivity[1:21, 1, 0]
    np.testing.assert_allclose(np.polyfit(np.log(times[1:21]), np.log(size), 1)[0], power, atol=0.05)
np.testing.assert_allclose(
    trajectories["ridge"].sensitivity[-1], starvation.matrix(feats, strengths["ridge"]), atol=1e-6
)

# %% [markdown]
# **What to try next**
#
# - `data.two_moons(..., delta=-0.1)`: the classes overlap along $x_1$, and ERM has to bend its boundary as well (Fig.
#   1a).
# - Other remedies than SD: `methods.get("erm")(network, optax.adam(3e-3))`, or `weight_decay=0.01`. Which of them
#   widens the margin?
# - $\delta < 0$ or $s_1 < s_2$, outside of Theorem 2: what are the signs of `starvation.matrix` there? And what happens
#   to $z_2^*$ at $\delta = 1/\sqrt 2$? Notebook 3 draws the whole map.
# - Two features are a model of a network. Notebook 2 takes the features of a real one, on real digits.
