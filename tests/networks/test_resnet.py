"""The residual network against NumPy, and its pretrained weights from files."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from gsjax.networks import ResNet, resnet
from tests.networks.test_standard import convolved, drawn, normalised, relu

KEY = jax.random.key(0)


def torchvision(blocks, classes, *, rng, basic=False, q=7, first=64):
    """The entries of torchvision's `ResNet(Bottleneck, blocks).state_dict()`, with random numbers in them.

    With `basic` they are those of `ResNet(BasicBlock, blocks)`. `q` is the size of the first kernel, and `first` the
    number of channels after it.
    """
    entries = {}

    def conv(name, outputs, inputs, q):
        entries[f"{name}.weight"] = rng.normal(size=(outputs, inputs, q, q)) / np.sqrt(inputs * q * q)

    def norm(name, channels):
        for entry, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            entries[f"{name}.{entry}"] = value + rng.uniform(0, 0.3, channels)
        entries[f"{name}.num_batches_tracked"] = np.array(7)

    conv("conv1", first, 3, q)
    norm("bn1", first)
    inputs = first
    for stage, count in enumerate(blocks):
        for block in range(count):
            name, width = f"layer{stage + 1}.{block}", first * 2**stage
            last = width if basic else 4 * width
            bottleneck = [(width, inputs, 1), (width, width, 3), (last, width, 1)]
            layers = [(width, inputs, 3), (width, width, 3)] if basic else bottleneck
            for number, (outputs, fan, q) in enumerate(layers, 1):
                conv(f"{name}.conv{number}", outputs, fan, q)
                norm(f"{name}.bn{number}", outputs)
            if block == 0 and (stage > 0 or not basic):
                conv(f"{name}.downsample.0", last, inputs, 1)
                norm(f"{name}.downsample.1", last)
            inputs = last
    entries["fc.weight"], entries["fc.bias"] = rng.normal(size=(classes, inputs)), rng.normal(size=classes)
    return {
        name: np.asarray(entry, np.int64 if entry.dtype.kind == "i" else np.float32) for name, entry in entries.items()
    }


def forward_pass(entries, x, blocks, *, basic=False, small=False):
    """The forward pass of the entries, in evaluation mode; `small` is the stem for small images."""

    def conv(h, name, stride=1):
        kernel = entries[f"{name}.weight"].transpose(2, 3, 1, 0)
        return convolved(h, kernel, stride, pad=len(kernel) // 2)

    def norm(h, name):
        weights = {"scale": entries[f"{name}.weight"], "bias": entries[f"{name}.bias"]}
        return normalised(h, weights, {"mean": entries[f"{name}.running_mean"], "var": entries[f"{name}.running_var"]})

    h = relu(norm(conv(x, "conv1", 1 if small else 2), "bn1"))
    if not small:
        h = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
        rows, columns = ((size - 3) // 2 + 1 for size in h.shape[1:3])
        h = np.stack([[h[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(1, 2)) for j in range(columns)]
                      for i in range(rows)]).transpose(2, 0, 1, 3)  # fmt: skip
    for stage, count in enumerate(blocks):
        for block in range(count):
            name, stride = f"layer{stage + 1}.{block}", 2 if stage and not block else 1
            if basic:
                f = relu(norm(conv(h, f"{name}.conv1", stride), f"{name}.bn1"))
                f = norm(conv(f, f"{name}.conv2"), f"{name}.bn2")
            else:
                f = relu(norm(conv(h, f"{name}.conv1"), f"{name}.bn1"))
                f = relu(norm(conv(f, f"{name}.conv2", stride), f"{name}.bn2"))
                f = norm(conv(f, f"{name}.conv3"), f"{name}.bn3")
            if f"{name}.downsample.0.weight" in entries:
                h = norm(conv(h, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            h = relu(h + f)
    return h.mean(axis=(1, 2)) @ entries["fc.weight"].T + entries["fc.bias"]


@pytest.fixture(scope="module")
def small():
    """Entries of a network of two stages, its variables, and some images of an odd size."""
    network = ResNet((2, 1), 5)
    x = np.random.default_rng(1).normal(size=(1, 19, 16, 3)).astype(np.float32)
    return torchvision((2, 1), 5, rng=np.random.default_rng(0)), network, drawn(network, x), x


def test_loaded_network_by_hand(small, tmp_path):
    entries, network, variables, x = small
    save_file(entries, tmp_path / "r.safetensors")
    loaded = resnet.load(tmp_path / "r.safetensors", variables)
    expected = forward_pass(entries, x, (2, 1))
    np.testing.assert_allclose(jax.jit(network.apply)(loaded, x), expected, rtol=2e-5, atol=1e-5)
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)


@pytest.mark.parametrize("stem", ["photographs", "small"])
def test_basic_blocks_by_hand(stem, tmp_path):
    network = ResNet((2, 1), 5, block="basic", stem=stem, width=4)
    x = np.random.default_rng(1).normal(size=(2, 11, 8, 3)).astype(np.float32)
    small = stem == "small"
    entries = torchvision((2, 1), 5, rng=np.random.default_rng(0), basic=True, q=3 if small else 7, first=4)
    save_file(entries, tmp_path / "r.safetensors")
    loaded = resnet.load(tmp_path / "r.safetensors", drawn(network, x))
    expected = forward_pass(entries, x, (2, 1), basic=True, small=small)
    np.testing.assert_allclose(jax.jit(network.apply)(loaded, x), expected, rtol=2e-5, atol=1e-5)


def test_another_head_keeps_its_initialisation(small, tmp_path):
    entries, _, variables, _ = small
    other = {**entries, "fc.weight": np.ones((1000, 512), np.float32), "fc.bias": np.ones(1000, np.float32)}
    save_file(other, tmp_path / "r.safetensors")
    loaded = resnet.load(tmp_path / "r.safetensors", variables)
    for old, new in zip(*map(jax.tree.leaves, (variables["params"]["fc"], loaded["params"]["fc"])), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(loaded["batch_stats"]["bn1"]["var"], entries["bn1.running_var"])


@pytest.mark.parametrize(
    ("block", "blocks", "count"), [("bottleneck", (3, 4, 6, 3), 267), ("basic", (2, 2, 2, 2), 102)]
)
def test_all_names_of_resnet50_and_resnet18_are_known(block, blocks, count):
    network = ResNet(blocks, 1000, block)
    variables = jax.eval_shape(network.init, KEY, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    names = {resnet._torch_name(keys) for keys, _ in jax.tree.leaves_with_path(variables)}
    expected = torchvision(blocks, 1000, rng=_Zeros(), basic=block == "basic")
    assert names == {name for name in expected if not name.endswith("num_batches_tracked")}
    assert len(names) == count


class _Zeros:
    """Replaces a random generator where only names and shapes matter."""

    def normal(self, size):
        return np.broadcast_to(np.float32(0), size)

    def uniform(self, low, high, size):
        return np.broadcast_to(np.float32(0), size)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"bn1.running_var": None}, "6[0-9] entries of the network, got none called bn1.running_var"),
        ({"layer9.0.conv1.weight": np.ones(1, np.float32)}, "got also layer9.0.conv1.weight"),
        ({"conv1.weight": np.ones((7, 7, 3, 64), np.float32)}, r"conv1.weight: expected shape \(64, 3, 7, 7\)"),
        ({"conv1.weight": np.ones((64, 147), np.float32)}, r"conv1.weight: expected shape \(64, 3, 7, 7\)"),
        ({"fc.weight": np.ones((6, 512), np.float32)}, r"fc.weight: expected shape \(5, 512\)"),
        ({"bn1.bias": np.full(64, np.nan, np.float32)}, "bn1.bias: expected finite numbers"),
        ({"bn1.bias": np.full(64, np.inf, np.float16)}, "bn1.bias: expected finite numbers"),
        ({"bn1.bias": np.full(64, 1e39)}, "bn1.bias: expected numbers within float32, got 64 beyond it"),
        ({"bn1.bias": np.ones(64, np.int64)}, "bn1.bias: expected entries of F16, F32 or F64, got I64"),
        ({"bn1.bias": np.ones(64, bool)}, "bn1.bias: expected entries of F16, F32 or F64, got BOOL"),
        ({"bn1.bias": np.ones(64, np.complex64)}, "bn1.bias: expected entries of F16, F32 or F64, got C64"),
        ({"bn1.running_var": np.full(64, -1e-3, np.float32)}, "bn1.running_var: expected variances of at least 0"),
        ({"fc.bias": np.ones((5, 1), np.float32)}, r"fc.bias: expected shape \(5,\), got shape \(5, 1\)"),
        ({"fc.bias": np.ones(6, np.float32)}, r"fc.bias: expected shape \(5,\), got shape \(6,\)"),
        (
            {"fc.bias": np.ones(6, np.float32), "fc.weight": np.ones((6, 511), np.float32)},
            r"fc.bias: expected shape \(5,\), got shape \(6,\)|fc.weight: expected shape \(5, 512\)",
        ),
    ],
)
def test_files_of_another_network(small, tmp_path, change, complaint):
    entries, _, variables, _ = small
    changed = {name: entry for name, entry in {**entries, **change}.items() if entry is not None}
    save_file(changed, tmp_path / "r.safetensors")
    with pytest.raises(ValueError, match=rf"r\.safetensors.*{complaint}"):
        resnet.load(tmp_path / "r.safetensors", variables)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_of_another_precision(small, tmp_path, dtype):
    entries, _, variables, _ = small
    save_file(
        {k: array if array.dtype == np.int64 else array.astype(dtype) for k, array in entries.items()}, tmp_path / "r"
    )
    loaded = resnet.load(tmp_path / "r", variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(
        loaded["params"]["layer1_0"]["conv2"]["kernel"],
        entries["layer1.0.conv2.weight"].astype(dtype).astype(np.float32).transpose(2, 3, 1, 0),
    )


def test_weights_beyond_the_precision_of_the_network(small, tmp_path):
    entries, _, variables, _ = small
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float16), variables)
    save_file({**entries, "bn1.bias": np.full(64, 7e4, np.float32)}, tmp_path / "r")
    with pytest.raises(ValueError, match=r"r: bn1.bias: expected numbers within float16, got 64 beyond it"):
        resnet.load(tmp_path / "r", half)


def test_other_arguments_are_named(small, tmp_path):
    entries, _, variables, _ = small
    save_file(entries, tmp_path / "r")
    other: Any
    path: Any
    for path in (variables, 3, None):
        with pytest.raises(ValueError, match=r"^path: expected the name of a file"):
            resnet.load(path, tmp_path / "r")
    for other in (None, {}, {"params": {}}, variables["params"], {"params": {"Dense_0": {"bias": np.ones(3)}}}, "r"):
        with pytest.raises(ValueError, match=r"^variables: expected those of a ResNet, with params and batch_stats"):
            resnet.load(tmp_path / "r", other)
    with pytest.raises(ValueError, match=rf"^{tmp_path}: expected a file, got a folder"):
        resnet.load(tmp_path, variables)


def test_damaged_headers(small, tmp_path):
    """A flipped bit of the header is noticed. One in the numbers may not be, as the file has no checksum."""
    entries, _, variables, _ = small
    path = tmp_path / "r.safetensors"
    save_file({name: entry for name, entry in entries.items() if "tracked" not in name}, path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for bit in range(0, 8 * len(whole[:header].rstrip()), 397):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"r\.safetensors"):
            resnet.load(path, variables)


def test_damaged_files(small, tmp_path):
    entries, _, variables, _ = small
    path = tmp_path / "r.safetensors"
    save_file(entries, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"r\.safetensors: expected a whole \.safetensors file"):
        resnet.load(path, variables)
    path.write_bytes(b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(ValueError, match=r"r\.safetensors: expected a whole \.safetensors file"):
        resnet.load(path, variables)
    with pytest.raises(FileNotFoundError):
        resnet.load(tmp_path / "nowhere", variables)
