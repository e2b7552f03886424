"""Matrix capsules: votes, couplings over all windows, coordinates, the network, and its loss."""

import itertools

import numpy as np
import pytest

from minicaps.capsules import (
    ClassMatrixCaps,
    ConvMatrixCaps,
    EMRouting,
    MatrixVotes,
    PrimaryMatrixCaps,
    WindowSoftmax,
)
from minicaps.fast import ClassMatrixCaps as FastClassMatrixCaps
from minicaps.fast import ConvMatrixCaps as FastConvMatrixCaps
from minicaps.layers import SpreadLoss, softmax
from minicaps.networks import MATRIX_PRESETS, MatrixCapsNet, MatrixCapsNetConfig, build
from minicaps.training import Adam, OneProcess, train_step

both = pytest.mark.parametrize("cls", [ConvMatrixCaps, FastConvMatrixCaps], ids=["plain", "fast"])
both_of_classes = pytest.mark.parametrize(
    "cls", [ClassMatrixCaps, FastClassMatrixCaps], ids=["plain", "fast"]
)
OPTIONS = {"inverse_temperature": 0.1, "min_variance": 0.1, "std": 0.4, "rng": 0, "dtype": np.float64}


def with_betas(layer, seed=5):
    """The layer with β that are no zeros and differ between the types."""
    rng = np.random.default_rng(seed)
    for name, param in layer.params.items():
        if "beta" in name:
            param[...] = 0.5 * rng.normal(size=param.shape)
    return layer


def capsules(shape, seed=0):
    """Poses (B, H, W, types, 16) and activations (B, H, W, types)."""
    rng = np.random.default_rng(seed)
    return 0.4 * rng.normal(size=(*shape, 16)), rng.uniform(0.1, 0.9, size=shape)


# -- votes --------------------------------------------------------------------------------------


def test_a_vote_is_the_pose_times_the_matrix_in_this_order():
    layer = MatrixVotes(3, 2, std=1.0, rng=0, dtype=np.float64)
    poses = np.random.default_rng(1).normal(size=(2, 3, 16))
    u_hat, W = layer(poses), layer.params["W"]
    for b, i, j in np.ndindex(2, 3, 2):
        expected = poses[b, i].reshape(4, 4) @ W[i, :, j]
        np.testing.assert_allclose(u_hat[b, i, j], expected.reshape(-1), rtol=1e-12)


def test_the_first_matrices_are_near_the_identity():
    W = MatrixVotes(50, 40, std=0.1, rng=0).params["W"].swapaxes(1, 2)  # (I, J, 4, 4)
    noise = W - np.eye(4)
    assert abs(noise.mean()) < 1e-3 and abs(noise.std() - 0.1) < 1e-3


# -- couplings over windows ---------------------------------------------------------------------


def windows_that_see(kernel, stride, size):
    """Every (p, q, r, t) of a grid, by the row and column that it sees."""
    (KH, KW), (down, right) = kernel, stride
    found = {}
    for p, q in itertools.product(range((size[0] - KH) // down + 1), range((size[1] - KW) // right + 1)):
        for r, t in itertools.product(range(KH), range(KW)):
            found.setdefault((p * down + r, q * right + t), []).append((p, q, r, t))
    return found


@pytest.mark.parametrize(
    "kernel, stride", [((3, 2), (1, 1)), ((3, 3), (2, 2)), ((2, 3), (1, 2)), ((2, 2), (3, 3))]
)
@pytest.mark.parametrize("scale", [1, 1000])
def test_a_child_shares_itself_out_among_the_parents_of_all_windows_that_see_it(kernel, stride, scale):
    """In public codes types compete in one window only, or each type for itself."""
    types, J, P, Q = 3, 2, 4, 3
    size = (P - 1) * stride[0] + kernel[0], (Q - 1) * stride[1] + kernel[1]
    b = scale * np.random.default_rng(0).normal(size=(2, P, Q, kernel[0] * kernel[1] * types, J))
    with np.errstate(all="raise", under="ignore"):
        c = WindowSoftmax(kernel, stride=stride)(b)
    in_windows = c.reshape(2, P, Q, *kernel, types, J)
    for (_, seen), child in itertools.product(windows_that_see(kernel, stride, size).items(), range(types)):
        p, q, r, t = np.transpose(seen)
        logits = b.reshape(in_windows.shape)[:, p, q, r, t, child].reshape(2, -1)  # (B, windows·J)
        found = in_windows[:, p, q, r, t, child].reshape(2, -1)
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)
        np.testing.assert_allclose(found, softmax(logits), rtol=1e-10, atol=1e-300)


@both
@pytest.mark.parametrize("stride", [1, 2])
def test_the_first_couplings_are_even_over_all_parents_of_a_child(cls, stride):
    layer = cls(2, 3, 3, stride=stride, **OPTIONS)
    (y, _), cache = layer.forward(*capsules((2, 7, 7, 2)))
    c = cache.c[0].reshape(2, *y.shape[1:3], 3, 3, 2, 3)  # (B, P, Q, KH, KW, types, J)
    np.testing.assert_allclose(c[:, 0, 0, 0, 0], 1 / 3, rtol=1e-12)  # a corner: one window
    if stride == 1:
        np.testing.assert_allclose(c[:, 2, 2, 1, 1], 1 / (3 * 9), rtol=1e-12)  # the middle: nine
    for later in cache.c:
        assert later.sum() == pytest.approx(2 * 7 * 7 * 2)  # every child counts once


def test_a_window_softmax_refuses_children_that_fill_no_window():
    with pytest.raises(ValueError, match=r"axis 3 \(lower capsules I\) is 10, expected a multiple of 6"):
        WindowSoftmax((3, 2)).forward(np.zeros((2, 5, 4, 10, 3)))


# -- convolutional capsules ---------------------------------------------------------------------


def naive_conv_capsules(layer, poses, a):
    """EM routing of one sample over explicit pairs of a child and a parent, in plain probabilities."""
    size, J, W, fit = poses.shape[:2], layer.types, layer.votes.params["W"], layer.routing
    types = poses.shape[2]
    votes = {}
    for (row, column), seen in windows_that_see(layer.kernel_size, layer.stride, size).items():
        for (p, q, r, t), k, j in itertools.product(seen, range(types), range(J)):
            matrix = W[(r * layer.kernel_size[1] + t) * types + k, :, j]
            votes[(row, column, k), (p, q, j)] = (poses[row, column, k].reshape(4, 4) @ matrix).reshape(-1)
    parents_of, children_of = {}, {}
    for child, parent in votes:
        parents_of.setdefault(child, []).append(parent)
        children_of.setdefault(parent, []).append(child)
    R = {pair: 1 / len(parents_of[pair[0]]) for pair in votes}
    for iteration in range(1, fit.iterations + 1):
        share = (1 - 0.95**iteration) / (1 - 0.95**fit.iterations)
        found = {}
        for parent, children in children_of.items():
            r = np.array([R[child, parent] * a[child] for child in children])
            V = np.array([votes[child, parent] for child in children])
            mu = r @ V / r.sum()
            variance = r @ (V - mu) ** 2 / r.sum() + fit.min_variance
            cost = r.sum() * (16 * fit.params["beta_u"][parent[2]] + 0.5 * np.log(variance).sum())
            z = share * (fit.params["beta_a"][parent[2]] - fit.inverse_temperature * cost)
            found[parent] = mu, variance, 1 / (1 + np.exp(-z))
        for child, parents in parents_of.items():
            likely = []
            for parent in parents:
                mu, variance, active = found[parent]
                density = np.exp(-((votes[child, parent] - mu) ** 2 / (2 * variance)).sum())
                likely.append(active * density / np.sqrt(variance).prod())
            R.update({(child, parent): p / sum(likely) for parent, p in zip(parents, likely, strict=True)})
    return found


@both
@pytest.mark.parametrize("kernel, stride", [((3, 2), (1, 1)), ((3, 3), (2, 2)), ((2, 3), (1, 2))])
@pytest.mark.parametrize("iterations", [1, 3])
def test_convolutional_capsules_are_em_routing_over_all_pairs(cls, kernel, stride, iterations):
    layer = with_betas(cls(2, 3, kernel, stride=stride, iterations=iterations, **OPTIONS))
    poses, a = capsules((2, 6, 5, 2))
    mu, active = layer(poses, a)
    for b in range(2):
        found = naive_conv_capsules(layer, poses[b], a[b])
        assert len(found) == active[b].size
        for parent, (its_mu, _, its_a) in found.items():
            np.testing.assert_allclose(mu[(b, *parent)], its_mu, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(active[(b, *parent)], its_a, rtol=1e-9)


@both
def test_a_window_as_large_as_the_image_is_routing_between_full_layers(cls):
    layer = with_betas(cls(2, 3, (4, 3), iterations=3, **OPTIONS))
    poses, a = capsules((2, 4, 3, 2))
    full = EMRouting(3, 3, inverse_temperature=0.1, min_variance=0.1, dtype=np.float64)
    full.load_state(layer.routing.state())
    expected = full(layer.votes(poses.reshape(2, -1, 16)), a.reshape(2, -1))
    for one, other in zip(layer(poses, a), expected, strict=True):
        np.testing.assert_allclose(one[:, 0, 0], other, rtol=1e-10)


@both
@pytest.mark.parametrize("stride", [1, 2])
def test_what_moves_by_a_stride_is_seen_by_the_next_capsules(cls, stride):
    layer = with_betas(cls(2, 3, 3, stride=stride, iterations=3, **OPTIONS))
    poses, a = capsules((2, 13, 13, 2))
    active = np.zeros_like(a)
    active[:, 5:7, 5:7] = a[:, 5:7, 5:7]  # a child that is not active counts like a missing one
    moved = [np.roll(x, (stride, 2 * stride), axis=(1, 2)) for x in (poses, active)]
    for one, other in zip(layer(poses, active), layer(*moved), strict=True):
        assert np.ptp(one[:, :-1, :-2]) > 0.1
        np.testing.assert_allclose(other[:, 1:, 2:], one[:, :-1, :-2], rtol=1e-10, atol=1e-10)


@both
def test_one_child_and_the_identity_give_the_childs_pose(cls):
    """Where a public code's reshape scrambles poses and positions, this is what fails."""
    layer = cls(2, 1, 1, iterations=2, **OPTIONS)
    layer.votes.params["W"][...] = np.eye(4)[:, None]
    poses, a = capsules((2, 5, 4, 2))
    a[..., 1] = 0
    mu, _ = layer(poses, a)
    np.testing.assert_allclose(mu[..., 0, :], poses[..., 0, :], rtol=1e-10)


@both
def test_the_order_of_types_does_not_matter(cls):
    poses, a = capsules((2, 6, 5, 3))
    layer, other = (with_betas(cls(3, 4, (3, 2), stride=2, **OPTIONS)) for _ in range(2))
    mu, active = layer(poses, a)
    below, above = np.array([2, 0, 1]), np.array([1, 3, 0, 2])
    W = layer.votes.params["W"].reshape(6, 3, 4, 4, 4)[:, below][..., above, :]
    other.votes.params["W"][...] = W.reshape(other.votes.params["W"].shape)
    for name in ("beta_u", "beta_a"):
        other.routing.params[name][...] = layer.routing.params[name][above]
    found = other(poses[:, :, :, below], a[:, :, :, below])
    np.testing.assert_allclose(found[0], mu[..., above, :], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found[1], active[..., above], rtol=1e-10)


@both
def test_inputs_that_do_not_fit_are_told(cls):
    layer = cls(2, 3, (3, 2), **OPTIONS)
    poses, a = capsules((2, 6, 5, 2))
    with pytest.raises(
        ValueError, match=r"ConvMatrixCaps.forward: poses has .* axis 4 \(numbers of a pose E\) is 9"
    ):
        layer.forward(poses[..., :9], a)
    with pytest.raises(ValueError, match=r"ConvMatrixCaps.forward: a has .* axis 2 \(width W\) is 4, not 5"):
        layer.forward(poses, a[:, :, :4])
    with pytest.raises(ValueError, match="a window of height 3 does not fit an image of height 2"):
        layer.forward(poses[:, :2], a[:, :2])
    y, cache = layer.forward(poses, a)
    with pytest.raises(ValueError, match=r"ConvMatrixCaps.backward: dy has shape"):
        layer.backward((y[0][:, 1:], y[1]), cache)


# -- the first and the last ---------------------------------------------------------------------


def test_primary_capsules_take_poses_from_one_convolution_and_activations_from_the_other():
    layer = PrimaryMatrixCaps(3, 4, rng=0, dtype=np.float64)
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 3))
    poses, a = layer(x)
    assert ((0 < a) & (a < 1)).all()
    W, bias = layer.poses.params["W"][0, 0], layer.poses.params["bias"]
    for t in range(4):
        own = slice(16 * t, 16 * t + 16)
        np.testing.assert_allclose(poses[:, :, :, t], x @ W[:, own] + bias[own], rtol=1e-10, atol=1e-12)
    layer.activations.params["W"][...] += 1
    assert np.array_equal(layer(x)[0], poses) and (layer(x)[1] != a).all()
    layer.poses.params["W"][...] += 1
    changed = layer(x)
    layer.activations.params["W"][...] -= 1
    np.testing.assert_allclose(layer(x)[1], a, rtol=1e-12)
    assert (changed[0] != poses).any()


@both_of_classes
def test_class_capsules_are_routing_between_full_layers_with_one_matrix_for_a_type(cls):
    layer = with_betas(cls(2, 5, coordinates=False, iterations=3, **OPTIONS))
    poses, a = capsules((3, 4, 3, 2))
    full = EMRouting(5, 3, inverse_temperature=0.1, min_variance=0.1, dtype=np.float64)
    full.load_state(layer.routing.state())
    expected = full(layer.votes(poses).reshape(3, -1, 5, 16), a.reshape(3, -1))
    for one, other in zip(layer(poses, a), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)
    moved = np.roll(poses, 1, axis=1), np.roll(a, 1, axis=1)
    np.testing.assert_allclose(
        layer(*moved)[1], layer(poses, a)[1], rtol=1e-10
    )  # no coordinates: nobody knows


@both_of_classes
def test_coordinates_are_added_to_the_first_two_numbers_of_the_last_column(cls):
    layer = cls(1, 1, iterations=1, **OPTIONS)
    layer.votes.params["W"][...] = np.eye(4)[:, None]
    poses, a = np.zeros((1, 4, 5, 1, 16)), np.zeros((1, 4, 5, 1))
    for row, column in [(0, 0), (3, 2), (1, 4)]:
        a[...] = 0
        a[0, row, column] = 0.7
        expected = np.zeros((4, 4))
        expected[0, 3], expected[1, 3] = (row + 0.5) / 4, (column + 0.5) / 5
        np.testing.assert_allclose(layer(poses, a)[0].reshape(4, 4), expected, atol=1e-10)


def test_the_defaults_are_those_of_the_documentation():
    conv, classes = ConvMatrixCaps(2, 3, 3), ClassMatrixCaps(2, 3)
    for layer in (EMRouting(3), conv.routing, classes.routing):
        options = layer.iterations, layer.inverse_temperature, layer.min_variance
        assert options == (3, 0.001, 5e-4)
        assert (layer.params["beta_u"] == 0).all() and (layer.params["beta_a"] == 0).all()
    assert conv.stride == conv.routing.coupling.stride == WindowSoftmax(3).stride == (1, 1)
    assert conv.votes.std == classes.votes.std == MatrixVotes(2, 3).std == 0.1 and classes.coordinates
    layers = EMRouting(3), conv, classes, MatrixVotes(2, 3), PrimaryMatrixCaps(2, 3)
    assert {param.dtype for layer in layers for param in layer.params.values()} == {np.dtype(np.float32)}


# -- the loss -----------------------------------------------------------------------------------


def test_the_spread_loss_by_hand():
    a, labels = np.array([[0.5, 0.1, 0.8], [0.9, 0.0, 0.1]]), np.array([0, 0])
    loss = SpreadLoss(margin=0.6)  # gaps: 0.6 - 0.4 and 0.6 + 0.3; in the second sample none
    value, cache = loss.forward(a, labels)
    assert value == pytest.approx((0.2**2 + 0.9**2) / 2)
    expected = np.array([[-2 * (0.2 + 0.9), 2 * 0.2, 2 * 0.9], [0, 0, 0]]) / 2
    np.testing.assert_allclose(loss.backward(cache), expected, atol=1e-15)


def test_the_margin_grows_evenly_and_ends_where_it_should():
    loss = SpreadLoss()
    margins = [loss.at(done).margin for done in (0, 0.5, 1, 1.5)]
    assert margins == pytest.approx([0.2, 0.55, 0.9, 0.9]) and loss.margin == 0.9


@pytest.mark.parametrize("cls", [ClassMatrixCaps, FastClassMatrixCaps, ConvMatrixCaps, FastConvMatrixCaps])
def test_other_than_two_gradients_are_told(cls):
    layer = cls(2, 3, **({"kernel_size": 2} if issubclass(cls, ConvMatrixCaps) else {}), rng=0)
    poses, a = capsules((2, 3, 3, 2))
    y, cache = layer.forward(poses.astype(np.float32), a.astype(np.float32))
    for dy, got in (((*y, y[1]), "3 of them"), (y[0], "ndarray")):
        with pytest.raises(
            TypeError, match=rf"MatrixCaps.backward: got {got}, expected two gradients, \(dmu"
        ):
            layer.backward(dy, cache)
    layer.backward(y, cache)


def test_labels_and_margins_that_cannot_be_are_told():
    with pytest.raises(ValueError, match="labels run from 0 to 3, expected 0 to 2"):
        SpreadLoss().forward(np.zeros((2, 3)), np.array([0, 3]))
    with pytest.raises(ValueError, match="margin is -1"):
        SpreadLoss(margin=-1)
    with pytest.raises(ValueError, match=r"SpreadLoss: first_margin is 1\.5, expected 0 to 1, as"):
        SpreadLoss(first_margin=1.5)


# -- the network --------------------------------------------------------------------------------


def test_the_presets_have_so_many_parameters():
    counts = {name: config.count_params() for name, config in MATRIX_PRESETS.items()}
    assert counts == {"tiny": 16_728, "small": 63_260, "paper": 318_964}
    assert build("matrix", "tiny", rng=0).count_params() == 16_728


def test_the_network_learns_a_few_images_by_heart():
    network = build("matrix", "tiny", image_shape=(20, 20, 1), classes=3, rng=0)
    images = np.random.default_rng(0).random((6, 20, 20, 1), dtype=np.float32)
    labels = np.arange(6) % 3
    source, adam = OneProcess(network), Adam(network, 0.01)
    losses = [train_step(source, adam, images, labels).loss for _ in range(100)]
    assert losses[-1] < 0.2 * losses[0]
    assert (network.predict(images) == labels).all()


def test_the_table_shows_the_shapes_of_the_poses():
    shapes = build("matrix", "tiny", rng=0).output_shapes()
    assert shapes == {
        "conv": (12, 12, 16), "relu": (12, 12, 16), "primary": (12, 12, 4, 16), "first": (5, 5, 8, 16),
        "second": (3, 3, 8, 16), "capsules": (10, 16),
    }  # fmt: skip


@pytest.mark.parametrize(
    "options, message",
    [
        ({"types": (8, 0)}, "types 1 is 0, expected a whole number above 0"),
        ({"types": 8}, "types is 8, expected one number for each of two layers"),
        ({"kernels": (3, 9)}, "the second convolutional capsules: a window of height 9 does not fit"),
        ({"image_shape": (4, 28, 1)}, "the first convolution: a window of height 5 does not fit"),
        ({"coordinates": 1}, "coordinates is 1, expected True or False"),
        ({"min_variance": 0}, "min_variance is 0, expected a number above 0"),
    ],
)
def test_a_configuration_that_no_network_can_have_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        MatrixCapsNetConfig(**options)


def test_one_seed_gives_one_network():
    one, same, other = (MatrixCapsNet(MATRIX_PRESETS["tiny"], rng=seed).state() for seed in (1, 1, 2))
    assert all((one[name] == same[name]).all() for name in one)
    assert (one["first.votes.W"] != other["first.votes.W"]).any()
