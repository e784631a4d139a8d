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
# # 4 · Theory against width
#
# **What you will learn**
#
# - how a trained network is compared with the equilibrium that theory predicts for it;
# - which errors decrease with the width, and how fast: the error against the network's own kernel decreases faster than
#   the error against the kernel of infinite width, with an exponent that itself depends on the width;
# - what does not depend on the width: under spectral decoupling the outputs of every network agree with the theory;
# - whether the features of trained networks starve one another as the starvation matrix predicts.
#
# This takes a minute on two cores. Notebook 2 introduces the features and equilibria that are used here.

# %%
# %matplotlib inline
import json
from pathlib import Path

import jax
import numpy as np

from gsjax import data, plotting, statistics, sweeps
from gsjax.statistics import loglog_slope

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## What is compared
#
# The theory describes a network that is linear in its parameters. Its features are those of the tangent kernel at
# initialisation (Eq. 4 of Pezeshki et al., 2021), and its optimum is the equilibrium of the dual dynamics (Eqs. 9 and
# 11):
#
# $$Y \Phi_0 = U S V^\top, \qquad z = U^\top Y \hat y, \qquad
# z^* = \frac1\lambda\, S^2 U^\top \alpha^*, \qquad
# \log\frac{1 - \alpha^*}{\alpha^*} = \frac1\lambda\, U S^2 U^\top \alpha^* .$$
#
# The kernel of a network of finite width changes during training. We train the network on the same objective, a sum
# over examples plus $\frac\lambda2 \|\theta - \theta_0\|^2$ (Eq. 5), until its gradient vanishes, and measure
#
# $$\text{error} = \frac{\|z - z^*\|}{\|z^*\|} .$$
#
# ## What the recorded sweep says
#
# `python -m experiments width_sweep --preset laptop` trains 576 networks, of widths 32 to 8192, on two moons and on
# real digits. Its results are in the repository. The figure shows the exponents $p$ of error $\propto$ width$^p$, with
# 95% intervals over eight seeds. (Under spectral decoupling, SD, the error is computed from the parameters instead of
# the outputs. The section on SD below gives the reason.)

# %%
record = json.loads(Path("../experiments/records/width_sweep/laptop/summary.json").read_text())
kinds = {"slope of the error": "own kernel", "slope of the error against infinite width": "infinite width"}
found = [(row["name"].rpartition(": "), row) for row in record["rows"] if row["name"].rpartition(": ")[2] in kinds]
settings = list(dict.fromkeys(setting for (setting, _, _), _ in found))

figure, [[ax]] = plotting.panels()
figure.set_size_inches(6.5, 3.6)
for number, (kind, label) in enumerate(kinds.items()):
    rows = {setting: row for (setting, _, row_kind), row in found if row_kind == kind}
    places = np.array([settings.index(setting) for setting in rows])
    slopes = np.array([row["measured"] for row in rows.values()])
    ends = np.array([row["interval"] for row in rows.values()])
    bars = [slopes - ends[:, 0], ends[:, 1] - slopes]
    color, marker = plotting.OKABE_ITO[number], "os"[number]
    ax.errorbar(slopes, places, xerr=bars, fmt=marker, color=color, capsize=3, label=label)
for exponent in (-1, -0.5):
    ax.axvline(exponent, color="0.35", linestyle="--", linewidth=1.3, zorder=1)
names = [setting.removesuffix(", depth 1").replace("_", " ").replace("sd", "SD") for setting in settings]
ax.set_yticks(range(len(settings)), [name.replace("lambda", "$\\lambda$") for name in names])
ax.set_xticks([-1.25, -1, -0.75, -0.5, -0.25])
ax.invert_yaxis()
ax.set_xlabel("exponent $p$ of error $\\propto$ width$^{\\,p}$")
ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0)
figure

# %% [markdown]
# The usual bound for the error against a network's own kernel is width$^{-1/2}$ (Lee et al. 2019). Every interval of
# "own kernel" lies below this exponent. In the limit of large width, training changes the kernel by only
# $O(1/\text{width})$ (Dyer and Gur-Ari 2020), whereas the kernels of two random networks differ by
# $O(\text{width}^{-1/2})$. The dashed lines show these two exponents, and not all measured exponents have reached them.
# A single exponent for all widths hides whether the networks are wide enough for the limit. The local slopes, between
# each width and the next, show it.

# %%
assert all(row["interval"][1] < -0.5 for (_, _, kind), row in found if kinds[kind] == "own kernel")

local = [row for row in record["rows"] if "two_moons, ridge, lambda = 1, depth 1: local slope" in row["name"]]
for row in local:
    low, high = row["interval"]
    print(f"{row['name'].rpartition(', ')[2]:20} {row['measured']:5.2f} [{low:5.2f}, {high:5.2f}]")
assert local[0]["measured"] > local[-1]["measured"]

# %% [markdown]
# On two moons under ridge with $\lambda = 1$, narrow networks are far from the limit: the slope is shallow at first,
# and close to $-1$ only beyond a width of 1024. Under spectral decoupling with $\lambda = 10$ it is the reverse: the
# slope becomes shallow for the widest networks, because their error is as small as the tolerance of training.

# %% [markdown]
# ## A sweep of our own
#
# `sweeps.run` does all of this in one call. Here it trains 50 networks with one hidden layer of tanh units on 80
# digits, each until the norm of its gradient has decreased by a factor of $10^5$. It returns one row per network.

# %%
digits = data.digits((3, 8), n=140, key=jax.random.key(0))
train, test = data.Dataset(digits.x[:80], digits.y[:80]), data.Dataset(digits.x[80:], digits.y[80:])
sweep = sweeps.Sweep(
    widths=(32, 64, 128, 256, 512), seeds=5, penalties=("ridge", "sd"), strengths=(1.0,), tolerance=1e-5, features=3
)
rows = sweeps.run(sweep, train, test, name="digits")
measured = {
    (penalty, key): np.array([row[key] for row in rows if row["penalty"] == penalty], float).reshape(-1, sweep.seeds).T
    for penalty in sweep.penalties
    for key in ("error_empirical", "error_infinite", "error_parameters", "drift", "test_accuracy", "converged")
}
assert all(row["converged"] for row in rows)
rows[0]

# %% [markdown]
# ### Ridge

# %%
figure, [[left, right]] = plotting.panels(columns=2)
for key, label in {"error_empirical": "own kernel", "error_infinite": "infinite width"}.items():
    slope = loglog_slope(sweep.widths, measured["ridge", key])
    plotting.error_against_width(sweep.widths, measured["ridge", key], slope, ax=left, label=label)
left.set_ylabel(r"error $\|z - z^*\| / \|z^*\|$")
slope = loglog_slope(sweep.widths, measured["ridge", "drift"])
plotting.error_against_width(sweep.widths, measured["ridge", "drift"], slope, -1, right, label="drift of the kernel")
right.set_ylabel(r"$\|K_T - K_0\| / \|K_0\|$")
assert loglog_slope(sweep.widths, measured["ridge", "error_empirical"]).high < -0.5
figure

# %% [markdown]
# These are the same exponents from fewer networks, with wider intervals. On the left, the two errors are similar for
# narrow networks and differ for wide ones: at width 512, the error against the network's own kernel is one per cent,
# and against infinite width three. The right panel shows why the former is small: the change of the kernel during
# training decreases with the width as well.
#
# ### Spectral decoupling
#
# Eq. 17 replaces $\|\theta\|^2$ by $\|\hat y\|^2$. At its optimum every margin solves $\lambda m = \sigma(-m)$ (Eq.
# 18), whatever the features are. This is a statement about outputs. It is true of *any* network that can produce these
# outputs, narrow or wide. What depends on the width is how the parameters produce them: by Definition 1 the responses
# are also $z = S V^\top (\theta - \theta_0)$, and for a network that is not linear the two definitions differ.

# %%
figure, [[ax]] = plotting.panels()
labels = {"error_empirical": "outputs, $U^\\top Y \\hat y$", "error_parameters": "parameters, $S V^\\top \\theta$"}
for key, label in labels.items():
    slope = loglog_slope(sweep.widths, measured["sd", key]) if key == "error_parameters" else None
    plotting.error_against_width(sweep.widths, measured["sd", key], slope, ax=ax, label=label)
ax.set_ylabel(r"error $\|z - z^*\| / \|z^*\|$")
assert measured["sd", "error_empirical"].max() < 1e-3
figure

# %% [markdown]
# The error of the outputs is set by the tolerance of training, and is less than $10^{-3}$ at all widths. It does not
# test the linear theory. The error of the parameters does, and it decreases with the exponent in the legend.
#
# ### What does not depend on the width

# %%
for penalty in sweep.penalties:
    means = statistics.mean(measured[penalty, "test_accuracy"])
    for width, value, low, high in zip(sweep.widths, *means, strict=True):
        print(f"{penalty:6} width {width:4}: test accuracy {value:.3f} [{low:.3f}, {high:.3f}]")

# %% [markdown]
# From width 64 to 512, the accuracy on the 60 test images changes by at most one percentage point, while the error
# decreases by a factor of five. The error measures how well the theory *describes* the network, not how good the
# network is.
#
# ## Starvation in trained networks
#
# Definition 2 is a derivative with respect to the strength of a feature, and it can be measured. `sweeps.starvation`
# stretches one direction of parameter space. This changes one strength $s_i^2$ by 10%, up or down, and leaves the
# network at initialisation otherwise the same. The function trains both networks to their optima and takes the
# difference of their responses. The prediction is the `starvation.matrix` of the network before training.

# %%
figure, [axes] = plotting.panels(columns=2)
for ax, width in zip(axes, (32, 512), strict=True):
    starved = sweeps.starvation(sweep, sweeps.Cell(width, 1, "ridge", 1.0), train, features=5)
    assert starved.converged.all()
    error = np.linalg.norm(starved.measured - starved.predicted) / np.linalg.norm(starved.predicted)
    same = np.sign(starved.measured) == np.sign(starved.predicted)
    ax.plot(starved.predicted.ravel(), starved.measured.ravel(), "o", color=plotting.OKABE_ITO[0], ms=5, alpha=0.6)
    ax.axline((0, 0), slope=1, color="0.35", linestyle="--", linewidth=1.3, zorder=1)
    ax.set_xscale("symlog", linthresh=1e-3)
    ax.set_yscale("symlog", linthresh=1e-3)
    ax.set_xlabel(r"predicted $\partial z_j^* \,/\, \partial s_i^2$")
    ax.set_ylabel(r"measured $\Delta z_j^* \,/\, \Delta s_i^2$")
    ax.set_title(f"width {width}")
    print(f"width {width}: relative error {error:.3f}, sign right in {same.mean():.0%} of all entries")
figure

# %% [markdown]
# At width 512 the entries lie on the diagonal over two decades and on both sides of zero: where the matrix predicts
# that one feature starves another, the retrained networks show it. At width 32 the large entries are still right, but
# the signs of the small ones cannot be trusted.
#
# Most pairs among the five strongest features of these digits *feed* each other. The sign in Theorem 2 is that of two
# features; notebook 3 treats more.
#
# **What to try next**
#
# - `activation="relu"`: under ridge, the optima of ReLU networks are often on kinks, where the gradient does not
#   vanish. Look at `converged` before you fit a slope.
# - `depths=(0, 1, 2)`: depth 0 is the linear model. It has no width, and its error is only that of the solver.
# - Weaker ridge, `strengths=(0.1,)`: the parameters move farther. What happens to the slope, and to the error at width
#   32?
# - `data.two_moons` instead of digits: why is more width needed? Compare the drift of the kernel.
# - The full record, with figures, is in `experiments/records/width_sweep/laptop/`. For your own data,
#   `sweeps.run(sweep, train, test, name="mine", table=records.Table("folder", {...}))` continues after an interruption.
