"""Whatever a plan file has become: it is not read, or ``verify`` rejects it, or it computes what the plan did, and what
it claims is so.

A few hundred random edits in ``make test``; ten thousand and more in the nightly profile (``make property``).
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from plan_edits import EDITS, Base, bases, edited, fate

from sparseplan.verify import verify

#: edits for each example of the profile at hand: 12 × 60 in ci, 12 × 2,000 in the nightly one
EDITS_AN_EXAMPLE = 12
#: edits are tried in so many tests, so that they spread over workers
SHARES = 6


@pytest.mark.parametrize("share", range(SHARES))
def test_random_edits_are_refused_or_do_no_harm(share: int) -> None:
    count = EDITS_AN_EXAMPLE * settings().max_examples
    fates: Counter[str] = Counter()
    for seed in range(share, count, SHARES):
        rng = random.Random(seed)
        base = rng.choice(bases())
        data, names = edited(base, rng)
        try:
            fates[fate(base, data)] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, plan {base.name!r}, edits {names}: {error}") from error
    assert fates["rejected"] > fates["accepted"] > 0, fates
    assert fates["unread"] > 0, fates


@pytest.mark.parametrize("base", bases(), ids=lambda b: b.name)
def test_the_plans_themselves_are_right(base: Base) -> None:
    assert base.report.passed
    assert fate(base, base.data) == "same"


@pytest.mark.parametrize("edit", dict.fromkeys(EDITS), ids=lambda e: e.__name__)
def test_every_edit_changes_something(edit: object) -> None:
    """An edit that applies nowhere would try nothing."""
    assert callable(edit)
    fates: Counter[str] = Counter()
    for seed in range(40):
        rng = random.Random(seed)
        base = bases()[seed % len(bases())]
        data = copy.deepcopy(base.data)
        if edit(data, rng):
            fates[fate(base, data)] += 1
    assert fates["rejected"] + fates["unread"] + fates["accepted"] > 5, fates


def test_steps_that_make_no_sense_are_found_under_a_cap_on_time() -> None:
    """What they take is not asked: there is no such pass."""
    plan = next(b.plan for b in bases() if b.plan.problem.max_seconds is not None)
    for i, step in enumerate(plan.steps):
        wrong = replace(step, target="y" if step.kind != "forward" else "x0")
        made = replace(plan, steps=(*plan.steps[:i], wrong, *plan.steps[i + 1 :]))
        if step.kind not in ("page_out", "page_in", "pack", "recompute"):
            assert verify(plan.problem, made), step.name
