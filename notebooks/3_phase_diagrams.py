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
# # 3 · Phase diagrams
#
# **What you will learn**
#
# - where in the plane of strengths and coupling one feature starves another, where it feeds it, and what the boundaries
#   are;
# - what the orientation of features has to do with Theorem 2 of Pezeshki et al. (2021);
# - how ridge and spectral decoupling change this, and how features are learned over time across the plane;
# - which structure in more than two dimensions makes starvation prevail.
#
# A minute on two cores. Notebook 1 has the two features; here we draw the whole map.

# %%
# %matplotlib inline
import time

import jax
import jax.numpy as jnp
import numpy as np

from gsjax import Ridge, SpectralDecoupling, linearized, plotting, starvation
from gsjax.starvation import structures

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## The map
#
# Two features with strengths $s_1^2$ and $s_2^2$, coupled by $\delta$ (Eq. 15), and a ridge penalty $\lambda$. Only
# ratios matter, so $s_2^2 = 1$. For each of $200 \times 200 \times 5$ points, the equilibrium of Eq. 9 and the
# starvation matrix $\partial z_j^* / \partial (s_i^2)$ of Definition 2, all in one compiled program.

# %%
ratio = jnp.geomspace(1 / 30, 30, 200)
delta = jnp.linspace(-0.99, 0.99, 200)
strength = jnp.geomspace(1e-3, 10, 5)
diagram = jax.block_until_ready(starvation.phase_diagram(ratio, delta, strength))

begin = time.perf_counter()
jax.block_until_ready(starvation.phase_diagram(ratio, delta, strength))
print(f"{diagram.converged.size:,} equilibria with their derivatives in {time.perf_counter() - begin:.2f} s")
assert diagram.converged.all()

# %% [markdown]
# The slice $\lambda = 0.1$: how the response to feature 2 changes as feature 1 grows stronger. Red, below zero, is
# starvation.

# %%
plotting.phase_diagram(diagram, strength=2).get_figure()

# %% [markdown]
# Four quadrants. For $\delta > 0$ feature 1 starves feature 2 wherever it is the stronger one: that is Theorem 2. It
# feeds it where it is the weaker one, or where the coupling is negative; where both hold it starves it again. The
# boundaries can be read off the matrix: with $C = U^\top D U$, $D = \mathrm{diag}(\alpha^* (1 - \alpha^*))$ and
# $c = U^\top \alpha^*$,
#
# $$\frac{\partial z_2^*}{\partial (s_1^2)} \propto -\,C_{12}\, c_1,
# \qquad C_{12} = \delta \sqrt{1 - \delta^2}\, (D_2 - D_1).$$
#
# $C_{12}$ vanishes without coupling, $\delta = 0$, and where the two examples are equally well classified: at
# $s_1 = s_2$, and at $\delta = \pm 1/\sqrt 2$, where one feature is the direction of the labels and the other has no
# response at all. There $z_2^*$ (on the right) or $c_1$ (on the left) changes its sign together with $C_{12}$, so
# starvation comes to a stop and goes on beyond.

# %%
one_starves_two = diagram.starvation[..., 1, 0] < 0
stronger, coupled = ratio[:, None] > 1, delta > 0
assert (one_starves_two == (stronger == coupled)[..., None]).all()

# %% [markdown]
# ## The other direction, and the signs
#
# The same slice for feature 2 starving feature 1, and for feature 1 starving feature 2 without orientation, that is,
# with $z_2^*$ in the sign that Eq. 15 gives it.

# %%
raw = starvation.phase_diagram(ratio, delta, strength, oriented=False)
figure, axes = plotting.panels(columns=3)
plotting.phase_diagram(diagram, axes[0, 0], strength=2, entry=(1, 0), limit=1)
plotting.phase_diagram(diagram, axes[0, 1], strength=2, entry=(0, 1), limit=1)
plotting.phase_diagram(raw, axes[0, 2], strength=2, entry=(1, 0), limit=1)
for ax, title in zip(axes.flat, ("1 acts on 2", "2 acts on 1", "1 acts on 2, not oriented"), strict=True):
    ax.set_title(title)
figure

# %%
both = jnp.sign(diagram.starvation[..., 1, 0]) == jnp.sign(diagram.starvation[..., 0, 1])
flipped = jnp.sign(raw.starvation[..., 1, 0]) != jnp.sign(diagram.starvation[..., 1, 0])
assert both.all()
assert (flipped == (delta > 1 / jnp.sqrt(2))[None, :, None]).all()

# %% [markdown]
# Starvation is mutual: the regions of the first two panels are the same, at every one of the 200,000 points. The sizes
# are not: a unit of strength is much for a weak feature and little for a strong one. In the third panel the sign turns
# at $\delta = 1/\sqrt 2$, since $z_2^*$ does. As written, without orientation, Theorem 2 ends there; with it, it holds
# for all $\delta$ in $(0, 1)$.
#
# ## More or less regularisation

# %%
figure, axes = plotting.panels(columns=3)
for ax, index in zip(axes.flat, (0, 2, 4), strict=True):
    plotting.phase_diagram(diagram, ax, strength=index)
figure

# %% [markdown]
# The regions are the same for every $\lambda$. What changes is the scale of the colours, by six decades from the first
# panel to the last: it is not a strong penalty that starves. In absolute terms starvation is at its largest where
# regularisation is weakest.
#
# Under spectral decoupling the equilibrium does not depend on the strengths, and there is nothing to draw:

# %%
decoupled = starvation.phase_diagram(ratio, delta, strength, penalty=SpectralDecoupling)
assert decoupled.converged.all()
assert not decoupled.starvation.any()
assert jnp.ptp(decoupled.response, axis=0).max() < 1e-9
plotting.phase_diagram(decoupled, strength=2).get_figure()

# %% [markdown]
# ## In time
#
# The responses over time, for a part of the plane: rows are ratios of strengths, columns are couplings. Solid lines are
# training, the gradient flow of the linearised network from $\theta = 0$. Dashed lines are the dual dynamics of Eqs. 9
# and 18, which share only the optimum with it.

# %%
times = jnp.geomspace(1e-3, 1e3, 60)
plane = jnp.array([1.0, 4.0, 16.0]), jnp.array([0.1, 0.5, 0.9])
trajectories = {
    "ridge": linearized.trajectories(*plane, Ridge(0.01), times=times),
    "SD": linearized.trajectories(*plane, SpectralDecoupling(0.01), times=times),
}
assert all(trajectory.converged.all() for trajectory in trajectories.values())
plotting.trajectories(trajectories)[0, 0].get_figure()

# %% [markdown]
# With equal strengths (top row) ridge and SD are the same. In the rows below feature 1 is stronger. The end points of
# SD do not change, in any column, but those of ridge do: $z_1$ increases and $|z_2|$ decreases, in the middle column to
# little more than half. Under both penalties training learns the strong feature first, and in the last row it
# overshoots before the weak one catches up. The dual arrives nearly four decades earlier.

# %%
end = {name: np.abs(trajectory.equilibrium) for name, trajectory in trajectories.items()}
assert (np.diff(end["ridge"][..., 1], axis=0) < 0).all()
np.testing.assert_allclose(np.ptp(end["SD"], axis=0), 0, atol=1e-9)

# %% [markdown]
# ## More than two features
#
# In notebook 2 about every second pair of features of a network on real digits starves. The same holds for a random
# orthogonal $U$. Which structure makes starvation prevail? `starvation.structures` draws bases, and
# `starvation.ensemble` computes the shares, here for $n = 16$, strengths $s_i^2 \propto 1/i$, and 16 draws each (bands
# are 95% intervals of the mean).
#
# - Left: a perturbed identity, every feature with an example of its own and a small share of the others', of random
#   sign, or positive on the examples of weaker features. The latter is Eq. 15 in $n$ dimensions.
# - Right: a strongest feature that is aligned with the labels, with overlap $\mathbf 1^\top u_1 / \sqrt n$.

# %%
n, penalty = 16, Ridge(0.1)
keys = jax.random.split(jax.random.key(0), 16)
s2 = structures.power_law(n, 1.0)
size = jnp.geomspace(0.002, 1, 9)
identity = {
    f"{signs} loadings": jnp.stack(
        [
            starvation.ensemble(
                jax.vmap(lambda key, each=each, signs=signs: structures.near_identity(key, n, each, signs=signs))(keys),
                s2,
                penalty,
            ).share
            for each in size
        ],
        axis=1,
    )
    for signs in ("positive", "random")
}
apart = jnp.geomspace(0.001, 1, 9)
towards = [
    starvation.ensemble(jax.vmap(lambda key, each=each: structures.aligned(key, n, 1 - each))(keys), s2, penalty)
    for each in apart
]
aligned = {
    "by the strongest": jnp.stack([found.by_strongest for found in towards], axis=1),
    "all pairs": jnp.stack([found.share for found in towards], axis=1),
}
assert identity["positive loadings"][:, 0].mean() > 0.9
assert aligned["by the strongest"][:, 0].mean() > 0.9

figure, (axes,) = plotting.panels(columns=2)
share = {"ylabel": "share that starves", "logx": True, "baseline": 0.5}
plotting.against(size, identity, axes[0], xlabel="size of the perturbation", **share)
plotting.against(apart, aligned, axes[1], xlabel="1 − overlap with the labels", **share)
figure

# %% [markdown]
# There are two answers. Among features that hardly overlap, signs decide: if every feature loads positively on the
# examples of all weaker ones, nearly all pairs starve; with random signs one half of them does, however small the
# perturbation is. And a strongest feature that agrees with the labels starves nearly all others, while the share among
# the others stays close to one half. So a feature that suffices alone, such as a spurious one, starves the rest. (A
# share counts signs; `strongest` has the sizes, which vanish with the perturbation.)
#
# **What to try next**
#
# - `structures.exceptions(key, n, 1)`, a spurious feature that fails on one example, and `structures.blocks`: more than
#   a half, or less?
# - Other decays than $s_i^2 \propto 1/i$, smaller $\lambda$, larger $n$. What of the figure stays?
# - Real features: stack the `u` of `features.from_ntk` for a few seeds and pairs of digits, and ask
#   `starvation.ensemble`. `python -m experiments ensembles` does so for several data sets and networks.
# - How much of this map does a network of finite width keep? Notebook 4 measures it.
