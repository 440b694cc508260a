"""Fronts as tables and figures: value against bytes, and measured accuracy against bytes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pandas as pd

from sparseplan.atomic import replacing
from sparseplan.errors import PlanError
from sparseplan.report.nothing import why_none
from sparseplan.sweep import Front
from sparseplan.tables import table
from sparseplan.trained import TrainedFront

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: axis -> (label, divisor)
_AXES = {
    "l2": ("main memory (kB)", 1e3),
    "l1": ("L1 (KiB)", 1024.0),
    "macs": ("MACs of a training step (millions)", 1e6),
    "time": ("compute time of a training step (ms)", 1e-3),
}
#: kinds of update sets: (colour of Okabe and Ito's palette, marker)
_KINDS = {
    "planned": ("#0072B2", "o"),
    "last layers": ("#E69F00", "^"),
    "biases": ("#CC79A7", "D"),
    "blocks": ("#009E73", "s"),
    "random": ("#56B4E9", "x"),
    "none": ("#000000", "P"),
    "full": ("#D55E00", "*"),
}
#: (colour, dashes) of predictions without a network
_LINES = (("#999999", (0, (1, 2))), ("#777777", (0, (4, 2))), ("#555555", (0, (6, 2, 1, 2))), ("#333333", "solid"))


def front_text(front: Front, most: int = 24) -> str:
    """A table of the front (of some of its points where there are many), and what is proven."""
    shown = front if len(front.points) <= most else front.thin(most)
    unit = "s" if front.axis == "time" else ""
    rows: list[list[object]] = [
        [f"{p.cost:,.6g}" if unit else int(p.cost), f"{p.value:,.6g}", p.status, len(p.update), p.l2, p.macs]
        for p in shown.points
    ]
    header = (f"{front.axis} {unit or ('MACs' if front.axis == 'macs' else 'B')}", "value", "status", "tensors",
              "L2 B", "MACs")  # fmt: skip
    optimal = sum(p.status == "OPTIMAL" for p in front.points)
    kind = "points of the front" if front.exhaustive else "points"
    lines = [
        table(header, rows, [True, True, False, True, True, True]),
        f"{len(front.points)} {kind}, {optimal} proven optimal"
        + (f" ({len(shown.points)} shown)" if shown is not front else ""),
    ]
    lines += [
        f"open: from {w.low:,} to {w.high:,} a value of up to {w.value:g} is not ruled out" for w in front.windows
    ]
    lines += [front.note] if front.note else []
    if reasons := nothing_of_front(front):
        lines += ["nothing is updated:", *(f"  {line}" for line in reasons)]
    return "\n".join(lines)


def nothing_of_front(front: Front) -> list[str] | None:
    """Why no point of a front updates anything; None where one does, or where there is none."""
    if not front.points or any(p.update for p in front.points):
        return None
    return why_none(front.problem, front.points[-1].status, front.points[-1].bound)


def trained_text(trained: TrainedFront, split: str = "test") -> str:
    """Mean ± spread of the headline metric of every set, cheapest first, and predictions without a network."""
    arrow = "↑" if trained.higher else "↓"
    rows: list[list[object]] = []
    for row in trained.summary(split).to_dict("records"):
        which = "" if row["kind"] == "planned" else row["name"]
        cost = f"{row['cost']:,.6g}" if trained.front.axis == "time" else f"{row['cost']:,.0f}"
        rows.append([row["kind"], which, cost, f"{row['mean']:.4f} ± {row['std']:.4f}", row["seeds"]])
    rows += [["without network", name, "", f"{m[trained.headline]:.4f}", ""] for name, m in trained.constants.items()]
    header = ("update set", "which", trained.front.axis, f"{trained.headline} {arrow}", "seeds")
    return f"task {trained.task}, {split} split\n" + table(header, rows, [False, False, True, True, True])


def plot_front(front: Front, ax: Axes, against: TrainedFront | None = None) -> Axes:
    """Value as a staircase over the axis; where sets were trained, their value too."""
    label, divisor = _AXES[front.axis]
    x = [p.cost / divisor for p in front.points]
    y = [p.value for p in front.points]
    if front.exhaustive:
        ax.step([*x, x[-1] * 1.02], [*y, y[-1]], where="post", color=_KINDS["planned"][0], label="exact front")
    else:
        ax.plot(x, y, "o", color=_KINDS["planned"][0], label="planned, optimal at its budget")
    open_ = [p for p in front.points if p.status != "OPTIMAL"]
    if open_:
        ax.plot([p.cost / divisor for p in open_], [p.value for p in open_], "o", mfc="none", color="black",
                label="not proven")  # fmt: skip
    if against is not None:
        _scatter(against.summary(), ax, divisor, "value")
    ax.set_ylabel("value of the update set")
    ax.set_xlabel(label)
    ax.grid(alpha=0.25)
    ax.legend(loc="lower right", fontsize=8, frameon=False)
    return ax


def plot_trained(trained: TrainedFront, ax: Axes, split: str = "test") -> Axes:
    """Measured accuracy with its spread over seeds, against what each set needs."""
    label, divisor = _AXES[trained.front.axis]
    rows = trained.summary(split)
    planned = rows[rows["kind"] == "planned"]
    colour = _KINDS["planned"][0]
    ax.plot(planned["cost"] / divisor, planned["mean"], color=colour, linewidth=1, alpha=0.6)
    _scatter(rows, ax, divisor, "mean", errors=True)
    for (name, metrics), (grey, dashes) in zip(trained.constants.items(), _LINES, strict=False):
        ax.axhline(
            metrics[trained.headline], color=grey, linestyle=dashes, linewidth=1.2, label=f"without network: {name}"
        )
    better = "higher is better" if trained.higher else "lower is better"
    ax.set_ylabel(f"{trained.headline} on the {split} split, mean ± std ({better})")
    ax.set_xlabel(label)
    ax.grid(alpha=0.25)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    return ax


def _scatter(rows: pd.DataFrame, ax: Axes, divisor: float, column: str, errors: bool = False) -> None:
    for kind, (colour, marker) in _KINDS.items():
        some = rows[rows["kind"] == kind]
        if some.empty or (kind == "planned" and not errors):
            continue
        spread = some["std"] if errors else None
        ax.errorbar(
            some["cost"] / divisor, some[column], yerr=spread, fmt=marker, color=colour, capsize=2, markersize=6,
            linestyle="none", label=kind,
        )  # fmt: skip


def front_figure(front: Front, trained: TrainedFront | None = None) -> Figure:
    """The front; with ``trained`` also what its plans, and the baselines, really reach."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as New

    fig = New(figsize=(9, 5) if trained is None else (9, 8.5), layout="constrained")
    FigureCanvasAgg(fig)  # no window, no global state
    o = front.problem.options
    title = (
        f"{front.problem.network.name} on {front.problem.device.title or front.problem.device.name}: "
        f"{o.dtype}, batch {o.batch}, {o.gradients} {o.optimizer}, frozen parameters in {o.frozen}"
    )
    if trained is None:
        plot_front(front, fig.subplots())
    else:
        upper, lower = fig.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        plot_trained(trained, upper)
        upper.set_xlabel("")
        plot_front(front, lower, trained)
        title += f"\ntask {trained.task}"
    fig.suptitle(title, fontsize=10)
    return fig


def save_front_figure(front: Front, path: str | os.PathLike[str], trained: TrainedFront | None = None) -> None:
    """Write ``front_figure`` to a PNG, SVG or PDF, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
        PlanError: no such figure format.
    """
    fig = front_figure(front, trained)
    known = sorted(fig.canvas.get_supported_filetypes())
    suffix = os.path.splitext(os.fspath(path))[1].lstrip(".").lower()
    if suffix not in known:
        raise PlanError(f"figure {os.fspath(path)!r}: format {suffix!r} is unknown; one of {', '.join(known)}")
    with replacing(path) as temporary:
        fig.savefig(temporary, dpi=150)
