"""Text of C code, and views that it reads by, without a compiler: literals read back, images in order, refusals."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseplan.errors import ExportError
from sparseplan.exporters.c.lowering import Hyper
from sparseplan.exporters.c.text import _comment, _image, _string, float_literal
from sparseplan.exporters.c.views import Part, Places, View
from sparseplan.plan import PlacedBuffer
from sparseplan.steps import Arg, Box, Span, Value


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_literal_is_the_float_that_it_stands_for(x: float) -> None:
    text = float_literal(x)
    assert re.fullmatch(r"-?[0-9]+(\.[0-9]*)?(e[-+]?[0-9]+)?f", text)
    assert "." in text or "e" in text  # 1f is no constant of C
    assert np.float32(text[:-1]).tobytes() == np.float32(x).tobytes()


def test_literals_at_the_ends() -> None:
    assert float_literal(0.1) == "0.1f"
    assert float(float_literal(16777217.0)[:-1]) == 16777216.0
    assert float_literal(1 / 3) == "0.33333334f"
    assert (float_literal(math.inf), float_literal(-math.inf)) == ("INFINITY", "-INFINITY")
    assert (float_literal(1e300), float_literal(-1e300)) == ("INFINITY", "-INFINITY")


@given(st.text(max_size=20))
def test_a_string_is_read_back(text: str) -> None:
    shown = _string(text)
    assert shown[0] == shown[-1] == '"'
    inner = shown[1:-1]
    assert re.fullmatch(r"(?:[ !#-\[\]-~]|\\[0-7]{3})*", inner)  # no quote, no lone backslash
    assert "?" not in inner  # ??/ would be a trigraph
    found = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), inner)
    assert found.encode("latin-1") == text.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("text", ["a */ b", "/* a", "*/*/", "/*/"])
def test_a_comment_cannot_end(text: str) -> None:
    assert "*/" not in _comment(text)
    assert "/*" not in _comment(text)


@given(st.binary(min_size=1, max_size=23))
def test_an_image_is_little_endian_words(data: bytes) -> None:
    words = [int(w, 16) for w in re.findall(r"0x([0-9a-f]+)", _image("image", data))]
    assert struct.pack(f"<{len(words)}I", *words)[: len(data)] == data


def buffer(value: str, lo: int, size: int, offset: int, level: str = "L2") -> PlacedBuffer:
    return PlacedBuffer(value, lo, size, 0, 1, level, offset)


def value(name: str, shape: tuple[int, ...], role: str = "activation", level: str = "L2") -> Value:
    return Value(name, role, shape, "fp32", 4 * math.prod(shape), name, False, level)  # type: ignore[arg-type]


def test_pieces_of_one_value_adjoin() -> None:
    v = {"a": value("a", (1, 4))}
    assert Places(v, [buffer("a", 0, 8, 16), buffer("a", 8, 8, 24)], 1).home("a", 4) == ("L2", 20)
    with pytest.raises(ExportError, match="buffers of 'a' are pieces of one value, but do not adjoin"):
        Places(v, [buffer("a", 0, 8, 16), buffer("a", 8, 8, 32)], 1)
    with pytest.raises(ExportError, match="'a' lies at level='L1'"):
        Places(v, [buffer("a", 0, 16, 0, "L1")], 1)
    with pytest.raises(ExportError, match="'b' has no buffer"):
        Places(v, [], 1).home("b")


def test_flash_is_not_written() -> None:
    places = Places({"w": value("w", (4,), "parameter", "flash")}, [buffer("w", 0, 16, 0, "flash")], 1)
    arg = Arg("param", (4,), "fp32", (Span("w", 0, 16),))
    assert places.read(arg).parts == (Part("flash", 0, 0, 4, 0, 1),)
    with pytest.raises(ExportError, match="'w' is written, but lies in flash"):
        places.written(arg, (4,))


def test_parts_of_an_image_are_whole_channels() -> None:
    """Two roots of 6 and 12 elements: one and two channels of 2 x 3; or 3 of 6 which break the second."""
    values = {"a": value("a", (1, 6)), "b": value("b", (1, 12)), "c": value("c", (1, 9))}
    places = Places(values, [buffer("a", 0, 24, 0), buffer("b", 0, 48, 24), buffer("c", 0, 36, 72)], 1)
    whole = Arg("x0", (1, 3, 2, 3), "fp32", (Span("a", 0, 24), Span("b", 0, 48)))
    assert places.read(whole, (2, 3)).parts == (Part("L2", 0, 0, 1, 0, 2), Part("L2", 24, 1, 3, 0, 2))
    broken = Arg("x0", (1, 3, 2, 3), "fp32", (Span("c", 0, 36), Span("c", 0, 36)))
    with pytest.raises(ExportError, match=r"image in parts \['c', 'c'\] that break its channels"):
        places.read(broken, (2, 3))
    large = replace(whole, shape=(1, 4, 2, 3))
    with pytest.raises(ExportError, match="is larger than its parts"):
        places.read(large, (2, 3))


def test_what_a_view_covers() -> None:
    rows = View(24, (4, 3), (Part("L2", 0, 0, 2, 1, 3),), "fp32")
    assert (rows.covered, rows.whole) == (12, False)
    assert View(24, (4, 3), (Part("L2", 0, 0, 2, 0, 4),), "fp32").whole
    by_row = Arg("x0", (1, 2, 4, 3), "fp32", (Span("a", 0, 96),), boxes=(Box((0, 2), (0, 4)),))
    image = Value("a", "activation", (1, 2, 4, 3), "fp32", 96, "a", layout="hcw")
    assert not Places({"a": image}, [buffer("a", 0, 96, 0)], 1).read(by_row).whole


@pytest.mark.parametrize(
    "given", [{"momentum": 1.0}, {"betas": (1.0, 0.9)}, {"betas": (0.9, 1.0)}, {"eps": 0.0}, {"weight_decay": -1e-9}]
)
def test_settings_at_their_edge(given: dict[str, float]) -> None:
    with pytest.raises(ExportError, match="must be a number at least"):
        Hyper(**given)  # type: ignore[arg-type]
    assert Hyper(momentum=0.0, betas=(0.0, 0.0)).floats("momentum") == (0.0, 0.0)
