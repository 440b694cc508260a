"""A network that can be built is sound; every way to be unsound is refused by name."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import networkx as nx
import pytest

from sparseplan.errors import NetworkError
from sparseplan.network import Network, Op, Tensor, check_name, check_order


def diamond() -> Network:
    """image -> a -> (b, c) -> d, with a weight on b."""
    return Network(
        "diamond",
        (
            Tensor("image", (3, 4, 4), "input"),
            Tensor("a.out", (3, 4, 4)),
            Tensor("b.weight", (3, 3, 1, 1), "parameter"),
            Tensor("b.out", (3, 4, 4)),
            Tensor("c.out", (3, 4, 4)),
            Tensor("d.out", (3, 4, 4)),
        ),
        (
            Op("a", "relu", ("image",), "a.out"),
            Op("b", "conv2d", ("a.out",), "b.out", {"weight": "b.weight"}, {"out_channels": 3, "padding": (0, 0)}),
            Op("c", "relu", ("a.out",), "c.out"),
            Op("d", "add", ("b.out", "c.out"), "d.out"),
        ),
        ("d.out",),
    )


def test_views_agree() -> None:
    net = diamond()
    assert net.inputs == ("image",)
    assert net.parameters == ("b.weight",)
    assert net.tensor["b.weight"].elements == 9
    assert net.producer["c.out"] is net.op["c"]
    assert [op.name for op in net.consumers["a.out"]] == ["b", "c"]
    assert net.consumers["d.out"] == ()
    assert net.owner["b.weight"] == (net.op["b"], "weight")


def test_networkx_view() -> None:
    graph = diamond().to_networkx()
    assert sorted(graph.edges) == [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]
    assert nx.is_directed_acyclic_graph(graph)
    assert graph.edges["a", "b"]["tensor"].name == "a.out"
    assert graph.nodes["b"]["op"].kind == "conv2d"


def test_networks_are_values() -> None:
    net = diamond()
    assert net == diamond()
    assert hash(net) == hash(diamond())
    assert net.tensor  # a cached view must not get in the way of copies
    assert copy.deepcopy(net) == net
    assert pickle.loads(pickle.dumps(net)) == net
    with pytest.raises(FrozenInstanceError):
        net.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        net.op["b"].attrs["stride"] = 2  # type: ignore[index]


def with_op(name: str, /, **changes: Any) -> Callable[[], Network]:
    def build() -> Network:
        net = diamond()
        return replace(net, ops=tuple(replace(op, **changes) if op.name == name else op for op in net.ops))

    return build


def with_tensor(name: str, /, **changes: Any) -> Callable[[], Network]:
    def build() -> Network:
        net = diamond()
        return replace(net, tensors=tuple(replace(t, **changes) if t.name == name else t for t in net.tensors))

    return build


def with_fields(**changes: Any) -> Callable[[], Network]:
    return lambda: replace(diamond(), **changes)


def plus(*tensors: Tensor) -> Callable[[], Network]:
    return lambda: replace(diamond(), tensors=diamond().tensors + tensors)


UNSOUND: dict[str, tuple[Callable[[], Network], str]] = {
    "tensor twice": (with_tensor("c.out", name="b.out"), "tensor name 'b.out' is used twice"),
    "op twice": (with_op("c", name="b"), "op name 'b' is used twice"),
    "written twice": (with_op("c", output="b.out"), "op output 'b.out' is used twice"),
    "output twice": (with_fields(outputs=("d.out", "d.out")), "output 'd.out' is used twice"),
    "dangling input": (
        with_op("c", inputs=("a.outt",)),
        "op 'c' reads tensor 'a.outt', which does not exist; did you mean 'a.out'",
    ),
    "parameter as input": (with_op("c", inputs=("b.weight",)), "reads parameter 'b.weight' as an input; give it in"),
    "absent parameter": (with_op("b", params={"weight": "b.wait"}), "weight='b.wait' is not a parameter; did you mean"),
    "activation as parameter": (with_op("b", params={"weight": "c.out"}), "weight='c.out' is not a parameter"),
    "output absent": (with_op("d", output="e.out"), "writes 'e.out', which is not an activation"),
    "writes the input": (with_op("d", output="image"), "writes 'image', which is not an activation"),
    "self loop": (with_op("a", inputs=("a.out",)), "ops form a cycle: 'a' -> 'a'; a network must be acyclic"),
    "cycle": (with_op("a", inputs=("c.out",)), "ops form a cycle: 'a' -> 'c' -> 'a'"),
    "out of order": (
        lambda: replace(diamond(), ops=diamond().ops[::-1]),
        "ops are out of order: 'd' reads tensor 'b.out', which 'b' makes later; list 'b' before 'd'",
    ),
    "nobody makes it": (plus(Tensor("lost", (1,))), "no op makes tensor 'lost'"),
    "unused parameter": (plus(Tensor("w", (1,), "parameter")), "no op uses parameter 'w'; drop it"),
    "unused input": (plus(Tensor("depth", (1,), "input")), "no op uses input 'depth'; drop it"),
    "dead end": (with_fields(outputs=("b.out",)), "no op uses activation 'd.out'; list it in outputs"),
    "no ops": (with_fields(ops=()), "has no ops"),
    "no outputs": (with_fields(outputs=()), "has no outputs"),
    "output unknown": (with_fields(outputs=("d.oot",)), "output 'd.oot' is not an activation; did you mean"),
    "output is the input": (with_fields(outputs=("image",)), "output 'image' is not an activation"),
    "output not a name": (with_fields(outputs=(3,)), "output name=3 must be a string"),
    "empty network name": (with_fields(name=""), "network name='' must be a string"),
    "zero extent": (with_tensor("image", shape=(3, 0, 4)), "shape=(3, 0, 4) has an extent below 1"),
    "negative extent": (with_tensor("image", shape=(3, -4, 4)), "shape=(3, -4, 4) has an extent below 1"),
    "list for shape": (with_tensor("image", shape=[3, 4, 4]), "must be a tuple of at most 8 integers"),
    "float in shape": (with_tensor("image", shape=(3, 4.0, 4)), "must be a tuple of at most 8 integers"),
    "bool in shape": (with_tensor("image", shape=(True, 4)), "must be a tuple of at most 8 integers"),
    "too many axes": (with_tensor("image", shape=(1,) * 9), "must be a tuple of at most 8 integers"),
    "too many elements": (with_tensor("image", shape=(2**40, 2)), "over 2**40 elements"),
    "unknown role": (with_tensor("image", role="weight"), "role='weight' is not input, activation or parameter"),
    "unknown dtype": (with_tensor("image", dtype="fp23"), "dtype='fp23' is unknown; did you mean 'fp32'"),
    "int8 without scale": (with_tensor("image", dtype="int8"), "int8 needs a scale"),
    "scale without int8": (with_tensor("image", scale=0.1), "scale=0.1 with dtype=None"),
    "nan scale": (with_tensor("image", dtype="int8", scale=float("nan")), "scale=nan must be finite and positive"),
    "scale of text": (with_tensor("image", dtype="int8", scale="1"), "scale='1' must be finite and positive"),
    "nan attribute": (with_op("b", attrs={"slope": float("nan")}), "op 'b': slope=nan must be a finite number"),
    "nested attribute": (with_op("b", attrs={"padding": ((1,),)}), "op 'b': padding=((1,),) must be"),
    "line break in a name": (with_op("b", name="b\nc"), r"op name='b\nc' must be a string of 1 to 512 printable"),
    "surrogate in a name": (with_op("b", name="\ud800"), r"op name='\ud800' must be"),
    "name too long": (with_op("b", name="x" * 513), "must be a string of 1 to 512 printable"),
    "inputs as text": (with_op("b", inputs="a.out"), "inputs='a.out' must be a tuple of tensor names"),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_unsound_networks_are_refused_by_name(case: str) -> None:
    build, message = UNSOUND[case]
    with pytest.raises(NetworkError) as caught:
        build()
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_names_may_be_of_any_script() -> None:
    assert check_name("décodeur 0/шаг", "op") == "décodeur 0/шаг"


def ring(n: int) -> list[Op]:
    return [Op(f"op{i}", "relu", (f"t{(i - 1) % n}",), f"t{i}") for i in range(n)]


def test_long_cycles_are_found_quickly_and_told_shortly() -> None:
    start = time.perf_counter()
    with pytest.raises(NetworkError, match="ops form a cycle: 'op0' -> 'op1'") as caught:
        check_order("network 'ring'", ring(20_000), [])
    assert len(str(caught.value)) < 300
    assert time.perf_counter() - start < 60  # quadratic work takes minutes


def test_long_chains_in_reverse_are_refused_quickly() -> None:
    ops = [Op(f"op{i}", "relu", (f"t{i - 1}",), f"t{i}") for i in range(1, 20_000)]
    start = time.perf_counter()
    with pytest.raises(NetworkError, match="ops are out of order: 'op19999' reads tensor 't19998'"):
        check_order("network 'chain'", ops[::-1], ["t0"])
    assert time.perf_counter() - start < 60  # quadratic work takes minutes
