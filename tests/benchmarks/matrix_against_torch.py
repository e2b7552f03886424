"""Matrix capsules with EM routing beside PyTorch on the same CPU: first the same numbers, then the time.

    python tests/benchmarks/matrix_against_torch.py                 # presets tiny and small, some minutes
    python tests/benchmarks/matrix_against_torch.py --presets small --json results.json

The twin is written as one would in PyTorch: windows by ``unfold``, votes by ``einsum``, EM in broadcasts,
the sums over a child's windows by ``index_add``. Output, loss and every gradient agree before anything is
timed, in turns, as in ``against_torch.py``. Install PyTorch with: pip install torch
"""

from __future__ import annotations

import argparse
import json
import sys

import against_torch as common
import numpy as np

from minicaps.fast import keep_freed_memory, own_the_cores, thread_count
from minicaps.networks import build

SIDE = 4  # of a pose


def make_twin(net):
    """Return a torch module with the weights of the MatrixCapsNet `net`."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    config = net.config

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            state = {name.replace(".", "_"): torch_layout(value) for name, value in net.state().items()}
            self.weights = nn.ParameterDict(state)

        def forward(self, images):
            """images (B, C, H, W) -> a (B, J)."""
            w, B = self.weights, len(images)
            x = F.relu(F.conv2d(images, w["conv_W"], w["conv_bias"], stride=config.conv_stride))
            poses = F.conv2d(x, w["primary_poses_W"], w["primary_poses_bias"]).permute(0, 2, 3, 1)
            a = F.conv2d(x, w["primary_activations_W"], w["primary_activations_bias"])
            a = a.sigmoid().permute(0, 2, 3, 1)  # (B, H, W, types)
            M = poses.reshape(*a.shape, SIDE, SIDE)  # (B, H, W, types, 4, 4)
            for name, kernel, stride in zip(("first", "second"), config.kernels, config.strides, strict=True):
                M, a = self.conv_caps(name, M, a, kernel, stride)
            votes = torch.einsum("bhwixk,ikjy->bhwijxy", M, w["capsules_votes_W"])
            if config.coordinates:
                H, W = M.shape[1:3]
                added = torch.zeros(H, W, 1, 1, SIDE, SIDE, dtype=M.dtype)
                added[..., 0, -1] = ((torch.arange(H, dtype=M.dtype) + 0.5) / H)[:, None, None, None]
                added[..., 1, -1] = ((torch.arange(W, dtype=M.dtype) + 0.5) / W)[None, :, None, None]
                votes = votes + added
            votes = votes.reshape(B, -1, config.classes, SIDE**2)  # (B, I, J, 16)
            betas = w["capsules_routing_beta_u"], w["capsules_routing_beta_a"]
            return em(votes, a.reshape(B, -1), betas, lambda b: b.softmax(dim=-1))[1]

        def conv_caps(self, name, M, a, kernel, stride):
            """M (B, H, W, types, 4, 4), a (B, H, W, types) -> the same of the capsules above."""
            w = self.weights
            windows = M.unfold(1, kernel, stride).unfold(2, kernel, stride)  # (B, P, Q, types, 4, 4, K, K)
            B, P, Q, *_ = windows.shape
            windows = windows.permute(0, 1, 2, 6, 7, 3, 4, 5).reshape(B, P, Q, -1, SIDE, SIDE)
            votes = torch.einsum("bpqixk,ikjy->bpqijxy", windows, w[f"{name}_votes_W"])
            votes = votes.reshape(*votes.shape[:-2], -1)  # (B, P, Q, I, J, 16)
            children = a.unfold(1, kernel, stride).unfold(2, kernel, stride)  # (B, P, Q, types, K, K)
            children = children.permute(0, 1, 2, 4, 5, 3).reshape(B, P, Q, -1)  # (B, P, Q, I)
            _, H, W, T = a.shape
            number = torch.arange(H * W * T).reshape(1, H, W, T)  # of a child
            child = number.unfold(1, kernel, stride).unfold(2, kernel, stride)
            child = child.permute(0, 1, 2, 4, 5, 3).reshape(-1)  # (P·Q·I,)

            def softmax(b):
                """Over all parents of a child, in every window that sees it."""
                flat = b.reshape(B, len(child), -1)  # (B, P·Q·I, J)
                where = child.expand(B, -1)  # (B, P·Q·I)
                low = torch.full((B, H * W * T), -torch.inf, dtype=b.dtype)
                largest = low.scatter_reduce(1, where, flat.amax(-1).detach(), "amax")  # (B, H·W·T)
                e = (flat - largest[:, child, None]).exp()
                total = torch.zeros_like(low).index_add(1, child, e.sum(-1))  # (B, H·W·T)
                return (e / total[:, child, None]).reshape(b.shape)

            betas = w[f"{name}_routing_beta_u"], w[f"{name}_routing_beta_a"]
            mu, active = em(votes, children, betas, softmax)
            return mu.reshape(B, P, Q, -1, SIDE, SIDE), active

    def em(votes, a, betas, softmax):
        """votes (..., I, J, 16), a (..., I) -> mu (..., J, 16), a' (..., J)."""
        beta_u, beta_a = betas
        R = config.iterations
        b = torch.zeros(votes.shape[:-1], dtype=votes.dtype)  # (..., I, J)
        for r in range(R):
            mass = softmax(b) * a[..., None]  # (..., I, J)
            rho = mass.sum(-2)  # (..., J)
            w = (mass / (rho + 1e-12)[..., None, :])[..., None]  # (..., I, J, 1)
            mu = (w * votes).sum(-3)  # (..., J, 16)
            squares = (votes - mu[..., None, :, :]) ** 2  # (..., I, J, 16)
            variance = (w * squares).sum(-3) + config.min_variance  # (..., J, 16)
            price = SIDE**2 * beta_u + 0.5 * variance.log().sum(-1)  # (..., J)
            share = (1 - 0.95 ** (r + 1)) / (1 - 0.95**R)
            z = share * (beta_a - config.inverse_temperature * rho * price)  # (..., J)
            if r + 1 < R:
                likely = F.logsigmoid(z) - 0.5 * variance.log().sum(-1)  # (..., J)
                b = likely[..., None, :] - 0.5 * (squares / variance[..., None, :, :]).sum(-1)
        return mu, z.sigmoid()

    def torch_layout(value):
        tensor = torch.from_numpy(value.copy())
        is_kernel = value.ndim == 4 and value.shape[1] != SIDE  # votes are (I, 4, J, 4)
        return nn.Parameter(tensor.permute(3, 2, 0, 1).contiguous() if is_kernel else tensor)

    return Twin()


def twin_loss(a, labels, margin):
    """Return the spread loss of activations (B, J)."""
    import torch

    own = a.gather(1, labels[:, None])  # (B, 1)
    gaps = (margin - (own - a)).clamp(min=0) ** 2  # (B, J)
    others = torch.ones_like(a).scatter(1, labels[:, None], 0)  # (B, J)
    return (gaps * others).sum() / len(a)


def prove_that_the_twins_agree(presets):
    """Raise AssertionError unless output, loss and gradients agree."""
    import torch

    for dtype, allowed in ((np.float32, 1e-4), (np.float64, 1e-9)):
        for preset in presets:
            net = build("matrix", preset, rng=0, dtype=dtype)
            images, labels = common.images_for(net, 4, dtype)
            objective = net.objective()
            a, cache = net.forward(images)
            loss, loss_cache = objective.forward(a, labels)
            net.zero_grad()
            net.backward(objective.backward(loss_cache), cache)
            twin = make_twin(net)
            x, y = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)
            twin_a = twin(x)
            value = twin_loss(twin_a, y, objective.margin)
            value.backward()
            pairs = {"a": (a, twin_a), "loss": (loss, value)}
            for name, grad in net.grads.items():
                theirs = twin.weights[name.replace(".", "_")].grad
                kernel = theirs.ndim == 4 and grad.shape[1] != SIDE
                pairs["d " + name] = (grad, theirs.permute(2, 3, 1, 0) if kernel else theirs)
            worst = {}
            for name, (ours, theirs) in pairs.items():
                theirs = theirs.detach().numpy()
                worst[name] = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
                assert worst[name] <= allowed, (
                    f"{preset} {dtype.__name__}: {name} differs by {worst[name]:.1e}"
                )
            name = max(worst, key=worst.get)
            print(f"agree: {preset} {dtype.__name__}: {len(worst)} arrays, worst {worst[name]:.1e} ({name})")


def prepare(contender, options, task, batch):
    net = build("matrix", options["preset"], rng=0)
    images, labels = common.images_for(net, batch)
    if contender == "minicaps":
        own_the_cores()
        keep_freed_memory()
        return common.prepare_minicaps(net, task, images, labels)
    import torch

    torch.set_num_threads(thread_count())
    twin, margin = make_twin(net), net.objective().margin
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)
    run = torch.compile(twin) if contender == "compile" else twin
    optimizer = torch.optim.Adam(twin.parameters(), 1e-3)

    def train(count):
        for _ in range(count):
            optimizer.zero_grad()
            twin_loss(run(x), y, margin).backward()
            optimizer.step()

    def infer(count):
        with torch.inference_mode():
            for _ in range(count):
                run(x)

    return infer if task == "infer" else train


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=["tiny", "small"], choices=["tiny", "small", "paper"])
    parser.add_argument("--contenders", nargs="+", default=["eager"], choices=["eager", "compile"])
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="(default: 32)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="(default: 7)")
    parser.add_argument("--json", metavar="FILE", help="write every ratio there, under a plain name")
    options = parser.parse_args()
    try:
        import torch
    except ImportError:
        sys.exit("matrix_against_torch: PyTorch is missing; install it with: pip install torch")
    own_the_cores()
    print(f"torch {torch.__version__}, numpy {np.__version__}, {thread_count()} threads")
    prove_that_the_twins_agree(options.presets)
    print(f"\n{'task':<34} {'who':<14} {'a step':>12} {'peak':>10}  ratio: median (smallest to largest)")
    figures = {}
    for preset in options.presets:
        for task in ("train", "infer"):
            results = common.compare(
                {"preset": preset}, task, options.batch_size, options.contenders, options.rounds,
                script=__file__,
            )  # fmt: skip
            common.show(f"{task} {preset}, batch {options.batch_size}", results)
            for name in options.contenders:
                figures[f"matrix_{preset}_{task}_vs_{name}"] = round(float(np.median(results[name][1])), 3)
                figures[f"matrix_{preset}_{task}_memory_vs_{name}"] = round(
                    results[name][2] / results["minicaps"][2], 3
                )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _, _, who, choice, what, size = sys.argv
        common.worker(prepare(who, json.loads(choice), what, int(size)))
    else:
        main()
