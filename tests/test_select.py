"""The 0/1 program is not at the mercy of its solver's preprocessing."""

from __future__ import annotations

import numpy as np
import pytest

import sparseplan as sp
from sparseplan.autodiff import trace
from sparseplan.solve import cpsat
from sparseplan.solve.cpsat import Limits, solve_in_order
from sparseplan.solve.select import SEARCH, VALUE_BITS, Program


@pytest.mark.parametrize("seed", range(3))
def test_optima_agree_without_presolve_and_with_other_relaxations(seed: int) -> None:
    """Measured values are floats of many magnitudes; their scaled integers once misled the presolve."""
    net = sp.zoo.upydnet()
    rng = np.random.default_rng(seed)
    values = {p: float(v) for p, v in zip(net.parameters, rng.lognormal(0, 2, 34), strict=True)}
    problem = sp.problem(net, "gap9", values=values)
    program = Program(problem, trace(net, problem.options, problem.choices), [])
    for capacity in rng.integers(547_028, 1_003_220, 6).tolist():
        model = program.model.clone()
        program.limit_bytes(model, capacity)
        goals = [("max", program.value), ("min", program.peak(model))]
        found = set()
        for changes in ({}, {"cp_model_presolve": False}, {"linearization_level": 1}):
            outcomes = solve_in_order(model, goals, Limits(60.0), parameters={**SEARCH, **changes})
            assert [o.status for o in outcomes] == ["OPTIMAL", "OPTIMAL"]
            found.add(tuple(o.objective for o in outcomes))
        assert len(found) == 1


def test_scaled_values_stay_small() -> None:
    problem = sp.problem("upydnet", "gap9", values={"*": 1 / 3})
    program = Program(problem, trace(problem.network, problem.options, problem.choices), [])
    assert program.scale * 34 / 3 < 2**VALUE_BITS
    assert 0 < program.resolution < 1e-6


def test_a_wrong_infeasible_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A solver that loses solutions in presolve is asked again without."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    x = model.new_bool_var("x")
    real = cpsat.solve

    def lossy(m: cp_model.CpModel, limits: Limits, **options: object) -> cpsat.Outcome:
        if dict(options.get("parameters") or {}).get("cp_model_presolve") is False:  # type: ignore[call-overload]
            return real(m, limits, **options)  # type: ignore[arg-type]
        return cpsat.Outcome("INFEASIBLE", None, None, (), 0.0, 0.0)

    monkeypatch.setattr(cpsat, "solve", lossy)
    (outcome,) = solve_in_order(model, [("max", x)], Limits())
    assert (outcome.status, outcome.objective) == ("OPTIMAL", 1)
