"""A first use of the installed package, from a folder that is not the checkout: `python .ci/smoke.py SCRIPT`.

SCRIPT is the command `gsjax` that was installed with it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np

NETS = """
import equinox as eqx
import flax.linen as nn
import jax
from flax import nnx

class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.relu(nn.Dense(16)(x)))

def build():
    return Net()

def of_nnx():
    return nnx.Linear(5, 1, rngs=nnx.Rngs(0))

def of_equinox():
    return eqx.nn.MLP(5, "scalar", 8, 1, key=jax.random.key(0))
"""


def imports() -> None:
    """Every module of gsjax is imported, and nothing else of the repository is there."""
    import gsjax

    assert str(gsjax.__file__).startswith(sys.prefix), f"imported from {gsjax.__file__}"
    assert not importlib.util.find_spec("theory"), "more than gsjax"
    assert not importlib.util.find_spec("experiments"), "more than gsjax"
    names = [module.name for module in pkgutil.walk_packages(gsjax.__path__, "gsjax.")]
    for name in names:
        importlib.import_module(name)
    print(f"imported gsjax {gsjax.__version__} and its {len(names)} modules")


def library() -> None:
    """The lines of the README on a small network: kernel, features, equilibrium, starvation."""
    import jax

    from gsjax import Ridge, data, dual, features, networks, starvation, tangent

    with jax.enable_x64(True):
        x, y = data.digits((3, 8), n=20)
        network = networks.MLP((32,))
        params = network.init(jax.random.key(0), x)
        kernel = tangent.ntk(network.apply, params, x)
        phi = tangent.ntrf(network.apply, params, x)
        np.testing.assert_allclose(kernel, phi @ phi.T, rtol=1e-9)
        feats = features.from_ntk(kernel, y)
        optimum = dual.equilibrium(feats, Ridge(0.1))
        assert optimum.converged
        np.testing.assert_allclose(feats.u.T @ optimum.margins, optimum.response, rtol=1e-6, atol=1e-9)
        share = float(starvation.share(feats, Ridge(0.1)))
        assert 0 < share < 1
    print(f"kernel, features, equilibrium; {share:.0%} of the pairs starve")


def command(script: str) -> None:
    """Parameters in three formats, networks of three frameworks, and `gsjax diagnose` of one of them."""
    import jax
    import orbax.checkpoint as ocp
    import safetensors.flax
    from flax import serialization, traverse_util

    from gsjax.cli import checkpoints, models

    random = np.random.default_rng(0)
    y = np.arange(24) % 2
    x = (random.normal(size=(24, 5)) + 2 * y[:, None]).astype(np.float32)
    np.savez("data.npz", x=x, y=y, group=random.integers(0, 2, 24))
    Path("nets.py").write_text(NETS)
    sys.path.insert(0, "")
    network = importlib.import_module("nets").build()
    params = network.init(jax.random.key(3), x)
    safetensors.flax.save_file(traverse_util.flatten_dict(params, sep="."), "params.safetensors")
    Path("params.msgpack").write_bytes(serialization.to_bytes(params))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path("params").absolute(), params)

    for path in ("params.safetensors", "params.msgpack", "params"):
        jax.tree.map(np.testing.assert_array_equal, checkpoints.load(path, params).params, params)

    for name in ("of_nnx", "of_equinox"):
        built, outputs = models.one_output(models.load(f"nets:{name}", x), x, "nets")
        assert outputs is None
        assert built.apply_fn(built.params, x).shape == (24,)

    call = [script, "diagnose", "--model", "nets:build", "--data", "data.npz", "--params", "params", "--top", "4"]
    subprocess.run([*call, "--json", "report.json", "--out", "page.html"], check=True, stdout=subprocess.PIPE)
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert report["command"]["params"] == "params"
    assert len(report["strengths"]) == 4
    assert min(report["strengths"]) > 0
    assert "</html>" in Path("page.html").read_text(encoding="utf-8")

    refused = subprocess.run([*call, "--params", "data.npz"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2, refused
    assert refused.stderr.splitlines()[-1].startswith("gsjax: --params: data.npz: "), refused.stderr
    print("gsjax diagnose; networks of three frameworks, parameters of three formats")


if __name__ == "__main__":
    imports()
    library()
    command(sys.argv[1])
