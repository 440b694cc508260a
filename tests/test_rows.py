"""Literals of conditions are what the conditions say, both ways; of rows only what others imply is left out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortools.sat.python import cp_model

from sparseplan.autodiff import trace
from sparseplan.builder import NetworkBuilder
from sparseplan.solve.cpsat import Limits, solve
from sparseplan.solve.literals import Literals, Row
from sparseplan.solve.rows import frozen_row, undominated
from sparseplan.steps import TrainingOptions


def literals() -> tuple[cp_model.CpModel, Literals]:
    net = NetworkBuilder("three")
    t = net.input("image", (4, 3, 3))
    for i in range(3):
        t = net.conv(t, 4, 1, bias=False, name=f"c{i}")
    graph = trace(
        net.build(t), TrainingOptions(frozen="flash", alignment=1), {f"c{i}.weight": (1.0,) for i in range(3)}
    )
    model = cp_model.CpModel()
    return model, Literals(model, graph)


def both(model: cp_model.CpModel, literal: cp_model.IntVar, fixed: Sequence[tuple[cp_model.IntVar, int]]) -> set[int]:
    """The values that a literal may take, others being fixed."""
    found = set()
    for value in (0, 1):
        trial = model.clone()
        for v, n in fixed:
            trial.add(v == n)
        trial.add(literal == value)
        if solve(trial, Limits()).solved:
            found.add(value)
    return found


@pytest.mark.parametrize("mask", [0b011, 0b101, 0b111])
def test_a_mask_holds_where_any_of_its_atoms_does_and_nowhere_else(mask: int) -> None:
    model, known = literals()
    literal = known.mask(mask)
    assert not isinstance(literal, bool)
    for values in itertools.product((0, 1), repeat=3):
        wanted = int(any(v for i, v in enumerate(values) if mask >> i & 1))
        assert both(model, literal, [(known.atoms[1 << i], v) for i, v in enumerate(values)]) == {wanted}


def test_a_conjunction_holds_where_all_do_and_nowhere_else() -> None:
    model, known = literals()
    atoms = [known.atoms[1 << i] for i in range(3)]
    literal, negated = known.all(atoms), known.negation(atoms[0])
    assert not isinstance(literal, bool)
    assert not isinstance(negated, bool)
    for values in itertools.product((0, 1), repeat=3):
        fixed = list(zip(atoms, values, strict=True))
        assert both(model, literal, fixed) == {int(all(values))}
        assert both(model, negated, fixed) == {1 - values[0]}


def test_constants_are_seen_through() -> None:
    _, known = literals()
    atom = known.atoms[1]
    assert known.all([True, atom]) is atom
    assert known.all([False, atom]) is False
    assert known.either(atom, False) is atom
    assert known.either(atom, True) is True
    assert known.any([(1, None), (1, None)]) is atom


def test_frozen_parameters_take_their_alignment() -> None:
    """Three of 4 x 4 weights in bf16 (32 bytes), aligned to 64; those that are updated take nothing there."""
    net = NetworkBuilder("odd")
    t = net.conv(net.input("image", (3, 3, 3)), 3, 1, name="a")  # 18 and 6 bytes
    graph = trace(net.build(t), TrainingOptions(frozen="flash"), {"a.weight": (0.34, 1.0)})
    model = cp_model.CpModel()
    known = Literals(model, graph)
    row = frozen_row(graph, known, 16)
    assert row.constant == 32 + 16
    assert row.terms == {known.atoms[1].index: -32}


@given(st.lists(st.tuples(st.integers(0, 6), st.tuples(*[st.integers(0, 3)] * 3)), min_size=1, max_size=7))
def test_what_is_left_of_rows_has_the_same_most(rows: list[tuple[int, tuple[int, int, int]]]) -> None:
    """At any values of the literals; and no row that is left is implied by another."""
    full = [Row(constant, {i: n for i, n in enumerate(terms) if n}) for constant, terms in rows]
    kept = undominated(full)
    for values in itertools.product((0, 1), repeat=3):

        def most(rows: list[Row], values: tuple[int, ...] = values) -> int:
            return max(r.constant + sum(n * values[i] for i, n in r.terms.items()) for r in rows)

        assert most(kept) == most(full)
    assert not any(a.within(b) for a, b in itertools.permutations(kept, 2))


def test_a_larger_fraction_includes_the_smaller_ones() -> None:
    net = NetworkBuilder("levels")
    graph = trace(net.build(net.conv(net.input("x", (4, 3, 3)), 2, 1, name="a")), TrainingOptions(),
                  {"a.weight": (0.25, 0.5, 1.0)})  # fmt: skip
    model = cp_model.CpModel()
    known = Literals(model, graph)
    atoms = [known.atoms[bit] for bit in graph.levels["a.weight"].atoms]
    allowed = []
    for values in itertools.product((0, 1), repeat=3):
        trial = model.clone()
        for atom, value in zip(atoms, values, strict=True):
            trial.add(atom == value)
        if solve(trial, Limits()).solved:
            allowed.append(values)
    assert allowed == [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)]
