"""Exact fronts of uPyD-Net on GAP9 and of smaller networks: points, proofs, seconds; beside what greedy loses.

Greedy adds the update of most value a byte for as long as first fit finds room, at budgets evenly
spread over the front. Seconds are of this machine and are not asserted.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import ortools

import sparseplan as sp
from sparseplan.problem import Problem, resolve_ties
from sparseplan.solve.front import bounded
from sparseplan.sweep import Front, pareto
from sparseplan.tables import table
from sparseplan.tasks import get_task
from sparseplan.testing.peers import greedy
from sparseplan.value import squared_gradient_norm
from sparseplan.weights import pretrained

JOBS = 2
#: budgets at which greedy is asked
ASKED = 6
BLOCKS = (("encoder.*",), ("decoder0.*", "ups0.*"), ("decoder1.*", "ups1.*"), ("decoder2.*",))


def gradient_values() -> Mapping[str, Any]:
    """Squared gradient norms of uPyD-Net on 64 pictures of the depth task."""
    net = sp.zoo.upydnet()
    choices = sp.problem(net, "gap9").choices
    return squared_gradient_norm(net, pretrained(net), get_task("depth").samples(64), choices)


def cases() -> dict[str, Problem]:
    """What fronts are drawn of."""
    blocks = sp.problem("upydnet", "gap9", fractions=(1.0,))
    return {
        "uPyD-Net, 34 tensors, elements": sp.problem("upydnet", "gap9"),
        "uPyD-Net, 34 tensors, gradients": sp.problem("upydnet", "gap9", values=gradient_values()),
        "uPyD-Net, 4 blocks, elements": replace(blocks, ties=resolve_ties(blocks.network, blocks.choices, BLOCKS)),
        "ResNet-8, whole tensors, elements": sp.problem("resnet8", "gap9", fractions=(1.0,)),
    }


def lost_by_greedy(front: Front) -> str:
    """Per cent of the exact value that greedy lacks, from the least budget to the largest."""
    first, last = front.points[0].cost, front.points[-1].cost
    shown = []
    for budget in np.linspace(first, last, ASKED).astype(int).tolist():
        best = max(p.value for p in front.points if p.cost <= budget)
        plan = greedy(bounded(front.problem, front.axis, budget))
        if plan is None:
            shown.append("none")
        else:
            shown.append(f"{100 * (best - plan.objective) / best:.1f}" if best > 0 else "-")
    return " ".join(shown)


def main() -> None:
    print(
        f"sparseplan {sp.__version__}, ortools {ortools.__version__}, Python {platform.python_version()}, jobs={JOBS}"
    )
    rows = []
    for name, problem in cases().items():
        began = time.perf_counter()
        front = pareto(problem, jobs=JOBS)
        seconds = time.perf_counter() - began
        proven = sum(p.status == "OPTIMAL" for p in front.points)
        costs = [int(front.points[0].cost), int(front.points[-1].cost)]
        open_bytes = int(sum(w.high - w.low for w in front.windows))
        rows.append([name, len(front.points), proven, len(front.windows), open_bytes, *costs, f"{seconds:.1f}",
                     lost_by_greedy(front)])  # fmt: skip
        print(f"{name}: {seconds:.1f} s", flush=True)
    header = (
        "case",
        "points",
        "proven",
        "windows",
        "open B",
        "from B",
        "to B",
        "seconds",
        "greedy loses % at 6 budgets",
    )
    print(table(header, rows, [False, *[True] * 7, False]))


if __name__ == "__main__":
    main()
