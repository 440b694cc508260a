"""ONNX files to networks: read, checked, walked through. Nothing of the file is trusted."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sparseplan.errors import MissingExtraError, NetworkError, near
from sparseplan.importers.draft import Draft, Imported, Known, Made, Shape
from sparseplan.importers.onnxcall import is_float
from sparseplan.importers.onnxconvert import MIN_CONVERTED, MIN_OPSET, converted
from sparseplan.importers.onnxdata import DTYPES, Folder, text_of
from sparseplan.importers.onnxgraph import Graph, GraphReader, Model, Port, as_array, known_names, short, trimmed
from sparseplan.importers.onnxroles import constants, formulas, is_learned, is_shared
from sparseplan.importers.onnxshapes import sized
from sparseplan.importers.onnxwalk import Scope, Walker
from sparseplan.objective import position_of
from sparseplan.ops.base import infos

#: larger files are no microcontroller's networks
MAX_BYTES = 2**30


def read_onnx(
    path: str | os.PathLike[str],
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fixed: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
) -> Imported:
    """The network of an ONNX file, read for one sample; see ``importers.onnx``.

    Raises:
        NetworkError: in one line that names the file, and the node where it is one that cannot be read.
        MissingExtraError: onnx is not installed.
    """
    place = Path(path)
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise MissingExtraError("reading ONNX files needs onnx; pip install 'sparseplan[onnx]'") from None
    where = str(place) if len(str(place)) <= 200 else "…" + str(place)[-200:]
    try:
        model = _model(place)
        return _imported(model, place.stem or "onnx", shapes or {}, outputs, fixed or {})
    except NetworkError as error:
        raise NetworkError(f"{where}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise NetworkError(f"{where}: its graphs are nested too deep") from None


def _bytes(path: Path) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise NetworkError("is no regular file; give the path of an .onnx file")
        if found.st_size > MAX_BYTES:
            raise NetworkError(f"takes {found.st_size} bytes; at most {MAX_BYTES} are read")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise NetworkError(f"cannot be read: {reason}") from None
    if len(raw) > MAX_BYTES:
        raise NetworkError(f"takes over {MAX_BYTES} bytes")
    if not raw:
        raise NetworkError("is empty; an ONNX model was expected")
    return raw


def _model(path: Path) -> Model:
    import onnx
    from google.protobuf.message import DecodeError

    raw = _bytes(path)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(raw)
    except DecodeError:
        hint = {b"\x1f\x8b": " (it is compressed; unpack it)", b"PK": " (it is a zip archive)"}.get(raw[:2], "")
        raise NetworkError(f"is no ONNX model, or is cut short{hint}") from None
    if not proto.HasField("graph") or not proto.graph.node:
        raise NetworkError("holds no graph of any nodes; an ONNX model was expected")
    if len(proto.functions):
        names = [text_of(f.name)[:80] for f in proto.functions[:3]]
        raise NetworkError(f"defines functions of its own ({names}); they are not read: inline them with onnx.inliner")
    opsets: dict[str, int] = {}
    for entry in proto.opset_import:
        domain = text_of(entry.domain)
        domain = "" if domain == "ai.onnx" else domain
        opsets[domain] = max(opsets.get(domain, int(entry.version)), int(entry.version))
    newest = onnx.defs.onnx_opset_version()
    if "" not in opsets:
        raise NetworkError("names no opset of ONNX's own operators")
    if opsets[""] < MIN_CONVERTED:
        raise NetworkError(
            f"is of opset {opsets['']}; {MIN_CONVERTED} or later can be read: export it anew, of opset 11 or later"
        )
    if opsets[""] > newest:
        raise NetworkError(
            f"is of opset {opsets['']}, but the onnx installed knows {newest} at most; install a newer one"
        )
    graph = GraphReader(Folder(path.absolute().parent)).graph(proto.graph)
    old = opsets[""] if opsets[""] < MIN_OPSET else None
    if old is not None:  # what was read before is well formed
        proto = converted(proto, old)
        opsets[""] = MIN_OPSET
        graph = GraphReader(Folder(path.absolute().parent)).graph(proto.graph)
    producer = text_of(proto.producer_name)
    return Model(graph, opsets, int(proto.ir_version), producer, _kinds(proto.graph), old)


def _kinds(graph: Any) -> dict[str, str]:
    """What torch.onnx's newer exporter says that initialisers were."""
    return {
        text_of(value.name): text_of(entry.value)
        for value in graph.value_info
        for entry in value.metadata_props
        if entry.key == "pkg.torch.export.graph_signature.InputSpec.kind"
    }


def _at(name: str, graph: Graph) -> str:
    """An output by its name, or by its position among those that are no inputs."""
    made = [n for n in graph.outputs if n not in graph.constants and all(n != p.name for p in graph.inputs)]
    at = None if name in known_names(graph) else position_of(name, len(made))
    return name if at is None else made[at]


def _imported(
    model: Model,
    name: str,
    shapes: Mapping[str, Sequence[int]],
    outputs: Sequence[str] | None,
    fixed: Mapping[str, Any],
) -> Imported:
    graph = model.graph
    wanted = tuple(graph.outputs if outputs is None else (_at(name, graph) for name in outputs))
    if not wanted:
        raise NetworkError("has no outputs" if outputs is None else "outputs=[] name none; give at least one")
    # patterns must not swallow what is asked for
    graph = replace(graph, outputs=tuple(dict.fromkeys((*graph.outputs, *wanted))))
    if known_names(graph).issuperset(wanted):
        graph = replace(trimmed(graph, wanted), outputs=tuple(dict.fromkeys(wanted)))
    model = replace(model, graph=graph)
    draft = Draft("".join(c if c.isprintable() else "_" for c in name)[:128])
    if model.converted is not None:
        draft.note(f"opset {model.converted} was converted to {MIN_OPSET} by onnx.version_converter")
    draft.learned = lambda name: is_learned(name, model)
    draft.shared = lambda name: is_shared(graph, name)
    draft.formulas = frozenset(formulas(graph))
    draft.trained = lambda name: model.kinds.get(name) in (None, "PARAMETER")
    draft.reserve(constants(graph))
    integers: set[str] = set()
    scope = Scope(graph)
    _enter(graph, draft, scope, integers, shapes, fixed)
    given = {v.tensor for v in scope.values.values() if isinstance(v, Made)}
    walker = Walker(model, draft, frozenset(integers))
    walker.all.update(scope.values)
    walker.all.update(graph.constants)
    walker.run(graph, scope)
    made, called = [], []
    for i, output in enumerate(wanted):
        held = scope.values.get(output) or walker.all.get(output)
        if held is None:
            known = [n for n, v in walker.all.items() if isinstance(v, Made)]
            raise NetworkError(f"output {short(output)} is unknown{near(output, known)}")
        if isinstance(held, Known):
            if i == 0 and len(wanted) == 1:
                raise NetworkError(f"output {short(output)} depends on constants alone; there is nothing to plan")
            draft.note(f"output {output!r} is constant, and left out")
        elif not isinstance(held, Made):
            raise NetworkError(f"output {short(output)} is made of integers, which no op computes; choose another")
        elif held.tensor in given:  # sentence encoders give their mask on
            draft.note(f"output {output!r} is input {held.tensor!r}, and left out")
        else:
            made.append(held)
            called.append(output)
    if not made:
        raise NetworkError(
            f"outputs {list(wanted)[:8]} depend on constants alone, or are inputs; there is nothing to plan"
        )
    if walker.frozen:
        total = sum(walker.frozen.values())
        kinds = ", ".join(f"{n} {op}" for op, n in sorted(walker.frozen.items()))
        quantised = any(word in op for op in walker.frozen for word in ("Quant", "QLinear", "Integer"))
        what = "quantised: " if quantised else ""
        draft.note(f"{what}{total} ops are known by their shapes alone and planned as frozen: {kinds}"[:600])
    imported = draft.finish(made, called)
    infos(imported.network)
    return imported


def _enter(
    graph: Graph,
    draft: Draft,
    scope: Scope,
    integers: set[str],
    shapes: Mapping[str, Sequence[int]],
    fixed: Mapping[str, Any],
) -> None:
    """Declare the network's inputs; those with fixed values are constants."""
    ports = {p.name: p for p in graph.inputs}
    for what, given in (("shapes", shapes), ("fixed", fixed)):
        for name in given:
            if name not in ports:
                raise NetworkError(f"{what} names input {short(str(name))}, which is unknown{near(str(name), ports)}")
    symbols = _symbols(graph.inputs, shapes)
    for port in graph.inputs:
        dtype = DTYPES[port.dtype]
        if port.name in fixed:
            array = as_array(fixed[port.name], dtype)
            rank = None if port.dims is None else len(port.dims)
            if rank is not None and array.ndim != rank:
                if array.size != 1:
                    raise NetworkError(f"fixed[{port.name!r}] has {array.ndim} axes; the input has {rank}")
                array = array.reshape((1,) * rank)
            if array.size == 1 and port.dims:  # one number for every entry, where it is known how many there are
                dims = [symbols.get(d, d) if isinstance(d, str) else d for d in shapes.get(port.name, port.dims)]
                number = array.reshape(())
                array = np.broadcast_to(array, sized([d if isinstance(d, int) else 1 for d in dims]))
                if array.size > 1:
                    draft.note(f"all {array.size:,} entries of input {port.name!r} are {number}, as fixed")
            scope.values[port.name] = Known(array)
            continue
        shape = _full_shape(port, shapes.get(port.name), symbols)
        numbers = not is_float(dtype) and not _read_as_floats(graph, port.name)
        if not is_float(dtype) and not numbers:
            draft.note(f"input {port.name!r} holds {dtype}, all of which is cast to floats: read as floats")
        made = draft.input(port.name, shape, "i32" if numbers else None)
        if made.tensor != port.name:
            draft.note(f"input {port.name!r} is called {made.tensor!r}")
        if numbers:
            integers.add(made.tensor)
        scope.values[port.name], scope.dtypes[port.name] = made, dtype if numbers else np.dtype(np.float32)


#: ops that give on what they read, entry by entry
_VIEWS = frozenset(
    (
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    )
)


def _read_as_floats(graph: Graph, name: str) -> bool:
    """Whether an input of integers is only ever cast to floats (or asked for its shape), perhaps under other shapes."""
    pending, seen, cast = [name], {name}, False
    while pending:
        tensor = pending.pop()
        for node in graph.readers.get(tensor, ()):
            if node.op in _VIEWS and node.inputs[0] == tensor and tensor not in node.inputs[1:]:
                pending += [o for o in node.outputs if o not in seen]
                seen.update(node.outputs)
                continue
            to = node.attrs.get("to")
            if node.op == "Cast" and to is not None and to.kind == "int":
                if not is_float(DTYPES.get(to.value, np.dtype(np.int64))):
                    return False
                cast = True
            elif node.op not in ("Shape", "Size"):
                return False
    return cast


def _symbols(ports: Sequence[Port], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Extents of named open axes, from shapes that are given; leading ones are the batch, 1."""
    symbols: dict[str, int] = {}
    for port in ports:
        given = shapes.get(port.name)
        if given is not None and port.dims is not None and len(given) == len(port.dims):
            for dim, n in zip(port.dims, given, strict=True):
                if isinstance(dim, str):
                    symbols.setdefault(dim, n)
    for port in ports:
        if port.dims and isinstance(port.dims[0], str):
            symbols.setdefault(port.dims[0], 1)
    return symbols


def _full_shape(port: Port, given: Sequence[int] | None, symbols: Mapping[str, int]) -> Shape:
    """The shape of an input, batch axis included. Raises NetworkError naming the axis that is open."""
    where = f"input {short(port.name)}"
    if given is not None:
        shape = tuple(given)
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
            raise NetworkError(f"{where}: shapes[{port.name!r}]={shape} must be integers of at least 1")
        if port.dims is None:
            return shape
        if len(shape) != len(port.dims):
            raise NetworkError(f"{where} has {len(port.dims)} axes, but shapes[{port.name!r}]={shape} has {len(shape)}")
        for axis, (dim, n) in enumerate(zip(port.dims, shape, strict=True)):
            if isinstance(dim, int) and dim != n and not (axis == 0 and n == 1):
                raise NetworkError(f"{where} is {dim} long along axis {axis}, but shapes[{port.name!r}]={shape}")
        return shape
    if port.dims is None:
        raise NetworkError(
            f"{where} has no shape in the file; give shapes={{{port.name!r}: (1, …)}}, or --shape {port.name}=1,…"
        )
    made: list[int] = []
    for axis, dim in enumerate(port.dims):
        if isinstance(dim, int):
            made.append(dim)
        elif isinstance(dim, str) and dim in symbols:
            made.append(symbols[dim])
        elif axis == 0:
            made.append(1)
        else:
            called = f" ({dim!r})" if isinstance(dim, str) else ""
            hint = [str(d) if isinstance(d, int) else f"N{i}" if i else "1" for i, d in enumerate(port.dims)]
            raise NetworkError(
                f"{where} leaves axis {axis}{called} open; give shapes={{{port.name!r}: ({', '.join(hint)})}}, "
                f"or --shape {port.name}={','.join(hint)} on the command line"
            )
    return tuple(made)
