"""The loss of a command: the task's where the plan looks at a task, and never silently another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sparseplan.errors import ProblemError
from sparseplan.ops import loss_def
from sparseplan.plan import Plan
from sparseplan.run.settings import TrainSettings
from sparseplan.tasks import Task

#: the loss of plans that nothing is said about
DEFAULT = "l1"


def planned_loss(named: Sequence[str] | None, task: Task | None) -> tuple[str | Sequence[str], Mapping[str, Any]]:
    """Kind and attributes of the loss to plan with: what ``--loss`` names, or that of the task that is looked at.

    Losses that are given by outputs or weights are left as they were written.

    Raises:
        ProblemError: both are there and differ.
    """
    given = None if not named else " --loss ".join(named)
    if task is None:
        return named or DEFAULT, {}
    if named and (len(named) > 1 or set("=*") & set(named[0])):
        raise ProblemError(
            f"--loss {given} is given by outputs, but task {task.name!r} has data for one loss, on the first output; "
            "leave out --task and what looks at its data (--value), or choose the output by --output"
        )
    if given is not None and given != task.loss:
        raise ProblemError(
            f"--loss {given} differs from the loss of task {task.name!r}, {task.loss}; leave --loss out to plan with "
            "that, or leave out --task and what looks at its data"
        )
    return task.loss, dict(task.loss_attrs)


def trained_loss(given: str | None, plan: Plan, task: Task, arena: bool = False) -> TrainSettings:
    """The task's settings with the loss to train with: the one that plan and task share, or what ``--loss`` names.

    Raises:
        ProblemError: they differ, and none is named.
    """
    o, start = plan.problem.options, task.settings
    here, there = _whole(o.loss, o.loss_attrs), _whole(start.loss, start.loss_attrs)
    if given is not None:
        if arena and given != o.loss:
            raise ProblemError(f"--loss {given}: the plan is for {o.loss}, and the arena follows the plan; plan anew")
        known = {start.loss: start.loss_attrs, o.loss: o.loss_attrs}
        return replace(start, loss=given, loss_attrs=dict(known.get(given, {})))
    if here != there:
        raise ProblemError(
            f"the plan's loss, {_told(*here)}, differs from that of task {task.name!r}, {_told(*there)}: plan anew "
            f"with --task, or say with --loss {o.loss} or --loss {start.loss} which one to train with"
        )
    return start


def _whole(kind: str, attrs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return kind, {**loss_def(kind).defaults, **attrs}


def _told(kind: str, attrs: Mapping[str, Any]) -> str:
    return kind + "".join(f" {name}={value:g}" for name, value in attrs.items())
