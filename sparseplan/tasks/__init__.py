"""Tasks by name: data, metrics, baselines, and how to train on them."""

from __future__ import annotations

from collections.abc import Callable

from sparseplan.errors import DataError, near
from sparseplan.tasks.base import Split, Task
from sparseplan.tasks.depth import depth_task

TASKS: dict[str, Callable[[], Task]] = {"depth": depth_task}


def get_task(name: str) -> Task:
    """The task called ``name`` in its default setting; raises DataError with near matches."""
    if name not in TASKS:
        raise DataError(f"task={name!r} is unknown{near(str(name), TASKS)}")
    return TASKS[name]()


__all__ = ["TASKS", "Split", "Task", "depth_task", "get_task"]
