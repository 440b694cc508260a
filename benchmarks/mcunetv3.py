"""MCUNetV3's published schemes: its accounting, what they need with exact lifetimes, better ones in the same bytes.

Three tables. (a) The accounting of the published schemes, ours beside the authors' code. (b) RAM of
one training step of each scheme with exact lifetimes: weights and activations int8, biases and
gradients as said, batch 1, SGD fused, frozen parameters in flash, verified and run. (c) For
mcunet-5fps, by published gains in accuracy: the exact best scheme within each of their budgets, first
under their accounting, then with exact lifetimes within what their scheme really needs.

Gains are those of single updates and are taken to add up, as MCUNetV3 takes them; on Cars they were read
off a figure (±0.1, worse where lines hide one another), and gains of biases are not published, so ours
updates at least the biases that theirs does. Needs the reference data (``SPARSEPLAN_REFERENCE_DATA``).
"""

from __future__ import annotations

import csv
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ortools

import sparseplan as sp
from sparseplan.costs.mcunetv3 import Scheme, account, best_scheme, convolutions
from sparseplan.device import custom
from sparseplan.network import Network
from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.quantise import quantised
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.search import solve
from sparseplan.steps import MAIN, TrainingOptions
from sparseplan.tables import table
from sparseplan.zoo import mbv2_w035, mcunet_5fps, proxyless_w03

NETWORKS = {"mbv2-w0.35": mbv2_w035, "mcunet-5fps": mcunet_5fps, "proxyless-w0.3": proxyless_w03}
FLOATS = {"*.bias": "fp32", "classifier.*": "fp32"}
#: classes of the head; it lies in flash, as the accounting leaves it out, except where it is said to be trained
CLASSES = 10
SECONDS = 60.0
DTYPES = ("fp32", "bf16")


@dataclass(frozen=True)
class Published:
    """A scheme with its row of the table."""

    network: str
    name: str
    scheme: Scheme
    bits: tuple[int, int, int]


def data() -> Path:
    named = os.environ.get("SPARSEPLAN_REFERENCE_DATA")
    return Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"


def rows(name: str) -> list[dict[str, str]]:
    with (data() / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def published() -> list[Published]:
    found = []
    for row in rows("mcunetv3_memory.csv"):
        if row["family"] != "published_sparse" or "script" in row["scheme"]:
            continue  # the one of the script is the 99 kB one again
        indices = [int(i) for i in row["manual_weight_idx"].split("-")]
        ratios = [float(r) for r in row["weight_update_ratio"].split("-")]
        scheme = Scheme(int(row["n_bias_update"]), dict(zip(indices, ratios, strict=True)))
        bits = (int(row["weight_bits"]), int(row["activation_bits"]), int(row["total_bits"]))
        found.append(Published(row["network"], row["scheme"], scheme, bits))
    return found


def deployed(name: str) -> Network:
    """The int8 network; scales are nominal, bytes do not depend on them."""
    return quantised(NETWORKS[name](classes=CLASSES), floats=FLOATS)


def updates(network: Network, scheme: Scheme) -> dict[str, float]:
    """A scheme as fractions of parameters."""
    convs = convolutions(network)
    chosen = {f"{c.op}.bias": 1.0 for c in convs[len(convs) - scheme.biases :]}
    return chosen | {f"{convs[i].op}.weight": r for i, r in scheme.weights.items() if int(convs[i].in_channels * r)}


def needed(network: Network, update: Mapping[str, float], dtype: str) -> Plan:
    """The plan of least peak for exactly these updates."""
    options = TrainingOptions(dtype, frozen="flash", alignment=4, loss="cross_entropy")
    choices = {p: (r,) for p, r in update.items()}
    worth = {p: {r: 1.0} for p, r in update.items()}
    problem = Problem(network, custom(alignment=4), options, choices, dict(update), worth)
    return solve(problem, Limits(SECONDS, 0))


def checked(plan: Plan) -> str:
    """Verified, and run in its bytes."""
    if not plan.feasible:
        return plan.status
    found = sp.verify(plan.problem, plan)
    report = sp.run(plan)
    good = not found and report.bitwise_equal and report.guard_intact
    return plan.status if good else f"WRONG: {found[:1] or report.faults[:1] or 'not equal to the reference'}"


def live(plan: Plan) -> list[int]:
    """Bytes of main memory at each step."""
    change = np.zeros(len(plan.steps) + 1, np.int64)
    for b in plan.buffers:
        if b.level == MAIN:
            change[b.start] += b.bytes
            change[b.stop] -= b.bytes
    return np.cumsum(change)[:-1].tolist()  # type: ignore[no-any-return]


def parts(plan: Plan) -> dict[str, int]:
    """What the peak is made of, at the first step where it is reached; and the peaks of both phases."""
    bytes_at = live(plan)
    top = bytes_at.index(max(bytes_at))
    loss = next(i for i, s in enumerate(plan.steps) if s.kind == "loss")
    roles = {v.name: v.role for v in plan.values}
    names = {"parameter": "parameters", "gradient": "gradients", "parameter gradient": "gradients"}
    found = dict.fromkeys(("parameters", "activations", "gradients"), 0)
    for b in plan.buffers:
        if b.level == MAIN and b.start <= top < b.stop:
            found[names.get(roles[b.value], "activations")] += b.bytes
    network = plan.network
    kept = sum(int(b.bytes * (1 - plan.update[b.value])) for b in plan.buffers
               if b.level == MAIN and roles[b.value] == "parameter" and b.value.endswith(".weight"))  # fmt: skip
    assert all(network.tensor[p].role == "parameter" for p in plan.update)
    return found | {"of which not updated": kept, "forward": max(bytes_at[:loss]), "backward": max(bytes_at[loss:])}


def print_accounting() -> None:
    lines = []
    for p in published():
        ours = account(NETWORKS[p.network](), p.scheme)
        bits = (ours.weight_bits, ours.activation_bits, ours.total_bits)
        lines.append([p.network, p.name, *(f"{n / 8:,.1f}" for n in bits), *(f"{n / 8:,.1f}" for n in p.bits),
                      "equal" if bits == p.bits else "DIFFERS"])  # fmt: skip
    header = ("network", "scheme", "weights B", "activations B", "total B", "theirs", "theirs", "theirs", "")
    print("\n(a) their accounting, bytes: ours and the authors' code")
    print(table(header, lines, [False, False, *[True] * 6, False]))


def print_needed() -> dict[tuple[str, str], tuple[int, int]]:
    """Returns what each scheme of mcunet-5fps needs, by scheme and dtype; and that less the channels not updated."""
    lines, budgets = [], {}
    for p in published():
        network = deployed(p.network)
        update = updates(network, p.scheme)
        for dtype in DTYPES:
            began = time.perf_counter()
            plan = needed(network, update, dtype)
            status = checked(plan)
            least = plan.ties.get("peak") == "OPTIMAL" and plan.peak_bytes.get(MAIN) == plan.lower_bound_bytes.get(MAIN)
            split = parts(plan) if plan.feasible else {}
            head = needed(network, update | {"classifier.weight": 1.0, "classifier.bias": 1.0}, dtype)
            seconds = time.perf_counter() - began
            peak = plan.peak_bytes.get(MAIN, 0)
            if p.network == "mcunet-5fps":
                budgets[p.name, dtype] = peak, peak - split.get("of which not updated", 0)
            sizes = [peak, *split.values(), head.peak_bytes.get(MAIN, 0)]
            lines.append([p.network, p.name, dtype, f"{p.bits[2] / 8:,.0f}", *(f"{n:,}" for n in sizes), status,
                          "yes" if least else "no", f"{seconds:.1f}"])  # fmt: skip
    header = ("network", "scheme", "gradients", "their count B", "peak B", "parameters", "activations", "gradients",
              "not updated", "forward peak", "backward peak", "head trained too", "status", "least", "s")  # fmt: skip
    print("\n(b) RAM of a whole step with exact lifetimes: the peak, what lives at it, the peaks of both phases")
    print("    'not updated': of the parameters in RAM, channels of partly updated weights that stay as they are;")
    print(f"    their count leaves those out. Head of {CLASSES} classes in flash; last bytes: with the head trained.")
    print(
        "    'least': whether the peak is proven to be the least possible; the lower of the two phases' is this plan's."
    )
    print(table(header, lines, [False, False, False, *[True] * 9, False, False, True]))
    return budgets


@dataclass(frozen=True)
class Gains:
    """Published gains of mcunet-5fps on a data set, in percentage points."""

    dataset: str
    weights: Mapping[int, Mapping[float, float]]
    biases: Mapping[int, float] | None

    def of(self, scheme: Scheme, count: int) -> tuple[float, list[str]]:
        """Summed gain, and what had to be assumed: an unpublished ratio counts as the next larger published one."""
        total, assumed = 0.0, []
        for i, r in scheme.weights.items():
            if not r:
                continue
            known = self.weights.get(i, {})
            ratio = min((k for k in known if k >= r), default=None)
            if ratio is None:
                assumed.append(f"{i}@{r:g} as 0")
            else:
                total += known[ratio]
                if ratio != r:
                    assumed.append(f"{i}@{r:g} as @{ratio:g}")
        biases = self.biases or {}
        return total + sum(biases.get(i, 0.0) for i in range(count - scheme.biases, count)), assumed


def gains() -> list[Gains]:
    found = []
    for name in ("Cars", "Flowers102"):
        weights: dict[int, dict[float, float]] = {}
        biases: dict[int, float] = {}
        for row in rows("mcunet5fps_contributions.csv"):
            if row["dataset"] != name:
                continue
            if row["kind"] == "incremental_bias":
                biases[int(row["conv_index"])] = float(row["delta_acc_pp"])
            else:
                weights.setdefault(int(row["conv_index"]), {})[float(row["ratio"])] = float(row["delta_acc_pp"])
        found.append(Gains(name, weights, biases or None))
    return found


def chosen_text(scheme: Scheme) -> str:
    return f"k={scheme.biases}: " + " ".join(f"{i}@{r:g}" for i, r in sorted(scheme.weights.items()) if r)


def print_better(budgets: Mapping[tuple[str, str], tuple[int, int]]) -> None:
    plain = mcunet_5fps()
    count = len(convolutions(plain))
    schemes = [p for p in published() if p.network == "mcunet-5fps"]
    for gain in gains():
        lines = []
        for p in schemes:
            theirs, assumed = gain.of(p.scheme, count)
            least = p.scheme.biases if gain.biases is None else 0
            found = best_scheme(plain, p.bits[2], gain.weights, gain.biases, least)
            if found is None:
                lines.append([p.name, f"{theirs:.2f}", "none", "", "", "", ""])
                continue
            scheme, worth = found
            ours = account(plain, scheme).total_bytes
            lines.append([p.name, f"{theirs:.2f}", f"{worth:.2f}", f"{p.bits[2] / 8:,.0f}", f"{ours:,.0f}",
                          chosen_text(scheme), ", ".join(assumed)])  # fmt: skip
        print(f"\n(c1) {gain.dataset}: the exact best under their accounting, within their bytes")
        header = ("scheme", "theirs pp", "ours pp", "their B", "our B", "ours", "assumed for theirs")
        print(table(header, lines, [False, *[True] * 4, False, False]))
        print_exact(gain, schemes, budgets, count)


def exact_problem(network: Network, gain: Gains, theirs: Scheme, dtype: str, budget: int) -> Problem:
    """What may be updated: all weights and biases with published gains, any set of them."""
    convs = convolutions(network)
    values = {
        f"{convs[i].op}.weight": {r: v for r, v in sorted(t.items()) if int(convs[i].in_channels * r)}
        for i, t in gain.weights.items()
    }
    must: dict[str, float] = {}
    for i, c in enumerate(convs):
        if gain.biases is not None and i in gain.biases:
            values[f"{c.op}.bias"] = {1.0: gain.biases[i]}
        elif gain.biases is None and i >= len(convs) - theirs.biases:
            values[f"{c.op}.bias"] = {1.0: 0.0}
            must[f"{c.op}.bias"] = 1.0
    options = TrainingOptions(dtype, frozen="flash", alignment=4, loss="cross_entropy")
    choices = {q: tuple(t) for q, t in values.items()}
    return Problem(network, custom(l2=budget, alignment=4), options, choices, must, values)


def print_exact(
    gain: Gains, schemes: list[Published], budgets: Mapping[tuple[str, str], tuple[int, int]], count: int
) -> None:
    network = deployed("mcunet-5fps")
    lines = []
    for p in schemes:
        theirs, _ = gain.of(p.scheme, count)
        for dtype in DTYPES:
            for lean, budget in enumerate(budgets[p.name, dtype]):
                began = time.perf_counter()
                plan = solve(exact_problem(network, gain, p.scheme, dtype, budget), Limits(SECONDS, 0))
                status = checked(plan)
                seconds = time.perf_counter() - began
                line = [p.name, dtype, "lean" if lean else "whole", f"{theirs:.2f}"]
                if plan.feasible:
                    line += [f"{plan.objective:.2f}", f"{plan.bound:.2f}", f"{budget:,}", f"{plan.peak_bytes[MAIN]:,}",
                             status, f"{seconds:.1f}", updated_text(network, plan)]  # fmt: skip
                else:
                    fewest = "" if plan.reason is None else f"fewest bytes: {plan.reason.fewest_bytes}"
                    line += ["none", "", f"{budget:,}", "", status, f"{seconds:.1f}", fewest]
                lines.append(line)
    print(f"\n(c2) {gain.dataset}: with exact lifetimes, within what their scheme needs ('lean': less the channels not")
    print("    updated, as if kernels took those from flash; ours has updated weights in RAM in whole even then)")
    header = ("scheme", "gradients", "budget", "theirs pp", "ours pp", "bound", "budget B", "our peak B", "status", "s",
              "ours")  # fmt: skip
    print(table(header, lines, [False, False, False, *[True] * 5, False, True, False]))


def updated_text(network: Network, plan: Plan) -> str:
    convs = enumerate(convolutions(network))
    weights = [f"{i}@{plan.update[w]:g}" for i, c in convs if (w := f"{c.op}.weight") in plan.update]
    return f"{sum(q.endswith('.bias') for q in plan.update)} biases: {' '.join(weights)}"


def main() -> None:
    began = time.perf_counter()
    print(f"sparseplan {sp.__version__}, ortools {ortools.__version__}, NumPy {np.__version__}, "
          f"Python {platform.python_version()}")  # fmt: skip
    if not (data() / "mcunetv3_memory.csv").is_file():
        print(f"no reference data at {data()}; set SPARSEPLAN_REFERENCE_DATA")
        return
    print_accounting()
    budgets = print_needed()
    print_better(budgets)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
