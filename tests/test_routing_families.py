"""Every family of routing, its couplings, squashes, presence and losses: what only they do."""

import numpy as np
import pytest
from helpers import assert_the_objective_agrees_with_central_differences
from hypothesis import given
from hypothesis import strategies as st

from minicaps import (
    CapsNet,
    CapsNetConfig,
    CapsuleLayer,
    CouplingEntropy,
    CrossEntropyLoss,
    DynamicRouting,
    Entmax,
    ExponentialSquash,
    Frozen,
    Hard,
    InvertedAttentionRouting,
    LayerNorm,
    Leaky,
    Length,
    Line,
    MarginLoss,
    Prior,
    Routing,
    SelfAttentionRouting,
    Softmax,
    Sparsemax,
    Squash,
    Stopped,
    TopK,
    Unrest,
    WeightedSum,
    capsules,
    datasets,
    fast,
    gradcheck,
)
from minicaps.capsules import Coupling, Given, agree, combine
from minicaps.fast import capsule_layer as fast_capsule_layer
from minicaps.layers import softmax
from minicaps.networks import OverlapCapsNet, load, save_network, to_onnx
from minicaps.proof.routing_examples import drawn
from minicaps.training import Adam, OneProcess, TrainConfig, train_step

B, I, J, E = 2, 5, 3, 4  # all different
seeds = st.integers(0, 10**6)
scales = st.sampled_from([0.1, 1.0, 5.0])
COUPLINGS = {
    "softmax": Softmax,
    "leaky": Leaky,
    "hard": Hard,
    "top 2": lambda: TopK(2),
    "sparsemax": Sparsemax,
    "entmax": Entmax,
}
FAMILIES = {
    "dynamic": lambda coupling=None: DynamicRouting(3, coupling=coupling),
    "self-attention": lambda coupling=None: SelfAttentionRouting(coupling=coupling),
    "inverted attention": lambda coupling=None: drawn(
        InvertedAttentionRouting(E, iterations=3, coupling=coupling, dtype=np.float64)
    ),
}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
every_coupling = pytest.mark.parametrize("coupling", COUPLINGS.values(), ids=COUPLINGS)


def votes(seed=0, scale=1.0, shape=(B, I, J, E)):
    return scale * np.random.default_rng(seed).normal(size=shape)


# -- what all families have in common --------------------------------------------------------------


@every_coupling
@every_family
def test_the_order_of_children_does_not_matter_and_parents_keep_theirs(family, coupling):
    u_hat, rng, routing = votes(), np.random.default_rng(1), family(coupling())
    children, parents = rng.permutation(I), rng.permutation(J)
    v = routing(u_hat)
    np.testing.assert_allclose(routing(u_hat[:, children]), v, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(routing(u_hat[:, :, parents]), v[:, parents], rtol=1e-10, atol=1e-12)


@every_family
def test_the_couplings_of_a_child_sum_to_1_over_its_parents(family):
    cache = family().forward(votes())[1]
    for c in cache.c:
        np.testing.assert_allclose(c.sum(axis=2), 1, rtol=1e-12)
    assert np.abs(cache.c[-1] - 1 / J).max() > 0.01  # and they are not all uniform
    assert all(len(course) == len(cache.c) for course in (cache.b, cache.s, cache.v))


@every_family
def test_one_sample_does_not_see_another(family):
    u_hat, routing = votes(), family()
    singles = np.concatenate([routing(u_hat[b : b + 1]) for b in range(B)])
    np.testing.assert_allclose(routing(u_hat), singles, rtol=1e-12)


@every_coupling
@every_family
def test_votes_of_0_and_a_single_child_are_finite_forward_and_backward(family, coupling):
    for u_hat in (np.zeros((B, I, J, E)), votes(shape=(B, 1, J, E))):
        routing = family(coupling())
        with np.errstate(divide="raise", over="raise", invalid="raise"):
            v, cache = routing.forward(u_hat)
            du_hat = routing.backward(np.ones_like(v), cache)
        assert np.isfinite(v).all() and np.isfinite(du_hat).all()


@every_family
def test_a_gradient_that_takes_the_couplings_for_constants_is_found_wrong(family):
    assert gradcheck(family(), [votes()]).ok
    assert not gradcheck(family(Stopped()), [votes()]).ok


@every_family
def test_a_coupling_with_parameters_is_trained_by_every_iteration(family):
    routing = family(drawn(Prior(I, J, dtype=np.float64)))
    report = gradcheck(routing, [votes()])
    report.raise_if_failed()
    assert "coupling.prior" in [row.array for row in report.rows]


@every_family
def test_wrong_votes_are_told(family):
    with pytest.raises(
        ValueError, match=r"Routing.forward: u_hat has shape \(2, 5, 3\), expected \(B, I, J, "
    ):
        family()(votes()[..., 0])
    v, cache = family().forward(votes())
    with pytest.raises(ValueError, match=r"Routing.backward: dy has shape \(2, 3, 1\)"):
        family().backward(v[..., :1], cache)


# -- sparse couplings ------------------------------------------------------------------------------


def by_bisection(b, power, scale):
    """Σ_j max(0, scale b_j - τ)^power = 1, solved for τ by halving an interval 200 times."""
    z = scale * b
    low, high = z.max(axis=-1, keepdims=True) - 1, z.max(axis=-1, keepdims=True)
    for _ in range(200):
        tau = (low + high) / 2
        too_much = (np.maximum(z - tau, 0) ** power).sum(axis=-1, keepdims=True) > 1
        low, high = np.where(too_much, tau, low), np.where(too_much, high, tau)
    return np.maximum(z - tau, 0) ** power


@pytest.mark.parametrize("coupling, power, scale", [(Sparsemax(), 1, 1), (Entmax(), 2, 0.5)])
@given(seed=seeds, size=scales)
def test_sparsemax_and_entmax_are_what_bisection_finds(seed, size, coupling, power, scale):
    b = votes(seed, size, (2, 5, 7))
    np.testing.assert_allclose(coupling(b), by_bisection(b, power, scale), atol=1e-12)


@pytest.mark.parametrize("room", [capsules, fast], ids=["plain", "fast"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind, power, scale, border", [("Sparsemax", 1, 1, 0.5), ("Entmax", 2, 0.5, 2**0.5)])
def test_parents_that_tie_at_the_border_of_the_support_are_in_it_together(
    kind, power, scale, border, dtype, room
):
    """There rounding would have some of those that tie inside and others not, and c summed to 45."""
    coupling, eps, far = getattr(room, kind)(), np.finfo(dtype).eps, np.full((401, 8), -9.0)
    near = -border * (1 + eps * np.arange(-200, 201))[:, None]  # (401, 1)
    far_ones_are_clipped = np.linspace(-2.001, -1.999, 401)[:, None] / (
        3 - power
    )  # to what is the border here
    for rows in ((0 * near, 0 * near, near + 0 * far), (0 * near, far_ones_are_clipped, far)):
        b = np.concatenate(rows, axis=1).astype(dtype)[None]  # (1, I, J)
        c = coupling(b)  # (1, I, J)
        np.testing.assert_allclose(c.sum(axis=-1), 1, atol=50 * eps)
        np.testing.assert_allclose(c, by_bisection(b.astype(float), power, scale), atol=50 * eps**0.5)


@given(seed=seeds, size=scales)
def test_sparsemax_is_the_nearest_point_of_the_simplex(seed, size):
    b = votes(seed, size, (2, 5, 7))
    c = Sparsemax()(b)
    others = np.random.default_rng(seed).dirichlet(np.ones(7), size=(2, 5))
    assert (((c - b) ** 2).sum(axis=-1) <= ((others - b) ** 2).sum(axis=-1) + 1e-12).all()


@pytest.mark.parametrize("coupling", [Sparsemax(), Entmax(), TopK(2)], ids=["sparsemax", "entmax", "top 2"])
def test_logits_that_are_equal_are_served_evenly_and_far_ones_not_at_all(coupling):
    np.testing.assert_allclose(coupling(np.zeros((1, 1, 4))), 0.25, rtol=1e-15)
    np.testing.assert_allclose(coupling(np.array([[[9.0, 0.0, 0.0, 9.0]]])), [[[0.5, 0, 0, 0.5]]], rtol=1e-15)


@pytest.mark.parametrize("coupling", [Sparsemax(), Entmax(), TopK(2)], ids=["sparsemax", "entmax", "top 2"])
def test_sparse_couplings_of_huge_float32_logits_are_finite(coupling):
    b = np.array([[[1e30, 0.0, -1e30], [-1e30, -1e30, -1e30]]], dtype=np.float32)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        c, cache = coupling.forward(b)
        db = coupling.backward(np.ones_like(c), cache)
    np.testing.assert_array_equal(c[0, 0], [1, 0, 0])
    np.testing.assert_allclose(c[0, 1], 1 / 3, rtol=1e-6)
    assert c.dtype == db.dtype == np.float32 and np.isfinite(db).all()


def test_sparsemax_and_entmax_by_hand():
    np.testing.assert_allclose(Sparsemax()(np.array([[[1.0, 0.5, -0.2]]])), [[[0.75, 0.25, 0]]])
    root = 0.5 + np.sqrt(7) / 4  # of c = (½ - τ)² + (0 - τ)² = 1 with τ = ¼ - √7/4
    np.testing.assert_allclose(Entmax()(np.array([[[1.0, 0.0]]]))[0, 0, 0], (root - 0.25) ** 2)


@given(seed=seeds)
def test_top_k_is_softmax_for_all_parents_and_hard_for_one(seed):
    b = votes(seed, shape=(2, 5, 4))
    np.testing.assert_array_equal(TopK(4)(b), Softmax()(b))
    np.testing.assert_array_equal(TopK(1)(b), Hard()(b))
    c = TopK(2)(b)
    assert ((c > 0).sum(axis=-1) == 2).all()
    np.testing.assert_allclose(c.sum(axis=-1), 1, rtol=1e-12)
    chosen = np.argsort(b, axis=-1)[..., -2:]
    kept = np.take_along_axis(b, chosen, axis=-1)
    np.testing.assert_allclose(np.take_along_axis(c, chosen, axis=-1), softmax(kept), rtol=1e-12)


def test_parents_that_tie_with_the_k_th_are_chosen_too():
    b = np.array([[[0.0, 0.0, 0.0, 0.0], [3.0, 1.0, 1.0, -1.0], [1.0, 2.0, 3.0, 4.0]]])
    assert (TopK(2)(b) > 0).sum(axis=-1).tolist() == [[4, 3, 2]]
    np.testing.assert_array_equal(TopK(1)(b)[0, 0], [0.25] * 4)


def test_where_the_choice_of_top_k_changes_no_gradient_is_claimed():
    b = np.array([[[1.0, 1.0 + 1e-8, -1.0]]])
    report = gradcheck(TopK(1), [b])
    assert not report.ok and "kink" in str(report)


def test_more_parents_than_there_are_cannot_be_chosen():
    with pytest.raises(
        ValueError, match=r"TopK.forward: k is 4, but b has 3 upper capsules J; expected 1 to 3"
    ):
        TopK(4)(np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match="TopK: k is 0, expected a whole number above 0"):
        TopK(0)


# -- learned prior logits --------------------------------------------------------------------------


@given(seed=seeds, iterations=st.integers(1, 4))
def test_a_prior_is_where_the_logits_begin(seed, iterations):
    u_hat, prior = votes(seed), drawn(Prior(I, J, dtype=np.float64))
    b = np.broadcast_to(prior.params["prior"], (B, I, J))
    for _ in range(iterations):
        c = softmax(b)
        v = Squash()(combine(c, u_hat))
        b = b + agree(u_hat, v)
    found, cache = DynamicRouting(iterations, coupling=prior).forward(u_hat)
    np.testing.assert_allclose(found, v, rtol=1e-10)
    np.testing.assert_allclose(cache.c[-1], c, rtol=1e-10)


def test_a_prior_starts_as_none_and_one_iteration_of_it_is_no_routing():
    u_hat = votes()
    fresh = DynamicRouting(3, coupling=Prior(I, J, dtype=np.float64))
    np.testing.assert_array_equal(fresh(u_hat), DynamicRouting(3)(u_hat))
    prior = drawn(Prior(I, J, dtype=np.float64))
    frozen = Frozen(softmax(prior.params["prior"]))
    one = DynamicRouting(1, coupling=prior)(u_hat)
    np.testing.assert_allclose(one, DynamicRouting(1, coupling=frozen)(u_hat), rtol=1e-12)
    assert np.abs(one - DynamicRouting(1)(u_hat)).max() > 0.01


def test_a_prior_of_other_sizes_is_told():
    with pytest.raises(
        ValueError, match=r"Prior.forward: b has shape .*axis 1 \(lower capsules I\) is 5, not 6"
    ):
        Prior(6, 3, dtype=np.float64)(np.zeros((2, 5, 3)))
    with pytest.raises(ValueError, match=r"Prior.forward: .*axis 2 \(upper capsules J\) is 4, not 3"):
        Leaky(Prior(5, 3, dtype=np.float64))(
            np.zeros((2, 5, 3))
        )  # the other way round there is a prior for each


def in_reverse(work, items):
    """Do what ``parallel`` does as threads might that come in another order."""
    return [work(item) for item in reversed(items)][::-1]


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("options", [{"coupling": Prior(I, J, dtype=np.float64)},
                                     {"squash": LayerNorm(E, dtype=np.float64)}])  # fmt: skip
def test_what_the_layers_in_a_routing_learn_has_the_same_bits_whatever_the_order_of_threads(
    options, monkeypatch
):
    layer = CapsuleLayer(I, 4, J, E, routing=DynamicRouting(**options), std=1.0, rng=0, dtype=np.float64)
    v, cache = layer.forward(votes(shape=(19, I, 4)))
    assert len(cache.slices) > 1
    found = []
    for parallel in (fast_capsule_layer.parallel, in_reverse):
        monkeypatch.setattr(fast_capsule_layer, "parallel", parallel)
        layer.zero_grad()
        layer.backward(votes(1, shape=v.shape), cache)
        found.append({name: grad.copy() for name, grad in layer.grads.items()})
    for name, grad in found[0].items():
        np.testing.assert_array_equal(found[1][name], grad, err_msg=name)


# -- self-attention ------------------------------------------------------------------------------------


def test_self_attention_is_the_explicit_matrix_of_all_pairs_of_children():
    u_hat = votes()
    s = np.empty((B, J, E))
    A = np.einsum("bije,bkje->bjik", u_hat, u_hat) / np.sqrt(E)  # (B, J, I, I)
    c = softmax(A.sum(axis=3).transpose(0, 2, 1))  # (B, I, J)
    for j in range(J):
        s[:, j] = np.einsum("bi,bie->be", c[:, :, j], u_hat[:, :, j])
    n = np.linalg.norm(s, axis=-1, keepdims=True)
    np.testing.assert_allclose(SelfAttentionRouting()(u_hat), (1 - np.exp(-n)) * s / n, rtol=1e-12)


def test_the_bias_of_self_attention_is_added_after_the_softmax():
    plain, routing = SelfAttentionRouting(), SelfAttentionRouting(bias_shape=(I, J), dtype=np.float64)
    np.testing.assert_array_equal(routing(votes()), plain(votes()))  # it starts at 0
    drawn(routing)
    c, without = (each.forward(votes())[1].c[0] for each in (routing, plain))
    np.testing.assert_allclose(c - without, np.broadcast_to(routing.params["bias"], c.shape), rtol=1e-12)
    assert np.abs(c.sum(axis=2) - 1).max() > 0.1 and c.min() < 0


# -- inverted attention ----------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_inverted_attention_is_the_procedure_of_the_paper_written_out(iterations):
    u_hat, routing = votes(), drawn(InvertedAttentionRouting(E, iterations=iterations, dtype=np.float64))
    gain, bias = routing.params["norm.gain"], routing.params["norm.bias"]
    b = np.zeros((B, I, J))
    for _ in range(iterations):
        c = np.exp(b) / np.exp(b).sum(axis=2, keepdims=True)
        s = np.einsum("bij,bije->bje", c, u_hat)
        std = np.sqrt(s.var(axis=-1, keepdims=True) + 1e-5)
        v = gain * (s - s.mean(axis=-1, keepdims=True)) / std + bias
        b = np.einsum("bije,bje->bij", u_hat, v) / np.sqrt(E)  # in the place of the last, not added to it
    np.testing.assert_allclose(routing(u_hat), v, rtol=1e-10)


def test_poses_of_inverted_attention_have_one_length_and_a_line_tells_them_apart():
    routing, line = InvertedAttentionRouting(E, dtype=np.float64), Line(E, rng=0, dtype=np.float64)
    v = routing(votes())
    np.testing.assert_allclose(Length()(v), np.sqrt(E), rtol=1e-3)
    z = line(v)
    assert z.shape == (B, J) and z.std() > 0.1
    np.testing.assert_allclose(z, np.einsum("bje,e->bj", v, line.params["w"]), rtol=1e-12)


def test_layer_norm_makes_mean_0_and_standard_deviation_1_whatever_the_scale():
    x = votes()
    y = LayerNorm(E, epsilon=1e-12, dtype=np.float64)(x)
    np.testing.assert_allclose(y.mean(axis=-1), 0, atol=1e-12)
    np.testing.assert_allclose(y.std(axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(LayerNorm(E, epsilon=1e-12, dtype=np.float64)(7 * x + 3), y, rtol=1e-8)
    np.testing.assert_array_equal(LayerNorm(E, dtype=np.float64)(np.full((2, E), 5.0)), np.zeros((2, E)))


# -- squashes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("squash, length", [
    (Squash(), lambda n: n**2 / (1 + n**2)), (Squash(offset=0.5), lambda n: n**2 / (0.5 + n**2)),
    (ExponentialSquash(), lambda n: 1 - np.exp(-n)), (capsules.ExponentialSquash(), lambda n: 1 - np.exp(-n)),
])  # fmt: skip
def test_each_squash_has_its_lengths_and_keeps_directions(squash, length):
    e = np.array([0.6, 0.0, -0.8])
    for n in (1e-8, 0.01, 0.5, 1.0, 3.0, 40.0, 1e6):
        v = squash(n * e[None])[0]
        np.testing.assert_allclose(v, length(n) * e, rtol=1e-12 if n > 1e-4 else 1e-7)


def test_short_vectors_keep_a_gradient_through_the_exponential_squash_alone():
    for squash, slope in ((ExponentialSquash(), 1.0), (Squash(), 0.0)):
        for s in (np.zeros((1, 3)), np.full((1, 3), 1e-9)):
            dv = np.array([[1.0, -2.0, 3.0]])
            ds = squash.backward(dv, squash.forward(s)[1])
            np.testing.assert_allclose(ds, slope * dv, atol=1e-7)


@pytest.mark.parametrize("squash", [Squash(offset=0.5), ExponentialSquash()], ids=["offset", "exponential"])
def test_the_other_squashes_are_finite_from_0_to_1e30_in_float32(squash):
    for n in (0.0, 1e-38, 1e-20, 1.0, 1e20, 1e30):
        s = np.array([[n, 0, -n]], np.float32)
        with np.errstate(divide="raise", over="raise", invalid="raise"):
            v, cache = squash.forward(s)
            ds = squash.backward(np.ones_like(s), cache)
        assert np.isfinite(ds).all() and np.linalg.norm(v) <= 1 + 1e-6
        if n >= 1e20:
            np.testing.assert_allclose(np.linalg.norm(v), 1, rtol=1e-6)


@pytest.mark.parametrize("make, message", [
    (lambda: Squash(offset=0), "Squash: offset is 0, expected a number above 0"),
    (lambda: Squash(offset=-1), "Squash: offset is -1, expected a number above 0"),
    (lambda: LayerNorm(4, epsilon=0), "LayerNorm: epsilon is 0, expected a number above 0"),
    (lambda: LayerNorm(0), "LayerNorm: features is 0, expected a whole number above 0"),
    (lambda: InvertedAttentionRouting(4, iterations=0), "Routing: iterations is 0, expected"),
    (lambda: SelfAttentionRouting(bias_shape=3), r"SelfAttentionRouting: bias_shape is 3, expected \(I, J\)"),
    (lambda: Line(0), "Line: dimension is 0, expected a whole number above 0"),
    (lambda: DynamicRouting(outputs=("c",)), r"DynamicRouting: outputs is \('c',\), expected \('v',\) or"),
    (lambda: DynamicRouting(1, outputs=("v", "change")), "outputs has 'change', which takes 2 iterations"),
])  # fmt: skip
def test_wrong_options_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -- presence and losses --------------------------------------------------------------------------


def test_a_loss_of_lengths_is_that_of_the_capsules():
    v, labels, length, loss = 0.3 * votes(shape=(B, J, E)), np.array([2, 0]), Length(), MarginLoss()
    a, cache = length.forward(v)
    value, of_a = loss.forward(a, labels)
    expected, of_v = loss.forward(v, labels)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    np.testing.assert_allclose(length.backward(loss.backward(of_a), cache), loss.backward(of_v), rtol=1e-12)


def test_length_of_0_has_gradient_0_and_given_activations_stay_as_they_are():
    a, cache = Length().forward(np.zeros((B, J, E)))
    assert (a == 0).all() and (Length().backward(np.ones((B, J)), cache) == 0).all()
    v, a = votes(shape=(B, J, E)), votes(shape=(B, J))
    found, cache = Given().forward(v, a)
    dv, da = Given().backward(2 * a, cache)
    assert (found == a).all() and (dv == 0).all() and dv.shape == v.shape and (da == 2 * a).all()


def test_entropy_is_0_for_one_parent_and_1_for_all_evenly():
    entropy = CouplingEntropy()
    one = np.eye(3)[None, [0, 1, 2, 1, 0]]  # (1, 5, 3)
    np.testing.assert_allclose(entropy(np.full((2, 5, 3), 1 / 3), None), 1, rtol=1e-12)
    assert entropy(one, None) == 0 and (entropy.backward(entropy.forward(one, None)[1])[one == 0] == 0).all()
    assert entropy(np.ones((2, 5, 1)), None) == 0  # of a single parent
    c = np.array([[[0.5, 0.25, 0.25]]])
    np.testing.assert_allclose(entropy(c, None), 1.5 * np.log(2) / np.log(3), rtol=1e-12)


def test_uniform_couplings_have_no_gradient_of_their_entropy():
    routing = DynamicRouting(2, outputs=("v", "c"))
    (_, c), cache = routing.forward(np.zeros((B, I, J, E)))
    dc = CouplingEntropy().backward(CouplingEntropy().forward(c, None)[1])
    softmax_cache = cache.iterations[-1].coupling
    np.testing.assert_allclose(Softmax().backward(dc, softmax_cache), 0, atol=1e-15)
    assert np.abs(dc).min() > 0


def test_agreement_is_no_term_of_its_own():
    u_hat = votes()
    cache = DynamicRouting(3).forward(u_hat)[1]
    agreement = (cache.c[-1] * agree(u_hat, cache.v[-1])).sum()
    np.testing.assert_allclose(agreement, (cache.s[-1] * cache.v[-1]).sum(), rtol=1e-12)


@pytest.mark.parametrize("fast", [True, False])
def test_margin_and_routing_terms_are_one_weighted_sum(fast):
    u, labels = votes(shape=(B, I, 2)), np.array([2, 0])
    routing = DynamicRouting(3, outputs=("v", "c", "change"))
    cls = CapsuleLayer if fast else capsules.CapsuleLayer
    layer = cls(I, 2, J, E, routing=routing, std=1.0, rng=0, dtype=np.float64)
    loss = WeightedSum([MarginLoss(), CouplingEntropy(), Unrest()], [1.0, 0.3, 0.2])

    def value(u):
        return loss.forward(layer(u), (labels, None, None))[0]

    y, cache = layer.forward(u)
    parts = [
        each(part, target) for each, part, target in zip(loss.losses, y, (labels, None, None), strict=True)
    ]
    assert min(parts) > 0.01
    np.testing.assert_allclose(value(u), parts[0] + 0.3 * parts[1] + 0.2 * parts[2], rtol=1e-12)
    np.testing.assert_allclose(y[2], cache.v[-1] - cache.v[-2], rtol=1e-12)
    du = layer.backward(loss.backward(loss.forward(y, (labels, None, None))[1]), cache)
    d = votes(7, shape=u.shape)
    numeric = (value(u + 1e-5 * d) - value(u - 1e-5 * d)) / 2e-5
    np.testing.assert_allclose((du * d).sum(), numeric, rtol=1e-6)


def test_as_many_gradients_as_outputs_are_asked_for():
    routing = DynamicRouting(2, outputs=("v", "c"))
    (v, _), cache = routing.forward(votes())
    for dy in (v, (v,), (v, v, v)):
        with pytest.raises(
            ValueError, match=r"DynamicRouting.backward: got \d gradients, expected one for each of"
        ):
            routing.backward(dy, cache)
    with pytest.raises(
        ValueError, match=r"DynamicRouting.backward: dy has shape \(2, 3, 4\), expected \(2, 5, 3\)"
    ):
        routing.backward((v, v), cache)


# -- one capsule layer for all ---------------------------------------------------------------------


class Activated(Routing):
    """A routing with activations, as matrix capsules have: votes weighed by a, which is scaled and summed."""

    def forward(self, u_hat, a):
        return ((a[..., None, None] * u_hat).sum(axis=1), 2 * a.sum(axis=1)[:, None].repeat(J, axis=1)), (
            u_hat,
            a,
        )

    def backward(self, dy, cache):
        (dv, da), (u_hat, a) = dy, cache
        du_hat = a[..., None, None] * dv[:, None]
        return du_hat, (u_hat * dv[:, None]).sum(axis=(2, 3)) + 2 * da.sum(axis=1)[:, None]

    @classmethod
    def examples(cls, rng, dtype):
        yield "normal", cls(), (rng.normal(size=(B, I, J, E)), rng.normal(size=(B, I)))


both = pytest.mark.parametrize("cls", [CapsuleLayer, capsules.CapsuleLayer], ids=["fast", "plain"])


@both
def test_a_capsule_layer_hands_activations_to_a_routing_that_reads_them(cls):
    layer = cls(I, 2, J, E, routing=Activated(), std=1.0, rng=0, dtype=np.float64)
    report = gradcheck(layer, [votes(shape=(B, I, 2)), votes(shape=(B, I))])
    report.raise_if_failed()
    assert len(report.rows) == 3  # u, a, W


class Doubled(DynamicRouting):
    """A routing of a reader's own, made of ours: the fast layer must not take it for dynamic routing."""

    def forward(self, u_hat):
        v, cache = super().forward(u_hat)
        return 2 * v, cache

    def backward(self, dv, cache):
        return super().backward(2 * dv, cache)


@both
def test_a_routing_of_a_reader_s_own_is_used_as_it_is(cls):
    layer = cls(I, 2, J, E, routing=Doubled(2), std=1.0, rng=0, dtype=np.float64)
    plain = capsules.CapsuleLayer(I, 2, J, E, iterations=2, std=1.0, rng=0, dtype=np.float64)
    u = votes(shape=(B, I, 2))
    np.testing.assert_allclose(layer(u), 2 * plain(u), rtol=1e-12)
    gradcheck(layer, [u]).raise_if_failed()


def test_what_is_no_routing_is_refused_and_options_of_another_one_too():
    with pytest.raises(
        TypeError, match=r"CapsuleLayer: routing is .*expected a Routing such as DynamicRouting\(\)"
    ):
        CapsuleLayer(I, 2, J, E, routing=Softmax())
    for options in ({"iterations": 2}, {"bias": True}, {"coupling": Leaky()}):
        with pytest.raises(ValueError, match="CapsuleLayer: got a routing, and iterations, coupling or bias"):
            CapsuleLayer(I, 2, J, E, routing=DynamicRouting(), **options)
    with pytest.raises(
        TypeError, match=r"DynamicRouting: squash is 'n²', expected a layer such as Squash\(\)"
    ):
        DynamicRouting(squash="n²")


def test_couplings_of_a_reader_s_own_serve_every_family():
    class Even(Coupling):
        def forward(self, b):
            return np.full_like(b, 1 / b.shape[2]), None

        def backward(self, dc, cache):
            return np.zeros_like(dc)

    u_hat = votes()
    mean = u_hat.sum(axis=1) / J
    np.testing.assert_allclose(DynamicRouting(3, coupling=Even())(u_hat), Squash()(mean), rtol=1e-12)
    np.testing.assert_allclose(
        SelfAttentionRouting(coupling=Even())(u_hat), ExponentialSquash()(mean), rtol=1e-12
    )
    inverted = InvertedAttentionRouting(E, iterations=3, coupling=Even(), dtype=np.float64)
    np.testing.assert_allclose(inverted(u_hat), LayerNorm(E, dtype=np.float64)(mean), rtol=1e-12)


# -- one network for all ------------------------------------------------------------------------------

SMALL = {
    "image_shape": (10, 9, 2), "classes": 4, "conv_channels": 3, "conv_kernel": 3, "primary_types": 2,
    "primary_dimension": 3, "primary_kernel": 3, "class_dimension": 5, "std": 1.0, "decoder_hidden": (6, 7),
    "reconstruction_scale": 0.05,
}  # fmt: skip
OPTIONS = {
    "dynamic": {},
    "self-attention": {"routing": "self-attention"},
    "inverted attention": {"routing": "inverted-attention"},
    "EM": {"routing": "em", "iterations": 2, "inverse_temperature": 0.5},
    "line": {"presence": "line"},
    "self-attention, line": {"routing": "self-attention", "presence": "line"},
    "EM, line, prior": {"routing": "em", "presence": "line", "prior": True},
    "learned, no routing": {"prior": True, "iterations": 1},
    "inverted attention, entmax, prior": {
        "routing": "inverted-attention", "coupling": "entmax", "prior": True, "iterations": 2,
    },
}  # fmt: skip
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
IMAGES, LABELS = np.random.default_rng(0).uniform(size=(3, 10, 9, 2)), np.array([2, 0, 3])


def network(rng=0, cls=CapsNet, **options):
    return cls(CapsNetConfig(**{**SMALL, **options}), rng=rng, dtype=np.float64)


@every_option
@pytest.mark.parametrize("decoder", [True, False], ids=["decoder", "no decoder"])
def test_the_gradient_of_each_whole_objective_agrees_with_central_differences(options, decoder):
    assert_the_objective_agrees_with_central_differences(network(decoder=decoder, **options), IMAGES, LABELS)


@every_option
def test_a_configuration_of_each_counts_its_parameters_and_comes_back_from_a_file(options, tmp_path):
    net = network(**options)
    assert net.config.count_params() == net.count_params()
    assert sum(count for *_, count in net.rows()) == net.count_params()
    for param in net.params.values():
        param += 0.1
    save_network(tmp_path / "net.npz", net)
    again = load(tmp_path / "net.npz")
    assert again.config == net.config
    np.testing.assert_array_equal(again.scores(again(IMAGES)), net.scores(net(IMAGES)))


@every_option
def test_all_else_starts_alike_whatever_the_routing(options):
    one, other = network(), network(**options)
    for name, param in one.params.items():
        np.testing.assert_array_equal(other.params[name], param)


@every_option
def test_each_learns(options):
    net = network(**options)
    source, optimizer = OneProcess(net), Adam(net, 3e-3)
    losses = [train_step(source, optimizer, IMAGES, LABELS).loss for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("cls", [CapsNet, OverlapCapsNet])
def test_with_inverted_attention_the_largest_logit_decides_what_the_decoder_shows(cls):
    net = network(cls=cls, routing="inverted-attention")
    (z, image), cache = net.forward(IMAGES)
    assert z.shape == (3, 4) and isinstance(net.objective().losses[0], CrossEntropyLoss)
    best = z.argsort(axis=1)[:, ::-1]
    labels = best[:, 0] if cls is CapsNet else best[:, :2].copy()
    np.testing.assert_array_equal(net.forward(IMAGES, labels)[0][1], image)
    np.testing.assert_array_equal(net(IMAGES)[1], image)
    assert (Length()(cache.v).argmax(axis=1) != best[:, 0]).any()  # lengths would have chosen otherwise
    np.testing.assert_allclose(net.scores((z, image)), softmax(z), rtol=1e-12)
    with pytest.raises(ValueError, match="the outputs are logits; take v of the"):
        net.class_capsules((z, image))


@pytest.mark.parametrize("cls", [CapsNet, OverlapCapsNet])
def test_with_em_the_highest_activation_decides_what_the_decoder_shows(cls):
    net = network(cls=cls, **OPTIONS["EM"])
    net.params["capsules.routing.beta_a"][...] = [2, -1, 1, -3]  # so that lengths would choose otherwise
    (a, image), cache = net.forward(IMAGES)
    assert a.shape == (3, 4) and isinstance(net.objective().losses[0], MarginLoss)
    best = a.argsort(axis=1)[:, ::-1]
    labels = best[:, 0] if cls is CapsNet else best[:, :2].copy()
    np.testing.assert_array_equal(net.forward(IMAGES, labels)[0][1], image)
    np.testing.assert_array_equal(net(IMAGES)[1], image)
    assert (Length()(cache.v).argmax(axis=1) != best[:, 0]).any()
    np.testing.assert_array_equal(net.scores((a, image)), a)
    with pytest.raises(ValueError, match="the outputs are activations; take v of the cache"):
        net.class_capsules((a, image))


def test_em_takes_the_lengths_of_primary_capsules_for_their_activations():
    net = network(decoder=False, **OPTIONS["EM"])
    u = net.primary(net.relu(net.conv(IMAGES)))  # (B, I, D)
    u_hat = np.einsum("bid,idje->bije", u, net.params["capsules.votes.W"])  # (B, I, J, E)
    routing = capsules.EMRouting(
        4, 2, inverse_temperature=0.5, beta_u_start=net.capsules.routing.beta_u_start, dtype=np.float64
    )
    np.testing.assert_allclose(net(IMAGES), routing(u_hat, np.linalg.norm(u, axis=2))[1], rtol=1e-9)


@both
def test_lengths_are_the_activations_where_none_are_handed_in(cls):
    routing = capsules.EMRouting(J, 2, inverse_temperature=0.5, min_variance=0.3, dtype=np.float64)
    layer, u = cls(I, 2, J, E, routing=routing, std=1.0, rng=0, dtype=np.float64), votes(shape=(B, I, 2))
    for one, other in zip(layer(u), layer(u, np.linalg.norm(u, axis=2)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    report = gradcheck(layer, [u])
    report.raise_if_failed()
    assert len(report.rows) == 4  # u, W, β_u, β_a


def test_first_costs_of_em_in_a_network_are_near_0():
    """With β_u = 0 all classes begin active, and some never learn."""
    images = np.random.default_rng(0).uniform(size=(5, 28, 28, 1)).astype(np.float32)
    a = CapsNet(CapsNetConfig(conv_channels=16, primary_types=4, routing="em", decoder=False), rng=0)(images)
    assert 0.3 < a.min() <= a.max() < 0.7


@pytest.mark.parametrize("options, message", [
    ({"routing": "em?"}, "routing is 'em.', expected 'dynamic' or 'self-attention' or 'inverted-attention'"),
    ({"presence": "lines"}, "presence is 'lines', expected 'own' or 'line'"),
    ({"routing": "em", "bias": True}, "bias has no effect on em routing"),
    ({"inverse_temperature": 0.5}, "inverse_temperature has no effect on dynamic routing"),
    ({"routing": "em", "inverse_temperature": -1}, "inverse_temperature is -1"),
    ({"routing": "self-attention", "iterations": 2}, "iterations is 2, which has no effect on self-"),
    ({"routing": "self-attention", "bias": True}, "bias has no effect on self-attention routing"),
    ({"routing": "inverted-attention", "bias": True}, "bias has no effect on inverted-attention routing"),
    ({"prior": True, "stopped_gradient": True}, "prior is learned through the couplings"),
    ({"prior": 1}, "prior is 1, expected True or False"),
    ({"coupling": "top-3", "classes": 2}, "coupling is 'top-3', but there are 2 classes"),
])  # fmt: skip
def test_what_cannot_be_combined_is_refused(options, message):
    with pytest.raises(ValueError, match=f"CapsNetConfig: {message}"):
        CapsNetConfig(**options)


@pytest.mark.parametrize("options, message", [
    ({"routing": "em?"}, "train: routing is 'em.', expected 'dynamic' or"),
    ({"coupling": "top-9"}, "train: coupling is 'top-9', expected 'softmax' or"),
    ({"model": "cnn", "routing": "self-attention"}, "routing is 'self-attention', but cnn has no such"),
    ({"model": "mlp", "coupling": "entmax"}, "coupling is 'entmax', but mlp has no such option"),
    ({"model": "matrix", "presence": "line"}, "presence is 'line', but matrix has no such option"),
    ({"routing": "self-attention", "routing_iterations": 3}, "routing_iterations is 3, but self-"),
])  # fmt: skip
def test_train_refuses_options_that_would_have_no_effect(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


@pytest.mark.parametrize("routing", [SelfAttentionRouting(), DynamicRouting(squash=ExponentialSquash()),
                                     DynamicRouting(squash=Squash(offset=0.5))])  # fmt: skip
def test_a_routing_put_in_the_place_of_the_named_one_is_neither_saved_nor_exported(routing, tmp_path):
    net = network()
    net.capsules.routing = routing
    with pytest.raises(ValueError, match="of its own cannot be built again"):
        save_network(tmp_path / "net.npz", net)
    names = ", ".join(type(layer).__name__ for layer in (routing, routing.coupling, routing.squash))
    with pytest.raises(
        ValueError, match=rf"to_onnx: a routing of {names} cannot be written; DynamicRouting with"
    ):
        to_onnx(tmp_path / "net.onnx", net)


@pytest.mark.parametrize(
    "name", ["self-attention", "inverted attention", "learned, no routing", "EM", "line"]
)
def test_a_network_of_another_family_is_not_exported(name, tmp_path):
    with pytest.raises(ValueError, match=r"to_onnx: .* cannot be written"):
        to_onnx(tmp_path / "net.onnx", network(**OPTIONS[name]))


def test_the_options_of_train_reach_the_network(small_folder):
    config = TrainConfig(
        preset="tiny", routing="inverted-attention", coupling="entmax", data=str(small_folder)
    )
    net = config.network(datasets.load(small_folder))
    assert isinstance(net.capsules.routing, InvertedAttentionRouting)
    assert isinstance(net.capsules.routing.coupling, Entmax)
    config = TrainConfig(preset="tiny", routing="em", presence="line", routing_iterations=2)
    net = config.network(datasets.load(small_folder))
    assert isinstance(net.capsules.routing, capsules.EMRouting) and net.capsules.routing.iterations == 2
    assert isinstance(net.objective().losses[0], CrossEntropyLoss)


def test_what_is_not_said_is_as_in_the_papers():
    assert InvertedAttentionRouting(E).iterations == 2
    assert type(InvertedAttentionRouting(E).coupling) is Softmax is type(SelfAttentionRouting().coupling)
    assert isinstance(SelfAttentionRouting().squash, capsules.ExponentialSquash)
    assert SelfAttentionRouting().bias_shape is None and LayerNorm(E).epsilon == 1e-5
    assert Squash().offset == 1.0 and DynamicRouting().outputs == ("v",)
    config = CapsNetConfig()
    assert (config.routing, config.coupling, config.prior) == ("dynamic", "softmax", False)


@pytest.mark.parametrize("options, name", [
    ({}, "length"), ({"routing": "self-attention"}, "length"), ({"routing": "em"}, "activation"),
    ({"routing": "em", "presence": "line"}, "probability"), ({"presence": "line"}, "probability"),
    ({"routing": "inverted-attention"}, "probability"),
])  # fmt: skip
def test_a_network_says_what_its_scores_are(options, name):
    assert network(**options).score_name == name
