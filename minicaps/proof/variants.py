"""What codes do for each function of a capsule network: the paper's way, and the others that are known.

Each argument with a default is a decision, and its default is the paper's. All is written with sums and
loops over what the equations say, and uses nothing else of minicaps.

References
----------
Sabour, Frosst and Hinton, `Dynamic routing between capsules <https://arxiv.org/abs/1710.09829>`_, 2017.
Hinton, Sabour and Frosst, `Matrix capsules with EM routing
<https://openreview.net/forum?id=HJWLfGWRb>`_, 2018.
LaLonde and Bagci, `Capsules for object segmentation <https://arxiv.org/abs/1804.04241>`_, 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array

# -- squash -----------------------------------------------------------------------------------

LENGTHS: dict[str, Callable[[Array], Array]] = {  # of v, for the length n of s
    "paper": lambda n: n**2 / (1 + n**2),
    "half": lambda n: n**2 / (0.5 + n**2),
    "exponential": lambda n: -np.expm1(-n),
    "undivided": lambda n: n**3 / (1 + n**2),
    "unit": np.ones_like,
    "none": lambda n: n,
}
AXES: dict[str, Any] = {"capsule": -1, "parents": -2, "number": (), "map": (1, -1)}


def squash(s: Array, axis: str = "capsule", length: str = "paper") -> Array:
    """v = ‖s‖²/(1 + ‖s‖²) s/‖s‖ for every vector of s (B, J, E), or (B, N, J, E): eq. 1."""
    n = np.sqrt(np.sum(s**2, axis=AXES[axis], keepdims=True))  # (B, J, 1), or another axis is 1
    return LENGTHS[length](n) * np.divide(s, n, out=np.zeros_like(s), where=n > 0)  # (B, J, E)


# -- routing ----------------------------------------------------------------------------------


def softmax(b: Array, axis: Any) -> Array:
    e = np.exp(b - b.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


SOFTMAX_AXES: dict[str, Any] = {"parents": -1, "children": -2, "batch": 0, "grid": (1, -1)}
SHARES: dict[str, Callable[[Array], Array]] = {  # of the agreements among the samples of a batch
    "sample": lambda agreement: agreement,
    "mean": lambda agreement: np.broadcast_to(agreement.mean(axis=0), agreement.shape),
    "sum": lambda agreement: np.broadcast_to(agreement.sum(axis=0), agreement.shape),
}
STEPS = {"exact": 0, "more": 1, "fewer": -1}


class Trace(NamedTuple):
    """The last iteration of routing."""

    v: Array  # (B, J, E)
    c: Array  # (B, I, J)


def route(
    u_hat: Array,
    iterations: int,
    *,
    softmax_over: str = "parents",
    logits: str = "sample",
    update: str = "add",
    count: str = "exact",
    inside: str = "squash",
    end: str = "squash",
    axis: str = "capsule",
    length: str = "paper",
    bias: str = "none",
    leaky: str = "no",
    couplings: Array | None = None,
) -> Trace:
    """Procedure 1 on votes (B, I, J, E); with given couplings (B, I, J) nothing is routed.

    Votes (B, N, I, J, E) are those at N positions, and all results have that axis too.
    """
    b = np.zeros(u_hat.shape[:-1], u_hat.dtype)  # (B, I, J)
    c, s = b, u_hat[..., 0, :, :]  # (B, I, J), (B, J, E)
    for r in range(max(1, iterations + STEPS[count])):
        if r > 0:
            v = {"squash": squash(s, axis, length), "relu": np.maximum(s, 0), "none": s}[inside]
            agreement = SHARES[logits]((u_hat * v[..., None, :, :]).sum(axis=-1))  # (B, I, J)
            b = agreement if update == "replace" else b + agreement
        over = SOFTMAX_AXES[softmax_over]
        if couplings is not None:
            c = couplings
        elif leaky == "yes":  # one more parent, of logit 0, that takes what fits none
            c = softmax(np.concatenate([np.zeros_like(b[..., :1]), b], axis=-1), over)[..., 1:]
        else:
            c = softmax(b, over)  # (B, I, J)
        s = (c[..., None] * u_hat).sum(axis=-3) + (0.1 if bias == "0.1" else 0)  # (B, J, E)
    ends = {"squash": squash(s, axis, length), "relu": np.maximum(s, 0), "none": s}
    return Trace(ends[end], c)


def em_routing(
    votes: Array,
    a: Array,
    beta_u: Array,
    beta_a: Array,
    inverse_temperatures: Array,
    activations: str = "weigh",
    competition: str = "parents",
    prior: str = "logarithm",
    mean: str = "weighted",
    floor: str = "added",
) -> Array:
    """Procedure 1 of EM routing: votes (B, I, J, E), a (B, I), betas (J,), one λ for each iteration.

    Returns the means and, behind them, the activations of the parents: (B, J, E + 1).
    """
    c = np.full(votes.shape[:3], 1 / votes.shape[2])  # (B, I, J)
    mu, variance, active = np.zeros(()), np.ones(()), np.ones(())  # of the iteration before
    for r, inverse_temperature in enumerate(inverse_temperatures):
        if r > 0:
            squares = ((votes - mu[:, None]) ** 2 / variance[:, None]).sum(axis=3)  # (B, I, J)
            likely = -0.5 * squares - 0.5 * np.log(variance).sum(axis=2)[:, None]  # (B, I, J)
            presence = active[:, None]  # (B, 1, J)
            b = {"logarithm": np.log(presence) + likely, "none": likely, "factor": presence * likely}[prior]
            c = softmax(b, SOFTMAX_AXES[competition])  # (B, I, J)
        mass = c * a[..., None]  # (B, I, J)
        if activations == "cancel":
            mass = mass / mass.sum(axis=2, keepdims=True)
        rho = mass.sum(axis=1)  # (B, J)
        w = (mass / rho[:, None])[..., None]  # (B, I, J, 1)
        mean_now = (w * votes).sum(axis=1)  # (B, J, E)
        mu = 0.9 * mean_now + 0.1 * mu if mean == "shrunk" else mean_now
        variance = (w * (votes - mu[:, None]) ** 2).sum(axis=1)  # (B, J, E)
        variance = np.maximum(variance, 5e-4) if floor == "maximum" else variance + 5e-4
        cost = rho * (votes.shape[3] * beta_u + 0.5 * np.log(variance).sum(axis=2))  # (B, J)
        active = 1 / (1 + np.exp(-inverse_temperature * (beta_a - cost)))  # (B, J)
    return np.concatenate([mu, active[..., None]], axis=2)


# -- losses, mask, optimizer ------------------------------------------------------------------


def margin_loss(
    lengths: Array,
    labels: Array,
    squares: str = "yes",
    classes: str = "sum",
    factor: str = "1",
    absent: str = "0.5",
    before: str = "none",
    batch: str = "mean",
) -> Array:
    """Σ_k T_k max(0, 0.9 - n_k)² + 0.5 (1 - T_k) max(0, n_k - 0.1)², mean over the batch: eq. 4."""
    T = np.eye(lengths.shape[1])[labels]  # (B, J)
    n = softmax(lengths, 1) if before == "softmax" else lengths  # (B, J)
    power = 2 if squares == "yes" else 1
    each = T * np.maximum(0, 0.9 - n) ** power
    each = each + float(absent) * (1 - T) * np.maximum(0, n - 0.1) ** power  # (B, J)
    of_sample = each.mean(axis=1) if classes == "mean" else each.sum(axis=1)  # (B,)
    total = of_sample.sum() if batch == "sum" else of_sample.mean()
    return np.asarray(float(factor) * total)


def reconstruction_loss(
    images: Array, drawn: Array, pixels: str = "sum", weight: str = "0.0005", batch: str = "mean"
) -> Array:
    """0.0005 times the sum of squared errors over the pixels, mean over the batch: section 4.1."""
    squares = ((images - drawn) ** 2).reshape(len(images), -1)  # (B, H·W·C)
    share = {"sum": squares.shape[1], "mean": 1, "mean · 784": 784}[pixels]
    of_sample = share * squares.mean(axis=1)  # (B,)
    return np.asarray(float(weight) * (of_sample.sum() if batch == "sum" else of_sample.mean()))


def mask(v: Array, labels: Array, capsule: str = "label", form: str = "zeros") -> Array:
    """Keep the label's capsule of v (B, J, E) and set the others to zero: (B, J·E)."""
    chosen = {
        "label": np.eye(v.shape[1])[labels],
        "longest": np.eye(v.shape[1])[np.sqrt((v**2).sum(axis=2)).argmax(axis=1)],
        "all": np.ones(v.shape[:2]),
    }[capsule]  # (B, J)
    masked = v * chosen[..., None]  # (B, J, E)
    return masked.sum(axis=1) if form == "picked" else masked.reshape(len(v), -1)


def adam(
    w: Array,
    gradients: Array,
    learning_rate: float,
    moments: str = "kept",
    correction: str = "yes",
    epsilon: str = "outside",
) -> Array:
    """The weights after each step of Adam, β 0.9 and 0.999, ε 1e-8: w (N,), gradients (T, N) -> (T, N)."""
    m, v, path = np.zeros_like(w), np.zeros_like(w), []
    for t, g in enumerate(gradients, start=1):
        if moments == "reset":
            m, v, t = np.zeros_like(w), np.zeros_like(w), 1
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2  # (N,), (N,)
        corrections = (1 - 0.9**t, 1 - 0.999**t) if correction == "yes" else (1.0, 1.0)
        m_hat, v_hat = m / corrections[0], v / corrections[1]  # (N,), (N,)
        root = np.sqrt(v_hat + 1e-8) if epsilon == "inside" else np.sqrt(v_hat) + 1e-8  # (N,)
        w = w - learning_rate * m_hat / root  # (N,)
        path.append(w)
    return np.stack(path)  # (T, N)


def error_rate(scores: Array, labels: Array, counts: str = "wrong") -> Array:
    """The share of samples whose highest score (B, J) is not the label's."""
    if counts == "loss":
        return margin_loss(scores, labels)
    correct = (scores.argmax(axis=1) == labels).mean()
    return np.asarray(correct if counts == "correct" else 1 - correct)


def votes(u: Array, W: Array) -> Array:
    """u (B, I, D), W (I, D, J, E) -> û (B, I, J, E): û_ij = u_i W_ij."""
    return np.einsum("bid,idje->bije", u, W)


def routing(u_hat: Array, iterations: int, **settings: Any) -> Array:
    """u_hat (B, I, J, E) -> v (B, J, E): procedure 1."""
    return route(u_hat, iterations, **settings).v


def capsule_layer(u: Array, W: Array, iterations: int, **settings: Any) -> Array:
    """u (B, I, D), W (I, D, J, E) -> v (B, J, E): votes, then routing."""
    return routing(votes(u, W), iterations, **settings)


def conv_votes(u: Array, W: Array, stride: int, place: str = "kept", samples: str = "apart") -> Array:
    """u (B, H, W, I, D), W (I, K, K, D, J, E) -> û (B, P, Q, I, J, E): a convolution for every type i."""
    (B, rows, columns, I, D), K = u.shape, W.shape[1]
    if place == "children":  # as if they were (B, I, D, H, W)
        u = u.reshape(B, I, D, rows, columns).transpose(0, 3, 4, 1, 2)  # (B, H, W, I, D)
    P, Q = (rows - K) // stride + 1, (columns - K) // stride + 1
    u_hat = np.zeros((B, P, Q, I, *W.shape[4:]), u.dtype)  # (B, P, Q, I, J, E)
    for r, t in np.ndindex(K, K):
        seen = u[:, r : r + stride * (P - 1) + 1 : stride, t : t + stride * (Q - 1) + 1 : stride]
        u_hat += np.einsum("bpqid,idje->bpqije", seen, W[:, r, t])
    if place == "votes":  # channels first, read as if they were last
        first = u_hat.transpose(0, 3, 4, 5, 1, 2)  # (B, I, J, E, P, Q)
        u_hat = first.reshape(B, I, -1, P, Q, W.shape[5]).transpose(0, 3, 4, 1, 2, 5)
    if samples == "mixed":  # types first, read as if samples were
        u_hat = (
            u_hat.transpose(3, 0, 1, 2, 4, 5).reshape(B, I, P, Q, *W.shape[4:]).transpose(0, 2, 3, 1, 4, 5)
        )
    return u_hat


def conv_capsules(
    u: Array,
    W: Array,
    stride: int,
    iterations: int,
    place: str = "kept",
    samples: str = "apart",
    **settings: Any,
) -> Array:
    """u (B, H, W, I, D), W (I, K, K, D, J, E) -> v (B, P, Q, J, E): votes, then routing at every position."""
    u_hat = conv_votes(u, W, stride, place, samples)  # (B, P, Q, I, J, E)
    v = route(at_positions(u_hat), iterations, **settings).v  # (B, P·Q, J, E)
    return v.reshape(*u_hat.shape[:3], *u_hat.shape[4:])


def at_positions(u_hat: Array) -> Array:
    """(B, P, Q, I, J, E) -> (B, N, I, J, E), N = P·Q."""
    return u_hat.reshape(len(u_hat), -1, *u_hat.shape[3:])
