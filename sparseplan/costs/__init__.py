"""What a plan takes: cycles, seconds, joules, traffic between levels.

``cycles`` has the model (a pure function of figures), ``work`` makes the figures from steps and
tiles, ``planned`` adds them up. Nothing is guessed: what a device has no row for is named.
"""

from sparseplan.costs.cycles import (
    Cycles,
    Missing,
    Transfer,
    Work,
    cycle_terms,
    cycles_of,
    explain,
    missing_rows,
    price,
)
from sparseplan.costs.planned import PlanCosts, StepCost, Training, plan_costs, step_costs
from sparseplan.costs.work import pass_name, work_of

__all__ = [
    "Cycles",
    "Missing",
    "PlanCosts",
    "StepCost",
    "Training",
    "Transfer",
    "Work",
    "cycle_terms",
    "cycles_of",
    "explain",
    "missing_rows",
    "pass_name",
    "plan_costs",
    "price",
    "step_costs",
    "work_of",
]
