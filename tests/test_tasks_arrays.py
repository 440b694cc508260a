"""Arrays from files of others: what is read equals NumPy's own reading, and nothing else ever escapes but DataError."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import sparseplan as sp
from sparseplan.errors import DataError
from sparseplan.npzfile import read_npy, read_npz
from sparseplan.tasks.arrays import number, text
from sparseplan.weights import read_weights

DTYPES = st.sampled_from(["<f4", "<f8", ">f4", "<i2", "|u1", "<i8", "|b1", "<U3"])


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(descr: str, shape: str, version: bytes = b"\x01\x00") -> bytes:
    body = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    body += b" " * (-(len(body) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + version + len(body).to_bytes(2, "little") + body


def message_of(call: Callable[[], object]) -> str:
    """The message of the DataError that a call raises, "" where it raises none."""
    try:
        call()
    except DataError as error:
        return str(error)
    return ""


@given(
    st.dictionaries(
        st.text("abcdefgh_", min_size=1, max_size=6),
        DTYPES.flatmap(lambda d: hnp.arrays(np.dtype(d), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))),
        max_size=3,
    ),
    st.booleans(),
    st.booleans(),
)
def test_reads_what_numpy_reads(arrays: dict[str, np.ndarray], packed: bool, fortran: bool) -> None:
    if fortran:
        arrays = {k: np.asfortranarray(a) for k, a in arrays.items()}
    file = io.BytesIO()
    # names such as "file" are NumPy's own arguments
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", npy_bytes(array))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.npz")
        path.write_bytes(file.getvalue())
        got = read_npz(path)
        with np.load(path, allow_pickle=False) as theirs:
            assert sorted(got) == sorted(theirs.files)
            for name, array in got.items():
                assert array.dtype == theirs[name].dtype
                np.testing.assert_array_equal(array, theirs[name])


@given(st.data())
def test_damage_is_told(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever bytes are changed, cut or added, the answer is arrays or one DataError of one line."""
    file = io.BytesIO()
    np.savez_compressed(file, x=np.arange(40.0), y=np.zeros((3, 2), np.uint8))
    raw = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    path = tmp_path_factory.mktemp("fuzz") / "a.npz"
    path.write_bytes(raw[:cut] if data.draw(st.booleans()) else raw)
    assert "\n" not in message_of(lambda: read_npz(path))


@given(st.binary(max_size=200))
def test_any_bytes_as_npy(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.npy"
    for start in (b"", b"\x93NUMPY\x01\x00", header("'<f4'", "(3,)")[:20]):
        path.write_bytes(start + tail)
        assert "\n" not in message_of(lambda: read_npy(path, "array 'a'"))


BOMB = header("'<f8'", "(1000000, 1000000)")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, r"array 'x' declares shape=\(1000000, 1000000\), 8,000,000,000,000 bytes; at most 1,073,741,824"),
        (header("'<f8'", "(100,)") + b"\0" * 80, r"declares shape=\(100,\), 800 bytes, but has 208; is it truncated"),
        (header("'<f8'", "(-4,)"), r"declares shape=\(-4,\); lengths cannot be negative"),
        (npy_bytes(np.array([{}])), "holds Python objects, which are never unpickled; save it as plain numbers"),
        (npy_bytes(np.zeros(3, [("a", "f4")])), "has dtype=.*; give numbers"),
        (npy_bytes(np.zeros(3, complex)), "has dtype=complex128; give numbers"),
        (header("'<f8'", "(1,)", b"\x09\x00") + b"\0" * 8, "array 'x' is of npy version 9.0; save it as 1.0 or 2.0"),
        (npy_bytes(np.zeros(3)) + b"more", "goes on after its 24 bytes; is it damaged"),
        (b"not an array", "cannot be read as an npz of plain arrays"),
    ],
)  # fmt: skip
def test_bad_arrays(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(DataError, match=message):
        read_npz(path)


def test_bad_files(tmp_path: Path) -> None:
    good = tmp_path / "good.npz"
    np.savez(good, x=np.zeros(100))
    cut = tmp_path / "cut.npz"
    cut.write_bytes(good.read_bytes()[:300])
    with pytest.raises(DataError, match=r"data '.*cut.npz' cannot be read as an npz of plain arrays: .*zip"):
        read_npz(cut)
    with pytest.raises(DataError, match=r"gone.npz' cannot be read .* No such file or directory"):
        read_npz(tmp_path / "gone.npz")
    with pytest.raises(DataError, match="unpacks to 928 bytes; at most 500 are read"):
        read_npz(good, limit=500)
    many = tmp_path / "many.npz"
    np.savez(many, **{f"a{i}": np.zeros(1) for i in range(300)})
    with pytest.raises(DataError, match="holds 300 arrays; at most 256"):
        read_npz(many)
    twice = tmp_path / "twice.npz"
    with zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("x.npy", npy_bytes(np.zeros(1)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", npy_bytes(np.ones(1)))
    with pytest.raises(DataError, match="array 'x' is there twice"):
        read_npz(twice)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array("80"), "fb='80' must be one number"),
        (np.zeros(2), r"fb=float64 of shape \(2,\) must be one number"),
        (np.array(np.nan), "fb=nan must be finite"),
    ],
)
def test_numbers(value: Any, message: str) -> None:
    assert number(np.array([[3.5]]), "fb") == 3.5
    with pytest.raises(DataError, match=message):
        number(value, "fb")


def test_texts() -> None:
    assert text(np.array("depth"), "kind") == "depth"
    with pytest.raises(DataError, match=r"kind of dtype=int64 and shape \(\) must be one text"):
        text(np.array(3), "kind")


@pytest.mark.parametrize("descr", ["'<f4'", "'<f8'", "'|u1'"])
@pytest.mark.parametrize("shape", ["(1099511627776,)", "(1048576, 1048576)", "(2000,)"])
def test_weights_that_declare_more_than_they_hold_allocate_nothing(tmp_path: Path, descr: str, shape: str) -> None:
    b = sp.NetworkBuilder("small")
    network = b.build(b.linear(b.input("x", (8,)), 4, name="fc"))
    path = tmp_path / "weights.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fc.weight.npy", header(descr, shape) + b"\0" * 8)
    with pytest.raises(
        DataError, match=r"weights '.*weights.npz': array 'fc.weight' declares shape=.* bytes"
    ) as caught:
        read_weights(path, network)
    assert "\n" not in str(caught.value)
