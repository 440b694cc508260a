"""What a training step must contain, derived from the network, its op definitions and the decisions.

Nothing here looks at a plan's arguments, values or buffers; of its steps only which ops have a
forward step, since an op without one is taken as a view of its inputs where it can be.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

from sparseplan.dtypes import bytes_of
from sparseplan.network import Op
from sparseplan.objective import LossStep, target_of
from sparseplan.ops import OpDef, OpInfo, infos, op_def
from sparseplan.ops.base import Fraction, TileSpace
from sparseplan.problem import Problem
from sparseplan.steps import MAIN, OPTIMIZERS, PAGE_LEVEL, Value
from sparseplan.verify.images import Images

#: a gradient is a sum over these: (op or "" for a loss, input slot or number of the loss, part of that input)
Contribution = tuple[str, int, int]


class Spec(NamedTuple):
    """What a value must be."""

    shape: tuple[int, ...]
    dtype: str
    persistent: bool
    level: str
    scale: float | None

    @property
    def bytes(self) -> int:
        """Of storage, before alignment."""
        return bytes_of(math.prod(self.shape), self.dtype)


class Facts:
    """See the module's docstring.

    Attributes:
        losses: as steps, in order.
        relevant: ops that any loss depends on.
        reached: tensors with bytes of their own that a loss's gradient can reach.
        needed: those of ``reached`` at or upstream of which something is updated: their gradients must exist.
        contributions: all terms of each such gradient: of each row of an image, else of the whole.
        mosaics: views whose roots' bytes are not simply theirs, one after the other: made up of rows.
    """

    def __init__(self, problem: Problem, update: Mapping[str, float], forwarded: Collection[str]) -> None:
        self.problem, self.network, self.options = problem, problem.network, problem.options
        self.infos: dict[str, OpInfo] = infos(self.network)
        self.defs: dict[str, OpDef] = {op.name: op_def(op.kind) for op in self.network.ops}
        self.update = update
        self.losses: tuple[LossStep, ...] = self.options.loss_steps(self.network)
        self.position = {op.name: i for i, op in enumerate(self.network.ops)}
        self._roots(forwarded)
        self._reach()
        self._flow()

    @staticmethod
    def definition(op: Op) -> OpDef:
        """What is known of an op's kind."""
        return op_def(op.kind)

    # -- the graph ----------------------------------------------------------------------------
    def _roots(self, forwarded: Collection[str]) -> None:
        """``roots[t]``: the tensors whose bytes, one after the other, are (each sample of) tensor ``t``; of
        mosaics, those of which some rows are."""
        self.roots: dict[str, tuple[str, ...]] = {}
        self.views: set[str] = set()
        self.mosaics: set[str] = set()
        self.images = Images()
        for t in self.network.inputs:
            self._own(t)
        for op in self.network.ops:
            d, parts = self.defs[op.name], tuple(r for t in op.inputs for r in self.roots[t])
            if op.name not in forwarded and (d.window or d.stack or any(t in self.mosaics for t in op.inputs)):
                self._mosaic(op, parts)
            elif op.name not in forwarded and self._may_be_view(op, parts):
                self.views.add(op.name)
                self.roots[op.output] = parts
                self.images.cells[op.output] = self.images.view(op, d, self.infos[op.name])
            else:
                self._own(op.output)

    def _own(self, t: str) -> None:
        """A tensor with bytes of its own."""
        self.roots[t] = (t,)
        self.images.own(t, self.network.tensor[t].shape)

    def _mosaic(self, op: Op, parts: tuple[str, ...]) -> None:
        """An op without a forward step whose output is rows of what lies elsewhere, if it may be."""
        cells = self.images.view(op, self.defs[op.name], self.infos[op.name])
        storage = {(self.dtype(t), self.network.tensor[t].scale) for t in (*parts, op.output)}
        if cells is None or len(storage) != 1 or self.options.batch != 1 or self.options.concat != "split":
            self._own(op.output)
            return
        self.views.add(op.name)
        self.roots[op.output] = tuple(self.images.roots(cells))
        self.images.cells[op.output] = cells
        if not self.images.plain(cells):
            self.mosaics.add(op.output)

    def _may_be_view(self, op: Op, parts: tuple[str, ...]) -> bool:
        """Whether an op's output is its inputs' bytes, whatever they hold."""
        d = self.defs[op.name]
        if not (d.view or d.concat):
            return False
        storage = {(self.dtype(t), self.network.tensor[t].scale) for t in (*parts, op.output)}
        if len(storage) != 1 or len(set(parts)) != len(parts):
            return False
        if d.view:
            return True
        split = self.options.concat == "split"
        return (split or self.options.batch == 1) and self.infos[op.name].attrs.get("axis", 0) == 0

    def _reach(self) -> None:
        wanted = {r for judged in self.losses for r in self.roots[judged.loss.output]}
        self.reached = set(wanted)
        self.relevant: set[str] = set()
        for op in reversed(self.network.ops):
            if op.name in self.views or op.output not in wanted:
                continue
            self.relevant.add(op.name)
            for slot, t in enumerate(op.inputs):
                wanted.update(self.roots[t])
                if op.output in self.reached and self.defs[op.name].differentiable(self.infos[op.name], slot):
                    self.reached.update(self.roots[t])

    def _flow(self) -> None:
        upstream: set[str] = set()
        for op in self.network.ops:
            if op.name in self.views:
                continue
            here = any(p in self.update for p in op.params.values())
            for slot, t in enumerate(op.inputs):
                if self.defs[op.name].differentiable(self.infos[op.name], slot):
                    here = here or any(r in upstream for r in self.roots[t])
            if here:
                upstream.add(op.output)
        self.needed = upstream & self.reached
        self.contributions: dict[str, list[set[Contribution]]] = {
            r: [set() for _ in range(self.images.heights.get(r, 1))] for r in self.needed
        }
        for number, judged in enumerate(self.losses):
            self._contribute(judged.loss.output, "", number)
        for op in self.network.ops:
            if op.name in self.relevant and op.output in self.needed:
                for slot, t in enumerate(op.inputs):
                    if self.defs[op.name].differentiable(self.infos[op.name], slot):
                        self._contribute(t, op.name, slot)

    def _contribute(self, tensor: str, op: str, slot: int) -> None:
        """Note an op's term in the gradients of what an input of it is made of."""
        if tensor not in self.mosaics:
            for k, r in enumerate(self.roots[tensor]):
                for terms in self.contributions.get(r, ()):
                    terms.add((op, slot, k))
            return
        cells = self.images.cells[tensor]
        assert cells is not None  # of a mosaic they are known
        for number, row in {(int(n), int(r)) for n, _, r in cells.reshape(-1, 3)}:
            root = self.images.names[number]
            if root in self.needed:
                self.contributions[root][row].add((op, slot, 0))

    def rank(self, term: Contribution) -> tuple[int, int, int]:
        """Where a term comes in its gradient's sum: losses' first, in order, then those of ops from the last on."""
        op, slot, part = term
        return (-self.position.get(op, len(self.position)), slot, part)

    def users(self, p: str) -> list[tuple[Op, str]]:
        """The ops that a gradient of parameter ``p`` comes from, with slots; the owner where there is none."""
        users = self.network.users[p]
        found = [(op, slot) for op, slot in users if op.name in self.relevant and op.output in self.needed]
        return found or [self.network.owner[p]]

    def required(self) -> dict[tuple[str, str, str], str]:
        """(kind, op, target) of every step that has to be there, with the reason."""
        steps: dict[tuple[str, str, str], str] = {}
        for op in self.network.ops:
            if op.name in self.relevant:
                steps["forward", op.name, "y"] = "the loss depends on it"
                for slot, t in enumerate(op.inputs):
                    if op.output in self.needed and self.defs[op.name].differentiable(self.infos[op.name], slot):
                        for r in self.roots[t]:
                            if r in self.needed:
                                steps["grad_input", op.name, f"x{slot}"] = f"the gradient of {r!r} lacks it"
        for judged in self.losses:
            steps["loss", judged.loss.kind, judged.mark] = "training needs it"
        for p in self.update:
            if p in self.network.owner:
                users = self.users(p)
                for user, slot_name in users:
                    steps["grad_param", user.name, slot_name] = f"parameter {p!r} is updated"
                steps["update", users[0][0].name, users[0][1]] = f"parameter {p!r} is updated"
        return steps

    # -- sizes -----------------------------------------------------------------------------------
    def dtype(self, tensor: str) -> str:
        """Storage type of a tensor of the network."""
        return self.network.tensor[tensor].dtype or self.options.dtype

    def batched(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A sample's shape with the batch axis."""
        return (self.options.batch, *shape)

    def bytes_of_root(self, root: str) -> int:
        """Bytes of an activation or input."""
        return bytes_of(self.options.batch * self.network.tensor[root].elements, self.dtype(root))

    def fraction(self, p: str) -> Fraction | None:
        """How a parameter can be cut."""
        op, slot = self.network.owner[p]
        return self.defs[op.name].fraction(self.infos[op.name], slot)

    def keep(self, p: str) -> int | None:
        """Units of an updated parameter that are updated; None for the whole."""
        r, cut = self.update.get(p, 1.0), self.fraction(p)
        return None if r == 1 or cut is None else int(cut.units * r)

    def cut_shape(self, p: str) -> tuple[int, ...]:
        """Shape of the gradient, accumulator and states of an updated parameter."""
        shape, keep, cut = self.network.tensor[p].shape, self.keep(p), self.fraction(p)
        if keep is None or cut is None:
            return shape
        return (*shape[: cut.axis], keep * cut.per_unit, *shape[cut.axis + 1 :])

    def target(self, judged: LossStep) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of a loss's training target."""
        shape, dtype = target_of(judged.loss, self.network)
        return self.batched(shape), self.options.dtype if dtype == "data" else dtype

    def specs(self, value: Value) -> list[Spec]:
        """What a value of that role and tensor may be; empty when there is no such thing."""
        t, dtype = value.tensor, self.options.dtype
        tensor = self.network.tensor.get(t)
        if value.role == "target":
            return [Spec(*self.target(judged), False, MAIN, None) for judged in self.losses if judged.target == t]
        if value.role == "auxiliary":
            if t not in self.infos:
                return []
            aux = self.defs[t].aux(self.infos[t])
            return [Spec(self.batched(a.shape), a.dtype, False, MAIN, None) for a in aux.values()]
        if tensor is None:
            return []
        if value.role in ("input", "activation"):
            if tensor.role != value.role:
                return []
            levels = (MAIN, PAGE_LEVEL) if "page" in self.problem.savings else (MAIN,)
            return [Spec(self.batched(tensor.shape), self.dtype(t), False, level, tensor.scale) for level in levels]
        if value.role == "packed":
            if (
                tensor.role == "parameter"
                or tensor.dtype == "i32"
                or "int8" not in self.problem.savings
                or not tensor.shape
            ):
                return []
            codes = Spec(self.batched(tensor.shape), "u8", False, MAIN, None)
            return [codes, Spec((1, self.scales(t)), "fp32", False, MAIN, None)]
        if value.role == "gradient":
            return [Spec(self.batched(tensor.shape), dtype, False, MAIN, None)] if tensor.role == "activation" else []
        if tensor.role != "parameter":
            return []
        if value.role == "parameter":
            homes = [MAIN if t in self.update else self.options.frozen]
            if "stream" in self.problem.savings and t not in self.update and self.problem.stream_level:
                homes.append(self.problem.stream_level)
            return [Spec(tensor.shape, self.dtype(t), True, level, tensor.scale) for level in homes]
        kept = {
            "parameter gradient": self.options.gradients == "fused",
            "accumulator": self.options.gradients == "accumulate",
            "state": bool(OPTIMIZERS[self.options.optimizer]),
        }
        if t not in self.update or not kept.get(value.role, False):
            return []
        found = [Spec(self.cut_shape(t), dtype, value.role != "parameter gradient", MAIN, None)]
        if value.role in ("accumulator", "state") and "page" in self.problem.savings:
            found.append(found[0]._replace(level=PAGE_LEVEL))
        return found

    def scales(self, tensor: str) -> int:
        """Scales of a tensor in 8 bits: one a channel, or one for a vector."""
        shape = self.network.tensor[tensor].shape
        return shape[0] if len(shape) > 1 else 1

    # -- work ------------------------------------------------------------------------------------
    def channel_range(self, tensor: str, part: int) -> tuple[tuple[int, int], tuple[int, int] | None]:
        """Part ``part`` of a tensor as a half-open range of elements, and of channels if it has whole ones."""
        shape, roots = self.network.tensor[tensor].shape, self.roots[tensor]
        row = math.prod(shape[1:])
        start = sum(self.network.tensor[r].elements for r in roots[:part])
        stop = start + self.network.tensor[roots[part]].elements
        whole = start % row == 0 and stop % row == 0
        return (start, stop), (start // row, stop // row) if whole else None

    def macs(self, kind: str, op: str, target: str) -> int:
        """Multiply-accumulates of a step."""
        if kind not in ("forward", "grad_param", "grad_input"):
            return 0
        d, info, net_op = self.defs[op], self.infos[op], self.network.op[op]
        total = d.macs(info, "forward" if kind == "forward" else target) * self.options.batch
        if kind == "grad_param":
            p = net_op.params[target]
            keep, cut = self.keep(p), self.fraction(p)
            return total if keep is None or cut is None else total * keep // cut.units
        if kind == "grad_input" and d.partial_input:
            tensor = net_op.inputs[int(target[1:])]
            roots = self.roots[tensor]
            cells = self.images.cells[tensor] if tensor in self.mosaics else None
            if cells is not None:
                taken = self.images.channel_ranges(cells)
                if taken is None:
                    return total
                counted = [(hi - lo) for (lo, hi), among in taken.items() if among & self.needed]
                return sum(total * n // cells.shape[0] for n in counted)
            ranges = [self.channel_range(tensor, k)[1] for k in range(len(roots))]
            if len(roots) > 1 and None not in ranges:  # parts of whole channels are computed one by one
                extent = self.network.tensor[tensor].shape[0]
                parts = [c for c, r in zip(ranges, roots, strict=True) if c is not None and r in self.needed]
                return sum(total * (stop - start) // extent for start, stop in parts)
        return total

    def tile_space(self, op: str, pass_: str) -> TileSpace | None:
        """The loop nest of a pass."""
        return self.defs[op].tile_space(self.infos[op], pass_)
