"""Plans as text that people like to read, and as figures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from sparseplan.atomic import replacing
from sparseplan.errors import PlanError
from sparseplan.inspection import inspect_rows, uncounted
from sparseplan.network import Network
from sparseplan.plan import PlacedBuffer, Plan
from sparseplan.report.nothing import nothing_rows, stopped_text, why_nothing
from sparseplan.report.savings import ADDED, copies, mark_savings, saving_rows, saving_text
from sparseplan.steps import MAIN, PAGE_LEVEL
from sparseplan.tables import table
from sparseplan.units import format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: kinds of bytes in the order in which figures stack them, in the colour-blind safe palette of
#: Okabe and Ito (2008)
KINDS: Mapping[str, str] = {
    "parameters": "#0072B2",
    "accumulators and state": "#56B4E9",
    "activations": "#009E73",
    "masks and indices": "#F0E442",
    "gradients": "#D55E00",
    "parameter gradients": "#CC79A7",
    "target": "#999999",
}
_LIGHT = ("#F0E442", "#56B4E9", "#CC79A7")
_KIND_OF_ROLE = {
    "parameter": "parameters",
    "accumulator": "accumulators and state",
    "state": "accumulators and state",
    "input": "activations",
    "activation": "activations",
    "packed": "activations",
    "auxiliary": "masks and indices",
    "gradient": "gradients",
    "parameter gradient": "parameter gradients",
    "target": "target",
}


def inspect_text(network: Network, dtype: str = "bf16", batch: int = 1) -> str:
    """``inspect_rows`` as a table with totals."""
    rows = inspect_rows(network, dtype, batch)
    keys = ("parameters", "macs_forward", "macs_grad_input", "macs_grad_param",
            "activation_bytes", "weight_bytes", "gradient_bytes", "saved_bytes")  # fmt: skip
    header = ("op", "kind", "output", "params", "MACs fwd", "MACs dx", "MACs dw",
              "act B", "weight B", "grad B", "saved B")  # fmt: skip
    body: list[list[object]] = [
        [r["op"], r["kind"], "×".join(map(str, r["output"])), *(r[k] for k in keys)] for r in rows
    ]
    body.append(["total", "", "", *(sum(r[k] for r in rows) for k in keys)])
    note = f"{network.name}: {dtype}, batch {batch}; MACs and bytes of one pass over the batch"
    return note + "\n" + table(header, body, [False] * 3 + [True] * len(keys))


# -- plans as text --------------------------------------------------------------------------------


def describe(plan: Plan) -> str:
    """A plan in a screenful: what is updated, what it takes, and why the budget binds."""
    o, d = plan.problem.options, plan.problem.device
    lines = [
        f"{plan.problem.network.name} on {d.title or d.name}: {o.dtype}, batch {o.batch}, {o.optimizer}, "
        f"{o.gradients} gradients, frozen parameters in {o.frozen}"
    ]
    if o.losses or len(plan.network.outputs) > 1:
        lines.append(_losses(plan))
    if plan.reason is not None:
        return "\n".join([*lines, "INFEASIBLE", plan.reason.message])
    if not plan.feasible:
        return "\n".join([*lines, f"{plan.status}: no plan within the limits; value is at most {plan.bound:g}"])
    proof = "proven" if plan.status == "OPTIMAL" else f"at most {plan.bound:g} ({plan.relative_gap:.2%} gap)"
    lines.append(f"{plan.status}: value {plan.objective:g}, {proof}, in {plan.solve_seconds:.2f} s")
    lines += ["", _levels(plan), "", _updated(plan), "", _binding(plan)]
    if unknown := uncounted(plan.problem.network):
        more = f" and {len(unknown) - 4} more" if len(unknown) > 4 else ""
        cap = "" if plan.problem.max_macs is None else f" max_macs={plan.problem.max_macs:,} does not hold them."
        told = f"MACs not known, so not counted: {', '.join(unknown[:4])}{more}. Such ops never run again.{cap}"
        lines += ["", told]
    saved = saving_text(plan)
    return "\n".join([*lines, "", saved] if saved else lines)


def _losses(plan: Plan) -> str:
    """Which losses are on which outputs, and which outputs have none."""
    o, network = plan.problem.options, plan.problem.network
    text = f"loss: {o.loss} on {network.outputs[0]!r}"
    if o.losses:
        text = "loss: " + " + ".join(f"{x.weight:g} {x.kind} on {x.output!r}" for x in o.losses)
    apart = [t for t in network.outputs if t not in o.loss_outputs(network)]
    if not apart:
        return text
    return f"{text}; none on {', '.join(map(repr, apart[:4]))}{f' and {len(apart) - 4} more' if apart[4:] else ''}"


def _levels(plan: Plan) -> str:
    rows: list[list[object]] = []
    for level in plan.problem.device.levels:
        if level.name in plan.peak_bytes:
            peak = plan.peak_bytes[level.name]
            capacity = plan.problem.capacity(level.name)
            rows.append([level.name, peak, plan.lower_bound_bytes.get(level.name),
                         capacity if capacity is not None else "unbounded",
                         capacity - peak if capacity is not None else "", level.reserved])  # fmt: skip
    return table(("level", "peak B", "at least B", "budget B", "free B", "reserved B"), rows, [False] + [True] * 5)


def _share(r: float) -> str:
    return "all" if r == 1 else str(Fraction(r).limit_denominator(1024))


def _updated(plan: Plan) -> str:
    network = plan.problem.network
    if not plan.update:
        return "\n".join(["nothing is updated:", *(f"  {line}" for line in why_nothing(plan))])
    rows: list[list[object]] = []
    for op in network.ops:
        # a parameter that several ops use is told with the first
        parts = [(slot, p) for slot, p in op.params.items() if p in plan.update and network.owner[p] == (op, slot)]
        if not parts:
            continue
        done = {v.tensor: v for v in plan.values if v.role in ("parameter gradient", "accumulator")}
        elements = 0
        for _, p in parts:
            size = 1
            for n in done[p].shape:
                size *= n
            elements += size
        rows.append(
            [op.name, ", ".join(f"{slot} {_share(plan.update[p])}" for slot, p in parts), elements,
             f"{sum(plan.problem.values[p][plan.update[p]] for _, p in parts):,.6g}"]
        )  # fmt: skip
    total: int = sum(r[2] for r in rows)  # type: ignore[misc]
    rows.append(["total", f"{len(plan.update)} of {len(network.parameters)} tensors", total, f"{plan.objective:,.6g}"])
    macs = plan.macs
    ratio = macs["backward"] / macs["forward"] if macs["forward"] else 0.0
    tail = f"MACs a sample: {macs['forward']:,} forward, {macs['backward']:,} backward ({ratio:.2f}× the forward pass)"
    if again := macs.get("recompute", 0):
        tail += f", {again:,} run again"
    return table(("updated", "what", "elements", "value"), rows, [False, False, True, True]) + "\n" + tail


def _binding(plan: Plan) -> str:
    """The peak step with its tensors, and what was left out for it."""
    live = plan.bytes_at()
    top = max(live)
    step = live.index(top)
    total = max(top, 1)
    rows: list[list[object]] = [
        [b.value + (f" [{b.lo}:]" if b.lo else ""), _role(plan, b), b.bytes, f"{b.bytes / total:.0%}"]
        for b in plan.live(step)[:8]
    ]
    rest = plan.live(step)[8:]
    if rest:
        rows.append([f"{len(rest)} more", "", sum(b.bytes for b in rest), f"{sum(b.bytes for b in rest) / total:.0%}"])
    lines = [
        f"peak: {format_bytes(top)} at step {step} of {len(plan.steps)} ({plan.steps[step].name})",
        table(("tensor", "kind", "bytes", "share"), rows, [False, False, True, True]),
    ]
    left = {
        p: max(t.values()) - (plan.problem.values[p][plan.update[p]] if p in plan.update else 0.0)
        for p, t in plan.problem.values.items()
        if p in plan.problem.choices
    }
    missing = sorted(((v, p) for p, v in left.items() if v > 0), reverse=True)
    capacity = plan.problem.capacity(MAIN)
    if missing and capacity is not None:
        names = ", ".join(f"{p} ({v:g})" for v, p in missing[:3])
        lines.append(f"left out for lack of room (value): {names}" + (" …" if len(missing) > 3 else ""))
    elif not plan.update:
        pass  # told above
    elif not missing:
        less = any(s.kind in ADDED for s in plan.steps)
        lines.append("everything of value is updated" if less else
                     "the budget does not bind: everything of value is updated")  # fmt: skip
        if stopped := stopped_text(plan.problem):
            lines[-1] += ", as far as the gradient reaches"
            lines += stopped
    return "\n".join(lines)


def _role(plan: Plan, buffer: PlacedBuffer) -> str:
    return next((str(v.role) for v in plan.values if v.name == buffer.value), "")


def summary(plan: Plan) -> dict[str, Any]:
    """A plan's figures as plain data (what ``sparseplan plan --json`` prints)."""
    device = plan.problem.device
    finite = plan.feasible
    return {
        "status": plan.status,
        "objective": plan.objective if finite else None,
        "bound": plan.bound if abs(plan.bound) != float("inf") else None,
        "gap": plan.gap if finite else None,
        "update": dict(plan.update),
        "nothing": nothing_rows(plan),
        "budget_bytes": {v.name: v.bytes for v in device.levels if v.bytes is not None},
        "reserved_bytes": {v.name: v.reserved for v in device.levels},
        "peak_bytes": dict(plan.peak_bytes),
        "lower_bound_bytes": dict(plan.lower_bound_bytes),
        "macs": dict(plan.macs),
        "macs_unknown": uncounted(plan.problem.network),
        "savings": saving_rows(plan),
        "solve_seconds": plan.solve_seconds,
        "ties": dict(plan.ties),
        "seed": plan.seed,
        "steps": len(plan.steps),
        "network": plan.problem.network.name,
        "losses": [
            {"output": s.loss.output, "kind": s.loss.kind, "weight": s.loss.weight}
            for s in plan.problem.options.loss_steps(plan.problem.network)
        ],
        "device": device.name,
        "reason": None
        if plan.reason is None
        else {
            "level": plan.reason.level,
            "step": plan.reason.step,
            "needed": plan.reason.needed,
            "available": plan.reason.available,
            "tensors": [list(t) for t in plan.reason.tensors],
            "fewest_bytes": plan.reason.fewest_bytes,
            "message": plan.reason.message,
        },
    }


# -- plans as figures -------------------------------------------------------------------------------


def figure(plan: Plan) -> Figure:
    """Bytes over the schedule with the budget, above buffers as rectangles (step × offset)."""
    if not plan.feasible:
        raise PlanError(f"status={plan.status}: there is no schedule to draw")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as New

    paged = any(s.kind == "page_out" for s in plan.steps)
    fig = New(figsize=(11, 9.5 if paged else 8), layout="constrained")
    FigureCanvasAgg(fig)  # no window, no global state
    upper, lower, *slow = fig.subplots(2 + paged, 1, sharex=True, height_ratios=[3, 3, 1.2][: 2 + paged])
    plot_bytes(plan, upper)
    plot_buffers(plan, lower)
    for ax in slow:
        plot_buffers(plan, ax, PAGE_LEVEL)
    mark_savings(plan, lower)
    (*slow, lower)[0].set_xlabel("step of the schedule")
    _phases(plan, (upper, lower, *slow))
    o = plan.problem.options
    fig.suptitle(
        f"{plan.problem.network.name} on {plan.problem.device.title or plan.problem.device.name}: "
        f"{len(plan.update)} of {len(plan.problem.network.parameters)} parameter tensors updated "
        f"({o.dtype}, batch {o.batch}, {o.gradients} {o.optimizer}), {plan.status}",
        fontsize=11,
    )
    return fig


def save_figure(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write ``figure(plan)`` to a PNG, SVG or PDF, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
        PlanError: no such figure format, or nothing to draw.
    """
    fig = figure(plan)
    known = sorted(fig.canvas.get_supported_filetypes())
    suffix = os.path.splitext(os.fspath(path))[1].lstrip(".").lower()
    if suffix not in known:
        raise PlanError(f"figure {os.fspath(path)!r}: format {suffix!r} is unknown; one of {', '.join(known)}")
    with replacing(path) as temporary:
        fig.savefig(temporary, dpi=150)


def plot_bytes(plan: Plan, ax: Axes, level: str = MAIN) -> Axes:
    """Live bytes at each step, stacked by kind, with the placed peak and the budget."""
    steps = len(plan.steps)
    series: dict[str, list[int]] = {k: [0] * steps for k in KINDS}
    for b in plan.buffers:
        if b.level == level:
            kind = _KIND_OF_ROLE[_role(plan, b)]
            for s in range(b.start, min(b.stop, steps)):
                series[kind][s] += b.bytes
    used = {k: v for k, v in series.items() if any(v)}
    edges = list(range(steps + 1))
    base = [0] * steps
    for kind, values in used.items():
        top = [a + b for a, b in zip(base, values, strict=True)]
        ax.stairs(_kb(top), edges, baseline=_kb(base), fill=True, color=KINDS[kind], label=kind)
        base = top
    ax.axhline(plan.peak_bytes[level] / 1000, color="black", linestyle=":", linewidth=1.2,
               label=f"arena {plan.peak_bytes[level] / 1000:,.1f} kB")  # fmt: skip
    capacity = plan.problem.capacity(level)
    if capacity is not None:
        ax.axhline(capacity / 1000, color="black", linestyle="--", linewidth=1.2,
                   label=f"budget {capacity / 1000:,.1f} kB")  # fmt: skip
    ax.set_ylabel(f"live bytes in {level} (kB)")
    ax.set_xlim(0, steps)
    ax.set_ylim(0)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, frameon=False)
    return ax


def plot_buffers(plan: Plan, ax: Axes, level: str = MAIN) -> Axes:
    """Buffers as rectangles: steps across, offsets upwards; large ones are named, what is there again is hatched."""
    from matplotlib.patches import Rectangle

    steps, arena, again = len(plan.steps), plan.peak_bytes[level], copies(plan)
    for b in plan.buffers:
        if b.level != level:
            continue
        colour = KINDS[_KIND_OF_ROLE[_role(plan, b)]]
        ax.add_patch(
            Rectangle((b.start, b.offset / 1000), b.stop - b.start, b.bytes / 1000, facecolor=colour,
                      edgecolor="white", linewidth=0.4, hatch="////" if b.value in again else None)
        )  # fmt: skip
        if b.bytes > 0.03 * arena and (b.stop - b.start) * 1.6 > 0.012 * steps * len(b.value):
            ax.text((b.start + b.stop) / 2, (b.offset + b.bytes / 2) / 1000, b.value, ha="center", va="center",
                    fontsize=6.5, color="black" if colour in _LIGHT else "white",
                    bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.4} if b.value in again else None,
                    )  # fmt: skip
    ax.axhline(arena / 1000, color="black", linestyle=":", linewidth=1.2)
    capacity = plan.problem.capacity(level)
    if capacity is not None:
        ax.axhline(capacity / 1000, color="black", linestyle="--", linewidth=1.2)
    ax.set_xlim(0, steps)
    ax.set_ylim(0, 1.04 * max(arena, capacity or 0) / 1000 if (capacity or 0) < 2 * arena else 1.1 * arena / 1000)
    ax.set_ylabel(f"offset in {level} (kB)")
    return ax


def _kb(values: Sequence[int]) -> list[float]:
    return [v / 1000 for v in values]


def _phases(plan: Plan, axes: Sequence[Axes]) -> None:
    """Mark where the forward pass ends and the backward pass begins."""
    loss = next((i for i, s in enumerate(plan.steps) if s.kind == "loss"), None)
    if loss is None:
        return
    for ax in axes:
        ax.axvline(loss, color="black", linewidth=0.6)
    top = axes[0]
    top.annotate("forward", (loss / 2, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=9)
    top.annotate("backward and updates", ((loss + len(plan.steps)) / 2, 1.01), xycoords=("data", "axes fraction"),
                 ha="center", fontsize=9)  # fmt: skip
