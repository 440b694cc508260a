"""Properties that users run on networks of their own.

Strategies draw networks, devices, values and problems (``hypothesis`` shrinks what they draw);
theorems are plain functions over any network, problem or plan, which raise ``TheoremError`` with
the numbers of the counterexample; ``selftest`` runs all of them on one network.

Needs the extra ``testing``: ``pip install 'sparseplan[testing]'``.
"""

from __future__ import annotations

from sparseplan.errors import MissingExtraError

try:
    import hypothesis  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "sparseplan.testing needs hypothesis, which is not installed: pip install 'sparseplan[testing]'"
    ) from error

from sparseplan.testing.gradients import check_full_gradients, check_pruned_gradients
from sparseplan.testing.optima import (
    check_exact_at_least_greedy,
    check_exact_equals_brute_force,
    check_fewest_bytes,
    check_more_budget,
    check_must,
    check_renaming,
    check_same_seed,
    check_savings,
    renamed,
)
from sparseplan.testing.peers import Option, brute_force, count_update_sets, greedy, plan_of
from sparseplan.testing.rows import check_rows, check_rows_with_savings
from sparseplan.testing.selftest import SelftestReport, SelftestRow, selftest
from sparseplan.testing.several import joint_options, joint_problems, several_outputs
from sparseplan.testing.strategies import budgets, devices, networks, options, problems, trainable_networks, values
from sparseplan.testing.theorems import TheoremError, check_accepted, check_json, check_runs_within_budget, check_spec

__all__ = [
    "Option",
    "SelftestReport",
    "SelftestRow",
    "TheoremError",
    "brute_force",
    "budgets",
    "check_accepted",
    "check_exact_at_least_greedy",
    "check_exact_equals_brute_force",
    "check_fewest_bytes",
    "check_full_gradients",
    "check_json",
    "check_more_budget",
    "check_must",
    "check_pruned_gradients",
    "check_renaming",
    "check_rows",
    "check_rows_with_savings",
    "check_runs_within_budget",
    "check_same_seed",
    "check_savings",
    "check_spec",
    "count_update_sets",
    "devices",
    "greedy",
    "joint_options",
    "joint_problems",
    "networks",
    "options",
    "plan_of",
    "problems",
    "renamed",
    "selftest",
    "several_outputs",
    "trainable_networks",
    "values",
]
