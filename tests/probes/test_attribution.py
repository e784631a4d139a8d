"""Saliency maps against weights, finite differences, class activation maps, and networks that read a known part."""

# pyright: reportArgumentType=false
# NumPy's arrays stand for JAX's, and bad input is of any type.

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax import probes
from gsjax.networks import CNN, FullyConnected, ResNet, Stage, stages
from gsjax.probes import gradcam, region_share, saliency

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).normal(size=(3, 6, 5, 2))


class Shifted(nn.Module):
    """A network with batch norm whose stage can be shifted by parameters, for finite differences."""

    declared: bool
    outputs: int

    @nn.compact
    def __call__(self, x, train=False):
        h = nn.tanh(nn.Conv(3, (3, 3), use_bias=False, name="conv")(x))
        h = h + self.param("shift", nn.initializers.zeros, h.shape[1:], h.dtype)
        h = (Stage if self.declared else Passed)(name="stage")(h)
        h = nn.BatchNorm(use_running_average=not train, name="norm")(jnp.sin(h)).reshape(len(h), -1)
        f = nn.Dense(self.outputs, name="out")(nn.tanh(h))
        return f[:, 0] if self.outputs == 1 else f


class Passed(nn.Module):
    def __call__(self, h):
        return 1.0 * h


class HalfSighted(nn.Module):
    """A network that reads the first columns of its images only."""

    columns: int

    @nn.compact
    def __call__(self, x):
        seen = jnp.arange(x.shape[2])[:, None] < self.columns
        h = Stage(name="stage")(nn.relu(nn.Dense(8, use_bias=False)(x)) * seen)
        return nn.Dense(3)(h.mean(axis=(1, 2)))


@pytest.fixture
def _in_float64():
    with jax.enable_x64(True):
        yield


def drawn(network, x):
    """Random variables, made without compiling: variances are positive, and all others have both signs."""
    shapes, rng = jax.eval_shape(network.init, KEY, x), np.random.default_rng(0)

    def draw(keys, leaf):
        number = rng.uniform(0.5, 1.5, leaf.shape) if keys[-1].key == "var" else rng.normal(size=leaf.shape)
        return number.astype(leaf.dtype)

    return jax.tree.map_with_path(draw, shapes)


# ---- saliency


@pytest.mark.parametrize("target", [None, 0, np.array([2, 0, 1])])
def test_the_saliency_of_a_linear_network_is_its_weights(target):
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    network = FullyConnected((), outputs=3)
    variables = drawn(network, x)
    weights, bias = (np.asarray(variables["params"]["Dense_0"][name]) for name in ("kernel", "bias"))
    classes = (x @ weights + bias).argmax(axis=1) if target is None else np.broadcast_to(target, 3)
    expected = weights.T[classes]
    np.testing.assert_allclose(saliency(network, variables, x, target=target), abs(expected), rtol=1e-6)
    signed = saliency(network, variables, x, target=target, times_input=True)
    np.testing.assert_allclose(signed, abs(expected * x), rtol=1e-5)


@pytest.mark.parametrize(("channels", "reduced"), [("max", np.max), ("sum", np.sum)])
def test_the_channels_of_an_image_are_reduced(channels, reduced):
    network = FullyConnected((), outputs=1)
    variables = drawn(network, IMAGES)
    weights = np.asarray(variables["params"]["Dense_0"]["kernel"]).reshape(IMAGES.shape[1:])
    expected = np.broadcast_to(reduced(abs(weights), axis=-1), IMAGES.shape[:3])
    for target in (None, 1, -1, np.array([1.0, -1.0, 1.0])):
        found = saliency(network, variables, IMAGES, target=target, channels=channels)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.usefixtures("_in_float64")
def test_saliency_matches_finite_differences():
    network = Shifted(declared=True, outputs=3)
    variables, size = drawn(network, IMAGES), 1e-6
    steps = size * np.eye(IMAGES[0].size).reshape(-1, 1, *IMAGES.shape[1:])
    apply = jax.jit(jax.vmap(lambda step: jnp.asarray(network.apply(variables, IMAGES + step))[:, 2]))
    slopes = (apply(steps) - apply(-steps)).T.reshape(IMAGES.shape) / (2 * size)
    found = saliency(network, variables, IMAGES, target=2)
    np.testing.assert_allclose(found, np.abs(slopes).max(axis=-1), rtol=1e-6, atol=1e-9)


# ---- Grad-CAM


@pytest.mark.usefixtures("_in_float64")
@pytest.mark.parametrize(("declared", "outputs"), [(True, 3), (False, 3), (False, 1)])
def test_gradcam_matches_finite_differences_at_the_stage(declared, outputs):
    """The stage is as large as the images, so that nothing is resized."""
    network, size = Shifted(declared, outputs), 1e-6
    variables = drawn(network, IMAGES)

    def shifted(step):
        params = {**variables["params"], "shift": variables["params"]["shift"] + step}
        return network.apply({**variables, "params": params}, IMAGES)

    stage = np.asarray(stages.apply(network, variables, IMAGES, ("stage",))[1]["stage"])
    steps = size * np.eye(stage[0].size).reshape(-1, *stage.shape[1:])
    apply = jax.jit(jax.vmap(shifted))
    slopes = np.moveaxis(apply(steps) - apply(-steps), 0, -1).reshape(3, outputs, *stage.shape[1:]) / (2 * size)
    f = np.asarray(apply(0 * steps[:1]))[0]
    if outputs == 1:  # the target +1, then -1
        slopes, predicted = np.concatenate([slopes, -slopes], axis=1), np.where(f >= 0, 0, 1)
    else:
        predicted = f.argmax(axis=1)
    compiled = jax.jit(functools.partial(gradcam, network, position="stage"))
    for number, target in ((0, 1), (1, -1), (predicted, None)) if outputs == 1 else ((2, 2), (predicted, None)):
        slope = slopes[np.arange(3), number]
        expected = np.maximum((slope.mean(axis=(1, 2), keepdims=True) * stage).sum(axis=-1), 0)
        np.testing.assert_allclose(compiled(variables, IMAGES, target=target), expected, rtol=1e-6, atol=1e-9)
        assert np.any(expected > 1e-3)


def resized(maps, height, width):
    """Bilinear interpolation between the centres of pixels, constant beyond the outermost."""
    for axis, size in ((1, height), (2, width)):
        places = (np.arange(size) + 0.5) * maps.shape[axis] / size - 0.5
        maps = np.apply_along_axis(lambda line, at=places: np.interp(at, np.arange(len(line)), line), axis, maps)
    return maps


def test_gradcam_before_a_mean_and_a_linear_readout_is_the_class_activation_map():
    """Zhou et al. 2016: sum_k w_k A_k. Its positive part is P times Grad-CAM."""
    network = ResNet((1, 1), 4, block="basic", stem="small", width=3)
    x = np.random.default_rng(2).normal(size=(5, 8, 12, 3)).astype(np.float32)
    variables = drawn(network, x)
    outputs, found = jax.jit(lambda x: stages.apply(network, variables, x, ("layer2_0",)))(x)
    stage, weights = np.asarray(found["layer2_0"]), np.asarray(variables["params"]["fc"]["kernel"])
    assert stage.shape[1:3] == (4, 6)
    compiled = jax.jit(functools.partial(gradcam, network, position="layer2_0"))
    signs = []
    for target in (0, 3, None):
        classes = np.asarray(outputs).argmax(axis=1) if target is None else np.full(5, target)
        activation = np.einsum("nijk,kn->nij", stage, weights[:, classes])
        expected = resized(np.maximum(activation, 0) / 24, 8, 12)
        np.testing.assert_allclose(compiled(variables, x, target=target), expected, rtol=1e-4, atol=1e-6)
        signs += [np.sign(activation).ravel()]
    assert {-1, 1} <= set(np.concatenate(signs))


def test_classes_of_a_binary_network_are_opposed():
    """With the mean and a linear readout, the maps of -1 and +1 are the two parts of one signed map."""
    network = CNN((4,), 1)
    variables = drawn(network, IMAGES)
    stage = np.asarray(stages.apply(network, variables, IMAGES, ("h1",))[1]["h1"])
    signed = stage @ np.asarray(variables["params"]["W2"]["kernel"])[:, 0]
    plus, minus = (
        np.asarray(gradcam(network, variables, IMAGES, position="h1", target=sign)) * 30 for sign in (1.0, -1)
    )
    np.testing.assert_allclose(plus, np.maximum(signed, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(minus, np.maximum(-signed, 0), rtol=1e-4, atol=1e-5)
    assert {-1, 1} <= set(np.sign(signed).ravel())


def test_maps_move_with_the_image():
    """With circular padding and a mean over the image, a circular translation of the input moves the maps alike."""
    network = CNN((4, 4), 3, padding="CIRCULAR", activation="tanh")
    variables = drawn(network, IMAGES)
    both = jax.jit(
        lambda x: (
            gradcam(network, variables, x, position="h2", target=1),
            saliency(network, variables, x, target=1),
        )
    )
    moved, still = both(np.roll(IMAGES, (2, -1), axis=(1, 2))), both(IMAGES)
    for one, other in zip(moved, still, strict=True):
        np.testing.assert_allclose(one, np.roll(other, (2, -1), axis=(1, 2)), rtol=1e-4, atol=1e-7)
        assert np.ptp(other) > 1e-5


@pytest.mark.usefixtures("_in_float64")
def test_an_example_does_not_depend_on_the_others_and_functions_can_be_transformed():
    network, region = Shifted(declared=True, outputs=3), np.arange(30).reshape(6, 5) % 2 == 0
    variables = drawn(network, IMAGES)

    @jax.jit
    def shares(variables, x):
        maps = gradcam(network, variables, x, position="stage", target=1), saliency(network, variables, x, target=1)
        return jnp.stack([region_share(one, region).share for one in maps])

    here = shares(variables, IMAGES)
    np.testing.assert_allclose(shares(variables, IMAGES[:1]), here[:, :1], rtol=1e-9)
    seeds = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), variables)
    several = jax.vmap(shares, (0, None))(seeds, IMAGES)
    np.testing.assert_allclose(several[0], here, rtol=1e-9)
    assert np.all(np.abs(several[1] - here) > 1e-6)
    step = np.random.default_rng(4).normal(size=IMAGES.shape)
    along = jax.jit(jax.jacfwd(lambda size: (shares(variables, IMAGES + size * step),) * 2, has_aux=True))
    (_, upper), (_, lower), (slope, _) = along(1e-7), along(-1e-7), along(0.0)
    assert np.all(np.abs(slope) > 1e-6)
    np.testing.assert_allclose((upper - lower) / 2e-7, slope, rtol=1e-4, atol=1e-7)


# ---- regions


@pytest.mark.parametrize("columns", [2, 5])
def test_a_network_that_reads_one_part_has_its_whole_share_there(columns):
    x = np.random.default_rng(5).normal(size=(20, 4, 8, 3)).astype(np.float32)
    network = HalfSighted(columns)
    variables = network.init(KEY, x)
    region = np.broadcast_to(np.arange(8) < columns, (4, 8))
    for maps in (gradcam(network, variables, x, position="stage"), saliency(network, variables, x)):
        found = region_share(maps, region)
        assert np.isfinite(found.share).sum() > 10
        assert set(np.asarray(found.share)[np.isfinite(found.share)]) == {1.0}
        np.testing.assert_allclose(found.area, columns / 8)
        np.testing.assert_array_equal(np.isnan(found.share), ~np.any(maps, axis=(1, 2)))


def test_shares_by_hand():
    maps = np.array([[[3.0, 1.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]], [[7.0, 7.0], [7.0, 7.0]]])
    region = np.array([[True, False], [True, False]])
    for one in (region, np.stack([region] * 3), jnp.asarray(region)):
        share, area = region_share(maps, one)
        np.testing.assert_array_equal(share, [3 / 8, np.nan, 0.5])
        np.testing.assert_array_equal(area, [0.5, 0.5, 0.5])
    own = np.stack([region, region, np.array([[True, True], [True, False]])])
    np.testing.assert_array_equal(region_share(maps, own).share, [3 / 8, np.nan, 0.75])
    np.testing.assert_array_equal(region_share(maps, own).area, [0.5, 0.5, 0.75])
    np.testing.assert_array_equal(region_share(maps, np.zeros((2, 2), bool)).share, [0, np.nan, 0])


def test_shares_of_many_pixels_stay_between_0_and_1():
    maps = np.random.default_rng(0).uniform(size=(50, 64, 64)).astype(np.float32)
    share = np.asarray(region_share(maps, np.ones((64, 64), bool)).share)
    assert set(share) == {1.0}
    half = np.asarray(region_share(maps, np.arange(64) < np.full((64, 1), 32)).share)
    assert np.all(np.abs(half - 0.5) < 5 * np.sqrt(1 / 12) / 64)  # five standard errors and more


# ---- bad input

NETWORK = CNN((4,), 3)
VARIABLES = NETWORK.init(KEY, IMAGES)
MAPS = functools.partial(gradcam, NETWORK, VARIABLES, IMAGES)
BINARY = CNN((4,)), CNN((4,)).init(KEY, IMAGES), IMAGES
PIXELS = nn.Dense(2), nn.Dense(2).init(KEY, IMAGES), IMAGES


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (lambda: MAPS(position="pool"), r"position: expected a stage of images \(n, .*, got pool: shape \(3, 4\)"),
        (lambda: MAPS(position="h2"), "position: expected one of the stages h1, pool, got 'h2'"),
        (lambda: MAPS(position="h1", target=3), "target: expected classes from 0 to 2, got 3"),
        (lambda: MAPS(position="h1", target=[0, 1, -1]), "target: expected classes from 0 to 2"),
        (lambda: MAPS(position="h1", target=[0, 1]), r"target: expected one class or shape \(3,\), got shape \(2,\)"),
        (lambda: MAPS(position="h1", target=1.0), "target: expected indices of classes, got float64"),
        (lambda: MAPS(position="h1", target="cat"), "target: expected classes, got 'cat'"),
        (lambda: jax.jit(functools.partial(MAPS, position="h1", target=3))(), "target: expected classes from 0 to 2"),
        (lambda: saliency(*BINARY, target=0), r"target: expected labels -1 and \+1"),
        (lambda: gradcam(NETWORK, VARIABLES, IMAGES[0], position="h1"), "x: expected 4 axes"),
        (lambda: gradcam(NETWORK, VARIABLES, IMAGES * np.nan, position="h1"), "x: expected finite numbers"),
        (lambda: saliency(NETWORK, VARIABLES, IMAGES[:0]), r"x: expected a non-empty array \(n, ...\)"),
        (lambda: saliency(NETWORK, VARIABLES, IMAGES, channels="mean"), "channels: expected one of max, sum"),
        (lambda: saliency(CNN, VARIABLES, IMAGES), "network: expected a flax.linen module"),
        (lambda: saliency(*PIXELS), r"network: expected outputs \(3,\)"),
        (lambda: region_share(-np.ones((1, 2)), [True, False]), "maps: expected finite numbers, 0 or above"),
        (lambda: region_share(np.full((1, 2), np.inf), [True, False]), "maps: expected finite numbers, 0 or above"),
        (lambda: region_share(np.ones(2), [True, False]), r"maps: expected a non-empty array \(n, ...\)"),
        (lambda: region_share(np.ones((1, 2)), [1, 0]), "region: expected an array of bools, got int64"),
        (lambda: region_share(np.ones((1, 2)), None), "region: expected an array of bools, got object"),
        (lambda: region_share(np.ones((1, 2)), [True]), r"region: expected shape \(2,\) or \(1, 2\), got shape \(1,\)"),
    ],
)  # fmt: skip
def test_bad_input_is_named(bad, complaint):
    with pytest.raises(ValueError, match=rf"^{complaint}"):
        bad()


def test_the_package_exports_the_functions():
    for name in ("gradcam", "saliency", "region_share"):
        assert getattr(probes, name) is getattr(probes.attribution, name)
