"""What a plan does to hold less: ops that run again, tensors that are paged, packed or streamed; as text and marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparseplan.autodiff import differentiate
from sparseplan.plan import Plan
from sparseplan.steps import MAIN, Step, UpdateSet
from sparseplan.stripes import lower
from sparseplan.tables import table
from sparseplan.units import format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: steps that a plan without savings does not have
ADDED = ("recompute", "page_out", "page_in", "pack")
#: marks on the time axis: kind of step to marker, colour and label
_MARKS: Mapping[str, tuple[str, str, str]] = {
    "recompute": ("o", "#000000", "runs again"),
    "page_out": ("v", "#0072B2", "paged out"),
    "page_in": ("^", "#D55E00", "paged in"),
    "pack": ("s", "#CC79A7", "packed to 8 bits"),
}


def copies(plan: Plan) -> frozenset[str]:
    """Values that are in main memory for a second time: made again, or paged in."""
    steps = (s for s in plan.steps if s.kind in ("recompute", "page_in"))
    return frozenset(x.value for s in steps for a in s.writes for x in a.spans)


def saving_rows(plan: Plan) -> dict[str, Any]:
    """What is done again or elsewhere, as plain data.

    ``recomputed``: a row a run: op, the step before which it runs, MACs, bytes of its output, the steps during which
    these bytes were free since the run before, and who reads the copy. ``paged``: a row a tensor: bytes, traffic out
    and in, steps away from main memory. ``packed``: a row a tensor: bytes before and after. ``elsewhere``: a row a
    value that lives at a slower level and is streamed from there (and back, if steps write it): bytes and traffic of
    one run. ``striped``: a row a group: its first and last op, number of ops, of copied ops, and of stripes, and rows
    of the highest stripe. Totals: ``halo_macs`` that stripes add, ``halo_share`` of the step without stripes,
    ``added_macs``, ``added_share`` of the step's other MACs, ``traffic_bytes``.
    """
    seen = _Schedule(plan)
    again = [seen.rerun(i, s) for i, s in enumerate(plan.steps) if s.kind == "recompute"]
    paged = [seen.page(s) for s in plan.steps if s.kind == "page_out"]
    packed = [seen.packed(s) for s in plan.steps if s.kind == "pack"]
    elsewhere = seen.elsewhere()
    base = plan.macs.get("forward", 0) + plan.macs.get("backward", 0)
    added = plan.macs.get("recompute", 0)
    striped = [
        {"first": g.ops[0], "last": g.ops[-1], "ops": len(g.ops), "copied": len(g.copied), "stripes": len(g.rows),
         "rows": max(hi - lo for lo, hi in g.rows)} for g in plan.stripes
    ]  # fmt: skip
    whole = base
    if striped:
        whole = sum(differentiate(plan.problem.network, UpdateSet(plan.update), plan.problem.options).macs.values())
    return {
        "striped": striped,
        "halo_macs": base - whole,
        "halo_share": (base - whole) / whole if whole else 0.0,
        "recomputed": again,
        "paged": paged,
        "packed": packed,
        "elsewhere": elsewhere,
        "added_macs": added,
        "added_share": added / base if base else 0.0,
        "traffic_bytes": sum(r["out_bytes"] + r["in_bytes"] for r in paged)
        + sum(r["traffic_bytes"] for r in elsewhere),
    }


class _Schedule:
    """A plan's steps with who reads and who holds what."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.values = {v.name: v for v in plan.values}
        self.stop: dict[str, int] = {}
        for b in plan.buffers:
            self.stop[b.value] = max(b.stop, self.stop.get(b.value, 0))
        self.readers: dict[str, list[Step]] = {}
        for s in plan.steps:
            for name in dict.fromkeys(x.value for a in s.reads for x in a.spans):
                self.readers.setdefault(name, []).append(s)

    def away(self, i: int, name: str) -> int:
        """Steps before step ``i``, which makes ``name``, during which no copy of its tensor was in main memory."""
        v = self.values[name]
        stops = [self.stop[w.name] for w in self.values.values()
                 if (w.role, w.tensor, w.level) == (v.role, v.tensor, MAIN) and w.name in self.stop
                 and self.stop[w.name] <= i]  # fmt: skip
        return i - max(stops, default=i)

    def before(self, i: int) -> str:
        """The step for which step ``i`` was added."""
        return next((s.name for s in self.plan.steps[i:] if s.kind not in ADDED), "")

    def rerun(self, i: int, step: Step) -> dict[str, Any]:
        name = step.writes[0].spans[0].value
        masks = [x.value for a in step.writes[1:] for x in a.spans]
        readers = [s.name for n in (name, *masks) for s in self.readers.get(n, ())]
        return {
            "op": step.op,
            "before": self.before(i),
            "macs": step.macs,
            "bytes": self.values[name].bytes,
            "steps_away": self.away(i, name),
            "read_by": list(dict.fromkeys(readers)),
        }

    def page(self, out: Step) -> dict[str, Any]:
        size = self.values[out.reads[0].spans[0].value].bytes
        back = [i for i, s in enumerate(self.plan.steps) if s.kind == "page_in" and s.op == out.op]
        return {
            "tensor": out.op,
            "bytes": size,
            "out_bytes": size,
            "in_bytes": size * len(back),
            "before": [self.before(i) for i in back],
            "steps_away": sum(self.away(i, self.plan.steps[i].writes[0].spans[0].value) for i in back),
        }

    def packed(self, step: Step) -> dict[str, Any]:
        source = self.values[step.reads[0].spans[0].value]
        codes = [x.value for a in step.writes for x in a.spans]
        return {
            "tensor": step.op,
            "bytes": source.bytes,
            "packed_bytes": sum(self.values[c].bytes for c in codes),
            "read_by": list(dict.fromkeys(s.name for c in codes for s in self.readers.get(c, ()))),
        }

    def elsewhere(self) -> list[dict[str, Any]]:
        usual = self.plan.problem.options.frozen
        rows = []
        for v in self.plan.values:
            if not v.persistent or v.level in (MAIN, usual if v.role == "parameter" else MAIN):
                continue
            uses = sum(1 for s in self.plan.steps for a in (*s.reads, *s.writes) for x in a.spans if x.value == v.name)
            rows.append({"value": v.name, "role": v.role, "level": v.level, "bytes": v.bytes,
                         "traffic_bytes": uses * v.bytes})  # fmt: skip
        return rows


# -- as text ----------------------------------------------------------------------------------------


def saving_text(plan: Plan) -> str:
    """``saving_rows`` as tables with totals; empty where nothing is done again or elsewhere."""
    if not plan.feasible:
        return ""
    data = saving_rows(plan)
    parts = [_striped(data), _recomputed(data), _paged(data), _packed(data), _elsewhere(data)]
    found = [p for p in parts if p]
    return "\n\n".join(["what was done to hold less:", *found]) if found else ""


def _striped(data: Mapping[str, Any]) -> str:
    rows = [[f"{r['first']} to {r['last']}", r["ops"], r["copied"], r["stripes"], r["rows"]] for r in data["striped"]]
    if not rows:
        return ""
    text = table(("in stripes", "ops", "copied ops", "stripes", "rows"), rows, [False] + [True] * 4)
    return f"{text}\nMACs of halos: {data['halo_macs']:,}, {data['halo_share']:.1%} of the step without stripes"


def _recomputed(data: Mapping[str, Any]) -> str:
    rows: list[list[object]] = [
        [r["op"], r["before"], r["macs"], r["bytes"], r["steps_away"], _some(r["read_by"])] for r in data["recomputed"]
    ]
    if not rows:
        return ""
    rows.append(["total: " + _count(len(rows), "run"), "", data["added_macs"], "", "", ""])
    header = ("runs again", "before", "MACs", "output B", "free for steps", "read by")
    text = table(header, rows, [False, False, True, True, True, False])
    return f"{text}\nMACs added: {data['added_macs']:,}, {data['added_share']:.1%} of the step's"


def _paged(data: Mapping[str, Any]) -> str:
    rows: list[list[object]] = [
        [r["tensor"], r["bytes"], r["out_bytes"], r["in_bytes"], r["steps_away"], _some(r["before"])]
        for r in data["paged"]
    ]
    if not rows:
        return ""
    out, back = (sum(r[k] for r in data["paged"]) for k in ("out_bytes", "in_bytes"))
    rows.append(["total: " + _count(len(rows), "tensor"), sum(r["bytes"] for r in data["paged"]), out, back, "", ""])
    header = ("paged", "bytes", "out B", "in B", "away for steps", "back before")
    text = table(header, rows, [False, True, True, True, True, False])
    return f"{text}\ntraffic of pages: {format_bytes(out + back)} a run"


def _packed(data: Mapping[str, Any]) -> str:
    rows: list[list[object]] = [
        [r["tensor"], r["bytes"], r["packed_bytes"], _some(r["read_by"])] for r in data["packed"]
    ]
    if not rows:
        return ""
    header = ("saved in 8 bits", "bytes", "packed B", "read by")
    return table(header, rows, [False, True, True, False])


def _elsewhere(data: Mapping[str, Any]) -> str:
    rows: list[list[object]] = [
        [r["value"], r["role"], r["level"], r["bytes"], r["traffic_bytes"]] for r in data["elsewhere"]
    ]
    if not rows:
        return ""
    found = data["elsewhere"]
    rows.append(["total", "", "", sum(r["bytes"] for r in found), sum(r["traffic_bytes"] for r in found)])
    header = ("streamed", "what", "from", "bytes", "traffic B a run")
    return table(header, rows, [False, False, False, True, True])


def _some(names: Sequence[str], most: int = 1) -> str:
    """The first of some names."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


# -- on figures ---------------------------------------------------------------------------------------


def stripe_bands(plan: Plan) -> list[tuple[int, int, int]]:
    """Half-open ranges of steps that belong to one stripe, each with its number, in order of steps."""
    if not plan.stripes:
        return []
    origin = lower(plan.problem.network, plan.stripes).origin
    found: list[tuple[int, int, int]] = []
    for i, step in enumerate(plan.steps):
        where = origin.get(step.op)
        if where is None or step.kind == "update":
            continue
        if found and found[-1][1:] == (i, where.stripe):
            found[-1] = (found[-1][0], i + 1, where.stripe)
        else:
            found.append((i, i + 1, where.stripe))
    return found


def mark_savings(plan: Plan, ax: Axes) -> None:
    """Marks along the top of a plot over steps: where ops run again, and tensors are paged or packed."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for kind, (marker, colour, label) in _MARKS.items():
        at = [i + 0.5 for i, s in enumerate(plan.steps) if s.kind == kind]
        if at:
            ax.plot(at, [0.985] * len(at), marker, transform=ax.get_xaxis_transform(), color=colour, markersize=4,
                    markeredgewidth=0, clip_on=False)  # fmt: skip
            handles.append(Line2D([], [], linestyle="", marker=marker, color=colour, markersize=5,
                                  label=f"{label} ({len(at)})"))  # fmt: skip
    if copies(plan):
        handles.append(Patch(facecolor="#009E73", edgecolor="white", hatch="////", label="there again"))
    bands = stripe_bands(plan)
    for first, last, number in bands:
        ax.axvspan(first, last, ymin=0.0, ymax=1.0, color="#56B4E9" if number % 2 else "#999999", alpha=0.14, lw=0,
                   zorder=0)  # fmt: skip
    if bands:
        count = sum(len(g.rows) for g in plan.stripes)
        handles.append(Patch(facecolor="#999999", alpha=0.3, label=f"stripes ({count})"))
    if handles:
        ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, frameon=False)
