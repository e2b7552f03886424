"""Experiment: every routing in one network, on the same images and from the same first weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from minicaps.arrays import Array
from minicaps.experiments import arm_figures
from minicaps.experiments.routing_arms import ARMS, LOSSES, TRUNK
from minicaps.experiments.routing_training import (
    ANGLES,
    BATCH,
    CLOSE,
    COUPLED_IMAGES,
    GOAL,
    LEARNING_RATES,
    TESTS,
    TURN,
    Comparison,
)
from minicaps.experiments.study import Study
from minicaps.experiments.tables import percent, seeds_in_words, table

Jobs: TypeAlias = Sequence[tuple[str, str]]  # arm and loss


def routing(study: Study) -> None:
    """Try out the learning rates of every arm, train it with the best from every seed, and test it."""
    comparison = Comparison(study)
    for arm, loss in comparison.jobs:
        for rate in LEARNING_RATES:
            row = study.row(comparison.try_out, "trial", arm=arm, loss=loss, learning_rate=rate)
            study.say(f"{name_of(arm, loss)}, trial at {rate:g}: {100 * row['accuracy']:.2f} % on validation")
    for seed in study.seeds:
        for arm, loss in comparison.jobs:
            row = study.row(comparison.train, "training", arm=arm, loss=loss, seed=seed)
            study.say(
                f"{name_of(arm, loss)}, seed {seed}: {100 * row['plain']:.2f} % on test, "
                f"{100 * row['warped']:.2f} % of warped images"
            )
    study.draw("tests", arm_figures.tests, by_test(study, comparison.jobs))
    study.draw("turned", arm_figures.turned, by_angle(study, comparison.jobs), ANGLES, GOAL)
    means = {
        name_of(arm, loss): {name: float(np.mean(values(study, arm, loss, name))) for name in TESTS}
        for arm, loss in comparison.jobs
    }
    study.finish(report(study, comparison), accuracy=means)


# -- the report -------------------------------------------------------------------------------


def name_of(arm: str, loss: str) -> str:
    return f"{ARMS[arm].text}, {loss}"


def values(study: Study, arm: str, loss: str, name: str) -> list[Any]:
    """Return what the trainings of an arm say under `name`, one of each seed, but for those that say None."""
    found = study.values(name, kind="training", arm=arm, loss=loss)
    return [value for value in found if value is not None]


def by_test(study: Study, jobs: Jobs) -> dict[str, dict[tuple[str, str], list[float]]]:
    """Return the accuracies of all seeds, by test and by the names of arm and loss."""
    found = {
        text: {(ARMS[arm].text, loss): values(study, arm, loss, name) for arm, loss in jobs}
        for name, text in TESTS.items()
    }
    turned = {
        (ARMS[arm].text, loss): np.mean(values(study, arm, loss, "turned"), axis=1).tolist()
        for arm, loss in jobs
        if values(study, arm, loss, "turned")
    }
    return {**found, f"turned, at {100 * GOAL:g} %": turned} if turned else found


def by_angle(study: Study, jobs: Jobs) -> dict[str, dict[str, Array]]:
    """Return the accuracies (seeds, angles) on turned images, by loss and arm, where there are any."""
    found: dict[str, dict[str, Array]] = {loss: {} for loss in LOSSES if any(loss == job[1] for job in jobs)}
    for arm, loss in jobs:
        if of_arm := values(study, arm, loss, "turned"):
            found[loss][ARMS[arm].text] = np.array(of_arm)  # (seeds, angles)
    return found


def report(study: Study, comparison: Comparison) -> str:
    """Return the table with its note."""
    tests = [f"{text}, %" for text in TESTS.values()]
    at_goal = f"turned by {ANGLES[0]} to {ANGLES[-1]}°, at {100 * GOAL:g} %"
    head = ["routing", "loss", "parameters", "rate", "validation, %", *tests, f"{at_goal}, %"]
    head += ["ms a step", "entropy", "changed, %"]
    lines = [table_line(study, arm, loss) for arm, loss in comparison.jobs]
    of_small = f" with {TRUNK['conv_channels']} channels" if study.settings.preset == "small" else ""
    note = (
        f"{comparison.steps:,} steps of {BATCH} images, turned by up to ±{TURN}°, the same for all; CapsNet "
        f"`{study.settings.preset}`{of_small}, no decoder. Adam down a cosine from the rate, the best of "
        f"{', '.join(f'{rate:g}' for rate in LEARNING_RATES)} in one trial each, with another seed, on "
        f"{len(comparison.validation[0]):,} validation images turned alike. Three iterations, but two of "
        "inverted attention and EM, and one of self-attention and of uniform and learned couplings. Margin "
        "loss on the lengths of the class capsules, or on their activations (EM); cross-entropy of what a "
        f"line reads off them. {len(comparison.dataset.test_images):,} test images; warped: by up to ±20° of "
        "rotation, ±0.2 of shear, and 0.8 to 1.2 of scale on each axis. Turned, both ways: by the weights of "
        f"a moment when {100 * GOAL:g} % of the validation images were right, to {100 * CLOSE:g} points. "
        f"Entropy: of the last couplings, of {COUPLED_IMAGES:,} test images, where 1 is an even share. "
        "Changed: children whose best parent at the end is not that after the first iteration. "
        f"{seeds_in_words(study.seeds).capitalize()}."
    )
    return table(head, lines, note)


def table_line(study: Study, arm: str, loss: str) -> list[str]:
    """Return what the table says of an arm with a loss."""

    def of(name: str) -> list[Any]:
        return values(study, arm, loss, name)

    rows = study.rows(kind="training", arm=arm, loss=loss)
    count, diverged = len(rows), sum("diverged" in row for row in rows)
    turned = [float(np.mean(each)) for each in of("turned")]
    some = f" ({len(turned)} of {count})" if len(turned) < count else ""
    return [
        ARMS[arm].text + (f" ({diverged} of {count} diverged)" if diverged else ""),
        loss,
        f"{of('parameters')[0]:,}",
        f"{of('learning_rate')[0]:g}",
        *(percent(of(name)) for name in ("validation", *TESTS)),
        percent(turned) + some if turned else "not reached",
        f"{np.mean(of('milliseconds')):.0f}" if of("milliseconds") else "-",
        f"{np.mean(of('entropy')):.3f}" if of("entropy") else "-",
        percent(of("changed"), digits=1) if of("changed") else "-",
    ]
