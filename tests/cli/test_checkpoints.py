"""Parameters of every framework come back from every format; what is damaged, or may hold a pickle, is refused."""

from __future__ import annotations

import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.flax
from flax import nnx, serialization

from gsjax.cli import checkpoints


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.BatchNorm(use_running_average=True)(nn.Dense(3)(x)))[:, 0]


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 1, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


class Layer(NamedTuple):
    weight: Any
    bias: Any


def tree(framework: str) -> Any:
    if framework == "flax.linen":
        return Linen().init(jax.random.key(0), jnp.zeros((1, 2)))
    if framework == "flax.nnx":
        return nnx.split(Nnx(nnx.Rngs(0)), nnx.Param, ...)[1]
    if framework == "Equinox":  # its leaves that are not arrays are None
        return eqx.partition(eqx.nn.MLP(2, "scalar", 3, 1, key=jax.random.key(0)), eqx.is_inexact_array)[0]
    half = jnp.array([0.1, -3.0], jnp.bfloat16)
    return [(jnp.eye(2), jnp.zeros(2)), {"a": Layer(jnp.ones((2, 1)), half)}, [jnp.array(3), jnp.array(True)]]


FRAMEWORKS = ("flax.linen", "flax.nnx", "Equinox", "plain JAX")


def marked(params: Any) -> Any:
    """Parameters of the same structure, in which every number is another."""
    leaves, structure = jax.tree.flatten(params)
    random = np.random.default_rng(0)

    def other(leaf):
        kept = not jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf if kept else jnp.asarray(random.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.unflatten(structure, [other(leaf) for leaf in leaves])


def named(params: Any, separator: str = ".") -> dict[str, Any]:
    paths = jax.tree.leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator=separator): leaf for path, leaf in paths}


def save(params: Any, path: Path, kind: str) -> Path:
    if kind == "safetensors":
        safetensors.flax.save_file(named(params), path)
    elif kind == "msgpack":
        plain = nnx.to_pure_dict(params) if isinstance(params, nnx.State) else params
        state = named(plain, "/") if isinstance(params, eqx.Module) else plain
        path.write_bytes(serialization.to_bytes(state))
    elif kind == "orbax":
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path.absolute(), params)
    else:
        checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False))
        checkpointer.save(path.absolute(), params)
    return path


def assert_equal(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(ours, jax.Array)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["safetensors", "msgpack", "orbax", "orbax without ocdbt"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_parameters_come_back(framework, kind, tmp_path, capfd):
    template = tree(framework)
    params = marked(template)
    path = save(params, tmp_path / "saved", kind)
    capfd.readouterr()
    loaded = checkpoints.load(path, template)
    assert_equal(loaded.params, params)
    assert f"params: {len(jax.tree.leaves(params))} arrays from {path}" in loaded.notes[0]
    assert len(loaded.notes) == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("separator", [".", "/"])
def test_names_may_have_either_separator(separator, tmp_path):
    params = marked(tree("flax.linen"))
    safetensors.flax.save_file(named(params, separator), tmp_path / "saved")
    assert_equal(checkpoints.load(tmp_path / "saved", params).params, params)
    assert set(checkpoints.read(tmp_path / "saved")) == set(checkpoints.names(params))


def test_the_collection_params_may_be_the_whole_file_or_the_whole_template(tmp_path):
    inside = {"Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.arange(3.0)}}
    save(inside, tmp_path / "inside", "safetensors")
    save({"params": inside}, tmp_path / "variables", "safetensors")
    for name in ("inside", "variables"):
        assert_equal(checkpoints.load(tmp_path / name, inside).params, inside)
        assert_equal(checkpoints.load(tmp_path / name, {"params": inside}).params, {"params": inside})


def test_of_a_training_state_the_parameters_are_taken(tmp_path):
    params = {"Dense_0": {"kernel": jnp.ones((2, 3))}}
    state = {"params": params, "opt_state": [{"mu": params}], "step": 3}
    save(state, tmp_path / "saved", "msgpack")
    loaded = checkpoints.load(tmp_path / "saved", {"params": params}, name="--trained")
    assert_equal(loaded.params, {"params": params})
    assert loaded.notes[1] == "--trained: left out opt_state, step, the rest of a training state"
    with pytest.raises(ValueError, match=r"unexpected ema_params\.Dense_0\.kernel"):
        checkpoints.load(save({**state, "ema_params": params}, tmp_path / "more", "msgpack"), params)


def test_a_typed_key_is_taken_from_the_template(tmp_path):
    template = {"w": jnp.zeros(2), "key": jax.random.key(7)}
    save({"w": jnp.ones(2)}, tmp_path / "saved", "safetensors")
    found = checkpoints.load(tmp_path / "saved", template).params
    assert found["key"] is template["key"]
    np.testing.assert_array_equal(found["w"], [1, 1])


def test_numbers_take_the_dtype_of_the_template_and_that_is_said(tmp_path, x64):
    wide = np.array([0.1, 1.0])
    path = tmp_path / "saved"
    path.write_bytes(serialization.to_bytes({"w": wide, "v": wide.astype(np.float32)}))
    loaded = checkpoints.load(path, {"w": jnp.zeros(2, x64), "v": jnp.zeros(2, x64)})
    narrow = x64 == jnp.float32
    np.testing.assert_array_equal(loaded.params["w"], wide.astype(x64))
    np.testing.assert_array_equal(loaded.params["v"], wide.astype(np.float32))
    assert {leaf.dtype for leaf in loaded.params.values()} == {jnp.dtype(x64)}
    cast = "float64 to float32" if narrow else "float32 to float64"
    assert loaded.notes[1:] == (f"params: 1 of 2 arrays converted from {cast}",)


def test_the_last_step_of_a_checkpoint_manager_is_taken(tmp_path):
    params = {"w": jnp.arange(3.0)}
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        for step in (3, 20):
            manager.save(step, args=ocp.args.StandardSave(jax.tree.map(lambda leaf, step=step: leaf * step, params)))
        manager.wait_until_finished()
    (tmp_path / "run" / "100.orbax-checkpoint-tmp-1" / "default").mkdir(parents=True)  # of a run that was killed
    for folder, factor in (("run", 20), ("run/20", 20), ("run/3", 3), ("run/3/default", 3)):
        loaded = checkpoints.load(tmp_path / folder, params)
        np.testing.assert_array_equal(loaded.params["w"], factor * params["w"])
        assert str(tmp_path / "run" / str(factor) / "default") in loaded.notes[0]


def test_of_several_trees_one_has_to_be_named(tmp_path):
    params = {"w": jnp.arange(3.0)}
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        both = ocp.args.Composite(ema=ocp.args.StandardSave(params), params=ocp.args.StandardSave(params))
        manager.save(1, args=both)
        manager.wait_until_finished()
    with pytest.raises(ValueError, match=r"holds several trees of arrays; name one of .*1/ema, .*1/params$"):
        checkpoints.load(tmp_path / "run", params)
    np.testing.assert_array_equal(checkpoints.load(tmp_path / "run" / "1" / "ema", params).params["w"], params["w"])


@pytest.mark.slow  # another process, which simulates two devices
def test_arrays_that_were_on_other_devices_come_to_this_one(tmp_path):
    code = f"""
import jax, jax.numpy as jnp, orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
rows = NamedSharding(Mesh(jax.devices(), ("rows",)), PartitionSpec("rows"))
params = {{"w": jax.device_put(jnp.arange(8.0).reshape(4, 2), rows)}}
assert len(params["w"].devices()) == 2
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save({str(tmp_path / "saved")!r}, params)
"""
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    found = checkpoints.load(tmp_path / "saved", {"w": jnp.zeros((4, 2))}).params["w"]
    np.testing.assert_array_equal(found, jnp.arange(8.0).reshape(4, 2))
    assert found.devices() == {jax.devices()[0]}


NET = {"a": jnp.ones((2, 3)), "b": {"c": jnp.zeros(3), "steps": jnp.array(3)}}


@pytest.mark.parametrize("kind", ["safetensors", "msgpack", "orbax"])
@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        ({"a": NET["a"]}, r"not the parameters of this network: missing b\.c, b\.steps$"),
        ({**NET, "d": jnp.ones(1)}, r"not the parameters of this network: unexpected d$"),
        ({"A": NET["a"], "b": NET["b"]}, r": missing a; unexpected A$"),
        ({**NET, "a": jnp.ones((3, 2))}, r"a has shape \(3, 2\) instead of \(2, 3\)$"),
        ({**NET, "a": jnp.ones(6)}, r"a has shape \(6,\) instead of \(2, 3\)$"),
        ({**NET, "a": jnp.ones((2, 3), jnp.int32)}, r"a holds int32 instead of float32$"),
        ({**NET, "b": {"c": NET["b"]["c"], "steps": jnp.array(0.5)}}, r"b\.steps holds float32 instead of int32$"),
        ({f"w{i}": jnp.ones(1) for i in range(9)}, r"unexpected w0, w1, w2, w3, w4, and 4 more$"),
    ],
)
def test_another_network_is_refused(kind, other, complaint, tmp_path):
    path = save(other, tmp_path / "saved", kind)
    with pytest.raises(ValueError, match=f"^--params: {re.escape(str(path))}: ") as error:
        checkpoints.load(path, NET, name="--params")
    assert re.search(complaint, str(error.value))


@pytest.mark.parametrize("kind", ["safetensors", "msgpack"])
def test_a_truncated_file_is_refused_wherever_it_ends(kind, tmp_path):
    content = save(marked(tree("flax.linen")), tmp_path / "saved", kind).read_bytes()
    path = tmp_path / "cut"
    for size in {*range(20), *range(20, len(content), 37), len(content) - 1}:
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=f"^params: {re.escape(str(path))}: "):
            checkpoints.load(path, tree("flax.linen"))
    path.write_bytes(content + b"more")
    with pytest.raises(ValueError, match="damaged or incomplete"):
        checkpoints.load(path, tree("flax.linen"))


def test_a_folder_without_part_of_its_numbers_is_refused(tmp_path, capfd):
    whole = save(NET, tmp_path / "saved", "orbax without ocdbt")
    (whole / "a" / "0.0").unlink()
    capfd.readouterr()
    with pytest.raises(ValueError, match=r"damaged or incomplete orbax checkpoint \("):
        checkpoints.load(whole, NET)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["orbax", "orbax without ocdbt"])
def test_a_damaged_folder_is_refused_or_was_not_needed(kind, tmp_path, capfd):
    """Every file is removed, cut and emptied in turn: never other numbers, and nothing on standard error."""
    template = {"a": jnp.zeros((2, 3)), "b": [jnp.zeros(3)]}
    params = marked(template)
    whole = save(params, tmp_path / "whole", kind)
    refused = {}
    capfd.readouterr()
    for file in sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file()):
        for damage in ("removed", "cut", "empty"):
            copy = tmp_path / "copy"
            shutil.copytree(whole, copy)
            content = (copy / file).read_bytes()
            if damage == "removed":
                (copy / file).unlink()
            else:
                (copy / file).write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
            try:
                found = checkpoints.load(copy, template).params
            except ValueError as error:
                refused[file.parts[0], damage] = str(error)
            else:
                assert_equal(found, params)
            shutil.rmtree(copy)
    assert {("_METADATA", damage) for damage in ("removed", "cut", "empty")} <= refused.keys()
    assert all(told.startswith(f"params: {tmp_path / 'copy'}: ") for told in refused.values())
    data = {name for name, _ in refused}
    assert data >= ({"manifest.ocdbt", "d"} if "without" not in kind else {"a", "b.0"})
    assert capfd.readouterr().err == ""


class Exploit:
    """Unpickling it fails the test."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


def test_pickles_are_refused_and_never_opened(tmp_path):
    """Also by their protocol alone, in a file with any name, and inside of NumPy's files."""
    advice = "safetensors.flax.save_file"
    cases = [(f"{name}{protocol}", pickle.dumps(Exploit(), protocol)) for name in ("p",) for protocol in range(2, 6)]
    cases += [("model.pkl", pickle.dumps(Exploit(), 0)), ("weights.PT", b"anything")]
    for name, content in cases:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a pickle can run any code, and is never opened") as error:
            checkpoints.load(path, NET)
        assert advice in str(error.value)
    np.save(tmp_path / "array.npy", np.array([Exploit()], object), allow_pickle=True)
    np.savez(tmp_path / "arrays.npz", a=np.array([Exploit()], object))
    for name in ("array.npy", "arrays.npz"):
        with pytest.raises(ValueError, match="may hold pickles") as error:
            checkpoints.load(tmp_path / name, NET)
        assert advice in str(error.value)
    (tmp_path / "plain").write_bytes(pickle.dumps(Exploit(), 0))
    with pytest.raises(ValueError, match="expected safetensors, flax msgpack, or a folder of orbax, got"):
        checkpoints.load(tmp_path / "plain", NET)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "got an empty file$"),
        (b"hello, world", "got 12 bytes of another kind$"),
        (b"\x89HDF\r\n\x1a\n....", "a file of HDF5 is not read"),
        (b"\x1f\x8b....", "a file of gzip is not read"),
        (serialization.to_bytes({"w": "text"}), "expected arrays of numbers, got str at w$"),
        (serialization.msgpack_serialize({"a.b": np.ones(1), "a": {"b": np.ones(1)}}), "two arrays are called 'a.b'$"),
        (safetensors.flax.save({}), "expected arrays, got none$"),
    ],
)
def test_other_content_is_refused(content, complaint, tmp_path):
    path = tmp_path / "saved"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        checkpoints.load(path, NET)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "checkpoint_3").mkdir()
    (tmp_path / "checkpoint_3" / "checkpoint").write_bytes(serialization.to_bytes(NET))
    with pytest.raises(ValueError, match="expected a checkpoint of orbax, got a folder without _METADATA"):
        checkpoints.load(tmp_path, NET)
    with pytest.raises(FileNotFoundError):
        checkpoints.load(tmp_path / "absent", NET)


def test_two_leaves_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"tree: expected leaves of different names, got two that are called 'a\.b'"):
        checkpoints.names({"a.b": 1.0, "a": {"b": 2.0}})
