"""Kernels in blocks: caches, interruptions, compilation, devices, and refused arguments."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.networks import MLP
from gsjax.tangent import blocks, ntk, ntk_operator, ntrf
from gsjax.tangent.blocks import grid
from gsjax.tangent.cache import Blocks

from .architectures import CASES, BatchNorm, Dropout


@pytest.fixture(scope="module")
def problem():
    network = MLP((8, 6), 2)
    x = jax.random.normal(jax.random.key(0), (11, 3))
    return network.apply, jax.jit(network.init)(jax.random.key(1), x), x


@pytest.mark.parametrize("n", [1, 2, 5, 12, 13])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_blocks_cover_everything_and_fit(n, batch_size):
    for m in (None, 7):
        cut = grid(n, m, batch_size)
        covered = np.zeros((n, n if m is None else m), int)
        for i, j in cut.pairs():
            assert 0 <= i <= n - cut.size
            assert cut.size <= batch_size
            covered[i : i + cut.size, j : j + cut.width] += 1
        assert (covered if m else np.triu(covered) + np.tril(np.ones((n, n)), -1)).all()


class Interrupted(Exception):
    pass


def test_cached_blocks_are_not_computed_again(problem, tmp_path, monkeypatch):
    expected = np.asarray(ntk(*problem, batch_size=3, cache=tmp_path / "whole"))
    save, saved = Blocks.save, []

    def record(self, i, j, block):
        save(self, i, j, block)
        saved.append((i, j))
        if len(saved) == 4:
            raise Interrupted

    monkeypatch.setattr(Blocks, "save", record)
    with pytest.raises(Interrupted):
        ntk(*problem, batch_size=3, cache=tmp_path / "part")
    kernel = np.asarray(ntk(*problem, batch_size=3, cache=tmp_path / "part"))
    np.testing.assert_array_equal(kernel, expected)
    assert len(saved) == len(set(saved)) == len(grid(11, None, 3).pairs())
    ntk(*problem, batch_size=3, cache=tmp_path / "part")
    assert len(saved) == len(set(saved))


@pytest.mark.slow
def test_killed_and_started_again(tmp_path):
    """A real SIGKILL: blocks that were written before it are kept unchanged."""
    script = textwrap.dedent("""
        import sys, time, jax, numpy as np
        from gsjax.networks import MLP
        from gsjax.tangent import cache, ntk
        save = cache.Blocks.save
        cache.Blocks.save = lambda *args: (save(*args), time.sleep(0.05))
        x = jax.random.normal(jax.random.key(0), (12, 3))
        network = MLP((4,))
        np.save(sys.argv[2], ntk(network.apply, network.init(jax.random.key(1), x), x, batch_size=2, cache=sys.argv[1]))
    """)
    folder, result = tmp_path / "blocks", tmp_path / "kernel.npy"

    def blocks():
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("block-*.npy")}

    with subprocess.Popen([sys.executable, "-c", script, folder, result]) as process:
        deadline = time.monotonic() + 60
        while len(blocks()) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    before = blocks()
    assert 3 <= len(before) < 21
    subprocess.run([sys.executable, "-c", script, folder, result], check=True)
    assert before.items() <= blocks().items()

    x = jax.random.normal(jax.random.key(0), (12, 3))
    network = MLP((4,))
    expected = ntk(network.apply, network.init(jax.random.key(1), x), x)
    np.testing.assert_allclose(np.load(result), expected, rtol=1e-5, atol=1e-6)


def test_a_cache_of_another_kernel_is_refused(problem, tmp_path):
    apply_fn, params, x = problem
    ntk(apply_fn, params, x, batch_size=6, cache=tmp_path)
    other = jax.tree.map(lambda leaf: leaf.at[0].add(1e-3), params)
    for call in (
        lambda: ntk(apply_fn, other, x, batch_size=6, cache=tmp_path),
        lambda: ntk(apply_fn, params, x + 1e-3, batch_size=6, cache=tmp_path),
        lambda: ntk(apply_fn, params, x, x, batch_size=6, cache=tmp_path),
        lambda: ntk(apply_fn, params, x, batch_size=4, cache=tmp_path),
        lambda: ntk(apply_fn, params, x, batch_size=6, method="jacobian", cache=tmp_path),
        lambda: ntk(lambda p, x: 2 * apply_fn(p, x), params, x, batch_size=6, cache=tmp_path),
    ):
        with pytest.raises(ValueError, match=r"^cache: expected blocks of this kernel"):
            call()


BLOCK = np.arange(6, dtype=np.float32).reshape(2, 3)


def load(folder, shape=(2, 3), dtype=np.float32, fingerprint="kernel"):
    return Blocks(folder, fingerprint).load(0, 0, jax.ShapeDtypeStruct(shape, dtype))


def as_saved(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def test_a_block_is_read_as_it_was_written(tmp_path):
    assert load(tmp_path) is None
    Blocks(tmp_path, "kernel").save(0, 0, BLOCK)
    np.testing.assert_array_equal(load(tmp_path), BLOCK, strict=True)
    np.testing.assert_array_equal(np.load(tmp_path / "block-0-0.npy"), BLOCK)  # NumPy's format, as its name says


@pytest.mark.parametrize(
    "damage",
    [
        lambda block, other: block[:100],
        lambda block, other: block[:-1],
        lambda block, other: block + b"0",
        lambda block, other: b"",
        lambda block, other: block[:-20] + bytes([block[-20] ^ 1]) + block[-19:],  # a bit of the last number
        lambda block, other: other,
        lambda block, other: as_saved(BLOCK),
        lambda block, other: as_saved(np.zeros((3, 3))),
    ],
)
def test_damaged_blocks_are_named(tmp_path, damage):
    blocks, path = Blocks(tmp_path, "kernel"), tmp_path / "block-0-0.npy"
    blocks.save(0, 0, BLOCK)
    blocks.save(0, 3, BLOCK)
    path.write_bytes(damage(path.read_bytes(), (tmp_path / "block-0-3.npy").read_bytes()))
    with pytest.raises(ValueError, match=r"^cache: .*block-0-0.npy is damaged .*delete it"):
        load(tmp_path)


def test_blocks_of_another_kernel_shape_or_type_are_refused(tmp_path):
    Blocks(tmp_path, "kernel").save(0, 0, BLOCK)
    for shape, dtype in [((3, 2), np.float32), ((6,), np.float32), ((2, 3), np.float64)]:
        with pytest.raises(ValueError, match=r"^cache: .*block-0-0.npy is damaged \(expected .*got float32\[2, 3\]"):
            load(tmp_path, shape, dtype)
    (tmp_path / "kernel.json").write_text('{"fingerprint": "other"}')  # as if two had begun in the same folder at once
    with pytest.raises(ValueError, match=r"^cache: .*block-0-0.npy is damaged"):
        load(tmp_path, fingerprint="other")


@pytest.mark.parametrize(
    "content", ["{", "[]", "null", '"a"', "{}", '{"fingerprint": 3}', '{"fingerprint": {}}', '{"a": NaN}', "[" * 99999]
)
def test_a_bad_manifest_is_refused(tmp_path, content):
    Blocks(tmp_path, "kernel").save(0, 0, BLOCK)
    (tmp_path / "kernel.json").write_text(content)
    with pytest.raises(ValueError, match=r"^cache: expected blocks of this kernel .*no fingerprint in .*kernel.json"):
        load(tmp_path)
    (tmp_path / "kernel.json").unlink()
    with pytest.raises(ValueError, match=r"^cache: expected an empty folder"):
        load(tmp_path)


def test_a_damaged_block_stops_the_kernel_and_its_deletion_heals_it(problem, tmp_path):
    expected = ntk(*problem, batch_size=6, cache=tmp_path)
    block = tmp_path / "block-0-5.npy"
    block.write_bytes(block.read_bytes()[:150])
    with pytest.raises(ValueError, match=r"^cache: .*block-0-5.npy is damaged .*delete it"):
        ntk(*problem, batch_size=6, cache=tmp_path)
    block.unlink()
    np.testing.assert_array_equal(ntk(*problem, batch_size=6, cache=tmp_path), expected)


def test_a_full_disk_leaves_no_half_block(problem, tmp_path, monkeypatch):
    def full(file, array):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(OSError, match=r"No space left.*block-0-0\.npy"):
            ntk(*problem, batch_size=6, cache=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kernel.json"]


def test_refused_combinations(problem, tmp_path):
    apply_fn, params, x = problem
    with pytest.raises(ValueError, match=r"^cache: expected None under a transformation"):
        jax.jit(lambda x: ntk(apply_fn, params, x, cache=tmp_path))(x)
    with pytest.raises(ValueError, match=r"^cache: expected None with a mesh"):
        ntk(apply_fn, params, x, cache=tmp_path, mesh=jax.make_mesh((1,), ("rows",)))
    with pytest.raises(ValueError, match=r"^method: expected one of .*'structured'.*got 'exact'"):
        ntk(apply_fn, params, x, method="exact")


@pytest.mark.parametrize("batch_size", [None, 4])
def test_compiled_once_for_networks_of_one_structure(monkeypatch, batch_size):
    """A network is traced at every call, and compiled only if its structure is new."""
    original, compiled = blocks.factors, []

    def counted(*args):
        compiled.append(None)
        return original(*args)

    monkeypatch.setattr(blocks, "factors", counted)
    x = jax.random.normal(jax.random.key(0), (10, 3))
    kernels, counts = [], []
    for shift in (0.0, 1.0, 2.0):
        w, constant = jnp.full(3, 1 + shift), jnp.full(3, shift)

        def apply_fn(w, x, constant=constant):
            return jax.nn.gelu(jnp.tanh(x + constant) @ w)

        kernels.append(np.asarray(ntk(apply_fn, w, x, batch_size=batch_size)))
        counts.append(len(compiled))
        phi = ntrf(apply_fn, w, x)
        np.testing.assert_allclose(kernels[-1], phi @ phi.T, rtol=1e-5)
    assert 0 < counts[0] == counts[1] == counts[2]
    assert not np.allclose(kernels[0], kernels[1])


def test_a_network_that_cannot_be_hashed():
    class Line:
        def __eq__(self, other):
            return self is other

        def __call__(self, w, x):
            return x @ w

    x = jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(ntk(Line(), jnp.ones(2), x), x @ x.T)


mixing = pytest.mark.parametrize("network", [BatchNorm(train=True), Dropout(train=True)], ids=["batch norm", "dropout"])


def as_function(network):
    def apply_fn(variables, x):
        mutable = ["batch_stats"] if "batch_stats" in variables else []
        return network.apply(variables, x, mutable=mutable, rngs={"dropout": jax.random.key(0)})[0]

    return apply_fn


@mixing
@pytest.mark.parametrize("n", [1, 9])
def test_a_network_that_mixes_examples_has_no_kernel(network, n):
    name = "batch norm" if isinstance(network, BatchNorm) else "dropout off"
    _, variables, x = CASES[name].problem(n)
    apply_fn = as_function(network)
    for function in (ntk, ntrf, ntk_operator):
        for call in (function, jax.jit(function, static_argnums=0)):
            with pytest.raises(ValueError, match=r"^apply_fn: expected an output that depends on no other example"):
                call(apply_fn, variables, x)
    assert jnp.isfinite(ntk(CASES[name].network.apply, variables, x)).all()


def test_a_centred_network_is_not_taken_for_one_that_mixes_examples(problem):
    """The output is a difference of equal numbers, of which only rounding remains."""
    apply_fn, params, x = problem
    kernel = ntk(lambda p, x: apply_fn(p, x) - apply_fn(params, x), params, x)
    np.testing.assert_allclose(kernel, ntk(apply_fn, params, x), rtol=1e-6)


def test_whole_numbers_are_not_parameters():
    with pytest.raises(
        ValueError, match=r"^params: expected at least one parameter to differentiate, got only a leaf of int32"
    ):
        ntk(lambda w, x: x @ w, jnp.ones(2, int), jnp.ones((3, 2)))


@pytest.mark.devices8
@pytest.mark.parametrize("n", [16, 11])
def test_rows_over_devices(n):
    mesh = jax.make_mesh((8,), ("rows",))
    with jax.enable_x64(True):
        network = nn.Sequential([nn.Conv(3, (3, 3)), nn.relu, lambda h: h.mean((1, 2)), nn.LayerNorm(), nn.Dense(2)])
        x = jax.random.normal(jax.random.key(0), (n, 6, 6, 2), float)
        params = jax.tree.map(lambda leaf: leaf.astype(float), jax.jit(network.init)(jax.random.key(1), x))
        expected = ntk(network.apply, params, x)
        kernel = ntk(network.apply, params, x, mesh=mesh)
        np.testing.assert_allclose(kernel, expected, rtol=1e-10)
        np.testing.assert_array_equal(kernel, kernel.transpose(1, 0, 3, 2))
        rectangular = ntk(network.apply, params, x, x[:5], mesh=mesh, batch_size=1)
        np.testing.assert_allclose(rectangular, expected[:, :5], rtol=1e-10)
        if n == 16:
            assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 16, 2, 2)}
