"""What a PyTorch module returns, by names: keys, positions and fields of what it is nested in."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparseplan.errors import NetworkError, near
from sparseplan.importers.draft import Draft, Made
from sparseplan.objective import position_of

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram


def named_outputs(
    program: ExportedProgram, values: Mapping[fx.Node, Any], draft: Draft, wanted: Sequence[str] | None
) -> tuple[list[Made], list[str]]:
    """The tensors that are the network's outputs, and what the module calls them.

    Args:
        values: what each node of the graph is in the draft.
        wanted: names of what is chosen: of what the module returns (``"logits"``, ``"heads.0"``, ``"1"``), or of
            any tensor of the network. None: all that the module returns, in order.

    Raises:
        NetworkError: none depends on the input, or one that is wanted is not there.
    """
    (output,) = (n for n in program.graph.nodes if n.op == "output")
    user = list(program.graph_signature.user_outputs)
    nodes = list(output.args[0])[len(output.args[0]) - len(user) :]
    inputs = {t.name for t in draft.net.parts()[1] if t.role == "input"}
    found: dict[str, Made] = {}
    left_out: dict[str, str] = {}
    for name, node in zip(_names(program, len(user)), nodes, strict=True):
        value = values.get(node) if hasattr(node, "name") else None
        if isinstance(value, Made) and value.tensor not in inputs:
            found[name] = value
        elif hasattr(node, "name"):
            left_out[name] = f"output {name!r} is an input or a constant, and left out"
    if wanted is None:
        for note in left_out.values():
            draft.note(note)
        if not found:
            raise NetworkError("it returns no tensor that depends on its input; nothing to plan")
        return list(found.values()), list(found)
    if not wanted:
        raise NetworkError("outputs=[] name none; give at least one")
    made = {v.tensor: v for v in _made(values.values()) if v.tensor not in inputs}
    chosen = {name: _chosen(name, found, made, left_out) for name in wanted}
    return list(chosen.values()), list(chosen)


def _chosen(name: str, found: Mapping[str, Made], made: Mapping[str, Made], left_out: Collection[str]) -> Made:
    if name in left_out:
        raise NetworkError(f"output {name!r} is an input or a constant; choose one of {list(found)}")
    if name in found:
        return found[name]
    at = position_of(name, len(found))
    if at is not None:  # whatever it is called
        return next(itertools.islice(found.values(), at, None))
    if name in made:
        return made[name]
    hint = near(name, [*found, *made]) or f"; the module returns {list(found)[:8]}"
    raise NetworkError(f"output {name!r} is unknown{hint}")


def _made(values: Iterable[Any]) -> Iterable[Made]:
    for v in values:
        if isinstance(v, Made):
            yield v
        elif isinstance(v, (list, tuple)):
            yield from _made(v)


def _names(program: ExportedProgram, count: int) -> list[str]:
    """A name for each tensor that the module returns; its position where the nesting is not known."""
    from torch.utils import _pytree as pytree

    plain = [str(i) for i in range(count)]
    try:
        spec = program.call_spec.out_spec
        if spec is None or spec.num_leaves != count:
            return plain
        paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(count)), spec))
        names = [""] * count
        for path, position in paths:
            names[position] = ".".join(_key(k) for k in path) or str(position)
    except Exception:  # nestings of others, which cannot be put together from numbers
        return plain
    return [n if n and names.count(n) == 1 else p for n, p in zip(names, plain, strict=True)]


def _key(key: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key).strip(".[]'\"")
