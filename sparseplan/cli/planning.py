"""Commands that plan and check plans."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from typing import Any

from sparseplan import api, report, sweep
from sparseplan.atomic import together, write_text
from sparseplan.baselines import baselines
from sparseplan.cli import comparing, timing
from sparseplan.cli.common import (
    named_units,
    origin_of,
    plan_weights_of,
    problem_of,
    progress,
    progress_end,
    show,
    solved,
    task_of,
    training_settings,
    weights_of,
    writable,
    written_weights,
)
from sparseplan.cli.wording import worded
from sparseplan.errors import ProblemError
from sparseplan.plan import Plan
from sparseplan.planfile import read_plan, weights_beside, write_plan
from sparseplan.problem import Problem
from sparseplan.run import Optimizer, RunReport, run
from sparseplan.run.checks import check_one_loss
from sparseplan.tables import table
from sparseplan.trained import TrainedFront, train_front
from sparseplan.units import parse_bytes
from sparseplan.verify import verify

#: differences from the reference that are printed; --json tells all
MOST_SHOWN = 10


def plan(args: argparse.Namespace) -> int:
    """The best plan."""
    writable(args.out, args.figure, args.measure)
    others = comparing.named_plans(args.compare)  # files that cannot be read are told before the work is done
    asked = problem_of(args)
    answer = api.plan(asked, time_limit=args.time_limit, seed=args.seed, progress=progress)
    progress_end()
    told = []
    if args.out and answer.feasible:
        beside = written_weights(args, asked)
        write_plan(answer, args.out, beside)
        told = [] if beside is None else [f"wrote {args.out}, and its network's weights as {weights_beside(args.out)}"]
    if args.figure and answer.feasible:
        report.save_figure(answer, args.figure)
    data, text = timing.told(args, answer)
    beside, table_ = comparing.told(answer, others)
    text = [worded(report.describe(answer), args), *text, *table_, *told]
    show(args, {**report.summary(answer), **data, **beside}, "\n\n".join(text))
    return solved(answer.feasible, bool(answer.update))


def pareto(args: argparse.Namespace) -> int:
    """The exact front, and with ``--task`` what it buys."""
    writable(args.csv, args.figure, args.train_csv)
    if args.train and args.no_train:
        raise ProblemError("--train and --no-train: give one of them")
    asked = problem_of(args, need_budget=False)
    if (args.train or args.task) and not args.no_train:
        check_one_loss(asked.options, "a task")
    asked = _with_weights(args, asked)
    budgets = None if args.budgets is None else [_budget(t, args.axis) for t in args.budgets.split(",")]
    front = sweep.pareto(
        asked, args.axis, budgets=budgets, points=args.points, jobs=args.jobs, time_limit=args.time_limit,
        seed=args.seed, plans=args.plans, progress=progress,
    )  # fmt: skip
    progress_end()
    if args.csv:
        write_text(args.csv, front.frame().to_csv(index=False))
    trained = _train(args, front) if (args.train or args.task) and not args.no_train else None
    progress_end()
    if trained is not None and args.train_csv:
        write_text(args.train_csv, trained.rows.to_csv(index=False))
    if args.figure:
        report.save_front_figure(front, args.figure, trained)
    text = report.front_text(front)
    if trained is not None:
        text += "\n\n" + report.trained_text(trained)
    show(args, _front_json(front, trained) if args.json else None, text)
    return solved(bool(front.points), any(p.update for p in front.points))


def _with_weights(args: argparse.Namespace, asked: Problem) -> Problem:
    """The problem with its weights written into ``--plans``, where its plans would not lead to them otherwise."""
    weights = written_weights(args, asked) if args.plans else None
    if weights is None or asked.origin is None:
        return asked
    path = os.path.join(args.plans, "weights.npz")
    with together() as files:
        files.folder(args.plans)
        files.npz(path, dict(weights))
    return replace(asked, origin=replace(asked.origin, source=path, taken_from=asked.origin.source))


def _train(args: argparse.Namespace, front: sweep.Front) -> TrainedFront:
    if args.axis == "time":
        raise ProblemError("--task with --axis time: train the front of --axis macs, which is the same")
    task, network = task_of(args), front.problem.network
    weights = weights_of(args, network)
    few = front if args.points is not None or not front.exhaustive else front.thin(8)
    costs = [int(p.cost) for p in few.points]
    drawn = sorted({costs[len(costs) // 4], costs[len(costs) // 2], costs[3 * len(costs) // 4]})
    blocks = [(u.name, u.parameters) for u in named_units(network, args.blocks or "block", front.problem.choices)]
    progress("planning baselines")
    rivals = baselines(front.problem, args.axis, blocks=blocks, random_budgets=drawn, random_sets=args.random,
                       time_limit=args.time_limit, progress=progress)  # fmt: skip
    return train_front(
        few, weights, task, against=rivals, seeds=args.seeds, settings=training_settings(args, task.settings),
        jobs=args.jobs, store=args.store, progress=progress,
    )  # fmt: skip


def _budget(text: str, axis: str) -> int:
    if axis in ("l1", "l2"):
        return parse_bytes(text.strip())
    try:
        return int(float(text)) if axis == "macs" else float(text)  # type: ignore[return-value]
    except ValueError:
        raise ProblemError(f"budget={text!r} is no number of {axis}") from None


def _front_json(front: sweep.Front, trained: TrainedFront | None) -> dict[str, Any]:
    points = [
        {"cost": p.cost, "l2_bytes": p.l2, "l1_bytes": p.l1, "macs": p.macs, "value": p.value, "bound": p.bound,
         "status": p.status, "update": dict(p.update)} for p in front.points
    ]  # fmt: skip
    windows = [{"low": w.low, "high": w.high, "value": w.value} for w in front.windows]
    data: dict[str, Any] = {"axis": front.axis, "exhaustive": front.exhaustive, "proven": front.proven,
                            "points": points, "windows": windows, "note": front.note,
                            "nothing": report.nothing_of_front(front)}  # fmt: skip
    if trained is not None:
        data["trained"] = {
            "task": trained.task, "headline": trained.headline,
            "sets": trained.summary().to_dict("records"),
            "without_network": {n: dict(m) for n, m in trained.constants.items()},
        }  # fmt: skip
    return data


def _read(args: argparse.Namespace) -> Plan:
    return read_plan(args.plan)


def verify_plan(args: argparse.Namespace) -> int:
    """Whether a plan file keeps every rule."""
    plan = _read(args)
    found = verify(plan.problem, plan)
    rows = [{"kind": v.kind, "where": v.where, "message": v.message} for v in found]
    text = "\n".join(f"{r['kind']}: {r['where']}: {r['message']}" for r in rows) or "verified: no violation"
    show(args, {"accepted": not found, "violations": rows}, text)
    return 0 if not found else 1


def run_plan(args: argparse.Namespace) -> int:
    """Execute a plan file in its arena."""
    plan = _read(args)
    if found := verify(plan.problem, plan):
        print(f"sparseplan: the verifier rejects this plan: {found[0].where}: {found[0].message}", file=sys.stderr)
        return 2
    weights, origin = plan_weights_of(args, plan, drawn=True)
    kind = plan.problem.options.optimizer
    result = run(plan, weights, seed=args.seed, samples=args.samples, optimizer=Optimizer(kind, lr=args.lr))
    rows: list[list[object]] = [
        [level, n, result.touched_bytes[level], result.written_bytes[level]]
        for level, n in result.claimed_bytes.items()
    ]
    lines = [
        f"executed {result.steps} steps in the planned bytes; parameters: {origin}",
        table(("level", "claimed B", "touched up to B", "distinct B written"), rows, [False] + [True] * 3),
        *_losses(plan, result),
        *_outcome(result),
    ]
    show(args, result.to_json(), "\n".join(lines))
    return 0 if result.passed else 1


def _losses(plan: Plan, result: RunReport) -> list[str]:
    """Of the last run, each of several losses and their weighted sum."""
    losses = plan.problem.options.losses
    if not losses:
        return []
    parts = zip(losses, result.output_losses[-1].items(), strict=True)
    shown = ", ".join(f"{label} {value:.6g} (weight {x.weight:g})" for x, (label, value) in parts)
    return [f"loss {result.loss:.6g}: {shown}"]


def _outcome(result: RunReport) -> list[str]:
    """Lines on results, bytes and guard zones; each says that something is right only if all of it is."""
    unlike = result.differences or ()
    lines = [f"DIFFERS from the unconstrained reference in {len(unlike)} results:",
             *(f"  {text}" for text in unlike[:MOST_SHOWN])]  # fmt: skip
    if len(unlike) > MOST_SHOWN:
        lines.append(f"  and {len(unlike) - MOST_SHOWN} more")
    if not unlike:
        lines = ["losses, gradients, parameters and optimizer state equal the unconstrained reference's bit for bit"]
    for level, claimed in result.claimed_bytes.items():
        if result.touched_bytes[level] != claimed:
            lines.append(f"{level}: CLAIMS {claimed:,} B, but only {result.touched_bytes[level]:,} B are touched")
    return [*lines, "guard zones and all other buffers intact" if result.guard_intact else "\n".join(result.faults)]


def self_test(args: argparse.Namespace) -> int:
    """The theorems on a network."""
    from sparseplan.testing import selftest  # hypothesis is an extra

    result = selftest(origin_of(args).network, seed=args.seed, seconds=args.seconds, progress=progress)
    progress_end()
    rows = [{"theorem": r.theorem, "cases": r.cases, "outcome": r.outcome, "detail": r.detail} for r in result.rows]
    show(args, {"passed": result.passed, "rows": rows}, result.text())
    return 0 if result.passed else 1
