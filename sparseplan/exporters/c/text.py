"""The two files that a plan becomes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sparseplan.exporters.c import library
from sparseplan.exporters.c.calls import Call, Tables
from sparseplan.exporters.c.views import LEVELS, TYPES, View
from sparseplan.plan import Plan

_WIDTH = 116


@dataclass(frozen=True)
class Argument:
    """An input or a target, as the step function takes it: floats, or integers."""

    tensor: str
    name: str
    integers: bool

    @property
    def declaration(self) -> str:
        return f"const {'int32_t' if self.integers else 'float'} *{self.name}"


@dataclass(frozen=True)
class Parameter:
    """A parameter where the plan holds it, and what of it is updated (of ``axis`` the first ``kept`` of ``of``)."""

    name: str
    view: View
    updated: bool
    axis: int
    kept: int
    of: int


@dataclass(frozen=True)
class Program:
    """All that is written.

    Attributes:
        calls: with the step that each belongs to.
        updates: number of the first call of the updates of a plan that accumulates, else that behind the last.
        gradients: (call, parameter, view) of the last call that makes or adds to a gradient, for traces.
        images: bytes that RAM levels hold at the start: (level, offset, data).
        flash: image of the flash level.
        sums: accumulators, as (level, offset, bytes).
        lr: the learning rate that the header suggests.
    """

    name: str
    plan: Plan
    sizes: dict[str, int]
    arguments: tuple[Argument, ...]
    parameters: tuple[Parameter, ...]
    calls: tuple[tuple[int, Call], ...]
    updates: int
    gradients: tuple[tuple[int, int, int], ...]
    images: tuple[tuple[str, int, bytes], ...]
    flash: bytes
    sums: tuple[tuple[str, int, int], ...]
    lr: float

    @property
    def accumulates(self) -> bool:
        return self.plan.problem.options.gradients == "accumulate"

    @property
    def numbered(self) -> bool:
        """Whether updates are told their number."""
        return self.plan.problem.options.optimizer == "adam"

    @property
    def ram(self) -> list[str]:
        return [level for level in self.sizes if level != "flash"]


def identifier(text: str) -> str:
    """``text`` as (part of) a C identifier."""
    return re.sub(r"\W", "_", text, flags=re.ASCII)


def float_literal(x: float) -> str:
    """A C constant of the float32 nearest to ``x``."""
    with np.errstate(over="ignore"):
        value = np.float32(x)
    if np.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    digits = str(value)  # the shortest that reads back as the same float32
    return f"{digits}{'' if 'e' in digits or '.' in digits else '.0'}f"


def _string(text: str) -> str:
    """A C string constant."""
    shown = "".join(ch if " " <= ch <= "~" and ch not in '"\\?' else "".join(f"\\{b:03o}" for b in ch.encode())
                    for ch in text)  # fmt: skip
    return f'"{shown}"'


def _comment(text: str) -> str:
    """Text that cannot end a comment."""
    return text.replace("*/", "* /").replace("/*", "/ *")


def _macro(name: str, rows: Sequence[str]) -> str:
    """A list of rows, each an ``X(...)``."""
    if not rows:
        return f"#define {name}(X)\n"
    return f"#define {name}(X) \\\n" + " \\\n".join(f"    X({row})" for row in rows) + "\n"


def _array(declaration: str, items: Iterable[str]) -> str:
    """A constant table, wrapped."""
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > _WIDTH:
            lines.append(line)
            line = "   "
        line += f" {item},"
    lines.append(line)
    return f"static const {declaration}[] = {{\n" + "\n".join(lines) + "\n};\n"


def _prototypes(p: Program) -> list[tuple[str, str]]:
    """What the code offers, each with what it does."""
    taken = ", ".join(a.declaration for a in p.arguments)
    number = ", uint32_t number" if p.numbered else ""
    lr = "" if p.accumulates else f", float lr{number}"
    several = len(p.plan.problem.options.losses) > 1
    about = "One run of the schedule; returns " + ("the weighted sum of the losses" if several else "the loss")
    about += "." if p.accumulates else " before its updates."
    if not p.accumulates and p.numbered:
        about += " number: of the update, from 1."
    batch = p.plan.problem.options.batch
    about += f" Arrays hold {batch} sample{'s' if batch > 1 else ''}; an input may be NULL where it is in its place."
    found = [
        ("void {n}_init(void)", "Parameters as they were exported; states and accumulators zero."),
        (f"float {{n}}_step({taken}{lr})", about),
    ]
    if p.accumulates:
        told = "Update by the mean gradient of that many steps, then set the sums to zero."
        found.append(
            (f"void {{n}}_update(float lr, uint32_t steps{number})", told + (" number: from 1." if number else ""))
        )
    found += [
        (
            "uint32_t {n}_read(uint32_t parameter, float *to)",
            "Elements of a parameter, copied to `to` if that is given.",
        ),
        ("uint8_t *{n}_memory(uint32_t level)", "The arena of a level (2 or 3), or NULL."),
    ]
    return [(text.format(n=p.name), told) for text, told in found]


def header(p: Program) -> str:
    """The text of the header."""
    plan, upper, options = p.plan, p.name.upper(), p.plan.problem.options
    guard = f"{upper}_H"
    lines = [
        f"/* A training step of {_comment(plan.network.name)!r} by sparseplan: {plan.status.lower()} plan of "
        f"{len(plan.steps)} steps, {options.dtype},",
        f"   {options.optimizer}, gradients {options.gradients}. RAM: "
        + ", ".join(f"{level} {p.sizes[level]} bytes" for level in p.ram) + "; only the stack is written besides. */",
        f"#ifndef {guard}", f"#define {guard}", "", "#include <stdint.h>", "",
        *(f"#define {upper}_{level.upper()}_BYTES {size}" for level, size in p.sizes.items()),
        f"#define {upper}_ALIGNMENT {options.alignment}",
        f"#define {upper}_STEPS {len(plan.steps)}",
        f"#define {upper}_BATCH {options.batch}",
        f"#define {upper}_PARAMETERS {len(p.parameters)}",
        f"#define {upper}_LEARNING_RATE {float_literal(p.lr)}",
    ]  # fmt: skip
    for a in p.arguments:
        shape = next(v.shape for v in plan.values if v.name == a.tensor)
        shown = " x ".join(map(str, shape))
        lines.append(f"#define {upper}_{a.name.upper()}_ELEMENTS {math.prod(shape)} /* {shown} */")
    text = "\n".join(lines) + "\n\n"
    text += (
        "/* Parameters by number: name, elements, whether updated (and then of `axis` the first `kept` of `of`). */\n"
    )
    text += _macro(f"{upper}_EACH_PARAMETER", [
        f"{_string(q.name)}, {q.view.count}, {int(q.updated)}, {q.axis}, {q.kept}, {q.of}" for q in p.parameters
    ])  # fmt: skip
    text += "\n/* Buffers: value, its first byte there, level, offset, bytes, first step, step behind the last. */\n"
    text += _macro(f"{upper}_EACH_BUFFER", [
        f"{_string(b.value)}, {b.lo}, {b.level}, {b.offset}, {b.bytes}, {b.start}, {b.stop}"
        for b in sorted(plan.buffers, key=lambda b: (LEVELS.index(b.level), b.offset, b.start, b.value))
    ])  # fmt: skip
    text += "\n/* Steps in their order: name, bytes of L2 that are taken meanwhile. */\n"
    text += _macro(f"{upper}_EACH_STEP", [
        f"{_string(s.name)}, {taken}" for s, taken in zip(plan.steps, plan.bytes_at(), strict=True)
    ])  # fmt: skip
    text += '\n#ifdef __cplusplus\nextern "C" {\n#endif\n'
    text += "".join(f"\n/* {told} */\n{prototype};\n" for prototype, told in _prototypes(p))
    text += "\n#ifdef SPARSEPLAN_TRACE\n"
    text += "/* Yours: called with the gradient of a parameter, as stored, when a step made or added to it. */\n"
    text += f"void {p.name}_trace(uint32_t step, uint32_t parameter, const void *gradient, uint32_t bytes);\n#endif\n"
    return text + f"\n#ifdef __cplusplus\n}}\n#endif\n\n#endif /* {guard} */\n"


def _image(name: str, data: bytes) -> str:
    """Bytes as words, the first byte lowest."""
    words = np.frombuffer(data + bytes(-len(data) % 4), "<u4")
    return _array(f"uint32_t {name}", (f"0x{w:x}" for w in words.tolist()))


def _memories(p: Program) -> str:
    """The arenas, and how views find them."""
    text = "".join(
        f"\n#ifndef SPARSEPLAN_{level}\n"
        f'#define SPARSEPLAN_{level} SP_PLACED(".bss.sparseplan_{level.lower()}")\n#endif\n'
        f"static uint8_t sp_{level.lower()}[{p.sizes[level]}] SPARSEPLAN_{level};\n"
        for level in p.ram
    )
    if p.flash:
        text += "\n/* Frozen parameters. */\n" + _image("sp_flash", p.flash)
    where = {"flash": "(const uint8_t *)sp_flash"}
    cases = "".join(
        f"        case {LEVELS.index(level)}: return {where.get(level, f'sp_{level.lower()}')};\n" for level in p.sizes
    )
    return (
        text
        + f"""
static const uint8_t *sp_base(uint32_t level) {{
    switch (level) {{
{cases}        default: return 0;
    }}
}}
"""
    )


def _view(tables: Tables, v: View) -> str:
    group, scales = (v.group, tables.view(v.scales)) if v.scales is not None else (1, 0)
    flags = f"{TYPES[v.dtype]}, {int(v.add)}, {int(v.whole)}, {int(v.batched)}"
    at = tables.start("parts", tables.parts, v.parts)
    numbers = f"{v.count}, {v.image[0]}, {v.image[1]}, {at}, {len(v.parts)}, {scales}, {group}"
    return f"{{{numbers}, {float_literal(v.scale)}, {flags}}}"


def _tables(p: Program, tables: Tables, kernels: list[str]) -> str:
    rows = []
    for step, call in p.calls:
        views, ints, floats = tables.call(call)
        rows.append(f"{{{kernels.index(call.kernel)}, {step}, {len(call.reads)}, {len(call.writes)}, {views}, {ints}, "
                    f"{floats}}}")  # fmt: skip
    shown = [tables.view(q.view) for q in p.parameters]
    parts = [f"{{{q.offset}, {q.c0}, {q.c1}, {q.r0}, {q.r1}, {LEVELS.index(q.level)}, {int(q.by_row)}}}"
             for group in tables.parts for q in group]  # fmt: skip
    text = _array("sp_part sp_parts", parts)
    text += _array("sp_view sp_views", [_view(tables, v) for v in tables.views])
    text += _array("uint16_t sp_indices", [str(n) for group in tables.indices for n in group])
    text += _array("int32_t sp_ints", [str(n) for group in tables.ints for n in group] or ["0"])
    text += _array("float sp_floats", [float_literal(x) for group in tables.floats for x in group] or ["0.0f"])
    text += _array("sp_call sp_calls", rows)
    if shown:
        text += "/* Views of the parameters. */\n" + _array("uint16_t sp_parameters", map(str, shown))
    return text


def _dispatch(p: Program, kernels: list[str]) -> str:
    cases = []
    for k, kernel in enumerate(kernels):
        driver, _, function = kernel.partition(":")
        more = f", {function}" if function else ", e" if library.takes_environment(driver) else ""
        cases.append(f"            case {k}: {driver}(&a{more}); break;\n")
    traced = "".join(f"            case {call}: {p.name}_trace(c->step, {q}, "
                     f"sp_base(sp_parts[sp_views[a.w[0]].part].level) + sp_parts[sp_views[a.w[0]].part].offset, {n}u); "
                     "break;\n" for call, q, n in p.gradients)  # fmt: skip
    trace = f"""#ifdef SPARSEPLAN_TRACE
        switch (i) {{
{traced}            default: break;
        }}
#endif
""" if traced else ""  # fmt: skip
    return f"""/* Calls [first, last) of the schedule. */
static void sp_run(uint32_t first, uint32_t last, sp_env *e) {{
    uint32_t i;
    for (i = first; i < last; i++) {{
        const sp_call *c = &sp_calls[i];
        sp_args a;
        a.r = sp_indices + c->views;
        a.w = a.r + c->reads;
        a.reads = c->reads;
        a.writes = c->writes;
        a.n = sp_ints + c->ints;
        a.f = sp_floats + c->floats;
        switch (c->kernel) {{
{"".join(cases)}            default: break;
        }}
{trace}    }}
}}
"""


def _functions(p: Program) -> str:
    prototypes = [text for text, _ in _prototypes(p)]
    clear = "".join(f"    memset(sp_{level.lower()}, 0, sizeof sp_{level.lower()});\n" for level in p.ram)
    copies, at = "", 0
    for level, offset, data in p.images:
        copies += f"    memcpy(sp_{level.lower()} + {offset}, (const uint8_t *)sp_images + {at}, {len(data)});\n"
        at += len(data)
    number = "number" if p.numbered else "1"
    step = f"""{prototypes[1]} {{
    const void *data[{len(p.arguments)}];
    sp_env e;
""" + "".join(f"    data[{k}] = {a.name};\n" for k, a in enumerate(p.arguments))
    fused = not p.accumulates
    step += f"""    e.data = data;
    e.lr = {"lr" if fused else "0.0f"};
    e.samples = 1.0f;
    e.loss = 0.0f;
    e.number = {number if fused else "1"};
    sp_run(0, {p.updates}, &e);
    return e.loss;
}}
"""
    update = ""
    if p.accumulates:
        zero = "".join(f"    memset(sp_{level.lower()} + {offset}, 0, {size});\n" for level, offset, size in p.sums)
        update = f"""
{prototypes[2]} {{
    sp_env e;
    e.data = 0;
    e.lr = lr;
    e.samples = (float)steps;
    e.loss = 0.0f;
    e.number = {number};
    sp_run({p.updates}, {len(p.calls)}, &e);
{zero}}}
"""
    levels = "".join(f"    if (level == {level[1:]}) return sp_{level.lower()};\n" for level in p.ram)
    read = f"""    const sp_view *v;
    uint32_t i;
    if (parameter >= {len(p.parameters)}u) return 0;
    v = &sp_views[sp_parameters[parameter]];
    if (to)
        for (i = 0; i < v->count; i++) to[i] = sp_get(v, 0, i);
    return v->count;
"""
    if not p.parameters:
        read = "    (void)parameter;\n    (void)to;\n    return 0;\n"
    return f"""{prototypes[0]} {{
{clear}{copies}}}

{step}{update}
{prototypes[-2]} {{
{read}}}

{prototypes[-1]} {{
{levels}    return 0;
}}
"""


def source(p: Program) -> str:
    """The text of the source file."""
    options = p.plan.problem.options
    tables = Tables()
    kernels = list(dict.fromkeys(call.kernel for _, call in p.calls))
    body = _tables(p, tables, kernels)
    names = [n for kernel in kernels for n in kernel.split(":")]
    text = library.gather([*names, "sp_get"])
    holes = any(v.covered < v.count for v in tables.views)
    packed = any(v.dtype == "codes" for v in tables.views)
    align = max(options.alignment, 4)
    images = _image("sp_images", b"".join(data for _, _, data in p.images)) if p.images else ""
    return f"""/* {p.name}.c: see {p.name}.h. Made by sparseplan; kernels read and write by the plan's tables alone. */
#include "{p.name}.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the images below are little-endian"
#endif
#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "a missing label is NaN: compile without -ffast-math and -ffinite-math-only"
#endif
#if defined(__GNUC__) && defined(__ELF__)
#define SP_PLACED(section_name) __attribute__((aligned({align}), section(section_name)))
#elif defined(__GNUC__)
#define SP_PLACED(section_name) __attribute__((aligned({align})))
#else
#define SP_PLACED(section_name)
#endif
#define SP_BATCH {options.batch}u
#define SP_MAIN SP_{options.dtype.upper()}
#define SP_HOLES {int(holes)}
#define SP_PACKED {int(packed)}

{library.types()}{_memories(p)}
{images}{body}
{text}
{_dispatch(p, kernels)}
{_functions(p)}"""
