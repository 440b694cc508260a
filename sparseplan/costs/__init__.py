"""What a plan takes: cycles, seconds, joules, traffic between levels.

``cycles`` has the model (a pure function of figures), ``work`` makes the figures from steps and
tiles, ``energy`` tells joules, ``planned`` adds them up. Nothing is guessed: what a device has no
row for is named.

A constraint on seconds or joules, or time as an objective, takes integers from here:

* ``cap = cycles_within(device, seconds=…)``, and of joules where active power is known;
* of a step that may run, ``base, terms = cycle_terms(device, work_of(step, 0, …), step.macs)``: ``base``
  cycles if it runs, and more under each condition of its MACs;
* of a step that runs, ``price(device, work_of(step, step.macs, …)).total``: the same figures, so that a
  verifier adds up what a solver did (less where a step that may run has arguments that it then lacks);
* where energy follows from MACs and bytes, ``picojoules_of`` a step's work.

Whether a parameter is streamed from L3 or flash depends on ``levels``: price a step with it frozen
there and with it in L2, and add the difference under its condition.
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
from sparseplan.costs.energy import cycles_within, joules_of, picojoules_of
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
    "cycles_within",
    "explain",
    "joules_of",
    "missing_rows",
    "pass_name",
    "picojoules_of",
    "plan_costs",
    "price",
    "step_costs",
    "work_of",
]
