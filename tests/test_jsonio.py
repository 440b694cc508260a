"""Strict JSON: what parsers usually let through is refused, each check by itself and at its very edge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparseplan import jsonio
from sparseplan.errors import ProblemError
from sparseplan.jsonio import MAX_BYTES, MAX_INT, MAX_TEXT, Node, dump, load, parse


def read(text: str) -> Any:
    return parse(text.encode(), "file", ProblemError)


def refused(text: str, words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        read(text)


def node(value: Any) -> Node:
    return Node(value, "file", ProblemError, "x")


def test_duplicate_keys() -> None:
    refused('{"a": 1, "b": {"a": 1, "a": 1}}', "file: key 'a' appears twice in one object; keep one")
    assert read('{"a": 1, "b": {"a": 1}}') == {"a": 1, "b": {"a": 1}}


def test_integers_are_what_a_double_holds() -> None:
    assert read(f"[{MAX_INT}, {-MAX_INT}]") == [MAX_INT, -MAX_INT]
    refused(f"{MAX_INT + 1}", "out of range; integers go to 2\\*\\*53")
    refused(f"{-MAX_INT - 1}", "out of range")
    refused("1" * 30, "out of range")


@pytest.mark.parametrize("text", ["1e999", "-1e999", "NaN", "Infinity", "-Infinity", "0." + "1" * 500])
def test_numbers_are_finite(text: str) -> None:
    refused(text, "finite")


def test_nesting_has_an_end() -> None:
    refused("[" * 100_000, "nested too deeply")


def test_a_file_of_the_most_bytes_is_read_and_one_more_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonio, "MAX_BYTES", 10)
    path = tmp_path / "some.json"
    path.write_text('"12345678"')
    assert load(path, "file", ProblemError) == "12345678"
    # behind ten bytes, the first of which are a value by themselves
    path.write_text('"12345678" ')
    with pytest.raises(ProblemError, match="is longer than 10 bytes"):
        load(path, "file", ProblemError)
    assert MAX_BYTES == 16 * 2**20


def test_keys_are_known_and_all_there() -> None:
    assert node({"a": 1, "b": 2}).record(("a",), ("b",)).value == {"a": 1, "b": 2}
    with pytest.raises(ProblemError, match="file: x: key 'c' is unknown"):
        node({"a": 1, "c": 2}).record(("a",), ("b",))
    with pytest.raises(ProblemError, match="file: x: key 'a' is missing; give it"):
        node({"b": 2}).record(("a",), ("b",))
    with pytest.raises(ProblemError, match="must be an object"):
        node([1]).record(("a",))


@pytest.mark.parametrize("value", [True, False, 1.0, "1", None])
def test_what_is_no_integer(value: object) -> None:
    with pytest.raises(ProblemError, match="must be an integer"):
        node(value).integer()


def test_integers_within_their_range() -> None:
    assert [node(n).integer(2, 4) for n in (2, 3, 4)] == [2, 3, 4]
    with pytest.raises(ProblemError, match="x=1 must be 2 or more"):
        node(1).integer(2, 4)
    with pytest.raises(ProblemError, match="x=5 must be 4 or less"):
        node(5).integer(2, 4)
    with pytest.raises(ProblemError, match="x=-1 must be 0 or more"):
        node(-1).integer()


@pytest.mark.parametrize("value", [True, "1", None, float("inf"), float("nan")])
def test_what_is_no_number(value: object) -> None:
    with pytest.raises(ProblemError, match="must be a finite number"):
        node(value).number()
    assert node(2).number() == 2.0


def test_lists_and_objects_have_a_most() -> None:
    assert len(node([1, 2]).entries(2)) == 2
    assert len(list(node({"a": 1, "b": 2}).members(2))) == 2
    for wrong in (lambda: node([1, 2, 3]).entries(2), lambda: list(node({"a": 1, "b": 2, "c": 3}).members(2))):
        with pytest.raises(ProblemError, match="has 3 entries; at most 2 are taken"):
            wrong()
    with pytest.raises(ProblemError, match="must be a list of two"):
        node([1]).pair()


def test_text_prints_and_has_an_end() -> None:
    assert node("a" * MAX_TEXT).text() == "a" * MAX_TEXT
    with pytest.raises(ProblemError, match="longer than 4096 characters"):
        node("a" * (MAX_TEXT + 1)).text()
    for text in ("a\nb", "\x1b[31m", "a\u202eb"):
        with pytest.raises(ProblemError, match="do not print"):
            node(text).text()
    with pytest.raises(ProblemError, match="must be a string"):
        node(1).text()


def test_what_is_written_is_read() -> None:
    value = {"a": [1, 2.5, None, True], "b": {"c": [[1, 2], [3]]}, "d": [], "e": {}, "f": "ü"}
    assert read(dump(value)) == value
    assert '"a": [1, 2.5, null, true]' in dump(value)
