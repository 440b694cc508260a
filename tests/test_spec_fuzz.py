"""Whatever is in a spec file, the answer is a sound network or one clear error, and it comes quickly."""

from __future__ import annotations

import json
import time
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from spec_strategies import networks, tiny

from sparseplan import jsonio
from sparseplan.errors import NetworkError, SparseplanError
from sparseplan.importers.spec import from_dict, to_dict
from sparseplan.network import Network
from sparseplan.ops import OPS

#: one op of each kind, so that every family's checks of attributes and shapes are reached
KINDS: list[tuple[str, list[list[int]], dict[str, Any]]] = [
    ("conv", [[4, 8, 8]], {"out_channels": 4, "kernel": 3, "padding": 1, "groups": 2, "dilation": 2, "stride": 1}),
    ("conv_transpose", [[4, 8, 8]], {"out_channels": 4, "kernel": 2, "stride": 2, "output_padding": 1, "groups": 2}),
    ("linear", [[12]], {"out_features": 3}),
    ("leaky_relu", [[4, 8, 8]], {"slope": 0.125}),
    ("hardswish", [[4, 8, 8]], {}),
    ("add", [[4, 8, 8], [4, 8, 8]], {}),
    ("mul", [[4, 8, 8], [4, 8, 8]], {}),
    ("concat", [[4, 8, 8], [2, 8, 8]], {"axis": 0}),
    ("max_pool", [[4, 8, 8]], {"kernel": 2, "stride": 2, "padding": 0}),
    ("avg_pool", [[4, 8, 8]], {"kernel": 2, "padding": 0, "count_include_pad": True}),
    ("global_avg_pool", [[4, 8, 8]], {}),
    ("upsample", [[4, 8, 8]], {"scale": 2, "mode": "nearest"}),
    ("flatten", [[4, 8, 8]], {}),
    ("reshape", [[4, 8, 8]], {"shape": [4, 64]}),
    ("affine", [[4, 8, 8]], {}),
]


def one_op(kind: str, shapes: list[list[int]], attrs: dict[str, Any]) -> dict[str, Any]:
    names = [f"x{i}" for i in range(len(shapes))]
    slots = ["weight", "bias"] if kind in ("conv", "conv_transpose", "linear", "affine") else []
    return {
        "sparseplan": "network",
        "version": 1,
        "name": kind,
        "inputs": dict(zip(names, shapes, strict=True)),
        "ops": [{"name": "op", "kind": kind, "inputs": names, "params": slots, "attrs": attrs}],
        "outputs": ["op.out"],
    }


def test_the_kinds_that_are_fuzzed_exist() -> None:
    assert {kind for kind, _, _ in KINDS} <= OPS.keys()


def read(data: bytes) -> Network | None:
    """The network, or None after one clear error; anything else escapes and fails the test."""
    start = time.perf_counter()
    try:
        network: Network | None = from_dict(jsonio.parse(data, "network spec", NetworkError))
        message = "fine"
    except SparseplanError as error:
        network, message = None, str(error)
    assert time.perf_counter() - start < 60
    assert message
    assert "\n" not in message
    assert len(message) < 3000
    return network


numbers = st.one_of(
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.sampled_from([-(2**53), 2**53, 2**53 + 1, 2**40, 2**31, 10**400, 1e308, 5e-324, 0.0, -0.0]),
)
texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["", "x" * 600, "\ud800", "\0", "image", "x0", "op", "op.out", "conv", "weight", "stride", "int8"]),
)
leaves = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(leaves, lambda v: st.lists(v, max_size=4) | st.dictionaries(texts, v, max_size=3), max_leaves=6)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all members of plain data."""
    keys = range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
    return [path for k in keys for path in ((*at, k), *places(value[k], (*at, k)))]


def mutate(draw: st.DrawFn, spec: Any) -> None:
    """Replace, delete, repeat or rename one member."""
    paths = places(spec)
    if not paths:
        return
    *way, last = draw(st.sampled_from(paths))
    parent = spec
    for step in way:
        parent = parent[step]
    action = draw(st.sampled_from(["replace", "replace", "delete", "repeat", "rename", "transplant"]))
    if action == "replace":
        parent[last] = draw(values)
    elif action == "transplant":
        at = spec
        for step in draw(st.sampled_from(paths)):
            at = at[step]
        parent[last] = json.loads(json.dumps(at))
    elif action == "delete":
        del parent[last]
    elif isinstance(parent, list):
        parent.insert(draw(st.integers(0, len(parent))), parent[last])
    else:
        parent[draw(texts)] = parent.pop(last) if action == "rename" else parent[last]


specs = st.one_of(st.sampled_from(KINDS).map(lambda k: one_op(*k)), networks().map(to_dict), st.builds(tiny))


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A valid spec with a few members changed."""
    spec = json.loads(json.dumps(draw(specs)))
    for _ in range(draw(st.integers(1, 3))):
        mutate(draw, spec)
    return json.dumps(spec).encode()


@given(specs)
def test_the_specs_to_be_mutated_are_sound(spec: dict[str, Any]) -> None:
    assert to_dict(from_dict(spec))["ops"]


@given(broken())
def test_mutated_members(data: bytes) -> None:
    network = read(data)
    if network is not None:
        # what is accepted is sound: it is written and read back equal
        assert read(jsonio.dump(to_dict(network)).encode()) == network


@given(st.data(), st.sampled_from(KINDS))
def test_mutated_attributes_and_shapes(data: st.DataObject, kind: tuple[str, list[list[int]], dict[str, Any]]) -> None:
    spec = json.loads(json.dumps(one_op(*kind)))
    attrs, inputs = spec["ops"][0]["attrs"], spec["inputs"]
    hostile = st.one_of(numbers, st.lists(st.integers(-2, 9), max_size=5), leaves)
    for name in attrs:
        if data.draw(st.booleans()):
            attrs[name] = data.draw(hostile)
    for name in inputs:
        if data.draw(st.booleans()):
            inputs[name] = data.draw(st.lists(st.integers(1, 9) | st.sampled_from([2**20, 2**40]), max_size=9))
    network = read(json.dumps(spec).encode())
    if network is not None:
        assert read(jsonio.dump(to_dict(network)).encode()) == network


@given(st.data())
def test_mutated_bytes(data: st.DataObject) -> None:
    text = bytearray(json.dumps(data.draw(specs)).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(text) - 1, 0)))
        action = data.draw(st.sampled_from(["set", "cut", "insert", "truncate"]))
        if action == "set" and text:
            text[at] = data.draw(st.integers(0, 255))
        elif action == "cut":
            del text[at : at + data.draw(st.integers(1, 20))]
        elif action == "insert":
            text[at:at] = data.draw(
                st.sampled_from([b"[", b"{", b'"', b",", b"-", b"9" * 30, b"1e999", b"NaN", b"\\u0000"])
            )
        else:
            del text[at:]
    read(bytes(text))


@given(st.binary(max_size=200))
@example(b"\xef\xbb\xbf{}")
@example(b"\x00")
def test_any_bytes(data: bytes) -> None:
    read(data)


@given(values)
def test_any_json(value: Any) -> None:
    read(json.dumps(value).encode())


def test_a_wide_network_is_read_quickly() -> None:
    spec = tiny()
    spec["ops"] += [{"name": f"r{i}", "kind": "relu", "inputs": ["conv.out"]} for i in range(10_000)]
    spec["outputs"] += [f"r{i}.out" for i in range(10_000)]
    network = read(json.dumps(spec).encode())
    assert network is not None
    assert len(network.ops) == 10_002


def test_growth_without_bound_is_refused_at_once() -> None:
    spec = tiny()
    for i in range(5000):
        spec["ops"].append(
            {
                "name": f"up{i}",
                "kind": "upsample",
                "inputs": [f"up{i - 1}.out" if i else "act.out"],
                "attrs": {"scale": 2},
            }
        )
    spec["outputs"] = ["up4999.out"]
    assert read(json.dumps(spec).encode()) is None
