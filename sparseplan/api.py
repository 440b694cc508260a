"""The everyday calls: ``plan``, ``verify``, ``run``, on names, paths or objects."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from sparseplan.device import Device, custom, load_device
from sparseplan.errors import InternalError, ProblemError
from sparseplan.jsonio import MAX_BYTES, Node, load
from sparseplan.objective import LossLike, parse_losses
from sparseplan.plan import Plan
from sparseplan.problem import (
    INT8_PRICE,
    SAVINGS,
    Problem,
    Term,
    resolve_choices,
    resolve_ties,
    resolve_values,
    savings_lacking,
)
from sparseplan.scalars import plain_arguments
from sparseplan.solve.clock import Limits
from sparseplan.solve.search import solve
from sparseplan.sources import Source, imported
from sparseplan.steps import FRACTIONS, MAIN, TrainingOptions
from sparseplan.value.valuefile import ValueTable, from_json, is_value_file
from sparseplan.verify import verify

#: seconds for one plan where no limit is given, here and on the command line
TIME_LIMIT = 120.0

ValuesLike = Mapping[str, Any] | ValueTable | str | os.PathLike[str] | None
_FROZEN = {"l2": "L2", "l3": "L3", "flash": "flash"}


def read_values(path: str | os.PathLike[str]) -> dict[str, Any] | ValueTable:
    """Values from a CSV (columns ``parameter, value`` and perhaps ``fraction``), a JSON object, or a value file.

    Raises:
        ProblemError: unreadable, malformed, or a row that is no number; names it.
    """
    where = f"values {os.fspath(path)!r}"
    if not os.fspath(path).endswith(".csv"):
        data = load(path, "values", ProblemError)
        if is_value_file(data):
            return from_json(data, where)
        root = Node(data, where, ProblemError)
        result: dict[str, Any] = {}
        for key, node in root.members(1_000_000):
            if isinstance(node.value, Mapping):
                result[key] = {_fraction(f, f"{where}: {key}"): n.number() for f, n in node.members(64)}
            else:
                result[key] = node.number()
        return result
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ProblemError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > MAX_BYTES:
        raise ProblemError(f"{where} is longer than {MAX_BYTES:,} bytes")
    try:
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise ProblemError(f"{where} is not CSV: {error}") from None
    found: dict[str, Any] = {}
    for number, row in enumerate(rows, start=2):
        name, value = row.get("parameter"), row.get("value")
        if name is None or value is None:
            raise ProblemError(f"{where}: line {number} lacks parameter or value; the header must name both")
        try:
            worth = float(value)
        except ValueError:
            raise ProblemError(f"{where}: line {number}: value={value!r} is no number") from None
        if row.get("fraction"):
            table = found.setdefault(name, {})
            if not isinstance(table, dict):
                raise ProblemError(f"{where}: line {number}: {name!r} is given both with and without fraction")
            table[_fraction(str(row["fraction"]), f"{where}: line {number}")] = worth
        elif name in found:
            raise ProblemError(f"{where}: line {number}: parameter {name!r} is given twice")
        else:
            found[name] = worth
    return found


def _fraction(text: str, where: str) -> float:
    top, slash, bottom = text.partition("/")
    try:
        return float(top) / float(bottom) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise ProblemError(f"{where}: fraction={text!r} is no number such as 0.25 or 1/4") from None


@plain_arguments
def problem(
    net: Source,
    device: Device | str | os.PathLike[str] | None = None,
    *,
    l1: str | int | None = None,
    l2: str | int | None = None,
    dtype: str = "bf16",
    batch: int = 1,
    optimizer: str = "sgd",
    gradients: str = "fused",
    frozen: str = "l2",
    alignment: int | None = None,
    concat: str = "split",
    loss: LossLike | Sequence[LossLike] | Mapping[str, str] = "l1",
    loss_attrs: Mapping[str, Any] | None = None,
    values: ValuesLike = None,
    may: Sequence[str] = (),
    must: Sequence[str] = (),
    never: Sequence[str] = (),
    fractions: Iterable[float] = FRACTIONS,
    max_macs: int | None = None,
    terms: Sequence[Term] = (),
    together: Iterable[Sequence[str] | str] = (),
    savings: Sequence[str] | str = (),
    int8_price: float = INT8_PRICE,
    max_seconds: float | None = None,
    max_joules: float | None = None,
) -> Problem:
    """A planning problem from names, paths and patterns; see ``plan`` for the arguments."""
    source = imported(net)
    found = source.network
    target = custom(l1=l1, l2=l2) if device is None else load_device(_device(device)).with_budget(l1=l1, l2=l2)
    if alignment is not None:
        target = target.with_budget(alignment=alignment)
    level = _FROZEN.get(str(frozen).lower())
    if level is None:
        raise ProblemError(f"frozen={frozen!r} must be l2, l3 or flash")
    if level != MAIN and not target.has(level):
        have = ", ".join(v.name for v in target.levels if v.name != "L1")
        raise ProblemError(f"frozen={frozen!r}: device {target.name!r} has no {level}; it has {have}")
    kind, losses = parse_losses(loss, loss_attrs or {}, found, source.outputs)
    options = TrainingOptions(
        dtype, batch, optimizer, gradients, level, target.level(MAIN).alignment, kind, dict(loss_attrs or {}), concat,
        losses,
    )  # fmt: skip
    choices, least = resolve_choices(
        found, _texts(may), _texts(must), _texts(never), fractions, source.fixed, options.loss_outputs(found)
    )
    given = read_values(values) if isinstance(values, (str, os.PathLike)) else values
    more, ties = tuple(terms), resolve_ties(found, choices, map(_texts, together))
    if isinstance(given, ValueTable):
        given.check(found, choices)
        more += given.terms
        ties += resolve_ties(found, choices, given.ties)
        given = given.values
    worth = resolve_values(found, choices, given)
    if savings == "all" or tuple(savings) == ("all",):
        lacking = savings_lacking(target, batch, concat)
        savings = tuple(name for name in SAVINGS if name not in lacking)
    return Problem(found, target, options, choices, least, worth, max_macs, more, ties, _texts(savings),
                   int8_price, max_seconds, max_joules, source.origin)  # fmt: skip


def _device(device: Device | str | os.PathLike[str]) -> Device | str | Path:
    return device if isinstance(device, (Device, str)) else Path(device)


def _texts(patterns: Sequence[str] | str) -> tuple[str, ...]:
    """One pattern or several; a lone string is not taken apart into letters."""
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def limits_of(time_limit: float | None, seed: int) -> Limits:
    """Limits from what a caller gives: None and infinity are no limit of time.

    Raises:
        ProblemError: a limit or seed that is none.
    """
    if time_limit is None or time_limit == math.inf:
        return Limits(None, seed)
    if isinstance(time_limit, bool) or not isinstance(time_limit, Real) or not time_limit >= 0:
        raise ProblemError(f"time_limit={time_limit!r} is no number of seconds; give one >= 0, or None for no limit")
    return Limits(float(time_limit), seed)


@plain_arguments
def plan(
    net: Source | Problem,
    device: Device | str | os.PathLike[str] | None = None,
    *,
    time_limit: float | None = TIME_LIMIT,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Plan:
    """The best plan, verified.

    Args:
        net: a Network or what an importer gave, a name of the zoo, a path to a spec or an ONNX file,
            ``package.module:function``, or a Problem (then nothing else but
            limits may be given).
        device: a preset's name, a path to a TOML file, a Device, or None for plain budgets.
        time_limit: wall-clock seconds, after which the best plan so far is returned with its gap; None (or infinity)
            searches until the optimum is proven.
        seed: same inputs and seed, same plan (unless the time limit cut it short).
        progress: called with a line of text at each stage.
        options: as of ``problem``: l1, l2 (budgets: bytes or "1.2MB"); dtype; batch; optimizer;
            gradients "fused" or "accumulate"; frozen "l2", "l3" or "flash"; alignment; concat "split"
            (kernels read it in parts) or "adjoin"; loss (on the first output, such as "mse"; or several, as
            ``{"logits": "cross_entropy", "box": "0.5*l1"}``, texts such as "box=0.5*l1", or ``Loss``es, whose
            weighted sum is minimised), loss_attrs (of the one loss);
            values (mapping, ValueTable, CSV or JSON file; None counts updated elements); may, must, never
            (name patterns, with ``@1/4`` for a fraction); fractions; max_macs; terms (worth beyond the sum);
            together (groups of name patterns that are updated together); savings (what may be done to hold
            less: "recompute" forward ops in the backward phase, "page" tensors to L3 and back and have accumulators
            there, "stream" frozen parameters from flash, save inputs in 8 bits with "int8", run groups of ops in
            "stripes", "order" steps anew once all else is decided; or "all" that
            the device can do); int8_price (share of its value that an update
            from an 8-bit input loses); max_seconds, max_joules (of one run, by the device's tables).

    Raises:
        SparseplanError: bad input. An infeasible problem is no error: see ``Plan.status``.
    """
    if isinstance(net, Problem):
        if device is not None or options:
            raise ProblemError("a Problem already says everything; give no device or options beside it")
        asked = net
    else:
        asked = problem(net, device, **options)
    limits = limits_of(time_limit, seed).told(progress)
    if limits.seconds is not None:
        limits.say(f"searching for up to {limits.seconds:g} s")
    answer = solve(asked, limits)
    if found := verify(asked, answer):
        raise InternalError(f"the verifier rejects the plan, a bug in sparseplan: {found[0]}")
    return answer
