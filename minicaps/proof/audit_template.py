"""Your code, for the audit of minicaps. Keep the functions that you have, and delete the others.

    python -m minicaps audit my_code.py

Every function takes and returns NumPy arrays. B samples, I lower capsules of D numbers, J class capsules
of E numbers, R iterations of routing, images (B, H, W, C), labels (B,) from 0.

A function of yours that has other axes is adapted in one line:

    from minicaps.proof import adapt
    import my_capsnet
    routing = adapt(my_capsnet.route, ["BIJE -> BJIE1", None], "BJ1E -> BJE", iterations=-1)

(takes (B, J, I, E, 1), gives (B, J, 1, E), and counts one iteration as 0).

A PyTorch module, here of capsules (B, I, D) with three iterations of its own, with its gradient by autograd:

    import torch
    from my_capsnet import DigitCaps
    layer = DigitCaps(1152, 8, 10, 16)

    def capsule_layer(u, W, iterations):
        layer.W.data = torch.tensor(W).permute(0, 2, 1, 3)  # as its author has it: (I, J, D, E)
        layer.iterations = iterations
        return layer(torch.tensor(u)).detach().numpy()

    def squash_vjp(s, dv):
        s = torch.tensor(s, requires_grad=True)
        my_capsnet.squash(s).backward(torch.tensor(dv))
        return s.grad.numpy()

A Keras layer:

    import keras
    from my_capsnet import CapsuleLayer, PrimaryCap

    def squash(s):
        return keras.ops.convert_to_numpy(my_capsnet.squash(keras.ops.convert_to_tensor(s)))

    inputs = keras.Input((28, 28, 1))
    primary_caps = keras.Model(inputs, PrimaryCap(inputs, dim_capsule=8, n_channels=4))
    primary = adapt(lambda x: primary_caps.predict(x, verbose=0), dtype="float32")
"""

import numpy as np

IMAGE_SHAPE = (28, 28, 1)  # of the images of primary, network and augment
STOPPED_GRADIENT = False  # True: routing_vjp takes the couplings for constants, and that is meant


def squash(s: np.ndarray) -> np.ndarray:
    """s (B, J, E) -> v (B, J, E)."""
    raise NotImplementedError


def squash_vjp(s: np.ndarray, dv: np.ndarray) -> np.ndarray:
    """The gradient ds (B, J, E) of ⟨dv, squash(s)⟩. Every function below may have its vjp, too."""
    raise NotImplementedError


def routing(u_hat: np.ndarray, iterations: int) -> np.ndarray:
    """Votes u_hat (B, I, J, E) -> v (B, J, E)."""
    raise NotImplementedError


def routing_vjp(u_hat: np.ndarray, iterations: int, dv: np.ndarray) -> np.ndarray:
    """The gradient du_hat (B, I, J, E)."""
    raise NotImplementedError


def capsule_layer(u: np.ndarray, W: np.ndarray, iterations: int) -> np.ndarray:
    """u (B, I, D), W (I, D, J, E) -> v (B, J, E); its vjp returns (du, dW)."""
    raise NotImplementedError


def conv_capsules(u: np.ndarray, W: np.ndarray, stride: int, iterations: int) -> np.ndarray:
    """u (B, H, W, I, D), of I types, W (I, K, K, D, J, E) -> v (B, P, Q, J, E); windows without padding."""
    raise NotImplementedError


def em_routing(
    votes: np.ndarray,
    a: np.ndarray,
    beta_u: np.ndarray,
    beta_a: np.ndarray,
    inverse_temperatures: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Votes (B, I, J, E), a (B, I), betas (J,), one λ for each iteration -> poses (B, J, E), a' (B, J)."""
    raise NotImplementedError


def primary(x: np.ndarray) -> np.ndarray:
    """Images x (B, *IMAGE_SHAPE), or what the layer is fed with, of that shape -> u (B, I, D)."""
    raise NotImplementedError


def margin_loss(lengths: np.ndarray, labels: np.ndarray) -> float:
    """lengths (B, J) of the class capsules, labels (B,) -> the loss; or with v (B, J, E), called v."""
    raise NotImplementedError


def reconstruction_loss(images: np.ndarray, drawn: np.ndarray) -> float:
    """Both (B, H, W, C), 0 to 1 -> the loss, weight included."""
    raise NotImplementedError


def mask(v: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the decoder is fed with in training: v (B, J, E), labels (B,) -> (B, J·E)."""
    raise NotImplementedError


def network(images: np.ndarray) -> np.ndarray:
    """images (B, *IMAGE_SHAPE), 0 to 1 -> the lengths (B, J), as in a test."""
    raise NotImplementedError


def augment(images: np.ndarray) -> np.ndarray:
    """images (B, *IMAGE_SHAPE) -> the images that the network is trained on."""
    raise NotImplementedError


def adam(w: np.ndarray, gradients: np.ndarray, learning_rate: float) -> np.ndarray:
    """Weights w (N,), gradients (T, N) -> the weights after each of T steps (T, N)."""
    raise NotImplementedError


def error_rate(scores: np.ndarray, labels: np.ndarray) -> float:
    """scores (B, J), labels (B,) -> the share of wrong predictions, 0 to 1."""
    raise NotImplementedError


def initial_W(I: int, D: int, J: int, E: int) -> np.ndarray:
    """The weights (I, D, J, E) before training."""
    raise NotImplementedError
