"""The audit: which of the known faults of capsule networks a code has, found from outside.

The code is a set of functions on NumPy arrays (`SUBJECTS` and `OTHERS` of subjects.py), in whatever
framework behind. Each is called on small random arrays. A bank (banks.py) then says which settings of the
known decisions give the same results: the paper's, a fault, or a choice that is as good. What shows in no
result, or in results of another kind, is looked at by itself (properties.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array
from minicaps.proof.banks import BANKS, HOLDS, UNKNOWN, Bank
from minicaps.proof.calls import Caller, NotWritten, Unusable
from minicaps.proof.gradients import check_gradient_of
from minicaps.proof.properties import PROPERTIES, Found, windows, zeros_are_finite
from minicaps.proof.subjects import OTHERS, SUBJECTS, Inputs

SAME = 1e-4  # relative to the largest number; an epsilon under a root, or float32, stays below it


class Finding(NamedTuple):
    """What one check of one function found."""

    function: str
    check: str
    verdict: str  # "holds", "broken", "choice" or "cannot tell"
    says: str  # in a sentence
    evidence: str = ""  # numbers that show it
    cost: str = ""  # in accuracy, where an experiment has measured it


def audit(code: Any, *, seed: int = 0, limit: float = 5.0) -> list[Finding]:
    """Look for the known faults in a code.

    Parameters
    ----------
    code : module, object or mapping
        Has any of the functions of ``SUBJECTS`` and ``OTHERS``, by their names, and for each of those of
        ``SUBJECTS`` that has one, the gradient ``NAME_vjp(*inputs, dy)``: that of its first argument, or a
        tuple with one for each array of floats. ``IMAGE_SHAPE`` (H, W, C) says what images are like, and
        ``STOPPED_GRADIENT = True`` that routing is not differentiated through its couplings on purpose.
    seed : int
        Of the arrays that the functions are tried on.
    limit : float
        Seconds that one call may take.

    Returns
    -------
    list of Finding
        Those of each function, in a fixed order.

    Raises
    ------
    ValueError
        If the code has none of the functions, or none that is written.

    Examples
    --------
    >>> import numpy as np
    >>> def squash(s):
    ...     return s / (1 + np.abs(s))
    >>> [finding.verdict for finding in audit({"squash": squash})]
    ['holds', 'cannot tell', 'cannot tell', 'holds']
    """

    def read(name: str) -> Any:
        return code.get(name) if isinstance(code, Mapping) else getattr(code, name, None)

    functions = {name: read(name) for name in (*SUBJECTS, *OTHERS) if callable(read(name))}
    if not functions:
        raise ValueError(f"no function to audit; expected one of {', '.join((*SUBJECTS, *OTHERS))}")
    findings: list[Finding] = []
    for name, function in functions.items():
        rng = np.random.default_rng(seed)
        caller = Caller(name, ADAPTED.get(name, lambda function: function)(function), limit)
        if name in SUBJECTS:
            found = _audit_subject(caller, read(f"{name}_vjp"), bool(read("STOPPED_GRADIENT")), rng)
        else:
            found = PROPERTIES[name](caller, read("IMAGE_SHAPE"), rng)
        try:
            for check, verdict, says, *rest in found:
                findings.append(Finding(name, check, verdict, says, *rest))
        except NotWritten:
            continue
        except Unusable as error:
            signature = SUBJECTS[name].signature if name in SUBJECTS else OTHERS[name]
            findings.append(Finding(name, "runs", UNKNOWN, str(error), f"it should be {signature}"))
    if not findings:
        raise ValueError("no function is written yet; fill in those that you have, and delete the others")
    return findings


def of_lengths(margin_loss: Callable[..., Any]) -> Callable[..., Any]:
    """Return a margin loss that takes lengths; one whose first argument is called v gets such vectors."""
    try:
        first = next(iter(inspect.signature(margin_loss).parameters), "")
    except ValueError:  # of a function that is not written in Python
        return margin_loss
    if first != "v":
        return margin_loss
    return lambda lengths, labels: margin_loss(lengths[..., None] * np.array([0.6, 0.0, 0.8]), labels)


def joined(em_routing: Callable[..., Any]) -> Callable[..., Any]:
    """Return an EM routing whose means and activations (B, J) are one array (B, J, E + 1)."""

    def routing(*inputs: Any) -> Array:
        mu, a = em_routing(*inputs)
        return np.concatenate([mu, np.asarray(a)[..., None]], axis=-1)

    return routing


ADAPTED = {"margin_loss": of_lengths, "em_routing": joined}


def _audit_subject(caller: Caller, vjp: Any, stopped: bool, rng: np.random.Generator) -> Iterator[Found]:
    """Yield what is found of a function with a bank."""
    subject, bank = SUBJECTS[caller.name], BANKS[caller.name]
    probes = subject.probes(rng)
    results = [caller.call(inputs, subject.result(inputs)) for inputs in probes]
    yield from caller.purity(probes[0], results[0])
    settings, distance = closest(bank, probes, results)
    if distance > SAME:
        others = list(windows(caller, probes[0])) if caller.name == "conv_capsules" else []
        yield from others
        yield from _no_variant(bank, distance, {check for check, *_ in others})
    else:
        yield from _by_dials(caller, settings, distance)
    gradient = Caller(f"{caller.name}_vjp", vjp, caller.limit) if callable(vjp) else None
    if subject.at_zero:
        yield from zeros_are_finite(caller, gradient, probes[-1], subject.at_zero)
    if gradient is not None:
        yield from check_gradient_of(caller, gradient, probes[0], settings, stopped, rng)


def closest(bank: Bank, probes: list[Inputs], results: list[Array]) -> tuple[dict[str, str], float]:
    """Return the settings whose results are the code's, with as few differences to the paper as can be.

    Where none are, the paper's own, and how far they are off, relative to the largest number.
    """
    for settings in bank.settings():
        distance = 0.0
        for inputs, result in zip(probes, results, strict=True):
            distance = max(distance, difference(result, bank.compute(*inputs, **settings)))
            if distance > SAME:
                break
        else:
            return settings, distance
    return {}, max(difference(y, bank.compute(*x)) for x, y in zip(probes, results, strict=True))


def difference(result: Array, expected: Array) -> float:
    """Return the largest difference, relative to the largest number; infinite for other sizes."""
    if result.size != expected.size:
        return float("inf")
    off = np.abs(result.reshape(-1) - expected.reshape(-1)).max()
    largest = max(np.abs(expected).max(), np.abs(result).max())
    return float(off / largest) if largest > 0 else 0.0


def _by_dials(caller: Caller, settings: dict[str, str], distance: float) -> Iterator[Found]:
    """Yield a verdict for each decision, given settings that explain all results."""
    for dial in BANKS[caller.name].dials:
        if dial.name not in settings:
            yield dial.name, HOLDS, dial.means
            continue
        kind, does, cost = dial.others[settings[dial.name]]
        example = small_numbers(caller, {dial.name: settings[dial.name]})
        evidence = f"{example}; all results agree to {max(distance, 1e-12):.0e}"
        yield dial.name, kind, f"the code {does}; the paper: {dial.means}", evidence, cost


def small_numbers(caller: Caller, settings: dict[str, str]) -> str:
    """Return the smallest example that shows such settings: what the code gives, and the paper."""
    bank = BANKS[caller.name]
    for inputs in SUBJECTS[caller.name].small:
        expected = np.asarray(bank.compute(*inputs))
        if difference(np.asarray(bank.compute(*inputs, **settings)), expected) > 0.01:
            got = caller.call(inputs)
            call = f"{caller.name}({', '.join(map(brief, inputs))})"
            return f"{call} gives {brief(got)}, by the paper {brief(expected)}"
    return "no small example shows it"


def brief(value: Any) -> str:
    """Return a number or an array in one line."""
    return " ".join(np.array2string(np.asarray(value), precision=4, separator=", ").split())


def _no_variant(bank: Bank, distance: float, told: set[str]) -> Iterator[Found]:
    """Yield that nothing is known of each decision, but for those of which something was told."""
    off = f"{100 * distance:.3g} %" if np.isfinite(distance) else "another size"
    for dial in bank.dials:
        if dial.name in told:
            continue
        says = f"no known variant gives these results (from the paper's: {off}); the paper: {dial.means}"
        yield dial.name, UNKNOWN, says
