"""The one door to the search: which way a problem is searched is decided here and nowhere else.

Plans, fronts, baselines, theorems and the command line all come through ``search`` or ``solve``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.pipeline import Effort, Pipeline
from sparseplan.solve.select import TIES
from sparseplan.solve.striped import Striped


class Search(Protocol):
    """The search for the best plan of a problem; asked again, with smaller budgets, for the next point of a front."""

    def run(self) -> Plan:
        """The best plan, with its proof."""
        ...

    def again(self, problem: Problem, limits: Limits | None = None) -> Plan:
        """The best plan for the same problem under a budget of main memory, or of MACs, that is no larger.

        ``limits``: new ones; by default those given first, from now on.
        """
        ...

    def at_its_own_budget(self, plan: Plan, problem: Problem) -> Plan:
        """The plan just found as the answer to the same problem under a smaller budget that it keeps to."""
        ...

    def least_in_doubt(self, value: float) -> int | None:
        """The fewest bytes of main memory, with what is reserved, of decisions in doubt that are worth more."""
        ...


def search(
    problem: Problem,
    limits: Limits | None = None,
    progress: Callable[[str], None] | None = None,
    order: Sequence[str] = TIES,
    effort: Effort | None = None,
    front: bool = False,
) -> Search:
    """The search that a problem asks for: over lowerings where it allows stripes, else of its network alone.

    Args:
        limits: seconds and seed, for each plan that is asked for; without seconds it goes on until proven.
        progress: called with a line of text at each stage.
        order: what is lowest among plans of equal value, the most important first.
        effort: how hard placements are searched for.
        front: it will be asked again, for smaller budgets.
    """
    if "stripes" in problem.savings:
        return Striped(problem, limits, progress, order, effort, front=front)
    return Pipeline(problem, limits, progress, order, effort)


def solve(
    problem: Problem,
    limits: Limits | None = None,
    progress: Callable[[str], None] | None = None,
    order: Sequence[str] = TIES,
    effort: Effort | None = None,
) -> Plan:
    """The best plan for a problem, with its proof; arguments as for ``search``."""
    return search(problem, limits, progress, order, effort).run()


__all__ = ["Search", "search", "solve"]
