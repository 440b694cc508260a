"""Networks as JSON: a versioned spec, checked field by field, read from and written to files.

A spec is an object::

    {
      "sparseplan": "network",
      "version": 1,
      "name": "tiny",
      "inputs": {"image": [3, 16, 16]},
      "ops": [
        {"name": "conv", "kind": "conv", "inputs": ["image"], "output": "conv.out",
         "params": ["weight", "bias"], "attrs": {"out_channels": 8, "kernel": 3, "padding": 1}},
        {"name": "act", "kind": "relu", "inputs": ["conv.out"], "output": "act.out"}
      ],
      "outputs": ["act.out"]
    }

``ops``
    In execution order. ``output`` may be omitted and is then ``NAME.out``. ``params`` maps slots to
    tensor names; a list of slots stands for ``{slot: "NAME.slot"}``.
``inputs``
    Name to shape per sample, without the batch axis; or to ``{"shape", "dtype", "scale"}``.
``tensors``
    Optional list of ``{"name", "role", "shape", "dtype", "scale"}``, for storage types and the order
    of tensors. Shapes of parameters and op outputs may be omitted; where given they are checked.
    Roles may be omitted save for ``input``.

Tensors that the list leaves out follow it: first inputs, then each op's parameters and output.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from sparseplan import atomic, jsonio
from sparseplan.errors import NetworkError, OpError
from sparseplan.jsonio import Node
from sparseplan.network import (
    MAX_ELEMENTS,
    MAX_RANK,
    TENSOR_DTYPES,
    Attr,
    Network,
    Op,
    Role,
    Tensor,
    check_name,
    check_order,
)
from sparseplan.ops import infos, op_def

VERSION = 1
#: beyond these a spec is taken for hostile rather than for a microcontroller's network
MAX_OPS = 20_000
MAX_TENSORS = 80_000
MAX_SLOTS = 1_000
MAX_ATTRS = 64

Shape = tuple[int, ...]


def read_spec(source: str | os.PathLike[str] | Mapping[str, Any]) -> Network:
    """The network that a spec file, or a spec as plain data, describes.

    Raises:
        NetworkError: the file cannot be read or is no such spec; the message names the path of the
            culprit in the spec, its value, and what would do.
    """
    if isinstance(source, Mapping):
        return from_dict(source)
    return from_dict(jsonio.load(source, "network spec", NetworkError), f"network spec {os.fspath(source)!r}")


def write_spec(network: Network, path: str | os.PathLike[str]) -> None:
    """Write the spec of ``network``, whole or not at all; ``read_spec`` gives back an equal network.

    Raises:
        OutputError: the file cannot be written.
    """
    atomic.write_text(path, jsonio.dump(to_dict(network)))


def to_dict(network: Network) -> dict[str, Any]:
    """The spec of ``network`` as plain data, complete: nothing is left to be inferred."""
    return {
        "sparseplan": "network",
        "version": VERSION,
        "name": network.name,
        "tensors": [_tensor_to_dict(t) for t in network.tensors],
        "ops": [_op_to_dict(op) for op in network.ops],
        "outputs": list(network.outputs),
    }


def _tensor_to_dict(tensor: Tensor) -> dict[str, Any]:
    row: dict[str, Any] = {"name": tensor.name, "role": tensor.role, "shape": list(tensor.shape)}
    if tensor.dtype is not None:
        row["dtype"] = tensor.dtype
    if tensor.scale is not None:
        row["scale"] = tensor.scale
    return row


def _op_to_dict(op: Op) -> dict[str, Any]:
    row: dict[str, Any] = {"name": op.name, "kind": op.kind, "inputs": list(op.inputs), "output": op.output}
    if op.params:
        row["params"] = dict(op.params)
    if op.attrs:
        row["attrs"] = {k: list(v) if isinstance(v, tuple) else v for k, v in op.attrs.items()}
    return row


def from_dict(data: Any, source: str = "network spec") -> Network:
    """The network that a spec, as plain data, describes; ``source`` begins every message.

    Raises:
        NetworkError: see ``read_spec``.
    """
    root = _header(Node(data, source, NetworkError))
    ops = [_read_op(node) for node in root["ops"].entries(MAX_OPS)]
    outputs = tuple(node.text() for node in root["outputs"].entries(MAX_TENSORS))
    try:
        name = check_name(root["name"].text(), "network")
        drafts = _drafts(root, ops)
        check_order(f"network {name!r}", ops, [d.name for d in drafts.values() if d.role == "input"])
        _infer_shapes(ops, drafts)
        network = Network(name, tuple(d.tensor() for d in drafts.values()), tuple(ops), outputs)
        infos(network)
    except NetworkError as error:
        message = str(error)
        raise type(error)(message if message.startswith(source) else f"{source}: {message}") from None
    return network


def _header(root: Node) -> Node:
    """The root with its keys, kind and version checked; before all else, to name other files as such."""
    if isinstance(root.value, Mapping) and root.value.get("sparseplan") != "network":
        found = jsonio.show(root.value.get("sparseplan"))
        raise NetworkError(
            f"{root.source}: key 'sparseplan' is {found}, not 'network'; this is not the spec of a network"
        )
    root.record(required=("sparseplan", "version", "name", "ops", "outputs"), optional=("inputs", "tensors"))
    version = root["version"].integer(low=1)
    if version > VERSION:
        root["version"].fail(f"is newer than this sparseplan reads (up to {VERSION}); update sparseplan")
    return root


@dataclass
class _Draft:
    """A tensor whose role and shape may still be unknown; ``node`` is where the spec speaks of it."""

    name: str
    node: Node | None = None
    role: Role | None = None
    shape: Shape | None = None
    dtype: str | None = None
    scale: float | None = None

    def tensor(self) -> Tensor:
        if self.role is None or self.shape is None:  # pragma: no cover - _drafts and _infer_shapes see to both
            raise NetworkError(f"tensor {self.name!r}: role={self.role} or shape={self.shape} is unknown; give it")
        return Tensor(self.name, self.shape, self.role, self.dtype, self.scale)


def _read_op(node: Node) -> Op:
    node.record(required=("name", "kind", "inputs"), optional=("output", "params", "attrs"))
    name = node["name"].text()
    output = node.get("output")
    try:
        return Op(
            name=name,
            kind=node["kind"].text(),
            inputs=tuple(n.text() for n in node["inputs"].entries(MAX_SLOTS)),
            output=output.text() if output else f"{name}.out",
            params=_read_params(name, node.get("params")),
            attrs=_read_attrs(node.get("attrs")),
        )
    except NetworkError as error:
        message = str(error)
        raise NetworkError(
            message if message.startswith(node.source) else f"{node.source}: {node.path}: {message}"
        ) from None


def _read_params(name: str, node: Node | None) -> dict[str, str]:
    if node is None:
        return {}
    if isinstance(node.value, list):
        slots = [n.text() for n in node.entries(MAX_SLOTS)]
        if len(set(slots)) < len(slots):
            node.fail("names a slot twice; keep one")
        return {slot: f"{name}.{slot}" for slot in slots}
    return {slot: n.text() for slot, n in node.members(MAX_SLOTS)}


def _read_attrs(node: Node | None) -> dict[str, Attr]:
    if node is None:
        return {}
    attrs: dict[str, Attr] = {}
    for key, value in node.members(MAX_ATTRS):
        if isinstance(value.value, (list, tuple)):
            attrs[key] = tuple(n.integer(low=-jsonio.MAX_INT) for n in value.entries(MAX_SLOTS))
        elif isinstance(value.value, str):
            attrs[key] = value.text()
        elif isinstance(value.value, bool):
            attrs[key] = value.value
        elif isinstance(value.value, int):
            attrs[key] = value.integer(low=-jsonio.MAX_INT)
        elif isinstance(value.value, float):
            attrs[key] = value.number()
        else:
            value.fail("must be a number, a string, true or false, or a list of integers")
    return attrs


def _read_shape(node: Node) -> Shape:
    return tuple(n.integer(low=1, high=MAX_ELEMENTS) for n in node.entries(MAX_RANK))


def _read_storage(draft: _Draft, node: Node) -> None:
    """The fields that inputs and tensors share."""
    shape, dtype, scale = node.get("shape"), node.get("dtype"), node.get("scale")
    draft.node = node
    draft.shape = _read_shape(shape) if shape else None
    draft.dtype = dtype.choice(TENSOR_DTYPES) if dtype else None
    draft.scale = scale.number() if scale else None


def _drafts(root: Node, ops: Iterable[Op]) -> dict[str, _Draft]:
    """Every tensor of the network by name, in the network's order, roles settled."""
    drafts: dict[str, _Draft] = {}
    tensors = root.get("tensors")
    for node in tensors.entries(MAX_TENSORS) if tensors else ():
        node.record(required=("name",), optional=("role", "shape", "dtype", "scale"))
        draft = _Draft(node["name"].text())
        if draft.name in drafts:
            node["name"].fail("is listed twice; names must differ")
        role = node.get("role")
        draft.role = cast(Role, role.choice(("input", "activation", "parameter"))) if role else None
        _read_storage(draft, node)
        drafts[draft.name] = draft
    inputs = root.get("inputs")
    for name, node in inputs.members(MAX_TENSORS) if inputs else ():
        if name in drafts:
            node.fail(f"gives {name!r} again, which tensors lists; keep one")
        drafts[name] = draft = _Draft(name, node, role="input")
        if isinstance(node.value, (list, tuple)):
            draft.shape = _read_shape(node)
        else:
            _read_storage(draft, node.record(required=("shape",), optional=("dtype", "scale")))
    for op in ops:
        for p in op.params.values():
            _settle(drafts.setdefault(p, _Draft(p)), "parameter")
        _settle(drafts.setdefault(op.output, _Draft(op.output)), "activation")
    for draft in drafts.values():
        if draft.role is None and draft.node:
            draft.node.fail("is made by no op and is no op's parameter; give it the role 'input' or drop it")
        if draft.role == "input" and draft.shape is None and draft.node:
            draft.node.fail("is an input and lacks its shape; give it")
    return drafts


def _settle(draft: _Draft, role: Role) -> None:
    # a role that was given and does not fit is the network's to refuse
    if draft.role is None:
        draft.role = role


def _infer_shapes(ops: Iterable[Op], drafts: Mapping[str, _Draft]) -> None:
    """Fill in the shapes that the spec leaves out, op by op."""
    for i, op in enumerate(ops):
        where = f"ops[{i}] {op.name!r} ({op.kind})"
        try:
            definition = op_def(op.kind)
        except OpError as error:
            raise OpError(f"ops[{i}].kind={op.kind!r}: {error}") from None
        try:
            attrs = definition.complete_attrs(op.attrs)
        except OpError as error:
            message = str(error)
            # "stride=-1 must …" becomes "ops[3].attrs.stride=-1 must …"
            joint = "." if message.partition("=")[0] in op.attrs else ": "
            raise OpError(f"ops[{i}].attrs{joint}{message}") from None
        low, high = definition.arity
        if len(op.inputs) < low or (high is not None and len(op.inputs) > high):
            wanted = f"{low}" if low == high else f"{low} or more" if high is None else f"{low} to {high}"
            raise OpError(f"{where}: inputs={jsonio.show(list(op.inputs))}: {op.kind} takes {wanted}")
        try:
            shapes = [cast(Shape, drafts[t].shape) for t in op.inputs]
            output = definition.output_shape(attrs, shapes)
            if any(n < 1 for n in output):
                raise OpError(f"inputs {shapes} are too small: the output would have shape {output}")
            params = definition.param_shapes(attrs, shapes)
            _fill(drafts[op.output], output)
            for slot, p in op.params.items():
                # a slot that the op does not have is refused, with near matches, when it is resolved
                _fill(drafts[p], params.get(slot, (1,)))
        except NetworkError as error:
            raise OpError(f"{where}: {error}") from None


def _fill(draft: _Draft, shape: Shape) -> None:
    if draft.shape is None:
        draft.shape = shape
        draft.tensor()  # refuses what is beyond all memory before the next op multiplies it
