"""Speed of a training step beside PyTorch eager, one thread each, in the same run.

    python benchmarks/trainer.py [--rounds 15] [--json out.json] [--kernels]

A step is forward, mean absolute loss, backward and an SGD update on random data. The two take
turns, so that whatever else the machine does meets both; times are CPU times of the process, the
least of all rounds and the median. ``ratio`` is PyTorch's least over this trainer's: above 1 the
trainer is faster. Without PyTorch its columns stay empty. A case that fails is a row as well.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from sparseplan.builder import init_parameters
from sparseplan.network import Network
from sparseplan.run import Trainer, TrainSettings
from sparseplan.zoo import upydnet

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None  # type: ignore[assignment]

LR = 1e-4
Run = Callable[[], float]


@dataclass(frozen=True)
class Case:
    """One row: which parameters are updated, at which batch size."""

    name: str
    prefixes: tuple[str, ...]
    batch: int

    def update(self, network: Network) -> dict[str, float]:
        """The parameters updated, in whole."""
        return {p: 1.0 for p in network.parameters if p.startswith(self.prefixes)}


CASES = [
    Case(name, prefixes, batch)
    for name, prefixes in (("all parameters", ("",)), ("decoder 0 and its upsampler", ("decoder0.", "ups0.")))
    for batch in (1, 16)
]


def data(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and targets, both in [0, 1)."""
    rng = np.random.default_rng(0)
    return rng.random((batch, 3, 48, 48), np.float32), rng.random((batch, 1, 48, 48), np.float32)


def ours(case: Case) -> tuple[Run, Trainer]:
    """A step of this trainer."""
    network = upydnet()
    settings = TrainSettings("l1", optimizer="sgd", lr=LR)
    trainer = Trainer(network, init_parameters(network), case.update(network), settings)
    image, target = data(case.batch)
    return lambda: trainer.step({"image": image}, target), trainer


def theirs(case: Case) -> Run:
    """The same step in PyTorch, written as its users would."""
    network = upydnet()
    update = case.update(network)
    params = {p: torch.tensor(a, requires_grad=p in update) for p, a in init_parameters(network).items()}
    optimizer = torch.optim.SGD([params[p] for p in update], lr=LR)
    image, target = (torch.tensor(a) for a in data(case.batch))

    def conv(x: Any, name: str, stride: int = 1) -> Any:
        return F.conv2d(x, params[f"{name}.weight"], params[f"{name}.bias"], stride, 1)

    def forward(x: Any) -> Any:
        taps = []
        for i in range(6):
            x = F.leaky_relu(conv(x, f"encoder.conv{i}", 2 if i in (2, 4) else 1), 0.125)
            if i % 2:
                taps.append(x)
        for d in range(3):
            for i in range(2):
                x = F.leaky_relu(conv(x, f"decoder{d}.conv{i}"), 0.125)
            x = conv(x, f"decoder{d}.conv2")
            if d < 2:
                x = F.conv_transpose2d(x, params[f"ups{d}.tconv.weight"], params[f"ups{d}.tconv.bias"], 2)
                x = torch.cat([taps[1 - d], x], 1)
        return F.relu(x)

    def step() -> float:
        optimizer.zero_grad()
        loss = (forward(image) - target).abs().mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def timed(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round of each runner, taking turns after two to warm up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 2):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if i >= 2:
                times[name].append((time.process_time() - start) * 1e3)
    return times


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = {"case": case.name, "batch": case.batch}
    try:
        step, trainer = ours(case)
        runs = {"sparseplan": step}
        if torch is not None:
            runs["torch"] = theirs(case)
        first = {name: run() for name, run in runs.items()}
        if torch is not None and abs(first["torch"] - first["sparseplan"]) > 1e-4 * abs(first["torch"]):
            raise AssertionError(f"losses differ: {first}")
        for name, times in timed(runs, rounds).items():
            row[name] = {"least_ms": min(times), "median_ms": statistics.median(times)}
        if torch is not None:
            row["ratio"] = row["torch"]["least_ms"] / row["sparseplan"]["least_ms"]
        row["kernels"] = kernels(trainer, case.batch)
    except Exception as error:  # a failure is a result too
        row["failed"] = f"{type(error).__name__}: {error}"
    return row


def kernels(trainer: Trainer, batch: int) -> dict[str, float]:
    """Milliseconds by (op kind, pass), the least of three, largest first."""
    image, target = data(batch)
    best: dict[str, float] = {}
    for _ in range(3):
        spent: Counter[str] = Counter()
        for step, seconds in trainer.profile({"image": image}, target):
            kind = trainer.network.op[step.op].kind if step.op in trainer.network.op else step.op
            spent["update" if step.kind == "update" else f"{kind} {step.kind} {step.target}"] += seconds * 1e3
        best = {name: min(ms, best.get(name, ms)) for name, ms in spent.items()}
    return dict(sorted(best.items(), key=lambda item: -item[1]))


def versions() -> dict[str, str]:
    """What was measured."""
    found = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
    return found | {"torch": torch.__version__ if torch is not None else "absent"}


def main() -> int:
    """Print the table; 1 when a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", help="also write the rows there")
    parser.add_argument("--kernels", action="store_true", help="also print where the time goes")
    args = parser.parse_args()
    if torch is not None:
        torch.set_num_threads(1)
    print(", ".join(f"{k} {v}" for k, v in versions().items()), "· one thread · ms of CPU time: least (median)")
    print(f"{'update':30} {'batch':>5} {'sparseplan':>18} {'torch':>18} {'ratio':>6}")
    rows = []
    with threadpool_limits(1):
        for case in CASES:
            row = measure(case, args.rounds)
            rows.append(row)
            cells = [f"{row[n]['least_ms']:.1f} ({row[n]['median_ms']:.1f})" if n in row else "-"
                     for n in ("sparseplan", "torch")]  # fmt: skip
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else "-"
            print(f"{case.name:30} {case.batch:5} {cells[0]:>18} {cells[1]:>18} {ratio:>6} {row.get('failed', '')}")
            if args.kernels:
                for name, ms in list(row.get("kernels", {}).items())[:8]:
                    print(f"    {name:45} {ms:8.2f}")
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"versions": versions(), "rows": rows}, f, indent=1)
    return int(any("failed" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
