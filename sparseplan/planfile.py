"""Plans as JSON: versioned, validated on the way in, the same bytes for the same plan.

A plan file holds its problem (network, device, options, choices, values), so that it can be
verified and executed by itself. Schema: see ``docs/plan-format.md``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from sparseplan.atomic import together, write_text
from sparseplan.builder import check_parameters
from sparseplan.device import Device, DmaRate, Level, MacRate
from sparseplan.errors import PlanError, SparseplanError
from sparseplan.importers import spec
from sparseplan.jsonio import Node, dump, load
from sparseplan.objective import Loss
from sparseplan.origin import Origin, weights_sha256
from sparseplan.plan import Infeasibility, PlacedBuffer, Plan, PlannedTile
from sparseplan.problem import INT8_PRICE, SAVINGS, Problem
from sparseplan.rates import tables_from_node, tables_to_data
from sparseplan.steps import Arg, Box, Span, Step, TrainingOptions, Value
from sparseplan.stripes import Stripes
from sparseplan.terms import term_from_node, term_to_dict
from sparseplan.version import __version__

#: written; version 1 had neither terms nor ties, version 2 no savings (recomputed and paged tensors), version 3 no
#: origin of the weights, and one loss alone
VERSION = 4
READABLE = (1, 2, 3, 4)
MOST = 200_000
T = TypeVar("T")

STEP_KINDS = (
    "forward", "loss", "aux", "grad_param", "grad_input", "update", "recompute", "page_out", "page_in", "pack",
)  # fmt: skip
ROLES = (
    "input", "activation", "auxiliary", "target", "gradient",
    "parameter", "parameter gradient", "accumulator", "state", "packed",
)  # fmt: skip
STATUSES = ("OPTIMAL", "FEASIBLE", "INFEASIBLE", "UNKNOWN")
LEVELS = ("L1", "L2", "L3", "flash")
DTYPES = ("fp32", "fp16", "bf16", "int8", "u8", "i32", "bit")


def write_plan(plan: Plan, path: str | os.PathLike[str], weights: Mapping[str, Any] | None = None) -> None:
    """Write a plan, whole or not at all. Where its weights come from is written as seen from its folder.

    Args:
        weights: of its network: written beside it (``plan.json``, ``plan.weights.npz``) and named in it, for
            networks whose weights are not found again otherwise, such as PyTorch modules.

    Raises:
        OutputError: a file cannot be written.
        DataError: weights that are not the network's.
    """
    folder = os.path.dirname(os.fspath(path))
    if weights is None:
        write_text(path, dump(plan_to_dict(plan, folder)))
        return
    check_parameters(plan.problem.network, weights)
    arrays = {p: np.ascontiguousarray(weights[p], np.float32) for p in plan.problem.network.parameters}
    beside = weights_beside(path)
    known = plan.problem.origin
    known = known or Origin("", "0" * 64)
    origin = replace(known, source=beside, sha256=weights_sha256(arrays), taken_from=known.taken_from or known.source)
    told = replace(plan, problem=replace(plan.problem, origin=origin))
    with together() as files:
        files.npz(beside, arrays)
        files.text(path, dump(plan_to_dict(told, folder)))


def weights_beside(path: str | os.PathLike[str]) -> str:
    """Where the weights of a plan file lie that are written with it."""
    return os.path.splitext(os.fspath(path))[0] + ".weights.npz"


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan file; nothing of it is trusted before ``verify``.

    Raises:
        PlanError: unreadable, malformed, or of another version; names the field.
        SparseplanError: its network, device or options are malformed.
    """
    plan = plan_from_dict(load(path, "plan", PlanError), f"plan {os.fspath(path)!r}")
    origin = plan.problem.origin
    if origin is None or not origin.is_file:
        return plan
    here = origin.seen_here(os.path.dirname(os.fspath(path)))
    return replace(plan, problem=replace(plan.problem, origin=here))


# -- out ----------------------------------------------------------------------------------------


def plan_to_dict(plan: Plan, folder: str | None = None) -> dict[str, Any]:
    """A plan as plain data; paths in it as seen from ``folder`` (default: the current one)."""
    return {
        "sparseplan": "plan",
        "version": VERSION,
        "made_by": f"sparseplan {__version__}",
        "status": plan.status,
        "objective": _number(plan.objective),
        "bound": _number(plan.bound),
        "resolution": plan.resolution,
        "update": dict(plan.update),
        "picks": dict(plan.picks),
        "peak_bytes": dict(plan.peak_bytes),
        "lower_bound_bytes": dict(plan.lower_bound_bytes),
        "macs": dict(plan.macs),
        "ties": dict(plan.ties),
        "stripes": [{"ops": list(s.ops), "rows": [list(r) for r in s.rows], "copied": list(s.copied)}
                    for s in plan.stripes],
        "method": plan.method,
        "seed": plan.seed,
        "solve_seconds": plan.solve_seconds,
        "reason": None if plan.reason is None else _reason_to_dict(plan.reason),
        "problem": problem_to_dict(plan.problem, folder),
        "values": [
            {"name": v.name, "role": v.role, "shape": list(v.shape), "dtype": v.dtype, "bytes": v.bytes,
             "tensor": v.tensor, "persistent": v.persistent, "level": v.level, "scale": v.scale, "layout": v.layout}
            for v in plan.values
        ],
        "buffers": [
            {"value": b.value, "lo": b.lo, "bytes": b.bytes, "start": b.start, "stop": b.stop, "level": b.level,
             "offset": b.offset}
            for b in plan.buffers
        ],
        "steps": [
            {"name": s.name, "kind": s.kind, "op": s.op, "target": s.target, "keep": s.keep, "macs": s.macs,
             "reads": [_arg_to_dict(a) for a in s.reads], "writes": [_arg_to_dict(a) for a in s.writes],
             "inplace": [list(p) for p in s.inplace]}
            for s in plan.steps
        ],
        "tiles": [
            {"op": t.op, "pass": t.pass_, "sizes": [list(x) for x in t.sizes], "buffers": [list(x) for x in t.buffers],
             "l1_bytes": t.l1_bytes, "dma_bytes": t.dma_bytes, "tiles": t.tiles}
            for t in plan.tiles
        ],
    }  # fmt: skip


def problem_to_dict(problem: Problem, folder: str | None = None) -> dict[str, Any]:
    """A problem as plain data; paths as of ``plan_to_dict``."""
    o, d = problem.options, problem.device
    return {
        "network": spec.to_dict(problem.network),
        "device": {
            "name": d.name, "title": d.title, "double_buffer": d.double_buffer, "clock_hz": _real(d.clock_hz),
            "levels": [
                {"name": v.name, "bytes": v.bytes, "reserved": v.reserved, "alignment": v.alignment, "source": v.source}
                for v in d.levels
            ],
            "rates": {t: [{**row, "value": float(row["value"])} for row in rows]
                      for t, rows in tables_to_data(d.rows()).items()},
            "sources": list(d.sources), "notes": d.notes,
        },
        "options": {
            "dtype": o.dtype, "batch": o.batch, "optimizer": o.optimizer, "gradients": o.gradients,
            "frozen": o.frozen, "alignment": o.alignment, "concat": o.concat, **_losses_to_dict(o),
        },
        "choices": {p: list(r) for p, r in problem.choices.items()},
        "must": dict(problem.must),
        "values": {p: [[r, v] for r, v in t.items()] for p, t in problem.values.items()},
        "max_macs": problem.max_macs,
        "terms": [term_to_dict(t) for t in problem.terms],
        "ties": [list(tie) for tie in problem.ties],
        "savings": list(problem.savings),
        "int8_price": _real(problem.int8_price),
        "max_seconds": _real(problem.max_seconds),
        "max_joules": _real(problem.max_joules),
        "origin": None if problem.origin is None else problem.origin.to_dict(folder),
    }  # fmt: skip


def _losses_to_dict(o: TrainingOptions) -> dict[str, Any]:
    if not o.losses:
        return {"loss": o.loss, "loss_attrs": dict(o.loss_attrs)}
    rows = [{"output": x.output, "kind": x.kind, "weight": x.weight, "attrs": dict(x.attrs)} for x in o.losses]
    return {"losses": rows}


def _real(x: float | None) -> float | None:
    """As it is read back: whole numbers may come from TOML or from users."""
    return None if x is None else float(x)


def _number(x: float) -> float | None:
    return x if math.isfinite(x) else None  # JSON has no infinities; status tells which


def _arg_to_dict(a: Arg) -> dict[str, Any]:
    result: dict[str, Any] = {"tag": a.tag, "shape": list(a.shape), "dtype": a.dtype,
                              "spans": [[s.value, s.lo, s.hi] for s in a.spans]}  # fmt: skip
    if a.channels is not None:
        result["channels"] = list(a.channels)
    if a.add:
        result["add"] = True
    if a.rows is not None:
        result["rows"] = list(a.rows)
    if a.boxes:
        result["boxes"] = [[*b.channels, *b.rows] for b in a.boxes]
    return result


def _reason_to_dict(r: Infeasibility) -> dict[str, Any]:
    return {"level": r.level, "step": r.step, "needed": r.needed, "available": r.available,
            "tensors": [list(t) for t in r.tensors], "fewest_bytes": r.fewest_bytes, "message": r.message}  # fmt: skip


# -- in -----------------------------------------------------------------------------------------


def plan_from_dict(data: Any, source: str = "plan") -> Plan:
    """A plan from plain data; raises PlanError naming the field that is wrong."""
    root = Node(data, source, PlanError)
    if not isinstance(data, Mapping) or data.get("sparseplan") != "plan":
        root.fail("is no plan (key sparseplan must be 'plan'); make one with `sparseplan plan`")
    if data.get("version") not in READABLE or isinstance(data.get("version"), bool):
        known = f"{', '.join(map(str, READABLE[:-1]))} and {READABLE[-1]}"
        given = repr(data.get("version"))[:40]
        raise PlanError(f"{source}: version={given}, this sparseplan reads {known}; update it or plan anew")
    root.record(
        ("sparseplan", "version", "status", "objective", "bound", "problem", "update", "picks", "peak_bytes",
         "lower_bound_bytes", "macs", "values", "buffers", "steps", "tiles"),
        ("made_by", "resolution", "ties", "method", "seed", "solve_seconds", "reason", "stripes"),
    )  # fmt: skip
    status = root["status"].choice(STATUSES)
    objective, bound = _maybe(root, "objective", Node.number), _maybe(root, "bound", Node.number)
    worst = -math.inf if status == "INFEASIBLE" else math.inf
    reason = root.get("reason")
    try:
        return Plan(
            problem=problem_from_node(root["problem"]),
            status=status,  # type: ignore[arg-type]
            objective=-math.inf if objective is None else objective,
            bound=worst if bound is None else bound,
            resolution=_maybe(root, "resolution", Node.number) or 0.0,
            update={k: n.number() for k, n in root["update"].members(MOST)},
            picks={k: n.text() for k, n in root["picks"].members(MOST)},
            steps=tuple(_step(n) for n in root["steps"].entries(MOST)),
            values=tuple(_value(n) for n in root["values"].entries(MOST)),
            buffers=tuple(_buffer(n) for n in root["buffers"].entries(MOST)),
            tiles=tuple(_tile(n) for n in root["tiles"].entries(MOST)),
            peak_bytes=_integers(root["peak_bytes"]),
            lower_bound_bytes=_integers(root["lower_bound_bytes"]),
            macs=_integers(root["macs"]),
            stripes=tuple(_stripes(n) for n in root["stripes"].entries(64)) if root.get("stripes") else (),
            ties={k: n.text() for k, n in root["ties"].members(16)} if root.get("ties") else {},
            method=_maybe(root, "method", Node.text) or "",
            seed=_maybe(root, "seed", Node.integer) or 0,
            solve_seconds=_maybe(root, "solve_seconds", Node.number) or 0.0,
            reason=None if reason is None else _reason(reason),
        )
    except SparseplanError as error:
        message = str(error)
        raise type(error)(message if message.startswith(source) else f"{source}: {message}") from None


def problem_from_node(node: Node) -> Problem:
    """A problem from plain data."""
    node.record(
        ("network", "device", "options", "choices", "must", "values"),
        ("max_macs", "terms", "ties", "savings", "int8_price", "max_seconds", "max_joules", "origin"),
    )
    options = node["options"].record(
        ("dtype", "batch", "optimizer", "gradients", "frozen", "alignment"), ("loss", "loss_attrs", "losses", "concat")
    )
    losses = options.get("losses")
    if (losses is None) == (options.get("loss") is None):
        options.fail("must have one of loss and losses")
    values = {
        p: {pair[0].number(): pair[1].number() for pair in (e.pair() for e in n.entries(64))}
        for p, n in node["values"].members(MOST)
    }
    return Problem(
        network=spec.from_dict(node["network"].value, f"{node.source}: {node['network'].path}"),
        device=_device(node["device"]),
        options=TrainingOptions(
            dtype=options["dtype"].text(), batch=options["batch"].integer(1), optimizer=options["optimizer"].text(),
            gradients=options["gradients"].text(), frozen=options["frozen"].text(),
            alignment=options["alignment"].integer(1), loss=_maybe(options, "loss", Node.text) or "",
            loss_attrs=_maybe(options, "loss_attrs", _attrs) or {},
            losses=() if losses is None else tuple(_loss(n) for n in losses.entries(1024)),
            concat=_maybe(options, "concat", Node.text) or "split",
        ),
        choices={p: tuple(e.number() for e in n.entries(64)) for p, n in node["choices"].members(MOST)},
        must={p: n.number() for p, n in node["must"].members(MOST)},
        values=values,
        max_macs=_maybe(node, "max_macs", Node.integer),
        terms=tuple(term_from_node(n) for n in node["terms"].entries(MOST)) if node.get("terms") is not None else (),
        ties=tuple(tuple(e.text() for e in n.entries(MOST)) for n in node["ties"].entries(MOST))
        if node.get("ties") is not None else (),
        savings=tuple(n.text() for n in node["savings"].entries(len(SAVINGS))) if node.get("savings") is not None
        else (),
        max_seconds=_maybe(node, "max_seconds", Node.number),
        max_joules=_maybe(node, "max_joules", Node.number),
        int8_price=node["int8_price"].number() if node.get("int8_price") is not None else INT8_PRICE,
        origin=_maybe(node, "origin", Origin.from_node),
    )  # fmt: skip


def _attrs(node: Node) -> dict[str, float]:
    return {k: n.number() for k, n in node.members(16)}


def _loss(node: Node) -> Loss:
    node.record(("output", "kind"), ("weight", "attrs"))
    weight = _maybe(node, "weight", Node.number)
    return Loss(node["output"].text(), node["kind"].text(), 1.0 if weight is None else weight,
                _maybe(node, "attrs", _attrs) or {})  # fmt: skip


def _device(node: Node) -> Device:
    node.record(
        ("name", "title", "levels", "double_buffer"),
        ("clock_hz", "mac_rates", "dma_rates", "rates", "sources", "notes"),
    )
    levels = tuple(
        Level(
            n["name"].choice(LEVELS), _maybe(n, "bytes", Node.integer), n["reserved"].integer(),
            n["alignment"].integer(1), _maybe(n, "source", _prose) or "",
        )
        for n in (e.record(("name", "bytes", "reserved", "alignment"), ("source",)) for e in node["levels"].entries(8))
    )  # fmt: skip
    rates = tables_from_node(node["rates"]) if node.get("rates") is not None else _old_rates(node)
    return Device(
        name=node["name"].text(),
        title=node["title"].text(),
        levels=levels,
        double_buffer=node["double_buffer"].boolean(),
        **rates,
        clock_hz=_maybe(node, "clock_hz", Node.number),
        sources=tuple(_prose(n) for n in node["sources"].entries(64)) if node.get("sources") else (),
        notes=_maybe(node, "notes", _prose) or "",
    )


def _old_rates(node: Node) -> dict[str, tuple[Any, ...]]:
    """The two tables of versions 1 and 2."""
    macs = tuple(
        MacRate(n["op"].text(), n["pass"].text(), n["dtype"].text(), n["value"].number())
        for n in _entries(node, "mac_rates", ("op", "pass", "dtype", "value"))
    )
    dma = tuple(
        DmaRate(n["from"].text(), n["to"].text(), n["value"].number())
        for n in _entries(node, "dma_rates", ("from", "to", "value"))
    )
    return {"mac_rates": macs, "dma_rates": dma}


def _prose(node: Node) -> str:
    """Text that may span lines."""
    if not isinstance(node.value, str) or len(node.value) > 65_536:
        node.fail("must be a string of at most 65,536 characters")
    return str(node.value)


def _entries(node: Node, key: str, keys: tuple[str, ...]) -> list[Node]:
    return [e.record(keys) for e in node[key].entries(1024)] if node.get(key) is not None else []


def _maybe(node: Node, key: str, read: Callable[[Node], T]) -> T | None:
    found = node.get(key)
    return None if found is None else read(found)


def _integers(node: Node) -> dict[str, int]:
    return {k: n.integer() for k, n in node.members(16)}


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(n.integer(1) for n in node.entries(16))


def _value(node: Node) -> Value:
    node.record(("name", "role", "shape", "dtype", "bytes", "tensor"), ("persistent", "level", "scale", "layout"))
    role: Any = node["role"].choice(ROLES)
    level = node.get("level")
    return Value(
        node["name"].text(), role, _shape(node["shape"]), node["dtype"].choice(DTYPES), node["bytes"].integer(),
        node["tensor"].text(), bool(_maybe(node, "persistent", Node.boolean)),
        "L2" if level is None else level.choice(LEVELS), _maybe(node, "scale", Node.number),
        node["layout"].choice(("chw", "hcw")) if node.get("layout") is not None else "chw",
    )  # fmt: skip


def _buffer(node: Node) -> PlacedBuffer:
    node.record(("value", "lo", "bytes", "start", "stop", "level", "offset"))
    return PlacedBuffer(
        node["value"].text(), node["lo"].integer(), node["bytes"].integer(1), node["start"].integer(),
        node["stop"].integer(), node["level"].choice(LEVELS), node["offset"].integer(),
    )  # fmt: skip


def _arg(node: Node) -> Arg:
    node.record(("tag", "shape", "dtype", "spans"), ("channels", "add", "rows", "boxes"))
    spans = []
    for e in node["spans"].entries(MOST):
        parts = e.entries(3)
        if len(parts) != 3:
            e.fail("must be [value, first byte, last byte + 1]")
        spans.append(Span(parts[0].text(), parts[1].integer(), parts[2].integer()))
    boxes = []
    for e in node["boxes"].entries(MOST) if node.get("boxes") is not None else ():
        ends = e.entries(4)
        if len(ends) != 4:
            e.fail("must be [first channel, last + 1, first row, last + 1]")
        c0, c1, r0, r1 = (n.integer() for n in ends)
        boxes.append(Box((c0, c1), (r0, r1)))
    return Arg(
        node["tag"].text(), _shape(node["shape"]), node["dtype"].choice(DTYPES), tuple(spans),
        _range(node, "channels"), bool(_maybe(node, "add", Node.boolean)), _range(node, "rows"), tuple(boxes),
    )  # fmt: skip


def _range(node: Node, key: str) -> tuple[int, int] | None:
    if node.get(key) is None:
        return None
    lo, hi = node[key].pair()
    return lo.integer(), hi.integer()


def _step(node: Node) -> Step:
    node.record(("name", "kind", "op", "target", "reads", "writes"), ("keep", "macs", "inplace"))
    kind: Any = node["kind"].choice(STEP_KINDS)
    pairs = [] if node.get("inplace") is None else [e.pair() for e in node["inplace"].entries(64)]
    return Step(
        node["name"].text(), kind, node["op"].text(), node["target"].text(),
        tuple(_arg(n) for n in node["reads"].entries(1024)), tuple(_arg(n) for n in node["writes"].entries(1024)),
        tuple((a.text(), b.text()) for a, b in pairs), _maybe(node, "keep", Node.integer),
        _maybe(node, "macs", Node.integer) or 0,
    )  # fmt: skip


def _stripes(node: Node) -> Stripes:
    node.record(("ops", "rows"), ("copied",))
    rows = tuple((a.integer(0), b.integer(0)) for a, b in (n.pair() for n in node["rows"].entries(MOST)))
    copied = tuple(n.text() for n in node["copied"].entries(MOST)) if node.get("copied") else ()
    return Stripes(tuple(n.text() for n in node["ops"].entries(MOST)), rows, copied)


def _tile(node: Node) -> PlannedTile:
    node.record(("op", "pass", "sizes", "buffers", "l1_bytes", "dma_bytes", "tiles"))
    buffers = []
    for e in node["buffers"].entries(64):
        parts = e.entries(3)
        if len(parts) != 3:
            e.fail("must be [operand, bytes of a tile, tiles held]")
        buffers.append((parts[0].text(), parts[1].integer(), parts[2].integer(1)))
    sizes = tuple((a.text(), b.integer(1)) for a, b in (e.pair() for e in node["sizes"].entries(64)))
    return PlannedTile(
        node["op"].text(), node["pass"].text(), sizes, tuple(buffers), node["l1_bytes"].integer(),
        node["dma_bytes"].integer(), node["tiles"].integer(1),
    )  # fmt: skip


def _reason(node: Node) -> Infeasibility:
    node.record(("level", "step", "needed", "available", "tensors", "message"), ("fewest_bytes",))
    tensors = tuple((a.text(), b.integer()) for a, b in (e.pair() for e in node["tensors"].entries(64)))
    return Infeasibility(
        node["level"].text(), _prose(node["step"]), node["needed"].integer(), node["available"].integer(), tensors,
        _maybe(node, "fewest_bytes", Node.integer), _prose(node["message"]),
    )  # fmt: skip
