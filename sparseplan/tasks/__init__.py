"""Tasks by name: data, metrics, baselines, and how to train on them."""

from __future__ import annotations

import os
from collections.abc import Callable

from sparseplan.tasks.base import Split, Task
from sparseplan.tasks.depth import depth_task
from sparseplan.tasks.digits import digits_task
from sparseplan.tasks.published import find_task, load_task

TASKS: dict[str, Callable[[], Task]] = {"depth": depth_task, "digits": digits_task}


def get_task(name: str | os.PathLike[str]) -> Task:
    """The task called ``name`` in its default setting, or the one in a file or folder.

    A name of ``TASKS`` wins. A path is what has a separator, ends in ``.npz`` or exists; it may end
    with options, as in ``folder?share=10&labels=tof-bilinear`` (see ``load_task``).

    Raises:
        DataError: an unknown name (with near matches), or malformed data.
        MissingExtraError: the task needs a package that is not installed.
    """
    return find_task(name, TASKS)


__all__ = ["TASKS", "Split", "Task", "depth_task", "digits_task", "get_task", "load_task"]
