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
# - for which strengths and couplings one feature starves another, for which it feeds it, and where the boundaries are;
# - what the orientation of features has to do with Theorem 2 of Pezeshki et al. (2021);
# - how ridge and spectral decoupling change this, and how the features are learned over time;
# - which structure makes starvation prevail in more than two dimensions.
#
# This takes a minute on two cores. Notebook 1 introduces the two features; this one draws the whole map.

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
# Two features have strengths $s_1^2$ and $s_2^2$ and are coupled by $\delta$ (Eq. 15). The penalty is a ridge with
# strength $\lambda$. Only the ratios of $s_1^2$, $s_2^2$ and $\lambda$ matter, so we set $s_2^2 = 1$. One compiled
# program computes the equilibrium of Eq. 9 and the starvation matrix $\partial z_j^* / \partial (s_i^2)$ of Definition
# 2 at each of $200 \times 200 \times 5$ points.

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
# The figure shows the slice $\lambda = 0.1$: how the response to feature 2 changes as feature 1 becomes stronger.
# Negative values, in red, are starvation.

# %%
plotting.phase_diagram(diagram, strength=2).get_figure()

# %% [markdown]
# There are four quadrants. For $\delta > 0$, feature 1 starves feature 2 wherever feature 1 is the stronger one. This
# is Theorem 2. Feature 1 feeds feature 2 where it is the weaker one, or where the coupling is negative. Where both
# hold, it starves feature 2 again. The boundaries follow from the starvation matrix. With $C = U^\top D U$,
# $D = \mathrm{diag}(\alpha^* (1 - \alpha^*))$ and $c = U^\top \alpha^*$,
#
# $$\frac{\partial z_2^*}{\partial (s_1^2)} \propto -\,C_{12}\, c_1,
# \qquad C_{12} = \delta \sqrt{1 - \delta^2}\, (D_2 - D_1).$$
#
# $C_{12}$ vanishes without coupling, $\delta = 0$, and where the two examples have the same margin. They do at
# $s_1 = s_2$, and at $\delta = \pm 1/\sqrt 2$, where one feature has the direction of the labels and the other has no
# response. At $\delta = 1/\sqrt 2$, $z_2^*$ changes its sign together with $C_{12}$; at $\delta = -1/\sqrt 2$, $c_1$
# does. Starvation therefore falls to zero on these two lines and continues beyond them.

# %%
one_starves_two = diagram.starvation[..., 1, 0] < 0
stronger, coupled = ratio[:, None] > 1, delta > 0
assert (one_starves_two == (stronger == coupled)[..., None]).all()

# %% [markdown]
# ## The other direction, and the signs
#
# We compare three slices: feature 1 acting on feature 2 as above, feature 2 acting on feature 1, and feature 1 acting
# on feature 2 without orientation. In the last one $z_2^*$ has the sign that Eq. 15 gives it.

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
same_sign = jnp.sign(diagram.starvation[..., 1, 0]) == jnp.sign(diagram.starvation[..., 0, 1])
flipped = jnp.sign(raw.starvation[..., 1, 0]) != jnp.sign(diagram.starvation[..., 1, 0])
assert same_sign.all()
assert (flipped == (delta > 1 / jnp.sqrt(2))[None, :, None]).all()

# %% [markdown]
# Starvation is mutual: the first two panels show the same regions, and the signs agree at every one of the 200,000
# points. The sizes differ, because a unit of strength is a large change for a weak feature and a small one for a strong
# feature. In the third panel the sign changes at $\delta = 1/\sqrt 2$, because $z_2^*$ changes its sign there. As the
# paper states it, without orientation, Theorem 2 holds only up to this line. With orientation it holds for all $\delta$
# in $(0, 1)$.
#
# ## More or less regularisation

# %%
figure, axes = plotting.panels(columns=3)
for ax, index in zip(axes.flat, (0, 2, 4), strict=True):
    plotting.phase_diagram(diagram, ax, strength=index)
figure

# %% [markdown]
# The regions are the same for every $\lambda$. Only the scale of the colours changes, by six decades from the first
# panel to the last. So a strong penalty is not what causes starvation: in absolute terms, starvation is largest where
# regularisation is weakest.
#
# Under spectral decoupling (SD) the equilibrium does not depend on the strengths, so the diagram is empty:

# %%
decoupled = starvation.phase_diagram(ratio, delta, strength, penalty=SpectralDecoupling)
assert decoupled.converged.all()
assert not decoupled.starvation.any()
assert jnp.ptp(decoupled.response, axis=0).max() < 1e-9
plotting.phase_diagram(decoupled, strength=2).get_figure()

# %% [markdown]
# ## Over time
#
# The figure shows the responses over time at nine points of the plane. Rows are ratios of strengths, and columns are
# couplings. Solid lines show training, the gradient flow of the linearised network from $\theta = 0$. Dashed lines show
# the dual dynamics of Eqs. 9 and 18, which has only the optimum in common with training.

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
# With equal strengths (top row), ridge and SD are the same. In the lower rows feature 1 is stronger. Under SD the end
# points are the same in all rows of a column. Under ridge they change: $z_1$ increases and $|z_2|$ decreases, in the
# middle column to little more than half. Under both penalties, training learns the strong feature first. In the last
# row, this feature overshoots before the weak one catches up. The dual dynamics reaches the optimum nearly four decades
# earlier.

# %%
end = {name: np.abs(trajectory.equilibrium) for name, trajectory in trajectories.items()}
assert (np.diff(end["ridge"][..., 1], axis=0) < 0).all()
np.testing.assert_allclose(np.ptp(end["SD"], axis=0), 0, atol=1e-9)

# %% [markdown]
# ## More than two features
#
# In notebook 2, about half of all pairs of features of a network on real digits starve. The same holds for a random
# orthogonal $U$. Which structure makes starvation prevail? `starvation.structures` draws bases, and
# `starvation.ensemble` computes the share of pairs that starve in each. Here $n = 16$, the strengths are
# $s_i^2 \propto 1/i$, and there are 16 draws of each basis. Bands are 95% intervals of the mean.
#
# - Left: a perturbed identity. Every feature has its own example, and small loadings on the other examples. The
#   loadings have random signs, or are positive on the examples of all weaker features. The latter is Eq. 15 in $n$
#   dimensions.
# - Right: the strongest feature is aligned with the labels. Its overlap with them is $\mathbf 1^\top u_1 / \sqrt n$.

# %%
n, penalty = 16, Ridge(0.1)
keys = jax.random.split(jax.random.key(0), 16)
s2 = structures.power_law(n, 1.0)
sizes = jnp.geomspace(0.002, 1, 9)
identity = {
    f"{signs} loadings": jnp.stack(
        [
            starvation.ensemble(
                jax.vmap(lambda key, size=size, signs=signs: structures.near_identity(key, n, size, signs=signs))(keys),
                s2,
                penalty,
            ).share
            for size in sizes
        ],
        axis=1,
    )
    for signs in ("positive", "random")
}
gaps = jnp.geomspace(0.001, 1, 9)
ensembles = [
    starvation.ensemble(jax.vmap(lambda key, gap=gap: structures.aligned(key, n, 1 - gap))(keys), s2, penalty)
    for gap in gaps
]
aligned = {
    "by the strongest": jnp.stack([found.by_strongest for found in ensembles], axis=1),
    "all pairs": jnp.stack([found.share for found in ensembles], axis=1),
}
assert identity["positive loadings"][:, 0].mean() > 0.9
assert aligned["by the strongest"][:, 0].mean() > 0.9

figure, (axes,) = plotting.panels(columns=2)
share = {"ylabel": "share that starves", "logx": True, "baseline": 0.5}
plotting.against(sizes, identity, axes[0], xlabel="size of the perturbation", **share)
plotting.against(gaps, aligned, axes[1], xlabel="1 − overlap with the labels", **share)
figure

# %% [markdown]
# There are two answers. First, among features that hardly overlap, the signs of the loadings decide. If every feature
# loads positively on the examples of all weaker ones, nearly all pairs starve. With random signs half of them do,
# however small the perturbation is. Second, a strongest feature that agrees with the labels starves nearly all others,
# while the share among the others stays close to one half. So a feature that suffices alone, such as a spurious one,
# starves the rest. (A share counts signs. The field `strongest` of the result measures sizes, which vanish with the
# perturbation.)
#
# **What to try next**
#
# - `structures.exceptions(key, n, 1)`, a spurious feature that fails on one example, and `structures.blocks`: do more
#   than half of all pairs starve, or fewer?
# - Other decays than $s_i^2 \propto 1/i$, smaller $\lambda$, larger $n$: what in the figure stays the same?
# - Real features: stack the `u` of `features.from_ntk` for a few seeds and pairs of digits, and pass them to
#   `starvation.ensemble`. `python -m experiments ensembles` does this for several data sets and networks.
# - How much of this map remains true for a network of finite width? Notebook 4 measures it.
