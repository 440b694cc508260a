"""Why a plan updates nothing, or less than it could, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sparseplan.autodiff import differentiate, trace
from sparseplan.gradientflow import Stop, stops, without_gradient, without_way
from sparseplan.liveness import analyse
from sparseplan.ops import infos
from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.solve.tiling import Tiling
from sparseplan.steps import MAIN, UpdateSet, reached_by_gradient, updatable
from sparseplan.units import format_bytes

#: ops that stop the gradient, and parameters, that are named one by one
_NAMED = 4
#: updates whose bytes are reckoned to find the one that takes least
_TRIED = 64
#: parts of the names of ONNX nodes that work on integer codes
_QUANTISED = ("Quantize", "QLinear", "Integer")


def why_nothing(plan: Plan) -> list[str]:
    """Why a feasible plan without updates has none, the main reason first: each a sentence with what to do."""
    return why_none(plan.problem, plan.status, plan.bound)


def why_none(problem: Problem, status: str, bound: float) -> list[str]:
    """The same of a plan's problem, status and bound; of a front, those of its last point."""
    network = problem.network
    if not network.parameters:
        return [f"network {network.name!r} has no parameters that could be updated"]
    if not problem.choices:
        return _no_choice(problem)
    worthy = [p for p in problem.choices if max(problem.values[p].values()) > 0]
    if not worthy and problem.most_worth() <= 0:
        return [f"none of the {len(problem.choices)} parameters that may be updated has a value above 0; give others, "
                "or name with must what is to be updated"]  # fmt: skip
    if status != "OPTIMAL":
        return [f"no update was found before the search ended; value may be up to {bound:g}: give more time"]
    return _no_room(problem, worthy or list(problem.choices))


def stopped_text(problem: Problem) -> list[str]:
    """What stops the gradient of the losses on its way to parameters: a line for each op, of many the nearest."""
    network = problem.network
    return _stopped(stops(network, problem.options.loss_outputs(network)), len(network.parameters))


def nothing_rows(plan: Plan) -> dict[str, Any] | None:
    """The same as plain data; None where something is updated."""
    if not plan.feasible or plan.update:
        return None
    found = stops(plan.problem.network, plan.problem.options.loss_outputs(plan.problem.network))
    rows = [{"op": s.op, "kind": s.kind, "reason": s.reason, "parameters": list(s.parameters)} for s in found]
    return {"reasons": why_nothing(plan), "gradient_stops_at": rows}


def _stopped(found: Sequence[Stop], total: int) -> list[str]:
    lines = [
        f"the gradient stops at op {s.op!r} ({s.kind}): {_count(len(s.parameters))} of {total} behind it; {s.reason}"
        for s in found[:_NAMED]
    ]
    if any(mark in s.kind for s in found for mark in _QUANTISED):
        lines.append("a file that is not quantised yet has gradients throughout: plan that one")
    if rest := found[_NAMED:]:
        kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(s.kind for s in rest).most_common(6))
        most = max(len(s.parameters) for s in rest)
        lines.append(
            f"it stops at {len(rest)} more ops farther from the loss ({kinds}), up to {most} parameters behind"
        )
    return lines


def _no_choice(problem: Problem) -> list[str]:
    """Nothing may be updated."""
    network = problem.network
    judged = problem.options.loss_outputs(network)
    reached = reached_by_gradient(network, infos(network), judged)
    free = [p for p in network.parameters if updatable(network, reached, p)]
    small = [p for p in free if network.tensor[p].dtype == "int8"]
    named = [p for p in free if network.tensor[p].dtype != "int8"]
    lines = _stopped(stops(network, judged), len(network.parameters))
    apart, still = without_way(network, judged), without_gradient(network)
    if apart:
        lines.append(f"{_count(len(apart))} ({_some(apart)}) have no way to the loss's output "
                     f"{', '.join(map(repr, judged))}; choose an output behind them")  # fmt: skip
    if rest := [p for p in still if p not in apart]:
        lines.append(f"{_count(len(rest))} ({_some(rest)}) are kept as they are by the ops that read them, "
                     f"such as {still[rest[0]]!r}")  # fmt: skip
    if named:
        lines.insert(0, f"{_count(len(named))} ({_some(named)}) could be updated, but may not be: may, never, or what "
                        "the network came from, leaves them out")  # fmt: skip
    if small:
        lines.insert(0, f"{_count(len(small))} ({_some(small)}) of dtype int8 could be updated, but only where may or "
                        "must names them")  # fmt: skip
    return lines


def _no_room(problem: Problem, names: Sequence[str]) -> list[str]:
    """Updates of value that may be made, and no plan makes one."""
    network = problem.network
    graph = trace(network, problem.options, problem.choices)
    missing = Tiling(problem.device, graph).missing
    least = {p: UpdateSet({p: problem.choices[p][0]}) for p in names}
    barred = {p: next((m for m in missing if m.when != -1 and m.when & graph.chosen(least[p])), None) for p in names}
    lines = []
    if shut := [p for p, need in barred.items() if need is not None]:
        need = min((n for n in barred.values() if n is not None), key=lambda n: n.fewest)
        lines.append(f"no tile of {need.step} fits L1: the smallest takes {format_bytes(need.fewest)} of "
                     f"{format_bytes(need.available)}, and without such tiles {_count(len(shut))} of {len(names)} "
                     "cannot be updated; give more L1")  # fmt: skip
    open_ = [p for p in names if barred[p] is None]
    capacity = problem.capacity(MAIN)
    if open_ and capacity is not None:
        # the last ops' parameters take the fewest steps back, small ones the fewest bytes: both are tried
        small = sorted(open_, key=lambda p: network.tensor[p].elements)
        tried = dict.fromkeys((*open_[-_TRIED // 2 :], *small[: _TRIED // 2]))
        peaks = {p: analyse(differentiate(network, least[p], problem.options)).peak() for p in tried}
        best = min(peaks, key=lambda p: (peaks[p], p))
        if peaks[best] > capacity:
            lines.append(f"no update fits: the smallest tried, of {best!r} alone, holds {format_bytes(peaks[best])} in "
                         f"{MAIN} at its peak, {format_bytes(capacity)} are available; give at least that much {MAIN}"
                         + ("" if problem.savings else ", or allow savings"))  # fmt: skip
    caps = [n for n in ("max_macs", "max_seconds", "max_joules") if getattr(problem, n) is not None]
    if open_ and caps and len(lines) < 2:
        lines.append(f"no update keeps {' and '.join(f'{n}={getattr(problem, n)!r}' for n in caps)}; raise the cap")
    if problem.ties:
        lines.append("parameters of a tie are updated together or not at all; untie some")
    return lines or [f"no update of value can be made within the budgets of {problem.device.name!r}; give more"]


def _count(n: int) -> str:
    return f"{n} parameter{'' if n == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
