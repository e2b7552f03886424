"""The CapsNet in JAX, compiled by XLA: a contender of ``against_torch.py``, with the same weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # of Adam


def squash(s):
    n2 = (s * s).sum(-1, keepdims=True)
    return s * (jnp.sqrt(n2) / (1 + n2))


def convolve(x, W, bias, stride):
    """x (B, H, W, C), W (KH, KW, C, K) -> (B, P, Q, K)."""
    layout = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, W, (stride, stride), "VALID", dimension_numbers=layout)
    return y + bias


def forward(w: dict[str, Any], config: Any, images, labels=None):
    """images (B, H, W, C) -> v (B, J, E), reconstruction (B, H·W·C)."""
    x = jax.nn.relu(convolve(images, w["conv.W"], w["conv.bias"], config.conv_stride))
    x = convolve(x, w["primary.conv.W"], w["primary.conv.bias"], config.primary_stride)
    u = squash(x.reshape(len(images), -1, config.primary_dimension))  # (B, I, D)
    u_hat = jnp.einsum("bid,idje->bije", u, w["capsules.votes.W"])
    still = jax.lax.stop_gradient(u_hat) if config.stopped_gradient else u_hat
    b = jnp.zeros(u_hat.shape[:3], u_hat.dtype)  # (B, I, J)
    for r in range(config.iterations):
        last = r == config.iterations - 1
        c = jax.nn.softmax(b, axis=2)
        v = squash(jnp.einsum("bij,bije->bje", c, u_hat if last else still))
        if not last:
            b = b + jnp.einsum("bije,bje->bij", still, v)
    chosen = (v * v).sum(-1).argmax(1) if labels is None else labels
    x = (jax.nn.one_hot(chosen, v.shape[1], dtype=v.dtype)[..., None] * v).reshape(len(v), -1)
    x = jax.nn.relu(x @ w["decoder.fc1.W"] + w["decoder.fc1.bias"])
    x = jax.nn.relu(x @ w["decoder.fc2.W"] + w["decoder.fc2.bias"])
    return v, jax.nn.sigmoid(x @ w["decoder.fc3.W"] + w["decoder.fc3.bias"])


def loss(w: dict[str, Any], config: Any, images, labels):
    """Return what minicaps trains with: the margin loss and that of the reconstruction."""
    v, reconstruction = forward(w, config, images, labels)
    T = jax.nn.one_hot(labels, v.shape[1], dtype=v.dtype)  # (B, J)
    n = jnp.sqrt((v * v).sum(-1))  # (B, J)
    margin = (T * jax.nn.relu(0.9 - n) ** 2 + 0.5 * (1 - T) * jax.nn.relu(n - 0.1) ** 2).sum()
    error = ((reconstruction - images.reshape(reconstruction.shape)) ** 2).sum()
    return (margin + config.reconstruction_scale * error) / len(v)


def gradient(net: Any, images: np.ndarray, labels: np.ndarray) -> tuple[Any, dict[str, Any], Any]:
    """Return the loss, the gradient by name, and the outputs, for a comparison."""
    w = {name: jnp.asarray(value) for name, value in net.state().items()}
    value, grads = jax.value_and_grad(loss)(w, net.config, jnp.asarray(images), jnp.asarray(labels))
    return value, grads, forward(w, net.config, jnp.asarray(images), jnp.asarray(labels))


def prepare(net: Any, task: str, images: np.ndarray, labels: np.ndarray):
    """Return what makes so many passes, or steps of training with Adam."""
    config, x, y = net.config, jnp.asarray(images), jnp.asarray(labels)
    w = {name: jnp.asarray(value) for name, value in net.state().items()}
    if task == "infer":
        run = jax.jit(lambda w, x: forward(w, config, x))

        def infer(count: int) -> None:
            for _ in range(count):
                jax.block_until_ready(run(w, x))

        return infer

    def step(w, m, v, t, x, y):
        grads = jax.grad(loss)(w, config, x, y)
        m = {k: BETA1 * m[k] + (1 - BETA1) * g for k, g in grads.items()}
        v = {k: BETA2 * v[k] + (1 - BETA2) * g * g for k, g in grads.items()}
        root = jnp.sqrt(1 - BETA2**t)
        rate = 1e-3 * root / (1 - BETA1**t)
        w = {k: w[k] - rate * m[k] / (jnp.sqrt(v[k]) + EPSILON * root) for k in w}
        return w, m, v, t + 1

    run = jax.jit(step, donate_argnums=(0, 1, 2))
    state = [w, *({k: jnp.zeros_like(a) for k, a in w.items()} for _ in range(2)), jnp.float32(1)]

    def train(count: int) -> None:
        for _ in range(count):
            state[:] = run(*state, x, y)
            jax.block_until_ready(state[3])
        jax.block_until_ready(state[0])

    return train
