"""Training, from first weights to last: one step, optimizers, processes, and a run with its folder."""

from minicaps.training.batch import batches, to_batch
from minicaps.training.bench import Bench, bench
from minicaps.training.config import TrainConfig, read_config
from minicaps.training.evaluation import Evaluation, evaluate
from minicaps.training.files import fingerprint
from minicaps.training.fit import fit_epochs
from minicaps.training.optimizers import SGD, Adam, Optimizer
from minicaps.training.processes import DataParallel
from minicaps.training.run import Run
from minicaps.training.schedules import Constant, Cosine, Exponential, Schedule
from minicaps.training.step import Diverged, OneProcess, Result, backpropagate, train_step

__all__ = [
    "SGD",
    "Adam",
    "Bench",
    "Constant",
    "Cosine",
    "DataParallel",
    "Diverged",
    "Evaluation",
    "Exponential",
    "OneProcess",
    "Optimizer",
    "Result",
    "Run",
    "Schedule",
    "TrainConfig",
    "backpropagate",
    "batches",
    "bench",
    "evaluate",
    "fingerprint",
    "fit_epochs",
    "read_config",
    "to_batch",
    "train_step",
]
