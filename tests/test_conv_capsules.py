"""Convolutional and deconvolutional capsules: votes, routing at every position, 3-D routing."""

import numpy as np
import pytest

from minicaps.capsules import (
    CapsuleLayer,
    ConvCaps,
    ConvVotes,
    Coupling,
    DeconvCaps,
    DeconvVotes,
    DynamicRouting,
    DynamicRouting3D,
    EMRouting,
    Entmax,
    Frozen,
    Hard,
    InvertedAttentionRouting,
    Leaky,
    MapSquash,
    Prior,
    Routing,
    SelfAttentionRouting,
    Softmax,
    Squash,
    TopK,
    conv_votes,
)
from minicaps.layers import transposed_size

I, D, J, E = 3, 6, 4, 5
SIZES = I, D, J, E
OPTIONS = {"std": 0.5, "rng": 0, "dtype": np.float64}
WINDOWS = [  # kernel, stride, padding
    ((3, 2), (1, 1), (0, 0)),
    ((2, 3), (2, 1), (0, 0)),
    ((3, 3), (1, 2), (2, 1)),
    ((2, 2), (3, 3), (1, 0)),
    ((1, 1), (2, 1), (0, 0)),
]

both_votes = pytest.mark.parametrize("cls", [ConvVotes, DeconvVotes])
both_layers = pytest.mark.parametrize("cls", [ConvCaps, DeconvCaps])
windows = pytest.mark.parametrize("kernel, stride, padding", WINDOWS)
shared_or_not = pytest.mark.parametrize("shared", [False, True], ids=["own W", "one W"])


def capsules(shape=(2, 7, 5), seed=0):
    """Capsules u (*shape, I, D), by default (B, H, W, I, D)."""
    return np.random.default_rng(seed).normal(size=(*shape, I, D))


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


# -- votes --------------------------------------------------------------------------------------


@windows
@shared_or_not
def test_a_vote_is_the_sum_over_a_window_of_the_children_of_one_type(kernel, stride, padding, shared):
    layer = ConvVotes(*SIZES, kernel, stride=stride, padding=padding, shared=shared, **OPTIONS)
    u = capsules()
    found = layer(u)
    expected = np.zeros(found.shape)
    for p, q, r, t, i in np.ndindex(*found.shape[1:3], *kernel, I):
        row, column = p * stride[0] + r - padding[0], q * stride[1] + t - padding[1]
        if 0 <= row < u.shape[1] and 0 <= column < u.shape[2]:
            W = layer.params["W"][0 if shared else i, r, t]  # (D, J, E)
            expected[:, p, q, i] += np.tensordot(u[:, row, column, i], W, axes=1)
    assert found.shape[1:3] == layer.output_size(u.shape[1:3])
    assert_close(found, expected)


@windows
@shared_or_not
def test_a_child_votes_for_a_window_of_the_finer_grid(kernel, stride, padding, shared):
    layer = DeconvVotes(*SIZES, kernel, stride=stride, padding=padding, shared=shared, **OPTIONS)
    u = capsules()
    found = layer(u)
    expected = np.zeros(found.shape)
    for h, w, r, t, i in np.ndindex(*u.shape[1:3], *kernel, I):
        p, q = h * stride[0] + r - padding[0], w * stride[1] + t - padding[1]
        if 0 <= p < found.shape[1] and 0 <= q < found.shape[2]:
            W = layer.params["W"][0 if shared else i, :, r, t]  # (D, J, E)
            expected[:, p, q, i] += np.tensordot(u[:, h, w, i], W, axes=1)
    assert found.shape[1:3] == transposed_size("here", u.shape[1:3], kernel, stride, padding)
    assert_close(found, expected)


@windows
@shared_or_not
def test_deconvolution_is_convolution_transposed(kernel, stride, padding, shared):
    """⟨conv(x), y⟩ = ⟨x, deconv(y)⟩ for the same matrices, transposed."""
    window = {"stride": stride, "padding": padding, "shared": shared}
    down = ConvVotes(I, D, J, E, kernel, **window, **OPTIONS)
    up = DeconvVotes(I, J * E, 1, D, kernel, **window, **OPTIONS)
    W = down.params["W"]  # (I, KH, KW, D, J, E)
    up.params["W"][...] = W.reshape(*W.shape[:4], 1, J * E).transpose(
        0, 5, 1, 2, 4, 3
    )  # (I, J·E, KH, KW, 1, D)
    grid = (4, 3)
    size = up.output_size(grid)  # the smallest image with this grid of windows
    assert down.output_size(size) == grid
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, *size, I, D)), rng.normal(size=(2, *grid, I, J * E))
    one = (down(x).reshape(y.shape) * y).sum()
    other = (x * up(y)[..., 0, :]).sum()
    assert one == pytest.approx(other, rel=1e-10) and abs(one) > 0.1


@both_votes
def test_one_W_for_all_types_is_the_same_W_for_each(cls):
    one, many = cls(*SIZES, (3, 2), shared=True, **OPTIONS), cls(*SIZES, (3, 2), **OPTIONS)
    many.params["W"][...] = one.params["W"]
    u = capsules()
    u_hat, cache = one.forward(u)
    assert_close(u_hat, many(u))
    du_hat = np.random.default_rng(1).normal(size=u_hat.shape)
    assert_close(one.backward(du_hat, cache), many.backward(du_hat, many.forward(u)[1]))
    assert_close(one.grads["W"][0], many.grads["W"].sum(axis=0))
    assert one.params["W"].size * I == many.params["W"].size


@pytest.mark.parametrize(
    "cls, options",
    [(ConvVotes, {}), (ConvVotes, {"shared": True}), (DeconvVotes, {}), (DeconvVotes, {"stride": 2})],
)
def test_at_the_start_a_parent_is_about_half_as_long_as_can_be(cls, options):
    """The default W makes s about 1 long, of capsules below that are half as long as can be."""
    votes = cls(8, 6, 5, 16, 4, rng=0, dtype=np.float64, **options)
    u = np.random.default_rng(0).normal(size=(2, 12, 12, 8, 6))
    u *= 0.5 / np.linalg.norm(u, axis=-1, keepdims=True)
    s = votes(u).sum(axis=3)[:, 3:-3, 3:-3] / 5  # uniform couplings; away from the border
    assert 0.9 < np.sqrt((s**2).sum(axis=-1).mean()) < 1.1


# -- properties, each of which some public code has not -------------------------------------------


def with_kernel_1(cls):
    """A layer whose votes are the children's poses as they are."""
    layer = cls(I, D, 1, D, 1, **OPTIONS)
    layer.params["W"][...] = np.eye(D).reshape(layer.params["W"].shape[1:])
    return layer


def kernel_1_and_the_identity_give_the_childs_pose(cls):
    u = capsules()
    assert_close(with_kernel_1(cls)(u)[..., 0, :], u)


def a_batch_is_its_samples(cls):
    layer, u = cls(*SIZES, (3, 2), stride=2, padding=1, **OPTIONS), capsules((4, 7, 5))
    assert_close(layer(u), np.concatenate([layer(u[k : k + 1]) for k in range(4)]))
    assert_close(layer(u[[2, 0, 3, 1]]), layer(u)[[2, 0, 3, 1]])


def a_child_is_heard_within_its_window_alone(cls):
    layer, u = cls(*SIZES, 3, **OPTIONS), capsules()
    changed = u.copy()
    changed[1, 4, 2, 1] += 1  # sample 1, row 4, column 2, type 1
    moved = (layer(changed) != layer(u)).any(axis=(-2, -1))  # (B, P, Q, I)
    expected = np.zeros(moved.shape, dtype=bool)
    rows, columns = (slice(2, 5), slice(0, 3)) if isinstance(layer, ConvVotes) else (slice(4, 7), slice(2, 5))
    expected[1, rows, columns, 1] = True
    np.testing.assert_array_equal(moved, expected)


def what_moves_below_moves_above(cls):
    layer, u = cls(*SIZES, 3, stride=2, **OPTIONS), np.zeros((2, 13, 13, I, D))
    u[:, 4:8, 4:8] = capsules((2, 4, 4))
    down, right = (2, 4) if isinstance(layer, ConvVotes) else (1, 2)
    below, above = (down, right), (1, 2) if isinstance(layer, ConvVotes) else (2, 4)
    assert np.ptp(layer(u)) > 1
    assert_close(layer(np.roll(u, below, axis=(1, 2))), np.roll(layer(u), above, axis=(1, 2)))


def the_order_of_types_does_not_matter(cls):
    below, above = np.array([2, 0, 1]), np.array([1, 3, 0, 2])
    one, other = (cls(*SIZES, (3, 2), **OPTIONS) for _ in range(2))
    other.params["W"][...] = one.params["W"][below][..., above, :]
    u = capsules()
    assert_close(other(u[..., below, :]), one(u)[..., below, :, :][..., above, :])


PROPERTIES = [
    kernel_1_and_the_identity_give_the_childs_pose,
    a_batch_is_its_samples,
    a_child_is_heard_within_its_window_alone,
    what_moves_below_moves_above,
    the_order_of_types_does_not_matter,
]


@both_votes
@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda holds: holds.__name__)
def test_votes_have_the_property_that(holds, cls):
    holds(cls)


def samples_mixed(x, I, *pose):
    """As SegCaps: (types·batch) is read as (batch, types)."""
    B = len(x) // I
    return x.reshape(B, I, *x.shape[1:3], *pose).transpose(0, 2, 3, 1, *range(4, 4 + len(pose)))


def channels_read_as_positions(x, I, *pose):
    """As apple's CapsuleCONV: poses last in memory, and a view of them as the grid."""
    _, H, W, _ = x.shape
    return np.moveaxis(x.reshape(I, -1, *pose, H, W), (0, -2, -1), (3, 1, 2))


def positions_read_as_channels(x):
    """As DeepCaps' ConvCapsuleLayer3D: the tensor that was transposed is not the one that is reshaped."""
    B, H, W, I = x.shape[:4]
    return x.reshape(B, I, -1, H, W).transpose(1, 0, 3, 4, 2).reshape(I * B, H, W, -1)


def rows_and_columns_changed_over(x):
    B, H, W, I = x.shape[:4]
    return np.moveaxis(x, 3, 0).reshape(I * B, W, H, -1).swapaxes(1, 2)


MUTANTS = [  # what stands in conv_votes.py, what a public code has there, which properties it breaks
    ("types_back", samples_mixed, {0, 1, 2, 4}),
    ("types_back", channels_read_as_positions, {0, 2, 3, 4}),
    ("types_first", positions_read_as_channels, {0, 2, 3, 4}),
    ("types_first", rows_and_columns_changed_over, {0, 2, 3}),
]


@both_votes
@pytest.mark.parametrize("name, mutant, broken", MUTANTS, ids=lambda value: getattr(value, "__name__", ""))
def test_what_public_codes_do_instead_is_caught(name, mutant, broken, cls, monkeypatch):
    monkeypatch.setattr(conv_votes, name, mutant)
    found = set()
    for k, holds in enumerate(PROPERTIES):
        try:
            holds(cls)
        except AssertionError:
            found.add(k)
    assert found == broken


# -- layers -------------------------------------------------------------------------------------


def at_a_position(layer, W):
    """The capsule layer of one position of a convolutional one, with its routing; W (I, D', J, E)."""
    full = CapsuleLayer(*W.shape, routing=layer.routing, dtype=W.dtype)
    full.votes.params["W"][...] = W
    return full


@both_layers
def test_a_window_as_large_as_the_image_is_routing_between_full_layers(cls):
    """From an image to one position; and, deconvolved, from one position to an image."""
    image = (4, 3)
    layer = cls(*SIZES, image, bias=True, **OPTIONS)
    W = layer.votes.params["W"]
    if cls is ConvCaps:
        u = capsules((2, *image))
        poses = u.transpose(0, 3, 1, 2, 4).reshape(2, I, -1)  # (B, I, H·W·D)
        assert_close(layer(u)[:, 0, 0], at_a_position(layer, W.reshape(I, -1, J, E))(poses))
    else:
        u = capsules((2, 1, 1))
        for r, t in np.ndindex(image):
            assert_close(layer(u)[:, r, t], at_a_position(layer, W[:, :, r, t])(u[:, 0, 0]))


@both_layers
def test_with_kernel_1_every_position_is_a_capsule_layer(cls):
    layer, u = cls(*SIZES, 1, iterations=2, **OPTIONS), capsules()
    full = at_a_position(layer, layer.votes.params["W"].reshape(SIZES))
    expected = full(u.reshape(-1, I, D))
    assert_close(layer(u), expected.reshape(*u.shape[:3], J, E))


ROUTINGS = {
    "dynamic": lambda: DynamicRouting(3),
    "dynamic with bias": lambda: DynamicRouting(2, bias_shape=(J, E), dtype=np.float64),
    "leaky": lambda: DynamicRouting(3, coupling=Leaky()),
    "hard": lambda: DynamicRouting(3, coupling=Hard()),
    "top 2": lambda: DynamicRouting(3, coupling=TopK(2)),
    "entmax": lambda: DynamicRouting(3, coupling=Entmax()),
    "prior": lambda: DynamicRouting(3, coupling=Prior(I, J, dtype=np.float64)),
    "frozen": lambda: DynamicRouting(2, coupling=Frozen(np.random.default_rng(0).uniform(size=(I, J)))),
    "self-attention": lambda: SelfAttentionRouting(bias_shape=(I, J), dtype=np.float64),
    "inverted attention": lambda: InvertedAttentionRouting(E, dtype=np.float64),
}


@both_layers
@pytest.mark.parametrize("name", ROUTINGS)
def test_any_routing_serves_at_every_position(cls, name):
    layer = cls(*SIZES, (3, 2), stride=2, routing=ROUTINGS[name](), **OPTIONS)
    u = capsules()
    v, cache = layer.forward(u)
    u_hat = layer.votes(u)  # (B, P, Q, I, J, E)
    for p, q in np.ndindex(u_hat.shape[1:3]):
        assert_close(v[:, p, q], layer.routing(u_hat[:, p, q]))
    assert cache.c[-1].shape == u_hat.shape[:-1]
    assert_close(cache.c[-1][:, 1, 1], layer.routing.forward(u_hat[:, 1, 1])[1].c[-1])


@both_layers
def test_several_outputs_of_a_routing_keep_the_grid(cls):
    routing = DynamicRouting(2, outputs=("v", "c", "change"))
    layer, u = cls(*SIZES, (3, 2), routing=routing, **OPTIONS), capsules()
    (v, c, change), cache = layer.forward(u)
    assert_close(v, cls(*SIZES, (3, 2), iterations=2, **OPTIONS)(u))
    assert c.shape == (*v.shape[:3], I, J) and change.shape == v.shape
    assert_close(c.sum(axis=-1), 1)
    with pytest.raises(ValueError, match=r"got 1 gradients, expected one for each of \('v', 'c', 'change'\)"):
        layer.backward(v, cache)


@both_layers
def test_one_iteration_is_the_mean_of_the_votes_squashed(cls):
    layer, u = cls(*SIZES, 3, iterations=1, **OPTIONS), capsules()
    assert_close(layer(u), Squash()(layer.votes(u).sum(axis=3) / J))


@both_layers
def test_the_bias_starts_at_a_tenth_and_belongs_to_a_type_at_all_positions(cls):
    layer = cls(*SIZES, 3, iterations=1, bias=True, **OPTIONS)
    assert (layer.params["routing.bias"] == 0.1).all()
    layer.params["routing.bias"][...] = np.arange(J * E).reshape(J, E)
    u = np.zeros((2, 5, 4, I, D))
    expected = Squash()(np.arange(J * E, dtype=float).reshape(J, E))
    assert_close(layer(u), np.broadcast_to(expected, layer(u).shape))


# -- 3-D routing ----------------------------------------------------------------------------------


def procedure_3d(u_hat, iterations):
    """3-D routing of one sample's votes (P, Q, I, J, E), as the equations say it."""
    P, Q, I, J, _ = u_hat.shape
    b = np.zeros((P, Q, I, J))
    for _ in range(iterations):
        c = np.exp(b)
        for i in range(I):
            c[:, :, i] /= sum(np.exp(b[p, q, i, j]) for p, q, j in np.ndindex(P, Q, J))
        s = np.einsum("pqij,pqije->pqje", c, u_hat)
        v = np.zeros_like(s)
        for j in range(J):
            n = np.sqrt((s[:, :, j] ** 2).sum())  # over all positions and the pose
            v[:, :, j] = n**2 / (1 + n**2) * s[:, :, j] / n
        b = b + np.einsum("pqije,pqje->pqij", u_hat, v)
    return v, c


VOTES = 4 * np.random.default_rng(3).normal(size=(2, 3, 2, I, J, E))  # (B, P, Q, I, J, E)


@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_3d_routing_is_its_procedure(iterations):
    v, cache = DynamicRouting3D(J, iterations).forward(VOTES)
    for sample in range(2):
        expected, c = procedure_3d(VOTES[sample], iterations)
        assert_close(v[sample], expected)
        assert_close(cache.c[-1][sample], c)


def couplings_sum_to_1_over_types_and_positions(routing):
    for c in routing.forward(VOTES)[1].c:
        assert_close(c.sum(axis=(1, 2, 4)), 1)
    assert_close(routing.forward(VOTES)[1].c[0], 1 / (J * 3 * 2))


def test_in_3d_routing_all_parents_at_all_positions_compete():
    couplings_sum_to_1_over_types_and_positions(DynamicRouting3D(J))


class Within(Coupling):
    """A softmax in which parents compete within each type, or within each position, only."""

    def __init__(self, axis):
        super().__init__()
        self.axis = axis

    def forward(self, b):
        e = np.exp(b.reshape(*b.shape[:2], J, -1))  # (B, I, J, P·Q)
        return (e / e.sum(axis=self.axis, keepdims=True)).reshape(b.shape), None

    def backward(self, dc, cache):
        raise NotImplementedError


@pytest.mark.parametrize("axis", [2, 3], ids=["types only", "positions only"])
def test_a_softmax_over_less_than_the_whole_grid_is_caught(axis):
    with pytest.raises(AssertionError):
        couplings_sum_to_1_over_types_and_positions(DynamicRouting3D(J, coupling=Within(axis)))
    v, _ = DynamicRouting3D(J, 2, coupling=Within(axis)).forward(VOTES)
    assert abs(v[0] - procedure_3d(VOTES[0], 2)[0]).max() > 0.1


def test_the_order_of_types_and_positions_does_not_matter_to_3d_routing():
    routing, above, rows = DynamicRouting3D(J), np.array([1, 3, 0, 2]), np.array([2, 0, 1])
    v = routing(VOTES)
    assert_close(routing(VOTES[..., above, :]), v[..., above, :])
    assert_close(routing(VOTES[:, rows]), v[:, rows])
    assert_close(routing(VOTES[:, :, :, [2, 0, 1]]), v)
    assert_close(routing(VOTES[[1, 0]]), v[[1, 0]])


def test_at_one_position_3d_routing_is_dynamic_routing():
    votes = VOTES[:, :1, :1]
    assert_close(DynamicRouting3D(J)(votes)[:, 0, 0], DynamicRouting()(votes[:, 0, 0]))


def test_3d_routing_with_couplings_and_squash_of_each_position_is_routing_at_each_position():
    """What makes it 3-D is the softmax and the squash, and nothing else."""
    v = DynamicRouting3D(J, coupling=Within(2), squash=Squash())(VOTES)
    for p, q in np.ndindex(3, 2):
        assert_close(v[:, p, q], DynamicRouting()(VOTES[:, p, q]))


def test_3d_routing_takes_other_couplings():
    leaky = DynamicRouting3D(J, coupling=Leaky()).forward(VOTES)[1]
    assert_close(leaky.c[0], 1 / (J * 3 * 2 + 1))
    assert (DynamicRouting3D(J, coupling=Entmax()).forward(VOTES)[1].c[-1] == 0).any()


def test_a_map_is_squashed_as_one_vector():
    s = np.random.default_rng(0).normal(size=(2, 12, 5))  # (B, J·P·Q, E), of 4 types on 3 positions
    v = MapSquash(4)(s)
    for b, j in np.ndindex(2, 4):
        own = slice(3 * j, 3 * j + 3)
        assert_close(v[b, own].reshape(-1), Squash()(s[b, own].reshape(1, -1))[0])


@both_layers
def test_in_a_layer_3d_routing_sees_the_whole_grid(cls):
    layer = cls(*SIZES, (3, 2), routing=DynamicRouting3D(J, 2), **OPTIONS)
    u = capsules()
    v, cache = layer.forward(u)
    assert_close(v, layer.routing(layer.votes(u)))
    assert cache.c[-1].shape == layer.votes(u).shape[:-1]
    assert_close(cache.c[-1].sum(axis=(1, 2, 4)), 1)


# -- what cannot be ---------------------------------------------------------------------------


class OfActivations(Routing):
    reads_activations = True

    def forward(self, u_hat, a):
        raise NotImplementedError

    def backward(self, dy, cache):
        raise NotImplementedError


@both_layers
@pytest.mark.parametrize(
    "routing", [EMRouting(J), OfActivations()], ids=lambda routing: type(routing).__name__
)
def test_a_routing_by_activations_is_refused(cls, routing):
    name = type(routing).__name__
    with pytest.raises(TypeError, match=f"{cls.__name__}: {name} reads activations, .* take ConvMatrixCaps"):
        cls(*SIZES, 3, routing=routing)


@both_layers
@pytest.mark.parametrize(
    "options, error",
    [
        ({"kernel_size": 0}, "Votes: kernel_size is 0, expected one or two whole numbers of at least 1"),
        ({"stride": 0}, "Votes: stride is 0, expected one or two whole numbers of at least 1"),
        ({"padding": -1}, "Votes: padding is -1, expected one or two whole numbers of at least 0"),
        ({"types": 0}, "Votes: types is 0, expected a whole number above 0"),
        ({"in_dimension": 2.0}, "Votes: in_dimension is 2.0, expected a whole number above 0"),
        ({"shared": "no"}, "Votes: shared is 'no', expected True or False"),
        ({"std": -1}, "Votes: std is -1, expected a number, 0 or more"),
        ({"bias": 1}, "Caps: bias is 1, expected True or False"),
        (
            {"routing": DynamicRouting(), "bias": True},
            "Caps: got a routing, and iterations, coupling or bias",
        ),
        ({"routing": DynamicRouting(), "coupling": Softmax()}, "Caps: got a routing, and iterations, coup"),
    ],
)
def test_options_that_cannot_be_are_told(cls, options, error):
    sizes = {"in_types": I, "in_dimension": D, "types": J, "dimension": E, "kernel_size": 3}
    with pytest.raises(ValueError, match=error):
        cls(**{**sizes, **options})


@both_layers
def test_what_is_no_routing_is_told(cls):
    with pytest.raises(TypeError, match=f"{cls.__name__}: routing is 'em', expected a Routing such as"):
        cls(*SIZES, 3, routing="em")


@both_layers
def test_capsules_that_do_not_fit_are_told(cls):
    layer, u, name = cls(*SIZES, 3, padding=1, **OPTIONS), capsules(), cls.__name__
    with pytest.raises(
        ValueError, match=rf"{name}.forward: u has shape .* axis 4 \(capsule dimension D\) is 5, not 6"
    ):
        layer.forward(u[..., :5])
    with pytest.raises(ValueError, match=rf"{name}.forward: u has .* axis 3 \(lower types I\) is 2, not 3"):
        layer.forward(u[:, :, :, :2])
    with pytest.raises(
        TypeError, match=f"{name}.forward: u has dtype float32, but the parameters are float64"
    ):
        layer.forward(u.astype(np.float32))
    v, cache = layer.forward(u)
    for wrong in (v[:, 1:], v[..., 1:], v[0]):
        with pytest.raises(ValueError, match=f"{name}.backward: dy has shape"):
            layer.backward(wrong, cache)
    with pytest.raises(TypeError, match=f"{name}.backward"):
        layer.backward("v", cache)


def test_grids_without_a_position_are_told():
    with pytest.raises(ValueError, match="ConvVotes: a window of height 5 does not fit an image of height 2"):
        ConvCaps(*SIZES, 5, **OPTIONS).forward(capsules((2, 2, 6)))
    with pytest.raises(ValueError, match="does not fit an image of height 2 with padding 1"):
        ConvCaps(*SIZES, 5, padding=1, **OPTIONS).forward(capsules((2, 2, 6)))
    cut = DeconvCaps(*SIZES, (3, 2), padding=(0, 2), **OPTIONS)
    with pytest.raises(
        ValueError, match="DeconvVotes: a padding of 2 cuts off all of the width 4 that 3 windows"
    ):
        cut.forward(capsules((2, 5, 3)))
    assert cut(capsules((2, 5, 4))).shape == (2, 7, 1, J, E)


def test_3d_routing_refuses_what_is_no_grid_and_other_types():
    with pytest.raises(ValueError, match=r"DynamicRouting3D.forward: u_hat has .* it has 4 axes, not 6"):
        DynamicRouting3D(J).forward(VOTES[:, 0, 0])
    with pytest.raises(ValueError, match=r"axis 4 \(upper types J\) is 4, not 3"):
        DynamicRouting3D(3).forward(VOTES)
    with pytest.raises(ValueError, match=r"axis 1 \(maps J·P·Q\) is 10, expected a multiple of 4"):
        MapSquash(4).forward(np.zeros((2, 10, 3)))
    with pytest.raises(ValueError, match="DynamicRouting3D: types is 0"):
        DynamicRouting3D(0)
    with pytest.raises(TypeError, match="MapSquash: squash is 'no', expected a layer"):
        MapSquash(4, "no")


def test_the_defaults_are_those_of_the_documentation():
    for layer in (ConvCaps(2, 3, 4, 5, 3), DeconvCaps(2, 3, 4, 5, 3)):
        assert type(layer.routing) is DynamicRouting and layer.routing.iterations == 3
        assert layer.votes.window == ((3, 3), (1, 1), (0, 0)) and not layer.votes.shared
        assert set(layer.params) == {"votes.W"} and layer.params["votes.W"].dtype == np.float32
        assert layer.votes.std == pytest.approx(2 * 4 / (2 * 9 * 5) ** 0.5)
    assert DeconvVotes(2, 3, 4, 5, (4, 1), stride=2).std == pytest.approx(2 * 4 / (2 * 2 * 5) ** 0.5)
    assert DynamicRouting3D(J).routing.iterations == 3
