"""How long the joint optimum of update set and recompute takes to prove: uPyD-Net on GAP9, all tensors and fractions.

Of a plan's goals only the first, value; ties (fewest MACs, lowest peak) take longer, see ``savings.py``. Values are
counts of elements. ``python benchmarks/joint.py [BUDGET …]``, one thread.
"""

from __future__ import annotations

import platform
import sys
import time

import ortools

import sparseplan as sp
from sparseplan.solve.cpsat import Limits, solve_in_order
from sparseplan.solve.pipeline import Pipeline
from sparseplan.solve.select import SEARCH
from sparseplan.tables import table
from sparseplan.units import parse_bytes

BUDGETS = ("552kB", "560kB", "580kB", "600kB", "700kB", "900kB")
#: seconds for a proof
LIMIT = 120.0


def row(budget: str, savings: tuple[str, ...]) -> list[object]:
    """Value, bound and seconds of one budget."""
    began = time.perf_counter()
    problem = sp.problem("upydnet", "gap9", l2=budget, savings=savings)
    program = Pipeline(problem, Limits(LIMIT)).program
    model = program.model.clone()
    program.limit_bytes(model, parse_bytes(budget))
    program.limit_others(model)
    (outcome,) = solve_in_order(
        model, [("max", program.value)], Limits(LIMIT), parameters=SEARCH, narrow=program.narrow
    )
    seconds = time.perf_counter() - began
    value = program.worth(program.decisions(outcome)) if outcome.solved else None
    return [budget, "+".join(savings) or "none", len(program.all_rows), len(program.again.runs), outcome.status,
            "" if value is None else value, f"{seconds:.1f}"]  # fmt: skip


def main() -> None:
    print(f"sparseplan {sp.__version__}, ortools {ortools.__version__}, Python {platform.python_version()}\n")
    rows = []
    for budget in sys.argv[1:] or BUDGETS:
        for savings in ((), ("recompute",)):
            rows.append(row(budget, savings))
            print(f"done: {budget}", file=sys.stderr, flush=True)
    header = ("budget", "savings", "rows", "starts", "status", "value", "seconds")
    print(table(header, rows, [True, False, True, True, False, True, True]))


if __name__ == "__main__":
    main()
