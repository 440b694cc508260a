"""From an exported graph to a draft: each node by its rule, constants folded, the rest by shapes alone."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx

from sparseplan.errors import NetworkError
from sparseplan.importers.aten import MOVES, READERS, RULES, Call, Ids, Unsaid
from sparseplan.importers.aten.cost import draws, macs_of
from sparseplan.importers.draft import Draft, Known, Made, Shape, Value

#: calls that compute nothing
_IDLE = ("_assert", "sym_constrain", "_guards", "profiler", "_set_grad_enabled", "_enter_autocast", "_exit_autocast")
#: ops that look at a tensor's shape, and not at its numbers
_SHAPES = frozenset(("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "zero", "zero_"))
#: ops that draw numbers or look at them
_OBSTACLES = {
    "_local_scalar_dense": "reads a number out of a tensor that depends on the input",
    "item": "reads a number out of a tensor that depends on the input",
    "nonzero": "has an output whose shape depends on the input",
    "masked_select": "has an output whose shape depends on the input",
    "unique": "has an output whose shape depends on the input",
}


def array_of(tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    """A tensor's numbers; floats as float32."""
    kept = tensor.detach().cpu()
    if kept.is_complex():
        raise NetworkError("complex tensors are not known here")
    if kept.is_floating_point():
        kept = kept.to(torch.float32)
    return np.array(kept.numpy())


class Walk:
    """Translates the nodes of a graph in order.

    Args:
        parameters, buffers: placeholder to (name, tensor).
        leaves: paths of modules that are one op each.
    """

    def __init__(
        self,
        draft: Draft,
        parameters: Mapping[str, tuple[str, torch.Tensor]],
        buffers: Mapping[str, tuple[str, torch.Tensor]],
        leaves: frozenset[str],
    ) -> None:
        self.draft, self.leaves = draft, leaves
        self.values: dict[fx.Node, Any] = {}
        self.frozen: dict[int, Known] = {}
        self.names: dict[int, str] = {}
        self._kept: list[Value] = []  # identities stay good while the values live
        self.parameters, self.buffers = parameters, buffers

    # -- placeholders -------------------------------------------------------------------------
    def placeholder(self, node: fx.Node) -> None:
        """A parameter, a buffer, or an input of the network."""
        if node.name in self.parameters:
            name, tensor = self.parameters[node.name]
            self.values[node] = Known(array_of(tensor), name)
        elif node.name in self.buffers:
            name, tensor = self.buffers[node.name]
            known = Known(array_of(tensor))
            self._kept.append(known)
            self.names[id(known)] = name
            self.values[node] = known
        else:
            self.values[node] = self._input(node)

    def _input(self, node: fx.Node) -> Any:
        given = node.meta.get("val")
        if not isinstance(given, torch.Tensor):
            return given
        where = f"input {node.name!r}"
        if given.dtype == torch.bool:
            raise NetworkError(f"{where} is of booleans; make it a constant of the module, or give floats")
        if given.is_floating_point():
            return self.draft.input(node.name, tuple(given.shape))
        users = [user for user in node.users if not _op_name(user).startswith(_IDLE)]
        if users and all(map(_makes_floats, users)):
            self.draft.note(f"{where} holds integers, which the module turns to floats; it is read as floats")
            return self.draft.input(node.name, tuple(given.shape))
        made = self.draft.input(node.name, tuple(given.shape), "i32")
        return Ids(made, np.arange(made.count).reshape(made.shape))

    # -- calls --------------------------------------------------------------------------------
    def call(self, node: fx.Node) -> None:
        """An op: its constants folded, or by its rule, or by its shapes alone."""
        op = _op_name(node)
        if op.startswith(_IDLE):
            return
        if node.target is operator.getitem:
            source, at = self._value(node.args[0]), node.args[1]
            self.values[node] = source[at]
            return
        if not isinstance(node.target, torch._ops.OpOverload):
            raise NetworkError(
                f"{self._where(node)}: control flow and calls of subgraphs are not read; give the module one path"
            )
        args = {k: self._value(v) for k, v in _bound(node).items()}
        if any(isinstance(v, Ids) for v in _flat(args.values())) and op not in READERS:
            self.values[node] = self._moved(node, op)
            return
        tensors = [v for v in _flat(args.values()) if isinstance(v, (Known, Made, Ids))]
        parents = frozenset[str]().union(*(self._parents(v) for v in tensors if op not in _SHAPES))
        if all(isinstance(v, Known) for v in tensors) and not parents:
            self.values[node] = self._folded(node)
            return
        self.draft.wanted, self.draft.scope = self._wanted(node, op), self._path(node)
        self.draft.reader = self._where(node)
        constant = all(isinstance(v, Known) or id(v) in self.frozen for v in tensors)
        self.values[node] = self._by_rule(node, op, args, parents if constant else frozenset())
        if constant:
            self._remember(node, parents)

    def _parents(self, value: Any) -> frozenset[str]:
        """Parameters that a value of parameters alone was computed from."""
        if isinstance(value, Made):
            value = self.frozen.get(id(value))
        return self.draft.parents(value) if isinstance(value, Known) else frozenset()

    def _moved(self, node: fx.Node, op: str) -> Any:
        """Integers of an input, moved: PyTorch itself moves their places."""
        sources = [self.values[a].source for a in node.all_input_nodes if isinstance(self.values[a], Ids)]
        if op not in MOVES or len(sources) != len(node.all_input_nodes) or len({s.tensor for s in sources}) != 1:
            raise NetworkError(
                f"{self._where(node)}: it computes with the integers of input {sources[0].tensor!r}; networks hold "
                "integers as inputs of embeddings alone, so compute it outside and give it as an input of its own"
            )
        found = self._evaluate(node, lambda a: Known(self.values[a].places))
        if isinstance(found, list):
            return [Ids(sources[0], k.array) for k in found]
        return Ids(sources[0], found.array)

    def _by_rule(self, node: fx.Node, op: str, args: dict[str, Any], parents: frozenset[str]) -> Any:
        shapes = self._shapes(node)
        dtypes = tuple(str(t.dtype) for t in _flat([node.meta.get("val")]) if isinstance(t, torch.Tensor))
        call = Call(self.draft, op, node.target._overloadname, args, shapes, dtypes, self.frozen, self.names)
        try:
            if op in _OBSTACLES:
                raise NetworkError(f"{self._where(node)}: it {_OBSTACLES[op]}; compute it outside, or make it constant")
            if op not in RULES:
                raise Unsaid("no op of a network is like it")
            result = RULES[op](call)
            found = list(result) if isinstance(result, Sequence) else result
            self._check(found, shapes)
        except (Unsaid, NetworkError, KeyError, IndexError, TypeError, ValueError, AssertionError) as error:
            if op in _OBSTACLES:
                raise
            # arguments of a form that its rule does not foresee
            reason = str(error) if isinstance(error, (Unsaid, NetworkError)) else f"{type(error).__name__}: {error}"
            if parents and not draws(node, args):
                return self._constant(node, parents)
            return self._opaque(node, args, shapes, reason)
        self._kept.extend(found if isinstance(found, list) else [found])
        return found

    def _check(self, found: Any, shapes: Sequence[Shape]) -> None:
        results = found if isinstance(found, list) else [found]
        for value, shape in zip(results, shapes, strict=False):
            if tuple(value.shape) != shape:
                raise Unsaid(f"the rule makes shape {tuple(value.shape)}, the module {shape}")

    def _constant(self, node: fx.Node, parents: frozenset[str]) -> Any:
        """What no ops say of parameters alone: a constant, for which they are read as they are."""
        try:
            made = self._evaluate(node, self._constant_of)
        except (RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise NetworkError(f"{self._where(node)}: it cannot be computed from parameters: {error}") from None
        found = [replace(k, parents=parents) if isinstance(k, Known) else k for k in _flat([made])]
        self._kept.extend(found)
        return found if isinstance(made, list) else found[0]

    def _opaque(self, node: fx.Node, args: Mapping[str, Any], shapes: Sequence[Shape], reason: str) -> Any:
        values = [self.frozen.get(id(v), v) for v in _flat(args.values()) if isinstance(v, (Known, Made))]
        if any(0 in shape for shape in shapes):
            raise NetworkError(f"{self._where(node)}: an output of shape {list(shapes)} is empty")
        self.draft.note(
            f"{self._where(node)} is known by its shapes alone ({reason}): it can be planned, no gradient passes it"
        )
        type_ = str(node.target).removesuffix(".default")
        macs, drawn = macs_of(node, _op_name(node), args, shapes), draws(node, args)
        parts = [int(u.args[1]) for u in node.users if u.target is operator.getitem and u.users]
        made = list(self.draft.opaque(type_, values, shapes, macs, drawn, min(parts, default=0)))
        self._kept.extend(made)
        return made if isinstance(node.meta.get("val"), (list, tuple)) else made[0]

    def _shapes(self, node: fx.Node) -> tuple[Shape, ...]:
        given = node.meta.get("val")
        found = []
        for t in given if isinstance(given, (list, tuple)) else [given]:
            if isinstance(t, torch.Tensor):
                if not all(isinstance(n, int) for n in t.shape):
                    raise NetworkError(
                        f"{self._where(node)}: its output's shape {tuple(t.shape)} depends on data; make it constant"
                    )
                found.append(tuple(int(n) for n in t.shape))
            elif t is not None:
                raise NetworkError(
                    f"{self._where(node)}: it makes a number from data; compute it outside, or make it constant"
                )
        return tuple(found)

    # -- constants ----------------------------------------------------------------------------
    def _folded(self, node: fx.Node) -> Any:
        """PyTorch's own result for constants."""
        if draws(node, _bound(node)):
            raise NetworkError(f"{self._where(node)}: it draws random numbers, also in eval mode; make them constant")
        return self._evaluate(node, lambda a: self.values[a])

    def _remember(self, node: fx.Node, parents: frozenset[str]) -> None:
        """What a value made of parameters alone amounts to now, for ops that need a constant."""
        result = self.values[node]
        whole = isinstance(result, list)
        for i, value in enumerate(result if whole else [result]):
            if isinstance(value, Known) and not self.draft.parents(value):  # computed by a rule, in NumPy
                value = replace(value, name=None, parents=parents)
                self._kept.append(value)
                if whole:
                    result[i] = value
                else:
                    self.values[node] = value
        try:
            constant = self._evaluate(node, self._constant_of)
        except (RuntimeError, NetworkError, KeyError, TypeError, AttributeError):
            return
        for value, known in zip(_flat([result]), _flat([constant]), strict=False):
            if isinstance(value, Made) and isinstance(known, Known):
                self.frozen[id(value)] = replace(known, source=partial(_itself, value), parents=parents)

    def _constant_of(self, node: fx.Node) -> Any:
        value = self.values[node]
        if isinstance(value, list):
            return [self.frozen[id(v)] if isinstance(v, Made) else v for v in value]
        return self.frozen[id(value)] if isinstance(value, Made) else value

    def _evaluate(self, node: fx.Node, look: Any) -> Any:
        def tensor(a: fx.Node) -> Any:
            known = look(a)
            if isinstance(known, list):
                return [_tensor(k) for k in known]
            return _tensor(known)

        with torch.no_grad():
            args = fx.node.map_arg(node.args, tensor)
            kwargs = fx.node.map_arg(node.kwargs, tensor)
            result = node.target(*args, **kwargs)
        if isinstance(result, (list, tuple)):
            return [self._known(t) for t in result]
        return self._known(result)

    def _known(self, result: Any) -> Any:
        if not isinstance(result, torch.Tensor):
            return result
        known = Known(array_of(result))
        self._kept.append(known)
        return known

    # -- small things -------------------------------------------------------------------------
    def _value(self, given: Any) -> Any:
        if isinstance(given, fx.Node):
            return self.values[given]
        if isinstance(given, (list, tuple)):
            return [self._value(v) for v in given]
        return given

    def _path(self, node: fx.Node) -> str:
        stack = node.meta.get("nn_module_stack") or {}
        path = next(reversed(stack.values()))[0] if stack else ""
        return str(path)

    def _where(self, node: fx.Node) -> str:
        path = self._path(node)
        return f"node {node.name!r} ({node.target})" + (f" in module {path!r}" if path else "")

    def _wanted(self, node: fx.Node, op: str) -> tuple[str, ...]:
        path = self._path(node)
        if not path:
            return (node.name,)
        plain = op.strip("_")
        return (path, f"{path}.{plain}") if path in self.leaves else (f"{path}.{plain}",)


def _tensor(known: Any) -> Any:
    return torch.from_numpy(np.array(known.array)) if isinstance(known, Known) else known


def _op_name(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name.partition("::")[2])
    return str(getattr(target, "__name__", target))


def _bound(node: fx.Node) -> dict[str, Any]:
    """Every argument of a call by name, defaults included."""
    schema = node.target._schema
    found: dict[str, Any] = {}
    for i, argument in enumerate(schema.arguments):
        if i < len(node.args):
            found[argument.name] = node.args[i]
        elif argument.name in node.kwargs:
            found[argument.name] = node.kwargs[argument.name]
        else:
            found[argument.name] = argument.default_value
    return found


def _flat(values: Any) -> list[Any]:
    result: list[Any] = []
    for v in values:
        result += _flat(v) if isinstance(v, (list, tuple)) else [v]
    return result


def _itself(made: Made) -> Made:
    return made


def _makes_floats(node: fx.Node) -> bool:
    made = node.meta.get("val")
    cast = _op_name(node) in ("to", "_to_copy", "float", "type_as", "div", "mul")
    return cast and isinstance(made, torch.Tensor) and made.is_floating_point()
