"""EM routing is the procedure of Hinton et al. 2018, with its properties; and what public codes get wrong."""

import numpy as np
import pytest
from helpers import mnist

from minicaps import capsules, fast, gradcheck
from minicaps.capsules import EMRouting, Frozen, Leaky, Stopped
from minicaps.datasets import to_float
from minicaps.fast import EMRouting as FastEMRouting
from minicaps.networks import build
from minicaps.training import Adam, OneProcess, train_step

B, I, J, E = 2, 7, 3, 4  # all different
both = pytest.mark.parametrize("cls", [EMRouting, FastEMRouting], ids=["plain", "fast"])
iterated = pytest.mark.parametrize("iterations", [1, 2, 3])


def routing(cls=EMRouting, iterations=3, *, parents=J, dtype=np.float64, **options):
    """A routing whose β are no zeros, and whose activations are neither 0 nor 1."""
    layer = cls(
        parents, iterations, **{"inverse_temperature": 0.5, "min_variance": 0.1, **options}, dtype=dtype
    )
    rng = np.random.default_rng(5)
    layer.params["beta_u"][...] = 0.3 * rng.normal(size=parents)
    layer.params["beta_a"][...] = rng.normal(size=parents)
    return layer


def votes(seed=0, shape=(B, I, J, E), spread=1.0):
    rng = np.random.default_rng(seed)
    return spread * rng.normal(size=shape), rng.uniform(0.1, 0.9, size=shape[:2])


def procedure_1(layer, V, a):
    """The procedure as the paper writes it, of one sample: probabilities, not their logarithms."""
    I, J, E = V.shape
    R = np.full((I, J), 1 / J)
    for t in range(1, layer.iterations + 1):
        # λ rises as in the paper, to what is asked for in the end
        temperature = layer.inverse_temperature * (1 - 0.95**t) / (1 - 0.95**layer.iterations)
        mu, variance, active = np.zeros((J, E)), np.zeros((J, E)), np.zeros(J)
        for j in range(J):
            r = R[:, j] * a
            for e in range(E):
                mu[j, e] = sum(r[i] * V[i, j, e] for i in range(I)) / sum(r)
                variance[j, e] = sum(r[i] * (V[i, j, e] - mu[j, e]) ** 2 for i in range(I)) / sum(r)
            variance[j] += layer.min_variance
            cost = (layer.params["beta_u"][j] + np.log(np.sqrt(variance[j]))) * sum(r)
            beta_a = layer.params["beta_a"][j] / layer.inverse_temperature
            active[j] = 1 / (1 + np.exp(-temperature * (beta_a - cost.sum())))
        density = np.exp(-((V - mu) ** 2 / (2 * variance)).sum(axis=2)) / np.sqrt(
            (2 * np.pi * variance).prod(axis=1)
        )
        R = active * density / (active * density).sum(axis=1, keepdims=True)
    return mu, active


@both
@iterated
def test_it_is_the_procedure_of_the_paper_in_plain_probabilities(cls, iterations):
    layer, (V, a) = routing(cls, iterations), votes()
    mu, active = layer(V, a)
    for b in range(B):
        expected = procedure_1(layer, V[b], a[b])
        np.testing.assert_allclose(mu[b], expected[0], rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(active[b], expected[1], rtol=1e-11)


@both
def test_two_children_and_one_parent_by_hand(cls):
    layer = cls(1, 1, inverse_temperature=0.25, min_variance=0.5, beta_u_start=0.1, dtype=np.float64)
    layer.params["beta_a"][...] = 2.0
    V = np.array([1.0, 4.0]).reshape(1, 2, 1, 1)
    mu, active = layer(V, np.array([[0.5, 0.25]]))  # ρ = 0.75, w = 2/3 and 1/3
    assert mu.item() == pytest.approx(2.0)
    variance = 2 / 3 * 1 + 1 / 3 * 4 + 0.5  # 2.5
    cost = 0.75 * (0.1 + 0.5 * np.log(variance))
    assert active.item() == pytest.approx(1 / (1 + np.exp(-(2.0 - 0.25 * cost))), rel=1e-12)


@both
def test_one_iteration_takes_the_mean_of_the_votes_by_activation(cls):
    V, a = votes()
    mu, _ = routing(cls, 1)(V, a)
    expected = np.einsum("bi,bije->bje", a, V) / a.sum(axis=1)[:, None, None]
    np.testing.assert_allclose(mu, expected, rtol=1e-12)


@both
@iterated
def test_a_child_that_is_not_active_counts_like_a_missing_one(cls, iterations):
    layer, (V, a) = routing(cls, iterations), votes()
    a[:, 2] = 0
    for one, other in zip(layer(V, a), layer(np.delete(V, 2, axis=1), np.delete(a, 2, axis=1)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11)
    y, cache = layer.forward(V, a)
    _, da = layer.backward((np.zeros_like(y[0]), np.ones_like(y[1])), cache)
    assert (np.abs(da) > 1e-6).all()  # where r is normalised over the parents, a cancels and da is 0


@both
@iterated
def test_votes_that_move_move_the_means_and_nothing_else(cls, iterations):
    layer, (V, a) = routing(cls, iterations), votes()
    moved = np.random.default_rng(1).normal(size=(J, E))
    mu, active = layer(V, a)
    mu_moved, active_moved = layer(V + moved, a)
    np.testing.assert_allclose(mu_moved, mu + moved, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(active_moved, active, rtol=1e-11)


@both
def test_the_order_of_children_and_of_parents_does_not_matter(cls):
    layer, (V, a) = routing(cls), votes()
    mu, active = layer(V, a)
    rng = np.random.default_rng(2)
    children, parents = rng.permutation(I), np.array([2, 0, 1])
    for name in ("beta_u", "beta_a"):
        layer.params[name][...] = layer.params[name][parents]
    shuffled = layer(V[:, children][:, :, parents], a[:, children])
    np.testing.assert_allclose(shuffled[0], mu[:, parents], rtol=1e-11)
    np.testing.assert_allclose(shuffled[1], active[:, parents], rtol=1e-11)


@both
def test_couplings_start_even_and_sum_to_1_over_the_parents(cls):
    V, a = votes()
    _, cache = routing(cls).forward(V, a)
    np.testing.assert_allclose(cache.c[0], np.full((B, I, J), 1 / J), rtol=1e-12)
    for c in cache.c:
        np.testing.assert_allclose(c.sum(axis=2), np.ones((B, I)), rtol=1e-12)
    assert np.abs(cache.c[-1] - 1 / J).max() > 0.3


@both
def test_the_inverse_temperature_is_that_of_the_last_iteration(cls):
    """With one parent all couplings are 1, so that nothing but λ could change."""
    V, a = votes(shape=(B, I, 1, E))
    one, three = (routing(cls, iterations, parents=1)(V, a) for iterations in (1, 3))
    np.testing.assert_allclose(one[1], three[1], rtol=1e-12)
    _, cache = routing(EMRouting, 3, parents=1).forward(V, a)
    z = [iteration.z for iteration in cache.iterations]
    np.testing.assert_allclose(z[0], z[2] * 0.05 / (1 - 0.95**3), rtol=1e-12)


@both
def test_children_go_to_the_parent_about_which_they_agree(cls):
    rng = np.random.default_rng(3)
    V = rng.normal(size=(1, 12, 3, E))
    V[0, :6, 0] = 0.05 * rng.normal(size=(6, E))  # six children agree about parent 0
    V[0, 6:, 1] = 1 + 0.05 * rng.normal(size=(6, E))  # six about parent 1, and nobody about parent 2
    layer = cls(3, 3, inverse_temperature=0.3, min_variance=0.01, dtype=np.float64)
    (mu, active), cache = layer.forward(V, np.full((1, 12), 0.9))
    assert active[0, :2].min() > 0.99 and active[0, 2] < 0.6
    assert cache.c[-1][0, :6, 0].min() > 0.95 and cache.c[-1][0, 6:, 1].min() > 0.95
    np.testing.assert_allclose(mu[0, 0], 0, atol=0.1)
    np.testing.assert_allclose(mu[0, 1], 1, atol=0.1)


# -- the gradient ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {"inverse_temperature": 0.5, "min_variance": 0.1}, {"inverse_temperature": 0.01, "min_variance": 5e-4}
])  # fmt: skip
def test_couplings_taken_for_constants_are_not_the_gradient(options):
    """Which is why the E-step is differentiated, as by the authors and unlike in some public codes."""
    V, a = votes()
    full, frozen = routing(**options), routing(**options, coupling=Stopped())
    assert gradcheck(full, (V, a)).ok
    report = gradcheck(frozen, (V, a), check_forward=full.forward)
    errors = {row.array: row.error for row in report.rows}
    assert errors["u_hat"] > 0.05 and errors["a"] > 0.05, errors


@both
def test_the_gradient_of_a_parent_that_nobody_chooses_is_correct(cls):
    c = np.random.default_rng(4).uniform(size=(I, J))
    c[:, 1] = 0
    layer, (V, a) = routing(cls, 2, coupling=Frozen(c)), votes()
    mu, _ = layer(V, a)
    assert (mu[:, 1] == 0).all()
    gradcheck(layer, (V, a)).raise_if_failed()


class OfVotes:
    """A routing as a function of the votes alone, to their means."""

    def __init__(self, layer, a):
        self.layer, self.a = layer, a

    def forward(self, V):
        (mu, _), cache = self.layer.forward(V, self.a)
        return mu, cache

    def backward(self, dmu, cache):
        return self.layer.backward((dmu, np.zeros_like(self.a[:, :J])), cache)[0]


@both
def test_the_gradient_is_correct_where_almost_nobody_is_active(cls):
    """There Σ_i w is not 1, so that μ is felt through σ² too."""
    V, a = votes()
    layer = routing(cls, 3)
    assert 0.1 < layer.forward(V, 1e-12 * a)[0][0].std() < 0.9 * layer.forward(V, a)[0][0].std()
    gradcheck(OfVotes(layer, 1e-12 * a), (V,)).raise_if_failed()


# -- numbers ----------------------------------------------------------------------------------


@both
def test_a_parent_with_one_child_has_the_least_variance_and_a_gradient(cls):
    """σ²_min is added: a maximum would have a kink, and no gradient below it."""
    layer, (V, a) = routing(cls, 1), votes(shape=(B, 1, J, E))
    mu, active = layer(V, a)
    np.testing.assert_allclose(mu, V[:, 0], rtol=1e-11)
    cost = a / J * E * (layer.params["beta_u"] + 0.5 * np.log(layer.min_variance))
    z = layer.params["beta_a"] - layer.inverse_temperature * cost
    np.testing.assert_allclose(active, 1 / (1 + np.exp(-z)), rtol=1e-11)
    near = routing(cls, 2), votes(spread=1e-3)
    report = gradcheck(near[0], near[1])
    assert report.ok and not any(row.zero for row in report.rows), report


@both
def test_votes_too_far_for_a_probability_still_choose(cls):
    """exp(-10⁴) is 0: only logarithms, less the largest over the parents, tell which parent is nearer."""
    V, a = votes(spread=0.01)
    V[:, 3:] += 40
    V[:, 0, 0] += 3  # an outlier for parent 0
    layer = routing(cls, 3, min_variance=5e-4, dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        (mu, active), cache = layer.forward(V.astype(np.float32), a.astype(np.float32))
    for c in cache.c:
        np.testing.assert_allclose(c.sum(axis=2), np.ones((B, I)), rtol=1e-5)
    assert np.isfinite(mu).all() and np.isfinite(active).all()


@both
@pytest.mark.parametrize("offset", [0, 30, 300])
def test_float32_is_close_to_float64_however_far_the_votes_are_from_0(cls, offset):
    """σ² from (V - μ)²; as E[V²] - μ² it would be lost."""
    V, a = votes(1, shape=(B, 20, J, 16), spread=0.5)
    V += offset
    found = []
    for dtype in (np.float32, np.float64):
        layer = routing(cls, 3, dtype=dtype)
        y, cache = layer.forward(V.astype(dtype), a.astype(dtype))
        upstream = tuple(np.random.default_rng(6).normal(size=part.shape).astype(dtype) for part in y)
        dV, da = layer.backward(upstream, cache)
        assert {part.dtype for part in (*y, dV, da)} == {np.dtype(dtype)}
        found.append((y[0] - offset, y[1], cache.c[-1], dV))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3 * np.abs(other).max())


@both
@pytest.mark.parametrize("case", ["zero votes", "one child", "nobody active"])
def test_what_is_degenerate_stays_finite(cls, case):
    V, a = votes(shape=(B, 1 if case == "one child" else I, J, E))
    V = np.zeros_like(V) if case == "zero votes" else V
    a = np.zeros_like(a) if case == "nobody active" else a
    layer = routing(cls, dtype=np.float32)
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        y, cache = layer.forward(V.astype(np.float32), a.astype(np.float32))
        dV, da = layer.backward(tuple(np.ones_like(part) for part in y), cache)
    assert all(np.isfinite(part).all() for part in (*y, dV, da))


# -- options and errors ------------------------------------------------------------------------


def test_a_coupling_of_another_kind_can_be_handed_in():
    V, a = votes()
    _, cache = routing(coupling=Leaky()).forward(V, a)
    assert (cache.c[0].sum(axis=2) < 1).all()


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: EMRouting(0), ValueError, "parents is 0, expected a whole number above 0"),
        (lambda: EMRouting(3, 0), ValueError, "iterations is 0"),
        (
            lambda: EMRouting(3, min_variance=-1),
            ValueError,
            "min_variance is -1, expected a number above 0; the",
        ),
        (lambda: EMRouting(3, min_variance=0), ValueError, "min_variance is 0, expected a number above 0"),
        (lambda: EMRouting(3, inverse_temperature=-1), ValueError, "inverse_temperature is -1"),
        (lambda: EMRouting(3, beta_u_start="x"), ValueError, "beta_u_start is 'x'"),
        (lambda: EMRouting(3, coupling="softmax"), TypeError, "expected a Coupling"),
    ],
)
def test_options_that_cannot_be_are_told(make, error, message):
    with pytest.raises(error, match=message):
        make()


@both
@pytest.mark.parametrize("count, got", [(3, "3 of them"), (None, "ndarray")])
def test_other_than_two_gradients_are_told(cls, count, got):
    layer = routing(cls)
    (mu, active), cache = layer.forward(*votes())
    dy = mu if count is None else (mu, active, mu)
    with pytest.raises(
        TypeError, match=rf"EMRouting.backward: got {got}, expected two gradients, \(dmu, da\)"
    ):
        layer.backward(dy, cache)


@both
def test_its_options_by_default(cls):
    layer = cls(J)
    assert (layer.iterations, layer.inverse_temperature, layer.min_variance) == (3, 0.001, 5e-4)
    assert not layer.params["beta_u"].any() and not layer.params["beta_a"].any()


@both
def test_inputs_that_do_not_fit_are_told(cls):
    layer, (V, a) = routing(cls), votes()
    with pytest.raises(
        ValueError, match=r"EMRouting.forward: u_hat has .* axis 2 \(upper capsules J\) is 2, not 3"
    ):
        layer.forward(V[:, :, :2], a)
    with pytest.raises(
        ValueError, match=r"EMRouting.forward: a has .* axis 1 \(lower capsules I\) is 6, not 7"
    ):
        layer.forward(V, a[:, :6])
    with pytest.raises(ValueError, match=r"u_hat has shape \(2, 7, 3\), expected \(B, I, 3, E\)"):
        layer.forward(V[..., 0], a)
    y, cache = layer.forward(V, a)
    with pytest.raises(ValueError, match=r"EMRouting.backward: dy has shape"):
        layer.backward((y[0], y[1][:, :2]), cache)


@pytest.mark.parametrize("room", [capsules, fast])
def test_a_capsule_layer_may_route_by_em(room):
    rng = np.random.default_rng(0)
    routing = room.EMRouting(3, inverse_temperature=0.5, min_variance=0.3, dtype=np.float64)
    layer = room.CapsuleLayer(5, 4, 3, 6, routing=routing, std=0.5, rng=0, dtype=np.float64)
    u, a = rng.normal(size=(2, 5, 4)), rng.uniform(0.1, 0.9, size=(2, 5))  # (B, I, D), (B, I)
    (mu, upper), _ = layer.forward(u, a)
    assert mu.shape == (2, 3, 6) and upper.shape == (2, 3)
    gradcheck(layer, [u, a]).raise_if_failed()


# -- in a CapsNet ---------------------------------------------------------------------------------


def test_every_class_of_a_capsnet_is_learned():
    """With an inverse temperature of 0.1 costs push some classes' activations to 0, whence none returns."""
    dataset, rng = mnist(), np.random.default_rng(0)
    images, labels = dataset.train_images[:2000], dataset.train_labels[:2000]
    network = build("capsnet", "small", rng=0, routing="em", decoder=False)
    source, adam = OneProcess(network), Adam(network, 0.004)
    for _ in range(100):
        chosen = rng.integers(0, len(images), 50)
        train_step(source, adam, to_float(images[chosen]), labels[chosen])
    a = network(to_float(images[:500]))  # (500, J)
    of_label = a[np.arange(500), labels[:500]]  # (500,)
    assert min(of_label[labels[:500] == j].mean() for j in range(10)) > 0.3
