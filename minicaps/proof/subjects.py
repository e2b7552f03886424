"""The functions that the audit knows: what they are tried on, and the shape of their result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Inputs = tuple[Any, ...]


class Subject(NamedTuple):
    """A function by its name.

    ``probes(rng)`` returns what it is called with, each a tuple of arguments; no two axes have one size.
    ``result(inputs)`` is the shape that it must return; None stands for any. ``small`` are inputs that a
    reader can check by hand, the smallest first.
    """

    signature: str
    probes: Callable[[np.random.Generator], list[Inputs]]
    result: Callable[[Inputs], tuple[int, ...] | None]
    small: list[Inputs]
    at_zero: tuple[int, ...] = ()  # the arguments that may be all zeros, by their place


B, I, J, D, E = 3, 5, 4, 7, 6


def _squash(rng: np.random.Generator) -> list[Inputs]:
    return [(rng.normal(size=(B, J, E)),), (3 * rng.normal(size=(2, 3, 5)),)]


def _routing(rng: np.random.Generator) -> list[Inputs]:
    u_hat = rng.normal(size=(B, I, J, E))  # (B, I, J, E)
    return [(u_hat, iterations) for iterations in (4, 1, 2)]


def _capsule_layer(rng: np.random.Generator) -> list[Inputs]:
    u, W = rng.normal(size=(B, I, D)), 0.4 * rng.normal(size=(I, D, J, E))  # (B, I, D), (I, D, J, E)
    return [(u, W, iterations) for iterations in (4, 1, 2)]


def _conv_capsules(rng: np.random.Generator) -> list[Inputs]:
    u = rng.normal(size=(2, 6, 5, 3, 2))  # (B, H, W, I, D), small, since a gradient is taken entry by entry
    W = 0.7 * rng.normal(size=(3, 2, 2, 2, 4, 5))  # (I, K, K, D, J, E)
    return [(u, W, 1, 4), (u, W, 2, 1), (u, W, 2, 2)]


def _em_routing(rng: np.random.Generator) -> list[Inputs]:
    votes, a = rng.normal(size=(B, I, J, E)), rng.uniform(0.1, 0.9, size=(B, I))  # (B, I, J, E), (B, I)
    votes = votes + 2 * rng.normal(size=(B, 1, J, E))  # (B, I, J, E)
    tight = votes[:, :1] + 0.02 * rng.normal(size=(B, I, J, E))  # (B, I, J, E), of variances near the floor
    beta_u, beta_a = 0.3 * rng.normal(size=J), rng.normal(size=J)  # (J,), (J,)
    schedules = [0.3 * (1 - 0.95 ** np.arange(1, r + 1)) for r in (3, 1, 2)]  # as the paper has it
    return [(v, a, beta_u, beta_a, schedule) for v in (votes, tight) for schedule in schedules]


def _margin_loss(rng: np.random.Generator) -> list[Inputs]:
    few, many = rng.uniform(0, 1, size=(B, J)), rng.uniform(0, 1, size=(2, 9))  # (B, J), (B, J)
    return [(few, np.array([2, 0, 3])), (many, np.array([8, 1]))]


def _reconstruction_loss(rng: np.random.Generator) -> list[Inputs]:
    shapes = [(B, 6, 5, 1), (2, 8, 7, 1)]  # (B, H, W, C)
    return [(rng.uniform(size=shape), rng.uniform(size=shape)) for shape in shapes]


def _mask(rng: np.random.Generator) -> list[Inputs]:
    v = rng.normal(size=(B, J, E))  # (B, J, E)
    longest = np.sqrt((v**2).sum(axis=2)).argmax(axis=1)  # (B,)
    return [(v, (longest + 1) % J)]  # no label is that of the longest capsule


def _adam(rng: np.random.Generator) -> list[Inputs]:
    return [(rng.normal(size=5), rng.normal(size=(4, 5)), 0.01), (np.ones(2), np.full((3, 2), 1e-4), 0.1)]


def _error_rate(rng: np.random.Generator) -> list[Inputs]:
    return [(rng.uniform(size=(11, J)), rng.integers(0, J, 11)), (rng.uniform(size=(7, 3)), np.zeros(7, int))]


def _like_v(inputs: Inputs) -> tuple[int, ...]:
    votes = inputs[0] if len(inputs) == 2 else inputs[1]  # of routing (B, I, J, E), or W (I, D, J, E)
    return (len(inputs[0]), *votes.shape[2:])


def _conv_size(inputs: Inputs) -> tuple[int, ...]:
    u, W, stride, _ = inputs  # (B, H, W, I, D), (I, K, K, D, J, E)
    P, Q = ((size - W.shape[1]) // stride + 1 for size in u.shape[1:3])
    return (len(u), P, Q, *W.shape[4:])


VOTES = [  # (B, I, J, E)
    np.array([[[[2.0], [-1.0]], [[1.0], [0.5]]]]),
    np.array([[[[2.0, 0.0], [-1.0, 1.0]], [[1.0, 1.0], [0.5, 0.0]]]]),
    np.array([[[[2.0], [-1.0]], [[1.0], [0.5]]], [[[-1.0], [3.0]], [[0.5], [2.0]]]]),
]

POSES = [  # (B, H, W, I, D)
    np.array([[[[[1.0, 2.0]], [[3.0, 0.0]]]]]),
    np.array([[[[[1.0, 2.0], [0.0, 1.0]], [[3.0, 0.0], [2.0, 1.0]]]]]),
    np.array([[[[[1.0, 2.0], [0.0, 1.0]]]], [[[[3.0, 0.0], [2.0, 1.0]]]]]),
]
SUBJECTS = {
    "squash": Subject(
        "squash(s): s (B, J, E) -> v (B, J, E)",
        _squash,
        lambda inputs: inputs[0].shape,
        [(np.array([[[3.0, 4.0]]]),), (np.array([[[3.0, 4.0], [1.0, 0.0]]]),)],
        at_zero=(0,),
    ),
    "routing": Subject(
        "routing(u_hat, iterations): u_hat (B, I, J, E) -> v (B, J, E)",
        _routing,
        _like_v,
        [(votes, iterations) for iterations in (1, 2, 3) for votes in VOTES],
        at_zero=(0,),
    ),
    "capsule_layer": Subject(
        "capsule_layer(u, W, iterations): u (B, I, D), W (I, D, J, E) -> v (B, J, E)",
        _capsule_layer,
        _like_v,
        [(np.ones((len(votes), 2, 1)), votes[-1][:, None], n) for n in (1, 2, 3) for votes in VOTES],
        at_zero=(0,),
    ),
    "conv_capsules": Subject(
        "conv_capsules(u, W, stride, iterations): u (B, H, W, I, D), W (I, K, K, D, J, E) -> "
        "v (B, P, Q, J, E), without padding",
        _conv_capsules,
        _conv_size,
        [
            (u, np.array([[[[[[1.0, 0.0], [0.5, 0.0]], [[0.0, 1.0], [0.0, -0.5]]]]]] * u.shape[3]), 1, count)
            for count in (1, 2, 3)
            for u in POSES
        ],
        at_zero=(0,),
    ),
    "em_routing": Subject(
        "em_routing(votes, a, beta_u, beta_a, inverse_temperatures): votes (B, I, J, E), a (B, I), betas "
        "(J,), one inverse temperature for each iteration -> (means (B, J, E), activations (B, J))",
        _em_routing,
        lambda inputs: (len(inputs[0]), *inputs[0].shape[2:-1], inputs[0].shape[3] + 1),
        [
            (votes, np.array([[0.9, 0.3]] * len(votes)), np.zeros(2), np.zeros(2), np.array([0.1] * count))
            for count in (1, 2)
            for votes in VOTES
        ],
    ),
    "margin_loss": Subject(
        "margin_loss(lengths, labels): lengths (B, J), labels (B,) -> a number",
        _margin_loss,
        lambda inputs: (),
        [(np.array([[0.5, 0.5]]), np.array([0])), (np.array([[0.5, 0.5], [1, 1]]), np.array([0, 0]))],
    ),
    "reconstruction_loss": Subject(
        "reconstruction_loss(images, drawn): both (B, H, W, C), 0 to 1 -> a number",
        _reconstruction_loss,
        lambda inputs: (),
        [(np.zeros((1, 1, 2, 1)), np.ones((1, 1, 2, 1))), (np.zeros((2, 1, 2, 1)), np.ones((2, 1, 2, 1)))],
    ),
    "mask": Subject(
        "mask(v, labels): v (B, J, E), labels (B,) -> (B, J·E), in training",
        _mask,
        lambda inputs: None,
        [(np.array([[[1.0], [2.0]]]), np.array([0]))],
    ),
    "adam": Subject(
        "adam(w, gradients, learning_rate): w (N,), gradients (T, N) -> the weights after each step (T, N)",
        _adam,
        lambda inputs: inputs[1].shape,
        [(np.array([0.0]), np.array([[1.0], [3.0]]), 0.1), (np.array([0.0]), np.array([[1e-4]]), 0.1)],
    ),
    "error_rate": Subject(
        "error_rate(scores, labels): scores (B, J), labels (B,) -> a number, 0 to 1",
        _error_rate,
        lambda inputs: (),
        [(np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.6]]), np.array([0, 0, 1]))],
    ),
}
# What no bank of variants can be made for; their checks are in properties.py.
OTHERS = {
    "primary": "primary(x): x (B, *IMAGE_SHAPE) -> u (B, I, D)",
    "network": "network(images): images (B, *IMAGE_SHAPE), 0 to 1 -> lengths (B, J), as in a test",
    "augment": "augment(images): images (B, *IMAGE_SHAPE) -> images, as in training",
    "initial_W": "initial_W(I, D, J, E) -> W (I, D, J, E) before training",
}
