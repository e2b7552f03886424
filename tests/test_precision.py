"""Mixed precision: what is rounded to float16 and what is not, and training with a loss that is scaled."""

import copy
import os
import pickle
from functools import partial

import numpy as np
import pytest
from helpers import press_ctrl_c_at, quiet, read_metrics, small_folder, tiny_config
from hypothesis import given
from hypothesis import strategies as st

from minicaps import capsules, cli, fast, layers
from minicaps.datasets import augment
from minicaps.fast import half, spectral
from minicaps.fast.convolution import WindowsCache
from minicaps.layers import ReLU, ScaledLoss
from minicaps.networks import COUPLINGS, NETWORKS, PRESENCES, PRESETS_OF, ROUTINGS, build, files
from minicaps.proof import cases_of
from minicaps.proof.cases import arrays_in, map_arrays, upstream
from minicaps.training import (
    Adam,
    DataParallel,
    Diverged,
    LossScale,
    OneProcess,
    Run,
    TrainConfig,
    commands_of,
    evaluate,
    to_batch,
    train_step,
)
from minicaps.training.loss_scale import MAX_SCALE
from minicaps.training.progress import EpochProgress, epoch_batches

# -- rounding ----------------------------------------------------------------------------------


def by_numpy(x):
    """NumPy's own conversion there and back."""
    with np.errstate(all="ignore"):
        return np.asarray(x).astype(np.float16).astype(x.dtype)


def assert_rounded_as_by_numpy(x):
    """The same bits; of NaN, that it is one (its other bits mean nothing)."""
    before = np.array(x)
    found, expected = half(x), by_numpy(x)
    assert type(found) is np.ndarray and found.shape == np.shape(x) and found.dtype == x.dtype
    assert before.tobytes() == np.array(x).tobytes()
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), nan)
    assert found[~nan].tobytes() == expected[~nan].tobytes()


HALVES = np.arange(1 << 16).astype(np.uint16).view(np.float16)


def test_every_float16_number_stays():
    x = HALVES.astype(np.float32)  # (65536,), ±0, ±inf and every NaN among them
    with np.errstate(invalid="ignore"):  # of a signalling NaN
        assert_rounded_as_by_numpy(x)
    assert np.isnan(x).sum() == 2 * 1023
    assert_rounded_as_by_numpy(np.float32([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30]))  # without a warning


def test_midpoints_go_to_the_even_neighbour_and_what_lies_beside_them_to_the_nearer():
    finite = np.sort(HALVES[np.isfinite(HALVES)].astype(np.float32))  # (63488,)
    middle = finite[:-1] / 2 + finite[1:] / 2
    edges = np.float32([65519.996, 65520, 65520.004, 65536, 3.4e38, 2.0**-24, 2.0**-25, 2.0**-26, 1e-45])
    middle = np.concatenate([middle, edges, -edges])
    for x in (middle, *(np.nextafter(middle, np.float32(to)) for to in (-np.inf, np.inf))):
        assert_rounded_as_by_numpy(x)
    assert half(np.float32([65520]))[0] == np.inf and half(np.float32([65519.996]))[0] == 65504


@given(seed=st.integers(0, 2**32), around=st.sampled_from([None, 2.0**-24, 2.0**-14, 1.0, 65504.0]))
def test_any_bits_are_rounded_as_by_numpy(seed, around):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 1 << 32, 4096, dtype=np.uint32).view(np.float32)
    if around is not None:
        x = (around * rng.normal(size=4096)).astype(np.float32)
    with np.errstate(invalid="ignore"):  # of a signalling NaN
        assert_rounded_as_by_numpy(x)


@pytest.mark.parametrize(
    "x",
    [
        np.float32(np.pi),
        np.array(-1e-6, np.float32),
        np.zeros((0, 3), np.float32),
        np.linspace(-1, 1, 60, dtype=np.float32).reshape(3, 4, 5).transpose(2, 0, 1),
        np.linspace(-1, 1, 60, dtype=np.float32)[::-3],
        np.asfortranarray(np.linspace(0, 9, 60, dtype=np.float32).reshape(6, 10))[1:, ::2],
        np.broadcast_to(np.float32(0.1), (2, 3)),
        np.linspace(-1, 1, 7).astype(">f4"),
        np.linspace(-1, 1, 60).reshape(6, 10),
        np.array([1e300, np.nan, -np.inf]),
    ],
    ids=["scalar", "0-d", "empty", "turned", "reversed", "Fortran", "broadcast", "bytes", "float64", "large"],
)
def test_any_form_of_array_is_rounded_to_its_own_shape_and_dtype(x):
    with np.errstate(over="ignore"):
        assert_rounded_as_by_numpy(x)


# -- whole networks: what is rounded -----------------------------------------------------------

SCALE = 2.0**10  # of the loss, so that gradients are neither 0 nor inf in float16
EVERY_PRESET = [(name, preset, {}) for name in NETWORKS for preset in PRESETS_OF.get(name, ["small"])]
EVERY_OPTION = [
    *({"routing": name} for name in ROUTINGS),
    *({"coupling": name} for name in COUPLINGS),
    *({"presence": name} for name in PRESENCES),
    {"layers": ((12, 4), (8, 4))},
    {"decoder": False},
]
EVERY_NETWORK = EVERY_PRESET + [("capsnet", "tiny", options) for options in EVERY_OPTION]
SMALL_NETWORKS = [each for each in EVERY_NETWORK if each[1] == "tiny" or each[0] not in PRESETS_OF]


def label(each):
    name, preset, options = each
    return " ".join([name, preset, *(f"{key}={value}" for key, value in options.items())])


def mixed_network(each):
    """A network in mixed precision, no number of which float16 holds exactly, and a batch for it."""
    name, preset, options = each
    rng, network = np.random.default_rng(1), build(name, preset, rng=0, **options)
    for param in network.params.values():
        param += 1e-2 * rng.normal(size=param.shape)
    images = rng.random((2, *network.image_shape), dtype=np.float32)  # (B, H, W, C)
    return network.set_precision("mixed"), images, rng.integers(0, network.classes, 2)


def found_of(network, images, labels, seen=None):
    """Outputs and gradients for images, of which the network sees others, if they are given."""
    network.zero_grad()
    seen = images if seen is None else seen
    outputs, cache = network.forward(*network.training_inputs(seen, labels))
    objective = ScaledLoss(network.objective(), SCALE)
    _, loss_cache = objective.forward(outputs, network.targets(images, labels))
    dimages = network.backward(objective.backward(loss_cache), cache)
    return arrays_in((outputs, dimages)), {name: grad.copy() for name, grad in network.grads.items()}


def in_a_row(arrays):
    arrays = arrays.values() if isinstance(arrays, dict) else arrays
    return np.concatenate([array.ravel() for array in arrays]).astype(np.float64)


def bits(found):
    outputs, grads = found
    return [array.tobytes() for array in (*outputs, *grads.values())]


def weights_of_products(network):
    """The names of the weights W of fast layers and of their votes."""
    found = dict(network.walk())
    inside_fast = tuple(
        inner
        for prefix, layer in found.items()
        if type(layer).__module__.startswith("minicaps.fast.")
        for inner in (prefix, prefix + "votes.")
    )
    return [prefix + "W" for prefix, layer in found.items() if "W" in layer._params and prefix in inside_fast]


@pytest.mark.parametrize("each", EVERY_NETWORK, ids=label)
def test_every_product_of_every_network_takes_rounded_weights_and_images(each):
    network, images, labels = mixed_network(each)
    before = found_of(network, images, labels)
    assert all(np.isfinite(array).all() for array in before[0])
    assert all(np.isfinite(grad).all() and grad.any() for grad in before[1].values())
    assert bits(found_of(network, images, labels, seen=half(images))) == bits(before)
    names = weights_of_products(network)
    assert len(names) >= 2
    for name in names:
        param = network.params[name]
        assert (half(param) != param).any(), name
        param[...] = half(param)
    assert bits(found_of(network, images, labels)) == bits(before)
    full = found_of(network.set_precision("float32"), images, labels)
    assert bits(full) != bits(before)
    for found, expected in zip(map(in_a_row, before), map(in_a_row, full), strict=True):
        # 0.0006 to 0.04; the latter behind four batch normalisations of two images
        assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


@pytest.mark.parametrize("each", SMALL_NETWORKS, ids=label)
def test_whatever_is_no_weight_of_a_product_stays_float32(each):
    network, images, labels = mixed_network(each)
    before, products = bits(found_of(network, images, labels)), weights_of_products(network)
    biases = [name.removesuffix("W") + "bias" for name in products]  # of which a test below says more
    for name in network.params.keys() - {*products, *biases}:
        param = network.params[name]
        kept = param.copy()
        param[...] = half(param)
        assert bits(found_of(network, images, labels)) != before, name
        param[...] = kept
    assert bits(found_of(network, images, labels)) == before


# -- layers: the plain twin with rounded operands is the oracle --------------------------------

OF_PRODUCTS = (fast.Dense, fast.Conv2d, fast.Votes)
OF_VOTES = (fast.CapsuleLayer, fast.ConvMatrixCaps, fast.ClassMatrixCaps)
cases = partial(pytest.mark.parametrize, "case", ids=lambda case: case.label)
every_product = cases([case for cls in OF_PRODUCTS for case in cases_of(cls)])
every_vote = cases([case for cls in OF_VOTES for case in cases_of(cls)])


def mixed_layer(case):
    _, layer, inputs, *_ = case.make(np.float32)
    return layer.set_precision("mixed"), inputs


def gradients_of(layer, inputs, dy=None):
    """Outputs, gradients of the inputs, and of the parameters; without dy for one that is drawn."""
    layer.zero_grad()
    y, cache = layer.forward(*inputs)
    dx = layer.backward(upstream(y) if dy is None else dy, cache)
    return y, dx, {name: grad.copy() for name, grad in layer.grads.items()}


def same_bits(one, other):
    pairs = zip(arrays_in(one), arrays_in(other), strict=True)
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


def with_rounded_weights(layer):
    for name in weights_of_products(layer):
        layer.params[name][...] = half(layer.params[name])
    return layer


@every_product
def test_a_product_takes_float16_numbers_and_gives_such(case):
    layer, (x,) = mixed_layer(case)
    (dy,) = upstream((layer.forward(x)[0],))
    y, dx, grads = gradients_of(layer, (x,), dy)
    assert same_bits(gradients_of(layer, (half(x),), dy), (y, dx, grads))
    other_y, other_dx, others = gradients_of(layer, (x,), half(dy))
    assert same_bits((other_y, other_dx, others["W"]), (y, dx, grads["W"]))
    if "bias" in grads:  # is added, and its gradient added up, in float32
        assert not same_bits(others["bias"], grads["bias"])
        bias = layer.params["bias"].copy()
        layer.params["bias"][...] = 0
        alone = layer.forward(x)[0]
        assert same_bits(alone + bias, y) and same_bits(alone, half(alone))
    else:
        assert same_bits(y, half(y))
    assert same_bits(grads["W"], half(grads["W"]))
    if not isinstance(layer.forward(x)[1], WindowsCache):  # which adds up what overlaps
        assert same_bits(dx, half(dx))
    assert not same_bits(dx, gradients_of(layer.set_precision("float32"), (x,), dy)[1])


def test_the_windows_of_a_convolution_give_float16_numbers_before_they_are_added_up():
    rng, layer = np.random.default_rng(0), fast.Conv2d(3, 4, 2, stride=2, rng=0).set_precision("mixed")
    x = rng.normal(size=(2, 6, 6, 3)).astype(np.float32)
    assert isinstance(layer.forward(x)[1], WindowsCache)
    dx = gradients_of(layer, (x,))[1]  # of windows that do not overlap
    assert dx.any() and same_bits(dx, half(dx))


@every_product
def test_a_product_is_that_of_the_plain_twin_with_rounded_operands(case):
    layer, (x,) = mixed_layer(case)
    twin = getattr(layers if hasattr(layers, case.cls.__name__) else capsules, case.cls.__name__)
    (plain,) = (other.make(np.float32).layer for other in cases_of(twin) if other.name == case.name)
    plain.load_state(with_rounded_weights(layer).state())
    dy = upstream(layer.forward(x)[0])
    found, expected = (gradients_of(each, (half(x),), half(dy)) for each in (layer, plain))
    for name in plain.params:  # the same of absolute values: an upper bound of all sums on the way
        plain.params[name][...] = abs(plain.params[name])
    bounds = gradients_of(plain, (abs(half(x)),), abs(half(dy)))
    for one, other, bound in zip(*map(arrays_in, (found, expected, bounds)), strict=True):
        # One rounding to eleven digits, 2⁻¹¹ of the result or 2⁻²⁵, and the order of a sum in float32
        assert (abs(one - other) <= (2.0**-11 + 1e-5) * bound + 2.0**-24).all()


def round_votes(layer, builds):
    """Make the votes of a plain layer those of mixed precision; its backward notes what it is handed."""
    plain = type(layer.votes)

    class Votes(plain):
        def forward(self, u):
            u_hat, cache = plain.forward(self, half(u))
            return half(u_hat) if builds else u_hat, cache

        def backward(self, du_hat, cache):
            self.du_hat = du_hat
            du = plain.backward(self, half(du_hat), cache)
            self.grads["W"][...] = half(self.grads["W"])
            return half(du)

    layer.votes.__class__ = Votes


def plain_and_mixed(case):
    """The plain twin with rounded votes, the layer in mixed precision, and inputs for both."""
    layer, inputs = mixed_layer(case)
    (plain,) = (
        other.make(np.float32).layer
        for other in cases_of(getattr(capsules, case.cls.__name__))
        if other.name == case.name
    )
    plain.load_state(with_rounded_weights(layer).state())
    caches = type(layer.forward(*inputs)[1]).__module__
    round_votes(plain, builds=caches != "minicaps.fast.capsule_layer")  # which has the votes by their factors
    return plain, layer, inputs


@every_vote
def test_votes_are_those_of_the_plain_twin_with_rounded_operands(case):
    plain, layer, inputs = plain_and_mixed(case)
    found, expected = (gradients_of(each, inputs) for each in (layer, plain))
    assert set(found[2]) == set(expected[2])
    for one, other in zip(arrays_in(found), arrays_in(expected), strict=True):
        # Where sums differ in a last bit of float32, few of the votes and their gradients go to the other
        # neighbour in float16, 2⁻¹⁰ of them away; nearly all go to the same one.
        difference, largest = abs(one - other), abs(other).max()
        assert difference.max() <= 2.0**-9 * largest and np.median(difference) <= 1e-5 * largest


@every_vote
def test_votes_and_their_gradients_are_rounded(case):
    plain, layer, (u, *rest) = plain_and_mixed(case)
    y, dx, grads = gradients_of(layer, (u, *rest))
    if rest or not getattr(layer.routing, "reads_activations", False):  # else lengths of u matter, too
        assert same_bits(gradients_of(layer, (half(u), *rest)), (y, dx, grads))
    assert same_bits(grads["votes.W"], half(grads["votes.W"]))
    assert not same_bits(grads, gradients_of(layer.set_precision("float32"), (u, *rest))[2])
    layer.set_precision("mixed")
    # Gradients of votes beyond float16, but children so small that the gradient of W is not
    u = (0.01 / abs(u).max()) * u
    dy = upstream(layer.forward(u, *rest)[0])
    gradients_of(plain, (u, *rest), dy)
    for largest, fits in ((6e4, True), (1e6, False)):
        factor = largest / abs(plain.votes.du_hat).max()
        large = map_arrays(lambda part: (factor * part).astype(np.float32), dy)  # noqa: B023
        with np.errstate(over="ignore", invalid="ignore"):
            found = gradients_of(layer, (u, *rest), large)[2]["votes.W"]
        assert np.isfinite(found).all() == fits
        full = gradients_of(layer.set_precision("float32"), (u, *rest), large)[2]["votes.W"]
        assert np.isfinite(full).all() and abs(full).max() < 6e4
        layer.set_precision("mixed")


# -- what keeps the precision, and what does not -----------------------------------------------


def small_mixed(**options):
    return mixed_network(("capsnet", "tiny", options))


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_keep_the_precision(copied):
    network, images, labels = small_mixed()
    other = copied(network)
    assert {layer.precision for _, layer in other.walk()} == {"mixed"}
    assert bits(found_of(other, images, labels)) == bits(found_of(network, images, labels))


@pytest.mark.parametrize("each", SMALL_NETWORKS, ids=label)
def test_snapshots_for_inference_and_evaluations_are_float32(each):
    network, images, labels = mixed_network(each)
    full = copy.deepcopy(network).set_precision("float32")
    snapshot, expected = network.for_inference(), full.for_inference()
    assert same_bits(snapshot(images), expected(images))
    assert not same_bits(network(images), snapshot(images))
    assert {layer.precision for _, layer in snapshot.walk()} == {"float32"}
    assert {layer.precision for _, layer in network.walk()} == {"mixed"}
    pictures = (255 * images).astype(np.uint8)
    found, expected = evaluate(network, pictures, labels), evaluate(full, pictures, labels)
    assert found.loss == expected.loss and same_bits(found.scores, expected.scores)


def test_float32_again_is_float32():
    network, images, labels = small_mixed()
    fresh = build("capsnet", "tiny", rng=7)
    fresh.load_state(network.state())
    assert bits(found_of(network.set_precision("float32"), images, labels)) == bits(
        found_of(fresh, images, labels)
    )


def test_what_cannot_be_mixed_is_refused():
    double = build("mlp", rng=0, dtype=np.float64)
    with pytest.raises(
        TypeError, match=r"MLP.set_precision: chain.fc1.W is float64, expected float32 for mixed"
    ):
        double.set_precision("mixed")
    assert {layer.precision for _, layer in double.walk()} == {"float32"}
    single = double.astype(np.float32).set_precision("mixed")
    with pytest.raises(TypeError, match=r"MLP.astype: got float64, expected float32 with mixed precision"):
        single.astype(np.float64)
    assert single.astype(np.float32).first_param.dtype == np.float32
    assert single.set_precision("float32").astype(np.float64).first_param.dtype == np.float64
    with pytest.raises(ValueError, match="precision is 'float16', expected 'float32' or 'mixed'"):
        single.set_precision("float16")
    with pytest.raises(ValueError, match="set_precision: a snapshot for inference is read-only"):
        single.for_inference().set_precision("mixed")
    assert ReLU().set_precision("mixed").precision == "mixed"  # which has no parameters at all


@pytest.mark.parametrize("each", SMALL_NETWORKS, ids=label)
def test_threads_change_no_bit(each, with_threads, small_slices):
    network, images, labels = mixed_network(each)
    found = []
    for count in (1, 2):
        with_threads(count)
        found.append(bits(found_of(network, images, labels)))
    assert found[0] == found[1]


# -- the scale of the loss ---------------------------------------------------------------------


def by_grad_scaler(found_inf, scale, tracker, interval):
    """One ``update`` of PyTorch's GradScaler: (scale, growth tracker), from ``_amp_update_scale_``."""
    if found_inf:
        return scale * 0.5, 0
    tracker += 1
    if tracker == interval:
        grown = np.float32(scale) * np.float32(2)
        return float(grown) if np.isfinite(grown) else scale, 0
    return scale, tracker


@given(finite=st.lists(st.booleans(), max_size=60), interval=st.integers(1, 5), power=st.integers(0, 127))
def test_the_scale_follows_the_rules_of_grad_scaler(finite, interval, power):
    loss_scale, expected = LossScale(2.0**power, grow_after=interval), (2.0**power, 0)
    for good in finite:
        with np.errstate(over="ignore"):
            expected = by_grad_scaler(not good, *expected, interval)
        loss_scale.note(good)
        assert (loss_scale.scale, loss_scale.good_steps) == expected
    assert loss_scale.skipped_steps == finite.count(False)
    kept = LossScale(2.0**power, grow_after=interval, fixed=True)
    for good in finite:
        kept.note(good)
    assert (kept.scale, kept.skipped_steps) == (2.0**power, finite.count(False))


def test_the_scaled_loss_is_the_same_one_until_the_loss_or_the_scale_is_another():
    loss_scale, one, other = LossScale(), layers.MarginLoss(), layers.MarginLoss()
    kept = loss_scale.scaled(one)
    assert loss_scale.scaled(one) is kept and kept.loss is one
    assert loss_scale.scaled(other).loss is other
    loss_scale.note(False)
    assert loss_scale.scaled(other).scale == loss_scale.scale != kept.scale


def test_it_begins_as_grad_scaler_does():
    loss_scale = LossScale()
    assert loss_scale.metrics() == {"skipped_steps": 0, "loss_scale": 65536.0}
    for _ in range(1999):
        loss_scale.note(True)
    assert loss_scale.scale == 65536
    loss_scale.note(True)
    assert loss_scale.scale == 131072
    largest = LossScale(2.0**126, grow_after=1)
    for _ in range(3):
        largest.note(True)
        assert (largest.scale, largest.good_steps) == (2.0**127, 0)  # float32 has nothing larger of the kind
    assert LossScale(MAX_SCALE).scale == MAX_SCALE
    for before, after in (
        (1, 1),
        (0.75, 0.75),
        (0.5, 1),
        (0.375, 0.75),
        (0.25, 0.5),
    ):  # of the largest number
        loss_scale = LossScale(before * MAX_SCALE, grow_after=1)
        loss_scale.note(True)
        assert loss_scale.scale == after * MAX_SCALE


def test_its_state_goes_on_and_wrong_ones_are_refused():
    loss_scale = LossScale(2.0**20, grow_after=3)
    for good in (True, False, False, True, True):
        loss_scale.note(good)
    other = LossScale(grow_after=3)
    other.load_state(loss_scale.state())
    for each in (loss_scale, other):
        each.note(True)
    assert other.state() == loss_scale.state() == {"scale": 2.0**19, "good_steps": 0, "skipped_steps": 2}
    good = loss_scale.state()
    for name, value, says in [
        ("scale", 0.5, "scale is 0.5"),
        ("scale", np.nan, "scale is nan"),
        ("scale", np.inf, "scale is inf"),
        ("good_steps", -1, "good_steps -1"),
        ("good_steps", 1.5, "good_steps 1.5"),
        ("skipped_steps", np.inf, "skipped_steps inf"),
        ("skipped_steps", [1, 2], "something else than three numbers"),
        ("scale", "one", "something else than three numbers"),
        ("more", 1, "got scale, good_steps, skipped_steps, more, expected"),
    ]:
        with pytest.raises(ValueError, match=f"LossScale.load_state: .*{says}"):
            other.load_state(good | {name: value})
    with pytest.raises(ValueError, match="got nothing, expected scale, good_steps, skipped_steps"):
        other.load_state({})
    assert other.state() == good
    for edge in (
        {"scale": 1.0, "good_steps": 0, "skipped_steps": 0},
        {"scale": MAX_SCALE, "good_steps": 2**63 - 1, "skipped_steps": 2**63 - 1},
    ):
        other.load_state(edge)
        assert other.state() == edge
    with pytest.raises(ValueError, match=f"skipped_steps {2**63}"):
        other.load_state(good | {"skipped_steps": np.uint64(2**63)})


def test_on_the_host_the_precision_has_no_say_in_how_a_convolution_is_computed():
    layer, u = fast.Conv2d(64, 64, 5, rng=0), np.zeros((40, 12, 12, 64), dtype=np.float32)
    kinds = {type(each.forward(u)[1]) for each in (layer, copy.deepcopy(layer).set_precision("mixed"))}
    assert kinds == {spectral.SpectralCache}


@pytest.mark.parametrize(
    "options", [{"scale": 0.5}, {"scale": np.inf}, {"scale": 1e39}, {"grow_after": 0}, {"fixed": 1}], ids=str
)
def test_wrong_scales_are_refused(options):
    with pytest.raises(ValueError, match=f"LossScale: {next(iter(options))} is"):
        LossScale(**options)


def state_of(source, adam):
    arrays = source.network.state() | adam.state()
    return {name: array.tobytes() for name, array in arrays.items()}


def test_a_step_that_overflows_is_left_out_and_halves_the_scale():
    network, images, labels = mixed_network(("efficient", "tiny", {}))
    network.zero_grad()
    source, adam = OneProcess(network), Adam(network, 1e-3)
    loss_scale = LossScale(2.0**40, grow_after=3)
    objective = source.objective
    first, history, losses = state_of(source, adam), [], set()
    while adam.steps == 0 and len(history) < 40:
        losses.add(train_step(source, adam, images, labels, loss_scale).loss)
        history.append(loss_scale.scale)
        skipped = adam.steps == 0
        assert (state_of(source, adam) == first) == skipped  # weights, moments, t and running sums
    assert source.objective is objective
    assert history == [2.0**40 / 2**k for k in range(1, len(history))] + [history[-2]]
    assert loss_scale.skipped_steps == len(history) - 1 > 5 and loss_scale.good_steps == 1
    assert len(losses) == 1  # the loss itself, not what was scaled
    before = loss_scale.scale
    for steps in (2, 3):
        assert loss_scale.scale == before
        train_step(source, adam, images, labels, loss_scale)
        assert adam.steps == steps
    assert loss_scale.scale == 2 * before and loss_scale.good_steps == 0


@pytest.mark.parametrize("slices", [1, 2], ids=["whole", "sliced"])
@pytest.mark.parametrize("name", ["capsnet", "efficient", "matrix", "cnn"])
def test_a_power_of_two_changes_no_bit_of_a_float32_training(name, slices):
    rng, found = np.random.default_rng(2), []
    images, labels = rng.random((4, 28, 28, 1), dtype=np.float32), rng.integers(0, 10, 4)
    growing, fixed = LossScale(2.0**4, grow_after=1), LossScale(2.0**8, fixed=True)
    for loss_scale in (None, LossScale(2.0**16), LossScale(1.0), fixed, growing):
        network = build(name, "tiny", rng=0)
        adam = Adam(network, 1e-3)
        with DataParallel(network, network.objective(), 4, slices) as source:
            results = [train_step(source, adam, images, labels, loss_scale) for _ in range(3)]
        found.append((results, state_of(source, adam)))
    assert all(each == found[0] for each in found)
    assert growing.scale == 2.0**7 and fixed.scale == 2.0**8


def test_running_sums_are_those_of_the_batch_whatever_the_scale():
    found = []
    for scale in (1.0, 2.0**12):
        network, images, labels = mixed_network(("efficient", "tiny", {}))
        with DataParallel(network, network.objective(), 2, 1) as source:
            train_step(source, Adam(network, 1e-3), images, labels, LossScale(scale))
        found.append({name: array.tobytes() for name, array in network.running.items()})
    assert found[0] == found[1] and len(found[0]) == 12


def test_gradients_that_float16_would_lose_are_learned_from():
    network, images, labels = small_mixed(layers=((12, 4), (8, 4)), decoder=False)
    network.capsules.votes.params["W"][...] *= 3e-2  # far from all classes: gradients are tiny
    zeros = []
    for loss_scale in (LossScale(1.0, fixed=True), LossScale()):
        source = OneProcess(copy.deepcopy(network))
        train_step(source, Adam(source.network, 1e-3), images, labels, loss_scale)
        zeros.append(np.mean([(grad == 0).mean() for grad in source.network.grads.values()]))
    assert zeros[0] == 1 and zeros[1] < 0.5


def test_a_scale_below_one_ends_the_training():
    network, images, labels = small_mixed()
    network.conv.params["W"][0, 0, 0, 0] = 1e6  # not a number of float16
    source, adam, loss_scale = OneProcess(network), Adam(network, 1e-3), LossScale(4.0)
    before = state_of(source, adam)
    for scale in (2.0, 1.0):
        assert not np.isfinite(train_step(source, adam, images, labels, loss_scale).loss)
        assert loss_scale.scale == scale
    with pytest.raises(Diverged) as caught:
        train_step(source, adam, images, labels, loss_scale)
    says = str(caught.value)
    assert says.startswith("the loss is nan, and the loss scale has fallen below 1 at step 1 (first is the ")
    assert "output of conv" in says and "smaller learning rate" in says
    assert state_of(source, adam) == before


def test_batches_without_a_loss_are_left_out_of_the_mean():
    progress = EpochProgress()
    assert np.isnan(progress.loss)
    for loss, images in ((2.0, 3), (np.nan, 5), (np.inf, 1), (4.0, 1)):
        progress.add(type("Result", (), {"loss": loss, "correct": 1}), images)
    assert progress.loss == (2 * 3 + 4) / 4 and progress.images == 10 and progress.correct == 4


# -- runs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(small_folder(tmp_path_factory.mktemp("data"), 200, 40))


@pytest.fixture
def overflows(monkeypatch):
    """Let runs begin with a scale that is too large, and grow it often: there are skipped steps all along."""
    monkeypatch.setattr("minicaps.training.loss_scale.LossScale", partial(LossScale, 2.0**23, grow_after=1))


def file_bits(folder, name):
    return {name: array.tobytes() for name, array in files.read(folder / name)[0].items()}


def without_clock(metrics):
    return [{k: x for k, x in row.items() if k not in ("seconds", "images_per_second")} for row in metrics]


MIXED_RUNS = {
    "CapsNet": {},
    "matrix capsules": {"model": "matrix", "preset": "tiny"},
    "EfficientCapsNet": {"model": "efficient", "preset": "tiny"},
    "cnn": {"model": "cnn"},
}


@pytest.mark.skipif(os.name != "posix", reason="other processes are started on POSIX only")
@pytest.mark.parametrize("options", MIXED_RUNS.values(), ids=MIXED_RUNS)
def test_a_run_that_is_stopped_and_shared_out_otherwise_skips_the_same_steps_and_has_the_same_bits(
    options, data, tmp_path, with_threads, overflows
):
    config = tiny_config(epochs=2, batch_size=20, slices=2, data=data, precision="mixed", **options)
    with_threads(2)
    Run(config, tmp_path / "straight", say=quiet).train()
    with_threads(1)
    stopped = Run(
        config, tmp_path / "stopped", say=quiet, progress=press_ctrl_c_at(12)
    )  # in the second epoch
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    skipped = stopped.loss_scale.skipped_steps
    assert 0 < skipped < 12 and stopped.optimizer.steps == 12 - skipped
    resumed = Run.resume(tmp_path / "stopped", say=quiet)
    assert resumed.loss_scale.state() == stopped.loss_scale.state()
    assert {layer.precision for _, layer in resumed.network.walk()} == {"mixed"}
    resumed.train()
    assert resumed.loss_scale.skipped_steps > skipped and resumed.optimizer.steps > 0
    for name in ("checkpoint.npz", "model.npz"):
        assert file_bits(tmp_path / "stopped", name) == file_bits(tmp_path / "straight", name)
    rows, others = (without_clock(read_metrics(tmp_path / name)) for name in ("stopped", "straight"))
    assert rows == others
    assert rows[1]["skipped_steps"] == resumed.loss_scale.skipped_steps > rows[0]["skipped_steps"] > 0
    assert rows[1]["loss_scale"] == resumed.loss_scale.scale


def test_an_epoch_of_skipped_steps_is_told_as_one(data, tmp_path, monkeypatch):
    monkeypatch.setattr("minicaps.training.loss_scale.LossScale", partial(LossScale, 2.0**100))
    said = []
    config = tiny_config(data=data, batch_size=100, precision="mixed", warmup=1)
    run = Run(config, tmp_path / "run", say=said.append)
    first = {name: array.tobytes() for name, array in run.network.state().items()}
    run.train()
    assert {name: array.tobytes() for name, array in run.network.state().items()} == first
    (row,) = read_metrics(tmp_path / "run")
    assert row["skipped_steps"] == 2 and row["loss_scale"] == 2.0**98 and run.optimizer.steps == 0
    assert np.isfinite(row["train_loss"]) and row["learning_rate"] == run.optimizer.schedule(0) > 0
    assert any("2 steps skipped, loss scale 316,912,650,057" in line for line in said)


def test_float32_runs_know_nothing_of_it(data, tmp_path):
    run = Run(tiny_config(data=data), tmp_path / "run", say=quiet)
    assert run.loss_scale is None
    run.train()
    (row,) = read_metrics(tmp_path / "run")
    assert (
        list(row)
        == (
            "epoch epochs train_loss train_accuracy learning_rate images_per_second validation_loss "
            "validation_accuracy seconds"
        ).split()
    )
    names = file_bits(tmp_path / "run", "checkpoint.npz").keys()
    assert {name.split("/")[0] for name in names} == {"network", "optimizer"}


def test_a_run_without_scaling_is_mixed_and_its_loss_stays_as_it_is(data, tmp_path):
    options = {"data": data, "batch_size": 100, "epochs": 1}
    runs = {
        precision: Run(tiny_config(precision=precision, **options), tmp_path / precision, say=quiet)
        for precision in ("unscaled", "mixed")
    }
    run = runs["unscaled"]
    by_hand = copy.deepcopy(run.network)
    assert {layer.precision for _, layer in by_hand.walk()} == {"mixed"}
    adam = Adam(by_hand, run.optimizer.schedule)
    for chosen, rng in epoch_batches(run.config.seed, 1, len(run.images), 100):
        x, y = to_batch(augment.shift(run.images[chosen], run.config.shift, rng), run.labels[chosen], np)
        with DataParallel(
            copy.deepcopy(by_hand), by_hand.objective(), 100
        ) as source:  # in slices, as runs are
            source.backpropagate(x, y)
            for name, grad in source.network.grads.items():
                by_hand.grads[name][...] = grad
        adam.step()
    for each in runs.values():
        each.train()
    assert same_bits(run.network.state(), by_hand.state())
    assert not same_bits(run.network.state(), runs["mixed"].network.state())
    assert run.epochs[0]["skipped_steps"] == 0 and run.epochs[0]["loss_scale"] == 1
    resumed = Run.resume(tmp_path / "unscaled", say=quiet)
    assert resumed.loss_scale.fixed and resumed.loss_scale.scale == 1


def test_a_checkpoint_of_the_other_precision_is_not_of_the_run(data, tmp_path):
    for precision in ("float32", "mixed"):
        Run(tiny_config(data=data, precision=precision), tmp_path / precision, say=quiet).train()
    (tmp_path / "mixed" / "checkpoint.npz").write_bytes(
        (tmp_path / "float32" / "checkpoint.npz").read_bytes()
    )
    with pytest.raises(
        ValueError, match=r"does not belong to this run \(precision is 'float32' in it, 'mixed'"
    ):
        Run.resume(tmp_path / "mixed", say=quiet)


# -- the command line --------------------------------------------------------------------------


def test_a_training_that_cannot_go_on_ends_with_one_line_and_keeps_its_checkpoint(
    elsewhere, complaint, data, tmp_path
):
    options = ["--preset", "tiny", "--data", data, "--batch-size", "5", "--precision", "mixed"]
    line = complaint("train", *options, "--learning-rate", "1e30", "--out", "run", code=cli.FAILED)
    assert (
        "the loss is nan, and the loss scale has fallen below 1 at step 2 (first is the weights" in line
        or (
            "the loss is nan, and the loss scale has fallen below 1 at step 2 (first is the output of conv"
            in line
        )
    )
    assert "a smaller learning rate may help (it is 1e+30); the run is kept as it was after epoch 0" in line
    config = tiny_config(data=data, batch_size=5, precision="mixed", learning_rate=1e30)
    fresh, kept = Run(config, tmp_path / "fresh", say=quiet), Run.resume("run", say=quiet)
    assert same_bits(kept.network.state(), fresh.network.state()) and kept.loss_scale.scale == 65536


def test_runs_shows_the_precision_as_a_difference(elsewhere, call, complaint, data):
    for precision in ("float32", "mixed"):
        config, said = tiny_config(data=data, precision=precision), []
        Run(config, f"runs/{precision}", say=said.append).train()
        assert any("steps skipped, loss scale" in line for line in said) == (precision == "mixed")
        assert ("--precision mixed" in commands_of(config, [])[0]) == (precision == "mixed")
    _, table, _ = call("runs")
    assert "--precision" in table.splitlines()[0] and table.count("mixed") == 2  # in the name, and the column
    code, _, errors = call("train", "--precision", "half")
    assert code == cli.WRONG_USE and "argument --precision: invalid choice: 'half'" in errors
    refused = complaint("train", "--resume", "runs/mixed", "--precision", "float32", code=cli.WRONG_USE)
    assert "leave out --precision" in refused
    with pytest.raises(ValueError, match="train: precision is 'half', expected 'float32' or 'mixed' or"):
        TrainConfig(precision="half")
