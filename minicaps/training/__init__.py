"""Training, from first weights to last: one step, optimizers, processes, and a run with its folder."""

from minicaps.training.batch import batches, to_batch
from minicaps.training.bench import Bench, bench
from minicaps.training.config import MAY_CHANGE, PRETRAINED, TrainConfig
from minicaps.training.evaluation import Evaluation, evaluate
from minicaps.training.fast_adam import Adam
from minicaps.training.files import REPORT, fingerprint
from minicaps.training.fit import fit_epochs
from minicaps.training.folder import (
    RUNS,
    Origin,
    as_path,
    data_may_have_moved,
    find_weights,
    run_of,
    trained_on,
)
from minicaps.training.loss_scale import LossScale
from minicaps.training.machine import load_together
from minicaps.training.mpi import MPIParallel, gradient_source
from minicaps.training.notation import flag
from minicaps.training.optimizers import SGD, Optimizer
from minicaps.training.options import BadOption
from minicaps.training.processes import DataParallel
from minicaps.training.ranks import Ranks, all_ranks, check_launch, current_ranks, in_first_rank
from minicaps.training.records import RunRecord, differing_options, find_runs, read_record
from minicaps.training.run import Run
from minicaps.training.schedules import Constant, Cosine, Exponential, Schedule
from minicaps.training.start import Start, start_from
from minicaps.training.step import Diverged, GradientSource, OneProcess, Result, backpropagate, train_step
from minicaps.training.stored_config import read_config
from minicaps.training.summary import commands_of

__all__ = [
    "MAY_CHANGE",
    "PRETRAINED",
    "REPORT",
    "RUNS",
    "SGD",
    "Adam",
    "BadOption",
    "Bench",
    "Constant",
    "Cosine",
    "DataParallel",
    "Diverged",
    "Evaluation",
    "Exponential",
    "GradientSource",
    "LossScale",
    "MPIParallel",
    "OneProcess",
    "Optimizer",
    "Origin",
    "Ranks",
    "Result",
    "Run",
    "RunRecord",
    "Schedule",
    "Start",
    "TrainConfig",
    "all_ranks",
    "as_path",
    "backpropagate",
    "batches",
    "bench",
    "check_launch",
    "commands_of",
    "current_ranks",
    "data_may_have_moved",
    "differing_options",
    "evaluate",
    "find_runs",
    "find_weights",
    "fingerprint",
    "fit_epochs",
    "flag",
    "gradient_source",
    "in_first_rank",
    "load_together",
    "read_config",
    "read_record",
    "run_of",
    "start_from",
    "to_batch",
    "train_step",
    "trained_on",
]
