"""Every fault of the mutation check still applies, exactly once, and leaves a source that compiles.

`make mutants` runs them; this keeps the list from rotting in between. What a fault names as its tests is there.
"""

from __future__ import annotations

import ast
import re

import pytest
from mutants.faults import PACKAGE, ROOT, Fault, FaultError, every

FAULTS = every()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.id)
def test_a_fault_applies_and_compiles(fault: Fault) -> None:
    source = PACKAGE / fault.file
    text = source.read_text(encoding="utf-8")
    mutated = fault.mutated(text)
    assert mutated != text
    if source.suffix == ".py":
        ast.parse(mutated)
    for name in fault.tests:
        if name.startswith("tests/"):
            path, *inner = name.split("::")
            assert (ROOT / path).exists(), f"{path} is not there"
            for part in inner:
                word = re.escape(part.split("[")[0])
                assert re.search(rf"^\s*(def|class) {word}\b", (ROOT / path).read_text(encoding="utf-8"), re.M), name


def test_the_list_spans_the_project() -> None:
    areas = {f.area for f in FAULTS}
    asked = {
        "solver",
        "liveness",
        "autodiff",
        "placing",
        "ops",
        "stripes",
        "costs",
        "files",
        "verifier",
        "c",
        "importers",
    }
    assert asked <= areas
    assert len(FAULTS) >= 120


def test_a_snippet_that_is_gone_is_named() -> None:
    fault = Fault("gone", "area", "liveness.py", "x = 1", "x = 2", ("tests/test_ordering.py",))
    with pytest.raises(FaultError, match=r"fault 'gone': its snippet occurs 0 times in sparseplan/liveness.py"):
        fault.mutated("y = 1")
    with pytest.raises(FaultError, match="occurs 2 times"):
        fault.mutated("x = 1\nx = 1")
    second = Fault("second", "area", "liveness.py", "x = 1", "x = 2", ("tests/test_ordering.py",), index=1)
    assert second.mutated("x = 1\nx = 1") == "x = 1\nx = 2"
    with pytest.raises(FaultError, match="index=1, but 1 occurrences"):
        second.mutated("x = 1")


def test_a_fault_that_says_nothing_is_refused() -> None:
    with pytest.raises(FaultError, match="differ"):
        Fault("same", "area", "liveness.py", "x", "x", ("tests/test_ordering.py",))
    with pytest.raises(FaultError, match="names no file"):
        Fault("none", "area", "liveness.py", "x", "y", ("-k", "all"))
