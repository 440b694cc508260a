"""Commands that train: checking a plan, measuring values, the demo."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace

from sparseplan.check import CheckReport
from sparseplan.check import check as check_sets
from sparseplan.cli.common import (
    choices_of,
    measured,
    named_units,
    origin_of,
    plan_weights_of,
    progress,
    progress_end,
    show,
    task_of,
    training_settings,
    verified,
    weights_of,
    writable,
)
from sparseplan.cli.losses import planned_loss, trained_loss
from sparseplan.demo import demo
from sparseplan.errors import ProblemError, near
from sparseplan.measuring import fitted, measure_units, measured_values
from sparseplan.plan import Plan
from sparseplan.planfile import read_plan
from sparseplan.problem import match
from sparseplan.run import plan_settings
from sparseplan.run.checks import check_one_loss
from sparseplan.run.settings import TrainSettings
from sparseplan.solve.clock import Limits, alive
from sparseplan.steps import UpdateSet
from sparseplan.tables import table
from sparseplan.tasks import Task
from sparseplan.value import VALUES
from sparseplan.value.contribution import groups_measured
from sparseplan.value.valuefile import ValueTable, write_values


def check(args: argparse.Namespace) -> int:
    """Metrics before and after fine-tuning with a plan's update set."""
    plan = read_plan(args.plan)
    net = plan.problem.network
    if not plan.feasible:
        raise ProblemError(f"plan {args.plan!r} has status {plan.status}: there is nothing to train with")
    verified(plan, args.plan)
    check_one_loss(plan.problem.options, "a task")
    task = task_of(args)
    start = trained_loss(args.loss, plan, task, args.arena)
    weights, _ = plan_weights_of(args, plan)
    # in the arena, the plan says itself what is updated
    sets = {} if args.arena else {"planned": dict(plan.update)}
    if args.full:
        # what the problem allows beyond that was asked for: int8 parameters
        sets["full"] = {**UpdateSet.all(net).fractions, **dict.fromkeys(plan.problem.choices, 1.0)}
    settings = _arena_settings(args, plan, task) if args.arena else training_settings(args, start)
    result: CheckReport = check_sets(
        net, weights, sets, task, seeds=args.seeds, jobs=args.jobs, settings=settings, store=args.store,
        plans={"planned": plan} if args.arena else None, progress=progress,
    )  # fmt: skip
    progress_end()
    show(args, result.to_json(), result.text())
    return 0 if result.passed else 1


def _arena_settings(args: argparse.Namespace, plan: Plan, task: Task) -> TrainSettings | None:
    """The plan's own optimizer and batch; what is asked for beyond that."""
    o = plan.problem.options
    if args.full:
        raise ProblemError("--arena trains the planned set in its arena; leave --full out, or check it without --arena")
    for flag, given, planned in (("--train-optimizer", args.train_optimizer, o.optimizer),
                                 ("--train-batch", args.train_batch, o.batch)):  # fmt: skip
        if given is not None and given != planned:
            raise ProblemError(f"{flag} {given}: the plan is for {planned}, and the arena follows the plan; plan anew")
    if all(getattr(args, n) is None for n in ("epochs", "lr", "schedule", "accumulate", "early_stopping")):
        return None
    args.train_optimizer, args.train_batch = o.optimizer, o.batch
    start = plan_settings(plan, replace(task.settings, lr_drop=()) if args.schedule else task.settings)
    return training_settings(args, replace(start, epochs=args.epochs or task.settings.epochs))


def value(args: argparse.Namespace) -> int:
    """Measure values, by a formula or by training, and write them."""
    writable(args.out)
    net = origin_of(args).network
    if args.by != "contribution":
        if args.by not in VALUES:
            raise ProblemError(f"by={args.by!r} is unknown{near(args.by, ['contribution', *VALUES])}")
        facts: dict[str, str | int | float | bool] = {
            "network": net.name, "task": args.task, "samples": args.samples, "seed": args.seed
        }  # fmt: skip
        limits = Limits().told(progress)
        limits.say(f"measuring {args.by}")
        with alive(limits):
            made = ValueTable(args.by, measured(args, net, args.by), facts)
        progress_end()
        write_values(made, args.out)
        rows = sorted(((max(t.values()), p) for p, t in made.values.items()), reverse=True)
        show(args, {"out": args.out, "measure": args.by, "values": {p: dict(t) for p, t in made.values.items()}},
             table(("parameter", "value of the whole"), [[p, f"{v:.6g}"] for v, p in rows], [False, True]))  # fmt: skip
        return 0
    task, weights = task_of(args), weights_of(args, net)
    planned_loss(args.loss, task)
    choices = choices_of(args, net)
    base = {p: 1.0 for pattern in args.base for p in match(net, pattern, "base")}
    units = named_units(net, args.units, {p: r for p, r in choices.items() if p not in base})
    limits = Limits().told(progress)
    with alive(limits):
        found = measure_units(
            net, weights, task, units, base=base, pairs=args.pairs, seeds=args.seeds,
            settings=training_settings(args, task.settings), jobs=args.jobs, store=args.store,
            time_limit=args.time_limit, progress=limits.say,
        )  # fmt: skip
    progress_end()
    source: dict[str, str | int | float | bool] = {
        "network": net.name, "task": task.name, "metric": task.headline, "seeds": args.seeds,
        "base": ", ".join(args.base) or "no update",
    }  # fmt: skip
    known = {name for group in groups_measured(found).values() for name in group}
    if missing := [unit.name for unit in units if unit.name not in known]:
        print(f"note: the time limit of {args.time_limit:g} s came before {len(missing)} of {len(units)} units were "
              f"trained, which count as worth nothing: {', '.join(missing[:8])}", file=sys.stderr)  # fmt: skip
    elif len(found.sets) < len(units) + 1:
        print(f"note: the time limit of {args.time_limit:g} s came before each unit was trained alone; give more",
              file=sys.stderr)  # fmt: skip
    units = tuple(unit for unit in units if unit.name in known)
    shared = {p: choices[p] for unit in units for p in unit.parameters}
    made = measured_values(net, found, units, shared, additive=args.additive, pairs=args.pairs, tied=args.tied,
                           source=source)  # fmt: skip
    # what every run updated, or no unit holds, has no measured worth of its own
    rest = {p: dict.fromkeys(r, 0.0) for p, r in choices.items() if p not in made.values}
    made = replace(made, values={**{p: dict(t) for p, t in made.values.items()}, **rest})
    write_values(made, args.out)
    model = fitted(found, additive=args.additive, pairs=args.pairs)
    body: list[list[object]] = []
    for name, group in groups_measured(found).items():
        shown = name if len(group) < 3 else f"all {len(group)} units"
        figures = (f"{found.mean(name):+.4f}", f"{found.spread(name):.4f}", f"{model.predict(group):+.4f}")
        body.append([shown, *figures])
    show(args, {"out": args.out, "gains": {n: {"mean": found.mean(n), "std": found.spread(n)}
                                           for n in groups_measured(found)}},
         table(("updated", f"gain in {task.headline}", "std", "model"), body, [False, True, True, True]))  # fmt: skip
    return 0


def demo_(args: argparse.Namespace) -> int:
    """The main job on real input."""
    result = demo(args.out, seeds=args.seeds, jobs=args.jobs, say=None if args.json else print, progress=progress)
    progress_end()
    if args.json:
        print(json.dumps(result, indent=2, allow_nan=False))
    return 0 if result["passed"] else 1
