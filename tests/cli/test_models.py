"""The network that the user names: every framework gives outputs and parameters as it does by itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import tangent
from gsjax.cli import models

SOURCE = '''
import equinox as eqx, flax.linen as nn, jax, jax.numpy as jnp
from flax import nnx

class Linen(nn.Module):
    """Two outputs of the same number."""
    outputs: int = 1

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.outputs)(nn.BatchNorm(use_running_average=True)(nn.Dense(4)(x)))

class Nnx(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.hidden, self.out = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(self.norm(self.hidden(x))))[:, 0]

class Dropped(eqx.Module):
    mlp: eqx.nn.MLP
    dropout: eqx.nn.Dropout

    def __call__(self, x):
        return self.mlp(self.dropout(x))

def linen():
    return Linen()

def equinox():
    return Dropped(eqx.nn.MLP(3, "scalar", 4, 1, key=jax.random.key(1)), eqx.nn.Dropout(0.5))

def pair():
    return (lambda params, x: x @ params["w"]), {"w": jnp.arange(3.0)}

class Space:
    pair = staticmethod(pair)

made = Linen()
three = Linen(3)
number = 3
nothing = lambda: None
triple = lambda: (1, 2, 3)
functions = lambda: (pair, pair)
outputs = lambda: ((lambda params, x: (x, x)), {"w": jnp.ones(1)})
turned = lambda: ((lambda params, x: (x @ params["w"])[None]), {"w": jnp.ones(3)})

def raises():
    raise KeyError("key of mine")

def exits():
    raise SystemExit("bye")

def inside():
    def apply_fn(params, x):
        raise TypeError("of the network")
    return apply_fn, {"w": jnp.ones(1)}
'''
X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def _modules(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    (folder / "nets_of_mine.py").write_text(SOURCE)
    (folder / "broken_of_mine.py").write_text("import jax\n\n1 / 0\n")
    (folder / "wanting_of_mine.py").write_text("import package_that_is_absent\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with models.here():
            yield


def load(name: str) -> models.Network:
    return models.load(f"nets_of_mine:{name}", X)


def outputs(name: str):
    network, k = models.one_output(load(name), X, "nets_of_mine")
    return network.apply_fn(network.params, X), k


def namespace():
    import nets_of_mine  # pyright: ignore[reportMissingImports]

    return nets_of_mine


@pytest.mark.parametrize("name", ["linen", "Linen", "made"])
def test_a_linen_module_its_class_or_a_function(name):
    network = load(name)
    expected = namespace().Linen().init(jax.random.key(0), X)
    jax.tree.map(np.testing.assert_array_equal, network.params, expected)
    assert network.notes == ("model: Linen of flax.linen, initialised with seed 0",)
    other = models.load(f"nets_of_mine:{name}", X, seed=1).params
    kernels = (tree["params"]["Dense_0"]["kernel"] for tree in (other, expected))
    assert not np.array_equal(*kernels)
    found, k = outputs(name)
    assert k is None
    np.testing.assert_array_equal(found, namespace().Linen().apply(expected, X)[:, 0])


def test_one_output_is_said_and_its_kernel_is_that_of_the_collection_params():
    network, _ = models.one_output(load("linen"), X, "nets_of_mine")
    assert network.notes[-1] == "model: the one output (n, 1) is taken as (n,)"
    kernel = tangent.ntk(network.apply_fn, network.params, jnp.asarray(X))
    own = namespace().Linen()
    np.testing.assert_allclose(kernel, tangent.ntk(own.apply, network.params, jnp.asarray(X))[:, :, 0, 0], rtol=1e-6)


def test_outputs_of_classes():
    found, k = outputs("three")
    assert (found.shape, k) == ((5, 3), 3)


def test_an_nnx_module_is_in_evaluation_mode():
    model = namespace().Nnx()
    expected = model.out(model.norm(model.hidden(X), use_running_average=True))[:, 0]
    network = load("Nnx")
    np.testing.assert_allclose(network.apply_fn(network.params, X), expected, rtol=1e-6)
    assert len(jax.tree.leaves(network.params)) == 6  # without the running statistics and the key of the dropout
    assert network.notes[1] == "model: its variables BatchStat stay as they were built, also for --trained"
    tangent.ntk(network.apply_fn, network.params, jnp.asarray(X))


def test_an_equinox_module_takes_one_example_in_inference_mode():
    model = namespace().equinox()
    network = load("equinox")
    expected = jnp.stack([model.mlp(x) for x in X])
    np.testing.assert_allclose(network.apply_fn(network.params, X), expected, rtol=1e-6)
    assert "in inference mode, called for one example at a time" in network.notes[0]
    tangent.ntk(network.apply_fn, network.params, jnp.asarray(X))


@pytest.mark.parametrize("name", ["pair", "Space.pair"])
def test_a_pair_is_taken_as_it_is(name):
    found, k = outputs(name)
    np.testing.assert_allclose(found, X @ np.arange(3.0), rtol=1e-6)
    assert k is None


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("nets_of_mine", "--model: expected MODULE:NAME, such as nets:build, got 'nets_of_mine'$"),
        (":linen", "expected MODULE:NAME"),
        ("nets_of_mine.py:linen", r"expected the name of a module, nets_of_mine:linen, got the file nets_of_mine\.py$"),
        ("lib/nets.py:linen", r"the name of a module, lib\.nets:linen, got the file lib/nets\.py$"),
        ("nets_of_yours:linen", r"there is no module nets_of_yours in .* or among the installed packages$"),
        ("nets_of_mine.sub:linen", r"there is no module nets_of_mine\.sub in "),
        ("nets_of_mine:linnen", "the module nets_of_mine has no linnen$"),
        ("nets_of_mine:Space.other", r"the module nets_of_mine has no Space\.other$"),
        ("nets_of_mine:nothing", r"expected \(apply_fn, params\), or a module of .*, got NoneType$"),
        ("nets_of_mine:number", "got int$"),
        ("nets_of_mine:triple", "got a tuple of 3$"),
        ("nets_of_mine:functions", r"got two functions: .* \(transformed\.apply, transformed\.init\(key, x\)\)$"),
    ],
)
def test_what_is_no_network_is_refused(spec, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        models.load(spec, X)
    assert not isinstance(error.value, models.Failure)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (
            "nets_of_mine:raises",
            r"nets_of_mine:raises raised KeyError: 'key of mine' \(line \d+ of .*mine\.py\)$",
        ),
        ("nets_of_mine:exits", "nets_of_mine:exits raised SystemExit: bye "),
        ("broken_of_mine:linen", "importing broken_of_mine raised ZeroDivisionError: division by zero$"),
        ("wanting_of_mine:linen", "importing wanting_of_mine raised ModuleNotFoundError: .*'package_that_is_absent'$"),
    ],
)
def test_an_exception_of_the_user_is_named(spec, complaint):
    with pytest.raises(models.Failure, match=f"^--model: {complaint}"):
        models.load(spec, X)


def test_outputs_of_another_form_are_refused():
    with pytest.raises(models.Failure, match=r"apply_fn\(params, x\) raised TypeError: of the network \(line \d+ of "):
        outputs("inside")
    with pytest.raises(ValueError, match=r"--model: expected outputs in one array, got tuple$"):
        outputs("outputs")
    with pytest.raises(ValueError, match=r"--model: expected outputs \(5,\) or \(5, k\), got shape \(1, 5\)$"):
        outputs("turned")


def test_the_current_folder_is_importable_only_within_the_context(tmp_path, monkeypatch):
    import sys

    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with models.here():
        assert sys.path[0] == str(tmp_path)
    assert sys.path == before
