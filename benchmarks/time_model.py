"""What the model of time and energy says of the paper's fine-tuning, beside what the paper reports.

arXiv 2512.00086 fine-tunes uPyD-Net on GAP9 (decoder 0 and its upsampler updated) with 3 k samples in
17.8 minutes, at about 300 mW for the whole node: camera, depth sensor and GAP9. It could not be found
which clock, how many epochs and which batch that was, and whether the time holds more than training.
So the model is shown for several numbers of epochs, one sample a run.

No source was found for GAP9's MACs a cycle in bfloat16 by op and pass. The rates here are averages and
peaks that others published for PULP clusters (``benchmarks/rates/gap9-trainlib.toml`` and ``RATES``),
taken for every op and pass. Give ``--rates mine.toml`` for a table of your own.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import sparseplan as sp
from sparseplan.costs import PlanCosts, plan_costs
from sparseplan.device import Device, MacRate, load_device
from sparseplan.report import tile_text, time_text
from sparseplan.tables import table

BLOCK = ("decoder0.*", "ups0.*")
TABLE = Path(__file__).parent / "rates" / "gap9-trainlib.toml"
SAMPLES, MINUTES, NODE_WATTS = 3000, 17.8, 0.3
#: published MACs a cycle of training on PULP clusters
RATES = {
    0.81: "FP16, DS-CNN's whole training, average (arXiv 2305.19167)",
    3.11: "FP16, ResNet8's whole training, average (arXiv 2305.19167)",
    4.39: "best layer of PULP-TrainLib, 8 cores (SAMOS 2022, 10.1007/978-3-031-15074-6_13)",
}


def costs_on(plan: sp.Plan, device: Device) -> PlanCosts:
    """A plan's costs by another table of rates; its memories stay those that it was planned for."""
    return plan_costs(replace(plan, problem=replace(plan.problem, device=device)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=Path, help="a TOML device with rates of your own")
    parser.add_argument("--tiles", action="store_true", help="also show each pass in L1")
    args = parser.parse_args()
    device = load_device(args.rates or TABLE)
    plan = sp.plan(sp.zoo.upydnet(), device, may=BLOCK, must=BLOCK)
    costs = costs_on(plan, device).require()
    print(f"uPyD-Net, decoder 0 and its upsampler, bf16, one sample a run, rates of {device.name}")
    print(f"{plan.macs['forward']:,} MACs forward, {plan.macs['backward']:,} backward a sample")
    print(time_text(costs))
    if args.tiles:
        print("\n" + tile_text(plan))

    known = (
        {} if args.rates else {r: replace(device, mac_rates=(MacRate("*", "*", "*", r, s),)) for r, s in RATES.items()}
    )
    rows = []
    for rate, varied in (known or {0.0: device}).items():
        one = costs_on(plan, varied)
        for epochs in (1, 2, 3, 5):
            whole = one.for_training(SAMPLES, epochs)
            minutes = (whole.seconds or 0.0) / 60
            rows.append([RATES.get(rate, device.name), rate or None, epochs, minutes, f"{minutes / MINUTES:.2f}×",
                         whole.joules, NODE_WATTS * (whole.seconds or 0.0)])  # fmt: skip
    rows.append(["paper, whole pipeline", None, "not told", MINUTES, "1", None, NODE_WATTS * MINUTES * 60])
    header = ("rates", "MAC/cycle", "epochs", "minutes", "of the paper's", "J of GAP9", "J of the node at 300 mW")
    print(f"\n{SAMPLES:,} samples")
    print(table(header, rows, [False] + [True] * 6))
    macs = sum(plan.macs.values())
    clock = device.clock_hz or 0.0
    implied = ", ".join(f"{macs * SAMPLES * n / (MINUTES * 60 * clock):.2f} for {n}" for n in (1, 2, 3, 5))
    print(
        f"17.8 minutes at {clock / 1e6:g} MHz would be so many MACs a cycle, by epochs, everything counted: {implied}"
    )


if __name__ == "__main__":
    main()
