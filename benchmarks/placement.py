"""Placing at a capacity: public instances that are known to fit 1,048,576 bytes, and made-up training steps.

    python benchmarks/placement.py [--seconds 60] [--seed 0]

The public ones are read from the folder ``allocation`` of the reference data (``SPARSEPLAN_REFERENCE_DATA``, else
``../shared/data``) and left out where that is absent. ``greedy`` is the best peak of first-fit and best-fit alone,
``peak`` that of the whole search, both over ``capacity``; for the made-up steps the capacity is the lower bound.
What is not placed is printed too, and is no error.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from sparseplan.solve.cpsat import Limits
from sparseplan.solve.place import lower_bound, place, place_min
from sparseplan.solve.rects import Group, Rect

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Case:
    """Groups to be placed within ``capacity`` bytes, or as low as can be, compared with ``capacity``."""

    name: str
    groups: tuple[Group, ...]
    capacity: int
    alignment: int
    decide: bool


def public() -> Iterator[Case]:
    """The instances of the reference data, buffers of one rectangle each."""
    named = os.environ.get("SPARSEPLAN_REFERENCE_DATA")
    folder = (Path(named) if named else ROOT.parent / "shared" / "data") / "allocation"
    paths = sorted(folder.glob("*.csv"))
    if not paths:
        print(f"no public instances at {folder}; set SPARSEPLAN_REFERENCE_DATA")
    for path in paths:
        name, capacity, _ = path.name.split(".")
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        groups = (Group(r["id"], (Rect(0, int(r["size"]), int(r["lower"]), int(r["upper"])),)) for r in rows)
        yield Case(name, tuple(groups), int(capacity), 1, decide=True)


def training(layers: int, alignment: int, seed: int) -> Case:
    """A training step: saved tensors nest, gradients and skips are brief, tensors shrink to masks, sizes vary."""
    draw = random.Random(seed)
    end = 8 * layers

    def size() -> int:
        return draw.choice([8, 16, 32, 64, 128]) * draw.choice([9, 36, 144, 576]) + draw.choice([0, 0, 0, 2, 30])

    groups = []
    for i in range(layers):
        born, back, whole = 4 * i, end - 4 * i - 4, size()
        mask = -(-whole // 16 // alignment) * alignment
        kind = draw.random()
        if kind < 0.25:
            rects = (Rect(0, mask, born, back), Rect(mask, whole, born, born + draw.randint(2, 9)))
        elif kind < 0.5:
            rects = (Rect(0, whole, born, back),)
        else:
            rects = (Rect(0, whole, born, min(end, born + draw.choice([2, 4, 8, 8, 60]))),)
        groups.append(Group(f"activation {i}", rects))
        groups.append(Group(f"gradient {i}", (Rect(0, whole, back - 4, min(end, back + draw.randint(1, 8))),)))
        if draw.random() < 0.5:
            groups.append(Group(f"weight {i}", (Rect(0, size(), 0, end),)))
        if draw.random() < 0.5:
            groups.append(Group(f"weight gradient {i}", (Rect(0, size(), max(0, back - 1), back + 1),)))
    return Case(f"{layers} layers, {seed}", tuple(groups), lower_bound(groups, alignment), alignment, decide=False)


def measure(case: Case, seconds: float, seed: int) -> None:
    """Print one row."""
    # No work ends exact search alone; no seconds would end first-fit as well.
    greedy = place_min(case.groups, case.alignment, Limits(seed=seed, work=0))[0]
    began = time.process_time()
    if case.decide:
        found = place(case.groups, case.capacity, case.alignment, Limits(seconds, seed))
        bound = lower_bound(case.groups, case.alignment)
    else:
        found, bound = place_min(case.groups, case.alignment, Limits(seconds, seed))
    spent = time.process_time() - began
    peak = f"{found.peak / case.capacity:8.4f}" if found.status == "PLACED" else "       -"
    ratio = greedy.peak / case.capacity
    row = f"{case.name:15} {len(case.groups):6} {case.capacity:9} {bound / case.capacity:8.4f} {ratio:8.4f} {peak}"
    print(f"{row} {found.status:10} {spent:7.2f}  {found.method}", flush=True)


def main() -> None:
    """Print versions, then a row a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="limit for each case")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"Python {platform.python_version()}, ortools {version('ortools')}, numpy {version('numpy')}")
    print(
        f"{'case':15} {'groups':>6} {'capacity':>9} {'bound':>8} {'greedy':>8} {'peak':>8} {'status':10} {'CPU s':>7}"
    )
    for case in public():
        measure(case, args.seconds, args.seed)
    for layers in (10, 20, 60, 170):
        for seed in range(3):
            measure(training(layers, 16, seed), min(args.seconds, 20.0), args.seed)


if __name__ == "__main__":
    main()
