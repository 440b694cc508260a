"""Rows of stripes by hand: how an image is divided, what a stripe makes for several readers, what groups there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.errors import ProblemError
from sparseplan.network import Network
from sparseplan.run.runner import random_data
from sparseplan.run.trainer import predict
from sparseplan.stripegroups import _Search, candidates
from sparseplan.stripes import Lowered, Stripes, even, lower, of_height
from sparseplan.verify.findings import Findings
from sparseplan.verify.stripes import check_lowered


def same(lowered: Lowered) -> None:
    findings = Findings()
    check_lowered(lowered.original, lowered.network, lowered.origin, findings)
    assert findings.all() == ()
    parameters = init_parameters(lowered.original, 1)
    x, _ = random_data(lowered.original, "mse", 2, 1)
    got, wanted = (predict(n, parameters, x) for n in (lowered.network, lowered.original))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("height", range(1, 9))
def test_an_image_is_divided_into_all_of_its_rows(height: int) -> None:
    for n in range(1, 10):
        stripes = of_height(height, n)
        assert [hi - lo for lo, hi in stripes[:-1]] == [n] * (len(stripes) - 1)
        assert [row for lo, hi in stripes for row in range(lo, hi)] == list(range(height))
    for n in range(1, height + 1):
        stripes = even(height, n)
        assert len(stripes) == n
        assert [row for lo, hi in stripes for row in range(lo, hi)] == list(range(height))
        assert max(hi - lo for lo, hi in stripes) - min(hi - lo for lo, hi in stripes) <= 1
    with pytest.raises(ProblemError):
        even(height, height + 1)
    with pytest.raises(ProblemError):
        of_height(height, 0)


@pytest.mark.parametrize("rows", [((0, 2), (3, 4)), ((1, 4),), ((0, 2), (1, 4)), ((0, 0), (0, 4)), ((2, 4), (0, 2))])
def test_stripes_adjoin(rows: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ProblemError, match="must be ranges from 0 on that adjoin, none empty"):
        Stripes(("a",), rows)


def forked(wide: dict[str, object], narrow: dict[str, object]) -> Network:
    """a, read by two convolutions whose sum is the output."""
    net = NetworkBuilder("forked")
    a = net.conv(net.input("image", (2, 12, 3)), 2, 1, name="a")
    ends = [net.op("conv", a, name, kernel=k, out_channels=2, padding=p) for name, (k, p) in
            {"wide": wide.values(), "narrow": narrow.values()}.items()]  # fmt: skip
    return net.build(net.add(ends, name="sum"))


def test_of_several_readers_a_stripe_makes_the_hull() -> None:
    """The first reader in order of rows is the one that needs most: the last row of the hull is still its."""
    network = forked({"kernel": (5, 1), "padding": (2, 0, 2, 0)}, {"kernel": 1, "padding": 0})
    lowered = lower(network, [Stripes(("a", "wide", "narrow", "sum"), even(12, 3))])
    assert [o.rows for o in lowered.origin.values() if o.op == "a"] == [(0, 6), (2, 10), (6, 12)]
    same(lowered)


def apart(shift: int) -> Network:
    """Two readers of 8 rows, of which one sees them that many rows later."""
    net = NetworkBuilder("apart")
    a = net.conv(net.input("image", (2, 8, 3)), 2, 1, name="a")
    up = net.op("conv", a, "up", kernel=1, out_channels=2, padding=(shift, 0, 0, 0))
    down = net.op("conv", a, "down", kernel=1, out_channels=2, padding=(0, 0, shift, 0))
    return net.build(net.add([up, down], name="sum"))


def test_rows_that_no_reader_needs_are_not_made() -> None:
    """Of stripes of two readers that lie further apart than they read, rows between are nobody's."""
    ops = ("a", "up", "down", "sum")
    same(lower(apart(2), [Stripes(ops, ((0, 5), (5, 10)))]))
    # rows [6, 9) need [2, 5) and [6, 8)
    with pytest.raises(ProblemError, match=r"rows \[5, 6\) of 'a.out' lie between what its readers need"):
        lower(apart(4), [Stripes(ops, ((0, 6), (6, 9), (9, 12)))])


def test_what_a_copy_of_an_earlier_group_reads_is_seen() -> None:
    """c reads b alone in the original; in the first group a copy of c does, so that the second must join b's rows."""
    net = NetworkBuilder("copied")
    b = net.conv(net.input("image", (2, 8, 3)), 2, 3, padding=1, name="b")
    c = net.relu(b, name="c")
    d = net.conv(c, 2, 3, padding=1, name="d")
    e = net.conv(c, 2, 3, padding=1, name="e")
    network = net.build(net.add([d, e], name="sum"))
    lowered = lower(network, [Stripes(("d",), even(8, 2), ("c",)), Stripes(("b", "c"), even(8, 4))])
    assert "b.out" in lowered.network.tensor
    same(lowered)


def test_shares_of_another_height() -> None:
    """A group that makes 5 rows and 10: whatever the stripes, each row is made in one of them."""
    net = NetworkBuilder("heights")
    a = net.conv(net.input("image", (2, 10, 3)), 2, 3, padding=1, name="a")
    low = net.op("avg_pool", a, "low", kernel=(2, 1))
    side = net.relu(low, name="side")
    up = net.op("upsample", side, "up", scale=(2, 1))
    network = net.build([net.add([a, up], name="sum"), low])
    for count in range(1, 6):
        lowered = lower(network, [Stripes(("a", "low", "side", "up", "sum"), even(10, count))])
        made = sorted(o.rows for o in lowered.origin.values() if o.op == "low")
        assert made[0][0] == 0
        assert made[-1][1] == 5
        same(lowered)


def test_groups_save_a_tensor_that_stays_inside() -> None:
    """b is read outside as well, so that (a, b) saves a's output alone, and (b,) nothing."""
    net = NetworkBuilder("outside")
    a = net.conv(net.input("image", (2, 8, 3)), 2, 3, padding=1, name="a")
    b = net.relu(a, name="b")
    c = net.conv(b, 2, 3, padding=1, name="c")
    network = net.build(net.op("softmax", net.add([b, c], name="sum"), "soft", axis=0))
    search = _Search(network, network.outputs)
    assert search.saves(("a", "b"))
    assert not search.saves(("a",))
    assert not search.saves(("b",))
    assert not search.saves(("b", "c"))
    assert search.saves(("b", "c", "sum"))


def test_parts_are_convex() -> None:
    """A path that leaves and comes back begins another part: none is there twice, and each can be lowered."""
    net = NetworkBuilder("back")
    a = net.conv(net.input("image", (2, 8, 3)), 2, 3, padding=1, name="a")
    b = net.conv(a, 2, 3, padding=1, name="b")
    soft = net.op("softmax", b, "soft", axis=1)  # mixes rows
    c = net.conv(soft, 2, 3, padding=1, name="c")
    network = net.build(net.conv(net.add([c, a], name="sum"), 2, 1, name="d"))
    search = _Search(network, network.outputs)
    parts = search.parts({"a", "b", "c", "sum", "d"})
    assert parts == [{"a", "b"}, {"c", "sum", "d"}]
    assert search.parts({"a", "b", "d"}) == [{"a", "b"}, {"d"}]
    for group in candidates(network):
        same(lower(network, [group]))
    assert all(x != y for x, y in itertools.combinations(candidates(network), 2))
