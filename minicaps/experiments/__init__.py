"""Questions, each answered by training networks: the experiments by name, and what they share."""

from minicaps.experiments.registry import EXPERIMENTS, Experiment, settings_of
from minicaps.experiments.study import Settings, Study

__all__ = ["EXPERIMENTS", "Experiment", "Settings", "Study", "settings_of"]
