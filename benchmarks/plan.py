"""What plans of uPyD-Net take, beside the paper's figures and an independent count; and how fast they are proven.

Compares with: arXiv 2512.00086 (bytes as reported there), and the bytes of each schedule when every
tensor has its exact lifetime, masks are one bit wide and kept from forward, and nothing is aligned.
"""

from __future__ import annotations

import platform
import time

import ortools

import sparseplan as sp
from sparseplan.autodiff import differentiate
from sparseplan.liveness import analyse
from sparseplan.run import run
from sparseplan.tables import table

BLOCK = ("decoder0.*", "ups0.*")
CASES = {
    "decoder 0 and its upsampler": (BLOCK, "1.2 MB"),
    "decoders 0, 1 and their upsamplers": (("decoder0.*", "ups0.*", "decoder1.*", "ups1.*"), ""),
    "all parameters": (("*",), "about 2.64 MB"),
}
MODES = {
    "fused": {},
    "accumulated": {"gradients": "accumulate"},
    "fused, frozen in flash": {"frozen": "flash"},
}


def bytes_table() -> str:
    """Peak bytes of fixed update sets: by lifetimes alone with masks kept, planned, placed and executed."""
    net = sp.zoo.upydnet()
    rows = []
    for name, (patterns, paper) in CASES.items():
        for mode, options in MODES.items():
            plan = sp.plan(net, "gap9", l2="3MB", must=patterns, may=patterns, **options)
            frozen = {"l2": "L2", "flash": "flash"}[options.get("frozen", "l2")]
            plain = differentiate(
                net,
                sp.UpdateSet(dict(plan.update)),
                sp.TrainingOptions(gradients=options.get("gradients", "fused"), frozen=frozen),
            )
            done = run(plan)
            good = done.bitwise_equal and done.guard_intact and done.touched_bytes == done.claimed_bytes
            rows.append(
                [name, mode, paper, analyse(plain).peak(), plan.lower_bound_bytes["L2"], plan.peak_bytes["L2"],
                 "yes" if good else "NO"]
            )  # fmt: skip
    header = ("updated", "mode", "paper", "masks kept B", "least B", "placed B", "executed")
    return table(header, rows, [False, False, True, True, True, True, False])


def proof_table() -> str:
    """All 34 parameter tensors open, with fractions: seconds until the optimum is proven."""
    net = sp.zoo.upydnet()
    rows = []
    for budget in ("560kB", "600kB", "700kB", "800kB", "900kB", "1MB", "1.2MB"):
        began = time.perf_counter()
        plan = sp.plan(net, "gap9", l2=budget, time_limit=120.0)
        seconds = time.perf_counter() - began
        rows.append([budget, plan.status, plan.objective, plan.bound, plan.peak_bytes.get("L2", 0), f"{seconds:.2f}"])
    return table(("L2 budget", "status", "value", "bound", "placed B", "seconds"), rows)


def zoo_table() -> str:
    """Every network of the zoo, halfway between the least and the full update."""
    rows = []
    for name in sorted(sp.zoo.NETWORKS):
        net = sp.zoo.get(name)
        full = sp.plan(net, l2="1GB", must=["*"])
        least = sp.plan(net, l2="1GB", never=["*"])
        budget = (full.peak_bytes["L2"] + least.peak_bytes["L2"]) // 2
        began = time.perf_counter()
        plan = sp.plan(net, l2=budget, time_limit=120.0)
        seconds = time.perf_counter() - began
        rows.append([name, len(net.ops), len(net.parameters), least.peak_bytes["L2"], budget, full.peak_bytes["L2"],
                     plan.status, f"{seconds:.2f}"])  # fmt: skip
    header = ("network", "ops", "tensors", "no update B", "budget B", "full update B", "status", "seconds")
    return table(header, rows)


def main() -> None:
    print(f"sparseplan {sp.__version__}, ortools {ortools.__version__}, Python {platform.python_version()}\n")
    for title, make in (
        ("uPyD-Net, bf16, batch 1, SGD: bytes of main memory", bytes_table),
        ("uPyD-Net on GAP9, every parameter tensor and fraction open (value: elements updated)", proof_table),
        ("the zoo, bf16, every choice open", zoo_table),
    ):
        print(f"{title}\n{make()}\n", flush=True)


if __name__ == "__main__":
    main()
