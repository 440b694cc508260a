"""What PyTorch keeps from forward for backward, beside what a plan keeps, for every network of the zoo.

Definitions, in float32, one sample:

* *PyTorch saves*: bytes of the distinct storages that autograd saves while the module runs, input included where it
  is saved; parameters, buffers, and what only the loss saves do not count (``exporters.pytorch.saved_bytes``). The
  module is the network op by op, activations not in place, with ``requires_grad`` as the plan's update set says.
* *Plan holds*: bytes of inputs, activations and auxiliary tensors (masks, indices) that the plan's schedule computes
  before the loss and reads after it: what is alive in main memory at the loss beyond its own operands.
* *Plan's peak*: the arena that the plan needs for the whole step, all parameters in it. No such figure of PyTorch is
  given, as its peak depends on its allocator.

The planned set is the most valuable one (by number of elements) in half of what the full update takes, or in the
fewest bytes that do where the forward pass alone takes more than that half.
A case that fails is told and not dropped; then the exit status is 1.

    python benchmarks/torch_saved.py [--networks upydnet resnet8] [--seconds 20]
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

import sparseplan
from sparseplan import api, zoo
from sparseplan.builder import init_parameters
from sparseplan.exporters import pytorch
from sparseplan.network import Network
from sparseplan.ops import infos
from sparseplan.plan import Plan
from sparseplan.steps import MAIN, by_default, reached_by_gradient
from sparseplan.tables import table

#: roles of values that are there for backward
HELD = ("input", "activation", "auxiliary", "packed")


@dataclass(frozen=True)
class Row:
    """One update set of one network."""

    network: str
    update: str
    elements: int
    torch: int
    held: int
    peak: int
    status: str


def held(plan: Plan) -> int:
    """Bytes alive at the loss that were made before it and are read after it."""
    at = next(i for i, s in enumerate(plan.steps) if s.kind == "loss")
    roles = {v.name: v.role for v in plan.values}
    return sum(
        b.bytes for b in plan.buffers if b.level == MAIN and roles[b.value] in HELD and b.start < at and b.stop > at + 1
    )


def sets_of(net: Network) -> dict[str, tuple[str, ...]]:
    """Update sets by name, as parameters."""
    reached = reached_by_gradient(net, infos(net))
    able = [p for p in net.parameters if by_default(net, reached, p)]
    layers = list(dict.fromkeys(net.owner[p][0].name for p in able))
    last = set(layers[-max(1, len(layers) // 4) :])
    found = {
        "all": tuple(able),
        "last quarter of layers": tuple(p for p in able if net.owner[p][0].name in last),
        "biases": tuple(p for p in able if net.owner[p][1] == "bias"),
    }
    if net.name == "upydnet":
        found["decoder 0 and its upsampler"] = tuple(p for p in able if p.startswith(("decoder0.", "ups0.")))
    return {name: chosen for name, chosen in found.items() if chosen}


def torch_saves(net: Network, plan: Plan, loss: str) -> int:
    """Bytes that PyTorch saves for the plan's update set."""
    module = pytorch.module_of(net, init_parameters(net, 0))
    handle = pytorch.apply(plan, module)
    rng = np.random.default_rng(0)
    x = []
    for name in net.inputs:
        t = net.tensor[name]
        whole = t.dtype == "i32"
        x.append(torch.from_numpy(
            rng.integers(0, 2, (1, *t.shape)) if whole else rng.random((1, *t.shape), np.float32)
        ))  # fmt: skip
    shape = net.tensor[net.outputs[0]].shape
    target = torch.zeros(1, dtype=torch.long) if loss == "cross_entropy" else torch.zeros(1, *shape)
    first = (lambda y: y[0]) if len(net.outputs) > 1 else (lambda y: y)
    function = F.cross_entropy if loss == "cross_entropy" else F.l1_loss
    bytes_ = pytorch.saved_bytes(module, lambda y, t: function(first(y), t), tuple(x), target)
    handle.remove()
    return bytes_


def rows_of(net: Network, seconds: float) -> Iterator[Row]:
    """All update sets of a network."""
    loss = "cross_entropy" if len(net.tensor[net.outputs[0]].shape) == 1 and net.name != "autoencoder" else "l1"

    def row(name: str, plan: Plan) -> Row:
        if not plan.feasible:
            raise RuntimeError(f"{name}: {plan.status}: {plan.reason.message if plan.reason else 'no plan in time'}")
        return Row(
            net.name, name, _elements(net, plan), torch_saves(net, plan, loss), held(plan), plan.peak_bytes[MAIN],
            plan.status,
        )  # fmt: skip

    full = 0
    for name, chosen in sets_of(net).items():
        names = [_literal(p) for p in chosen]
        plan = api.plan(net, must=names, may=names, dtype="fp32", loss=loss, time_limit=seconds)
        yield row(name, plan)
        full = full or plan.peak_bytes[MAIN]
    plan = api.plan(net, l2=full // 2, dtype="fp32", loss=loss, time_limit=seconds)
    label = "planned, half the peak"
    if plan.reason and plan.reason.fewest_bytes:
        plan = api.plan(net, l2=plan.reason.fewest_bytes, dtype="fp32", loss=loss, time_limit=seconds)
        label = f"planned, {plan.peak_bytes[MAIN] / full:.0%} of the peak" if plan.feasible else label
    yield row(label, plan)


def _literal(name: str) -> str:
    """A pattern that matches one name."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _elements(net: Network, plan: Plan) -> int:
    cuts: Mapping[str, tuple[int | None, int | None]] = {r[0]: (r[2], r[3]) for r in pytorch.table(plan)}
    total = 0
    for name, (axis, keep) in cuts.items():
        t = net.tensor[name]
        total += t.elements if axis is None or keep is None else t.elements // t.shape[axis] * keep
    return total


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 where a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(zoo.NETWORKS), choices=list(zoo.NETWORKS))
    parser.add_argument("--seconds", type=float, default=60.0, help="limit of each plan")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"sparseplan {sparseplan.__version__}, PyTorch {torch.__version__}, Python {platform.python_version()}")
    print("float32, one sample, bytes\n")
    failures = []
    lines: list[list[str]] = []
    for name in args.networks:
        try:
            for r in rows_of(zoo.get(name), args.seconds):
                lines.append([r.network, r.update, f"{r.elements:,}", f"{r.torch:,}", f"{r.held:,}",
                              f"{r.torch / r.held:.1f}" if r.held else "-", f"{r.peak:,}", r.status])  # fmt: skip
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {error}")
    head = ["network", "updated", "elements", "PyTorch saves", "plan holds", "ratio", "plan's peak", "status"]
    print(table(head, lines, [False, False, True, True, True, True, True, False]))
    for text in failures:
        print(f"failed: {text}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
