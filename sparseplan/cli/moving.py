"""Commands that bring networks in and take plans out."""

from __future__ import annotations

import argparse
import json
from typing import Any

from sparseplan.atomic import together
from sparseplan.cli.common import origin_of, plan_weights_of, show, verified, writable
from sparseplan.errors import PlanError
from sparseplan.importers.spec import to_dict
from sparseplan.inspection import inspect_rows
from sparseplan.jsonio import dump
from sparseplan.plan import Plan
from sparseplan.planfile import read_plan
from sparseplan.tables import table

#: what plans can be written as
TARGETS = ("c", "torch", "json")


def import_(args: argparse.Namespace) -> int:
    """A network from outside, as a spec and an npz."""
    writable(args.out, args.weights_out)
    found = origin_of(args)
    net = found.network
    if args.weights_out and not found.weights:
        raise PlanError(f"weights_out={args.weights_out!r}: {args.network!r} comes without parameters; drop it")
    costs = inspect_rows(net)
    kinds: dict[str, int] = {}
    for op in net.ops:
        kinds[op.kind] = kinds.get(op.kind, 0) + 1
    opaque = sorted({str(op.attrs["type"]) for op in net.ops if op.kind == "opaque"})
    data: dict[str, Any] = {
        "network": net.name, "ops": len(net.ops), "parameters": sum(r["parameters"] for r in costs),
        "macs_forward": sum(r["macs_forward"] for r in costs),
        "inputs": {t: list(net.tensor[t].shape) for t in net.inputs},
        "outputs": {t: list(net.tensor[t].shape) for t in net.outputs},
        "kinds": dict(sorted(kinds.items())), "frozen_kinds": opaque, "notes": list(found.notes),
    }  # fmt: skip
    with together() as files:
        if args.out:
            files.text(args.out, dump(to_dict(net)))
        if args.weights_out:
            files.npz(args.weights_out, dict(found.weights))
    facts = [
        ["ops", f"{data['ops']:,}"], ["parameters", f"{data['parameters']:,}"],
        ["MACs forward", f"{data['macs_forward']:,}"],
        ["inputs", "; ".join(f"{t} {tuple(s)}" for t, s in data["inputs"].items())],
        ["outputs", "; ".join(f"{t} {tuple(s)}" for t, s in data["outputs"].items())],
        ["kinds", ", ".join(f"{n} {k}" for k, n in data["kinds"].items())],
        ["known by shape alone", ", ".join(opaque) or "none"],
    ]  # fmt: skip
    show(args, data, table(("network", net.name), facts, [False, False]))
    return 0


def export(args: argparse.Namespace) -> int:
    """A plan as something to build on."""
    plan = read_plan(args.plan)
    if args.to == "json":
        from sparseplan.exporters import json as plan_json

        plan_json.export(plan, args.out)
        show(args, {"to": "json", "files": [args.out]}, f"wrote {args.out}")
        return 0
    if not plan.feasible:
        raise PlanError(f"plan {args.plan!r} has status {plan.status}: there is nothing to export")
    if args.to == "torch":
        from sparseplan.exporters import pytorch

        layouts = None
        if args.network is not None:
            layouts = dict(origin_of(args).layouts)
        pytorch.export(verified(plan, args.plan), args.out, layouts=layouts)
        show(args, {"to": "torch", "files": [args.out]}, f"wrote {args.out}; call its apply(module) before training")
        return 0
    return _export_c(args, plan)


def _export_c(args: argparse.Namespace, plan: Plan) -> int:
    from sparseplan.exporters import c

    weights, origin = plan_weights_of(args, plan)
    made = c.export(plan, weights, args.out, name=args.name, lr=args.lr)
    files = [str(p) for p in made.files]
    data = {"to": "c", "files": files, "arena_bytes": dict(plan.peak_bytes), "weights": origin}
    sizes = ", ".join(f"{level} {n:,} B" for level, n in plan.peak_bytes.items())
    show(args, data, f"wrote {', '.join(files)}\narena: {sizes}\nparameters: {origin}")
    return 0


def schema(args: argparse.Namespace) -> int:
    """The published JSON schema."""
    from sparseplan.exporters import json as plan_json

    print(json.dumps(plan_json.schema(args.of), indent=2))
    return 0
