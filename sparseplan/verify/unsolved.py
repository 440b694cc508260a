"""Answers without a plan: whether what they say agrees with itself and with the problem, and is not plainly false."""

from __future__ import annotations

import itertools
import math
import re

from sparseplan.costs import cycles_within
from sparseplan.dtypes import bytes_of
from sparseplan.plan import Infeasibility, Plan
from sparseplan.problem import Problem
from sparseplan.steps import MAIN, OPTIMIZERS
from sparseplan.units import align_up
from sparseplan.verify.facts import Facts
from sparseplan.verify.findings import STATUSES, Findings
from sparseplan.verify.plainest import Plainest, fits

#: caps that are no level of memory
CAPS = ("MACs", "time", "energy")
_AGAIN = re.compile(r"( again)?( \(\d+\))?$")


def check_unsolved(problem: Problem, plan: Plan, findings: Findings) -> None:
    """A plan without a schedule claims nothing more than why."""
    if plan.status not in STATUSES:
        findings.add("status", "status", f"status={plan.status!r} is none of {', '.join(STATUSES)}")
    for name in ("update", "picks", "steps", "values", "buffers", "tiles", "macs", "ties"):
        if getattr(plan, name):
            findings.add("status", name, f"status={plan.status}, but there are {len(getattr(plan, name))} {name}")
    for name in ("peak_bytes", "lower_bound_bytes"):
        if any(getattr(plan, name).values()):
            findings.add("status", name, f"status={plan.status}, but {name}={dict(getattr(plan, name))}")
    if plan.objective != -math.inf:
        findings.add("status", "objective", f"status={plan.status}, but objective={plan.objective!r}")
    if plan.status != "INFEASIBLE":
        if plan.reason is not None:
            findings.add("status", "reason", f"status={plan.status}, but there is a reason why nothing fits")
        if math.isnan(plan.bound):
            findings.add("objective", "bound", "bound is no number")
        return
    if plan.bound != -math.inf:
        findings.add("status", "bound", f"status=INFEASIBLE, but bound={plan.bound!r}")
    if plan.reason is None:
        findings.add("status", "reason", "status=INFEASIBLE without a reason")
        return
    _Reason(problem, plan.reason, findings).check()


class _Reason:
    def __init__(self, problem: Problem, reason: Infeasibility, findings: Findings) -> None:
        self.problem, self.reason, self.findings = problem, reason, findings
        self.striped = "stripes" in problem.savings
        self.plain = Plainest(problem, problem.least_update())

    def add(self, text: str) -> None:
        self.findings.add("status", "reason", text)

    def check(self) -> None:
        reason, problem = self.reason, self.problem
        available = self.available()
        if available is None:
            self.add(f"level={reason.level!r} has no bound, so it cannot be too small")
            return
        if reason.available != available:
            self.add(f"available={reason.available} of {reason.level}, but the problem gives {available}")
        if reason.needed <= reason.available:
            self.add(f"needed={reason.needed} is not more than available={reason.available}")
        memory = reason.level not in CAPS
        reserved = problem.device.level(reason.level).reserved if memory else 0
        fewest = reason.fewest_bytes
        if fewest is not None and not memory:
            self.add(f"fewest_bytes={fewest} of {reason.level}, which is no memory")
        if fewest is not None and fewest < reason.needed + reserved:
            self.add(f"fewest_bytes={fewest} is less than needed={reason.needed} and {reserved} reserved")
        if not self.is_step(reason.step):
            self.add(f"step={reason.step!r} is no step that training takes")
        self.check_tensors()
        if reason.level == "L1":
            self.check_tile()
        elif self.tiles_fit() and fits(self.plain, problem):
            self.add(f"is false: updating {sorted(self.plain.update) or 'nothing'}, op by op, takes {self.plain.peak} "
                     f"bytes of {MAIN} and {self.plain.macs} MACs, which are there")  # fmt: skip
        if reason.level == MAIN:
            self.check_bytes(reserved)
        elif reason.level == "MACs" and reason.needed > self.plain.macs:
            self.add(f"needed={reason.needed} MACs, but {self.plain.macs} suffice for what must be updated")
        elif memory and reason.level == problem.options.frozen:
            most = sum(self.plain.parameter(p, reason.level) for p in problem.network.parameters)
            if reason.needed > max(most, reason.available + 1):
                self.add(f"needed={reason.needed} of {reason.level}, but all parameters take {most}")
        elif memory and reason.level not in ("L1", MAIN, problem.options.frozen):
            self.add(f"level={reason.level!r} holds nothing that has to be there")

    def available(self) -> int | None:
        """What the problem gives of the level or cap; None where it sets no bound."""
        problem, level = self.problem, self.reason.level
        if level == "MACs":
            return problem.max_macs
        by_power = problem.max_joules is not None and problem.device.watts("active") is not None
        if level == "time":
            if problem.max_seconds is None and not by_power:
                return None
            return cycles_within(problem.device, problem.max_seconds, problem.max_joules if by_power else None)
        if level == "energy":
            return None if problem.max_joules is None else math.floor(problem.max_joules * 1e12)
        return problem.capacity(level)

    # -- names ------------------------------------------------------------------------------------------
    def is_op(self, name: str) -> bool:
        """Whether there is such an op; of networks in stripes, a stripe of one."""
        ops = self.problem.network.op
        return name in ops or (self.striped and name.rpartition("@")[0] in ops)

    def op_of(self, name: str) -> str:
        return name if name in self.problem.network.op else name.rpartition("@")[0]

    def is_step(self, step: str) -> bool:
        """Whether training may take a step of that name; what no single step decides has none."""
        if not step:
            return self.reason.level != "L1"
        return any(self.is_base_step(name) for name in (step, _AGAIN.sub("", step)))

    def is_base_step(self, name: str) -> bool:
        """The same of a step that is the first of its name."""
        facts = self.plain.facts
        if any(name == judged.name for judged in facts.losses):
            return True
        for before in ("update ", "page out ", "page in ", "pack "):
            if name.startswith(before):
                rest = name.removeprefix(before)
                return rest in self.problem.choices if before == "update " else self.is_tensor(rest)
        op, _, what = name.rpartition(".")
        if " from " in what:
            what = what.partition(" from ")[0]
        if not self.is_op(op):
            return False
        original = self.problem.network.op[self.op_of(op)]
        passes = {f"grad_{s}" for s in (*original.params, *(f"x{i}" for i in range(len(original.inputs))))}
        return what in {"forward", *passes, *facts.defs[original.name].aux(facts.infos[original.name])}

    def is_tensor(self, name: str) -> bool:
        if name in self.problem.network.tensor:
            return True
        whole, _, number = name.rpartition("@")  # of a network in stripes, a part of a tensor
        return self.striped and bool(number) and whole in self.problem.network.tensor

    def most_bytes(self, name: str) -> int | None:
        """The most that a value of that name can take; None where there is no such value."""
        if name not in self.problem.network.tensor:
            name = re.sub(r"( @L3| codes| scales)$", "", _AGAIN.sub("", name))
        judged = next((judged for judged in self.plain.facts.losses if judged.target == name), None)
        if judged is not None:
            shape, dtype = self.plain.facts.target(judged)
            return self.padded(bytes_of(math.prod(shape), dtype))
        found = re.fullmatch(r"(?:late )?([^()]+)\((.+)\)", name)
        network, facts, o = self.problem.network, self.plain.facts, self.problem.options
        if name in network.tensor:
            t = network.tensor[name]
            batch = 1 if t.role == "parameter" else o.batch
            return self.padded(bytes_of(batch * t.elements, facts.dtype(name)))
        if found is not None:
            tag, of = found.groups()
            if tag in ("grad", "acc", *OPTIMIZERS[o.optimizer]) and of in network.tensor:
                batch = 1 if network.tensor[of].role == "parameter" else o.batch
                return self.padded(bytes_of(batch * network.tensor[of].elements, o.dtype))
            if of in network.op and tag in (auxes := facts.defs[of].aux(facts.infos[of])):
                aux = auxes[tag]
                return self.padded(bytes_of(o.batch * math.prod(aux.shape), aux.dtype))
            name = of
        if self.is_tensor(name) or self.is_op(name):
            return max(self.padded(bytes_of(o.batch * t.elements, "fp32")) for t in network.tensors)
        return None

    def padded(self, size: int) -> int:
        return align_up(size, self.problem.options.alignment)

    # -- numbers ----------------------------------------------------------------------------------------
    def check_tensors(self) -> None:
        """What is named exists, is as large as said, and no more than is needed."""
        reason = self.reason
        for name, size in reason.tensors if reason.level != "L1" else ():
            most = self.most_bytes(name)
            if most is None:
                self.add(f"tensor {name!r} does not exist")
            elif not 0 < size <= most:
                self.add(f"tensor {name!r} of {size} bytes, which takes at most {most}")
        total = sum(size for _, size in reason.tensors)
        if total > reason.needed:
            self.add(f"tensors of {total} bytes together, more than needed={reason.needed}")

    def check_bytes(self, reserved: int) -> None:
        """Bytes of main memory, counted anew at the step that is named, and over all of them."""
        reason, plain = self.reason, self.plain
        everything = Plainest(self.problem, {p: r[-1] for p, r in self.problem.choices.items()})
        most = everything.most(reason.step) if reason.step else None
        if most is not None and reason.needed > most:
            self.add(f"needed={reason.needed} at step {reason.step!r}, where no more than {most} bytes can be live")
        if reason.fewest_bytes is not None and reason.fewest_bytes - reserved < plain.least():
            self.add(f"fewest_bytes={reason.fewest_bytes}, but every plan takes at least {plain.least()}, {reserved} "
                     "are reserved")  # fmt: skip
        if plain.peak < reason.needed and self.tiles_fit() and fits(plain, self.problem, plain.peak):
            self.add(f"needed={reason.needed}, but {plain.peak} bytes suffice to update what must be, op by op")

    def check_tile(self) -> None:
        """No tile of the pass fits, counted over all ways to cut its axes as finely as can be."""
        reason = self.reason
        op, _, what = reason.step.rpartition(".")
        if not self.is_op(op):
            return  # said before
        least = self.least_tile(self.op_of(op), what.removeprefix("grad_"))
        if least is None or self.striped:
            if least is None:
                self.add(f"step {reason.step!r} moves nothing through L1")
            return
        if reason.needed > least:
            self.add(f"needed={reason.needed}, but a tile of {reason.step!r} takes {least}")

    def least_tile(self, op: str, pass_: str) -> int | None:
        """The fewest bytes of L1 that a tile of a pass takes: each axis is whole, or as small as it can be."""
        space = self.plain.facts.tile_space(op, pass_)
        if space is None:
            return None
        extents = dict(space.axes)
        device = self.problem.device
        alignment = device.level("L1").alignment if device.has("L1") else 1
        bits = {d.axis for o in space.operands if o.dtype == "bit" for d in o.dims}
        ways = [dict.fromkeys((min(8 if axis in bits else 1, n), n)) for axis, n in extents.items()]
        least = None
        for sizes in (dict(zip(extents, way, strict=True)) for way in itertools.product(*ways)):
            total = 0
            for o in space.operands:
                width = self.problem.options.dtype if o.dtype == "data" else o.dtype
                elements = math.prod(
                    d.full if d.axis is None else min(d.full, (sizes[d.axis] - 1) * d.scale + d.window) for d in o.dims
                )
                cut = any(d.axis is not None and sizes[d.axis] < extents[d.axis] for d in o.dims)
                total += align_up(bytes_of(elements, width), alignment) * (1 + (cut and device.double_buffer))
            least = total if least is None else min(least, total)
        return least

    def tiles_fit(self) -> bool:
        """Whether every pass of the plainest plan has a tile."""
        capacity = self.problem.capacity("L1")
        if capacity is None:
            return True
        facts: Facts = self.plain.facts
        passes = [(op, "forward" if kind == "forward" else target) for kind, op, target in facts.required()
                  if kind in ("forward", "grad_param", "grad_input")]  # fmt: skip
        return all((self.least_tile(op, pass_) or 0) <= capacity for op, pass_ in passes)
