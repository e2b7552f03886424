"""Votes by their factors: no routing builds those of many samples, and threads change no bit."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicaps import (
    BatchNorm,
    CapsuleLayer,
    DynamicRouting,
    EMRouting,
    Entmax,
    Hard,
    InvertedAttentionRouting,
    Layer,
    LayerNorm,
    Leaky,
    Prior,
    SelfAttentionRouting,
    Softmax,
    Sparsemax,
    TopK,
    capsules,
    fast,
)
from minicaps.capsules import Coupling
from minicaps.fast import capsule_layer as fast_capsule_layer
from minicaps.fast import couplings as fast_couplings
from minicaps.fast import factored
from minicaps.proof.routing_examples import drawn

B, I, D, J, E = 19, 6, 2, 3, 4  # all different
LINEAR = {
    "dynamic": lambda I, J, E: DynamicRouting(3),
    "dynamic, bias": lambda I, J, E: DynamicRouting(2, bias_shape=(J, E)),
    "dynamic, prior": lambda I, J, E: DynamicRouting(3, coupling=Prior(I, J)),
    "dynamic, top 2": lambda I, J, E: DynamicRouting(3, coupling=TopK(2)),
    "dynamic, entmax": lambda I, J, E: DynamicRouting(2, coupling=Entmax()),
    "dynamic, sparsemax, leaky": lambda I, J, E: DynamicRouting(2, coupling=Leaky(Sparsemax())),
    "dynamic, LayerNorm": lambda I, J, E: DynamicRouting(3, squash=LayerNorm(E)),
    "dynamic, more outputs": lambda I, J, E: DynamicRouting(3, outputs=("v", "c", "change")),
    "dynamic, hard, change": lambda I, J, E: DynamicRouting(
        3, coupling=Hard(), outputs=("v", "change")
    ),
    "self-attention": lambda I, J, E: SelfAttentionRouting(),
    "self-attention, bias": lambda I, J, E: SelfAttentionRouting(bias_shape=(I, J)),
    "self-attention, prior": lambda I, J, E: SelfAttentionRouting(coupling=Prior(I, J)),
    "inverted attention": lambda I, J, E: InvertedAttentionRouting(E),
    "inverted attention, prior": lambda I, J, E: InvertedAttentionRouting(
        E, iterations=3, coupling=Prior(I, J)
    ),
}  # fmt: skip
every_routing = pytest.mark.parametrize("make", LINEAR.values(), ids=LINEAR)


def upstream(y, seed=1):
    """Gradients for what a layer gave."""
    rng = np.random.default_rng(seed)
    one = lambda x: rng.normal(size=x.shape).astype(x.dtype)  # noqa: E731
    return tuple(map(one, y)) if isinstance(y, tuple) else one(y)


def peak(layer, *inputs):
    """The most memory that forward and backward take, in bytes."""
    tracemalloc.start()
    y, cache = layer.forward(*inputs)
    layer.backward(upstream(y), cache)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@every_routing
@pytest.mark.parametrize("batch", [1, fast_capsule_layer.FEW * D, B])
@pytest.mark.usefixtures("small_slices")
def test_the_fast_layer_gives_what_the_definition_gives(make, batch):
    u, found = np.random.default_rng(0).normal(size=(batch, I, D)), []
    for room in (capsules, fast):
        routing = drawn(make(I, J, E).astype(np.float64))
        layer = room.CapsuleLayer(I, D, J, E, routing=routing, std=1.0, rng=0, dtype=np.float64)
        y, cache = layer.forward(u)
        du = layer.backward(upstream(y), cache)
        course = [*cache.b, *cache.c, *cache.s, *cache.v]
        found.append([*(y if isinstance(y, tuple) else (y,)), du, *layer.grads.values(), *course])
    for plain, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, plain, rtol=1e-8, atol=1e-11)


@every_routing
@pytest.mark.usefixtures("small_slices")
def test_votes_are_never_built(make):
    """With poses far longer than there are outer products, votes would be most of the memory."""
    I, D, J, E = 200, 2, 3, 128
    layer = CapsuleLayer(I, D, J, E, routing=make(I, J, E), rng=0)
    u = np.random.default_rng(0).normal(size=(32, I, D)).astype(np.float32)
    votes = u.itemsize * 32 * I * J * E
    assert peak(layer, u) < votes / 2
    plain = capsules.CapsuleLayer(I, D, J, E, routing=make(I, J, E), rng=0)
    assert peak(plain, u) > 2 * votes  # û and dû: what the measure sees


@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**6))
def test_votes_that_are_built_give_the_sums_and_agreements_of_those_by_their_factors(B, I, D, J, seed):
    rng = np.random.default_rng(seed)
    u, W = rng.normal(size=(B, I, D)), rng.normal(size=(I, D, J, E))
    c, v = rng.uniform(size=(B, I, J)), rng.normal(size=(B, J, E))
    built = factored.BuiltVotes(u, W)
    by_factors = factored.FactoredVotes(u.transpose(2, 0, 1), W.transpose(2, 1, 3, 0))
    for one, other, shape in (
        (built.total, by_factors.total, (B, J, E)),
        (built.combine(c), by_factors.combine(c), (B, J, E)),
        (built.agree(v), by_factors.agree(v), (B, I, J)),
        (built.zero_logits(), by_factors.zero_logits(), (B, I, J)),
    ):
        assert one.shape == other.shape == shape
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
    assert built.dimension == by_factors.dimension == E


@every_routing
def test_votes_of_a_few_samples_are_built_and_w_is_copied_for_many_only(make):
    layer = CapsuleLayer(I, D, J, E, routing=make(I, J, E), rng=0)
    ready = layer.for_inference()
    few = fast_capsule_layer.FEW * D
    for batch, kind, copies in (
        (1, factored.BuiltVotes, 0),
        (few, factored.BuiltVotes, 0),
        (few + 1, factored.FactoredVotes, 1),
    ):
        u = np.ones((batch, I, D), dtype=np.float32)
        assert {type(part.votes) for part in layer.forward(u)[1].slices} == {kind}
        ready(u)
        assert len(ready._derived) == copies


def test_arrays_of_one_number_are_made_once_and_are_for_reading():
    one, other = (factored.constant(0.25, (2, 5, 3), np.dtype(np.float32), np) for _ in range(2))
    assert one is other and (one == 0.25).all() and one.shape == (2, 5, 3)
    with pytest.raises(ValueError, match="read-only"):
        one += 1


def test_em_routing_builds_them_since_it_asks_for_their_squares():
    layer = CapsuleLayer(I, D, J, E, routing=EMRouting(J), rng=0)
    u, a = np.ones((2, I, D), dtype=np.float32), np.ones((2, I), dtype=np.float32)
    assert layer.forward(u, a)[1].routing.u_hat.shape == (2, I, J, E)


@every_routing
@pytest.mark.usefixtures("small_slices")
def test_gradients_have_the_same_bits_whatever_the_order_of_threads(make, monkeypatch):
    layer = CapsuleLayer(I, D, J, E, routing=drawn(make(I, J, E)), std=1.0, rng=0)
    y, cache = layer.forward(np.random.default_rng(0).normal(size=(B, I, D)).astype(np.float32))
    assert len(cache.slices) > 2
    found = []
    for parallel in (fast_capsule_layer.parallel, in_reverse, in_reverse):
        monkeypatch.setattr(fast_capsule_layer, "parallel", parallel)
        layer.zero_grad()
        du = layer.backward(upstream(y), cache)
        found.append([du, *(grad.copy() for grad in layer.grads.values())])
    for arrays in zip(*found, strict=True):
        for array in arrays[1:]:
            np.testing.assert_array_equal(array, arrays[0])


def in_reverse(work, items):
    """Do what ``parallel`` does as threads might that come in another order."""
    return [work(item) for item in reversed(items)][::-1]


@pytest.mark.usefixtures("small_slices")
def test_a_routing_with_a_forward_of_its_own_is_asked_for_it():
    class Halved(SelfAttentionRouting):
        def forward(self, u_hat):
            v, cache = super().forward(u_hat)
            return v / 2, cache

        def backward(self, dv, cache):
            return super().backward(dv / 2, cache)

    u = np.random.default_rng(0).normal(size=(B, I, D))
    own, usual = (
        CapsuleLayer(I, D, J, E, routing=kind(), std=1.0, rng=0, dtype=np.float64)
        for kind in (Halved, SelfAttentionRouting)
    )
    np.testing.assert_allclose(own(u), usual(u) / 2, rtol=1e-9)
    (v, cache), (_, other) = own.forward(u), usual.forward(u)
    np.testing.assert_allclose(own.backward(v, cache), usual.backward(v / 2, other), rtol=1e-9)


@pytest.mark.parametrize(
    "routing, error, message",
    [
        (DynamicRouting(2, bias_shape=(1, E)), ValueError, r"DynamicRouting.*upper capsules J\) is 3, not 1"),
        (DynamicRouting(2, bias_shape=(J, 1)), ValueError, r"DynamicRouting.*dimension E\) is 4, not 1"),
        (DynamicRouting(2, bias_shape=(2, E)), ValueError, r"DynamicRouting.*upper capsules J\) is 3, not 2"),
        (
            DynamicRouting(2, bias_shape=(J, E), dtype=np.float64),
            TypeError,
            "DynamicRouting.forward: u_hat has dtype float32, but the parameters are float64",
        ),
        (
            SelfAttentionRouting(bias_shape=(1, J)),
            ValueError,
            r"SelfAttention.*lower capsules I\) is 6, not 1",
        ),
        (
            SelfAttentionRouting(bias_shape=(I, 1)),
            ValueError,
            r"SelfAttention.*upper capsules J\) is 3, not 1",
        ),
        (InvertedAttentionRouting(E + 3), ValueError, r"InvertedAttention.*dimension E\) is 4, not 7"),
    ],
)
@pytest.mark.parametrize("batch", [1, 19])
@pytest.mark.parametrize("room", [capsules, fast], ids=["plain", "fast"])
def test_a_routing_for_other_capsules_is_told_and_not_broadcast(routing, error, message, batch, room):
    layer = room.CapsuleLayer(I, D, J, E, routing=routing, rng=0)
    with pytest.raises(error, match=message):
        layer.forward(np.ones((batch, I, D), dtype=np.float32))


class NormedLogits(Coupling):
    """A softmax of logits that are normalised over the batch."""

    def __init__(self):
        super().__init__()
        self.norm, self.softmax = BatchNorm(J, dtype=np.float64), Softmax()

    def forward(self, b):
        x, norm = self.norm.forward(b)
        c, softmax = self.softmax.forward(x)
        return c, (norm, softmax)

    def backward(self, dc, cache):
        return self.norm.backward(self.softmax.backward(dc, cache[1]), cache[0])


class Centred(Layer):
    """Minus the mean of the batch: it lets samples act on each other, and holds nothing."""

    mixes_samples = True

    def forward(self, x):
        return x - x.mean(axis=0), None

    def backward(self, dy, cache):
        return dy - dy.mean(axis=0)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize(
    "make",
    [
        lambda room: room.DynamicRouting(2, squash=BatchNorm(E, dtype=np.float64)),
        lambda room: room.DynamicRouting(2, squash=Centred()),
        lambda room: room.SelfAttentionRouting(coupling=NormedLogits()),
        lambda room: room.EMRouting(J, 2, inverse_temperature=0.5, coupling=NormedLogits(), dtype=np.float64),
    ],
)
def test_samples_that_act_on_each_other_within_a_routing_are_not_sliced_apart(make):
    rng = np.random.default_rng(0)
    u, a = rng.normal(size=(B, I, D)), rng.uniform(size=(B, I))
    found = []
    for room in (capsules, fast):
        routing = make(room)
        layer = room.CapsuleLayer(I, D, J, E, routing=routing, std=1.0, rng=0, dtype=np.float64)
        y, cache = layer.forward(u, a) if routing.reads_activations else layer.forward(u)
        gradients = layer.backward(upstream(y), cache)
        several = [each if isinstance(each, tuple) else (each,) for each in (y, gradients)]
        found.append([*several[0], *several[1], *layer.grads.values(), *layer.added.values()])
    for plain, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, plain, rtol=1e-9, atol=1e-12)


def test_as_many_gradients_as_outputs_are_asked_for():
    layer = CapsuleLayer(I, D, J, E, routing=DynamicRouting(2, outputs=("v", "c")), rng=0)
    (v, c), cache = layer.forward(np.ones((2, I, D), dtype=np.float32))
    with pytest.raises(ValueError, match=r"CapsuleLayer.backward: got 1 gradients, expected 2: one for"):
        layer.backward(v, cache)
    with pytest.raises(ValueError, match=r"CapsuleLayer.backward: dy has shape \(2, 3, 4\), expected \(2, 6"):
        layer.backward((v, v), cache)
    layer.backward((v, c), cache)


@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(0, 10**6))
def test_insertion_sorts(parents, count, ties, seed):
    z = np.random.default_rng(seed).normal(size=(parents, 2, 5)).transpose(1, 2, 0)  # (B, I, J)
    z = z.round() if ties else z
    count = min(count, parents)
    found = fast_couplings.largest(z, count)
    np.testing.assert_array_equal(found, np.sort(z, axis=-1)[..., ::-1][..., :count])
    np.testing.assert_allclose(fast_couplings.cumulated(z), np.cumsum(z, axis=-1), rtol=1e-12, atol=1e-12)
    assert found.strides[-1] == max(found.strides) or count > fast_couplings.MAX_INSERTED or count == 1


@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(0, 10**6))
def test_top_k_without_infinite_logits_has_the_bits_of_its_definition(parents, k, ties, seed):
    b = 20 * np.random.default_rng(seed).normal(size=(parents, 2, 5)).transpose(1, 2, 0)  # (B, I, J)
    b, k = b.round() if ties else b, min(k, parents)
    c, cache = TopK(k).forward(b)
    expected, plain = capsules.TopK(k).forward(b)
    np.testing.assert_array_equal(c, expected)
    np.testing.assert_array_equal(cache.chosen, plain.chosen)


@pytest.mark.parametrize("coupling", [Softmax(), TopK(1), TopK(J), capsules.TopK(2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_share_that_is_known_is_what_the_coupling_gives(coupling, dtype):
    b = np.zeros((1, I, J), dtype=dtype)
    share = factored.even_share(coupling, b)
    np.testing.assert_array_equal(np.full_like(b, share), coupling(b))


@pytest.mark.parametrize("coupling", [Sparsemax(), Entmax(), Hard()])
def test_a_single_pair_of_capsules_has_its_share(coupling):
    assert factored.even_share(coupling, np.zeros((1, 1, 1))) == 1


@pytest.mark.parametrize(
    "routing",
    [
        lambda coupling: DynamicRouting(1, coupling=coupling),
        lambda coupling: InvertedAttentionRouting(E, iterations=1, coupling=coupling),
    ],
)
def test_more_parents_to_choose_than_there_are_get_refused_by_a_single_iteration_too(routing):
    layer = CapsuleLayer(I, D, J, E, routing=routing(TopK(J + 1)), rng=0)
    with pytest.raises(ValueError, match=r"TopK.forward: k is 4, but b has 3 upper capsules J; expected 1"):
        layer(np.ones((2, I, D), dtype=np.float32))
