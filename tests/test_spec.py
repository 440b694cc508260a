"""A network's JSON spec: what is written is read back equal, and what is left out is inferred."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from spec_strategies import networks, tiny

from sparseplan.errors import NetworkError, OutputError
from sparseplan.importers.spec import MAX_OPS, from_dict, read_spec, to_dict, write_spec
from sparseplan.network import Network
from sparseplan.zoo import upydnet


def test_the_documented_spec_reads() -> None:
    net = from_dict(tiny())
    assert net.name == "tiny"
    assert {t.name: t.shape for t in net.tensors} == {
        "image": (3, 16, 16),
        "conv.weight": (8, 3, 3, 3),
        "conv.bias": (8,),
        "conv.out": (8, 16, 16),
        "act.out": (8, 16, 16),
    }
    assert net.inputs == ("image",)
    assert net.parameters == ("conv.weight", "conv.bias")
    assert dict(net.op["conv"].attrs) == {"out_channels": 8, "kernel": 3, "padding": 1}


def test_upydnet_round_trips_through_a_file(tmp_path: Path) -> None:
    net = upydnet()
    write_spec(net, tmp_path / "net.json")
    assert read_spec(tmp_path / "net.json") == net
    assert read_spec(str(tmp_path / "net.json")) == net
    assert read_spec(json.loads((tmp_path / "net.json").read_text())) == net
    write_spec(read_spec(tmp_path / "net.json"), tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "net.json").read_bytes()


@given(networks())
def test_round_trip(net: Network) -> None:
    data = json.loads(json.dumps(to_dict(net)))
    assert from_dict(data) == net
    assert to_dict(from_dict(data)) == data


@given(networks())
def test_shapes_and_roles_that_are_left_out_are_inferred(net: Network) -> None:
    data = to_dict(net)
    for row in data["tensors"]:
        if row["role"] != "input":
            del row["shape"], row["role"]
    assert from_dict(data) == net
    data["inputs"] = {row["name"]: row["shape"] for row in data.pop("tensors") if row.get("role") == "input"}
    again = from_dict(data)
    assert again.ops == net.ops
    assert set(again.tensors) == set(net.tensors)


def test_storage_types_are_kept() -> None:
    spec = tiny()
    spec["inputs"] = {"image": {"shape": [3, 16, 16], "dtype": "int8", "scale": 0.5}}
    spec["tensors"] = [{"name": "conv.weight", "dtype": "fp32"}]
    net = from_dict(spec)
    assert (net.tensor["image"].dtype, net.tensor["image"].scale) == ("int8", 0.5)
    assert (net.tensor["conv.weight"].dtype, net.tensor["conv.weight"].shape) == ("fp32", (8, 3, 3, 3))
    assert from_dict(to_dict(net)) == net


def test_tensors_that_are_not_listed_follow_those_that_are() -> None:
    spec = tiny() | {"tensors": [{"name": "conv.bias"}]}
    assert [t.name for t in from_dict(spec).tensors] == ["conv.bias", "image", "conv.weight", "conv.out", "act.out"]


def test_an_unwritable_spec_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        write_spec(upydnet(), tmp_path / "absent" / "net.json")
    assert list(tmp_path.iterdir()) == []


def edited(*path: str | int, to: Any) -> dict[str, Any]:
    """The tiny spec with the member at ``path`` set (``...`` deletes it)."""
    spec = tiny()
    at: Any = spec
    for step in path[:-1]:
        at = at[step]
    if to is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = to
    return spec


BAD: dict[str, tuple[Any, str]] = {
    "a list": ([], "network spec: [] must be an object"),
    "nothing": (None, "network spec: None must be an object"),
    "a plan": (edited("sparseplan", to="plan"), "key 'sparseplan' is 'plan', not 'network'"),
    "no kind of file": (edited("sparseplan", to=...), "key 'sparseplan' is None, not 'network'"),
    "no version": (edited("version", to=...), "key 'version' is missing; give it"),
    "newer": (edited("version", to=2), "version=2 is newer than this sparseplan reads (up to 1); update sparseplan"),
    "version true": (edited("version", to=True), "version=True must be an integer"),
    "unknown key": (edited("otputs", to=[]), "key 'otputs' is unknown; did you mean 'outputs'"),
    "unknown key of an op": (edited("ops", 1, "input", to=[]), "ops[1]: key 'input' is unknown; did you mean 'inputs'"),
    "no name": (edited("name", to=3), "name=3 must be a string"),
    "no ops": (edited("ops", to=[]), "has no ops"),
    "ops an object": (edited("ops", to={}), "ops={} must be a list"),
    "an op of text": (edited("ops", 0, to="conv"), "ops[0]='conv' must be an object"),
    "no kind": (edited("ops", 0, "kind", to=...), "ops[0]: key 'kind' is missing"),
    "unknown kind": (edited("ops", 0, "kind", to="covn"), "ops[0].kind='covn'"),
    "near kind": (edited("ops", 0, "kind", to="covn"), "did you mean 'conv'"),
    "negative stride": (edited("ops", 0, "attrs", "stride", to=-1), "ops[0].attrs.stride=-1 must be at least 1"),
    "zero kernel": (edited("ops", 0, "attrs", "kernel", to=0), "ops[0].attrs.kernel=0 must be at least 1"),
    "unknown attribute": (edited("ops", 0, "attrs", "strde", to=1), "ops[0].attrs: attribute 'strde' is unknown"),
    "attribute null": (edited("ops", 0, "attrs", "stride", to=None), "ops[0].attrs['stride']=None must be a number"),
    "attribute nan": (edited("ops", 0, "attrs", "stride", to=float("nan")), "must be a finite number"),
    "attribute deep": (edited("ops", 0, "attrs", "stride", to=[[1]]), "attrs['stride'][0]=[1] must be an integer"),
    "attribute missing": (edited("ops", 0, "attrs", to={}), "is missing; give it"),
    "slots twice": (edited("ops", 0, "params", to=["weight", "weight"]), "names a slot twice"),
    "slot unknown": (edited("ops", 0, "params", to=["weight", "bais"]), "parameter slot 'bais' is unknown to conv"),
    "weight missing": (edited("ops", 0, "params", to=[]), "parameter 'weight' of shape (8, 3, 3, 3) is missing"),
    "too many inputs": (edited("ops", 0, "inputs", to=["image"] * 3), "inputs=['image', 'image', 'image']: conv"),
    "no inputs": (edited("ops", 0, "inputs", to=[]), "ops[0] 'conv' (conv): inputs=[]: conv takes 1"),
    "dangling input": (edited("ops", 0, "inputs", to=["imag"]), "op 'conv' reads tensor 'imag', which no op makes"),
    "cycle": (edited("ops", 0, "inputs", to=["act.out"]), "ops form a cycle: 'conv' -> 'act' -> 'conv'"),
    "out of order": (edited("ops", to=tiny()["ops"][::-1]), "list 'conv' before 'act'"),
    "duplicate op": (edited("ops", to=[*tiny()["ops"], tiny()["ops"][1]]), "op name 'act' is used twice"),
    "zero extent": (edited("inputs", "image", to=[3, 0, 16]), "inputs['image'][1]=0 must be 1 or more"),
    "negative extent": (edited("inputs", "image", to=[3, -16, 16]), "inputs['image'][1]=-16 must be 1 or more"),
    "fraction": (edited("inputs", "image", to=[3, 1.5, 16]), "inputs['image'][1]=1.5 must be an integer"),
    "wrong rank": (edited("inputs", "image", to=[3]), "ops[0] 'conv' (conv): "),
    "too small": (edited("inputs", "image", to=[3, 1, 1]) | {"ops": [{**tiny()["ops"][0], "attrs": {
        "out_channels": 8, "kernel": 7}}], "outputs": ["conv.out"]}, "are too small: the output would have shape"),
    "huge": (edited("inputs", "image", to=[2**40, 2, 2]), "over 2**40 elements"),
    "shape of text": (edited("inputs", "image", to="3x16x16"), "inputs['image']='3x16x16' must be an object"),
    "input without shape": (edited("inputs", "image", to={}), "inputs['image']: key 'shape' is missing"),
    "unknown dtype": (edited("inputs", "image", to={"shape": [3, 8, 8], "dtype": "bf1"}), "did you mean 'bf16'"),
    "unknown output": (edited("outputs", to=["act"]), "output 'act' is not an activation"),
    "no outputs": (edited("outputs", to=[]), "has no outputs"),
    "output a number": (edited("outputs", to=[1]), "outputs[0]=1 must be a string"),
    "tensor twice": (edited("tensors", to=[{"name": "conv.out"}, {"name": "conv.out"}]), "tensors[1].name='conv.out'"),
    "input twice": (edited("tensors", to=[{"name": "image", "role": "input", "shape": [3, 16, 16]}]), "keep one"),
    "loose tensor": (edited("tensors", to=[{"name": "lost", "shape": [1]}]), "give it the role 'input' or drop it"),
    "input lacks shape": (edited("tensors", to=[{"name": "x", "role": "input"}]), "is an input and lacks its shape"),
    "unknown role": (edited("tensors", to=[{"name": "conv.out", "role": "activatoin"}]), "did you mean 'activation'"),
    "wrong role": (edited("tensors", to=[{"name": "conv.out", "role": "parameter"}]), "which is not an activation"),
    "wrong shape": (edited("tensors", to=[{"name": "conv.weight", "shape": [8, 3, 3, 2]}]), "expected (8, 3, 3, 3)"),
    "wrong output shape": (edited("tensors", to=[{"name": "conv.out", "shape": [8, 9, 9]}]), "makes (8, 16, 16)"),
    "line break": (edited("ops", 0, "name", to="a\nb"), "do not print"),
    "lone surrogate": (edited("name", to="\ud800"), "do not print"),
    "long name": (edited("name", to="x" * 600), "must be a string of 1 to 512 printable characters"),
    "very long name": (edited("name", to="x" * 10**6), "is longer than 4096 characters"),
    "too many ops": (edited("ops", to=[tiny()["ops"][1]] * (MAX_OPS + 1)), "at most 20,000 are taken"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_specs_are_refused_by_path_and_value(case: str) -> None:
    spec, message = BAD[case]
    with pytest.raises(NetworkError) as caught:
        from_dict(spec)
    assert message in str(caught.value)
    assert str(caught.value).startswith("network spec: ")
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not JSON: Expecting value at line 1, column 1"),
    "cut off": (b'{"sparseplan": "netw', "is not JSON: Unterminated string"),
    "not UTF-8": (b'{"sparseplan": "\xff"}', "is not UTF-8 text (byte 16)"),
    "duplicate key": (b'{"version": 1, "version": 2}', "key 'version' appears twice in one object"),
    "NaN": (b'{"version": NaN}', "NaN is not JSON"),
    "infinity": (b'{"version": -Infinity}', "-Infinity is not JSON"),
    "overflow": (b'{"version": 1e999}', "number 1e999… is out of range"),
    "huge integer": (b'{"version": ' + b"9" * 100_000 + b"}", "is out of range; integers go to 2**53"),
    "huge decimal": (b'{"version": 0.' + b"9" * 100_000 + b"}", "is out of range"),
    "deep lists": (b"[" * 1_000_000, "is nested too deeply"),
    "deep objects": (b'{"a":' * 500_000 + b"1" + b"}" * 500_000, "is nested too deeply"),
    "too long": (b" " * (16 * 2**20 + 1), "is longer than 16,777,216 bytes"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_hostile_files_are_refused(tmp_path: Path, case: str) -> None:
    data, message = TEXTS[case]
    (tmp_path / "net.json").write_bytes(data)
    with pytest.raises(NetworkError) as caught:
        read_spec(tmp_path / "net.json")
    assert message in str(caught.value)
    assert "net.json" in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["absent.json", "", "a\0b", "x" * 5000, "."])
def test_unreadable_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(NetworkError, match="cannot be read"):
        read_spec(f"{tmp_path}/{name}")
