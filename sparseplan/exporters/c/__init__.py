"""A plan as C: one source file and its header, that train in exactly the planned bytes.

``export`` writes ``<name>.h`` and ``<name>.c``. See docs/c-export.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from sparseplan.atomic import together
from sparseplan.builder import check_parameters
from sparseplan.errors import ExportError
from sparseplan.exporters.c.calls import Call
from sparseplan.exporters.c.lowering import MOST_FLOAT, Hyper, Lowering
from sparseplan.exporters.c.storage import encoded
from sparseplan.exporters.c.text import Argument, Parameter, Program, header, identifier, source
from sparseplan.objective import TARGET
from sparseplan.plan import Plan
from sparseplan.scalars import plain_arguments
from sparseplan.verify import verify

__all__ = ["CExport", "export", "generate"]
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
#: headers of C's library: with the folder on the include path, a file of that name would be read instead
_HEADERS = {
    "assert", "complex", "ctype", "errno", "fenv", "float", "inttypes", "iso646", "limits", "locale", "math",
    "setjmp", "signal", "stdalign", "stdarg", "stdatomic", "stdbool", "stddef", "stdint", "stdio", "stdlib",
    "stdnoreturn", "string", "tgmath", "threads", "time", "uchar", "wchar", "wctype",
}  # fmt: skip
#: what tables can number
_MOST_STEPS, _MOST_BYTES = 2**16 - 1, 2**32 - 1


@dataclass(frozen=True)
class CExport:
    """What was generated.

    Attributes:
        header, source: the texts of both files.
        ram_bytes: of each level that is written; the compiled object has exactly these in .data and .bss.
        constant_bytes: parameters as they begin, and those that stay in flash; tables and code come on top.
        files: where the texts were written; empty where they were not.
    """

    name: str
    header: str = field(repr=False)
    source: str = field(repr=False)
    ram_bytes: Mapping[str, int]
    constant_bytes: int
    files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "ram_bytes", MappingProxyType(dict(self.ram_bytes)))


@plain_arguments
def export(
    plan: Plan,
    parameters: Mapping[str, npt.NDArray[Any]],
    folder: str | os.PathLike[str],
    *,
    name: str = "sparseplan",
    lr: float = 0.01,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> CExport:
    """Write a plan's training step as C99 to ``folder/name.h`` and ``folder/name.c``; the folder is made.

    Args:
        parameters: all of the network's, to begin with.
        name: of the files, and prefix of all that the header declares.
        lr: the learning rate that the header suggests; every call may take another.
        momentum, betas, eps, weight_decay: of the plan's optimizer, compiled in.

    Raises:
        ExportError: a plan without a schedule or that ``verify`` refuses, an op or loss without a C
            kernel, hyper-parameters out of range. Nothing is written then.
        DataError: parameters that are not the network's.
        OutputError: files that cannot be written.
    """
    made = generate(
        plan, parameters, name=name, lr=lr, momentum=momentum, betas=betas, eps=eps, weight_decay=weight_decay
    )
    with together() as written:
        where = written.folder(folder)
        files = (where / f"{name}.h", where / f"{name}.c")
        for path, text in zip(files, (made.header, made.source), strict=True):
            written.text(path, text)
    return CExport(name, made.header, made.source, made.ram_bytes, made.constant_bytes, files)


@plain_arguments
def generate(
    plan: Plan,
    parameters: Mapping[str, npt.NDArray[Any]],
    *,
    name: str = "sparseplan",
    lr: float = 0.01,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> CExport:
    """As ``export``, without writing files."""
    if not plan.feasible:
        raise ExportError(f"plan with status={plan.status} has nothing to export")
    if not _NAME.fullmatch(name):
        raise ExportError(f"name={name!r} is no C identifier; give letters, digits and _, beginning with a letter")
    if name.lower() == "sp" or name.lower().startswith("sp_"):
        raise ExportError(f"name={name!r} begins as the names inside of the generated file do; give another")
    if name.lower() in _HEADERS:
        raise ExportError(f"name={name!r}: {name}.h would hide <{name.lower()}.h> of the C library; give another")
    if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not 0 <= lr <= MOST_FLOAT:
        raise ExportError(f"lr={lr!r} must be a number, at least 0 and at most {MOST_FLOAT:.4g}")
    hyper = Hyper(momentum, betas, eps, weight_decay)
    check_parameters(plan.network, parameters)
    findings = verify(plan.problem, plan)
    if findings:
        raise ExportError(f"the plan is not valid: {findings[0]}; plan anew")
    program = _program(plan, parameters, name, lr, hyper)
    constant = sum(len(data) for _, _, data in program.images) + len(program.flash)
    ram = {level: program.sizes[level] for level in program.ram}
    return CExport(name, header(program), source(program), ram, constant)


def _program(plan: Plan, parameters: Mapping[str, npt.NDArray[Any]], name: str, lr: float, hyper: Hyper) -> Program:
    lowering = Lowering(plan, hyper)
    places, steps, network = lowering.places, plan.steps, plan.network
    arrivals = lowering.arrivals()
    calls: list[tuple[int, Call]] = []
    last = len(steps)
    if plan.problem.options.gradients == "accumulate":
        last = next((i for i, s in enumerate(steps) if s.kind == "update"), len(steps))
    updates = None
    shown = _parameters(plan, lowering)
    number = {q.name: k for k, q in enumerate(shown)}
    gradients: list[tuple[int, int, int]] = []
    for i, found in enumerate(lowering.calls()):
        if i == last:
            updates = len(calls)
        calls += [(i, c) for c in (*arrivals.get(i, ()), *found)]
        if steps[i].kind == "grad_param":
            value = lowering.values[steps[i].write("dp").spans[0].value]
            gradients.append((len(calls) - 1, number[value.tensor], value.bytes))
    ends: dict[str, int] = {}
    for b in plan.buffers:
        ends[b.level] = max(ends.get(b.level, 0), b.end)
    for what, count, most in [("steps", len(steps), _MOST_STEPS), *((n, end, _MOST_BYTES) for n, end in ends.items())]:
        if count > most:
            raise ExportError(f"{what}={count:,} is beyond the {most:,} that C tables number")
    images: list[tuple[str, int, bytes]] = []
    sums: list[tuple[str, int, int]] = []
    flash = bytearray(ends.get("flash", 0))
    for v in plan.values:
        if not v.persistent:
            continue
        level, offset = places.home(v.name)
        if v.role == "accumulator":
            sums.append((level, offset, v.bytes))
        if v.role != "parameter":
            continue
        data = encoded(np.asarray(parameters[v.tensor]), v.dtype, v.scale, f"parameter {v.tensor!r}")
        if level == "flash":
            flash[offset : offset + len(data)] = data
        else:
            images.append((level, offset, data))
    used = {"init", "step", "update", "read", "memory", "trace", "lr", "number", "data", "e"}
    arguments = []
    for tensor in (*network.inputs, *lowering.targets):
        text = f"in_{identifier(tensor)}"
        if tensor in lowering.targets:
            text = "target" if tensor == TARGET else f"target_{identifier(lowering.targets[tensor])}"
        while text.lower() in used:  # macros are in upper case
            text += "_"
        used.add(text.lower())
        arguments.append(Argument(tensor, text, tensor in lowering.values and lowering.values[tensor].dtype == "i32"))
    arguments = [a for a in arguments if a.tensor in lowering.values]
    return Program(
        name, plan, dict(sorted(ends.items())), tuple(arguments), shown, tuple(calls),
        len(calls) if updates is None else updates, tuple(gradients), tuple(images), bytes(flash), tuple(sums), lr,
    )  # fmt: skip


def _parameters(plan: Plan, lowering: Lowering) -> tuple[Parameter, ...]:
    """Parameters that the plan holds, in the network's order."""
    held = {v.tensor: v for v in plan.values if v.role == "parameter"}
    keeps = {plan.network.op[s.op].params[s.target]: s for s in plan.steps if s.kind == "update"}
    found = []
    for name in plan.network.parameters:
        if name not in held:
            continue
        v = held[name]
        step = keeps.get(name)
        axis, kept, of = 0, 0, v.shape[0] if v.shape else 1
        if step is not None:
            kept = of
            grad = step.read("grad").shape
            if step.keep is not None:
                axis = next((i for i, (m, n) in enumerate(zip(grad, v.shape, strict=True)) if m != n), 0)
                kept, of = grad[axis], v.shape[axis]
        found.append(Parameter(name, lowering.places.value(v.name), step is not None, axis, kept, of))
    return tuple(found)
