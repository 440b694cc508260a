"""What every plan holds at each step, whatever is decided: bytes that need no search to be known.

A step holds at least what it reads and writes. Beyond that, in the network's order, what forward reads again is held;
where nothing is paged, an input is held up to its last reader, since nothing can make it again; and where nothing is
made again either, so is all that backward reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from sparseplan.liveness import analyse
from sparseplan.ops import op_def
from sparseplan.steps import MAIN, Schedule, Step
from sparseplan.training import MaybeStep


def chosen_reads(steps: Iterable[MaybeStep]) -> dict[str, frozenset[str]]:
    """By step of a training graph, tags of what it may read in one of several ways."""
    return {s.name: frozenset(a.tag for a in s.reads if a.pick is not None) for s in steps}


def held_anyway(
    schedule: Schedule, savings: Collection[str], chosen: Mapping[str, frozenset[str]]
) -> list[dict[str, int]]:
    """Bytes by value that are live at each step of every plan that updates at least what a schedule does.

    Without what persists, which ``stay`` tells.

    Args:
        savings: what is allowed.
        chosen: ``chosen_reads`` of the graph; these reads do not count.
    """
    away = {n for n, v in schedule.values.items() if v.persistent}
    packable = frozenset({"x0"} if "int8" in savings else ())
    bare: list[Step] = []
    for step in schedule.steps:
        # late auxiliaries depend on what is chosen, and so do those that forward writes
        dropped = chosen.get(step.name, frozenset()) | (packable if step.kind == "grad_param" else frozenset())
        reads = tuple(a for a in step.reads if a.tag not in dropped)
        late = step.kind == "aux"
        bare.append(replace(step, reads=() if late else reads, writes=() if late else step.writes[:1]))
    live: list[dict[str, int]] = []
    for step in bare:
        free = away | {x for _, x in step.inplace}
        held: dict[str, int] = {}
        for s in {s for a in (*step.reads, *step.writes) for s in a.spans if s.value not in free}:
            held[s.value] = held.get(s.value, 0) + s.hi - s.lo
        live.append(held)
    if "order" in savings:
        return live
    loss = next(i for i, s in enumerate(bare) if s.kind == "loss")
    forward, whole = list(range(loss)), list(range(len(bare)))
    kept = {n for n, v in schedule.values.items() if v.role == "input"} if "page" not in savings else set()
    if "page" not in savings:
        once = {op.name for op in schedule.network.ops if not op_def(op.kind).repeatable(op.attrs)}
        kept |= {s.value for step in bare[:loss] if step.op in once for a in step.writes for s in a.spans}
        if "recompute" not in savings:
            kept |= set(schedule.values)
    for among, steps in ((kept, whole), (schedule.values.keys() - kept, forward)):
        memory = analyse(replace(schedule, steps=tuple(bare[i] for i in steps)))
        sums: list[dict[str, int]] = [{} for _ in steps]
        for b in memory.buffers:
            if b.value in among and b.value not in away:
                for i in range(b.start, b.stop):
                    if i == b.stop - 1 and any(x == b.value for _, x in bare[i].inplace):
                        continue  # which of several is overwritten depends on what else is held
                    sums[i][b.value] = sums[i].get(b.value, 0) + b.bytes
        for i in steps:
            for value, size in sums[i].items():
                live[i][value] = max(live[i].get(value, 0), size)
    return live


def stay(schedule: Schedule, savings: Collection[str]) -> dict[str, int]:
    """Bytes in main memory of what persists there and cannot live elsewhere."""
    if {"stream", "page"} & set(savings):
        return {}
    return {n: v.bytes for n, v in schedule.values.items() if v.persistent and v.level == MAIN}
