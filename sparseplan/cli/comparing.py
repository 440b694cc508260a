"""Plans side by side."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from sparseplan import report
from sparseplan.cli.common import show
from sparseplan.errors import ProblemError
from sparseplan.plan import Plan
from sparseplan.planfile import read_plan


def named_plans(paths: Sequence[str]) -> dict[str, Plan]:
    """Plans of files by their shortest distinct names."""
    if twice := sorted({p for p in paths if paths.count(p) > 1}):
        raise ProblemError(f"plan {twice[0]!r} is given twice; give each file once")
    short = [os.path.splitext(os.path.basename(p))[0] for p in paths]
    names = [s if short.count(s) == 1 else p for s, p in zip(short, paths, strict=True)]
    return {name: read_plan(path) for name, path in zip(names, paths, strict=True)}


def told(plan: Plan, others: Mapping[str, Plan]) -> tuple[dict[str, Any], list[str]]:
    """The plan just made beside those of ``--compare``, as data and as paragraphs; nothing without."""
    if not others:
        return {}, []
    plans = {"this plan": plan, **others}
    return {"compare": report.compare_rows(plans)}, [report.compare_text(plans)]


def compare(args: argparse.Namespace) -> int:
    """Plan files side by side."""
    plans = named_plans(args.plans)
    show(args, report.compare_rows(plans), report.compare_text(plans))
    return 0
