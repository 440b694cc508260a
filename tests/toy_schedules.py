"""Schedules put together by hand, and small random ones, of steps that mean nothing."""

from __future__ import annotations

from types import MappingProxyType

from hypothesis import strategies as st

from sparseplan.builder import NetworkBuilder
from sparseplan.network import Network
from sparseplan.steps import Arg, Schedule, Span, Step, TrainingOptions, Value
from sparseplan.units import align_up


def any_network() -> Network:
    net = NetworkBuilder("none")
    return net.build(net.relu(net.input("in", (1, 1, 1))))


NETWORK = any_network()


def value(name: str, size: int, role: str = "activation", persistent: bool = False, level: str = "L2") -> Value:
    return Value(name, role, (1, size), "int8", size, name, persistent, level)  # type: ignore[arg-type]


def arg(*spans: tuple[str, int, int]) -> Arg:
    return Arg("x", (1, 1), "int8", tuple(Span(*s) for s in spans))


def step(i: int, reads: list[tuple[str, int, int]], writes: list[tuple[str, int, int]],
         inplace: tuple[tuple[str, str], ...] = ()) -> Step:  # fmt: skip
    return Step(f"s{i}", "forward", "none", "y", tuple(arg(r) for r in reads), tuple(arg(w) for w in writes), inplace)


def schedule(values: list[Value], steps: list[Step], alignment: int = 1,
             composites: tuple[tuple[tuple[str, int], ...], ...] = ()) -> Schedule:  # fmt: skip
    named = MappingProxyType({v.name: v for v in values})
    return Schedule(NETWORK, TrainingOptions(alignment=alignment), {}, {}, named, tuple(steps), composites)


@st.composite
def toy_schedules(draw: st.DrawFn) -> Schedule:
    """A few values of three pieces, read, written and overwritten at random, on two levels."""
    roles = st.sampled_from(["activation", "activation", "input", "parameter"])
    sizes = [draw(st.sampled_from([3, 4, 8, 12])) for _ in range(draw(st.integers(2, 5)))]
    values = []
    for i, size in enumerate(sizes):
        role = draw(roles)
        level = draw(st.sampled_from(["L2", "L2", "flash"])) if role == "parameter" else "L2"
        values.append(value(f"v{i}", size, role, role == "parameter", level))
    steps = []
    for i in range(draw(st.integers(2, 6))):
        spans: list[list[tuple[str, int, int]]] = [[], []]
        for v in draw(st.lists(st.sampled_from(values), max_size=3, unique=True)):
            end = align_up(v.bytes, 4)
            lo = draw(st.sampled_from([0, 0, 4 if end > 4 else 0]))
            hi = draw(st.sampled_from([end, end, 4 if lo < 4 else end]))
            spans[draw(st.integers(0, 1))].append((v.name, lo, hi))
        reads, writes = spans
        pairs = tuple(
            (y, x) for y, *_ in writes for x, *_ in reads
            if draw(st.booleans()) and sizes[int(y[1:])] == sizes[int(x[1:])] and y != x
        )  # fmt: skip
        persistent = {v.name for v in values if v.persistent}
        steps.append(step(i, reads, writes, tuple(p for p in pairs if p[0] not in persistent)))
    return schedule(values, steps, alignment=4)
