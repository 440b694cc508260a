"""Buffers of a plan: what each may be, where it lies and when, and what no two may share."""

from __future__ import annotations

import bisect
import heapq

from sparseplan.plan import PlacedBuffer, Plan
from sparseplan.problem import Problem
from sparseplan.steps import MAIN, Value
from sparseplan.units import align_up
from sparseplan.verify.facts import Facts
from sparseplan.verify.findings import Findings


def name_of(b: PlacedBuffer) -> str:
    """How a buffer is called in messages."""
    return f"buffer {b.value}[{b.lo}:{b.lo + b.bytes}]"


def alignment_of(problem: Problem, level: str) -> int:
    """What offsets and sizes at a level are multiples of."""
    if level != MAIN and problem.device.has(level):
        return problem.device.level(level).alignment
    return problem.options.alignment


class Places:
    """Values and buffers by name.

    Attributes:
        values: the first value of each name.
        buffers: buffers of each value, by first byte.
        base: address at which each value's first byte would lie.
    """

    def __init__(self, plan: Plan) -> None:
        self.values: dict[str, Value] = {}
        for v in plan.values:
            self.values.setdefault(v.name, v)
        self.buffers: dict[str, list[PlacedBuffer]] = {}
        for b in sorted(plan.buffers, key=lambda b: b.lo):
            self.buffers.setdefault(b.value, []).append(b)
        self.base = {name: found[0].offset - found[0].lo for name, found in self.buffers.items()}

    def padded(self, name: str, alignment: int) -> int:
        """Bytes of a value with its padding."""
        return align_up(max(self.values[name].bytes, 0), alignment)


def check_values(facts: Facts, plan: Plan, findings: Findings) -> None:
    """Every value has the shape, dtype, size, place and lifetime of what it stands for."""
    names: set[str] = set()
    layouts: dict[tuple[str, str], str] = {}
    kept: set[tuple[str, str]] = set()
    used = {s.value for step in plan.steps for a in (*step.reads, *step.writes) for s in a.spans}
    for v in plan.values:
        where = f"value {v.name}"
        if v.name in names:
            findings.add("value", where, "is declared twice")
        names.add(v.name)
        if v.name not in used:
            findings.add("value", where, "is nothing that a step reads or writes")
        # parameters and the target come from outside, and are known by these names there
        if v.role in ("parameter", "target") and v.name != v.tensor:
            findings.add("value", where, f"must be called {v.tensor!r}, since it is loaded by that name")
        specs = facts.specs(v)
        if not specs:
            findings.add("value", where, f"role={v.role!r} with tensor={v.tensor!r} is nothing that this step has")
            continue
        if v.role in ("parameter", "accumulator"):
            if (v.role, v.tensor) in kept:
                findings.add("value", where, f"is a second {v.role} of {v.tensor!r}")
            kept.add((v.role, v.tensor))
        images = v.role in ("input", "activation", "gradient") and len(v.shape) == 4 and v.shape[0] == 1
        if v.layout != "chw" and not (v.layout == "hcw" and images):
            findings.add("value", where, f"layout={v.layout!r} of role={v.role!r}, shape={v.shape} should be 'chw'")
        elif layouts.setdefault((v.role, v.tensor), v.layout) != v.layout:
            findings.add("value", where, f"layout={v.layout!r} differs from another {v.role} of {v.tensor!r}")
        given = (tuple(v.shape), v.dtype, v.persistent, v.level, v.scale)
        spec = next((s for s in specs if tuple(s) == given), None)
        if spec is None:
            s = specs[0]
            findings.add(
                "value", where,
                f"shape={v.shape}, dtype={v.dtype}, persistent={v.persistent}, level={v.level}, scale={v.scale} should "
                f"be shape={s.shape}, dtype={s.dtype}, persistent={s.persistent}, level={s.level}, scale={s.scale}",
            )  # fmt: skip
        elif v.bytes != spec.bytes:
            findings.add("value", where, f"bytes={v.bytes} should be {spec.bytes}")


def check_buffers(problem: Problem, plan: Plan, places: Places, findings: Findings) -> None:
    """Each buffer on its own: level, alignment, pieces that adjoin, bytes within the value, lifetime."""
    count = len(plan.steps)
    for name, buffers in places.buffers.items():
        value = places.values.get(name)
        for b in buffers:
            where = name_of(b)
            if value is None:
                findings.add("value", where, f"value={name!r} does not exist")
                continue
            alignment = alignment_of(problem, b.level)
            if b.level != value.level:
                findings.add("value", where, f"level={b.level} differs from its value's {value.level}")
            size = align_up(max(value.bytes, 0), problem.options.alignment)
            if b.lo + b.bytes > size:
                findings.add("value", where, f"ends at byte {b.lo + b.bytes} of a value of {size}, padding included")
            if (b.offset - b.lo) % alignment:
                findings.add("alignment", where, f"its value lies at {b.offset - b.lo}, no multiple of {alignment}")
            if b.lo % problem.options.alignment or b.bytes % problem.options.alignment:
                findings.add(
                    "alignment", where, f"lo={b.lo}, bytes={b.bytes} are no multiples of {problem.options.alignment}"
                )
            if b.offset - b.lo != places.base[name]:
                findings.add("alignment", where, f"puts its value at {b.offset - b.lo}, another piece at "
                             f"{places.base[name]}: they do not adjoin")  # fmt: skip
            if b.stop > count:
                findings.add("lifetime", where, f"stop={b.stop} is behind the last of {count} steps")
            if b.start != buffers[0].start and (value.role in ("target", "input")):
                findings.add("lifetime", where, f"begins at step {b.start}, another piece of {name!r} at "
                             f"{buffers[0].start}: it arrives in whole")  # fmt: skip
            if value.persistent and (b.start, b.stop) != (0, count):
                findings.add("lifetime", where, f"lives [{b.start}, {b.stop}), but is persistent: [0, {count})")


def apart(plan: Plan) -> bool:
    """Whether no two buffers overlap: those alive lie apart in order, so a new one can meet its neighbours only."""
    alive: dict[str, list[tuple[int, int]]] = {}
    ending: list[tuple[int, str, int, int]] = []
    for b in sorted(plan.buffers, key=lambda b: b.start):
        while ending and ending[0][0] <= b.start:
            _, level, offset, end = heapq.heappop(ending)
            alive[level].pop(bisect.bisect_left(alive[level], (offset, end)))
        here = alive.setdefault(b.level, [])
        at = bisect.bisect_left(here, (b.offset, b.end))
        if b.end <= b.offset or b.stop <= b.start or (at and here[at - 1][1] > b.offset):
            return False
        if at < len(here) and here[at][0] < b.end:
            return False
        here.insert(at, (b.offset, b.end))
        heapq.heappush(ending, (b.stop, b.level, b.offset, b.end))
    return True


def check_overlaps(plan: Plan, findings: Findings) -> None:
    """No two buffers of a level share bytes at any step."""
    if apart(plan):
        return
    alive: dict[str, list[PlacedBuffer]] = {}
    for b in sorted(plan.buffers, key=lambda b: (b.start, b.offset)):
        here = [a for a in alive.get(b.level, ()) if a.stop > b.start]
        for a in here:
            if a.offset < b.end and b.offset < a.end:
                findings.add(
                    "overlap", name_of(b),
                    f"[{b.offset}, {b.end}) of {b.level} in steps [{b.start}, {b.stop}) meets {name_of(a)}: "
                    f"[{a.offset}, {a.end}) in steps [{a.start}, {a.stop})",
                )  # fmt: skip
        here.append(b)
        alive[b.level] = here


def live_bytes(plan: Plan, level: str) -> int:
    """The most bytes of a level that are live at any step."""
    changes: dict[int, int] = {}
    for b in plan.buffers:
        if b.level == level:
            changes[b.start] = changes.get(b.start, 0) + b.bytes
            changes[b.stop] = changes.get(b.stop, 0) - b.bytes
    total = most = 0
    for step in sorted(changes):
        total += changes[step]
        most = max(most, total)
    return most


def check_levels(problem: Problem, plan: Plan, findings: Findings) -> None:
    """Peaks, lower bounds and budgets of the levels that hold buffers, and of L1."""
    ends: dict[str, int] = {}
    for b in plan.buffers:
        ends[b.level] = max(ends.get(b.level, 0), b.end)
    least = {level: live_bytes(plan, level) for level in ends}
    if plan.tiles:
        ends["L1"] = max(ends.get("L1", 0), *(t.l1_bytes for t in plan.tiles))
        least["L1"] = ends["L1"]
    for level in (*ends, *(n for n in (*plan.peak_bytes, *plan.lower_bound_bytes) if n not in ends)):
        where, end = f"level {level}", ends.get(level, 0)
        peak, bound = plan.peak_bytes.get(level), plan.lower_bound_bytes.get(level)
        if peak != end:
            findings.add("peak", where, f"peak_bytes={peak}, but its buffers end at {end}")
        if bound is None or bound < least.get(level, 0):
            findings.add("peak", where, f"lower_bound_bytes={bound}, but {least.get(level, 0)} are live at once")
        elif bound > end:
            findings.add("peak", where, f"lower_bound_bytes={bound} is above what suffices: {end}")
        if end and not problem.device.has(level):
            findings.add("budget", where, f"holds {end} bytes, but device {problem.device.name!r} has no such level")
        capacity = problem.capacity(level)
        if capacity is not None and max(end, peak or 0) > capacity:
            findings.add("budget", where, f"takes {max(end, peak or 0)} of {capacity} bytes")
