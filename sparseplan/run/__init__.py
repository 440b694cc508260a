"""Executing training steps: in the arena of a plan, fast without one, and as a plain reference."""

from sparseplan.run.optimizers import Optimizer
from sparseplan.run.reference import Arithmetic, Reference, reference
from sparseplan.run.runner import RunReport, run
from sparseplan.run.samples import Samples
from sparseplan.run.trainer import Trainer, TrainResult, TrainSettings, gradients, predict, train

__all__ = [
    "Arithmetic",
    "Optimizer",
    "Reference",
    "RunReport",
    "Samples",
    "TrainResult",
    "TrainSettings",
    "Trainer",
    "gradients",
    "predict",
    "reference",
    "run",
    "train",
]
