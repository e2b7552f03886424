"""To look at: the figures of runs and of capsules, in one style, the window, and the page for a browser."""

from minicaps.figures.capsules import (
    couplings_over_image,
    couplings_per_iteration,
    dimension_grid,
    squash_curve,
)
from minicaps.figures.explore import (
    OFFSETS,
    check_capsnet,
    check_explorable,
    reconstruct_capsules,
    reconstruct_moved,
    write_figures,
)
from minicaps.figures.matrices import activations, poses
from minicaps.figures.page import write_page
from minicaps.figures.report import write_report
from minicaps.figures.runs import confusion_matrix, draw_run, learning_curves, mistakes, reconstructions
from minicaps.figures.scores import calibration, interval, scores_by_class
from minicaps.figures.style import (
    COLOURS,
    HEAT,
    LINES,
    STYLE,
    as_picture,
    draw_image,
    headline,
    line_style,
    name_row,
    name_ticks,
    save,
    save_or_warn,
    show,
)
from minicaps.figures.text import as_text
from minicaps.figures.window import Explorer, find_window, open_window

__all__ = [
    "COLOURS",
    "HEAT",
    "LINES",
    "OFFSETS",
    "STYLE",
    "Explorer",
    "activations",
    "as_picture",
    "as_text",
    "calibration",
    "check_capsnet",
    "check_explorable",
    "confusion_matrix",
    "couplings_over_image",
    "couplings_per_iteration",
    "dimension_grid",
    "draw_image",
    "draw_run",
    "find_window",
    "headline",
    "interval",
    "learning_curves",
    "line_style",
    "mistakes",
    "name_row",
    "name_ticks",
    "open_window",
    "poses",
    "reconstruct_capsules",
    "reconstruct_moved",
    "reconstructions",
    "save",
    "save_or_warn",
    "scores_by_class",
    "show",
    "squash_curve",
    "write_figures",
    "write_page",
    "write_report",
]
