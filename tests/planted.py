"""Plans to plant faults in: small networks of every op, and plans of theirs to change."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from sparseplan.autodiff import trace
from sparseplan.builder import NetworkBuilder
from sparseplan.device import custom
from sparseplan.errors import ProblemError
from sparseplan.network import Network
from sparseplan.plan import PlacedBuffer, Plan
from sparseplan.problem import Problem, resolve_choices, resolve_values
from sparseplan.steps import TrainingOptions
from sparseplan.testing.peers import plan_of
from sparseplan.verify import verify


def problem_of(
    network: Network,
    l2: int | None = None,
    l1: int | None = None,
    max_macs: int | None = None,
    may: tuple[str, ...] = (),
    must: tuple[str, ...] = (),
    **options: Any,
) -> Problem:
    """A problem on a nameless device; all parameters with a gradient may be updated."""
    device = custom(l1=l1, l2=l2, alignment=options.get("alignment", 1))
    choices, least = resolve_choices(network, may=may, must=must)
    settings = TrainingOptions(**options)
    for p in list(choices):
        try:
            trace(network, settings, {p: choices[p]})
        except ProblemError:  # no gradient reaches it
            del choices[p]
    return Problem(network, device, settings, choices, least, resolve_values(network, choices), max_macs)


def any_picks(problem: Problem, rng: random.Random) -> dict[str, str]:
    """One option of every choice there is."""
    graph = trace(problem.network, problem.options, problem.choices)
    return {p.op: rng.choice(p.options) for p in graph.picks}


def any_update(problem: Problem, rng: random.Random, share: float) -> dict[str, float]:
    """About that share of the parameters, by any allowed fraction."""
    return {p: rng.choice(r) for p, r in problem.choices.items() if p in problem.must or rng.random() < share}


class RandomNetwork:
    """Random ops of all families on random tensors: branches, joins, views, loose ends."""

    KINDS = (*("conv",) * 4, "conv_transpose", "depthwise", *("unary",) * 4, "add", "mul", *("concat",) * 3, "reshape",
             "pool", "affine", "upsample", "global_avg_pool", "linear")  # fmt: skip

    def __init__(self, rng: random.Random, size: int) -> None:
        self.rng, self.net = rng, NetworkBuilder("any")
        self.made: list[str] = []
        self.read: set[str] = set()
        side = rng.choice((2, 4, 6))
        for name, chance in (("image", 1.0), ("second", 0.2)):
            if rng.random() < chance:
                self.made.append(self.net.input(name, (rng.choice((1, 2, 4)), side, side)))
        while size:
            # chains mostly, so that depth grows; any earlier tensor at times
            t = rng.choice((self.made[-1], self.made[-1], rng.choice(self.made)))
            y = self.draw(rng.choice(self.KINDS), t)
            if y is not None:
                self.made.append(y)
                size -= 1
        for t in self.made:
            if t not in self.read and t in ("image", "second"):
                self.made.append(self.op("relu", t))
        loose = [t for t in self.made if t not in self.read]
        self.network = self.net.build([loose[-1], *loose[:-1]])

    def op(self, kind: str, *inputs: str, **attrs: Any) -> str:
        self.read.update(inputs)
        return self.net.op(kind, inputs, **attrs)

    def draw(self, kind: str, t: str) -> str | None:
        """An op of that kind on ``t``, if it fits."""
        rng, shape = self.rng, self.net.shape(t)
        if kind == "unary":
            return self.op(rng.choice(("relu", "relu6", "leaky_relu", "sigmoid", "tanh", "hardswish")), t)
        if kind == "reshape" and rng.random() < 0.5:
            n = math.prod(shape)
            c = rng.choice([k for k in range(1, n + 1) if n % k == 0])
            return self.op("reshape", t, shape=(c, n // c, 1))
        if kind == "reshape":
            return self.op("flatten", t)
        if kind == "linear":
            return self.op("linear", t, out_features=rng.choice((1, 3, 4))) if len(shape) == 1 else None
        if kind == "affine":
            return self.op("affine", t)
        if kind in ("add", "mul", "concat"):
            return self.join(kind, t)
        if len(shape) != 3:
            return None
        if kind == "conv":
            k = rng.choice((1, 3))
            params = ("weight", "bias") if rng.random() < 0.7 else ("weight",)
            return self.op("conv", t, kernel=k, out_channels=rng.choice((1, 2, 4, 8)), stride=rng.choice((1, 1, 2)),
                           padding=k // 2, params=params)  # fmt: skip
        if kind == "depthwise":
            return self.op("conv", t, kernel=3, padding=1, out_channels=shape[0], groups=shape[0])
        if kind == "conv_transpose" and max(shape[1:]) <= 6:
            return self.op(kind, t, kernel=2, stride=2, out_channels=rng.choice((1, 2, 4)))
        if kind == "pool" and min(shape[1:]) >= 2:
            return self.op(rng.choice(("max_pool", "avg_pool")), t, kernel=2)
        if kind == "upsample" and max(shape[1:]) <= 6:
            return self.op(kind, t, scale=2, mode=rng.choice(("nearest", "bilinear")))
        return self.op(kind, t) if kind == "global_avg_pool" else None

    def join(self, kind: str, t: str) -> str:
        rng, shape = self.rng, self.net.shape(t)
        axis = 0 if kind != "concat" or rng.random() < 0.8 else rng.randrange(len(shape))

        def fits(s: tuple[int, ...]) -> bool:
            if kind == "mul" and len(s) == len(shape) == 3 and s == (shape[0], 1, 1):
                return True
            if kind != "concat":
                return s == shape
            return len(s) == len(shape) and s[:axis] + s[axis + 1 :] == shape[:axis] + shape[axis + 1 :]

        others = [s for s in self.made if fits(self.net.shape(s))]
        count = 1 if kind == "mul" else rng.choice((1, 1, 2))
        attrs = {"axis": axis} if kind == "concat" else {}
        return self.op(kind, t, *(rng.choice(others) for _ in range(count)), **attrs)


def small_u() -> Network:
    """A tensor with three readers, a concat, an add, pooling, masks; every parameter has a gradient."""
    net = NetworkBuilder("small_u")
    tap = net.leaky_relu(net.conv(net.input("image", (2, 6, 6)), 4, 3, padding=1, name="stem"), 0.125, name="tap")
    low = net.op("max_pool", tap, name="pool", kernel=2)
    low = net.relu(net.conv(low, 4, 3, padding=1, name="mid"), name="low")
    joined = net.concat([tap, net.conv_transpose(low, 4, 2, 2, name="up")], name="cat")
    x = net.relu(net.conv(joined, 4, 3, padding=1, name="join"), name="act")
    return net.build(net.conv(net.add([x, tap], name="sum"), 1, 1, name="head"))


def index_of(plan: Plan, step: str) -> int:
    """Position of a step."""
    return next(i for i, s in enumerate(plan.steps) if s.name == step)


def change_step(plan: Plan, name: str, **changes: Any) -> Plan:
    """The plan with another step of that name."""
    i = index_of(plan, name)
    return replace(plan, steps=(*plan.steps[:i], replace(plan.steps[i], **changes), *plan.steps[i + 1 :]))


def change_arg(plan: Plan, step: str, tag: str, writes: bool = False, **changes: Any) -> Plan:
    """The plan with another argument of a step; ``drop=True`` takes it away."""
    s = plan.steps[index_of(plan, step)]
    args = s.writes if writes else s.reads
    assert any(a.tag == tag for a in args), (step, [a.tag for a in args])
    if changes.pop("drop", False):
        args = tuple(a for a in args if a.tag != tag)
    else:
        args = tuple(replace(a, **changes) if a.tag == tag else a for a in args)
    return change_step(plan, step, **{"writes" if writes else "reads": args})


def change_buffer(plan: Plan, of: str, lo: int | None = None, /, **changes: Any) -> Plan:
    """The plan with other buffers of a value (of its piece at ``lo``); ``drop=True`` takes them away."""
    hit = [b.value == of and lo in (None, b.lo) for b in plan.buffers]
    assert any(hit), (of, sorted({b.value for b in plan.buffers}))
    if changes.pop("drop", False):
        return replace(plan, buffers=tuple(b for b, h in zip(plan.buffers, hit, strict=True) if not h))
    return replace(
        plan, buffers=tuple(replace(b, **changes) if h else b for b, h in zip(plan.buffers, hit, strict=True))
    )


def change_value(plan: Plan, name: str, **changes: Any) -> Plan:
    """The plan with another value of that name."""
    assert any(v.name == name for v in plan.values)
    return replace(plan, values=tuple(replace(v, **changes) if v.name == name else v for v in plan.values))


def without_step(plan: Plan, name: str) -> Plan:
    """The plan without a step, everything later one step earlier."""
    i = index_of(plan, name)
    moved = []
    for b in plan.buffers:
        start, stop = (at - (at > i) for at in (b.start, b.stop))
        if start < stop:
            moved.append(replace(b, start=start, stop=stop))
    steps = (*plan.steps[:i], *plan.steps[i + 1 :])
    part = "forward" if plan.steps[i].kind == "forward" else "backward"
    macs = {**plan.macs, part: plan.macs[part] - plan.steps[i].macs}
    return replace(plan, steps=steps, buffers=tuple(moved), macs=macs)


def swapped(plan: Plan, first: str, second: str) -> Plan:
    """The plan with two steps in each other's place."""
    i, j = index_of(plan, first), index_of(plan, second)
    steps = list(plan.steps)
    steps[i], steps[j] = steps[j], steps[i]
    return replace(plan, steps=tuple(steps))


Fault = Callable[[Plan], Plan]


@cache
def planned(partial: bool = False, **options: Any) -> tuple[Problem, Plan]:
    """Everything in ``small_u`` updated, ``join.weight`` by a quarter; ``partial``: decoder alone."""
    settings = {"alignment": 4, "l1": 2048, "optimizer": "momentum", **options}
    problem = problem_of(small_u(), **settings)
    update = {p: 1.0 for p in problem.choices if not partial or p.startswith(("join", "head"))}
    update["join.weight"] = 0.25
    return problem, plan_of(problem, update)


def found(problem: Problem, plan: Plan) -> set[str]:
    return {v.kind for v in verify(problem, plan)}


def piece(plan: Plan, value: str, lo: int = 0) -> PlacedBuffer:
    return next(b for b in plan.buffers if b.value == value and b.lo == lo)


def check(fault: Fault, kind: str, mentions: str, **options: Any) -> None:
    """A fault is found where there was silence before, and named."""
    problem, plan = planned(**options)
    assert verify(problem, plan) == ()
    violations = verify(problem, fault(plan))
    assert any(v.kind == kind and mentions in str(v) for v in violations), [str(v) for v in violations]
