"""Recomputation by the programs of Checkmate and POET, written from their papers, beside ours: one run, one thread.

    python benchmarks/remat_peers.py [--seconds 10] [--budgets 0.9 0.8 0.7 0.6 0.5] [--page 20] [--solvers highs]

Checkmate (Jain et al., MLSys 2020): R (run), S (kept), FREE and U (bytes in use), a stage a slot. POET (Patil et al.,
ICML 2022): the same with tensors paged to a second store, least energy instead of least MACs. Both get what ours get:
the same forward ops, slots, bytes of gradients and parameters at each step, masks as tensors of their own, variables
inside their windows only, sizes divided by their greatest common divisor. Both papers know no overwriting in place, so
their memory counts input and output of every op. Their plans are counted by our rules as well; a plan that breaks the
budget there would be shown as ``over``. Budgets are fractions of the peak of keeping everything.

Columns: ``added`` MACs and ``bound`` in per cent of the training step's; ``E``: energy beyond the step's in millions of
MACs, of which a byte paged in or out costs ``--page`` (20: an assumption, not a measurement); ours page
nothing. ``x``: seconds over ours in the same row's case. A failure is a row like another.
"""

from __future__ import annotations

import argparse
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from _remat_networks import full_update, poet_chain, unet, upydnet

import sparseplan as sp
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.linear01 import Program01, Result01, solve_cpsat, solve_highs
from sparseplan.solve.rematinstance import RematInstance, Rerun, keep_all, macs_of, peak_of, useful
from sparseplan.solve.rematintervals import solve_intervals
from sparseplan.solve.rematmatrix import least_macs
from sparseplan.tables import table

CASES: dict[str, Callable[[], RematInstance]] = {
    "uPyD-Net": upydnet,
    "chain of 27": lambda: full_update(poet_chain()),
    "ResNet-8": lambda: full_update(sp.zoo.get("resnet8")),
    "U-net of 50": lambda: full_update(unet(50)),
}


@dataclass(frozen=True)
class PeerModel:
    """A peer's program, with where its decisions are."""

    program: Program01
    run: dict[tuple[int, int], int]
    moves: dict[tuple[str, int, int], int]


def peer(inst: RematInstance, budget: int, page: int | None) -> PeerModel:
    """Checkmate's program, or POET's when a price of paging (MACs a byte) is given."""
    n, program = len(inst.ops), Program01()
    until_tensor, until_op = inst.useful_until()
    slots = inst.slots
    sizes = [t.size for t in inst.tensors]
    readers = inst.readers()
    run: dict[tuple[int, int], int] = {}
    kept: dict[tuple[int, int], int] = {}
    aux: dict[tuple[int, int], int] = {}
    moves: dict[tuple[str, int, int], int] = {}
    for g, slot in enumerate(slots, 1):
        for o in range(n):
            if until_op[o] >= slot:
                run[o, g] = program.var()
                program.objective[run[o, g]] = inst.ops[o].cost
        for t, until in enumerate(until_tensor):
            if until >= slot:
                kept[t, g] = program.var()
                if page is not None:
                    aux[t, g] = program.var()
                    for way in ("in", "out"):
                        moves[way, t, g] = program.var()
                        program.objective[moves[way, t, g]] = page * sizes[t]

    def there(t: int, g: int) -> list[tuple[int, int]]:
        """What makes tensor ``t`` readable in stage ``g``."""
        found = [(kept[t, g], 1)] if (t, g) in kept else []
        op = inst.tensors[t].op
        return [*found, (run[op, g], 1)] if (op, g) in run else found

    unit = math.gcd(*sizes)
    for g, slot in enumerate(slots, 1):
        step = inst.steps[slot - n]
        for t in step.reads:
            program.least(there(t, g), 1)
        for o, op in enumerate(inst.ops):
            for t in op.reads if (o, g) in run else ():
                program.least([*there(t, g), (run[o, g], -1)], 0)
        for t in range(len(sizes)):
            if (t, g + 1) in kept:
                moved = [(moves["in", t, g], 1)] if page is not None else []
                program.least([*there(t, g), *moved, (kept[t, g + 1], -1)], 0)
                if page is not None:
                    program.least([(aux[t, g], 1), (moves["out", t, g], 1), (aux[t, g + 1], -1)], 0)
            if page is not None and (t, g) in kept:
                program.least([(aux[t, g], 1), (moves["in", t, g], -1)], 0)
                program.least([(kept[t, g], 1), (moves["out", t, g], -1)], 0)
                if g == 1:  # paged out during the forward run, after its last use there
                    program.objective[aux[t, g]] = page * sizes[t]
        _usage(inst, program, run, kept, moves, readers, g, budget, unit)
    _forward(inst, program, kept, readers, budget)
    return PeerModel(program, run, moves)


def _usage(
    inst: RematInstance, program: Program01, run: dict[tuple[int, int], int], kept: dict[tuple[int, int], int],
    moves: dict[tuple[str, int, int], int], readers: list[list[int]], g: int, budget: int, unit: int,
) -> None:  # fmt: skip
    """U and FREE of one stage: bytes after each op that is run, less what nothing in the stage or later needs."""
    n, slot = len(inst.ops), inst.slots[g - 1]
    step, sizes = inst.steps[slot - n], [t.size for t in inst.tensors]
    gap = step.gap or 0
    # a tensor that is being paged in takes its bytes from now on
    usage = [(kept[t, g], sizes[t] // unit) for t in range(len(sizes)) if (t, g) in kept]
    usage += [(v, sizes[t] // unit) for (way, t, gg), v in moves.items() if way == "in" and gg == g]
    room = max(0, (budget - gap) // unit)
    u = program.var(0, room)
    program.continuous.add(u)
    program.least([(u, 1), *((v, -c) for v, c in usage)], 0)
    for k, op in enumerate(inst.ops):
        if (k, g) not in run:
            continue
        after = program.var(0, room)  # U once op k has run, before anything is freed
        program.continuous.add(after)
        made = sum(sizes[t] for t in op.writes) // unit
        program.least([(after, 1), (u, -1), (run[k, g], -made)], 0)
        freed: list[tuple[int, int]] = []
        for t in (*op.reads, *op.writes):
            if t in step.reads:
                continue
            hazards = [(run[c, g], 1) for c in readers[t] if c < n and c > k and (c, g) in run]
            hazards += [(kept[t, g + 1], 1)] if (t, g + 1) in kept else []
            free = program.var()
            # 1 - FREE <= hazards <= kappa (1 - FREE), hazards counting "k is not run"
            kappa = len(hazards) + 1
            program.least([(free, 1), (run[k, g], -1), *hazards], 0)
            program.most([(free, kappa), (run[k, g], -1), *hazards], kappa - 1)
            freed.append((free, sizes[t] // unit))
        u = program.var(0, room)
        program.continuous.add(u)
        program.least([(u, 1), (after, -1), *freed], 0)
    program.most([(u, unit)], budget - step.fixed)
    last = inst.slots[g] if g < len(inst.slots) else n + len(inst.steps)
    for i in range(slot + 1, last):  # updates, between this slot and the next
        held = [(kept[t, g + 1], sizes[t]) for t in range(len(sizes)) if (t, g + 1) in kept]
        program.most(held, budget - inst.steps[i - n].fixed)


def _forward(
    inst: RematInstance, program: Program01, kept: dict[tuple[int, int], int], readers: list[list[int]], budget: int
) -> None:
    """Stage 0: every op is run once; what is kept into stage 1 is not freed."""
    n = len(inst.ops)
    everything = [*inst.ops, inst.steps[0]]
    for k, op in enumerate(everything):
        base, terms = op.fixed, []
        for t, tensor in enumerate(inst.tensors):
            if tensor.op > k:
                continue
            later = any(k <= i <= n for i in readers[t])
            if later or tensor.op == k:
                base += tensor.size
            elif (t, 1) in kept:
                terms.append((kept[t, 1], tensor.size))
        program.most(terms, budget - base)
    for i in range(1, inst.slots[0] - n):
        held = [(kept[t, 1], tensor.size) for t, tensor in enumerate(inst.tensors) if (t, 1) in kept]
        program.most(held, budget - inst.steps[i].fixed)


def peer_row(
    inst: RematInstance, budget: int, page: int | None, solver: str, seconds: float
) -> tuple[str, float, str, str, str]:
    """(status, seconds, added, bound, energy) as shown."""
    model = peer(inst, budget, page)
    solve: Callable[[Program01, Limits], Result01] = solve_highs if solver == "highs" else solve_cpsat
    result = solve(model.program, Limits(seconds))
    share = 100 / inst.macs
    bound = f"{result.bound * share:.2f}" if page is None else f"E {result.bound / 1e6:.2f}"
    if not result.values:
        return result.status, result.seconds, "-", bound if result.status == "UNKNOWN" else "-", "-"
    reruns: list[Rerun] = [(o, inst.slots[g - 1]) for (o, g), v in model.run.items() if result.values[v]]
    status = result.status
    added = macs_of(inst, reruns)
    if page is None:
        added = macs_of(inst, useful(inst, reruns))
        if peak_of(inst, useful(inst, reruns)) > budget:
            status += " over"
    energy = model.program.worth(result.values) if page is not None else added
    return status, result.seconds, f"{added * share:.2f}", bound, f"{energy / 1e6:.2f}"


def main() -> None:
    """Print versions and the model sizes, then a row a case and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="limit of each solve")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.9, 0.8, 0.7, 0.6, 0.5])
    parser.add_argument("--page", type=int, default=20, help="price of a byte paged in or out, in MACs")
    parser.add_argument("--solvers", nargs="+", default=["highs"], choices=["highs", "cpsat"], help="for the peers")
    parser.add_argument("--matrix", action="store_true", help="our own stage-by-op model on CP-SAT too")
    args = parser.parse_args()
    tools = f"sparseplan {sp.__version__}, ortools {version('ortools')} (HiGHS through MathOpt)"
    print(f"{tools}, Python {platform.python_version()}, one thread, limit {args.seconds:g} s, page {args.page} MACs/B")
    header = ("network", "budget", "method", "status", "seconds", "x", "added %", "bound %", "E")
    rows: list[list[object]] = []
    for name, make in CASES.items():
        inst = make()
        size = peer(inst, keep_all(inst), None).program
        print(f"{name}: {len(inst.ops)} ops, {len(inst.slots)} slots, keep all {keep_all(inst):,} B; "
              f"Checkmate {len(size.bounds)} variables, {len(size.rows)} rows")  # fmt: skip
        for fraction in args.budgets:
            budget = int(fraction * keep_all(inst))
            ours = solve_intervals(inst, budget, Limits(args.seconds))
            answers = [("ours", ours)]
            if args.matrix:
                answers.append(("our matrix, cpsat", least_macs(inst, budget, Limits(args.seconds))))
            share = 100 / inst.macs
            for method, a in answers:
                found = a.status in ("OPTIMAL", "FEASIBLE")
                rows.append([name, f"{fraction:g}", method, a.status, f"{a.seconds:.2f}",
                             f"{a.seconds / ours.seconds:.1f}" if ours.seconds > 0.01 else "-",
                             f"{a.macs * share:.2f}" if found else "-", f"{a.bound * share:.2f}" if found else "-",
                             f"{a.macs / 1e6:.2f}" if found else "-"])  # fmt: skip
            for solver in args.solvers:
                for method, page in (("Checkmate", None), ("POET", args.page)):
                    status, seconds, added, bound, energy = peer_row(inst, budget, page, solver, args.seconds)
                    rows.append([name, f"{fraction:g}", f"{method}, {solver}", status, f"{seconds:.2f}",
                                 f"{seconds / ours.seconds:.1f}" if ours.seconds > 0.01 else "-", added, bound,
                                 energy])  # fmt: skip
            for row in rows[-len(answers) - 2 * len(args.solvers) :]:
                print("  ".join(map(str, row)), flush=True)
    print(table(header, rows, [False, False, False, False, *[True] * 5]))


if __name__ == "__main__":
    main()
