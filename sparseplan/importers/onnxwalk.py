"""From the nodes of an ONNX graph to the ops of a network: fold, translate by a rule, or read as opaque."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from sparseplan.errors import NetworkError
from sparseplan.importers.draft import Draft, Known, Made
from sparseplan.importers.onnxcall import (
    Call,
    FirstOnly,
    Held,
    Malformed,
    OneHot,
    Picked,
    Unknown,
    Unsupported,
    is_float,
)
from sparseplan.importers.onnxdata import dtype_of
from sparseplan.importers.onnxfold import FOLDS, MAX_FOLDED_ALL, NAMED, SELECTS, named, shape_of, whole
from sparseplan.importers.onnxfusions import FUSIONS, Found
from sparseplan.importers.onnxgraph import Graph, Model, Node, captured, short
from sparseplan.importers.onnxloops import unrolled
from sparseplan.importers.onnxopaque import Stated, draws, macs_of, outputs_of
from sparseplan.importers.onnxpicks import picked
from sparseplan.importers.onnxrules import IDS, INTEGERS, RULES
from sparseplan.importers.onnxtanh import tanh_gelu

#: what an op of integers (or truth values) makes, where it is not what it reads
#: beyond these a file is taken for hostile: inputs, ops and parameters; elements of parameters; opaque ops; turns
MAX_SIZE, MAX_WEIGHTS, MAX_OPAQUE, MAX_TURNS_ALL = 60_000, 2**28, 4096, 4096

_BOOL = np.dtype(np.bool_)
_TRUTHS = frozenset(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor", "IsNaN"))
#: input whose element type is that of the output, where not any
_TYPED_BY = {"Gather": 0, "OneHot": 2, "Where": 1}


@dataclass(eq=False)
class Scope:
    """Values by name; those of the graph around are seen, too."""

    graph: Graph
    outer: Scope | None = None
    values: dict[str, Held] = field(default_factory=dict)
    dtypes: dict[str, np.dtype[Any]] = field(default_factory=dict)

    def find(self, name: str) -> Held | None:
        """The value of a name, or None."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.outer
        return None

    def dtype(self, name: str) -> np.dtype[Any] | None:
        """Its element type, or None where it is not known."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                found = scope.values[name]
                return found.array.dtype if isinstance(found, Known) else scope.dtypes.get(name)
            scope = scope.outer
        return None


class _Later:
    """A node of constants as ops of the network, made when they are asked for; once."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self._made: list[Made] | None = None

    def output(self, i: int) -> Made | None:
        """Its output ``i``; None where no ops say it."""
        if self._made is None:
            self._made = self._ops()
        return self._made[i] if i < len(self._made) else None

    def _ops(self) -> list[Made]:
        node, draft = self.call.node, self.call.draft
        rule = RULES.get(node.op)
        kept = draft.wanted, draft.reader
        draft.wanted, draft.reader = (node.name, *node.outputs[:1]), node.title
        try:
            made = rule(self.call) if rule is not None else ()
            values = [made] if isinstance(made, (Known, Made, OneHot, Picked)) else list(made)
            return [draft.made(v) for v in values if isinstance(v, (Known, Made))]
        except (NetworkError, Unsupported, TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError):
            return []
        finally:
            draft.wanted, draft.reader = kept


class Walker:
    """Translates the nodes of one model into a draft."""

    def __init__(self, model: Model, draft: Draft, integers: frozenset[str]) -> None:
        self.model, self.draft = model, draft
        #: inputs of the network that hold integers
        self.integers = integers
        #: every value made so far, also in subgraphs, for outputs that a user names
        self.all: dict[str, Held] = {}
        self.frozen: dict[str, int] = {}
        self.last = ""
        self._folded = 0
        self._turns = 0
        self._told: set[tuple[str, str]] = set()
        self._weighed = self._elements = 0
        self._early: dict[int, Mapping[str, Held]] = {}

    def run(self, graph: Graph, scope: Scope) -> None:
        """Translate every node of a graph. Raises NetworkError naming the node."""
        for name, known in graph.constants.items():
            scope.values[name] = known
        # patterns look at constants ahead
        nodes = sorted(graph.nodes, key=lambda node: node.op != "Constant")
        for node in nodes:
            self.last = node.title
            try:
                held = self._node(node, scope)
                self._bound()
            except (NetworkError, Unsupported, Unknown) as error:
                text = str(error)
                inner = text.startswith("node ")
                raise NetworkError(text if inner else f"{node.title}: {text}") from None
            for name, value in zip(node.outputs, held, strict=False):
                if name:
                    scope.values[name] = value
                    self.all.setdefault(name, value)

    def _bound(self) -> None:
        """Raise NetworkError where little of a file has become much."""
        weights = self.draft.weights
        self._elements += sum(a.size for a in islice(weights.values(), self._weighed, None))
        self._weighed = len(weights)
        if self.draft.size > MAX_SIZE:
            raise NetworkError(f"over {MAX_SIZE} ops and parameters so far; no microcontroller's network has so many")
        if self._elements > MAX_WEIGHTS:
            raise NetworkError("parameters of over 2**28 elements so far, in all their forms; use fewer")
        if sum(self.frozen.values()) > MAX_OPAQUE:
            raise NetworkError(f"over {MAX_OPAQUE} ops are known by their shapes alone; there is little to plan")

    # -- one node -----------------------------------------------------------------------------
    def _node(self, node: Node, scope: Scope) -> Sequence[Held]:
        if id(node) in self._early:  # a pattern took it in
            found = self._early[id(node)]
            return [found[name] for name in node.outputs if name in found] if len(node.outputs) == 1 else []
        if node.op == "Loop":
            return self._loop(node, scope)
        if node.op == "If":
            return self._if(node, scope)
        call = self._call(node, scope)
        self.draft.wanted, self.draft.reader = (node.name, *node.outputs[:1]), node.title
        if call.constant:
            folded = self._fold(call)
            if folded is not None:
                return folded
        if node.op in ("Shape", "Size"):
            return [_shape(call)]
        fused = self._fuse(node, scope)
        if fused is not None:
            return fused
        made = self._rule(call, scope)
        self._remember(node, call, scope)
        return made

    def _call(self, node: Node, scope: Scope) -> Call:
        values: list[Held | None] = []
        dtypes: list[np.dtype[Any] | None] = []
        for name in node.inputs:
            value = scope.find(name) if name else None
            if name and value is None:
                raise NetworkError(f"reads {short(name)}, which was left out before")
            values.append(value)
            dtypes.append(scope.dtype(name) if name else None)
        return Call(node, tuple(values), self.draft, self.opset(node), tuple(dtypes))

    def opset(self, node: Node) -> int:
        """Version of the operators of a node's domain."""
        return self.model.opsets.get(node.domain, 1)

    def _fold(self, call: Call) -> Sequence[Held] | None:
        """A node of constants alone, computed; None where it cannot be."""
        node, call = call.node, replace(call, folding=True)
        first = call.known(0) if call.values else None
        parents = self._parents(call)
        if node.op in NAMED and first is not None and not call.integer("training_mode", 0):
            moved = named(call, first)
            return [moved if self.draft.parents(moved) else replace(moved, parents=parents)]
        if node.op not in FOLDS:
            return None
        try:
            with np.errstate(all="ignore"):
                if node.op in SELECTS and first is not None and first.name and is_float(first.array.dtype):
                    kept = whole(call, first)
                    if kept is not None:
                        return [kept]
                made = FOLDS[node.op](call)
        except Unsupported:
            return None
        except (TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError, MemoryError) as error:
            raise NetworkError(f"cannot be computed from its constants: {_line(error)}") from None
        arrays = made if isinstance(made, list) else [np.asarray(made)]
        self._folded += sum(a.size for a in arrays)
        if self._folded > MAX_FOLDED_ALL:
            raise NetworkError("constants of over 2**26 elements would be computed; fold them before, or use fewer")
        if node.op == "Constant":  # exporters put weights there, too
            name = node.outputs[0] if arrays[0].ndim and arrays[0].dtype.kind == "f" else None
            return [Known(arrays[0], name)]
        if not parents:
            return [Known(a) for a in arrays]
        later = _Later(replace(call, folding=False))
        return [
            Known(a, source=partial(later.output, i) if is_float(a.dtype) else None, parents=parents)
            for i, a in enumerate(arrays)
        ]

    def _parents(self, call: Call) -> frozenset[str]:
        """Parameters that a node of constants computes with."""
        if call.node.op in ("Shape", "Size", "ConstantOfShape"):
            return frozenset()
        values = call.values[:1] if call.node.op == "CastLike" else call.values  # of the other the type alone counts
        return frozenset().union(*(self.draft.parents(v) for v in values if isinstance(v, Known)))

    def _rule(self, call: Call, scope: Scope) -> Sequence[Held]:
        node, rule = call.node, RULES.get(call.node.op)
        reason = f"{node.op} is not among the ops that are known"
        error: NetworkError | None = None
        whole = [v for v, d in zip(call.values, call.dtypes, strict=True) if v is not None and not is_float(d)]
        whole = [v for v in whole if not isinstance(v, Known)]
        ids = any(isinstance(v, Picked) or (isinstance(v, Made) and v.tensor in self.integers) for v in call.values)
        moved = picked(call, self.integers) if ids else None
        if moved is not None:
            return moved
        if rule is not None and ((ids and node.op not in IDS) or (whole and node.op not in INTEGERS)):
            rule, reason = None, "it reads integers or truth values"
        if rule is not None:
            try:
                with np.errstate(all="ignore"):
                    made = rule(call)
                return list(made) if isinstance(made, Sequence) else [made]
            except Malformed:
                raise
            except FirstOnly:
                first = replace(call, node=replace(node, outputs=(node.outputs[0],)))
                others = replace(call, node=replace(node, outputs=("", *node.outputs[1:])))
                rest = self._opaque(others, scope, "all its outputs but the first", None)
                return [*self._rule(first, scope), *rest[1:]]
            except Unsupported as unsupported:
                reason = str(unsupported)
                moved = picked(call, self.integers, ruled=True) if ids else None
                if moved is not None:
                    return moved
            except NetworkError as found:
                reason, error = str(found), found
            except (TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError) as found:
                reason = _line(found)
                error = NetworkError(f"its values or attributes do not fit each other: {reason}")
        return self._opaque(call, scope, reason + self._fixable(whole), error)

    def _fixable(self, held: Iterable[Held]) -> str:
        """Which inputs of integers decide these values: what is to be fixed where they are always the same."""
        tensors = [v.ids if isinstance(v, (OneHot, Picked)) else v for v in held]
        names = set().union(*(self.draft.roots[v.tensor] for v in tensors if isinstance(v, Made))) & self.integers
        if not names:
            return ""
        hint = " ".join(f"--fix {name}=1" for name in sorted(names)[:4])
        which = f"input{'s' * (len(names) > 1)} {', '.join(short(n) for n in sorted(names)[:4])}"
        return f", as of {which}: fix {'it' if len(names) == 1 else 'one'} if it is always the same ({hint})"

    def _opaque(self, call: Call, scope: Scope, reason: str, error: NetworkError | None) -> Sequence[Held]:
        """A node by its shapes alone."""
        node = call.node
        stated = [self._stated(name, scope) for name in node.inputs]
        ports = outputs_of(self.model, node, stated, scope.graph.declared)
        if isinstance(ports, str):
            if error is not None:
                raise error
            raise NetworkError(
                f"cannot be read ({reason}), and its outputs' shapes are not known ({ports}); give them in the file "
                "(value_info, as onnx.shape_inference writes them), choose outputs before it, or fix inputs that "
                "it depends on"
            )
        inputs = [self._tensor(v) for v in call.values if v is not None]
        for name in dict.fromkeys(captured(node)):
            held = None if name in node.inputs else scope.find(name)
            if held is not None and not isinstance(held, Known):
                inputs.append(self._tensor(held))
        shapes = [shape for shape, _ in ports]
        if any(n < 1 for shape in shapes for n in shape):
            raise NetworkError(f"cannot be read ({reason}), and makes shapes {shapes}, which hold nothing")
        read = next((i for i, name in enumerate(node.outputs) if name), 0)
        macs = macs_of(node, [s.shape for s in stated], shapes[read])
        made = self.draft.opaque(node.op, inputs, shapes, macs, draws(node), read)
        self.frozen[node.op] = self.frozen.get(node.op, 0) + 1
        if node.op in RULES and (node.op, reason) not in self._told:
            self._told.add((node.op, reason))  # the first of its kind is told
            self.draft.note(f"{node.title} is planned as frozen, by its shapes alone: {reason}"[:400])
        for name, (_, dtype) in zip(node.outputs, ports, strict=False):
            if name and dtype is not None:
                scope.dtypes[name] = dtype
                if dtype in (np.dtype(np.uint8), np.dtype(np.int8)):
                    self.draft.store(made[node.outputs.index(name)].tensor, "int8", 1.0)
        return made

    def _tensor(self, held: Held) -> Known | Made:
        """A value as one of the network: what no op computes is made by an op that is known by its shapes alone."""
        if isinstance(held, (Known, Made)):
            return held
        kind = "OneHot" if isinstance(held, OneHot) else "Gather"
        self.frozen[kind] = self.frozen.get(kind, 0) + 1
        return self.draft.opaque(kind, [held.ids], [held.shape], 0)[0]

    def _stated(self, name: str, scope: Scope) -> Stated:
        value = scope.find(name) if name else None
        if value is None:
            return Stated(name, None, None, None)
        array = value.array if isinstance(value, Known) else None
        return Stated(name, value.shape, scope.dtype(name) or np.dtype(np.float32), array)

    def _remember(self, node: Node, call: Call, scope: Scope) -> None:
        """Element types of what a rule made."""
        first = next((d for d in call.dtypes if d is not None), np.dtype(np.float32))
        for name in filter(None, node.outputs):
            if name in scope.dtypes:
                continue
            if node.op == "Cast":
                scope.dtypes[name] = dtype_of(call.integer("to"), "attribute 'to'")
            elif node.op == "CastLike":
                scope.dtypes[name] = call.dtypes[1] or first
            elif node.op in _TRUTHS:
                scope.dtypes[name] = _BOOL
            elif node.op in _TYPED_BY:
                scope.dtypes[name] = call.dtypes[_TYPED_BY[node.op]] or first
            else:
                scope.dtypes[name] = first

    # -- patterns of several nodes ------------------------------------------------------------
    def _fuse(self, node: Node, scope: Scope) -> Sequence[Held] | None:
        patterns = FUSIONS.get(node.op, ())
        for pattern in (*patterns, tanh_gelu) if node.op == "Mul" else patterns:
            found: Found | None = pattern(node, scope.graph, scope.find)
            if found is None:
                continue
            self.draft.wanted = (found.nodes[-1].name, found.output, node.name)
            try:
                value = found.make(self.draft)
            except (NetworkError, Unsupported):
                continue
            # what the pattern takes in is seen by nobody else
            last = found.nodes[-1]
            for inner in found.nodes:
                self._early[id(inner)] = {found.output: value} if inner is last else {}
            scope.dtypes[found.output] = np.dtype(np.float32)
            if last is node:
                return [value]
            return []
        return None

    # -- loops --------------------------------------------------------------------------------
    def _loop(self, node: Node, scope: Scope) -> Sequence[Held]:
        call = self._call(node, scope)
        dtypes = list(call.dtypes[2:])
        turns = 0

        def turn(body: Graph, values: Sequence[Held]) -> Sequence[Held]:
            nonlocal turns
            turns, self._turns = turns + 1, self._turns + 1
            if self._turns > MAX_TURNS_ALL:
                raise Unsupported(f"all loops take more than {MAX_TURNS_ALL} turns")
            inner = Scope(body, scope)
            types = (None, None, *dtypes)
            for port, value, dtype in zip(body.inputs, values, types, strict=False):
                inner.values[port.name] = value
                if dtype is not None:
                    inner.dtypes[port.name] = dtype
            before, self._early = self._early, {}  # patterns are found anew in every turn
            try:
                self.run(body, inner)
            finally:
                self._early = before
            made = [inner.find(name) for name in body.outputs]
            dtypes[:] = [inner.dtype(name) for name in body.outputs[1:]]
            return [value for value in made if value is not None]

        try:
            made = unrolled(call, turn)
        except Unsupported as unsupported:
            return self._opaque(call, scope, str(unsupported), None)
        except NetworkError as error:
            return self._opaque(call, scope, str(error), error)
        self.draft.note(f"{node.title} is unrolled over {turns} turns")
        for name, dtype in zip(node.outputs, dtypes, strict=False):
            if name and dtype is not None:
                scope.dtypes[name] = dtype
        return made

    # -- conditions ---------------------------------------------------------------------------
    def _if(self, node: Node, scope: Scope) -> Sequence[Held]:
        call = self._call(node, scope)
        condition = call.values[0] if call.values else None
        if not isinstance(condition, Known):
            source = condition.tensor if isinstance(condition, Made) else condition and condition.ids.tensor
            decides = self.draft.roots.get(source or "", frozenset())
            switches = sorted(decides & self.integers) or sorted(decides)
            hint = ""
            if switches:
                hint = f"; fix an input that it depends on, as fixed={{{switches[0]!r}: …}} (--fix {switches[0]}=…)"
            try:
                return self._opaque(call, scope, "its condition is not constant", None)
            except NetworkError as error:
                raise NetworkError(f"its condition is not constant{hint}; {error}") from None
        if condition.array.size != 1:
            raise NetworkError(f"its condition has shape {condition.shape}; it must be one truth value")
        branch = call.graph("then_branch" if bool(condition.array.reshape(())) else "else_branch")
        if branch.inputs:
            raise NetworkError("its branch declares inputs, which it must not")
        inner = Scope(branch, scope)
        self.run(branch, inner)
        if len(branch.outputs) < len(node.outputs):
            raise NetworkError(f"its branch has {len(branch.outputs)} outputs; {len(node.outputs)} are named")
        result: list[Held] = []
        for name, outside in zip(branch.outputs, node.outputs, strict=False):
            value, dtype = inner.find(name), inner.dtype(name)
            if value is None:
                raise NetworkError(f"its branch does not make {short(name)}")
            result.append(value)
            if dtype is not None:
                scope.dtypes[outside] = dtype
        return result


def _shape(call: Call) -> Known:
    value = call.values[0] if call.values else None
    if value is None:
        raise NetworkError("input 0 is missing")
    if call.node.op == "Size":
        return Known(np.array(math.prod(value.shape), np.int64))
    return Known(shape_of(call, value.shape))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
