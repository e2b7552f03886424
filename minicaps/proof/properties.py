"""What the audit asks of functions for which there is no bank of variants, and of all at zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from minicaps.arrays import Array
from minicaps.proof.banks import CHOICE, FAULT, HOLDS
from minicaps.proof.calls import Caller, Unusable
from minicaps.proof.subjects import Inputs

Found: TypeAlias = tuple[str, ...]  # check, verdict, what it says, and if there are any: numbers, cost
SIZES = (1152, 8, 10, 16)  # of the paper's W (I, D, J, E)
PIXELS = 40  # how many are changed, one at a time, to see what a primary capsule sees


def zeros_are_finite(
    caller: Caller, vjp: Caller | None, inputs: Inputs, places: Sequence[int]
) -> Iterator[Found]:
    """Yield whether results are finite where a vector is 0, as all are before anything is seen."""

    def scaled(scale: float, dtype: Any) -> Inputs:
        arrays = [x.astype(dtype) if isinstance(x, np.ndarray) else x for x in inputs]
        return tuple(x * dtype(scale) if k in places else x for k, x in enumerate(arrays))

    result = np.asarray(caller.raw(scaled(0, np.float64)), float)
    if (found := _not_finite(result)) is not None:
        says = "the result is not finite for vectors of zeros: a division by their length"
        yield "zero", FAULT, says, f"got {found}, expected 0"
        return
    if (
        vjp is not None
        and (found := _not_finite(_gradients_at_zero(vjp, scaled(0, np.float64), result))) is not None
    ):
        says = "the gradient is not finite for vectors of zeros: that of the root of their square is 0/0"
        yield "zero", FAULT, says, f"got {found}"
        return
    try:
        overflows = _not_finite(np.asarray(caller.raw(scaled(1e30, np.float32)), float)) is not None
    except Unusable:
        overflows = False  # the code does not take float32
    if overflows:
        says = "zeros have finite results; vectors of 1e30 in float32 do not, since their squares overflow"
        yield "zero", CHOICE, says
    else:
        yield "zero", HOLDS, "vectors of zeros, and large ones, have finite results"


def _gradients_at_zero(vjp: Caller, zeros: Inputs, result: Array) -> Array:
    """Return all numbers of the gradients as one vector."""
    try:
        gradients = vjp.raw((*zeros, np.ones_like(result)))
    except Unusable:
        return np.zeros(0)  # the check of the gradient says why
    several = gradients if isinstance(gradients, (tuple, list)) else (gradients,)
    return np.concatenate([np.asarray(gradient, float).reshape(-1) for gradient in several])


def _not_finite(numbers: Array) -> float | None:
    """Return the first number that is not finite."""
    wrong = numbers.reshape(-1)[~np.isfinite(numbers.reshape(-1))]
    return float(wrong[0]) if len(wrong) else None


def _batch_alone(caller: Caller, x: Array) -> Found:
    """Return whether the result of a sample depends on the others of its batch."""
    whole = caller.call((x,))
    alone = np.concatenate([caller.call((x[k : k + 1],)) for k in range(len(x))])
    if alone.shape != whole.shape:
        raise Unusable(f"returns the shape {whole.shape} for a batch, and {alone.shape} for its samples")
    off = np.abs(whole - alone).max() / max(np.abs(whole).max(), 1e-30)
    if off > 1e-3:
        return "batch", FAULT, "the result of a sample depends on the others of its batch", f"by {off:.3g}"
    return "batch", HOLDS, "each sample has the result that it has alone"


def _images(shape: Any, count: int, rng: np.random.Generator) -> Array:
    valid = isinstance(shape, tuple) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)
    if not valid:
        raise Unusable(f"needs the shape of its images: IMAGE_SHAPE = (H, W, C), got {shape!r}")
    return rng.uniform(size=(count, *shape))  # (B, H, W, C)


# -- primary capsules -------------------------------------------------------------------------


def primary(caller: Caller, shape: Any, rng: np.random.Generator) -> Iterator[Found]:
    """Yield what is found of ``primary(x)``."""
    x = _images(shape, 2, rng)
    u = caller.call((x,))
    if u.ndim != 3:
        raise Unusable(f"returns the shape {u.shape}, expected (B, I, D)")
    yield from caller.purity((x,), u)
    yield _batch_alone(caller, x)
    yield _one_place(caller, x[0], rng)
    longest = float(np.sqrt((u**2).sum(axis=2)).max())
    if longest > 1:
        yield "length", CHOICE, "primary capsules are not squashed", f"one has length {longest:.3g}"
    else:
        yield "length", HOLDS, "primary capsules are no longer than 1"


def _one_place(caller: Caller, image: Array, rng: np.random.Generator) -> Found:
    """Return whether the numbers of a capsule see one place: a pixel changes all of them, or none.

    A squash multiplies all numbers of a capsule by one factor. So where a pixel changes one of them alone,
    the others all change by the same factor.
    """
    places = [tuple(int(rng.integers(n)) for n in image.shape) for _ in range(PIXELS)]
    batch = np.stack([image] * (PIXELS + 1))  # (1 + PIXELS, H, W, C)
    for number, place in enumerate(places, start=1):
        row, column, channel = place
        batch[number, row, column, channel] = 1.5 - image[row, column, channel]
    u = caller.call((batch,))  # (1 + PIXELS, I, D)
    tiny = 1e-3 if u.dtype == np.float32 else 1e-7
    scale, mixed, seen = np.abs(u).max(), 0, 0
    example = ""
    for number, place in enumerate(places, start=1):
        for capsule in np.flatnonzero(np.abs(u[number] - u[0]).max(axis=1) > 100 * tiny * scale):
            before, after = u[0, capsule], u[number, capsule]  # (D,), (D,)
            alive = np.abs(before) > 1e-3 * scale
            if alive.sum() < 3:
                continue
            factors = after[alive] / before[alive]
            same = int((np.abs(factors - np.median(factors)) < tiny).sum())
            seen += 1
            if same >= 2 and same >= alive.sum() - same:
                mixed += 1
                moved = f"{alive.sum() - same} of {alive.sum()} numbers of capsule {capsule}"
                example = example or f"the pixel {place[:2]} changes {moved}"
    if seen == 0:
        raise Unusable("has no capsule of 3 or more numbers that a pixel changes")
    if mixed > seen / 4:
        says = (
            "the numbers of a capsule belong to different places: a reshape without moving the channels first"
        )
        return "place", FAULT, says, example
    return "place", HOLDS, "all numbers of a capsule see the same place"


# -- convolutional capsules -------------------------------------------------------------------


def windows(caller: Caller, inputs: Inputs) -> Iterator[Found]:
    """Yield what is wrong with where children are heard, whatever the routing: one alone, among zeros."""
    u, W, stride, _ = inputs  # (B, H, W, I, D), (I, K, K, D, J, E)
    silence = caller.call((np.zeros_like(u), W, stride, 1))  # (B, P, Q, J, E)
    for where in list(np.ndindex(u.shape[:4]))[::3]:
        alone = np.zeros_like(u)
        alone[where] = u[where]
        sample, row, column, _ = where
        heard = np.abs(caller.call((alone, W, stride, 1)) - silence).max(axis=(3, 4)) > 1e-6  # (B, P, Q)
        says = f"the capsule at sample {sample}, row {row}, column {column} changes"
        if np.delete(heard, sample, axis=0).any():
            yield "samples", FAULT, "the code mixes samples", f"{says} the result of another sample"
            return
        for p, q in np.argwhere(heard[sample]).tolist():
            inside = 0 <= row - p * stride < W.shape[1] and 0 <= column - q * stride < W.shape[1]
            if not inside:
                told = "the code mixes positions, with each other or with the numbers of poses"
                yield (
                    "place",
                    FAULT,
                    told,
                    f"{says} the one at row {p}, column {q}, whose window is elsewhere",
                )
                return


# -- the whole network ------------------------------------------------------------------------


def network(caller: Caller, shape: Any, rng: np.random.Generator) -> Iterator[Found]:
    """Yield what is found of ``network(images)``."""
    x = _images(shape, 4, rng)
    lengths = caller.call((x,))
    if lengths.ndim != 2:
        raise Unusable(f"returns the shape {lengths.shape}, expected lengths (B, J)")
    yield from caller.purity((x,), lengths)
    yield _batch_alone(caller, x)
    sums, least, most = lengths.sum(axis=1), lengths.min(), lengths.max()
    if np.abs(sums - 1).max() < 1e-3:
        says = "the lengths sum to 1, as after a softmax: no class is long on its own"
        yield "lengths", FAULT, says, f"the sums are {np.round(sums, 6).tolist()}"
    elif least < 0 or most > 1:
        says = "lengths are not from 0 to 1, so they are not those of squashed vectors"
        yield "lengths", FAULT, says, f"they go from {least:.3g} to {most:.3g}"
    else:
        yield "lengths", HOLDS, "the lengths are from 0 to 1, each on its own"
    blind = x.copy()
    blind[0] = np.nan
    result = np.asarray(caller.raw((blind,)), float)[0]
    if np.isfinite(result).all():
        says = "an image of NaN gets lengths like any other, so a damaged picture is classified in silence"
        yield "nan", FAULT, says, f"the longest is that of class {result.argmax()}"
    else:
        yield "nan", HOLDS, "an image of NaN gives NaN, which can be seen"


# -- small ones -------------------------------------------------------------------------------


def augment(caller: Caller, shape: Any, rng: np.random.Generator) -> Iterator[Found]:
    """Yield what is found of ``augment(images)``."""
    image = _images(shape, 1, rng)
    images = np.concatenate([image] * 32)  # (B, H, W, C)
    given = images.copy()
    results = [np.asarray(caller.raw((given,))) for _ in range(8)]  # one random number may be 0 by chance
    if results[0].shape != images.shape:
        raise Unusable(f"returns the shape {results[0].shape}, expected {images.shape}")
    if not np.array_equal(given, images):
        yield "pure", FAULT, "the code changes its argument, so that every epoch adds to the last"
    else:
        yield "pure", HOLDS, "the images handed over are not changed"
    if all(np.array_equal(moved, images) for moved in results):
        yield "each", CHOICE, "the code changes nothing"
    elif all(np.array_equal(moved, np.stack([moved[0]] * 32)) for moved in results):
        yield "each", FAULT, "all images of a batch move alike: one random number for the whole batch"
    else:
        yield "each", HOLDS, "the images of a batch move by amounts of their own"


def initial_W(caller: Caller, _: Any, rng: np.random.Generator) -> Iterator[Found]:
    """Yield what is found of ``initial_W(I, D, J, E)``."""
    W = caller.call(SIZES, SIZES)
    std, mean = float(W.std()), float(W.mean())
    numbers = f"mean {mean:.2g}, standard deviation {std:.2g}"
    if std == 0:
        yield "start", FAULT, "all entries are equal, so that the class capsules stay alike", numbers
    elif std > 0.3:
        cost = "-0.07 ± 0.33 points of validation accuracy at 1 in the experiment ablation"
        yield "start", CHOICE, "starts with larger weights than the usual 0.01 to 0.1", numbers, cost
    else:
        yield "start", HOLDS, "starts with small random weights", numbers


Property: TypeAlias = Callable[[Caller, Any, np.random.Generator], Iterator[Found]]
PROPERTIES: dict[str, Property] = {
    "primary": primary,
    "network": network,
    "augment": augment,
    "initial_W": initial_W,
}
