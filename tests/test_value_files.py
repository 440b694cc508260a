"""Value files come back as they were written; what is wrong with one is said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparseplan as sp
from sparseplan.errors import ProblemError
from sparseplan.jsonio import dump, parse
from sparseplan.problem import resolve_choices
from sparseplan.terms import Pair, Saturation
from sparseplan.value.valuefile import ValueTable, from_json, read_values, to_dict, write_values

NET = sp.zoo.upydnet()
CHOICES, _ = resolve_choices(NET, may=("decoder0.*",))
NUMBERS = st.floats(-1e100, 1e100)
FRACTIONS = st.floats(1e-6, 1.0)
NAMES = st.sampled_from(NET.parameters)
TABLES = st.dictionaries(NAMES, st.dictionaries(FRACTIONS, NUMBERS, min_size=1, max_size=4), max_size=5)
NEEDS = st.dictionaries(NAMES, FRACTIONS, min_size=1, max_size=3)
WEIGHTS = st.dictionaries(NAMES, st.dictionaries(FRACTIONS, st.floats(0, 9), min_size=1), min_size=1, max_size=3)
TERMS = st.one_of(
    st.builds(Pair, NEEDS, NEEDS, NUMBERS),
    st.builds(Saturation, WEIGHTS, st.sampled_from([((1.0, 2.0),), ((0.5, 1.0), (2.0, 1.5))])),
)
FACTS = st.dictionaries(
    st.text("abc_", min_size=1), st.one_of(st.integers(-9, 9), st.text("xyz "), st.booleans(), NUMBERS), max_size=3
)


@given(st.builds(ValueTable, st.sampled_from(["fisher", "measured"]), TABLES, FACTS, st.lists(TERMS).map(tuple)))
def test_files_come_back_as_they_were_written(table: ValueTable) -> None:
    assert from_json(parse(dump(to_dict(table)).encode(), "file", ProblemError), "file") == table


def good() -> dict[str, Any]:
    return {
        "sparseplan": "values",
        "version": 1,
        "measure": "fisher",
        "source": {"seed": 0},
        "values": {p: {repr(r): 1.0 for r in fractions} for p, fractions in CHOICES.items()},
        "terms": [{"pair": {"a": {"ups0.tconv.bias": 1.0}, "b": {"ups0.tconv.weight": 0.5}, "value": -1.0}}],
        "ties": [["decoder0.conv0.bias", "decoder0.conv0.weight"]],
    }


def test_a_written_file_is_read(tmp_path: Path) -> None:
    table = from_json(good(), "x")
    write_values(table, tmp_path / "v.json")
    assert read_values(tmp_path / "v.json", NET, CHOICES) == table
    assert table.values["decoder0.conv0.weight"] == dict.fromkeys((0.125, 0.25, 0.5, 1.0), 1.0)
    halves = good() | {"values": {"decoder0.conv0.weight": {"1/2": 3}}}
    assert from_json(halves, "x").values == {"decoder0.conv0.weight": {0.5: 3.0}}


def change(path: list[Any], value: Any) -> dict[str, Any]:
    root = good()
    at: Any = root
    for key in path[:-1]:
        at = at[key]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return root


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["sparseplan"], "plan", r"sparseplan='plan' is unknown"),
        (["version"], 2, r"version=2 is not known; this version reads 1"),
        (["version"], True, r"version=True must be an integer"),
        (["values"], None, r"key 'values' is missing"),
        (["vales"], 1, r"key 'vales' is unknown; did you mean 'values'"),
        (["values"], [1], r"values=\[1\] must be an object"),
        (["values", "decoder0.conv0.bias"], 3, r"values\['decoder0.conv0.bias'\]=3 must be an object"),
        (["values", "decoder0.conv0.bias"], {}, r"parameter 'decoder0.conv0.bias' has no value for any fraction"),
        (["values", "decoder0.conv0.bias", "1.0"], "many", r"\['1.0'\]='many' must be a finite number"),
        (["values", "decoder0.conv0.bias", "1.0"], 1e300, r"value of 'decoder0.conv0.bias' at fraction 1.0=1e\+300"),
        (["values", "decoder0.conv0.bias", "2"], 1.0, r"fraction '2' must be in \(0, 1\]"),
        (["values", "decoder0.conv0.bias", "1"], 1.0, r"gives fraction 1.0 twice"),
        (["values", "decoder0.conv0.bias"], None, r"parameter 'decoder0.conv0.bias' has no value; give one"),
        (["values", "decoder0.conv0.weight", "0.25"], None, r"has no value for fraction 0.25; given: \[0.125, 0.5, 1"),
        (["values", "decoder0.conv0.bais"], {"1.0": 1}, r"'decoder0.conv0.bais' is unknown; did you mean 'decoder0"),
        (["terms", 0, "pair", "value"], None, r"key 'value' is missing"),
        (["terms", 0, "pair", "a"], {}, r"terms\[0\]: pair: a names no parameter"),
        (["terms", 0, "pair", "a"], {"nobody": 1.0}, r"parameter 'nobody' is unknown"),
        (["terms", 0], {}, r"terms\[0\]=\{\} must hold one of pair and saturation"),
        (
            ["terms", 0],
            {"saturation": {"weights": {}, "points": [[1]]}},
            r"points\[0\]=\[1\] must be \[weight, worth\]",
        ),
        (["terms", 0], {"saturation": {"weights": {}, "points": [[1, 1]]}}, r"weights name no parameter"),
        (["ties", 0, 0], "nobody", r"parameter 'nobody' is unknown"),
        (["ties"], "encoder", r"ties='encoder' must be a list"),
        (["source", "seed"], [1], r"source\['seed'\]=\[1\] must be a finite number"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, path: list[Any], value: Any, message: str) -> None:
    file = tmp_path / "v.json"
    file.write_text(json.dumps(change(path, value)))
    with pytest.raises(ProblemError, match=message) as caught:
        read_values(file, NET, CHOICES)
    assert str(caught.value).count("v.json") == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sparseplan": NaN}', "null"])
def test_what_is_no_value_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "v.json").write_text(text)
    with pytest.raises(ProblemError, match=r"v\.json"):
        read_values(tmp_path / "v.json")
    with pytest.raises(ProblemError, match="cannot be read"):
        read_values(tmp_path / "absent.json")


def test_nan_is_refused_before_it_is_written() -> None:
    with pytest.raises(ProblemError, match=r"value of 'a' at fraction 1.0=nan must be a finite number"):
        ValueTable("fisher", {"a": {1.0: float("nan")}})
    with pytest.raises(ProblemError, match=r"source 'when'=\[\] must be text"):
        ValueTable("fisher", {}, {"when": []})  # type: ignore[dict-item]


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5, float("nan"), True])
def test_fractions_of_tables_are_within_one(fraction: float) -> None:
    with pytest.raises(ProblemError, match=r"fraction of 'a'=.* must be in \(0, 1\]"):
        ValueTable("m", {"a": {fraction: 1.0}})


@pytest.mark.parametrize("value", [1e300, -1e300, float("inf"), float("nan"), True])
def test_values_of_tables_are_numbers_of_a_size(value: float) -> None:
    with pytest.raises(ProblemError, match=r"value of 'a' at fraction 1\.0=.* must be a finite number"):
        ValueTable("m", {"a": {1.0: value}})


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_every_choice_has_a_value(fraction: float) -> None:
    p = "decoder0.conv0.weight"
    ValueTable("m", {p: {0.5: 1.0, 1.0: 2.0}}).check(NET, {p: (0.5, 1.0)})
    with pytest.raises(ProblemError, match=f"parameter '{p}' has no value for fraction {fraction}"):
        ValueTable("m", {p: {1.5 - fraction: 1.0}}).check(NET, {p: (fraction,)})
