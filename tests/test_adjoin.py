"""Concats whose parts lie side by side: when they may, at which offsets, and when they have to be copied."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseplan.builder import NetworkBuilder
from sparseplan.layout import Composites
from sparseplan.network import Network
from sparseplan.ops import infos
from sparseplan.steps import TrainingOptions


def composites(network: Network, alignment: int = 1, batch: int = 1, concat: str = "adjoin") -> Composites:
    options = TrainingOptions(dtype="fp32", alignment=alignment, batch=batch, concat=concat)
    return Composites(network, infos(network), options)


def free(network: Network, name: str, **options: object) -> bool:
    return composites(network, **options).free(network.op[name])  # type: ignore[arg-type]


def joined(channels: list[int], axis: int = 0) -> Network:
    """Parts of 3 x 1 images (12 bytes a channel), joined along an axis."""
    net = NetworkBuilder("joined")
    image = net.input("image", (1, 3, 1))
    parts = [net.conv(image, c, 1, name=f"p{i}") for i, c in enumerate(channels)]
    return net.build(net.op("concat", parts, "cat", axis=axis))


def test_parts_lie_one_after_the_other() -> None:
    network = joined([1, 3, 2])
    assert composites(network, 4).groups() == ((("p0.out", 0), ("p1.out", 12), ("p2.out", 48)),)
    assert composites(network, 4, concat="split").groups() == ()
    assert free(network, "cat", concat="split")


@pytest.mark.parametrize(("channels", "possible"), [([2, 2, 1], True), ([2, 1, 2], False), ([1, 2, 2], False)])
def test_every_part_but_the_last_ends_at_the_alignment(channels: list[int], possible: bool) -> None:
    """At 8 bytes: two channels are 24 bytes, one is 12."""
    assert free(joined(channels), "cat", alignment=8) == possible


def test_what_is_copied() -> None:
    assert not free(joined([2, 2]), "cat", batch=2)
    assert not free(joined([2, 2], axis=1), "cat")
    assert not free(joined([2, 2], axis=1), "cat", concat="split")
    net = NetworkBuilder("same")
    a = net.conv(net.input("image", (1, 3, 1)), 2, 1, name="a")
    net.op("concat", [a, a], "cat")
    network = net.build("cat.out")
    for concat in ("adjoin", "split"):
        assert not free(network, "cat", concat=concat)


def test_a_tensor_has_one_neighbour_on_each_side() -> None:
    """(a, b) and (c, a) go together; then (b, a) cannot, nor can (c, d), where d would lie over a."""
    net = NetworkBuilder("several")
    image = net.input("image", (1, 3, 1))
    a, b, c, d = (net.conv(image, 2, 1, name=n) for n in "abcd")
    outs = [
        net.op("concat", pair, name)
        for name, pair in {"ab": [a, b], "ca": [c, a], "ba": [b, a], "cd": [c, d], "bd": [b, d]}.items()
    ]
    network = net.build(outs)
    assert {n: free(network, n) for n in ("ab", "ca", "ba", "cd", "bd")} == {
        "ab": True, "ca": True, "ba": False, "cd": False, "bd": True,
    }  # fmt: skip
    assert composites(network).groups() == ((("c.out", 0), ("a.out", 24), ("b.out", 48), ("d.out", 72)),)


@given(
    st.lists(st.integers(1, 3), min_size=3, max_size=5),
    st.lists(st.lists(st.integers(0, 4), min_size=2, max_size=3), min_size=1, max_size=4),
    st.sampled_from([1, 4, 8]),
)
def test_what_is_free_lies_as_it_says(sizes: list[int], groups: list[list[int]], alignment: int) -> None:
    """Whatever is joined with whatever: parts adjoin in order, aligned, and no two share a byte."""
    net = NetworkBuilder("any")
    image = net.input("image", (1, 3, 1))
    parts = [net.conv(image, c, 1, name=f"p{i}") for i, c in enumerate(sizes)]
    outs = [net.op("concat", [parts[i % len(parts)] for i in g], f"cat{n}") for n, g in enumerate(groups)]
    network = net.build([*outs, *parts])
    found = composites(network, alignment)
    at = {name: (k, offset) for k, group in enumerate(found.groups()) for name, offset in group}
    size = {f"p{i}.out": 12 * c for i, c in enumerate(sizes)}
    for k, group in enumerate(found.groups()):
        taken = sorted((offset, offset + size[name]) for name, offset in group)
        assert taken[0][0] == 0
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(taken))
        assert all(offset % alignment == 0 for _, offset in group), k
    for op in network.ops:
        if op.kind == "concat" and found.free(op):
            (group_, start), end = at[op.inputs[0]], at[op.inputs[0]][1]
            for t in op.inputs:
                assert at[t] == (group_, end)
                end += size[t]
            assert start >= 0
