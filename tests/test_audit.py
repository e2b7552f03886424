"""The audit: every known fault is named, alone and in pairs; right codes of any form are left in peace."""

import itertools
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from minicaps import CapsuleLayer, ConvCaps, Dense, DynamicRouting, EMRouting, MarginLoss, Mask, Squash, build
from minicaps.cli import FAILED, OK, WRONG_USE
from minicaps.datasets import augment
from minicaps.layers import ReconstructionLoss
from minicaps.proof import adapt, audit, variants, variants_table
from minicaps.proof.banks import BANKS, CHOICE, FAULT, HOLDS, UNKNOWN
from minicaps.proof.subjects import SUBJECTS
from minicaps.training import Adam, Constant

ABLATION = Path(__file__).parents[1] / "data/experiments/ablation/result.json"


def verdicts(code, **options):
    """Return {(function, check): verdict} of all that does not hold."""
    findings = audit(code, **options)
    return {(f.function, f.check): f.verdict for f in findings if f.verdict != HOLDS}


# -- minicaps itself --------------------------------------------------------------------------


class Ours:
    """What the audit asks for, by minicaps."""

    IMAGE_SHAPE = (28, 28, 1)
    net = build("capsnet", "tiny", rng=0, dtype=np.float64)

    def squash(self, s):
        return Squash()(s)

    def squash_vjp(self, s, dv):
        return Squash().backward(dv, Squash().forward(s)[1])

    def routing(self, u_hat, iterations):
        return DynamicRouting(iterations)(u_hat)

    def routing_vjp(self, u_hat, iterations, dv):
        layer = DynamicRouting(iterations)
        return layer.backward(dv, layer.forward(u_hat)[1])

    def _layer(self, W, iterations):
        I, D, J, E = W.shape
        layer = CapsuleLayer(I, D, J, E, iterations=iterations, dtype=W.dtype)
        layer.votes.params["W"][...] = W
        return layer

    def capsule_layer(self, u, W, iterations):
        return self._layer(W, iterations)(u)

    def capsule_layer_vjp(self, u, W, iterations, dv):
        layer = self._layer(W, iterations)
        du = layer.backward(dv, layer.forward(u)[1])
        return du, layer.votes.grads["W"]

    def _conv_layer(self, W, stride, iterations):
        (I, K, _, D, J, E) = W.shape
        layer = ConvCaps(I, D, J, E, K, stride=stride, iterations=iterations, dtype=W.dtype)
        layer.votes.params["W"][...] = W
        return layer

    def conv_capsules(self, u, W, stride, iterations):
        return self._conv_layer(W, stride, iterations)(u)

    def conv_capsules_vjp(self, u, W, stride, iterations, dv):
        layer = self._conv_layer(W, stride, iterations)
        du = layer.backward(dv, layer.forward(u)[1])
        return du, layer.votes.grads["W"]

    def em_routing(self, votes, a, beta_u, beta_a, inverse_temperatures):
        last = inverse_temperatures[-1]
        routing = EMRouting(
            len(beta_u), len(inverse_temperatures), inverse_temperature=last, dtype=np.float64
        )
        routing.params["beta_u"][...], routing.params["beta_a"][...] = beta_u, last * beta_a
        return routing(votes, a)

    def primary(self, x):
        return self.net.primary(self.net.relu(self.net.conv(x)))

    def network(self, images):
        return self.net.scores(self.net(images))

    def margin_loss(self, lengths, labels):
        v = lengths[..., None] * np.array([0.6, 0.8])  # (B, J, 2)
        return MarginLoss()(v, labels)

    def reconstruction_loss(self, images, drawn):
        return ReconstructionLoss()(drawn.reshape(len(drawn), -1), images.reshape(len(images), -1))

    def mask(self, v, labels):
        return Mask()(v, labels)

    def adam(self, w, gradients, learning_rate):
        layer, path = Dense(1, len(w), rng=0, dtype=np.float64), []
        layer.params["bias"][...] = w
        adam = Adam(layer, Constant(learning_rate))
        for gradient in gradients:
            layer.grads["bias"][...] = gradient
            adam.step()
            path.append(layer.params["bias"].copy())
        return np.stack(path)

    def augment(self, images):
        return augment.shift((255 * images).astype(np.uint8), 2, np.random.default_rng(0)) / 255

    def initial_W(self, I, D, J, E):
        return CapsuleLayer(I, D, J, E, rng=0).votes.params["W"]


def test_minicaps_has_none_of_the_faults():
    assert verdicts(Ours()) == {}


# -- every fault, alone and in pairs ----------------------------------------------------------


def variant(name, settings):
    """Return a code with these settings."""
    function = partial(getattr(variants, name), **settings)
    if name != "em_routing":
        return {name: function}

    def em_routing(*inputs):
        joined = function(*inputs)  # (B, J, E + 1)
        return joined[..., :-1], joined[..., -1]

    return {name: em_routing}


KINDS = {
    (name, dial.name, setting): kind
    for name, bank in BANKS.items()
    for dial in bank.dials
    for setting, (kind, *_) in dial.others.items()
}
ALONE = list(KINDS)
ROUTING_DIALS = set(map(str, BANKS["routing"].dials))


@pytest.mark.parametrize(("name", "dial", "setting"), ALONE)
def test_each_variant_is_named_and_no_other(name, dial, setting):
    found = verdicts(variant(name, {dial: setting}))
    found.pop((name, "zero"), None)  # squares of 1e30 in float32, in all of the bank
    assert found == {(name, dial): KINDS[name, dial, setting]}


PAIRS = [
    (name, {first.name: one, second.name: other})
    for name, bank in BANKS.items()
    for first, second in itertools.combinations(bank.dials, 2)
    if name == "routing" or not {str(first), str(second)} <= ROUTING_DIALS  # which some others have too
    for one, other in itertools.product(first.others, second.others)
]


@pytest.mark.parametrize(("name", "settings"), PAIRS, ids=str)
def test_both_variants_of_a_pair_are_named(name, settings):
    found = verdicts(variant(name, settings))
    found.pop((name, "zero"), None)
    if found != {(name, dial): KINDS[name, dial, setting] for dial, setting in settings.items()}:
        same_as_one(name, settings, found)


def same_as_one(name, settings, found):
    """Check that what is not named cannot be seen: without it the results are the same."""
    fewer = {dial: setting for dial, setting in settings.items() if (name, dial) in found}
    assert len(found) == len(fewer) < len(settings)
    compute = getattr(variants, name)
    for inputs in SUBJECTS[name].probes(np.random.default_rng(1)):
        expected = compute(*inputs, **settings)
        np.testing.assert_allclose(compute(*inputs, **fewer), expected, rtol=1e-9, atol=1e-12)


# -- right codes of other forms ---------------------------------------------------------------


def norm_squash(s):
    n = np.linalg.norm(s, axis=-1, keepdims=True)
    return s * n / (1 + n * n)


def epsilon_squash(s):
    n2 = np.square(s).sum(-1, keepdims=True)
    return n2 / (1 + n2) * s / np.sqrt(n2 + 1e-8)


def loop_squash(s):
    v = np.zeros(s.shape)
    for b, j in np.ndindex(s.shape[:2]):
        n2 = sum(x * x for x in s[b, j])
        if n2 > 0:
            v[b, j] = n2 / (1 + n2) * s[b, j] / n2**0.5
    return v


def einsum_routing(u_hat, iterations):
    b = np.zeros(u_hat.shape[:-1])
    while True:
        c = np.exp(b) / np.einsum("bij->bi", np.exp(b))[..., None]
        v = epsilon_squash(np.einsum("bij,bije->bje", c, u_hat))
        iterations -= 1
        if iterations == 0:
            return v
        b = b + np.einsum("bije,bje->bij", u_hat, v)


def loop_routing(u_hat, iterations):
    v = np.zeros((len(u_hat), *u_hat.shape[2:]))
    for sample, votes in enumerate(u_hat):
        b = np.zeros(votes.shape[:2])
        for _ in range(iterations):
            for j in range(votes.shape[1]):
                shares = [np.exp(b[i, j]) / np.exp(b[i]).sum() for i in range(len(votes))]
                s = sum(share * votes[i, j] for i, share in enumerate(shares))
                v[sample, j] = norm_squash(s)
            b += np.array([[votes[i, j] @ v[sample, j] for j in range(len(b[0]))] for i in range(len(b))])
    return v


def matrix_routing(u_hat, last):
    """Votes (B, J, I, E, 1) -> (B, J, 1, E, 1); `last` is the number of the last iteration, from 0."""
    logits = np.zeros((*u_hat.shape[:3], 1, 1))
    for k in range(last + 1):
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        s = (e / e.sum(axis=1, keepdims=True) * u_hat).sum(axis=2, keepdims=True)
        n2 = (s**2).sum(axis=-2, keepdims=True)
        v = n2**0.5 / (1 + n2) * s
        if k < last:
            logits = logits + v.swapaxes(-1, -2) @ u_hat
    return v


def other_adam(w, gradients, rate):
    m, v, path = 0.0, 0.0, []
    for t, g in enumerate(gradients, 1):
        m, v = m + (g - m) * 0.1, v + (g * g - v) * 1e-3
        w = w - rate * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t) * m / (v**0.5 + 1e-8 * (1 - 0.999**t) ** 0.5)
        path.append(w.copy())
    return path


def where_margin(lengths, labels):
    present = np.arange(lengths.shape[1]) == labels[:, None]
    return (
        np.where(present, np.clip(0.9 - lengths, 0, 1) ** 2, 0.5 * np.clip(lengths - 0.1, 0, 1) ** 2)
        .sum(1)
        .mean()
    )


def loop_margin(lengths, labels):
    total = 0.0
    for n, label in zip(lengths, labels, strict=True):
        for k, x in enumerate(n):
            total += max(0, 0.9 - x) ** 2 if k == label else max(0, x - 0.1) ** 2 / 2
    return float(total / len(lengths))


def vector_margin(v, labels):
    return where_margin(np.linalg.norm(v, axis=-1), labels)


def product_layer(u, W, iterations):
    votes = u[:, :, None, None] @ W.transpose(0, 2, 1, 3)  # (B, I, 1, 1, D) (I, J, D, E) -> (B, I, J, 1, E)
    return einsum_routing(votes[..., 0, :], iterations)


def window_capsules(u, W, stride, iterations):
    """Every window and every type by itself."""
    (B, rows, columns, I, _), K = u.shape, W.shape[1]
    grid = range(0, rows - K + 1, stride), range(0, columns - K + 1, stride)
    v = np.zeros((B, *map(len, grid), *W.shape[4:]))
    for (p, top), (q, left) in itertools.product(*map(enumerate, grid)):
        window = u[:, top : top + K, left : left + K]
        votes = [np.tensordot(window[:, :, :, i], W[i], axes=3) for i in range(I)]  # (B, J, E) each
        v[:, p, q] = loop_routing(np.stack(votes, axis=1), iterations)
    return v


def norm_loss(images, drawn):
    return 5e-4 * (np.linalg.norm((images - drawn).reshape(len(images), -1), axis=1) ** 2).mean()


def picking_mask(v, labels):
    masked = np.zeros(v.shape)
    for sample, label in enumerate(labels):
        masked[sample, label] = v[sample, label]
    return masked.reshape(len(v), -1)


def counted_errors(scores, labels):
    return sum(np.argmax(one) != label for one, label in zip(scores, labels, strict=True)) / len(labels)


RIGHT = [
    ("squash", norm_squash),
    ("squash", epsilon_squash),
    ("squash", loop_squash),
    ("squash", adapt(norm_squash, dtype=np.float32)),
    ("squash", adapt(lambda s: variants.squash(s, axis="parents"), ["BJE -> BEJ"], "BEJ -> BJE")),
    ("routing", einsum_routing),
    ("routing", loop_routing),
    ("routing", adapt(matrix_routing, ["BIJE -> BJIE1"], "BJ1E1 -> BJE", iterations=-1)),
    ("routing", adapt(einsum_routing, dtype="float32")),
    ("capsule_layer", product_layer),
    ("conv_capsules", window_capsules),
    ("conv_capsules", adapt(lambda u, *rest: window_capsules(u, *rest), dtype="float32")),
    ("margin_loss", where_margin),
    ("margin_loss", loop_margin),
    ("margin_loss", vector_margin),
    ("reconstruction_loss", norm_loss),
    ("reconstruction_loss", lambda x, y: float(np.vdot(x - y, x - y)) / len(x) / 2000),
    ("mask", lambda v, y: np.eye(v.shape[1])[y][:, :, None] * v),
    ("mask", picking_mask),
    ("adam", other_adam),
    ("error_rate", counted_errors),
]


@pytest.mark.parametrize(("name", "function"), RIGHT)
def test_a_right_code_of_another_form_is_left_in_peace(name, function):
    found = verdicts({name: function})
    assert found in ({}, {(name, "zero"): CHOICE})


# -- what no bank can tell --------------------------------------------------------------------


def windows(x):
    view = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(1, 2))[:, ::2, ::2]
    kernel = np.random.default_rng(3).normal(size=(5, 5, x.shape[3], 24)) / 5
    return np.einsum("bpqcrs,rsck->bpqk", view, kernel)


def right_primary(x):
    return norm_squash(windows(x).reshape(len(x), -1, 8))


def channels_first_primary(x):
    return norm_squash(windows(x).transpose(0, 3, 1, 2).reshape(len(x), -1, 8))


@pytest.mark.parametrize("shape", [(20, 20, 1), (17, 24, 2), (36, 13, 1)])
def test_primary_capsules_that_mix_places_are_found(shape):
    assert verdicts({"primary": right_primary, "IMAGE_SHAPE": shape}) == {}
    assert verdicts({"primary": lambda x: windows(x).reshape(len(x), -1, 8), "IMAGE_SHAPE": shape}) == {
        ("primary", "length"): CHOICE
    }
    relu = lambda x: norm_squash(np.maximum(windows(x), 0).reshape(len(x), -1, 8))  # noqa: E731
    assert verdicts({"primary": relu, "IMAGE_SHAPE": shape}) == {}
    wrong = {"primary": channels_first_primary, "IMAGE_SHAPE": shape}
    assert verdicts(wrong) == {("primary", "place"): FAULT}
    wrong["primary"] = adapt(channels_first_primary, dtype=np.float32)
    assert verdicts(wrong) == {("primary", "place"): FAULT}


@pytest.mark.parametrize(
    ("moved", "check"),
    [
        (lambda u: u.transpose(0, 2, 1, 3, 4).reshape(u.shape), "place"),  # rows taken for columns
        (lambda u: np.roll(u, 1, axis=2), "place"),
        (lambda u: u.reshape(len(u), -1, *u.shape[1:3]).transpose(0, 2, 3, 1).reshape(u.shape), "place"),
        (lambda u: u + 0.1 * u.mean(axis=0), "samples"),
    ],
)
def test_convolutional_capsules_that_mix_in_an_unknown_way_are_found(moved, check):
    def mixed(u, *rest):
        return np.tanh(window_capsules(moved(u), *rest))

    found = verdicts({"conv_capsules": mixed})
    assert found.pop(("conv_capsules", "zero")) == CHOICE  # squares of 1e30
    assert found.pop(("conv_capsules", check)) == FAULT
    assert set(found.values()) == {UNKNOWN}


def test_convolutional_capsules_of_an_unknown_form_are_not_condemned():
    found = verdicts({"conv_capsules": lambda *inputs: np.tanh(window_capsules(*inputs))})
    assert found.pop(("conv_capsules", "zero")) == CHOICE and set(found.values()) == {UNKNOWN}


def lengths(images):
    weights = np.random.default_rng(0).normal(size=(images[0].size, 10)) / 10
    return np.abs(np.tanh(images.reshape(len(images), -1) @ weights))


@pytest.mark.parametrize(
    ("network", "check"),
    [
        (lambda x: lengths(x) / lengths(x).sum(axis=1, keepdims=True), "lengths"),
        (lambda x: 3 * lengths(x), "lengths"),
        (lambda x: np.abs(lengths(x) - lengths(x).mean(axis=0)), "batch"),
        (lambda x: lengths(np.nan_to_num(x)), "nan"),
        (lambda x: lengths(x) * np.random.default_rng().uniform(0.9, 1, size=(len(x), 10)), "pure"),
    ],
)
def test_faults_of_a_whole_network_are_found(network, check):
    code = {"network": lengths, "IMAGE_SHAPE": (8, 7, 1)}
    assert verdicts(code) == {}
    found = verdicts(code | {"network": network})
    assert found[("network", check)] == FAULT
    assert set(found) - {("network", check)} <= ({("network", "batch")} if check == "pure" else set())


def test_one_shift_for_a_whole_batch_is_found():
    rng = np.random.default_rng(0)
    own = lambda x: np.stack([np.roll(one, rng.integers(-2, 3), 0) for one in x])  # noqa: E731
    code = {"augment": own, "IMAGE_SHAPE": (9, 8, 1)}
    assert verdicts(code) == {}
    assert verdicts(code | {"augment": lambda x: np.roll(x, rng.integers(-2, 3), 1)}) == {
        ("augment", "each"): FAULT
    }
    assert verdicts(code | {"augment": lambda x: x}) == {("augment", "each"): CHOICE}

    def in_place(x):
        x[...] = own(x)
        return x

    assert verdicts(code | {"augment": in_place}) == {("augment", "pure"): FAULT}


def test_the_start_of_W_is_told():
    normal = lambda std: lambda *shape: np.random.default_rng(0).normal(0, std, shape)  # noqa: E731
    assert verdicts({"initial_W": normal(0.05)}) == {}
    assert verdicts({"initial_W": normal(1)}) == {("initial_W", "start"): CHOICE}
    assert verdicts({"initial_W": lambda *shape: np.zeros(shape)}) == {("initial_W", "start"): FAULT}


@pytest.mark.parametrize("function", ["squash", "routing"])
def test_nan_at_zero_is_found(function):
    def bare(s):
        n2 = (s**2).sum(axis=-1, keepdims=True)
        return n2 / (1 + n2) * s / np.sqrt(n2)

    code = bare if function == "squash" else lambda u_hat, R: bare(variants.route(u_hat, R, end="none").v)
    assert verdicts({function: code}) == {(function, "zero"): FAULT}


def test_a_gradient_of_nan_at_zero_is_found():
    def vjp(s, dv):
        n = np.linalg.norm(s, axis=-1, keepdims=True)
        return n / (1 + n**2) * dv + (1 - n**2) / (1 + n**2) ** 2 / n * (s * dv).sum(-1, keepdims=True) * s

    code = {"squash": norm_squash, "squash_vjp": vjp}
    assert verdicts(code) == {("squash", "zero"): FAULT}
    (finding,) = [f for f in audit(code) if f.check == "zero"]
    assert "the gradient is not finite" in finding.says


def test_a_code_that_refuses_float32_is_told_of_all_the_same():
    def picky(s):
        if s.dtype != np.float64:
            raise TypeError("float64 only")
        return norm_squash(s)

    assert verdicts({"squash": picky}) == {}


# -- gradients --------------------------------------------------------------------------------


def test_gradients_are_held_to_central_differences_and_known_wrong_ones_are_told():
    right = Ours()
    forms = {
        "is 0 everywhere": lambda s, dv: np.zeros_like(s),
        "is 0.5 times": lambda s, dv: right.squash_vjp(s, dv) / 2,
        "length of s for a constant": lambda s, dv: norm_squash(s) / s * dv,
        "not that of the code": lambda s, dv: right.squash_vjp(s, dv) ** 3,
    }
    for says, vjp in forms.items():
        (found,) = [f for f in audit({"squash": norm_squash, "squash_vjp": vjp}) if f.check == "gradient"]
        assert found.verdict == FAULT and says in found.says and "by central differences" in found.evidence

    def frozen(u_hat, iterations, dv):
        c = variants.route(u_hat, iterations).c
        s = (c[..., None] * u_hat).sum(axis=1)
        return c[..., None] * right.squash_vjp(s, dv)[:, None]

    code = {"routing": einsum_routing, "routing_vjp": frozen}
    (found,) = [f for f in audit(code) if f.check == "gradient"]
    assert found.verdict == FAULT and "couplings for constants" in found.says and "-0.45" in found.cost
    assert "STOPPED_GRADIENT" in found.says
    (found,) = [f for f in audit(code | {"STOPPED_GRADIENT": True}) if f.check == "gradient"]
    assert found.verdict == CHOICE
    wrong = partial(variants.capsule_layer, softmax_over="children")

    def stopped(u, W, iterations, dv):
        c = variants.route(variants.votes(u, W), iterations, softmax_over="children").c
        dv = right.squash_vjp((c[..., None] * variants.votes(u, W)).sum(axis=1), dv)
        return np.einsum("bij,bje,idje->bid", c, dv, W), np.einsum("bij,bje,bid->idje", c, dv, u)

    code = {"capsule_layer": wrong, "capsule_layer_vjp": stopped}
    (found,) = [f for f in audit(code) if f.check == "gradient"]
    assert "couplings for constants" in found.says  # known beside a fault of the forward pass, too

    def stopped_conv(u, W, stride, iterations, dv):
        layer = right._conv_layer(W, stride, iterations).votes
        u_hat, cache = layer.forward(u)
        at_positions = variants.at_positions(u_hat)  # (B, N, I, J, E)
        c = variants.route(at_positions, iterations, softmax_over="grid").c  # (B, N, I, J)
        s = (c[..., None] * at_positions).sum(axis=2)  # (B, N, J, E)
        ds = right.squash_vjp(s, dv.reshape(s.shape))[:, :, None]
        return layer.backward((c[..., None] * ds).reshape(u_hat.shape), cache), layer.grads["W"]

    wrong = partial(variants.conv_capsules, softmax_over="grid")
    code = {"conv_capsules": wrong, "conv_capsules_vjp": stopped_conv}
    (found,) = [f for f in audit(code) if f.check == "gradient"]
    assert "couplings for constants" in found.says
    code = {"squash": adapt(norm_squash, dtype="float32"), "squash_vjp": right.squash_vjp}
    assert (FAULT, "gradient") not in [(f.verdict, f.check) for f in audit(code)]
    code = {"capsule_layer": right.capsule_layer, "capsule_layer_vjp": lambda u, W, R, dv: (u, W)}
    assert (FAULT, "gradient") in [(f.verdict, f.check) for f in audit(code)]


# -- functions that cannot be used ------------------------------------------------------------


def changes(s):
    s *= 0.5
    return s


def waits(s):
    time.sleep(5)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda s: 1 / 0, "raises ZeroDivisionError (division by zero) in test_audit.py, line"),
        (lambda s: s[0], "returns the shape (4, 6), expected (3, 4, 6)"),
        (lambda s: None, "returns a NoneType of object"),
        (lambda s: s * np.nan, "returns NaN"),
        (lambda s: [s, s[0]], "returns a list"),
        (lambda: 1, "raises TypeError"),
        (waits, "takes more than 0.2 s for (3, 4, 6)"),
    ],
)
def test_a_function_that_cannot_be_used_gets_a_line_and_the_rest_goes_on(function, says):
    findings = audit({"squash": function, "margin_loss": where_margin}, limit=0.2)
    first, *others = findings
    assert (first.check, first.verdict) == ("runs", UNKNOWN) and says in first.says and "\n" not in first.says
    assert {f.function for f in others} == {"margin_loss"} and all(f.verdict == HOLDS for f in others)


def test_changed_arguments_and_chance_are_faults():
    rng = np.random.default_rng(0)
    for function in (changes, lambda s: norm_squash(s) * rng.uniform(0.99, 1.01, s.shape)):
        assert verdicts({"squash": function})[("squash", "pure")] == FAULT


def test_an_unknown_code_is_not_condemned():
    found = verdicts({"squash": lambda s: np.tanh(s) * 0.9})
    assert found == {("squash", "axis"): UNKNOWN, ("squash", "length"): UNKNOWN}


def test_code_without_a_known_function_is_refused():
    with pytest.raises(ValueError, match="no function to audit; expected one of squash, routing"):
        audit({"squach": norm_squash})


@pytest.mark.parametrize("text", ["BIJE", "BIJE -> BIJ", "BB -> B", "->BJ"])
def test_axes_that_make_no_sense_are_refused(text):
    with pytest.raises(ValueError, match="expected the same letters on both sides"):
        adapt(norm_squash, [text])


def test_two_audits_find_the_same():
    code = {"squash": epsilon_squash, "routing": partial(variants.routing, count="more")}
    assert audit(code, seed=3) == audit(code, seed=3)
    assert verdicts(code, seed=3) == verdicts(code, seed=4)


# -- the page, the costs and the command line ----------------------------------------------------------


def test_the_page_shows_what_the_audit_knows():
    root = Path(__file__).parents[1]
    assert variants_table() in (root / "tests/README.md").read_text(encoding="utf-8")
    rows = variants_table().splitlines()[2:]
    assert f"[{len(rows)} decisions]" in (root / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(not ABLATION.exists(), reason="an installed package is tested without its repository")
def test_costs_are_those_of_the_stored_ablation():
    table = (ABLATION.parent / "table.md").read_text(encoding="utf-8")
    costs = [
        setting.cost for bank in BANKS.values() for dial in bank.dials for setting in dial.others.values()
    ]
    costs = {cost.split(" points")[0] for cost in costs if cost} | {"-0.45", "-0.07 ± 0.33"}
    assert len(costs) == 4
    for cost in costs:
        assert f"| {cost}" in table


BROKEN = """
import numpy as np

def squash(s):
    n2 = (s**2).sum(axis=1, keepdims=True)
    return n2 / (1 + n2) * s / np.sqrt(n2 + 1e-9)
"""


def test_the_command_prints_a_table_or_json_and_tells_by_its_exit_code(elsewhere, call):
    Path("my_code.py").write_text(BROKEN)
    code, text, _ = call("audit", "my_code.py")
    assert code == FAILED and "squash: axis" in text and "BROKEN" in text and "gives [[[" in text
    code, text, _ = call("audit", "my_code.py", "--json")
    findings = json.loads(text)
    assert code == FAILED and [f["check"] for f in findings if f["verdict"] == FAULT] == ["axis"]
    Path("my_code.py").write_text(BROKEN.replace("axis=1", "axis=-1"))
    assert call("audit", "my_code.py")[0] == OK
    Path("my_code.py").write_text("def squash(s): return 1 / 0")
    code, text, _ = call("audit", "my_code.py")
    assert code == WRONG_USE and "ZeroDivisionError" in text and "my_code.py, line 1" in text


def test_the_readme_shows_what_is_printed(elsewhere, call):
    Path("my_code.py").write_text(
        "from minicaps.proof import variants\n\n"
        "def routing(u_hat, iterations):\n"
        "    return variants.routing(u_hat, iterations, softmax_over='children')\n"
    )
    _, text, _ = call("audit", "my_code.py")
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    start = readme.index("routing: softmax_over")
    assert readme[start : readme.index("```", start)] in text


def test_the_template_can_be_filled_in(elsewhere, call):
    code, text, _ = call("audit", "--template")
    assert code == OK
    Path("my_code.py").write_text(text, encoding="utf-8")
    code, _, errors = call("audit", "my_code.py")
    assert code == WRONG_USE and "no function is written yet" in errors
    for name in SUBJECTS:
        assert f"def {name}(" in text
    Path("my_code.py").write_text(text + BROKEN, encoding="utf-8")
    assert call("audit", "my_code.py")[0] == FAILED


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "name a FILE"),
        (("nowhere.py",), "no such file"),
        (("my_code.py", "--limit", "0"), "--limit must be above 0"),
    ],
)
def test_wrong_use_gets_one_line(elsewhere, complaint, arguments, says):
    assert says in complaint("audit", *arguments, code=WRONG_USE)
