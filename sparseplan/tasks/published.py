"""Tasks by name or by path: what ``--task`` takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from sparseplan.errors import DataError, near
from sparseplan.scalars import plain_arguments
from sparseplan.tasks.base import Task
from sparseplan.tasks.folders import folder_task
from sparseplan.tasks.npz import npz_task

_OPTIONS = ("labels", "share")


def is_path(name: str) -> bool:
    """Whether a task's name is that of a file or folder: it has a separator, ends in .npz, or is there."""
    plain = name.partition("?")[0]
    return os.sep in plain or "/" in plain or plain.endswith(".npz") or os.path.exists(plain)


@plain_arguments
def load_task(path: str | os.PathLike[str], labels: str | None = None, share: int | None = None) -> Task:
    """The task in an npz file or a folder; see `sparseplan.tasks.npz` and `sparseplan.tasks.folders`.

    Args:
        path: may end with the other arguments, for where there is only a text: ``folder?share=10``,
            ``folder?share=10&labels=tof-bilinear``.
        labels: how labels are made from a sensor's zones: ``tof-nearest`` (the default),
            ``tof-bilinear``; ``dense`` where there are such labels.
        share: percent of the training set, of folders that have a list for it.

    Raises:
        DataError: nothing there, an unknown layout or argument, malformed data.
    """
    plain, _, query = os.fspath(path).partition("?")
    for item in filter(None, query.split("&")):
        key, equals, value = item.partition("=")
        if key not in _OPTIONS or not equals:
            raise DataError(f"task {os.fspath(path)!r}: option {item!r} is unknown{near(key, _OPTIONS)}")
        if key == "labels":
            labels = value
        elif not value.isascii() or not value.isdigit() or len(value) > 3:
            raise DataError(f"task {os.fspath(path)!r}: share={value!r} must be a whole number of percent, 1 to 100")
        else:
            share = int(value)
    labels = "tof-nearest" if labels is None else labels
    if Path(plain).is_dir():
        return folder_task(plain, labels, share)
    if not Path(plain).exists():
        raise DataError(f"data {plain!r}: there is no such file or folder")
    if share is not None:
        raise DataError(f"share={share}: an npz has no shares of its training set; leave it out")
    return npz_task(plain, labels)


def find_task(name: str | os.PathLike[str], known: Mapping[str, Callable[[], Task]]) -> Task:
    """The task of that name among ``known``, or the one in the file or folder of that path.

    Raises:
        DataError: neither; with near matches among the names.
    """
    text = os.fspath(name)
    if text in known:
        return known[text]()
    if not isinstance(name, str) or is_path(text):
        return load_task(text)
    raise DataError(f"task={text!r} is unknown{near(text, known)}; or give a path to an npz or a folder")
