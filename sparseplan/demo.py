"""The main job on real input: plan uPyD-Net for GAP9, run it in its bytes, adapt it to a new place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparseplan.api import plan as make_plan
from sparseplan.api import problem
from sparseplan.atomic import write_text
from sparseplan.check import check
from sparseplan.errors import InternalError, OutputError
from sparseplan.jsonio import dump
from sparseplan.plan import Plan
from sparseplan.planfile import read_plan, write_plan
from sparseplan.problem import resolve_choices
from sparseplan.report import describe, save_figure, summary
from sparseplan.run import run
from sparseplan.steps import UpdateSet
from sparseplan.tables import table
from sparseplan.tasks import get_task
from sparseplan.value import squared_gradient_norm
from sparseplan.verify import verify
from sparseplan.weights import pretrained
from sparseplan.zoo import upydnet

#: budgets of main memory; the first is what the paper (arXiv 2512.00086) spends on one block
BUDGETS = ("1.2MB", "600kB")
#: pictures over which the worth of an update is measured
SAMPLES = 64


def demo(
    folder: str | os.PathLike[str],
    *,
    seeds: int = 3,
    jobs: int = 1,
    say: Callable[[str], None] | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Plan, verify, run and adapt; plans, figures and the table go to ``folder``.

    Args:
        seeds: training runs of each update set; jobs: of them at a time.
        say: called with each paragraph of the report.
        progress: called with short lines while something takes long.

    Returns:
        The figures as plain data; ``passed`` tells whether both plans ran as promised.
    """
    tell = say or (lambda _: None)
    out = Path(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder {os.fspath(folder)!r} cannot be made: {error.strerror}") from None
    network = upydnet()
    weights = pretrained(network)
    tell(f"sparseplan demo: {network.name}, {len(network.ops)} ops, {len(network.parameters)} parameter tensors\n")
    if progress is not None:
        progress("drawing rooms")
    task = get_task("depth")
    choices, _ = resolve_choices(network)
    value = squared_gradient_norm(network, weights, task.samples(SAMPLES), choices)
    passed = True
    plans: dict[str, Plan] = {}
    result: dict[str, Any] = {"plans": {}, "runs": {}}
    for budget in BUDGETS:
        asked = problem(network, "gap9", l2=budget, loss=task.loss, loss_attrs=task.loss_attrs, values=value)
        answer = make_plan(asked, time_limit=60.0, progress=progress)
        path = out / f"plan-{budget}.json"
        write_plan(answer, path)
        answer = read_plan(path)  # what is run is what was written
        if found := verify(asked, answer):
            raise InternalError(f"the verifier rejects the plan as read back: {found[0]}")
        save_figure(answer, out / f"plan-{budget}.png")
        done = run(answer, weights, task.train.x[:1], task.train.target[:1])
        plans[budget] = answer
        result["plans"][budget], result["runs"][budget] = summary(answer), done.to_json()
        tell(
            f"## L2 of {budget}, worth of an update: its squared gradient norm in the new place\n\n{describe(answer)}\n"
        )
        passed = passed and done.passed
        same = "equal the reference's bit for bit" if done.bitwise_equal else "DIFFER from the reference's"
        tell(
            "verified by the independent checker; executed in its arena: "
            f"claimed {done.claimed_bytes['L2']:,} B, touched {done.touched_bytes['L2']:,} B, "
            f"guard zones {'intact' if done.guard_intact else 'BROKEN'}, "
            f"results {same}\n"
        )
    updates = {f"planned, {b}": dict(p.update) for b, p in plans.items()}
    updates["all parameters"] = dict(UpdateSet.all(network).fractions)
    tell(f"## Adapting to the new place, labels from an 8×8 time-of-flight sensor, {seeds} seeds\n")
    checked = check(network, weights, updates, task, seeds=seeds, jobs=jobs, progress=progress)
    rows: list[list[object]] = [
        [b, p.status, p.peak_bytes["L2"], f"{len(p.update)} of {len(network.parameters)}",
         f"{checked.mean(f'planned, {b}', 'rmse'):.3f}", f"{checked.mean(f'planned, {b}', 'd1'):.3f}"]
        for b, p in plans.items()
    ]  # fmt: skip
    tell(checked.text() + "\n")
    tell(table(("L2 budget", "status", "arena B", "tensors updated", "RMSE m", "δ1"), rows,
               [False, False, True, False, True, True]))  # fmt: skip
    result["check"], result["passed"] = checked.to_json(), passed
    write_text(out / "demo.json", dump(result))
    tell(f"\nwritten to {out}: " + ", ".join(sorted(p.name for p in out.iterdir() if not p.name.startswith("."))))
    return result
