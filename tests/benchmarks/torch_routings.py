"""Every routing in PyTorch, as a reader of its paper would write it there: twins for the benchmarks."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from minicaps import (
    DynamicRouting,
    EMRouting,
    Entmax,
    InvertedAttentionRouting,
    SelfAttentionRouting,
    Softmax,
    Stopped,
    TopK,
)


def twin_of(routing):
    """Return a function that does in PyTorch what a routing does.

    It takes the routing's parameters as tensors by name, votes û (B, I, J, E), and for EM routing
    activations a (B, I), and returns a tuple of its outputs.
    """
    couple = coupling_of(routing.coupling)
    if isinstance(routing, DynamicRouting):
        return dynamic(couple, routing.iterations, stopped=isinstance(routing.coupling, Stopped))
    if isinstance(routing, SelfAttentionRouting):
        return self_attention(couple)
    if isinstance(routing, InvertedAttentionRouting):
        return inverted_attention(couple, routing.iterations, routing.norm.epsilon)
    if isinstance(routing, EMRouting):
        return em(couple, routing.iterations, routing.inverse_temperature, routing.min_variance)
    raise TypeError(f"there is no twin of {type(routing).__name__}")


# -- what they have in common -----------------------------------------------------------------


def squash(s):
    n2 = (s * s).sum(-1, keepdim=True)
    n = n2.clamp(min=1e-30).sqrt()  # or the gradient is nan where no child chooses a parent, and s is 0
    return s * (n / (1 + n2))


def exponential_squash(s):
    n = s.norm(dim=-1, keepdim=True)
    return s * (-torch.expm1(-n) / n)


def combine(c, u_hat):
    return (c[..., None] * u_hat).sum(dim=1)


def agree(u_hat, v):
    return (u_hat * v[:, None]).sum(dim=-1)


def no_logits(u_hat):
    return torch.zeros(u_hat.shape[:3], dtype=u_hat.dtype)


class Entmax15(torch.autograd.Function):
    """1.5-entmax with its gradient in closed form, as in the package entmax."""

    @staticmethod
    def forward(context, b):
        z = (b - b.max(dim=-1, keepdim=True)[0]) / 2
        falling = z.sort(dim=-1, descending=True)[0]
        count = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype)
        mean, squares = falling.cumsum(-1) / count, (falling * falling).cumsum(-1) / count
        spread = count * (squares - mean * mean)
        tau = mean - ((1 - spread) / count).clamp(min=0).sqrt()
        support = (tau <= falling).sum(dim=-1, keepdim=True)
        root = (z - tau.gather(-1, support - 1)).clamp(min=0)
        context.save_for_backward(root)
        return root * root

    @staticmethod
    def backward(context, dc):
        (root,) = context.saved_tensors
        db = dc * root
        return db - db.sum(dim=-1, keepdim=True) / root.sum(dim=-1, keepdim=True) * root


def softmax(b):
    return b.softmax(dim=2)


def top(k):
    def couple(b):
        smallest = b.topk(k, dim=2)[0][..., -1:]
        return b.masked_fill(b < smallest, -math.inf).softmax(dim=2)

    return couple


def coupling_of(coupling):
    """Return what makes couplings c of logits b, both (B, I, J), as a coupling of minicaps does."""
    if isinstance(coupling, Stopped):
        return coupling_of(coupling.inner)
    if isinstance(coupling, TopK):
        return top(coupling.k)
    if isinstance(coupling, Entmax):
        return Entmax15.apply
    if isinstance(coupling, Softmax):
        return softmax
    raise TypeError(f"there is no twin of {type(coupling).__name__}")


# -- the routings -----------------------------------------------------------------------------


def dynamic(couple, iterations, stopped):
    def route(weights, u_hat):
        still = u_hat.detach() if stopped else u_hat
        b = no_logits(u_hat)
        for r in range(iterations):
            last = r == iterations - 1
            v = squash(combine(couple(b), u_hat if last else still))
            if not last:
                b = b + agree(still, v)
        return (v,)

    return route


def self_attention(couple):
    def route(weights, u_hat):
        b = agree(u_hat, u_hat.sum(dim=1)) / math.sqrt(u_hat.shape[3])
        return (exponential_squash(combine(couple(b) + weights["bias"], u_hat)),)

    return route


def inverted_attention(couple, iterations, epsilon):
    def route(weights, u_hat):
        E = u_hat.shape[3]
        b = no_logits(u_hat)
        for r in range(iterations):
            s = combine(couple(b), u_hat)
            v = F.layer_norm(s, (E,), weights["norm.gain"], weights["norm.bias"], epsilon)
            if r < iterations - 1:
                b = agree(u_hat, v) / math.sqrt(E)
        return (v,)

    return route


def em(couple, R, inverse_temperature, min_variance):
    def route(weights, u_hat, a):
        E = u_hat.shape[3]
        b = no_logits(u_hat)
        for r in range(R):
            mass = couple(b) * a[..., None]
            rho = mass.sum(dim=1)
            w = mass / rho[:, None]
            mu = combine(w, u_hat)
            squares = (u_hat - mu[:, None]) ** 2
            variance = combine(w, squares) + min_variance
            half_log = 0.5 * variance.log().sum(dim=-1)
            share = (1 - 0.95 ** (r + 1)) / (1 - 0.95**R)
            cost = rho * (E * weights["beta_u"] + half_log)
            z = share * (weights["beta_a"] - inverse_temperature * cost)
            if r < R - 1:
                distance = (squares / variance[:, None]).sum(dim=-1)
                b = (F.logsigmoid(z) - half_log)[:, None] - 0.5 * distance
        return mu, z.sigmoid()

    return route
