"""Exact plans for fine-tuning neural networks inside a microcontroller's memory.

>>> import sparseplan as sp
>>> plan = sp.plan(sp.zoo.upydnet(), device="gap9", l2="600kB")
>>> sp.verify(plan.problem, plan)
()
"""

from __future__ import annotations

from sparseplan.starting import guard as _guard

_guard()  # before all that takes long to import

from sparseplan import importers, tasks, value, zoo
from sparseplan.api import plan, problem, read_values
from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.costs import PlanCosts, plan_costs
from sparseplan.device import Device, load_device
from sparseplan.errors import SparseplanError
from sparseplan.network import Network, Op, Tensor
from sparseplan.objective import Loss
from sparseplan.plan import Plan
from sparseplan.planfile import read_plan, write_plan
from sparseplan.problem import Problem
from sparseplan.report import describe, figure, front_figure, save_figure, save_front_figure
from sparseplan.run import run
from sparseplan.sources import imported, network
from sparseplan.steps import TrainingOptions, UpdateSet
from sparseplan.sweep import Front, pareto
from sparseplan.verify import Violation, verify
from sparseplan.version import __version__

__all__ = [
    "Device",
    "Front",
    "Loss",
    "Network",
    "NetworkBuilder",
    "Op",
    "Plan",
    "PlanCosts",
    "Problem",
    "SparseplanError",
    "Tensor",
    "TrainingOptions",
    "UpdateSet",
    "Violation",
    "__version__",
    "describe",
    "figure",
    "front_figure",
    "imported",
    "importers",
    "init_parameters",
    "load_device",
    "network",
    "pareto",
    "plan",
    "plan_costs",
    "problem",
    "read_plan",
    "read_values",
    "run",
    "save_figure",
    "save_front_figure",
    "tasks",
    "value",
    "verify",
    "write_plan",
    "zoo",
]
