"""Time, energy and traffic of a plan as a few lines of text."""

from __future__ import annotations

from collections import Counter

from sparseplan.costs import PlanCosts, Training


def time_text(costs: PlanCosts, training: Training | None = None, verbose: bool = True) -> str:
    """What a run takes, and a whole training if given; what is unknown in one line, with what to do.

    Without ``verbose`` that line counts the rates that are missing rather than naming each.
    """
    lines = []
    cycles = costs.cycles
    run = "a sample" if costs.batch == 1 else f"a run of {costs.batch} samples"
    if cycles is None:
        lines.append((costs.unknown if verbose else _counted(costs)) or "time is unknown")
    else:
        phases = ", ".join(f"{phase} {n:,}" for phase, n in costs.phases.items() if n is not None)
        told = f"time {run}: {cycles:,} cycles ({phases})"
        if costs.seconds is not None:
            told = f"time {run}: {duration(costs.seconds)}, {cycles:,} cycles ({phases})"
        lines.append(told if costs.hidden is None else f"{told}; {costs.hidden:.0%} of the transfers hidden")
        if costs.seconds is None:
            lines.append((costs.unknown if verbose else _counted(costs)) or "")
    if costs.traffic:
        moved = ", ".join(f"{a}-{b} {n:,} B" for (a, b), n in costs.traffic.items())
        lines.append(f"moved between levels, both ways: {moved}")
    if costs.joules is not None:
        lines.append(f"energy {run}: {energy(costs.joules)} ({costs.energy_basis})")
    elif cycles is not None and costs.energy_unknown is not None:
        lines.append(costs.energy_unknown)
    if training is not None:
        epochs = f"{training.epochs} epoch{'s' if training.epochs > 1 else ''}"
        parts = [] if training.seconds is None else [duration(training.seconds)]
        parts += [] if training.joules is None else [energy(training.joules)]
        lines.append(f"{training.samples:,} samples, {epochs}: {', '.join([*parts, f'{training.cycles:,} cycles'])}")
    if cycles is not None:
        lines += [f"  {note}" for note in costs.notes]
    return "\n".join(lines)


def _counted(costs: PlanCosts) -> str:
    device, tables = costs.device, Counter(m.table for m in costs.missing)
    if device.name == "custom":
        return "time is unknown without a device; give one that has rates (docs/time.md)"
    parts = [f"{n} of {table}" for table, n in sorted(tables.items())] + ["the clock"] * (device.clock_hz is None)
    return (f"time is unknown: device {device.name!r} lacks rates ({', '.join(parts)}); --verbose names them, "
            "`sparseplan calibrate` adds them")  # fmt: skip


def duration(seconds: float) -> str:
    """Seconds in units that read well: ``131 ms``, ``6.57 min``."""
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= (2 * size if size > 1 else size):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def energy(joules: float) -> str:
    """Joules in units that read well: ``4.99 mJ``."""
    for unit, size in (("kJ", 1e3), ("J", 1.0), ("mJ", 1e-3)):
        if joules >= size:
            return f"{joules / size:.3g} {unit}"
    return f"{joules / 1e-6:.3g} µJ"
