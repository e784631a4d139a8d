"""Planted errors: each is put into its own copy of the sources, where a claim has to fail.

A claim that no error can break shows nothing, and an error that no claim notices reveals a gap in the claims.
`python -m theory --mutate` runs all claims on every copy; a slow test runs only the claims that are named here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Mutation(NamedTuple):
    """One error: `old`, which occurs exactly once in `file`, becomes `new`; `claim` is expected to notice it."""

    name: str
    file: str
    old: str
    new: str
    claim: str


MUTATIONS = (
    Mutation(
        "sd-offset",
        "gsjax/dual/problem.py",
        "basis, basis @ centre, centre",
        "basis, -7 * (basis @ centre), centre",
        "sd-by-class",
    ),
    Mutation(
        "one-strength-for-all",
        "gsjax/objectives.py",
        "jnp.broadcast_to(jnp.asarray(penalty.strength, dtype), (n,))",
        "jnp.broadcast_to(jnp.mean(jnp.asarray(penalty.strength, dtype)), (n,))",
        "sd-by-class",
    ),
    Mutation("gamma-relu", "gsjax/networks/ntk.py", '{"relu": 2.0,', '{"relu": 3.0,', "eq1-norm"),
    Mutation(
        "information-nats",
        "gsjax/probes/information.py",
        "return jax.nn.log_softmax(logits) / np.log(2)",
        "return jax.nn.log_softmax(logits)",
        "information-estimate",
    ),
    Mutation(
        "margin-of-zero",
        "gsjax/methods/terms.py",
        "jax.nn.relu(1 - margins) if loss",
        "jax.nn.relu(-margins) if loss",
        "contamination-gradient",
    ),
    Mutation(
        "one-sign-of-outputs",
        "gsjax/networks/two_layer.py",
        "jnp.where(jnp.arange(width) < width // 2, 1.0, -1.0)",
        "jnp.where(jnp.arange(width) < width // 2, 1.0, 1.0)",
        "contamination-gradient",
    ),
    Mutation(
        "shift-forgotten", "gsjax/data/structured.py", "z_background = -z_background", "pass", "contamination-shift"
    ),
    Mutation(
        "rates-exchanged",
        "gsjax/probes/contamination.py",
        "jnp.where(up, negative, positive)",
        "jnp.where(up, positive, negative)",
        "contamination-asymmetry-dimension",
    ),
    Mutation("flow-clock", "gsjax/dual/primal.py", "return rate * (gain", "return 5 * rate * (gain", "flow-in-time"),
    Mutation("flow-decay", "gsjax/dual/primal.py", "- decay * scaled)", "- 2 * decay * scaled)", "flow-in-time"),
    Mutation("flow-target", "gsjax/dual/primal.py", "(margins - y * target)", "(margins - target)", "flow-in-time"),
    Mutation(
        "mlp-width",
        "gsjax/networks/ntk.py",
        "math.sqrt(gamma(self.activation) / width)",
        "math.sqrt(gamma(self.activation)) / width",
        "eq1-norm",
    ),
    Mutation(
        "mlp-input", "gsjax/networks/ntk.py", "x.reshape(-1, d0) / math.sqrt(d0)", "x.reshape(-1, d0)", "eq1-norm"
    ),
    Mutation(
        "curvature",
        "gsjax/dual/links.py",
        "return jax.nn.sigmoid(-m) * jax.nn.sigmoid(m)",
        "return jax.nn.sigmoid(-m)",
        "starvation-matrix",
    ),
    Mutation(
        "reaction",
        "gsjax/starvation/definition.py",
        "gram = feats.u.T @ (curvature",
        "gram = 2 * feats.u.T @ (curvature",
        "starvation-matrix",
    ),
    Mutation(
        "strength-inverted",
        "gsjax/starvation/definition.py",
        "identity + solved) * (pull / strength)",
        "identity + solved) * (pull * strength)",
        "starvation-matrix",
    ),
    Mutation(
        "not-oriented",
        "gsjax/starvation/definition.py",
        "jnp.where(response < 0, -1, 1)",
        "jnp.ones_like(response)",
        "starvation-mutual",
    ),
    Mutation(
        "lambda-alone",
        "gsjax/dual/closed_form.py",
        "x = s2 / strength + 1\n    return",
        "x = s2 / strength\n    return",
        "eq13-permutation",
    ),
    Mutation("lemma1-constant", "gsjax/dual/closed_form.py", "1 - jnp.log(start))", "-jnp.log(start))", "lemma1"),
    Mutation("theorem2-factor", "gsjax/dual/closed_form.py", "* (1 - ratio)", "* (1 + ratio)", "theorem2-slope"),
    Mutation(
        "ridge-half", "gsjax/objectives.py", "penalty.strength / 2 *", "penalty.strength *", "eq7-8-strong-duality"
    ),
    Mutation("sd-half", "gsjax/objectives.py", "jnp.sum(strength / 2 *", "jnp.sum(strength *", "eq18-margins"),
    Mutation(
        "whitened-by-lambda",
        "gsjax/dual/problem.py",
        "s / jnp.sqrt(jnp.asarray(penalty.strength, dtype))",
        "s / jnp.asarray(penalty.strength, dtype)",
        "eq11-responses",
    ),
    Mutation(
        "dual-half",
        "gsjax/dual/problem.py",
        "jnp.sum((problem.basis.T @ alpha) ** 2) / 2",
        "jnp.sum((problem.basis.T @ alpha) ** 2)",
        "eq17-strong-duality",
    ),
    Mutation(
        "field-sign",
        "gsjax/dual/problem.py",
        "link.margin(link.coordinate(alpha)) - problem",
        "link.margin(link.coordinate(alpha)) + problem",
        "eq9-gradient",
    ),
    Mutation(
        "labels-forgotten",
        "gsjax/features/decomposition.py",
        "return (feats.y * logits) @",
        "return logits @",
        "eq4-responses",
    ),
    Mutation(
        "trajectory-by-s",
        "gsjax/starvation/trajectory.py",
        "jax.jacfwd(responses, has_aux=True)(feats.s2)",
        "jax.jacfwd(lambda s: responses(s**2), has_aux=True)(feats.s)",
        "trajectory-limit",
    ),
    Mutation(
        "softmax-not-centred",
        "gsjax/multiclass/softmax.py",
        "(rows - means[:, None])",
        "(rows - 0 * means[:, None])",
        "multiclass-starvation",
    ),
)


def plant(mutation: Mutation | None, folder: Path) -> None:
    """Copies the sources into `folder` and plants the error.

    Raises:
        ValueError: the text to be replaced does not occur exactly once in the file.
    """
    # The copies keep the times of their files, so that Python takes the bytecode of all files but the changed one.
    for package in ("gsjax", "theory", "experiments"):
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("records", "*.pyc.*"), dirs_exist_ok=True
        )
    if mutation is not None:
        path = folder / mutation.file
        text = path.read_text(encoding="utf-8")
        if (count := text.count(mutation.old)) != 1:
            raise ValueError(
                f"{mutation.name}: expected {mutation.old!r} once in {mutation.file}, got it {count} times"
            )
        path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")


_CHECK = """
import json, pathlib, sys, jax, theory
from theory.claim import holds
found = theory.claims()
with jax.enable_x64(True):
    failed = [name for name in sys.argv[1:] or found if not holds(found[name][1])]
pathlib.Path("failed.json").write_text(json.dumps(failed), encoding="utf-8")
"""


def noticing_claims(mutation: Mutation | None, only: Sequence[str] = (), *, cache: Path | None = None) -> list[str]:
    """The claims, of those in `only` or of all, that do not hold on a copy with the error; None plants no error.

    Controls are not run. In the folder `cache` compiled programs are kept for further runs, most of which share them.

    Raises:
        RuntimeError: the run on the copy ends before every requested claim has a verdict.
    """
    with tempfile.TemporaryDirectory() as folder:
        plant(mutation, Path(folder))
        env = os.environ | {"PYTHONPATH": folder, "OPENBLAS_NUM_THREADS": "1"}
        if cache is not None:
            env |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        command = [sys.executable, "-c", _CHECK, *only]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{mutation.name if mutation else 'no error'}: {done.stderr.strip()[-500:]}")
        return json.loads((Path(folder) / "failed.json").read_text(encoding="utf-8"))
