"""Terms of value: what they are worth by definition, how they refuse nonsense, and that they survive JSON."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseplan.errors import PlanError, ProblemError
from sparseplan.jsonio import Node, dump, parse
from sparseplan.problem import Pair, Saturation
from sparseplan.terms import Term, term_from_node, term_to_dict

CURVE = ((1.0, 3.0), (2.0, 4.0), (4.0, 4.5))
BEND = Saturation({"a": {0.5: 1.0, 1.0: 2.0}, "b": {1.0: 1.5}}, CURVE)


@pytest.mark.parametrize(
    ("a", "b", "value", "message"),
    [
        ({}, {"b": 1.0}, 1.0, "pair: a names no parameter; name at least one"),
        ({"a": 1.0}, {}, 1.0, "pair: b names no parameter; name at least one"),
        ({"a": 0.0}, {"b": 1.0}, 1.0, r"pair: fraction of 'a'=0.0 must be in \(0, 1\]"),
        ({"a": 1.0}, {"b": 1.5}, 1.0, r"pair: fraction of 'b'=1.5 must be in \(0, 1\]"),
        ({"a": True}, {"b": 1.0}, 1.0, r"pair: fraction of 'a'=True must be in \(0, 1\]"),
        ({"a": 1.0}, {"b": 1.0}, float("nan"), "pair: value=nan must be a finite number"),
        ({"a": 1.0}, {"b": 1.0}, "3", "pair: value='3' must be a finite number"),
    ],
)
def test_a_pair_refuses(a: dict[str, float], b: dict[str, float], value: Any, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        Pair(a, b, value)


@pytest.mark.parametrize(
    ("weights", "points", "message"),
    [
        ({}, CURVE, "saturation: weights name no parameter; name at least one"),
        ({"a": {2.0: 1.0}}, CURVE, r"saturation: fraction of 'a'=2.0 must be in \(0, 1\]"),
        ({"a": {1.0: -1.0}}, CURVE, "saturation: weight of 'a' at fraction 1.0=-1.0 must be a number, at least 0"),
        ({"a": {1.0: 1.0}}, (), r"saturation: points=\(\) must hold at least one \(weight, worth\)"),
        ({"a": {1.0: 1.0}}, ((0.0, 1.0),), "must ascend from .0, 0. in weight, and not fall in worth"),
        ({"a": {1.0: 1.0}}, ((1.0, 2.0), (2.0, 1.0)), "must ascend from .0, 0. in weight, and not fall in worth"),
        ({"a": {1.0: 1.0}}, ((1.0, float("nan")),), "must ascend from .0, 0. in weight"),
        ({"a": {1.0: 1.0}}, ((1.0, 1.0), (2.0, 3.0)), r"must be concave \(slopes never rise\): \[1.0, 2.0\]"),
    ],
)
def test_a_saturation_refuses(weights: dict[str, dict[float, float]], points: Any, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        Saturation(weights, points)


updates = st.dictionaries(st.sampled_from("abc"), st.sampled_from([0.25, 0.5, 1.0]))
parts = st.dictionaries(st.sampled_from("abc"), st.sampled_from([0.1, 0.5, 0.75]), min_size=1)


@given(a=parts, b=parts, value=st.floats(-5, 5), update=updates)
def test_a_pair_is_worth_its_value_where_both_are_updated(
    a: dict[str, float], b: dict[str, float], value: float, update: dict[str, float]
) -> None:
    complete = True
    for part in (a, b):
        for p, r in part.items():
            complete = complete and p in update and update[p] >= r
    assert Pair(a, b, value).worth(update) == (value if complete else 0.0)
    assert Pair(a, b, value).most() >= Pair(a, b, value).worth(update)


@pytest.mark.parametrize(
    ("update", "worth"),
    [({}, 0.0), ({"c": 1.0}, 0.0), ({"a": 0.5}, 3.0), ({"b": 1.0}, 3.5), ({"a": 1.0}, 4.0),
     ({"a": 0.5, "b": 1.0}, 4.125), ({"a": 1.0, "b": 1.0}, 4.375)],
)  # fmt: skip
def test_a_saturation_is_read_off_its_curve(update: dict[str, float], worth: float) -> None:
    assert BEND.worth(update) == worth


@given(st.lists(st.tuples(st.floats(0.1, 5), st.floats(0, 5)), min_size=1, max_size=5), st.floats(0, 40))
def test_lines_have_the_curve_as_their_minimum(steps: list[tuple[float, float]], s: float) -> None:
    """Linear between corners and flat behind, for any concave curve: steps by falling slope."""
    xs, ys = [0.0], [0.0]
    for width, slope in sorted(steps, key=lambda step: -step[1]):
        xs.append(xs[-1] + width)
        ys.append(ys[-1] + width * slope)
    term = Saturation({"a": {1.0: s}}, tuple(zip(xs[1:], ys[1:], strict=True)))
    expected = ys[-1]
    for i in range(1, len(xs)):
        if s <= xs[i]:
            expected = ys[i - 1] + (ys[i] - ys[i - 1]) * (s - xs[i - 1]) / (xs[i] - xs[i - 1])
            break
    assert term.worth({"a": 1.0}) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert term.most() == ys[-1]


@pytest.mark.parametrize("term", [Pair({"a": 1.0}, {"b": 0.5}, -2.0), BEND], ids=["pair", "saturation"])
def test_terms_survive_pickling_and_json(term: Term) -> None:
    assert pickle.loads(pickle.dumps(term)) == term
    data = parse(dump(term_to_dict(term)).encode(), "term", PlanError)
    assert term_from_node(Node(data, "term", PlanError)) == term


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"term: terms\[0\]=\[\] must be an object"),
        ({"kind": "pair"}, r"terms\[0\]: key 'kind' is unknown"),
        ({}, r"terms\[0\]=\{\} must hold one of pair and saturation"),
        ({"pair": {}, "saturation": {}}, "must hold one of pair and saturation"),
        ({"pair": {"a": {"x": 1}, "b": {"y": 1}}}, r"terms\[0\].pair: key 'value' is missing"),
        ({"pair": {"a": {"x": 2}, "b": {"y": 1}, "value": 1}}, r"terms\[0\]: pair: fraction of 'x'=2.0 must be in"),
        ({"pair": {"a": {"x": "1"}, "b": {"y": 1}, "value": 1}}, r"terms\[0\].pair.a\['x'\]='1' must be a finite"),
        ({"saturation": {"weights": {"x": [[1, 1]]}, "points": [[1, 1]]}}, r"weights\['x'\]=\[\[1, 1\]\] must be an"),
        ({"saturation": {"weights": {"x": {"2/1": 1}}, "points": [[1, 1]]}}, r"\['x'\]: fraction '2/1' must be in"),
        ({"saturation": {"weights": {"x": {"1/0": 1}}, "points": [[1, 1]]}}, r"\['x'\]: fraction '1/0' must be in"),
        ({"saturation": {"weights": {"x": {"0.5": 1, "1/2": 1}}, "points": [[1, 1]]}}, "gives fraction 0.5 twice"),
        ({"saturation": {"weights": {"x": {"1": 1}}, "points": [[1]]}}, r"points\[0\]=\[1\] must be \[weight, worth\]"),
        ({"saturation": {"weights": {"x": {"1": 1}}, "points": [[1, 2], [2, 1]]}}, "not fall in worth"),
    ],
)
def test_malformed_terms_are_named(data: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        term_from_node(Node(data, "term", PlanError, "terms[0]"))
    assert "\n" not in str(caught.value)
