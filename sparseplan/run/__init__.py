"""Executing training steps: in the arena of a plan, fast without one, and as a plain reference."""

from sparseplan.run.adapt import AdaptReport, adapt, plan_settings
from sparseplan.run.fitting import TrainResult, Validation
from sparseplan.run.optimizers import Optimizer
from sparseplan.run.reference import Arithmetic, Reference, reference
from sparseplan.run.runner import RunReport, run
from sparseplan.run.samples import Samples
from sparseplan.run.schedules import LrSchedule
from sparseplan.run.settings import EarlyStopping, TrainSettings
from sparseplan.run.trainer import Trainer, gradients, predict, train

__all__ = [
    "AdaptReport",
    "Arithmetic",
    "EarlyStopping",
    "LrSchedule",
    "Optimizer",
    "Reference",
    "RunReport",
    "Samples",
    "TrainResult",
    "TrainSettings",
    "Trainer",
    "Validation",
    "adapt",
    "gradients",
    "plan_settings",
    "predict",
    "reference",
    "run",
    "train",
]
